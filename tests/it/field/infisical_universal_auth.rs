//! Infisical's universal auth: a client id and one of many client secrets give an access token.
//!
//! Here the client id is the name of the service account.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{missing, only, refused, seconds, token_of};
use super::door::{Door, on_each_store};
use super::entrance::{BOT, login, settings, wanted};
use crate::wire::{bearer, check};

on_each_store! {
    a_client_id_and_a_secret_give_a_bearer_token
    an_identity_has_many_secrets_shown_once_and_revoked_one_by_one
    a_secret_has_a_lifetime_and_a_number_of_uses
    a_secret_narrows_what_it_gives
    logins_come_from_trusted_networks_only
    access_tokens_are_used_from_trusted_networks_only
    failures_lock_out_one_network_for_a_while_and_nobody_else
    failures_that_are_far_apart_do_not_lock_out
    whoever_guesses_learns_nothing
    managing_logins_takes_the_right_at_the_home
    a_stronger_identity_is_not_entered_by_a_weaker_manager
    logins_change_nothing_and_leave_no_row
}

async fn a_client_id_and_a_secret_give_a_bearer_token(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    let token = door.enter(&secret.secret).await;
    assert_eq!(token.token_type, "Bearer");
    assert!(token.access_token.starts_with("lka_"));
    assert_eq!(token.expires_in, Some(seconds(600)));
    let (end, most) = (
        token.expires_at.expect("when"),
        token.max_expires_at.expect("when"),
    );
    assert_eq!(most.seconds - end.seconds, 600);
    let answer = door
        .check(&token.access_token, &[("deploy:run", "acme/web/prod")])
        .await;
    assert!(answer.allowed);
    assert_eq!(
        (answer.subject.as_str(), answer.kind()),
        (BOT, v1::TokenKind::Access)
    );
    let answer = door
        .check(&token.access_token, &[("deploy:run", "acme/api")])
        .await;
    assert_eq!(answer.reason(), v1::Reason::NotPermitted);
    // The secret itself is good for nothing else.
    assert_eq!(door.state(&secret.secret).await, v1::Reason::WrongKind);
    refused(
        door.issued_by(&secret.secret, token_of(BOT)).await,
        Code::Unauthenticated,
        "UNAUTHENTICATED",
    );
}

async fn an_identity_has_many_secrets_shown_once_and_revoked_one_by_one(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let (old, new) = (door.secret(wanted()).await, door.secret(wanted()).await);
    let listed = v1::ListTokensRequest {
        subject: BOT.to_owned(),
        kind: v1::TokenKind::ClientSecret.into(),
        ..v1::ListTokensRequest::default()
    };
    let listed = async || {
        door.listed(&door.admin, listed.clone())
            .await
            .expect("listed")
    };
    let shown = listed().await;
    assert_eq!(shown.len(), 2);
    for (one, made) in shown.iter().zip([&old, &new]) {
        assert!(made.secret.starts_with(&one.prefix) && made.secret.ends_with(&one.last_four));
        assert_eq!(one.name, "pipeline");
    }
    let all = format!("{shown:?}{:?}", door.log().await);
    assert!(!all.contains(&old.secret[4..49]) && !all.contains(&new.secret[4..49]));
    // Rotated: the new one is taken, then the old one ends.
    let (before, after) = (door.enter(&old.secret).await, door.enter(&new.secret).await);
    door.revoke(&old.id).await;
    assert!(door.not_let_in(&old.secret).await.contains("revoked"));
    assert_eq!(door.deploys(&before).await, v1::Reason::Revoked);
    assert_eq!(door.deploys(&after).await, v1::Reason::Allowed);
    door.enter(&new.secret).await;
    let states: Vec<_> = listed().await.iter().map(v1::Token::state).collect();
    assert_eq!(
        states,
        [v1::TokenState::Revoked, v1::TokenState::Active],
        "flagged, not deleted"
    );
}

