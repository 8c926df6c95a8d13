//! Bodies read back exactly as they were written, and nothing else is read.
//!
//! By property over every change, by table for what is refused, and once by hand for the bytes.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::domain::change::{
    EXPIRES_MS_MAX, Grace, Issuer, KeyPhase, NewToken, Revoked, SealKeyRecord, Subject, TokenRecord,
};
use crate::domain::limits::{Audience, Networks, Uses, Workload};
use crate::domain::login::{
    ClientNetwork, LockoutPolicy, LoginMethod, LoginSettings, MethodRecord,
};
use crate::domain::permission::Permission;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::seal::key::KeyId;
use crate::domain::seal::ring::Salt;
use crate::domain::token::TokenKind;

fn ids() -> impl Strategy<Value = TokenId> {
    any::<u128>().prop_map(TokenId::from_u128)
}

fn principals() -> impl Strategy<Value = PrincipalId> {
    any::<u32>().prop_map(PrincipalId)
}

fn resources() -> impl Strategy<Value = Resource> {
    "[a-z]{1,3}(/[A-Za-z0-9_~@:+-]{1,5}){0,3}"
        .prop_map(|text| Resource::parse(&text).expect("in the grammar"))
}

fn patterns() -> impl Strategy<Value = ResourcePattern> {
    r"(\*\*|[a-z]{1,3}(/(\*|[a-z]{1,3})){0,2}(/\*\*)?)"
        .prop_map(|text| ResourcePattern::parse(&text).expect("in the grammar"))
}

fn actions() -> impl Strategy<Value = ActionPattern> {
    r"(\*|[a-z_-]{1,5}(:[a-z0-9]{1,3}){0,2}(:\*)?)"
        .prop_map(|text| ActionPattern::parse(&text).expect("in the grammar"))
}

fn roles() -> impl Strategy<Value = RoleName> {
    "[a-z0-9-]{1,8}".prop_map(|text| RoleName::parse(&text).expect("in the grammar"))
}

fn sets() -> impl Strategy<Value = PermissionSet> {
    vec((actions(), patterns()), 0..5).prop_map(|pairs| {
        let permissions = pairs
            .into_iter()
            .map(|(action, resource)| Permission { action, resource });
        PermissionSet::new(permissions).expect("small")
    })
}

fn displays() -> impl Strategy<Value = Display> {
    let labels = btree_map("[a-z0-9./-]{1,6}", ".{0,6}", 0..4);
    let texts = (option::of(".{0,9}"), option::of(".{0,9}"));
    (texts, option::of(labels), option::of("[0-9A-Za-z]{4}")).prop_map(
        |((name, description), labels, last4)| Display {
            name,
            description,
            labels,
            last4,
        },
    )
}

fn issuers() -> impl Strategy<Value = Issuer> {
    (option::of(principals()), vec(ids(), 0..3), any::<u64>()).prop_map(
        |(principal, tokens, since)| Issuer {
            principal,
            tokens,
            since,
        },
    )
}

fn subjects() -> impl Strategy<Value = (TokenKind, Subject)> {
    prop_oneof![
        resources().prop_map(|path| (TokenKind::Resource, Subject::Resource(path))),
        (0..3_usize, principals()).prop_map(|(kind, id)| {
            let kinds = [TokenKind::User, TokenKind::Team, TokenKind::Service];
            (kinds[kind], Subject::Principal(id))
        }),
    ]
}

fn limits() -> impl Strategy<Value = (Networks, Option<Audience>, Option<Workload>, Option<Uses>)> {
    let audience = "[!-~]{1,9}".prop_map(|text| Audience::parse(&text).expect("graphic"));
    let workload = "spiffe://[a-z]{1,5}/[a-z]{1,5}"
        .prop_map(|text| Workload::parse(&text).expect("a SPIFFE ID"));
    let uses = any::<(u32, u32)>().prop_map(|(limit, left)| Uses { limit, left });
    (
        networks(),
        option::of(audience),
        option::of(workload),
        option::of(uses),
    )
}

