//! Repeats: who may have a first answer again, and that the outcome of the first is no obstacle.
//!
//! By the door of `decide`, on a small company; see `tests` for the world.

use super::tests::*;
use super::*;
use crate::domain::change::Display;
use crate::domain::entry::Request;
use crate::domain::format::FORMAT_LOGINS;
use crate::domain::limits::Networks;
use crate::domain::login::{ClientNetwork, LoginSettings};
use crate::domain::permission::ActionPattern;
use crate::domain::principal::PrincipalName;
use crate::domain::token::{Digest, Secret};

/// One command under a request id of its own, by a bearer.
fn again(world: &mut World, number: u8, secret: &str, command: &Command) -> Reply {
    let request = Request {
        key: [number; 16],
        fingerprint: [number; 16],
    };
    let envelope = Envelope {
        caller: bearer(secret),
        reason: "because".to_owned(),
        request: Some(request),
        command: command.clone(),
    };
    match world.submit(envelope) {
        Ok(Outcome::Change { .. }) => Reply::Change,
        Ok(Outcome::Repeated(revision)) => Reply::Repeated(revision),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Reply::Refused(refusal),
    }
}

#[derive(Debug, PartialEq)]
enum Reply {
    Change,
    Repeated(RevisionNumber),
    Refused(Refusal),
}

fn grant(principal: &str, role: &str, on: &str) -> Command {
    Command::CreateGrant {
        principal: name(principal),
        role: RoleName::parse(role).expect("valid"),
        resource: ResourcePattern::parse(on).expect("valid"),
    }
}

fn create_principal(text: &str) -> Command {
    Command::CreatePrincipal {
        name: name(text),
        home: resource("acme"),
        display: Display::default(),
    }
}

fn create_role(text: &str) -> Command {
    Command::CreateRole {
        name: RoleName::parse(text).expect("valid"),
        home: resource("acme"),
        actions: vec![ActionPattern::parse("a:b").expect("valid")],
        display: Display::default(),
    }
}

fn revoke(target: RevokeTarget) -> Command {
    Command::RevokeToken {
        target,
        compromised: false,
    }
}

fn member(team: &str, one: &str) -> (PrincipalName, PrincipalName) {
    (name(team), name(one))
}

fn set_method() -> Command {
    Command::SetMethod(Box::new(SetMethod {
        account: name("service:ci"),
        method: LoginMethod::UniversalAuth,
        settings: LoginSettings::default(),
    }))
}

fn create_credential(world: &World, id: TokenId, scopes: ScopesAsked) -> Command {
    let secret = Secret::generate(TokenKind::ClientSecret, &world.entropy);
    Command::CreateCredential(Box::new(CreateCredential {
        id,
        form: CredentialForm::Secret(secret.digest()),
        account: name("service:ci"),
        scopes,
        ttl_s: None,
        not_before_ms: None,
        uses: None,
        networks: Networks::default(),
        workload: None,
        display: Display::default(),
    }))
}

/// Somebody is locked out of an account that has no method.
fn lock(world: &mut World) {
    let method = LoginMethod::UniversalAuth;
    let account = world.state.principal_named(&name("service:ci"));
    let lock = Command::LockLogins {
        account: account.expect("there").id,
        method,
        network: ClientNetwork::of(None),
    };
    world.local(set_method());
    world.run(Caller::System, lock, "").expect("locked");
    world.local(Command::RemoveMethod {
        account: name("service:ci"),
        method,
    });
}

