//! The first administrator on a store where that name is in use already.
//!
//! By the authority: no program leaves such a store behind, an interrupted bootstrap and a hand
//! in between might.

use std::sync::Arc;
use std::time::Duration;

use latchkey::authority::{self, Authority};
use latchkey::domain::change::Display;
use latchkey::domain::clock::SystemClock;
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::replica::{Replica, Settings};
use latchkey::state::decide::{Caller, Command, Envelope};
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};

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
        check_open: true,
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
