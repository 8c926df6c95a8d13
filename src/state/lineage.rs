//! A presented token with its ancestors: what every rule about it goes through.
//!
//! ```text
//! stored:  token ─► parent ─► … ─► credential?
//! sealed:  claims ─► origin ─► parent ─► … ─► credential?
//! ```
//!
//! Stored ancestors are read from State at the moment of the question; of sealed ones only their
//! sessions are left, in the claims. A credential is the last, if there is one: what was born from
//! it answers to the method of its account. Made for each Check and each caller; no allocation.

use crate::domain::change::Subject;
use crate::domain::clock::UnixMs;
use crate::domain::limits::{Audience, Workload};
use crate::domain::login::{LoginMethod, MethodRecord};
use crate::domain::permission::{Need, Permission};
use crate::domain::principal::PrincipalId;
use crate::domain::scopes::PermissionSet;
use crate::domain::seal::claims::{Sealed, SealedScopes};
use crate::domain::token::{TokenId, TokenKind};

use super::State;
use super::scopeset::ScopeSet;
use super::tokens::{Ext, Found, Hot, Limits};

/// Most ancestors of a token.
pub const ANCESTORS_MAX: usize = 8;

/// A stored token with what few tokens have.
#[derive(Clone, Copy)]
pub(super) struct Link<'s> {
    pub(super) hot: &'s Hot,
    pub(super) ext: Option<&'s Ext>,
}

/// A token and its ancestors.
pub(super) struct Lineage<'s> {
    /// The claims, if the token is sealed: then the links begin with its origin.
    pub(super) sealed: Option<Sealed<'s>>,
    links: [Option<Link<'s>>; ANCESTORS_MAX + 1],
    /// Whether an ancestor is gone: a denial.
    pub(super) broken: bool,
    /// Set when the secret is the one before the last rotation: when it ends.
    pub(super) grace_until_ms: Option<UnixMs>,
}

/// One of the sets that cut what a token may do.
#[derive(Clone, Copy)]
pub(super) enum Cut<'s> {
    Compiled(&'s ScopeSet),
    Sealed(SealedScopes<'s>),
}

/// A token that was born from a credential.
#[derive(Clone, Copy)]
pub(super) struct Born<'s> {
    pub(super) credential: &'s Hot,
    /// The method as it is now; none if it is not set, or was set anew.
    pub(super) method: Option<&'s MethodRecord>,
    pub(super) issued_ms: UnixMs,
    pub(super) session_ms: UnixMs,
}

impl<'s> Lineage<'s> {
    /// Of a stored token.
    #[inline]
    pub(super) fn of(state: &'s State, hot: &'s Hot) -> Self {
        Self::from(state, Some(hot))
    }

    /// Of a token that was found by its secret.
    #[inline]
    pub(super) fn found(state: &'s State, found: &Found<'s>) -> Self {
        let mut lineage = Self::of(state, found.hot);
        lineage.grace_until_ms = found.grace_until_ms;
        lineage
    }

    /// Of a sealed token.
    pub(super) fn sealed(state: &'s State, sealed: Sealed<'s>) -> Self {
        let origin = state.tokens.by_id(sealed.origin);
        let mut lineage = Self::from(state, origin);
        lineage.broken |= origin.is_none();
        lineage.sealed = Some(sealed);
        lineage
    }

    #[inline]
    fn from(state: &'s State, mut next: Option<&'s Hot>) -> Self {
        let mut links = [None; ANCESTORS_MAX + 1];
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
        Self {
            sealed: None,
            links,
            broken,
            grace_until_ms: None,
        }
    }

    /// Whether it was sealed on a State that this one has yet to become.
    pub(super) fn is_ahead_of(&self, state: &State) -> bool {
        let sealed = self.sealed.as_ref();
        sealed.is_some_and(|sealed| sealed.made_at > state.head().revision)
    }

