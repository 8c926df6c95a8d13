//! Templates by table: what they match, what they capture, and what is no template.
//!
//! A path is given as it would come; that it is accepted is part of each case.

use proptest::prelude::*;

use super::super::path::PathRefusal;
use super::*;

/// Headers by name; a name that is there twice has several values.
struct Given(&'static [(&'static str, &'static str)]);

impl Headers for Given {
    fn header(&self, name: &str) -> HeaderValue<'_> {
        let mut values = self.0.iter().filter(|(known, _)| *known == name);
        match (values.next(), values.next()) {
            (None, _) => HeaderValue::Absent,
            (Some((_, value)), None) => HeaderValue::One(value),
            (Some(_), Some(_)) => HeaderValue::Several,
        }
    }
}

fn path(raw: &str) -> Path<'_> {
    Path::parse(raw).unwrap_or_else(|refusal| panic!("{raw}: {refusal}"))
}

fn check_match(template: &str, raw: &str, expected: bool) {
    let read = PathTemplate::parse(template).unwrap_or_else(|why| panic!("{template}: {why}"));
    assert_eq!(read.matches(&path(raw)), expected, "{template} {raw}");
}

#[test]
fn literals_match_themselves() {
    check_match("/", "/", true);
    check_match("/", "/?x", true);
    check_match("/", "/a", false);
    check_match("/a", "/", false);
    check_match("/a", "/a", true);
    check_match("/a", "/A", false);
    check_match("/a", "/ab", false);
    check_match("/ab", "/a", false);
    check_match("/a/b", "/a", false);
    check_match("/a/b", "/a/b", true);
    check_match("/a/b", "/a/b/c", false);
    check_match("/a/b", "/b/a", false);
    check_match("/a b/é", "/a%20b/%c3%a9", true);
    check_match("/abc", "/%61b%63", true);
    check_match("/v1/x:cancel", "/v1/x:cancel", true);
}

#[test]
fn a_slash_at_the_end_is_matched_as_written() {
    check_match("/a", "/a/", false);
    check_match("/a/", "/a", false);
    check_match("/a/", "/a/", true);
    check_match("/a/", "/a/b", false);
    check_match("/*", "/", false);
    check_match("/*", "/a/", false);
    check_match("/*/", "/a/", true);
    check_match("/a/*", "/a/", false);
    check_match("/a/{b}/", "/a/b", false);
}

#[test]
fn one_star_is_one_segment_and_two_are_all_that_is_left() {
    check_match("/*", "/a", true);
    check_match("/*", "/a/b", false);
    check_match("/{a}", "/x", true);
    check_match("/{a=*}", "/x", true);
    check_match("/{a}", "/x/y", false);
    check_match("/a/*/c", "/a/b/c", true);
    check_match("/a/*/c", "/a/b/d", false);
    check_match("/**", "/", true);
    check_match("/**", "/a", true);
    check_match("/**", "/a/b/", true);
    check_match("/a/**", "/a", true);
    check_match("/a/**", "/a/", true);
    check_match("/a/**", "/a/b/c", true);
    check_match("/a/**", "/ab", false);
    check_match("/a/**", "/", false);
    check_match("/a/{b=**}", "/a", true);
    check_match("/a/{b=**}", "/a/b/c", true);
    check_match("/a/*/**", "/a", false);
    check_match("/a/*/**", "/a/b", true);
}

#[test]
fn a_verb_ends_the_last_segment() {
    check_match("/v1/{id}:cancel", "/v1/x:cancel", true);
    check_match("/v1/{id=*}:cancel", "/v1/x:cancel", true);
    check_match("/v1/*:cancel", "/v1/a:b:cancel", true);
    check_match("/v1/{id}:cancel", "/v1/x", false);
    check_match("/v1/{id}:cancel", "/v1/:cancel", false);
    check_match("/v1/{id}:cancel", "/v1/xcancel", false);
    check_match("/v1/{id}:cancel", "/v1/x:cancel/", false);
    check_match("/v1/{id}", "/v1/x:cancel", true);
    check_match("/v1/{id}:cancel", "/v1/x%3Acancel", true);
}

