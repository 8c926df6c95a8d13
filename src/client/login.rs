//! Logging in as a service account, and having a good access token at all times.
//!
//! Used by services that call Latchkey themselves, such as those that check requests. Promise: a
//! new token is fetched when two thirds of the life of the one before are over, on a clock that
//! runs in suspend; while that fails the old one is presented until it ends. A login is tried again
//! so seldom that it locks nobody out. Absent: renewals, for who can log in needs no session that
//! goes on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::Status;
use zeroize::Zeroizing;

use super::calls::{CallError, CallingToken, within};
use super::{Client, v1};
use crate::domain::entropy::OsEntropy;
use crate::domain::key_pair::{KeyPair, PairError, Statement};
use crate::domain::token::{TokenId, TokenKind, recognise};
use v1::login_request::Proof;

/// How long an assertion is good; it is sent at once.
const ASSERTION_LIFE_S: u64 = 60;
/// Until a login that has failed is tried again, at first and at the most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether the time has come; timers stand still in suspend.
const LOOK: Duration = Duration::from_secs(5);

/// Why a login cannot be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LoginError {
    /// Of the private key.
    #[error(transparent)]
    Key(#[from] PairError),
    /// Of the credential that it is registered as.
    #[error("the id of the credential is none")]
    CredentialId,
    /// Of the client secret.
    #[error("the secret is no client secret, or is cut off or mistyped")]
    Secret,
}

/// Who logs in and with what. `Debug` shows the account alone.
#[derive(Clone)]
pub struct Login {
    client_id: String,
    shown: Shown,
    ttl: Option<Duration>,
}

#[derive(Clone)]
enum Shown {
    Secret(Arc<Zeroizing<String>>),
    Pair {
        pair: Arc<KeyPair>,
        credential: TokenId,
        audience: String,
    },
}

impl Login {
    /// With a client secret; the client id is the account's name, `service:ci-runner`. White space
    /// around the secret is left off, as files end in it.
    ///
    /// # Errors
    /// [`LoginError::Secret`] for what can be none, which is never sent: as a guess it would count
    /// towards a lockout.
    pub fn with_secret(client_id: impl Into<String>, secret: &str) -> Result<Self, LoginError> {
        let secret = secret.trim();
        if recognise(secret) != Some(TokenKind::ClientSecret) {
            return Err(LoginError::Secret);
        }
        Ok(Self {
            client_id: client_id.into(),
            shown: Shown::Secret(Arc::new(Zeroizing::new(secret.to_owned()))),
            ttl: None,
        })
    }

    /// With a private key, PKCS#8 in PEM, whose public half is registered as this credential; the
    /// audience is one of the server's `login.audiences`.
    ///
    /// # Errors
    /// [`LoginError`].
    pub fn with_key(
        client_id: impl Into<String>,
        private_key: &str,
        credential_id: &str,
        audience: impl Into<String>,
    ) -> Result<Self, LoginError> {
        let credential = TokenId::parse(credential_id).ok_or(LoginError::CredentialId)?;
        Ok(Self {
            client_id: client_id.into(),
            shown: Shown::Pair {
                pair: Arc::new(KeyPair::parse_pem(private_key)?),
                credential,
                audience: audience.into(),
            },
            ttl: None,
        })
    }

    /// Asks for access tokens that live so long; otherwise they live as the account's settings say.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    fn request(&self, now_ms: u64) -> Result<v1::LoginRequest, PairError> {
        let proof = match &self.shown {
            Shown::Secret(secret) => Proof::ClientSecret(secret.to_string()),
            Shown::Pair {
                pair,
                credential,
                audience,
            } => Proof::Assertion(pair.assertion(&Statement {
                credential: *credential,
                client: &self.client_id,
                audience,
                now_s: now_ms / 1_000,
                life_s: ASSERTION_LIFE_S,
                jti: &TokenId::generate(now_ms, &OsEntropy).to_string(),
            })?),
        };
        Ok(v1::LoginRequest {
            client_id: self.client_id.clone(),
            proof: Some(proof),
            ttl: self.ttl.map(|ttl| prost_types::Duration {
                seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
                nanos: 0,
            }),
            ..v1::LoginRequest::default()
        })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.client_id)
    }
}

/// Keeps a client logged in until it is dropped.
#[derive(Debug)]
pub struct LoggedIn {
    failure: Arc<ArcSwapOption<CallError>>,
    task: JoinHandle<()>,
}

impl LoggedIn {
    /// Why the newest attempt to get another token failed; none if it did not.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<CallError>> {
        self.failure.load_full()
    }
}

impl Drop for LoggedIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Logs in, and presents what that gives as the caller's own token in every call, of clones
    /// of the answered client too. It is replaced in time for as long as what keeps it lives.
    ///
    /// # Errors
    /// See [`CallError`]; nothing is kept then.
    pub async fn login(mut self, login: Login) -> Result<(Self, LoggedIn), CallError> {
        self.token = Arc::default();
        let due_ms = self.fetch(&login).await?;
        let failure = Arc::default();
        let keeper = Keeper {
            client: self.clone(),
            login,
            failure: Arc::clone(&failure),
        };
        let task = tokio::spawn(keeper.run(due_ms, LOOK));
        Ok((self, LoggedIn { failure, task }))
    }

    /// Fetches a token and presents it from now on; when, in boot time, the next is due.
    async fn fetch(&self, login: &Login) -> Result<u64, CallError> {
        let request = login.request(self.clock.now().latest);
        let request = request.map_err(|error| unusable(&error.to_string()))?;
        let sent_ms = self.clock.boot_ms();
        let mut service = self.raw_logins();
        let answer = within(self.call_deadline, service.login(request)).await?;
        let given = answer.token.unwrap_or_default();
        let token = CallingToken::parse(&given.access_token);
        let token = token.map_err(|error| unusable(&error.to_string()))?;
        self.token.store(Some(Arc::new(token)));
        let life = Duration::try_from(given.expires_in.unwrap_or_default()).unwrap_or_default();
        // A life of nothing must not become a loop without a pause.
        Ok(after(sent_ms, (life * 2 / 3).max(RETRY_FIRST)))
    }
}

/// So much later, in milliseconds.
fn after(ms: u64, wait: Duration) -> u64 {
    ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn unusable(what: &str) -> CallError {
    CallError::Unavailable(Status::unavailable(what))
}

struct Keeper {
    client: Client,
    login: Login,
    failure: Arc<ArcSwapOption<CallError>>,
}

impl Keeper {
    async fn run(self, mut due_ms: u64, look: Duration) {
        let clock = self.client.clock();
        let mut retry = RETRY_FIRST;
        loop {
            let left = Duration::from_millis(due_ms.saturating_sub(clock.boot_ms()));
            if !left.is_zero() {
                sleep(left.min(look)).await;
                continue;
            }
            match self.client.fetch(&self.login).await {
                Ok(next_ms) => {
                    (due_ms, retry) = (next_ms, RETRY_FIRST);
                    self.failure.store(None);
                }
                Err(error) => {
                    due_ms = after(clock.boot_ms(), retry);
                    retry = (retry * 2).min(RETRY_MAX);
                    self.failure.store(Some(Arc::new(error)));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
