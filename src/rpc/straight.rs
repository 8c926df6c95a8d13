//! The services that are reached without the router: Check, and Envoy's.
//!
//! ```text
//! front ─► straight ─┬─► unary    latchkey.v1.CheckService/…
//!                    └─► envoy    envoy.service.auth.v3.Authorization/Check
//! ```
//!
//! Used by `server` as the direct service of the port. It only tells the two apart, by path, and
//! passes on what each says of itself.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};

use crate::domain::refusal::Refusal;
use crate::proto::v1::check_service_server::SERVICE_NAME;

use super::envoy::{EnvoyAnswering, EnvoyFront};
use super::front::{Direct, DirectAnswer, is_of};
use super::unary::{Answering, CheckFront};

/// Both services. Clones are handles to the same ones.
#[derive(Clone)]
pub(super) struct Straight {
    check: CheckFront,
    envoy: EnvoyFront,
}

impl Straight {
    pub(super) fn new(check: CheckFront, envoy: EnvoyFront) -> Self {
        Self { check, envoy }
    }
}

impl Direct for Straight {
    #[inline]
    fn takes(path: &str) -> bool {
        is_of(path, SERVICE_NAME) || EnvoyFront::takes(path)
    }
}

impl Service<Request<Body>> for Straight {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = StraightAnswer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Body>) -> StraightAnswer {
        if EnvoyFront::takes(request.uri().path()) {
            StraightAnswer::Envoy(self.envoy.call(request))
        } else {
            StraightAnswer::Check(self.check.call(request))
        }
    }
}

/// An answer of one of them.
pub(super) enum StraightAnswer {
    Check(Answering),
    Envoy(EnvoyAnswering),
}

impl Future for StraightAnswer {
    type Output = Result<Response<Body>, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Check(answer) => Pin::new(answer).poll(context),
            Self::Envoy(answer) => Pin::new(answer).poll(context),
        }
    }
}

impl DirectAnswer for StraightAnswer {
    fn may_write(&self) -> bool {
        match self {
            Self::Check(answer) => answer.may_write(),
            Self::Envoy(answer) => answer.may_write(),
        }
    }

    fn given_up(&self, why: Refusal) -> Response<Body> {
        match self {
            Self::Check(answer) => answer.given_up(why),
            Self::Envoy(answer) => answer.given_up(why),
        }
    }
}
