//! InfraSonar: tokens of users, tokens of containers that identify them, flags, presets, reasons.
//!
//! A container is a path; a flag is an action; the gate `API` is one more need of the same Check.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{Issued, REASON, missing, only, refused, resource_token, seconds, token_of};
use super::door::{Door, on_each_store};
use crate::wire::{bearer, check};

const DC1: &str = "acme/dc1";

on_each_store! {
    a_user_token_has_the_privileges_of_its_user
    a_container_token_is_bound_to_one_container_and_identifies_it
    only_a_user_with_the_flag_creates_container_tokens
    nobody_puts_more_on_a_token_than_they_have
    what_somebody_created_is_ended_in_one_change_when_they_leave
    flags_count_on_the_container_where_they_are_given
    the_api_gate_is_needed_on_top_of_the_specific_flag
    a_preset_is_written_out_on_the_token
    a_token_reaches_children_by_a_rule_and_not_by_nesting
    removing_a_container_needs_the_flag_on_its_parent
    creating_and_revoking_ask_for_a_reason_that_the_log_keeps
    reopening_a_token_shows_how_to_tell_it_and_never_its_secret
    a_token_learns_its_kind_its_container_and_its_permissions
    a_client_learns_which_permissions_its_token_is_missing
    errors_are_told_apart_and_name_what_is_missing
    permissions_are_replaced_by_the_list_emptied_by_none_and_kept_where_unnamed
}

/// Alice has the flags of containers, Bob only sees them.
async fn flagged(door: &Door) -> (String, String) {
    for user in ["user:alice", "user:bob"] {
        door.principal(user, "acme").await;
    }
    let manages = [
        "tokens:issue",
        "tokens:read",
        "tokens:revoke",
        "api:use",
        "checks:insert",
    ];
    door.role("container-tokens", "acme", &manages).await;
    door.role("viewer", "acme", &["api:use", "assets:read"])
        .await;
    door.grant("user:alice", "container-tokens", "acme/dc1/**")
        .await;
    door.grant("user:bob", "viewer", "acme/**").await;
    (door.login("user:alice").await, door.login("user:bob").await)
}

async fn a_user_token_has_the_privileges_of_its_user(door: Door) {
    let (alice, _) = flagged(&door).await;
    let token = v1::IssueTokenRequest {
        subject: String::new(),
        ..token_of("user:alice")
    };
    let token = door.issued_by(&alice, token).await.expect("her own").secret;
    for container in ["acme/dc1", "acme/dc1/rack7"] {
        assert!(door.allows(&token, "checks:insert", container).await);
    }
    for (action, container) in [("checks:insert", "acme/dc2"), ("assets:read", "acme/dc1")] {
        assert!(!door.allows(&token, action, container).await);
        assert!(!door.allows(&alice, action, container).await);
    }
    // With what she gets it gets more, at once.
    door.grant("user:alice", "viewer", "acme/dc2").await;
    assert!(door.allows(&token, "assets:read", "acme/dc2").await);
}

async fn agent(door: &Door, who: &str) -> Issued {
    let asked = resource_token(DC1, &["checks:insert,api:use@acme/dc1"]);
    door.issued_by(who, asked).await.expect("issued")
}

async fn a_container_token_is_bound_to_one_container_and_identifies_it(door: Door) {
    let (alice, _) = flagged(&door).await;
    let agent = agent(&door, &alice).await;
    let answer = door.check(&agent.secret, &[("checks:insert", DC1)]).await;
    assert!(answer.allowed);
    assert_eq!(
        (answer.resource.as_str(), answer.kind()),
        (DC1, v1::TokenKind::Resource)
    );
    assert_eq!((answer.token_id, answer.subject.as_str()), (agent.id, ""));
    assert!(
        !door
            .allows(&agent.secret, "checks:insert", "acme/dc2")
            .await
    );
    let user = door.check(&alice, &[]).await;
    assert_eq!(user.resource, "", "a user's identifies none");
}

