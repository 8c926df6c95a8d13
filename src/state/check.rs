//! Check: may this token do that, now? The hot path; pure, synchronous, one revision.
//!
//! ```text
//! bytes ─► parse ─► find ─► kind ─► revocation ─► subject ─► lifetime ─► network ─► audience
//!       ─► workload ─► permission ─► uses ─► decision
//! ```
//!
//! The steps run in the order of precedence of [`Reason`], the first that fails decides. There
//! is one evaluator: Explain runs the same steps with an observer that goes on after a failure.
//! No `Result`, no allocation: every failure is a denial with one reason.

use std::net::IpAddr;

use crate::domain::chain::Revision;
use crate::domain::change::{CutOffTarget, Issuer};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::permission::Need;
use crate::domain::principal::PrincipalId;
use crate::domain::reason::Reason;
use crate::domain::token::{Digest, KindSet, TokenId, TokenKind, recognise};

use super::State;
use super::directory::Principal;
use super::scopeset::{Question, ScopeSet};
use super::tokens::{Ext, Found, Hot};

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

/// Sees every step. The hot path's stops at the first failure, Explain's goes on.
pub(super) trait Observer {
    /// Takes note of a step; returns whether the evaluation goes on.
    fn step(&mut self, step: Step, failed: Option<Reason>, detail: impl FnOnce() -> String)
    -> bool;
}

struct Unobserved;

impl Observer for Unobserved {
    #[inline]
    fn step(&mut self, _: Step, failed: Option<Reason>, _: impl FnOnce() -> String) -> bool {
        failed.is_none()
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
    Decision {
        reason,
        token: Some(see(state, &lineage, found.hot)),
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
        expires_ms: lineage
            .iter()
            .filter_map(|link| link.hot.expires_ms())
            .min(),
        counts_uses: lineage
            .iter()
            .any(|link| link.ext.is_some_and(|ext| ext.uses.is_some())),
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
    let subject = found
        .hot
        .principal()
        .map(|id| (id, state.directory.principal(id)));
    let mut first = Reason::Allowed;
    // One line a step: the reason if it failed, the first of them kept, stop unless observed.
    macro_rules! step {
        ($step:ident, $reason:ident, $failed:expr, $detail:expr) => {
            let failed = $failed.then_some(Reason::$reason);
            if first == Reason::Allowed {
                first = failed.unwrap_or(first);
            }
            if !observer.step(Step::$step, failed, $detail) {
                return first;
            }
        };
    }
    step!(
        Kind,
        WrongKind,
        !request.kinds.contains(found.hot.kind()),
        || { format!("{} token", found.hot.kind()) }
    );
    let revoked = revocation(state, lineage, subject);
    step!(Revocation, Revoked, revoked.is_some(), || {
        revoked
            .as_ref()
            .map_or_else(String::new, Revocation::describe)
    });
    let disabled = matches!(subject, Some((_, Some(one))) if one.record.disabled);
    step!(Subject, SubjectDisabled, disabled, || String::new());
    step!(Expiry, Expired, has_expired(found, lineage, now), || {
        let ends = lineage.iter().filter_map(|link| link.hot.expires_ms());
        ends.chain(found.grace_until_ms)
            .min()
            .map_or_else(|| "never ends".to_owned(), ends_at)
    });
    step!(NotBefore, NotYetValid, not_begun(lineage, now), String::new);
    let context = &request.context;
    let mut limits = lineage.iter().filter_map(|link| link.ext);
    step!(
        Network,
        Network,
        limits.any(|ext| !ext.networks.allow(context.client_ip)),
        || context
            .client_ip
            .map_or_else(|| "no address".to_owned(), |ip| ip.to_string())
    );
    let mut limits = lineage.iter().filter_map(|link| link.ext);
    step!(
        Audience,
        Audience,
        limits.any(|ext| differs(
            ext.audience.as_ref().map(|one| one.as_str()),
            context.audience
        )),
        || context.audience.unwrap_or("no audience").to_owned()
    );
    let mut limits = lineage.iter().filter_map(|link| link.ext);
    step!(
        Workload,
        Workload,
        limits.any(|ext| differs(
            ext.workload.as_ref().map(|one| one.as_str()),
            context.workload
        )),
        || context.workload.unwrap_or("no workload").to_owned()
    );
    let principal = subject.and_then(|(_, principal)| principal);
    let mut needs = request.needs.iter();
    step!(
        Permission,
        NotPermitted,
        !needs.all(|need| permits(state, lineage, principal, *need)),
        || describe_missing(state, lineage, principal, request.needs)
    );
    let spent = lineage
        .iter()
        .filter_map(|link| link.ext?.uses)
        .any(|uses| uses.left == 0);
    step!(Uses, UsesExhausted, spent, String::new);
    first
}

fn ends_at(unix_ms: UnixMs) -> String {
    let instant = i64::try_from(unix_ms).map(jiff::Timestamp::from_millisecond);
    match instant {
        Ok(Ok(instant)) => format!("ends at {instant}"),
        _ => "ends beyond the calendar".to_owned(),
    }
}

fn has_expired(found: &Found<'_>, lineage: &Lineage<'_>, now: Now) -> bool {
    found
        .grace_until_ms
        .is_some_and(|until| until <= now.latest)
        || lineage
            .iter()
            .any(|link| link.hot.expires_ms().is_some_and(|at| at <= now.latest))
}

fn not_begun(lineage: &Lineage<'_>, now: Now) -> bool {
    lineage
        .iter()
        .filter_map(|link| link.ext?.not_before_ms)
        .any(|at| at > now.earliest)
}

// A limit whose input is missing denies.
fn differs(limit: Option<&str>, given: Option<&str>) -> bool {
    limit.is_some() && limit != given
}

/// Whether the live permissions, the scopes and the ceilings of the whole lineage cover a need.
#[inline]
fn permits(
    state: &State,
    lineage: &Lineage<'_>,
    principal: Option<&Principal>,
    need: Need<'_>,
) -> bool {
    let question = Question::new(need);
    let allows = |set: Option<&ScopeSet>| set.is_none_or(|set| set.permits(&question));
    lineage
        .iter()
        .all(|link| allows(state.tokens.scopes(link.hot)) && allows(state.tokens.ceiling(link.hot)))
        && principal.is_none_or(|principal| state.directory.permits(principal, &question))
}

fn describe_missing(
    state: &State,
    lineage: &Lineage<'_>,
    principal: Option<&Principal>,
    needs: &[Need<'_>],
) -> String {
    let missing: Vec<String> = needs
        .iter()
        .filter(|need| !permits(state, lineage, principal, **need))
        .map(|need| need.to_permission().to_string())
        .collect();
    if missing.is_empty() {
        return format!("{} needs covered", needs.len());
    }
    format!("missing: {}", missing.join(", "))
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
