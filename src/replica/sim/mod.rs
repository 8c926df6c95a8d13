//! The deterministic simulation of leases and barriers: real replicas, a model of everything else.
//!
//! ```text
//!                 seed
//!                  │
//!   clients ─► servers (real replicas) ─► world: delays, cuts, wake-ups ─► database (a model)
//!      │           ▲
//!      └► oracle ──┘  Checks of what was taken away
//! ```
//!
//! One thread, virtual time, every choice from one seed. The oracle: no Check that a server
//! receives after a change was answered as confirmed is allowed by what was taken away, none later
//! than promised when it was answered as committed; after the faults every server comes back and
//! its State is the log's. Each rule of the protocol is broken in turn, and must be found to be.

#![allow(clippy::print_stdout, reason = "what was caught is read by people")]

mod choices;
mod clients;
mod database;
mod faults;
mod link;
mod oracle;
mod run;
mod server;
mod world;

use std::collections::BTreeMap;

use super::mutation::Mutation;
use run::run;

/// Seeds that must hold.
const SEEDS: u64 = 24;
/// Seeds in which a broken rule must be found.
const SEEDS_BROKEN: u64 = 48;
/// What must have happened in all seeds together.
const MUST_OCCUR: [&str; 29] = [
    "allowed",
    "checks",
    "committed",
    "confirmed",
    "crashed",
    "cut after the effect",
    "cut before the effect",
    "effect after the deadline",
    "failed over",
    "failed over, with a tail lost",
    "joined during a revoke",
    "loaded anew",
    "member removed",
    "name used again",
    "one connection cut",
    "outage",
    "partitioned",
    "paused",
    "refused as stale",
    "revokes",
    "slow after the effect",
    "slow, paused and cut off",
    "slow before the effect",
    "stopped cleanly",
    "suspended",
    "told nothing",
    "wake-up dropped",
    "wake-up twice",
    "wall clock set",
];

#[test]
fn nothing_that_was_confirmed_is_allowed_and_all_servers_come_back() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=SEEDS {
        let ran = run(seed, None);
        assert_eq!(ran.violation, None, "seed {seed}");
        assert_eq!(ran.unwell, Vec::<String>::new(), "seed {seed}");
        for (what, count) in ran.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{SEEDS} seeds: {counts:#?}");
    let missing = MUST_OCCUR
        .iter()
        .filter(|what| counts.get(*what).is_none_or(|count| *count == 0));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn one_seed_is_one_history() {
    let (once, again) = (run(7, None), run(7, None));
    assert_eq!(once.history, again.history);
    assert_eq!(once.counts, again.counts);
    assert_ne!(once.history, run(8, None).history);
}

/// Finds the first seed in which a broken rule breaks a promise, and that it is the rule's fault.
fn assert_caught(mutation: Mutation) {
    for seed in 1..=SEEDS_BROKEN {
        let Some(violation) = run(seed, Some(mutation)).violation else {
            continue;
        };
        let step = violation.at_ms;
        println!("mutation {mutation:?}: caught at seed {seed}, step {step}");
        assert_eq!(run(seed, None).violation, None, "seed {seed}");
        return;
    }
    panic!("mutation {mutation:?} was not caught in {SEEDS_BROKEN} seeds");
}

#[test]
fn a_lease_from_the_reply_is_caught() {
    assert_caught(Mutation::LeaseFromReply);
}

#[test]
fn a_lease_before_applying_is_caught() {
    assert_caught(Mutation::LeaseBeforeApply);
}

#[test]
fn a_cached_clock_is_caught() {
    assert_caught(Mutation::CachedClock);
}

#[test]
fn a_report_before_publishing_is_caught() {
    assert_caught(Mutation::ReportBeforePublish);
}

#[test]
fn a_log_read_by_a_sequence_is_caught() {
    assert_caught(Mutation::SequenceLog);
}

#[test]
fn a_silent_member_presumed_dead_is_caught() {
    assert_caught(Mutation::SilentPresumedDead);
}

#[test]
fn waiting_out_the_own_lease_only_is_caught() {
    assert_caught(Mutation::OwnLeaseOnly);
}

#[test]
fn answering_without_a_lease_is_caught() {
    assert_caught(Mutation::NoLease);
}
