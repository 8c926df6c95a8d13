//! Paths that are made to be read in two ways: by us as one thing, by the service as another.
//!
//! Everybody may read `/v1/public/`, and the sender's token permits `/v1/secrets/mine`. Each path
//! goes through an Envoy that cleans paths as the README recommends, and through one that leaves
//! them alone. Whatever reaches the service is what was judged, and no reading of it, by the most
//! lenient of services, is anything else than these two.

use std::collections::BTreeSet;
use std::path::Path;

use super::client::{Answer, ask, get};
use super::config::Listener;
use super::mesh::{Mesh, asking, with_scope};
use crate::program::fresh;

/// What is needed, by Latchkey's own table.
const TABLE: &str = r#"
[[route]]
path = "/v1/secrets/{name}"
action = "secrets:read"
resource = "acme/web/{name}"

[[route]]
path = "/v1/public/**"
optional = true
"#;

/// Two listeners, `clean` and `plain`; what is needed is said by their routes or by a table.
async fn mesh(table: Option<&Path>) -> Mesh {
    let setting = table.map(|table| format!("envoy.routes_file={}", table.display()));
    Mesh::start(&Vec::from_iter(setting.as_deref()), |port| {
        let clean = match setting {
            None => asking("clean", port).route("/v1/public/", &[("latchkey.optional", "true")]),
            Some(_) => Listener::asking("clean", port),
        };
        let mut plain = clean.clone();
        (plain.name, plain.normalises) = ("plain", false);
        vec![clean, plain]
    })
    .await
}

/// What a service may take a target for: every way of reading it that is known, and each of their
/// readings in turn.
fn readings(target: &str) -> BTreeSet<String> {
    let mut all = readings_by_case(target);
    all.extend(readings_by_case(&target.to_ascii_lowercase()));
    all
}

/// The same, by services that tell capital letters apart.
fn readings_by_case(target: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([target.to_owned()]);
    let mut next = vec![target.to_owned()];
    while let Some(path) = next.pop() {
        for read in [
            decoded,
            without_query,
            by_either_slash,
            without_parameters,
            without_dots,
            merged,
            before_nul,
            without_host,
            before_fragment,
        ] {
            let read = read(&path);
            if found.insert(read.clone()) {
                next.push(read);
            }
        }
        assert!(found.len() < 1_000, "{target}");
    }
    found
}

fn decoded(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.map_or('%', char::from));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    out + rest
}

fn cut(path: &str, at: char) -> String {
    path.split(at).next().unwrap_or_default().to_owned()
}

fn without_query(path: &str) -> String {
    cut(path, '?')
}

fn before_fragment(path: &str) -> String {
    cut(path, '#')
}

fn before_nul(path: &str) -> String {
    cut(path, '\0')
}

fn by_either_slash(path: &str) -> String {
    path.replace('\\', "/")
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| cut(segment, ';'));
    Vec::from_iter(segments).join("/")
}

fn merged(path: &str) -> String {
    let mut merged = path.to_owned();
    while merged.contains("//") {
        merged = merged.replace("//", "/");
    }
    merged
}

fn without_host(path: &str) -> String {
    let Some((_, rest)) = path.split_once("://") else {
        return path.to_owned();
    };
    rest.find('/')
        .map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned())
}

fn without_dots(path: &str) -> String {
    // What stands behind the `?` is no path.
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let path = kept.join("/");
    if path.starts_with('/') || path.contains("://") {
        path + query
    } else {
        format!("/{path}{query}")
    }
}

/// Whether a reading is of something that the sender may not have.
fn is_forbidden(reading: &str) -> bool {
    let path = without_query(reading);
    // RFC 3986, section 6.2.2.2: an escape of what needs none is another spelling of the same.
    let path = decoded(&path);
    let permitted = path == "/v1/secrets/mine" || path.starts_with("/v1/public");
    !permitted && (path.contains("/secrets") || path.starts_with("/admin"))
}

/// Every byte as the character of its number.
fn bytes(target: &str) -> Vec<u8> {
    let byte = |character: char| u8::try_from(u32::from(character)).expect("a byte");
    target.chars().map(byte).collect()
}

