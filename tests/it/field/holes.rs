//! The holes that these systems had, or have: each a scene that shows it closed.
//!
//! What failed where is said at the scene; the systems by name in the README's table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use latchkey::proto::v1;
use tonic::Code;
use v1::check_service_client::CheckServiceClient;

use super::company::{Issued, REASON, only, refused, resource_token, seconds, token_of};
use super::door::{Door, on_each_store};
use crate::wire::{bearer, check};

const NOTHING: &str = "01970000-0000-7000-8000-000000000000";

on_each_store! {
    groups_are_not_frozen_in_a_token
    an_error_in_the_look_up_denies
    nobody_deletes_a_token_of_anothers
    whoever_is_no_member_gets_no_empty_success
    wrong_unknown_ended_and_foreign_look_the_same_to_the_bearer
    ids_of_others_tell_nothing
    a_budget_of_uses_is_not_refilled_by_a_restart
    a_budget_of_uses_is_not_exceeded_by_many_at_once
    an_unknown_address_does_not_skip_the_network_check
    an_unknown_audience_or_workload_does_not_skip_theirs
    what_was_derived_ends_with_what_it_was_derived_from
    a_check_that_races_a_revocation_never_allows_after_it_is_confirmed
    an_empty_list_of_scopes_is_nothing_and_not_everything
    an_old_token_gains_nothing_by_a_name_given_again
    a_disabled_principal_is_refused_by_every_token
}

/// Terrakube: the groups of the moment of minting stood in the token.
async fn groups_are_not_frozen_in_a_token(door: Door) {
    for principal in ["user:carol", "team:platform"] {
        door.principal(principal, "acme").await;
    }
    door.role("planner", "acme", &["jobs:plan"]).await;
    door.grant("team:platform", "planner", "acme/infra/**")
        .await;
    door.join("team:platform", "user:carol").await;
    let old = door.login("user:carol").await;
    let plans = async || door.allows(&old, "jobs:plan", "acme/infra/vpc").await;
    assert!(plans().await);
    door.leave("team:platform", "user:carol", false).await;
    assert!(!plans().await, "the same token, at once");
    let team_token = door.issued_by(&old, token_of("team:platform")).await;
    refused(team_token, Code::PermissionDenied, "NOT_A_MEMBER");
    door.join("team:platform", "user:carol").await;
    assert!(plans().await);
}

/// Terrakube: an exception while it looked for the revocation let the token through.
async fn an_error_in_the_look_up_denies(mut door: Door) {
    let counted = v1::IssueTokenRequest {
        uses: Some(5),
        ..resource_token("acme/web", &["secrets:read@acme/web"])
    };
    let counted = door.issue(counted).await;
    let question = check(&counted.secret, &[("secrets:read", "acme/web")]);
    assert!(door.asked(question.clone()).await.allowed);
    door.lose_the_store().await;
    // What cannot be counted is not allowed.
    match door.checks().check(question).await {
        Ok(answer) => assert!(!answer.into_inner().allowed),
        Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
    }
    // And what cannot be known of a later revision is an error.
    let later = v1::CheckRequest {
        at_least: Some(v1::Revision {
            number: 1_000,
            chain: Vec::new(),
        }),
        ..check(&door.admin, &[])
    };
    let mut later = tonic::Request::new(later);
    later.set_timeout(std::time::Duration::from_millis(300));
    match door.checks().check(later).await {
        Ok(answer) => assert!(!answer.into_inner().allowed),
        Err(status) => assert_ne!(status.code(), Code::Ok),
    }
}