async fn a_secret_has_a_lifetime_and_a_number_of_uses(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let short = v1::CreateClientSecretRequest {
        ttl: Some(seconds(30)),
        ..wanted()
    };
    let twice = v1::CreateClientSecretRequest {
        uses: Some(2),
        ..wanted()
    };
    let (short, twice) = (door.secret(short).await, door.secret(twice).await);
    let token = door.enter(&short.secret).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    door.enter(&twice.secret).await;
    let last = door.enter(&twice.secret).await;
    assert!(
        door.not_let_in(&twice.secret)
            .await
            .contains("uses_exhausted")
    );
    assert_eq!(
        door.deploys(&last).await,
        v1::Reason::Allowed,
        "what the last login gave"
    );
    door.pass(31);
    assert!(door.not_let_in(&short.secret).await.contains("expired"));
    assert_eq!(
        door.deploys(&token).await,
        v1::Reason::Expired,
        "nor does its token outlive it"
    );
    let ever = door.secret(wanted()).await;
    let shown = door.shown(&door.admin, &ever.id).await.expect("shown");
    assert_eq!((shown.expires_at, shown.uses_left), (None, None));
}

async fn a_secret_narrows_what_it_gives(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let narrow = v1::CreateClientSecretRequest {
        scopes: Some(only(&["deploy:run@acme/web/dev"])),
        ..wanted()
    };
    let narrow = door.secret(narrow).await;
    let token = door.enter(&narrow.secret).await.access_token;
    assert!(door.allows(&token, "deploy:run", "acme/web/dev").await);
    assert!(!door.allows(&token, "deploy:run", "acme/web/prod").await);
    // And so may a login.
    let whole = door.secret(wanted()).await;
    let asked = v1::LoginRequest {
        scopes: Some(only(&["deploy:run@acme/web/prod"])),
        ttl: Some(seconds(60)),
        ..login(&whole.secret)
    };
    let given = door
        .logins()
        .login(asked)
        .await
        .expect("let in")
        .into_inner();
    let token = given.token.expect("a token");
    assert_eq!(token.expires_in, Some(seconds(60)));
    assert!(
        door.allows(&token.access_token, "deploy:run", "acme/web/prod")
            .await
    );
    assert!(
        !door
            .allows(&token.access_token, "deploy:run", "acme/web/dev")
            .await
    );
}

async fn logins_come_from_trusted_networks_only(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let bound = |network: &str| v1::CreateClientSecretRequest {
        networks: vec![network.to_owned()],
        ..wanted()
    };
    let elsewhere = door.secret(bound("192.0.2.0/24")).await;
    assert!(door.not_let_in(&elsewhere.secret).await.contains("network"));
    let here = door.secret(bound("127.0.0.0/8")).await;
    let token = door.enter(&here.secret).await;
    assert_eq!(
        door.deploys(&token).await,
        v1::Reason::Allowed,
        "used from anywhere"
    );
    // The account's own setting counts for all of its secrets.
    let elsewhere = v1::LoginSettings {
        login_networks: vec!["192.0.2.0/24".to_owned()],
        ..settings(600, 1_200)
    };
    door.universal_auth(elsewhere).await;
    assert!(door.not_let_in(&here.secret).await.contains("network"));
    // A workload is proven by a client certificate: without one the limit is not skipped.
    let workload = v1::CreateClientSecretRequest {
        workload: "spiffe://acme/bot".to_owned(),
        ..wanted()
    };
    door.universal_auth(settings(600, 1_200)).await;
    let bound = door.secret(workload).await;
    assert!(door.not_let_in(&bound.secret).await.contains("workload"));
}

async fn access_tokens_are_used_from_trusted_networks_only(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    let token = door.enter(&secret.secret).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    // The setting of now, not that of the login.
    let bound = v1::LoginSettings {
        networks: vec!["192.0.2.0/24".to_owned()],
        ..settings(600, 1_200)
    };
    door.universal_auth(bound).await;
    let from = async |address: Option<&str>| {
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: address.map(str::to_owned),
                ..v1::Context::default()
            }),
            ..check(&token.access_token, &[("deploy:run", "acme/web/prod")])
        };
        door.asked(question).await.reason()
    };
    assert_eq!(from(Some("192.0.2.1")).await, v1::Reason::Allowed);
    assert_eq!(from(Some("198.51.100.1")).await, v1::Reason::Network);
    assert_eq!(
        from(None).await,
        v1::Reason::Network,
        "unknown is not skipped"
    );
    refused(
        door.next(&token, None).await,
        Code::Unauthenticated,
        "UNAUTHENTICATED",
    );
    door.universal_auth(settings(600, 1_200)).await;
    assert_eq!(from(None).await, v1::Reason::Allowed);
}

