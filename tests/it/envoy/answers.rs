//! What clients get: the request passes, or they are told what to do about it.
//!
//! Each denial by its status, its challenge (RFC 6750) and its body; and that a revocation that is
//! confirmed holds for the next request. Headers come as one text each, and as raw bytes.

use std::time::{Duration, SystemTime};

use latchkey::proto::v1;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use v1::enforcement::State;

use super::client::{Answer, Ask, get, until};
use super::config::Listener;
use super::mesh::{Mesh, SECRET, asking, web, with_scope};

const PLAIN: &str = "Bearer realm=\"latchkey\"";

/// Two listeners that differ in how they hand headers over.
async fn both(settings: &[&str], listener: impl Fn(&'static str, u16) -> Listener) -> Mesh {
    Mesh::start(settings, |port| {
        let raw = listener("raw", port);
        let mut joined = listener("joined", port);
        joined.raw_headers = false;
        vec![raw, joined]
    })
    .await
}

/// With every kind of route.
fn routed(name: &'static str, port: u16) -> Listener {
    let by_header = [
        ("latchkey.action", "secrets:read"),
        ("latchkey.resource", "acme/{header:x-project}/db"),
    ];
    asking(name, port)
        .route("/v1/signed-in", &[("latchkey.optional", "false")])
        .route("/v1/audience", &[("latchkey.audience", "web-api")])
        .route("/v1/broken", &[("latchkey.acton", "secrets:read")])
        .route("/v1/header", &by_header)
}

impl Mesh {
    /// What both listeners answer.
    async fn answers(&self, ask: &Ask) -> [Answer; 2] {
        let (raw, joined) = (self.envoy.port("raw"), self.envoy.port("joined"));
        [ask.send(raw).await, ask.send(joined).await]
    }

    /// Both let it pass.
    async fn allows(&self, ask: &Ask) {
        for answer in self.answers(ask).await {
            answer.seen();
        }
    }

    /// Both deny it so, and the service hears nothing.
    async fn denies(&self, ask: &Ask, status: u16, reason: &str, challenge: Option<&str>) {
        let before = self.reached().len();
        for answer in self.answers(ask).await {
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body = answer.json();
            assert_eq!(body["reason"], reason, "{body}");
            let message = body["message"].as_str().expect("a message");
            assert!(!message.is_empty() && !answer.body.contains('<'), "{body}");
            let id = answer.header("x-request-id").expect("asked for");
            assert_eq!(
                body,
                json!({"reason": reason, "message": message, "request_id": id})
            );
            let retry_after = (status == 503).then_some("1");
            assert_eq!(answer.header("retry-after"), retry_after);
            assert_eq!(answer.header("www-authenticate"), challenge);
        }
        assert_eq!(self.reached().len(), before);
    }

    /// Both say that the token does not do.
    async fn finds_invalid(&self, ask: &Ask, reason: &str, message: &str) {
        let challenge =
            format!("{PLAIN}, error=\"invalid_token\", error_description=\"{message}\"");
        self.denies(ask, 401, reason, Some(&challenge)).await;
    }
}

fn secret(token: &str) -> Ask {
    get(SECRET).bearer(token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_token_passes_by_either_header_and_the_request_is_otherwise_as_it_was() {
    let mesh = both(&[], routed).await;
    let token = mesh.secret().await;
    for ask in [
        secret(&token),
        get(SECRET).header("authorization", format!("bearer {token}")),
        get(SECRET).header("X-Api-Key", &token),
        // The same one twice is one.
        secret(&token).header("x-api-key", &token),
    ] {
        mesh.allows(&ask).await;
    }
    let ask = secret(&token)
        .header("x-other", "1")
        .header("cookie", "a=b");
    for answer in mesh.answers(&ask).await {
        let seen = answer.seen();
        assert_eq!((&*seen.method, &*seen.target), ("GET", SECRET));
        assert_eq!(seen.all("authorization"), [format!("Bearer {token}")]);
        assert_eq!(
            (seen.all("x-other"), seen.all("cookie")),
            (vec!["1"], vec!["a=b"])
        );
        assert_eq!(answer.header("x-latchkey-token-expires-at"), None);
    }
    mesh.allows(&get("/v1/signed-in").bearer(&token)).await;
    let header = get("/v1/header").bearer(&token).header("x-project", "web");
    mesh.allows(&header).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_does_not_do_is_told_by_its_reason() {
    let mesh = both(&[], routed).await;
    mesh.denies(&get(SECRET), 401, "no_token", Some(PLAIN))
        .await;
    mesh.denies(
        &get(SECRET).header("authorization", "Basic YTpi"),
        401,
        "no_token",
        Some(PLAIN),
    )
    .await;
    let not_known = ["lkr_nobodys", "?", "lkr_"];
    for token in not_known {
        mesh.finds_invalid(&secret(token), "unknown", "the token is not known")
            .await;
    }
    let bytes = get(SECRET).header("authorization", b"Bearer lkr_\xff");
    mesh.finds_invalid(&bytes, "unknown", "the token is not known")
        .await;

    let revoked = mesh.secret().await;
    mesh.revoke(&revoked).await;
    mesh.finds_invalid(&secret(&revoked), "revoked", "the token was revoked")
        .await;

    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3_600);
    let later = mesh.issue(v1::IssueTokenRequest {
        not_before: Some(tomorrow.into()),
        ..web()
    });
    let later = later.await.secret;
    mesh.finds_invalid(
        &secret(&later),
        "not_yet_valid",
        "the token is not valid yet",
    )
    .await;

    let elsewhere = mesh.issue(v1::IssueTokenRequest {
        audience: "another".to_owned(),
        ..web()
    });
    let ask = get("/v1/audience").bearer(&elsewhere.await.secret);
    let message = "the token is not meant for this audience";
    mesh.finds_invalid(&ask, "audience", message).await;

    mesh.run("user create alice --home acme --reason test");
    let theirs = mesh.issue(v1::IssueTokenRequest {
        kind: v1::TokenKind::User as i32,
        subject: "user:alice".to_owned(),
        resource: String::new(),
        ..web()
    });
    let theirs = secret(&theirs.await.secret);
    mesh.run("user disable alice --reason test");
    let message = "the token's subject is disabled";
    mesh.finds_invalid(&theirs, "subject_disabled", message)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_may_not_is_told_what_is_missing() {
    let mesh = both(&[], routed).await;
    let narrow = mesh
        .issue(with_scope("secrets:read@acme/web/api"))
        .await
        .secret;
    let challenge = format!(
        "{PLAIN}, error=\"insufficient_scope\", \
         error_description=\"the token does not permit this\", scope=\"secrets:read@acme/web/db\""
    );
    mesh.denies(&secret(&narrow), 403, "not_permitted", Some(&challenge))
        .await;
    mesh.allows(&get("/v1/secrets/api").bearer(&narrow)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_is_counted_for_each_request_and_none_passes_beyond_the_last() {
    let mesh = both(&[], routed).await;
    let twice = mesh.issue(v1::IssueTokenRequest {
        uses: Some(4),
        ..web()
    });
    // A client's own id of the request is no reason to count it once.
    let ask = secret(&twice.await.secret).header("x-request-id", "the-same");
    mesh.allows(&ask).await;
    mesh.allows(&ask).await;
    mesh.finds_invalid(&ask, "uses_exhausted", "the token's uses are spent")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_is_told_so() {
    let mesh = both(&[], routed).await;
    let second = prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    let short = mesh.issue(v1::IssueTokenRequest {
        ttl: Some(second),
        ..web()
    });
    let ask = secret(&short.await.secret);
    let ended = async || ask.send(mesh.envoy.port("raw")).await.status != 200;
    until("expired", ended).await;
    mesh.finds_invalid(&ask, "expired", "the token has expired")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_denied_whoever_asks() {
    let mesh = both(&[], routed).await;
    let token = mesh.secret().await;
    for (path, status, reason) in [
        ("/nowhere", 403, "no_route"),
        ("/v1/secrets/a/b", 403, "no_route"),
        ("/v1/secrets/", 403, "no_route"),
        ("/v1/secrets/a%20b", 403, "no_resource"),
        ("/v1/header", 403, "no_resource"),
        ("/v1/broken", 403, "misconfigured"),
        ("/v1/secrets/a;b", 400, "path"),
    ] {
        mesh.denies(&get(path).bearer(&token), status, reason, None)
            .await;
        mesh.denies(&get(path), status, reason, None).await;
    }
    let header = get("/v1/header").bearer(&token);
    for value in ["", "a/b", "a b", "**", "{name}"] {
        let ask = header.clone().header("x-project", value);
        mesh.denies(&ask, 403, "no_resource", None).await;
    }
    let doubled = header.header("x-project", "web").header("x-project", "web");
    mesh.denies(&doubled, 403, "no_resource", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_credentials_are_none() {
    let mesh = both(&[], |name, port| {
        routed(name, port).route("/v1/open", &[("latchkey.optional", "true")])
    })
    .await;
    let (token, other) = (mesh.secret().await, mesh.secret().await);
    let challenge = format!(
        "{PLAIN}, error=\"invalid_request\", \
         error_description=\"more than one credential was presented\""
    );
    for path in [SECRET, "/v1/open"] {
        for ask in [
            get(path).bearer(&token).bearer(&other),
            get(path).bearer(&format!("{token} {other}")),
            get(path).bearer(&token).bearer(&token),
            get(path)
                .bearer(&token)
                .header("Authorization", "Basic YTpi"),
            get(path).header("authorization", format!("Bearer {token},Bearer {other}")),
            get(path).header("authorization", format!("Bearer {token}, {other}")),
            get(path).bearer(&token).header("x-api-key", &other),
            get(path).bearer("lkr_nobodys").header("x-api-key", &token),
            get(path)
                .header("x-api-key", &token)
                .header("x-api-key", &other),
            get(path).header("x-api-key", format!("{token},{other}")),
        ] {
            mesh.denies(&ask, 400, "several_tokens", Some(&challenge))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_is_confirmed_holds_for_the_next_request() {
    let mesh = both(&[], routed).await;
    let token = mesh.secret().await;
    mesh.allows(&secret(&token)).await;
    let revoked = mesh.revoke(&token).await;
    let enforcement = revoked.enforcement.expect("always");
    assert_eq!(enforcement.state(), State::Confirmed);
    mesh.finds_invalid(&secret(&token), "revoked", "the token was revoked")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_may_not_ask_lets_nothing_pass_and_one_with_a_token_may() {
    let mesh = both(&["check.open=false"], routed).await;
    let token = mesh.secret().await;
    mesh.denies(&secret(&token), 503, "caller", None).await;
    mesh.denies(&get(SECRET), 503, "caller", None).await;
    let caller = mesh
        .issue(with_scope("tokens:check@acme/web/**"))
        .await
        .secret;
    let stranger = mesh
        .issue(with_scope("secrets:read@acme/web/**"))
        .await
        .secret;
    let [asking, not] = [("asking", caller), ("not", stranger)].map(|(name, caller)| {
        let mut listener = routed(name, super::mesh::port(&mesh.latchkey));
        listener.token = Some(caller);
        listener
    });
    let envoy = mesh.another_envoy(&[asking, not]).await;
    assert_eq!(secret(&token).send(envoy.port("asking")).await.status, 200);
    assert_eq!(get(SECRET).send(envoy.port("asking")).await.status, 401);
    assert_eq!(secret(&token).send(envoy.port("not")).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_asked_about_once_and_a_denied_one_is_not_opened() {
    let mesh = both(&[], routed).await;
    let token = mesh.secret().await;
    let open = get(SECRET)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    mesh.denies(&open, 401, "no_token", Some(PLAIN)).await;
    let (answer, mut stream) = open.bearer(&token).open(mesh.envoy.port("raw")).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    // What is open stays so: Envoy asks about requests, not about what comes after.
    mesh.revoke(&token).await;
    stream.write_all(b"any bytes").await.expect("sent");
    let mut bytes = [0; 9];
    stream.read_exact(&mut bytes).await.expect("received");
    assert_eq!(&bytes, b"any bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_an_audience_is_for_routes_of_that_audience_alone() {
    let mesh = both(&[], routed).await;
    // `/v1/audience` is for `web-api`, `/v1/signed-in` for nobody in particular.
    for (audience, with, without) in [
        ("", true, true),
        ("web-api", true, false),
        ("b", false, false),
    ] {
        let token = mesh.issue(v1::IssueTokenRequest {
            audience: audience.to_owned(),
            ..web()
        });
        let token = token.await.secret;
        for (path, passes) in [("/v1/audience", with), ("/v1/signed-in", without)] {
            let ask = get(path).bearer(&token);
            if passes {
                mesh.allows(&ask).await;
            } else {
                let message = "the token is not meant for this audience";
                mesh.finds_invalid(&ask, "audience", message).await;
            }
        }
    }
}
