//! Every divergence that was found, and every hole that was thought of, as a literal case.
//!
//! Each is the shortest story that shows it, told through decide and apply, with what DESIGN.md
//! asks at its end. A case that shrinks out of a random run is written here and stays.

use latchkey::domain::clock::Now;
use latchkey::domain::permission::Need;
use latchkey::domain::reason::Reason;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, KindSet, Secret, TokenId, TokenKind};
use latchkey::state::check::{CheckRequest, Context, check};
use latchkey::state::decide::{
    Caller, Command, CutOffRequest, IssueToken, Outcome, RevokeTarget, ScopesAsked, UseToken,
};

use super::T0;
use super::commands::{
    create_grant, create_principal, create_role, envelope, name, plain_issue, plain_update,
    resource,
};
use super::compare::entropy;
use super::direct::Pair;

type Done = Result<Outcome, Refusal>;

/// A token of a story.
#[derive(Clone)]
struct Made {
    id: TokenId,
    secret: String,
}

impl Made {
    fn caller(&self) -> Caller {
        Caller::Bearer {
            key: Digest::of(&self.secret).key(),
            client_ip: None,
        }
    }
}

struct Story {
    pair: Pair,
    now: u64,
    made: u64,
}

impl Story {
    /// `u1` holds everything; `u2` may manage tokens and read secrets at `a` and below.
    fn new() -> Self {
        let mut story = Self {
            pair: Pair::new(),
            now: T0,
            made: 0,
        };
        for text in ["user:u1", "user:u2", "user:u3", "team:t1"] {
            story.local(create_principal(text, "a"));
        }
        story.local(create_role("all", "a", &["*"]));
        story.local(create_role("keeper", "a", &["s:read", "tokens:*"]));
        story.local(create_grant("user:u1", "all", "**"));
        story.local(create_grant("user:u2", "keeper", "a/**"));
        story.local(create_grant("user:u3", "keeper", "a/**"));
        story
    }

    fn run(&mut self, caller: Caller, command: Command) -> Done {
        self.pair.decide(self.now, &envelope(caller, command))
    }

    fn local(&mut self, command: Command) {
        self.run(Caller::Local, command).expect("local may all");
    }

    fn secret(&mut self, kind: TokenKind) -> Secret {
        self.made += 1;
        Secret::generate(kind, &entropy(self.made))
    }

    fn issue(
        &mut self,
        caller: Caller,
        kind: TokenKind,
        edit: impl FnOnce(&mut IssueToken),
    ) -> Result<Made, Refusal> {
        let secret = self.secret(kind);
        let id = TokenId::generate(self.now, &entropy(self.made));
        let mut issue = plain_issue(id, secret.digest(), kind);
        edit(&mut issue);
        self.run(caller, Command::IssueToken(Box::new(issue)))?;
        Ok(Made {
            id,
            secret: secret.reveal().to_owned(),
        })
    }

    fn user(&mut self, text: &str) -> Made {
        let issued = self.issue(Caller::Local, TokenKind::User, |issue| {
            issue.subject = Some(name(text));
        });
        issued.expect("local may all")
    }

    fn on_a(&mut self, by: &Made) -> Made {
        let issued = self.issue(by.caller(), TokenKind::Resource, |issue| {
            issue.resource = Some(resource("a"));
            issue.scopes = only(&["s:read,tokens:issue@a"]);
        });
        issued.expect("held")
    }

