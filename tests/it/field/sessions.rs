//! Access tokens: how long they live, how they are renewed, exchanged, counted and ended.
//!
//! Infisical's of universal auth, as they are since 2026: without a row. Exchange is for jobs and
//! agents that shall have less than who starts them.

use latchkey::proto::v1;
use tonic::Code;
use v1::revoke_all_request::Target;

use super::company::{REASON, missing, only, refused, resource_token, seconds, token_of};
use super::door::{Door, on_each_store};
use super::entrance::{BOT, settings, wanted};
use crate::wire::{bearer, check};

on_each_store! {
    a_session_is_renewed_and_clipped_at_its_maximum
    a_session_without_a_maximum_is_not_renewed_and_none_has_less_than_it_lives
    a_periodic_session_is_renewed_for_ever
    settings_of_now_hold_for_tokens_that_are_there
    an_access_token_with_a_number_of_uses_counts_them
    an_access_token_that_lives_beyond_a_month_is_stored
    a_revocation_follows_the_session
    what_was_born_ends_with_its_secret_method_account_or_sessions
    what_speaks_for_an_account_ends_in_one_change_its_secrets_too
    a_membership_that_ends_takes_its_permissions_out_of_access_tokens
    a_method_that_is_removed_ends_its_tokens_for_good
    a_token_is_exchanged_for_a_narrower_and_shorter_one
    an_exchanged_token_ends_with_its_parent_and_its_parents_parent
    an_exchanged_token_is_bound_to_an_audience_and_a_workload
    any_token_is_exchanged_but_not_one_that_counts_its_uses
    a_budget_of_logins_is_never_exceeded_nor_refilled
    a_sealed_token_is_good_after_a_restart_and_its_revocation_too
}

async fn entered(door: &Door, settings: v1::LoginSettings) -> (String, v1::AccessToken) {
    door.furnish().await;
    door.universal_auth(settings).await;
    let secret = door.secret(wanted()).await.secret;
    let token = door.enter(&secret).await;
    (secret, token)
}

async fn a_session_is_renewed_and_clipped_at_its_maximum(door: Door) {
    let (_, token) = entered(&door, settings(60, 90)).await;
    assert!(token.renewable);
    door.pass(20);
    let renewed = door.next(&token, None).await.expect("renewed");
    assert!(!renewed.clipped);
    assert_ne!(renewed.token_id, token.token_id);
    assert_eq!(
        renewed.token_id[14..],
        token.token_id[14..],
        "the same session"
    );
    door.pass(45);
    assert_eq!(door.deploys(&token).await, v1::Reason::Expired);
    assert_eq!(door.deploys(&renewed).await, v1::Reason::Allowed);
    let last = door
        .next(&renewed, None)
        .await
        .expect("clipped, not refused");
    assert!(last.clipped);
    assert_eq!(last.expires_at, last.max_expires_at);
    door.pass(30);
    assert_eq!(door.deploys(&last).await, v1::Reason::Expired);
    refused(
        door.next(&last, None).await,
        Code::Unauthenticated,
        "UNAUTHENTICATED",
    );
}

