//! Logins on Postgres: several servers on one database, what waits for the disk, what is bounded,
//! and whom a flood of failures holds up.
//!
//! Two stores on one database are two servers; what they cannot reach, the database's owner does.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use latchkey::domain::principal::PrincipalId;
use latchkey::store::list::TokenQuery;
use latchkey::store::logins::{
    FAILURES_MAX, Failure, LOGINS_MAX, LoginKind, LoginNoted, LoginQuery, Logins as _, OneTime,
};
use latchkey::store::postgres::{PostgresStore, Settings};
use latchkey::store::{Store as _, StoreError};

use super::faults::{at_every_write, by, proxied};
use super::{Fresh, fresh, open, open_with};
use crate::postgres::server;
use crate::proxy::Flow;
use crate::store::scribe::{START_MS, Scribe, put_principal, token_id};

const PATIENCE: Duration = Duration::from_secs(60);

fn failure(key: u128) -> Failure {
    Failure {
        key: key.to_be_bytes(),
        now_ms: START_MS,
        reset_ms: 30_000,
    }
}

fn once(id: u8) -> OneTime {
    OneTime {
        id: [id; 32],
        now_ms: START_MS,
        until_ms: START_MS + 60_000,
    }
}

fn login(number: u128) -> LoginNoted {
    LoginNoted {
        at_ms: START_MS,
        kind: LoginKind::Login,
        account: Some(PrincipalId(1)),
        parent: None,
        credential: token_id(9),
        token: token_id(number),
        from: None,
        expires_ms: START_MS + 60_000,
    }
}

/// A store with an account, 1.
async fn with_account() -> Fresh {
    let fresh = fresh().await;
    let account = put_principal(1, "service:ci");
    Scribe::new().append(&fresh.store, [account]).await;
    fresh
}

