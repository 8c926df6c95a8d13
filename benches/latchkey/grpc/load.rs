//! The load: a fixed number of requests over a fixed number of connections and streams.
//!
//! Plain HTTP/2 with the frames of gRPC made beforehand: a client that costs less than a server,
//! and the same for both servers. Every reply is looked at; a denial or an error ends the run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use latchkey::domain::token::TokenKind;
use latchkey::proto::envoy::config::core::v3 as core;
use latchkey::proto::envoy::service::auth::v3 as auth;
use latchkey::proto::envoy::service::auth::v3::attribute_context as context;
use latchkey::proto::envoy::service::auth::v3::check_response::HttpResponse;
use latchkey::proto::v1;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Uri};

use super::Kind;
use crate::population::{Population, kind as token_kind, mix, need, secret};
use crate::sealed;

pub(crate) const CONNECTIONS: usize = 4;
pub(crate) const STREAMS: usize = 5;

/// What a caller says whose trace is not recorded.
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

// In front of each message: whether it is compressed, and its length in four bytes.
const FRAME_HEAD_BYTES: usize = 5;

/// Requests as they are sent; asked in their order, and again from the first.
pub(crate) fn messages(kind: Kind, count: u64, tokens: u64) -> Arc<[Bytes]> {
    let check = |token: String, n: u64| {
        let (action, resource) = need(n);
        v1::CheckRequest {
            token,
            needs: vec![v1::Need { action, resource }],
            context: Some(v1::Context {
                client_ip: Some("10.1.2.3".to_owned()),
                ..v1::Context::default()
            }),
            ..v1::CheckRequest::default()
        }
    };
    match kind {
        Kind::Check | Kind::Told | Kind::Parented | Kind::Traced => (0..count)
            .map(|i| mix(i ^ 0xBEEF) % tokens)
            .map(|n| framed(&check(secret(n), n)))
            .collect(),
        Kind::Sealed => {
            let (population, (ring, key)) = (Population::new(), sealed::ring());
            let services = (0..u64::MAX).map(|i| mix(i ^ 0xBEEF) % tokens);
            let services = services.filter(|n| token_kind(*n) == TokenKind::Service);
            services
                .take(count as usize)
                .map(|n| check(sealed::access_token(&population, (&ring, key), n), n))
                .map(|question| framed(&question))
                .collect()
        }
        Kind::Empty => Arc::new([framed(&())]),
        // They are asked the same.
        Kind::Authorize | Kind::Constant | Kind::Unread => (0..count)
            .map(|i| framed(&of_envoy(mix(i ^ 0xBEEF) % tokens)))
            .collect(),
    }
}

/// What Envoy 1.40 asks about a browser's request, by its size and its headers.
fn of_envoy(n: u64) -> auth::CheckRequest {
    let (action, resource) = need(n);
    let path = format!("/v1/{resource}?version=3&include=metadata");
    let bearer = format!("Bearer {}", secret(n));
    let id = format!("{:08x}-5d6c-4a5e-9f1b-0123456789ab", n as u32);
    let headers = [
        (":authority", "api.example.com"),
        (":method", "GET"),
        (":path", path.as_str()),
        (":scheme", "https"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9,nl;q=0.8"),
        ("authorization", &bearer),
        ("cache-control", "no-cache"),
        ("origin", "https://app.example.com"),
        ("referer", "https://app.example.com/projects/overview"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-site", "same-site"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        ("x-envoy-expected-rq-timeout-ms", "15000"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", &id),
    ];
    let headers = headers.map(|(name, value)| core::HeaderValue {
        key: name.to_owned(),
        raw_value: value.into(),
        ..core::HeaderValue::default()
    });
    let peer = |address: &str, port| context::Peer {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            })),
        }),
        ..context::Peer::default()
    };
    let http = context::HttpRequest {
        id,
        method: "GET".to_owned(),
        path,
        host: "api.example.com".to_owned(),
        protocol: "HTTP/2".to_owned(),
        header_map: Some(core::HeaderMap {
            headers: headers.into(),
        }),
        ..context::HttpRequest::default()
    };
    let extensions = extensions(&action);
    let extensions = extensions.map(|(key, value)| (key.to_owned(), value.to_owned()));
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(peer("10.1.2.3", 52_044)),
            destination: Some(peer("10.4.5.6", 8_443)),
            request: Some(context::Request { http: Some(http) }),
            context_extensions: extensions.into(),
        }),
    }
}

