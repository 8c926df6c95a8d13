//! One command after the other on one State, beside the oracle; and the shrinker.
//!
//! The fast half of the model test: decide, append to a log in memory, apply, compare all. What
//! diverges is cut down to the steps without which it would not diverge, and printed, so that it
//! can become a literal case.

use std::collections::BTreeSet;
use std::sync::Arc;

use latchkey::domain::clock::Now;
use latchkey::domain::entry::{Entry, LogEntry};
use latchkey::domain::refusal::Refusal;
use latchkey::domain::token::TokenId;
use latchkey::state::State;
use latchkey::state::decide::{Envelope, Lifetimes, Moment, Outcome, decide};

use super::compare::{compare, compare_check, reply_of};
use super::generate::{Generator, Known};
use super::oracle::{Asked, Oracle};
use super::sealed::LoginStep;
use super::{T0, power, seeds};

/// One thing that happens, at an instant.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command(u64, Envelope),
    Check(u64, Asked),
    Login(u64, LoginStep),
}

/// The longest lives of every run: service tokens only.
pub(crate) fn lifetimes() -> Lifetimes {
    Lifetimes {
        max_s: [None, None, None, Some(3_000), None, None, None],
    }
}

/// State, its log and the oracle, side by side.
pub(crate) struct Pair {
    pub state: State,
    pub oracle: Oracle,
    pub log: Vec<LogEntry>,
    /// The access tokens that were sealed, as claims.
    pub sealed: Vec<(TokenId, Arc<[u8]>)>,
    /// What logins came to, in words.
    pub reached: BTreeSet<String>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let oracle = Oracle {
            longest_s: lifetimes().max_s,
            ..Oracle::default()
        };
        Self {
            state: State::default(),
            oracle,
            log: Vec::new(),
            sealed: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    /// Decides and applies one command.
    pub(crate) fn decide(&mut self, now: u64, envelope: &Envelope) -> Result<Outcome, Refusal> {
        let revision = self.state.head().revision + 1;
        let moment = Moment {
            revision,
            now: Now::at(now),
            lifetimes: lifetimes(),
        };
        let decided = decide(&self.state, envelope, moment)?;
        if let Outcome::Change {
            kind,
            target,
            change,
        } = &decided.outcome
        {
            let entry = Entry {
                revision,
                instant_ms: now.max(self.state.instant_ms()),
                actor: decided.actor.clone(),
                kind: *kind,
                target: target.clone(),
                reason: envelope.reason.clone(),
                batch_id: [0; 16],
                request: envelope.request,
                state_digest: None,
                change: change.clone(),
            };
            let logged = LogEntry::new(entry, &self.state.head());
            self.state.apply(&logged).expect("it follows");
            self.log.push(logged);
        }
        Ok(decided.outcome)
    }

    /// Runs a step on both and compares.
    pub(crate) fn step(&mut self, step: &Step, known: &[Known]) -> Result<(), String> {
        match step {
            Step::Check(now, asked) => compare_check(&self.state, &self.oracle, known, asked, *now),
            Step::Login(now, step) => self.login_step(*now, step),
            Step::Command(now, envelope) => {
                let Some(envelope) = &self.current(envelope) else {
                    return Ok(());
                };
                let before = self.state.clone();
                let real = reply_of(&self.decide(*now, envelope)).ok_or("no store to fail here")?;
                let ours = self.oracle.command(envelope, *now);
                if real != ours {
                    return Err(format!(
                        "{envelope:?}: replied {real:?}, the oracle {ours:?}"
                    ));
                }
                if self.state.head() != before.head() {
                    let logged = self.log.last().ok_or("a change is logged")?;
                    power::judge(&before, &self.state, logged)?;
                    compare(&self.state, &self.oracle, known)?;
                }
                Ok(())
            }
        }
    }
}

fn run(steps: &[Step], known: &[Known]) -> Result<Pair, String> {
    let mut pair = Pair::new();
    for step in steps {
        pair.step(step, known)?;
    }
    Ok(pair)
}

/// Leaves out whatever the failure does not need.
fn shrink(mut steps: Vec<Step>, known: &[Known]) -> Vec<Step> {
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let mut start = 0;
        while start < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(start..(start + chunk).min(steps.len()));
            if run(&fewer, known).is_err() {
                steps = fewer;
            } else {
                start += chunk;
            }
        }
        chunk /= 2;
    }
    steps
}

