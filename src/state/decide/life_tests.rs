//! What becomes of tokens after issue: rotation, renewal, updates, uses, cut-offs, forgetting.
//!
//! By the door of `decide`, on a small company; see `tests` for the world.

use super::super::explain::{Target, explain};
use super::tests::*;
use super::*;
use crate::domain::chain::Head;
use crate::domain::change::Display;
use crate::domain::token::{Digest, Secret};

#[test]
fn a_name_given_a_second_time_revives_nothing() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    world.local(Command::DeletePrincipal(name("user:bob")));
    assert_eq!(
        world.check(&bob, "secrets:read", "acme/web"),
        Reason::Revoked
    );
    world.local(Command::CreatePrincipal {
        name: name("user:bob"),
        home: resource("acme"),
        display: Display::default(),
    });
    assert_eq!(
        world.check(&bob, "secrets:read", "acme/web"),
        Reason::Revoked
    );
    let again = world.user("user:bob");
    assert_eq!(
        world.check(&again, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
}

#[test]
fn cut_offs_refuse_what_was_made_before_and_nothing_after() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let issue_for_carol = |world: &mut World| {
        let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
        world
            .issue(bearer(&alice), secret, issue)
            .expect("everything")
    };
    let before = issue_for_carol(&mut world);
    let by_token = CutOffRequest::IssuedByToken(world.id_of(&alice));
    for request in [
        CutOffRequest::Subject(name("user:carol")),
        CutOffRequest::IssuedByPrincipal(name("user:alice")),
        by_token,
    ] {
        let after_last = issue_for_carol(&mut world);
        assert_eq!(
            world.check(&after_last, "deploy:run", "acme/x"),
            Reason::Allowed
        );
        world.local(Command::RevokeAll(request));
        for cut in [&before, &after_last] {
            assert_eq!(world.check(cut, "deploy:run", "acme/x"), Reason::Revoked);
        }
    }
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&["a:b@acme/web/x"]));
    issue.resource = Some(resource("acme/web/x"));
    let under = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&["a:b@acme/webx"]));
    issue.resource = Some(resource("acme/webx"));
    let beside = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    world.local(Command::RevokeAll(CutOffRequest::ResourceUnder(resource(
        "acme/web",
    ))));
    assert_eq!(world.check(&under, "a:b", "acme/web/x"), Reason::Revoked);
    assert_eq!(world.check(&beside, "a:b", "acme/webx"), Reason::Allowed);
}

#[test]
fn what_a_deleted_principal_issued_is_cut_off_by_its_number() {
    let mut world = World::new();
    world.grant("user:bob", "keeper", "acme");
    let (alice, bob) = (world.user("user:alice"), world.user("user:bob"));
    let number = world
        .state
        .principal_named(&name("user:bob"))
        .map(|one| one.id);
    let number = number.expect("there");
    let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    let issued = world.issue(bearer(&bob), secret, issue).expect("manages");
    world.local(Command::DeletePrincipal(name("user:bob")));
    world.local(Command::CreatePrincipal {
        name: name("user:bob"),
        home: resource("acme"),
        display: Display::default(),
    });
    // The name is another's.
    let by_name = CutOffRequest::IssuedByPrincipal(name("user:bob"));
    world.local(Command::RevokeAll(by_name));
    assert_ne!(world.check(&issued, "a:b", "acme/x"), Reason::Revoked);
    let cut = |number| Command::RevokeAll(CutOffRequest::IssuedByNumber(PrincipalId(number)));
    let dave = world.user("user:dave");
    let refused = world.as_bearer(&dave, cut(number.0)).expect_err("anywhere");
    assert_eq!(missing(&refused), ["tokens:revoke@**"]);
    for nobody in [0, 1_000] {
        let refused = world.as_bearer(&alice, cut(nobody)).map(|_| ());
        assert_eq!(refused, Err(Refusal::NotFound("principal")));
    }
    world.as_bearer(&alice, cut(number.0)).expect("everything");
    assert_eq!(world.check(&issued, "a:b", "acme/x"), Reason::Revoked);
    let replayed = State::replay(&world.log).expect("follows");
    assert_eq!(replayed.digest(), world.state.digest());
}

