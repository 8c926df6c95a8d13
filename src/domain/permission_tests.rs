//! The algebra against a brute-force matcher: exhaustively on a small space, at random on a
//! large one.
//!
//! Coverage is reflexive, transitive and sound; meet is exact.

use proptest::prelude::*;

use super::*;

fn patterns() -> Vec<ResourcePattern> {
    let parts = ["a", "b", "*"];
    let mut fixed: Vec<Vec<&str>> = vec![vec![]];
    let mut all = Vec::new();
    for _ in 0..3 {
        fixed = fixed
            .iter()
            .flat_map(|head| parts.map(|part| [head.as_slice(), &[part]].concat()))
            .collect();
        all.extend(fixed.clone());
    }
    let mut texts: Vec<String> = all.iter().map(|parts| parts.join("/")).collect();
    texts.extend(all.iter().map(|parts| parts.join("/") + "/**"));
    texts.push("**".to_owned());
    texts
        .iter()
        .map(|text| ResourcePattern::parse(text).expect(text))
        .collect()
}

fn resources() -> Vec<String> {
    let parts = ["a", "b", "c"];
    let mut fixed = vec![String::new()];
    let mut all = Vec::new();
    for _ in 0..5 {
        fixed = fixed
            .iter()
            .flat_map(|head| parts.map(|part| format!("{head}/{part}")))
            .collect();
        all.extend(fixed.iter().map(|path| path[1..].to_owned()));
    }
    all
}

// What the glossary says, written another way: expand and compare segment by segment.
fn brute_match(pattern: &str, resource: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let resource: Vec<&str> = resource.split('/').collect();
    let same = |p: &[&str]| p.iter().zip(&resource).all(|(p, r)| *p == "*" || p == r);
    match pattern.split_last() {
        Some((&"**", head)) => resource.len() >= head.len() && same(head),
        _ => resource.len() == pattern.len() && same(&pattern),
    }
}

#[test]
fn matching_agrees_with_brute_force_on_the_small_space() {
    for pattern in patterns() {
        for resource in resources() {
            let expected = brute_match(pattern.as_str(), &resource);
            assert_eq!(pattern.matches(&resource), expected, "{pattern} {resource}");
        }
    }
}

#[test]
fn covers_is_sound_and_on_the_small_space_complete() {
    let resources = resources();
    let matched: Vec<(ResourcePattern, Vec<bool>)> = patterns()
        .into_iter()
        .map(|p| {
            let row = resources
                .iter()
                .map(|r| brute_match(p.as_str(), r))
                .collect();
            (p, row)
        })
        .collect();
    for (wide, wide_row) in &matched {
        assert!(wide.covers(wide), "reflexive: {wide}");
        for (narrow, narrow_row) in &matched {
            let subset = wide_row.iter().zip(narrow_row).all(|(w, n)| *w || !n);
            // `*/**` matches all that `**` matches, but it cannot be shown segment by segment.
            let conservative = narrow.as_str() == "**" && wide.as_str() == "*/**";
            assert_eq!(
                wide.covers(narrow),
                subset && !conservative,
                "{wide} {narrow}"
            );
            let met = wide.meet(narrow);
            for (index, resource) in resources.iter().enumerate() {
                let both = wide_row[index] && narrow_row[index];
                let by_meet = met
                    .as_ref()
                    .is_some_and(|met| brute_match(met.as_str(), resource));
                assert_eq!(by_meet, both, "meet {wide} {narrow} at {resource}");
            }
        }
    }
}

#[test]
fn actions_cover_what_they_match() {
    let parts = ["a", "b"];
    let mut actions: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..4 {
        last = last
            .iter()
            .flat_map(|head| parts.map(|part| format!("{head}:{part}")))
            .collect();
        actions.extend(last.iter().map(|action| action[1..].to_owned()));
    }
    let wild = actions
        .iter()
        .filter(|a| a.split(':').count() < 4)
        .map(|a| format!("{a}:*"));
    let patterns: Vec<ActionPattern> = actions
        .iter()
        .cloned()
        .chain(wild)
        .chain(["*".to_owned()])
        .map(|text| ActionPattern::parse(&text).expect("valid"))
        .collect();
    for wide in &patterns {
        for narrow in &patterns {
            let mut matched = actions.iter().filter(|a| narrow.matches(a));
            let subset = matched.all(|a| wide.matches(a));
            // Nothing has more than four parts, so `a:b:c:*` could be split up; it is not.
            let split = narrow.wildcard_prefix().is_some() && wide.wildcard_prefix().is_none();
            assert_eq!(wide.covers(narrow), subset && !split, "{wide} {narrow}");
            for action in &actions {
                let both = wide.matches(action) && narrow.matches(action);
                let met = wide.meet(narrow).is_some_and(|met| met.matches(action));
                assert_eq!(met, both, "{wide} {narrow} {action}");
            }
        }
    }
}

