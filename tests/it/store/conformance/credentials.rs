//! What the log makes of logins: credentials, methods, seal keys, refused sessions and locks.
//!
//! Rows are compared as texts: they have no equality of their own, and a text says what differs.

use latchkey::domain::change::{
    Change, CutOffTarget, Display, KeyPhase, NewToken, Row, SealKeyRecord, TokenRecord,
};
use latchkey::domain::limits::{Networks, Uses};
use latchkey::domain::login::{ClientNetwork, LoginMethod, LoginSettings, MethodRecord};
use latchkey::domain::principal::PrincipalId;
use latchkey::domain::seal::key::KeyId;
use latchkey::domain::token::TokenKind;
use latchkey::store::Store;
use latchkey::store::list::{TokenQuery, TokenState};

use crate::store::scribe::{
    START_MS, Scribe, client_secret, digest, issue, key_digest, public_key, put_principal,
    registered, rows, token_id, user_token,
};

const BEFORE_MS: u64 = START_MS + 1_000;

/// The rows of a snapshot that are of these sorts, as texts in the order in which they came.
async fn texts(store: &dyn Store) -> Vec<String> {
    let (_, rows) = rows(store).await;
    let logins = rows.iter().filter(|row| {
        matches!(
            row,
            Row::Method(_) | Row::SealKey(_) | Row::RevokedSession { .. } | Row::Lock { .. }
        )
    });
    logins.map(|row| format!("{row:?}")).collect()
}

fn told(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{row:?}")).collect()
}

fn account(id: u32) -> Change {
    put_principal(id, &format!("service:s{id}"))
}

fn method(principal: u32, method: LoginMethod, made_at: u64) -> MethodRecord {
    MethodRecord {
        principal: PrincipalId(principal),
        method,
        made_at,
        settings: LoginSettings::default(),
    }
}

fn put_method(record: MethodRecord) -> Change {
    Change::PutMethod(Box::new(record))
}

fn full_settings() -> LoginSettings {
    let networks = |texts: &[&str]| Networks::parse(texts).expect("networks");
    LoginSettings {
        ttl_s: u32::MAX,
        max_ttl_s: Some(0),
        period_s: Some(60),
        uses: Some(9),
        networks: networks(&["10.0.0.0/8", "2001:db8::/32"]),
        login_networks: networks(&["192.0.2.7"]),
        lockout: None,
    }
}

fn seal_key(id: u32, phase: KeyPhase) -> SealKeyRecord {
    SealKeyRecord {
        id: KeyId(id),
        salt: [id.to_le_bytes()[0]; 16],
        phase,
        since_ms: START_MS,
    }
}

fn session(number: u128, until_ms: u64) -> Change {
    Change::RevokeSession {
        session: token_id(number),
        account: None,
        until_ms,
        compromised: false,
    }
}

fn network(text: &str) -> ClientNetwork {
    ClientNetwork::of(text.parse().ok())
}

fn lock(principal: u32, from: &str, until_ms: u64) -> Change {
    Change::Lock {
        principal: PrincipalId(principal),
        network: network(from),
        until_ms,
    }
}

pub(crate) async fn what_logins_need_is_in_the_snapshot(store: &dyn Store) {
    let full = MethodRecord {
        settings: full_settings(),
        ..method(1, LoginMethod::KeyPair, 4)
    };
    let changes = [
        account(1),
        account(2),
        put_method(method(2, LoginMethod::UniversalAuth, 3)),
        put_method(full.clone()),
        put_method(method(1, LoginMethod::UniversalAuth, 5)),
        Change::PutSealKeys(vec![
            seal_key(u32::MAX, KeyPhase::Minting),
            seal_key(7, KeyPhase::Retired),
        ]),
        session(91, BEFORE_MS),
        session(90, BEFORE_MS + 1),
        lock(2, "unknown", BEFORE_MS),
        lock(1, "2001:db8::1", BEFORE_MS),
        lock(1, "192.0.2.7", BEFORE_MS + 1),
    ];
    Scribe::new().append(store, changes).await;
    let session = |number, until_ms| Row::RevokedSession {
        session: token_id(number),
        until_ms,
    };
    let lock = |principal, from, until_ms| Row::Lock {
        principal: PrincipalId(principal),
        network: network(from),
        until_ms,
    };
    let method = |record| Row::Method(Box::new(record));
    let expected = [
        method(self::method(1, LoginMethod::UniversalAuth, 5)),
        method(full),
        method(self::method(2, LoginMethod::UniversalAuth, 3)),
        Row::SealKey(seal_key(7, KeyPhase::Retired)),
        Row::SealKey(seal_key(u32::MAX, KeyPhase::Minting)),
        session(90, BEFORE_MS + 1),
        session(91, BEFORE_MS),
        lock(1, "192.0.2.7", BEFORE_MS + 1),
        lock(1, "2001:db8::1", BEFORE_MS),
        lock(2, "unknown", BEFORE_MS),
    ];
    assert_eq!(texts(store).await, told(&expected));
}

