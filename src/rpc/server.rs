//! The server: services behind the limits of an open port, from the first connection to the drain.
//!
//! Used by `cli` through [`serve`], and by the benchmark, which serves another direct service
//! through [`serve_routes`] under the same listener, limits and layers. tonic switches two of
//! hyper's limits off unless they are set; all of them are set here. Absent on purpose: tonic's
//! own request timeout, load shedding and concurrency limit (`front` has them, where a request
//! that does not wait pays nothing) and its grace after the connection's age, which skips the
//! graceful end (`listen` cuts instead).

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::authority::Authority;
use crate::config::{Config, Limits, Open};
use crate::domain::peer::Group;
use crate::proto::DESCRIPTOR;
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::cluster_service_server::ClusterServiceServer;
use crate::proto::v1::credential_service_server::CredentialServiceServer;
use crate::proto::v1::directory_service_server::DirectoryServiceServer;
use crate::proto::v1::key_service_server::KeyServiceServer;
use crate::proto::v1::login_service_server::LoginServiceServer;
use crate::proto::v1::token_service_server::TokenServiceServer;
use crate::routes::Live;
use crate::tls::Door;

use super::audit::AuditRpc;
use super::check::{CheckRpc, Guard};
use super::cluster::ClusterRpc;
use super::credentials::CredentialRpc;
use super::directory::DirectoryRpc;
use super::envoy::EnvoyFront;
use super::front::{Direct, DirectAnswer, Front, Shared};
use super::health::Health;
use super::keys::KeyRpc;
use super::listen::{ConnectionLimits, Incoming};
use super::login::LoginRpc;
use super::metrics::Metrics;
use super::places::Places;
use super::rates::Rates;
use super::seats::SeatLimits;
use super::straight::Straight;
use super::stream::Drain;
use super::token::TokenRpc;
use super::unary::CheckFront;
use super::unsent::Counting;

/// Bytes on their way to us on one stream.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes on their way to us on one connection: what a client can make us hold unread.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Bytes of a question about the API: a name, and anybody may ask.
const REFLECTION_BYTES_MAX: usize = 4 << 10;

/// Why the port cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that reflection shows are broken: the build is.
    #[error("the descriptors for reflection cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A port, and what is spoken there.
#[derive(Debug)]
pub struct Listening {
    /// The port.
    pub listener: TcpListener,
    /// Plain text or TLS.
    pub door: Door,
}

impl Listening {
    /// A port where plain text is spoken.
    #[must_use]
    pub fn plainly(listener: TcpListener) -> Self {
        let door = Door::plain();
        Self { listener, door }
    }
}

/// CheckService and Envoy's Authorization, to be served as the direct service.
pub fn direct(
    authority: &Authority,
    metrics: &Metrics,
    config: &Config,
    routes: Arc<Live>,
) -> impl Direct<
    Response = Response<Body>,
    Error = Infallible,
    Future = impl DirectAnswer + Send + 'static + use<>,
>
+ Clone
+ Send
+ 'static
+ use<> {
    let most = config.limits.message_bytes_max;
    let access = config.access.access().unwrap_or_default();
    let guard = Guard {
        open: config.check_is_open(),
        by_certificate: config.check.open == Open::Mtls,
        listed: access.limits(Group::Check),
    };
    let check = CheckRpc::new(authority.clone(), metrics.clone(), guard);
    let envoy = EnvoyFront::new(check.clone(), metrics.clone(), routes, &config.envoy, most);
    Straight::new(CheckFront::new(check, most), envoy)
}

