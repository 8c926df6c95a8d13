//! The credential service: client secrets, registered keys, and how accounts log in.
//!
//! Each method reads its request, calls the authority and shows what came of it. Used by the
//! server. Promise, as for tokens: a change that was made is never answered with an error because
//! reading it back failed, for a secret would be lost with it.

use std::collections::BTreeMap;

use prost_types::{Duration, Timestamp};
use tonic::Request;

use crate::authority::credentials::{LoginKind, LoginQuery, Methods};
use crate::authority::list::StoredToken;
use crate::authority::tokens::Issued;
use crate::authority::{
    Authority, Command, CreateCredential, CredentialForm, ScopesAsked, SetMethod, Written,
};
use crate::domain::change::{Change, Display};
use crate::domain::key::PublicKey;
use crate::domain::login::{
    ClientNetwork, LockoutPolicy, LoginMethod, LoginSettings, MethodRecord,
};
use crate::domain::principal::{PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::token::{Digest, TokenId};
use crate::proto::v1;
use crate::proto::v1::credential_service_server::CredentialService;

use super::convert::{self, DESCRIPTION_CHARS_MAX, duration, optional, revision, timestamp};
use super::incoming::{Answer, WriteCall, answer};
use super::page::Asked;
use super::{auth, scopes, token_answer};

/// The credential service over an authority.
pub(super) struct CredentialRpc {
    authority: Authority,
}

#[tonic::async_trait]
impl CredentialService for CredentialRpc {
    async fn create_client_secret(
        &self,
        request: Request<v1::CreateClientSecretRequest>,
    ) -> Answer<v1::CreateClientSecretResponse> {
        answer(self.create(&request).await)
    }

    async fn register_public_key(
        &self,
        request: Request<v1::RegisterPublicKeyRequest>,
    ) -> Answer<v1::RegisterPublicKeyResponse> {
        answer(self.register(&request).await)
    }

    async fn set_login_method(
        &self,
        request: Request<v1::SetLoginMethodRequest>,
    ) -> Answer<v1::SetLoginMethodResponse> {
        answer(self.set(&request).await)
    }

    async fn remove_login_method(
        &self,
        request: Request<v1::RemoveLoginMethodRequest>,
    ) -> Answer<v1::RemoveLoginMethodResponse> {
        answer(self.remove(&request).await)
    }

    async fn unlock_logins(
        &self,
        request: Request<v1::UnlockLoginsRequest>,
    ) -> Answer<v1::UnlockLoginsResponse> {
        answer(self.unlock(&request).await)
    }

    async fn get_login_methods(
        &self,
        request: Request<v1::GetLoginMethodsRequest>,
    ) -> Answer<v1::GetLoginMethodsResponse> {
        answer(self.methods(&request))
    }

    async fn list_logins(
        &self,
        request: Request<v1::ListLoginsRequest>,
    ) -> Answer<v1::ListLoginsResponse> {
        answer(self.logins(&request).await)
    }
}

impl CredentialRpc {
    /// The service over an authority.
    pub(super) fn new(authority: Authority) -> Self {
        Self { authority }
    }

    async fn create(
        &self,
        request: &Request<v1::CreateClientSecretRequest>,
    ) -> Result<v1::CreateClientSecretResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        // The digest is filled in by the authority.
        let none = CredentialForm::Secret(Digest::from_bytes([0; 32]));
        let asked = Wanted::of(message).read(none)?;
        let created = self.authority.create_client_secret(incoming.call(), asked);
        let Issued { secret, written } = created.await?;
        let after = self.after(&written);
        let (enforcement, credential) = incoming.settle(&self.authority, &written, after).await?;
        Ok(v1::CreateClientSecretResponse {
            revision: Some(revision(written.revision)),
            credential,
            client_id: message.service_account.clone(),
            secret_withheld: secret.is_none(),
            client_secret: secret.map_or_else(String::new, |secret| secret.reveal().to_owned()),
            enforcement,
        })
    }

    async fn register(
        &self,
        request: &Request<v1::RegisterPublicKeyRequest>,
    ) -> Result<v1::RegisterPublicKeyResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let key = PublicKey::parse_pem(&message.public_key)
            .map_err(|error| Refusal::invalid("public_key", error))?;
        let asked = Wanted::of(message).read(CredentialForm::Key(key))?;
        let written = self.authority.register_key(incoming.call(), asked).await?;
        let after = self.after(&written);
        let (enforcement, credential) = incoming.settle(&self.authority, &written, after).await?;
        Ok(v1::RegisterPublicKeyResponse {
            revision: Some(revision(written.revision)),
            credential,
            client_id: message.service_account.clone(),
            enforcement,
        })
    }

    async fn set(
        &self,
        request: &Request<v1::SetLoginMethodRequest>,
    ) -> Result<v1::SetLoginMethodResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let command = Command::SetMethod(Box::new(SetMethod {
            account: account(&message.service_account)?,
            method: method(message.kind)?,
            settings: settings(message.settings.as_ref())?,
        }));
        let written = self.authority.write(incoming.call(), command).await?;
        Ok(v1::SetLoginMethodResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
            method: self
                .authority
                .written_method(&written)
                .map(|one| shown(&one)),
        })
    }

    async fn remove(
        &self,
        request: &Request<v1::RemoveLoginMethodRequest>,
    ) -> Result<v1::RemoveLoginMethodResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let command = Command::RemoveMethod {
            account: account(&message.service_account)?,
            method: method(message.kind)?,
        };
        let written = self.authority.write(incoming.call(), command).await?;
        Ok(v1::RemoveLoginMethodResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
        })
    }

    async fn unlock(
        &self,
        request: &Request<v1::UnlockLoginsRequest>,
    ) -> Result<v1::UnlockLoginsResponse, Refusal> {
        let incoming = WriteCall::of(request)?;
        let message = request.get_ref();
        let account = account(&message.service_account)?;
        let network = optional("network", &message.network, client_network)?;
        let unlocking = self
            .authority
            .unlock_logins(incoming.call(), account, network);
        let written = unlocking.await?;
        let unlocked = match &written.change {
            Some(Change::Unlock { networks, .. }) => networks.iter(),
            _ => [].iter(),
        };
        Ok(v1::UnlockLoginsResponse {
            enforcement: incoming.enforced(&self.authority, &written).await?,
            revision: Some(revision(written.revision)),
            unlocked: unlocked.map(ClientNetwork::to_string).collect(),
        })
    }

    fn methods(
        &self,
        request: &Request<v1::GetLoginMethodsRequest>,
    ) -> Result<v1::GetLoginMethodsResponse, Refusal> {
        let credentials = auth::credentials(request)?;
        let account = account(&request.get_ref().service_account)?;
        let Methods {
            methods,
            locked,
            revision: at,
        } = self.authority.methods(credentials, &account)?;
        let locked = locked
            .into_iter()
            .map(|(network, until_ms)| v1::LockedNetwork {
                network: network.to_string(),
                until: Some(timestamp(until_ms)),
            });
        Ok(v1::GetLoginMethodsResponse {
            methods: methods.iter().map(shown).collect(),
            locked: locked.collect(),
            revision: Some(revision(at)),
        })
    }

    async fn logins(
        &self,
        request: &Request<v1::ListLoginsRequest>,
    ) -> Result<v1::ListLoginsResponse, Refusal> {
        let asked = Asked::<u64>::of(request.get_ref())?;
        let message = request.get_ref();
        let credentials = auth::credentials(request)?;
        let account = optional("service_account", &message.service_account, |_, name| {
            account(name)
        })?;
        let query = LoginQuery {
            account: None,
            credential: optional("credential_id", &message.credential_id, convert::token_id)?,
            after: asked.after,
            limit: asked.limit,
        };
        let page = self.authority.logins(credentials, account, query).await?;
        let logins = page.rows.into_iter().map(|login| v1::LoginRecord {
            at: Some(timestamp(login.noted.at_ms)),
            kind: kind(login.noted.kind).into(),
            service_account: text(login.account_name),
            credential_id: login.noted.credential.to_string(),
            parent_id: text(login.noted.parent),
            token_id: login.noted.token.to_string(),
            from: text(login.noted.from),
            expires_at: Some(timestamp(login.noted.expires_ms)),
        });
        Ok(v1::ListLoginsResponse {
            logins: logins.collect(),
            next_page_token: asked.token(page.next.as_ref()),
        })
    }

    /// The credential that a write was about, as far as it can be read back.
    async fn after(&self, written: &Written) -> Option<v1::Token> {
        let stored: Option<StoredToken> = self.authority.written_token(written).await.ok()?;
        stored.map(|stored| token_answer::whole(&self.authority, &stored))
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn kind(kind: LoginKind) -> v1::LoginKind {
    match kind {
        LoginKind::Login => v1::LoginKind::Login,
        LoginKind::Renewal => v1::LoginKind::Renewal,
        LoginKind::Exchange => v1::LoginKind::Exchange,
    }
}

/// What requests for either form of credential have in common.
struct Wanted<'a> {
    service_account: &'a str,
    scopes: Option<&'a v1::ScopesInput>,
    ttl: Option<&'a Duration>,
    not_before: Option<&'a Timestamp>,
    uses: Option<u32>,
    networks: &'a [String],
    workload: &'a str,
    name: &'a str,
    description: &'a str,
    labels: &'a BTreeMap<String, String>,
}

