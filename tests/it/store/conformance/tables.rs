//! What the log makes: the snapshot after each sort of change.
//!
//! Rows are compared as texts: they have no equality of their own, and a text says what differs.

use latchkey::domain::change::{
    Change, CutOffTarget, Display, Grace, Issuer, Revoked, Row, TokenRecord,
};
use latchkey::domain::entry::Request;
use latchkey::domain::limits::{Audience, Networks, Uses, Workload};
use latchkey::domain::principal::{GrantId, PrincipalId, RoleName};
use latchkey::domain::scopes::{PermissionSet, Scopes};
use latchkey::domain::token::TokenKind;
use latchkey::state::{Loader, State};
use latchkey::store::Store;

use crate::store::history::History;
use crate::store::scribe::{
    START_MS, Scribe, digest, grant, issue, issue_labelled, principal, put_principal, put_role,
    resource, resource_token, role, rows, set, token_id, user_token, whole_log,
};

/// The rows of a snapshot, as texts.
async fn texts(store: &dyn Store) -> Vec<String> {
    let (_, rows) = rows(store).await;
    rows.iter().map(|row| format!("{row:?}")).collect()
}

async fn tokens(store: &dyn Store) -> Vec<TokenRecord> {
    let (_, rows) = rows(store).await;
    let tokens = rows.into_iter().filter_map(|row| match row {
        Row::Token(record) => Some(*record),
        _ => None,
    });
    tokens.collect()
}

pub(crate) async fn an_empty_store_has_an_empty_snapshot(store: &dyn Store) {
    let snapshot = store.snapshot().await.expect("a snapshot");
    assert_eq!((snapshot.head.revision, snapshot.instant_ms), (0, 0));
    assert_eq!(snapshot.state_digest, None);
    assert_eq!(texts(store).await, ["Counters { principal: 0, grant: 0 }"]);
}

fn full_token(number: u128, team: u32) -> TokenRecord {
    TokenRecord {
        kind: TokenKind::Team,
        scopes: Scopes::Only(set(&["a:x@acme/*/prod", "b:*@team@x/**"])),
        ceiling: Some(PermissionSet::default()),
        issuers: vec![
            Issuer {
                principal: None,
                tokens: vec![token_id(70), token_id(71)],
                since: 0,
            },
            Issuer {
                principal: Some(PrincipalId(1)),
                tokens: Vec::new(),
                since: 3,
            },
        ],
        parent: Some(token_id(70)),
        not_before_ms: Some(0),
        expires_ms: Some(START_MS + 1_000_000),
        expires_max_ms: Some(START_MS + 2_000_000),
        ttl_s: Some(0),
        period_s: Some(60),
        uses: Some(Uses { limit: 5, left: 2 }),
        networks: Networks::parse(&["10.0.0.0/8", "2001:db8::/32"]).expect("networks"),
        audience: Audience::parse("api"),
        workload: Workload::parse("spiffe://acme.example/web"),
        rotation: 3,
        grace: Some(Grace {
            key: 77,
            until_ms: START_MS,
        }),
        revoked: Some(Revoked {
            revision: 2,
            at_ms: START_MS,
        }),
        ..user_token(number, team, 4)
    }
}