#[test]
fn what_is_no_template_is_refused_and_says_what_to_write() {
    for (template, hint) in [
        ("", "begins with '/'"),
        ("a", "begins with '/'"),
        ("*", "begins with '/'"),
        ("http://a/b", "begins with '/'"),
        ("//", "empty segment"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a//", "empty segment"),
        ("/**/a", "only be the last"),
        ("/**/", "only be the last"),
        ("/{a=**}/b", "only be the last"),
        ("/a*", "whole segments"),
        ("/a{b}", "whole segments"),
        ("/{a", "whole segments"),
        ("/a}", "whole segments"),
        ("/{a}b", "verb"),
        ("/{a}{b}", "verb"),
        ("/*a", "verb"),
        ("/***", "verb"),
        ("/{a}:", "verb"),
        ("/{a}:x:y", "verb"),
        ("/{a}:x/b", "verb"),
        ("/{}", "{name}"),
        ("/{A}", "{name}"),
        ("/{1a}", "{name}"),
        ("/{a-b}", "{name}"),
        ("/{a.b}", "{name}"),
        ("/{a=b}", "{name}"),
        ("/{a=b/*}", "whole segments"),
        ("/{=**}", "{name}"),
        ("/{a=**}:x", "{name}"),
        ("/{header:x-a}", "{name}"),
        ("/{a}/{a}", "twice"),
        ("/{a}/{a=**}", "twice"),
        ("/a%20b", "decoded"),
        ("/a%2fb", "decoded"),
        ("/.", "no accepted path"),
        ("/..", "no accepted path"),
        ("/a/../b", "no accepted path"),
        ("/a;b", "no accepted path"),
        ("/a?b", "no accepted path"),
        ("/a#b", "no accepted path"),
        ("/a\\b", "no accepted path"),
        ("/a\tb", "no accepted path"),
        ("/\u{80}", "no accepted path"),
    ] {
        let why = PathTemplate::parse(template).expect_err(template);
        assert!(why.contains(hint), "{template}: {why}");
    }
    let longest = "/a".repeat(PARTS_MAX);
    assert!(PathTemplate::parse(&longest).is_ok());
    assert!(PathTemplate::parse(&format!("{longest}/a")).is_err());
    assert!(PathTemplate::parse(&format!("/{}", "a".repeat(TEMPLATE_BYTES_MAX))).is_err());
}

/// `Err` is the segment of the resource that has no value.
fn check_resource(template: &str, resource: &str, raw: &str, expected: Result<&str, &str>) {
    let headers = Given(&[
        ("x-environment", "prod"),
        ("x-empty", ""),
        ("x-dots", ".."),
        ("x-slash", "a/b"),
        ("x-list", "a,b"),
        ("x-twice", "a"),
        ("x-twice", "a"),
    ]);
    let template = PathTemplate::parse(template).unwrap_or_else(|why| panic!("{template}: {why}"));
    assert!(template.matches(&path(raw)), "{template:?} {raw}");
    let read = ResourceTemplate::parse(resource, Some(template), &Withheld::default());
    let read = read.unwrap_or_else(|why| panic!("{resource}: {why}"));
    let made = read.resource(Some(template), &path(raw), &headers);
    let expected = match expected {
        Ok(resource) => Ok(Cow::Borrowed(resource)),
        Err(segment) => Err(Unanswerable::Value(segment.into())),
    };
    assert_eq!(made, expected, "{template:?} {resource} {raw}");
}

#[test]
fn captures_and_headers_fill_a_resource() {
    check_resource("/**", "acme/web", "/x", Ok("acme/web"));
    check_resource("/p/{a}", "acme/{a}", "/p/web", Ok("acme/web"));
    check_resource("/p/{a}", "{a}", "/p/web", Ok("web"));
    check_resource("/{a}/{b}", "{b}/{a}/{b}", "/x/y", Ok("y/x/y"));
    check_resource("/p/{a=**}", "acme/{a}", "/p/x/y/z", Ok("acme/x/y/z"));
    check_resource("/p/{a=**}", "{a}/end", "/p/x/y", Ok("x/y/end"));
    check_resource("/p/{a}/**", "{a}", "/p/x/y/z", Ok("x"));
    check_resource("/*/{a}", "{a}", "/x/y", Ok("y"));
    check_resource("/v1/{id}:cancel", "{id}", "/v1/x:cancel", Ok("x"));
    check_resource("/v1/{id}", "{id}", "/v1/x:cancel", Ok("x:cancel"));
    check_resource("/p/{a}", "{a}", "/p/%61%2Bb", Ok("a+b"));
    check_resource("/p/{a}", "{a}", "/p/x?a=y", Ok("x"));
    check_resource("/p/{a}/", "{a}", "/p/x/", Ok("x"));
    let both = "acme/{a}/{header:x-environment}/{b}";
    check_resource(
        "/{a}/{b=**}",
        both,
        "/web/db/main",
        Ok("acme/web/prod/db/main"),
    );
}

#[test]
fn a_value_that_is_no_segment_is_refused_and_not_repaired() {
    check_resource("/p/{a=**}", "x/{a}", "/p", Err("{a}"));
    check_resource("/p/{a=**}", "x/{a}", "/p/", Err("{a}"));
    check_resource("/p/{a=**}", "x/{a}", "/p/y/", Err("{a}"));
    check_resource("/{a=**}", "x/{a}", "/", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/a%20b", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/caf%c3%a9", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/*", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/a,b", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/{a}", Err("{a}"));
    check_resource("/p/{a}", "x/{a}", "/p/a=b", Err("{a}"));
    check_resource("/p/{a=**}", "x/{a}", "/p/a/*/b", Err("{a}"));
    check_resource("/p/{a=**}", "x/{a}", "/p/**", Err("{a}"));
    check_resource("/v1/{id}:cancel", "{id}", "/v1/%2e%2e:cancel", Err("{id}"));
    for header in [
        "x-none", "x-empty", "x-dots", "x-slash", "x-list", "x-twice",
    ] {
        let segment = format!("{{header:{header}}}");
        check_resource("/**", &format!("x/{segment}"), "/p", Err(&segment));
    }
    let long = format!("/p/{}", "a".repeat(129));
    check_resource("/p/{a}", "x/{a}", &long, Err("{a}"));
    let many = format!("/p{}", "/a".repeat(RESOURCE_SEGMENTS_MAX));
    check_resource("/p/{a=**}", "x/{a}", &many, Err("x/{a}"));
    let large = format!("/p{}", format!("/{}", "a".repeat(128)).repeat(8));
    check_resource("/p/{a=**}", "x/{a}", &large, Err("x/{a}"));
}

#[test]
fn what_is_no_resource_template_is_refused_and_says_what_to_write() {
    let template = PathTemplate::parse("/{a}/{b=**}").expect("a template");
    for (resource, hint) in [
        ("", "no segment"),
        ("/x", "no segment"),
        ("x/", "no segment"),
        ("x//y", "no segment"),
        ("x/*", "no segment"),
        ("x/**", "no segment"),
        ("..", "no segment"),
        ("a b", "no segment"),
        ("x{a}", "whole segments"),
        ("{a}x", "whole segments"),
        ("{a}{b}", "{name}"),
        ("{a", "whole segments"),
        ("{}", "{name}"),
        ("{a=**}", "{name}"),
        ("{A}", "{name}"),
        ("{c}", "no capture"),
        ("x/{project}", "no capture"),
        ("{header:}", "lower case"),
        ("{header:X-A}", "lower case"),
        ("{header::path}", "lower case"),
        ("{header:x a}", "lower case"),
        ("{header:authorization}", "credential"),
        ("{header:cookie}", "credential"),
    ] {
        let why = match ResourceTemplate::parse(resource, Some(template), &Withheld::default()) {
            Ok(_) => panic!("{resource:?} is refused"),
            Err(why) => why,
        };
        assert!(why.contains(hint), "{resource}: {why}");
    }
    assert!(
        ResourceTemplate::parse("{a}", None, &Withheld::default()).is_err(),
        "no path, no capture"
    );
    let many = "a/".repeat(RESOURCE_SEGMENTS_MAX) + "a";
    assert!(ResourceTemplate::parse(&many, None, &Withheld::default()).is_err());
}

proptest! {
    #[test]
    fn a_resource_made_of_any_path_is_inside_the_grammar(
        raw in "/p/([a-b]|%2e|\\.|%20|%61|/|:|\\+|%c3%a9|%2a|~){0,9}",
        tail in any::<bool>(),
    ) {
        let template = if tail { "/p/{a=**}" } else { "/p/{a}" };
        let template = PathTemplate::parse(template).expect("a template");
        let resource = ResourceTemplate::parse("x/{a}/y", Some(template), &Withheld::default()).expect("a template");
        let path = match Path::parse(&raw) {
            Ok(path) if template.matches(&path) => path,
            Ok(_) => return Ok(()),
            Err(PathRefusal::DotSegment | PathRefusal::EmptySegment) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(format!("{raw}: {other}"))),
        };
        if let Ok(made) = resource.resource(Some(template), &path, &Given(&[])) {
            prop_assert!(made.split('/').all(is_segment), "{raw} {made}");
            prop_assert!(made.starts_with("x/") && made.ends_with("/y"));
            let captured = &made[2..made.len() - 2];
            let behind = path.text().strip_prefix("p/");
            prop_assert_eq!(behind, Some(captured));
        }
    }

    #[test]
    fn whatever_comes_as_a_template_is_read_or_refused(
        text in "/?([a-z*{}=:/%.]|\\*\\*|\\{a\\}|\\{b=\\*\\*\\}){0,12}",
        raw in "/[a-c:/]{0,8}",
    ) {
        if let (Ok(template), Ok(path)) = (PathTemplate::parse(&text), Path::parse(&raw)) {
            template.matches(&path);
        }
        let _ = ResourceTemplate::parse(&text, None, &Withheld::default());
    }
}
