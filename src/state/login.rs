//! Logins, renewals and exchanges: what access token a credential or a token gives, if any.
//!
//! ```text
//! credential ─► grant    ─► claims to seal, or a command that stores the token
//! sealed     ─► renew    ─► claims of the next token of the session
//! any token  ─► exchange ─► claims of a narrower child
//! ```
//!
//! Pure, over one State. Sealed tokens change nothing and so are decided on the published State;
//! what is stored, or spends a use, is decided again by the writer on its own. Every bound of what
//! a token comes from is in the claims or is read from State at each Check: nothing that is given
//! here is more than what was shown. Deliberately absent: who failed how often, keys and texts.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::change::{Issuer, Subject, TokenRecord};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::limits::{Audience, Networks, Uses, Workload};
use crate::domain::login::{ClientNetwork, LoginCause, LoginMethod, LoginSettings, MethodRecord};
use crate::domain::peer::Proven;
use crate::domain::principal::{PrincipalId, PrincipalName};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::scopes::Scopes;
use crate::domain::seal::SEALED_MS_MAX;
use crate::domain::seal::claims::{Claims, Sealed};
use crate::domain::token::{KindSet, TokenId, TokenKind};

use super::State;
use super::check::{CheckRequest, Context};
use super::decide::{Caller, Lifetimes};
use super::judge::{Unobserved, is_revoked, judge};
use super::lineage::{ANCESTORS_MAX, Lineage};
use super::tokens::Hot;

/// The life of an exchanged token where none is asked for, in seconds.
const EXCHANGED_S_DEFAULT: u32 = 900;

/// How a credential was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A client secret, by the first 128 bits of its digest.
    Secret(u128),
    /// An assertion that was verified with this registered key.
    Key(TokenId),
}

impl Shown {
    fn method(self) -> LoginMethod {
        match self {
            Self::Secret(_) => LoginMethod::UniversalAuth,
            Self::Key(_) => LoginMethod::KeyPair,
        }
    }
}

/// A login.
#[derive(Clone, Debug)]
pub struct LoginAsked {
    /// The account that it says it is.
    pub account: PrincipalName,
    /// Its credential.
    pub shown: Shown,
    /// Where it comes from.
    pub client_ip: Option<IpAddr>,
    /// Who the mTLS peer is that it comes from.
    pub peer: Option<Arc<Proven>>,
    /// How long the token shall live, in seconds; none is as long as the account's settings say.
    pub ttl_s: Option<u32>,
    /// What the token shall be narrowed to.
    pub scopes: Scopes,
    /// For whom the token shall be.
    pub audience: Option<Audience>,
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefused {
    /// No such account, no such credential, or not of that account: a guess.
    Wrong,
    /// Too many guesses came from there.
    Locked,
    /// What was shown is right, and good for nothing: why.
    Ended(LoginCause),
}

impl LoginRefused {
    /// What whoever has shown the right credential may know.
    #[must_use]
    pub fn cause(self) -> Option<LoginCause> {
        match self {
            Self::Wrong | Self::Locked => None,
            Self::Ended(cause) => Some(cause),
        }
    }
}

/// What a login gives.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The account.
    pub account: PrincipalId,
    /// What the token says; its id is still to be made.
    pub claims: Claims,
    /// How often the token can be used; then, or if it lives long, it is stored.
    pub uses: Option<u32>,
    /// What is left of the credential after this login, if its uses are counted.
    pub left: Option<u32>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Whether its end is earlier than was asked for.
    pub clipped: bool,
    /// Renewable for ever by this many seconds.
    period_s: Option<u32>,
    life_s: u32,
}

