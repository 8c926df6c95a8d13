//! When the log's format is raised: for a change of a newer kind, and for nothing that is refused.
//!
//! Who reads which format is told by scripted members. The writer reads them itself when it wants
//! more than all of them read by the last reading, or when there was none yet.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use super::tests::{ScriptedStore, assert_same, start};
use super::{Replica, Settings};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::ManualClock;
use crate::domain::entropy::SeededEntropy;
use crate::domain::entry::LogEntry;
use crate::domain::format::{FORMAT_FIRST, FORMAT_LOGINS};
use crate::domain::refusal::Refusal;
use crate::domain::seal::key::KeyId;
use crate::domain::token::Digest;
use crate::state::decide::{Caller, Command, Envelope, Outcome};
use crate::store::StoreError;
use crate::store::cluster::{Cluster, Incarnation, Joining, Member, Renewal, Renewed, Roster};

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
        peer: None,
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

/// Members that read these formats, for whom nothing is ever renewed: the keeper learns nothing.
struct Reading(Mutex<Vec<u32>>, watch::Sender<u64>);

#[async_trait]
impl Cluster for Reading {
    async fn join(&self, _: &Joining) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn renew(&self, _: &Renewal) -> Result<Renewed, StoreError> {
        std::future::pending().await
    }

    async fn report(&self, _: Incarnation, _: Head) -> Result<(), StoreError> {
        Ok(())
    }

    async fn roster(&self) -> Result<Roster, StoreError> {
        let formats = self.0.lock().expect("no panic").clone();
        let member = |format_max| Member {
            incarnation: Incarnation([format_max as u8; 16]),
            name: "same".to_owned(),
            address: String::new(),
            lease_ms: 5_000,
            heartbeat: 1,
            applied: 0,
            format_max,
            joined_ms: 0,
            reported_ms: 0,
            serves_stale: false,
            keys: Vec::new(),
        };
        Ok(Roster {
            members: formats.into_iter().map(member).collect(),
            lease_ms: 5_000,
            head: Head::EMPTY,
            database_ms: 0,
        })
    }

    async fn leave(&self, _: Incarnation) -> Result<(), StoreError> {
        Ok(())
    }

    async fn remove(&self, _: Incarnation, _: u64) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn feed(&self, _: RevisionNumber, _: usize) -> Result<Vec<LogEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn wakes(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }
}

#[tokio::test]
async fn the_members_are_read_when_a_newer_format_is_wanted() {
    let older = vec![FORMAT_LOGINS, FORMAT_FIRST];
    let members = Arc::new(Reading(Mutex::new(older), watch::channel(0).0));
    let store = Arc::new(ScriptedStore::of(Arc::clone(&members) as Arc<dyn Cluster>));
    let started = Replica::start(
        Arc::clone(&store) as _,
        Arc::new(ManualClock::at(100)),
        Arc::new(SeededEntropy::new(1)),
        Settings::default(),
    );
    let (replica, _task) = started.await.expect("started");
    let refused = replica.submit(envelope(Caller::Local, mint(1))).await;
    let refused = refused.map(|_| ()).expect_err("one reads less");
    assert!(matches!(refused, Refusal::Precondition(_)), "{refused}");
    assert_eq!(replica.state_full().format(), FORMAT_FIRST);

    // It has left, or has been replaced by a newer one.
    *members.0.lock().expect("no panic") = vec![FORMAT_LOGINS];
    let done = replica.submit(envelope(Caller::Local, mint(1))).await;
    let outcome = done.expect("minted").decided.outcome;
    assert!(matches!(outcome, Outcome::Change { .. }), "{outcome:?}");
    assert_eq!(replica.state_full().format(), FORMAT_LOGINS);
    assert_same(&replica, &store);
}
