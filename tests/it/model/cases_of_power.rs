//! Literal cases of who may do what: taking over, revoking, cutting off, forgetting.
//!
//! Every divergence that was found and every hole that was thought of, each as the shortest
//! story that shows it, with what DESIGN.md asks at its end. A case that shrinks out of a random
//! run is written here and stays. How tokens live is in `cases_of_life`.

use latchkey::domain::reason::Reason;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::token::{Digest, TokenKind};
use latchkey::state::decide::{Caller, Command, CutOffRequest, Outcome, RevokeTarget};

use super::commands::{create_grant, create_principal, create_role, name, resource};
use super::story::{Story, is_change, only, rotate};

#[test]
fn a_name_given_a_second_time_revives_nothing() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    story.local(Command::AddMember {
        team: name("team:t1"),
        member: name("user:u2"),
    });
    story.local(Command::DeletePrincipal(name("user:u2")));
    story.local(create_principal("user:u2", "a"));
    assert_eq!(story.check(&token, "s:read", "a"), Reason::Revoked);
    let fresh = story.user("user:u2");
    assert_eq!(story.check(&fresh, "s:read", "a"), Reason::NotPermitted);
}

#[test]
fn whoever_rotates_anothers_token_gets_no_more_than_it_holds() {
    let mut story = Story::new();
    let (keeper, mighty) = (story.user("user:u2"), story.user("user:u1"));
    story.local(create_role("readers", "a", &["users:read"]));
    story.local(create_grant("user:u2", "readers", "a"));
    assert_eq!(story.check(&mighty, "s:write", "b"), Reason::Allowed);
    let taken = rotate(&mut story, keeper.caller(), &mighty, 0).expect("tokens:issue at its home");
    assert_eq!(story.check(&taken, "s:write", "b"), Reason::NotPermitted);
    assert_eq!(story.check(&taken, "s:read", "a/x"), Reason::Allowed);
    assert!(
        is_change(&story.revoke(&keeper, true)),
        "and it answers for it"
    );
    assert_eq!(story.check(&taken, "s:read", "a/x"), Reason::Revoked);
}

#[test]
fn revoking_twice_keeps_the_first_instant_and_a_later_compromise_still_cuts_off() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let issued = story.on_a(&token);
    assert!(is_change(&story.revoke(&token, false)));
    let first = story.record(&token).revoked;
    story.now += 1_000;
    assert!(matches!(story.revoke(&token, false), Ok(Outcome::Already)));
    assert_eq!(
        story.check(&issued, "s:read", "a"),
        Reason::Allowed,
        "it outlives its issuer"
    );
    assert!(is_change(&story.revoke(&token, true)));
    assert_eq!(story.record(&token).revoked, first);
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Revoked);
}

#[test]
fn a_cut_off_refuses_what_was_made_before_it_and_nothing_after() {
    let mut story = Story::new();
    let keeper = story.user("user:u2");
    let before = story.on_a(&keeper);
    story.local(Command::RevokeAll(CutOffRequest::IssuedByPrincipal(name(
        "user:u2",
    ))));
    let after = story.on_a(&keeper);
    assert_eq!(story.check(&before, "s:read", "a"), Reason::Revoked);
    assert_eq!(story.check(&after, "s:read", "a"), Reason::Allowed);
    story.local(Command::RevokeAll(CutOffRequest::ResourceUnder(resource(
        "a",
    ))));
    assert_eq!(story.check(&after, "s:read", "a"), Reason::Revoked);
}

#[test]
fn whoever_widens_a_token_answers_for_it() {
    let mut story = Story::new();
    let (first, second) = (story.user("user:u1"), story.user("user:u2"));
    let token = story.on_a(&first);
    let widened = story.update(second.caller(), &token, |update| {
        update.scopes = Some(only(&["s:read,tokens:issue,tokens:read@a"]));
    });
    assert!(is_change(&widened));
    story.local(Command::RevokeAll(CutOffRequest::IssuedByToken(second.id)));
    assert_eq!(story.check(&token, "s:read", "a"), Reason::Revoked);
}

#[test]
fn in_its_grace_the_old_secret_is_checked_and_revokes_and_nothing_else() {
    let mut story = Story::new();
    let (old, other) = (story.user("user:u2"), story.user("user:u3"));
    let new = rotate(&mut story, Caller::Local, &old, 5).expect("local may all");
    assert_eq!(story.check(&old, "s:read", "a"), Reason::Allowed);
    let managed = story.issue(old.caller(), TokenKind::User, |_| {});
    assert!(matches!(managed, Err(Refusal::Unauthenticated)));
    let target = RevokeTarget::Secret(Digest::of(&old.secret));
    let revoked = story.run(
        other.caller(),
        Command::RevokeToken {
            target,
            compromised: false,
        },
    );
    assert!(is_change(&revoked));
    assert_eq!(story.check(&new, "s:read", "a"), Reason::Revoked);
}