impl Granted {
    /// Whether the token has a row of its own instead of a seal.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.uses.is_some() || u64::from(self.life_s) * 1_000 > SEALED_MS_MAX
    }

    /// The token as a record.
    pub(super) fn record(&self, id: TokenId, key: u128, made_at: u64) -> TokenRecord {
        let claims = &self.claims;
        TokenRecord {
            id,
            key,
            kind: TokenKind::Access,
            subject: Subject::Principal(self.account),
            scopes: claims.scopes.clone(),
            ceiling: None,
            issuers: vec![Issuer {
                principal: Some(self.account),
                tokens: vec![claims.origin],
                since: 0,
            }],
            parent: Some(claims.origin),
            made_at,
            not_before_ms: None,
            expires_ms: Some(claims.expires_ms),
            expires_max_ms: claims.session_end_ms,
            ttl_s: Some(self.life_s),
            period_s: self.period_s,
            uses: self.uses.map(|limit| Uses { limit, left: limit }),
            networks: Networks::default(),
            audience: claims.audience.clone(),
            workload: claims.workload.clone(),
            rotation: 0,
            grace: None,
            revoked: None,
            public_key: None,
        }
    }
}

/// Decides on a login.
///
/// # Errors
/// [`LoginRefused`].
pub fn grant(
    state: &State,
    asked: &LoginAsked,
    now: Now,
    lifetimes: Lifetimes,
) -> Result<Granted, LoginRefused> {
    let now = now.not_before(state.instant_ms());
    let account = state.principal_named(&asked.account);
    let account = account.ok_or(LoginRefused::Wrong)?.id;
    let network = ClientNetwork::of(asked.client_ip);
    let locked_until = state.locked_until(account, asked.shown.method(), network);
    if locked_until.is_some_and(|until| until > now.latest) {
        return Err(LoginRefused::Locked);
    }
    let hot = credential(state, asked.shown, account).ok_or(LoginRefused::Wrong)?;
    let lineage = Lineage::of(state, hot);
    let method = good(state, &lineage, hot, asked, now)?;
    let settings = &method.settings;
    let longest = lifetimes.of(TokenKind::Access);
    let longest = longest.unwrap_or(u32::MAX);
    let life_s = settings.life_s().min(longest);
    let life_s = asked.ttl_s.map_or(life_s, |ttl_s| ttl_s.min(life_s));
    let after = |seconds: u32| now.latest + u64::from(seconds) * 1_000;
    let session = settings.session_s().map(|seconds| seconds.min(longest));
    let session = session.or(lifetimes.of(TokenKind::Access));
    let session_end_ms = session.map(after);
    let ends = [lineage.ends_ms(state), session_end_ms];
    let uses = state.tokens.ext(hot).and_then(|ext| ext.uses);
    let expires_ms = ends.into_iter().flatten().fold(after(life_s), UnixMs::min);
    Ok(Granted {
        account,
        // A bearer of counted uses renews nothing: that would be no use.
        renewable: is_renewable(settings) && settings.uses.is_none(),
        clipped: asked.ttl_s.is_some_and(|ttl_s| expires_ms < after(ttl_s)),
        claims: Claims {
            id: TokenId::from_u128(0),
            origin: hot.id(),
            ancestors: Vec::new(),
            made_at: state.head().revision,
            issued_ms: now.latest,
            expires_ms,
            session_ms: now.latest,
            session_end_ms,
            scopes: asked.scopes.clone(),
            networks: Networks::default(),
            audience: asked.audience.clone(),
            workload: None,
        },
        uses: settings.uses,
        left: uses.map(|uses| uses.left.saturating_sub(1)),
        period_s: settings.period_s,
        life_s,
    })
}

/// The credential that was shown, if it is this account's.
fn credential(state: &State, shown: Shown, account: PrincipalId) -> Option<&Hot> {
    let (hot, kind) = match shown {
        // The former secret of one that was rotated is good while its grace lasts.
        Shown::Secret(key) => (state.tokens.find(key)?.hot, TokenKind::ClientSecret),
        Shown::Key(id) => (state.tokens.by_id(id)?, TokenKind::PublicKey),
    };
    (hot.kind() == kind && hot.principal() == Some(account)).then_some(hot)
}

