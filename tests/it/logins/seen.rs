//! What an operator sees of logins: the metrics, and the log of a server.
//!
//! Each tells more than the client is told, and no secret.

use latchkey::proto::v1;
use tonic::Code;

use super::house::{ACCOUNT, House, REASON};
use super::with_universal_auth;
use crate::leaks::metrics;
use crate::program::{Server, fresh};
use crate::wire::bearer;

#[tokio::test]
async fn a_write_that_is_refused_early_is_logged_with_its_token_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    let admin = house.check(&house.admin.clone(), &[]).await.token_id;
    let rotate = v1::RotateKeyRequest {
        reason: REASON.to_owned(),
        ..v1::RotateKeyRequest::default()
    };
    let refused = house.keys.rotate_key(bearer(&house.admin, rotate)).await;
    refused.expect_err("no new key");
    // What is sealed has no secret to rotate, and no row to derive from.
    let rotate = v1::RotateTokenRequest {
        reason: REASON.to_owned(),
        ..v1::RotateTokenRequest::default()
    };
    let rotate = bearer(&token.access_token, rotate);
    let refused = house.tokens.rotate_token(rotate).await;
    let refused = refused.expect_err("it is renewed instead");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let derive = v1::IssueTokenRequest {
        derive: true,
        name: "child".to_owned(),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::All(v1::AllScopes {})),
        }),
        reason: REASON.to_owned(),
        ..v1::IssueTokenRequest::default()
    };
    let derive = bearer(&token.access_token, derive);
    let refused = house.tokens.issue_token(derive).await;
    let refused = refused.expect_err("it is exchanged instead");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let unknown = v1::RotateTokenRequest {
        reason: REASON.to_owned(),
        ..v1::RotateTokenRequest::default()
    };
    let unknown = bearer(&format!("{}x", token.access_token), unknown);
    let refused = house.tokens.rotate_token(unknown).await;
    let refused = refused.expect_err("no token at all");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let logged = server.kill();
    let of = |method: &str, id: &str| {
        let lines = logged.lines().filter(|line| line.contains(method));
        lines.filter(|line| line.contains(id)).count()
    };
    assert_eq!(of("RotateKey", &admin), 1, "{logged}");
    assert_eq!(of("RotateToken", &token.token_id), 1, "{logged}");
    assert_eq!(of("IssueToken", &token.token_id), 1, "{logged}");
}

#[tokio::test]
async fn metrics_tell_what_became_of_logins_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let once = v1::CreateClientSecretRequest {
        uses: Some(1),
        ..House::wanted()
    };
    let once = house.secret(once).await.client_secret;
    let elsewhere = v1::CreateClientSecretRequest {
        networks: vec!["192.0.2.0/24".to_owned()],
        ..House::wanted()
    };
    let elsewhere = house.secret(elsewhere).await.client_secret;
    let revoked = house.secret(House::wanted()).await.client_secret;
    house.revoke_found(&revoked).await;
    for shown in [
        &secret, &once, &once, &elsewhere, &revoked, "lkc_", &secret, &secret,
    ] {
        let _ = house.try_login(shown).await;
    }
    let by = |client_id: &str, proof| v1::LoginRequest {
        client_id: client_id.to_owned(),
        proof: Some(proof),
        ..v1::LoginRequest::default()
    };
    let secret_of = v1::login_request::Proof::ClientSecret(secret.clone());
    let assertion = v1::login_request::Proof::Assertion("a.b.c".to_owned());
    for asked in [
        by("service:nobody", secret_of.clone()),
        by("\n", secret_of),
        by(ACCOUNT, assertion),
    ] {
        house.logins.login(asked).await.expect_err("refused");
    }
    let shown = metrics(&server.admin_address);
    let mut lines: Vec<_> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("latchkey_logins_total"))
        .collect();
    lines.sort_unstable();
    let universal =
        |outcome, count| format!("{{method=\"universal_auth\",outcome=\"{outcome}\"}} {count}");
    let expected = [
        "{method=\"key_pair\",outcome=\"malformed\"} 1".to_owned(),
        universal("network", 1),
        universal("ok", 4),
        universal("revoked", 1),
        universal("unknown_client", 2),
        universal("uses_exhausted", 1),
        universal("wrong_credential", 1),
    ];
    assert_eq!(lines, expected);

    for _ in 0..3 {
        house.try_login("lkc_").await.expect_err("a guess");
    }
    // They are counted behind the answers.
    while house.locked().await.is_empty() {
        tokio::task::yield_now().await;
    }
    house.try_login(&secret).await.expect_err("locked out");
    let kind = v1::LoginMethodKind::UniversalAuth;
    house.remove_method(kind).await;
    house.try_login(&secret).await.expect_err("no method");
    let shown = metrics(&server.admin_address);
    for (outcome, count) in [("locked", 1), ("no_method", 1), ("wrong_credential", 4)] {
        let line = universal(outcome, count);
        assert!(shown.contains(&line), "{line} in {shown}");
    }
}
