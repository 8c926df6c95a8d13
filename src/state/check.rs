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
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind, recognise};

use super::State;
use super::judge::{Unobserved, judge};
use super::scopeset::ScopeSet;
use super::tokens::{Ext, Hot};

pub use super::judge::Step;

/// Most ancestors of a derived token.
pub const ANCESTORS_MAX: usize = 8;

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
    /// Its kind.
    pub kind: TokenKind,
    /// `user:alice`; the resource for a resource token; empty when the subject is gone.
    pub subject: &'s str,
    /// What it is narrowed to; none for `All`.
    pub scopes: Option<&'s ScopeSet>,
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

/// A token with what few tokens have.
#[derive(Clone, Copy)]
pub(super) struct Link<'s> {
    pub(super) hot: &'s Hot,
    pub(super) ext: Option<&'s Ext>,
}

/// A token and its ancestors, nearest first.
pub(super) struct Lineage<'s> {
    links: [Option<Link<'s>>; ANCESTORS_MAX + 1],
    /// Whether an ancestor is gone: a denial.
    pub(super) broken: bool,
}

impl<'s> Lineage<'s> {
    #[inline]
    pub(super) fn of(state: &'s State, hot: &'s Hot) -> Self {
        let mut links = [None; ANCESTORS_MAX + 1];
        let mut next = Some(hot);
        let mut broken = false;
        for slot in &mut links {
            let Some(hot) = next.take() else { break };
            let ext = state.tokens.ext(hot);
            *slot = Some(Link { hot, ext });
            if let Some(parent) = ext.and_then(|ext| ext.parent) {
                next = state.tokens.by_id(parent);
                broken |= next.is_none();
            }
        }
        // Deeper than ever issued: nothing that we made, so nothing that we allow.
        broken |= next.is_some();
        Self { links, broken }
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Link<'s>> {
        self.links.iter().map_while(Option::as_ref)
    }
}

/// Decides on a presented token.
#[must_use]
pub fn check<'s>(state: &'s State, request: &CheckRequest<'_>, now: Now) -> Decision<'s> {
    let now = now.not_before(state.instant_ms);
    let denied = |reason| Decision {
        reason,
        token: None,
        ends_ms: None,
        revision: state.head.revision(),
    };
    if request.token.is_empty() {
        return denied(Reason::NoToken);
    }
    if recognise(request.token).is_none() {
        return denied(Reason::Malformed);
    }
    let Some(found) = state.tokens.find(Digest::of(request.token).key()) else {
        return denied(Reason::Unknown);
    };
    let lineage = Lineage::of(state, found.hot);
    let reason = judge(state, &found, &lineage, request, now, &mut Unobserved);
    let seen = see(state, &lineage, found.hot);
    let ends = seen.expires_ms.into_iter().chain(found.grace_until_ms);
    Decision {
        reason,
        ends_ms: ends.min(),
        token: Some(seen),
        revision: state.head.revision(),
    }
}

fn see<'s>(state: &'s State, lineage: &Lineage<'s>, hot: &'s Hot) -> Seen<'s> {
    let subject = match hot.principal() {
        Some(id) => state.directory.principal(id).map_or("", |one| &one.text),
        None => state.tokens.resource(hot).map_or("", |one| one.as_str()),
    };
    Seen {
        id: hot.id(),
        kind: hot.kind(),
        subject,
        scopes: state.tokens.scopes(hot),
        narrowed: lineage.iter().enumerate().any(|(generation, link)| {
            let tokens = &state.tokens;
            tokens.ceiling(link.hot).is_some()
                || (generation > 0 && tokens.scopes(link.hot).is_some())
        }),
        expires_ms: lineage
            .iter()
            .filter_map(|link| link.hot.expires_ms())
            .min(),
        counts_uses: state.tokens.ext(hot).is_some_and(|ext| ext.uses.is_some()),
    }
}
