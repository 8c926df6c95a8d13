//! One run: servers, clients and faults under one seed, step by step.
//!
//! Faults come for a while, and then everything is well: from then on every server must come to
//! hold its lease again, every change must be confirmed, and every State must be the log's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::chain::Head;
use crate::replica::mutation::Mutation;

use super::clients::{Answer, Inbox, make, take, taking};
use super::oracle::{Oracle, Violation};
use super::server::{Make, Server};
use super::world::World;

/// Steps with faults.
pub(super) const FAULTY_STEPS: u64 = 3_000;
/// Steps after the last fault.
const CALM_STEPS: u64 = 2_200;
/// The last of them, in which nothing changes any more.
const QUIET_STEPS: u64 = 500;
pub(super) const SERVERS: usize = 4;
/// The lengths of leases; a barrier must wait for the longest.
const LEASES_MS: [u64; 3] = [100, 200, 400];

/// What came of a run.
pub(super) struct Ran {
    pub(super) violation: Option<Violation>,
    pub(super) history: u64,
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// What was not well at the end.
    pub(super) unwell: Vec<String>,
}

// The database of every other seed has a synchronous standby.
pub(super) fn is_synchronous(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// A run as it stands; what goes wrong in it is in [`super::faults`].
pub(super) struct Run {
    pub(super) world: Arc<World>,
    pub(super) servers: Vec<Server>,
    pub(super) oracle: Oracle,
    pub(super) seed: u64,
    /// When the synchronous standby takes over from a primary that it does not hear.
    pub(super) fail_over_at_ms: Option<u64>,
    inbox: Inbox,
    numbers: u64,
    // What the calm time confirms.
    confirmed: u64,
}

/// Runs a seed, perhaps with a rule broken, until a promise is broken or the time is over.
pub(super) fn run(seed: u64, mutation: Option<Mutation>) -> Ran {
    let mut run = Run::new(seed, mutation);
    let mut violation = None;
    while violation.is_none() && run.world.now_ms() < FAULTY_STEPS + CALM_STEPS {
        violation = run.step();
    }
    let mut unwell = run.unwell();
    // What is forgotten now and then is still on its way to the others.
    for _ in 0..QUIET_STEPS {
        if violation.is_some() || unwell.is_empty() {
            break;
        }
        violation = run.step();
        unwell = run.unwell();
    }
    let steps = run.world.now_ms();
    let mut world = run.world.lock();
    world.counts.insert("steps", steps);
    let removed = world.database.removed;
    world.counts.insert("member removed", removed);
    let lowered = world.database.lowered;
    world.counts.insert("lease lowered", lowered);
    let anew = run.servers.iter().map(Server::loaded_anew).sum();
    world.counts.insert("loaded anew", anew);
    Ran {
        violation,
        history: world.history(),
        counts: world.counts.clone(),
        unwell,
    }
}

impl Run {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let world = Arc::new(World::new(seed, SERVERS));
        world.lock().database.takes_any_report = mutation == Some(Mutation::ReportOfAnyHistory);
        let server = |index| {
            let mut inner = world.lock();
            let rate = inner.choices.between(977, 1_023);
            drop(inner);
            Server::new(Make {
                world: Arc::clone(&world),
                seed,
                index,
                leases_ms: &LEASES_MS,
                rate,
                mutation,
            })
        };
        Self {
            servers: (0..SERVERS).map(server).collect(),
            world,
            oracle: Oracle::new(is_synchronous(seed), mutation),
            seed,
            fail_over_at_ms: None,
            inbox: Inbox::default(),
            numbers: seed << 32,
            confirmed: 0,
        }
    }

    fn step(&mut self) -> Option<Violation> {
        let joins = self.world.lock().database.joins;
        self.world.step();
        if self.inbox.is_awaited() && self.world.lock().database.joins > joins {
            self.world.lock().count("joined during a revoke");
        }
        let now_ms = self.world.now_ms();
        if now_ms == FAULTY_STEPS {
            self.heal();
        }
        if now_ms < FAULTY_STEPS {
            self.fault(now_ms);
        }
        if now_ms < FAULTY_STEPS + CALM_STEPS - QUIET_STEPS {
            self.ask_changes(now_ms);
        }
        for index in 0..SERVERS {
            let server = &mut self.servers[index];
            server.turn(now_ms);
            if server.is_up()
                && let Some(replica) = &server.replica
            {
                let world = &mut self.world.lock();
                let broken = self.oracle.ask(world, now_ms, (index, replica));
                if broken.is_some() {
                    return broken;
                }
            }
            server.step();
            self.hear(now_ms);
        }
        None
    }

    fn hear(&mut self, now_ms: u64) {
        for answer in self.inbox.taken() {
            let mut world = self.world.lock();
            match answer {
                Answer::Nothing => world.count("told nothing"),
                Answer::Made(made) => self.oracle.made(&mut world, now_ms, *made),
                Answer::Taken {
                    token,
                    revision,
                    enforced,
                } => {
                    world.count("revokes");
                    world.note((now_ms, token, revision.number, format!("{enforced:?}")));
                    let former = world.counts.get("confirmed").copied();
                    self.oracle
                        .told(&mut world, now_ms, token, revision, &enforced);
                    // What was asked for in the calm time, once it has set in.
                    if now_ms > FAULTY_STEPS + CALM_STEPS / 2
                        && world.counts.get("confirmed").copied() > former
                    {
                        self.confirmed += 1;
                    }
                }
            }
        }
    }

    fn ask_changes(&mut self, now_ms: u64) {
        let mut world = self.world.lock();
        let index = world.choices.below(SERVERS as u64) as usize;
        let makes = world.choices.one_in(12);
        let takes = world.choices.one_in(10) && self.oracle.tokens() > 0;
        let server = &self.servers[index];
        let Some(replica) = server.replica.clone().filter(|_| server.is_up()) else {
            return;
        };
        if makes {
            self.numbers += 1;
            server.spawn(make(replica.clone(), self.numbers, self.inbox.clone()));
        }
        if takes {
            // The newest are alive, older ones are taken away again.
            let tokens = self.oracle.tokens() as u64;
            let back = world.choices.below(tokens.min(6)) + 1;
            let token = (tokens - back) as usize;
            let command = taking(self.oracle.token(token), &mut world.choices);
            let most_ms = if now_ms < FAULTY_STEPS {
                world.choices.between(5, 600)
            } else {
                1_000
            };
            let inbox = self.inbox.clone();
            server.spawn(take(replica, token, command, most_ms, inbox));
        }
    }

    fn unwell(&self) -> Vec<String> {
        let mut unwell = Vec::new();
        let world = self.world.lock();
        let log: (Head, [u8; 32]) = (world.database.head(), world.database.state.digest());
        if self.confirmed == 0 {
            unwell.push("nothing was confirmed in the calm time".to_owned());
        }
        let lost = [
            "failed over, with a tail lost",
            "failed over, what nobody was told of is lost",
        ];
        let lost_tail = lost.iter().any(|what| world.counts.contains_key(what));
        for (index, server) in self.servers.iter().enumerate() {
            let Some(replica) = server.replica.as_ref().filter(|_| server.is_settled()) else {
                unwell.push(format!("server {index} does not run"));
                continue;
            };
            let (held, state) = replica.answering();
            if !held {
                unwell.push(format!("server {index} has no lease"));
            }
            if (state.head(), state.digest()) != log {
                unwell.push(format!("server {index} has another state than the log"));
            }
            if server.loaded_anew() > 0 && !lost_tail {
                unwell.push(format!("server {index} has loaded anew without a reason"));
            }
        }
        if unwell.is_empty() {
            let log = world.database.replayed();
            for (index, server) in self.servers.iter().enumerate() {
                let replica = server.replica.as_ref();
                let rows = replica.map(|one| world.database.rows_of(&one.state()));
                if rows.as_ref() != Some(&log) {
                    unwell.push(format!("server {index} has other records than the log"));
                }
            }
        }
        unwell
    }
}