    /// The stored tokens, nearest first.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Link<'s>> {
        self.links.iter().map_while(Option::as_ref)
    }

    /// Whether nothing of it is known.
    pub(super) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    #[inline]
    fn first(&self) -> Option<&Link<'s>> {
        self.links[0].as_ref()
    }

    /// The stored token itself, if it is one.
    #[inline]
    pub(super) fn stored(&self) -> Option<&Link<'s>> {
        match &self.sealed {
            None => self.first(),
            Some(_) => None,
        }
    }

    /// The token's public name; none of what is gone.
    #[inline]
    pub(super) fn id(&self) -> Option<TokenId> {
        match &self.sealed {
            Some(sealed) => Some(sealed.id),
            None => self.first().map(|link| link.hot.id()),
        }
    }

    #[inline]
    pub(super) fn kind(&self) -> TokenKind {
        match (&self.sealed, self.first()) {
            (None, Some(link)) => link.hot.kind(),
            _ => TokenKind::Access,
        }
    }

    /// The principal that it speaks for; none for a resource, and for what is gone.
    #[inline]
    pub(super) fn principal(&self) -> Option<PrincipalId> {
        self.first().and_then(|link| link.hot.principal())
    }

    /// Whom or what it speaks for.
    pub(super) fn subject(&self, state: &State) -> Option<Subject> {
        let first = self.first()?;
        Some(match state.tokens.resource(first.hot) {
            Some(resource) => Subject::Resource(resource.clone()),
            None => Subject::Principal(first.hot.principal()?),
        })
    }

    /// How many tokens it has above it.
    pub(super) fn ancestors(&self) -> usize {
        let sealed = self
            .sealed
            .as_ref()
            .map_or(0, |sealed| 1 + sealed.ancestors().count());
        (sealed + self.iter().count()).saturating_sub(1)
    }

    /// Whether what can be done with it is counted.
    #[inline]
    pub(super) fn counts_uses(&self) -> bool {
        let ext = self.stored().and_then(|link| link.ext);
        ext.is_some_and(|ext| ext.uses.is_some())
    }

    /// Whether it is sealed and of a login: others are no sessions of their own, and their end is
    /// the end of what was exchanged from them, too.
    pub(super) fn is_session(&self) -> bool {
        let origin = self.first().map(|link| link.hot.kind());
        self.sealed.as_ref().is_some_and(|sealed| {
            sealed.ancestors().next().is_none() && origin.is_some_and(TokenKind::is_credential)
        })
    }

    /// The ids that tokens which are issued with it are found by: its own and its ancestors',
    /// nearest first; of a sealed one its session.
    pub(super) fn names(&self) -> impl Iterator<Item = TokenId> + '_ {
        let sessions = self.sealed.iter().flat_map(Sealed::sessions);
        sessions.chain(self.iter().map(|link| link.hot.id()))
    }

    /// Every scope and ceiling of it and its ancestors.
    pub(super) fn cuts(&self, state: &'s State) -> impl Iterator<Item = Cut<'s>> {
        let tokens = &state.tokens;
        let sealed = self.sealed.as_ref().and_then(Sealed::scopes);
        let stored = self.iter().flat_map(|link| {
            [tokens.scopes(link.hot), tokens.ceiling(link.hot)]
                .into_iter()
                .flatten()
        });
        sealed
            .map(Cut::Sealed)
            .into_iter()
            .chain(stored.map(Cut::Compiled))
    }

    /// The limits of the stored tokens; the networks of a credential are about logins.
    pub(super) fn limits(&self, state: &'s State) -> impl Iterator<Item = &'s Limits> {
        let tokens = self.iter().filter(|link| !link.hot.kind().is_credential());
        tokens.filter_map(|link| state.tokens.limits(link.hot))
    }

    /// The audience that it is bound to; where several of the lineage are, it is the same.
    pub(super) fn audience(&'s self, state: &'s State) -> Option<&'s str> {
        let limits = self.iter().filter_map(|link| state.tokens.limits(link.hot));
        let claimed = self.sealed.as_ref().map(Sealed::audience);
        limits
            .filter_map(|limits| limits.audience.as_ref().map(Audience::as_str))
            .chain(claimed.filter(|audience| !audience.is_empty()))
            .next()
    }

    /// The workload that it is bound to; where several of the lineage are, it is the same.
    pub(super) fn workload(&'s self, state: &'s State) -> Option<&'s str> {
        let limits = self.iter().filter_map(|link| state.tokens.limits(link.hot));
        let claimed = self.sealed.as_ref().map(Sealed::workload);
        limits
            .filter_map(|limits| limits.workload.as_ref().map(Workload::as_str))
            .chain(claimed.filter(|workload| !workload.is_empty()))
            .next()
    }

    /// What it was born from, if from a credential.
    #[inline]
    pub(super) fn born(&self, state: &'s State) -> Option<Born<'s>> {
        if self.sealed.is_none() && self.links[1].is_none() {
            return None;
        }
        let (depth, last) = self.iter().enumerate().last()?;
        let method = LoginMethod::of(last.hot.kind())?;
        let (issued_ms, session_ms) = match &self.sealed {
            Some(sealed) => (sealed.issued_ms, sealed.session_ms),
            None => issued(state, self.links[depth.checked_sub(1)?].as_ref()?),
        };
        let account = last.hot.principal()?;
        let account = state.directory.principal(account);
        Some(Born {
            credential: last.hot,
            method: account
                .and_then(|one| one.method(method))
                .filter(|method| method.made_at <= last.hot.made_at()),
            issued_ms,
            session_ms,
        })
    }

    /// When the first of what it depends on ends.
    #[inline]
    pub(super) fn ends_ms(&self, state: &'s State) -> Option<UnixMs> {
        let stored = self.iter().filter_map(|link| link.hot.expires_ms());
        let own = stored.chain(self.grace_until_ms).min();
        // Most tokens are neither sealed nor born from a credential.
        let Some(born) = self.born(state) else {
            let sealed = self.sealed.as_ref().map(|sealed| sealed.expires_ms);
            return own.into_iter().chain(sealed).min();
        };
        let sealed = self.sealed.as_ref().map(|sealed| sealed.expires_ms);
        own.into_iter().chain(sealed).chain(born.ends_ms()).min()
    }
}