/// Whether a credential is good for a login: the method that it is good by.
fn good<'s>(
    state: &'s State,
    lineage: &Lineage<'s>,
    hot: &Hot,
    asked: &LoginAsked,
    now: Now,
) -> Result<&'s MethodRecord, LoginRefused> {
    let ended = |reason| Err(LoginRefused::Ended(LoginCause::Credential(reason)));
    let grace = match asked.shown {
        Shown::Secret(key) => state
            .tokens
            .find(key)
            .and_then(|found| found.grace_until_ms),
        Shown::Key(_) => None,
    };
    if is_revoked(state, lineage) {
        return ended(Reason::Revoked);
    }
    let account = lineage
        .principal()
        .and_then(|id| state.directory.principal(id));
    if account.is_none_or(|account| account.disabled) {
        return ended(Reason::SubjectDisabled);
    }
    let ends = lineage.ends_ms(state).into_iter().chain(grace);
    if ends.min().is_some_and(|at| at <= now.latest) {
        return ended(Reason::Expired);
    }
    let method = LoginMethod::of(hot.kind()).and_then(|method| account?.method(method));
    let method = method
        .filter(|method| method.made_at <= hot.made_at())
        .ok_or(LoginRefused::Ended(LoginCause::NoMethod))?;
    let limits = state.tokens.limits(hot);
    let begins = limits.and_then(|limits| limits.not_before_ms);
    if begins.is_some_and(|at| at > now.earliest) {
        return ended(Reason::NotYetValid);
    }
    let outside = limits.is_some_and(|limits| !limits.networks.allow(asked.client_ip));
    if outside || !method.settings.login_networks.allow(asked.client_ip) {
        return ended(Reason::Network);
    }
    let workload = limits.and_then(|limits| limits.workload.as_ref());
    let is_it = |one: &Workload| {
        asked
            .peer
            .as_ref()
            .is_some_and(|peer| peer.is(one.as_str()))
    };
    if workload.is_some_and(|one| !is_it(one)) {
        return ended(Reason::Workload);
    }
    let uses = state.tokens.ext(hot).and_then(|ext| ext.uses);
    if uses.is_some_and(|uses| uses.left == 0) {
        return ended(Reason::UsesExhausted);
    }
    Ok(method)
}

/// The next token of a session, and whether its end is earlier than was asked for.
///
/// # Errors
/// A [`Refusal`]: it is not good, or cannot be renewed.
pub fn renew(
    state: &State,
    caller: &Caller,
    ttl_s: Option<u32>,
    now: Now,
    lifetimes: Lifetimes,
) -> Result<(Claims, bool), Refusal> {
    let now = now.not_before(state.instant_ms());
    let lineage = presented(state, caller, now)?;
    let Some(sealed) = &lineage.sealed else {
        return Err(Refusal::invalid(
            "token",
            "is stored, not sealed: RenewToken renews it",
        ));
    };
    let settings = lineage.born(state).and_then(|born| born.method);
    let settings = settings.map(|method| &method.settings);
    let renewable = |settings: &&_| is_renewable(settings) && lineage.is_session();
    let Some(settings) = settings.filter(renewable) else {
        let what = "the access token cannot be renewed; log in or exchange again";
        return Err(Refusal::Precondition(what.to_owned()));
    };
    if ttl_s == Some(0) {
        return Err(Refusal::invalid("ttl", "is at least one second"));
    }
    let after = |from_ms: UnixMs, seconds: u32| from_ms + u64::from(seconds) * 1_000;
    let longest = lifetimes.of(TokenKind::Access);
    let wanted_s = ttl_s.unwrap_or(settings.life_s());
    let session = [settings.session_s(), longest];
    let session = session.into_iter().flatten().min();
    let ends = [
        session.map(|seconds| after(sealed.session_ms, seconds)),
        sealed
            .session_end_ms
            .filter(|_| settings.period_s.is_none()),
        lineage
            .iter()
            .filter_map(|link| link.hot.expires_ms())
            .min(),
        Some(after(now.latest, settings.life_s())),
        Some(now.latest + SEALED_MS_MAX),
    ];
    let wanted_ms = after(now.latest, wanted_s);
    let expires_ms = ends.into_iter().flatten().fold(wanted_ms, UnixMs::min);
    if expires_ms <= now.latest {
        let what = "the session has reached its maximum lifetime; log in again";
        return Err(Refusal::Precondition(what.to_owned()));
    }
    let claims = Claims {
        id: sealed.id.renewed(now.latest),
        made_at: state.head().revision,
        issued_ms: now.latest,
        expires_ms,
        ..sealed.to_claims()
    };
    Ok((claims, expires_ms < wanted_ms))
}