/// Terrakube: whoever was signed in deleted any token, by its id.
async fn nobody_deletes_a_token_of_anothers(door: Door) {
    for user in ["user:alice", "user:mallory"] {
        door.principal(user, "acme").await;
    }
    let (alice, mallory) = (
        door.login("user:alice").await,
        door.login("user:mallory").await,
    );
    let own = v1::IssueTokenRequest {
        subject: String::new(),
        ..token_of("user:alice")
    };
    let token = door.issued_by(&alice, own).await.expect("her own");
    refused(
        door.revoked_by(&mallory, &token.id).await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let update = v1::TokenUpdate {
        scopes: Some(only(&[])),
        ..v1::TokenUpdate::default()
    };
    let narrowed = door.updated(&mallory, &token.id, &["scopes"], update).await;
    refused(narrowed, Code::NotFound, "NOT_FOUND");
    for target in [
        v1::revoke_all_request::Target::Subject("user:alice".to_owned()),
        v1::revoke_all_request::Target::IssuedByPrincipal("user:alice".to_owned()),
    ] {
        let request = v1::RevokeAllRequest {
            target: Some(target),
            reason: REASON.to_owned(),
            ..v1::RevokeAllRequest::default()
        };
        let answer = door.tokens().revoke_all(bearer(&mallory, request)).await;
        refused(answer, Code::NotFound, "NOT_FOUND");
    }
    assert_eq!(door.state(&token.secret).await, v1::Reason::Allowed);
}

/// Terrakube: a stranger to the team was answered 201, with an empty token.
async fn whoever_is_no_member_gets_no_empty_success(door: Door) {
    for principal in ["user:dave", "team:platform"] {
        door.principal(principal, "acme").await;
    }
    let dave = door.login("user:dave").await;
    let count = door.log().await.len();
    for team in ["team:platform", "team:nowhere"] {
        // Whether there is such a team is not told either.
        let answer = door.issued_by(&dave, token_of(team)).await;
        refused(answer, Code::PermissionDenied, "NOT_A_MEMBER");
    }
    assert_eq!(door.log().await.len(), count, "nothing was made");
}

/// Infisical's service tokens: 404 for an unknown id, 403 for an expired one, 401 for a wrong
/// secret told strangers which tokens there were.
async fn wrong_unknown_ended_and_foreign_look_the_same_to_the_bearer(door: Door) {
    door.principal("user:alice", "acme").await;
    let real = door.issue(token_of("user:alice")).await;
    let short = v1::IssueTokenRequest {
        ttl: Some(seconds(5)),
        ..token_of("user:alice")
    };
    let expired = door.issue(short).await.secret;
    let revoked = door.issue(token_of("user:alice")).await;
    door.revoke(&revoked.id).await;
    door.pass(6);
    let stranger = Door::embedded().await;
    let mut wrong_checksum = real.secret.clone();
    let last = if wrong_checksum.ends_with('0') {
        '1'
    } else {
        '0'
    };
    wrong_checksum.pop();
    wrong_checksum.push(last);
    let mut answers = Vec::new();
    for secret in [
        &expired,
        &revoked.secret,
        &stranger.admin,
        &wrong_checksum,
        &"lku_garbage".to_owned(),
        &"st.id.secret".to_owned(),
    ] {
        let status = door.who_am_i(secret).await.expect_err("refused");
        answers.push((
            status.code(),
            status.message().to_owned(),
            status.details().to_vec(),
        ));
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
        assert_eq!(answer.0, Code::Unauthenticated);
    }
    // A Check tells its caller only of a secret that was really one.
    let unknown = door.check(&stranger.admin, &[]).await;
    let malformed = door.check(&wrong_checksum, &[]).await;
    assert_eq!(
        (unknown.reason(), &unknown),
        (v1::Reason::Unknown, &malformed)
    );
}

async fn ids_of_others_tell_nothing(door: Door) {
    for (user, home) in [("user:alice", "acme"), ("user:mallory", "evil")] {
        door.principal(user, home).await;
    }
    door.role("manager", "evil", &["*"]).await;
    door.grant("user:mallory", "manager", "evil/**").await;
    let mallory = door.login("user:mallory").await;
    let theirs = door
        .issue(resource_token("acme/web", &["a:b@acme/web"]))
        .await;
    let mut told = Vec::new();
    for id in [theirs.id.as_str(), NOTHING] {
        let shown = door.shown(&mallory, id).await.expect_err("not hers");
        let revoked = door.revoked_by(&mallory, id).await.expect_err("not hers");
        let renewed = v1::RenewTokenRequest {
            token_id: id.to_owned(),
            ..v1::RenewTokenRequest::default()
        };
        let renewed = door
            .renewed_by(&mallory, renewed)
            .await
            .expect_err("not hers");
        let target = v1::revoke_token_request::Target::AccessTokenId(id.to_owned());
        let revoke = v1::RevokeTokenRequest {
            target: Some(target),
            reason: "because".to_owned(),
            ..v1::RevokeTokenRequest::default()
        };
        let ended = door.tokens().revoke_token(bearer(&mallory, revoke)).await;
        let all = [shown, revoked, renewed, ended.expect_err("not hers")];
        told.push(all.map(|status| (status.code(), status.message().to_owned())));
    }
    assert_eq!(told[0], told[1]);
    assert!(
        told[0][..3].iter().all(|(code, _)| *code == Code::NotFound),
        "{told:?}"
    );
}

async fn spend(door: &Door, token: &Issued) -> v1::Reason {
    let answer = door
        .check(&token.secret, &[("secrets:read", "acme/web")])
        .await;
    answer.reason()
}

fn counted(uses: u32) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        uses: Some(uses),
        ..resource_token("acme/web", &["secrets:read@acme/web"])
    }
}

