//! What one principal can have of something, and that strangers cannot use it up.
//!
//! By the door of `decide`, on a small company; see `tests` for the world.

use super::super::directory::{GRANTS_MAX, PERMISSIONS_MAX, TEAMS_MAX};
use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::permission::ActionPattern;

/// Dave has a subtree to himself, Bob is where Alice is at home.
fn company() -> (World, String, String) {
    let mut world = World::new();
    for (role, home, actions) in [
        ("tenant", "other", ["grants:write", "teams:write", "a:b"]),
        ("people", "acme", ["grants:write", "users:write", "a:b"]),
    ] {
        let actions = actions.iter().map(|one| ActionPattern::parse(one));
        world.local(Command::CreateRole {
            name: RoleName::parse(role).expect("valid"),
            home: resource(home),
            actions: actions.map(|one| one.expect("valid")).collect(),
            display: Display::default(),
        });
    }
    world.grant("user:dave", "tenant", "other/**");
    world.grant("user:bob", "people", "acme/**");
    let (stranger, owner) = (world.user("user:dave"), world.user("user:bob"));
    (world, stranger, owner)
}

/// The `number`th grant of a role to Carol.
fn grant(role: &str, under: &str, number: usize) -> Command {
    Command::CreateGrant {
        principal: name("user:carol"),
        role: RoleName::parse(role).expect("valid"),
        resource: ResourcePattern::parse(&format!("{under}/{number}")).expect("valid"),
    }
}

/// How many of a row of commands are carried out before one is over the limit.
fn until_full(world: &mut World, secret: &str, command: impl Fn(usize) -> Command) -> usize {
    let full = |number: &usize| match world.as_bearer(secret, command(*number)) {
        Ok(_) => false,
        Err(Refusal::Limit(_)) => true,
        Err(refusal) => panic!("{refusal:?}"),
    };
    (0..).find(full).expect("a limit")
}

#[test]
fn a_stranger_cannot_use_up_the_grants_of_a_principal() {
    let (mut world, stranger, owner) = company();
    let given = until_full(&mut world, &stranger, |n| grant("tenant", "other/x", n));
    assert_eq!(given, GRANTS_MAX / 2);
    world
        .as_bearer(&owner, grant("people", "acme/x", 1))
        .expect("the other half");
    let more = world.as_bearer(&stranger, grant("tenant", "other/y", 0));
    assert!(matches!(more, Err(Refusal::Limit(_))), "{more:?}");
}

#[test]
fn the_permissions_of_a_principal_are_bounded_however_they_come() {
    const ACTIONS: usize = 64;
    let mut world = World::new();
    let actions = |count: usize| -> Vec<ActionPattern> {
        let actions = (0..count).map(|n| ActionPattern::parse(&format!("a:{n}")));
        actions.map(|one| one.expect("valid")).collect()
    };
    world.local(Command::CreateRole {
        name: RoleName::parse("wide").expect("valid"),
        home: resource("acme"),
        actions: actions(ACTIONS),
        display: Display::default(),
    });
    let full = (0..).find(|number| {
        let given = world.run(Caller::Local, grant("wide", "acme/x", *number), "because");
        matches!(given, Err(Refusal::Limit(_)))
    });
    assert_eq!(full, Some(PERMISSIONS_MAX / ACTIONS));
    // Nor by a role that grows under its grants.
    let grow = Command::UpdateRole {
        name: RoleName::parse("wide").expect("valid"),
        actions: Some(actions(ACTIONS + 1)),
        display: Display::default(),
    };
    let grown = world.run(Caller::Local, grow, "because");
    assert!(matches!(grown, Err(Refusal::Limit(_))), "{grown:?}");
}

#[test]
fn who_may_change_a_principal_takes_away_what_a_stranger_gave_it() {
    let (mut world, stranger, owner) = company();
    let last = world.state.directory.grant_last();
    let given = grant("tenant", "other/x", 1);
    world.as_bearer(&stranger, given).expect("held");
    let take = Command::DeleteGrant(GrantId(last + 1));
    let dave = Command::DeleteGrant(GrantId(last));
    world.as_bearer(&owner, take).expect("of its own user");
    // What others gave to others is none of the stranger's business.
    let refused = world.as_bearer(&stranger, dave).map(|_| ());
    assert_eq!(refused, Err(Refusal::NotFound("grant")));
}

#[test]
fn a_stranger_cannot_use_up_the_teams_of_a_member() {
    let (mut world, stranger, owner) = company();
    let team = |number: usize| name(&format!("team:t{number}"));
    for number in 0..TEAMS_MAX {
        let create = Command::CreatePrincipal {
            name: team(number),
            home: resource("other"),
            display: Display::default(),
        };
        world.local(create);
    }
    let join = |number: usize| Command::AddMember {
        team: team(number),
        member: name("user:bob"),
    };
    let joined = until_full(&mut world, &stranger, join);
    assert_eq!(joined, TEAMS_MAX / 2);
    let alice = world.user("user:alice");
    world.as_bearer(&alice, join(joined)).expect("its own half");
    let out = |number: usize| Command::RemoveMember {
        team: team(number),
        member: name("user:bob"),
        cut_off_tokens: false,
    };
    world.as_bearer(&owner, out(0)).expect("who may change it");
    // Of a team that it is not in it learns nothing.
    let refused = world.as_bearer(&owner, out(0)).map(|_| ());
    assert_eq!(refused, Err(Refusal::NotFound("team")));
}
