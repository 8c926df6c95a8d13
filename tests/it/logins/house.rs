//! A server with a service account that logs in: what the tests of logins start from.
//!
//! Every call is the administrator's, unless it says whose it is, and panics where a test would
//! make no sense without it.

use latchkey::proto::v1;
use prost_types::Duration as Seconds;
use tonic::Status;
use tonic::transport::Channel;
use v1::check_service_client::CheckServiceClient;
use v1::credential_service_client::CredentialServiceClient;
use v1::directory_service_client::DirectoryServiceClient;
use v1::key_service_client::KeyServiceClient;
use v1::login_service_client::LoginServiceClient;
use v1::token_service_client::TokenServiceClient;

use crate::program::Server;
use crate::wire::{bearer, channel, check};

/// Clients of one server, and a service account that deploys in `acme/web`.
#[derive(Clone)]
pub(crate) struct House {
    pub(crate) checks: CheckServiceClient<Channel>,
    pub(crate) credentials: CredentialServiceClient<Channel>,
    pub(crate) directory: DirectoryServiceClient<Channel>,
    pub(crate) keys: KeyServiceClient<Channel>,
    pub(crate) logins: LoginServiceClient<Channel>,
    pub(crate) tokens: TokenServiceClient<Channel>,
    pub(crate) admin: String,
}

pub(crate) const ACCOUNT: &str = "service:ci";
pub(crate) const REASON: &str = "because";

pub(crate) fn seconds(seconds: i64) -> Option<Seconds> {
    Some(Seconds { seconds, nanos: 0 })
}

/// A login by a client secret.
pub(crate) fn by_secret(client_id: &str, secret: &str) -> v1::LoginRequest {
    v1::LoginRequest {
        client_id: client_id.to_owned(),
        proof: Some(v1::login_request::Proof::ClientSecret(secret.to_owned())),
        ..v1::LoginRequest::default()
    }
}

impl House {
    pub(crate) async fn of(address: &str, admin: &str) -> Self {
        Self::over(channel(address).await, admin)
    }

    /// Over a connection that somebody made.
    pub(crate) fn over(channel: Channel, admin: &str) -> Self {
        Self {
            checks: CheckServiceClient::new(channel.clone()),
            credentials: CredentialServiceClient::new(channel.clone()),
            directory: DirectoryServiceClient::new(channel.clone()),
            keys: KeyServiceClient::new(channel.clone()),
            logins: LoginServiceClient::new(channel.clone()),
            tokens: TokenServiceClient::new(channel),
            admin: admin.to_owned(),
        }
    }

    pub(crate) async fn furnished(server: &Server) -> Self {
        let admin = server.admin.as_deref().expect("fresh");
        let mut house = Self::of(&server.address, admin).await;
        house.furnish().await;
        house
    }

    /// The networks that are locked out of the account.
    pub(crate) async fn locked(&mut self) -> Vec<String> {
        self.locked_at().await.0
    }

    /// The same, and the revision that it was read at.
    pub(crate) async fn locked_at(&mut self) -> (Vec<String>, Option<v1::Revision>) {
        let methods = v1::GetLoginMethodsRequest {
            service_account: ACCOUNT.to_owned(),
        };
        let methods = bearer(&self.admin, methods);
        let answer = self.credentials.get_login_methods(methods).await;
        let answer = answer.expect("an answer").into_inner();
        let networks = answer.locked.into_iter().map(|one| one.network);
        (networks.collect(), answer.revision)
    }

