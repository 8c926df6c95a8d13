//! Infisical's API keys: a user's own, with all that the user may do.
//!
//! Here they are user tokens without scopes.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{Issued, refused, seconds, token_of};
use super::door::{Door, on_each_store};

on_each_store! {
    a_key_has_all_the_rights_of_its_user_and_no_more
    a_key_is_named_expires_and_is_listed_without_its_secret
    a_key_is_no_key_to_other_users
    an_expired_key_is_refused_and_stays_to_be_seen
    a_key_is_bound_where_its_user_is
}

/// Alice writes secrets of acme, and has a key; Mallory has a token of her own.
async fn users(door: &Door) -> (String, Issued, String) {
    for user in ["user:alice", "user:mallory"] {
        door.principal(user, "acme").await;
    }
    door.role("editor", "acme", &["secrets:*"]).await;
    door.grant("user:alice", "editor", "acme/**").await;
    let (alice, mallory) = (
        door.login("user:alice").await,
        door.login("user:mallory").await,
    );
    let key = v1::IssueTokenRequest {
        subject: String::new(),
        name: "laptop".to_owned(),
        ttl: Some(seconds(60)),
        ..token_of("user:alice")
    };
    let key = door.issued_by(&alice, key).await.expect("her own");
    (alice, key, mallory)
}

async fn a_key_has_all_the_rights_of_its_user_and_no_more(door: Door) {
    let (alice, key, _) = users(&door).await;
    let me = door.who_am_i(&key.secret).await.expect("itself");
    assert_eq!(me.subject, "user:alice");
    for (action, resource, expected) in [
        ("secrets:read", "acme/web/prod", true),
        ("secrets:delete", "acme", true),
        ("secrets:read", "other", false),
        ("users:write", "acme", false),
    ] {
        for token in [&alice, &key.secret] {
            let allowed = door.allows(token, action, resource).await;
            assert_eq!(allowed, expected, "{action} {resource}");
        }
    }
    // What she may do here she may do with it: make another one, for instance.
    let more = v1::IssueTokenRequest {
        subject: String::new(),
        ..token_of("user:alice")
    };
    door.issued_by(&key.secret, more).await.expect("her own");
    let other = door.issued_by(&key.secret, token_of("user:mallory")).await;
    refused(other, Code::NotFound, "NOT_FOUND");
}

async fn a_key_is_named_expires_and_is_listed_without_its_secret(door: Door) {
    let (alice, key, _) = users(&door).await;
    let listed = door.listed(&alice, v1::ListTokensRequest::default()).await;
    let listed = listed.expect("her own");
    let shown = listed.iter().find(|one| one.token_id == key.id);
    let shown = shown.expect("listed");
    assert_eq!(shown.name, "laptop");
    let (from, to) = (
        shown.created_at.expect("when"),
        shown.expires_at.expect("when"),
    );
    assert!((59..=61).contains(&(to.seconds - from.seconds)));
    assert!(!format!("{listed:?}").contains(&key.secret[4..49]));
}

async fn a_key_is_no_key_to_other_users(door: Door) {
    let (alice, key, mallory) = users(&door).await;
    let nothing = "01970000-0000-7000-8000-000000000000";
    // Whether there is one is not told either.
    for id in [key.id.as_str(), nothing] {
        refused(door.shown(&mallory, id).await, Code::NotFound, "NOT_FOUND");
        refused(
            door.revoked_by(&mallory, id).await,
            Code::NotFound,
            "NOT_FOUND",
        );
    }
    assert_eq!(door.state(&key.secret).await, v1::Reason::Allowed);
    door.revoked_by(&alice, &key.id).await.expect("her own");
    assert_eq!(door.state(&key.secret).await, v1::Reason::Revoked);
}

async fn an_expired_key_is_refused_and_stays_to_be_seen(door: Door) {
    let (alice, key, _) = users(&door).await;
    door.pass(61);
    let changes = door.log().await.len();
    assert_eq!(door.state(&key.secret).await, v1::Reason::Expired);
    // A late use deletes nothing.
    assert_eq!(door.log().await.len(), changes);
    let shown = door.shown(&alice, &key.id).await.expect("her own");
    assert_eq!(shown.state(), v1::TokenState::Expired);
}

async fn a_key_is_bound_where_its_user_is(door: Door) {
    let (alice, key, _) = users(&door).await;
    door.role(
        "people",
        "acme",
        &["users:write", "tokens:read", "tokens:revoke"],
    )
    .await;
    door.principal("user:keeper", "acme").await;
    door.grant("user:keeper", "people", "acme").await;
    let keeper = door.login("user:keeper").await;
    // Whoever manages her home sees her keys and ends them.
    let shown = door.shown(&keeper, &key.id).await.expect("at her home");
    assert_eq!(shown.home, "acme");
    door.revoked_by(&keeper, &key.id)
        .await
        .expect("at her home");
    assert_eq!(door.state(&key.secret).await, v1::Reason::Revoked);
    assert_eq!(door.state(&alice).await, v1::Reason::Allowed);
}
