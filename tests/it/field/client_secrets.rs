//! Client secrets over their life: described, rotated, used up, and who has logged in with them.
//!
//! Infisical's of universal auth. There a secret is replaced by another one beside it; here it can
//! also be given another text under its id.

use latchkey::proto::v1;
use tonic::Code;
use v1::revoke_all_request::Target;

use super::company::{REASON, refused, resource_token, seconds};
use super::door::{Door, on_each_store};
use super::entrance::{BOT, settings, wanted};
use crate::wire::bearer;

on_each_store! {
    a_secret_is_rotated_with_a_grace_and_its_sessions_go_on
    a_secret_is_described_and_not_flagged_revoked_when_it_is_over
    who_logged_in_with_what_and_from_where_is_recorded
    a_secret_whose_method_is_gone_is_shown_as_revoked_and_not_rotated
    what_a_secret_gave_is_listed_as_far_as_each_may_be_read
}

async fn a_secret_is_rotated_with_a_grace_and_its_sessions_go_on(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let old = door.secret(wanted()).await;
    let before = door.enter(&old.secret).await;
    let request = v1::RotateTokenRequest {
        token_id: old.id.clone(),
        grace: Some(seconds(30)),
        reason: REASON.to_owned(),
        ..v1::RotateTokenRequest::default()
    };
    let rotated = door
        .tokens()
        .rotate_token(bearer(&door.admin, request))
        .await;
    let rotated = rotated.expect("rotated").into_inner();
    assert_eq!(rotated.token.expect("shown").token_id, old.id);
    let new = rotated.secret;
    assert_ne!(new, old.secret);
    // While the grace lasts either logs in.
    let within = door.enter(&old.secret).await;
    let after = door.enter(&new).await;
    door.pass(31);
    assert!(door.not_let_in(&old.secret).await.contains("expired"));
    door.enter(&new).await;
    // What the old text gave is the credential's: it goes on, and is renewed.
    for token in [&before, &within, &after] {
        assert_eq!(door.deploys(token).await, v1::Reason::Allowed);
        door.next(token, None).await.expect("renewed");
    }
    door.end_all(Target::IssuedByCredential(old.id)).await;
    for token in [&before, &within, &after] {
        assert_eq!(door.deploys(token).await, v1::Reason::Revoked);
    }
    let fresh = door.enter(&new).await;
    assert_eq!(door.deploys(&fresh).await, v1::Reason::Allowed);
}

async fn a_secret_is_described_and_not_flagged_revoked_when_it_is_over(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let short = v1::CreateClientSecretRequest {
        ttl: Some(seconds(30)),
        description: "the night's builds".to_owned(),
        ..wanted()
    };
    let once = v1::CreateClientSecretRequest {
        uses: Some(1),
        ..wanted()
    };
    let (short, once) = (door.secret(short).await, door.secret(once).await);
    door.enter(&once.secret).await;
    door.pass(31);
    for (secret, why, state) in [
        (&short, "expired", v1::TokenState::Expired),
        (&once, "uses_exhausted", v1::TokenState::UsesExhausted),
    ] {
        assert!(door.not_let_in(&secret.secret).await.contains(why));
        let shown = door.shown(&door.admin, &secret.id).await.expect("shown");
        assert_eq!((shown.state(), shown.revocation), (state, None));
    }
    let shown = door.shown(&door.admin, &short.id).await.expect("shown");
    assert_eq!(shown.description, "the night's builds");
}

async fn who_logged_in_with_what_and_from_where_is_recorded(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let (first, second) = (door.secret(wanted()).await, door.secret(wanted()).await);
    let given = [
        door.enter(&first.secret).await,
        door.enter(&second.secret).await,
    ];
    let recorded = async |credential_id: &str| {
        let request = v1::ListLoginsRequest {
            service_account: BOT.to_owned(),
            credential_id: credential_id.to_owned(),
            ..v1::ListLoginsRequest::default()
        };
        let answer = door
            .credentials()
            .list_logins(bearer(&door.admin, request))
            .await;
        answer.expect("listed").into_inner().logins
    };
    // They are written in batches.
    while recorded("").await.len() < 2 {
        tokio::task::yield_now().await;
    }
    for (secret, token) in [&first, &second].into_iter().zip(&given) {
        let logins = recorded(&secret.id).await;
        assert_eq!(logins.len(), 1, "{logins:?}");
        assert_eq!(logins[0].service_account, BOT);
        assert_eq!(logins[0].token_id, token.token_id);
        assert_eq!(logins[0].from, "127.0.0.1");
        assert_eq!(logins[0].expires_at, token.expires_at);
    }
}

