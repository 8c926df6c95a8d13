//! The life of a token after issue: update, renew, rotate, use. Its end is in `revoke`.
//!
//! Narrowing, which turns no denial into an allow, is free to whoever may manage the token;
//! every other update obeys the issue rule, and so does a rotation by somebody else, who gets
//! the new secret. A bearer may always revoke itself.

use crate::domain::change::{Change, Display, EXPIRES_MS_MAX, Grace, Issuer, Subject, TokenRecord};
use crate::domain::clock::UnixMs;
use crate::domain::entry::EntryKind;
use crate::domain::limits::{Audience, Networks, Uses, Workload};
use crate::domain::permission::{Need, Resource};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::scopes::Scopes;
use crate::domain::token::{Digest, TokenId, TokenKind};

use super::super::check::{CheckRequest, Context};
use super::super::judge::{Unobserved, judge};
use super::super::lineage::Lineage;
use super::super::{Relation, State, home};
use super::issue::too_large;
use super::{About, Judged, Outcome, ScopesAsked, UseToken, no_reason};

/// What of a token shall change; what is none stays.
#[derive(Clone, Debug)]
pub struct UpdateToken {
    /// Which token.
    pub id: TokenId,
    /// New scopes.
    pub scopes: Option<ScopesAsked>,
    /// A new expiry, or none.
    pub expires_ms: Option<Option<UnixMs>>,
    /// A new not-before, or none.
    pub not_before_ms: Option<Option<UnixMs>>,
    /// A new bound of renewals, or none.
    pub expires_max_ms: Option<Option<UnixMs>>,
    /// A new period, or none.
    pub period_s: Option<Option<u32>>,
    /// A new rest of uses, or no budget.
    pub uses_left: Option<Option<u32>>,
    /// New networks.
    pub networks: Option<Networks>,
    /// A new audience, or none.
    pub audience: Option<Option<Audience>>,
    /// A new workload, or none.
    pub workload: Option<Option<Workload>>,
    /// What changes in the tables.
    pub display: Display,
}