async fn failures_lock_out_one_network_for_a_while_and_nobody_else(door: Door) {
    door.furnish().await;
    // However long the scene takes, nothing of it is too long ago but what it puts there.
    let lockout = v1::LockoutPolicy {
        threshold: 2,
        duration: Some(seconds(200)),
        reset: Some(seconds(3_600)),
    };
    let settings = v1::LoginSettings {
        lockout: Some(lockout),
        ..settings(600, 1_200)
    };
    door.universal_auth(settings).await;
    let secret = door.secret(wanted()).await;
    let guess = async |from: [u8; 4]| {
        let answer = door.logins_from(from).await.login(login("lkc_guess")).await;
        refused(answer, Code::Unauthenticated, "LOGIN_REFUSED")
    };
    // A success in between begins the count anew.
    guess([127, 0, 0, 1]).await;
    door.enter(&secret.secret).await;
    guess([127, 0, 0, 1]).await;
    door.enter(&secret.secret).await;
    for _ in 0..2 {
        guess([127, 0, 0, 9]).await;
    }
    assert_eq!(door.until_locked().await, ["127.0.0.9/32"]);
    let mut locked = door.logins_from([127, 0, 0, 9]).await;
    let answer = locked.login(login(&secret.secret)).await;
    let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
    let guessed = guess([127, 0, 0, 9]).await;
    assert_eq!(
        status.message(),
        guessed.message(),
        "it looks like any guess"
    );
    // Nobody is locked out by what somebody else does.
    let token = door.enter(&secret.secret).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    assert_eq!(door.until_locked().await, ["127.0.0.9/32"]);
    // One change, however often it is tried; and over after its time.
    let log = door.log().await;
    assert_eq!(log.iter().filter(|one| one.kind == "login.lock").count(), 1);
    door.pass(201);
    locked
        .login(login(&secret.secret))
        .await
        .expect("let in again");
}

async fn failures_that_are_far_apart_do_not_lock_out(door: Door) {
    door.furnish().await;
    door.universal_auth(v1::LoginSettings::default()).await;
    let secret = door.secret(wanted()).await;
    for _ in 0..5 {
        door.not_let_in("lkc_guess").await;
        door.pass(31);
    }
    door.enter(&secret.secret).await;
    let never = v1::LoginSettings {
        lockout_disabled: true,
        ..v1::LoginSettings::default()
    };
    door.universal_auth(never).await;
    for _ in 0..5 {
        door.not_let_in("lkc_guess").await;
    }
    door.enter(&secret.secret).await;
}

async fn whoever_guesses_learns_nothing(door: Door) {
    door.furnish().await;
    door.principal("service:other", "acme").await;
    let never = v1::LoginSettings {
        lockout_disabled: true,
        ..v1::LoginSettings::default()
    };
    door.universal_auth(never).await;
    let secret = door.secret(wanted()).await;
    let user = door.login(BOT).await;
    let before = door.log().await.len();
    let mut answers = Vec::new();
    for (client_id, secret) in [
        ("service:nobody", secret.secret.as_str()),
        ("service:other", &secret.secret),
        ("nobody at all", &secret.secret),
        (BOT, "lkc_guess"),
        (BOT, ""),
        (BOT, &user),
    ] {
        let asked = v1::LoginRequest {
            client_id: client_id.to_owned(),
            ..login(secret)
        };
        let status = door.logins().login(asked).await.expect_err("a guess");
        answers.push((
            status.code(),
            status.message().to_owned(),
            status.details().to_vec(),
        ));
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0].0, Code::Unauthenticated);
    assert_eq!(door.log().await.len(), before, "a stranger fills no log");
}

