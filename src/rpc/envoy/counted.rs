//! A request that may pass once a use of its token was counted.
//!
//! Used by `service`, which has judged the token and made the answer. What the question was is
//! kept, for the use is appended and judged again in the log's order; when that says no, or
//! nothing in time, the request does not pass, and a use may have been counted all the same.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::Response;
use zeroize::Zeroizing;

use crate::authority;
use crate::authority::check::{CheckRequest, Seen, SeenScopes};
use crate::domain::chain::Revision;
use crate::domain::permission::Need;
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::token::{KindSet, TokenId, TokenKind};
use crate::telemetry::context::Parent;

use super::super::metrics::Way;
use super::super::observe::{Arrival, Asking, Facts, Who};
use super::super::question::Told;
use super::super::unary::replied;
use super::answer::Refused;
use super::denial::Denial;
use super::service::Inner;

/// A use that must be counted before a request may pass.
pub(super) struct Use {
    token: Zeroizing<String>,
    need: Option<(String, String)>,
    client_ip: Option<IpAddr>,
    audience: Option<String>,
    workload: Option<String>,
    // What a denial tells of the token and of the request.
    seen: Option<(TokenId, TokenKind, String)>,
    revision: Revision,
    grpc: bool,
    pub(super) request_id: Vec<u8>,
    allowed: Vec<u8>,
    // What is told of it; it is the judge who knows.
    pub(super) facts: Option<Box<Facts>>,
    // The trace that the request says it is of.
    pub(super) trace: Option<Parent>,
}

impl Use {
    /// Of a question that was allowed, with the answer to that; `request` is whether it is gRPC's,
    /// and its id.
    pub(super) fn of(
        request: (bool, &[u8]),
        question: &CheckRequest<'_>,
        told: &Told<'_>,
        allowed: Vec<u8>,
    ) -> Self {
        let (need, context) = (question.needs.first(), &question.context);
        let seen = told
            .seen
            .map(|seen| (seen.id, seen.kind, seen.subject.to_owned()));
        Self {
            token: question.token.to_owned().into(),
            need: need.map(|need| (need.action().to_owned(), need.resource().to_owned())),
            client_ip: context.client_ip,
            audience: context.audience.map(str::to_owned),
            workload: context.workload.map(str::to_owned),
            seen,
            revision: told.revision,
            grpc: request.0,
            request_id: request.1.to_vec(),
            allowed,
            facts: None,
            trace: None,
        }
    }

    fn need(&self) -> Result<Option<Need<'_>>, Refusal> {
        let need = self.need.as_ref().map(|(action, resource)| {
            Need::parse(action, resource).map_err(|error| Refusal::invalid("needs", error))
        });
        need.transpose()
    }

    fn denied(&self, inner: &Inner, denial: Denial) -> Response<Body> {
        let seen = self.seen.as_ref().map(|(id, kind, subject)| Seen {
            id: *id,
            stored: *id,
            kind: *kind,
            is_resource: *kind == TokenKind::Resource,
            subject,
            scopes: SeenScopes::All,
            narrowed: true,
            expires_ms: None,
            counts_uses: true,
        });
        let told = Told {
            reason: Reason::UsesExhausted,
            seen: seen.as_ref(),
            valid_for_ms: None,
            ends_ms: None,
            left_ms: 0,
            retry_after_ms: None,
            revision: self.revision,
        };
        let answer = inner.denied(&Refused {
            denial,
            need: self.need().ok().flatten(),
            told: Some(&told),
            grpc: self.grpc,
            request_id: &self.request_id,
        });
        replied(answer.into())
    }
}

/// A use with who counts it.
pub(in super::super) struct Counting {
    inner: Arc<Inner>,
    used: Box<Use>,
    wait: Duration,
    came: (Arrival, Who),
}

impl Counting {
    pub(super) fn new(
        inner: Arc<Inner>,
        used: Box<Use>,
        wait: Duration,
        came: (Arrival, Who),
    ) -> Self {
        Self {
            inner,
            used,
            wait,
            came,
        }
    }

    /// The answer to a question whose use may have been counted, which nobody waits for any more.
    #[cold]
    pub(super) fn given_up(&self) -> Response<Body> {
        let Self { inner, used, .. } = self;
        inner.give_up(used.facts.clone(), &self.asking());
        used.denied(inner, Denial::Unanswered)
    }

    fn asking(&self) -> Asking<'_> {
        let (arrival, who) = &self.came;
        Asking::known(Way::Envoy, arrival, who)
    }

    /// Counts it, and the answer then.
    pub(super) async fn counted(self: Arc<Self>) -> Result<Response<Body>, Infallible> {
        let Self { inner, used, .. } = &*self;
        let counted = count(inner, used, self.wait).await;
        let check = inner.check();
        let asking = self.asking();
        check.took(Way::Envoy, asking.arrival.came);
        let facts = used.facts.clone();
        match &counted {
            Ok(reason) => {
                let kind = used.seen.as_ref().map(|(_, kind, _)| *kind);
                check.decided(*reason, kind, facts, &asking);
            }
            Err(_) => check.tell(facts, (false, Denial::Unanswered.name()), &asking),
        }
        Ok(match counted {
            Ok(Reason::Allowed) => inner.passed(used.allowed.clone()),
            Ok(reason) => used.denied(inner, Denial::Token(reason)),
            // It may have been counted; the request does not pass.
            Err(_) => used.denied(inner, Denial::Unanswered),
        })
    }
}

async fn count(inner: &Inner, used: &Use, wait: Duration) -> Result<Reason, Refusal> {
    let need = used.need()?;
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
    inner.check().spend(&question, wait).await
}
