//! Infisical's service tokens: several environments and path globs of one project, read or write.
//!
//! Here they are resource tokens: they speak for the project, not for a principal.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{Issued, missing, only, refused, resource_token, seconds};
use super::door::{Door, on_each_store};

const PROJECT: &str = "acme/web";

on_each_store! {
    a_token_has_several_environments_path_globs_and_read_or_write
    creating_one_needs_the_right_and_everything_in_its_scopes
    a_token_expires_or_never_does
    deleting_one_needs_the_right_and_leaves_a_trace
    listing_them_needs_the_right_and_shows_each_once_in_order
}

fn token(scopes: &[&str]) -> v1::IssueTokenRequest {
    resource_token(PROJECT, scopes)
}

/// Somebody who manages the project's tokens and reads its secrets; somebody who reads only.
async fn people(door: &Door) -> (String, String) {
    for user in ["user:keeper", "user:reader"] {
        door.principal(user, "acme").await;
        let name = &user[5..];
        let keeps: &[&str] = match name {
            "keeper" => &[
                "tokens:issue",
                "tokens:read",
                "tokens:revoke",
                "secrets:read",
            ],
            _ => &["secrets:read"],
        };
        door.role(name, "acme", keeps).await;
        door.grant(user, name, "acme/web/**").await;
    }
    (
        door.login("user:keeper").await,
        door.login("user:reader").await,
    )
}

async fn a_token_has_several_environments_path_globs_and_read_or_write(door: Door) {
    let token = door
        .issue(token(&[
            "secrets:read,secrets:write@acme/web/staging/**",
            "secrets:read@acme/web/prod/*",
            "secrets:read@acme/web/dev/folder1/*",
        ]))
        .await;
    for (action, path, expected) in [
        ("secrets:write", "staging", true),
        ("secrets:write", "staging/a/b", true),
        ("secrets:read", "prod/db", true),
        ("secrets:write", "prod/db", false),
        ("secrets:read", "prod", false),
        ("secrets:read", "prod/db/deep", false),
        ("secrets:read", "dev/folder1/x", true),
        ("secrets:read", "dev/folder2/x", false),
    ] {
        let resource = format!("{PROJECT}/{path}");
        let allowed = door.allows(&token.secret, action, &resource).await;
        assert_eq!(allowed, expected, "{action} {path}");
    }
    assert!(
        !door
            .allows(&token.secret, "secrets:read", "acme/api/staging")
            .await
    );
}

async fn creating_one_needs_the_right_and_everything_in_its_scopes(door: Door) {
    let (keeper, reader) = people(&door).await;
    let read = &["secrets:read@acme/web/prod/**"];
    let answer = door.issued_by(&reader, token(read)).await;
    let status = refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(missing(&status), ["tokens:issue@acme/web"]);
    door.issued_by(&keeper, token(read)).await.expect("both");
    let write = &["secrets:read,secrets:write@acme/web/prod/**"];
    let status = refused(
        door.issued_by(&keeper, token(write)).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["secrets:write@acme/web/prod/**"]);
    // A glob is held by one that is as wide, not by many that are narrower.
    let status = refused(
        door.issued_by(&keeper, token(&["secrets:read@acme/*/prod"]))
            .await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["secrets:read@acme/*/prod"]);
}

async fn a_token_expires_or_never_does(door: Door) {
    let read = &["secrets:read@acme/web/prod"];
    let ever = door.issue(token(read)).await;
    let short = v1::IssueTokenRequest {
        ttl: Some(seconds(20)),
        ..token(read)
    };
    let short = door.issue(short).await;
    assert!(
        door.allows(&short.secret, "secrets:read", "acme/web/prod")
            .await
    );
    door.pass(21);
    assert_eq!(door.state(&short.secret).await, v1::Reason::Expired);
    assert_eq!(door.state(&ever.secret).await, v1::Reason::Allowed);
    let shown = door.shown(&door.admin, &ever.id).await.expect("shown");
    assert_eq!(shown.expires_at, None);
}

async fn deleting_one_needs_the_right_and_leaves_a_trace(door: Door) {
    let (keeper, reader) = people(&door).await;
    let made = door.issue(token(&["secrets:read@acme/web/prod"])).await;
    refused(
        door.revoked_by(&reader, &made.id).await,
        Code::NotFound,
        "NOT_FOUND",
    );
    assert_eq!(door.state(&made.secret).await, v1::Reason::Allowed);
    door.revoked_by(&keeper, &made.id).await.expect("the right");
    assert_eq!(door.state(&made.secret).await, v1::Reason::Revoked);
    let shown = door.shown(&keeper, &made.id).await.expect("the right");
    assert_eq!(shown.state(), v1::TokenState::Revoked);
    let log = door.log().await;
    let last = log.last().expect("a change");
    assert_eq!(
        (last.kind.as_str(), last.actor.as_str(), &last.target),
        ("token.revoke", "user:keeper", &made.id)
    );
}

async fn listing_them_needs_the_right_and_shows_each_once_in_order(door: Door) {
    let (keeper, reader) = people(&door).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(door.issue(token(&["secrets:read@acme/web/prod"])).await);
        // Ids are ordered by the millisecond.
        door.pass(1);
    }
    let asked = || v1::ListTokensRequest {
        resource_under: PROJECT.to_owned(),
        page_size: 2,
        ..v1::ListTokensRequest::default()
    };
    let listed = door.listed(&keeper, asked()).await.expect("the right");
    let listed: Vec<_> = listed.into_iter().map(|one| one.token_id).collect();
    let oldest_first: Vec<_> = made.iter().map(|Issued { id, .. }| id.clone()).collect();
    assert_eq!(listed, oldest_first);
    refused(
        door.listed(&reader, asked()).await,
        Code::PermissionDenied,
        "PERMISSION_DENIED",
    );
    // Scopes that come from nowhere are none: nothing is widened by listing.
    let none = door.issue(v1::IssueTokenRequest {
        scopes: Some(only(&[])),
        ..token(&[])
    });
    assert!(
        !door
            .allows(&none.await.secret, "secrets:read", "acme/web/prod")
            .await
    );
}
