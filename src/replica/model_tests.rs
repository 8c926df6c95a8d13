//! The protocol of leases and barriers as a model small enough to visit every state of it.
//!
//! ```text
//! join ─► load ─► renew for the first time: from then on its row says that it has a lease
//! renew:  read the clock ─► write, and read the head ─► commit ─► apply up to the head ─► extend
//! revoke: commit ─► read the clock ─► read the members ─► confirmed by reports or by time
//! ```
//!
//! Two servers, one of which joins at any time, and one revocation; every step of each may come
//! at any time or never, so pauses, lost replies and crashes need no steps of their own. Time is
//! discrete and has no end: kept are ages and what is left, up to the longest lease. Clocks run
//! alike here; the slack for those that do not is the simulation's affair. What a renewal writes is
//! seen once it is committed, which may be long after it has read the head.

#![allow(clippy::print_stdout, reason = "what was caught is read by people")]

use stateright::{Checker, Model, Property};

use super::mutation::tell;

/// How long the lease of each server holds; the first revokes.
const LEASE: [u8; 2] = [1, 2];
const LONGEST: u8 = 2;
const PROMISE: &str = "no check that comes after the confirmation is allowed";

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The lease begins at the reply.
    LeaseFromReply,
    /// The lease is extended before the log is applied.
    ExtendedBeforeApply,
    /// The barrier waits out the lease of its own server.
    OwnLeaseOnly,
    /// A member that does not report is given up before its lease is over.
    SilentPresumedDead,
    /// A revision is reported once it is read, not once it is published.
    ReportBeforePublish,
    /// A check reads State first and the lease after it.
    StateBeforeLease,
    /// A member is removed though its heartbeat has moved.
    RemovedThoughAlive,
    /// Checks are answered without a lease.
    NoLease,
    /// The renewal that says that there will be a lease gives one.
    LeaseFromFirstRenewal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Renewal {
    Idle,
    ClockRead { age: u8 },
    HeadRead { age: u8, head: bool },
    Written { age: u8, head: bool },
    Applied { age: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Server {
    joined: bool,
    loaded: bool,
    // Whether the published State has the revocation.
    applied: bool,
    lease_left: u8,
    renewal: Renewal,
    // Its row: whether it is there, says that it has a lease, that the revocation is applied, and
    // since when another has seen it stand still.
    row: bool,
    leased: bool,
    reported: bool,
    observed: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Revoke {
    NotYet,
    Committed,
    ClockRead { age: u8 },
    Reading { age: u8, all_reported: bool },
    Confirmed { by_time: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    servers: [Server; 2],
    revoke: Revoke,
    // A check under way: where, and what it has read first.
    check: Option<(usize, bool)>,
    violated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tick,
    Join(usize),
    Load(usize),
    ReadClock(usize),
    ReadHead(usize),
    Write(usize),
    Apply(usize),
    Extend(usize),
    GiveUp(usize),
    Follow(usize),
    Report(usize),
    Observe(usize),
    Remove(usize),
    Commit,
    ReadClockAfterCommit,
    ReadMembers,
    Confirm,
    BeginCheck(usize),
    EndCheck,
}

struct Protocol(Option<Broken>);

impl Protocol {
    fn is(&self, broken: Broken) -> bool {
        self.0 == Some(broken)
    }
}

fn older(age: u8) -> u8 {
    (age + 1).min(LONGEST)
}

impl World {
    fn committed(&self) -> bool {
        self.revoke != Revoke::NotYet
    }

    fn tick(&mut self) {
        for server in &mut self.servers {
            server.lease_left = server.lease_left.saturating_sub(1);
            server.observed = server.observed.map(older);
            server.renewal = match server.renewal {
                Renewal::Idle => Renewal::Idle,
                Renewal::ClockRead { age } => Renewal::ClockRead { age: older(age) },
                Renewal::HeadRead { age, head } => Renewal::HeadRead {
                    age: older(age),
                    head,
                },
                Renewal::Written { age, head } => Renewal::Written {
                    age: older(age),
                    head,
                },
                Renewal::Applied { age } => Renewal::Applied { age: older(age) },
            };
        }
        self.revoke = match self.revoke {
            Revoke::ClockRead { age } => Revoke::ClockRead { age: older(age) },
            Revoke::Reading { age, all_reported } => Revoke::Reading {
                age: older(age),
                all_reported,
            },
            other => other,
        };
    }
}

impl Protocol {
    // The other steps of one server, where they are possible.
    fn serve(&self, world: &World, step: Step, index: usize) -> Option<Server> {
        let mut server = world.servers[index];
        let committed = world.committed();
        match (step, server.renewal) {
            (Step::Join(_), _) if !server.joined => {
                server.joined = true;
                server.row = true;
            }
            (Step::Load(_), _) if server.joined && !server.loaded => {
                server.loaded = true;
                server.applied = committed;
            }
            (Step::Follow(_), _) if server.loaded && committed && !server.applied => {
                server.applied = true;
            }
            (Step::Report(_), _) if server.loaded && server.row && !server.reported => {
                let early = self.is(Broken::ReportBeforePublish) && committed;
                if !server.applied && !early {
                    return None;
                }
                server.reported = true;
            }
            // The first removes the other.
            (Step::Observe(1), _) if server.row && server.observed.is_none() => {
                server.observed = Some(0);
            }
            (Step::Remove(1), Renewal::HeadRead { .. }) => return None,
            (Step::Remove(1), _) if server.row && server.observed >= Some(LEASE[index]) => {
                server.row = false;
                server.leased = false;
                server.reported = false;
                server.observed = None;
            }
            _ => return None,
        }
        Some(server)
    }

    // The steps of a renewal, where they are possible.
    fn renew(&self, world: &World, step: Step, index: usize) -> Option<Server> {
        let mut server = world.servers[index];
        let committed = world.committed();
        match (step, server.renewal) {
            (Step::ReadClock(_), Renewal::Idle) if server.loaded => {
                server.renewal = Renewal::ClockRead { age: 0 };
            }
            (Step::ReadHead(_), Renewal::ClockRead { .. }) if !server.row => {
                // It was removed: it ends its lease and joins anew.
                server.lease_left = 0;
                server.row = true;
                server.renewal = Renewal::Idle;
            }
            (Step::ReadHead(_), Renewal::ClockRead { age }) => {
                // Its row is locked from here on.
                server.renewal = Renewal::HeadRead {
                    age,
                    head: committed,
                };
            }
            (Step::Write(_), Renewal::HeadRead { age, head }) => {
                if !self.is(Broken::RemovedThoughAlive) {
                    server.observed = None;
                }
                let first = !std::mem::replace(&mut server.leased, true);
                server.renewal = if first && !self.is(Broken::LeaseFromFirstRenewal) {
                    Renewal::Idle
                } else {
                    Renewal::Written { age, head }
                };
                let given = matches!(server.renewal, Renewal::Written { .. });
                if given && self.is(Broken::ExtendedBeforeApply) {
                    server.lease_left = LEASE[index].saturating_sub(age);
                }
            }
            (Step::Apply(_), Renewal::Written { age, head }) => {
                server.applied |= head;
                let from_reply = self.is(Broken::LeaseFromReply);
                let age = if from_reply { 0 } else { age };
                server.renewal = Renewal::Applied { age };
            }
            (Step::Extend(_), Renewal::Applied { age }) => {
                server.lease_left = LEASE[index].saturating_sub(age);
                server.renewal = Renewal::Idle;
            }
            (
                Step::GiveUp(_),
                Renewal::ClockRead { .. } | Renewal::HeadRead { .. } | Renewal::Written { .. },
            ) => server.renewal = Renewal::Idle,
            _ => return None,
        }
        Some(server)
    }

    fn revoke(&self, world: &World, step: Step) -> Option<Revoke> {
        match (step, world.revoke) {
            (Step::Commit, Revoke::NotYet) => Some(Revoke::Committed),
            (Step::ReadClockAfterCommit, Revoke::Committed) => Some(Revoke::ClockRead { age: 0 }),
            (Step::ReadMembers, Revoke::ClockRead { age } | Revoke::Reading { age, .. }) => {
                let mut awaited = world.servers.iter().filter(|one| one.row && one.leased);
                let all_reported = awaited.all(|one| one.reported);
                Some(Revoke::Reading { age, all_reported })
            }
            (Step::Confirm, Revoke::Reading { age, all_reported }) => {
                let over = match self.0 {
                    Some(Broken::OwnLeaseOnly) => LEASE[0],
                    Some(Broken::SilentPresumedDead) => 0,
                    _ => LONGEST,
                };
                let by_time = !all_reported;
                (all_reported || age >= over).then_some(Revoke::Confirmed { by_time })
            }
            _ => None,
        }
    }

    fn check(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        let held = |server: &Server| server.lease_left > 0 || self.is(Broken::NoLease);
        let state_first = self.is(Broken::StateBeforeLease);
        match (step, world.check) {
            (Step::BeginCheck(index), None) => {
                let server = &world.servers[index];
                let confirmed = matches!(world.revoke, Revoke::Confirmed { .. });
                if !server.loaded || !confirmed {
                    return None;
                }
                let first = if state_first {
                    !server.applied
                } else {
                    held(server)
                };
                next.check = Some((index, first));
            }
            (Step::EndCheck, Some((index, first))) => {
                let server = &world.servers[index];
                let second = if state_first {
                    held(server)
                } else {
                    !server.applied
                };
                next.violated = first && second;
                next.check = None;
            }
            _ => return None,
        }
        Some(next)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let server = |joined| Server {
            joined,
            loaded: joined,
            applied: false,
            lease_left: 0,
            renewal: Renewal::Idle,
            row: joined,
            leased: joined,
            reported: false,
            observed: None,
        };
        vec![World {
            servers: [server(true), server(false)],
            revoke: Revoke::NotYet,
            check: None,
            violated: false,
        }]
    }

    fn actions(&self, _: &World, steps: &mut Vec<Step>) {
        for index in 0..LEASE.len() {
            steps.extend([
                Step::Join(index),
                Step::Load(index),
                Step::ReadClock(index),
                Step::ReadHead(index),
                Step::Write(index),
                Step::Apply(index),
                Step::Extend(index),
                Step::GiveUp(index),
                Step::Follow(index),
                Step::Report(index),
                Step::Observe(index),
                Step::Remove(index),
                Step::BeginCheck(index),
            ]);
        }
        steps.extend([
            Step::Tick,
            Step::Commit,
            Step::ReadClockAfterCommit,
            Step::ReadMembers,
            Step::Confirm,
            Step::EndCheck,
        ]);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Tick => next.tick(),
            Step::Commit | Step::ReadClockAfterCommit | Step::ReadMembers | Step::Confirm => {
                next.revoke = self.revoke(world, step)?;
            }
            Step::BeginCheck(_) | Step::EndCheck => next = self.check(world, step)?,
            Step::ReadClock(index)
            | Step::ReadHead(index)
            | Step::Write(index)
            | Step::Apply(index)
            | Step::Extend(index)
            | Step::GiveUp(index) => {
                next.servers[index] = self.renew(world, step, index)?;
            }
            Step::Join(index)
            | Step::Load(index)
            | Step::Follow(index)
            | Step::Report(index)
            | Step::Observe(index)
            | Step::Remove(index) => next.servers[index] = self.serve(world, step, index)?,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMISE, |_, world: &World| !world.violated),
            Property::sometimes("confirmed by reports", |_, world: &World| {
                world.revoke == Revoke::Confirmed { by_time: false }
            }),
            Property::sometimes("confirmed by time", |_, world: &World| {
                world.revoke == Revoke::Confirmed { by_time: true }
            }),
            Property::sometimes("nobody waited for who has joined", |_, world: &World| {
                world.revoke == Revoke::Confirmed { by_time: false }
                    && world.servers[1].row
                    && !world.servers[1].reported
            }),
            Property::sometimes("removed", |_, world: &World| {
                world.servers[1].loaded && !world.servers[1].row
            }),
        ]
    }
}

#[test]
fn no_check_after_the_confirmation_is_allowed() {
    let checker = Protocol(None).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn every_rule_is_needed() {
    for broken in [
        Broken::LeaseFromReply,
        Broken::ExtendedBeforeApply,
        Broken::OwnLeaseOnly,
        Broken::SilentPresumedDead,
        Broken::ReportBeforePublish,
        Broken::StateBeforeLease,
        Broken::RemovedThoughAlive,
        Broken::NoLease,
        Broken::LeaseFromFirstRenewal,
    ] {
        let checker = Protocol(Some(broken)).checker().spawn_bfs().join();
        let path = checker.discovery(PROMISE);
        let steps = path.expect("a broken promise").into_actions().len();
        tell(&format!("model {broken:?}: caught after {steps} steps"));
    }
}