macro_rules! wanted {
    ($($request:ident)*) => {$(
        impl<'a> From<&'a v1::$request> for Wanted<'a> {
            fn from(request: &'a v1::$request) -> Self {
                Self {
                    service_account: &request.service_account,
                    scopes: request.scopes.as_ref(),
                    ttl: request.ttl.as_ref(),
                    not_before: request.not_before.as_ref(),
                    uses: request.uses,
                    networks: &request.networks,
                    workload: &request.workload,
                    name: &request.name,
                    description: &request.description,
                    labels: &request.labels,
                }
            }
        }
    )*};
}

wanted! { CreateClientSecretRequest RegisterPublicKeyRequest }

impl<'a> Wanted<'a> {
    fn of(request: impl Into<Self>) -> Self {
        request.into()
    }

    /// Reads a credential that is asked for; its id is filled in by the authority.
    fn read(self, form: CredentialForm) -> Result<CreateCredential, Refusal> {
        let scopes = match self.scopes {
            None => ScopesAsked::All,
            scopes => scopes::asked(scopes)?,
        };
        let description = convert::text("description", self.description, DESCRIPTION_CHARS_MAX)?;
        Ok(CreateCredential {
            id: TokenId::from_u128(0),
            form,
            account: account(self.service_account)?,
            scopes,
            ttl_s: convert::seconds("ttl", self.ttl)?,
            not_before_ms: convert::instant("not_before", self.not_before)?,
            uses: self.uses,
            networks: scopes::networks("networks", self.networks)?,
            workload: scopes::workload(self.workload)?,
            display: Display {
                name: Some(convert::name("name", self.name)?),
                description: Some(description),
                labels: Some(convert::labels(self.labels)?),
                last4: None,
            },
        })
    }
}