fn records() -> impl Strategy<Value = TokenRecord> {
    let identity = (ids(), any::<u128>(), subjects(), option::of(ids()));
    let power = (option::of(sets()), option::of(sets()), vec(issuers(), 0..3));
    let ended = || option::of(0..=EXPIRES_MS_MAX);
    let lifetimes = (
        ended(),
        ended(),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    );
    let times = (any::<(u64, Option<u64>)>(), lifetimes);
    let graces = option::of((any::<u128>(), 0..=EXPIRES_MS_MAX));
    let ends = (any::<u32>(), graces, any::<Option<(u64, u64)>>());
    (identity, power, times, limits(), ends).prop_map(
        |((id, key, (kind, subject), parent), (scopes, ceiling, issuers), times, limits, ends)| {
            let ((made_at, not_before_ms), lifetimes) = times;
            let (expires_ms, expires_max_ms, ttl_s, period_s) = lifetimes;
            let (networks, audience, workload, uses) = limits;
            let (rotation, grace, revoked) = ends;
            TokenRecord {
                id,
                key,
                kind,
                subject,
                scopes: scopes.map_or(Scopes::All, Scopes::Only),
                ceiling,
                issuers,
                parent,
                made_at,
                not_before_ms,
                expires_ms,
                expires_max_ms,
                ttl_s,
                period_s,
                uses,
                networks,
                audience,
                workload,
                rotation,
                grace: grace.map(|(key, until_ms)| Grace { key, until_ms }),
                revoked: revoked.map(|(revision, at_ms)| Revoked { revision, at_ms }),
                public_key: None,
            }
        },
    )
}

fn token_changes() -> impl Strategy<Value = Change> {
    let digests = option::of(any::<[u8; 32]>().prop_map(Digest::from_bytes));
    let targets = prop_oneof![
        principals().prop_map(CutOffTarget::Subject),
        principals().prop_map(CutOffTarget::IssuedByPrincipal),
        ids().prop_map(CutOffTarget::IssuedByToken),
        (principals(), principals())
            .prop_map(|(team, member)| CutOffTarget::IssuedForTeam(team, member)),
        resources().prop_map(CutOffTarget::ResourceUnder),
        principals().prop_map(CutOffTarget::Sessions),
    ];
    prop_oneof![
        4 => (records(), digests, displays()).prop_map(|(record, digest, display)| {
            Change::PutToken { record: Box::new(record), digest, display }
        }),
        1 => (ids(), any::<bool>())
            .prop_map(|(id, compromised)| Change::RevokeToken { id, compromised }),
        1 => targets.prop_map(Change::CutOff),
        1 => (ids(), any::<u32>()).prop_map(|(id, left)| Change::UseToken { id, left }),
        1 => any::<(u64, u8)>()
            .prop_map(|(before_ms, slice)| Change::Forget { before_ms, slice }),
        1 => any::<u32>().prop_map(Change::RaiseFormat),
    ]
}

