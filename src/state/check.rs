//! Check: may this token do that, now? The hot path; pure, synchronous, one revision.
//!
//! ```text
//! bytes ─► parse ─► find ─► kind ─► revocation ─► subject ─► lifetime ─► network ─► audience
//!       ─► workload ─► permission ─► uses ─► decision
//! ```
//!
//! The steps after *find* are in `judge`, the one evaluator that Explain runs, too. No `Result`,
//! no allocation: every failure is a denial with one reason.

use std::net::IpAddr;

use crate::domain::chain::Revision;
use crate::domain::clock::{Now, UnixMs};
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::scopes::PermissionSet;
use crate::domain::seal::claims::{Sealed, SealedScopes};
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind, recognise};

use super::State;
use super::judge::{Unobserved, judge};
use super::lineage::Lineage;
use super::scopeset::ScopeSet;

pub use super::judge::Step;
pub use super::lineage::ANCESTORS_MAX;

/// What is known of the request that a token came with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The client's address, vouched for.
    pub client_ip: Option<IpAddr>,
    /// For whom the token was presented.
    pub audience: Option<&'a str>,
    /// The mTLS peer that presented it.
    pub workload: Option<&'a str>,
}

/// A question to the authority.
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest<'a> {
    /// The presented text.
    pub token: &'a str,
    /// All must be covered; none asks only whether the token is good.
    pub needs: &'a [Need<'a>],
    /// What is known of the request.
    pub context: Context<'a>,
    /// The kinds that the caller accepts.
    pub kinds: KindSet,
}

/// The answer, borrowed from the State that it was computed on.
#[derive(Debug)]
pub struct Decision<'s> {
    /// Exactly one reason.
    pub reason: Reason,
    /// The token, once it was found.
    pub token: Option<Seen<'s>>,
    /// The first instant at which an allow would not be one: the end of the token or of an
    /// ancestor, or of the grace of a former secret.
    pub ends_ms: Option<UnixMs>,
    /// The revision that the answer was computed at.
    pub revision: Revision,
}

/// What a decision tells of the token.
#[derive(Debug)]
pub struct Seen<'s> {
    /// Its public name.
    pub id: TokenId,
    /// The stored token whose use this is: itself, or the origin of a sealed one.
    pub stored: TokenId,
    /// Its kind.
    pub kind: TokenKind,
    /// Whether it speaks for a resource, not for a principal.
    pub is_resource: bool,
    /// `user:alice`; the resource where it speaks for one; empty when the subject is gone.
    pub subject: &'s str,
    /// What it is narrowed to.
    pub scopes: SeenScopes<'s>,
    /// Whether a ceiling, or the scopes of an ancestor, narrow it besides.
    pub narrowed: bool,
    /// When the first of it and its ancestors ends.
    pub expires_ms: Option<UnixMs>,
    /// Whether each use must be counted before it is allowed.
    pub counts_uses: bool,
}

impl Decision<'_> {
    /// Whether the request may pass.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.reason == Reason::Allowed
    }
}

/// What a token is narrowed to.
#[derive(Clone, Copy, Debug)]
pub enum SeenScopes<'s> {
    /// Not at all.
    All,
    /// To a set in State.
    Compiled(&'s ScopeSet),
    /// To what its claims say.
    Sealed(SealedScopes<'s>),
}

impl SeenScopes<'_> {
    /// How many permissions there are; none for `All`.
    #[must_use]
    #[inline]
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Compiled(set) => Some(set.permissions().len()),
            Self::Sealed(scopes) => Some(scopes.len()),
        }
    }

    /// The texts of the permissions, action pattern and resource pattern; none for `All`.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let (compiled, sealed) = match self {
            Self::All => (&[][..], None),
            Self::Compiled(set) => (set.permissions(), None),
            Self::Sealed(scopes) => (&[][..], Some(scopes.texts())),
        };
        compiled
            .iter()
            .map(|one| (one.action.as_str(), one.resource.as_str()))
            .chain(sealed.into_iter().flatten())
    }

    /// The permissions; none for `All`.
    #[must_use]
    pub fn to_set(&self) -> Option<PermissionSet> {
        match self {
            Self::All => None,
            Self::Compiled(set) => Some(set.to_set()),
            Self::Sealed(scopes) => Some(scopes.to_set()),
        }
    }
}

/// Decides on a presented stored token.
#[must_use]
pub fn check<'s>(state: &'s State, request: &CheckRequest<'_>, now: Now) -> Decision<'s> {
    if request.token.is_empty() {
        return denied(state, Reason::NoToken);
    }
    if recognise(request.token).is_none() {
        return denied(state, Reason::Malformed);
    }
    let Some(found) = state.tokens.find(Digest::of(request.token).key()) else {
        return denied(state, Reason::Unknown);
    };
    decided(state, &Lineage::found(state, &found), request, now)
}

/// Decides on a sealed token whose seal was found whole.
#[must_use]
pub fn check_sealed<'s>(
    state: &'s State,
    sealed: Sealed<'s>,
    request: &CheckRequest<'_>,
    now: Now,
) -> Decision<'s> {
    decided(state, &Lineage::sealed(state, sealed), request, now)
}

/// A denial of what is no token that State knows.
#[must_use]
pub fn denied(state: &State, reason: Reason) -> Decision<'_> {
    Decision {
        reason,
        token: None,
        ends_ms: None,
        revision: state.head.revision(),
    }
}

#[inline]
fn decided<'s>(
    state: &'s State,
    lineage: &Lineage<'s>,
    request: &CheckRequest<'_>,
    now: Now,
) -> Decision<'s> {
    let now = now.not_before(state.instant_ms);
    let ends_ms = lineage.ends_ms(state);
    let reason = judge(state, lineage, ends_ms, request, now, &mut Unobserved);
    Decision {
        reason,
        ends_ms,
        token: see(state, lineage, ends_ms),
        revision: state.head.revision(),
    }
}

fn see<'s>(state: &'s State, lineage: &Lineage<'s>, ends_ms: Option<UnixMs>) -> Option<Seen<'s>> {
    let tokens = &state.tokens;
    // A grace is the end of a secret, not of its token.
    let expires_ms = match lineage.grace_until_ms {
        None => ends_ms,
        Some(_) => lineage
            .iter()
            .filter_map(|link| link.hot.expires_ms())
            .min(),
    };
    let first = lineage.iter().next();
    let subject = match lineage.principal() {
        Some(id) => state.directory.principal(id).map_or("", |one| &one.text),
        None => first
            .and_then(|link| tokens.resource(link.hot))
            .map_or("", |one| one.as_str()),
    };
    let scopes = match (&lineage.sealed, first) {
        (Some(sealed), _) => sealed.scopes().map(SeenScopes::Sealed),
        (None, Some(link)) => tokens.scopes(link.hot).map(SeenScopes::Compiled),
        (None, None) => None,
    };
    Some(Seen {
        id: lineage.id()?,
        stored: first.map(|link| link.hot.id()).or(lineage.id())?,
        kind: lineage.kind(),
        is_resource: lineage.principal().is_none(),
        subject,
        scopes: scopes.unwrap_or(SeenScopes::All),
        narrowed: lineage.iter().enumerate().any(|(generation, link)| {
            tokens.ceiling(link.hot).is_some()
                || ((generation > 0 || lineage.sealed.is_some())
                    && tokens.scopes(link.hot).is_some())
        }),
        expires_ms,
        counts_uses: lineage.counts_uses(),
    })
}
