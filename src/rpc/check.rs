//! CheckService: may this token do this? The hot path of the port.
//!
//! A Check that needs neither a wait nor a write is answered without suspending: parse, one call
//! of the authority, a reply written from what it borrowed. Two cases wait, both bounded: an
//! `at_least` ahead of us, and a token whose uses are counted. Absent on purpose: spans, log
//! lines and caches per Check.

use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::{Request, Response, Status, Streaming};

use crate::authority::audit::RevisionAsked;
use crate::authority::check::{CheckRequest, Seen, View};
use crate::authority::{Authority, Credentials, RequestId};
use crate::domain::chain::Revision;
use crate::domain::peer::Group;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::TokenKind;
use crate::proto::v1;
use crate::proto::v1::check_service_server::CheckService;

use super::auth::{Peer, admit, budget, credentials_in};
use super::errors::{OK, how, invalid, reason, status};
use super::metrics::{Metrics, Way};
use super::observe::{Arrival, Asking, Ended, Facts, Observer};
use super::question::{Needs, Told, answered, asked, counted, parse_revision};
use super::stream::{Answers, answers};

/// Most questions of a batch.
const BATCH_MAX: usize = 256;

/// How long a Check waits at the most: for a revision, or for its use to be written.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);

/// The service. Clones are handles to the same authority.
#[derive(Clone)]
pub(super) struct CheckRpc {
    authority: Authority,
    metrics: Metrics,
    observer: Observer,
    // Settings that do not change, so they are asked for once.
    guard: Guard,
}

/// Who may ask without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guard {
    /// Everybody.
    pub(super) open: bool,
    /// Whoever has proven who it is, and is let in.
    pub(super) by_certificate: bool,
    /// Some are not let in at all.
    pub(super) listed: bool,
}

/// A decision as it would be sent, as a message or as its bytes.
pub(super) struct Verdict<R> {
    pub(super) reason: Reason,
    // Of the token, where its caller may learn of it.
    pub(super) kind: Option<TokenKind>,
    pub(super) response: R,
    // Allowed, but only once the use is written.
    pub(super) counts_use: bool,
    // What is told of it beside the counts, where anything is.
    pub(super) facts: Option<Box<Facts>>,
}

impl CheckRpc {
    pub(super) fn new(authority: Authority, metrics: Metrics, guard: Guard) -> Self {
        let observer = metrics.observer().clone();
        Self {
            authority,
            metrics,
            observer,
            guard,
        }
    }

    /// A question that comes now, and is yet to be read.
    #[inline]
    pub(super) fn arrival(&self) -> Arrival {
        self.observer.arrival()
    }

    /// A question that comes now with these headers.
    #[inline]
    pub(super) fn arrival_of(&self, headers: &HeaderMap) -> Arrival {
        let mut arrival = self.observer.arrival();
        if self.observer.traces() {
            self.observer.join(&mut arrival, headers, || None);
        }
        arrival
    }

    /// When a call came: the straight way has looked at it before.
    fn noted<T>(&self, request: &Request<T>) -> Arrival {
        let noted = request.extensions().get::<Arrival>().cloned();
        noted.unwrap_or_else(|| self.arrival_of(request.metadata().as_ref()))
    }

