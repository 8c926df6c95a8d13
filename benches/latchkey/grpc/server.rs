//! The two servers that are compared, each a process of its own: Check, and an empty RPC.
//!
//! Both have the same State, listener, limits, layers, routes and one worker; the direct service
//! alone differs. A server prints its port, serves until its standard input ends, so that none
//! outlives the benchmark, and drains. Deliberately absent: a database; the rows are made.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use latchkey::authority::{Authority, Settings};
use latchkey::config::{self, Config};
use latchkey::domain::chain::{Head, RevisionNumber};
use latchkey::domain::change::Row;
use latchkey::domain::clock::{Clock, ManualClock, SystemClock};
use latchkey::domain::entropy::OsEntropy;
use latchkey::domain::entry::LogEntry;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::proto::envoy::config::core::v3 as core;
use latchkey::proto::envoy::service::auth::v3 as auth;
use latchkey::replica::{LastUsedSettings, Replica, Settings as ReplicaSettings};
use latchkey::rpc::{self, Direct, Metrics, Observer};
use latchkey::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use latchkey::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use latchkey::store::{Appended, Batch, Snapshot, Store, StoreError};
use latchkey::telemetry::access::Access;
use latchkey::telemetry::otlp::{self, Collector, Line};
use latchkey::telemetry::spans::Spans;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Kind;
use crate::population::{Population, directory, kind as token_kind};
use crate::sealed;

const NOW_MS: u64 = 1_800_000_000_000;
const CHUNK_ROWS: u64 = 1_000;

/// Which clock a server reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// The machine's.
    Runs,
    /// None: under valgrind the machine's clocks cannot be read without a system call.
    Stands,
}

/// Serves until standard input ends.
pub(crate) fn serve(kind: Kind, tokens: u64, time: Time) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let clock: Arc<dyn Clock> = match time {
            Time::Runs => Arc::new(SystemClock::start()),
            Time::Stands => Arc::new(ManualClock::at(NOW_MS)),
        };
        let of_sealed = kind == Kind::Sealed;
        let store = Arc::new(Made { tokens, of_sealed });
        // As a server has it that nobody has set otherwise.
        let settings = ReplicaSettings {
            seals: Arc::new(ArcSwap::from_pointee(sealed::ring().0)),
            last_used: Some(LastUsedSettings::default()),
            ..ReplicaSettings::default()
        };
        let (replica, writer) = Replica::start(store, clock, Arc::new(OsEntropy), settings)
            .await
            .expect("starts");
        let settings = Settings {
            valid_for_ms: 5_000,
            confirm_time_max: Duration::from_secs(5),
        };
        let authority = Authority::new(replica, Arc::new(OsEntropy), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("bound").port());
        let listener = rpc::Listening::plainly(listener);
        let (metrics, mut config) = (metrics(kind), Config::default());
        // The benchmark's own clients are no proxies; what they say of the client is believed.
        config.envoy.trusted_hops = 1;
        let limits = &config.limits;
        let routes = rpc::routes(&authority, &metrics, limits).expect("sound descriptors");
        let served = match kind {
            Kind::Check
            | Kind::Sealed
            | Kind::Told
            | Kind::Parented
            | Kind::Traced
            | Kind::Authorize => {
                let check = rpc::direct(&authority, &metrics, &config, Arc::default());
                rpc::serve_routes(check, routes, metrics, listener, &config, input_ends()).await
            }
            Kind::Empty => {
                let empty = Empty::<false> {
                    message_bytes_max: limits.message_bytes_max,
                };
                rpc::serve_routes(empty, routes, metrics, listener, &config, input_ends()).await
            }
            Kind::Constant => {
                let constant = Constant::new(limits.message_bytes_max);
                rpc::serve_routes(constant, routes, metrics, listener, &config, input_ends()).await
            }
            Kind::Unread => {
                let empty = Empty::<true> {
                    message_bytes_max: limits.message_bytes_max,
                };
                rpc::serve_routes(empty, routes, metrics, listener, &config, input_ends()).await
            }
        };
        served.expect("served");
        writer.stop().await;
    });
}

