//! The steps of a decision, from a found token to a reason: the one evaluator.
//!
//! They run in the order of precedence of [`Reason`]; the first that fails decides. Check and
//! decide stop there; Explain's observer goes on, so that an operator sees all that is wrong.
//! Pure; no allocation unless an observer asks for details.

use std::ops::ControlFlow;

use crate::domain::chain::RevisionNumber;
use crate::domain::change::{CutOffTarget, Issuer, SealKeyRecord};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::limits::{Audience, Workload};
use crate::domain::permission::Need;
use crate::domain::principal::PrincipalId;
use crate::domain::reason::Reason;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::key::KeyId;
use crate::domain::token::{KindSet, TokenId, TokenKind};

use super::State;
use super::check::{CheckRequest, Context};
use super::directory::Principal;
use super::lineage::{Born, Lineage, Link};
use super::scopeset::ScopeSet;

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
    lineage: &'c Lineage<'s>,
    request: &'c CheckRequest<'c>,
    now: Now,
    // When the first of what the token depends on ends.
    ends_ms: Option<UnixMs>,
    /// The principal that it speaks for, and its record while it lives.
    subject: Option<(PrincipalId, Option<&'s Principal>)>,
    // What it was born from, if from a credential.
    born: Option<Born<'s>>,
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

/// Every step after the token was found; returns the reason of the first that failed. `ends_ms`
/// is [`Lineage::ends_ms`], which whoever judges wants to know as well.
#[inline]
pub(super) fn judge<O: Observer>(
    state: &State,
    lineage: &Lineage<'_>,
    ends_ms: Option<UnixMs>,
    request: &CheckRequest<'_>,
    now: Now,
    observer: &mut O,
) -> Reason {
    let principal = lineage.principal();
    let case = Case {
        state,
        lineage,
        request,
        now,
        ends_ms,
        subject: principal.map(|id| (id, state.directory.principal(id))),
        born: lineage.born(state),
    };
    let mut course = Course {
        observer,
        first: Reason::Allowed,
    };
    // A break has left its reason in the course.
    let _ = case.token_steps(&mut course).is_continue()
        && case.request_steps(&mut course).is_continue();
    match course.first {
        // What it was born from may be known by now, elsewhere.
        Reason::Revoked if lineage.is_ahead_of(state) => Reason::Stale,
        first => first,
    }
}

/// Whether a token counts as revoked, whatever it is asked for.
pub(super) fn is_revoked(state: &State, lineage: &Lineage<'_>) -> bool {
    let principal = lineage.principal();
    let case = Case {
        state,
        lineage,
        request: &CheckRequest {
            token: "",
            needs: &[],
            context: Context::default(),
            kinds: KindSet::ALL,
        },
        now: Now::at(0),
        ends_ms: None,
        subject: principal.map(|id| (id, state.directory.principal(id))),
        born: lineage.born(state),
    };
    case.revocation().is_some()
}

impl Case<'_, '_> {
    /// Is the token good, whoever presents it for whatever?
    #[inline]
    fn token_steps<O: Observer>(&self, course: &mut Course<'_, O>) -> ControlFlow<()> {
        let kind = self.lineage.kind();
        // A credential can be exchanged, and nothing else.
        let wrong = kind.is_credential() || !self.request.kinds.contains(kind);
        course.step(Step::Kind, wrong, || format!("{kind} token"))?;
        let revoked = self.revocation();
        course.step(Step::Revocation, revoked.is_some(), || {
            let described = revoked.as_ref().map(Revocation::describe);
            described.unwrap_or_default()
        })?;
        let disabled = matches!(self.subject, Some((_, Some(one))) if one.disabled);
        course.step(Step::Subject, disabled, String::new)?;
        let expired = self.ends_ms.is_some_and(|at| at <= self.now.latest);
        course.step(Step::Expiry, expired, || self.describe_end())?;
        course.step(Step::NotBefore, self.has_not_begun(), String::new)
    }

    /// May it do this, from there?
    #[inline]
    fn request_steps<O: Observer>(&self, course: &mut Course<'_, O>) -> ControlFlow<()> {
        let tokens = &self.state.tokens;
        let (sealed, context) = (&self.lineage.sealed, &self.request.context);
        let limits = || {
            let links = self.lineage.iter();
            links.filter_map(|link| tokens.limits(link.hot))
        };
        course.step(Step::Network, self.is_outside(), || {
            let address = context.client_ip.map(|ip| ip.to_string());
            address.unwrap_or_else(|| "no address".to_owned())
        })?;
        let claimed = sealed.as_ref().map(Sealed::audience);
        let other = limits()
            .filter_map(|limits| limits.audience.as_ref().map(Audience::as_str))
            .chain(claimed.filter(|audience| !audience.is_empty()))
            .any(|audience| context.audience != Some(audience));
        course.step(Step::Audience, other, || {
            context.audience.unwrap_or("no audience").to_owned()
        })?;
        let claimed = sealed.as_ref().map(Sealed::workload);
        let other = limits()
            .filter_map(|limits| limits.workload.as_ref().map(Workload::as_str))
            .chain(claimed.filter(|workload| !workload.is_empty()))
            .any(|workload| context.workload != Some(workload));
        course.step(Step::Workload, other, || {
            context.workload.unwrap_or("no workload").to_owned()
        })?;
        let needs = self.request.needs;
        let missing = !needs.iter().all(|need| self.permits(need));
        course.step(Step::Permission, missing, || self.describe_missing())?;
        course.step(Step::Uses, self.is_spent(), String::new)
    }

    /// Whether the client's address is outside what one of the lineage, or the account that the
    /// token was born for, allows now. From where logins come is another matter.
    #[inline]
    fn is_outside(&self) -> bool {
        let address = self.request.context.client_ip;
        let tokens = &self.state.tokens;
        let outside = |link: &Link<'_>| {
            let limits = tokens.limits(link.hot);
            limits.is_some_and(|limits| !limits.networks.allow(address))
                && !link.hot.kind().is_credential()
        };
        let method = self.born.and_then(|born| born.method);
        self.lineage.iter().any(outside)
            || (self.lineage.sealed.as_ref()).is_some_and(|sealed| !sealed.allows(address))
            || method.is_some_and(|method| !method.settings.networks.allow(address))
    }

    /// A token with a use limit has no children: what was derived before it got one is over. The
    /// uses of a credential are its logins.
    #[inline]
    fn is_spent(&self) -> bool {
        let below = usize::from(self.lineage.sealed.is_some());
        // Given before the account's settings counted uses, it is not counted and so not good.
        let method = self.born.and_then(|born| born.method);
        if method.is_some_and(|method| method.settings.uses.is_some()) && self.is_uncounted() {
            return true;
        }
        self.lineage.iter().enumerate().any(|(depth, link)| {
            let uses = link.ext.and_then(|ext| ext.uses);
            uses.is_some_and(|uses| depth + below > 0 || uses.left == 0)
                && !link.hot.kind().is_credential()
        })
    }

    /// Whether the access token that it is, or comes from, has no number of uses.
    #[cold]
    fn is_uncounted(&self) -> bool {
        let counted = |link: &Link<'_>| link.ext.is_some_and(|ext| ext.uses.is_some());
        let given = |link: &Link<'_>| link.hot.kind() == TokenKind::Access;
        self.lineage.sealed.is_some()
            || self
                .lineage
                .iter()
                .any(|link| given(link) && !counted(link))
    }

    fn describe_end(&self) -> String {
        let Some(first) = self.ends_ms else {
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
            && self
                .lineage
                .sealed
                .as_ref()
                .and_then(Sealed::scopes)
                .is_none_or(|scopes| scopes.permits(need))
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

    /// Why the token counts as revoked, if it does.
    #[inline]
    fn revocation(&self) -> Option<Revocation> {
        if self.lineage.broken {
            return Some(Revocation::AncestorGone);
        }
        if matches!(self.subject, Some((_, None))) {
            return Some(Revocation::SubjectGone);
        }
        let subject_cut_off = match self.subject {
            Some((_, Some(principal))) => principal.cut_off,
            _ => 0,
        };
        for link in self.lineage.iter() {
            if link.ext.is_some_and(|ext| ext.revoked.is_some()) {
                return Some(Revocation::Token(link.hot.id()));
            }
            if link.hot.made_at() < subject_cut_off {
                let id = link.hot.principal().unwrap_or(PrincipalId(0));
                return Some(Revocation::CutOff(link.hot.id(), CutOffTarget::Subject(id)));
            }
            // Such cut-offs are rare: an installation that never made one pays one comparison.
            if self.state.wide_cut_offs > 0
                && let Some(target) = cut_off_of(self.state, link)
            {
                return Some(Revocation::CutOff(link.hot.id(), target));
            }
        }
        if let Some(born) = &self.born
            && born.method.is_none()
        {
            return Some(Revocation::MethodGone(born.credential.id()));
        }
        let sealed = self.lineage.sealed.as_ref()?;
        self.sealed_revocation(sealed, subject_cut_off)
    }

    /// The same of what only the claims of a sealed token say.
    fn sealed_revocation(
        &self,
        sealed: &Sealed<'_>,
        subject_cut_off: RevisionNumber,
    ) -> Option<Revocation> {
        let key = self.state.seal_key(sealed.key());
        if !key.is_some_and(SealKeyRecord::is_in_use) {
            return Some(Revocation::Key(sealed.key()));
        }
        if let Some(session) = sealed.sessions().find(|one| self.state.is_revoked(*one)) {
            return Some(Revocation::Session(session));
        }
        let id = self.lineage.principal();
        if sealed.made_at < subject_cut_off {
            let id = id.unwrap_or(PrincipalId(0));
            return Some(Revocation::CutOff(sealed.id, CutOffTarget::Subject(id)));
        }
        if self.state.wide_cut_offs == 0 {
            return None;
        }
        // It was made by its subject, with what it was made from.
        let stored = self.lineage.iter().map(|link| link.hot.id());
        let by_tokens = stored.chain(sealed.ancestors());
        let mut targets = id
            .into_iter()
            .flat_map(|id| {
                [
                    CutOffTarget::Sessions(id),
                    CutOffTarget::IssuedByPrincipal(id),
                ]
            })
            .chain(by_tokens.map(CutOffTarget::IssuedByToken));
        targets
            .find(|target| sealed.made_at < self.state.cut_off(target))
            .map(|target| Revocation::CutOff(sealed.id, target))
    }
}

/// Why a token counts as revoked.
pub(super) enum Revocation {
    Token(TokenId),
    AncestorGone,
    SubjectGone,
    MethodGone(TokenId),
    Session(TokenId),
    Key(KeyId),
    CutOff(TokenId, CutOffTarget),
}

impl Revocation {
    fn describe(&self) -> String {
        match self {
            Self::Token(id) => format!("token {id} was revoked"),
            Self::AncestorGone => "an ancestor is gone".to_owned(),
            Self::SubjectGone => "the subject was deleted".to_owned(),
            Self::MethodGone(id) => format!("the method of credential {id} was removed"),
            Self::Session(session) => format!("session {session} was revoked"),
            Self::Key(id) => format!("seal key {id} is not in use any more"),
            Self::CutOff(id, target) => {
                let what = match target {
                    CutOffTarget::Subject(_) => "its subject's tokens",
                    CutOffTarget::IssuedByPrincipal(_) => "what its issuer issued",
                    CutOffTarget::IssuedByToken(_) => "what its issuing token issued",
                    CutOffTarget::IssuedForTeam(..) => "team tokens of a removed member",
                    CutOffTarget::ResourceUnder(_) => "tokens under a resource",
                    CutOffTarget::Sessions(_) => "its subject's access tokens",
                };
                format!("token {id}: a cut-off of {what}")
            }
        }
    }
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
    if link.hot.kind() == TokenKind::Access
        && let Some(id) = link.hot.principal()
        && made_at < state.cut_off(&CutOffTarget::Sessions(id))
    {
        return Some(CutOffTarget::Sessions(id));
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
