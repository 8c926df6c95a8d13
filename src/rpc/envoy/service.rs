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
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::request::Parts;
use tonic::codegen::{BoxFuture, Service, http};
use zeroize::Zeroizing;

use crate::authority;
use crate::authority::check::CheckRequest;
use crate::config;
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::KindSet;
use crate::routes::{self, Extensions, HeaderValue, Live, Needed, OnStale, Table, Unanswerable};

use super::super::auth::budget;
use super::super::check::{CheckRpc, WAIT_MAX};
use super::super::errors::response;
use super::super::fields::message_in;
use super::super::front::DirectAnswer;
use super::super::metrics::{Metrics, Passed};
use super::super::question::Told;
use super::super::unary::{collected, replied};
use super::answer::{Refused, Style, unanswered};
use super::attributes::Attributes;
use super::denial::Denial;
use super::headers::{Credential, Headers, Wanted};
use super::sender::{client_ip, thumbprint, workload};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What an operator did wrong is logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The service. Clones are handles to the same one.
#[derive(Clone)]
pub(in super::super) struct EnvoyFront(Arc<Inner>);

struct Inner {
    check: CheckRpc,
    metrics: Metrics,
    routes: Arc<Live>,
    extensions: Extensions,
    style: Style,
    wanted: Wanted,
    trusted_hops: usize,
    message_bytes_max: usize,
    // When a fault of the operator's was last logged. Locked for a comparison.
    logged: Mutex<Option<Instant>>,
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
            extensions: Extensions::default(),
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
        EnvoyAnswering::First(Box::pin(Arc::clone(&self.0).first(request)))
    }
}

/// How far an answer to Envoy is.
pub(in super::super) enum EnvoyAnswering {
    /// It is read, and answered unless a use must be counted.
    First(BoxFuture<http::Response<Body>, Box<Counting>>),
    /// A use is being counted.
    Counted(BoxFuture<http::Response<Body>, Infallible>),
}

impl Future for EnvoyAnswering {
    type Output = Result<http::Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this {
            Self::First(answer) => match answer.as_mut().poll(context) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                Poll::Ready(Err(counting)) => {
                    *this = Self::Counted(Box::pin(counting.counted()));
                    // Pending once: only who has a place by then may go on to submit a use.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            },
            Self::Counted(answer) => answer.as_mut().poll(context),
        }
    }
}

impl DirectAnswer for EnvoyAnswering {
    fn may_write(&self) -> bool {
        matches!(self, Self::Counted(_))
    }

