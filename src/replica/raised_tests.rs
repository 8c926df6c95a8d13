//! When the log's format is raised: for a change of a newer kind, and for nothing that is refused.

use super::tests::{assert_same, start};
use crate::domain::format::{FORMAT_FIRST, FORMAT_LOGINS};
use crate::domain::refusal::Refusal;
use crate::domain::seal::key::KeyId;
use crate::domain::token::Digest;
use crate::state::decide::{Caller, Command, Envelope, Outcome};

fn envelope(caller: Caller, command: Command) -> Envelope {
    Envelope {
        caller,
        reason: "test".to_owned(),
        request: None,
        command,
    }
}

fn mint(key: u32) -> Command {
    Command::MintBy {
        key: KeyId(key),
        salt: Default::default(),
    }
}

#[tokio::test]
async fn what_is_refused_raises_no_format_and_what_changes_something_does() {
    let (replica, _task, store) = start(&[]).await;
    let stranger = Caller::Bearer {
        key: Digest::of("a guess").key(),
        client_ip: None,
    };
    for (caller, command, expected) in [
        (stranger, mint(1), Refusal::Unauthenticated),
        (
            Caller::Local,
            Command::RevokeKey(KeyId(1)),
            Refusal::NotFound("key"),
        ),
    ] {
        let refused = replica.submit(envelope(caller, command)).await;
        assert_eq!(refused.map(|_| ()), Err(expected));
        let state = replica.state_full();
        assert_eq!((state.format(), state.head().revision), (FORMAT_FIRST, 0));
    }
    let done = replica.submit(envelope(Caller::Local, mint(1))).await;
    let outcome = done.expect("minted").decided.outcome;
    assert!(matches!(outcome, Outcome::Change { .. }), "{outcome:?}");
    assert_eq!(replica.state_full().format(), FORMAT_LOGINS);
    assert_same(&replica, &store);
}