pub(crate) async fn a_snapshot_is_what_was_put(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let all = [
        user_token(80, 1, 4),
        full_token(81, 2),
        resource_token(82, "acme/web", 4),
    ];
    let request = Request {
        key: [7; 16],
        fingerprint: [8; 16],
    };
    let mut changes = vec![
        (put_principal(1, "user:alice"), None),
        (put_principal(2, "team:web"), Some(request)),
        (
            Change::AddMember {
                team: PrincipalId(2),
                member: PrincipalId(1),
            },
            None,
        ),
        (put_role("agent", "acme", &["a:*", "b:x"]), None),
        (put_role("empty", "acme/web", &[]), None),
        (
            Change::PutGrant(grant(9, 1, "agent", "acme/*/prod/**")),
            None,
        ),
        (
            Change::CutOff(CutOffTarget::IssuedByToken(token_id(80))),
            None,
        ),
        (
            Change::CutOff(CutOffTarget::ResourceUnder(resource("acme/x@y"))),
            None,
        ),
    ];
    changes.extend(all.iter().map(|record| (issue(record.clone()), None)));
    let batch = scribe.batch_with(changes);
    scribe.commit(store, batch).await;

    let expected = [
        Row::Counters {
            principal: 2,
            grant: 9,
        },
        Row::Principal(principal(1, "user:alice")),
        Row::Principal(principal(2, "team:web")),
        Row::Member {
            team: PrincipalId(2),
            member: PrincipalId(1),
        },
        Row::Role(role("agent", "acme", &["a:*", "b:x"])),
        Row::Role(role("empty", "acme/web", &[])),
        Row::Grant(grant(9, 1, "agent", "acme/*/prod/**")),
        Row::CutOff(CutOffTarget::IssuedByToken(token_id(80)), 7),
        Row::CutOff(CutOffTarget::ResourceUnder(resource("acme/x@y")), 8),
        Row::Request {
            request,
            revision: 2,
            instant_ms: START_MS + 2,
        },
    ];
    let mut expected: Vec<String> = expected.iter().map(|row| format!("{row:?}")).collect();
    expected.extend(all.map(|record| format!("{:?}", Row::Token(Box::new(record)))));
    assert_eq!(texts(store).await, expected);

    let snapshot = store.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.head, scribe.head);
    assert_eq!(snapshot.instant_ms, START_MS + 11);
    assert_eq!(snapshot.state_digest, Some([11; 32]));
}

pub(crate) async fn a_raised_format_comes_first_in_a_snapshot(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    let is_first = async || match rows(store).await.1.first() {
        Some(Row::Format(level)) => Some(*level),
        _ => None,
    };
    assert_eq!(is_first().await, None);
    let raises = [Change::RaiseFormat(2), Change::RaiseFormat(3)];
    scribe.append(store, raises).await;
    assert_eq!(is_first().await, Some(3));
    // The tables know no way back, whatever is written.
    scribe.append(store, [Change::RaiseFormat(2)]).await;
    scribe.append(store, [put_principal(2, "user:bob")]).await;
    assert_eq!(is_first().await, Some(3));
}

pub(crate) async fn a_snapshot_is_of_one_revision(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let many = (1..=6_000).map(|number| put_principal(number, &format!("user:u{number}")));
    scribe.append(store, many).await;
    let mut snapshot = store.snapshot().await.expect("a snapshot");
    let first = snapshot.rows.recv().await.expect("a chunk").expect("rows");
    // Written while the snapshot is being read.
    scribe
        .append(store, [put_principal(7_000, "user:later")])
        .await;
    scribe
        .append(store, [Change::DeletePrincipal(PrincipalId(6_000))])
        .await;
    let mut count = first.len();
    while let Some(chunk) = snapshot.rows.recv().await {
        let chunk = chunk.expect("rows");
        assert!(!format!("{chunk:?}").contains("later"));
        count += chunk.len();
    }
    assert_eq!((snapshot.head.revision, count), (6_000, 6_001));
}

pub(crate) async fn a_dropped_snapshot_ends(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let many = (1..=9_000).map(|number| put_principal(number, &format!("user:u{number}")));
    scribe.append(store, many).await;
    // More than there can be readers: each must give its place back.
    for _ in 0..20 {
        let mut snapshot = store.snapshot().await.expect("a snapshot");
        snapshot.rows.recv().await.expect("a chunk").expect("rows");
    }
    assert_eq!(rows(store).await.1.len(), 9_001);
}