impl Judged<'_> {
    pub(super) fn is_itself(&self, id: TokenId) -> bool {
        self.actor.token == Some(id)
    }

    /// Where a token is managed: its resource, or the home of its principal.
    pub(super) fn home_of(&self, record: &TokenRecord) -> Resource {
        self.state.home_of(record)
    }

    /// Whether a token comes with being the caller: its own, or one of a team that it is in.
    pub(super) fn is_own(&self, record: &TokenRecord) -> bool {
        // A team token is not a member, and a service account does not manage itself.
        match self.state.relation(&record.subject, self.principal_id()) {
            Relation::Itself => record.kind == TokenKind::User,
            Relation::Member => true,
            Relation::None => false,
        }
    }

    /// Requires that the caller may do `action` to a token; who may not even read it finds none.
    pub(super) fn require_token(&self, action: &str, record: &TokenRecord) -> Result<(), Refusal> {
        let home = self.home_of(record);
        if self.is_own(record) && self.require_in_scopes(action, &home).is_ok() {
            return Ok(());
        }
        let readable = self.is_own(record) || self.may("tokens:read", &home);
        match self.require(action, &home) {
            Err(_) if !readable => Err(Refusal::NotFound("token")),
            judged => judged,
        }
    }

    pub(super) fn known_token(&self, id: Option<TokenId>) -> Result<TokenRecord, Refusal> {
        let id = id
            .or(self.actor.token)
            .ok_or_else(|| Refusal::invalid("token_id", "is required"))?;
        self.state.token(id).ok_or(Refusal::NotFound("token"))
    }

    fn put(
        kind: EntryKind,
        record: TokenRecord,
        digest: Option<Digest>,
        display: Display,
    ) -> (Outcome, About) {
        let id = record.id;
        let change = Change::PutToken {
            record: Box::new(record),
            digest,
            display,
        };
        Self::change(kind, id, change, About::Token(id))
    }

    pub(super) fn update_token(
        &self,
        update: &UpdateToken,
        reason: &str,
    ) -> Result<(Outcome, About), Refusal> {
        let old = self.known_token(Some(update.id))?;
        let itself = self.is_itself(old.id);
        if !itself {
            self.require_token("tokens:issue", &old)
                .or_else(|_| self.require_token("tokens:revoke", &old))?;
        }
        self.require_alive(&old)?;
        if update.display != Display::default() {
            // Names and labels are for people who manage; a bearer does not choose its own.
            if itself {
                self.require_in_scopes("tokens:issue", &self.home_of(&old))?;
            } else {
                self.require_token("tokens:issue", &old)?;
            }
        }
        let mut new = self.updated(&old, update)?;
        let narrows = narrows(&old, &new);
        if reason.is_empty() && !(narrows && itself) {
            return Err(no_reason());
        }
        if !narrows {
            self.widen(&mut new)?;
        }
        if new == old && update.display == Display::default() {
            return Ok((Outcome::Already, About::Token(old.id)));
        }
        let display = update.display.clone();
        Ok(Self::put(EntryKind::TokenUpdate, new, None, display))
    }

    // An update that widens makes the caller answer for the token like an issuer.
    fn widen(&self, record: &mut TokenRecord) -> Result<(), Refusal> {
        if record.parent.is_some() {
            let what = "a derived token is never widened; derive another";
            return Err(Refusal::Precondition(what.to_owned()));
        }
        self.require_method(record)?;
        self.bound_by_both(record)?;
        if let (Some(former), Scopes::Only(set)) = (&record.ceiling, &record.scopes) {
            let beyond: Vec<_> = set
                .iter()
                .filter(|one| !former.covers(one))
                .cloned()
                .collect();
            if !beyond.is_empty() {
                return Err(Refusal::Boundary(beyond));
            }
        }
        Ok(())
    }

    /// The issue rule for who changes a token, with the ceiling of who made it: its first issuer
    /// may know the secret, and gets no more than it held.
    fn bound_by_both(&self, record: &mut TokenRecord) -> Result<(), Refusal> {
        let ceiling = self.issue_rule(record.kind, &record.subject, &record.scopes)?;
        record.ceiling = match (record.ceiling.take(), ceiling) {
            (Some(former), Some(new)) => Some(former.meet(&new).map_err(too_large)?),
            (former, new) => former.or(new),
        };
        self.add_issuer(record)
    }

    fn add_issuer(&self, record: &mut TokenRecord) -> Result<(), Refusal> {
        const ISSUERS_MAX: usize = 4;
        let Some(issuer) = self.issuer(self.moment.revision) else {
            return Ok(());
        };
        let known =
            |one: &&mut Issuer| (one.principal, &one.tokens) == (issuer.principal, &issuer.tokens);
        if record.issuers.iter_mut().find(known).is_some() {
            return Ok(());
        }
        if record.issuers.len() == ISSUERS_MAX {
            let what =
                format!("{ISSUERS_MAX} issuers answer for this token already; issue another");
            return Err(Refusal::Limit(what));
        }
        record.issuers.push(issuer);
        Ok(())
    }

    fn updated(&self, old: &TokenRecord, update: &UpdateToken) -> Result<TokenRecord, Refusal> {
        let mut new = old.clone();
        if let Some(asked) = &update.scopes {
            new.scopes = self.written_out(asked)?;
            if new.scopes == Scopes::All && new.kind == TokenKind::Resource {
                return Err(Refusal::invalid(
                    "scopes",
                    "a resource token lists its scopes",
                ));
            }
        }
        new.expires_ms = update.expires_ms.unwrap_or(new.expires_ms);
        new.not_before_ms = update.not_before_ms.unwrap_or(new.not_before_ms);
        new.expires_max_ms = update.expires_max_ms.unwrap_or(new.expires_max_ms);
        new.period_s = update.period_s.unwrap_or(new.period_s);
        if let Some(left) = update.uses_left {
            let limit = old.uses.map_or(0, |uses| uses.limit);
            new.uses = left.map(|left| Uses {
                limit: limit.max(left),
                left,
            });
        }
        if let Some(networks) = &update.networks {
            new.networks = networks.clone();
        }
        if let Some(audience) = &update.audience {
            new.audience = audience.clone();
        }
        if let Some(workload) = &update.workload {
            new.workload = workload.clone();
        }
        self.valid_life(old, &new)?;
        Ok(new)
    }

    fn valid_life(&self, old: &TokenRecord, new: &TokenRecord) -> Result<(), Refusal> {
        if let (Some(begins), Some(ends)) = (new.not_before_ms, new.expires_ms)
            && begins >= ends
        {
            return Err(Refusal::invalid("not_before", "is not before the expiry"));
        }
        if let (Some(ends), Some(max)) = (new.expires_ms, new.expires_max_ms)
            && ends > max
        {
            return Err(Refusal::invalid("expires_at", "is after max_expires_at"));
        }
        for (field, at) in [
            ("expires_at", new.expires_ms),
            ("max_expires_at", new.expires_max_ms),
        ] {
            if at.is_some_and(|at| at == 0 || at > EXPIRES_MS_MAX) {
                return Err(Refusal::invalid(
                    field,
                    "is after 1970 and before the year 4200",
                ));
            }
        }
        if new.period_s == Some(0) {
            return Err(Refusal::invalid("period", "is at least one second"));
        }
        // An access token has both where its account has a period and its kind a longest life.
        let both =
            |record: &TokenRecord| record.period_s.is_some() && record.expires_max_ms.is_some();
        if both(new) && !both(old) {
            return Err(Refusal::invalid(
                "period",
                "has no max_expires_at beside it",
            ));
        }
        self.within_longest(old, new)
    }

    // What the setting allows is no quota that frees itself: the argument is at fault.
    fn within_longest(&self, old: &TokenRecord, new: &TokenRecord) -> Result<(), Refusal> {
        let Some(longest) = self.moment.lifetimes.of(new.kind) else {
            return Ok(());
        };
        // Counted from the issue: no row of updates makes a token live longer.
        let bound = new.id.created_ms() + u64::from(longest) * 1_000;
        let beyond = |at: UnixMs| at > bound;
        let expiry = new.expires_ms != old.expires_ms && new.expires_ms.is_none_or(beyond);
        let renewals =
            new.expires_max_ms != old.expires_max_ms && new.expires_max_ms.is_some_and(beyond);
        let period = new.period_s != old.period_s && new.period_s.is_some();
        for (field, beyond) in [
            ("expires_at", expiry),
            ("max_expires_at", renewals),
            ("period", period),
        ] {
            if beyond {
                let what = format!("a {} token lives at most {longest} s here", new.kind);
                return Err(Refusal::invalid(field, what));
            }
        }
        Ok(())
    }

    pub(super) fn renew_token(
        &self,
        id: Option<TokenId>,
        ttl_s: Option<u32>,
    ) -> Result<(Outcome, About), Refusal> {
        let mut record = self.known_token(id)?;
        if !self.is_itself(record.id) {
            self.require_token("tokens:issue", &record)?;
        }
        let now = self.moment.now.latest;
        self.require_alive(&record)?;
        let wanted = ttl_s.or(record.period_s).or(record.ttl_s);
        let wanted = wanted.ok_or_else(not_renewable)?;
        if wanted == 0 {
            return Err(Refusal::invalid("ttl", "is at least one second"));
        }
        let expires = match (record.period_s, record.expires_max_ms) {
            (Some(period), max) => {
                let end = now + u64::from(wanted.min(period)) * 1_000;
                max.map_or(end, |max| end.min(max))
            }
            (None, Some(max)) => (now + u64::from(wanted) * 1_000).min(max),
            (None, None) => return Err(not_renewable()),
        };
        // A derived token is bounded by every ancestor, at a renewal as at issue.
        let ancestors = self.state.tokens.by_id(record.id).map(|hot| {
            let lineage = Lineage::of(self.state, hot);
            lineage
                .iter()
                .skip(1)
                .filter_map(|link| link.hot.expires_ms())
                .min()
        });
        let expires = ancestors.flatten().map_or(expires, |at| at.min(expires));
        // A renewal gives time; it never takes any.
        if record.expires_ms.is_none_or(|at| at >= expires) {
            return Ok((Outcome::Already, About::Token(record.id)));
        }
        record.expires_ms = Some(expires);
        Ok(Self::put(
            EntryKind::TokenRenew,
            record,
            None,
            Display::default(),
        ))
    }

    fn require_alive(&self, record: &TokenRecord) -> Result<(), Refusal> {
        let ended = record
            .expires_ms
            .is_some_and(|at| at <= self.moment.now.latest);
        if ended || record.revoked.is_some() {
            return Err(Refusal::Precondition("the token has ended".to_owned()));
        }
        Ok(())
    }

    pub(super) fn rotate_token(
        &self,
        id: Option<TokenId>,
        digest: &Digest,
        last4: &str,
        grace_s: u32,
        expected: Option<u32>,
    ) -> Result<(Outcome, About), Refusal> {
        let mut record = self.known_token(id)?;
        if self.is_itself(record.id) {
            self.require_in_scopes("tokens:issue", &self.home_of(&record))?;
        } else {
            self.require_token("tokens:issue", &record)?;
        }
        if !record.kind.has_secret() {
            let what = "a registered key has no secret: register another, and revoke this one";
            return Err(Refusal::Precondition(what.to_owned()));
        }
        self.require_alive(&record)?;
        self.require_method(&record)?;
        if let Some(expected) = expected
            && expected != record.rotation
        {
            let what = format!(
                "the token was rotated {} times, not {expected}",
                record.rotation
            );
            return Err(Refusal::Conflict(what));
        }
        if self.state.tokens.knows_key(digest.key()) {
            return Err(Refusal::AlreadyExists("token"));
        }
        if !self.is_itself(record.id) {
            // Who rotates another's token gets its new secret.
            self.bound_by_both(&mut record)?;
        }
        let now = self.moment.now.latest;
        let until_ms = now + u64::from(grace_s) * 1_000;
        record.grace = (grace_s > 0).then_some(Grace {
            key: record.key,
            // A grace never extends the token's own expiry.
            until_ms: record.expires_ms.map_or(until_ms, |at| at.min(until_ms)),
        });
        record.key = digest.key();
        record.rotation += 1;
        let display = Display {
            last4: Some(last4.to_owned()),
            ..Display::default()
        };
        Ok(Self::put(
            EntryKind::TokenRotate,
            record,
            Some(*digest),
            display,
        ))
    }

    pub(super) fn use_token(&self, using: &UseToken) -> Result<(Outcome, About), Refusal> {
        let denied = |reason| Ok((Outcome::Denied(reason), About::Nothing));
        let Some(found) = self.state.tokens.find(using.key) else {
            return denied(Reason::Unknown);
        };
        let needs: Vec<Need<'_>> = using
            .needs
            .iter()
            .map(|(action, resource)| Need::parse(action, resource))
            .collect::<Result<_, _>>()
            .map_err(|error| Refusal::invalid("needs", error))?;
        let lineage = Lineage::found(self.state, &found);
        let request = CheckRequest {
            token: "",
            needs: &needs,
            context: Context {
                client_ip: using.client_ip,
                audience: using.audience.as_deref(),
                workload: using.workload.as_deref(),
            },
            kinds: using.kinds,
        };
        let reason = judge(
            self.state,
            &lineage,
            lineage.ends_ms(self.state),
            &request,
            self.moment.now,
            &mut Unobserved,
        );
        if reason != Reason::Allowed {
            return denied(reason);
        }
        let id = found.hot.id();
        let uses = self.state.tokens.ext(found.hot).and_then(|ext| ext.uses);
        let Some(uses) = uses else {
            return Ok((Outcome::Already, About::Token(id)));
        };
        // The judgement above has made sure that one is left.
        let left = uses.left.saturating_sub(1);
        let change = Change::UseToken { id, left };
        Ok(Self::change(
            EntryKind::TokenUse,
            id,
            change,
            About::Token(id),
        ))
    }
}