async fn count(fresh: &Fresh, table: &str) -> u64 {
    let owner = server().client("postgres", &fresh.database.name).await;
    let sql = format!("SELECT count(*) FROM latchkey.{table}");
    let counted = owner.query_one(&sql, &[]).await.expect("counted");
    counted.get::<_, i64>(0).try_into().expect("a count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_count_failures_together() {
    let fresh = fresh().await;
    let other = open(&fresh.database.url).await;
    let stores = [&fresh.store, &other];
    let failure = failure(1);
    let noted = (0..40).map(|number| stores[number % 2].note_failure(&failure));
    let counts = join_all(noted).await.into_iter();
    let mut counts: Vec<u32> = counts.map(|count| count.expect("counted")).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>());
    other
        .clear_failures(failure.key..=failure.key)
        .await
        .expect("cleared");
    assert_eq!(fresh.store.note_failure(&failure).await.ok(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_is_used_on_one_of_many_servers() {
    let fresh = fresh().await;
    let other = open(&fresh.database.url).await;
    let stores = [&fresh.store, &other];
    for id in 0..20 {
        let once = once(id);
        let used = (0..8).map(|number| stores[number % 2].consume(&once));
        let used = join_all(used).await.into_iter();
        let used = used.filter(|used| *used.as_ref().expect("an answer"));
        assert_eq!(used.count(), 1, "{id}");
    }
    // And by one that comes later.
    let later = open(&fresh.database.url).await;
    assert!(!later.consume(&once(1)).await.expect("an answer"));
}

#[tokio::test]
async fn only_assertions_wait_for_the_disk() {
    let fresh = with_account().await;
    let name = &fresh.database.name;
    // Less than durable, as an operator may have set it.
    let record = "ALTER ROLE latchkey_server SET synchronous_commit = local;
        CREATE TABLE latchkey.seen (seen text, setting text);
        CREATE FUNCTION latchkey.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN INSERT INTO latchkey.seen
            VALUES (TG_TABLE_NAME, current_setting('synchronous_commit'));
          RETURN NULL; END $$;
        CREATE TRIGGER see AFTER INSERT ON latchkey.used_assertions
        FOR EACH STATEMENT EXECUTE FUNCTION latchkey.see();
        CREATE TRIGGER see AFTER INSERT ON latchkey.login_failures
        FOR EACH STATEMENT EXECUTE FUNCTION latchkey.see();
        CREATE TRIGGER see AFTER INSERT ON latchkey.logins
        FOR EACH STATEMENT EXECUTE FUNCTION latchkey.see()";
    // Of this database alone: others run beside.
    let record = record.replace(
        "ROLE latchkey_server",
        &format!("ROLE latchkey_server IN DATABASE {name}"),
    );
    server().admin(name, &record).await;
    let store = open(&fresh.database.url).await;
    store.note_failure(&failure(1)).await.expect("counted");
    store.note_logins(&[login(1)]).await.expect("noted");
    store.consume(&once(1)).await.expect("an answer");
    let owner = server().client("postgres", name).await;
    let sql = "SELECT seen, setting FROM latchkey.seen ORDER BY seen";
    let seen = owner.query(sql, &[]).await.expect("read");
    let seen: Vec<(String, String)> = seen.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("login_failures", "off"),
        ("logins", "off"),
        ("used_assertions", "on"),
    ];
    assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[tokio::test]
async fn a_use_that_was_not_proved_durable_is_none() {
    let fresh = fresh().await;
    let name = &fresh.database.name;
    at_every_write(name, "RAISE WARNING 'the wait was cancelled';").await;
    let used = fresh.store.consume(&once(1)).await;
    assert!(
        matches!(used, Err(StoreError::OutcomeUnknown(_))),
        "{used:?}"
    );
    at_every_write(name, "PERFORM 1;").await;
    let used = fresh.store.consume(&once(1)).await;
    assert!(!used.expect("an answer"), "it may have been given away");
}

#[tokio::test]
async fn a_use_whose_answer_is_lost_is_not_repeated() {
    let fresh = fresh().await;
    let proxy = proxied().await;
    let store = open_with(Settings {
        url: by(&fresh.database.url, proxy.port),
        ..Settings::default()
    })
    .await;
    // It is under way when nothing comes back any more.
    let name = &fresh.database.name;
    let table = "CREATE TABLE latchkey.go (); GRANT SELECT ON latchkey.go TO latchkey_server";
    server().admin(name, table).await;
    let body = "PERFORM nextval('latchkey.tries');
        WHILE NOT EXISTS (SELECT FROM latchkey.go) LOOP PERFORM pg_sleep(0.005); END LOOP;";
    at_every_write(name, body).await;
    let owner = server().client("postgres", name).await;
    let until = async |sql: &str| {
        let began = Instant::now();
        while !owner
            .query_one(sql, &[])
            .await
            .expect(sql)
            .get::<_, bool>(0)
        {
            assert!(began.elapsed() < PATIENCE, "{sql}");
        }
    };
    let once = once(2);
    let (used, ()) = tokio::join!(store.consume(&once), async {
        until("SELECT is_called FROM latchkey.tries").await;
        proxy.to_client(Flow::Hold);
        let go = "INSERT INTO latchkey.go DEFAULT VALUES";
        owner.batch_execute(go).await.expect("goes on");
        until("SELECT EXISTS (SELECT FROM latchkey.used_assertions)").await;
        proxy.cut();
    });
    assert!(
        matches!(used, Err(StoreError::OutcomeUnknown(_))),
        "{used:?}"
    );
    proxy.to_client(Flow::Pass);
    assert!(!store.consume(&once).await.expect("an answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_failures_holds_up_nobody_else() {
    let fresh = fresh().await;
    let store = open_with(Settings {
        url: fresh.database.url.clone(),
        pool_size: 1,
        ..Settings::default()
    })
    .await;
    let owner = server().client("postgres", &fresh.database.name).await;
    let lock = "BEGIN; LOCK TABLE latchkey.login_failures IN ACCESS EXCLUSIVE MODE";
    owner.batch_execute(lock).await.expect("locked");
    let failures: Vec<_> = (0..20).map(failure).collect();
    let flood = join_all(failures.iter().map(|failure| store.note_failure(failure)));
    let others = async {
        let account = put_principal(1, "service:ci");
        Scribe::new().append(&store, [account]).await;
        store.note_logins(&[login(1)]).await.expect("noted");
        let page = store.tokens(TokenQuery::default()).await;
        page.expect("a page");
        let page = store.logins(LoginQuery::default()).await;
        assert_eq!(page.expect("a page").rows.len(), 1);
        // Nobody of the flood has had an answer until here, but for those who gave up.
        owner.batch_execute("ROLLBACK").await.expect("free");
    };
    let (flood, ()) = tokio::join!(flood, others);
    for noted in flood {
        assert!(
            matches!(noted, Ok(1) | Err(StoreError::Unavailable(_))),
            "{noted:?}"
        );
    }
    assert_eq!(store.note_failure(&failure(99)).await.ok(), Some(1));
}

/// Makes the numbers of a table go on behind `number`.
async fn go_on_behind(fresh: &Fresh, table: &str, number: u64) {
    let sql = format!(
        "ALTER TABLE latchkey.{table} ALTER COLUMN number RESTART WITH {}",
        number + 1
    );
    server().admin(&fresh.database.name, &sql).await;
}

#[tokio::test]
async fn failures_of_long_ago_are_forgotten_when_there_are_too_many() {
    const MORE: u64 = 300;
    let fresh = fresh().await;
    let there = FAILURES_MAX + MORE;
    let sql = format!(
        "INSERT INTO latchkey.login_failures
        SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), n, 1, {START_MS}
        FROM generate_series(1, {there}) n"
    );
    server().admin(&fresh.database.name, &sql).await;
    go_on_behind(&fresh, "login_failures", there).await;
    // The oldest has failed once more since.
    assert_eq!(fresh.store.note_failure(&failure(1)).await.ok(), Some(2));
    for key in 0..256 {
        let noted = fresh.store.note_failure(&failure(1_000_000 + key)).await;
        assert_eq!(noted.ok(), Some(1));
    }
    let left = count(&fresh, "login_failures").await;
    assert!(
        (FAILURES_MAX - 1..FAILURES_MAX + 64).contains(&left),
        "{left}"
    );
    for (key, expected) in [(1, 3), (2, 1), (u128::from(there), 2)] {
        let noted = fresh.store.note_failure(&failure(key)).await;
        assert_eq!(noted.ok(), Some(expected), "{key}");
    }
}

#[tokio::test]
async fn the_oldest_logins_are_forgotten_when_there_are_too_many() {
    let fresh = with_account().await;
    let store: &PostgresStore = &fresh.store;
    let numbers = async || {
        let query = LoginQuery {
            limit: 100,
            ..LoginQuery::default()
        };
        let page = store.logins(query).await.expect("a page");
        let numbers = page.rows.iter().map(|one| one.noted.token.as_u128());
        numbers.collect::<Vec<_>>()
    };
    store
        .note_logins(&[login(1), login(2), login(3)])
        .await
        .expect("noted");
    // As many between them as are kept, but for one.
    go_on_behind(&fresh, "logins", LOGINS_MAX).await;
    store.note_logins(&[login(4)]).await.expect("noted");
    assert_eq!(numbers().await, [4, 3, 2]);
    store
        .note_logins(&[login(5), login(6)])
        .await
        .expect("noted");
    assert_eq!(numbers().await, [6, 5, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_forget_the_same_logins_do_not_lock_each_other_out() {
    let fresh = with_account().await;
    let other = open(&fresh.database.url).await;
    let many: Vec<_> = (0..400).map(login).collect();
    fresh.store.note_logins(&many).await.expect("noted");
    go_on_behind(&fresh, "logins", LOGINS_MAX + 400).await;
    for number in 0..20 {
        let (one, two) = [1_000 + 2 * number, 1_001 + 2 * number].map(login).into();
        let (one, two) = ([one], [two]);
        let (one, two) = tokio::join!(fresh.store.note_logins(&one), other.note_logins(&two));
        one.expect("noted");
        two.expect("noted");
    }
    let left = count(&fresh, "logins").await;
    assert!((40..=440 - 40).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_of_the_version_before_notes_is_a_login() {
    let fresh = with_account().await;
    let owner = server().client("postgres", &fresh.database.name).await;
    let noted = login(1);
    let sql = format!(
        "INSERT INTO latchkey.logins (instant_ms, account, credential, token, address, expires_ms)
        VALUES ({}, 1, '{}', '{}', NULL, {})",
        noted.at_ms, noted.credential, noted.token, noted.expires_ms
    );
    owner.batch_execute(&sql).await.expect("noted");
    let query = LoginQuery {
        limit: 100,
        ..LoginQuery::default()
    };
    let page = fresh.store.logins(query).await.expect("a page");
    assert_eq!(page.rows.len(), 1);
    assert_eq!(page.rows[0].noted, noted);
}