async fn a_session_without_a_maximum_is_not_renewed_and_none_has_less_than_it_lives(door: Door) {
    let unset = v1::LoginSettings {
        ttl: Some(seconds(60)),
        ..v1::LoginSettings::default()
    };
    let (_, token) = entered(&door, unset).await;
    assert!(!token.renewable && token.max_expires_at.is_none());
    refused(
        door.next(&token, None).await,
        Code::FailedPrecondition,
        "FAILED_PRECONDITION",
    );
    let kind = v1::LoginMethodKind::UniversalAuth;
    for wrong in [settings(60, 59), settings(60, 0)] {
        let set = door.method_by(&door.admin, kind, wrong).await;
        refused(set, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

async fn a_periodic_session_is_renewed_for_ever(door: Door) {
    let period = v1::LoginSettings {
        period: Some(seconds(10)),
        ..v1::LoginSettings::default()
    };
    let (_, mut token) = entered(&door, period.clone()).await;
    for _ in 0..10 {
        door.pass(8);
        token = door.next(&token, None).await.expect("renewed");
        assert!(!token.clipped && token.max_expires_at.is_none());
    }
    door.pass(11);
    assert_eq!(door.deploys(&token).await, v1::Reason::Expired);
    // What a period makes meaningless cannot stand beside it, and nobody is shown it.
    let kind = v1::LoginMethodKind::UniversalAuth;
    let ttl = v1::LoginSettings {
        ttl: Some(seconds(3_600)),
        ..period.clone()
    };
    let uses = v1::LoginSettings {
        uses: Some(5),
        ..period.clone()
    };
    for both in [ttl, uses] {
        let set = door.method_by(&door.admin, kind, both).await;
        let status = refused(set, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(
            status.message().starts_with("settings.period: "),
            "{status}"
        );
    }
    let set = door.method_by(&door.admin, kind, period.clone()).await;
    let shown = set.expect("set").method.and_then(|method| method.settings);
    let again = shown.expect("shown");
    assert_eq!((again.period, again.ttl), (period.period, None));
    // So whoever reads settings can set them again.
    let set = door.method_by(&door.admin, kind, again).await;
    set.expect("set again");
}

async fn settings_of_now_hold_for_tokens_that_are_there(door: Door) {
    let (_, token) = entered(&door, settings(100, 200)).await;
    door.pass(20);
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    door.universal_auth(settings(10, 200)).await;
    assert_eq!(
        door.deploys(&token).await,
        v1::Reason::Expired,
        "it lived 20 seconds"
    );
    door.universal_auth(settings(100, 200)).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    // And are what it is told of itself.
    door.universal_auth(settings(600, 1_200)).await;
    let secret = door.secret(wanted()).await;
    let token = door.enter(&secret.secret).await;
    door.universal_auth(settings(100, 150)).await;
    let needs = [("deploy:run", "acme/web/prod")];
    let answer = door.check(&token.access_token, &needs).await;
    let who = bearer(&token.access_token, v1::WhoAmIRequest {});
    let who = door
        .tokens()
        .who_am_i(who)
        .await
        .expect("itself")
        .into_inner();
    let shown = who.token.expect("its claims");
    assert_eq!(shown.expires_at, answer.expires_at);
    let (end, most) = (
        shown.expires_at.expect("when"),
        shown.max_expires_at.expect("when"),
    );
    assert_eq!(most.seconds - end.seconds, 50);
}

async fn an_access_token_with_a_number_of_uses_counts_them(door: Door) {
    let counted = v1::LoginSettings {
        uses: Some(2),
        ..settings(100, 200)
    };
    let (_, token) = entered(&door, counted).await;
    assert!(token.stored, "or else nothing could count them");
    let mut reasons = Vec::new();
    for _ in 0..3 {
        reasons.push(door.deploys(&token).await);
    }
    let (allowed, spent) = (v1::Reason::Allowed, v1::Reason::UsesExhausted);
    assert_eq!(reasons, [allowed, allowed, spent]);
    let door = door.again().await;
    assert_eq!(
        door.deploys(&token).await,
        spent,
        "no restart gives any back"
    );
}

async fn an_access_token_that_lives_beyond_a_month_is_stored(door: Door) {
    const TEN_YEARS: i64 = 315_360_000;
    let (_, token) = entered(&door, settings(TEN_YEARS, TEN_YEARS)).await;
    assert!(token.stored);
    assert_eq!(token.expires_in, Some(seconds(TEN_YEARS)));
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    let rows = v1::ListTokensRequest {
        kind: v1::TokenKind::Access.into(),
        ..v1::ListTokensRequest::default()
    };
    let rows = door.listed(&door.admin, rows).await.expect("listed");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].token_id, token.token_id);
    door.revoke(&token.token_id).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Revoked);
}

async fn a_revocation_follows_the_session(door: Door) {
    let (secret, token) = entered(&door, settings(100, 200)).await;
    let renewed = door.next(&token, None).await.expect("renewed");
    let other = door.enter(&secret).await;
    // By the id of any token of it, without the text.
    let request = v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::AccessTokenId(
            token.token_id.clone(),
        )),
        reason: REASON.to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let done = door
        .tokens()
        .revoke_token(bearer(&door.admin, request))
        .await;
    done.expect("revoked");
    for gone in [&token, &renewed] {
        assert_eq!(door.deploys(gone).await, v1::Reason::Revoked);
        refused(
            door.next(gone, None).await,
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        );
    }
    assert_eq!(door.deploys(&other).await, v1::Reason::Allowed);
    // And a bearer ends itself.
    let itself = bearer(&other.access_token, v1::RevokeTokenRequest::default());
    door.tokens().revoke_token(itself).await.expect("itself");
    assert_eq!(door.deploys(&other).await, v1::Reason::Revoked);
    let fresh = door.enter(&secret).await;
    assert_eq!(door.deploys(&fresh).await, v1::Reason::Allowed);
}

