//! Route tables: which route matches and what it needs, and what is no table.
//!
//! Wrong tables are told by line; the property test holds the tree against trying every route.

use proptest::prelude::*;

use super::super::HeaderValue;
use super::super::path::PathRefusal;
use super::*;

struct NoHeaders;

impl Headers for NoHeaders {
    fn header(&self, _: &str) -> HeaderValue<'_> {
        HeaderValue::Absent
    }
}

const TABLE: &str = r#"
# What the requests of the example need.
[[route]]
grpc = "acme.v1.Secrets/GetSecret"
action = "secrets:read"
resource = "acme"

[[route]]
grpc = "acme.v1.Secrets/*"
action = "secrets:admin"
resource = "acme"
stale = "error"

[[route]]
host = "api.example.com"
methods = ["GET", "HEAD"]
path = "/v1/projects/{project}/secrets/{folder=**}"
action = "secrets:read"
resource = "acme/{project}/{folder}"
audience = "secrets-api"

[[route]]
host = "*.example.com"
path = "/v1/projects/{project}"
action = "projects:any"
resource = "acme/{project}"

[[route]]
path = "/v1/projects/special"
action = "special:read"
resource = "acme"

[[route]]
path = "/health"
optional = true

[[route]]
path = "/me"
"#;

/// What a request needs, in one line, or why it is denied.
fn told(table: &Table, method: &str, url: &str) -> String {
    let (host, path) = url.split_at(url.find('/').expect("a path"));
    let request = Request { host, method, path };
    let matched = match table.matching(&request) {
        Ok(matched) => matched,
        Err(why) => return format!("{why:?}"),
    };
    let line = matched.line();
    match matched.needed(&NoHeaders) {
        Err(why) => format!("{line}: {why:?}"),
        Ok(needed) => {
            assert_eq!(table.find(&request, &NoHeaders).as_ref(), Ok(&needed));
            let need = needed
                .need
                .map(|(action, resource)| format!(" {action}@{resource}"));
            let audience = needed.audience.map(|audience| format!(" for {audience}"));
            let stale = (needed.on_stale == OnStale::Error).then_some(" stale=error");
            let optional = needed.optional.then_some(" optional");
            let rest = [need.as_deref(), audience.as_deref(), stale, optional];
            format!("{line}:{}", rest.map(Option::unwrap_or_default).concat())
        }
    }
}

fn check(method: &str, url: &str, expected: &str) {
    let table = Table::parse(TABLE, &Withheld::default()).expect("a table");
    assert_eq!(told(&table, method, url), expected, "{method} {url}");
}

#[test]
fn the_first_route_that_matches_decides() {
    check(
        "POST",
        "x/acme.v1.Secrets/GetSecret",
        "3: secrets:read@acme",
    );
    check("POST", "/acme.v1.Secrets/GetSecret", "3: secrets:read@acme");
    check(
        "POST",
        "x/acme.v1.Secrets/Other",
        "8: secrets:admin@acme stale=error",
    );
    check("GET", "x/acme.v1.Secrets/GetSecret", "NoRoute");
    check("POST", "x/acme.v1.Secrets/", "NoRoute");
    check("POST", "x/acme.v1.Secrets", "NoRoute");
    check("POST", "x/acme.v1.secrets/GetSecret", "NoRoute");
    let read = "14: secrets:read@acme/web/db for secrets-api";
    check("GET", "api.example.com/v1/projects/web/secrets/db", read);
    check("HEAD", "API.example.com/v1/projects/web/secrets/db?x", read);
    check(
        "get",
        "api.example.com/v1/projects/web/secrets/db",
        "NoRoute",
    );
    check(
        "POST",
        "api.example.com/v1/projects/web/secrets/db",
        "NoRoute",
    );
    check(
        "GET",
        "other.example.com/v1/projects/web/secrets/db",
        "NoRoute",
    );
    check("GET", "/v1/projects/web/secrets/db", "NoRoute");
    check(
        "PUT",
        "x.example.com/v1/projects/special",
        "22: projects:any@acme/special",
    );
    check(
        "PUT",
        "example.com/v1/projects/special",
        "28: special:read@acme",
    );
    check("GET", "any/health", "33: optional");
    check("GET", "any/me", "37:");
    check("GET", "any/", "NoRoute");
    check("OPTIONS", "any/me/", "NoRoute");
}