fn directory_changes() -> impl Strategy<Value = Change> {
    let names = (0..3_usize, "[A-Za-z0-9._~@:+-]{1,6}[a-z]").prop_map(|(kind, name)| {
        PrincipalName::new(PrincipalKind::ALL[kind], &name).expect("a segment")
    });
    let principal = (principals(), names, resources(), any::<(bool, u64)>()).prop_map(
        |(id, name, home, (disabled, made_at))| PrincipalRecord {
            id,
            name,
            home,
            disabled,
            made_at,
        },
    );
    let role = (roles(), resources(), vec(actions(), 0..4), any::<u64>()).prop_map(
        |(name, home, actions, made_at)| RoleRecord {
            name,
            home,
            actions,
            made_at,
        },
    );
    let grant = (any::<(u32, u32, u64)>(), roles(), patterns()).prop_map(
        |((id, principal, made_at), role, resource)| GrantRecord {
            id: GrantId(id),
            principal: PrincipalId(principal),
            role,
            resource,
            made_at,
        },
    );
    prop_oneof![
        (principal, displays())
            .prop_map(|(record, display)| Change::PutPrincipal { record, display }),
        principals().prop_map(Change::DeletePrincipal),
        (principals(), principals()).prop_map(|(team, member)| Change::AddMember { team, member }),
        (principals(), principals(), any::<bool>()).prop_map(|(team, member, cut_off_tokens)| {
            Change::RemoveMember {
                team,
                member,
                cut_off_tokens,
            }
        }),
        (role, displays()).prop_map(|(record, display)| Change::PutRole { record, display }),
        roles().prop_map(Change::DeleteRole),
        grant.prop_map(Change::PutGrant),
        any::<u32>().prop_map(|id| Change::DeleteGrant(GrantId(id))),
    ]
}

fn networks() -> impl Strategy<Value = Networks> {
    vec(r"1[0-9]\.[0-9]\.0\.0/(8|16)", 0..3)
        .prop_map(|texts| Networks::parse(&texts).expect("networks"))
}

fn methods() -> impl Strategy<Value = MethodRecord> {
    let lockout =
        any::<(u32, u32, u32)>().prop_map(|(threshold, duration_s, reset_s)| LockoutPolicy {
            threshold,
            duration_s,
            reset_s,
        });
    let numbers = any::<(u32, Option<u32>, Option<u32>, Option<u32>)>();
    let settings = (numbers, networks(), networks(), option::of(lockout)).prop_map(
        |((ttl_s, max_ttl_s, period_s, uses), networks, login_networks, lockout)| LoginSettings {
            ttl_s,
            max_ttl_s,
            period_s,
            uses,
            networks,
            login_networks,
            lockout,
        },
    );
    let method = (0..LoginMethod::ALL.len()).prop_map(|at| LoginMethod::ALL[at]);
    (principals(), method, any::<u64>(), settings).prop_map(
        |(principal, method, made_at, settings)| MethodRecord {
            principal,
            method,
            made_at,
            settings,
        },
    )
}