async fn what_was_born_ends_with_its_secret_method_account_or_sessions(door: Door) {
    let (secret, first) = entered(&door, settings(100, 200)).await;
    // All sessions: new logins work at once.
    door.end_all(Target::SessionsOf(BOT.to_owned())).await;
    let second = door.enter(&secret).await;
    assert_eq!(door.deploys(&first).await, v1::Reason::Revoked);
    assert_eq!(door.deploys(&second).await, v1::Reason::Allowed);
    // All that one secret gave.
    let other = door.secret(wanted()).await;
    let (mine, its) = (door.enter(&secret).await, door.enter(&other.secret).await);
    door.end_all(Target::IssuedByCredential(other.id.clone()))
        .await;
    assert_eq!(door.deploys(&its).await, v1::Reason::Revoked);
    assert_eq!(door.deploys(&mine).await, v1::Reason::Allowed);
    let again = door.enter(&other.secret).await;
    assert_eq!(door.deploys(&again).await, v1::Reason::Allowed);
    // The secret itself.
    door.revoke(&other.id).await;
    assert_eq!(door.deploys(&again).await, v1::Reason::Revoked);
    // The account.
    door.pause(BOT).await;
    assert_eq!(door.deploys(&mine).await, v1::Reason::SubjectDisabled);
    door.not_let_in(&secret).await;
}

async fn what_speaks_for_an_account_ends_in_one_change_its_secrets_too(door: Door) {
    let (secret, token) = entered(&door, settings(100, 200)).await;
    let stored = door.login(BOT).await;
    door.end_all(Target::Subject(BOT.to_owned())).await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Revoked);
    assert_eq!(door.state(&stored).await, v1::Reason::Revoked);
    assert!(door.not_let_in(&secret).await.contains("revoked"));
    // The account itself and its method stay.
    let new = door.secret(wanted()).await;
    let fresh = door.enter(&new.secret).await;
    assert_eq!(door.deploys(&fresh).await, v1::Reason::Allowed);
}

async fn a_membership_that_ends_takes_its_permissions_out_of_access_tokens(door: Door) {
    const TEAM: &str = "team:readers";
    let (_, token) = entered(&door, settings(100, 200)).await;
    let reads = async || {
        let token = &token.access_token;
        door.allows(token, "secrets:read", "acme/web/prod").await
    };
    door.principal(TEAM, "acme").await;
    door.role("reader", "acme", &["secrets:read"]).await;
    door.grant(TEAM, "reader", "acme/web/**").await;
    assert!(!reads().await);
    door.join(TEAM, BOT).await;
    assert!(reads().await);
    door.leave(TEAM, BOT, false).await;
    assert!(!reads().await);
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed, "its own");
}

