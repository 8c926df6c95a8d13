//! Literal cases: what the simulation found or could find, step by step, with real servers.
//!
//! Nothing goes wrong here but what a case says.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::change::Display;
use crate::domain::permission::Resource;
use crate::domain::principal::PrincipalName;
use crate::replica::Enforced;
use crate::replica::mutation::Mutation;
use crate::state::decide::{Caller, Command, Envelope};

use super::server::{Make, Server};
use super::world::World;

const LEASE_MS: u64 = 400;

/// Servers on one database.
struct Scene {
    world: Arc<World>,
    servers: Vec<Server>,
}

impl Scene {
    /// All servers hold their leases.
    fn begun(servers: usize) -> Self {
        Self::broken(servers, 1, None)
    }

    /// The same in another order of things, perhaps with a rule broken.
    fn broken(servers: usize, seed: u64, mutation: Option<Mutation>) -> Self {
        let world = Arc::new(World::new(seed, servers));
        world.lock().database.takes_any_report = mutation == Some(Mutation::ReportOfAnyHistory);
        let server = |index| {
            Server::new(Make {
                world: Arc::clone(&world),
                seed,
                index,
                leases_ms: &[LEASE_MS],
                rate: 1_000,
                mutation,
            })
        };
        let mut scene = Self {
            servers: (0..servers).map(server).collect(),
            world,
        };
        scene.world.lock().calm = true;
        scene.until(|scene| (0..servers).all(|index| scene.answers(index)));
        scene
    }

    fn step(&mut self) {
        self.world.step();
        let now_ms = self.world.now_ms();
        for server in &mut self.servers {
            server.turn(now_ms);
            server.step();
        }
    }

    fn steps(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("it did not come to it");
    }

    fn answers(&self, server: usize) -> bool {
        let server = &self.servers[server];
        server.is_up() && server.replica.as_ref().is_some_and(|one| one.may_answer())
    }

    fn revision(&self, server: usize) -> u64 {
        let replica = self.servers[server].replica.as_ref();
        replica.map_or(0, |one| one.state().head().revision)
    }

    fn head(&self) -> u64 {
        self.world.lock().database.head().revision
    }

    /// Makes so many users at a server.
    fn create(&self, server: usize, users: Range<usize>) {
        let server = &self.servers[server];
        for user in users {
            let replica = server.replica.clone().expect("it runs");
            server.spawn(async move { drop(replica.submit(user_named(user)).await) });
        }
    }

    /// Makes a user at a server and waits until that holds everywhere; tells what came of it.
    fn enforce(&self, server: usize, user: usize) -> Arc<Mutex<Option<Enforced>>> {
        let server = &self.servers[server];
        let replica = server.replica.clone().expect("it runs");
        let told = Arc::new(Mutex::new(None));
        let tells = Arc::clone(&told);
        server.spawn(async move {
            let done = replica.submit(user_named(user)).await.expect("made");
            let enforced = replica
                .enforce(&done.durable(), Duration::from_secs(5))
                .await;
            *tells.lock().expect("no panic") = Some(enforced);
        });
        told
    }

    /// Confirms a change at the first server.
    fn is_confirmed(&mut self) {
        let told = self.enforce(0, 1);
        self.until(|_| told.lock().expect("no panic").is_some());
        let told = told.lock().expect("no panic").clone();
        assert!(matches!(told, Some(Enforced::Confirmed { .. })), "{told:?}");
    }

    /// When, within a lease, the second server answers without the newest revision.
    fn answers_without_it(&mut self) -> Option<u64> {
        for _ in 0..LEASE_MS {
            if self.answers(1) && self.revision(1) < self.head() {
                return Some(self.world.now_ms());
            }
            self.step();
        }
        None
    }

    /// Whether a server answers from what is not in the log.
    fn answers_from_a_lost_future(&self, server: usize) -> bool {
        let replica = self.servers[server].replica.as_ref().expect("it runs");
        let head = replica.state().head();
        let chain = self.world.lock().database.chain_at(head.revision);
        self.answers(server) && chain != Some(head.chain)
    }

    /// What has taken effect for a server since then.
    fn effects(&self, server: usize, since: usize) -> Vec<&'static str> {
        let world = self.world.lock();
        let of = world.effects[since..].iter();
        of.filter(|one| one.0 == server).map(|one| one.1).collect()
    }
}