    fn check(&self, token: &Made, action: &str, on: &str) -> Reason {
        let needs = [Need::parse(action, on).expect("a need")];
        let request = CheckRequest {
            token: &token.secret,
            needs: &needs,
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        check(&self.pair.state, &request, Now::at(self.now)).reason
    }

    fn revoke(&mut self, token: &Made, compromised: bool) -> Done {
        let target = RevokeTarget::Id(token.id);
        self.run(
            Caller::Local,
            Command::RevokeToken {
                target,
                compromised,
            },
        )
    }
}

fn only(texts: &[&str]) -> ScopesAsked {
    let entries = texts
        .iter()
        .map(|text| ScopeEntry::parse(text).expect("scope text"));
    ScopesAsked::Only(entries.collect())
}

fn is_change(done: &Done) -> bool {
    matches!(done, Ok(Outcome::Change { .. }))
}

fn rotate(story: &mut Story, by: Caller, token: &Made, grace_s: u32) -> Result<Made, Refusal> {
    let kind = story.pair.state.token(token.id).expect("kept").kind;
    let fresh = story.secret(kind);
    let (digest, last4) = (fresh.digest(), fresh.last4().to_owned());
    let id = Some(token.id);
    story.run(
        by,
        Command::RotateToken {
            id,
            digest,
            last4,
            grace_s,
            expected: None,
        },
    )?;
    Ok(Made {
        id: token.id,
        secret: fresh.reveal().to_owned(),
    })
}

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
    let first = story.pair.state.token(token.id).expect("kept").revoked;
    story.now += 1_000;
    assert!(matches!(story.revoke(&token, false), Ok(Outcome::Already)));
    assert_eq!(
        story.check(&issued, "s:read", "a"),
        Reason::Allowed,
        "it outlives its issuer"
    );
    assert!(is_change(&story.revoke(&token, true)));
    assert_eq!(
        story.pair.state.token(token.id).expect("kept").revoked,
        first
    );
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
    let mut update = plain_update(token.id);
    update.scopes = Some(only(&["s:read,tokens:issue,tokens:read@a"]));
    assert!(is_change(
        &story.run(second.caller(), Command::UpdateToken(Box::new(update)))
    ));
    story.local(Command::RevokeAll(CutOffRequest::IssuedByToken(second.id)));
    assert_eq!(story.check(&token, "s:read", "a"), Reason::Revoked);
}

#[test]
fn a_use_counts_when_allowed_and_the_last_one_is_the_last() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.uses = Some(1);
    });
    let token = token.expect("local may all");
    let using = |action: &str| UseToken {
        key: Digest::of(&token.secret).key(),
        needs: vec![(action.to_owned(), "a".to_owned())],
        client_ip: None,
        audience: None,
        workload: None,
        kinds: KindSet::ALL,
    };
    let mut uses = |action: &str| {
        story
            .run(Caller::System, Command::UseToken(Box::new(using(action))))
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

// Found by the model test (seed 39). Cut off as an issuer, then it issued, then it was revoked,
// and only then was it known that it had been stolen.
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
fn an_expiry_at_the_epoch_is_an_expiry() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let mut update = plain_update(token.id);
    update.expires_ms = Some(Some(0));
    let done = story.run(token.caller(), Command::UpdateToken(Box::new(update)));
    assert!(
        done.is_err() || story.check(&token, "s:read", "a") == Reason::Expired,
        "{done:?}"
    );
}

#[test]
fn an_expiry_too_late_to_be_kept_is_refused() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let mut update = plain_update(token.id);
    update.expires_ms = Some(Some((1 << 48) + 5));
    let done = story.run(Caller::Local, Command::UpdateToken(Box::new(update)));
    assert!(
        done.is_err() || story.check(&token, "s:read", "a") == Reason::Allowed,
        "{done:?}"
    );
}

#[test]
fn a_token_that_gets_a_use_limit_has_no_children_that_pass_it() {
    let mut story = Story::new();
    let parent = story.user("user:u2");
    let child = story.issue(parent.caller(), TokenKind::User, |issue| {
        issue.derive = true
    });
    let child = child.expect("derived");
    let mut update = plain_update(parent.id);
    update.uses_left = Some(Some(1));
    if story
        .run(Caller::Local, Command::UpdateToken(Box::new(update)))
        .is_err()
    {
        return;
    }
    let using = UseToken {
        key: Digest::of(&child.secret).key(),
        needs: Vec::new(),
        client_ip: None,
        audience: None,
        workload: None,
        kinds: KindSet::ALL,
    };
    let passed = |done: Done| matches!(done, Ok(Outcome::Already | Outcome::Change { .. }));
    let first = passed(story.run(Caller::System, Command::UseToken(Box::new(using.clone()))));
    let second = passed(story.run(Caller::System, Command::UseToken(Box::new(using))));
    assert!(!(first && second), "one use was left, two were allowed");
}

