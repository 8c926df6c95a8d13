//! Lists of tokens: every filter, every order, every page.
//!
//! What people see and what refuses a token, over all pages of a query. Decisions are State's.

use latchkey::domain::change::{Change, CutOffTarget, Display, Issuer, TokenRecord};
use latchkey::domain::principal::PrincipalId;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::store::Store;
use latchkey::store::list::{TokenQuery, TokenState};

use crate::store::scribe::{
    START_MS, Scribe, issue, issue_labelled, labels, put_principal, resource, resource_token,
    token_id, user_token,
};

const NOW_MS: u64 = START_MS + 1_000;
const ALICE: PrincipalId = PrincipalId(1);
const BOB: PrincipalId = PrincipalId(2);
const WEB: PrincipalId = PrincipalId(3);

/// The numbers of the tokens that a query finds, over all its pages.
async fn found(store: &dyn Store, edit: impl FnOnce(&mut TokenQuery)) -> Vec<u128> {
    let mut query = TokenQuery {
        now_ms: NOW_MS,
        limit: 1,
        ..TokenQuery::default()
    };
    edit(&mut query);
    let mut numbers = Vec::new();
    loop {
        let page = store.tokens(query.clone()).await.expect("a page");
        assert!(page.rows.len() <= query.limit);
        numbers.extend(page.rows.iter().map(|one| one.record.id.as_u128()));
        if page.next.is_none() {
            return numbers;
        }
        query.after = page.next;
    }
}

fn issuer(principal: Option<PrincipalId>, tokens: &[u128], since: u64) -> Issuer {
    Issuer {
        principal,
        tokens: tokens.iter().copied().map(token_id).collect(),
        since,
    }
}

fn issued_by(issuers: Vec<Issuer>, record: TokenRecord) -> TokenRecord {
    TokenRecord { issuers, ..record }
}

pub(crate) async fn a_token_is_shown_with_its_names(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let by_resource = vec![issuer(None, &[83], 0)];
    let by_user = vec![issuer(Some(ALICE), &[82], 0)];
    let changes = [
        put_principal(1, "user:alice"),
        issue_labelled(user_token(80, 1, 2), &[("env", "prod")]),
        issue(issued_by(Vec::new(), user_token(81, 1, 3))),
        issue(issued_by(by_user, resource_token(83, "acme/web", 5))),
        issue(issued_by(by_resource, user_token(82, 1, 4))),
    ];
    scribe.append(store, changes).await;
    let check = async |number: u128, subject: &str, issuer: Option<&str>| {
        let stored = store.token(token_id(number)).await.expect("read");
        let stored = stored.expect("there");
        assert_eq!(stored.subject_name, subject);
        assert_eq!(stored.issuer_name.as_deref(), issuer, "{number}");
        assert_eq!(stored.name, format!("token {number}"));
        assert_eq!(stored.last4, "abcd");
        assert!(!stored.cut_off && stored.revoke_reason.is_none());
    };
    check(80, "user:alice", Some("user:alice")).await;
    check(81, "user:alice", None).await;
    check(82, "user:alice", Some("acme/web")).await;
    check(83, "acme/web", Some("user:alice")).await;
    assert!(store.token(token_id(1)).await.expect("read").is_none());
}

/// Alice's 10 and 11, which Bob widened; Bob's 12; resource tokens 13, issued by Bob, and 14.
async fn put_five(scribe: &mut Scribe, store: &dyn Store) {
    let widened = vec![issuer(Some(ALICE), &[], 0), issuer(Some(BOB), &[], 0)];
    let by_bob = vec![issuer(Some(BOB), &[], 0)];
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "user:bob"),
        issue_labelled(user_token(10, 1, 2), &[("env", "prod"), ("app", "web")]),
        issue_labelled(issued_by(widened, user_token(11, 1, 2)), &[("env", "test")]),
        issue_labelled(user_token(12, 2, 2), &[("env", "prod")]),
        issue(issued_by(by_bob, resource_token(13, "acme/web/prod", 2))),
        issue(resource_token(14, "acme", 2)),
    ];
    scribe.append(store, changes).await;
}

fn label(key: &str, value: Option<&str>) -> Option<(String, Option<String>)> {
    Some((key.to_owned(), value.map(str::to_owned)))
}

