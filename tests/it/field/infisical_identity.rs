//! Infisical's machine identities: roles at many projects, and tokens that an operator mints.
//!
//! What such tokens may carry, how they are renewed and revoked, and the boundary of what may be
//! handed on. Here identities are service accounts.

use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::token::{Secret, TokenKind};
use latchkey::proto::v1;
use tonic::Code;

use super::company::{Issued, REASON, missing, only, refused, seconds, token_of};
use super::door::{Door, on_each_store};
use crate::wire::{bearer, check};

const BOT: &str = "service:bot";

on_each_store! {
    an_identity_has_a_role_at_each_project_and_they_add_up
    an_identity_of_a_project_lives_and_acts_in_it_only
    an_operator_mints_a_named_token_with_lifetime_uses_and_networks
    a_token_is_renamed_and_revoked_by_its_id_without_its_secret
    a_renewal_is_clipped_at_the_maximum_and_not_refused
    a_periodic_token_is_renewed_for_ever
    a_renewed_token_is_revoked_as_the_same
    one_change_ends_all_tokens_of_an_identity_and_new_ones_work_at_once
    each_refusal_has_one_reason
    a_boundary_refusal_lists_exactly_what_is_missing
    a_stronger_identity_gives_no_token_to_a_weaker_manager
    a_role_in_use_gets_no_more_than_its_editor_holds
    a_token_is_rotated_with_a_grace
}

async fn bot(door: &Door) {
    door.principal(BOT, "acme").await;
    door.role("reader", "acme", &["secrets:read"]).await;
    door.grant(BOT, "reader", "acme/**").await;
}

async fn an_identity_has_a_role_at_each_project_and_they_add_up(door: Door) {
    door.principal(BOT, "acme").await;
    door.role("reader", "acme", &["secrets:read"]).await;
    door.role("editor", "acme", &["secrets:read", "secrets:write"])
        .await;
    door.grant(BOT, "reader", "acme/web/**").await;
    door.grant(BOT, "editor", "acme/api/**").await;
    let second = door.grant(BOT, "editor", "acme/web/dev/**").await;
    let token = door.login(BOT).await;
    let writes = async |path: &str| door.allows(&token, "secrets:write", path).await;
    assert!(writes("acme/api/prod").await && writes("acme/web/dev").await);
    assert!(!writes("acme/web/prod").await);
    door.take_back(second).await;
    assert!(!writes("acme/web/dev").await, "at once");
    assert!(
        door.allows(&token, "secrets:read", "acme/web/dev").await,
        "the other role stays"
    );
}

async fn an_identity_of_a_project_lives_and_acts_in_it_only(door: Door) {
    door.principal("user:web", "acme/web").await;
    let manages = [
        "services:write",
        "services:read",
        "tokens:issue",
        "grants:write",
        "secrets:read",
        "roles:read",
    ];
    door.role("owner", "acme/web", &manages).await;
    door.grant("user:web", "owner", "acme/web/**").await;
    let owner = door.login("user:web").await;
    let create = async |name: &str, home: &str| {
        let request = v1::CreateServiceAccountRequest {
            name: name.to_owned(),
            home: home.to_owned(),
            reason: REASON.to_owned(),
            ..v1::CreateServiceAccountRequest::default()
        };
        let answer = door
            .directory()
            .create_service_account(bearer(&owner, request))
            .await;
        answer.map(|_| ())
    };
    create("service:web-bot", "acme/web")
        .await
        .expect("the project's");
    let status = create("service:api-bot", "acme/api").await;
    refused(status, Code::PermissionDenied, "PERMISSION_DENIED");
    door.role("web-reader", "acme/web", &["secrets:read"]).await;
    let grant = async |on: &str| {
        door.granted_by(&owner, "service:web-bot", "web-reader", on)
            .await
    };
    grant("acme/web/prod/**").await.expect("in the project");
    let status = grant("acme/api/**").await;
    refused(status, Code::PermissionDenied, "PERMISSION_DENIED");
    let token = door.issued_by(&owner, token_of("service:web-bot")).await;
    let token = token.expect("she holds what it holds").secret;
    assert!(door.allows(&token, "secrets:read", "acme/web/prod").await);
    assert!(!door.allows(&token, "secrets:read", "acme/api/prod").await);
}

