//! A Latchkey server made of canned answers, for the tests of the client.
//!
//! It listens on port 0 and speaks the generated server traits over real sockets, so that
//! metadata, deadlines and statuses go the way they go in production. A `ManualClock` moves
//! while it answers: lateness is a number here, not a sleep.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::Empty;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use super::Client;
use crate::domain::clock::ManualClock;
use crate::proto::v1;
use v1::check_service_server::{CheckService, CheckServiceServer};
use v1::token_service_server::{TokenService, TokenServiceServer};

/// What the server does with a Check.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// See `late`.
    After(u64, Box<v1::CheckResponse>),
    Fail(Status),
    Never,
}

/// A running server.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    pub(super) clock: Arc<ManualClock>,
    service: Canned,
    _server: Serving,
}

/// A server task, ended with its owner.
pub(super) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Seen = Arc<Mutex<Vec<(v1::CheckRequest, MetadataMap)>>>;

impl Fake {
    pub(super) async fn start(answer: Answer) -> Self {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let service = Canned {
            answer,
            clock: Arc::clone(&clock),
            seen: Seen::default(),
        };
        let router = Server::builder()
            .add_service(CheckServiceServer::new(service.clone()))
            .add_service(TokenServiceServer::new(service.clone()));
        let (address, server) = serve(router).await;
        Self {
            address,
            clock,
            service,
            _server: server,
        }
    }

    /// A client whose time is the server's manual clock, and whose real timers are far away.
    pub(super) async fn client(&self) -> Client {
        Client::connect(format!("http://{}", self.address))
            .await
            .expect("it listens")
            .with_clock(self.clock.clone())
            .with_check_deadline(Duration::from_secs(60))
    }

    pub(super) fn seen(&self) -> Vec<(v1::CheckRequest, MetadataMap)> {
        self.service.seen.lock().expect("not poisoned").clone()
    }

    /// The server's `TokenService`, to be served behind a layer.
    pub(super) fn tokens(&self) -> TokenServiceServer<impl TokenService + use<>> {
        TokenServiceServer::new(self.service.clone())
    }
}

/// Serves on a free port of the loopback interface.
pub(super) async fn serve(router: Router) -> (SocketAddr, Serving) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = router.serve_with_incoming(TcpListenerStream::new(listener));
    let task = tokio::spawn(async move { server.await.expect("it serves") });
    (address, Serving(task))
}

/// An address at which nothing listens.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// This answer, after so many milliseconds by the manual clock.
pub(super) fn late(ms: u64, answer: v1::CheckResponse) -> Answer {
    Answer::After(ms, Box::new(answer))
}

/// An allow that may be acted on for 100 ms.
pub(super) fn allow() -> v1::CheckResponse {
    v1::CheckResponse {
        allowed: true,
        reason: v1::Reason::Allowed.into(),
        token_id: "0198f1c2-0000-7000-8000-000000000000".into(),
        kind: v1::TokenKind::User.into(),
        subject: "user:alice".into(),
        expires_at: Some(prost_types::Timestamp {
            seconds: 2_000_000_000,
            nanos: 5_000_000,
        }),
        valid_for: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        revision: Some(revision(7)),
        ..Default::default()
    }
}

pub(super) fn deny(reason: v1::Reason) -> v1::CheckResponse {
    v1::CheckResponse {
        reason: reason.into(),
        message: "no".into(),
        revision: Some(revision(7)),
        retry_after: (reason == v1::Reason::Stale).then_some(prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        ..Default::default()
    }
}

pub(super) fn revision(number: u64) -> v1::Revision {
    v1::Revision {
        number,
        chain: vec![1; 8],
    }
}

#[derive(Clone)]
struct Canned {
    answer: Answer,
    clock: Arc<ManualClock>,
    seen: Seen,
}

#[tonic::async_trait]
impl CheckService for Canned {
    type StreamCheckStream = Empty<Result<v1::StreamCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        let (metadata, _, question) = request.into_parts();
        self.seen
            .lock()
            .expect("not poisoned")
            .push((question, metadata));
        match self.answer.clone() {
            Answer::After(late_ms, answer) => {
                self.clock.advance(late_ms);
                Ok(Response::new(*answer))
            }
            Answer::Fail(status) => Err(status),
            Answer::Never => pending().await,
        }
    }

    async fn batch_check(
        &self,
        _: Request<v1::BatchCheckRequest>,
    ) -> Result<Response<v1::BatchCheckResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_check(
        &self,
        _: Request<Streaming<v1::StreamCheckRequest>>,
    ) -> Result<Response<Self::StreamCheckStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TokenService for Canned {
    async fn issue_token(
        &self,
        _: Request<v1::IssueTokenRequest>,
    ) -> Answered<v1::IssueTokenResponse> {
        Ok(Response::new(v1::IssueTokenResponse {
            revision: Some(revision(11)),
            ..Default::default()
        }))
    }

    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Answered<v1::RevokeTokenResponse> {
        Ok(Response::new(v1::RevokeTokenResponse {
            revision: Some(revision(12)),
            ..Default::default()
        }))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answered<v1::WhoAmIResponse> {
        // Says what it was sent, so that a test can see it.
        let text = |key| request.metadata().get(key).and_then(|it| it.to_str().ok());
        Ok(Response::new(v1::WhoAmIResponse {
            subject: format!("{:?} {:?}", text("authorization"), text("grpc-timeout")),
            ..Default::default()
        }))
    }

    async fn get_token(&self, _: Request<v1::GetTokenRequest>) -> Answered<v1::GetTokenResponse> {
        pending().await
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Answered<v1::ListTokensResponse> {
        Err(Status::unimplemented(""))
    }

    async fn update_token(
        &self,
        _: Request<v1::UpdateTokenRequest>,
    ) -> Answered<v1::UpdateTokenResponse> {
        Err(Status::unimplemented(""))
    }

    async fn renew_token(
        &self,
        _: Request<v1::RenewTokenRequest>,
    ) -> Answered<v1::RenewTokenResponse> {
        Err(Status::unimplemented(""))
    }

    async fn rotate_token(
        &self,
        _: Request<v1::RotateTokenRequest>,
    ) -> Answered<v1::RotateTokenResponse> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_all(
        &self,
        _: Request<v1::RevokeAllRequest>,
    ) -> Answered<v1::RevokeAllResponse> {
        Err(Status::unimplemented(""))
    }
}