/// What is counted, and told besides.
fn metrics(kind: Kind) -> Metrics {
    if !matches!(kind, Kind::Told | Kind::Traced) {
        return Metrics::default();
    }
    let telemetry = config::Telemetry::default();
    // Tasks end with the process.
    let (access, _) = Access::start(telemetry.access.denials_per_second);
    let observer = Observer::new(access, telemetry.access.ratio, 7);
    if kind == Kind::Told {
        return Metrics::with(observer);
    }
    let collector = Collector {
        endpoint: "http://127.0.0.1:1".to_owned(),
        headers: Vec::new(),
        authorities: None,
        timeout: telemetry.otlp.timeout,
    };
    let service = otlp::Service {
        instance: "bench".to_owned(),
        namespace: String::new(),
    };
    let line = Line::open(&collector, service).expect("an address");
    let (spans, queue) = Spans::queue();
    let _ = spans.send(queue, line);
    let traces = &telemetry.traces;
    Metrics::with(observer.with_spans(spans, traces.asked_per_second, traces.ratio))
}

async fn input_ends() {
    // An error ends it, too.
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

/// What tonic generates for a unary method of empty messages, without the match of its path. As
/// `ENVOYS` it is asked by Envoy, skips the question, and its empty answer lets requests pass.
#[derive(Clone)]
struct Empty<const ENVOYS: bool> {
    message_bytes_max: usize,
}

impl<const ENVOYS: bool> Direct for Empty<ENVOYS> {
    fn takes(path: &str) -> bool {
        path.starts_with(if ENVOYS {
            "/envoy.service.auth.v3.Authorization/"
        } else {
            "/bench.v1.EmptyService/"
        })
    }
}

impl<const ENVOYS: bool> Service<http::Request<Body>> for Empty<ENVOYS> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let most = self.message_bytes_max;
        Box::pin(async move {
            let codec = ProstCodec::<(), ()>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(most), None);
            Ok(grpc.unary(Nothing, request).await)
        })
    }
}

struct Nothing;

impl UnaryService<()> for Nothing {
    type Response = ();
    type Future = BoxFuture<Response<()>, Status>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        Box::pin(async { Ok(Response::new(())) })
    }
}

/// A store that holds the population and takes nothing more.
struct Made {
    tokens: u64,
    // Whether there are credentials besides, of every service token's account.
    of_sealed: bool,
}

fn refused<T>() -> Result<T, StoreError> {
    Err(StoreError::Refused("the population is fixed".to_owned()))
}

