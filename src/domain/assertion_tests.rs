//! Assertions by table: what logs in, what is refused, and that nothing else gets through.
//!
//! Signed by pairs that the test makes, with headers and claims as an attacker would write them.
//! Absent: the signatures themselves, which `key` holds against the standards' own.

use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::super::entropy::SeededEntropy;
use super::super::key_pair::{KeyPair, Statement};
use super::*;

const CLIENT: &str = "service:ci-runner";
const OURS: [&str; 2] = ["https://latchkey.example", "latchkey"];
const NOW_S: u64 = 1_700_000_000;

fn pair(algorithm: Algorithm) -> KeyPair {
    KeyPair::generate(algorithm, &SeededEntropy::new(7)).expect("a pair")
}

fn credential() -> TokenId {
    TokenId::generate(NOW_S * 1_000, &SeededEntropy::new(8))
}

fn statement() -> Statement<'static> {
    Statement {
        credential: credential(),
        client: CLIENT,
        audience: OURS[0],
        now_s: NOW_S,
        life_s: 60,
        jti: "a",
    }
}

fn header() -> Value {
    json!({ "alg": "EdDSA", "typ": "JWT", "kid": credential().to_string() })
}

fn claims() -> Value {
    json!({ "iss": CLIENT, "sub": CLIENT, "aud": OURS[0], "exp": NOW_S + 60, "jti": "a" })
}

fn signed(header: &str, claims: &str) -> String {
    let pair = pair(Algorithm::Ed25519);
    pair.compact(header.as_bytes(), claims.as_bytes())
        .expect("signed")
}

fn judge(text: &str, now: Now) -> Result<Once, Wrong> {
    let assertion = Assertion::parse(text)?;
    assert_eq!(assertion.credential(), credential());
    let public = pair(Algorithm::Ed25519).public().clone();
    assertion.verify(&public)?.check(CLIENT, &OURS, now)
}

fn now() -> Now {
    Now::at(NOW_S * 1_000)
}

/// One member of the header or the claims made another, or taken away.
fn with(mut object: Value, name: &str, value: Value) -> String {
    match value {
        Value::Null => object.as_object_mut().expect("an object").remove(name),
        value => object
            .as_object_mut()
            .expect("an object")
            .insert(name.to_owned(), value),
    };
    object.to_string()
}

#[test]
fn what_a_pair_states_is_good_once() {
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let pair = pair(algorithm);
        let once = |statement: Statement<'_>| {
            let text = pair.assertion(&statement).expect("signed");
            let assertion = Assertion::parse(&text).expect("an assertion");
            let stated = assertion.verify(pair.public()).expect("its signature");
            stated.check(CLIENT, &OURS, now()).expect("good")
        };
        let first = once(statement());
        assert_eq!(first.until_ms, (NOW_S + 60 + SKEW_S + KEPT_S) * 1_000);
        assert_eq!(
            once(statement()).id,
            first.id,
            "signed twice, it is used once"
        );
        let other = Statement {
            jti: "b",
            ..statement()
        };
        assert_ne!(once(other).id, first.id);
        let other = TokenId::generate(0, &SeededEntropy::new(9));
        assert_ne!(
            once(Statement {
                credential: other,
                ..statement()
            })
            .id,
            first.id
        );
    }
}

#[test]
fn another_key_signed_it() {
    let text = pair(Algorithm::Ed25519)
        .assertion(&statement())
        .expect("signed");
    let other = KeyPair::generate(Algorithm::Ed25519, &SeededEntropy::new(6)).expect("a pair");
    let assertion = Assertion::parse(&text).expect("an assertion");
    for key in [other.public(), pair(Algorithm::P256).public()] {
        assert_eq!(assertion.verify(key).err(), Some(Wrong::Signature));
    }
    // What another one of the same key signed.
    let other = Statement {
        jti: "b",
        ..statement()
    };
    let other = pair(Algorithm::Ed25519).assertion(&other).expect("signed");
    let (_, signature) = other.rsplit_once('.').expect("parts");
    let (signed, _) = text.rsplit_once('.').expect("parts");
    assert_eq!(
        judge(&format!("{signed}.{signature}"), now()),
        Err(Wrong::Signature)
    );
}

#[test]
fn the_header_chooses_nothing() {
    let check = |name: &str, value: Value, good: bool| {
        let text = signed(&with(header(), name, value.clone()), &claims().to_string());
        let judged = judge(&text, now());
        assert_eq!(judged.is_ok(), good, "{name} {value}: {judged:?}");
        let form = matches!(judged, Err(Wrong::Form(_)));
        // A key that signs in another way than is said is no matter of form.
        assert!(
            good || form || value == "ES256",
            "{name} {value}: {judged:?}"
        );
    };
    check("alg", json!("Ed25519"), true);
    check("typ", json!("application/JWT"), true);
    check("typ", json!("client-authentication+jwt"), true);
    check("typ", Value::Null, true);
    // What others would use to find a key is not looked at (RFC 8725, section 3.10).
    check("jwk", json!({ "kty": "OKP" }), true);
    check("x5u", json!("http://127.0.0.1/"), true);
    for alg in [
        "none", "None", "", "HS256", "RS256", "ES384", "ES256K", "eddsa", "ES256",
    ] {
        check("alg", json!(alg), false);
    }
    check("alg", json!(["EdDSA"]), false);
    check("alg", Value::Null, false);
    check("crit", json!([]), false);
    check("crit", json!(["b64"]), false);
    check("crit", json!(["exp"]), false);
    for typ in ["at+jwt", "dpop+jwt", "JWE", ""] {
        check("typ", json!(typ), false);
    }
    check("typ", json!(1), false);
    check("kid", Value::Null, false);
    check("kid", json!("ci-runner"), false);
    check(
        "kid",
        json!(credential().to_string().replace('-', "")),
        false,
    );
}

