//! From Envoy's question to its answer.
//!
//! ```text
//! body ─► question ─┬─► at once ─► answer
//!                   └─► a use must be counted: a place among those who wait, then written
//! ```
//!
//! Used by `server` as a direct service. A question that needs neither a wait nor a write is
//! answered without suspending. A use is counted for every question, and never tied to the
//! request's id, which a client may choose.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::request::Parts;
use tonic::codegen::{BoxFuture, Service, http};

use crate::authority;
use crate::authority::check::CheckRequest;
use crate::config;
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::KindSet;
use crate::routes::{self, Extensions, HeaderValue, Live, Needed, OnStale, Table, Unanswerable};
use crate::telemetry::context::Parent;

use super::super::auth::budget;
use super::super::check::{CheckRpc, WAIT_MAX};
use super::super::errors::{UNAVAILABLE, response};
use super::super::fields::message_in;
use super::super::front::DirectAnswer;
use super::super::metrics::{Metrics, Passed, Way};
use super::super::observe::{Arrival, Asking, Facts, Who, parent_in};
use super::super::question::Told;
use super::super::unary::{Collecting, NoBody, replied};
use super::answer::{Refused, Style};
use super::attributes::Attributes;
use super::counted::{Counting, Use};
use super::denial::Denial;
use super::headers::{Credential, Headers, Wanted};
use super::sender::{client_ip, thumbprint, workload};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Why a request without a credential passes.
const ANONYMOUS: &str = "anonymous";

/// Characters of what is logged of it.
const LOGGED_CHARS_MAX: usize = 256;
/// What an operator did wrong is logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The service. Clones are handles to the same one.
#[derive(Clone)]
pub(in super::super) struct EnvoyFront(Arc<Inner>);

pub(super) struct Inner {
    check: CheckRpc,
    metrics: Metrics,
    routes: Arc<Live>,
    extensions: Extensions,
    style: Style,
    wanted: Wanted,
    trusted_hops: usize,
    message_bytes_max: usize,
    // When each fault was last logged. Locked for a comparison.
    logged: Mutex<[Option<Instant>; 2]>,
}

impl EnvoyFront {
    pub(in super::super) fn new(
        check: CheckRpc,
        metrics: Metrics,
        routes: Arc<Live>,
        settings: &config::Envoy,
        message_bytes_max: usize,
    ) -> Self {
        let style = Style::of(settings);
        let identity: Vec<&str> = style.identity().collect();
        let credentials: Vec<&str> = settings.credential_names().collect();
        Self(Arc::new(Inner {
            wanted: Wanted::new(&credentials, &identity, settings.trusted_hops > 0),
            style,
            check,
            metrics,
            routes,
            extensions: Extensions::new(settings.withheld()),
            trusted_hops: settings.trusted_hops,
            message_bytes_max,
            logged: Mutex::default(),
        }))
    }

    /// Whether a path is this service's.
    #[inline]
    pub(in super::super) fn takes(path: &str) -> bool {
        path == CHECK
    }
}

impl Service<http::Request<Body>> for EnvoyFront {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = EnvoyAnswering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: http::Request<Body>) -> EnvoyAnswering {
        let (parts, body) = request.into_parts();
        EnvoyAnswering::First(Box::new(First {
            inner: Arc::clone(&self.0),
            arrival: self.0.check.arrival(),
            parts,
            body,
            collecting: Collecting::default(),
        }))
    }
}

/// How far an answer to Envoy is.
pub(in super::super) enum EnvoyAnswering {
    /// It is read, and answered unless a use must be counted.
    First(Box<First>),
    /// A use is being counted.
    Counted(BoxFuture<http::Response<Body>, Infallible>, Arc<Counting>),
}

/// A question that is being read.
pub(in super::super) struct First {
    inner: Arc<Inner>,
    arrival: Arrival,
    parts: Parts,
    body: Body,
    collecting: Collecting,
}

impl Future for EnvoyAnswering {
    type Output = Result<http::Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            Self::First(first) => match ready!(first.poll(context)) {
                Ok(answer) => Poll::Ready(Ok(answer)),
                Err(counting) => {
                    let counted = Box::pin(Arc::clone(&counting).counted());
                    *this = Self::Counted(counted, counting);
                    // Pending once: only who has a place by then may go on to submit a use.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Self::Counted(answer, _) => answer.as_mut().poll(context),
        }
    }
}

impl DirectAnswer for EnvoyAnswering {
    fn may_write(&self) -> bool {
        matches!(self, Self::Counted(..))
    }

    // An error of gRPC could let the request pass.
    fn given_up(&self, _: Refusal) -> http::Response<Body> {
        match self {
            Self::First(first) => first.given_up(),
            Self::Counted(_, counting) => counting.given_up(),
        }
    }
}