    /// What is told of single questions.
    #[inline]
    pub(super) fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Who asks, as far as it matters: nobody does on an open server.
    ///
    /// # Errors
    /// [`Refusal::PeerNotAllowed`] before anything else is looked at, and
    /// [`Refusal::Unauthenticated`] for more than one token or another scheme.
    #[inline]
    pub(super) fn caller<'a>(
        &self,
        headers: &'a HeaderMap,
        extensions: &'a Extensions,
    ) -> Result<Credentials<'a>, Refusal> {
        const FREELY: Credentials<'static> = Credentials {
            token: None,
            client_ip: None,
            peer: None,
            asks_freely: true,
        };
        if self.guard.listed {
            self.admit(extensions)?;
        }
        if self.guard.open || (self.guard.by_certificate && is_proven(extensions)) {
            Ok(FREELY)
        } else {
            credentials_in(headers, extensions)
        }
    }

    fn admit(&self, extensions: &Extensions) -> Result<(), Refusal> {
        let admitted = admit(extensions, Group::Check);
        if admitted.is_err() {
            self.metrics.kept_out(Group::Check);
        }
        admitted
    }

    /// As [`CheckRpc::caller`], of a decoded request.
    ///
    /// # Errors
    /// As there.
    pub(super) fn caller_of<'a, T>(
        &self,
        request: &'a Request<T>,
    ) -> Result<Credentials<'a>, Refusal> {
        self.caller(request.metadata().as_ref(), request.extensions())
    }

    /// The published State of this moment.
    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        self.authority.view()
    }

    /// Decides one question now, without counting a use and without a wait.
    fn decide(
        &self,
        view: &View<'_>,
        caller: Credentials<'_>,
        message: &v1::CheckRequest,
        arrival: &Arrival,
    ) -> Result<Verdict<v1::CheckResponse>, Refusal> {
        let needs = Needs::parse(&message.needs)?;
        self.verdict(view, caller, &asked(message, &needs)?, arrival, answered)
    }

    /// Decides a question that is read; `write` makes the reply from what may be told.
    ///
    /// # Errors
    /// A [`Refusal`] of the caller.
    #[inline]
    pub(super) fn verdict<R>(
        &self,
        view: &View<'_>,
        caller: Credentials<'_>,
        request: &CheckRequest<'_>,
        arrival: &Arrival,
        write: impl FnOnce(&Told<'_>) -> R,
    ) -> Result<Verdict<R>, Refusal> {
        if !caller.asks_freely {
            view.may_check(caller, request.needs)?;
        }
        Ok(view.check(request, |answer| {
            let decision = &answer.decision;
            let hidden =
                !caller.asks_freely && request.needs.is_empty() && !view.may_see(caller, decision);
            let counts = |seen: &Seen<'_>| seen.counts_uses;
            let seen = decision.token.as_ref().filter(|_| !hidden);
            let reason = match hidden {
                true => Reason::Unknown,
                false => decision.reason,
            };
            // A spent budget may have been spent by this very request before.
            let counts_use = matches!(reason, Reason::Allowed | Reason::UsesExhausted)
                && seen.is_some_and(counts);
            let told = counts_use || self.observer.wants(arrival, reason);
            Verdict {
                reason,
                kind: seen.map(|seen| seen.kind),
                counts_use,
                facts: told.then(|| Box::new(Facts::of(request, seen))),
                response: write(&Told::of(answer, hidden)),
            }
        }))
    }

    /// The status of a question that is refused, counted and told.
    #[cold]
    pub(super) fn refused(&self, refusal: Refusal, asking: &Asking<'_>) -> Status {
        self.note(&refusal);
        self.turned_away(how(&refusal), asking);
        status(refusal)
    }

    /// The status of a question, or a batch, that is given up before it is answered: counted, timed
    /// and told as one that is refused.
    #[cold]
    pub(super) fn given_up(&self, why: Refusal, asking: &Asking<'_>) -> Status {
        self.took(asking.way, asking.arrival.came);
        if asking.way == Way::Batch {
            self.tell_batch(Err(&why), None, asking);
        }
        self.refused(why, asking)
    }

    /// Tells of a batch that was answered, or why not, and of how many if that is known.
    fn tell_batch(&self, answer: Result<(), &Refusal>, checks: Option<usize>, asking: &Asking<'_>) {
        let (code, reason) = answer.err().map_or((OK, ""), how);
        let ended = Ended {
            way: Way::Batch,
            allowed: answer.is_ok(),
            reason,
            code,
        };
        self.observer.tell_batch(asking, ended, checks);
    }

    /// Tells of a question that is refused with this code for this stable reason.
    #[cold]
    pub(super) fn turned_away(
        &self,
        (code, reason): (&'static str, &'static str),
        asking: &Asking<'_>,
    ) {
        let facts = self.facts_of_denial(asking.arrival);
        let (way, allowed) = (asking.way, false);
        let ended = Ended {
            way,
            allowed,
            reason,
            code,
        };
        self.tell_ended(facts, ended, asking);
    }

    /// Room for facts of a denial, if any are told.
    #[cold]
    pub(super) fn facts_of_denial(&self, arrival: &Arrival) -> Option<Box<Facts>> {
        self.observer.wants_denial(arrival).then(Box::default)
    }

    /// Room for facts of a question that is allowed, if any are told.
    pub(super) fn facts_of_sample(&self, arrival: &Arrival) -> Option<Box<Facts>> {
        let told = self.observer.wants(arrival, Reason::Allowed);
        told.then(Box::default)
    }

    /// Counts a question that was refused for this stable reason.
    #[cold]
    pub(super) fn count_refused(&self, reason: &'static str) {
        self.metrics.check_refused(reason);
    }

    /// Counts a refused question.
    #[cold]
    pub(super) fn note(&self, refusal: &Refusal) {
        self.metrics.check_refused(reason(refusal));
    }

    /// The reply of a verdict that stands, counted and told.
    #[inline]
    pub(super) fn done<R>(&self, verdict: Verdict<R>, asking: &Asking<'_>) -> R {
        self.decided(verdict.reason, verdict.kind, verdict.facts, asking);
        verdict.response
    }

    /// Counts what was decided, and tells of it.
    #[inline]
    pub(super) fn decided(
        &self,
        reason: Reason,
        kind: Option<TokenKind>,
        facts: Option<Box<Facts>>,
        asking: &Asking<'_>,
    ) {
        self.metrics.checked(reason, kind);
        if facts.is_some() || reason != Reason::Allowed {
            self.tell(facts, (reason == Reason::Allowed, reason.name()), asking);
        }
    }

    /// Tells of a question, if anything is told of it.
    #[cold]
    pub(super) fn tell(
        &self,
        facts: Option<Box<Facts>>,
        (allowed, reason): (bool, &'static str),
        asking: &Asking<'_>,
    ) {
        let ended = Ended {
            way: asking.way,
            allowed,
            reason,
            code: asking.code,
        };
        self.tell_ended(facts, ended, asking);
    }

    fn tell_ended(&self, facts: Option<Box<Facts>>, ended: Ended, asking: &Asking<'_>) {
        match facts {
            Some(facts) => self.observer.tell(asking, ended, *facts),
            None if !ended.allowed => self.observer.pass_over(),
            None => {}
        }
    }

    /// Notes that a question that came at this instant was answered, or a batch of them.
    #[inline]
    pub(super) fn took(&self, way: Way, since: Instant) {
        self.metrics.answered(way, since.elapsed());
    }

    /// Answers one question, waiting up to `wait` where it must.
    ///
    /// # Errors
    /// A [`Refusal`]: nothing was decided.
    pub(super) async fn answer(
        &self,
        caller: Credentials<'_>,
        message: &v1::CheckRequest,
        wait: Duration,
        asking: &Asking<'_>,
    ) -> Result<v1::CheckResponse, Refusal> {
        if let Some(wanted) = &message.at_least {
            if let Some(view) = self.stale_view() {
                let verdict = self.decide(&view, caller, message, asking.arrival)?;
                return Ok(self.done(verdict, asking));
            }
            self.reach(caller, wanted, wait).await?;
        }
        let verdict = self.decide(&self.authority.view(), caller, message, asking.arrival)?;
        if !verdict.counts_use {
            return Ok(self.done(verdict, asking));
        }
        let counting = self.count_use(message);
        // The use may be written yet: the same request id tells.
        let (reason, revision) = match timeout(wait, counting).await {
            Ok(counted) => counted?,
            Err(_) => return Err(Refusal::OutcomeUnknown),
        };
        self.decided(reason, verdict.kind, verdict.facts, asking);
        Ok(counted(verdict.response, reason, revision))
    }

    async fn unary(
        &self,
        request: &Request<v1::CheckRequest>,
        asking: &Asking<'_>,
    ) -> Result<v1::CheckResponse, Refusal> {
        let caller = self.caller_of(request)?;
        let message = request.get_ref();
        if message.at_least.is_none() {
            let verdict = self.decide(&self.authority.view(), caller, message, asking.arrival)?;
            if !verdict.counts_use {
                return Ok(self.done(verdict, asking));
            }
        }
        // Boxed, so that a Check that does not wait carries no room for one that does.
        Box::pin(self.answer(caller, message, wait_of(request), asking)).await
    }

    async fn count_use(&self, message: &v1::CheckRequest) -> Result<(Reason, Revision), Refusal> {
        let needs = Needs::parse(&message.needs)?;
        let request = asked(message, &needs)?;
        // What the use is of, without how it is asked for.
        let content = v1::CheckRequest {
            token: message.token.clone(),
            needs: message.needs.clone(),
            context: message.context.clone(),
            accepted_kinds: message.accepted_kinds.clone(),
            ..v1::CheckRequest::default()
        };
        let content = content.encode_to_vec();
        let request_id = RequestId {
            method: "Check",
            id: &message.request_id,
            content: &content,
        };
        self.authority.count_use(&request, Some(request_id)).await
    }

    // Without its lease the server waits for nothing: it answers that it is stale.
    fn stale_view(&self) -> Option<View<'_>> {
        Some(self.view()).filter(View::is_stale)
    }

    /// Counts a use of a token that was found to be allowed, within `wait`.
    ///
    /// # Errors
    /// A [`Refusal`] when it could not be counted, or may not have been: the request must not pass.
    pub(super) async fn spend(
        &self,
        request: &CheckRequest<'_>,
        wait: Duration,
    ) -> Result<Reason, Refusal> {
        let counting = self.authority.count_use(request, None);
        let counted = timeout(wait, counting).await;
        Ok(counted.unwrap_or(Err(Refusal::OutcomeUnknown))?.0)
    }

    async fn reach(
        &self,
        caller: Credentials<'_>,
        wanted: &v1::Revision,
        wait: Duration,
    ) -> Result<(), Refusal> {
        let (number, chain) = parse_revision(wanted)?;
        // Strangers are not let wait.
        self.view().may_check(caller, &[])?;
        let reached = self.authority.reach(RevisionAsked { number, chain });
        let chain = chain.unwrap_or_default();
        let not_reached = Refusal::NotReached(Revision { number, chain });
        timeout(wait, reached).await.unwrap_or(Err(not_reached))
    }

    async fn batch(
        &self,
        caller: Credentials<'_>,
        message: &v1::BatchCheckRequest,
        wait: Duration,
        asking: &Asking<'_>,
    ) -> Result<v1::BatchCheckResponse, Refusal> {
        let checks = message.checks.as_slice();
        if checks.is_empty() || checks.len() > BATCH_MAX {
            return Err(invalid("checks", "are 1 to 256"));
        }
        if checks.iter().any(|check| check.at_least.is_some()) {
            return Err(invalid(
                "checks.at_least",
                "must be unset; the batch has one",
            ));
        }
        if checks.iter().any(|check| !check.request_id.is_empty()) {
            return Err(invalid(
                "checks.request_id",
                "must be unset; a batch counts no use",
            ));
        }
        if let Some(wanted) = &message.at_least {
            if let Some(view) = self.stale_view() {
                return self.decide_all(&view, caller, checks, asking);
            }
            self.reach(caller, wanted, wait).await?;
        }
        self.decide_all(&self.authority.view(), caller, checks, asking)
    }

    // One view, so that all answers are of one revision.
    fn decide_all(
        &self,
        view: &View<'_>,
        caller: Credentials<'_>,
        checks: &[v1::CheckRequest],
        asking: &Asking<'_>,
    ) -> Result<v1::BatchCheckResponse, Refusal> {
        let decided = checks
            .iter()
            .map(|check| self.decide(view, caller, check, asking.arrival))
            .collect::<Result<Vec<_>, Refusal>>()?;
        let results = decided
            .into_iter()
            .map(|verdict| self.done(verdict, asking))
            .collect();
        Ok(v1::BatchCheckResponse { results })
    }
}

