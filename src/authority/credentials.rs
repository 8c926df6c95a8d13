//! Credentials of service accounts: making them, and reading how an account logs in.
//!
//! A client secret is made here and leaves in the one answer that created it; of a key pair only
//! the public key is ever seen. What holds for logins is State's, what they leave behind is the
//! store's: a record that may lack some.

use crate::domain::chain::Revision;
use crate::domain::clock::UnixMs;
use crate::domain::login::{ClientNetwork, LoginMethod, MethodRecord};
use crate::domain::permission::{Resource, ResourcePattern};
use crate::domain::principal::{PrincipalId, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::token::{Secret, TokenKind};
use crate::replica::unavailable;
use crate::state::decide::{Command, CreateCredential, CredentialForm};
use crate::store::list::Page;
use crate::store::logins::StoredLogin;

use super::tokens::Issued;
use super::{About, Authority, Call, Credentials, Reader, Written};

pub use crate::store::logins::{LoginKind, LoginQuery};

/// How an account logs in.
#[derive(Clone, Debug)]
pub struct Methods {
    /// The methods that are set.
    pub methods: Vec<MethodRecord>,
    /// Who is locked out, and until when.
    pub locked: Vec<(ClientNetwork, UnixMs)>,
    /// The revision that this was read at.
    pub revision: Revision,
}

impl Authority {
    /// Makes a client secret; it is in this answer and nowhere else. Its id, digest and last
    /// characters are filled in here.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn create_client_secret(
        &self,
        call: Call<'_>,
        mut asked: CreateCredential,
    ) -> Result<Issued, Refusal> {
        let secret = Secret::generate(TokenKind::ClientSecret, &*self.entropy);
        asked.id = self.new_token_id();
        asked.form = CredentialForm::Secret(secret.digest());
        asked.display.last4 = Some(secret.last4().to_owned());
        let command = Command::CreateCredential(Box::new(asked));
        let written = self.write(call, command).await?;
        Ok(Issued {
            secret: (!written.repeated).then_some(secret),
            written,
        })
    }

    /// Registers a public key; its id is filled in here.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn register_key(
        &self,
        call: Call<'_>,
        mut asked: CreateCredential,
    ) -> Result<Written, Refusal> {
        asked.id = self.new_token_id();
        asked.display.last4 = Some(String::new());
        let command = Command::CreateCredential(Box::new(asked));
        self.write(call, command).await
    }

    /// Ends the locks of an account, or the one of a network, and begins the counts of its
    /// failures anew.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn unlock_logins(
        &self,
        call: Call<'_>,
        account: PrincipalName,
        network: Option<ClientNetwork>,
    ) -> Result<Written, Refusal> {
        let client_id = account.to_string();
        let command = Command::UnlockLogins { account, network };
        let written = self.write(call, command).await?;
        self.pardon(&client_id, network).await;
        Ok(written)
    }

    /// How an account logs in, and who is locked out of it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read it.
    pub fn methods(
        &self,
        credentials: Credentials<'_>,
        name: &PrincipalName,
    ) -> Result<Methods, Refusal> {
        let reader = self.reader(credentials)?;
        let account = reader.may_see(name)?;
        Ok(reader.methods_of(account))
    }

    /// A method as it is now, after it was written.
    #[must_use]
    pub fn written_method(&self, written: &Written) -> Option<MethodRecord> {
        let About::Method(account, method) = written.about else {
            return None;
        };
        self.replica.state().method(account, method).cloned()
    }

    /// A page of logins, renewals and exchanges that succeeded, the newest first.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn logins(
        &self,
        credentials: Credentials<'_>,
        account: Option<PrincipalName>,
        mut query: LoginQuery,
    ) -> Result<Page<StoredLogin, u64>, Refusal> {
        let reader = self.reader(credentials)?;
        let on = match &account {
            None => ResourcePattern::everything(),
            Some(name) => {
                let id = reader.may_see(name)?;
                query.account = Some(id);
                let home = reader.home_of(id);
                home.map_or_else(ResourcePattern::everything, |home| {
                    ResourcePattern::exactly(&home)
                })
            }
        };
        reader.require("tokens:read", on)?;
        let page = self.replica.store().logins(query).await;
        page.map_err(|error| unavailable(&error))
    }
}

impl Reader {
    fn methods_of(&self, account: PrincipalId) -> Methods {
        let methods = LoginMethod::ALL.into_iter();
        let now_ms = self.now.latest;
        let methods: Vec<_> = methods
            .filter_map(|method| self.state.method(account, method).cloned())
            .collect();
        let locks_out = methods.iter().any(|one| one.settings.lockout.is_some());
        let locks = self.state.locks_of(account);
        Methods {
            locked: locks
                .filter(|(_, until_ms)| locks_out && *until_ms > now_ms)
                .collect(),
            methods,
            revision: self.revision(),
        }
    }

    fn home_of(&self, id: PrincipalId) -> Option<Resource> {
        self.state.principal(id).map(|record| record.home.clone())
    }
}