pub(crate) async fn rotation_and_update_change_what_they_name(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let first = user_token(80, 1, 2);
    let changes = [
        put_principal(1, "user:alice"),
        issue_labelled(first.clone(), &[("env", "prod"), ("app", "web")]),
    ];
    scribe.append(store, changes).await;
    let rotated = TokenRecord {
        key: digest(0x33, 80).key(),
        rotation: 1,
        grace: Some(Grace {
            key: first.key,
            until_ms: START_MS + 9,
        }),
        ..first.clone()
    };
    let change = Change::PutToken {
        record: Box::new(rotated.clone()),
        digest: Some(digest(0x33, 80)),
        display: Display {
            last4: Some("wxyz".to_owned()),
            ..Display::default()
        },
    };
    scribe.append(store, [change]).await;
    let stored = store
        .token(token_id(80))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(stored.record, rotated);
    assert_eq!((&*stored.name, &*stored.last4), ("token 80", "wxyz"));
    assert_eq!((stored.labels.len(), stored.changed_at), (2, 3));

    let labels = [("env".to_owned(), "test".to_owned())].into();
    let change = Change::PutToken {
        record: Box::new(TokenRecord {
            ttl_s: Some(60),
            ..rotated.clone()
        }),
        digest: None,
        display: Display {
            name: Some("renamed".to_owned()),
            labels: Some(labels),
            ..Display::default()
        },
    };
    scribe.append(store, [change]).await;
    let stored = store
        .token(token_id(80))
        .await
        .expect("read")
        .expect("there");
    assert_eq!((stored.record.ttl_s, &*stored.name), (Some(60), "renamed"));
    assert_eq!(
        (&*stored.last4, &*stored.description),
        ("wxyz", "described")
    );
    assert_eq!(format!("{:?}", stored.labels), r#"{"env": "test"}"#);
    assert_eq!(tokens(store).await, [stored.record]);
}

pub(crate) async fn revoking_again_keeps_the_first_instant(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let revoke = |compromised| Change::RevokeToken {
        id: token_id(80),
        compromised,
    };
    scribe
        .append(
            store,
            [put_principal(1, "user:alice"), issue(user_token(80, 1, 2))],
        )
        .await;
    scribe.append(store, [revoke(false)]).await;
    scribe.append(store, [revoke(true)]).await;
    let stored = store
        .token(token_id(80))
        .await
        .expect("read")
        .expect("there");
    let first = Revoked {
        revision: 3,
        at_ms: START_MS + 3,
    };
    assert_eq!(stored.record.revoked, Some(first));
    assert_eq!(stored.revoke_reason.as_deref(), Some("reason 3"));
    assert_eq!(stored.changed_at, 4);
    let cut = Row::CutOff(CutOffTarget::IssuedByToken(token_id(80)), 4);
    assert!(texts(store).await.contains(&format!("{cut:?}")));
}

pub(crate) async fn a_cut_off_keeps_its_newest_revision(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let cut = || Change::CutOff(CutOffTarget::Subject(PrincipalId(1)));
    scribe
        .append(store, [put_principal(1, "user:alice"), cut(), cut()])
        .await;
    scribe.append(store, [cut()]).await;
    let row = Row::CutOff(CutOffTarget::Subject(PrincipalId(1)), 4);
    assert_eq!(texts(store).await.last(), Some(&format!("{row:?}")));
}

pub(crate) async fn deleting_a_principal_takes_its_grants_and_memberships(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let member = |team, member| Change::AddMember {
        team: PrincipalId(team),
        member: PrincipalId(member),
    };
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "team:web"),
        put_principal(3, "team:db"),
        put_role("agent", "acme", &["a:*"]),
        Change::PutGrant(grant(1, 1, "agent", "acme")),
        Change::PutGrant(grant(2, 2, "agent", "acme")),
        member(2, 1),
        member(3, 1),
        issue(user_token(80, 1, 9)),
    ];
    scribe.append(store, changes).await;
    scribe
        .append(store, [Change::DeletePrincipal(PrincipalId(2))])
        .await;
    let left = texts(store).await.join("\n");
    assert!(
        !left.contains("GrantId(2)") && left.contains("GrantId(1)"),
        "{left}"
    );
    assert_eq!(left.matches("Member {").count(), 1, "{left}");
    scribe
        .append(store, [Change::DeletePrincipal(PrincipalId(1))])
        .await;
    let left = texts(store).await.join("\n");
    assert!(
        !left.contains("Grant(") && !left.contains("Member {"),
        "{left}"
    );
    // Its token stays until it is forgotten, refused and with a name; its number never returns.
    assert!(
        left.contains("Counters { principal: 3, grant: 2 }"),
        "{left}"
    );
    let stored = store
        .token(token_id(80))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (stored.cut_off, &*stored.subject_name),
        (true, "user:alice")
    );
    scribe
        .refused(store, [put_principal(1, "user:alice")])
        .await;
    scribe.append(store, [put_principal(4, "user:alice")]).await;
}

