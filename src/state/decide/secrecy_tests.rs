//! What refusals do not tell: whether something exists, and what a role permits.
//!
//! By the door of `decide`, on a small company; see `tests` for the world. Each case asks twice,
//! for what is there and for what is not, and the two refusals must be one.

use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::permission::ActionPattern;

/// Dave manages a subtree by these actions and sees nothing outside of it.
fn delegate(actions: &[&str], on: &str) -> (World, String) {
    let mut world = World::new();
    let actions = actions.iter().map(|one| ActionPattern::parse(one));
    world.local(Command::CreateRole {
        name: role("delegate"),
        home: resource("other"),
        actions: actions.map(|one| one.expect("valid")).collect(),
        display: Display::default(),
    });
    world.grant("user:dave", "delegate", on);
    let dave = world.user("user:dave");
    (world, dave)
}

fn role(text: &str) -> RoleName {
    RoleName::parse(text).expect("valid")
}

fn grant(principal: &str, of: &str) -> Command {
    Command::CreateGrant {
        principal: name(principal),
        role: role(of),
        resource: ResourcePattern::parse("other/x").expect("valid"),
    }
}

fn refused(world: &mut World, secret: &str, command: Command) -> Refusal {
    world.as_bearer(secret, command).expect_err("refused")
}

#[test]
fn a_grant_tells_neither_of_principals_nor_of_roles_that_are_not_ones_to_give() {
    let (mut world, dave) = delegate(&["grants:write", "a:b"], "other/**");
    for (principal, of) in [
        ("user:alice", "deployer"),
        ("user:alice", "nothing"),
        ("user:nobody", "deployer"),
        ("user:nobody", "nothing"),
    ] {
        let refusal = refused(&mut world, &dave, grant(principal, of));
        assert_eq!(refusal, Refusal::NotFound("role"), "{principal} {of}");
    }
    // What it holds it may give, and then it learns whether there is anybody to give it to.
    let refusal = refused(&mut world, &dave, grant("user:nobody", "delegate"));
    assert_eq!(refusal, Refusal::NotFound("user"));
    world
        .as_bearer(&dave, grant("user:alice", "delegate"))
        .expect("held");
}

#[test]
fn a_grant_of_a_role_that_can_be_read_lists_what_is_missing_whoever_it_is_for() {
    let (mut world, dave) = delegate(&["grants:write", "roles:read"], "**");
    for principal in ["user:alice", "user:nobody"] {
        let refusal = refused(&mut world, &dave, grant(principal, "deployer"));
        assert_eq!(missing(&refusal), ["deploy:run@other/x"], "{principal}");
    }
}

#[test]
fn a_membership_that_is_not_ones_to_give_tells_nothing_of_the_member() {
    let (mut world, dave) = delegate(&["teams:write"], "acme/**");
    for member in ["user:alice", "user:nobody"] {
        let join = Command::AddMember {
            team: name("team:platform"),
            member: name(member),
        };
        let refusal = refused(&mut world, &dave, join);
        assert_eq!(missing(&refusal), ["deploy:run@acme/**"], "{member}");
    }
}

#[test]
fn scopes_do_not_tell_what_a_role_permits() {
    let mut world = World::new();
    let dave = world.user("user:dave");
    let issue = |world: &mut World, of: &str| {
        let asked = scopes(&[&format!("role:{of}@acme/**")]);
        let (secret, issue) = world.asked(TokenKind::User, None, asked);
        world.issue(bearer(&dave), secret, issue)
    };
    let told = |of: &str| {
        let what = format!("there is no role {of} that the caller may read or holds there");
        Err(Refusal::invalid("scopes", what))
    };
    for of in ["deployer", "nothing"] {
        assert_eq!(issue(&mut world, of), told(of));
        // Nor does narrowing oneself, which is free, write it out.
        let update = Command::UpdateToken(Box::new(UpdateToken {
            scopes: Some(scopes(&[&format!("role:{of}@acme/**")])),
            ..unchanged(world.id_of(&dave))
        }));
        let refusal = world.as_bearer(&dave, update).map(|_| String::new());
        assert_eq!(refusal, told(of));
    }
    world.grant("user:dave", "deployer", "acme/**");
    let token = issue(&mut world, "deployer").expect("held");
    assert_eq!(world.check(&token, "deploy:run", "acme/x"), Reason::Allowed);
    assert_eq!(issue(&mut world, "admin"), told("admin"));
}

#[test]
fn whether_a_principal_is_disabled_is_told_to_its_managers_only() {
    let mut world = World::new();
    world.local(Command::SetDisabled {
        name: name("user:bob"),
        disabled: true,
    });
    let (alice, dave) = (world.user("user:alice"), world.user("user:dave"));
    for (subject, expected) in [
        ("user:bob", Refusal::NotFound("user")),
        ("user:nobody", Refusal::NotFound("user")),
    ] {
        let (secret, issue) = world.asked(TokenKind::User, Some(subject), ScopesAsked::All);
        assert_eq!(world.issue(bearer(&dave), secret, issue), Err(expected));
    }
    let (secret, issue) = world.asked(TokenKind::User, Some("user:bob"), ScopesAsked::All);
    let refusal = world.issue(bearer(&alice), secret, issue);
    assert!(
        matches!(refusal, Err(Refusal::Precondition(_))),
        "{refusal:?}"
    );
}