#[test]
fn unsigned_and_wrongly_signed_texts_are_refused() {
    let url = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let part = |value: &Value| url(value.to_string().as_bytes());
    let parts = |alg: &str| {
        let mut header = header();
        header["alg"] = json!(alg);
        format!("{}.{}", part(&header), part(&claims()))
    };
    let none = parts("none");
    assert!(matches!(
        judge(&format!("{none}."), now()),
        Err(Wrong::Form(_))
    ));
    // The public key as the secret of a MAC.
    let public = pair(Algorithm::Ed25519).public().clone();
    let es256 = parts("ES256");
    for secret in [public.as_bytes(), public.to_pem().as_bytes()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        for text in [parts("HS256"), parts("EdDSA")] {
            let mac = hmac::sign(&key, text.as_bytes());
            let judged = judge(&format!("{text}.{}", url(mac.as_ref())), now());
            assert!(matches!(judged, Err(Wrong::Form(_))), "{judged:?}");
        }
    }
    // A signature in the form that certificates have.
    let pair = pair(Algorithm::P256);
    let pem = pair.to_pem();
    let random = SystemRandom::new();
    let content = super::super::pem::read(&pem).expect("a block").content;
    let asn1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &content, &random);
    let asn1 = asn1
        .expect("a pair")
        .sign(&random, es256.as_bytes())
        .expect("signed");
    let judged = judge(&format!("{es256}.{}", url(asn1.as_ref())), now());
    assert!(matches!(judged, Err(Wrong::Form(_))), "{judged:?}");
    for signature in [[0; 64], [0xff; 64]] {
        let text = format!("{es256}.{}", url(&signature));
        let assertion = Assertion::parse(&text).expect("an assertion");
        assert_eq!(
            assertion.verify(pair.public()).err(),
            Some(Wrong::Signature)
        );
    }
}

#[test]
fn claims_are_of_their_kind() {
    let check = |name: &str, value: Value, expected: Result<(), Option<Wrong>>| {
        let text = signed(&header().to_string(), &with(claims(), name, value.clone()));
        let judged = Assertion::parse(&text).and_then(|assertion| {
            let public = pair(Algorithm::Ed25519).public().clone();
            assertion.verify(&public)?.check(CLIENT, &OURS, now())
        });
        let seen = match judged {
            Ok(_) => Ok(()),
            Err(Wrong::Form(_)) => Err(None),
            Err(wrong) => Err(Some(wrong)),
        };
        assert_eq!(seen, expected, "{name} {value}");
    };
    let wrong = |wrong| Err(Some(wrong));
    for name in ["iss", "sub"] {
        check(name, json!("service:other"), wrong(Wrong::Client));
        check(name, json!("ci-runner"), wrong(Wrong::Client));
        check(name, json!([CLIENT]), Err(None));
    }
    for name in ["iss", "sub", "aud", "exp", "jti"] {
        check(name, Value::Null, Err(None));
        check(name, json!(true), Err(None));
    }
    check("aud", json!([OURS[1]]), Ok(()));
    check("aud", json!(OURS), Ok(()));
    check(
        "aud",
        json!("https://latchkey.example/"),
        wrong(Wrong::Audience),
    );
    check(
        "aud",
        json!(["latchkey", "https://other.example"]),
        wrong(Wrong::Audience),
    );
    check("aud", json!(""), wrong(Wrong::Audience));
    check("aud", json!([]), Err(None));
    check("aud", json!(["latchkey", 1]), Err(None));
    check("aud", json!(vec!["latchkey"; 9]), Err(None));
    check("aud", json!({ "latchkey": 1 }), Err(None));
    check("aud", json!([["latchkey"]]), Err(None));
    for name in ["exp", "nbf", "iat"] {
        for value in [
            json!(NOW_S as f64 + 1.5),
            json!("1700000060"),
            json!(-1),
            json!([NOW_S]),
        ] {
            check(name, value, Err(None));
        }
    }
    check("jti", json!(""), Err(None));
    check("jti", json!("x".repeat(128)), Ok(()));
    check("jti", json!("x".repeat(129)), Err(None));
    check("jti", json!(1), Err(None));
    check("more", json!({ "than": "is known" }), Ok(()));
}