pub(crate) async fn tokens_are_filtered(store: &dyn Store) {
    put_five(&mut Scribe::new(), store).await;
    let check = async |edit: fn(&mut TokenQuery), expected: &[u128]| {
        assert_eq!(found(store, edit).await, expected);
    };
    check(|_| {}, &[10, 11, 12, 13, 14]).await;
    check(|query| query.subject = Some(ALICE), &[10, 11]).await;
    check(|query| query.subject = Some(PrincipalId(9)), &[]).await;
    check(|query| query.issuer = Some(BOB), &[11, 12, 13]).await;
    check(|query| query.issuer = Some(WEB), &[]).await;
    let under: fn(&mut TokenQuery) = |query| query.resource_under = Some(resource("acme"));
    check(under, &[13, 14]).await;
    let under: fn(&mut TokenQuery) = |query| query.resource_under = Some(resource("acme/web"));
    check(under, &[13]).await;
    check(|query| query.kind = Some(TokenKind::Resource), &[13, 14]).await;
    check(|query| query.kind = Some(TokenKind::Team), &[]).await;
    check(|query| query.label = label("env", None), &[10, 11, 12]).await;
    check(|query| query.label = label("env", Some("prod")), &[10, 12]).await;
    check(|query| query.label = label("prod", None), &[]).await;
}

pub(crate) async fn token_filters_must_all_hold(store: &dyn Store) {
    put_five(&mut Scribe::new(), store).await;
    let check = async |edit: fn(&mut TokenQuery), expected: &[u128]| {
        assert_eq!(found(store, edit).await, expected);
    };
    let by_bob_for_alice: fn(&mut TokenQuery) = |query| {
        query.subject = Some(ALICE);
        query.issuer = Some(BOB);
    };
    check(by_bob_for_alice, &[11]).await;
    let by_bob_in_prod: fn(&mut TokenQuery) = |query| {
        query.issuer = Some(BOB);
        query.label = label("env", Some("prod"));
    };
    check(by_bob_in_prod, &[12]).await;
    let by_bob_labelled: fn(&mut TokenQuery) = |query| {
        query.issuer = Some(BOB);
        query.label = label("env", None);
    };
    check(by_bob_labelled, &[11, 12]).await;
    let all: fn(&mut TokenQuery) = |query| {
        by_bob_of_user(query);
        query.subject = Some(BOB);
        query.label = label("env", Some("prod"));
        query.after = Some(token_id(11));
    };
    check(by_bob_of_user, &[11, 12]).await;
    check(all, &[12]).await;
}

fn by_bob_of_user(query: &mut TokenQuery) {
    query.issuer = Some(BOB);
    query.kind = Some(TokenKind::User);
    query.state = Some(TokenState::Active);
}

pub(crate) async fn what_is_taken_back_is_no_longer_found(store: &dyn Store) {
    let mut scribe = Scribe::new();
    put_five(&mut scribe, store).await;
    let change = Change::PutToken {
        record: Box::new(user_token(11, 1, 2)),
        digest: None,
        display: Display {
            labels: Some(labels(&[("x", "y")])),
            ..Display::default()
        },
    };
    scribe.append(store, [change]).await;
    let issued = found(store, |query| query.issuer = Some(BOB)).await;
    assert_eq!(issued, [12, 13]);
    let labelled = found(store, |query| query.label = label("env", None)).await;
    assert_eq!(labelled, [10, 12]);
}

pub(crate) async fn tokens_are_filtered_by_state(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let timed = |number, not_before_ms, expires_ms| {
        issue(TokenRecord {
            not_before_ms,
            expires_ms,
            ..user_token(number, 1, 2)
        })
    };
    let changes = [
        put_principal(1, "user:alice"),
        timed(10, None, None),
        timed(11, Some(NOW_MS), Some(NOW_MS + 1)),
        timed(12, Some(NOW_MS + 1), None),
        timed(13, None, Some(NOW_MS)),
        timed(14, None, Some(NOW_MS - 1)),
        timed(15, None, Some(NOW_MS - 1)),
        revoke(15),
    ];
    scribe.append(store, changes).await;
    let check = async |state, expected: &[u128]| {
        let found = found(store, |query| query.state = Some(state)).await;
        assert_eq!(found, expected, "{state:?}");
    };
    check(TokenState::Active, &[10, 11]).await;
    check(TokenState::NotYetValid, &[12]).await;
    check(TokenState::Expired, &[13, 14]).await;
    check(TokenState::Revoked, &[15]).await;
}

fn revoke(number: u128) -> Change {
    Change::RevokeToken {
        id: token_id(number),
        compromised: false,
    }
}

/// A token of the team, made at revision 5.
fn team_token(number: u128, by: PrincipalId) -> TokenRecord {
    TokenRecord {
        kind: TokenKind::Team,
        ..issued_by(vec![issuer(Some(by), &[], 0)], user_token(number, WEB.0, 5))
    }
}