/// Envoy takes a host with a port or a final dot for another, unless it is told otherwise.
#[test]
fn a_host_that_envoy_may_compare_otherwise_has_no_route_where_routes_name_hosts() {
    let routes = "[[route]]\nhost = \"public.com\"\npath = \"/**\"\noptional = true\n[[route]]\npath = \"/a\"\n";
    let any = "[[route]]\npath = \"/a\"\n";
    let check = |top: &str, routes: &str, host: &str, expected: &str| {
        let table = Table::parse(&format!("{top}{routes}"), &Withheld::default()).expect("a table");
        assert_eq!(
            told(&table, "GET", &format!("{host}/a")),
            expected,
            "{top} {host}"
        );
    };
    let ignore = "ignore_ports = true\n";
    check("", routes, "public.com", "1: optional");
    check("", routes, "Public.COM", "1: optional");
    check("", routes, "other.com", "5:");
    for host in [
        "public.com:1",
        "public.com:443",
        "public.com.",
        "public.com.:1",
        "other.com:1",
        "other.com.",
    ] {
        check("", routes, host, "NoRoute");
    }
    check(ignore, routes, "public.com:1", "2: optional");
    check(ignore, routes, "other.com:1", "6:");
    for host in ["public.com.", "public.com.:1", "other.com.", "public.com:x"] {
        check(ignore, routes, host, "NoRoute");
    }
    // No route tells hosts apart.
    for host in ["public.com:1", "public.com.", "public.com.:1", ""] {
        check("", any, host, "1:");
    }
    check("", any, "public.com:x", "NoRoute");
}

#[test]
fn what_has_two_readings_or_no_value_is_denied() {
    let value = r#"14: Value("{folder}")"#;
    check("GET", "api.example.com/v1/projects/web/secrets", value);
    check("GET", "api.example.com/v1/projects/web/secrets/", value);
    check("GET", "api.example.com/v1/projects/web/secrets/db/", value);
    check(
        "GET",
        "api.example.com/v1/projects/web/secrets/a%20b",
        value,
    );
    let refused = |path, refusal: PathRefusal| check("GET", path, &format!("Path({refusal:?})"));
    refused("any/me/../health", PathRefusal::DotSegment);
    refused("any/health%2f..%2fme", PathRefusal::EscapedDelimiter);
    refused("any//health", PathRefusal::EmptySegment);
    refused("any/health;x", PathRefusal::Semicolon);
    let empty = Table::default();
    assert_eq!(told(&empty, "GET", "any/health"), "NoRoute");
    assert!(empty.is_empty());
}

fn check_wrong(text: &str, line: Option<usize>, hint: &str) {
    let error = Table::parse(text, &Withheld::default()).expect_err(text);
    assert_eq!(error.line, line, "{text}: {error}");
    assert!(error.message.contains(hint), "{text}: {error}");
}

/// A route for `/a` with more lines; the first of these is line 3.
fn check_route(lines: &str, line: usize, hint: &str) {
    check_wrong(
        &format!("[[route]]\npath = \"/a\"\n{lines}\n"),
        Some(line),
        hint,
    );
}