fn user_named(user: usize) -> Envelope {
    Envelope {
        caller: Caller::Local,
        reason: "scene".to_owned(),
        request: None,
        command: Command::CreatePrincipal {
            name: PrincipalName::parse(&format!("user:u{user}")).expect("a name"),
            home: Resource::parse("acme").expect("a path"),
            display: Display::default(),
        },
    }
}

/// The first server is left in a lost future while the second writes under the lost number and
/// waits until that holds everywhere: whether it does not when it is told so.
fn is_confirmed_beside_a_lost_future(seed: u64, mutation: Option<Mutation>) -> Option<u64> {
    let mut scene = Scene::broken(2, seed, mutation);
    let now_ms = scene.world.now_ms();
    {
        let second = &mut scene.world.lock().links[1];
        (second.cut_from_ms, second.cut_until_ms) = (now_ms, u64::MAX);
    }
    scene.create(0, 0..1);
    scene.until(|scene| scene.revision(0) == 1);
    {
        let mut world = scene.world.lock();
        world.fail_over(1);
        world.links[1].cut_until_ms = 0;
        world.links[0].slow_until_ms = u64::MAX;
    }
    let told = scene.enforce(1, 1);
    scene.until(|_| told.lock().expect("no panic").is_some());
    let told = told.lock().expect("no panic").clone();
    assert!(matches!(told, Some(Enforced::Confirmed { .. })), "{told:?}");
    scene
        .answers_from_a_lost_future(0)
        .then(|| scene.world.now_ms())
}

#[test]
fn a_report_of_another_history_is_caught() {
    assert_caught(
        Mutation::ReportOfAnyHistory,
        is_confirmed_beside_a_lost_future,
    );
}

/// A server starts while another writes: the write that says that it has a lease is committed long
/// after it has read the head. Whether it answers without what was confirmed meanwhile.
fn is_confirmed_beside_who_starts(seed: u64, mutation: Option<Mutation>) -> Option<u64> {
    let mut scene = Scene::broken(2, seed, mutation);
    let since = scene.world.lock().effects.len();
    assert!(scene.servers[1].stop());
    scene.until(|scene| scene.effects(1, since).contains(&"leave"));
    let since = {
        let mut world = scene.world.lock();
        world.database.commits_late_ms = LEASE_MS / 10;
        world.effects.len()
    };
    scene.until(|scene| scene.effects(1, since).contains(&"renew"));
    scene.is_confirmed();
    let broken = scene.answers_without_it();
    assert!(broken.is_some() || scene.answers(1));
    broken
}

/// The reply of a renewal is long under way, and its server cut off before it comes. Whether it
/// answers without what was confirmed meanwhile.
fn is_confirmed_beside_a_slow_reply(seed: u64, mutation: Option<Mutation>) -> Option<u64> {
    let mut scene = Scene::broken(2, seed, mutation);
    let since = scene.world.lock().effects.len();
    scene.world.lock().links[1].slow_until_ms = u64::MAX;
    scene.until(|scene| scene.effects(1, since).contains(&"renew"));
    let now_ms = scene.world.now_ms();
    {
        let second = &mut scene.world.lock().links[1];
        (second.cut_from_ms, second.cut_until_ms) = (now_ms, u64::MAX);
    }
    scene.is_confirmed();
    scene.answers_without_it()
}

/// Finds the first seed in which a broken rule breaks a promise, and none in which it holds.
fn assert_caught(mutation: Mutation, run: fn(u64, Option<Mutation>) -> Option<u64>) {
    const SEEDS: u64 = 20;
    let caught = (1..=SEEDS).find_map(|seed| Some((seed, run(seed, Some(mutation))?)));
    let (seed, step) = caught.expect("a broken promise");
    mutation.is_caught(seed, step);
    for seed in 1..=SEEDS {
        assert_eq!(run(seed, None), None, "{seed}");
    }
}

#[test]
fn a_lease_from_the_first_renewal_is_caught() {
    assert_caught(
        Mutation::LeaseFromFirstRenewal,
        is_confirmed_beside_who_starts,
    );
}

#[test]
fn a_lease_from_the_reply_is_caught() {
    assert_caught(Mutation::LeaseFromReply, is_confirmed_beside_a_slow_reply);
}

#[test]
fn a_removed_member_ends_its_lease_before_it_joins_anew() {
    let mut scene = Scene::begun(1);
    let since = scene.world.lock().effects.len();
    scene.world.lock().database.remove_all();
    scene.until(|scene| scene.effects(0, since).contains(&"renew"));
    assert!(scene.answers(0), "its lease is far from over");
    // The answer is on its way; the join will not come through.
    let now_ms = scene.world.now_ms();
    scene.world.lock().outage_until_ms = now_ms + LEASE_MS;
    scene.steps(5);
    assert!(!scene.answers(0));
    scene.until(|scene| scene.answers(0));
    assert!(scene.effects(0, since).contains(&"join"));
}

