//! What a service and the access log learn of who asks.
//!
//! And that no client can say it in our place, however it spells the headers.

use std::time::{Duration, UNIX_EPOCH};

use latchkey::proto::v1;
use serde_json::Value;

use super::client::{Ask, get, until};
use super::config::Listener;
use super::mesh::{Mesh, SECRET, asking, web, with_scope};
use super::upstream::Seen;

/// What a client sends in the hope that a service takes it for ours.
const FORGED: [&str; 10] = [
    "x-latchkey-subject",
    "X-Latchkey-Subject",
    "X-LATCHKEY-SUBJECT",
    "x_latchkey_subject",
    "X_Latchkey-Subject",
    "x-latchkey-token-id",
    "x-latchkey_token-id",
    "x-latchkey-kind",
    "x-latchkey-scopes",
    "x-latchkey-revision",
];

fn forged(path: &str) -> Ask {
    FORGED
        .into_iter()
        .fold(get(path), |ask, name| ask.header(name, "user:root"))
}

/// The headers that a service may take for ours: its gateway may fold case and `_`.
fn told(seen: &Seen) -> Vec<(String, String)> {
    let named = seen.headers.iter().map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        (name, value.clone())
    });
    let ours = |name: &str| name.replace('_', "-").starts_with("x-latchkey-");
    let mut told: Vec<_> = named.filter(|(name, _)| ours(name)).collect();
    told.sort();
    told
}

