//! What the tests' Envoys are told: listeners that differ in what a test is about, and nowhere else.
//!
//! Every listener leads to the upstream, by way of ext_authz unless it says otherwise. Its
//! time-out is far longer than any answer takes, where no test is about it.

use serde_json::{Value, json};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network\
                       .http_connection_manager.v3.HttpConnectionManager";
const PROTOCOL: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A listener, and what it does to requests.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) name: &'static str,
    /// Where the authorisation server is; none: no filter.
    pub(crate) asks: Option<u16>,
    /// `encode_raw_headers`: how the request's headers are handed to the filter's server.
    pub(crate) raw_headers: bool,
    /// What it shows the authorisation server of its own.
    pub(crate) token: Option<String>,
    pub(crate) failure_mode_allow: bool,
    /// How many questions it asks at once on one connection; none: as many as it is told it may.
    pub(crate) streams: Option<u32>,
    /// The status where the server fails, if it is not Envoy's own.
    pub(crate) status_on_error: Option<u16>,
    /// How long the filter waits for an answer.
    pub(crate) timeout: &'static str,
    /// Whether paths are cleaned before anything looks at them, as the README recommends.
    pub(crate) normalises: bool,
    /// Whether gRPC-Web becomes gRPC.
    pub(crate) grpc_web: bool,
    /// Whether the peer's address is added to `x-forwarded-for`.
    pub(crate) appends_address: bool,
    /// The folder with `server.pem`, `server.key` and `ca.pem`, for TLS with certificates of both.
    pub(crate) certificates: Option<String>,
    pub(crate) include_certificate: bool,
    /// Whether requests are traced, which puts a client's own trace on what they cause.
    pub(crate) traces: bool,
    /// Whether traces are recorded that its clients record.
    pub(crate) samples: bool,
    /// Beginnings of the names of headers that are taken away before anything looks at them.
    pub(crate) removes: &'static [&'static str],
    /// What its virtual host says beside its routes.
    pub(crate) of_host: &'static [(&'static str, &'static str)],
    pub(crate) routes: Vec<Route>,
}

/// What begins with this is asked about with these extensions.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) prefix: &'static str,
    pub(crate) extensions: Vec<(&'static str, &'static str)>,
}

impl Listener {
    /// One without a filter.
    pub(crate) fn open(name: &'static str) -> Self {
        Self {
            name,
            asks: None,
            raw_headers: true,
            token: None,
            failure_mode_allow: false,
            streams: None,
            status_on_error: None,
            timeout: "30s",
            normalises: true,
            grpc_web: false,
            appends_address: false,
            certificates: None,
            include_certificate: false,
            traces: false,
            samples: false,
            removes: &[],
            of_host: &[],
            routes: Vec::new(),
        }
    }

    /// One that asks the server on a port.
    pub(crate) fn asking(name: &'static str, port: u16) -> Self {
        Self {
            asks: Some(port),
            ..Self::open(name)
        }
    }

    /// Asks with these extensions about what begins with this; the first route that fits counts.
    pub(crate) fn route(
        mut self,
        prefix: &'static str,
        extensions: &[(&'static str, &'static str)],
    ) -> Self {
        let extensions = extensions.to_vec();
        self.routes.push(Route { prefix, extensions });
        self
    }

    /// Its name is sent as the authority, so it must be one.
    fn cluster(&self) -> String {
        format!("asked-by-{}", self.name)
    }

    fn json(&self) -> Value {
        let mut manager = json!({
            "@type": MANAGER,
            "stat_prefix": self.name,
            "use_remote_address": self.appends_address,
            "normalize_path": self.normalises,
            "merge_slashes": self.normalises,
            "path_with_escaped_slashes_action":
                if self.normalises { "REJECT_REQUEST" } else { "KEEP_UNCHANGED" },
            "common_http_protocol_options": {
                "headers_with_underscores_action":
                    if self.normalises { "REJECT_REQUEST" } else { "ALLOW" },
            },
            "always_set_request_id_in_response": true,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "access_log": [access_log()],
            "early_header_mutation_extensions": self.early(),
            "route_config": self.routes_json(),
            "http_filters": self.filters(),
        });
        if self.traces {
            manager["tracing"] = tracing(self.samples);
        }
        let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
        if let Some(folder) = &self.certificates {
            chain["transport_socket"] = tls(folder);
        }
        json!({"name": self.name, "address": address(0), "filter_chains": [chain]})
    }

