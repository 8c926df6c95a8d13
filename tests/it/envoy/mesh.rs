//! Latchkey on an embedded store, a real Envoy that asks it, and a service behind that Envoy.
//!
//! Tokens are issued by its administrator, for the resource `acme/web` if not said otherwise. The
//! usual route needs `secrets:read` on the secret that the path names.

use latchkey::proto::v1;
use tempfile::TempDir;
use v1::token_service_client::TokenServiceClient;

use super::config::{Listener, config};
use super::process::Envoy;
use super::upstream::Upstream;
use crate::fleet::revoke;
use crate::program::{Server, fresh};
use crate::wire::{bearer, channel};

/// A lifetime that does not end soon.
const WEEK: prost_types::Duration = prost_types::Duration {
    seconds: 7 * 24 * 3_600,
    nanos: 0,
};
/// A path that the usual route names a secret by.
pub(crate) const SECRET: &str = "/v1/secrets/db";
/// What the usual route asks for.
pub(crate) const NEEDS: [(&str, &str); 3] = [
    ("latchkey.path", "/v1/secrets/{name}"),
    ("latchkey.action", "secrets:read"),
    ("latchkey.resource", "acme/web/{name}"),
];

/// All of it; it ends with its handle.
pub(crate) struct Mesh {
    pub(crate) latchkey: Server,
    pub(crate) upstream: Upstream,
    pub(crate) envoy: Envoy,
    _dir: TempDir,
}

impl Mesh {
    /// Settings of Latchkey, and the listeners that ask it on a port.
    pub(crate) async fn start(
        settings: &[&str],
        listeners: impl FnOnce(u16) -> Vec<Listener>,
    ) -> Self {
        let (dir, upstream) = (fresh(), Upstream::start().await);
        let arguments: Vec<&str> = settings.iter().flat_map(|one| ["--set", one]).collect();
        let started = tokio::task::block_in_place(|| Server::start_with(dir.path(), &arguments));
        let latchkey = started.unwrap_or_else(|said| panic!("it did not start: {said}"));
        let listeners = listeners(port(&latchkey));
        let envoy = Envoy::start(&config(&listeners, upstream.port)).await;
        Self {
            latchkey,
            upstream,
            envoy,
            _dir: dir,
        }
    }

    /// One more Envoy before the same service.
    pub(crate) async fn another_envoy(&self, listeners: &[Listener]) -> Envoy {
        Envoy::start(&config(listeners, self.upstream.port)).await
    }

    /// The secret of a token that may read every secret.
    pub(crate) async fn secret(&self) -> String {
        self.issue(web()).await.secret
    }

    pub(crate) async fn issue(&self, request: v1::IssueTokenRequest) -> v1::IssueTokenResponse {
        let (mut tokens, request) = (self.tokens().await, bearer(self.admin(), request));
        let issued = tokens.issue_token(request).await;
        issued.expect("issued").into_inner()
    }

    pub(crate) async fn revoke(&self, secret: &str) -> v1::RevokeTokenResponse {
        let (mut tokens, request) = (self.tokens().await, bearer(self.admin(), revoke(secret)));
        let revoked = tokens.revoke_token(request).await;
        revoked.expect("revoked").into_inner()
    }

    /// Runs a command line as the administrator.
    pub(crate) fn run(&self, line: &str) -> String {
        tokio::task::block_in_place(|| self.latchkey.admin().run(line).ok().stdout)
    }

    pub(crate) fn admin(&self) -> &str {
        self.latchkey.admin.as_deref().expect("a fresh directory")
    }

    async fn tokens(&self) -> TokenServiceClient<tonic::transport::Channel> {
        TokenServiceClient::new(channel(&self.latchkey.address).await)
    }

    /// The paths that reached the service.
    pub(crate) fn reached(&self) -> Vec<String> {
        self.upstream
            .seen()
            .into_iter()
            .map(|seen| seen.target)
            .collect()
    }
}

/// Where it listens.
pub(crate) fn port(latchkey: &Server) -> u16 {
    let (_, port) = latchkey.address.rsplit_once(':').expect("an address");
    port.parse().expect("a port")
}

/// A listener with the usual route.
pub(crate) fn asking(name: &'static str, port: u16) -> Listener {
    Listener::asking(name, port).route("/v1/secrets/", &NEEDS)
}

/// A token that may read every secret of `acme/web`.
pub(crate) fn web() -> v1::IssueTokenRequest {
    with_scope("secrets:read@acme/web/**")
}

/// One of that resource with another scope.
pub(crate) fn with_scope(scope: &str) -> v1::IssueTokenRequest {
    v1::IssueTokenRequest {
        kind: v1::TokenKind::Resource as i32,
        resource: "acme/web".to_owned(),
        scopes: Some(v1::ScopesInput {
            extent: Some(v1::scopes_input::Extent::Only(v1::ScopeList {
                scopes: vec![scope.to_owned()],
            })),
        }),
        name: "test".to_owned(),
        ttl: Some(WEEK),
        reason: "test".to_owned(),
        ..v1::IssueTokenRequest::default()
    }
}