#[test]
fn a_child_of_a_token_with_a_use_limit_does_not_manage() {
    let mut story = Story::new();
    let parent = story.user("user:u2");
    let child = story.issue(parent.caller(), TokenKind::User, |issue| {
        issue.derive = true
    });
    let child = child.expect("derived");
    let mut update = plain_update(parent.id);
    update.uses_left = Some(Some(1));
    let _ = story.run(Caller::Local, Command::UpdateToken(Box::new(update)));
    let issued = story.issue(child.caller(), TokenKind::User, |_| {}).is_ok();
    let limited = story
        .pair
        .state
        .token(parent.id)
        .expect("kept")
        .uses
        .is_some();
    assert!(!(limited && issued));
}

#[test]
fn a_secret_whose_grace_has_ended_revokes_nothing() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let old = Digest::of(&token.secret);
    let other = story.user("user:u3");
    let fresh = story.secret(TokenKind::User);
    let rotate = Command::RotateToken {
        id: Some(token.id),
        digest: fresh.digest(),
        last4: fresh.last4().to_owned(),
        grace_s: 5,
        expected: None,
    };
    story.local(rotate);
    story.now += 6_000;
    let target = RevokeTarget::Secret(old);
    let revoked = story.run(
        other.caller(),
        Command::RevokeToken {
            target,
            compromised: false,
        },
    );
    assert!(revoked.is_err(), "{revoked:?}");
}

#[test]
fn a_renewal_is_clipped_at_the_maximum_of_a_periodic_token_too() {
    let mut story = Story::new();
    let token = story.issue(Caller::Local, TokenKind::User, |issue| {
        issue.subject = Some(name("user:u2"));
        issue.period_s = Some(60);
    });
    let token = token.expect("local may all");
    let max = story.now + 90_000;
    let mut update = plain_update(token.id);
    update.expires_max_ms = Some(Some(max));
    let _ = story.run(Caller::Local, Command::UpdateToken(Box::new(update)));
    story.now += 50_000;
    let _ = story.run(
        token.caller(),
        Command::RenewToken {
            id: None,
            ttl_s: None,
        },
    );
    let record = story.pair.state.token(token.id).expect("kept");
    let within = record
        .expires_ms
        .zip(record.expires_max_ms)
        .is_none_or(|(at, max)| at <= max);
    assert!(
        within,
        "{:?} is after {:?}",
        record.expires_ms, record.expires_max_ms
    );
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
    let mut update = plain_update(token.id);
    update.expires_ms = Some(Some(story.now + 5_000));
    let done = story.run(Caller::Local, Command::UpdateToken(Box::new(update)));
    assert!(matches!(done, Err(Refusal::Precondition(_))), "{done:?}");
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
    assert!(done.is_err(), "{done:?}");
    assert_eq!(story.check(&issued, "s:read", "a"), Reason::Allowed);
}

#[test]
fn a_narrowed_token_does_not_cut_off_what_it_issued_before_it_was_narrowed() {
    let mut story = Story::new();
    let token = story.user("user:u2");
    let issued = story.on_a(&token);
    let mut update = plain_update(token.id);
    update.scopes = Some(only(&["s:read@a"]));
    assert!(is_change(
        &story.run(token.caller(), Command::UpdateToken(Box::new(update)))
    ));
    let cut = Command::RevokeAll(CutOffRequest::IssuedByToken(token.id));
    let done = story.run(token.caller(), cut);
    assert!(done.is_err(), "{done:?}");
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
    let _ = story.run(nobody.caller(), forget.clone());
    assert_eq!(
        story.check(&victim, "s:read", "a"),
        Reason::Allowed,
        "by a bearer"
    );
    let _ = story.run(Caller::System, forget);
    assert_eq!(
        story.check(&victim, "s:read", "a"),
        Reason::Allowed,
        "what has not ended"
    );
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
    story.now += 40_000;
    story
        .run(
            child.caller(),
            Command::RenewToken {
                id: None,
                ttl_s: None,
            },
        )
        .expect("renewable");
    story.now += 40_000;
    story
        .run(
            child.caller(),
            Command::RenewToken {
                id: None,
                ttl_s: None,
            },
        )
        .expect("renewable");
    let ends = |token: &Made| story.pair.state.token(token.id).expect("kept").expires_ms;
    assert!(
        ends(&child) <= ends(&parent),
        "{:?} {:?}",
        ends(&child),
        ends(&parent)
    );
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
