//! Requests through a real Envoy: without a filter, asking servers that let all pass, and asking
//! Latchkey.
//!
//! ```text
//! load ─► Envoy, a listener each ─┬─► no filter
//!                                 ├─► ext_authz ─► serve-constant, serve-unread
//!                                 └─► ext_authz ─► serve-authorize, by number of tokens
//! ```
//!
//! Envoy answers by itself what may pass, so that no service behind it is measured. The rounds of
//! all listeners alternate. Throughput is taken with many streams, time with one request after
//! the other; instructions are those of the authorisation server alone, asked the same directly.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;

use super::grpc::load::extensions;
use super::grpc::{Compared, Kind, Process, Time, instructions, runtime};
use super::population::{mix, need, secret};
use super::report::{Spread, percentiles};
use super::watched::{Watched, in_folder, write};

const ROUNDS: usize = 7;
const ROUND_REQUESTS: usize = 10_000;
const TIMED_REQUESTS: usize = 2_000;
const STREAMS: usize = 20;

/// What a service generated from Envoy's API takes that answers always the same.
const CONSTANT: &str = "a constant answer";
/// The least that any server of the same stack takes.
const UNREAD: &str = "an empty answer to an unread question";

const START: &str = include_str!("../../tests/it/envoy/start.sh");

pub(crate) fn run(tokens: &[u64]) {
    let runtime = runtime();
    // Counted with few tokens: callgrind takes minutes to load many, and a look-up among them takes
    // hardly more instructions, but more time.
    let fewest = tokens.iter().copied().min().unwrap_or_default();
    for (kind, name) in [(Kind::Constant, CONSTANT), (Kind::Unread, UNREAD)] {
        println!("Latchkey with {fewest} tokens against {name}, asked as Envoy asks:");
        instructions(&runtime, [Kind::Authorize, kind], fewest);
    }
    runtime.block_on(through_envoy(tokens));
}

/// One way through Envoy, and what was measured of it.
struct Way {
    name: String,
    tokens: u64,
    server: Option<Process>,
    sender: Option<SendRequest<Bytes>>,
    rounds: Vec<Round>,
}

/// One round: requests a second, percentiles and the CPU time of the authorisation server.
struct Round {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    user_us: f64,
}

async fn through_envoy(tokens: &[u64]) {
    let way = |name: String, tokens, kind: Option<Kind>| Way {
        name,
        tokens,
        server: kind.map(|kind| Process::start(&[], kind, tokens, Time::Runs)),
        sender: None,
        rounds: Vec::new(),
    };
    let mut ways = vec![
        way("no filter".to_owned(), 1, None),
        way(CONSTANT.to_owned(), 1, Some(Kind::Constant)),
        way(UNREAD.to_owned(), 1, Some(Kind::Unread)),
    ];
    for tokens in tokens {
        let name = format!("Latchkey, {tokens} tokens");
        ways.push(way(name, *tokens, Some(Kind::Authorize)));
    }
    let ports: Vec<Option<u16>> = ways
        .iter()
        .map(|way| way.server.as_ref().map(|server| server.port))
        .collect();
    let envoy = Envoy::start(&ports).await;
    let mut connections = JoinSet::new();
    for (at, way) in ways.iter_mut().enumerate() {
        let stream = TcpStream::connect(("127.0.0.1", envoy.ports[at])).await;
        let stream = stream.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        connections.spawn(connection);
        way.sender = Some(sender);
    }
    // The first round warms up.
    for round in 0..=ROUNDS {
        for way in &mut ways {
            let measured = measure(way).await;
            if round > 0 {
                way.rounds.push(measured);
            }
        }
    }
    tell(&ways);
    for way in ways {
        drop(way.sender);
        way.server.into_iter().for_each(Process::stop);
    }
}

async fn measure(way: &Way) -> Round {
    let sender = way.sender.as_ref().expect("connected");
    let cpu_us = || way.server.as_ref().map_or(0.0, |server| server.cpu_us()[0]);
    let (before, begun) = (cpu_us(), Instant::now());
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let (sender, tokens) = (sender.clone(), way.tokens);
        streams.spawn(async move {
            for i in (stream..ROUND_REQUESTS).step_by(STREAMS) {
                ask(&sender, mix(i as u64 ^ 0xBEEF) % tokens).await;
            }
        });
    }
    while let Some(ended) = streams.join_next().await {
        ended.expect("every request passes");
    }
    let elapsed = begun.elapsed();
    let user_us = (cpu_us() - before) / ROUND_REQUESTS as f64;
    let mut taken = Vec::with_capacity(TIMED_REQUESTS);
    for i in 0..TIMED_REQUESTS {
        let begun = Instant::now();
        ask(sender, mix(i as u64 ^ 0xFACE) % way.tokens).await;
        taken.push(begun.elapsed());
    }
    let percentiles = percentiles(&mut taken);
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Round {
        rate: ROUND_REQUESTS as f64 / elapsed.as_secs_f64(),
        p50_us: us(percentiles.p50),
        p99_us: us(percentiles.p99),
        user_us,
    }
}

async fn ask(sender: &SendRequest<Bytes>, n: u64) {
    let (_, resource) = need(n);
    let request = Request::get(format!("http://api.example.com/v1/{resource}?version=3"))
        .header("authorization", format!("Bearer {}", secret(n)))
        // As a proxy before Envoy would: tokens of the benchmark have networks.
        .header("x-forwarded-for", "10.1.2.3")
        .header("accept", "application/json, text/plain, */*")
        .header("accept-language", "en-GB,en;q=0.9,nl;q=0.8")
        .header("origin", "https://app.example.com")
        .header("referer", "https://app.example.com/projects/overview")
        .header(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        )
        .body(())
        .expect("a request");
    let mut sender = sender.clone().ready().await.expect("a stream");
    let (response, _) = sender.send_request(request, true).expect("sent");
    let response = response.await.expect("a response");
    assert_eq!(response.status(), 200, "{:?}", response.headers());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let bytes = data.expect("data").len();
        body.flow_control()
            .release_capacity(bytes)
            .expect("it came");
    }
}

