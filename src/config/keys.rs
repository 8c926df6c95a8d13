//! The table of all keys: name, environment variable and meaning.
//!
//! The README's table is this one, with the defaults of [`super::Config`]; a test holds that every
//! setting is in it and nothing else.

/// One key of the configuration, for the README and for `serve --print-config`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key in the file, with dots.
    pub name: &'static str,
    /// What it means; the default is that of [`Config`].
    pub meaning: &'static str,
}

impl Key {
    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        let name = self.name.replace('.', "_").to_ascii_uppercase();
        format!("LATCHKEY_{name}")
    }
}

/// Every key, in the order of the README's table.
pub const KEYS: &[Key] = &[
    key("listen.addr", "address of the API; port 0 takes a free one"),
    key(
        "listen.plain_text",
        "whether it speaks plain text on an address that is not loopback: only where a mesh or a proxy does TLS in front of it",
    ),
    key(
        "admin.addr",
        "address of `/metrics`, `/healthz` and `/readyz`, which ask for no token",
    ),
    key("admin.enabled", "whether they are served"),
    key(
        "admin.plain_text",
        "whether they are served without TLS although `tls.cert_file` is set, or on an address that is not loopback",
    ),
    key(
        "admin.client_auth",
        "whether who asks for them must show a certificate: `none`, `request` or `require`",
    ),
    key(
        "tls.cert_file",
        "PEM file with the certificate of both listeners and what is between it and its authority; empty is plain text",
    ),
    key("tls.key_file", "PEM file with its key"),
    key(
        "tls.client_ca_file",
        "PEM file with the authorities of clients' certificates",
    ),
    key(
        "tls.client_auth",
        "whether clients of the API must show one: `none`, `request`, `require`, or `auto`, which requires it where `tls.client_ca_file` is set",
    ),
    key(
        "tls.min_version",
        "oldest version that is spoken: `1.2`, which is the newest that Envoy's upstreams speak unless told, or `1.3`",
    ),
    key(
        "tls.poll",
        "how often the files are read again; SIGHUP reads them at once",
    ),
    key(
        "access.check",
        "who may ask Checks, Envoy included, by the certificate that a client shows: SPIFFE IDs, all below one (`spiffe://acme/*`), DNS names or thumbprints, with commas between them; empty is everybody, here and below",
    ),
    key("access.login", "and who may log in, renew and exchange"),
    key(
        "access.manage",
        "and who may call everything else but health and reflection",
    ),
    key(
        "store.data_dir",
        "data directory of the embedded store, which is used where `database.url` is empty",
    ),
    key(
        "database.url",
        "`postgres://USER:PASSWORD@HOST:PORT,…/DATABASE`; printed without its password",
    ),
    key(
        "database.listen_url",
        "the same database past a pooler, for the feed, the heartbeat, the barrier and LISTEN; empty is `database.url`",
    ),
    key(
        "database.ca_file",
        "PEM file that the database's certificate must be signed by (`sslmode` is then `verify-full` unless the URL says otherwise)",
    ),
    key(
        "database.password_file",
        "file with the password, if it is not in the URL",
    ),
    key(
        "database.pool_size",
        "connections for lists, snapshots and reading the log; five more have their own work, and up to four are for logins",
    ),
    key(
        "database.connect_timeout",
        "until one host must have let us in; then the next is tried",
    ),
    key(
        "database.statement_timeout",
        "until a statement must have ended, a snapshot's apart",
    ),
    key(
        "database.lock_timeout",
        "until an append must have its turn at the log",
    ),
    key(
        "lease.length",
        "how long a replica answers checks without hearing of the database, 200 ms to 5 min",
    ),
    key(
        "lease.slack",
        "how much faster or slower than another a machine's clock may run, in thousandths",
    ),
    key("lease.poll", "how often the log is read without a wake-up"),
    key(
        "lease.serve_stale",
        "whether checks are answered after the lease has run out: what was revoked may then be allowed, and the others confirm nothing without this replica",
    ),
    key(
        "replica.name",
        "what this server is called among the replicas; empty is the host's name",
    ),
    key(
        "replica.address",
        "`HOST:PORT` where the other replicas reach it, `https://` in front where it speaks TLS; an IPv6 address may go without brackets; empty is the address it listens on",
    ),
    key(
        "replica.ca_file",
        "PEM file with the authorities of the other replicas' certificates, for the canary; empty is `tls.client_ca_file`",
    ),
    key(
        "replica.tls_name",
        "DNS name that every replica's certificate has, which the canary wants there in place of the host of `replica.address`; empty is that host",
    ),
    key(
        "write.confirm_time_max",
        "how long a write waits until it holds on every replica, if its caller has no sooner deadline",
    ),
    key(
        "check.open",
        "whether Check asks its callers for no token: `true`, `false`, `mtls` (not those who show a certificate that `access.check` lets in), or `auto`, which is open on loopback only",
    ),
    key(
        "check.valid_for",
        "how long an allow may be acted on, counted from when it was asked for",
    ),
    key(
        "envoy.routes_file",
        "route table for requests through Envoy whose route there has no `latchkey.` keys; empty is none, and they are denied",
    ),
    key(
        "envoy.routes_poll",
        "how often it is read again; SIGHUP reads it at once",
    ),
    key(
        "envoy.credentials",
        "headers that a credential is read from, in their order: `authorization` as a bearer token, others as the bare one",
    ),
    key(
        "envoy.strip_credential",
        "whether they are taken away before a request goes on",
    ),
    key("envoy.realm", "realm of the challenges of RFC 6750"),
    key(
        "envoy.trusted_hops",
        "how many entries of `x-forwarded-for`, from the right, proxies of yours have added, Envoy included; the leftmost of these is the client, and with `0` Envoy's peer is",
    ),
    key(
        "envoy.expires_soon",
        "a client is told when its token ends if no more than this is left; `none` is never",
    ),
    key(
        "envoy.headers.subject",
        "header that tells a service the token's principal, or `resource:` and the path of a resource token; an empty name is not set, here and below",
    ),
    key("envoy.headers.token_id", "and the token's public name"),
    key("envoy.headers.kind", "and its kind"),
    key(
        "envoy.headers.scopes",
        "and what it is narrowed to: `all`, or `ACTION@RESOURCE` with spaces between them",
    ),
    key(
        "envoy.headers.revision",
        "and the consistency token of the decision",
    ),
    key(
        "tokens.max_lifetime.user",
        "longest life of user tokens; `none` is without bound",
    ),
    key("tokens.max_lifetime.team", "longest life of team tokens"),
    key(
        "tokens.max_lifetime.resource",
        "longest life of resource tokens",
    ),
    key(
        "tokens.max_lifetime.service",
        "longest life of service tokens",
    ),
    key(
        "tokens.max_lifetime.access",
        "longest session of access tokens, their renewals included",
    ),
    key(
        "tokens.max_lifetime.client_secret",
        "longest life of client secrets",
    ),
    key(
        "tokens.max_lifetime.public_key",
        "longest life of registered public keys",
    ),
    key(
        "login.audiences",
        "audiences of the assertions (RFC 7523) that log in here, with commas between them; the same on every server",
    ),
    key(
        "login.proxies",
        "networks of proxies that many clients come through, with commas between them: failing logins lock no address in them out, and for limits to networks the address of whoever comes through them is not known, so that these refuse; the same on every server",
    ),
    key(
        "seal.keys",
        "keys that access tokens are sealed with, as `latchkey seal-key generate` writes them, with commas or line ends between them; never printed",
    ),
    key(
        "seal.keys_file",
        "file with such keys, one a line, which no others may read; where nothing is set, `seal.keys` in `store.data_dir` of the embedded store, made at the first start",
    ),
    key(
        "seal.keys_dir",
        "directory of such files, as a Kubernetes Secret is mounted",
    ),
    key(
        "seal.poll",
        "how often they are read again; SIGHUP reads them at once",
    ),
    key(
        "changes.format_max",
        "newest format that the change log may be raised to while this server is there; `0` is the newest that it knows",
    ),
    key(
        "changes.retention",
        "how long the change log is kept, where `log trim` is not told otherwise; `none` is for ever",
    ),
    key(
        "canary.interval",
        "how often a token of the server's own is issued, revoked and asked about at every replica; `none` is never",
    ),
    key("forget.retention", "how long a token is kept after its end"),
    key(
        "forget.interval",
        "how often one of the 256 parts of all tokens is looked through for ended ones",
    ),
    key(
        "last_used.enabled",
        "whether it is noted when, and from where, each token was last used",
    ),
    key(
        "last_used.interval",
        "how much later a use is written at the latest, 1 s to 1 h; half of it at the soonest",
    ),
    key(
        "last_used.per_second",
        "uses written in a second at the most; what does not fit is dropped",
    ),
    key("limits.connections_max", "connections in all"),
    key(
        "limits.connections_per_peer_max",
        "connections from one address (one /64 for IPv6)",
    ),
    key(
        "limits.hello_time_max",
        "until a new connection must have said hello",
    ),
    key(
        "limits.connection_age_max",
        "when a connection is asked to end, so that clients spread anew",
    ),
    key("limits.connection_age_grace", "how much later it is cut"),
    key(
        "limits.streams_per_connection_max",
        "requests under way on one connection",
    ),
    key(
        "limits.requests_waiting_max",
        "requests that wait, in all; more are turned away",
    ),
    key(
        "limits.lasting_streams_max",
        "streams that last (StreamCheck, WatchChanges, VerifyChain), in all, and beside them as many of health and reflection, which are free to everybody; of either one address (one /64 for IPv6) has an eighth; more are turned away",
    ),
    key(
        "limits.request_time_max",
        "until a request must have its answer; streams are exempt",
    ),
    key(
        "limits.calls_per_second",
        "management calls of one address (one /64 for IPv6) in a second, so many at once; those that take rights away are counted by themselves, Checks not at all",
    ),
    key(
        "limits.failed_logins_per_second",
        "failing logins of one client id (renewals and exchanges: of one token) from one address in a second, ten seconds' worth at once; then none of these is looked at; not for `login.proxies`",
    ),
    key(
        "limits.header_bytes_max",
        "bytes of a request's headers; more than Envoy's `max_request_headers_kb`, for what it traces brings headers of clients",
    ),
    key("limits.message_bytes_max", "bytes of a request's message"),
    key(
        "limits.pending_resets_max",
        "streams that a client may take back before they were looked at; a proxy takes back what its clients do",
    ),
    key(
        "limits.error_resets_max",
        "streams reset for a client's errors before its connection is ended",
    ),
    key("limits.ping_every", "how often a client is pinged"),
    key("limits.ping_time_max", "how long it may take to answer"),
    key(
        "limits.drain_notice",
        "how long it goes on serving after SIGTERM while its health says that it does not: as long as a balancer takes to look elsewhere; `none` is not at all",
    ),
    key(
        "limits.drain_time_max",
        "how long requests under way may take after that",
    ),
    key("log.format", "`text` or `json`, to standard error"),
    key(
        "log.level",
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter by module",
    ),
    key(
        "telemetry.access.ratio",
        "how many of all Checks have an access line, from `0` to `1`",
    ),
    key(
        "telemetry.access.denials_per_second",
        "denials that have one beside those, a second at the most, and as many logins and management calls that are denied; `0` is none",
    ),
    key(
        "telemetry.otlp.endpoint",
        "collector that telemetry is sent to by OTLP over gRPC, such as `http://collector:4317`, without a user's name; nothing is sent without; unset, `OTEL_EXPORTER_OTLP_ENDPOINT` names it, unless `OTEL_EXPORTER_OTLP_PROTOCOL` is another than `grpc`",
    ),
    key(
        "telemetry.otlp.headers",
        "metadata that it asks for, `NAME=VALUE` with commas or line ends between them; never printed",
    ),
    key(
        "telemetry.otlp.headers_file",
        "file with such metadata, read at the start",
    ),
    key(
        "telemetry.otlp.ca_file",
        "PEM file with the authorities that its certificate may be signed by, for `https://`",
    ),
    key(
        "telemetry.otlp.timeout",
        "how long a sending may take, 10 ms to 1 min; what fails is counted and given up",
    ),
    key(
        "telemetry.otlp.metrics_every",
        "how often metrics are sent there, all that `/metrics` shows; `none` is never",
    ),
    key(
        "telemetry.traces.enabled",
        "whether spans are sent there: of calls whose caller samples (`traceparent`)",
    ),
    key(
        "telemetry.traces.ratio",
        "and how many of those whose caller says nothing, from `0` to `1`",
    ),
    key(
        "telemetry.traces.asked_per_second",
        "spans in a second at the most of calls whose caller samples; `0` is none",
    ),
    key("telemetry.namespace", "`service.namespace` of what is sent"),
];

const fn key(name: &'static str, meaning: &'static str) -> Key {
    Key { name, meaning }
}