/// What becomes of a question.
enum Step {
    Answer(Vec<u8>),
    /// The operator chose that Envoy is told of an error.
    Error,
    /// This is the answer once a use was counted.
    Count(Box<Use>),
}

/// What is read of a question.
struct Asked<'a> {
    attributes: Attributes<'a>,
    headers: Headers<'a, 'a>,
}

impl<'a> Asked<'a> {
    /// None for what cannot be read.
    #[inline]
    fn read(inner: &'a Inner, body: &'a [u8]) -> Option<Self> {
        let message = message_in(body, inner.message_bytes_max)?;
        let mut headers = Headers::of(&inner.wanted);
        let attributes = Attributes::read(message, &mut |header| headers.note(header)).ok()?;
        Some(Self {
            attributes,
            headers,
        })
    }

    /// What the request is called: Envoy's own number of it stands in none of its logs.
    fn request_id(&self) -> &'a [u8] {
        self.headers.request_id().unwrap_or(self.attributes.id)
    }

    fn asking<'b>(&'b self, arrival: &'b Arrival, parts: &'b Parts) -> Asking<'b> {
        let trace = self.headers.trace_parent();
        Asking::about(arrival, self.request_id(), trace, parts)
    }

    fn request(&self) -> Result<routes::Request<'a>, Denial> {
        let text = |bytes| std::str::from_utf8(bytes);
        Ok(routes::Request {
            // What is no text is no host or method of any rule.
            host: text(self.attributes.host).unwrap_or_default(),
            method: text(self.attributes.method).unwrap_or_default(),
            path: text(self.attributes.path).map_err(|_| Denial::Path)?,
        })
    }
}

impl routes::Headers for Asked<'_> {
    fn header(&self, name: &str) -> HeaderValue<'_> {
        let mut found = HeaderValue::Absent;
        self.attributes.headers(&mut |header| {
            if header.name == name.as_bytes() {
                found = match (found, std::str::from_utf8(header.value)) {
                    (HeaderValue::Absent, Ok(value)) => HeaderValue::One(value),
                    _ => HeaderValue::Several,
                };
            }
        });
        found
    }
}

impl First {
    #[inline]
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<http::Response<Body>, Arc<Counting>>> {
        let most = self.inner.message_bytes_max;
        let body = ready!(self.collecting.poll(&mut self.body, most, context));
        let Self {
            inner,
            arrival,
            parts,
            ..
        } = self;
        let step = match body {
            Ok(body) => inner.at_once(arrival, parts, &body),
            Err(NoBody::TooLong) => inner.unread(Denial::TooLarge, arrival, parts),
            Err(NoBody::Broken) => inner.unread(Denial::Unreadable, arrival, parts),
        };
        Poll::Ready(match step {
            Step::Answer(answer) => {
                inner.check.took(Way::Envoy, arrival.came);
                Ok(replied(answer.into()))
            }
            Step::Error => {
                inner.check.took(Way::Envoy, arrival.came);
                let message = Reason::Stale.message().to_owned();
                Ok(response(Refusal::Unavailable(message)))
            }
            Step::Count(used) => Err(self.counting(used)),
        })
    }

    #[cold]
    fn counting(&self, used: Box<Use>) -> Arc<Counting> {
        let wait = budget(&self.parts.headers, WAIT_MAX);
        let trace = parent_in(&self.parts.headers).or(used.trace);
        let who = Who::called(&used.request_id, trace, &self.parts.extensions);
        let came = (self.arrival.clone(), who);
        let inner = Arc::clone(&self.inner);
        Arc::new(Counting::new(inner, used, wait, came))
    }

    /// The answer to a question that was not read in time.
    #[cold]
    fn given_up(&self) -> http::Response<Body> {
        let (check, mut arrival) = (&self.inner.check, self.arrival.clone());
        if check.observer().traces() {
            // What the request says of itself is not known.
            let headers = &self.parts.headers;
            check.observer().join(&mut arrival, headers, || None);
        }
        let asking = Asking::about(&arrival, b"", None, &self.parts);
        self.inner.give_up(check.facts_of_denial(&arrival), &asking);
        // A sentence, which reads well as a body, too: what the request was is not known.
        replied(self.inner.refused(Denial::Unanswered, true, b"").into())
    }
}

impl Inner {
    /// Takes the time of a question that is given up, and tells of it.
    #[cold]
    pub(super) fn give_up(&self, facts: Option<Box<Facts>>, asking: &Asking<'_>) {
        self.check.took(Way::Envoy, asking.arrival.came);
        let unanswered = (false, Denial::Unanswered.name());
        self.check.tell(facts, unanswered, asking);
    }