async fn an_operator_mints_a_named_token_with_lifetime_uses_and_networks(door: Door) {
    bot(&door).await;
    let asked = v1::IssueTokenRequest {
        name: "backup".to_owned(),
        ttl: Some(seconds(60)),
        max_lifetime: Some(seconds(90)),
        uses: Some(2),
        networks: vec!["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()],
        ..token_of(BOT)
    };
    let token = door.issue(asked).await;
    let from = async |address: &str| {
        let question = v1::CheckRequest {
            context: Some(v1::Context {
                client_ip: Some(address.to_owned()),
                ..v1::Context::default()
            }),
            ..check(&token.secret, &[("secrets:read", "acme/web")])
        };
        door.asked(question).await.reason()
    };
    assert_eq!(
        from("198.51.100.1").await,
        v1::Reason::Network,
        "spends no use"
    );
    assert_eq!(from("192.0.2.9").await, v1::Reason::Allowed);
    assert_eq!(from("2001:db8::9").await, v1::Reason::Allowed);
    assert_eq!(from("192.0.2.9").await, v1::Reason::UsesExhausted);
    let shown = door.shown(&door.admin, &token.id).await.expect("shown");
    assert_eq!((shown.name.as_str(), shown.uses_left), ("backup", Some(0)));
    door.pass(61);
    assert_eq!(from("192.0.2.9").await, v1::Reason::Expired);
}

async fn a_token_is_renamed_and_revoked_by_its_id_without_its_secret(door: Door) {
    bot(&door).await;
    let token = door.issue(token_of(BOT)).await;
    let name = v1::TokenUpdate {
        name: "old".to_owned(),
        ..v1::TokenUpdate::default()
    };
    let shown = door.updated(&door.admin, &token.id, &["name"], name).await;
    assert_eq!(shown.expect("updated").name, "old");
    assert_eq!(door.state(&token.secret).await, v1::Reason::Allowed);
    assert!(!door.revoke(&token.id).await.already_revoked);
    assert_eq!(door.state(&token.secret).await, v1::Reason::Revoked);
    assert!(
        door.revoke(&token.id).await.already_revoked,
        "no error on repeat"
    );
}

fn renew() -> v1::RenewTokenRequest {
    v1::RenewTokenRequest::default()
}

async fn a_renewal_is_clipped_at_the_maximum_and_not_refused(door: Door) {
    bot(&door).await;
    let asked = v1::IssueTokenRequest {
        ttl: Some(seconds(60)),
        max_lifetime: Some(seconds(90)),
        ..token_of(BOT)
    };
    let token = door.issue(asked).await;
    door.pass(20);
    // By its bearer, with no permission at all.
    let renewed = door
        .renewed_by(&token.secret, renew())
        .await
        .expect("renewed");
    assert!(!renewed.clipped);
    door.pass(50);
    assert_eq!(
        door.state(&token.secret).await,
        v1::Reason::Allowed,
        "past its first end"
    );
    let renewed = door
        .renewed_by(&token.secret, renew())
        .await
        .expect("renewed");
    assert!(renewed.clipped);
    let shown = renewed.token.expect("shown");
    assert_eq!(shown.expires_at, shown.max_expires_at);
    door.pass(21);
    assert_eq!(door.state(&token.secret).await, v1::Reason::Expired);
    let late = door.renewed_by(&token.secret, renew()).await;
    refused(late, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn a_periodic_token_is_renewed_for_ever(door: Door) {
    bot(&door).await;
    let asked = v1::IssueTokenRequest {
        period: Some(seconds(10)),
        ..token_of(BOT)
    };
    let token = door.issue(asked).await;
    for _ in 0..10 {
        door.pass(9);
        let renewed = door
            .renewed_by(&token.secret, renew())
            .await
            .expect("renewed");
        assert!(!renewed.clipped);
    }
    assert_eq!(door.state(&token.secret).await, v1::Reason::Allowed);
    door.pass(11);
    assert_eq!(door.state(&token.secret).await, v1::Reason::Expired);
    let never = door.issue(token_of(BOT)).await;
    let answer = door.renewed_by(&never.secret, renew()).await;
    refused(answer, Code::FailedPrecondition, "FAILED_PRECONDITION");
}

async fn a_renewed_token_is_revoked_as_the_same(door: Door) {
    bot(&door).await;
    let asked = v1::IssueTokenRequest {
        ttl: Some(seconds(60)),
        max_lifetime: Some(seconds(120)),
        ..token_of(BOT)
    };
    let token = door.issue(asked).await;
    door.pass(20);
    door.renewed_by(&token.secret, renew())
        .await
        .expect("renewed");
    door.revoke(&token.id).await;
    assert_eq!(door.state(&token.secret).await, v1::Reason::Revoked);
    let after = door.renewed_by(&token.secret, renew()).await;
    refused(after, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn one_change_ends_all_tokens_of_an_identity_and_new_ones_work_at_once(door: Door) {
    bot(&door).await;
    door.principal("service:other", "acme").await;
    let (first, second) = (door.login(BOT).await, door.login(BOT).await);
    let other = door.login("service:other").await;
    let request = v1::RevokeAllRequest {
        target: Some(v1::revoke_all_request::Target::Subject(BOT.to_owned())),
        reason: REASON.to_owned(),
        ..v1::RevokeAllRequest::default()
    };
    let done = door.tokens().revoke_all(bearer(&door.admin, request)).await;
    done.expect("ended");
    let fresh = door.login(BOT).await;
    for (token, expected) in [
        (first, v1::Reason::Revoked),
        (second, v1::Reason::Revoked),
        (fresh, v1::Reason::Allowed),
        (other, v1::Reason::Allowed),
    ] {
        assert_eq!(door.state(&token).await, expected);
    }
}

async fn each_refusal_has_one_reason(door: Door) {
    bot(&door).await;
    let with = async |change: fn(&mut v1::IssueTokenRequest)| {
        let mut asked = token_of(BOT);
        change(&mut asked);
        door.issue(asked).await
    };
    let revoked = with(|_| {}).await;
    door.revoke(&revoked.id).await;
    let expired = with(|asked| asked.ttl = Some(seconds(5))).await;
    door.pass(6);
    let early = with(|asked| {
        asked.not_before = Some(prost_types::Timestamp {
            seconds: 7_000_000_000,
            nanos: 0,
        });
    })
    .await;
    let network = with(|asked| asked.networks = vec!["192.0.2.0/24".to_owned()]).await;
    let audience = with(|asked| asked.audience = "billing".to_owned()).await;
    let workload = with(|asked| asked.workload = "spiffe://acme/bot".to_owned()).await;
    let spent = with(|asked| asked.uses = Some(1)).await;
    assert_eq!(door.state(&spent.secret).await, v1::Reason::Allowed);
    let plain = with(|_| {}).await;
    let reason = async |question: v1::CheckRequest| door.asked(question).await.reason();
    let read = [("secrets:read", "acme/web")];
    for (Issued { secret, .. }, expected) in [
        (&revoked, v1::Reason::Revoked),
        (&expired, v1::Reason::Expired),
        (&early, v1::Reason::NotYetValid),
        (&network, v1::Reason::Network),
        (&audience, v1::Reason::Audience),
        (&workload, v1::Reason::Workload),
        (&spent, v1::Reason::UsesExhausted),
        (&plain, v1::Reason::Allowed),
    ] {
        assert_eq!(reason(check(secret, &read)).await, expected);
    }
    let write = check(&plain.secret, &[("secrets:write", "acme/web")]);
    assert_eq!(reason(write).await, v1::Reason::NotPermitted);
    let wrong_kind = v1::CheckRequest {
        accepted_kinds: vec![v1::TokenKind::User as i32],
        ..check(&plain.secret, &read)
    };
    assert_eq!(reason(wrong_kind).await, v1::Reason::WrongKind);
    assert_eq!(reason(check("", &read)).await, v1::Reason::NoToken);
    // One that nobody made, and what can be no token at all.
    let unknown = Secret::generate(TokenKind::Service, &OsEntropy);
    for text in [unknown.reveal(), "nonsense", &plain.secret[..52]] {
        assert_eq!(reason(check(text, &read)).await, v1::Reason::Unknown);
    }
    door.pause(BOT).await;
    let paused = reason(check(&plain.secret, &read)).await;
    assert_eq!(paused, v1::Reason::SubjectDisabled);
}

/// Somebody who manages the tokens of acme's accounts, and reads secrets.
async fn manager(door: &Door) -> String {
    bot(door).await;
    door.principal("user:manager", "acme").await;
    let manages = [
        "tokens:issue",
        "services:read",
        "services:write",
        "roles:read",
        "roles:write",
        "secrets:read",
    ];
    door.role("manager", "acme", &manages).await;
    door.grant("user:manager", "manager", "acme/**").await;
    door.login("user:manager").await
}

async fn a_boundary_refusal_lists_exactly_what_is_missing(door: Door) {
    let manager = manager(&door).await;
    door.role("deployer", "acme", &["deploy:run", "secrets:write"])
        .await;
    door.grant(BOT, "deployer", "acme/web").await;
    let status = refused(
        door.issued_by(&manager, token_of(BOT)).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(
        missing(&status),
        ["deploy:run@acme/web", "secrets:write@acme/web"]
    );
    let scoped = v1::IssueTokenRequest {
        scopes: Some(only(&["secrets:read@acme/**", "deploy:run@acme/api"])),
        ..token_of(BOT)
    };
    let status = refused(
        door.issued_by(&manager, scoped).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["deploy:run@acme/api"]);
}

async fn a_stronger_identity_gives_no_token_to_a_weaker_manager(door: Door) {
    let manager = manager(&door).await;
    let mine = door.issued_by(&manager, token_of(BOT)).await;
    let mine = mine.expect("she holds what it holds").secret;
    // It becomes mightier than she is: not her token of it.
    door.role("deployer", "acme", &["deploy:run"]).await;
    door.grant(BOT, "deployer", "acme/**").await;
    let its = door.login(BOT).await;
    assert!(door.allows(&its, "deploy:run", "acme/web").await);
    assert!(!door.allows(&mine, "deploy:run", "acme/web").await);
    assert!(door.allows(&mine, "secrets:read", "acme/web").await);
    // Nor by the secret of one that somebody else made.
    let made = door.issue(token_of(BOT)).await;
    let request = v1::RotateTokenRequest {
        token_id: made.id.clone(),
        ..v1::RotateTokenRequest::default()
    };
    let answer = door.tokens().rotate_token(bearer(&manager, request)).await;
    refused(answer, Code::PermissionDenied, "BOUNDARY");
    assert_eq!(door.state(&made.secret).await, v1::Reason::Allowed);
}

async fn a_role_in_use_gets_no_more_than_its_editor_holds(door: Door) {
    let manager = manager(&door).await;
    let edit = async |actions: &[&str]| {
        let request = v1::UpdateRoleRequest {
            role: Some(v1::Role {
                name: "reader".to_owned(),
                actions: actions.iter().map(|one| (*one).to_owned()).collect(),
                ..v1::Role::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["actions".to_owned()],
            }),
            reason: REASON.to_owned(),
            ..v1::UpdateRoleRequest::default()
        };
        let answer = door
            .directory()
            .update_role(bearer(&manager, request))
            .await;
        answer.map(|_| ())
    };
    let status = refused(
        edit(&["secrets:read", "secrets:write"]).await,
        Code::PermissionDenied,
        "BOUNDARY",
    );
    assert_eq!(missing(&status), ["secrets:write@acme/**"]);
    let token = door.login(BOT).await;
    assert!(!door.allows(&token, "secrets:write", "acme/web").await);
    edit(&["services:read"]).await.expect("which she holds");
    assert!(
        !door.allows(&token, "secrets:read", "acme/web").await,
        "at once"
    );
    assert!(door.allows(&token, "services:read", "acme/web").await);
}

async fn a_token_is_rotated_with_a_grace(door: Door) {
    bot(&door).await;
    let old = door.issue(token_of(BOT)).await;
    let request = v1::RotateTokenRequest {
        token_id: old.id.clone(),
        grace: Some(seconds(30)),
        expected_rotation: Some(0),
        ..v1::RotateTokenRequest::default()
    };
    let answer = door
        .tokens()
        .rotate_token(bearer(&door.admin, request.clone()))
        .await;
    let new = answer.expect("rotated").into_inner();
    assert_eq!(new.token.expect("shown").token_id, old.id);
    for secret in [&old.secret, &new.secret] {
        assert!(door.allows(secret, "secrets:read", "acme/web").await);
    }
    door.pass(31);
    assert_eq!(door.state(&old.secret).await, v1::Reason::Expired);
    assert_eq!(door.state(&new.secret).await, v1::Reason::Allowed);
    let again = door
        .tokens()
        .rotate_token(bearer(&door.admin, request))
        .await;
    refused(again, Code::Aborted, "CONFLICT");
}