/// When a sealed token ends, and how far its session goes, by the settings of now.
#[must_use]
pub fn ends(state: &State, sealed: Sealed<'_>) -> (Option<UnixMs>, Option<UnixMs>) {
    let (session_ms, claimed_ms) = (sealed.session_ms, sealed.session_end_ms);
    let lineage = Lineage::sealed(state, sealed);
    let method = lineage.born(state).and_then(|born| born.method);
    let settings = method.filter(|_| lineage.is_session());
    let settings = settings.map(|method| &method.settings);
    let session = settings.and_then(LoginSettings::session_s);
    let session_end_ms = session.map(|seconds| session_ms + u64::from(seconds) * 1_000);
    // Without an end for who has a period.
    let claimed_ms = claimed_ms.filter(|_| settings.is_none_or(|one| one.period_s.is_none()));
    let most_ms = [claimed_ms, session_end_ms].into_iter().flatten().min();
    (lineage.ends_ms(state), most_ms)
}

fn is_renewable(settings: &LoginSettings) -> bool {
    settings.period_s.or(settings.max_ttl_s).is_some()
}

/// A narrower, shorter token that is asked for (RFC 8693).
#[derive(Clone, Debug)]
pub struct ExchangeAsked {
    /// What it shall be narrowed to.
    pub scopes: Scopes,
    /// How long it shall live, in seconds.
    pub ttl_s: Option<u32>,
    /// From where it may be used.
    pub networks: Networks,
    /// For whom it shall be.
    pub audience: Option<Audience>,
    /// Who must present it.
    pub workload: Option<Workload>,
}

/// The token that a good one is exchanged for; its id is still to be made.
///
/// # Errors
/// A [`Refusal`].
pub fn exchange(
    state: &State,
    caller: &Caller,
    asked: &ExchangeAsked,
    now: Now,
    lifetimes: Lifetimes,
) -> Result<Claims, Refusal> {
    let now = now.not_before(state.instant_ms());
    let lineage = presented(state, caller, now)?;
    if lineage.counts_uses() {
        let what = "a token with a number of uses has no children";
        return Err(Refusal::Precondition(what.to_owned()));
    }
    if lineage.ancestors() >= ANCESTORS_MAX {
        let what = format!("a token has at most {ANCESTORS_MAX} ancestors");
        return Err(Refusal::Limit(what));
    }
    if asked.ttl_s == Some(0) {
        return Err(Refusal::invalid("ttl", "is at least one second"));
    }
    let longest_s = lifetimes.of(TokenKind::Access).unwrap_or(u32::MAX);
    let ttl_s = asked.ttl_s.unwrap_or(EXCHANGED_S_DEFAULT).min(longest_s);
    let life_ms = (u64::from(ttl_s) * 1_000).min(SEALED_MS_MAX);
    let ends = lineage.ends_ms(state).into_iter();
    let folded = Folded::of(state, &lineage, asked)?;
    let born = lineage.born(state);
    let (issued_ms, session_ms) = match &born {
        Some(born) => (born.issued_ms, born.session_ms),
        None => (now.latest, now.latest),
    };
    let sealed = lineage.sealed.as_ref();
    let stored = lineage.stored().map(|link| link.hot.id());
    Ok(Claims {
        id: TokenId::from_u128(0),
        // One of the two it is.
        origin: sealed
            .map(|sealed| sealed.origin)
            .or(stored)
            .ok_or(Refusal::Unauthenticated)?,
        ancestors: sealed.into_iter().flat_map(Sealed::sessions).collect(),
        made_at: state.head().revision,
        issued_ms,
        expires_ms: ends.fold(now.latest + life_ms, UnixMs::min),
        session_ms,
        session_end_ms: None,
        scopes: folded.scopes,
        networks: folded.networks,
        audience: folded.audience,
        workload: folded.workload,
    })
}

