//! Terrakube: personal tokens, and team tokens that members make and nobody in person holds.
//!
//! An organisation is a path, and so are its workspaces; a team's flags are actions.

use latchkey::proto::v1;
use tonic::Code;

use super::company::{REASON, refused, seconds, token_of};
use super::door::{Door, on_each_store};
use crate::wire::bearer;

const TEAM: &str = "team:platform";

on_each_store! {
    a_user_makes_tokens_also_by_a_token
    a_member_makes_a_token_of_the_team
    a_token_is_shown_once_and_told_by_its_description
    a_token_lives_as_long_as_asked_or_for_ever
    an_expired_token_is_refused_as_such
    a_user_lists_its_own_tokens_and_its_teams_also_expired_ones
    a_deleted_token_is_refused_and_stays_listed
    a_user_sees_its_teams_and_what_they_permit
    team_flags_reach_projects_and_workspaces
    a_team_token_hangs_on_no_single_person
    who_leaves_takes_no_team_token_along
}

/// Carol and Erin are in the platform team, Dave is not.
async fn team(door: &Door) -> [String; 3] {
    for user in ["user:carol", "user:dave", "user:erin"] {
        door.principal(user, "acme").await;
    }
    door.principal(TEAM, "acme").await;
    door.role("planner", "acme", &["jobs:plan", "workspaces:manage"])
        .await;
    door.grant(TEAM, "planner", "acme/infra/**").await;
    for member in ["user:carol", "user:erin"] {
        door.join(TEAM, member).await;
    }
    [
        door.login("user:carol").await,
        door.login("user:dave").await,
        door.login("user:erin").await,
    ]
}

fn own() -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        subject: String::new(),
        ..token_of("user:")
    }
}

async fn a_user_makes_tokens_also_by_a_token(door: Door) {
    let [carol, dave, _] = team(&door).await;
    for user in [carol, dave] {
        let first = door.issued_by(&user, own()).await.expect("anybody may");
        let second = door.issued_by(&first.secret, own()).await;
        let second = second.expect("also who uses one");
        assert_eq!(door.state(&second.secret).await, v1::Reason::Allowed);
    }
}

async fn a_member_makes_a_token_of_the_team(door: Door) {
    let [carol, _, _] = team(&door).await;
    let token = door
        .issued_by(&carol, token_of(TEAM))
        .await
        .expect("a member");
    let answer = door
        .check(&token.secret, &[("jobs:plan", "acme/infra/vpc")])
        .await;
    assert!(answer.allowed);
    assert_eq!(
        (answer.subject.as_str(), answer.kind()),
        (TEAM, v1::TokenKind::Team)
    );
    // It is no member: it makes no more of them.
    let more = door.issued_by(&token.secret, token_of(TEAM)).await;
    refused(more, Code::PermissionDenied, "NOT_A_MEMBER");
}

async fn a_token_is_shown_once_and_told_by_its_description(door: Door) {
    let [carol, _, _] = team(&door).await;
    let asked = v1::IssueTokenRequest {
        description: "terraform on my laptop".to_owned(),
        request_id: "once".to_owned(),
        ..own()
    };
    let token = door.issued_by(&carol, asked.clone()).await.expect("issued");
    let shown = door.shown(&carol, &token.id).await.expect("her own");
    assert_eq!(shown.description, "terraform on my laptop");
    let listed = door.listed(&carol, v1::ListTokensRequest::default()).await;
    let random = &token.secret[4..49];
    assert!(!format!("{shown:?}{listed:?}").contains(random));
    // Not even to who sends the very request again.
    let again = door.tokens().issue_token(bearer(&carol, asked)).await;
    let again = again.expect("the first answer").into_inner();
    assert!(again.secret_withheld && again.secret.is_empty());
}