    /// Makes the account and what it may do.
    pub(crate) async fn furnish(&mut self) {
        let account = v1::CreateServiceAccountRequest {
            name: ACCOUNT.to_owned(),
            home: "acme".to_owned(),
            reason: REASON.to_owned(),
            ..v1::CreateServiceAccountRequest::default()
        };
        let request = bearer(&self.admin, account);
        let made = self.directory.create_service_account(request).await;
        made.expect("an account");
        let role = v1::CreateRoleRequest {
            name: "deployer".to_owned(),
            home: "acme".to_owned(),
            actions: vec!["deploy:run".to_owned()],
            reason: REASON.to_owned(),
            ..v1::CreateRoleRequest::default()
        };
        let made = self.directory.create_role(bearer(&self.admin, role)).await;
        made.expect("a role");
        let grant = v1::CreateGrantRequest {
            principal: ACCOUNT.to_owned(),
            role: "deployer".to_owned(),
            resource: "acme/web/**".to_owned(),
            reason: REASON.to_owned(),
            ..v1::CreateGrantRequest::default()
        };
        let given = self
            .directory
            .create_grant(bearer(&self.admin, grant))
            .await;
        given.expect("a grant");
    }

    pub(crate) async fn set_method(
        &mut self,
        kind: v1::LoginMethodKind,
        settings: v1::LoginSettings,
    ) -> v1::SetLoginMethodResponse {
        let set = v1::SetLoginMethodRequest {
            service_account: ACCOUNT.to_owned(),
            kind: kind.into(),
            settings: Some(settings),
            reason: REASON.to_owned(),
            ..v1::SetLoginMethodRequest::default()
        };
        let set = self.credentials.set_login_method(bearer(&self.admin, set));
        set.await.expect("set").into_inner()
    }

    pub(crate) async fn remove_method(
        &mut self,
        kind: v1::LoginMethodKind,
    ) -> v1::RemoveLoginMethodResponse {
        let remove = v1::RemoveLoginMethodRequest {
            service_account: ACCOUNT.to_owned(),
            kind: kind.into(),
            reason: REASON.to_owned(),
            ..v1::RemoveLoginMethodRequest::default()
        };
        let remove = bearer(&self.admin, remove);
        let removed = self.credentials.remove_login_method(remove).await;
        removed.expect("removed").into_inner()
    }

    pub(crate) fn wanted() -> v1::CreateClientSecretRequest {
        v1::CreateClientSecretRequest {
            service_account: ACCOUNT.to_owned(),
            name: "pipeline".to_owned(),
            reason: REASON.to_owned(),
            ..v1::CreateClientSecretRequest::default()
        }
    }

    pub(crate) async fn secret(
        &mut self,
        wanted: v1::CreateClientSecretRequest,
    ) -> v1::CreateClientSecretResponse {
        let wanted = bearer(&self.admin, wanted);
        let made = self.credentials.create_client_secret(wanted).await;
        made.expect("a client secret").into_inner()
    }

    pub(crate) async fn try_login(&mut self, secret: &str) -> Result<v1::AccessToken, Status> {
        let answer = self.logins.login(by_secret(ACCOUNT, secret)).await?;
        let answer = answer.into_inner();
        Ok(answer.token.expect("a token"))
    }

    pub(crate) async fn login(&mut self, secret: &str) -> v1::AccessToken {
        self.try_login(secret).await.expect("logged in")
    }

    pub(crate) async fn check(&mut self, token: &str, needs: &[(&str, &str)]) -> v1::CheckResponse {
        let asked = self.checks.check(check(token, needs)).await;
        asked.expect("an answer").into_inner()
    }

    /// Revokes a token that was found somewhere, by its text.
    pub(crate) async fn revoke_found(&mut self, token: &str) {
        let target = v1::revoke_token_request::Target::Secret(token.to_owned());
        let revoke = v1::RevokeTokenRequest {
            target: Some(target),
            reason: REASON.to_owned(),
            ..v1::RevokeTokenRequest::default()
        };
        let revoke = bearer(&self.admin, revoke);
        let revoked = self.tokens.revoke_token(revoke).await;
        revoked.expect("whoever finds it may revoke it");
    }

    /// Why a token may deploy, or not.
    pub(crate) async fn may_deploy(&mut self, token: &str) -> v1::Reason {
        let answer = self.check(token, &[("deploy:run", "acme/web/prod")]).await;
        answer.reason()
    }
}