fn account(name: &str) -> Result<PrincipalName, Refusal> {
    convert::principal_of(PrincipalKind::Service, "service_account", name)
}

fn method(number: i32) -> Result<LoginMethod, Refusal> {
    let method = u8::try_from(number).ok().and_then(LoginMethod::from_number);
    method.ok_or_else(|| Refusal::invalid("kind", "is required: universal auth or key pair"))
}

/// An address stands for the network that it is in.
fn client_network(field: &'static str, text: &str) -> Result<ClientNetwork, Refusal> {
    let network = match text.parse() {
        Ok(address) => Some(ClientNetwork::of(Some(address))),
        Err(_) => ClientNetwork::parse(text),
    };
    let what = "is an address, a network as it is locked out (192.0.2.7/32, 2001:db8::/64), or \
                `unknown`";
    network.ok_or_else(|| Refusal::invalid(field, what))
}

fn settings(settings: Option<&v1::LoginSettings>) -> Result<LoginSettings, Refusal> {
    let unset = v1::LoginSettings::default();
    let settings = settings.unwrap_or(&unset);
    let defaults = LoginSettings::default();
    let seconds = convert::seconds;
    let lockout = match (&settings.lockout, settings.lockout_disabled) {
        (Some(_), true) => {
            let what = "is set, and is disabled";
            return Err(Refusal::invalid("settings.lockout", what));
        }
        (None, true) => None,
        (None, false) => defaults.lockout,
        (Some(policy), false) => {
            let usual = LockoutPolicy::default();
            Some(LockoutPolicy {
                threshold: policy.threshold,
                duration_s: seconds("settings.lockout.duration", policy.duration.as_ref())?
                    .unwrap_or(usual.duration_s),
                reset_s: seconds("settings.lockout.reset", policy.reset.as_ref())?
                    .unwrap_or(usual.reset_s),
            })
        }
    };
    let ttl_s = seconds("settings.ttl", settings.ttl.as_ref())?;
    let period_s = seconds("settings.period", settings.period.as_ref())?;
    Ok(LoginSettings {
        ttl_s: LoginSettings::ttl_asked(ttl_s, period_s)?,
        max_ttl_s: seconds("settings.max_ttl", settings.max_ttl.as_ref())?,
        period_s,
        uses: settings.uses,
        networks: scopes::networks("settings.networks", &settings.networks)?,
        login_networks: scopes::networks("settings.login_networks", &settings.login_networks)?,
        lockout,
    })
}

fn shown(record: &MethodRecord) -> v1::LoginMethod {
    let settings = &record.settings;
    let kind = match record.method {
        LoginMethod::UniversalAuth => v1::LoginMethodKind::UniversalAuth,
        LoginMethod::KeyPair => v1::LoginMethodKind::KeyPair,
    };
    v1::LoginMethod {
        kind: kind.into(),
        settings: Some(v1::LoginSettings {
            ttl: settings.ttl_given().map(duration),
            max_ttl: settings.max_ttl_s.map(duration),
            period: settings.period_s.map(duration),
            uses: settings.uses,
            networks: settings.networks.iter().collect(),
            login_networks: settings.login_networks.iter().collect(),
            lockout: settings.lockout.map(|policy| v1::LockoutPolicy {
                threshold: policy.threshold,
                duration: Some(duration(policy.duration_s)),
                reset: Some(duration(policy.reset_s)),
            }),
            lockout_disabled: settings.lockout.is_none(),
        }),
        set_at_revision: record.made_at,
    }
}