async fn a_token_lives_as_long_as_asked_or_for_ever(door: Door) {
    let [carol, _, _] = team(&door).await;
    let days = |days: i64| v1::IssueTokenRequest {
        ttl: Some(seconds(days * 86_400)),
        ..own()
    };
    for asked in [30, 60, 90, 120, 365] {
        let token = door.issued_by(&carol, days(asked)).await.expect("issued");
        let shown = door.shown(&carol, &token.id).await.expect("her own");
        let (from, to) = (
            shown.created_at.expect("when"),
            shown.expires_at.expect("when"),
        );
        let lives = to.seconds - from.seconds;
        assert!(
            (lives - asked * 86_400).abs() <= 1,
            "{asked} days are {lives} s"
        );
    }
    let ever = door.issued_by(&carol, own()).await.expect("issued");
    let shown = door.shown(&carol, &ever.id).await.expect("her own");
    assert_eq!(shown.expires_at, None);
    let none = v1::IssueTokenRequest {
        ttl: Some(seconds(0)),
        ..own()
    };
    refused(
        door.issued_by(&carol, none).await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
}

async fn an_expired_token_is_refused_as_such(door: Door) {
    let [carol, _, _] = team(&door).await;
    let asked = v1::IssueTokenRequest {
        ttl: Some(seconds(30)),
        ..own()
    };
    let token = door.issued_by(&carol, asked).await.expect("issued");
    assert_eq!(door.state(&token.secret).await, v1::Reason::Allowed);
    door.pass(31);
    assert_eq!(door.state(&token.secret).await, v1::Reason::Expired);
    let answer = door.who_am_i(&token.secret).await;
    refused(answer, Code::Unauthenticated, "UNAUTHENTICATED");
}

async fn a_user_lists_its_own_tokens_and_its_teams_also_expired_ones(door: Door) {
    let [carol, dave, erin] = team(&door).await;
    let asked = v1::IssueTokenRequest {
        ttl: Some(seconds(30)),
        ..own()
    };
    let expired = door.issued_by(&carol, asked).await.expect("issued");
    let of_team = door.issued_by(&erin, token_of(TEAM)).await.expect("issued");
    door.pass(31);
    let ids = async |who: &str, subject: &str| {
        let asked = v1::ListTokensRequest {
            subject: subject.to_owned(),
            ..v1::ListTokensRequest::default()
        };
        let listed = door.listed(who, asked).await;
        let listed = listed.map(|all| all.into_iter().map(|one| one.token_id).collect());
        listed.unwrap_or_else(|_| Vec::new())
    };
    let own = ids(&carol, "user:carol").await;
    assert!(own.len() == 2 && own.contains(&expired.id), "{own:?}");
    assert_eq!(
        ids(&carol, TEAM).await,
        std::slice::from_ref(&of_team.id),
        "by any member"
    );
    for (who, subject) in [(&dave, TEAM), (&dave, "user:carol"), (&erin, "user:carol")] {
        assert_eq!(ids(who, subject).await, Vec::<String>::new(), "{subject}");
    }
    let shown = door.shown(&carol, &expired.id).await.expect("her own");
    assert_eq!(shown.state(), v1::TokenState::Expired);
}

async fn a_deleted_token_is_refused_and_stays_listed(door: Door) {
    let [carol, _, _] = team(&door).await;
    let token = door.issued_by(&carol, own()).await.expect("issued");
    let done = door.revoked_by(&carol, &token.id).await.expect("her own");
    assert!(!done.already_revoked);
    assert_eq!(door.state(&token.secret).await, v1::Reason::Revoked);
    let shown = door.shown(&carol, &token.id).await.expect("her own");
    assert_eq!(shown.state(), v1::TokenState::Revoked);
    let first = shown.revocation.expect("told");
    assert_eq!(first.reason, REASON);
    let again = door.revoked_by(&carol, &token.id).await.expect("no error");
    assert!(again.already_revoked);
    let shown = door.shown(&carol, &token.id).await.expect("her own");
    assert_eq!(shown.revocation, Some(first), "it keeps the first instant");
}

async fn a_user_sees_its_teams_and_what_they_permit(door: Door) {
    let [carol, dave, _] = team(&door).await;
    let teams = async |who: &str, member: &str| {
        let request = v1::ListTeamsRequest {
            member: member.to_owned(),
            ..v1::ListTeamsRequest::default()
        };
        let answer = door.directory().list_teams(bearer(who, request)).await;
        let teams = answer.map(|answer| answer.into_inner().teams);
        let names = teams.map(|teams| teams.into_iter().map(|one| one.name).collect());
        names.unwrap_or_else(|_| Vec::new())
    };
    assert_eq!(teams(&carol, "user:carol").await, [TEAM]);
    assert_eq!(teams(&dave, "user:dave").await, Vec::<String>::new());
    assert_eq!(teams(&dave, "user:carol").await, Vec::<String>::new());
    let held = async |who: &str| {
        let me = door.who_am_i(who).await.expect("itself");
        let told = me.permissions.into_iter();
        told.map(|one| format!("{}@{}", one.action, one.resource))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        held(&carol).await,
        ["jobs:plan@acme/infra/**", "workspaces:manage@acme/infra/**"]
    );
    assert_eq!(held(&dave).await, Vec::<String>::new());
}

async fn team_flags_reach_projects_and_workspaces(door: Door) {
    let [carol, _, _] = team(&door).await;
    door.role("approver", "acme", &["jobs:approve"]).await;
    door.grant(TEAM, "approver", "acme/infra/vpc").await;
    for (action, resource, expected) in [
        ("jobs:plan", "acme/infra", true),
        ("jobs:plan", "acme/infra/vpc", true),
        ("jobs:approve", "acme/infra/vpc", true),
        ("jobs:approve", "acme/infra/dns", false),
        ("states:manage", "acme/infra/vpc", false),
        ("jobs:plan", "acme/web", false),
    ] {
        let allowed = door.allows(&carol, action, resource).await;
        assert_eq!(allowed, expected, "{action} {resource}");
    }
}

async fn a_team_token_hangs_on_no_single_person(door: Door) {
    let [carol, _, erin] = team(&door).await;
    let token = door
        .issued_by(&carol, token_of(TEAM))
        .await
        .expect("a member");
    let plans = async || {
        door.allows(&token.secret, "jobs:plan", "acme/infra/vpc")
            .await
    };
    let left = door.leave(TEAM, "user:carol", false).await;
    assert_eq!(left.len(), 1, "what she issued is told");
    assert_eq!(left[0].token_id, token.id);
    assert!(plans().await, "the pipeline goes on");
    let request = v1::DeleteUserRequest {
        name: "user:carol".to_owned(),
        reason: REASON.to_owned(),
        ..v1::DeleteUserRequest::default()
    };
    let done = door
        .directory()
        .delete_user(bearer(&door.admin, request))
        .await;
    done.expect("deleted");
    assert_eq!(door.state(&carol).await, v1::Reason::Revoked);
    assert!(plans().await, "even when she is gone");
    // Whoever is still in the team ends it.
    door.revoked_by(&erin, &token.id).await.expect("a member");
    assert_eq!(door.state(&token.secret).await, v1::Reason::Revoked);
}

async fn who_leaves_takes_no_team_token_along(door: Door) {
    let [carol, _, erin] = team(&door).await;
    let hers = door
        .issued_by(&carol, token_of(TEAM))
        .await
        .expect("a member");
    let other = door
        .issued_by(&erin, token_of(TEAM))
        .await
        .expect("a member");
    let ended = door.leave(TEAM, "user:carol", true).await;
    assert_eq!(ended.len(), 1);
    assert_eq!(door.state(&hers.secret).await, v1::Reason::Revoked);
    assert_eq!(door.state(&other.secret).await, v1::Reason::Allowed);
}
