//! What scenes say of logins in few words: methods, credentials, access tokens.
//!
//! The account is always the same: it deploys below `acme/web`.

use std::net::IpAddr;

use latchkey::proto::v1;
use prost_types::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use v1::credential_service_client::CredentialServiceClient;
use v1::login_request::Proof;
use v1::login_service_client::LoginServiceClient;

use super::company::{Issued, REASON, refused};
use super::door::Door;
use crate::wire::bearer;

/// The account, which is its client id as well.
pub(super) const BOT: &str = "service:bot";

impl Door {
    pub(super) fn logins(&self) -> LoginServiceClient<Channel> {
        LoginServiceClient::new(self.channel.clone())
    }

    /// The same from another address of this machine.
    pub(super) async fn logins_from(&self, address: [u8; 4]) -> LoginServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let endpoint = endpoint.expect("an address");
        let endpoint = endpoint.local_address(Some(IpAddr::from(address)));
        LoginServiceClient::new(endpoint.connect().await.expect("connected"))
    }

    pub(super) fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    /// The account, and what it may do.
    pub(super) async fn furnish(&self) {
        self.principal(BOT, "acme").await;
        self.role("deployer", "acme", &["deploy:run"]).await;
        self.grant(BOT, "deployer", "acme/web/**").await;
    }

    pub(super) async fn method_by(
        &self,
        who: &str,
        kind: v1::LoginMethodKind,
        settings: v1::LoginSettings,
    ) -> Result<v1::SetLoginMethodResponse, Status> {
        let request = v1::SetLoginMethodRequest {
            service_account: BOT.to_owned(),
            kind: kind.into(),
            settings: Some(settings),
            reason: REASON.to_owned(),
            ..v1::SetLoginMethodRequest::default()
        };
        let answer = self
            .credentials()
            .set_login_method(bearer(who, request))
            .await?;
        Ok(answer.into_inner())
    }

    /// Sets universal auth, with these settings.
    pub(super) async fn universal_auth(&self, settings: v1::LoginSettings) {
        let kind = v1::LoginMethodKind::UniversalAuth;
        let set = self.method_by(&self.admin, kind, settings).await;
        set.expect("set");
    }

    pub(super) async fn secret_by(
        &self,
        who: &str,
        wanted: v1::CreateClientSecretRequest,
    ) -> Result<Issued, Status> {
        let answer = self
            .credentials()
            .create_client_secret(bearer(who, wanted))
            .await?;
        let made = answer.into_inner();
        assert_eq!(made.client_id, BOT);
        Ok(Issued {
            id: made.credential.expect("shown").token_id,
            secret: made.client_secret,
        })
    }

    /// A client secret.
    pub(super) async fn secret(&self, wanted: v1::CreateClientSecretRequest) -> Issued {
        let made = self.secret_by(&self.admin, wanted).await;
        made.expect("made")
    }

    pub(super) async fn try_login(&self, secret: &str) -> Result<v1::AccessToken, Status> {
        let answer = self.logins().login(login(secret)).await?;
        Ok(answer.into_inner().token.expect("a token"))
    }

    /// Logs in by a client secret.
    pub(super) async fn enter(&self, secret: &str) -> v1::AccessToken {
        self.try_login(secret).await.expect("let in")
    }

    /// Why whoever shows the right secret is not let in.
    pub(super) async fn not_let_in(&self, secret: &str) -> String {
        let answer = self.try_login(secret).await;
        let status = refused(answer, Code::Unauthenticated, "LOGIN_REFUSED");
        status.message().to_owned()
    }

    /// The next token of the session.
    pub(super) async fn next(
        &self,
        token: &v1::AccessToken,
        ttl: Option<Duration>,
    ) -> Result<v1::AccessToken, Status> {
        let request = v1::RenewAccessTokenRequest { ttl };
        let request = bearer(&token.access_token, request);
        let answer = self.logins().renew_access_token(request).await?;
        Ok(answer.into_inner().token.expect("a token"))
    }

    pub(super) async fn exchanged(
        &self,
        who: &str,
        asked: v1::ExchangeTokenRequest,
    ) -> Result<v1::AccessToken, Status> {
        let answer = self.logins().exchange_token(bearer(who, asked)).await?;
        Ok(answer.into_inner().token.expect("a token"))
    }

    /// Whether an access token deploys, or why not.
    pub(super) async fn deploys(&self, token: &v1::AccessToken) -> v1::Reason {
        let needs = [("deploy:run", "acme/web/prod")];
        self.check(&token.access_token, &needs).await.reason()
    }

    /// The networks that are locked out of the account, once there is one: guesses are counted
    /// behind the answers.
    pub(super) async fn until_locked(&self) -> Vec<String> {
        loop {
            let request = v1::GetLoginMethodsRequest {
                service_account: BOT.to_owned(),
            };
            let request = bearer(&self.admin, request);
            let told = self.credentials().get_login_methods(request).await;
            let locked = told.expect("told").into_inner().locked;
            if !locked.is_empty() {
                return locked.into_iter().map(|one| one.network).collect();
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn end_all(&self, target: v1::revoke_all_request::Target) {
        let request = v1::RevokeAllRequest {
            target: Some(target),
            reason: REASON.to_owned(),
            ..v1::RevokeAllRequest::default()
        };
        let done = self.tokens().revoke_all(bearer(&self.admin, request)).await;
        done.expect("ended");
    }
}

pub(super) fn login(secret: &str) -> v1::LoginRequest {
    v1::LoginRequest {
        client_id: BOT.to_owned(),
        proof: Some(Proof::ClientSecret(secret.to_owned())),
        ..v1::LoginRequest::default()
    }
}

/// A client secret without limits.
pub(super) fn wanted() -> v1::CreateClientSecretRequest {
    v1::CreateClientSecretRequest {
        service_account: BOT.to_owned(),
        name: "pipeline".to_owned(),
        reason: REASON.to_owned(),
        ..v1::CreateClientSecretRequest::default()
    }
}

/// Settings that allow renewals.
pub(super) fn settings(ttl: i64, max_ttl: i64) -> v1::LoginSettings {
    v1::LoginSettings {
        ttl: Some(super::company::seconds(ttl)),
        max_ttl: Some(super::company::seconds(max_ttl)),
        ..v1::LoginSettings::default()
    }
}
