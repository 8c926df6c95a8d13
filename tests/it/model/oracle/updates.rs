//! The oracle's update and renewal of a token: what narrows is free, the rest obeys the issue rule.
//!
//! Written from *Life* in DESIGN.md: what is not named stays; narrowing turns no denial into an
//! allow. Covering is asked of the universe, member by member, not of the patterns' text.

use latchkey::domain::change::Display;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::state::decide::UpdateToken;

use super::super::algebra::{Perm, canonical, extent, one_covers};
use super::sealed::method_of;
use super::tokens::put;
use super::verbs::{Me, No, Outcome};
use super::{Subject, Token, addresses_in};

/// The latest instant that a token's expiry can be.
const LATEST_MS: u64 = (1 << 46) - 1;

impl Me<'_> {
    pub(super) fn alive(&self, token: &Token) -> Result<(), No> {
        let ended = token.expires.is_some_and(|at| at <= self.now);
        if ended || token.revoked.is_some() {
            Err(No::Precondition)
        } else {
            Ok(())
        }
    }

    pub(super) fn renew(&self, id: Option<TokenId>, ttl_s: Option<u32>) -> Outcome {
        let mut token = self.known(id)?;
        if !self.is_me(&token) {
            self.require_token("tokens:issue", &token)?;
        }
        self.alive(&token)?;
        let wanted = ttl_s
            .or(token.period_s)
            .or(token.ttl_s)
            .ok_or(No::Precondition)?;
        if wanted == 0 {
            return Err(No::Invalid);
        }
        let at = |seconds: u32| self.now + u64::from(seconds) * 1_000;
        let expires = match (token.period_s, token.expires_max) {
            (Some(period), max) => {
                let end = at(wanted.min(period));
                max.map_or(end, |max| end.min(max))
            }
            (None, Some(max)) => at(wanted).min(max),
            (None, None) => return Err(No::Precondition),
        };
        let chain = self.oracle.lineage(&token).unwrap_or_default();
        let ends = chain.iter().skip(1).filter_map(|one| one.expires);
        let expires = ends.min().map_or(expires, |at| at.min(expires));
        if token.expires.is_none_or(|at| at >= expires) {
            return Ok(None);
        }
        token.expires = Some(expires);
        put("token.renew", token)
    }

    pub(super) fn update(&self, update: &UpdateToken, no_reason: bool) -> Outcome {
        let old = self.known(Some(update.id))?;
        let me = self.is_me(&old);
        if !me && self.require_token("tokens:issue", &old).is_err() {
            self.require_token("tokens:revoke", &old)?;
        }
        self.alive(&old)?;
        let named = update.display != Display::default();
        if named && me {
            self.require_in_cuts("tokens:issue", &self.home(&old))?;
        } else if named {
            self.require_token("tokens:issue", &old)?;
        }
        let mut new = self.updated(&old, update)?;
        let narrows = narrows(&old, &new);
        if no_reason && !(narrows && me) {
            return Err(No::Invalid);
        }
        if !narrows {
            if old.parent.is_some() {
                return Err(No::Precondition);
            }
            self.has_its_method(&old)?;
            let ceiling = self.issue_rule(new.kind, &new.subject, &new.scopes)?;
            // Its power never rises above what its first issuer held.
            let former = new.ceiling.clone();
            let beyond: Vec<Perm> = new
                .scopes
                .iter()
                .flatten()
                .filter(|one| !former.iter().all(|set| one_covers(set, one)))
                .cloned()
                .collect();
            if !beyond.is_empty() {
                return Err(No::Boundary(canonical(&beyond)));
            }
            new.ceiling.extend(ceiling);
            self.answer_for(&mut new)?;
        }
        if same(&old, &new) && !named {
            return Ok(None);
        }
        put("token.update", new)
    }

    /// A credential is worth nothing once its method is gone, also where it was set again.
    pub(super) fn has_its_method(&self, token: &Token) -> Result<(), No> {
        let Some(wanted) = method_of(token.kind) else {
            return Ok(());
        };
        let mut methods = self.oracle.methods.iter();
        let has = methods.any(|one| {
            Subject::Principal(one.account) == token.subject
                && one.method == wanted
                && one.made_at <= token.made_at
        });
        has.then_some(()).ok_or(No::Precondition)
    }

    fn updated(&self, old: &Token, update: &UpdateToken) -> Result<Token, No> {
        let mut new = old.clone();
        if let Some(scopes) = &update.scopes {
            new.scopes = self.written_out(scopes)?;
            if new.scopes.is_empty() && new.kind == TokenKind::Resource {
                return Err(No::Invalid);
            }
        }
        new.expires = update.expires_ms.unwrap_or(new.expires);
        new.not_before = update.not_before_ms.unwrap_or(new.not_before);
        new.expires_max = update.expires_max_ms.unwrap_or(new.expires_max);
        new.period_s = update.period_s.unwrap_or(new.period_s);
        new.uses_left = update.uses_left.unwrap_or(new.uses_left);
        if let Some(networks) = &update.networks {
            new.addresses = addresses_in(networks);
            new.networks = networks.iter().collect();
        }
        if let Some(audience) = &update.audience {
            new.audience = audience.as_ref().map(|one| one.as_str().to_owned());
        }
        if let Some(workload) = &update.workload {
            new.workload = workload.as_ref().map(|one| one.as_str().to_owned());
        }
        let ends = new.expires;
        let kept = |at: &u64| (1..=LATEST_MS).contains(at);
        let both = new.period_s.is_some() && new.expires_max.is_some();
        if both || new.period_s == Some(0) || !ends.iter().chain(&new.expires_max).all(kept) {
            return Err(No::Invalid);
        }
        if new
            .not_before
            .zip(ends)
            .is_some_and(|(begins, ends)| begins >= ends)
            || ends
                .zip(new.expires_max)
                .is_some_and(|(ends, max)| ends > max)
        {
            return Err(No::Invalid);
        }
        if let Some(longest) = self.oracle.longest_s[new.kind as usize - 1] {
            // The first 48 bits of a UUIDv7 are when it was made.
            let made = (new.id.as_u128() >> 80) as u64;
            let bound = made + u64::from(longest) * 1_000;
            let too_late = new.expires != old.expires && new.expires.is_none_or(|at| at > bound);
            let max_too_late =
                new.expires_max != old.expires_max && new.expires_max.is_some_and(|at| at > bound);
            if too_late || max_too_late || (new.period_s != old.period_s && new.period_s.is_some())
            {
                return Err(No::Invalid);
            }
        }
        Ok(new)
    }
}