/// Infisical: a lost counter was set to the limit again.
async fn a_budget_of_uses_is_not_refilled_by_a_restart(door: Door) {
    let token = door.issue(counted(3)).await;
    for _ in 0..2 {
        assert_eq!(spend(&door, &token).await, v1::Reason::Allowed);
    }
    let door = door.again().await;
    assert_eq!(spend(&door, &token).await, v1::Reason::Allowed);
    assert_eq!(spend(&door, &token).await, v1::Reason::UsesExhausted);
    let door = door.again().await;
    assert_eq!(spend(&door, &token).await, v1::Reason::UsesExhausted);
    let shown = door.shown(&door.admin, &token.id).await.expect("shown");
    assert_eq!((shown.uses_limit, shown.uses_left), (Some(3), Some(0)));
}

async fn a_budget_of_uses_is_not_exceeded_by_many_at_once(door: Door) {
    const USES: usize = 7;
    let token = door.issue(counted(USES as u32)).await;
    let door = Arc::new(door);
    let spenders: Vec<_> = (0..4 * USES)
        .map(|_| {
            let (door, token) = (Arc::clone(&door), token.clone());
            tokio::spawn(async move { spend(&door, &token).await })
        })
        .collect();
    let mut allowed = 0;
    for spender in spenders {
        match spender.await.expect("asked") {
            v1::Reason::Allowed => allowed += 1,
            reason => assert_eq!(reason, v1::Reason::UsesExhausted),
        }
    }
    assert_eq!(allowed, USES);
    // A batch spends nothing: it only says what a Check would decide.
    let more = door.issue(counted(1)).await;
    let request = v1::BatchCheckRequest {
        checks: vec![check(&more.secret, &[("secrets:read", "acme/web")]); 3],
        at_least: None,
    };
    let answer = door.checks().batch_check(request).await;
    answer.expect("answered");
    let shown = door.shown(&door.admin, &more.id).await.expect("shown");
    assert_eq!(shown.uses_left, Some(1));
    assert_eq!(spend(&door, &more).await, v1::Reason::Allowed);
}