#[test]
fn time_is_judged_with_a_little_patience() {
    let check = |name: &str, at_s: u64, expected: Option<Wrong>| {
        let text = signed(&header().to_string(), &with(claims(), name, json!(at_s)));
        assert_eq!(judge(&text, now()).err(), expected, "{name} {at_s}");
    };
    check("exp", NOW_S - SKEW_S + 1, None);
    check("exp", NOW_S - SKEW_S, Some(Wrong::Expired));
    check("exp", 0, Some(Wrong::Expired));
    check("exp", NOW_S + LIFE_S_MAX + SKEW_S, None);
    check(
        "exp",
        NOW_S + LIFE_S_MAX + SKEW_S + 1,
        Some(Wrong::FarAhead),
    );
    check("exp", u64::MAX, Some(Wrong::FarAhead));
    for name in ["nbf", "iat"] {
        check(name, 0, None);
        check(name, NOW_S + SKEW_S, None);
        check(name, NOW_S + SKEW_S + 1, Some(Wrong::Early));
        check(name, u64::MAX, Some(Wrong::Early));
    }
    // Of two readings of the clock each judges what it is the stricter one for.
    let text = pair(Algorithm::Ed25519)
        .assertion(&statement())
        .expect("signed");
    let apart = |earliest, latest| Now {
        earliest: earliest * 1_000,
        latest: latest * 1_000,
    };
    let end = NOW_S + 60 + SKEW_S;
    assert_eq!(judge(&text, apart(NOW_S, end)), Err(Wrong::Expired));
    assert_eq!(
        judge(&text, apart(NOW_S - SKEW_S - 1, NOW_S)),
        Err(Wrong::Early)
    );
    let once = judge(&text, now()).expect("good");
    assert!(
        once.until_ms >= end * 1_000,
        "forgotten while it can be used"
    );
}

#[test]
fn a_text_has_one_reading() {
    let check = |header: &str, claims: &str, good: bool| {
        let judged = judge(&signed(header, claims), now());
        assert_eq!(judged.is_ok(), good, "{header} {claims}: {judged:?}");
    };
    let (header, claims) = (header().to_string(), claims().to_string());
    let twice = |object: &str, member: &str| object.replacen('{', &format!("{{{member},"), 1);
    check(&header, &claims, true);
    check(&twice(&header, "\"alg\":\"none\""), &claims, false);
    check(&twice(&header, "\"kid\":\"x\""), &claims, false);
    check(&header, &twice(&claims, "\"exp\":1"), false);
    check(&header, &twice(&claims, "\"\\u0065xp\":9999999999"), false);
    check(&header, &twice(&claims, "\"x\":{\"y\":1,\"y\":2}"), false);
    check(&header, &format!("[{claims}]"), false);
    check(&header, &format!("{claims}{claims}"), false);
    check(&header, "", false);
    check("", &claims, false);
    check(&header, &format!("\u{feff}{claims}"), false);
}

#[test]
fn the_encoding_is_the_only_one() {
    let good = pair(Algorithm::Ed25519)
        .assertion(&statement())
        .expect("signed");
    assert!(judge(&good, now()).is_ok());
    let mut parts: Vec<&str> = good.split('.').collect();
    // The last character of 86 carries four bits that are to be zero.
    let signature = parts[2].to_owned();
    let (head, last) = signature.split_at(85);
    let next = char::from(last.as_bytes()[0] + 1).to_string();
    let (padded, loose) = (format!("{signature}=="), format!("{head}{next}"));
    for text in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
        format!("Bearer {good}"),
        good.replace('.', ".."),
        good.replace('.', "\u{2024}"),
        parts[..2].join("."),
        format!("{}.{}.{padded}", parts[0], parts[1]),
        format!("{}.{}.{loose}", parts[0], parts[1]),
        format!("{}=.{}.{signature}", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], &signature[..84]),
        format!("{good}{}", "A".repeat(ASSERTION_BYTES_MAX)),
        "A".repeat(1 << 20),
        format!("{}.{}.{signature}", "A".repeat(4_000), "é".repeat(20)),
    ] {
        assert!(
            matches!(Assertion::parse(&text), Err(Wrong::Form(_))),
            "{text}"
        );
    }
    parts.swap(0, 1);
    assert!(Assertion::parse(&parts.join(".")).is_err());
}

proptest! {
    #[test]
    fn arbitrary_texts_are_refused_without_a_panic(text in ".{0,200}", parts in "[A-Za-z0-9_.-]{0,300}") {
        prop_assert!(Assertion::parse(&text).is_err());
        prop_assert!(Assertion::parse(&parts).is_err());
    }

    /// One byte of a good one made another: nothing that was signed may then still be believed.
    #[test]
    fn a_changed_byte_is_never_believed(at in any::<prop::sample::Index>(), byte in 0_u8..128) {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let pair = pair(algorithm);
            let good = pair.assertion(&statement()).expect("signed");
            let mut changed = good.clone().into_bytes();
            let at = at.index(changed.len());
            prop_assume!(changed[at] != byte);
            changed[at] = byte;
            let changed = String::from_utf8(changed).expect("ascii");
            let judged = Assertion::parse(&changed);
            let believed = judged.is_ok_and(|assertion| assertion.verify(pair.public()).is_ok());
            prop_assert!(!believed, "{}", changed);
        }
    }
}