pub(crate) async fn what_is_put_again_takes_the_place_of_the_former(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let once = [
        account(1),
        put_method(MethodRecord {
            settings: full_settings(),
            ..method(1, LoginMethod::KeyPair, 2)
        }),
        Change::PutSealKeys(vec![seal_key(7, KeyPhase::Minting)]),
        session(90, BEFORE_MS + 9),
        lock(1, "192.0.2.7", BEFORE_MS),
    ];
    scribe.append(store, once).await;
    let bare = method(1, LoginMethod::KeyPair, 2);
    let again = || {
        [
            put_method(bare.clone()),
            Change::PutSealKeys(vec![seal_key(7, KeyPhase::Revoked)]),
            session(90, BEFORE_MS),
            lock(1, "192.0.2.7", BEFORE_MS + 9),
        ]
    };
    let expected = told(&[
        Row::Method(Box::new(bare.clone())),
        Row::SealKey(seal_key(7, KeyPhase::Revoked)),
        Row::RevokedSession {
            session: token_id(90),
            until_ms: BEFORE_MS,
        },
        Row::Lock {
            principal: PrincipalId(1),
            network: network("192.0.2.7"),
            until_ms: BEFORE_MS + 9,
        },
    ]);
    scribe.append(store, again()).await;
    assert_eq!(texts(store).await, expected);
    // Several times in one batch, and twice in one change.
    let keys = vec![
        seal_key(7, KeyPhase::Minting),
        seal_key(7, KeyPhase::Revoked),
    ];
    let twice = [Change::PutSealKeys(keys)].into_iter().chain(again());
    scribe.append(store, again().into_iter().chain(twice)).await;
    assert_eq!(texts(store).await, expected);
}

pub(crate) async fn a_deleted_method_is_gone(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let delete = |method| Change::DeleteMethod {
        principal: PrincipalId(1),
        method,
    };
    let (first, second) = (LoginMethod::UniversalAuth, LoginMethod::KeyPair);
    let changes = [
        account(1),
        put_method(method(1, first, 2)),
        put_method(method(1, second, 3)),
        delete(first),
    ];
    scribe.append(store, changes).await;
    let left = |record| told(&[Row::Method(Box::new(record))]);
    assert_eq!(texts(store).await, left(method(1, second, 3)));
    scribe.refused(store, [delete(first)]).await;
    // And set anew, all in one batch.
    let anew = [
        put_method(method(1, first, 5)),
        delete(second),
        delete(first),
        put_method(method(1, first, 8)),
    ];
    scribe.append(store, anew).await;
    assert_eq!(texts(store).await, left(method(1, first, 8)));
}

pub(crate) async fn an_account_that_goes_takes_its_methods_and_locks(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let of = |id| {
        [
            account(id),
            put_method(method(id, LoginMethod::UniversalAuth, 2)),
            put_method(method(id, LoginMethod::KeyPair, 2)),
            lock(id, "192.0.2.7", BEFORE_MS),
            lock(id, "unknown", BEFORE_MS),
        ]
    };
    scribe.append(store, of(1).into_iter().chain(of(2))).await;
    scribe.append(store, [session(90, BEFORE_MS)]).await;
    let delete = |id| Change::DeletePrincipal(PrincipalId(id));
    scribe.append(store, [delete(1)]).await;
    let left = texts(store).await.join("\n");
    assert_eq!(left.matches("PrincipalId(2)").count(), 4, "{left}");
    assert!(!left.contains("PrincipalId(1)"), "{left}");
    // Nothing is put for one who is gone; and one may come and go in one batch.
    let late = [
        put_method(method(1, LoginMethod::KeyPair, 9)),
        lock(1, "unknown", BEFORE_MS),
        put_method(method(99, LoginMethod::KeyPair, 9)),
        lock(99, "unknown", BEFORE_MS),
    ];
    for change in late {
        scribe.refused(store, [change]).await;
    }
    let all = of(3).into_iter().chain([delete(3), delete(2)]);
    scribe.append(store, all).await;
    let session = Row::RevokedSession {
        session: token_id(90),
        until_ms: BEFORE_MS,
    };
    assert_eq!(texts(store).await, told(&[session]));
}