#[test]
fn a_table_with_one_wrong_line_is_refused_whole_and_told_by_it() {
    check_wrong("", None, "no [[route]]");
    check_wrong("# nothing\n", None, "no [[route]]");
    check_wrong("route = []", None, "no [[route]]");
    check_wrong("\n[[route]\n", Some(2), "]");
    check_wrong(
        "[[routes]]\npath = \"/a\"",
        Some(1),
        "unknown field `routes`",
    );
    check_wrong("[[route]]\n", Some(1), "neither 'path' nor 'grpc'");
    check_wrong(
        "[[route]]\npath = \"/a\"\ngrpc = \"a.B/C\"",
        Some(1),
        "both",
    );
    check_route("pth = \"/b\"", 3, "unknown field `pth`");
    check_route("path = \"/b\"", 3, "duplicate");
    check_route("host = 1", 3, "expected a string");
    check_route("host = \"a:80\"", 3, "no host");
    check_route("methods = []", 3, "leave 'methods' out");
    check_route("methods = \"GET\"", 3, "expected a sequence");
    check_route("methods = [\"get\"]", 3, "upper case");
    check_route("methods = [\"\"]", 3, "upper case");
    check_route("methods = [\"GET\", \"GET\"]", 3, "twice");
    check_route("\naction = \"a:b\"", 1, "no 'resource'");
    check_route("resource = \"a\"", 1, "no 'action'");
    check_route("resource = \"a\"\naction = \"A\"", 4, "an action is");
    check_route("resource = \"a\"\naction = \"a:*\"", 4, "an action is");
    check_route("action = \"a\"\nresource = \"a//b\"", 4, "a resource is");
    check_route("action = \"a\"\nresource = \"a/*\"", 4, "a resource is");
    check_route("action = \"a\"\nresource = \"{b}\"", 4, "no capture");
    check_route("action = \"a\"\nresource = \"{header:X}\"", 4, "lower case");
    check_route("audience = \"\"", 3, "an audience is");
    check_route("audience = \"a b\"", 3, "an audience is");
    check_route("stale = \"allow\"", 3, "'deny'");
    check_route("optional = \"true\"", 3, "expected a boolean");
    check_route("[[route]]\npath = \"b\"", 4, "begins with '/'");
    check_wrong(
        "[[route]]\ngrpc = \"a.B/C\"\nmethods = [\"POST\"]",
        Some(3),
        "always a POST",
    );
    for grpc in [
        "", "a", "/a.B/C", "a.B/", "a.B/*/x", "a.B/C/D", "*/C", "a.*/C", "a..B/C", "a.B/{c}",
        "1.B/C",
    ] {
        check_wrong(
            &format!("[[route]]\ngrpc = \"{grpc}\""),
            Some(2),
            "no gRPC method",
        );
    }
}

#[test]
fn a_table_has_its_limits() {
    let route = |at| format!("[[route]]\npath = \"/{at}\"\n");
    let full: String = (0..ROUTES_MAX).map(route).collect();
    let table = Table::parse(&full, &Withheld::default()).expect("as many as there may be");
    assert_eq!(table.len(), ROUTES_MAX);
    assert_eq!(told(&table, "GET", "/4095"), "8191:");
    let line = Some(2 * ROUTES_MAX + 1);
    check_wrong(
        &(full + "[[route]]\npath = \"/x\"\n"),
        line,
        "at most 4096 routes",
    );
    let long = format!("{TABLE}#{}", "x".repeat(TABLE_BYTES_MAX));
    check_wrong(&long, None, "at most 1048576 bytes");
}

/// Two routes: is the second one refused for never matching?
fn check_hidden(first: &str, second: &str, hidden: bool) {
    let text = format!("[[route]]\n{first}\n[[route]]\n{second}\n");
    match Table::parse(&text, &Withheld::default()) {
        Ok(_) => assert!(!hidden, "{text}"),
        Err(error) => {
            assert!(hidden, "{text}: {error}");
            let line = 2 + first.lines().count();
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.message.contains("line 1 "), "{text}: {error}");
        }
    }
}

