//! Check: the answer from memory, and the one case that writes: a token with a budget of uses.
//!
//! [`View::check`] is synchronous and hands the decision to a closure while the State that
//! it borrows from is held. A token with a use limit is first checked like any other; only when
//! that allows is the use queued, and the allow leaves after it was appended.

use std::sync::Arc;

use arc_swap::Guard;

use crate::domain::chain::Revision;
use crate::domain::clock::Now;
use crate::domain::permission::{Need, Permission, ResourcePattern};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::ring::{Room, Unopened};
use crate::domain::seal::text::is_sealed;
use crate::domain::token::{Digest, TokenId};
use crate::state::check::{check, check_sealed, denied};
use crate::state::decide::{
    CallAbout, Caller, Command, Envelope, Outcome, UseToken, authenticate, caller_permits,
};
use crate::state::{Power, State};

use super::callers::is_in_use;
use super::{Authority, Credentials, RequestId};

pub use crate::state::check::{CheckRequest, Decision, Seen, SeenScopes};

/// How long a caller should wait before it asks a replica again that could not answer.
pub const STALE_RETRY_AFTER_MS: u64 = 1_000;

/// A decision with how long it may be acted on.
#[derive(Debug)]
pub struct Answer<'s> {
    /// The decision.
    pub decision: Decision<'s>,
    /// From the moment the caller asked, in milliseconds; 0 for a denial.
    pub valid_for_ms: u64,
    /// Until the token, or what it depends on, ends, in milliseconds.
    pub left_ms: u64,
}

/// The published State of one moment: all that is asked of it is answered at one revision.
pub struct View<'a> {
    authority: &'a Authority,
    // Whether the lease was held before the State was read.
    held: bool,
    state: Guard<Arc<State>>,
}

impl View<'_> {
    /// Decides a Check, without counting a use.
    #[inline]
    pub fn check<R>(&self, request: &CheckRequest<'_>, answer: impl FnOnce(&Answer<'_>) -> R) -> R {
        let replica = &self.authority.replica;
        if !self.held {
            replica.counters().count_stale(false);
            return answer(&Answer {
                decision: Decision {
                    reason: Reason::Stale,
                    token: None,
                    ends_ms: None,
                    revision: self.state.head().revision(),
                },
                valid_for_ms: 0,
                left_ms: 0,
            });
        }
        if replica.serves_stale() {
            replica.counters().count_stale(true);
        }
        // The clock is read after the request arrived, on every Check.
        let now = replica.clock().now().not_before(self.state.instant_ms());
        if is_sealed(request.token) {
            return self.check_sealed(request, now, answer);
        }
        answer(&self.answered(check(&self.state, request, now), request, now))
    }

    /// The same of a sealed token, which has its room on the stack.
    #[inline(never)]
    fn check_sealed<R>(
        &self,
        request: &CheckRequest<'_>,
        now: Now,
        answer: impl FnOnce(&Answer<'_>) -> R,
    ) -> R {
        let mut room = Room::default();
        let state = &*self.state;
        let claims = match self.authority.open(state, request.token, &mut room) {
            Ok(claims) => Sealed::read(claims).ok_or(Unopened::Unknown),
            Err(unopened) => Err(unopened),
        };
        let decision = match claims {
            Ok(sealed) => check_sealed(state, sealed, request, now),
            Err(Unopened::Malformed) => denied(state, Reason::Malformed),
            Err(unopened) if is_in_use(state, unopened) => denied(state, Reason::Stale),
            Err(_) => denied(state, Reason::Unknown),
        };
        answer(&self.answered(decision, request, now))
    }

    #[inline]
    fn answered<'s>(
        &self,
        decision: Decision<'s>,
        request: &CheckRequest<'_>,
        now: Now,
    ) -> Answer<'s> {
        let (replica, settings) = (&self.authority.replica, &self.authority.settings);
        let left = decision
            .ends_ms
            .map_or(u64::MAX, |at| at.saturating_sub(now.latest));
        let valid_for_ms = if decision.allowed() {
            // A counted use is one only once it was written.
            if let Some(seen) = decision.token.as_ref().filter(|seen| !seen.counts_uses) {
                replica.note_used(seen.stored, now.latest, request.context.client_ip);
            }
            left.min(settings.valid_for_ms)
        } else {
            0
        };
        Answer {
            decision,
            valid_for_ms,
            left_ms: left,
        }
    }

    /// Whether this server cannot know at this moment: then every answer is that it is stale.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.held
    }

    /// Judges whether a caller may ask these needs; an open server asks nobody, and one that is
    /// stale cannot judge anybody and tells nobody anything.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] or [`Refusal::NotPermitted`] with what is missing.
    #[inline]
    pub fn may_check(
        &self,
        credentials: Credentials<'_>,
        needs: &[Need<'_>],
    ) -> Result<(), Refusal> {
        if credentials.asks_freely || self.is_stale() {
            return Ok(());
        }
        let caller = self.authority.caller_on(&self.state, credentials)?;
        let (power, _) = self.authenticate(&caller)?;
        for need in needs {
            if !caller_permits(&power, "tokens:check", need) {
                let pattern = ResourcePattern::parse(need.resource())
                    .map_err(|error| Refusal::invalid("needs", error))?;
                return Err(Refusal::NotPermitted(vec![Permission::known(
                    "tokens:check",
                    pattern,
                )]));
            }
        }
        Ok(())
    }

    /// Whether a caller without needs may learn of the token that a decision is about: it must
    /// be permitted at the token's home.
    #[must_use]
    pub fn may_see(&self, credentials: Credentials<'_>, decision: &Decision<'_>) -> bool {
        if credentials.asks_freely {
            return true;
        }
        let Some(seen) = &decision.token else {
            return true;
        };
        let home = self
            .state
            .token(seen.stored)
            .map(|record| self.state.home_of(&record));
        let caller = self.authority.caller_on(&self.state, credentials);
        let power = caller.and_then(|caller| {
            let on = home.map_or_else(ResourcePattern::everything, |home| {
                ResourcePattern::exactly(&home)
            });
            let permission = Permission::known("tokens:check", on);
            Ok(self.authenticate(&caller)?.0.holds(&permission))
        });
        power.unwrap_or(false)
    }

    fn authenticate<'p>(
        &'p self,
        caller: &'p Caller,
    ) -> Result<(Power<'p>, Option<TokenId>), Refusal> {
        let replica = &self.authority.replica;
        let now = replica.clock().now();
        let (power, token) = authenticate(&self.state, caller, now, CallAbout::Anything)?;
        self.authority.note_used(&self.state, caller, now.latest);
        Ok((power, token))
    }
}

