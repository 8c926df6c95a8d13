//! What clients are shown of the log: verifiable by the chain, plain, and without a digest.
//!
//! Entries are made by hand; the audit RPCs themselves are tested over the wire.

use super::*;
use crate::domain::chain::Head;
use crate::domain::change::{Grace, GrantRecord};
use crate::domain::entry::{Actor, Entry, Request};
use crate::domain::limits::Networks;
use crate::domain::permission::ResourcePattern;
use crate::domain::principal::{GrantId, RoleName};
use crate::domain::scopes::Scopes;
use crate::domain::token::{Digest, TokenId, TokenKind};

fn logged(kind: EntryKind, change: Change) -> LogEntry {
    let entry = Entry {
        revision: 1,
        instant_ms: 1_700_000_000_000,
        actor: Actor {
            principal: Some(PrincipalId(1)),
            token: Some(TokenId::from_u128(5)),
            name: "user:alice".to_owned(),
        },
        kind,
        target: "t".to_owned(),
        reason: "because".to_owned(),
        batch_id: [7; 16],
        request: Some(Request {
            key: [1; 16],
            fingerprint: [2; 16],
        }),
        state_digest: Some([9; 32]),
        change,
    };
    LogEntry::new(entry, &Head::EMPTY)
}

fn issue() -> LogEntry {
    let record = TokenRecord {
        id: TokenId::from_u128(6),
        key: 0xfeed_f00d_feed_f00d,
        kind: TokenKind::User,
        subject: Subject::Principal(PrincipalId(1)),
        scopes: Scopes::All,
        ceiling: None,
        issuers: Vec::new(),
        parent: None,
        made_at: 1,
        not_before_ms: None,
        expires_ms: Some(1_700_000_060_000),
        expires_max_ms: None,
        ttl_s: None,
        period_s: None,
        uses: None,
        networks: Networks::default(),
        audience: None,
        workload: None,
        rotation: 0,
        grace: Some(Grace {
            key: 0xbeef_beef_beef_beef,
            until_ms: 1_700_000_001_000,
        }),
        revoked: None,
        public_key: None,
    };
    let change = Change::PutToken {
        record: Box::new(record),
        digest: Some(Digest::from_bytes([0xab; 32])),
        display: Display {
            name: Some("laptop".to_owned()),
            last4: Some("Zz99".to_owned()),
            ..Display::default()
        },
    };
    logged(EntryKind::TokenIssue, change)
}

fn nobody(_: PrincipalId) -> Option<String> {
    None
}

fn alice(_: PrincipalId) -> Option<String> {
    Some("user:alice".to_owned())
}

#[test]
fn a_client_can_verify_the_chain_from_what_it_is_shown() {
    let change = shown(&issue(), &alice);
    let hash: [u8; 32] = change.body_hash.try_into().expect("32 bytes");
    assert_eq!(Head::EMPTY.after_hash(&hash).chain.to_vec(), change.chain);
}

#[test]
fn an_issued_token_is_told_in_plain_facts() {
    let change = shown(&issue(), &alice);
    assert_eq!(
        (change.kind.as_str(), change.actor.as_str()),
        ("token.issue", "user:alice")
    );
    assert!(change.has_request_id);
    for (fact, text) in [
        ("kind", "user"),
        ("subject", "user:alice"),
        ("scopes", "all"),
        ("expires_at", "2023-11-14T22:14:20Z"),
        ("name", "laptop"),
    ] {
        assert_eq!(
            change.details.get(fact).map(String::as_str),
            Some(text),
            "{fact}"
        );
    }
}

#[test]
fn no_digest_and_no_key_is_shown() {
    let change = shown(&issue(), &nobody);
    let text = format!("{:?}", change.details).to_lowercase();
    for hidden in ["abab", "feed", "beef", "18369614221190020109", "zz99"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[test]
fn a_principal_that_is_gone_is_told_by_its_number() {
    let record = GrantRecord {
        id: GrantId(3),
        principal: PrincipalId(8),
        role: RoleName::parse("agent").expect("valid"),
        resource: ResourcePattern::everything(),
        made_at: 1,
    };
    let change = shown(
        &logged(EntryKind::GrantCreate, Change::PutGrant(record)),
        &nobody,
    );
    assert_eq!(change.details["principal"], "principal:8");
    assert_eq!(change.details["grant_id"], "grant-3");
    assert_eq!(change.details["role"], "agent");
}

#[test]
fn a_revoked_session_names_its_account_where_it_is_known() {
    let revoked = |account| {
        let change = Change::RevokeSession {
            session: TokenId::from_u128(7).session(),
            account,
            until_ms: 1_700_000_060_000,
            compromised: true,
        };
        shown(&logged(EntryKind::SessionRevoke, change), &alice)
    };
    let known = revoked(Some(PrincipalId(1)));
    assert_eq!(known.details["account"], "user:alice");
    assert_eq!(known.details["compromised"], "true");
    assert!(!revoked(None).details.contains_key("account"));
}

#[test]
fn a_long_fact_is_cut() {
    let mut facts = Facts(BTreeMap::new());
    facts.add("scopes", "ü".repeat(FACT_BYTES_MAX));
    assert!(facts.0["scopes"].len() <= FACT_BYTES_MAX + '…'.len_utf8());
    assert!(facts.0["scopes"].ends_with('…'));
}

#[test]
fn every_filter_that_is_set_must_fit() {
    let check = |kinds: &[&str], actor: &str, target: &str, expected: bool| {
        let filter = Filter::of(Some(&v1::ChangeFilter {
            kinds: kinds.iter().map(ToString::to_string).collect(),
            actor: actor.to_owned(),
            target: target.to_owned(),
        }));
        let fits = filter.expect("valid").fits(&issue());
        assert_eq!(fits, expected, "{kinds:?} {actor} {target}");
    };
    check(&[], "", "", true);
    check(&["token.issue"], "", "", true);
    check(&["token.revoke", "token.issue"], "user:alice", "t", true);
    check(&["token.revoke"], "", "", false);
    check(&[], "user:bob", "", false);
    check(&[], "", "other", false);
    assert!(Filter::of(None).expect("valid").fits(&issue()));
    let unknown = v1::ChangeFilter {
        kinds: vec!["token.explode".to_owned()],
        ..v1::ChangeFilter::default()
    };
    assert!(Filter::of(Some(&unknown)).is_err());
}
