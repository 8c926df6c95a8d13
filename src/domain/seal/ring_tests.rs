//! The seal against whoever has no key: arbitrary and mutated texts, other keys, other versions.
//!
//! The claims are those of a token with every limit, so that each field is read back.

use super::super::super::entropy::{Entropy as _, SeededEntropy};
use super::super::super::limits::{Audience, Networks, Workload};
use super::super::super::permission::{Need, Permission};
use super::super::super::scopes::{PermissionSet, Scopes};
use super::super::super::token::{TokenId, checksum_of};
use super::super::text;
use super::*;

const SALT: Salt = *b"0123456789abcdef";
const TEXTS: u32 = 1_000_000;

fn key(byte: u8) -> SealKey {
    SealKey::generate(&SeededEntropy::new(u64::from(byte)))
}

fn claims() -> Claims {
    let scopes = ["secrets:read@acme/web/**", "deploy:*@acme/*/prod"].map(|text| {
        let (action, resource) = text.split_once('@').expect("both");
        Permission::parse(action, resource).expect("valid")
    });
    Claims {
        id: TokenId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        origin: TokenId::from_u128(7),
        ancestors: vec![TokenId::from_u128(8), TokenId::from_u128(9)],
        made_at: 300,
        issued_ms: 1_700_000_000_000,
        expires_ms: 1_700_000_900_000,
        session_ms: 1_699_999_000_000,
        session_end_ms: Some(1_800_000_000_000),
        scopes: Scopes::Only(PermissionSet::new(scopes).expect("few")),
        networks: Networks::parse(&["10.0.0.0/8", "2001:db8::/32"]).expect("valid"),
        audience: Audience::parse("web"),
        workload: Workload::parse("spiffe://acme.example/ns/a"),
    }
}

fn ring() -> (Ring, KeyId) {
    let key = key(1);
    let id = key.id();
    (Ring::new([key]), id)
}

fn opened(ring: &Ring, text: &str) -> Result<Vec<u8>, Unopened> {
    let mut room = Room::default();
    ring.open(text, &mut room, |_| Some(SALT))
        .map(<[u8]>::to_vec)
}

#[test]
fn what_was_sealed_is_read_back_whole() {
    let (ring, id) = ring();
    let text = ring.seal(&claims(), id, &SALT).expect("sealed");
    let bytes = opened(&ring, &text).expect("whole");
    let sealed = Sealed::read(&bytes).expect("claims");
    assert_eq!(sealed.to_claims(), claims());
    assert_eq!(sealed.key(), id);
    let scopes = sealed.scopes().expect("narrowed");
    let permits = |action, resource| scopes.permits(&Need::parse(action, resource).expect("valid"));
    assert!(permits("secrets:read", "acme/web"));
    assert!(permits("secrets:read", "acme/web/db"));
    assert!(permits("deploy:run", "acme/api/prod"));
    assert!(!permits("deploy", "acme/api/prod"));
    assert!(!permits("deploy:run", "acme/api/prod/eu"));
    assert!(!permits("secrets:write", "acme/web"));
    let from = |text: &str| sealed.allows(Some(text.parse().expect("an address")));
    assert!(from("10.1.2.3") && from("::ffff:10.1.2.3") && from("2001:db8::1"));
    assert!(!from("192.0.2.1") && !sealed.allows(None));
    assert_eq!(
        sealed.sessions().collect::<Vec<_>>(),
        [TokenId::from_u128(0x7000_8000_0000_0000_0001)]
            .into_iter()
            .chain(claims().ancestors)
            .collect::<Vec<_>>()
    );
    let plain = Claims {
        scopes: Scopes::All,
        networks: Networks::default(),
        audience: None,
        workload: None,
        session_end_ms: None,
        ancestors: Vec::new(),
        ..claims()
    };
    let text = ring.seal(&plain, id, &SALT).expect("sealed");
    let bytes = opened(&ring, &text).expect("whole");
    assert_eq!(Sealed::read(&bytes).expect("claims").to_claims(), plain);
    assert!(text.len() < 250, "a plain one is short: {}", text.len());
}

#[test]
fn another_key_salt_or_version_is_not_ours() {
    let (ring, id) = ring();
    let text = ring.seal(&claims(), id, &SALT).expect("sealed");
    let mut room = Room::default();
    let other = ring.open(&text, &mut room, |_| Some(*b"another salt 16B"));
    assert_eq!(other, Err(Unopened::Unknown));
    let never = ring.open(&text, &mut room, |_| None);
    assert_eq!(never, Err(Unopened::Unknown));
    let elsewhere = Ring::new([key(2)]);
    assert_eq!(opened(&elsewhere, &text), Err(Unopened::NotLoaded(id)));
    assert_eq!(elsewhere.seal(&claims(), id, &SALT), None);

    // The next version, sealed as well as ours are: refused before anything is believed.
    let mut bytes = opened(&ring, &text).expect("whole");
    bytes[0] = 2;
    let tag = ring.keys[0].mac(&SALT).chain_update(&bytes).finalize();
    bytes.extend(tag.into_bytes());
    let next = text::write(&bytes).expect("it fits");
    assert_eq!(opened(&ring, &next), Err(Unopened::Malformed));
}

#[test]
fn claims_that_were_not_written_so_are_not_read() {
    let (_, id) = ring();
    let bytes = claims().encode(id);
    assert!(Sealed::read(&bytes).is_some());
    for length in 0..bytes.len() {
        assert!(Sealed::read(&bytes[..length]).is_none(), "{length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(Sealed::read(&longer).is_none());
}

/// Texts without any meaning, texts of the right form, and a good one with a few characters
/// changed, some of them with a checksum that fits: nothing opens, and nothing panics.
#[test]
fn a_million_texts_that_nobody_sealed_open_nothing() {
    let (ring, id) = ring();
    let good = ring.seal(&claims(), id, &SALT).expect("sealed");
    let entropy = SeededEntropy::new(3);
    let mut random = [0_u8; 64];
    let mut room = Room::default();
    let mut text = Vec::new();
    let (mut formed, mut opened) = (0_u32, 0_u32);
    for round in 0..TEXTS {
        entropy.fill(&mut random);
        text.clear();
        match round % 4 {
            0 => text.extend(random.iter().take(usize::from(random[0]) % 64)),
            1 => {
                text.extend(b"lka_");
                let alphanumeric = random.iter().filter(|byte| byte.is_ascii_alphanumeric());
                text.extend(alphanumeric.cycle().take(60 + usize::from(random[1])));
            }
            _ => {
                text.extend(good.as_bytes());
                for change in random[..16].chunks(4).take(1 + usize::from(random[63]) % 4) {
                    let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % text.len();
                    text[at] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                        [usize::from(change[2]) % 62];
                }
            }
        }
        let Ok(mut presented) = String::from_utf8(text.clone()) else {
            continue;
        };
        if round % 40 == 3 {
            presented.truncate(presented.len().saturating_sub(6));
            presented += &checksum_of(&presented.clone());
        }
        if presented == good {
            continue;
        }
        match ring.open(&presented, &mut room, |_| Some(SALT)) {
            Ok(_) => opened += 1,
            Err(Unopened::Malformed) => {}
            Err(_) => formed += 1,
        }
    }
    assert_eq!(opened, 0);
    assert!(formed > 10_000, "{formed} came to the seal");
}