#[test]
fn a_lost_future_is_left_and_another_member_loads() {
    let mut scene = Scene::begun(2);
    scene.create(0, 0..3);
    scene.until(|scene| scene.head() > 0 && (0..2).all(|one| scene.revision(one) == scene.head()));
    let since = {
        let mut world = scene.world.lock();
        world.fail_over(1);
        world.effects.len()
    };
    scene.until(|scene| scene.effects(1, since).contains(&"snapshot"));
    let effects = scene.effects(1, since);
    let at = |what| effects.iter().position(|one| *one == what);
    assert!(!scene.answers(1), "nothing of the lost future is answered");
    assert!(at("renew") < at("leave"), "{effects:?}");
    assert!(at("leave") < at("join"), "{effects:?}");
    assert!(at("join") < at("snapshot"), "{effects:?}");
    scene.until(|scene| scene.answers(1));
    assert_eq!(scene.revision(1), scene.head());
}

#[test]
fn what_others_wrote_in_a_lost_future_is_not_reported_to_the_next() {
    let mut scene = Scene::begun(2);
    scene.create(0, 0..3);
    scene.until(|scene| scene.head() > 0 && scene.revision(1) == scene.head());
    let mut world = scene.world.lock();
    let lost = world.database.head();
    world.fail_over(1);
    let member = world.database.roster().members[0].incarnation;
    world.database.report(member, lost);
    let applied = world.database.roster().members[0].applied;
    assert!(applied < lost.revision);
}

#[test]
fn who_is_far_behind_renews_while_it_follows_and_is_not_removed() {
    let mut scene = Scene::begun(2);
    scene.steps(1);
    let now_ms = scene.world.now_ms();
    scene.servers[1].pause(now_ms, now_ms + LEASE_MS / 2, false);
    scene.create(0, 0..3_000);
    scene.until(|scene| scene.servers[1].is_up() && scene.head() >= 2_000);
    // Every reading of the log takes long.
    let behind = scene.head() - scene.revision(1);
    assert!(behind > 1_500, "{behind}");
    scene.world.lock().links[1].slow_until_ms = u64::MAX;
    let begun_ms = scene.world.now_ms();
    scene.until(|scene| scene.revision(1) >= 2_000);
    let taken_ms = scene.world.now_ms() - begun_ms;
    assert!(taken_ms > 2 * LEASE_MS, "it was not slow: {taken_ms}");
    assert_eq!(scene.world.lock().database.removed, 0);
    scene.world.lock().links[1].slow_until_ms = 0;
    scene.until(|scene| scene.answers(1) && scene.revision(1) == scene.head());
}

#[test]
fn a_clock_that_was_set_ends_the_lease_though_it_cannot_be_renewed() {
    let mut scene = Scene::begun(1);
    let now_ms = scene.world.now_ms();
    scene.world.lock().outage_until_ms = now_ms + LEASE_MS;
    let jumped_ms = &scene.servers[0].clock.jumped_ms;
    jumped_ms.store(1_000, Ordering::Relaxed);
    // By the next poll, and a call that is under way.
    scene.steps(LEASE_MS / 8 + LEASE_MS / 5 + 2);
    assert!(!scene.answers(0));
    scene.until(|scene| scene.answers(0));
}

#[test]
fn a_server_that_was_frozen_and_removed_comes_back_as_another_member() {
    let mut scene = Scene::begun(2);
    let former = scene.world.lock().database.roster().members;
    let now_ms = scene.world.now_ms();
    scene.servers[1].pause(now_ms, now_ms + 4 * LEASE_MS, false);
    scene.until(|scene| scene.world.lock().database.removed == 1);
    assert!(!scene.answers(1));
    scene.create(0, 0..5);
    scene.until(|scene| scene.servers[1].is_up());
    assert!(!scene.answers(1), "it wakes up without a lease");
    scene.until(|scene| scene.answers(1));
    assert_eq!(scene.revision(1), scene.head());
    let members = scene.world.lock().database.roster().members;
    assert_eq!(members.len(), 2);
    let again = members.iter().filter(|one| {
        let same = |other: &&_| **other == one.incarnation;
        former
            .iter()
            .map(|one| &one.incarnation)
            .any(|other| same(&other))
    });
    assert_eq!(again.count(), 1);
}