pub(crate) async fn ended_sessions_and_locks_are_forgotten(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let changes = [
        account(1),
        session(90, BEFORE_MS - 1),
        session(91, BEFORE_MS),
        lock(1, "192.0.2.7", BEFORE_MS - 1),
        lock(1, "unknown", BEFORE_MS),
    ];
    scribe.append(store, changes).await;
    let forget = |before_ms, slice| Change::Forget { before_ms, slice };
    scribe.append(store, [forget(BEFORE_MS - 1, 0)]).await;
    assert_eq!(texts(store).await.len(), 4);
    // Whatever the slice.
    scribe.append(store, [forget(BEFORE_MS, 0xab)]).await;
    let left = [
        Row::RevokedSession {
            session: token_id(91),
            until_ms: BEFORE_MS,
        },
        Row::Lock {
            principal: PrincipalId(1),
            network: network("unknown"),
            until_ms: BEFORE_MS,
        },
    ];
    assert_eq!(texts(store).await, told(&left));
    scribe.append(store, [forget(u64::MAX >> 1, 3)]).await;
    assert_eq!(texts(store).await.len(), 0);
}

fn locked(principal: u32, from: &str, until_ms: u64) -> Row {
    Row::Lock {
        principal: PrincipalId(principal),
        network: network(from),
        until_ms,
    }
}

pub(crate) async fn locks_that_have_ended_go_with_the_next(store: &dyn Store) {
    let mut scribe = Scribe::new();
    // Every entry is a millisecond after the one before.
    let first = scribe.instant_ms;
    let at = first;
    let changes = [
        account(1),
        account(2),
        lock(1, "192.0.2.7", at + 5),
        lock(2, "192.0.2.7", at + 5),
        lock(1, "192.0.2.8", at + 6),
        lock(1, "unknown", at + 5),
        lock(1, "192.0.2.9", at + 500),
    ];
    scribe.append(store, changes).await;
    let left = [
        locked(1, "192.0.2.9", at + 500),
        locked(2, "192.0.2.7", at + 5),
    ];
    assert_eq!(texts(store).await, told(&left));
    // One that has ended by the instant at which it begins stands until the next.
    let at = scribe.instant_ms;
    let changes = [lock(2, "192.0.2.8", at), lock(2, "192.0.2.9", at)];
    scribe.append(store, changes).await;
    let left = [
        locked(1, "192.0.2.9", first + 500),
        locked(2, "192.0.2.9", at),
    ];
    assert_eq!(texts(store).await, told(&left));
}

pub(crate) async fn locks_are_ended_one_by_one(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let unlock = |principal, from: &[&str]| Change::Unlock {
        principal: PrincipalId(principal),
        networks: from.iter().map(|text| network(text)).collect(),
    };
    let changes = [
        account(1),
        account(2),
        lock(1, "192.0.2.7", BEFORE_MS),
        lock(1, "192.0.2.8", BEFORE_MS),
        lock(1, "2001:db8::1", BEFORE_MS),
        lock(2, "192.0.2.7", BEFORE_MS),
    ];
    scribe.append(store, changes).await;
    let both = unlock(1, &["192.0.2.7", "2001:db8::1"]);
    scribe.append(store, [both.clone()]).await;
    let left = [
        locked(1, "192.0.2.8", BEFORE_MS),
        locked(2, "192.0.2.7", BEFORE_MS),
    ];
    assert_eq!(texts(store).await, told(&left));
    // Not what is not there; and locked, unlocked and locked again in one batch.
    scribe.refused(store, [both]).await;
    let again = [
        lock(1, "192.0.2.7", BEFORE_MS),
        unlock(1, &["192.0.2.8", "192.0.2.7"]),
        lock(1, "192.0.2.8", BEFORE_MS + 1),
        unlock(2, &["192.0.2.7"]),
    ];
    scribe.append(store, again).await;
    let left = [locked(1, "192.0.2.8", BEFORE_MS + 1)];
    assert_eq!(texts(store).await, told(&left));
}

