//! The login service: access tokens for credentials and for tokens.
//!
//! Each method reads its request, asks the authority and shows the token that it gave, which is in
//! that answer and nowhere else. Used by the server. Absent on purpose: who may log in.

use tonic::Request;

use crate::authority::Authority;
use crate::authority::login::{ExchangeAsked, Given, LoginCall, Proof};
use crate::domain::refusal::Refusal;
use crate::proto::v1;
use crate::proto::v1::login_service_server::LoginService;

use super::convert::{self, milliseconds, revision, timestamp};
use super::incoming::{Answer, answer};
use super::metrics::Metrics;
use super::rates::Attempts;
use super::{auth, scopes};

/// The most characters of a client id.
const CLIENT_ID_CHARS_MAX: usize = 256;
/// How access tokens are presented (RFC 6750).
const TOKEN_TYPE: &str = "Bearer";
/// The outcome of a login that is not looked at, in its line.
const TOO_FAST: &str = "rate_limited";

/// The login service over an authority.
pub(super) struct LoginRpc {
    authority: Authority,
    metrics: Metrics,
}

#[tonic::async_trait]
impl LoginService for LoginRpc {
    async fn login(&self, request: Request<v1::LoginRequest>) -> Answer<v1::LoginResponse> {
        let name = &request.get_ref().client_id;
        let given = Attempts::log_in(&request, name, self.give(&request)).await;
        if let Err(Refusal::RateLimited { .. }) = given {
            auth::Calling::of(&request).refused(auth::RefusedLogin {
                client_id: name.clone(),
                outcome: TOO_FAST,
            });
        }
        answer(given)
    }

    async fn renew_access_token(
        &self,
        request: Request<v1::RenewAccessTokenRequest>,
    ) -> Answer<v1::RenewAccessTokenResponse> {
        let name = presented(&request);
        answer(Attempts::log_in(&request, name, self.renew(&request)).await)
    }

    async fn exchange_token(
        &self,
        request: Request<v1::ExchangeTokenRequest>,
    ) -> Answer<v1::ExchangeTokenResponse> {
        let name = presented(&request);
        answer(Attempts::log_in(&request, name, self.exchange(&request)).await)
    }
}

impl LoginRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority, metrics: Metrics) -> Self {
        Self { authority, metrics }
    }

    async fn give(
        &self,
        request: &Request<v1::LoginRequest>,
    ) -> Result<v1::LoginResponse, Refusal> {
        let message = request.get_ref();
        convert::text("client_id", &message.client_id, CLIENT_ID_CHARS_MAX)?;
        let proof = match &message.proof {
            Some(v1::login_request::Proof::ClientSecret(secret)) => Proof::Secret(secret),
            Some(v1::login_request::Proof::Assertion(text)) => Proof::Assertion(text),
            None => {
                let what = "is required: a client secret or an assertion";
                return Err(Refusal::invalid("proof", what));
            }
        };
        let method = proof.method();
        let call = LoginCall {
            client_id: &message.client_id,
            proof,
            credentials: auth::credentials(request)?,
            ttl_s: convert::seconds("ttl", message.ttl.as_ref())?,
            scopes: scopes::listed(message.scopes.as_ref())?,
            audience: scopes::audience(&message.audience)?,
        };
        let (outcome, given) = self.authority.login(&call).await;
        self.metrics.logged_in(method, outcome.name());
        if given.is_err() {
            auth::Calling::of(request).refused(auth::RefusedLogin {
                client_id: message.client_id.clone(),
                outcome: outcome.name(),
            });
        }
        let given = given?;
        Ok(v1::LoginResponse {
            token: Some(shown(&given)),
        })
    }

    async fn renew(
        &self,
        request: &Request<v1::RenewAccessTokenRequest>,
    ) -> Result<v1::RenewAccessTokenResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let ttl_s = convert::seconds("ttl", request.get_ref().ttl.as_ref())?;
        let given = self.authority.renew_access(credentials, ttl_s).await?;
        Ok(v1::RenewAccessTokenResponse {
            token: Some(shown(&given)),
        })
    }

    async fn exchange(
        &self,
        request: &Request<v1::ExchangeTokenRequest>,
    ) -> Result<v1::ExchangeTokenResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let message = request.get_ref();
        if message.scopes.is_none() {
            let what = "is required: all, or only a list";
            return Err(Refusal::invalid("scopes", what));
        }
        let limits = scopes::limits(&message.networks, &message.audience, &message.workload)?;
        let asked = ExchangeAsked {
            scopes: scopes::listed(message.scopes.as_ref())?,
            ttl_s: convert::seconds("ttl", message.ttl.as_ref())?,
            networks: limits.networks,
            audience: limits.audience,
            workload: limits.workload,
        };
        let given = self.authority.exchange(credentials, &asked).await?;
        Ok(v1::ExchangeTokenResponse {
            token: Some(shown(&given)),
        })
    }
}

/// What whoever has no client id goes by: the token, if it can be read.
fn presented<T>(request: &Request<T>) -> &str {
    let presented = auth::credentials(request);
    presented.ok().and_then(|it| it.token).unwrap_or_default()
}

fn shown(given: &Given) -> v1::AccessToken {
    v1::AccessToken {
        access_token: given.text.to_string(),
        token_type: TOKEN_TYPE.to_owned(),
        token_id: given.id.to_string(),
        expires_in: Some(milliseconds(given.life_ms)),
        expires_at: Some(timestamp(given.expires_ms)),
        renewable: given.renewable,
        max_expires_at: given
            .session_end_ms
            .filter(|_| given.renewable)
            .map(timestamp),
        clipped: given.clipped,
        stored: given.stored,
        revision: Some(revision(given.revision)),
    }
}