/// Whether the peer has shown a certificate.
fn is_proven(extensions: &Extensions) -> bool {
    extensions
        .get::<Peer>()
        .is_some_and(|peer| peer.proven().is_some())
}

/// How long a call may wait, by its deadline.
pub(super) fn wait_of<T>(request: &Request<T>) -> Duration {
    budget(request.metadata().as_ref(), WAIT_MAX)
}

#[tonic::async_trait]
impl CheckService for CheckRpc {
    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let arrival = self.noted(&request);
        let asking = Asking::by(Way::Check, &arrival, &request);
        let answer = self.unary(&request, &asking).await;
        self.took(Way::Check, arrival.came);
        answer
            .map(Response::new)
            .map_err(|refusal| self.refused(refusal, &asking))
    }

    async fn batch_check(
        &self,
        request: Request<v1::BatchCheckRequest>,
    ) -> Result<Response<v1::BatchCheckResponse>, Status> {
        let arrival = self.noted(&request);
        let asking = Asking::by(Way::Batch, &arrival, &request);
        let answer = match self.caller_of(&request) {
            Ok(caller) => {
                let wait = wait_of(&request);
                self.batch(caller, request.get_ref(), wait, &asking).await
            }
            Err(refusal) => Err(refusal),
        };
        self.took(Way::Batch, arrival.came);
        let checks = request.get_ref().checks.len();
        self.tell_batch(answer.as_ref().map(|_| ()), Some(checks), &asking);
        answer
            .map(Response::new)
            .map_err(|refusal| self.refused(refusal, &asking))
    }

    type StreamCheckStream = Answers;

    async fn stream_check(
        &self,
        request: Request<Streaming<v1::StreamCheckRequest>>,
    ) -> Result<Response<Self::StreamCheckStream>, Status> {
        answers(self.clone(), request).map(Response::new)
    }
}