#[async_trait]
impl Store for Made {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (sender, rows) = mpsc::channel(4);
        let (tokens, of_sealed) = (self.tokens, self.of_sealed);
        tokio::task::spawn_blocking(move || {
            let population = Population::new();
            let mut sent = sender.blocking_send(Ok(directory()));
            for from in (0..tokens).step_by(CHUNK_ROWS as usize) {
                let numbers = from..tokens.min(from + CHUNK_ROWS);
                let chunk = numbers.map(|n| Row::Token(Box::new(population.record(n))));
                sent = sent.and_then(|()| sender.blocking_send(Ok(chunk.collect())));
            }
            if of_sealed {
                let services = (0..tokens).filter(|n| token_kind(*n) == TokenKind::Service);
                let rows = services.flat_map(|n| sealed::credential_rows(&population, n));
                let rows = rows.chain([sealed::key_row(sealed::ring().1)]);
                sent = sent.and_then(|()| sender.blocking_send(Ok(rows.collect())));
            }
            sent.expect("the replica loads all of it");
        });
        Ok(Snapshot {
            head: Head::EMPTY,
            instant_ms: 0,
            state_digest: None,
            rows,
        })
    }

    async fn append(&self, _: Batch) -> Result<Appended, StoreError> {
        refused()
    }

    async fn changes_after(
        &self,
        _: RevisionNumber,
        _: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        // The population came about without one.
        Ok(Vec::new())
    }

    async fn token(&self, _: TokenId) -> Result<Option<StoredToken>, StoreError> {
        refused()
    }

    async fn tokens(&self, _: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        refused()
    }

    async fn principals(
        &self,
        _: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        refused()
    }

    async fn members(&self, _: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        refused()
    }

    async fn roles(&self, _: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        refused()
    }

    async fn grants(&self, _: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        refused()
    }

    async fn note_used(&self, _: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Logins for Made {
    async fn note_failure(&self, _: &Failure) -> Result<u32, StoreError> {
        refused()
    }

    async fn clear_failures(&self, _: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        refused()
    }

    async fn consume(&self, _: &OneTime) -> Result<bool, StoreError> {
        refused()
    }

    async fn note_logins(&self, _: &[LoginNoted]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn logins(&self, _: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        refused()
    }
}

/// What a service that tonic generates from Envoy's API does which lets every request pass: it
/// decodes the question, and answers as Latchkey does about one token.
#[derive(Clone)]
struct Constant {
    message_bytes_max: usize,
    answer: Arc<auth::CheckResponse>,
}

impl Constant {
    fn new(message_bytes_max: usize) -> Self {
        let replaces = |(key, value): (&str, &str)| core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                ..core::HeaderValue::default()
            }),
            append: Some(false),
        };
        let told = [
            ("x-latchkey-subject", "user:user-1234"),
            (
                "x-latchkey-token-id",
                "01890a5d-ac96-774b-bcce-b302099a8057",
            ),
            ("x-latchkey-kind", "user"),
            (
                "x-latchkey-scopes",
                "secrets:read@tenant-1/project-0/** secrets:read@tenant-1/project-1/**",
            ),
            ("x-latchkey-revision", "1000000-0123456789abcdef"),
        ];
        let facts = [
            ("reason", "allowed"),
            ("revision", "1000000-0123456789abcdef"),
            ("token_id", "01890a5d-ac96-774b-bcce-b302099a8057"),
            ("subject", "user:user-1234"),
            ("kind", "user"),
        ];
        let facts = facts.map(|(name, text)| {
            let kind = Some(prost_types::value::Kind::StringValue(text.to_owned()));
            (name.to_owned(), prost_types::Value { kind })
        });
        let ok = auth::OkHttpResponse {
            headers: told.map(replaces).into(),
            ..auth::OkHttpResponse::default()
        };
        let answer = auth::CheckResponse {
            status: Some(tonic_types::pb::Status::default()),
            http_response: Some(auth::check_response::HttpResponse::OkResponse(ok)),
            dynamic_metadata: Some(prost_types::Struct {
                fields: facts.into(),
            }),
        };
        Self {
            message_bytes_max,
            answer: Arc::new(answer),
        }
    }
}

impl Direct for Constant {
    fn takes(path: &str) -> bool {
        path.starts_with("/envoy.service.auth.v3.Authorization/")
    }
}

impl Service<http::Request<Body>> for Constant {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (most, answer) = (self.message_bytes_max, Arc::clone(&self.answer));
        Box::pin(async move {
            let codec = ProstCodec::<auth::CheckResponse, auth::CheckRequest>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(most), None);
            Ok(grpc.unary(Passes(answer), request).await)
        })
    }
}

struct Passes(Arc<auth::CheckResponse>);

impl UnaryService<auth::CheckRequest> for Passes {
    type Response = auth::CheckResponse;
    type Future = BoxFuture<Response<auth::CheckResponse>, Status>;

    fn call(&mut self, _: Request<auth::CheckRequest>) -> Self::Future {
        let answer = auth::CheckResponse::clone(&self.0);
        Box::pin(async { Ok(Response::new(answer)) })
    }
}