/// One with every way of handling headers, paths left alone.
fn listeners(port: u16) -> Vec<Listener> {
    let mut raw = asking("raw", port).route("/v1/open/", &[("latchkey.optional", "true")]);
    raw.normalises = false;
    let mut joined = raw.clone();
    (joined.name, joined.raw_headers) = ("joined", false);
    vec![raw, joined]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_told_who_asks_by_us_and_never_by_the_client() {
    let mesh = Mesh::start(&[], listeners).await;
    let issued = mesh.issue(web()).await;
    let token_id = issued.token.expect("always").token_id;
    for listener in ["raw", "joined"] {
        let port = mesh.envoy.port(listener);
        for ask in [get(SECRET), forged(SECRET)] {
            let seen = ask.bearer(&issued.secret).send(port).await.seen();
            let told = told(&seen);
            let names: Vec<&str> = told.iter().map(|(name, _)| &**name).collect();
            let expected = ["kind", "revision", "scopes", "subject", "token-id"];
            assert_eq!(names, expected.map(|name| format!("x-latchkey-{name}")));
            let values: Vec<&str> = told.iter().map(|(_, value)| &**value).collect();
            let [kind, revision, scopes, subject, id] = values[..] else {
                panic!("{values:?}");
            };
            assert_eq!((kind, scopes), ("resource", "secrets:read@acme/web/**"));
            assert_eq!((subject, id), ("resource:acme/web", &*token_id));
            let (number, chain) = revision.split_once('-').expect("two parts");
            assert!(
                number.parse::<u64>().is_ok() && !chain.is_empty(),
                "{revision}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anonymous_request_carries_no_identity_at_all() {
    let mesh = Mesh::start(&[], listeners).await;
    let token = mesh.secret().await;
    for listener in ["raw", "joined"] {
        let port = mesh.envoy.port(listener);
        let seen = forged("/v1/open/a").send(port).await.seen();
        assert_eq!(told(&seen), []);
        // A credential that is there is judged as ever.
        let seen = forged("/v1/open/a").bearer(&token).send(port).await.seen();
        assert_eq!(told(&seen).len(), 5);
        let refused = get("/v1/open/a").bearer("lkr_nobodys").send(port).await;
        assert_eq!(refused.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_are_all_or_listed_or_too_long_to_be_told() {
    let mesh = Mesh::start(&[], listeners).await;
    let all = v1::IssueTokenRequest {
        kind: v1::TokenKind::User as i32,
        resource: String::new(),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        ..web()
    };
    let mut long = web();
    let many = (0..60).map(|n| format!("secrets:read@acme/web/a-folder-with-a-long-name-{n:020}"));
    let many = many
        .chain(["secrets:read@acme/web/db".to_owned()])
        .collect();
    long.scopes = Some(v1::ScopesInput {
        extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList {
            scopes: many,
        })),
    });
    let mut two = with_scope("secrets:read@acme/web/db");
    if let Some(v1::ScopesInput {
        extent: Some(v1::scopes_input::Extent::Only(only)),
    }) = &mut two.scopes
    {
        only.scopes.push("secrets:write@acme/web/db".to_owned());
    }
    for (request, expected) in [
        (all, vec!["all"]),
        (
            two,
            vec!["secrets:read@acme/web/db secrets:write@acme/web/db"],
        ),
        (long, vec![]),
    ] {
        let token = mesh.issue(request).await.secret;
        for listener in ["raw", "joined"] {
            let ask = forged("/v1/open/a").bearer(&token);
            let seen = ask.send(mesh.envoy.port(listener)).await.seen();
            assert_eq!(seen.all("x-latchkey-scopes"), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_settings_and_the_credential_goes_no_further_if_that_is_set() {
    let settings = [
        "envoy.headers.subject=x-user",
        "envoy.headers.kind=",
        "envoy.strip_credential=true",
    ];
    let mesh = Mesh::start(&settings, listeners).await;
    let token = mesh.secret().await;
    for listener in ["raw", "joined"] {
        let port = mesh.envoy.port(listener);
        let ask = forged(SECRET)
            .header("x-user", "root")
            .header("X_User", "root");
        for ask in [
            ask.clone().bearer(&token),
            ask.clone().header("x-api-key", &token),
            ask.clone().bearer(&token).header("X-API-Key", &token),
        ] {
            let seen = ask.send(port).await.seen();
            assert_eq!(seen.all("x-user"), ["resource:acme/web"]);
            assert!(seen.all("x_user").is_empty());
            assert!(seen.all("authorization").is_empty(), "{seen:?}");
            assert!(seen.all("x-api-key").is_empty(), "{seen:?}");
            // What is no name of ours any more is a header like any other.
            assert_eq!(seen.all("x-latchkey-kind"), ["user:root"]);
        }
        // A service may have users of its own, who are none of ours.
        let basic = ask.header("authorization", "Basic YTpi");
        let seen = basic.header("x-api-key", &token).send(port).await.seen();
        assert_eq!(seen.all("authorization"), ["Basic YTpi"]);
        assert!(seen.all("x-api-key").is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_when_its_token_ends_soon() {
    let mesh = Mesh::start(&["envoy.expires_soon=2h"], listeners).await;
    for (seconds, soon) in [(3_600, true), (3 * 3_600, false)] {
        let ttl = prost_types::Duration { seconds, nanos: 0 };
        let issued = mesh.issue(v1::IssueTokenRequest {
            ttl: Some(ttl),
            ..web()
        });
        let issued = issued.await;
        let ends = issued
            .token
            .and_then(|token| token.expires_at)
            .expect("an end");
        let ends = UNIX_EPOCH + Duration::from_secs(ends.seconds.unsigned_abs());
        let ends = humantime::format_rfc3339_seconds(ends).to_string();
        let answer = get(SECRET)
            .bearer(&issued.secret)
            .send(mesh.envoy.port("raw"))
            .await;
        let told = answer.header("x-latchkey-token-expires-at");
        assert_eq!(told, soon.then_some(&*ends));
        answer.seen();
    }
}

/// What Envoy's access log tells of a request, once it does.
async fn logged(mesh: &Mesh, path: &str) -> Value {
    let find = || {
        let lines = mesh.envoy.written("requests");
        let lines = lines.lines().map(serde_json::from_str::<Value>);
        lines.flatten().find(|line| line["path"] == path)
    };
    until("logged", async || find().is_some()).await;
    find().expect("found")["latchkey"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_who_it_was_and_why_not() {
    let mesh = Mesh::start(&[], listeners).await;
    let issued = mesh.issue(web()).await;
    let token_id = issued.token.expect("always").token_id;
    let (raw, joined) = (mesh.envoy.port("raw"), mesh.envoy.port("joined"));
    let with_token = |path| get(path).bearer(&issued.secret);
    assert_eq!(with_token("/v1/secrets/a").send(raw).await.status, 200);
    assert_eq!(with_token("/v1/nowhere").send(joined).await.status, 403);
    assert_eq!(get("/v1/secrets/b").send(raw).await.status, 401);
    mesh.revoke(&issued.secret).await;
    assert_eq!(with_token("/v1/secrets/c").send(joined).await.status, 401);
    let allowed = logged(&mesh, "/v1/secrets/a").await;
    assert_eq!(allowed["reason"], "allowed");
    assert!(allowed["valid_for_ms"].as_f64() > Some(0.0), "{allowed}");
    let revoked = logged(&mesh, "/v1/secrets/c").await;
    assert_eq!(revoked["reason"], "revoked");
    assert!(revoked["valid_for_ms"].is_null(), "{revoked}");
    for of_token in [allowed, revoked] {
        assert_eq!(of_token["token_id"], *token_id, "{of_token}");
        assert_eq!(of_token["subject"], "resource:acme/web");
        assert_eq!(of_token["kind"], "resource");
        assert!(of_token["revision"].is_string(), "{of_token}");
    }
    assert_eq!(logged(&mesh, "/v1/nowhere").await["reason"], "no_route");
    let anonymous = logged(&mesh, "/v1/secrets/b").await;
    assert_eq!(anonymous["reason"], "no_token");
    assert!(anonymous["token_id"].is_null(), "{anonymous}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_can_have_an_identity_dropped_on_the_way() {
    // What `connection` names is for one hop alone (RFC 9110, section 7.6.1).
    let mesh = Mesh::start(&[], listeners).await;
    let token = mesh.secret().await;
    for listener in ["raw", "joined"] {
        let port = mesh.envoy.port(listener);
        let named = get(SECRET).bearer(&token);
        let named = named.header("connection", "close, x-latchkey-subject");
        let seen = named.send(port).await.seen();
        assert_eq!(told(&seen).len(), 5);
        assert!(seen.all("connection").is_empty(), "{seen:?}");
        // Envoy takes them away before it asks; what it passes on to open a WebSocket is ours to
        // look at.
        let opening = get(SECRET).bearer(&token).header("upgrade", "websocket");
        let before = mesh.reached().len();
        for names in [
            "upgrade, x-latchkey-subject",
            "X-Latchkey-Kind,Upgrade",
            "upgrade,cookie",
        ] {
            let (answer, _) = opening.clone().header("connection", names).open(port).await;
            assert_eq!(answer.status, 400, "{names}: {answer:?}");
        }
        assert_eq!(mesh.reached().len(), before);
        let usual = opening.header("connection", "keep-alive, Upgrade");
        assert_eq!(usual.open(port).await.0.status, 101);
    }
}