/// What the route in Envoy says of every request.
pub(crate) fn extensions(action: &str) -> [(&'static str, &str); 3] {
    [
        ("latchkey.action", action),
        ("latchkey.path", "/v1/{resource=**}"),
        ("latchkey.resource", "{resource}"),
    ]
}

fn framed(message: &impl prost::Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).expect("small");
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    message.encode(&mut frame).expect("a vector grows");
    frame.into()
}

/// Open connections to one server.
pub(crate) struct Load {
    kind: Kind,
    uri: Uri,
    connections: Vec<SendRequest<Bytes>>,
    // Those of the connections; they end when the last sender is dropped.
    tasks: JoinSet<Result<(), h2::Error>>,
    messages: Arc<[Bytes]>,
}

impl Load {
    pub(crate) async fn connect(kind: Kind, port: u16, messages: &Arc<[Bytes]>) -> Self {
        let method = kind.method();
        let (mut connections, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", port)).await;
            let stream = stream.expect("connects");
            stream.set_nodelay(true).expect("a socket");
            let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tasks.spawn(connection);
            connections.push(sender);
        }
        Self {
            kind,
            uri: format!("http://127.0.0.1:{port}/{method}")
                .parse()
                .expect("valid"),
            connections,
            tasks,
            messages: Arc::clone(messages),
        }
    }

    /// Asks so many requests and waits for every reply.
    pub(crate) async fn ask(&self, requests: usize) -> Duration {
        let begun = Instant::now();
        let mut streams = JoinSet::new();
        for stream in 0..CONNECTIONS * STREAMS {
            let sender = self.connections[stream % CONNECTIONS].clone();
            let (kind, uri, messages) = (self.kind, self.uri.clone(), Arc::clone(&self.messages));
            streams.spawn(async move {
                let mut sender = sender;
                for i in (stream..requests).step_by(CONNECTIONS * STREAMS) {
                    let message = messages[i % messages.len()].clone();
                    sender = ask_one(kind, sender, &uri, message).await;
                }
            });
        }
        while let Some(ended) = streams.join_next().await {
            ended.expect("every request is answered");
        }
        begun.elapsed()
    }

    /// Closes the connections, so that the server has none to drain.
    pub(crate) async fn close(mut self) {
        drop(self.connections);
        while let Some(ended) = self.tasks.join_next().await {
            ended
                .expect("a connection")
                .expect("closed without an error");
        }
    }
}

async fn ask_one(
    kind: Kind,
    sender: SendRequest<Bytes>,
    uri: &Uri,
    message: Bytes,
) -> SendRequest<Bytes> {
    let mut request = Request::post(uri.clone())
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    if matches!(kind, Kind::Parented | Kind::Traced) {
        request = request.header("traceparent", UNSAMPLED);
    }
    let request = request.body(()).expect("a request");
    let mut sender = sender.ready().await.expect("a stream");
    let (response, mut body) = sender.send_request(request, false).expect("sent");
    body.send_data(message, true).expect("sent");
    let mut answer = response.await.expect("a response").into_body();
    let mut reply = Vec::with_capacity(256);
    while let Some(data) = answer.data().await {
        let data = data.expect("data");
        let released = answer.flow_control().release_capacity(data.len());
        released.expect("no more than came");
        reply.extend_from_slice(&data);
    }
    let trailers = answer.trailers().await.expect("read").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let reply = &reply[FRAME_HEAD_BYTES..];
    match kind {
        Kind::Check | Kind::Sealed | Kind::Told | Kind::Parented | Kind::Traced => {
            let answer = v1::CheckResponse::decode(reply).expect("a reply");
            assert!(answer.allowed, "every question is answered by an allow");
        }
        Kind::Authorize | Kind::Constant => {
            let answer = auth::CheckResponse::decode(reply).expect("a reply");
            let passes = matches!(answer.http_response, Some(HttpResponse::OkResponse(_)));
            assert!(passes, "every request may pass");
        }
        Kind::Empty | Kind::Unread => assert!(reply.is_empty()),
    }
    sender
}
