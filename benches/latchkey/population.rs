//! The stated population: 90 % plain tokens, 10 % with limits, 10,000 scope sets, 10,000 users.
//!
//! Four in ten tokens speak for a user with its live permissions, four for a resource, one for a
//! team and one for a service account. Everything is a function of its number, so that a run can
//! be repeated and no list of ten million texts is kept.

use std::collections::BTreeMap;

use latchkey::domain::chain::Head;
use latchkey::domain::change::{
    GrantRecord, Issuer, PrincipalRecord, RoleRecord, Row, Subject, TokenRecord,
};
use latchkey::domain::limits::Networks;
use latchkey::domain::permission::{ActionPattern, Permission, Resource, ResourcePattern};
use latchkey::domain::principal::{GrantId, PrincipalId, PrincipalKind, PrincipalName, RoleName};
use latchkey::domain::scopes::{PermissionSet, Scopes};
use latchkey::domain::token::{Digest, TokenId, TokenKind, checksum_of};
use latchkey::state::{Loader, State};

pub(crate) const SCOPE_SETS: u64 = 10_000;
/// Tokens that are given to a loader at a time.
const CHUNK: u64 = 1_000;
const USERS: u32 = 10_000;
const TEAMS: u32 = 100;
const SERVICES: u32 = 100;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A fast mixer (splitmix64): the same number, the same bits.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub(crate) fn kind(n: u64) -> TokenKind {
    match mix(n ^ 0xA5) % 10 {
        0..4 => TokenKind::User,
        4..8 => TokenKind::Resource,
        8 => TokenKind::Team,
        _ => TokenKind::Service,
    }
}

fn is_limited(n: u64) -> bool {
    mix(n ^ 0x11).is_multiple_of(10)
}

fn scope_number(n: u64) -> u64 {
    mix(n ^ 0x5C) % SCOPE_SETS
}

/// The secret of token `n`.
pub(crate) fn secret(n: u64) -> String {
    let mut text = kind(n).prefix().to_owned();
    for word in 0..5_u64 {
        let mut bits = mix(n.wrapping_mul(5).wrapping_add(word));
        for _ in 0..10 {
            if text.len() < 47 {
                text.push(char::from(ALPHABET[(bits % 62) as usize]));
                bits /= 62;
            }
        }
    }
    let checksum = checksum_of(&text);
    text + &checksum
}

/// A need that token `n` permits: the last of its scopes.
pub(crate) fn need(n: u64) -> (String, String) {
    let set = scope_number(n);
    (
        "secrets:read".to_owned(),
        format!(
            "tenant-{}/project-{}/prod/key",
            set % 100,
            scope_count(set) - 1
        ),
    )
}

fn scope_count(set: u64) -> u64 {
    1 + mix(set) % 5
}

fn scopes(set: u64) -> PermissionSet {
    let permissions = (0..scope_count(set)).map(|index| {
        let resource = format!("tenant-{}/project-{index}/**", set % 100);
        let action = if index == 0 && set.is_multiple_of(3) {
            "secrets:*"
        } else {
            "secrets:read"
        };
        Permission::parse(action, &resource).expect("in the grammar")
    });
    // One more, so that ten thousand sets differ.
    let own = Permission::parse("set:own", &format!("set-{set}")).expect("in the grammar");
    PermissionSet::new(permissions.chain([own])).expect("small")
}

/// Rows of the directory: everybody holds `secrets:read` everywhere through one grant.
pub(crate) fn directory() -> Vec<Row> {
    let home = Resource::parse("bench").expect("valid");
    let role = RoleName::parse("reader").expect("valid");
    let mut rows = vec![Row::Role(RoleRecord {
        name: role.clone(),
        home: home.clone(),
        actions: vec![ActionPattern::parse("secrets:read").expect("valid")],
        made_at: 1,
    })];
    for id in 0..USERS + TEAMS + SERVICES {
        let (kind, word) = match id {
            id if id < USERS => (PrincipalKind::User, "user"),
            id if id < USERS + TEAMS => (PrincipalKind::Team, "team"),
            _ => (PrincipalKind::Service, "service"),
        };
        rows.push(Row::Principal(PrincipalRecord {
            id: PrincipalId(id),
            name: PrincipalName::new(kind, &format!("{word}-{id}")).expect("valid"),
            home: home.clone(),
            disabled: false,
            made_at: 1,
        }));
        rows.push(Row::Grant(GrantRecord {
            id: GrantId(id),
            principal: PrincipalId(id),
            role: role.clone(),
            resource: ResourcePattern::everything(),
            made_at: 1,
        }));
    }
    rows
}

/// The records of the population, with its scope sets made once.
pub(crate) struct Population {
    sets: BTreeMap<u64, PermissionSet>,
}

impl Population {
    pub(crate) fn new() -> Self {
        let sets = (0..SCOPE_SETS).map(|set| (set, scopes(set))).collect();
        Self { sets }
    }

    pub(crate) fn record(&self, n: u64) -> TokenRecord {
        let kind = kind(n);
        let pick = |from: u32, of: u32| PrincipalId(from + (mix(n ^ 0x77) % u64::from(of)) as u32);
        let subject = match kind {
            TokenKind::User => Subject::Principal(pick(0, USERS)),
            TokenKind::Team => Subject::Principal(pick(USERS, TEAMS)),
            TokenKind::Service => Subject::Principal(pick(USERS + TEAMS, SERVICES)),
            TokenKind::Resource => {
                let path = format!("tenant-{}/project-{}", n % 100, mix(n) % 50);
                Subject::Resource(Resource::parse(&path).expect("valid"))
            }
            other => unreachable!("no {other} tokens are made here"),
        };
        let limited = is_limited(n);
        TokenRecord {
            // As a UUIDv7 would be: time in front, random behind.
            id: TokenId::from_u128(
                (u128::from(1_700_000_000_000 + n / 100) << 80)
                    | 0x7000_8000_0000_0000_0000
                    | u128::from(mix(n ^ 0x33)),
            ),
            key: Digest::of(&secret(n)).key(),
            kind,
            subject,
            scopes: Scopes::Only(self.sets[&scope_number(n)].clone()),
            ceiling: None,
            issuers: vec![Issuer {
                principal: Some(PrincipalId((n % 1_000) as u32)),
                tokens: vec![TokenId::from_u128(u128::from(n % 1_000) + 1)],
                since: 0,
            }],
            parent: None,
            made_at: n + 2,
            not_before_ms: limited.then_some(1_600_000_000_000),
            expires_ms: Some(2_000_000_000_000),
            expires_max_ms: None,
            ttl_s: None,
            period_s: None,
            uses: None,
            networks: if limited {
                Networks::parse(&["10.0.0.0/8"]).expect("valid")
            } else {
                Networks::default()
            },
            audience: None,
            workload: None,
            rotation: 0,
            grace: None,
            revoked: None,
            public_key: None,
        }
    }

    /// State with the first `count` tokens.
    pub(crate) fn state(&self, count: u64) -> State {
        let mut loader = Loader::default();
        loader.put(directory());
        for chunk in 0..count.div_ceil(CHUNK) {
            let tokens = chunk * CHUNK..count.min((chunk + 1) * CHUNK);
            let rows = tokens.map(|n| Row::Token(Box::new(self.record(n))));
            loader.put(rows.collect());
        }
        loader
            .finish(Head::EMPTY, 0, None)
            .expect("nothing vouches for it")
    }
}
