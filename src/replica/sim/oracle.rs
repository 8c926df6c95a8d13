//! The oracle: what was promised to clients, and the Checks that break it.
//!
//! A failover that loses what was acknowledged takes the promises of it with it, and no other; a
//! member whose joining it has lost is excused until it joins anew, for no barrier sees it. One to
//! a synchronous standby takes none: what anybody was told of must be in the log for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::chain::Revision;
use crate::domain::clock::Clock;
use crate::domain::permission::Need;
use crate::domain::token::KindSet;
use crate::replica::mutation::Mutation;
use crate::replica::{Enforced, Replica};
use crate::state::State;
use crate::state::check::{CheckRequest, Context, check};
use crate::store::cluster::Incarnation;

use super::clients::{Made, NEED};
use super::world::Inner;

/// Promises that are watched at a time: the newest.
const WATCHED: usize = 8;

/// That a token is denied to all that arrives from then on.
struct Promise {
    from_ms: u64,
    revision: Revision,
}

struct Token {
    made: Made,
    promises: Vec<Promise>,
}

/// A promise that was broken: by a Check that was allowed, or by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) what: &'static str,
    pub(super) at_ms: u64,
    pub(super) server: usize,
    pub(super) token: usize,
    pub(super) promised_ms: u64,
}

/// A Check whose thread stands still between its two readings.
struct Slow {
    replica: Replica,
    token: usize,
    begun_ms: u64,
    ends_ms: u64,
    first: First,
}

enum First {
    Lease(bool),
    // Not the way that it is done.
    State(Arc<State>),
}

/// All tokens and promises.
#[derive(Default)]
pub(super) struct Oracle {
    tokens: Vec<Token>,
    // The tokens of the newest promises.
    watched: Vec<usize>,
    // By server.
    slow: BTreeMap<usize, Slow>,
    state_first: bool,
    // Members that a failover has forgotten, by server.
    forgotten: BTreeMap<usize, Incarnation>,
    /// Whether nothing that was acknowledged may be lost.
    synchronous: bool,
    /// A promise that the log has broken.
    broken: Option<Violation>,
}

impl Oracle {
    /// Of a database with a synchronous standby, or without one.
    pub(super) fn new(synchronous: bool, mutation: Option<Mutation>) -> Self {
        Self {
            synchronous,
            state_first: mutation == Some(Mutation::StateBeforeLease),
            ..Self::default()
        }
    }

    pub(super) fn made(&mut self, world: &mut Inner, now_ms: u64, made: Made) {
        world.count("tokens made");
        self.keep(world, now_ms, self.tokens.len(), made.revision);
        if self.tokens.iter().any(|one| one.made.name == made.name) {
            world.count("name used again");
        }
        let promises = Vec::new();
        self.tokens.push(Token { made, promises });
    }