impl Authority {
    /// The published State, to ask Checks of that have arrived already. Short-lived: it keeps a
    /// revision in memory, and what arrives later is not answered by it.
    #[inline]
    #[must_use]
    pub fn view(&self) -> View<'_> {
        let (held, state) = self.replica.answering();
        View {
            authority: self,
            held,
            state,
        }
    }

    /// Counts a use of a token that [`View::check`] allowed: appended before this returns.
    ///
    /// The same request id counts once. An outcome that cannot be learnt counts and denies.
    ///
    /// # Errors
    /// [`Refusal`] when the use could not be counted; the Check must then not pass.
    pub async fn count_use(
        &self,
        request: &CheckRequest<'_>,
        request_id: Option<RequestId<'_>>,
    ) -> Result<(Reason, Revision), Refusal> {
        let key = Digest::of(request.token).key();
        let view = self.view();
        let id = view.state.token_by_key(key);
        // Scoped to the token: the id of one bearer never hides the use of another.
        let who = id.map_or_else(String::new, |id| format!("token {id}"));
        let remembered = Self::request(&who, request_id, None)?;
        let now_ms = self.replica.clock().now().latest;
        let answered = remembered.and_then(|one| view.state.answered(&one, now_ms));
        let reason = view.check(request, |answer| answer.decision.reason);
        // Whoever asks of a spent token again and again makes no write.
        if reason != Reason::Allowed && answered.is_none() {
            return Ok((reason, view.state.head().revision()));
        }
        drop(view);
        let using = UseToken {
            key,
            needs: request
                .needs
                .iter()
                .map(|need| (need.action().to_owned(), need.resource().to_owned()))
                .collect(),
            client_ip: request.context.client_ip,
            audience: request.context.audience.map(str::to_owned),
            workload: request.context.workload.map(str::to_owned),
            kinds: request.kinds,
        };
        let envelope = Envelope {
            request: remembered,
            caller: Caller::System,
            reason: String::new(),
            command: Command::UseToken(Box::new(using)),
        };
        let done = self.replica.submit(envelope).await?;
        let reason = match done.decided.outcome {
            Outcome::Change { .. } | Outcome::Already => Reason::Allowed,
            Outcome::Denied(reason) => reason,
            // Counted before: everything but the budget is judged again.
            Outcome::Repeated(_) => {
                self.view()
                    .check(request, |answer| match answer.decision.reason {
                        Reason::UsesExhausted => Reason::Allowed,
                        reason => reason,
                    })
            }
        };
        if let (Reason::Allowed, Some(id)) = (reason, id) {
            self.replica
                .note_used(id, now_ms, request.context.client_ip);
        }
        Ok((reason, done.revision))
    }
}