async fn a_secret_whose_method_is_gone_is_shown_as_revoked_and_not_rotated(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    let state = async || {
        let shown = door.shown(&door.admin, &secret.id).await;
        shown.expect("shown").state()
    };
    let rotated = async || {
        let request = v1::RotateTokenRequest {
            token_id: secret.id.clone(),
            reason: REASON.to_owned(),
            ..v1::RotateTokenRequest::default()
        };
        let request = bearer(&door.admin, request);
        door.tokens().rotate_token(request).await
    };
    assert_eq!(state().await, v1::TokenState::Active);
    let remove = v1::RemoveLoginMethodRequest {
        service_account: BOT.to_owned(),
        kind: v1::LoginMethodKind::UniversalAuth.into(),
        reason: REASON.to_owned(),
        ..v1::RemoveLoginMethodRequest::default()
    };
    let remove = bearer(&door.admin, remove);
    let removed = door.credentials().remove_login_method(remove).await;
    removed.expect("removed");
    assert_eq!(state().await, v1::TokenState::Revoked);
    let status = refused(
        rotated().await,
        Code::FailedPrecondition,
        "FAILED_PRECONDITION",
    );
    assert!(status.message().contains("is not set on"), "{status}");
    // Set again, it is another method.
    door.universal_auth(settings(600, 1_200)).await;
    assert_eq!(state().await, v1::TokenState::Revoked);
    let status = refused(
        rotated().await,
        Code::FailedPrecondition,
        "FAILED_PRECONDITION",
    );
    assert!(status.message().contains("set again"), "{status}");
}

async fn what_a_secret_gave_is_listed_as_far_as_each_may_be_read(door: Door) {
    door.furnish().await;
    door.role("issuer", "acme", &["tokens:issue"]).await;
    for place in ["acme/**", "beta/**"] {
        door.grant(BOT, "issuer", place).await;
        door.grant(BOT, "deployer", place).await;
    }
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    let token = door.enter(&secret.secret).await.access_token;
    let mut issued = Vec::new();
    for place in ["acme/web", "beta/web"] {
        let scope = format!("deploy:run@{place}");
        let made = door
            .issued_by(&token, resource_token(place, &[&scope]))
            .await;
        issued.push(made.expect("issued").id);
    }
    // Where tokens have uses they are stored, and children of the credential.
    let counted = v1::LoginSettings {
        uses: Some(5),
        ..v1::LoginSettings::default()
    };
    door.universal_auth(counted).await;
    let given = door.enter(&secret.secret).await.token_id;

    door.role("reader", "acme", &["tokens:read"]).await;
    for (name, place) in [("user:eve", Some("acme/**")), ("user:bob", Some("beta/**"))] {
        door.principal(name, "acme").await;
        if let Some(place) = place {
            door.grant(name, "reader", place).await;
        }
    }
    let listed = async |who: &str, asked: v1::ListTokensRequest| {
        let listed = door.listed(who, asked).await.expect("listed");
        listed
            .into_iter()
            .map(|one| one.token_id)
            .collect::<Vec<_>>()
    };
    let children = v1::ListTokensRequest {
        parent_token_id: secret.id.clone(),
        ..v1::ListTokensRequest::default()
    };
    let issued_with = v1::ListTokensRequest {
        issuer_token_id: secret.id.clone(),
        ..v1::ListTokensRequest::default()
    };
    let (eve, bob) = (door.login("user:eve").await, door.login("user:bob").await);
    assert_eq!(
        listed(&eve, children.clone()).await,
        std::slice::from_ref(&given)
    );
    let seen = [issued[0].clone(), given.clone()];
    assert_eq!(listed(&eve, issued_with.clone()).await, seen);
    // Who may not read the credential is told of nothing that came of it.
    assert_eq!(listed(&bob, children).await, [""; 0]);
    assert_eq!(listed(&bob, issued_with.clone()).await, [""; 0]);
    let all = [issued[0].clone(), issued[1].clone(), given];
    assert_eq!(listed(&door.admin, issued_with).await, all);
}