pub(crate) async fn cut_off_tokens_are_shown_as_revoked(store: &dyn Store) {
    let mut scribe = Scribe::new();
    let for_bob = |number, by, tokens: &[u128], since| {
        let issuers = vec![issuer(Some(by), tokens, since)];
        issue(issued_by(issuers, user_token(number, 2, 5)))
    };
    let on = |number, path| issue(issued_by(Vec::new(), resource_token(number, path, 5)));
    let later = TokenRecord {
        made_at: 90,
        ..user_token(18, 1, 5)
    };
    let changes = [
        put_principal(1, "user:alice"),
        put_principal(2, "user:bob"),
        put_principal(3, "team:web"),
        Change::AddMember {
            team: WEB,
            member: ALICE,
        },
        issue(user_token(10, 1, 5)),
        for_bob(11, ALICE, &[], 0),
        for_bob(12, BOB, &[50, 51], 0),
        for_bob(13, ALICE, &[], 90),
        issue(team_token(14, ALICE)),
        issue(team_token(15, BOB)),
        on(16, "acme/web/prod"),
        on(17, "acme/website"),
        issue(later),
    ];
    scribe.append(store, changes).await;
    let mut check = async |change: Option<Change>, expected: &[u128]| {
        scribe.append(store, change).await;
        let revoked = |query: &mut TokenQuery| query.state = Some(TokenState::Revoked);
        assert_eq!(found(store, revoked).await, expected);
    };
    let cut = |target| Some(Change::CutOff(target));
    let under_web = CutOffTarget::ResourceUnder(resource("acme/web"));
    let remove = Change::RemoveMember {
        team: WEB,
        member: ALICE,
        cut_off_tokens: true,
    };
    check(None, &[]).await;
    check(cut(under_web), &[16]).await;
    check(cut(CutOffTarget::IssuedByToken(token_id(51))), &[12, 16]).await;
    check(Some(remove), &[12, 14, 16]).await;
    check(cut(CutOffTarget::Subject(ALICE)), &[10, 12, 14, 16]).await;
    let by_alice = CutOffTarget::IssuedByPrincipal(ALICE);
    check(cut(by_alice), &[10, 11, 12, 14, 16]).await;
    let gone = Some(Change::DeletePrincipal(WEB));
    check(gone, &[10, 11, 12, 14, 15, 16]).await;
}

pub(crate) async fn tokens_are_paged_in_order(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    // Written in another order than that of their ids.
    let mut numbers: Vec<u128> = (0..25).map(|one| one * 7 % 25 + (1 << 100)).collect();
    let tokens = numbers.iter().map(|one| user_token(*one, 1, 2));
    let changes: Vec<_> = tokens
        .map(|one| issue_labelled(one, &[("k", "v")]))
        .collect();
    scribe.append(store, changes).await;
    numbers.sort_unstable();
    let walks: [fn(&mut TokenQuery); 5] = [
        |_| {},
        |query| query.subject = Some(ALICE),
        |query| query.issuer = Some(ALICE),
        |query| query.label = label("k", Some("v")),
        |query| query.label = label("k", None),
    ];
    for walk in walks {
        for limit in [1, 7, 24, 25, 26, 1_000] {
            let edit = |query: &mut TokenQuery| {
                walk(query);
                query.limit = limit;
            };
            assert_eq!(found(store, edit).await, numbers, "pages of {limit}");
        }
    }
    let query = TokenQuery {
        limit: 2,
        after: Some(TokenId::from_u128(numbers[3])),
        ..TokenQuery::default()
    };
    let page = store.tokens(query).await.expect("a page");
    assert_eq!(page.next.map(TokenId::as_u128), Some(numbers[5]));
}

pub(crate) async fn a_subtree_is_not_a_text_prefix(store: &dyn Store) {
    let mut scribe = Scribe::new();
    scribe.append(store, [put_principal(1, "user:alice")]).await;
    // Every sort of character that a segment may hold, after the same beginning.
    let paths = "a_b a_b/c a_b/c/d a_b/_ a_b0 a_b-c a_b.c a_bc axb axb/c a_B/c a_b:c a_b~ a_b+c/d";
    let numbered = (0_u128..).zip(paths.split(' '));
    let tokens: Vec<_> = numbered
        .map(|(number, path)| issue(resource_token(number, path, 1)))
        .collect();
    scribe.append(store, tokens).await;
    let under = |query: &mut TokenQuery| query.resource_under = Some(resource("a_b"));
    assert_eq!(found(store, under).await, [0, 1, 2, 3]);
}