/// What came of a target: the path that the service saw, or the status and, if we gave it, the
/// reason.
fn outcome(answer: &Answer) -> String {
    if answer.status == 200 {
        return answer.seen().target;
    }
    match answer.header("content-type") {
        Some("application/json") => {
            let reason = answer.json()["reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            format!("{} {reason}", answer.status)
        }
        _ => answer.status.to_string(),
    }
}

/// Whether a service that tells capital letters apart may take it for a secret of somebody else.
fn is_a_secret(target: &str) -> bool {
    let all = readings_by_case(target);
    let mut paths = all.iter().map(|reading| without_query(&decoded(reading)));
    paths.any(|path| path.starts_with("/v1/secrets/") && path != "/v1/secrets/mine")
}

/// Sends each target to both listeners; what came of it must be as is written beside it.
async fn check(method: &str, cases: &[(&str, &str, &str)]) {
    let dir = fresh();
    let table = dir.path().join("routes.toml");
    std::fs::write(&table, TABLE).expect("written");
    check_by(&mesh(None).await, method, cases).await;
    check_by(&mesh(Some(&table)).await, method, cases).await;
}

async fn check_by(mesh: &Mesh, method: &str, cases: &[(&str, &str, &str)]) {
    let token = mesh
        .issue(with_scope("secrets:read@acme/web/mine"))
        .await
        .secret;
    let mut wrong = Vec::new();
    for &(target, clean, plain) in cases {
        for (listener, expected) in [("clean", clean), ("plain", plain)] {
            let before = mesh.reached().len();
            let ask = ask(method, bytes(target)).bearer(&token);
            let answer = ask.send(mesh.envoy.port(listener)).await;
            let came = outcome(&answer);
            if came != expected {
                wrong.push(format!(
                    "{listener}: {target:?}: {came:?}, not {expected:?}"
                ));
            }
            let reached = mesh.reached().split_off(before);
            assert_eq!(
                reached.len(),
                usize::from(answer.status == 200),
                "{target:?}: {reached:?}"
            );
            for seen in &reached {
                let all = readings(seen);
                let forbidden = all.iter().find(|reading| is_forbidden(reading));
                assert_eq!(forbidden, None, "{listener}: {target:?} is read so");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_most_lenient_of_services_reads_the_tricks_as_they_are_meant() {
    for target in [
        "/v1/public/../secrets/db",
        "/v1/public/%2e%2E/secrets/db",
        "/v1/public/%252e%252e/secrets/db",
        "/v1/public/..%2fsecrets%2fdb",
        "/v1/public/..\\secrets\\db",
        "/v1/public/..%5Csecrets%5cdb",
        "/v1/public/..;a=b/secrets/db",
        "/v1//secrets///db",
        "/v1/secrets/db;mine",
        "/v1/secrets/db%00mine",
        "/v1/secrets/db#/../mine",
        "http://elsewhere/v1/secrets/db",
        "/V1/Secrets/DB",
    ] {
        assert!(
            readings(target).iter().any(|reading| is_forbidden(reading)),
            "{target}"
        );
    }
    for target in [
        "/v1/secrets/mine",
        "/v1/public/a?/../../secrets/db",
        "/v1/public/secrets/db",
    ] {
        let all = readings(target);
        assert_eq!(
            all.iter().find(|reading| is_forbidden(reading)),
            None,
            "{target}"
        );
    }
}

/// A target, and what comes of it with clean paths and with paths left alone.
type Case = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const PLAIN: &[Case] = &[
    ("/v1/public/a", "/v1/public/a", "/v1/public/a"),
    ("/v1/secrets/mine", "/v1/secrets/mine", "/v1/secrets/mine"),
    ("/v1/secrets/db", "403 not_permitted", "403 not_permitted"),
];

#[rustfmt::skip]
const DOTS: &[Case] = &[
    ("/v1/public/../secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/../secrets/mine", "/v1/secrets/mine", "400 path"),
    ("/v1/public/./../secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/a/../../secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/a/..", "/v1/public/", "400 path"),
    ("/v1/public/.", "/v1/public/", "400 path"),
    ("/v1/secrets/mine/../db", "403 not_permitted", "400 path"),
    ("/v1/secrets/db/../mine", "/v1/secrets/mine", "400 path"),
    ("/../v1/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/.../secrets", "/v1/public/.../secrets", "/v1/public/.../secrets"),
];

#[rustfmt::skip]
const ESCAPED_DOTS: &[Case] = &[
    ("/v1/public/%2e%2e/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/%2E%2e/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/.%2e/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/%2E./secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/%2e/a", "/v1/public/a", "400 path"),
    ("/v1/public/%252e%252e/secrets/db", "400 path", "400 path"),
    ("/v1/public/%25%32%65%25%32%65/secrets/db", "400 path", "400 path"),
    ("/v1/public/%u002e%u002e/secrets/db", "400 path", "400 path"),
    ("/v1/public/%c0%ae%c0%ae/secrets/db", "400 path", "400 path"),
    ("/v1/public/\u{c0}\u{ae}\u{c0}\u{ae}/secrets/db", "400", "400"),
    ("/v1/public/%ff", "400 path", "400 path"),
    ("/v1/public/\u{ff}", "400", "400"),
];

#[rustfmt::skip]
const SLASHES: &[Case] = &[
    ("/v1/public/..%2fsecrets/db", "400", "400 path"),
    ("/v1/public/%2e%2e%2Fsecrets%2Fdb", "400", "400 path"),
    ("/v1/public/..%252fsecrets/db", "400 path", "400 path"),
    ("/v1/public/..%c0%afsecrets/db", "400 path", "400 path"),
    ("/v1/secrets/mine%2fdb", "400", "400 path"),
    ("/v1%2Fsecrets/db", "400", "400 path"),
    ("/v1/public/..%5csecrets%5Cdb", "400", "400 path"),
    ("/v1/public/..\\secrets\\db", "403 not_permitted", "400 path"),
    ("/v1/public\\..\\secrets\\db", "403 not_permitted", "400 path"),
    ("\\v1\\secrets\\db", "400", "400"),
];

#[rustfmt::skip]
const DOUBLED: &[Case] = &[
    ("//v1/secrets/db", "403 not_permitted", "400 path"),
    ("/v1//secrets/db", "403 not_permitted", "400 path"),
    ("/v1/secrets//db", "403 not_permitted", "400 path"),
    ("/v1/secrets/mine//", "403 no_route", "400 path"),
    ("/v1/secrets//mine", "/v1/secrets/mine", "400 path"),
    ("/v1/public//a", "/v1/public/a", "400 path"),
    ("/v1/public//../secrets/db", "/v1/public/secrets/db", "400 path"),
    ("//elsewhere/v1/public/a", "403 no_route", "400 path"),
    ("/v1/secrets/mine/", "403 no_route", "403 no_route"),
];

#[rustfmt::skip]
const PARAMETERS: &[Case] = &[
    ("/v1/public/..;/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/..;a=b/secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public;/../secrets/db", "403 not_permitted", "400 path"),
    ("/v1/public/..%3b/secrets/db", "400 path", "400 path"),
    ("/v1/secrets/mine;a", "400 path", "400 path"),
    ("/v1/secrets/mine%3Ba", "400 path", "400 path"),
    (";/v1/secrets/db", "400", "400"),
];

#[rustfmt::skip]
const QUERIES: &[Case] = &[
    ("/v1/public/a?/../../secrets/db", "/v1/public/a?/../../secrets/db", "/v1/public/a?/../../secrets/db"),
    ("/v1/secrets/mine?b=%2e%2e%2fdb&c=a/../b", "/v1/secrets/mine?b=%2e%2e%2fdb&c=a/../b", "/v1/secrets/mine?b=%2e%2e%2fdb&c=a/../b"),
    ("/v1/secrets/mine?", "/v1/secrets/mine?", "/v1/secrets/mine?"),
    ("/v1/secrets/?/../mine", "403 no_route", "403 no_route"),
    ("/v1/secrets/mine%3fa", "400 path", "400 path"),
    ("?/v1/secrets/mine", "400", "400"),
    ("/v1/public/a#/../../secrets/db", "400", "400"),
    ("/v1/secrets/db#/../mine", "400", "400"),
    ("/v1/public/a?b#c", "400", "400"),
    ("/v1/secrets/mine%23a", "400 path", "400 path"),
];

#[rustfmt::skip]
const BYTES: &[Case] = &[
    ("/v1/public/a\0b", "400", "400"),
    ("/v1/secrets/mine%00", "400", "400 path"),
    ("/v1/secrets/db%00mine", "400", "400 path"),
    ("/v1/public/%00/../secrets/db", "400", "400 path"),
    ("/v1/secrets/mine%0d%0ax:y", "400 path", "400 path"),
    ("/v1/public/a%7fb", "400 path", "400 path"),
    ("/v1/public/a\tb", "400", "400"),
    ("/v1/public/a\u{1}b", "400", "400"),
    ("/v1/public/a b", "400", "400"),
    ("/v1/public/a%20b", "/v1/public/a%20b", "/v1/public/a%20b"),
    ("/v1/public/a%", "400 path", "400 path"),
    ("/v1/public/a%2", "400 path", "400 path"),
    ("/v1/public/%zz", "400 path", "400 path"),
];

#[rustfmt::skip]
const SPELLINGS: &[Case] = &[
    ("/v1/secrets/MINE", "403 not_permitted", "403 not_permitted"),
    ("/V1/Secrets/db", "403 no_route", "403 no_route"),
    ("/v1/public/%e2%82%ac", "/v1/public/%e2%82%ac", "/v1/public/%e2%82%ac"),
    ("/v1/public/%ef%bc%8e%ef%bc%8e/secrets", "/v1/public/%ef%bc%8e%ef%bc%8e/secrets", "/v1/public/%ef%bc%8e%ef%bc%8e/secrets"),
];

#[rustfmt::skip]
const FORMS: &[Case] = &[
    ("http://api.example.com/v1/secrets/db", "403 not_permitted", "403 not_permitted"),
    ("http://api.example.com/v1/secrets/mine", "/v1/secrets/mine", "/v1/secrets/mine"),
    ("http://elsewhere/v1/public/../secrets/db", "403 not_permitted", "400 path"),
    ("http://elsewhere/v1/public/a", "/v1/public/a", "/v1/public/a"),
    ("http:///v1/secrets/db", "400", "400"),
    ("http://a@b/v1/secrets/db", "403 not_permitted", "403 not_permitted"),
    ("ftp://a/v1/public/a", "400", "400"),
    ("v1/secrets/db", "400", "400"),
    ("*", "400", "400"),
    ("", "400", "400"),
];

#[rustfmt::skip]
const ALL: [&[Case]; 10] = [
    PLAIN, DOTS, ESCAPED_DOTS, SLASHES, DOUBLED, PARAMETERS, QUERIES, BYTES, SPELLINGS, FORMS,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_path_can_be_read_as_beside_what_was_judged_reaches_no_service() {
    check("GET", &ALL.concat()).await;
}

/// Where Envoy's last route is for everybody, whatever it does not know as a secret's path ends
/// there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_for_everybody_does_not_lead_to_what_another_route_guards() {
    let mesh = Mesh::start(&[], |port| {
        let clean = asking("clean", port).route("/", &[("latchkey.optional", "true")]);
        let mut plain = clean.clone();
        (plain.name, plain.normalises) = ("plain", false);
        vec![clean, plain]
    })
    .await;
    let respelled = [
        "/v1/%73ecrets/db",
        "/v1/secret%73/db",
        "/%761/secrets/db",
        "/v%31/secrets/db?a",
        "/v1/%73%65%63%72%65%74%73/%64%62",
        "/v1/secrets/min%65",
    ];
    let known = ALL.concat();
    let targets = known.iter().map(|(target, ..)| *target).chain(respelled);
    for target in targets {
        for listener in ["clean", "plain"] {
            let before = mesh.reached().len();
            let answer = get(bytes(target)).send(mesh.envoy.port(listener)).await;
            let reached = mesh.reached().split_off(before);
            let secret = reached.iter().find(|seen| is_a_secret(seen));
            assert_eq!(secret, None, "{listener}: {target:?}: {answer:?}");
        }
    }
    for target in respelled {
        let plain = get(target).send(mesh.envoy.port("plain")).await;
        assert_eq!(outcome(&plain), "400 path", "{target}");
        let clean = get(target).send(mesh.envoy.port("clean")).await;
        assert_eq!(outcome(&clean), "401 no_token", "{target}");
    }
    let elsewhere = get("/v1/a%20b%7Cc").send(mesh.envoy.port("plain")).await;
    assert_eq!(outcome(&elsewhere), "/v1/a%20b%7Cc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_no_path_is_nobodys() {
    check(
        "OPTIONS",
        &[
            ("*", "404", "404"),
            ("/v1/public/a", "/v1/public/a", "/v1/public/a"),
        ],
    )
    .await;
    check(
        "CONNECT",
        &[
            ("api.example.com:443", "404", "404"),
            ("/v1/public/a", "400", "400"),
            ("http://api.example.com/v1/public/a", "400", "400"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_without_an_end_is_refused() {
    let long = |bytes: usize| format!("/v1/public/{}", "a".repeat(bytes - 11));
    let (fits, longer, endless) = (long(8 << 10), long((8 << 10) + 1), long(100 << 10));
    let query = format!("/v1/public/a?{}", "a/../".repeat(4 << 10));
    check(
        "GET",
        &[
            (&fits, &fits, &fits),
            (&longer, "400 path", "400 path"),
            (&query, &query, &query),
            (&endless, "431", "431"),
        ],
    )
    .await;
}