fn fail(seed: u64, steps: Vec<Step>, known: &[Known]) -> ! {
    let steps = shrink(steps, known);
    let why = run(&steps, known).err();
    let told: Vec<String> = steps.iter().map(|step| format!("{step:#?}")).collect();
    panic!("LATCHKEY_MODEL_SEED={seed}\n{}\n{why:?}", told.join("\n"));
}

/// What was reached, in words: the kinds of changes, and what logins came to.
fn one_run(seed: u64, commands: usize) -> BTreeSet<String> {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::new();
    let mut now = T0;
    let setup = generator.setup(now);
    let mut steps: Vec<Step> = setup
        .into_iter()
        .map(|one| Step::Command(now, one))
        .collect();
    for step in &steps {
        pair.step(step, &generator.known)
            .expect("the set-up is the same for both");
    }
    for _ in 0..commands {
        now = tick(&mut generator, now);
        generator.look(&pair.oracle, now);
        generator.look_at_logins(&pair.oracle, &pair.sealed, now);
        let mut next = vec![Step::Command(now, generator.command(now))];
        next.extend((0..6).map(|_| Step::Check(now, generator.asked())));
        let sealed: Vec<_> = (0..4).filter_map(|_| generator.sealed_check()).collect();
        next.extend(sealed.into_iter().map(|check| Step::Login(now, check)));
        let login = generator.dice.percent(60);
        let login = login.then(|| Step::Login(now, generator.login_step(now)));
        for step in next.into_iter().chain(login) {
            steps.push(step);
            if pair
                .step(&steps[steps.len() - 1], &generator.known)
                .is_err()
            {
                fail(seed, steps, &generator.known);
            }
        }
    }
    let replayed = State::replay(&pair.log).expect("the log replays");
    assert_eq!(
        replayed.digest(),
        pair.state.digest(),
        "seed {seed}: replay is another State"
    );
    let kinds = pair.log.iter().map(|logged| logged.entry.kind.name());
    pair.reached.extend(kinds.map(str::to_owned));
    pair.reached
}

/// Time passes, mostly by little; sometimes the clock is set back, which State never sees.
pub(crate) fn tick(generator: &mut Generator, now: u64) -> u64 {
    let dice = &mut generator.dice;
    let passed = match dice.below(100) {
        0..45 => 0,
        45..90 => dice.below(8_000) as u64,
        90..97 => dice.below(200_000) as u64,
        97 if dice.percent(25) => 25 * 60 * 60 * 1_000,
        // Longer than anything sealed lives.
        97 if dice.percent(30) => 31 * 24 * 60 * 60 * 1_000,
        _ => return now - 3_000,
    };
    now + passed
}

#[test]
fn every_reply_record_and_check_is_what_the_oracle_says() {
    for seed in seeds(12) {
        one_run(seed, 140);
    }
}

/// What is not reached is not compared.
const REACHED: [&str; 43] = [
    "credential.create",
    "method.set",
    "method.remove",
    "login",
    "login.lock",
    "login.unlock",
    "session.revoke",
    "session.revoke_all",
    "key.mint",
    "key.revoke",
    "forget",
    "token.renew",
    "sealed: login",
    "sealed: renewal",
    "sealed: exchange",
    "sealed: exchange of a session",
    "login: stored",
    "login: spends",
    "login: locked",
    "login: no_method",
    "login: no such credential",
    "login: revoked",
    "login: subject_disabled",
    "login: expired",
    "login: not_yet_valid",
    "login: network",
    "login: workload",
    "login: uses_exhausted",
    "renewal: Precondition",
    "renewal: Unauthenticated",
    "exchange: Boundary",
    "exchange: Invalid",
    "exchange: Precondition",
    "exchange: Unauthenticated",
    "check: allowed",
    "check: revoked",
    "check: subject_disabled",
    "check: expired",
    "check: network",
    "check: audience",
    "check: workload",
    "check: not_permitted",
    "check: uses_exhausted",
];

#[test]
fn random_runs_reach_what_logins_can_come_to() {
    let mut reached = BTreeSet::new();
    for seed in 1_000..1_080 {
        reached.extend(one_run(seed, 140));
    }
    let missing: Vec<_> = REACHED
        .into_iter()
        .filter(|word| !reached.contains(*word))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {reached:?}");
}