#[test]
fn a_token_taken_over_keeps_the_ceiling_of_its_first_issuer_too() {
    let mut story = Story::new();
    story.local(create_role("writers", "a", &["s:write", "tokens:*"]));
    story.local(create_principal("user:u4", "a"));
    story.local(create_grant("user:u4", "writers", "a/**"));
    let (reader, writer) = (story.user("user:u2"), story.user("user:u4"));
    let lent = story.issue(reader.caller(), TokenKind::User, |issue| {
        issue.subject = Some(name("user:u1"));
    });
    let lent = lent.expect("tokens:issue at its home");
    assert_eq!(story.check(&lent, "s:read", "a"), Reason::Allowed);
    assert_eq!(story.check(&lent, "s:write", "a"), Reason::NotPermitted);
    let taken = rotate(&mut story, writer.caller(), &lent, 0).expect("tokens:issue at its home");
    assert_eq!(story.check(&taken, "s:read", "a"), Reason::NotPermitted);
    assert_eq!(story.check(&taken, "s:write", "a"), Reason::NotPermitted);
    assert_eq!(story.check(&taken, "tokens:read", "a"), Reason::Allowed);
}

// Cut off as an issuer, then it issued, then it was revoked, and only then was it known that it
// had been stolen.
#[test]
fn revoking_as_compromised_includes_what_was_issued_after_an_earlier_cut_off() {
    let mut story = Story::new();
    let thief = story.user("user:u2");
    story.local(Command::RevokeAll(CutOffRequest::IssuedByToken(thief.id)));
    let issued = story.on_a(&thief);
    assert!(is_change(&story.revoke(&thief, false)));
    assert!(is_change(&story.revoke(&thief, true)));
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Revoked);
}

#[test]
fn a_secret_whose_grace_has_ended_revokes_nothing() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let old = Digest::of(&token.secret);
    let other = story.user("user:u3");
    rotate(&mut story, Caller::Local, &token, 5).expect("local may all");
    story.now += 6_000;
    let target = RevokeTarget::Secret(old);
    let revoked = story.run(
        other.caller(),
        Command::RevokeToken {
            target,
            compromised: false,
        },
    );
    assert!(matches!(revoked, Err(Refusal::NotFound(_))), "{revoked:?}");
}

#[test]
fn a_narrowed_token_does_not_cut_off_what_a_sibling_issued() {
    let mut story = Story::new();
    let mighty = story.user("user:u2");
    let narrow = story.issue(mighty.caller(), TokenKind::User, |issue| {
        issue.scopes = only(&["s:read@a"]);
    });
    let narrow = narrow.expect("its own");
    let issued = story.on_a(&mighty);
    let cut = Command::RevokeAll(CutOffRequest::IssuedByToken(mighty.id));
    let done = story.run(narrow.caller(), cut);
    assert!(matches!(done, Err(Refusal::NotPermitted(_))), "{done:?}");
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Allowed);
}

#[test]
fn a_narrowed_token_does_not_cut_off_what_it_issued_before_it_was_narrowed() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let issued = story.on_a(&token);
    let narrowed = story.update(token.caller(), &token, |update| {
        update.scopes = Some(only(&["s:read@a"]));
    });
    assert!(is_change(&narrowed));
    let cut = Command::RevokeAll(CutOffRequest::IssuedByToken(token.id));
    let done = story.run(token.caller(), cut);
    assert!(matches!(done, Err(Refusal::NotPermitted(_))), "{done:?}");
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Allowed);
}

#[test]
fn cutting_off_a_removed_members_team_tokens_needs_tokens_revoke() {
    let mut story = Story::new();
    story.local(create_role("teams", "a", &["teams:write", "teams:read"]));
    story.local(create_grant("user:u3", "teams", "a"));
    story.local(create_principal("user:u4", "a"));
    story.local(create_grant("user:u4", "teams", "a"));
    let member = name("user:u2");
    story.local(Command::AddMember {
        team: name("team:t1"),
        member: member.clone(),
    });
    let manager = story.user("user:u4");
    let remove = Command::RemoveMember {
        team: name("team:t1"),
        member,
        cut_off_tokens: true,
    };
    let done = story.run(manager.caller(), remove);
    assert!(matches!(done, Err(Refusal::NotPermitted(_))), "{done:?}");
}

#[test]
fn what_a_forgotten_token_issued_can_still_be_cut_off() {
    let mut story = Story::new();
    let thief = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.ttl_s = Some(10);
    });
    let thief = thief.expect("local may all");
    let issued = story.on_a(&thief);
    story.now += 100_000;
    let key = Digest::of(&thief.secret).key();
    let forget = Command::Forget {
        before_ms: story.now,
        slice: (key >> 120) as u8,
    };
    assert!(is_change(&story.run(Caller::System, forget)));
    let cut = Command::RevokeAll(CutOffRequest::IssuedByToken(thief.id));
    let done = story.run(Caller::Local, cut);
    assert!(is_change(&done), "{done:?}");
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Revoked);
}

#[test]
fn a_bearer_forgets_nothing() {
    let mut story = Story::new();
    let nobody = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u3"));
        issue.scopes = only(&[]);
    });
    let nobody = nobody.expect("local may all");
    let victim = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.ttl_s = Some(1_000);
    });
    let victim = victim.expect("local may all");
    let key = Digest::of(&victim.secret).key();
    let forget = Command::Forget {
        before_ms: u64::MAX,
        slice: (key >> 120) as u8,
    };
    let done = story.run(nobody.caller(), forget.clone());
    assert!(matches!(done, Err(Refusal::NotPermitted(_))), "{done:?}");
    assert_eq!(
        story.check(&victim, "s:read", "a"),
        Reason::Allowed,
        "by a bearer"
    );
    let done = story.run(Caller::System, forget);
    assert!(matches!(done, Ok(Outcome::Already)), "{done:?}");
    assert_eq!(
        story.check(&victim, "s:read", "a"),
        Reason::Allowed,
        "what has not ended"
    );
}