/// When a stored access token was issued or last renewed, and when its session began. A renewal
/// that was clipped looks older than it is, which ends the token sooner.
fn issued(state: &State, link: &Link<'_>) -> (UnixMs, UnixMs) {
    let session_ms = link.hot.id().created_ms();
    let limits = state.tokens.limits(link.hot);
    let life_s = limits.and_then(|limits| limits.period_s.or(limits.ttl_s));
    let issued_ms = link
        .hot
        .expires_ms()
        .zip(life_s)
        .map(|(expires_ms, life_s)| expires_ms.saturating_sub(u64::from(life_s) * 1_000));
    (issued_ms.unwrap_or(session_ms), session_ms)
}

impl Born<'_> {
    /// When the settings of the account, as they are now, end it.
    #[inline]
    fn ends_ms(&self) -> Option<UnixMs> {
        let settings = &self.method?.settings;
        let after = |from_ms: UnixMs, seconds: u32| from_ms + u64::from(seconds) * 1_000;
        let life = after(self.issued_ms, settings.life_s());
        let session = settings
            .session_s()
            .map(|seconds| after(self.session_ms, seconds));
        Some(session.map_or(life, |session| session.min(life)))
    }
}

impl Cut<'_> {
    #[inline]
    pub(super) fn permits(&self, need: &Need<'_>) -> bool {
        match self {
            Self::Compiled(set) => set.permits(need),
            Self::Sealed(scopes) => scopes.permits(need),
        }
    }

    pub(super) fn covers(&self, permission: &Permission) -> bool {
        match self {
            Self::Compiled(set) => set.covers(permission),
            Self::Sealed(scopes) => scopes.permissions().any(|mine| mine.covers(permission)),
        }
    }

    pub(super) fn to_set(self) -> PermissionSet {
        match self {
            Self::Compiled(set) => set.to_set(),
            Self::Sealed(scopes) => scopes.to_set(),
        }
    }
}