    fn early(&self) -> Vec<Value> {
        if self.removes.is_empty() {
            return Vec::new();
        }
        let prefixes = self.removes.iter();
        let mutations = prefixes.map(|prefix| {
            json!({"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": true}}})
        });
        let kind = "type.googleapis.com/envoy.extensions.http.early_header_mutation\
                    .header_mutation.v3.HeaderMutation";
        let mutations = Vec::from_iter(mutations);
        vec![json!({"name": "early", "typed_config": {"@type": kind, "mutations": mutations}})]
    }

    fn filters(&self) -> Vec<Value> {
        let mut filters = Vec::new();
        if self.grpc_web {
            let kind = format!("{HTTP}.grpc_web.v3.GrpcWeb");
            filters.push(json!({"name": "grpc_web", "typed_config": {"@type": kind}}));
        }
        if self.asks.is_some() {
            let token = self.token.iter().map(|token| format!("Bearer {token}"));
            let metadata = token.map(|value| json!({"key": "authorization", "value": value}));
            let filter = json!({
                "@type": format!("{HTTP}.ext_authz.v3.ExtAuthz"),
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": self.cluster()},
                    "timeout": self.timeout,
                    "initial_metadata": Vec::from_iter(metadata),
                },
                "failure_mode_allow": self.failure_mode_allow,
                "encode_raw_headers": self.raw_headers,
                "include_peer_certificate": self.include_certificate,
                "status_on_error": {"code": self.status_on_error.unwrap_or(403)},
                // An answer that is no valid one shows.
                "validate_mutations": true,
            });
            filters.push(json!({"name": "envoy.filters.http.ext_authz", "typed_config": filter}));
        }
        let kind = format!("{HTTP}.router.v3.Router");
        filters.push(json!({"name": "router", "typed_config": {"@type": kind}}));
        filters
    }

    fn routes_json(&self) -> Value {
        let action = json!({
            "cluster": if self.grpc_web { "upstream-http2" } else { "upstream" },
        });
        let mut routes = Vec::new();
        for Route { prefix, extensions } in &self.routes {
            routes.push(json!({
                "match": {"prefix": prefix},
                "route": action,
                "typed_per_filter_config": per_route(extensions),
            }));
        }
        routes.push(json!({"match": {"prefix": "/"}, "route": action}));
        let mut host = json!({"name": "all", "domains": ["*"], "routes": routes});
        if !self.of_host.is_empty() {
            host["typed_per_filter_config"] = per_route(self.of_host);
        }
        json!({"virtual_hosts": [host]})
    }
}

fn per_route(extensions: &[(&str, &str)]) -> Value {
    let pairs = extensions.iter();
    let pairs = pairs.map(|(key, value)| ((*key).to_owned(), json!(value)));
    let extensions: serde_json::Map<String, Value> = pairs.collect();
    json!({"envoy.filters.http.ext_authz": {
        "@type": format!("{HTTP}.ext_authz.v3.ExtAuthzPerRoute"),
        "check_settings": {"context_extensions": extensions},
    }})
}

/// The whole of it, with the upstream behind every listener.
pub(crate) fn config(listeners: &[Listener], upstream: u16) -> Value {
    let same = json!({"use_downstream_protocol_config": {"http2_protocol_options": {}}});
    let mut clusters = vec![
        cluster("upstream", upstream, same),
        cluster("upstream-http2", upstream, http2()),
    ];
    for listener in listeners {
        if let Some(port) = listener.asks {
            let mut protocol = http2();
            if let Some(streams) = listener.streams {
                let options = &mut protocol["explicit_http_config"]["http2_protocol_options"];
                options["max_concurrent_streams"] = json!(streams);
            }
            clusters.push(cluster(&listener.cluster(), port, protocol));
        }
    }
    let listeners: Vec<Value> = listeners.iter().map(Listener::json).collect();
    json!({
        "admin": {"address": address(0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn http2() -> Value {
    json!({"explicit_http_config": {"http2_protocol_options": {}}})
}

fn cluster(name: &str, port: u16, mut protocol: Value) -> Value {
    protocol["@type"] = json!(PROTOCOL);
    let endpoint = json!({"endpoint": {"address": address(port)}});
    json!({
        "name": name,
        "connect_timeout": "30s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol,
        },
    })
}

/// OpenTelemetry's, which records what its client does, or tells nobody of any.
fn tracing(samples: bool) -> Value {
    json!({
        "overall_sampling": {"value": if samples { 100 } else { 0 }},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "upstream-http2"}},
                "service_name": "front",
            },
        },
    })
}

/// One line of JSON a request, in the file `requests`.
fn access_log() -> Value {
    json!({
        "name": "requests",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "requests",
            "log_format": {"json_format": {
                "path": "%REQ(:PATH)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "latchkey": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
            }},
        },
    })
}

fn tls(folder: &str) -> Value {
    let file = |name: &str| json!({"filename": format!("{folder}/{name}")});
    json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3\
                      .DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": file("server.pem"),
                    "private_key": file("server.key"),
                }],
                "validation_context": {"trusted_ca": file("ca.pem")},
            },
        },
    })
}
