//! A tower layer that lets a request pass only on a fresh allow, for HTTP and gRPC servers.
//!
//! Used by services that are reached directly, with axum, tonic or hyper. Promise: the inner
//! service is called only with an `Identity` that Latchkey gave for this very request and that
//! is fresh at that moment; everything else is answered here, closed. The number of Checks at
//! a time is limited, and what is beyond is answered 503 rather than queued.
//!
//! Absent on purpose: a cache of allows. A revocation is confirmed when no server allows any
//! more; a copy of an older allow kept here would go on letting requests pass after that.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::server::NamedService;
use tower::{Layer, Service};

use super::bearer::{Presented, presented};
use super::policy::Policy;
use super::refusal::{Refusal, is_grpc};
use super::{CheckError, CheckQuery, Client, Identity, Verdict};
use crate::proto::v1;

/// How many Checks may be under way at a time unless set otherwise.
const CHECKS_AT_A_TIME: usize = 1_024;

/// Checks every request before the service behind it sees it.
///
/// A request that passes has an [`Identity`] in its extensions. The others get 401, 403 or
/// 503 (RFC 6750), or for gRPC `UNAUTHENTICATED`, `PERMISSION_DENIED` or `UNAVAILABLE`.
pub struct CheckLayer<P> {
    client: Client,
    policy: Arc<P>,
    accepted_kinds: Vec<v1::TokenKind>,
    audience: Option<String>,
    credential_removed: bool,
    // A permit is held for the time of a Check, not of the handler. All clones share it.
    checks: Arc<Semaphore>,
}

impl<P: Policy> CheckLayer<P> {
    /// A layer that asks this client for what the policy says each request needs.
    pub fn new(client: Client, policy: P) -> Self {
        Self {
            client,
            policy: Arc::new(policy),
            accepted_kinds: Vec::new(),
            audience: None,
            credential_removed: false,
            checks: Arc::new(Semaphore::new(CHECKS_AT_A_TIME)),
        }
    }

    /// Accepts this kind, and of the others only those that are named too. Without any, every
    /// kind is accepted.
    #[must_use]
    pub fn accept(mut self, kind: v1::TokenKind) -> Self {
        self.accepted_kinds.push(kind);
        self
    }

    /// Names this service as the audience, wherever the policy names none.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Takes the credential out of the requests that pass, so that nothing behind the layer
    /// can log it or send it on.
    #[must_use]
    pub fn credential_removed(mut self) -> Self {
        self.credential_removed = true;
        self
    }

    /// Allows this many Checks at a time instead of 1,024; more requests are answered 503.
    #[must_use]
    pub fn checks_at_a_time(mut self, count: usize) -> Self {
        self.checks = Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Decides about one request by its head.
    async fn decide(&self, request: &Parts) -> Result<Identity, Refusal> {
        let query = self.query(request)?;
        let needs = query.needs_asked().to_vec();
        let Ok(_permit) = self.checks.try_acquire() else {
            tracing::warn!("too many checks at a time; a request is refused");
            return Err(Refusal::Undecided { retry_after: None });
        };
        match self.client.check(query).await {
            Ok(Verdict::Allowed(identity)) => Ok(identity),
            Ok(Verdict::Denied(denial)) => Err(Refusal::of(denial.reason, needs)),
            Err(error) => {
                tracing::warn!(%error, "a token cannot be checked; a request is refused");
                let retry_after = match error {
                    CheckError::Stale { retry_after } => retry_after,
                    _ => None,
                };
                Err(Refusal::Undecided { retry_after })
            }
        }
    }

    fn query(&self, request: &Parts) -> Result<CheckQuery, Refusal> {
        let token = match presented(&request.headers) {
            Presented::Nothing => return Err(Refusal::NoToken),
            Presented::Ambiguous => return Err(Refusal::InvalidToken),
            Presented::Token(token) => token,
        };
        let needs = self.policy.needs(request).into_list();
        let needs = needs.ok_or(Refusal::InsufficientScope(Vec::new()))?;
        let mut context = self.policy.context(request);
        if context.audience.is_none() {
            context.audience.clone_from(&self.audience);
        }
        let query = CheckQuery::new(token).needs(needs).context(context);
        Ok(self
            .accepted_kinds
            .iter()
            .fold(query, |query, kind| query.accept(*kind)))
    }

    /// Prepares a request that passes for the service behind the layer.
    fn admit<B>(&self, request: &mut Request<B>, identity: Identity) {
        if self.credential_removed {
            request.headers_mut().remove(AUTHORIZATION);
        } else if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
            // Stays readable, but prints as `Sensitive` when the request is logged.
            value.set_sensitive(true);
        }
        request.extensions_mut().insert(identity);
    }
}

impl<P> Clone for CheckLayer<P> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            policy: Arc::clone(&self.policy),
            accepted_kinds: self.accepted_kinds.clone(),
            audience: self.audience.clone(),
            credential_removed: self.credential_removed,
            checks: Arc::clone(&self.checks),
        }
    }
}

impl<P> fmt::Debug for CheckLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckLayer")
            .field("client", &self.client)
            .field("accepted_kinds", &self.accepted_kinds)
            .field("audience", &self.audience)
            .field("credential_removed", &self.credential_removed)
            .finish_non_exhaustive()
    }
}

impl<S, P: Policy> Layer<S> for CheckLayer<P> {
    type Service = Checked<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Checked {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

/// A service behind a [`CheckLayer`].
pub struct Checked<S, P> {
    inner: S,
    layer: Arc<CheckLayer<P>>,
}

impl<S: Clone, P> Clone for Checked<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: Arc::clone(&self.layer),
        }
    }
}

impl<S: fmt::Debug, P> fmt::Debug for Checked<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

// Lets one gRPC service of a server be checked, and its health service not.
impl<S: NamedService, P> NamedService for Checked<S, P> {
    const NAME: &'static str = S::NAME;
}

impl<S, P, B, R> Service<Request<B>> for Checked<S, P>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    P: Policy,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was found ready must be the one that is called, not its clone.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = Arc::clone(&self.layer);
        Box::pin(async move {
            let grpc = is_grpc(request.headers());
            let (parts, body) = request.into_parts();
            let decided = layer.decide(&parts).await;
            let mut request = Request::from_parts(parts, body);
            match decided {
                // Read once more: the task may have been held up since the answer came.
                Ok(identity) if identity.is_fresh(layer.client.clock()) => {
                    layer.admit(&mut request, identity);
                    inner.call(request).await
                }
                Ok(_) => Ok(Refusal::Undecided { retry_after: None }.answer(grpc)),
                Err(refusal) => Ok(refusal.answer(grpc)),
            }
        })
    }
}
