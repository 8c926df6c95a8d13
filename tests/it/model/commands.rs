//! Commands in few words: what the tests of the model say instead of whole structures.
//!
//! Used by the generator, the literal cases and the readers. Texts are parsed here and must be
//! in the grammar: a mistake in a test is a panic, not a refusal.

use latchkey::domain::change::Display;
use latchkey::domain::permission::{ActionPattern, Resource, ResourcePattern};
use latchkey::domain::principal::{PrincipalName, RoleName};
use latchkey::domain::token::{Digest, TokenId, TokenKind};
use latchkey::state::decide::{
    Caller, Command, Envelope, IssueToken, LimitsAsked, ScopesAsked, UpdateToken,
};

pub(crate) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name of the test's")
}

pub(crate) fn role(text: &str) -> RoleName {
    RoleName::parse(text).expect("a role of the test's")
}

pub(crate) fn resource(text: &str) -> Resource {
    Resource::parse(text).expect("a resource of the test's")
}

pub(crate) fn pattern(text: &str) -> ResourcePattern {
    ResourcePattern::parse(text).expect("a pattern of the test's")
}

pub(crate) fn actions(texts: &[&str]) -> Vec<ActionPattern> {
    texts
        .iter()
        .map(|text| ActionPattern::parse(text).expect("an action of the test's"))
        .collect()
}

pub(crate) fn create_principal(text: &str, home: &str) -> Command {
    Command::CreatePrincipal {
        name: name(text),
        home: resource(home),
        display: Display::default(),
    }
}

pub(crate) fn create_role(text: &str, home: &str, of: &[&str]) -> Command {
    let (name, home, actions) = (role(text), resource(home), actions(of));
    Command::CreateRole {
        name,
        home,
        actions,
        display: Display::default(),
    }
}

pub(crate) fn create_grant(principal: &str, of: &str, on: &str) -> Command {
    Command::CreateGrant {
        principal: name(principal),
        role: role(of),
        resource: pattern(on),
    }
}

pub(crate) fn envelope(caller: Caller, command: Command) -> Envelope {
    Envelope {
        caller,
        reason: "because".to_owned(),
        request: None,
        command,
    }
}

/// A token with nothing special about it.
pub(crate) fn plain_issue(id: TokenId, digest: Digest, kind: TokenKind) -> IssueToken {
    IssueToken {
        id,
        digest,
        kind,
        subject: None,
        resource: None,
        scopes: ScopesAsked::All,
        ttl_s: None,
        not_before_ms: None,
        max_lifetime_s: None,
        period_s: None,
        uses: None,
        limits: LimitsAsked::default(),
        derive: false,
        display: Display::default(),
    }
}

/// An update that changes nothing.
pub(crate) fn plain_update(id: TokenId) -> UpdateToken {
    UpdateToken {
        id,
        scopes: None,
        expires_ms: None,
        not_before_ms: None,
        expires_max_ms: None,
        period_s: None,
        uses_left: None,
        networks: None,
        audience: None,
        workload: None,
        display: Display::default(),
    }
}
