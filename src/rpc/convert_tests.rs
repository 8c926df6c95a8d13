//! Conversions by table: what is read, what is refused, and what reads back.
//!
//! A refusal must name the field as the API does, so every table checks that, too.

use std::fmt::Debug;

use super::*;

/// `None` is a refusal that names the field.
fn check<T: PartialEq + Debug>(found: Result<T, Refusal>, field: &str, expected: Option<T>) {
    match (found, expected) {
        (Ok(found), Some(expected)) => assert_eq!(found, expected),
        (Err(Refusal::Invalid { field: named, .. }), None) => assert_eq!(named, field),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

#[test]
fn instants_are_cut_to_milliseconds_and_bounded() {
    let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
    let table = [
        (None, Some(None)),
        (at(1, 0), Some(Some(1_000))),
        (at(1, 999_999), Some(Some(1_000))),
        (at(1, 1_000_000), Some(Some(1_001))),
        (
            at(INSTANT_S_MAX, 999_999_999),
            Some(Some(253_402_300_799_999)),
        ),
        (at(INSTANT_S_MAX + 1, 0), None),
        (at(0, 5), None),
        (at(-1, 0), None),
        (at(i64::MAX, 0), None),
        (at(1, -1), None),
        (at(1, 1_000_000_000), None),
    ];
    for (input, expected) in table {
        check(
            instant("not_before", input.as_ref()),
            "not_before",
            expected,
        );
    }
    for unix_ms in [1, 999, 1_000, 1_763_000_000_123, 253_402_300_799_999] {
        let back = instant("x", Some(&timestamp(unix_ms)));
        assert_eq!(back.ok().flatten(), (unix_ms >= 1_000).then_some(unix_ms));
    }
}

#[test]
fn lifetimes_are_whole_seconds_and_at_least_one() {
    let of = |seconds, nanos| Some(Duration { seconds, nanos });
    let table = [
        (None, Some(None)),
        (of(1, 0), Some(Some(1))),
        (of(i64::from(u32::MAX), 0), Some(Some(u32::MAX))),
        (of(i64::from(u32::MAX) + 1, 0), None),
        (of(0, 0), None),
        (of(-1, 0), None),
        (of(0, -5), None),
        (of(0, 500_000_000), None),
        (of(1, 1), None),
    ];
    for (input, expected) in table {
        check(seconds("ttl", input.as_ref()), "ttl", expected);
    }
    check(
        whole_seconds("grace", of(0, 0).as_ref()),
        "grace",
        Some(Some(0)),
    );
    check(whole_seconds("grace", of(-1, 0).as_ref()), "grace", None);
    assert_eq!(duration(7), of(7, 0).expect("some"));
}

#[test]
fn labels_follow_their_grammar() {
    let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    for (key, value, valid) in [
        ("team", "", true),
        ("acme.io/team_1-a", "Plattform ü", true),
        ("a", &"ü".repeat(128), true),
        (&"k".repeat(63), "x", true),
        (&"k".repeat(64), "x", false),
        ("", "x", false),
        ("Team", "x", false),
        ("a b", "x", false),
        ("a=b", "x", false),
        ("a", &"x".repeat(129), false),
    ] {
        let input = one(key, value);
        check(labels(&input), "labels", valid.then_some(input.clone()));
    }
    let many = |count: usize| -> BTreeMap<String, String> {
        (0..count)
            .map(|n| (format!("k{n}"), String::new()))
            .collect()
    };
    check(labels(&many(16)), "labels", Some(many(16)));
    check(labels(&many(17)), "labels", None);
}

#[test]
fn a_label_filter_is_a_key_or_a_key_with_its_value() {
    let pair =
        |key: &str, value: Option<&str>| Some(Some((key.to_owned(), value.map(str::to_owned))));
    check(label_filter(""), "label", Some(None));
    check(label_filter("team"), "label", pair("team", None));
    check(label_filter("team="), "label", pair("team", Some("")));
    check(label_filter("team=a=b"), "label", pair("team", Some("a=b")));
    check(label_filter("=x"), "label", None);
    check(label_filter("Team=x"), "label", None);
}

#[test]
fn a_mask_names_at_least_one_field() {
    let of = |paths: &[&str]| FieldMask {
        paths: paths.iter().map(ToString::to_string).collect(),
    };
    assert!(mask(None).is_err());
    assert!(mask(Some(&of(&[]))).is_err());
    assert_eq!(mask(Some(&of(&["name"]))).map(<[String]>::len), Ok(1));
}

#[test]
fn principals_have_the_kind_that_the_method_is_about() {
    let user = PrincipalKind::User;
    assert!(principal_of(user, "name", "user:alice").is_ok());
    for text in ["", "alice", "team:alice", "user:", "user:a b"] {
        check(principal_of(user, "name", text), "name", None);
    }
}

#[test]
fn texts_are_counted_in_characters() {
    check(name("name", ""), "name", None);
    check(
        name("name", &"ü".repeat(128)),
        "name",
        Some("ü".repeat(128)),
    );
    check(name("name", &"ü".repeat(129)), "name", None);
    check(
        text("description", "", 3),
        "description",
        Some(String::new()),
    );
    check(text("description", "abcd", 3), "description", None);
}

#[test]
fn revisions_have_a_whole_chain_or_none() {
    let of = |chain: &[u8]| v1::Revision {
        number: 7,
        chain: chain.to_vec(),
    };
    let asked = |chain| Some(Some(RevisionAsked { number: 7, chain }));
    check(revision_asked("after", None), "after", Some(None));
    check(
        revision_asked("after", Some(&of(&[]))),
        "after",
        asked(None),
    );
    check(
        revision_asked("after", Some(&of(&[1; 8]))),
        "after",
        asked(Some([1; 8])),
    );
    check(revision_asked("after", Some(&of(&[1; 7]))), "after", None);
    check(revision_asked("after", Some(&of(&[1; 32]))), "after", None);
}

#[test]
fn kinds_have_the_same_numbers_in_the_api_and_in_the_domain() {
    for one in TokenKind::ALL {
        assert_eq!(kind("kind", kind_number(one)), Ok(Some(one)));
    }
    check(kind("kind", 0), "kind", Some(None));
    check(kind("kind", 8), "kind", None);
    check(kind("kind", -1), "kind", None);
    check(kind("kind", 257), "kind", None);
    check(kinds("accepted_kinds", &[1, 0]), "accepted_kinds", None);
    check(
        kinds("accepted_kinds", &[]),
        "accepted_kinds",
        Some(KindSet::ALL),
    );
}

#[test]
fn a_context_has_an_address_or_none() {
    let from = |address: &str| v1::Context {
        client_ip: Some(address.to_owned()),
        ..v1::Context::default()
    };
    assert!(context(None).is_ok());
    assert!(context(Some(&from("2001:db8::1"))).is_ok());
    for address in ["", "10.0.0.0/8", "host", "10.0.0.1:80"] {
        assert!(context(Some(&from(address))).is_err(), "{address}");
    }
}