    // An error of gRPC could let the request pass.
    fn given_up(&self, _: Refusal) -> http::Response<Body> {
        replied(unanswered().into())
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

/// A use that must be counted before a request may pass.
struct Use {
    token: Zeroizing<String>,
    need: Option<(String, String)>,
    client_ip: Option<IpAddr>,
    audience: Option<String>,
    workload: Option<String>,
    grpc: bool,
    request_id: Vec<u8>,
    allowed: Vec<u8>,
}

/// A use with who counts it.
pub(in super::super) struct Counting {
    inner: Arc<Inner>,
    used: Box<Use>,
    wait: Duration,
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

impl Inner {
    async fn first(
        self: Arc<Self>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Box<Counting>> {
        let (parts, mut body) = request.into_parts();
        let body = collected(&mut body, self.message_bytes_max).await;
        match self.at_once(&parts, &body.unwrap_or_default()) {
            Step::Answer(answer) => Ok(replied(answer.into())),
            Step::Error => {
                let message = Reason::Stale.message().to_owned();
                Ok(response(Refusal::Unavailable(message)))
            }
            Step::Count(used) => Err(Box::new(Counting {
                wait: budget(&parts.headers, WAIT_MAX),
                inner: self,
                used,
            })),
        }
    }

    #[inline]
    fn at_once(&self, parts: &Parts, body: &[u8]) -> Step {
        let Some(asked) = Asked::read(self, body) else {
            return Step::Answer(self.refused(Denial::Unreadable, false, b""));
        };
        let table = self.routes.current();
        self.decided(parts, &asked, &table)
            .unwrap_or_else(|denial| {
                let grpc = asked.headers.is_grpc();
                Step::Answer(self.refused(denial, grpc, asked.request_id()))
            })
    }

    /// The answer to a question that was read.
    ///
    /// # Errors
    /// The [`Denial`] of what is not asked of the token.
    #[inline]
    fn decided(&self, parts: &Parts, asked: &Asked<'_>, table: &Table) -> Result<Step, Denial> {
        let request = asked.request()?;
        let needed = self.needed(asked, &request, table)?;
        let look_alikes = asked.headers.look_alikes().ok_or(Denial::Unreadable)?;
        let by_caller = |refusal| self.caller_refused(&refusal);
        let caller = self.check.caller(&parts.headers, &parts.extensions);
        let caller = caller.map_err(by_caller)?;
        let view = self.check.view();
        let token = match asked.headers.credential() {
            Credential::Token(token) => token,
            Credential::Several => return Err(Denial::SeveralTokens),
            Credential::None if needed.optional => {
                view.may_check(caller, &[]).map_err(by_caller)?;
                self.metrics.passed(Passed::Anonymous);
                return Ok(Step::Answer(self.style.allowed(
                    None,
                    &asked.headers,
                    look_alikes,
                )));
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
        let judge = |question: &CheckRequest<'_>| {
            let tell = |told: &Told<'_>| self.told(asked, &needed, question, told, look_alikes);
            self.check
                .verdict(&view, caller, question, tell)
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
        let passed = match (&verdict.response, verdict.reason) {
            // It is known once the use is counted.
            (Step::Count(_), _) => return Ok(verdict.response),
            (Step::Error, _) => Passed::Error,
            (Step::Answer(_), Reason::Allowed) => Passed::Allowed,
            (Step::Answer(_), reason) => denied(Denial::Token(reason)),
        };
        self.metrics.passed(passed);
        Ok(self.check.done(verdict))
    }

    /// What the request needs, by Envoy's route or by the table.
    fn needed<'a>(
        &self,
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
                if self.may_log() {
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
        needed: &Needed<'_>,
        question: &CheckRequest<'_>,
        told: &Told<'_>,
        look_alikes: &[&str],
    ) -> Step {
        match told.reason {
            Reason::Allowed => {
                let allowed = self.style.allowed(Some(told), &asked.headers, look_alikes);
                if told.seen.is_some_and(|seen| seen.counts_uses) {
                    Step::Count(Box::new(Use::of(asked, question, allowed)))
                } else {
                    Step::Answer(allowed)
                }
            }
            Reason::Stale if needed.on_stale == OnStale::Error => Step::Error,
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
        if let Some(reason) = denial.refusal() {
            self.check.count_refused(reason);
        }
        self.metrics.passed(denied(denial));
        self.style.denied(&Refused {
            denial,
            need: None,
            told: None,
            grpc,
            request_id,
        })
    }

    /// Envoy's own token does not do: that is for the operator to mend, and told to nobody else.
    #[cold]
    fn caller_refused(&self, refusal: &Refusal) -> Denial {
        self.check.note(refusal);
        if self.may_log() {
            tracing::warn!(%refusal, "a proxy asks without a token that permits it");
        }
        Denial::Caller
    }

    fn may_log(&self) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = logged.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if due {
            *logged = Some(now);
        }
        due
    }
}

fn denied(denial: Denial) -> Passed {
    if denial.is_passing() {
        Passed::Unavailable
    } else {
        Passed::Denied
    }
}

impl Use {
    fn of(asked: &Asked<'_>, question: &CheckRequest<'_>, allowed: Vec<u8>) -> Self {
        let need = question.needs.first();
        let context = &question.context;
        Self {
            token: question.token.to_owned().into(),
            need: need.map(|need| (need.action().to_owned(), need.resource().to_owned())),
            client_ip: context.client_ip,
            audience: context.audience.map(str::to_owned),
            workload: context.workload.map(str::to_owned),
            grpc: asked.headers.is_grpc(),
            request_id: asked.request_id().to_vec(),
            allowed,
        }
    }
}

impl Counting {
    async fn counted(self) -> Result<http::Response<Body>, Infallible> {
        let Self { inner, used, wait } = self;
        let denial = match inner.count(&used, wait).await {
            Ok(Reason::Allowed) => {
                inner.metrics.passed(Passed::Allowed);
                return Ok(replied(used.allowed.into()));
            }
            Ok(reason) => Denial::Token(reason),
            // It may have been counted; the request does not pass.
            Err(_) => Denial::Unanswered,
        };
        let answer = inner.refused(denial, used.grpc, &used.request_id);
        Ok(replied(answer.into()))
    }
}

impl Inner {
    async fn count(&self, used: &Use, wait: Duration) -> Result<Reason, Refusal> {
        let need = used.need.as_ref().map(|(action, resource)| {
            Need::parse(action, resource).map_err(|error| Refusal::invalid("needs", error))
        });
        let need = need.transpose()?;
        let question = CheckRequest {
            token: &used.token,
            needs: need.as_slice(),
            context: authority::Context {
                client_ip: used.client_ip,
                audience: used.audience.as_deref(),
                workload: used.workload.as_deref(),
            },
            kinds: KindSet::ALL,
        };
        self.check.spend(&question, wait).await
    }
}