    #[inline]
    fn at_once(&self, arrival: &mut Arrival, parts: &Parts, body: &[u8]) -> Step {
        let Some(asked) = Asked::read(self, body) else {
            return self.unread(Denial::Unreadable, arrival, parts);
        };
        if self.check.observer().traces() {
            // Envoy's own span, or what the client says where Envoy makes none.
            let observer = self.check.observer();
            observer.join(arrival, &parts.headers, || asked.headers.trace_parent());
        }
        let arrival = &*arrival;
        let asking = asked.asking(arrival, parts);
        let table = self.routes.current();
        self.decided(&asking, parts, &asked, &table)
            .unwrap_or_else(|denial| {
                // A stranger is told nothing of what routes there are.
                let denial = self.may_ask(parts).err().unwrap_or(denial);
                let mut facts = self.check.facts_of_denial(arrival);
                if let Some(facts) = &mut facts {
                    self.add_request(facts, &asked);
                }
                self.check.tell(facts, (false, denial.name()), &asking);
                let grpc = asked.headers.is_grpc();
                Step::Answer(self.refused(denial, grpc, asked.request_id()))
            })
    }

    /// The answer to a question of which nothing is known.
    #[cold]
    fn unread(&self, denial: Denial, arrival: &Arrival, parts: &Parts) -> Step {
        let asking = Asking::about(arrival, b"", None, parts);
        let facts = self.check.facts_of_denial(arrival);
        self.check.tell(facts, (false, denial.name()), &asking);
        Step::Answer(self.refused(denial, false, b""))
    }

    /// With the request that the question is about, and who sent it.
    #[cold]
    fn add_request(&self, facts: &mut Facts, asked: &Asked<'_>) {
        let attributes = &asked.attributes;
        facts.note_request(attributes.method, attributes.path);
        facts.client = client_ip(&attributes.source, &asked.headers, self.trusted_hops);
    }

    /// The answer to a request that passes without a credential, counted and told.
    fn anonymous(&self, asking: &Asking<'_>, asked: &Asked<'_>, look_alikes: &[&str]) -> Step {
        self.metrics.passed(Passed::Anonymous);
        if let Some(mut facts) = self.check.facts_of_sample(asking.arrival) {
            self.add_request(&mut facts, asked);
            self.check.tell(Some(facts), (true, ANONYMOUS), asking);
        }
        Step::Answer(self.style.allowed(None, &asked.headers, look_alikes))
    }