/// A token that is shown to be renewed or exchanged, if it is good. For whom it was made does not
/// matter yet: what comes of it is for nobody else.
fn presented<'s>(state: &'s State, caller: &'s Caller, now: Now) -> Result<Lineage<'s>, Refusal> {
    let lineage = caller.lineage(state).ok_or(Refusal::Unauthenticated)?;
    let audience = lineage.audience(state);
    let request = CheckRequest {
        token: "",
        needs: &[],
        context: Context {
            client_ip: caller.client_ip(),
            audience,
            workload: caller.workload(lineage.workload(state)),
        },
        kinds: KindSet::ALL,
    };
    let ends_ms = lineage.ends_ms(state);
    let reason = judge(state, &lineage, ends_ms, &request, now, &mut Unobserved);
    // In its grace an old secret can be checked and revoked, nothing else.
    if reason != Reason::Allowed || lineage.grace_until_ms.is_some() {
        return Err(Refusal::Unauthenticated);
    }
    Ok(lineage)
}

/// The limits of a child: what is asked for, where the ancestors let it, and otherwise what a
/// sealed parent has. Those of stored ancestors are read from State at every Check.
struct Folded {
    scopes: Scopes,
    networks: Networks,
    audience: Option<Audience>,
    workload: Option<Workload>,
}

impl Folded {
    fn of(state: &State, lineage: &Lineage<'_>, asked: &ExchangeAsked) -> Result<Self, Refusal> {
        if let Scopes::Only(set) = &asked.scopes {
            let beyond = |one: &&_| !lineage.cuts(state).all(|cut| cut.covers(one));
            let missing: Vec<_> = set.iter().filter(beyond).cloned().collect();
            if !missing.is_empty() {
                return Err(Refusal::Boundary(missing));
            }
        }
        let above: Vec<_> = lineage.limits(state).collect();
        let wider = |above: &Networks| !asked.networks.is_empty() && !above.covers(&asked.networks);
        let sealed = lineage.sealed.as_ref();
        let claimed = sealed.map(Sealed::networks).unwrap_or_default();
        if above.iter().any(|limits| wider(&limits.networks)) || wider(&claimed) {
            return Err(Refusal::invalid("networks", "are wider than an ancestor's"));
        }
        let audience = lineage.audience(state);
        if asked.audience.is_some() && audience.is_some_and(|above| asked.is_not_for(above)) {
            return Err(Refusal::invalid("audience", "is not an ancestor's"));
        }
        let workload = lineage.workload(state);
        if asked.workload.is_some() && workload.is_some_and(|above| asked.is_not_by(above)) {
            return Err(Refusal::invalid("workload", "is not an ancestor's"));
        }
        let scopes = match (&asked.scopes, sealed.and_then(Sealed::scopes)) {
            (Scopes::All, Some(parents)) => Scopes::Only(parents.to_set()),
            (asked, _) => asked.clone(),
        };
        let claimed_audience = sealed.and_then(|one| Audience::parse(one.audience()));
        let claimed_workload = sealed.and_then(|one| Workload::parse(one.workload()));
        Ok(Self {
            scopes,
            networks: match asked.networks.is_empty() {
                true => claimed,
                false => asked.networks.clone(),
            },
            audience: asked.audience.clone().or(claimed_audience),
            workload: asked.workload.clone().or(claimed_workload),
        })
    }
}

impl ExchangeAsked {
    fn is_not_for(&self, above: &str) -> bool {
        self.audience.as_ref().map(Audience::as_str) != Some(above)
    }

    fn is_not_by(&self, above: &str) -> bool {
        self.workload.as_ref().map(Workload::as_str) != Some(above)
    }
}
