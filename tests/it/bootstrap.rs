//! The first administrator: on a store where that name is in use already, and made by several
//! servers at once.
//!
//! By the authority: no program leaves such a store behind, an interrupted bootstrap and a hand
//! in between might.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::authority::{self, Authority};
use latchkey::domain::change::Display;
use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::replica::{Replica, Settings};
use latchkey::state::decide::{Caller, Command, Envelope};
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};

use crate::behind::start;
use crate::outage::line::Database;
use crate::program::fresh;

#[tokio::test]
async fn a_disabled_administrator_is_not_the_first_one_embedded() {
    let dir = fresh();
    let store = EmbeddedStore::open(dir.path(), OpenOptions::default()).expect("opened");
    let (clock, entropy) = (Arc::new(SystemClock::start()), Arc::new(OsEntropy));
    let started = Replica::start(Arc::new(store), clock, entropy.clone(), Settings::default());
    let (replica, writer) = started.await.expect("started");
    let name = |text: &str| PrincipalName::parse(text).expect("a name");
    let create = Command::CreatePrincipal {
        name: name("user:admin"),
        home: Resource::parse("latchkey").expect("a path"),
        display: Display::default(),
    };
    let disable = Command::SetDisabled {
        name: name("user:admin"),
        disabled: true,
    };
    for command in [create, disable] {
        let envelope = Envelope {
            caller: Caller::Local,
            reason: "test".to_owned(),
            request: None,
            command,
        };
        replica.submit(envelope).await.expect("done");
    }
    let settings = authority::Settings {
        valid_for_ms: 1_000,
        confirm_time_max: Duration::from_secs(5),
    };
    let authority = Authority::new(replica.clone(), entropy, settings);
    let made = authority.bootstrap(false).await.expect("not refused");
    assert!(made.is_some(), "a token");
    let state = replica.state_full();
    assert!(state.principal_named(&name("user:admin-2")).is_some());
    drop((authority, replica, state));
    writer.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_at_once_one_makes_the_first_administrators_token() {
    let database = Database::new();
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(start(&database, number).await);
    }
    let made = join_all(nodes.iter().map(|node| node.authority.bootstrap(false))).await;
    let made: Vec<_> = made
        .into_iter()
        .filter_map(|one| one.expect("not refused"))
        .collect();
    assert_eq!(made.len(), 1, "tokens");
    for node in nodes {
        let found = node.replica.state().token_by_key(made[0].digest().key());
        let count = node.replica.state().token_count();
        assert!(found.is_some() && count == 1, "{count}");
        node.task.stop().await;
    }
}