async fn only_a_user_with_the_flag_creates_container_tokens(door: Door) {
    let (alice, bob) = flagged(&door).await;
    let asked = || resource_token(DC1, &["api:use@acme/dc1"]);
    let status = refused(
        door.issued_by(&bob, asked()).await,
        Code::PermissionDenied,
        "PERMISSION_DENIED",
    );
    assert_eq!(missing(&status), ["tokens:issue@acme/dc1"]);
    door.issued_by(&alice, asked()).await.expect("flagged");
    // The flag is one of that container.
    let elsewhere = resource_token("acme/dc2", &["api:use@acme/dc2"]);
    let status = door.issued_by(&alice, elsewhere).await;
    refused(status, Code::PermissionDenied, "PERMISSION_DENIED");
}

async fn nobody_puts_more_on_a_token_than_they_have(door: Door) {
    let (alice, _) = flagged(&door).await;
    let asked = resource_token(
        DC1,
        &["checks:insert,billing:read@acme/dc1", "api:use@acme/**"],
    );
    let status = refused(
        door.issued_by(&alice, asked).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(
        missing(&status),
        ["api:use@acme/**", "billing:read@acme/dc1"]
    );
    // The same rule where users are given something.
    let status = door
        .granted_by(&alice, "user:bob", "container-tokens", "acme/dc1")
        .await;
    refused(status, Code::PermissionDenied, "PERMISSION_DENIED");
    door.role("giver", "acme", &["grants:write"]).await;
    door.grant("user:alice", "giver", "acme/**").await;
    let status = door
        .granted_by(&alice, "user:bob", "viewer", "acme/dc1")
        .await;
    // Of a role that she may not see she learns nothing.
    refused(status, Code::NotFound, "NOT_FOUND");
    door.role("reader", "acme", &["roles:read"]).await;
    door.grant("user:alice", "reader", "acme").await;
    let status = door
        .granted_by(&alice, "user:bob", "viewer", "acme/dc1")
        .await;
    let status = refused(status, Code::PermissionDenied, "BOUNDARY");
    assert_eq!(missing(&status), ["assets:read@acme/dc1"]);
}

async fn what_somebody_created_is_ended_in_one_change_when_they_leave(door: Door) {
    let (alice, _) = flagged(&door).await;
    let before = agent(&door, &alice).await;
    let request = v1::RevokeAllRequest {
        target: Some(v1::revoke_all_request::Target::IssuedByPrincipal(
            "user:alice".to_owned(),
        )),
        reason: REASON.to_owned(),
        ..v1::RevokeAllRequest::default()
    };
    let length = door.log().await.len();
    let done = door.tokens().revoke_all(bearer(&door.admin, request)).await;
    done.expect("ended");
    assert_eq!(door.log().await.len(), length + 1);
    assert_eq!(door.state(&before.secret).await, v1::Reason::Revoked);
    assert_eq!(
        door.state(&alice).await,
        v1::Reason::Allowed,
        "her own is another's work"
    );
    let after = agent(&door, &alice).await;
    assert_eq!(door.state(&after.secret).await, v1::Reason::Allowed);
}

async fn flags_count_on_the_container_where_they_are_given(door: Door) {
    door.principal("user:alice", "acme").await;
    let flags = [
        ("read", "checks:read"),
        ("alert-assign", "alerts:assign"),
        ("webhooks", "webhooks:manage"),
    ];
    for (role, action) in flags {
        door.role(role, "acme", &[action]).await;
    }
    door.grant("user:alice", "read", "acme/dc1").await;
    door.grant("user:alice", "alert-assign", "acme/dc1").await;
    door.grant("user:alice", "webhooks", "acme/dc2").await;
    let alice = door.login("user:alice").await;
    for (action, container, expected) in [
        ("checks:read", "acme/dc1", true),
        ("alerts:assign", "acme/dc1", true),
        ("webhooks:manage", "acme/dc2", true),
        ("checks:read", "acme/dc2", false),
        ("webhooks:manage", "acme/dc1", false),
        ("checks:write", "acme/dc1", false),
    ] {
        let allowed = door.allows(&alice, action, container).await;
        assert_eq!(allowed, expected, "{action} {container}");
    }
}

async fn the_api_gate_is_needed_on_top_of_the_specific_flag(door: Door) {
    let both = door
        .issue(resource_token(DC1, &["api:use,checks:insert@acme/dc1"]))
        .await;
    let flag = door
        .issue(resource_token(DC1, &["checks:insert@acme/dc1"]))
        .await;
    let gate = door.issue(resource_token(DC1, &["api:use@acme/dc1"])).await;
    let needs = [("api:use", DC1), ("checks:insert", DC1)];
    assert!(door.check(&both.secret, &needs).await.allowed);
    for half in [flag, gate] {
        let answer = door.check(&half.secret, &needs).await;
        assert_eq!(answer.reason(), v1::Reason::NotPermitted);
    }
}

async fn a_preset_is_written_out_on_the_token(door: Door) {
    door.role("agent", "acme", &["api:use", "checks:insert"])
        .await;
    let old = door
        .issue(resource_token(DC1, &["role:agent@acme/dc1"]))
        .await;
    let shown = door.shown(&door.admin, &old.id).await.expect("shown");
    let extent = shown.scopes.expect("scopes").extent.expect("set");
    let v1::scopes::Extent::Only(list) = extent else {
        panic!("{extent:?}");
    };
    let written: Vec<_> = list
        .permissions
        .iter()
        .map(|one| one.action.as_str())
        .collect();
    assert_eq!(written, ["api:use", "checks:insert"]);
    // The preset changes, and no token with it.
    let request = v1::UpdateRoleRequest {
        role: Some(v1::Role {
            name: "agent".to_owned(),
            actions: vec!["assets:create".to_owned()],
            ..v1::Role::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["actions".to_owned()],
        }),
        reason: REASON.to_owned(),
        ..v1::UpdateRoleRequest::default()
    };
    let done = door
        .directory()
        .update_role(bearer(&door.admin, request))
        .await;
    done.expect("changed");
    let new = door
        .issue(resource_token(DC1, &["role:agent@acme/dc1"]))
        .await;
    for (token, action, expected) in [
        (&old, "checks:insert", true),
        (&old, "assets:create", false),
        (&new, "checks:insert", false),
        (&new, "assets:create", true),
    ] {
        assert_eq!(
            door.allows(&token.secret, action, DC1).await,
            expected,
            "{action}"
        );
    }
}

async fn a_token_reaches_children_by_a_rule_and_not_by_nesting(door: Door) {
    let flat = door
        .issue(resource_token(DC1, &["assets:read@acme/dc1"]))
        .await;
    let deep = door
        .issue(resource_token(DC1, &["assets:read@acme/dc1/**"]))
        .await;
    let children = door
        .issue(resource_token(DC1, &["assets:read@acme/dc1/*"]))
        .await;
    for (token, container, expected) in [
        (&flat, "acme/dc1", true),
        (&flat, "acme/dc1/rack7", false),
        (&deep, "acme/dc1", true),
        (&deep, "acme/dc1/rack7", true),
        (&deep, "acme/dc1/rack7/host", true),
        (&children, "acme/dc1", false),
        (&children, "acme/dc1/rack7", true),
        (&children, "acme/dc1/rack7/host", false),
        (&deep, "acme", false),
        (&deep, "acme/dc10", false),
    ] {
        let allowed = door.allows(&token.secret, "assets:read", container).await;
        assert_eq!(allowed, expected, "{container}");
    }
}

async fn removing_a_container_needs_the_flag_on_its_parent(door: Door) {
    // What a service asks before it removes acme/dc1/rack7.
    let needs = [("api:use", "acme/dc1"), ("containers:manage", "acme/dc1")];
    let flags = "api:use,containers:manage";
    let parent = door
        .issue(resource_token(DC1, &[&format!("{flags}@acme/dc1")]))
        .await;
    let of_child = resource_token("acme/dc1/rack7", &[&format!("{flags}@acme/dc1/rack7/**")]);
    let child = door.issue(of_child).await;
    let answer = door.check(&parent.secret, &needs).await;
    assert!(answer.allowed && answer.resource == DC1);
    let answer = door.check(&child.secret, &needs).await;
    assert_eq!(answer.reason(), v1::Reason::NotPermitted);
    // Its tokens go with it: every token at or under it, in one change.
    let request = v1::RevokeAllRequest {
        target: Some(v1::revoke_all_request::Target::ResourceUnder(
            "acme/dc1/rack7".to_owned(),
        )),
        reason: REASON.to_owned(),
        ..v1::RevokeAllRequest::default()
    };
    let done = door.tokens().revoke_all(bearer(&door.admin, request)).await;
    done.expect("ended");
    assert_eq!(door.state(&child.secret).await, v1::Reason::Revoked);
    assert_eq!(door.state(&parent.secret).await, v1::Reason::Allowed);
}

async fn creating_and_revoking_ask_for_a_reason_that_the_log_keeps(door: Door) {
    let (alice, bob) = flagged(&door).await;
    let asked = |reason: &str| v1::IssueTokenRequest {
        reason: reason.to_owned(),
        ..resource_token(DC1, &["api:use@acme/dc1"])
    };
    let status = door.issued_by(&alice, asked("")).await;
    refused(status, Code::InvalidArgument, "INVALID_ARGUMENT");
    let agent = door
        .issued_by(&alice, asked("new agent"))
        .await
        .expect("issued");
    let revoke = |reason: &str| v1::RevokeTokenRequest {
        target: Some(v1::revoke_token_request::Target::TokenId(agent.id.clone())),
        reason: reason.to_owned(),
        ..v1::RevokeTokenRequest::default()
    };
    let answer = door.tokens().revoke_token(bearer(&alice, revoke(""))).await;
    refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    let answer = door
        .tokens()
        .revoke_token(bearer(&alice, revoke("gone")))
        .await;
    answer.expect("revoked");
    let log = door.log().await;
    let told: Vec<_> = log
        .iter()
        .filter(|change| change.target == agent.id)
        .map(|change| {
            (
                change.kind.as_str(),
                change.actor.as_str(),
                change.reason.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("token.issue", "user:alice", "new agent"),
            ("token.revoke", "user:alice", "gone"),
        ]
    );
    // The flag that views the log.
    let list = || v1::ListChangesRequest::default();
    let answer = door.audit().list_changes(bearer(&bob, list())).await;
    refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
    door.role("auditor", "acme", &["audit:read"]).await;
    door.grant("user:bob", "auditor", "**").await;
    let answer = door.audit().list_changes(bearer(&bob, list())).await;
    assert!(answer.expect("flagged").into_inner().changes.len() > log.len());
}

async fn reopening_a_token_shows_how_to_tell_it_and_never_its_secret(door: Door) {
    let (alice, _) = flagged(&door).await;
    let agent = agent(&door, &alice).await;
    let shown = door.shown(&alice, &agent.id).await.expect("flagged");
    assert_eq!(shown.token_id, agent.id);
    assert!(agent.secret.starts_with(&shown.prefix) && !shown.prefix.is_empty());
    assert!(agent.secret.ends_with(&shown.last_four) && shown.last_four.len() == 4);
    let random = &agent.secret[4..49];
    assert!(!format!("{shown:?}").contains(random));
    let log = format!("{:?}", door.log().await);
    assert!(log.contains(&agent.id) && !log.contains(random));
}

async fn a_token_learns_its_kind_its_container_and_its_permissions(door: Door) {
    let (alice, _) = flagged(&door).await;
    let agent = agent(&door, &alice).await;
    // It may do nothing here: to ask after itself it needs no permission.
    let me = door.who_am_i(&agent.secret).await.expect("itself");
    let token = me.token.expect("shown");
    assert_eq!(
        (token.kind(), token.resource.as_str()),
        (v1::TokenKind::Resource, DC1)
    );
    let told: Vec<_> = me
        .permissions
        .iter()
        .map(|one| (one.action.as_str(), one.resource.as_str()))
        .collect();
    assert_eq!(told, [("api:use", DC1), ("checks:insert", DC1)]);
    let me = door.who_am_i(&alice).await.expect("herself");
    assert_eq!(me.subject, "user:alice");
    assert_eq!(
        me.permissions.len(),
        5,
        "what she holds: {:?}",
        me.permissions
    );
}

async fn a_client_learns_which_permissions_its_token_is_missing(door: Door) {
    let token = door
        .issue(resource_token(DC1, &["api:use,checks:insert@acme/dc1"]))
        .await;
    // Before any work, as the command line of InfraSonar does.
    let wanted = ["api:use", "checks:insert", "assets:create", "assets:read"];
    let checks = wanted.map(|action| check(&token.secret, &[(action, DC1)]));
    let request = v1::BatchCheckRequest {
        checks: checks.to_vec(),
        at_least: None,
    };
    let answer = door.checks().batch_check(request).await.expect("answered");
    let results = answer.into_inner().results;
    let lacks = wanted
        .iter()
        .zip(results)
        .filter(|(_, answer)| !answer.allowed);
    let lacks: Vec<_> = lacks.map(|(action, _)| *action).collect();
    assert_eq!(lacks, ["assets:create", "assets:read"]);
}

async fn errors_are_told_apart_and_name_what_is_missing(door: Door) {
    let (alice, bob) = flagged(&door).await;
    let answer = door.who_am_i("lku_nothing").await;
    refused(answer, Code::Unauthenticated, "UNAUTHENTICATED");
    let answer = door
        .issued_by(&bob, resource_token(DC1, &["api:use@acme/dc1"]))
        .await;
    let status = refused(answer, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(missing(&status), ["tokens:issue@acme/dc1"]);
    let nothing = "01970000-0000-7000-8000-000000000000";
    refused(
        door.shown(&alice, nothing).await,
        Code::NotFound,
        "NOT_FOUND",
    );
    let (name, home) = ("user:alice".to_owned(), "acme".to_owned());
    let request = v1::CreateUserRequest {
        name,
        home,
        reason: REASON.to_owned(),
        ..v1::CreateUserRequest::default()
    };
    let answer = door
        .directory()
        .create_user(bearer(&door.admin, request))
        .await;
    refused(answer, Code::AlreadyExists, "ALREADY_EXISTS");
}

async fn permissions_are_replaced_by_the_list_emptied_by_none_and_kept_where_unnamed(door: Door) {
    let asked = v1::IssueTokenRequest {
        ttl: Some(seconds(3_600)),
        ..resource_token(DC1, &["api:use,checks:insert@acme/dc1"])
    };
    let token = door.issue(asked).await;
    let allowed = async |action: &str| door.allows(&token.secret, action, DC1).await;
    let update = |scopes: Option<v1::ScopesInput>, name: &str| v1::TokenUpdate {
        scopes,
        name: name.to_owned(),
        ..v1::TokenUpdate::default()
    };
    // What is not named stays, whatever the message holds.
    let renamed = update(None, "renamed");
    let shown = door
        .updated(&door.admin, &token.id, &["name"], renamed)
        .await;
    let shown = shown.expect("updated");
    assert!(shown.name == "renamed" && shown.expires_at.is_some());
    assert!(allowed("api:use").await && allowed("checks:insert").await);
    let replaced = update(Some(only(&["api:use,assets:read@acme/dc1"])), "");
    let shown = door
        .updated(&door.admin, &token.id, &["scopes"], replaced)
        .await;
    assert_eq!(shown.expect("updated").name, "renamed");
    assert!(allowed("api:use").await && allowed("assets:read").await);
    assert!(!allowed("checks:insert").await, "it is not in the list");
    let emptied = update(Some(only(&[])), "");
    let shown = door
        .updated(&door.admin, &token.id, &["scopes"], emptied)
        .await;
    shown.expect("updated");
    assert!(!allowed("api:use").await && !allowed("assets:read").await);
    assert_eq!(
        door.state(&token.secret).await,
        v1::Reason::Allowed,
        "it is still a token"
    );
}
