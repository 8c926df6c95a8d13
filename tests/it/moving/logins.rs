//! Moving what logins need: methods, seal keys, refused sessions, locks and public keys.
//!
//! A random history of every sort of change, with the digests that a replica would have written:
//! the copy proves log and tables by them where they have arrived, and so does `audit verify`.

use latchkey::domain::change::Change;
use latchkey::domain::entry::LogEntry;
use latchkey::state::State;
use latchkey::store::Store as _;
use latchkey::store::embedded::{EmbeddedStore, OpenOptions};

use super::{copy_to, open, open_copy};
use crate::postgres::{database, server};
use crate::program::{fresh, latchkey, run};
use crate::store::history::History;
use crate::store::scribe::{Scribe, rows};

/// A batch as a replica writes it: its last entry carries the digest of State.
fn digested(
    scribe: &mut Scribe,
    state: &mut State,
    changes: Vec<Change>,
) -> latchkey::store::Batch {
    let mut batch = scribe.batch(changes);
    let mut head = batch.base;
    let count = batch.entries.len();
    for (index, logged) in batch.entries.iter_mut().enumerate() {
        let mut entry = logged.entry.clone();
        state.advance(&entry);
        entry.state_digest = (index + 1 == count).then(|| state.digest());
        *logged = LogEntry::new(entry, &head);
        head = logged.head;
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn what_logins_need_is_moved_postgres() {
    let folder = fresh();
    let store = EmbeddedStore::open(folder.path(), OpenOptions::default()).expect("opened");
    let (mut scribe, mut state) = (Scribe::new(), State::default());
    let mut history = History::new(11);
    let mut changes = vec![Change::RaiseFormat(2)];
    for _ in 0..150 {
        let batch = digested(&mut scribe, &mut state, changes);
        scribe.commit(&store, batch).await;
        changes = history.batch(&scribe);
    }
    store.close().await.expect("closed");
    let database = database().await;
    copy_to(folder.path(), &database.url).json();
    let (before, after) = (open(folder.path()), open_copy(&database).await);
    let told = async |store| {
        let (head, rows) = rows(store).await;
        (
            head,
            rows.iter()
                .map(|row| format!("{row:?}"))
                .collect::<Vec<_>>(),
        )
    };
    let (here, there) = (told(&before).await, told(&after).await);
    assert_eq!(here.0, there.0);
    super::same::assert_same(&here.1, &there.1);
    for sort in [
        "Method(",
        "SealKey(",
        "RevokedSession",
        "Lock {",
        "PublicKey, subject",
    ] {
        assert!(here.1.iter().any(|row| row.contains(sort)), "{sort}");
    }
    drop((before, after));
    let verified = |place: [&str; 2]| {
        let mut verify = latchkey();
        verify
            .args(["audit", "verify", "--output", "json"])
            .args(place);
        run(verify, "")
    };
    let here_is = folder.path().display().to_string();
    for place in [["--data-dir", &here_is], ["--database-url", &database.url]] {
        assert_eq!(verified(place).json()["changes"], here.0.revision);
    }
    // Every column that State holds is in the digest.
    for (table, column) in [
        ("login_methods", "ttl_s"),
        ("login_methods", "made_at"),
        ("login_methods", "lockout_reset_s"),
        ("seal_keys", "phase"),
        ("seal_keys", "since_ms"),
        ("revoked_sessions", "until_ms"),
        ("login_locks", "until_ms"),
    ] {
        let change = async |step: &str| {
            let sql = format!("UPDATE latchkey.{table} SET {column} = {column} {step}");
            server().admin(&database.name, &sql).await;
        };
        change("+ 1").await;
        let ran = verified(["--database-url", &database.url]);
        assert_ne!(ran.code, 0, "{table}.{column}");
        change("- 1").await;
    }
    assert_eq!(verified(["--database-url", &database.url]).code, 0);
}
