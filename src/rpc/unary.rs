//! The straight way of the unary Check, before the generated service.
//!
//! ```text
//! /…/Check ─► usual shape? ─┬─► read in place, decide, write: no suspension, one allocation
//!                           └─► prost, then as every other Check
//! the other methods ─► generated service
//! ```
//!
//! Used by `server` as the direct service. Decoding and encoding by prost cost more than the
//! decision itself; this path is why a Check costs little more than an empty RPC. It decides
//! nothing: what is asked and told is `question`'s and `check`'s.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use prost::Message as _;
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use crate::authority::check::CheckRequest;
use crate::domain::permission::Need;
use crate::domain::refusal::Refusal;
use crate::domain::token::KindSet;
use crate::proto::v1;
use crate::proto::v1::check_service_server::{CheckServiceServer, SERVICE_NAME};

use super::check::{CheckRpc, wait_of};
use super::errors::{invalid, status};
use super::question::parsed_context;
use super::wire::{AsBytes, Usual, written};

const CHECK: &str = "/latchkey.v1.CheckService/Check";

type Reply = Result<Response<Vec<u8>>, Status>;

/// CheckService, its unary Check first.
#[derive(Clone)]
pub(super) struct CheckFront {
    check: CheckRpc,
    all: CheckServiceServer<CheckRpc>,
    message_bytes_max: usize,
}

impl CheckFront {
    pub(super) fn new(check: CheckRpc, message_bytes_max: usize) -> Self {
        let all = CheckServiceServer::new(check.clone());
        Self {
            check,
            all: all.max_decoding_message_size(message_bytes_max),
            message_bytes_max,
        }
    }
}

impl NamedService for CheckFront {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for CheckFront {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != CHECK {
            return self.all.call(request);
        }
        let unary = Unary(self.check.clone());
        let most = self.message_bytes_max;
        Box::pin(async move {
            let mut grpc = Grpc::new(AsBytes).apply_max_message_size_config(Some(most), None);
            Ok(grpc.unary(unary, request).await)
        })
    }
}

struct Unary(CheckRpc);

impl UnaryService<Bytes> for Unary {
    type Response = Vec<u8>;
    type Future = Either<Ready<Reply>, BoxFuture<Response<Vec<u8>>, Status>>;

    #[inline]
    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        match self.at_once(&request) {
            Ok(Some(reply)) => Either::Left(ready(Ok(Response::new(reply)))),
            Ok(None) => Either::Right(Box::pin(later(self.0.clone(), request))),
            Err(refusal) => Either::Left(ready(Err(status(refusal)))),
        }
    }
}

impl Unary {
    /// The reply to a usual question that needs no wait; none if there is more to it.
    #[inline]
    fn at_once(&self, request: &Request<Bytes>) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(usual) = Usual::read(request.get_ref()) else {
            return Ok(None);
        };
        let caller = self.0.caller(request)?;
        let need = match usual.need {
            None => None,
            Some((action, resource)) => {
                let need = Need::parse(action, resource);
                Some(need.map_err(|error| invalid("needs", error))?)
            }
        };
        let question = CheckRequest {
            token: usual.token,
            needs: need.as_slice(),
            context: parsed_context(usual.client_ip, usual.workload, usual.audience)?,
            kinds: KindSet::ALL,
        };
        let verdict = self.0.verdict(&self.0.view(), caller, &question, written)?;
        if verdict.counts_use {
            return Ok(None);
        }
        Ok(Some(self.0.done(verdict)))
    }
}

/// As every other Check: by prost, with whatever it has to wait for.
async fn later(check: CheckRpc, request: Request<Bytes>) -> Reply {
    let message = v1::CheckRequest::decode(request.get_ref().clone());
    let message = message.map_err(|_| status(invalid("request", "is not a CheckRequest")))?;
    let answer = async {
        let caller = check.caller(&request)?;
        check.answer(caller, &message, wait_of(&request)).await
    };
    let answer = answer.await.map_err(status)?;
    Ok(Response::new(answer.encode_to_vec()))
}