#[test]
fn a_route_that_can_never_match_is_refused() {
    let path = |first: &str, second: &str, hidden| {
        let line = |path| format!("path = \"{path}\"");
        check_hidden(&line(first), &line(second), hidden);
    };
    path("/a", "/a", true);
    path("/a", "/a/", false);
    path("/a", "/b", false);
    path("/{a}", "/{b}", true);
    path("/{a}", "/*", true);
    path("/{a}", "/b", true);
    path("/b", "/{a}", false);
    path("/**", "/", true);
    path("/**", "/a/{b}/c", true);
    path("/a/**", "/a", true);
    path("/a/**", "/a/", true);
    path("/a/**", "/a/b/{c=**}", true);
    path("/a/b/**", "/a/{c}", false);
    path("/a/*/**", "/a/**", false);
    path("/a/**", "/*/**", false);
    path("/*/b", "/a/*", false);
    path("/{a}", "/{a}:x", true);
    path("/{a}:x", "/{b}:x", true);
    path("/{a}:x", "/{b}:y", false);
    path("/{a}:x", "/{b}", false);
    path("/{a}:x", "/b:x", true);
    path("/{a}:x", "/:x", false);
    let any = "path = \"/a\"";
    let with = |line: &str| format!("{line}\n{any}");
    check_hidden(any, &with("methods = [\"GET\"]"), true);
    check_hidden(&with("methods = [\"GET\"]"), any, false);
    let both = with("methods = [\"GET\", \"PUT\"]");
    check_hidden(&both, &with("methods = [\"PUT\"]"), true);
    check_hidden(&with("methods = [\"PUT\"]"), &both, false);
    check_hidden(any, &with("host = \"a.com\""), true);
    check_hidden(&with("host = \"a.com\""), any, false);
    check_hidden(&with("host = \"a.com\""), &with("host = \"A.com\""), true);
    check_hidden(&with("host = \"a.com\""), &with("host = \"b.com\""), false);
    check_hidden(
        &with("host = \"*.a.com\""),
        &with("host = \"b.a.com\""),
        true,
    );
    check_hidden("grpc = \"a.B/*\"", "grpc = \"a.B/C\"", true);
    check_hidden("grpc = \"a.B/C\"", "grpc = \"a.B/*\"", false);
    check_hidden("grpc = \"a.B/C\"", "path = \"/a.B/C\"", false);
    check_hidden("path = \"/a.B/*\"", "grpc = \"a.B/C\"", true);
    // One hides it only together with another.
    let three = "[[route]]\nmethods = [\"GET\"]\npath = \"/a\"\n[[route]]\npath = \"/a\"\nmethods = \
                 [\"PUT\"]\n[[route]]\npath = \"/a\"\nmethods = [\"GET\", \"PUT\"]\n";
    assert!(Table::parse(three, &Withheld::default()).is_ok());
}

fn template() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        3 => Just("a".to_owned()),
        2 => Just("b".to_owned()),
        1 => Just("a:x".to_owned()),
        2 => Just("*".to_owned()),
    ];
    let end = prop_oneof![3 => Just(""), 1 => Just("/"), 1 => Just("/**"), 1 => Just("/*:x")];
    (prop::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
        let inner: String = segments
            .iter()
            .map(|segment| format!("/{segment}"))
            .collect();
        match (inner + end).as_str() {
            "" => "/".to_owned(),
            text => text.to_owned(),
        }
    })
}

fn rule() -> impl Strategy<Value = (String, Option<&'static str>, Option<&'static str>)> {
    let host = prop::option::of(prop::sample::select(vec!["h.com", "*.h.com", "*.com"]));
    let method = prop::option::of(prop::sample::select(vec!["GET", "PUT"]));
    (template(), host, method)
}

proptest! {
    #[test]
    fn the_tree_finds_what_trying_every_route_finds(
        rules in prop::collection::vec(rule(), 1..24),
        requests in prop::collection::vec(
            (
                "(/(a|b|a:x|b:x|:x|c)){0,5}/?",
                prop::sample::select(vec!["h.com", "i.h.com", "i.com", ""]),
                prop::sample::select(vec!["GET", "PUT", "POST"]),
            ),
            1..24,
        ),
    ) {
        let mut table = Table::default();
        let mut all = Vec::new();
        for (template, host, method) in &rules {
            let mut text = format!("[[route]]\npath = \"{template}\"\n");
            text += &host.map_or(String::new(), |host| format!("host = \"{host}\"\n"));
            text += &method.map_or(String::new(), |method| format!("methods = [\"{method}\"]\n"));
            let file: File = toml::from_str(&text).expect("a route");
            let before = table.len();
            // What is refused for being hidden would be found by none of them.
            let _ = table.add(&file.route[0], &Lines::of(&text), &Withheld::default());
            let taken = table.len() > before;
            let read = Rule::read(file.route[0].get_ref(), 1, &Lines::of(&text), &Withheld::default());
            all.push((taken.then_some(before), read.expect("a route")));
        }
        for (raw, host, method) in &requests {
            let Ok(path) = Path::parse(raw) else { continue };
            let first = all.iter().find(|(_, rule)| {
                PathTemplate::known(&rule.path).matches(&path) && rule.is_for(method, host)
            });
            let request = Request { host, method, path: raw };
            let found = table.matching(&request).ok();
            let found = found.map(|matched| std::ptr::from_ref(matched.rule));
            let wanted = first.map(|(place, _)| place.expect("a hidden route matches nothing"));
            let wanted = wanted.map(|place| std::ptr::from_ref(&table.rules[place]));
            prop_assert_eq!(found, wanted, "{} {} {}", raw, host, method);
        }
    }
}