    pub(super) fn token(&self, token: usize) -> &Made {
        &self.tokens[token].made
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Takes note of what a client was told.
    pub(super) fn told(
        &mut self,
        world: &mut Inner,
        now_ms: u64,
        token: usize,
        revision: Revision,
        enforced: &Enforced,
    ) {
        let from_ms = match enforced {
            Enforced::Confirmed { .. } => {
                world.count("confirmed");
                now_ms
            }
            Enforced::Committed {
                everywhere_after_ms: Some(after_ms),
                ..
            } => {
                world.count("committed");
                now_ms + after_ms + 1
            }
            Enforced::Committed { .. } => return world.count("committed without an end"),
            Enforced::Lost => return world.count("told that it may be lost"),
        };
        if !self.keep(world, now_ms, token, revision) {
            return world.count("promised and lost");
        }
        let promise = Promise { from_ms, revision };
        self.tokens[token].promises.push(promise);
        self.watched.retain(|watched| *watched != token);
        self.watched.push(token);
        if self.watched.len() > WATCHED {
            self.watched.remove(0);
        }
    }

    /// A failover has lost the joining of this member, or that it has a lease.
    pub(super) fn forgotten(&mut self, server: usize, member: Incarnation) {
        self.forgotten.insert(server, member);
    }

    /// After a failover: what was acknowledged is kept, or its promises are gone with it.
    pub(super) fn failed_over(&mut self, world: &Inner, now_ms: u64) {
        for token in 0..self.tokens.len() {
            let mut promises = std::mem::take(&mut self.tokens[token].promises);
            promises.retain(|one| self.keep(world, now_ms, token, one.revision));
            self.tokens[token].promises = promises;
            self.keep(world, now_ms, token, self.tokens[token].made.revision);
        }
    }

    // Whether the log has what was acknowledged; with a synchronous standby it must.
    fn keep(&mut self, world: &Inner, now_ms: u64, token: usize, revision: Revision) -> bool {
        let kept = is_in_log(world, revision);
        if !kept && self.synchronous {
            self.broken.get_or_insert(Violation {
                what: "acknowledged and lost",
                at_ms: now_ms,
                server: 0,
                token,
                promised_ms: 0,
            });
        }
        kept
    }

    /// Asks a server of the newest promises if its State is behind, or else, now and then, of any
    /// token.
    pub(super) fn ask(
        &mut self,
        world: &mut Inner,
        now_ms: u64,
        (index, server): (usize, &Replica),
    ) -> Option<Violation> {
        if self.broken.is_some() {
            return self.broken.clone();
        }
        let broken = self.ask_slowly(world, now_ms, (index, server));
        if broken.is_some() {
            return broken;
        }
        if server.state().head() != world.database.head() {
            let broken = self.watched.iter();
            let mut broken =
                broken.map(|token| self.ask_of(*token, world, now_ms, (index, server)));
            return broken.find_map(|violation| violation);
        }
        if self.tokens.is_empty() || !now_ms.is_multiple_of(8) {
            return None;
        }
        let token = world.choices.below(self.tokens.len() as u64) as usize;
        self.ask_of(token, world, now_ms, (index, server))
    }

    fn ask_of(
        &self,
        token: usize,
        world: &mut Inner,
        now_ms: u64,
        (index, server): (usize, &Replica),
    ) -> Option<Violation> {
        let (held, state) = server.answering();
        if !held {
            world.count("refused as stale");
            return None;
        }
        world.count("checks");
        let clock = server.clock();
        let broken = self.judge(world, now_ms, now_ms, (index, token), (&state, clock))?;
        self.excused(world, server, broken)
    }

    fn excused(&self, world: &mut Inner, server: &Replica, broken: Violation) -> Option<Violation> {
        let forgotten = self.forgotten.get(&broken.server).copied();
        if self.synchronous || forgotten.is_none() || forgotten != server.shared.membership() {
            return Some(broken);
        }
        world.count("allowed by a member that a failover forgot");
        None
    }

    /// Begins and ends Checks that stand still in the middle.
    fn ask_slowly(
        &mut self,
        world: &mut Inner,
        now_ms: u64,
        (index, server): (usize, &Replica),
    ) -> Option<Violation> {
        // A crash ends it without an answer.
        let same = |slow: &Slow| Arc::ptr_eq(&slow.replica.shared, &server.shared);
        if self.slow.get(&index).is_some_and(|slow| !same(slow)) {
            self.slow.remove(&index);
        }
        match self.slow.get(&index) {
            None if !self.watched.is_empty() && world.choices.one_in(20) => {
                let slow = Slow {
                    replica: server.clone(),
                    token: world.choices.pick(&self.watched),
                    begun_ms: now_ms,
                    ends_ms: now_ms + world.choices.between(1, 300),
                    first: if self.state_first {
                        First::State(server.state_full())
                    } else {
                        First::Lease(server.may_answer())
                    },
                };
                self.slow.insert(index, slow);
                return None;
            }
            Some(slow) if slow.ends_ms <= now_ms => {}
            _ => return None,
        }
        let slow = self.slow.remove(&index)?;
        let (held, state) = match slow.first {
            First::Lease(held) => (held, server.state_full()),
            First::State(state) => (server.may_answer(), state),
        };
        if !held {
            return None;
        }
        world.count("checks that stood still");
        let asked = (index, slow.token);
        let clock = server.clock();
        let broken = self.judge(world, slow.begun_ms, now_ms, asked, (&state, clock))?;
        self.excused(world, server, broken)
    }

    // Of a Check that was received then.
    fn judge(
        &self,
        world: &mut Inner,
        received_ms: u64,
        now_ms: u64,
        (index, token): (usize, usize),
        (state, clock): (&State, &dyn Clock),
    ) -> Option<Violation> {
        let asked = &self.tokens[token];
        let need = Need::parse(NEED.0, NEED.1).expect("a need");
        let request = CheckRequest {
            token: asked.made.secret.reveal(),
            needs: &[need],
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        let allowed = check(state, &request, clock.now()).allowed();
        world.note((now_ms, index, token, allowed));
        if !allowed {
            return None;
        }
        world.count("allowed");
        let broken = asked
            .promises
            .iter()
            .find(|one| one.from_ms <= received_ms)?;
        Some(Violation {
            what: "allowed",
            at_ms: now_ms,
            server: index,
            token,
            promised_ms: broken.from_ms,
        })
    }
}

fn is_in_log(world: &Inner, revision: Revision) -> bool {
    let chain = world.database.chain_at(revision.number);
    chain.is_some_and(|chain| chain[..8] == revision.chain)
}
