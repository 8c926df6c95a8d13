//! The steps of a decision, from a found token to a reason: the one evaluator.
//!
//! They run in the order of precedence of [`Reason`]; the first that fails decides. Check and
//! decide stop there; Explain's observer goes on, so that an operator sees all that is wrong.
//! Pure; no allocation unless an observer asks for details.

use std::ops::ControlFlow;

use crate::domain::change::{CutOffTarget, Issuer};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::permission::Need;
use crate::domain::principal::PrincipalId;
use crate::domain::reason::Reason;
use crate::domain::token::{TokenId, TokenKind};

use super::State;
use super::check::{CheckRequest, Lineage, Link};
use super::directory::Principal;
use super::scopeset::ScopeSet;
use super::tokens::Found;

/// A step of the decision, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The text is a token that we can have made.
    Parse,
    /// It is known.
    Find,
    /// Its kind is accepted.
    Kind,
    /// Neither it nor an ancestor, issuer or subject was revoked or cut off.
    Revocation,
    /// Its subject is enabled.
    Subject,
    /// It and its ancestors have not ended.
    Expiry,
    /// It and its ancestors have begun.
    NotBefore,
    /// The client's address is allowed.
    Network,
    /// The audience fits.
    Audience,
    /// The workload fits.
    Workload,
    /// Every need is covered.
    Permission,
    /// There are uses left.
    Uses,
}

impl Step {
    /// The reason that a failure of this step is.
    fn reason(self) -> Reason {
        match self {
            Self::Parse => Reason::Malformed,
            Self::Find => Reason::Unknown,
            Self::Kind => Reason::WrongKind,
            Self::Revocation => Reason::Revoked,
            Self::Subject => Reason::SubjectDisabled,
            Self::Expiry => Reason::Expired,
            Self::NotBefore => Reason::NotYetValid,
            Self::Network => Reason::Network,
            Self::Audience => Reason::Audience,
            Self::Workload => Reason::Workload,
            Self::Permission => Reason::NotPermitted,
            Self::Uses => Reason::UsesExhausted,
        }
    }
}

/// Sees every step. The hot path's stops at the first failure, Explain's goes on.
pub(super) trait Observer {
    /// Takes note of a step; returns whether the evaluation goes on.
    fn step(&mut self, step: Step, failed: Option<Reason>, detail: impl FnOnce() -> String)
    -> bool;
}

/// Stops at the first failure.
pub(super) struct Unobserved;

impl Observer for Unobserved {
    #[inline]
    fn step(&mut self, _: Step, failed: Option<Reason>, _: impl FnOnce() -> String) -> bool {
        failed.is_none()
    }
}

/// What is judged: one token, one request, one State, one instant.
struct Case<'c, 's> {
    state: &'s State,
    found: &'c Found<'s>,
    lineage: &'c Lineage<'s>,
    request: &'c CheckRequest<'c>,
    now: Now,
    /// The principal that it speaks for, and its record while it lives.
    subject: Option<(PrincipalId, Option<&'s Principal>)>,
}

/// How far a judgement has come: the first reason is kept, whatever the observer goes on to.
struct Course<'o, O> {
    observer: &'o mut O,
    first: Reason,
}