async fn a_method_that_is_removed_ends_its_tokens_for_good(door: Door) {
    let (secret, token) = entered(&door, settings(100, 200)).await;
    let request = v1::RemoveLoginMethodRequest {
        service_account: BOT.to_owned(),
        kind: v1::LoginMethodKind::UniversalAuth.into(),
        reason: REASON.to_owned(),
        ..v1::RemoveLoginMethodRequest::default()
    };
    let done = door
        .credentials()
        .remove_login_method(bearer(&door.admin, request))
        .await;
    done.expect("removed");
    assert_eq!(door.deploys(&token).await, v1::Reason::Revoked);
    door.not_let_in(&secret).await;
    door.universal_auth(settings(100, 200)).await;
    assert_eq!(
        door.deploys(&token).await,
        v1::Reason::Revoked,
        "also when it is set again"
    );
    door.not_let_in(&secret).await;
    let new = door.secret(wanted()).await;
    door.enter(&new.secret).await;
}

fn narrower(scopes: &[&str]) -> v1::ExchangeTokenRequest {
    v1::ExchangeTokenRequest {
        scopes: Some(only(scopes)),
        ttl: Some(seconds(30)),
        ..v1::ExchangeTokenRequest::default()
    }
}

async fn a_token_is_exchanged_for_a_narrower_and_shorter_one(door: Door) {
    let (_, parent) = entered(&door, settings(100, 200)).await;
    let asked = narrower(&["deploy:run@acme/web/prod"]);
    let child = door
        .exchanged(&parent.access_token, asked)
        .await
        .expect("a child");
    assert_eq!(
        (child.renewable, child.expires_in),
        (false, Some(seconds(30)))
    );
    assert_eq!(door.deploys(&child).await, v1::Reason::Allowed);
    assert!(
        !door
            .allows(&child.access_token, "deploy:run", "acme/web/dev")
            .await
    );
    // Never wider again, and never longer.
    let wider = narrower(&["deploy:run@acme/web/**"]);
    let status = refused(
        door.exchanged(&child.access_token, wider).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["deploy:run@acme/web/**"]);
    let longer = v1::ExchangeTokenRequest {
        ttl: Some(seconds(10_000)),
        ..narrower(&["deploy:run@acme/web/prod"])
    };
    let longer = door
        .exchanged(&parent.access_token, longer)
        .await
        .expect("a child");
    assert!(longer.expires_at.map(|at| at.seconds) <= parent.expires_at.map(|at| at.seconds));
    refused(
        door.next(&child, None).await,
        Code::FailedPrecondition,
        "FAILED_PRECONDITION",
    );
    door.pass(31);
    assert_eq!(door.deploys(&child).await, v1::Reason::Expired);
    assert_eq!(door.deploys(&parent).await, v1::Reason::Allowed);
}

async fn an_exchanged_token_ends_with_its_parent_and_its_parents_parent(door: Door) {
    let (_, first) = entered(&door, settings(100, 200)).await;
    let asked = || narrower(&["deploy:run@acme/web/prod"]);
    let mut chain = vec![first];
    for _ in 0..4 {
        let parent = chain.last().expect("one").access_token.clone();
        chain.push(door.exchanged(&parent, asked()).await.expect("a child"));
    }
    let middle = chain[2].access_token.clone();
    let itself = bearer(&middle, v1::RevokeTokenRequest::default());
    door.tokens().revoke_token(itself).await.expect("itself");
    for (depth, token) in chain.iter().enumerate() {
        let expected = if depth < 2 {
            v1::Reason::Allowed
        } else {
            v1::Reason::Revoked
        };
        assert_eq!(door.deploys(token).await, expected, "{depth}");
    }
    // Up to eight above it: the credential, the login's token and six exchanged ones.
    let mut last = chain.swap_remove(1);
    let mut depth = 2;
    let status = loop {
        match door.exchanged(&last.access_token, asked()).await {
            Ok(child) => (last, depth) = (child, depth + 1),
            Err(status) => break status,
        }
        assert!(depth <= 8, "a chain without an end");
    };
    assert_eq!(depth, 8);
    assert_eq!(super::company::why(&status), "LIMIT_EXCEEDED");
    assert_eq!(door.deploys(&last).await, v1::Reason::Allowed);
}