#[test]
fn rotation_keeps_two_secrets_at_most_and_the_old_one_manages_nothing() {
    let mut world = World::new();
    let first = world.user("user:alice");
    let id = world.id_of(&first);
    let rotate = |world: &mut World, caller: &str, grace_s: u32, expected: Option<u32>| {
        let secret = Secret::generate(TokenKind::User, &world.entropy);
        let command = Command::RotateToken {
            id: Some(id),
            digest: secret.digest(),
            last4: secret.last4().to_owned(),
            grace_s,
            expected,
        };
        let outcome = world.run(bearer(caller), command, "");
        outcome.map(|_| secret.reveal().to_owned())
    };
    let second = rotate(&mut world, &first, 60, Some(0)).expect("rotated");
    assert_eq!(
        world.check(&first, "a:b", "acme"),
        Reason::Allowed,
        "in its grace"
    );
    assert_eq!(world.id_of(&second), id);
    assert_eq!(
        rotate(&mut world, &first, 60, None),
        Err(Refusal::Unauthenticated)
    );
    let stale = rotate(&mut world, &second, 60, Some(0));
    assert!(matches!(stale, Err(Refusal::Conflict(_))), "{stale:?}");
    let third = rotate(&mut world, &second, 60, Some(1)).expect("rotated");
    assert_eq!(
        world.check(&first, "a:b", "acme"),
        Reason::Unknown,
        "the older ends at once"
    );
    assert_eq!(world.check(&second, "a:b", "acme"), Reason::Allowed);
    world.now_ms += 60_000;
    assert_eq!(
        world.check(&second, "a:b", "acme"),
        Reason::Expired,
        "its grace is over"
    );
    let fourth = rotate(&mut world, &third, 0, None).expect("rotated");
    assert_eq!(
        world.check(&third, "a:b", "acme"),
        Reason::Unknown,
        "grace 0 is now"
    );
    assert_eq!(world.check(&fourth, "a:b", "acme"), Reason::Allowed);
}

#[test]
fn renewals_are_clipped_and_never_refused_at_the_maximum() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    (issue.ttl_s, issue.max_lifetime_s) = (Some(100), Some(150));
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let expiry = |world: &World| {
        world
            .state
            .token(world.id_of(&token))
            .expect("kept")
            .expires_ms
    };
    let renew = Command::RenewToken {
        id: None,
        ttl_s: None,
    };
    world.now_ms += 90_000;
    world
        .run(bearer(&token), renew.clone(), "")
        .expect("itself");
    assert_eq!(expiry(&world), Some(T0 + 150_000), "clipped");
    let outcome = world
        .run(bearer(&token), renew.clone(), "")
        .expect("itself");
    assert!(matches!(outcome, Outcome::Already), "{outcome:?}");
    let outcome = world.run(bearer(&alice), renew, "");
    assert!(
        matches!(outcome, Err(Refusal::Precondition(_))),
        "{outcome:?}"
    );
}

#[test]
fn a_budget_of_uses_is_counted_down_to_a_denial() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.uses = Some(2);
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let using = |action: &str| {
        Command::UseToken(Box::new(UseToken {
            key: Digest::of(&token).key(),
            needs: vec![(action.to_owned(), "acme".to_owned())],
            client_ip: None,
            audience: None,
            workload: None,
            kinds: KindSet::ALL,
        }))
    };
    for _ in 0..2 {
        assert_eq!(world.check(&token, "a:b", "acme"), Reason::Allowed);
        world
            .run(Caller::System, using("a:b"), "")
            .expect("counted");
    }
    assert_eq!(world.check(&token, "a:b", "acme"), Reason::UsesExhausted);
    let outcome = world.run(Caller::System, using("a:b"), "").expect("judged");
    assert!(
        matches!(outcome, Outcome::Denied(Reason::UsesExhausted)),
        "{outcome:?}"
    );
    assert!(
        world
            .as_bearer(&token, Command::DeleteGrant(GrantId(1)))
            .is_err(),
        "manages nothing"
    );
}