/// Everything that an administrator may ask, in an order in which each makes a change.
fn commands(world: &mut World) -> Vec<Command> {
    let bob = world.user("user:bob");
    let id = world.id_of(&bob);
    let (_, issue) = world.asked(TokenKind::User, Some("user:dave"), ScopesAsked::All);
    let (team, one) = member("team:platform", "user:dave");
    world.local(Command::RaiseFormat(FORMAT_LOGINS));
    lock(world);
    let credential = TokenId::generate(world.now_ms, &world.entropy);
    vec![
        set_method(),
        create_credential(world, credential, ScopesAsked::All),
        Command::RevokeAll(CutOffRequest::Sessions(name("service:ci"))),
        Command::RevokeAll(CutOffRequest::IssuedByCredential(credential)),
        Command::UnlockLogins {
            account: name("service:ci"),
            network: None,
        },
        Command::RemoveMethod {
            account: name("service:ci"),
            method: LoginMethod::UniversalAuth,
        },
        Command::DeletePrincipal(name("service:ci")),
        Command::IssueToken(Box::new(issue)),
        Command::UpdateToken(Box::new(UpdateToken {
            expires_ms: Some(Some(T0 + 1_000_000)),
            ..unchanged(id)
        })),
        Command::RotateToken {
            id: Some(id),
            digest: Digest::of("another"),
            last4: "last".to_owned(),
            grace_s: 0,
            expected: Some(0),
        },
        revoke(RevokeTarget::Id(id)),
        Command::RevokeAll(CutOffRequest::IssuedByPrincipal(name("user:bob"))),
        create_principal("user:erin"),
        Command::SetDisabled {
            name: name("user:erin"),
            disabled: true,
        },
        Command::DeletePrincipal(name("user:erin")),
        Command::AddMember {
            team: team.clone(),
            member: one.clone(),
        },
        Command::RemoveMember {
            team,
            member: one,
            cut_off_tokens: true,
        },
        create_role("reader"),
        grant("user:dave", "reader", "acme/x"),
        Command::DeleteGrant(GrantId(4)),
        Command::DeleteRole(RoleName::parse("reader").expect("valid")),
    ]
}

#[test]
fn every_change_is_answered_again_whatever_it_would_come_to_now() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let commands = commands(&mut world);
    let mut made = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let told = again(&mut world, number as u8, &alice, command);
        assert_eq!(told, Reply::Change, "{command:?}");
        made.push(world.state.head().revision);
    }
    for (number, command) in commands.iter().enumerate() {
        let told = again(&mut world, number as u8, &alice, command);
        assert_eq!(told, Reply::Repeated(made[number]), "{command:?}");
    }
}

#[test]
fn a_narrower_token_of_the_same_principal_gets_no_first_answer() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, issue) = world.asked(TokenKind::User, None, scopes(&["secrets:read@acme/**"]));
    let narrow = world.issue(bearer(&alice), secret, issue).expect("own");
    for (number, command) in commands(&mut world).iter().enumerate() {
        let first = again(&mut world, number as u8, &alice, command);
        assert_eq!(first, Reply::Change, "{command:?}");
        let told = again(&mut world, number as u8, &narrow, command);
        assert!(
            matches!(
                told,
                Reply::Refused(Refusal::NotPermitted(_) | Refusal::NotFound(_))
            ),
            "{command:?}: {told:?}"
        );
    }
}

#[test]
fn who_has_lost_the_right_gets_no_first_answer() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let (_, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web/x"]),
    );
    issue.resource = Some(resource("acme/web/x"));
    let command = Command::IssueToken(Box::new(issue));
    assert_eq!(again(&mut world, 1, &bob, &command), Reply::Change);
    let made = world.state.head().revision;
    assert_eq!(again(&mut world, 1, &bob, &command), Reply::Repeated(made));
    world.local(Command::DeleteGrant(GrantId(2)));
    match again(&mut world, 1, &bob, &command) {
        Reply::Refused(refusal) => assert_eq!(missing(&refusal), ["tokens:issue@acme/web/x"]),
        told => panic!("{told:?}"),
    }
}