async fn managing_logins_takes_the_right_at_the_home(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    for user in ["user:reader", "user:nobody"] {
        door.principal(user, "acme").await;
    }
    door.role("reader", "acme", &["services:read", "deploy:run"])
        .await;
    door.grant("user:reader", "reader", "acme/**").await;
    let kind = v1::LoginMethodKind::UniversalAuth;
    let methods = async |who: &str| {
        let request = v1::GetLoginMethodsRequest {
            service_account: BOT.to_owned(),
        };
        let answer = door
            .credentials()
            .get_login_methods(bearer(who, request))
            .await;
        answer.map(|answer| answer.into_inner().methods.len())
    };
    let reader = door.login("user:reader").await;
    assert_eq!(methods(&reader).await.expect("the right"), 1);
    for (answer, lacks) in [
        (
            door.secret_by(&reader, wanted()).await.map(drop),
            "tokens:issue@acme",
        ),
        (
            door.method_by(&reader, kind, settings(60, 90))
                .await
                .map(drop),
            "services:write@acme",
        ),
    ] {
        let status = refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
        assert_eq!(missing(&status), [lacks]);
    }
    // To whoever may not even read it there is no such account.
    let nobody = door.login("user:nobody").await;
    for answer in [
        door.secret_by(&nobody, wanted()).await.map(drop),
        door.method_by(&nobody, kind, settings(60, 90))
            .await
            .map(drop),
        methods(&nobody).await.map(drop),
    ] {
        refused(answer, Code::NotFound, "NOT_FOUND");
    }
}

async fn a_stronger_identity_is_not_entered_by_a_weaker_manager(door: Door) {
    door.furnish().await;
    door.principal("user:manager", "acme").await;
    let manages = ["tokens:issue", "services:write", "services:read"];
    door.role("manager", "acme", &manages).await;
    door.grant("user:manager", "manager", "acme/**").await;
    let manager = door.login("user:manager").await;
    let kind = v1::LoginMethodKind::UniversalAuth;
    // Neither by a method …
    let set = door
        .method_by(&manager, kind, v1::LoginSettings::default())
        .await;
    let status = refused(set, Code::PermissionDenied, "BOUNDARY");
    assert_eq!(missing(&status), ["deploy:run@acme/web/**"]);
    door.universal_auth(v1::LoginSettings::default()).await;
    // … nor by its settings, nor by a credential.
    let set = door.method_by(&manager, kind, settings(10, 20)).await;
    refused(set, Code::PermissionDenied, "BOUNDARY");
    let status = refused(
        door.secret_by(&manager, wanted()).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["deploy:run@acme/web/**"]);
    let scoped = v1::CreateClientSecretRequest {
        scopes: Some(only(&["deploy:run@acme/web/prod"])),
        ..wanted()
    };
    let status = refused(
        door.secret_by(&manager, scoped).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["deploy:run@acme/web/**"], "all of it");
    // With what it holds, and no more when it grows.
    door.grant("user:manager", "deployer", "acme/web/**").await;
    let hers = door
        .secret_by(&manager, wanted())
        .await
        .expect("she holds it");
    door.role("owner", "acme", &["secrets:read"]).await;
    door.grant(BOT, "owner", "acme/web/**").await;
    let token = door.enter(&hers.secret).await.access_token;
    assert!(door.allows(&token, "deploy:run", "acme/web/prod").await);
    assert!(!door.allows(&token, "secrets:read", "acme/web/prod").await);
    let own = door.login(BOT).await;
    assert!(door.allows(&own, "secrets:read", "acme/web/prod").await);
    refused(
        door.issued_by(&manager, token_of(BOT)).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
}

async fn logins_change_nothing_and_leave_no_row(door: Door) {
    door.furnish().await;
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    // The first one takes the seal key into use.
    door.enter(&secret.secret).await;
    let before = door.log().await.len();
    for _ in 0..5 {
        let token = door.enter(&secret.secret).await;
        assert!(!token.stored);
        door.next(&token, None).await.expect("renewed");
    }
    assert_eq!(door.log().await.len(), before);
    let rows = v1::ListTokensRequest {
        kind: v1::TokenKind::Access.into(),
        ..v1::ListTokensRequest::default()
    };
    let rows = door.listed(&door.admin, rows).await.expect("listed");
    assert_eq!(rows, [], "and leave no row");
}
