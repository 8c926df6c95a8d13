//! Infisical's service accounts: machine principals with permissions by project and environment.
//!
//! The kind that came before identities; its keys are service tokens here.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{REASON, only, refused, seconds, token_of};
use super::door::{Door, on_each_store};
use crate::wire::bearer;

const CI: &str = "service:ci";

on_each_store! {
    an_account_is_permitted_by_project_and_environment
    a_paused_account_pauses_its_tokens
    deleting_an_account_ends_its_tokens_and_grants
    an_account_makes_short_lived_tokens_of_its_own
}

/// An account that reads and writes staging and only reads prod.
async fn account(door: &Door) -> String {
    door.principal(CI, "acme").await;
    door.role("reader", "acme", &["secrets:read"]).await;
    door.role("editor", "acme", &["secrets:read", "secrets:write"])
        .await;
    door.grant(CI, "editor", "acme/web/staging/**").await;
    door.grant(CI, "reader", "acme/web/prod/**").await;
    door.login(CI).await
}

async fn an_account_is_permitted_by_project_and_environment(door: Door) {
    let ci = account(&door).await;
    for (action, resource, expected) in [
        ("secrets:write", "acme/web/staging/db", true),
        ("secrets:read", "acme/web/prod/db", true),
        ("secrets:write", "acme/web/prod/db", false),
        ("secrets:read", "acme/web", false),
        ("secrets:read", "acme/api/staging", false),
    ] {
        let allowed = door.allows(&ci, action, resource).await;
        assert_eq!(allowed, expected, "{action} {resource}");
    }
}

async fn a_paused_account_pauses_its_tokens(door: Door) {
    let ci = account(&door).await;
    door.pause(CI).await;
    assert_eq!(door.state(&ci).await, v1::Reason::SubjectDisabled);
    refused(
        door.who_am_i(&ci).await,
        Code::Unauthenticated,
        "UNAUTHENTICATED",
    );
    let request = v1::EnableServiceAccountRequest {
        name: CI.to_owned(),
        reason: REASON.to_owned(),
        ..v1::EnableServiceAccountRequest::default()
    };
    let done = door
        .directory()
        .enable_service_account(bearer(&door.admin, request))
        .await;
    done.expect("goes on");
    assert_eq!(door.state(&ci).await, v1::Reason::Allowed);
}

async fn deleting_an_account_ends_its_tokens_and_grants(door: Door) {
    let ci = account(&door).await;
    let request = v1::DeleteServiceAccountRequest {
        name: CI.to_owned(),
        reason: REASON.to_owned(),
        ..v1::DeleteServiceAccountRequest::default()
    };
    let done = door
        .directory()
        .delete_service_account(bearer(&door.admin, request))
        .await;
    done.expect("deleted");
    assert_eq!(door.state(&ci).await, v1::Reason::Revoked);
    // The name given a second time revives nothing.
    door.principal(CI, "acme").await;
    assert_eq!(door.state(&ci).await, v1::Reason::Revoked);
    let fresh = door.login(CI).await;
    assert!(
        !door
            .allows(&fresh, "secrets:read", "acme/web/prod/db")
            .await
    );
}

async fn an_account_makes_short_lived_tokens_of_its_own(door: Door) {
    let ci = account(&door).await;
    let asked = v1::IssueTokenRequest {
        subject: String::new(),
        derive: true,
        scopes: Some(only(&["secrets:read@acme/web/prod/db"])),
        ttl: Some(seconds(30)),
        ..token_of(CI)
    };
    let short = door.issued_by(&ci, asked).await.expect("its own").secret;
    assert!(
        door.allows(&short, "secrets:read", "acme/web/prod/db")
            .await
    );
    assert!(
        !door
            .allows(&short, "secrets:write", "acme/web/staging/db")
            .await
    );
    // Or exchanged, without a row and without a right to issue.
    let asked = v1::ExchangeTokenRequest {
        scopes: Some(only(&["secrets:write@acme/web/staging/db"])),
        ttl: Some(seconds(30)),
        ..v1::ExchangeTokenRequest::default()
    };
    let exchanged = door.exchanged(&ci, asked).await.expect("a child");
    let other = exchanged.access_token;
    assert!(
        door.allows(&other, "secrets:write", "acme/web/staging/db")
            .await
    );
    assert!(
        !door
            .allows(&other, "secrets:read", "acme/web/prod/db")
            .await
    );
    door.pass(31);
    assert_eq!(door.state(&short).await, v1::Reason::Expired);
    assert_eq!(door.state(&other).await, v1::Reason::Expired);
    assert_eq!(door.state(&ci).await, v1::Reason::Allowed);
}
