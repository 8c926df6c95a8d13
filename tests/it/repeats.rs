//! Request ids over the wire: who gets a first answer again, and what a request id stands for.
//!
//! Ids are scoped to the principal, so that a client may repeat with another token of the same
//! user; what that token may not do itself it is not told either.

use latchkey::proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use v1::revoke_token_request::Target;
use v1::token_service_client::TokenServiceClient;

use crate::program::{Server, fresh};
use crate::wire::{bearer, channel};

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("info").reason.clone()
}

fn revoke_itself(target: Option<Target>, id: &str) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest {
        target,
        request_id: id.to_owned(),
        ..v1::RevokeTokenRequest::default()
    }
}

#[tokio::test]
async fn a_narrower_token_of_the_same_user_does_not_get_the_first_answer_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let admin = server.admin.clone().expect("fresh");
    let (_, narrow) = server
        .admin()
        .issue("--kind user --scope 'a:b@acme/**' --name narrow --reason test");
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    let request = v1::IssueTokenRequest {
        kind: v1::TokenKind::Resource as i32,
        name: "agent".to_owned(),
        resource: "acme/web".to_owned(),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList {
                scopes: vec!["a:b@acme/web".to_owned()],
            })),
        }),
        reason: "test".to_owned(),
        request_id: "id-1".to_owned(),
        ..v1::IssueTokenRequest::default()
    };
    client
        .issue_token(bearer(&admin, request.clone()))
        .await
        .expect("issued");
    let status = client
        .issue_token(bearer(&narrow, request.clone()))
        .await
        .expect_err("it may not issue");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    let again = client.issue_token(bearer(&admin, request)).await;
    assert!(again.expect("repeated").into_inner().secret_withheld);
}

#[tokio::test]
async fn one_request_id_never_hides_that_another_token_still_lives_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let issue = |name: &str| {
        let arguments = format!("--kind user --name {name} --reason test");
        server.admin().issue(&arguments).1
    };
    let (one, other) = (issue("one"), issue("other"));
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    client
        .revoke_token(bearer(&one, revoke_itself(None, "id-1")))
        .await
        .expect("revoked");
    let status = client
        .revoke_token(bearer(&other, revoke_itself(None, "id-1")))
        .await
        .expect_err("the id stands for the end of another token");
    assert_eq!(reason(&status), "REQUEST_ID_REUSED");
    assert!(server.admin().check(&other, "a:b", "acme").0);
}

#[tokio::test]
async fn a_token_that_revoked_itself_is_told_so_again_embedded() {
    let dir = fresh();
    let server = Server::start(dir.path());
    let mut client = TokenServiceClient::new(channel(&server.address).await);
    for (number, by) in ["itself", "id", "secret"].into_iter().enumerate() {
        let (id, token) = server
            .admin()
            .issue("--kind user --name gone --reason test");
        let target = match by {
            "itself" => None,
            "id" => Some(Target::TokenId(id.clone())),
            _ => Some(Target::Secret(token.clone())),
        };
        let request = revoke_itself(target, &format!("id-{number}"));
        let first = client
            .revoke_token(bearer(&token, request.clone()))
            .await
            .expect("revoked")
            .into_inner();
        let again = client
            .revoke_token(bearer(&token, request))
            .await
            .expect(by)
            .into_inner();
        assert_eq!(again.revision, first.revision, "{by}");
        assert!(!again.already_revoked, "{by}: by this very request");
        let shown = again.token.expect("told");
        assert_eq!(shown.token_id, id);
        assert!(shown.subject.is_empty(), "and not who it was");
        let status = client
            .revoke_token(bearer(&token, revoke_itself(None, "another")))
            .await
            .expect_err("it is good for nothing");
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}
