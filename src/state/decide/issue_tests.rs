//! Who may issue what, and that nobody hands on what they do not hold.
//!
//! By the door of `decide`, on a small company; see `tests` for the world.

use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::limits::Audience;
use crate::domain::permission::ActionPattern;
use crate::domain::token::Digest;

#[test]
fn a_user_token_follows_the_live_permissions_of_its_user() {
    let mut world = World::new();
    let dave = world.user("user:dave");
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
    world.grant("user:dave", "keeper", "acme/**");
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::Allowed
    );
    world.local(Command::DeleteGrant(GrantId(4)));
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
}

#[test]
fn a_removed_member_loses_the_teams_rights_at_once() {
    let mut world = World::new();
    let carol = world.user("user:carol");
    assert_eq!(
        world.check(&carol, "deploy:run", "acme/api"),
        Reason::Allowed
    );
    world.local(Command::RemoveMember {
        team: name("team:platform"),
        member: name("user:carol"),
        cut_off_tokens: false,
    });
    assert_eq!(
        world.check(&carol, "deploy:run", "acme/api"),
        Reason::NotPermitted
    );
}

#[test]
fn only_a_current_member_issues_team_tokens_and_a_team_token_is_not_a_member() {
    let mut world = World::new();
    let carol = world.user("user:carol");
    let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
    let team = world
        .issue(bearer(&carol), secret, issue)
        .expect("a member");
    assert_eq!(
        world.check(&team, "deploy:run", "acme/api"),
        Reason::Allowed
    );
    for caller in ["user:alice", "user:dave"] {
        let caller = world.user(caller);
        let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
        assert_eq!(
            world.issue(bearer(&caller), secret, issue),
            Err(Refusal::NotAMember)
        );
    }
    let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
    assert_eq!(
        world.issue(bearer(&team), secret, issue),
        Err(Refusal::NotAMember)
    );
    // Removal with the cut-off ends what the member issued, and a new member starts afresh.
    world.local(Command::RemoveMember {
        team: name("team:platform"),
        member: name("user:carol"),
        cut_off_tokens: true,
    });
    assert_eq!(
        world.check(&team, "deploy:run", "acme/api"),
        Reason::Revoked
    );
}

#[test]
fn a_resource_token_is_covered_by_what_its_issuer_holds() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web/prod"]),
    );
    issue.resource = Some(resource("acme/web/prod"));
    let token = world.issue(bearer(&bob), secret, issue).expect("held");
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/prod"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/dev"),
        Reason::NotPermitted
    );

    let wanted = ["secrets:read,secrets:write,deploy:run@acme/web/prod"];
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&wanted));
    issue.resource = Some(resource("acme/web/prod"));
    let refused = world
        .issue(bearer(&bob), secret, issue)
        .expect_err("more than held");
    assert_eq!(
        missing(&refused),
        ["deploy:run@acme/web/prod", "secrets:write@acme/web/prod"]
    );

    let dave = world.user("user:dave");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web"]),
    );
    issue.resource = Some(resource("acme/web"));
    let refused = world
        .issue(bearer(&dave), secret, issue)
        .expect_err("not flagged");
    assert_eq!(missing(&refused), ["tokens:issue@acme/web"]);
}