pub(crate) async fn a_compromised_session_cuts_off_what_it_issued(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let revoke = |compromised| Change::RevokeSession {
        session: token_id(90),
        account: None,
        until_ms: BEFORE_MS,
        compromised,
    };
    let cut_offs = async || {
        let (_, rows) = rows(store).await;
        let cut_offs = rows.iter().filter(|row| matches!(row, Row::CutOff(..)));
        cut_offs.map(|row| format!("{row:?}")).collect::<Vec<_>>()
    };
    scribe.append(store, [revoke(false)]).await;
    assert!(cut_offs().await.is_empty());
    scribe.append(store, [revoke(true), revoke(true)]).await;
    scribe.append(store, [revoke(false)]).await;
    let expected = Row::CutOff(CutOffTarget::IssuedByToken(token_id(90)), 3);
    assert_eq!(cut_offs().await, told(&[expected]));
}

async fn record(store: &dyn Store, number: u128) -> TokenRecord {
    let stored = store.token(token_id(number)).await.expect("read");
    stored.expect("there").record
}

pub(crate) async fn a_credential_keeps_its_public_key(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let keys = [registered(80, 1, 2), registered(81, 1, 3)];
    let changes = keys.iter().cloned().map(issue);
    let changes: Vec<_> = [account(1)].into_iter().chain(changes).collect();
    scribe.append(store, changes).await;
    for key in &keys {
        assert_eq!(record(store, key.id.as_u128()).await, *key);
    }
    // An update without a digest, and another key in its place.
    let update = |record: &TokenRecord, digest| Change::PutToken {
        record: Box::new(record.clone()),
        digest,
        display: Display::default(),
    };
    let later = TokenRecord {
        expires_ms: Some(BEFORE_MS),
        ..keys[0].clone()
    };
    let key = public_key(99);
    let rotated = TokenRecord {
        key: key_digest(&key).key(),
        rotation: 1,
        public_key: Some(key.clone()),
        ..keys[1].clone()
    };
    let changes = [
        update(&later, None),
        update(&rotated, Some(key_digest(&key))),
    ];
    scribe.append(store, changes).await;
    assert_eq!(record(store, 80).await, later);
    assert_eq!(record(store, 81).await, rotated);
    let (_, rows) = rows(store).await;
    let expected = [later, rotated].map(|one| Row::Token(Box::new(one)));
    assert_eq!(told(&rows[rows.len() - 2..]), told(&expected));
}

pub(crate) async fn a_public_key_that_was_revoked_is_not_forgotten(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let expiring = |number, account| TokenRecord {
        expires_ms: Some(BEFORE_MS - 1),
        ..registered(number, account, 3)
    };
    let records = [
        expiring(80, 1),
        expiring(81, 1),
        registered(82, 2, 4),
        registered(83, 2, 4),
    ];
    let revoke = |number| Change::RevokeToken {
        id: token_id(number),
        compromised: false,
    };
    let changes = [account(1), account(2)].into_iter();
    let changes = changes.chain(records.clone().map(issue));
    let ends = [
        revoke(80),
        revoke(82),
        Change::DeletePrincipal(PrincipalId(2)),
    ];
    scribe.append(store, changes.chain(ends)).await;
    for slice in records.map(|record| record.key.to_be_bytes()[0]) {
        let before_ms = u64::MAX >> 1;
        let forget = Change::Forget { before_ms, slice };
        scribe.append(store, [forget.clone(), forget]).await;
    }
    let (_, rows) = rows(store).await;
    let left = rows.iter().filter_map(|row| match row {
        Row::Token(record) => Some(record.id.as_u128()),
        _ => None,
    });
    assert_eq!(left.collect::<Vec<_>>(), [80, 82]);
}

