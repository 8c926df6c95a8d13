//! The format level: who raises it, what it does to State, and what waits for it.
//!
//! The kind that waits is the one of the next format, which only debug builds have.

use super::tests::World;
use super::*;
use crate::domain::change::Row;
use crate::domain::format::FORMAT_MAX;

/// What a command of the server's own comes to; the state stays as it is.
fn outcome(world: &World, command: Command) -> Result<Outcome, Refusal> {
    let moment = Moment {
        revision: world.state.head().revision + 1,
        now: Now::at(world.now_ms),
        lifetimes: Lifetimes::default(),
    };
    let envelope = Envelope {
        caller: Caller::System,
        reason: "test".to_owned(),
        request: None,
        command,
    };
    decide(&world.state, &envelope, moment).map(|decided| decided.outcome)
}

#[test]
fn a_log_begins_at_the_first_format_with_the_digest_that_it_always_had() {
    let state = State::default();
    assert_eq!((state.format(), state.digest()), (1, [0; 32]));
}

#[test]
fn a_level_is_raised_and_never_lowered_nor_raised_twice() {
    let mut world = World::new();
    let check = |world: &World, level, changes| {
        let outcome = outcome(world, Command::RaiseFormat(level)).expect("not refused");
        let is_change = matches!(outcome, Outcome::Change { .. });
        assert_eq!(is_change, changes, "{level}");
    };
    check(&world, 1, false);
    check(&world, 2, true);
    world.local(Command::RaiseFormat(3));
    assert_eq!(world.state.format(), 3);
    check(&world, 2, false);
    check(&world, 3, false);
    check(&world, 4, true);
}

#[test]
fn a_raised_level_is_in_the_digest_however_it_came() {
    let (mut stepwise, mut at_once) = (World::new(), World::new());
    stepwise.local(Command::RaiseFormat(2));
    assert_ne!(stepwise.state.digest(), at_once.state.digest());
    stepwise.local(Command::RaiseFormat(3));
    assert_ne!(stepwise.state.digest(), at_once.state.digest());
    at_once.local(Command::RaiseFormat(3));
    assert_eq!(stepwise.state.digest(), at_once.state.digest());
    let mut loaded = State::default();
    loaded.load(&Row::Format(3));
    assert_eq!(loaded.format(), 3);
    assert_ne!(loaded.digest(), State::default().digest());
}

#[test]
fn only_the_server_raises_the_level() {
    let mut world = World::new();
    let admin = world.user("user:alice");
    let refused = world.as_bearer(&admin, Command::RaiseFormat(2));
    let refused = refused.expect_err("alice holds everything, but is not the server");
    assert!(matches!(refused, Refusal::NotPermitted(_)), "{refused:?}");
}

#[test]
fn a_kind_above_the_level_waits_for_it() {
    let mut world = World::new();
    let refused = outcome(&world, Command::Note).expect_err("too new");
    let Refusal::Precondition(text) = refused else {
        panic!("{refused:?}");
    };
    let next = FORMAT_MAX + 1;
    assert!(text.contains(&format!("format {next}")), "{text}");
    world.local(Command::RaiseFormat(next));
    let before = world.state.digest();
    world.local(Command::Note);
    assert_eq!(world.state.digest(), before, "a note changes nothing");
}