impl<O: Observer> Course<'_, O> {
    #[inline]
    fn step(
        &mut self,
        step: Step,
        failed: bool,
        detail: impl FnOnce() -> String,
    ) -> ControlFlow<()> {
        let reason = failed.then(|| step.reason());
        if self.first == Reason::Allowed {
            self.first = reason.unwrap_or(self.first);
        }
        if self.observer.step(step, reason, detail) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

/// Every step after the token was found; returns the reason of the first that failed.
#[inline]
pub(super) fn judge<O: Observer>(
    state: &State,
    found: &Found<'_>,
    lineage: &Lineage<'_>,
    request: &CheckRequest<'_>,
    now: Now,
    observer: &mut O,
) -> Reason {
    let principal = found.hot.principal();
    let case = Case {
        state,
        found,
        lineage,
        request,
        now,
        subject: principal.map(|id| (id, state.directory.principal(id))),
    };
    let mut course = Course {
        observer,
        first: Reason::Allowed,
    };
    // A break has left its reason in the course.
    let _ = case.token_steps(&mut course).is_continue()
        && case.request_steps(&mut course).is_continue();
    course.first
}

impl Case<'_, '_> {
    /// Is the token good, whoever presents it for whatever?
    #[inline]
    fn token_steps<O: Observer>(&self, course: &mut Course<'_, O>) -> ControlFlow<()> {
        let kind = self.found.hot.kind();
        let wrong = !self.request.kinds.contains(kind);
        course.step(Step::Kind, wrong, || format!("{kind} token"))?;
        let revoked = revocation(self.state, self.lineage, self.subject);
        course.step(Step::Revocation, revoked.is_some(), || {
            let described = revoked.as_ref().map(Revocation::describe);
            described.unwrap_or_default()
        })?;
        let disabled = matches!(self.subject, Some((_, Some(one))) if one.disabled);
        course.step(Step::Subject, disabled, String::new)?;
        course.step(Step::Expiry, self.has_expired(), || self.describe_end())?;
        course.step(Step::NotBefore, self.has_not_begun(), String::new)
    }

    /// May it do this, from there?
    #[inline]
    fn request_steps<O: Observer>(&self, course: &mut Course<'_, O>) -> ControlFlow<()> {
        let tokens = &self.state.tokens;
        let limits = || {
            self.lineage
                .iter()
                .filter_map(|link| tokens.limits(link.hot))
        };
        let context = &self.request.context;
        let outside = limits().any(|limits| !limits.networks.allow(context.client_ip));
        course.step(Step::Network, outside, || {
            let address = context.client_ip.map(|ip| ip.to_string());
            address.unwrap_or_else(|| "no address".to_owned())
        })?;
        let other = limits()
            .filter_map(|limits| limits.audience.as_ref())
            .any(|audience| context.audience != Some(audience.as_str()));
        course.step(Step::Audience, other, || {
            context.audience.unwrap_or("no audience").to_owned()
        })?;
        let other = limits()
            .filter_map(|limits| limits.workload.as_ref())
            .any(|workload| context.workload != Some(workload.as_str()));
        course.step(Step::Workload, other, || {
            context.workload.unwrap_or("no workload").to_owned()
        })?;
        let needs = self.request.needs;
        let missing = !needs.iter().all(|need| self.permits(need));
        course.step(Step::Permission, missing, || self.describe_missing())?;
        // A token with a use limit has no children: what was derived before it got one is over.
        let spent = self.lineage.iter().enumerate().any(|(depth, link)| {
            let uses = link.ext.and_then(|ext| ext.uses);
            uses.is_some_and(|uses| depth > 0 || uses.left == 0)
        });
        course.step(Step::Uses, spent, String::new)
    }

    fn has_expired(&self) -> bool {
        let latest = self.now.latest;
        let ended = |at: UnixMs| at <= latest;
        self.found.grace_until_ms.is_some_and(ended)
            || self
                .lineage
                .iter()
                .any(|link| link.hot.expires_ms().is_some_and(ended))
    }

    fn describe_end(&self) -> String {
        let ends = self.lineage.iter().filter_map(|link| link.hot.expires_ms());
        let first = ends.chain(self.found.grace_until_ms).min();
        let Some(first) = first else {
            return "never ends".to_owned();
        };
        let instant = i64::try_from(first).map(jiff::Timestamp::from_millisecond);
        match instant {
            Ok(Ok(instant)) => format!("ends at {instant}"),
            _ => "ends beyond the calendar".to_owned(),
        }
    }

    fn has_not_begun(&self) -> bool {
        self.lineage
            .iter()
            .filter_map(|link| self.state.tokens.limits(link.hot)?.not_before_ms)
            .any(|at| at > self.now.earliest)
    }

    /// Whether the live permissions, the scopes and the ceilings of the whole lineage cover a
    /// need.
    #[inline]
    fn permits(&self, need: &Need<'_>) -> bool {
        let tokens = &self.state.tokens;
        let allows = |set: Option<&ScopeSet>| set.is_none_or(|set| set.permits(need));
        let principal = self.subject.and_then(|(_, principal)| principal);
        self.lineage
            .iter()
            .all(|link| allows(tokens.scopes(link.hot)) && allows(tokens.ceiling(link.hot)))
            && principal.is_none_or(|one| self.state.directory.permits(one, need))
    }

    fn describe_missing(&self) -> String {
        let needs = self.request.needs;
        let missing: Vec<String> = needs
            .iter()
            .filter(|need| !self.permits(need))
            .map(|need| need.to_permission().to_string())
            .collect();
        if missing.is_empty() {
            return format!("{} needs covered", needs.len());
        }
        format!("missing: {}", missing.join(", "))
    }
}

/// Why a token counts as revoked.
pub(super) enum Revocation {
    Token(TokenId),
    AncestorGone,
    SubjectGone,
    CutOff(TokenId, CutOffTarget),
}

impl Revocation {
    fn describe(&self) -> String {
        match self {
            Self::Token(id) => format!("token {id} was revoked"),
            Self::AncestorGone => "an ancestor is gone".to_owned(),
            Self::SubjectGone => "the subject was deleted".to_owned(),
            Self::CutOff(id, target) => {
                let what = match target {
                    CutOffTarget::Subject(_) => "its subject's tokens",
                    CutOffTarget::IssuedByPrincipal(_) => "what its issuer issued",
                    CutOffTarget::IssuedByToken(_) => "what its issuing token issued",
                    CutOffTarget::IssuedForTeam(..) => "team tokens of a removed member",
                    CutOffTarget::ResourceUnder(_) => "tokens under a resource",
                };
                format!("token {id}: a cut-off of {what}")
            }
        }
    }
}

#[inline]
fn revocation(
    state: &State,
    lineage: &Lineage<'_>,
    subject: Option<(PrincipalId, Option<&Principal>)>,
) -> Option<Revocation> {
    if lineage.broken {
        return Some(Revocation::AncestorGone);
    }
    if matches!(subject, Some((_, None))) {
        return Some(Revocation::SubjectGone);
    }
    let subject_cut_off = match subject {
        Some((_, Some(principal))) => principal.cut_off,
        _ => 0,
    };
    for link in lineage.iter() {
        if link.ext.is_some_and(|ext| ext.revoked.is_some()) {
            return Some(Revocation::Token(link.hot.id()));
        }
        if link.hot.made_at() < subject_cut_off {
            let id = link.hot.principal().unwrap_or(PrincipalId(0));
            return Some(Revocation::CutOff(link.hot.id(), CutOffTarget::Subject(id)));
        }
        // Such cut-offs are rare: an installation that never made one pays one comparison.
        if state.wide_cut_offs > 0
            && let Some(target) = cut_off_of(state, link)
        {
            return Some(Revocation::CutOff(link.hot.id(), target));
        }
    }
    None
}

fn cut_off_of(state: &State, link: &Link<'_>) -> Option<CutOffTarget> {
    let made_at = link.hot.made_at();
    if let Some(resource) = state.tokens.resource(link.hot) {
        let under = resource
            .self_and_ancestors()
            .map(CutOffTarget::ResourceUnder)
            .find(|target| made_at < state.cut_off(target));
        if under.is_some() {
            return under;
        }
    }
    let team = link
        .hot
        .principal()
        .filter(|_| link.hot.kind() == TokenKind::Team);
    state
        .tokens
        .issuers(link.hot)
        .iter()
        .find_map(|issuer| issuer_cut_off(state, issuer, team, made_at.max(issuer.since)))
}

fn issuer_cut_off(
    state: &State,
    issuer: &Issuer,
    team: Option<PrincipalId>,
    since: u64,
) -> Option<CutOffTarget> {
    let by_principal = issuer.principal.map(CutOffTarget::IssuedByPrincipal);
    let for_team = team
        .zip(issuer.principal)
        .map(|(team, member)| CutOffTarget::IssuedForTeam(team, member));
    let by_tokens = issuer
        .tokens
        .iter()
        .map(|token| CutOffTarget::IssuedByToken(*token));
    by_principal
        .into_iter()
        .chain(for_team)
        .chain(by_tokens)
        .find(|target| since < state.cut_off(target))
}