pub(crate) async fn a_login_spends_and_stores(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let secret = TokenRecord {
        uses: Some(Uses { limit: 5, left: 5 }),
        ..client_secret(80, 1, 2)
    };
    let without = client_secret(81, 1, 3);
    let changes = [account(1), issue(secret.clone()), issue(without)];
    scribe.append(store, changes).await;
    let stored = |number, made_at| {
        let record = TokenRecord {
            kind: TokenKind::Access,
            parent: Some(secret.id),
            ..user_token(number, 1, made_at)
        };
        Some(Box::new(NewToken {
            digest: digest(0, number),
            record,
            display: Display {
                last4: Some("wxyz".to_owned()),
                ..Display::default()
            },
        }))
    };
    let login = |left, token| Change::Login { spent: left, token };
    let spent = |left| Some((token_id(80), left));
    let both = [
        login(spent(4), None),
        login(spent(3), stored(90, 5)),
        login(None, stored(91, 6)),
    ];
    scribe.append(store, both).await;
    let left = async || record(store, 80).await.uses;
    assert_eq!(left().await, Some(Uses { limit: 5, left: 3 }));
    for (number, made_at) in [(90, 5), (91, 6)] {
        let expected = stored(number, made_at).expect("one").record;
        assert_eq!(record(store, number).await, expected);
    }
    let shown = store.token(token_id(90)).await.expect("read");
    assert_eq!(shown.expect("there").last4, "wxyz");
    // All of it or nothing.
    let mut wrong = stored(92, 7).expect("one");
    wrong.record.key = 5;
    for change in [
        login(Some((token_id(81), 1)), None),
        login(Some((token_id(99), 1)), stored(92, 7)),
        login(spent(2), Some(wrong)),
    ] {
        scribe.refused(store, [change]).await;
    }
    assert_eq!(left().await, Some(Uses { limit: 5, left: 3 }));
    assert!(store.token(token_id(92)).await.expect("read").is_none());
}

/// The numbers of the tokens in a state.
async fn numbers(store: &dyn Store, state: TokenState) -> Vec<u128> {
    let query = TokenQuery {
        state: Some(state),
        now_ms: START_MS,
        limit: 100,
        ..TokenQuery::default()
    };
    let page = store.tokens(query).await.expect("a page");
    let numbers = page.rows.iter().map(|one| one.record.id.as_u128());
    numbers.collect()
}

pub(crate) async fn a_credential_without_its_method_is_shown_as_revoked(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let (secrets, keys) = (LoginMethod::UniversalAuth, LoginMethod::KeyPair);
    let changes = [
        account(1),
        account(2),
        put_method(method(1, secrets, 3)),
        put_method(method(1, keys, 4)),
        issue(client_secret(80, 1, 3)),
        issue(registered(81, 1, 6)),
        // Of an account on which the method is not set, and of no method at all.
        issue(client_secret(82, 2, 7)),
        issue(user_token(83, 2, 8)),
    ];
    scribe.append(store, changes).await;
    assert_eq!(numbers(store, TokenState::Active).await, [80, 81, 83]);
    assert_eq!(numbers(store, TokenState::Revoked).await, [82]);
    let delete = Change::DeleteMethod {
        principal: PrincipalId(1),
        method: secrets,
    };
    scribe.append(store, [delete]).await;
    assert_eq!(numbers(store, TokenState::Active).await, [81, 83]);
    // Set anew it revives nothing that was made before.
    let anew = [
        put_method(method(1, secrets, 10)),
        issue(client_secret(84, 1, 10)),
    ];
    scribe.append(store, anew).await;
    assert_eq!(numbers(store, TokenState::Active).await, [81, 83, 84]);
    let stored = store.token(token_id(80)).await.expect("read");
    assert!(stored.expect("there").cut_off);
}

pub(crate) async fn stored_access_tokens_are_cut_off_with_the_sessions(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let access = |number, account, made_at| {
        issue(TokenRecord {
            kind: TokenKind::Access,
            ..user_token(number, account, made_at)
        })
    };
    let changes = [
        account(1),
        account(2),
        access(80, 1, 3),
        access(81, 2, 4),
        issue(user_token(82, 1, 5)),
        Change::CutOff(CutOffTarget::Sessions(PrincipalId(1))),
        access(83, 1, 6),
    ];
    scribe.append(store, changes).await;
    assert_eq!(numbers(store, TokenState::Active).await, [81, 82, 83]);
    assert_eq!(numbers(store, TokenState::Revoked).await, [80]);
}