/// Every service but Check and health, with reflection of all of them.
///
/// # Errors
/// [`ServeError::Reflection`] when the build is broken.
pub fn routes(
    authority: &Authority,
    metrics: &Metrics,
    limits: &Limits,
) -> Result<Routes, ServeError> {
    let most = limits.message_bytes_max;
    let asked = most.min(REFLECTION_BYTES_MAX);
    let token = TokenServiceServer::new(TokenRpc::new(authority.clone()));
    let directory = DirectoryServiceServer::new(DirectoryRpc::new(authority.clone()));
    let audit = AuditServiceServer::new(AuditRpc::new(authority.clone()));
    let cluster = ClusterServiceServer::new(ClusterRpc::new(authority.clone()));
    let login = LoginServiceServer::new(LoginRpc::new(authority.clone(), metrics.clone()));
    let credentials = CredentialServiceServer::new(CredentialRpc::new(authority.clone()));
    let keys = KeyServiceServer::new(KeyRpc::new(authority.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients can read the details of errors, too.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::default()
        .add_service(token.max_decoding_message_size(most))
        .add_service(directory.max_decoding_message_size(most))
        .add_service(audit.max_decoding_message_size(most))
        .add_service(cluster.max_decoding_message_size(most))
        .add_service(login.max_decoding_message_size(most))
        .add_service(credentials.max_decoding_message_size(most))
        .add_service(keys.max_decoding_message_size(most))
        .add_service(reflection().build_v1()?.max_decoding_message_size(asked))
        .add_service(
            reflection()
                .build_v1alpha()?
                .max_decoding_message_size(asked),
        ))
}

/// Serves the whole API until `shutdown`, then drains: health says so first, and after the notice
/// that balancers are given nothing new is accepted, requests under way end, streams are told
/// UNAVAILABLE.
///
/// # Errors
/// [`ServeError`] when it cannot be served.
pub async fn serve(
    authority: Authority,
    metrics: Metrics,
    listener: Listening,
    config: &Config,
    envoy_routes: Arc<Live>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let health = Health::of(authority.clone()).await;
    let limits = &config.limits;
    let most = limits.message_bytes_max;
    let routes = routes(&authority, &metrics, limits)?
        .add_service(health.service().max_decoding_message_size(most));
    let direct = direct(&authority, &metrics, config, envoy_routes);
    let until = async {
        tokio::select! {
            () = shutdown => {}
            () = health.follow() => {}
        }
        health.leave().await;
        // Whoever asks for health now and then hears of it before nobody listens any more.
        sleep(limits.drain_notice.unwrap_or_default()).await;
        health.stop().await;
    };
    serve_routes(direct, routes, metrics, listener, config, until).await
}

/// Serves a direct service and a router under all limits until `shutdown`, then drains.
///
/// # Errors
/// [`ServeError::Transport`] when the transport fails.
pub async fn serve_routes<D>(
    direct: D,
    routes: Routes,
    metrics: Metrics,
    listener: Listening,
    config: &Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    D: Direct<Response = Response<Body>, Error = Infallible, Future: DirectAnswer + Send + 'static>
        + Clone
        + Send
        + 'static,
{
    let limits = &config.limits;
    let drain = Drain::default();
    let places = || {
        Places::new(
            metrics.clone(),
            limits.requests_waiting_max,
            limits.request_time_max,
        )
    };
    // Settings that cannot be read did not start a server.
    let proxies = config.login.proxies().unwrap_or_default();
    let rates = Rates::new(metrics.clone(), limits, proxies);
    let shared = Shared::new(metrics.clone(), drain.clone(), places(), places(), rates);
    let front = Front::new(direct, routes, shared);
    let front = Counting::new(front, &metrics, limits.lasting_streams_max);
    let Listening { listener, door } = listener;
    let incoming = Incoming::new(listener, door, of_connections(limits), metrics);
    let served = server(limits).serve_with_incoming_shutdown(front, incoming, drain.begun());
    let mut served = pin!(served);
    tokio::select! {
        result = &mut served => return Ok(result?),
        () = shutdown => drain.begin(),
    }
    match timeout(limits.drain_time_max, served).await {
        Ok(result) => result?,
        Err(_) => tracing::warn!("requests were still under way when the drain ended"),
    }
    Ok(())
}

fn of_connections(limits: &Limits) -> ConnectionLimits {
    ConnectionLimits {
        seats: SeatLimits {
            total_max: limits.connections_max,
            per_peer_max: limits.connections_per_peer_max,
        },
        hello_time_max: limits.hello_time_max,
        stall_time_max: limits.ping_every + limits.ping_time_max,
        life_time_max: limits.connection_age_max + limits.connection_age_grace,
    }
}

fn server(limits: &Limits) -> Server {
    Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_max_pending_accept_reset_streams(Some(limits.pending_resets_max))
        .http2_max_local_error_reset_streams(Some(limits.error_resets_max))
        .http2_max_header_list_size(limits.header_bytes_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(limits.ping_every))
        .http2_keepalive_timeout(Some(limits.ping_time_max))
        .max_connection_age(limits.connection_age_max)
}