/// Infisical: trusted addresses were not looked at where the client's was unknown.
async fn an_unknown_address_does_not_skip_the_network_check(door: Door) {
    let bound = v1::IssueTokenRequest {
        networks: vec!["192.0.2.0/24".to_owned()],
        ..resource_token("acme/web", &["secrets:read@acme/web"])
    };
    let bound = door.issue(bound).await.secret;
    let from = async |client_ip: Option<&str>| {
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: client_ip.map(str::to_owned),
                ..v1::Context::default()
            }),
            ..check(&bound, &[])
        };
        door.asked(question).await.reason()
    };
    assert_eq!(from(None).await, v1::Reason::Network);
    assert_eq!(
        door.state(&bound).await,
        v1::Reason::Network,
        "nor without any context"
    );
    assert_eq!(from(Some("198.51.100.1")).await, v1::Reason::Network);
    assert_eq!(from(Some("192.0.2.7")).await, v1::Reason::Allowed);
    assert_eq!(
        from(Some("::ffff:192.0.2.7")).await,
        v1::Reason::Allowed,
        "the same address"
    );
    // Where it calls from is known: it manages nothing from here.
    let answer = door
        .renewed_by(&bound, v1::RenewTokenRequest::default())
        .await;
    refused(answer, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn an_unknown_audience_or_workload_does_not_skip_theirs(door: Door) {
    let scoped = || resource_token("acme/web", &["secrets:read@acme/web"]);
    let audience = v1::IssueTokenRequest {
        audience: "billing".to_owned(),
        ..scoped()
    };
    let workload = v1::IssueTokenRequest {
        workload: "spiffe://acme/job".to_owned(),
        ..scoped()
    };
    let (audience, workload) = (door.issue(audience).await, door.issue(workload).await);
    let with = async |token: &Issued, audience: Option<&str>, workload: Option<&str>| {
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: None,
                audience: audience.map(str::to_owned),
                workload: workload.map(str::to_owned),
            }),
            ..check(&token.secret, &[])
        };
        door.asked(question).await.reason()
    };
    let (other, right) = (Some("spiffe://acme/other"), Some("spiffe://acme/job"));
    for (token, asked, by, expected) in [
        (&audience, None, None, v1::Reason::Audience),
        (&audience, Some("search"), right, v1::Reason::Audience),
        (&audience, Some("billing"), None, v1::Reason::Allowed),
        (&workload, Some("billing"), None, v1::Reason::Workload),
        (&workload, None, other, v1::Reason::Workload),
        (&workload, None, right, v1::Reason::Allowed),
    ] {
        assert_eq!(with(token, asked, by).await, expected, "{asked:?} {by:?}");
    }
}

/// Infisical: what came from a deleted client secret lived on.
async fn what_was_derived_ends_with_what_it_was_derived_from(door: Door) {
    type End = fn(&str) -> v1::RevokeTokenRequest;
    let by_secret: End = |secret| crate::fleet::revoke(secret);
    let compromised: End = |secret| v1::RevokeTokenRequest {
        compromised: true,
        ..crate::fleet::revoke(secret)
    };
    for end in [by_secret, compromised] {
        let parent = door
            .issue(resource_token("acme/web", &["tokens:issue,a:b@acme/web"]))
            .await;
        let child = v1::IssueTokenRequest {
            derive: true,
            resource: String::new(),
            ..resource_token("", &["tokens:issue,a:b@acme/web"])
        };
        let first = door
            .issued_by(&parent.secret, child.clone())
            .await
            .expect("derived");
        let second = door.issued_by(&first.secret, child).await.expect("derived");
        assert_eq!(door.state(&second.secret).await, v1::Reason::Allowed);
        let done = door
            .tokens()
            .revoke_token(bearer(&parent.secret, end(&parent.secret)))
            .await;
        done.expect("itself");
        for token in [first, second] {
            assert_eq!(door.state(&token.secret).await, v1::Reason::Revoked);
        }
    }
    // Nor does it outlive it by the clock, or by a cut-off.
    let short = v1::IssueTokenRequest {
        ttl: Some(seconds(10)),
        ..resource_token("acme/web", &["tokens:issue,a:b@acme/web"])
    };
    let parent = door.issue(short).await;
    let child = v1::IssueTokenRequest {
        derive: true,
        ttl: Some(seconds(1_000)),
        ..resource_token("", &["a:b@acme/web"])
    };
    let child = door
        .issued_by(&parent.secret, child)
        .await
        .expect("derived");
    door.pass(11);
    assert_eq!(door.state(&child.secret).await, v1::Reason::Expired);
}