#[test]
fn updates_narrow_freely_and_widen_by_the_issue_rule() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web/**"]),
    );
    issue.resource = Some(resource("acme/web"));
    let token = world.issue(bearer(&bob), secret, issue).expect("held");
    let id = world.id_of(&token);
    let update = |asked: &[&str]| {
        Command::UpdateToken(Box::new(UpdateToken {
            scopes: Some(scopes(asked)),
            ..unchanged(id)
        }))
    };
    world
        .run(bearer(&token), update(&["secrets:read@acme/web/x"]), "")
        .expect("narrows itself");
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/y"),
        Reason::NotPermitted
    );
    let widened = world.run(
        bearer(&token),
        update(&["secrets:read@acme/web/**"]),
        "because",
    );
    assert_eq!(
        missing(&widened.expect_err("not by itself")),
        ["tokens:issue@acme/web"]
    );
    world
        .as_bearer(&bob, update(&["secrets:read@acme/web/**"]))
        .expect("by the issue rule");
    let beyond = world
        .as_bearer(&bob, update(&["secrets:*@acme/web/**"]))
        .expect_err("not held");
    assert_eq!(missing(&beyond), ["secrets:*@acme/web/**"]);
    let none = world.run(bearer(&bob), update(&["secrets:read@acme/web"]), "");
    assert!(
        matches!(
            none,
            Err(Refusal::Invalid {
                field: "reason",
                ..
            })
        ),
        "{none:?}"
    );
}

#[test]
fn what_one_may_not_read_does_not_exist() {
    let mut world = World::new();
    let (alice, dave) = (world.user("user:alice"), world.user("user:dave"));
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(world.id_of(&alice)),
        compromised: false,
    };
    let outcome = world.as_bearer(&dave, revoke).map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("token")));
    let outcome = world
        .as_bearer(&dave, Command::DeletePrincipal(name("user:alice")))
        .map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("user")));
    let outcome = world
        .as_bearer(&dave, Command::DeletePrincipal(name("user:nobody")))
        .map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("user")));
}

#[test]
fn lifetimes_are_bounded_by_the_setting() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    world.lifetimes.max_s[TokenKind::User as usize - 1] = Some(3_600);
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.ttl_s = Some(3_601);
    let refused = world
        .issue(bearer(&alice), secret, issue)
        .expect_err("too long");
    assert_eq!(field(&refused), "ttl");
    for asked in [Some(60), Some(3_601)] {
        let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
        issue.period_s = asked;
        let refused = world.issue(bearer(&alice), secret, issue);
        assert_eq!(field(&refused.expect_err("for ever")), "period");
    }
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.max_lifetime_s = Some(3_601);
    let refused = world.issue(bearer(&alice), secret, issue);
    assert_eq!(field(&refused.expect_err("too long")), "max_lifetime");
    let (secret, issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let record = world.state.token(world.id_of(&token)).expect("kept");
    assert_eq!(
        record.expires_ms,
        Some(T0 + 3_600_000),
        "the longest where none was asked"
    );
}

#[test]
fn explain_tells_every_step_and_what_is_missing() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let needs = [Need::parse("secrets:write", "acme/web").expect("valid")];
    let told = |world: &World, target: Target<'_>| {
        let now = Now::at(world.now_ms);
        explain(
            &world.state,
            target,
            &needs,
            Context::default(),
            KindSet::ALL,
            now,
        )
    };
    let explanation = told(&world, Target::Token(&bob));
    assert_eq!(explanation.reason, Reason::NotPermitted);
    assert_eq!(explanation.steps.len(), 12);
    let failed: Vec<_> = explanation
        .steps
        .iter()
        .filter_map(|step| step.failed)
        .collect();
    assert_eq!(failed, [Reason::NotPermitted]);
    assert_eq!(
        explanation.missing[0].layers,
        [super::super::explain::Layer::Subject]
    );
    world.local(Command::RevokeToken {
        target: RevokeTarget::Id(world.id_of(&bob)),
        compromised: false,
    });
    let explanation = told(&world, Target::Token(&bob));
    assert_eq!(explanation.reason, Reason::Revoked, "the first that failed");
    let failed = explanation
        .steps
        .iter()
        .filter(|step| step.failed.is_some())
        .count();
    assert_eq!(failed, 2, "and it goes on");
    let explanation = told(&world, Target::Token("lku_garbage"));
    assert_eq!(explanation.reason, Reason::Malformed);
    assert!(!format!("{explanation:?}").contains("lku_garbage"));
}

#[test]
fn forgetting_removes_what_ended_and_replay_agrees() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    for ttl in [10, 10, 1_000] {
        let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
        issue.ttl_s = Some(ttl);
        world.issue(bearer(&alice), secret, issue).expect("own");
    }
    assert_eq!(world.state.token_count(), 4);
    world.now_ms += 20_000;
    for slice in 0..=u8::MAX {
        let command = Command::Forget {
            before_ms: world.now_ms,
            slice,
        };
        world.run(Caller::System, command, "").expect("system");
    }
    assert_eq!(world.state.token_count(), 2);
    let replayed = State::replay(&world.log).expect("follows");
    assert_eq!(
        (replayed.head(), replayed.digest()),
        (world.state.head(), world.state.digest())
    );
    assert_ne!(replayed.head(), Head::EMPTY);
}

#[test]
fn no_row_of_updates_makes_a_token_live_longer_than_its_kind_may() {
    let mut world = World::new();
    world.lifetimes.max_s[TokenKind::User as usize - 1] = Some(3_600);
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.max_lifetime_s = Some(600);
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let id = world.id_of(&token);
    let update = |expires_ms: Option<UnixMs>, expires_max_ms: UnixMs| {
        Command::UpdateToken(Box::new(UpdateToken {
            expires_ms: expires_ms.map(Some),
            expires_max_ms: Some(Some(expires_max_ms)),
            ..unchanged(id)
        }))
    };
    let longest = T0 + 3_600_000;
    world
        .as_bearer(&alice, update(None, longest))
        .expect("within");
    world.now_ms += 500_000;
    for (expires, max, at_fault) in [
        (None, longest + 1, "max_expires_at"),
        (Some(longest + 1), longest + 1, "expires_at"),
    ] {
        let refused = world
            .as_bearer(&alice, update(expires, max))
            .expect_err("beyond");
        assert_eq!(field(&refused), at_fault);
    }
}
