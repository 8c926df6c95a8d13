//! Literal cases of how tokens live: uses, expiry, renewals, updates.
//!
//! Every divergence that was found and every hole that was thought of, each as the shortest
//! story that shows it, with what DESIGN.md asks at its end. A case that shrinks out of a random
//! run is written here and stays. Who may do what is in `cases_of_power`.

use latchkey::domain::reason::Reason;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::token::TokenKind;
use latchkey::state::decide::{Caller, Outcome};

use super::commands::name;
use super::story::{Made, Story, is_change, only, using};

fn limited_parent(story: &mut Story) -> (Made, Made) {
    let parent = story.user("user:u2");
    let child = story.issue(parent.caller(), TokenKind::User, |issue| {
        issue.derive = true
    });
    let child = child.expect("derived");
    let limited = story.update(Caller::Local, &parent, |update| {
        update.uses_left = Some(Some(1));
    });
    assert!(is_change(&limited));
    (parent, child)
}

#[test]
fn a_use_counts_when_allowed_and_the_last_one_is_the_last() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.uses = Some(1);
    });
    let token = token.expect("local may all");
    let mut uses = |action: &str| {
        story
            .run(Caller::System, using(&token, action))
            .expect("answered")
    };
    assert!(matches!(
        uses("s:write"),
        Outcome::Denied(Reason::NotPermitted)
    ));
    assert!(matches!(uses("s:read"), Outcome::Change { .. }));
    assert!(matches!(
        uses("s:read"),
        Outcome::Denied(Reason::UsesExhausted)
    ));
    assert!(
        story
            .issue(token.caller(), TokenKind::User, |issue| issue.derive = true)
            .is_err()
    );
}

#[test]
fn a_token_that_gets_a_use_limit_has_no_children_that_pass_it() {
    let mut story = Story::new();
    let (parent, child) = limited_parent(&mut story);
    assert_eq!(story.check(&child, "s:read", "a"), Reason::UsesExhausted);
    let used = story.run(Caller::System, using(&child, "s:read"));
    assert!(matches!(used, Ok(Outcome::Denied(Reason::UsesExhausted))));
    assert!(is_change(
        &story.run(Caller::System, using(&parent, "s:read"))
    ));
}

#[test]
fn a_child_of_a_token_with_a_use_limit_does_not_manage() {
    let mut story = Story::new();
    let (_, child) = limited_parent(&mut story);
    let issued = story.issue(child.caller(), TokenKind::User, |_| {});
    assert!(matches!(issued, Err(Refusal::Unauthenticated)));
}

#[test]
fn an_expiry_at_the_epoch_is_refused() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let done = story.update(token.caller(), &token, |update| {
        update.expires_ms = Some(Some(0));
    });
    assert!(matches!(done, Err(Refusal::Invalid { .. })), "{done:?}");
}

#[test]
fn an_expiry_too_late_to_be_kept_is_refused() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    for (at, kept) in [(1 << 46, false), ((1 << 46) - 1, true)] {
        let done = story.update(Caller::Local, &token, |update| {
            update.expires_ms = Some(Some(at));
        });
        assert_eq!(is_change(&done), kept, "{done:?}");
        let done = story.update(Caller::Local, &token, |update| {
            update.expires_max_ms = Some(Some(at));
        });
        assert_eq!(is_change(&done), kept, "{done:?}");
    }
    assert_eq!(story.check(&token, "s:read", "a"), Reason::Allowed);
}

#[test]
fn a_periodic_token_gets_no_bound_of_renewals_beside_its_period() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.period_s = Some(60);
    });
    let token = token.expect("local may all");
    let max = story.now + 90_000;
    let done = story.update(Caller::Local, &token, |update| {
        update.expires_max_ms = Some(Some(max));
    });
    assert!(matches!(done, Err(Refusal::Invalid { .. })), "{done:?}");
    let done = story.update(Caller::Local, &token, |update| {
        update.expires_max_ms = Some(Some(max));
        update.period_s = Some(None);
    });
    assert!(is_change(&done), "{done:?}");
    story.now += 50_000;
    assert!(is_change(&story.renew(&token)));
    assert_eq!(story.record(&token).expires_ms, Some(max));
}

#[test]
fn an_expired_token_is_not_updated_back_to_life() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.ttl_s = Some(1);
    });
    let token = token.expect("local may all");
    story.now += 5_000;
    let later = story.now + 5_000;
    let done = story.update(Caller::Local, &token, |update| {
        update.expires_ms = Some(Some(later));
    });
    assert!(matches!(done, Err(Refusal::Precondition(_))), "{done:?}");
}

#[test]
fn a_derived_token_is_not_renewed_beyond_its_ancestors() {
    let mut story = Story::new();
    let parent = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.ttl_s = Some(100);
    });
    let parent = parent.expect("local may all");
    let child = story.issue(parent.caller(), TokenKind::User, |issue| {
        issue.derive = true;
        issue.period_s = Some(50);
    });
    let child = child.expect("derived");
    for _ in 0..2 {
        story.now += 40_000;
        assert!(is_change(&story.renew(&child)));
    }
    let (child, parent) = (story.record(&child), story.record(&parent));
    assert_eq!(child.expires_ms, parent.expires_ms);
}

#[test]
fn a_max_lifetime_below_the_ttl_is_refused() {
    let mut story = Story::new();
    let issued = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.ttl_s = Some(100);
        issue.max_lifetime_s = Some(50);
    });
    assert!(
        matches!(issued, Err(Refusal::Invalid { .. })),
        "clipped instead"
    );
}

#[test]
fn a_narrowed_token_narrows_itself_and_does_not_name_itself() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.scopes = only(&["s:read@a/**"]);
    });
    let token = token.expect("local may all");
    let named = story.update(token.caller(), &token, |update| {
        update.display.name = Some("mine".to_owned());
    });
    assert!(matches!(named, Err(Refusal::NotPermitted(_))), "{named:?}");
    let narrowed = story.update(token.caller(), &token, |update| {
        update.scopes = Some(only(&["s:read@a"]));
    });
    assert!(is_change(&narrowed), "{narrowed:?}");
}