async fn an_exchanged_token_is_bound_to_an_audience_and_a_workload(door: Door) {
    let (_, parent) = entered(&door, settings(100, 200)).await;
    let asked = v1::ExchangeTokenRequest {
        audience: "agents".to_owned(),
        workload: "spiffe://acme/job".to_owned(),
        ..narrower(&["deploy:run@acme/web/prod"])
    };
    let child = door
        .exchanged(&parent.access_token, asked)
        .await
        .expect("a child");
    let with = async |audience: Option<&str>, workload: Option<&str>| {
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: None,
                audience: audience.map(str::to_owned),
                workload: workload.map(str::to_owned),
            }),
            ..check(&child.access_token, &[("deploy:run", "acme/web/prod")])
        };
        door.asked(question).await.reason()
    };
    let (agents, job) = (Some("agents"), Some("spiffe://acme/job"));
    assert_eq!(with(agents, job).await, v1::Reason::Allowed);
    assert_eq!(with(None, job).await, v1::Reason::Audience);
    assert_eq!(with(Some("others"), job).await, v1::Reason::Audience);
    assert_eq!(with(agents, None).await, v1::Reason::Workload);
    assert_eq!(
        with(agents, Some("spiffe://acme/other")).await,
        v1::Reason::Workload
    );
    // It exchanges nothing itself where nobody vouches for its workload.
    let more = door.exchanged(&child.access_token, narrower(&[])).await;
    refused(more, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn any_token_is_exchanged_but_not_one_that_counts_its_uses(door: Door) {
    door.furnish().await;
    let asked = || narrower(&["deploy:run@acme/web/prod"]);
    let service = door.issue(token_of(BOT)).await;
    let project = resource_token("acme/web", &["deploy:run@acme/web/**"]);
    let project = door.issue(project).await;
    for token in [&service, &project] {
        let child = door
            .exchanged(&token.secret, asked())
            .await
            .expect("a child");
        assert_eq!(door.deploys(&child).await, v1::Reason::Allowed);
        door.revoke(&token.id).await;
        assert_eq!(door.deploys(&child).await, v1::Reason::Revoked);
    }
    let counted = v1::IssueTokenRequest {
        uses: Some(5),
        ..token_of(BOT)
    };
    let counted = door.issue(counted).await;
    refused(
        door.exchanged(&counted.secret, asked()).await,
        Code::FailedPrecondition,
        "FAILED_PRECONDITION",
    );
    door.universal_auth(v1::LoginSettings::default()).await;
    let credential = door.secret(wanted()).await;
    let answer = door.exchanged(&credential.secret, asked()).await;
    refused(answer, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn a_budget_of_logins_is_never_exceeded_nor_refilled(door: Door) {
    const LOGINS: usize = 3;
    door.furnish().await;
    door.universal_auth(settings(100, 200)).await;
    let counted = v1::CreateClientSecretRequest {
        uses: Some(LOGINS as u32),
        ..wanted()
    };
    let secret = door.secret(counted).await;
    let tries: Vec<_> = (0..4 * LOGINS)
        .map(|_| {
            let (mut logins, asked) = (door.logins(), super::entrance::login(&secret.secret));
            tokio::spawn(async move { logins.login(asked).await.is_ok() })
        })
        .collect();
    let mut given = 0;
    for one in tries {
        given += usize::from(one.await.expect("asked"));
    }
    assert_eq!(given, LOGINS);
    let door = door.again().await;
    assert!(
        door.not_let_in(&secret.secret)
            .await
            .contains("uses_exhausted")
    );
}

async fn a_sealed_token_is_good_after_a_restart_and_its_revocation_too(door: Door) {
    let (secret, token) = entered(&door, settings(100, 200)).await;
    let gone = door.enter(&secret).await;
    let request = crate::fleet::revoke(&gone.access_token);
    let done = door
        .tokens()
        .revoke_token(bearer(&door.admin, request))
        .await;
    done.expect("by whoever found it");
    let door = door.again().await;
    assert_eq!(door.deploys(&token).await, v1::Reason::Allowed);
    assert_eq!(door.deploys(&gone).await, v1::Reason::Revoked);
}