/// Whether every field that counts is the same.
fn same(old: &Token, new: &Token) -> bool {
    let mutual = |a: &[Vec<Perm>], b: &[Vec<Perm>]| covers_all(a, b) && covers_all(b, a);
    mutual(&old.scopes, &new.scopes)
        && mutual(&old.ceiling, &new.ceiling)
        && old.issuers == new.issuers
        && (old.not_before, old.expires, old.expires_max)
            == (new.not_before, new.expires, new.expires_max)
        && (old.period_s, old.uses_left) == (new.period_s, new.uses_left)
        && old.networks == new.networks
        && (&old.audience, &old.workload) == (&new.audience, &new.workload)
}

/// Whether the first layers permit whatever the second do: each member of a scope by one member.
fn covers_all(first: &[Vec<Perm>], second: &[Vec<Perm>]) -> bool {
    match (first, second) {
        ([], _) => true,
        (_, []) => false,
        ([mine], [theirs]) => theirs.iter().all(|one| one_covers(mine, one)),
        _ => {
            let (mine, theirs) = (extent(first), extent(second));
            theirs
                .iter()
                .zip(mine)
                .all(|(theirs, mine)| mine || !theirs)
        }
    }
}

/// "Narrowing, which turns no denial into an allow."
fn narrows(old: &Token, new: &Token) -> bool {
    let no_later = |new: Option<u64>, old: Option<u64>| {
        old.is_none_or(|old| new.is_some_and(|new| new <= old))
    };
    // A bound of renewals, or a period, that comes anew makes the token renewable.
    let no_longer = |new: Option<u64>, old: Option<u64>| {
        new.is_none_or(|new| old.is_some_and(|old| new <= old))
    };
    let wide = |limit: Option<u32>| limit.map(u64::from);
    covers_all(&old.scopes, &new.scopes)
        && no_later(new.expires, old.expires)
        && new.not_before.unwrap_or(0) >= old.not_before.unwrap_or(0)
        && no_longer(new.expires_max, old.expires_max)
        && no_longer(wide(new.period_s), wide(old.period_s))
        && no_later(wide(new.uses_left), wide(old.uses_left))
        && old
            .addresses
            .iter()
            .zip(new.addresses)
            .all(|(old, new)| *old || !new)
        && (old.networks.is_empty() || !new.networks.is_empty())
        && (old.audience.is_none() || old.audience == new.audience)
        && (old.workload.is_none() || old.workload == new.workload)
}