fn not_renewable() -> Refusal {
    let what = "the token has neither a period nor a maximum lifetime: it cannot be renewed";
    Refusal::Precondition(what.to_owned())
}

/// Whether an update turns no denial into an allow.
fn narrows(old: &TokenRecord, new: &TokenRecord) -> bool {
    let sooner = |new: Option<u64>, old: Option<u64>| match (new, old) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(new), Some(old)) => new <= old,
    };
    let later = |new: Option<u64>, old: Option<u64>| new.unwrap_or(0) >= old.unwrap_or(0);
    let fewer = match (new.uses, old.uses) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(new), Some(old)) => new.left <= old.left,
    };
    let period = match (new.period_s, old.period_s) {
        (None, _) => true,
        (Some(new), Some(old)) => new <= old,
        (Some(_), None) => false,
    };
    // Without a bound of renewals there is none to begin with: giving one makes it renewable.
    let renewals = match (new.expires_max_ms, old.expires_max_ms) {
        (None, _) => true,
        (Some(new), Some(old)) => new <= old,
        (Some(_), None) => false,
    };
    old.scopes.covers(&new.scopes)
        && sooner(new.expires_ms, old.expires_ms)
        && later(new.not_before_ms, old.not_before_ms)
        && renewals
        && period
        && fewer
        && old.networks.covers(&new.networks)
        && (old.audience.is_none() || old.audience == new.audience)
        && (old.workload.is_none() || old.workload == new.workload)
}

impl State {
    /// Where a token is managed: its resource, or the home of its principal.
    #[must_use]
    pub fn home_of(&self, record: &TokenRecord) -> Resource {
        match &record.subject {
            Subject::Resource(resource) => resource.clone(),
            Subject::Principal(id) => self
                .principal(*id)
                .map_or_else(home::installation, |principal| principal.home.clone()),
        }
    }
}