pub(crate) async fn removing_a_member_may_cut_off_its_team_tokens(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let (team, member) = (PrincipalId(2), PrincipalId(1));
    let remove = |cut_off_tokens| Change::RemoveMember {
        team,
        member,
        cut_off_tokens,
    };
    scribe
        .append(
            store,
            [put_principal(1, "user:alice"), put_principal(2, "team:web")],
        )
        .await;
    let add = || Change::AddMember { team, member };
    scribe.append(store, [add(), remove(false)]).await;
    assert!(!texts(store).await.join("").contains("CutOff"));
    scribe.append(store, [add(), remove(true)]).await;
    let row = Row::CutOff(CutOffTarget::IssuedForTeam(team, member), 6);
    assert_eq!(texts(store).await.last(), Some(&format!("{row:?}")));
    scribe.refused(store, [remove(false)]).await;
}

pub(crate) async fn a_change_that_does_not_fit_is_refused(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe
        .append(
            store,
            [put_principal(1, "user:alice"), issue(user_token(80, 1, 2))],
        )
        .await;
    let put = |record: TokenRecord, digest| Change::PutToken {
        record: Box::new(record),
        digest,
        display: Display::default(),
    };
    for change in [
        put(user_token(81, 1, 3), None),
        put(user_token(81, 1, 3), Some(digest(0, 82))),
        put(
            TokenRecord {
                key: 5,
                ..user_token(80, 1, 2)
            },
            None,
        ),
        Change::RevokeToken {
            id: token_id(81),
            compromised: false,
        },
        Change::UseToken {
            id: token_id(80),
            left: 1,
        },
        Change::UseToken {
            id: token_id(81),
            left: 1,
        },
        Change::DeletePrincipal(PrincipalId(2)),
        Change::DeleteGrant(GrantId(1)),
        Change::DeleteRole(RoleName::parse("agent").expect("a name")),
        put(
            TokenRecord {
                expires_ms: Some(u64::MAX),
                ..user_token(80, 1, 2)
            },
            None,
        ),
    ] {
        scribe.refused(store, [change]).await;
    }
    scribe
        .append(store, [put(user_token(80, 1, 2), None)])
        .await;
}

pub(crate) async fn a_random_history_is_in_the_snapshot(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let mut history = History::new(1);
    for _ in 0..200 {
        let changes = history.batch(&scribe);
        scribe.append(store, changes).await;
    }
    let mut found = texts(store).await;
    found.sort_unstable();
    assert_eq!(found, history.rows());
    assert!(found.len() > 60, "{}", found.len());
}

pub(crate) async fn a_snapshot_makes_the_state_of_a_replay(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let mut history = History::new(5);
    for _ in 0..100 {
        let changes = history.batch(&scribe);
        scribe.append(store, changes).await;
    }
    let mut replayed = State::default();
    for logged in whole_log(store).await {
        replayed.advance(&logged.entry);
    }
    let mut stepwise = State::default();
    let mut loader = Loader::default();
    for row in rows(store).await.1 {
        stepwise.load(&row);
        loader.put(vec![row]);
    }
    let loaded = loader
        .finish(
            replayed.head(),
            replayed.instant_ms(),
            Some(stepwise.digest()),
        )
        .expect("the same rows");
    assert_eq!(loaded.digest(), replayed.digest());
    assert_eq!(loaded.token_count(), replayed.token_count());
    assert!(loaded.token_count() > 10);
}