fn tell(ways: &[Way]) {
    println!(
        "Through Envoy (1 worker), {ROUNDS} rounds of {ROUND_REQUESTS} requests in {STREAMS} \
         streams and of {TIMED_REQUESTS} one after the other:"
    );
    let spread = |way: &Way, of: fn(&Round) -> f64| Spread::of(way.rounds.iter().map(of).collect());
    let bare = &ways[0];
    for way in ways {
        let added = |of: fn(&Round) -> f64| {
            let pairs = way.rounds.iter().zip(&bare.rounds);
            Spread::of(
                pairs
                    .map(|(with, without)| of(with) - of(without))
                    .collect(),
            )
        };
        println!("  {}:", way.name);
        println!("    requests a second {}", spread(way, |round| round.rate));
        println!(
            "    p50 {} us (added {}), p99 {} us (added {})",
            spread(way, |round| round.p50_us),
            added(|round| round.p50_us),
            spread(way, |round| round.p99_us),
            added(|round| round.p99_us),
        );
    }
    for way in &ways[3..] {
        for other in &ways[1..3] {
            let compared = |of: fn(&Round) -> f64| {
                let [ours, theirs] = [way, other].map(|way| way.rounds.iter().map(of).collect());
                Compared::of(ours, theirs)
            };
            println!("  {} against {}:", way.name, other.name);
            println!("    requests a second: {:.0}", compared(|round| round.rate));
            println!("    p50, us: {:.0}", compared(|round| round.p50_us));
            println!("    p99, us: {:.0}", compared(|round| round.p99_us));
            println!(
                "    user CPU of the server, us a request: {:.2}",
                compared(|round| round.user_us)
            );
        }
    }
}

/// A running Envoy with a listener for each way.
struct Envoy {
    _watched: Watched,
    ports: Vec<u16>,
}

impl Envoy {
    async fn start(servers: &[Option<u16>]) -> Self {
        let config = config(servers);
        let (watched, ()) = in_folder("envoy", |folder| {
            write(&folder.path.join("envoy.json"), &config.to_string());
            let mut script = folder.own_script(START);
            script.env("ENVOY", program());
            (script, ())
        });
        let admin = std::fs::read_to_string(watched.folder.join("admin")).expect("it is told");
        let stream = TcpStream::connect(admin.trim()).await.expect("connects");
        let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let uri = format!("http://{}/listeners?format=json", admin.trim());
        let request = Request::get(uri).body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).expect("sent");
        let mut body = response.await.expect("a response").into_body();
        let mut told = Vec::new();
        while let Some(data) = body.data().await {
            told.extend_from_slice(&data.expect("data"));
        }
        connection.abort();
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        let mut ports = vec![0; servers.len()];
        for listener in told["listener_statuses"].as_array().expect("a list") {
            let at: usize = listener["name"]
                .as_str()
                .expect("a name")
                .parse()
                .expect("a number");
            let port = &listener["local_address"]["socket_address"]["port_value"];
            let port = port.as_u64().and_then(|port| port.try_into().ok());
            ports[at] = port.expect("a port");
        }
        Self {
            _watched: watched,
            ports,
        }
    }
}

/// Where `make tools` puts it, or where the tests are told to look.
fn program() -> PathBuf {
    let tools = std::env::var_os("LATCHKEY_TOOLS").map(PathBuf::from);
    let tools =
        tools.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin"));
    let program = tools.join("envoy");
    assert!(program.exists(), "Envoy is missing: run `make tools`");
    program
}

fn config(servers: &[Option<u16>]) -> Value {
    let address =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let action = need(0).0;
    let extensions: serde_json::Map<String, Value> = extensions(&action)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (at, server) in servers.iter().enumerate() {
        let mut filters = Vec::new();
        let mut route = json!({
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "{}"}},
        });
        if let Some(port) = server {
            let cluster = format!("authorization-{at}");
            filters.push(
                json!({"name": "envoy.filters.http.ext_authz", "typed_config": {
                    "@type": kind("filters.http.ext_authz.v3.ExtAuthz"),
                    "transport_api_version": "V3",
                    "encode_raw_headers": true,
                    "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "timeout": "10s"},
                }}),
            );
            route["typed_per_filter_config"] = json!({"envoy.filters.http.ext_authz": {
                "@type": kind("filters.http.ext_authz.v3.ExtAuthzPerRoute"),
                "check_settings": {"context_extensions": extensions},
            }});
            clusters.push(json!({
                "name": cluster,
                "connect_timeout": "10s",
                "load_assignment": {
                    "cluster_name": cluster,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(*port)}}]}],
                },
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
            }));
        }
        filters.push(json!({"name": "router", "typed_config": {
            "@type": kind("filters.http.router.v3.Router"),
        }}));
        let host = json!({"name": "all", "domains": ["*"], "routes": [route]});
        let manager = json!({
            "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "bench",
            "normalize_path": true,
            "merge_slashes": true,
            "route_config": {"virtual_hosts": [host]},
            "http_filters": filters,
        });
        listeners.push(json!({
            "name": at.to_string(),
            "address": address(0),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }));
    }
    json!({
        "admin": {"address": address(0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}