#[test]
fn who_does_not_see_a_role_any_more_gets_no_first_answer_that_names_it() {
    let mut world = World::new();
    world.local(Command::RaiseFormat(FORMAT_LOGINS));
    world.local(set_method());
    for (role, actions) in [
        ("reader", vec!["secrets:read"]),
        ("secretary", vec!["secrets:read", "roles:read"]),
        ("issuer", vec!["tokens:issue"]),
    ] {
        let actions = actions.into_iter().map(ActionPattern::parse);
        world.local(Command::CreateRole {
            name: RoleName::parse(role).expect("valid"),
            home: resource("acme"),
            actions: actions.map(|action| action.expect("valid")).collect(),
            display: Display::default(),
        });
    }
    world.grant("user:dave", "secretary", "acme/**");
    world.grant("user:dave", "issuer", "acme/**");
    let dave = world.user("user:dave");
    let id = TokenId::generate(world.now_ms, &world.entropy);
    let command = create_credential(&world, id, scopes(&["role:reader@acme/api"]));
    assert_eq!(again(&mut world, 1, &dave, &command), Reply::Change);
    let made = world.state.head().revision;
    assert_eq!(again(&mut world, 1, &dave, &command), Reply::Repeated(made));
    world.local(Command::DeleteGrant(GrantId(4)));
    let told = again(&mut world, 1, &dave, &command);
    assert!(
        matches!(told, Reply::Refused(Refusal::Invalid { .. })),
        "{told:?}"
    );
}

#[test]
fn what_is_gone_is_judged_by_what_the_caller_still_has_anywhere() {
    let mut world = World::new();
    world.local(Command::CreateRole {
        name: RoleName::parse("manager").expect("valid"),
        home: resource("acme"),
        actions: vec![ActionPattern::parse("users:write").expect("valid")],
        display: Display::default(),
    });
    world.grant("user:dave", "manager", "acme/**");
    let dave = world.user("user:dave");
    let delete = Command::DeletePrincipal(name("user:bob"));
    assert_eq!(again(&mut world, 1, &dave, &delete), Reply::Change);
    let made = world.state.head().revision;
    assert_eq!(again(&mut world, 1, &dave, &delete), Reply::Repeated(made));
    world.local(Command::DeleteGrant(GrantId(4)));
    match again(&mut world, 1, &dave, &delete) {
        Reply::Refused(refusal) => assert_eq!(missing(&refusal), ["users:write@**"]),
        told => panic!("{told:?}"),
    }
}

#[test]
fn a_token_that_ended_itself_is_told_so_again_and_nothing_else() {
    let mut world = World::new();
    for (number, target) in [0, 1, 2].into_iter().enumerate() {
        let dave = world.user("user:dave");
        let target = match target {
            0 => RevokeTarget::Itself,
            1 => RevokeTarget::Id(world.id_of(&dave)),
            _ => RevokeTarget::Secret(Digest::of(&dave)),
        };
        let (number, command) = (number as u8, revoke(target));
        assert_eq!(again(&mut world, number, &dave, &command), Reply::Change);
        let made = world.state.head().revision;
        let told = again(&mut world, number, &dave, &command);
        assert_eq!(told, Reply::Repeated(made));
        let refused = Reply::Refused(Refusal::Unauthenticated);
        assert_eq!(again(&mut world, number + 100, &dave, &command), refused);
        // Another token that somebody else ended gets no answer of this one.
        let other = world.user("user:dave");
        world.local(revoke(RevokeTarget::Id(world.id_of(&other))));
        let itself = revoke(RevokeTarget::Itself);
        assert_eq!(again(&mut world, number, &other, &itself), refused);
    }
}

#[test]
fn who_has_left_a_team_is_told_so_again() {
    let mut world = World::new();
    let carol = world.user("user:carol");
    let (team, one) = member("team:platform", "user:carol");
    let leave = Command::RemoveMember {
        team,
        member: one,
        cut_off_tokens: false,
    };
    assert_eq!(again(&mut world, 1, &carol, &leave), Reply::Change);
    let made = world.state.head().revision;
    assert_eq!(again(&mut world, 1, &carol, &leave), Reply::Repeated(made));
}

#[test]
fn another_request_under_the_same_id_is_refused() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let create = create_principal("user:erin");
    assert_eq!(again(&mut world, 1, &alice, &create), Reply::Change);
    let envelope = Envelope {
        caller: bearer(&alice),
        reason: "because".to_owned(),
        request: Some(Request {
            key: [1; 16],
            fingerprint: [2; 16],
        }),
        command: create_principal("user:fay"),
    };
    let refused = world.submit(envelope).map(|_| ());
    assert_eq!(refused, Err(Refusal::RequestIdReused));
}