fn login_changes() -> impl Strategy<Value = Change> {
    let from = any::<Option<std::net::IpAddr>>().prop_map(ClientNetwork::of);
    let from_some = vec(
        any::<Option<std::net::IpAddr>>().prop_map(ClientNetwork::of),
        0..3,
    );
    let digests = any::<[u8; 32]>().prop_map(Digest::from_bytes);
    let stored = (records().boxed(), digests, displays()).prop_map(|(record, digest, display)| {
        Box::new(NewToken {
            record,
            digest,
            display,
        })
    });
    let key = any::<(u32, Salt, u64)>();
    let keys = vec((key, 1..=4_u8), 1..4).prop_map(|keys| {
        let key = |((id, salt, since_ms), phase)| SealKeyRecord {
            id: KeyId(id),
            salt,
            phase: KeyPhase::from_number(phase).expect("one of four"),
            since_ms,
        };
        keys.into_iter().map(key).collect()
    });
    prop_oneof![
        (ids(), any::<u32>(), option::of(stored)).prop_map(|(id, left, token)| Change::Login {
            spent: Some((id, left)),
            token
        }),
        (ids(), option::of(principals()), any::<(u64, bool)>()).prop_map(
            |(id, account, (until_ms, compromised))| Change::RevokeSession {
                session: id.session(),
                account,
                until_ms,
                compromised,
            }
        ),
        methods().prop_map(|record| Change::PutMethod(Box::new(record))),
        methods().prop_map(|record| Change::DeleteMethod {
            principal: record.principal,
            method: record.method,
        }),
        (principals(), from, any::<u64>()).prop_map(|(principal, network, until_ms)| {
            Change::Lock {
                principal,
                network,
                until_ms,
            }
        }),
        (principals(), from_some).prop_map(|(principal, networks)| Change::Unlock {
            principal,
            networks
        }),
        keys.prop_map(Change::PutSealKeys),
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    let actor = (option::of(principals()), option::of(ids()), ".{0,12}").prop_map(
        |(principal, token, name)| Actor {
            principal,
            token,
            name,
        },
    );
    let request = option::of(
        any::<([u8; 16], [u8; 16])>().prop_map(|(key, fingerprint)| Request { key, fingerprint }),
    );
    let numbers = any::<(u64, u64, [u8; 16], Option<[u8; 32]>)>();
    let texts = (0..EntryKind::ALL.len(), ".{0,12}", ".{0,12}");
    let changes = [
        token_changes().boxed(),
        directory_changes().boxed(),
        login_changes().boxed(),
    ];
    let change = proptest::strategy::Union::new(changes);
    (numbers, actor, texts, request, change).prop_map(
        |((revision, instant_ms, batch_id, state_digest), actor, texts, request, change)| Entry {
            revision,
            instant_ms,
            actor,
            kind: EntryKind::ALL[texts.0].0,
            target: texts.1,
            reason: texts.2,
            batch_id,
            request,
            state_digest,
            change,
        },
    )
}

fn sample(change: Change) -> Entry {
    Entry {
        revision: 7,
        instant_ms: 1_700_000_000_000,
        actor: Actor {
            principal: None,
            token: None,
            name: "local".to_owned(),
        },
        kind: EntryKind::PrincipalCreate,
        target: "user:alice".to_owned(),
        reason: "first".to_owned(),
        batch_id: [7; 16],
        request: None,
        state_digest: None,
        change,
    }
}

fn sample_message() -> log::Body {
    let body = sample(Change::DeletePrincipal(PrincipalId(1))).encode();
    log::Body::decode(&*body).expect("a message")
}

proptest! {
    #[test]
    fn every_entry_reads_back(entry in entries()) {
        let body = entry.encode();
        prop_assert_eq!(&Entry::decode(&body), &Ok(entry.clone()));
        prop_assert_eq!(entry.encode(), body);
    }

    #[test]
    fn a_truncated_body_is_never_another_entry(entry in entries(), cut in any::<prop::sample::Index>()) {
        let body = entry.encode();
        let cut = cut.index(body.len());
        prop_assert_ne!(Entry::decode(&body[..cut]), Ok(entry));
    }

    #[test]
    fn a_flipped_bit_never_panics(entry in entries(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut body = entry.encode();
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        let _ = Entry::decode(&body);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(&bytes);
    }
}

#[test]
fn labels_are_written_in_the_order_of_keys() {
    let encode = |keys: &[&str]| {
        let labels: BTreeMap<_, _> = keys
            .iter()
            .map(|key| ((*key).to_owned(), "v".to_owned()))
            .collect();
        let display = Display {
            labels: Some(labels),
            ..Display::default()
        };
        let record = RoleRecord {
            name: RoleName::parse("r").expect("a name"),
            home: Resource::parse("acme").expect("a path"),
            actions: Vec::new(),
            made_at: 1,
        };
        sample(Change::PutRole { record, display }).encode()
    };
    let many: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let forwards: Vec<&str> = many.iter().map(String::as_str).collect();
    let backwards: Vec<&str> = forwards.iter().rev().copied().collect();
    assert_eq!(encode(&forwards), encode(&backwards));
}

#[test]
fn what_this_version_does_not_know_is_refused() {
    let check = |edit: fn(&mut log::Body), expected: DecodeError| {
        let mut message = sample_message();
        edit(&mut message);
        assert_eq!(Entry::decode(&message.encode_to_vec()), Err(expected));
    };
    check(|body| body.format = 3, DecodeError::Format(3));
    check(|body| body.format = 0, damaged("no format"));
    check(|body| body.kind = 99, DecodeError::Kind(99));
    check(|body| body.kind = 0, DecodeError::Kind(0));
    // Of the next format, which this process does not know.
    check(|body| body.kind = 65_535, DecodeError::Kind(65_535));
    check(|body| body.actor = None, damaged("no actor"));
    check(|body| body.batch_id.truncate(15), damaged("batch id"));
    check(|body| body.state_digest = vec![1], damaged("state digest"));
    check(
        |body| body.change = None,
        damaged("no change, or an unknown one"),
    );
    check(
        |body| body.change = Some(Wire::DeleteRole(log::DeleteRole { name: "a b".into() })),
        damaged("role's name"),
    );
    check(
        |body| {
            body.change = Some(Wire::Forget(log::Forget {
                before_ms: 1,
                slice: 256,
            }))
        },
        damaged("slice"),
    );
    check(
        |body| body.change = Some(Wire::CutOff(log::CutOff { target: None })),
        damaged("no target"),
    );
    check(
        |body| body.change = Some(Wire::PutToken(log::PutToken::default())),
        damaged("no token"),
    );
}

#[test]
fn an_unknown_change_or_field_is_refused() {
    let known = sample_message().encode_to_vec();
    assert!(Entry::decode(&known).is_ok());
    // Field 90, length-delimited and empty.
    let unknown_field = [&known[..], &[0xd2, 0x05, 0x00]].concat();
    assert_eq!(
        Entry::decode(&unknown_field),
        Err(damaged("unknown fields"))
    );
    let repeated = [&known[..], &known[..]].concat();
    assert_eq!(Entry::decode(&repeated), Err(damaged("unknown fields")));
    assert_eq!(Entry::decode(b""), Err(damaged("no format")));
    assert_eq!(Entry::decode(b"\xff\xff"), Err(damaged("not a message")));
}

#[test]
fn a_subject_that_does_not_fit_the_kind_is_refused() {
    let check = |kind: TokenKind, principal: Option<u32>, path: &str| {
        let token = log::Token {
            id: vec![1; 16],
            key: vec![2; 16],
            kind: kind as u32,
            principal,
            resource: path.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            token::decode(token).err(),
            Some(damaged("subject")),
            "{kind} {principal:?} {path}"
        );
    };
    check(TokenKind::User, None, "");
    check(TokenKind::User, None, "acme");
    check(TokenKind::Service, Some(1), "acme");
    check(TokenKind::Resource, Some(1), "");
    check(TokenKind::Resource, Some(1), "acme");
}

#[test]
fn an_expiry_that_no_index_holds_is_refused() {
    let check = |expires_ms: u64, expected: Option<DecodeError>| {
        for longest in [false, true] {
            let token = log::Token {
                id: vec![1; 16],
                key: vec![2; 16],
                kind: TokenKind::User as u32,
                principal: Some(1),
                expires_ms: (!longest).then_some(expires_ms),
                expires_max_ms: longest.then_some(expires_ms),
                ..Default::default()
            };
            assert_eq!(token::decode(token).err(), expected, "{expires_ms}");
        }
    };
    check(EXPIRES_MS_MAX, None);
    check(EXPIRES_MS_MAX + 1, Some(damaged("expiry")));
}

#[test]
fn a_stored_body_never_changes() {
    // The bytes that version 1 writes, by hand from the interface definition.
    let expected = [
        &[0x08, 1, 0x10, 7, 0x18][..],
        &[0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31][..],
        &[0x22, 7, 0x1a, 5][..],
        b"local",
        &[0x28, 8, 0x32, 10][..],
        b"user:alice",
        &[0x3a, 5][..],
        b"first",
        &[0x42, 16][..],
        &[7; 16][..],
        &[0xca, 0x01, 2, 0x08, 1][..],
    ]
    .concat();
    let entry = sample(Change::DeletePrincipal(PrincipalId(1)));
    assert_eq!(entry.encode(), expected);
}