/// A fill in flight gave revoked tokens new life in the caches of others.
async fn a_check_that_races_a_revocation_never_allows_after_it_is_confirmed(door: Door) {
    const ROUNDS: usize = 20;
    const CHECKERS: usize = 4;
    for _ in 0..ROUNDS {
        let token = door
            .issue(resource_token("acme/web", &["a:b@acme/web"]))
            .await;
        let confirmed = Arc::new(AtomicBool::new(false));
        let checkers: Vec<_> = (0..CHECKERS)
            .map(|_| {
                let mut checks = CheckServiceClient::new(door.channel.clone());
                let question = check(&token.secret, &[("a:b", "acme/web")]);
                let confirmed = Arc::clone(&confirmed);
                tokio::spawn(async move {
                    loop {
                        let after = confirmed.load(Ordering::SeqCst);
                        let answer = checks.check(question.clone()).await;
                        let allowed = answer.expect("answered").into_inner().allowed;
                        assert!(!(after && allowed), "allowed after it was confirmed");
                        if after {
                            return;
                        }
                    }
                })
            })
            .collect();
        let done = door.revoke(&token.id).await;
        let state = done.enforcement.expect("always").state();
        assert_eq!(state, v1::enforcement::State::Confirmed);
        confirmed.store(true, Ordering::SeqCst);
        for checker in checkers {
            checker.await.expect("never allowed");
        }
    }
}

async fn an_empty_list_of_scopes_is_nothing_and_not_everything(door: Door) {
    let empty = v1::IssueTokenRequest {
        scopes: Some(only(&[])),
        ..token_of("user:root")
    };
    door.principal("user:root", "acme").await;
    door.role("all", "acme", &["*"]).await;
    door.grant("user:root", "all", "**").await;
    let empty = door.issue(empty).await;
    assert!(!door.allows(&empty.secret, "secrets:read", "acme").await);
    let unset = v1::IssueTokenRequest {
        scopes: None,
        ..token_of("user:root")
    };
    let answer = door.issued_by(&door.admin, unset).await;
    refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn an_old_token_gains_nothing_by_a_name_given_again(door: Door) {
    door.principal("user:alice", "acme").await;
    let old = door.login("user:alice").await;
    let request = v1::DeleteUserRequest {
        name: "user:alice".to_owned(),
        reason: REASON.to_owned(),
        ..v1::DeleteUserRequest::default()
    };
    let done = door
        .directory()
        .delete_user(bearer(&door.admin, request))
        .await;
    done.expect("deleted");
    door.principal("user:alice", "acme").await;
    assert_eq!(door.state(&old).await, v1::Reason::Revoked);
}

/// Infisical's service accounts: neither `isActive` nor `expiresAt` was looked at.
async fn a_disabled_principal_is_refused_by_every_token(door: Door) {
    door.principal("user:alice", "acme").await;
    let own = v1::IssueTokenRequest {
        subject: String::new(),
        ..token_of("user:alice")
    };
    let first = door.login("user:alice").await;
    let second = door
        .issued_by(&first, own.clone())
        .await
        .expect("her own")
        .secret;
    let derived = v1::IssueTokenRequest {
        derive: true,
        ..own
    };
    let derived = door
        .issued_by(&second, derived)
        .await
        .expect("her own")
        .secret;
    let request = v1::DisableUserRequest {
        name: "user:alice".to_owned(),
        reason: REASON.to_owned(),
        ..v1::DisableUserRequest::default()
    };
    let done = door
        .directory()
        .disable_user(bearer(&door.admin, request))
        .await;
    done.expect("paused");
    for token in [&first, &second, &derived] {
        assert_eq!(door.state(token).await, v1::Reason::SubjectDisabled);
        refused(
            door.who_am_i(token).await,
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        );
    }
}