#[test]
fn what_is_outside_the_grammar_is_refused() {
    let segment = "s".repeat(SEGMENT_BYTES_MAX);
    let too_long_segment = "s".repeat(SEGMENT_BYTES_MAX + 1);
    let deep = ["a"; RESOURCE_SEGMENTS_MAX].join("/");
    let too_deep = format!("{deep}/a");
    let too_long = [segment.as_str(); 8].join("/");
    for text in [
        "a",
        "acme/web/prod",
        "a~b/c@d/e:f/g+h/i-j/k_l/m.n",
        &segment,
        &deep,
    ] {
        assert!(Resource::parse(text).is_ok(), "{text}");
        assert!(ResourcePattern::parse(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a b",
        "a%2fb",
        "ä",
        "a\0",
        "a/b\n",
        "a?b",
        "a#b",
        &too_long_segment,
        &too_deep,
        &too_long,
    ] {
        assert!(Resource::parse(text).is_err(), "{text:?}");
        assert!(ResourcePattern::parse(text).is_err(), "{text:?}");
    }
    for text in ["*", "a/*", "**", "a/**"] {
        assert!(Resource::parse(text).is_err(), "{text}");
        assert!(ResourcePattern::parse(text).is_ok(), "{text}");
    }
    for text in ["***", "a**", "a*", "**/a", "a/**/b", "/**", "a//**", "*a"] {
        assert!(ResourcePattern::parse(text).is_err(), "{text}");
    }
    for text in [
        "",
        ":",
        "a:",
        ":a",
        "a::b",
        "A",
        "a b",
        "a:b:c:d:e",
        "a.b",
        "*:a",
        "a:**",
    ] {
        assert!(ActionPattern::parse(text).is_err(), "{text:?}");
        assert!(Need::parse(text, "a").is_err(), "{text:?}");
    }
    assert!(Need::parse("a:*", "r").is_err() && Need::parse("*", "r").is_err());
    assert!(ActionPattern::parse("a:b:c:*").is_ok() && ActionPattern::parse("a:b:c:d:*").is_err());
}

fn any_pattern() -> impl Strategy<Value = ResourcePattern> {
    let segment = prop_oneof![3 => "[ab]", 2 => Just("*".to_owned()), 1 => "[a-z]{1,9}"];
    (proptest::collection::vec(segment, 0..=16), any::<bool>()).prop_filter_map(
        "empty",
        |(mut parts, tail)| {
            if tail {
                parts.push("**".to_owned());
            }
            ResourcePattern::parse(&parts.join("/")).ok()
        },
    )
}

proptest! {
    #[test]
    fn covers_is_transitive_and_meet_is_its_greatest_lower_bound(
        a in any_pattern(), b in any_pattern(), c in any_pattern()
    ) {
        prop_assert!(a.covers(&a));
        if a.covers(&b) && b.covers(&c) {
            prop_assert!(a.covers(&c), "{} {} {}", a, b, c);
        }
        if let Some(met) = a.meet(&b) {
            prop_assert!(a.covers(&met) && b.covers(&met), "{} {} {}", a, b, met);
            if a.covers(&c) && b.covers(&c) {
                prop_assert!(met.covers(&c));
            }
        } else {
            prop_assert!(!(a.covers(&c) && b.covers(&c)));
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}|[a*/.:]{0,24}") {
        let _ = ResourcePattern::parse(&text).map(|p| p.matches("a/b"));
        let _ = (Resource::parse(&text), ActionPattern::parse(&text), Need::parse(&text, &text));
    }
}
