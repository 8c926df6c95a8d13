//! Short stories on State and the oracle at once, for the literal cases.
//!
//! Used by `cases_of_life` and `cases_of_power`. A story begins with three users and a team and
//! goes on by commands; its words are issuing, rotating, revoking and checking.

use latchkey::domain::change::TokenRecord;
use latchkey::domain::clock::Now;
use latchkey::domain::permission::Need;
use latchkey::domain::reason::Reason;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, KindSet, Secret, TokenId, TokenKind};
use latchkey::state::check::{CheckRequest, Context, check};
use latchkey::state::decide::{
    Caller, Command, IssueToken, Outcome, RevokeTarget, ScopesAsked, UpdateToken, UseToken,
};

use super::T0;
use super::commands::{
    create_grant, create_principal, create_role, envelope, name, plain_issue, plain_update,
    resource,
};
use super::compare::entropy;
use super::direct::Pair;

pub(crate) type Done = Result<Outcome, Refusal>;

/// A token of a story.
#[derive(Clone)]
pub(crate) struct Made {
    pub id: TokenId,
    pub secret: String,
}

impl Made {
    pub(crate) fn caller(&self) -> Caller {
        Caller::Bearer {
            key: Digest::of(&self.secret).key(),
            client_ip: None,
            peer: None,
        }
    }
}

pub(crate) struct Story {
    pub pair: Pair,
    pub now: u64,
    made: u64,
}

impl Story {
    /// `u1` holds everything; `u2` may manage tokens and read secrets at `a` and below.
    pub(crate) fn new() -> Self {
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

    pub(crate) fn run(&mut self, caller: Caller, command: Command) -> Done {
        self.pair.decide(self.now, &envelope(caller, command))
    }

    pub(crate) fn local(&mut self, command: Command) {
        self.run(Caller::Local, command).expect("local may all");
    }

    pub(crate) fn secret(&mut self, kind: TokenKind) -> Secret {
        self.made += 1;
        Secret::generate(kind, &entropy(self.made))
    }

    pub(crate) fn issue(
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

    pub(crate) fn user(&mut self, text: &str) -> Made {
        let issued = self.issue(Caller::Local, TokenKind::User, |issue| {
            issue.subject = Some(name(text));
        });
        issued.expect("local may all")
    }

    pub(crate) fn on_a(&mut self, by: &Made) -> Made {
        let issued = self.issue(by.caller(), TokenKind::Resource, |issue| {
            issue.resource = Some(resource("a"));
            issue.scopes = only(&["s:read,tokens:issue@a"]);
        });
        issued.expect("held")
    }

    pub(crate) fn check(&self, token: &Made, action: &str, on: &str) -> Reason {
        let needs = [Need::parse(action, on).expect("a need")];
        let request = CheckRequest {
            token: &token.secret,
            needs: &needs,
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        check(&self.pair.state, &request, Now::at(self.now)).reason
    }

    /// Updates a token, whoever asks.
    pub(crate) fn update(
        &mut self,
        by: Caller,
        token: &Made,
        edit: impl FnOnce(&mut UpdateToken),
    ) -> Done {
        let mut update = plain_update(token.id);
        edit(&mut update);
        self.run(by, Command::UpdateToken(Box::new(update)))
    }

    /// The token renews itself, by as much as it may.
    pub(crate) fn renew(&mut self, token: &Made) -> Done {
        let (id, ttl_s) = (None, None);
        self.run(token.caller(), Command::RenewToken { id, ttl_s })
    }

    pub(crate) fn record(&self, token: &Made) -> TokenRecord {
        self.pair.state.token(token.id).expect("kept")
    }

    pub(crate) fn revoke(&mut self, token: &Made, compromised: bool) -> Done {
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

pub(crate) fn only(texts: &[&str]) -> ScopesAsked {
    let entries = texts
        .iter()
        .map(|text| ScopeEntry::parse(text).expect("scope text"));
    ScopesAsked::Only(entries.collect())
}

pub(crate) fn is_change(done: &Done) -> bool {
    matches!(done, Ok(Outcome::Change { .. }))
}

pub(crate) fn rotate(
    story: &mut Story,
    by: Caller,
    token: &Made,
    grace_s: u32,
) -> Result<Made, Refusal> {
    let kind = story.record(token).kind;
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

pub(crate) fn using(token: &Made, action: &str) -> Command {
    Command::UseToken(Box::new(UseToken {
        key: Digest::of(&token.secret).key(),
        needs: vec![(action.to_owned(), "a".to_owned())],
        client_ip: None,
        audience: None,
        workload: None,
        kinds: KindSet::ALL,
    }))
}
