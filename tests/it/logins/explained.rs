//! Explain of a sealed token, which has no row: by its text, for who may explain where its account
//! is managed.
//!
//! It says what a Check says, and why; to anybody else there is no such token.

use latchkey::proto::v1;
use tonic::{Code, Status};
use v1::audit_service_client::AuditServiceClient;
use v1::explain_request::Target;
use v1::revoke_token_request::Target as Revoked;

use super::house::{House, REASON};
use super::with_universal_auth;
use crate::program::{Server, fresh};
use crate::wire::{bearer, channel, check};

async fn explain(server: &Server, who: &str, token: &str) -> Result<v1::ExplainResponse, Status> {
    let request = v1::ExplainRequest {
        target: Some(Target::Token(token.to_owned())),
        needs: check(token, &[("deploy:run", "acme/web/prod")]).needs,
        ..v1::ExplainRequest::default()
    };
    let mut audit = AuditServiceClient::new(channel(&server.address).await);
    let told = audit.explain(bearer(who, request)).await?;
    Ok(told.into_inner())
}

/// A token that may explain below a path.
async fn explainer(house: &mut House, path: &str) -> String {
    let scopes = vec![format!("tokens:explain@{path}")];
    let only = v1::scopes_input::Extent::Only(v1::ScopeList { scopes });
    let issue = v1::IssueTokenRequest {
        resource: "acme".to_owned(),
        name: path.to_owned(),
        kind: v1::TokenKind::Resource.into(),
        scopes: Some(v1::ScopesInput { extent: Some(only) }),
        reason: REASON.to_owned(),
        ..v1::IssueTokenRequest::default()
    };
    let issued = house.tokens.issue_token(bearer(&house.admin, issue)).await;
    issued.expect("issued").into_inner().secret
}

#[tokio::test]
async fn a_sealed_token_is_explained_as_it_is_checked_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let (mut house, secret) = with_universal_auth(&server).await;
    let token = house.login(&secret).await;
    let text = token.access_token.as_str();
    let near = explainer(&mut house, "acme").await;
    let far = explainer(&mut house, "other/**").await;
    let admin = house.admin.clone();
    for who in [&admin, &near] {
        let told = explain(&server, who, text).await.expect("explained");
        assert_eq!(told.reason(), v1::Reason::Allowed, "{told:?}");
        assert_eq!(told.token_id, token.token_id);
        assert!(told.allowed && told.steps.len() > 3, "{told:?}");
    }
    for (who, text) in [(&far, text), (&near, "lka_garbage")] {
        let refused = explain(&server, who, text).await.expect_err("unknown");
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    let revoke = v1::RevokeTokenRequest {
        target: Some(Revoked::AccessTokenId(token.token_id.clone())),
        reason: REASON.to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let revoked = house.tokens.revoke_token(bearer(&admin, revoke)).await;
    revoked.expect("revoked");
    let told = explain(&server, &near, text).await.expect("explained");
    assert_eq!(told.reason(), v1::Reason::Revoked);
    assert_eq!(house.may_deploy(text).await, v1::Reason::Revoked);
}