    /// The answer to a question that was read.
    ///
    /// # Errors
    /// The [`Denial`] of what is not asked of the token.
    #[inline]
    fn decided(
        &self,
        asking: &Asking<'_>,
        parts: &Parts,
        asked: &Asked<'_>,
        table: &Table,
    ) -> Result<Step, Denial> {
        let request = asked.request()?;
        let needed = self.needed(parts, asked, &request, table)?;
        let look_alikes = asked.headers.look_alikes().ok_or(Denial::Headers)?;
        let by_caller = |refusal| self.caller_refused(&refusal);
        let caller = self.check.caller(&parts.headers, &parts.extensions);
        let caller = caller.map_err(by_caller)?;
        let view = self.check.view();
        let token = match asked.headers.credential() {
            Credential::Token(token) => token,
            Credential::Several => return Err(Denial::SeveralTokens),
            Credential::None if needed.optional => {
                view.may_check(caller, &[]).map_err(by_caller)?;
                return Ok(self.anonymous(asking, asked, look_alikes));
            }
            Credential::None => "",
        };
        let need = match &needed.need {
            None => None,
            Some((action, resource)) => {
                Some(Need::parse(action, resource).map_err(|_| Denial::NoResource)?)
            }
        };
        let source = &asked.attributes.source;
        let workload = workload(source);
        let context = authority::Context {
            client_ip: client_ip(source, &asked.headers, self.trusted_hops),
            audience: needed.audience,
            workload: workload.as_deref(),
        };
        let question = CheckRequest {
            token,
            needs: need.as_slice(),
            context,
            kinds: KindSet::ALL,
        };
        // Only what this server lacks is an error, and never what a token says of its key.
        let fails = needed.on_stale == OnStale::Error && view.is_stale();
        let judge = |question: &CheckRequest<'_>| {
            let tell = |told: &Told<'_>| self.told(asked, fails, question, told, look_alikes);
            self.check
                .verdict(&view, caller, question, asking.arrival, tell)
                .map_err(by_caller)
        };
        let mut verdict = judge(&question)?;
        // A token may be bound to a certificate instead of to whom it names.
        if verdict.reason == Reason::Workload
            && let Some(thumbprint) = thumbprint(source)
        {
            let mut by_thumbprint = question;
            by_thumbprint.context.workload = Some(&thumbprint);
            verdict = judge(&by_thumbprint)?;
        }
        if let Some(facts) = &mut verdict.facts {
            self.add_request(facts, asked);
        }
        let passed = match (&mut verdict.response, verdict.reason) {
            // It is known once the use is counted.
            (Step::Count(used), _) => {
                used.facts = verdict.facts.take();
                used.trace = asked.headers.trace_parent().and_then(Parent::read);
                return Ok(verdict.response);
            }
            (Step::Error, _) => Passed::Error,
            (Step::Answer(_), Reason::Allowed) => Passed::Allowed,
            (Step::Answer(_), reason) => denied(Denial::Token(reason)),
        };
        self.metrics.passed(passed);
        let asking = asking.failing_if(passed == Passed::Error, UNAVAILABLE);
        Ok(self.check.done(verdict, &asking))
    }

    /// What the request needs, by Envoy's route or by the table.
    fn needed<'a>(
        &self,
        parts: &Parts,
        asked: &Asked<'a>,
        request: &routes::Request<'a>,
        table: &'a Table,
    ) -> Result<Needed<'a>, Denial> {
        let by_route = self
            .extensions
            .needed(asked.attributes.extensions(), request, asked);
        let needed = by_route.unwrap_or_else(|| table.find(request, asked));
        needed.map_err(|why| match why {
            Unanswerable::Path(_) => Denial::Path,
            Unanswerable::NoRoute => Denial::NoRoute,
            Unanswerable::Value(_) => Denial::NoResource,
            Unanswerable::Misconfigured(what) => {
                if self.may_ask(parts).is_ok() && self.may_log(Fault::Extensions) {
                    let what: String = what.chars().take(LOGGED_CHARS_MAX).collect();
                    tracing::warn!(what, "the context_extensions of a route cannot be read");
                }
                Denial::Misconfigured
            }
        })
    }

    /// What becomes of a question whose token was judged.
    #[inline]
    fn told(
        &self,
        asked: &Asked<'_>,
        fails: bool,
        question: &CheckRequest<'_>,
        told: &Told<'_>,
        look_alikes: &[&str],
    ) -> Step {
        match told.reason {
            Reason::Allowed => {
                let allowed = self.style.allowed(Some(told), &asked.headers, look_alikes);
                if told.seen.is_some_and(|seen| seen.counts_uses) {
                    let request = (asked.headers.is_grpc(), asked.request_id());
                    Step::Count(Box::new(Use::of(request, question, told, allowed)))
                } else {
                    Step::Answer(allowed)
                }
            }
            Reason::Stale if fails => Step::Error,
            reason => Step::Answer(self.style.denied(&Refused {
                denial: Denial::Token(reason),
                need: question.needs.first().copied(),
                told: Some(told),
                grpc: asked.headers.is_grpc(),
                request_id: asked.request_id(),
            })),
        }
    }

    /// The answer where no token was judged, counted.
    #[cold]
    fn refused(&self, denial: Denial, grpc: bool, request_id: &[u8]) -> Vec<u8> {
        self.denied(&Refused {
            denial,
            need: None,
            told: None,
            grpc,
            request_id,
        })
    }

    /// The answer to what does not pass, counted.
    #[cold]
    pub(super) fn denied(&self, refused: &Refused<'_>) -> Vec<u8> {
        if let Some(reason) = refused.denial.refusal() {
            self.check.count_refused(reason);
        }
        self.metrics.passed(denied(refused.denial));
        self.style.denied(refused)
    }

    /// The answer to what passes once its use was counted, counted.
    pub(super) fn passed(&self, allowed: Vec<u8>) -> http::Response<Body> {
        self.metrics.passed(Passed::Allowed);
        replied(allowed.into())
    }

    /// Who counts uses.
    pub(super) fn check(&self) -> &CheckRpc {
        &self.check
    }

    /// Whether the caller may ask anything at all.
    #[cold]
    fn may_ask(&self, parts: &Parts) -> Result<(), Denial> {
        let caller = self.check.caller(&parts.headers, &parts.extensions);
        let judged = caller.and_then(|caller| self.check.view().may_check(caller, &[]));
        judged.map_err(|_| Denial::Caller)
    }

    /// Envoy's own token does not do: that is for the operator to mend, and told to nobody else.
    #[cold]
    fn caller_refused(&self, refusal: &Refusal) -> Denial {
        self.check.note(refusal);
        if self.may_log(Fault::Caller) {
            tracing::warn!(%refusal, "a proxy asks without a token that permits it");
        }
        match refusal {
            Refusal::NotPermitted(_) => Denial::CallerNotPermitted,
            _ => Denial::Caller,
        }
    }

    fn may_log(&self, fault: Fault) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, now) = (&mut logged[fault as usize], Instant::now());
        let due = last.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// What an operator did wrong; each is logged by its own time.
#[derive(Clone, Copy)]
enum Fault {
    Extensions,
    Caller,
}

fn denied(denial: Denial) -> Passed {
    if denial.is_passing() {
        Passed::Unavailable
    } else {
        Passed::Denied
    }
}