#[test]
fn issuing_for_another_sets_a_ceiling_and_everything_sets_none() {
    let mut world = World::new();
    world.grant("user:bob", "keeper", "acme");
    let (alice, bob) = (world.user("user:alice"), world.user("user:bob"));
    let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    let bounded = world
        .issue(bearer(&bob), secret, issue)
        .expect("tokens:issue at home");
    assert_eq!(
        world.check(&bounded, "deploy:run", "acme/web"),
        Reason::NotPermitted
    );
    world.grant("user:carol", "keeper", "acme/**");
    assert_eq!(
        world.check(&bounded, "secrets:read", "acme/web/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&bounded, "secrets:read", "acme/api"),
        Reason::NotPermitted
    );
    let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    let free = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    assert_eq!(
        world.state.token(world.id_of(&free)).expect("kept").ceiling,
        None
    );
    assert_eq!(
        world.check(&free, "deploy:run", "acme/web"),
        Reason::Allowed
    );
}

#[test]
fn a_service_token_needs_all_that_the_account_holds() {
    let mut world = World::new();
    world.grant("service:ci", "deployer", "acme/**");
    world.grant("user:bob", "keeper", "acme");
    let bob = world.user("user:bob");
    let (secret, issue) = world.asked(TokenKind::Service, Some("service:ci"), ScopesAsked::All);
    let refused = world
        .issue(bearer(&bob), secret, issue)
        .expect_err("beyond bob");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    world.grant("user:bob", "deployer", "acme/**");
    let (secret, issue) = world.asked(TokenKind::Service, Some("service:ci"), ScopesAsked::All);
    let token = world.issue(bearer(&bob), secret, issue).expect("held now");
    assert_eq!(world.check(&token, "deploy:run", "acme/x"), Reason::Allowed);
    world.grant("service:ci", "admin", "**");
    assert_eq!(
        world.check(&token, "billing:read", "acme/x"),
        Reason::NotPermitted,
        "ceiling"
    );
    assert!(world.is_narrowed(&token));
}

#[test]
fn derived_tokens_are_bounded_by_every_ancestor_and_die_with_them() {
    let mut world = World::new();
    let mut chain = vec![world.user("user:alice")];
    for depth in 0..8 {
        let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
        if depth == 0 {
            issue.scopes = scopes(&["secrets:*,tokens:issue@acme/**"]);
            issue.ttl_s = Some(100);
        } else {
            issue.ttl_s = Some(1_000);
        }
        issue.derive = true;
        let parent = chain.last().expect("one").clone();
        chain.push(
            world
                .issue(bearer(&parent), secret, issue)
                .expect("derived"),
        );
    }
    let last = chain[8].clone();
    // The second has scopes of its own, and those after it only what it has.
    let narrowed: Vec<bool> = chain.iter().map(|one| world.is_narrowed(one)).collect();
    assert_eq!(narrowed, (0..9).map(|at| at > 1).collect::<Vec<_>>());
    assert_eq!(
        world.check(&last, "secrets:read", "acme/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&last, "deploy:run", "acme/x"),
        Reason::NotPermitted
    );
    let record = world.state.token(world.id_of(&last)).expect("kept");
    assert_eq!(
        record.expires_ms,
        Some(T0 + 100_000),
        "clipped to the ancestor's"
    );
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.derive = true;
    let refused = world
        .issue(bearer(&last), secret, issue)
        .expect_err("too deep");
    assert!(matches!(refused, Refusal::Limit(_)), "{refused:?}");
    let wider = scopes(&["secrets:read@**"]);
    let (secret, mut issue) = world.asked(TokenKind::User, None, wider);
    issue.derive = true;
    let refused = world
        .issue(bearer(&chain[7]), secret, issue)
        .expect_err("wider");
    assert_eq!(missing(&refused), ["secrets:read@**"]);
    let middle = world.id_of(&chain[3]);
    world.local(Command::RevokeToken {
        target: RevokeTarget::Id(middle),
        compromised: false,
    });
    assert_eq!(
        world.check(&chain[2], "secrets:read", "acme/x"),
        Reason::Allowed
    );
    for child in &chain[3..] {
        assert_eq!(
            world.check(child, "secrets:read", "acme/x"),
            Reason::Revoked
        );
    }
}

#[test]
fn a_narrowed_token_needs_tokens_issue_even_for_its_own() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, issue) = world.asked(TokenKind::User, None, scopes(&["secrets:read@acme/**"]));
    let narrow = world.issue(bearer(&alice), secret, issue).expect("own");
    let (secret, issue) = world.asked(TokenKind::User, None, scopes(&["secrets:read@acme/x"]));
    let refused = world
        .issue(bearer(&narrow), secret, issue)
        .expect_err("not in scopes");
    assert_eq!(missing(&refused), ["tokens:issue@acme"]);
    let (secret, issue) = world.asked(
        TokenKind::User,
        None,
        scopes(&["secrets:read@acme/**", "tokens:issue@acme"]),
    );
    let able = world.issue(bearer(&alice), secret, issue).expect("own");
    let (secret, issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    let child = world
        .issue(bearer(&able), secret, issue)
        .expect("bounded by a ceiling");
    assert_eq!(
        world.check(&child, "secrets:read", "acme/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&child, "deploy:run", "acme/x"),
        Reason::NotPermitted
    );
}

#[test]
fn grants_memberships_and_role_edits_hand_on_only_what_is_held() {
    let mut world = World::new();
    let manager = ActionPattern::parse("grants:write").expect("valid");
    world.local(Command::CreateRole {
        name: RoleName::parse("manager").expect("valid"),
        home: resource("acme"),
        actions: vec![
            manager,
            ActionPattern::parse("roles:write").expect("valid"),
            ActionPattern::parse("teams:write").expect("valid"),
            ActionPattern::parse("users:write").expect("valid"),
        ],
        display: Display::default(),
    });
    world.grant("user:dave", "manager", "acme/**");
    let dave = world.user("user:dave");
    let grant = |role: &str| Command::CreateGrant {
        principal: name("user:dave"),
        role: RoleName::parse(role).expect("valid"),
        resource: ResourcePattern::parse("acme/**").expect("valid"),
    };
    let refused = world
        .as_bearer(&dave, grant("deployer"))
        .expect_err("not held");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    let refused = world
        .as_bearer(&dave, grant("admin"))
        .expect_err("not held");
    assert_eq!(missing(&refused), ["*@acme/**"]);
    let join = Command::AddMember {
        team: name("team:platform"),
        member: name("user:dave"),
    };
    let refused = world
        .as_bearer(&dave, join)
        .expect_err("the team holds more");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    let edit = Command::UpdateRole {
        name: RoleName::parse("manager").expect("valid"),
        actions: Some(vec![ActionPattern::parse("*").expect("valid")]),
        display: Display::default(),
    };
    let refused = world.as_bearer(&dave, edit).expect_err("added actions");
    assert_eq!(missing(&refused), ["*@acme/**"]);
    // Pausing is free to who manages; ending the pause hands on all that the principal holds.
    let pause = |disabled| Command::SetDisabled {
        name: name("user:alice"),
        disabled,
    };
    world.as_bearer(&dave, pause(true)).expect("managed");
    let refused = world
        .as_bearer(&dave, pause(false))
        .expect_err("holds everything");
    assert_eq!(missing(&refused), ["*@**"]);
}

#[test]
fn a_widened_token_never_rises_above_what_its_first_issuer_held() {
    let mut world = World::new();
    world.grant("user:bob", "keeper", "acme");
    world.grant("user:carol", "admin", "acme/**");
    let (alice, bob) = (world.user("user:alice"), world.user("user:bob"));
    let carol = world.user("user:carol");
    let (secret, mut issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    issue.ttl_s = Some(3_600);
    // Bob knows this secret.
    let token = world
        .issue(bearer(&bob), secret, issue)
        .expect("tokens:issue at home");
    assert_eq!(
        world.check(&token, "deploy:run", "acme/web"),
        Reason::NotPermitted
    );
    let id = world.id_of(&token);
    let update = |scopes: Option<ScopesAsked>, ends_ms: UnixMs| {
        Command::UpdateToken(Box::new(UpdateToken {
            scopes,
            expires_ms: Some(Some(ends_ms)),
            ..unchanged(id)
        }))
    };
    for (number, caller) in [&alice, &carol].into_iter().enumerate() {
        let later = T0 + 7_200_000 + number as u64;
        world
            .as_bearer(caller, update(None, later))
            .expect("extended");
        assert_eq!(
            world.check(&token, "deploy:run", "acme/web"),
            Reason::NotPermitted
        );
    }
    let beyond = update(Some(scopes(&["deploy:run@acme/web"])), T0 + 9_000_000);
    let refused = world
        .as_bearer(&alice, beyond)
        .expect_err("powerless, so refused");
    assert_eq!(missing(&refused), ["deploy:run@acme/web"]);
}

#[test]
fn a_bound_token_may_end_itself_from_anywhere_and_do_nothing_else() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.limits.audience = Audience::parse("api");
    issue.uses = Some(1);
    let bound = world.issue(bearer(&alice), secret, issue).expect("own");
    let delete = Command::DeleteGrant(GrantId(1));
    let refused = world.as_bearer(&bound, delete).map(|_| ());
    assert_eq!(refused, Err(Refusal::Unauthenticated));
    let revoke = |target| Command::RevokeToken {
        target,
        compromised: false,
    };
    let other = revoke(RevokeTarget::Secret(Digest::of(&alice)));
    assert!(world.as_bearer(&bound, other).is_err(), "not another one");
    let itself = revoke(RevokeTarget::Secret(Digest::of(&bound)));
    world.as_bearer(&bound, itself).expect("itself");
    assert_eq!(world.check(&bound, "a:b", "acme"), Reason::Revoked);
}
