//! Logins: a credential is shown, and an access token is given for it.
//!
//! ```text
//! secret or assertion ─► grant (State) ─┬─► seal                        nothing is written
//!                                       └─► change, durable ─► seal or store
//!                  refused ─► counted (`lockout`)
//! ```
//!
//! A guess is told nothing: an account that is not there, a wrong secret and a locked network look
//! the same and cost the same. Who shows the right credential, or can sign with its key, is told
//! why it is good for nothing; what cannot be read is told so whoever's it is, and is no guess.
//! A token is sealed only while this server may answer Checks, and after all that the login spends
//! is durable. Absent on purpose: rules, which are `state::login`'s.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::domain::assertion::{Assertion, Wrong};
use crate::domain::chain::Revision;
use crate::domain::change::{Change, SealKeyRecord, Subject};
use crate::domain::clock::{Now, UnixMs};
use crate::domain::limits::Audience;
use crate::domain::login::{ClientNetwork, LoginCause, LoginMethod};
use crate::domain::principal::PrincipalName;
use crate::domain::refusal::Refusal;
use crate::domain::scopes::Scopes;
use crate::domain::seal::claims::Claims;
use crate::domain::token::{Digest, Secret, TokenId, TokenKind, recognise};
use crate::replica::unavailable;
use crate::state::State;
use crate::state::decide::{Caller, Command, Envelope, Login, Outcome};
use crate::state::login::{Granted, LoginAsked, LoginRefused, Shown, exchange, grant, renew};
use crate::store::logins::{LoginKind, LoginNoted, OneTime};

use super::callers::not_loaded;
use super::lockout::{Guess, failure_key};
use super::outcome::LoginOutcome;
use super::{Authority, Credentials};

pub use crate::state::login::ExchangeAsked;

/// What a login shows.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// A client secret.
    Secret(&'a str),
    /// An assertion, signed with a registered key.
    Assertion(&'a str),
}

impl<'a> Proof<'a> {
    /// The method that it is shown by.
    #[must_use]
    pub fn method(&self) -> LoginMethod {
        match self {
            Self::Secret(_) => LoginMethod::UniversalAuth,
            Self::Assertion(_) => LoginMethod::KeyPair,
        }
    }

    /// Reads it, knowing nothing of who has shown it: so whoever wrote it wrongly may be told.
    fn read(&self) -> Result<Legible<'a>, Refusal> {
        match self {
            Self::Secret(secret) => Ok(Legible::Secret(secret)),
            Self::Assertion(text) => match Assertion::parse(text) {
                Ok(assertion) => Ok(Legible::Assertion(Box::new(assertion))),
                Err(wrong) => Err(Refusal::invalid("assertion", wrong)),
            },
        }
    }
}

/// What was shown, and could be read.
enum Legible<'a> {
    Secret(&'a str),
    Assertion(Box<Assertion<'a>>),
}

/// A login.
#[derive(Clone)]
pub struct LoginCall<'a> {
    /// Who it says it is: the name of a service account.
    pub client_id: &'a str,
    /// What it shows.
    pub proof: Proof<'a>,
    /// Where it comes from.
    pub credentials: Credentials<'a>,
    /// How long the token shall live, in seconds.
    pub ttl_s: Option<u32>,
    /// What it shall be narrowed to.
    pub scopes: Scopes,
    /// For whom it shall be.
    pub audience: Option<Audience>,
}

/// An access token that was given.
pub struct Given {
    /// Its text: in this answer and nowhere else.
    pub text: Zeroizing<String>,
    /// Its public name.
    pub id: TokenId,
    /// How long it lives, in milliseconds.
    pub life_ms: u64,
    /// When it expires.
    pub expires_ms: UnixMs,
    /// How far it can be renewed; none if it cannot be, or for ever.
    pub session_end_ms: Option<UnixMs>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Whether it has a row of its own instead of a seal.
    pub stored: bool,
    /// Whether its end is earlier than was asked for.
    pub clipped: bool,
    /// The revision that it was decided at.
    pub revision: Revision,
}

/// A login whose credential is good, before anything is spent.
struct Accepted {
    asked: LoginAsked,
    granted: Granted,
    // What an assertion uses up.
    once: Option<OneTime>,
}

/// Why a login came to nothing.
enum Failed {
    Refused(LoginRefused),
    Unable(Refusal),
}

impl From<LoginRefused> for Failed {
    fn from(refused: LoginRefused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Unable(refusal)
    }
}

impl Authority {
    /// Exchanges a credential for an access token; also what became of it, for the operator.
    ///
    /// # Errors
    /// [`Refusal::LoginRefused`], and [`Refusal::Unavailable`] when this server cannot know now.
    pub async fn login(&self, call: &LoginCall<'_>) -> (LoginOutcome, Result<Given, Refusal>) {
        let given = self.attempt(call).await;
        let outcome = match &given {
            Ok(_) => LoginOutcome::Given,
            Err(Failed::Refused(refused)) => {
                let name = PrincipalName::parse(call.client_id);
                let state = self.replica.state();
                let account = name.and_then(|name| state.principal_named(&name));
                LoginOutcome::refused(*refused, account.is_some())
            }
            Err(Failed::Unable(refusal)) => LoginOutcome::unable(refusal),
        };
        (outcome, self.told(call, given).await)
    }

    async fn attempt(&self, call: &LoginCall<'_>) -> Result<Given, Failed> {
        let shown = call.proof.read()?;
        self.require_vouched_for()?;
        let accepted = self.granted(call, shown).await?;
        self.give(accepted).await
    }

    /// What the client is told of it; guesses are counted.
    async fn told(
        &self,
        call: &LoginCall<'_>,
        given: Result<Given, Failed>,
    ) -> Result<Given, Refusal> {
        let client_ip = self.client_ip(call.credentials);
        // Behind a proxy of many clients nobody is locked out for another.
        let is_proxy = client_ip != call.credentials.client_ip;
        let network = ClientNetwork::of(client_ip);
        let key = failure_key(call.client_id, network);
        match given {
            Ok(given) => {
                self.succeeded(key).await;
                Ok(given)
            }
            Err(Failed::Refused(LoginRefused::Wrong)) => {
                if !is_proxy {
                    self.count_failure(Guess {
                        account: PrincipalName::parse(call.client_id),
                        method: call.proof.method(),
                        network,
                        key,
                        now_ms: self.replica.clock().now().latest,
                    });
                }
                Err(Refusal::LoginRefused(None))
            }
            Err(Failed::Refused(refused)) => Err(Refusal::LoginRefused(refused.cause())),
            Err(Failed::Unable(refusal)) => Err(refusal),
        }
    }

    /// What the credential gives, on the published State.
    async fn granted(&self, call: &LoginCall<'_>, shown: Legible<'_>) -> Result<Accepted, Failed> {
        let wrong = LoginRefused::Wrong;
        let account = PrincipalName::parse(call.client_id).ok_or(wrong)?;
        let (shown, once) = match shown {
            Legible::Secret(secret) => {
                let is_ours = recognise(secret) == Some(TokenKind::ClientSecret);
                let key = is_ours.then(|| Digest::of(secret).key()).ok_or(wrong)?;
                // Another server may have made it, and this one may be behind.
                self.comes_to_know(|state| state.token_by_key(key).is_some())
                    .await?;
                (Shown::Secret(key), None)
            }
            Legible::Assertion(assertion) => {
                let (credential, once) = self.asserted(call.client_id, &assertion).await?;
                (Shown::Key(credential), Some(once))
            }
        };
        let asked = LoginAsked {
            account,
            shown,
            client_ip: self.client_ip(call.credentials),
            peer: call.credentials.peer.cloned(),
            ttl_s: call.ttl_s,
            scopes: call.scopes.clone(),
            audience: call.audience.clone(),
        };
        let state = self.replica.state_full();
        let now = self.replica.clock().now();
        let granted = grant(&state, &asked, now, self.replica.lifetimes())?;
        Ok(Accepted {
            asked,
            granted,
            once,
        })
    }

    /// The credential that has signed an assertion, and what must be used up for it.
    async fn asserted(
        &self,
        client_id: &str,
        assertion: &Assertion<'_>,
    ) -> Result<(TokenId, OneTime), Failed> {
        let credential = assertion.credential();
        self.comes_to_know(|state| state.token(credential).is_some())
            .await?;
        let record = self.replica.state().token(credential);
        let key = record.and_then(|record| record.public_key);
        let key = key.ok_or(LoginRefused::Wrong)?;
        let now = self.replica.clock().now();
        let stated = assertion.verify(&key).map_err(unfit)?;
        let once = stated
            .check(client_id, &self.audiences, now)
            .map_err(unfit)?;
        let once = OneTime {
            id: once.id,
            now_ms: now.latest,
            until_ms: once.until_ms,
        };
        Ok((credential, once))
    }

    /// Makes the token, and then spends what it costs, durably, before it is given.
    async fn give(&self, shown: Accepted) -> Result<Given, Failed> {
        let Accepted {
            asked,
            granted,
            once,
        } = shown;
        let from = asked.client_ip;
        let id = self.new_token_id();
        let secret = Secret::generate(TokenKind::Access, &*self.entropy);
        let claims = Claims {
            id,
            ..granted.claims.clone()
        };
        // What cannot be made costs nothing.
        let sealed = match granted.is_stored() {
            true => None,
            false => Some(self.sealed(&claims, &self.minting_key().await?)?),
        };
        if let Some(once) = once {
            let first = self.replica.store().consume(&once).await;
            if !first.map_err(|error| unavailable(&error))? {
                return Err(LoginRefused::Ended(LoginCause::Replayed).into());
            }
        }
        let mut revision = self.replica.state().head().revision();
        let mut stored = false;
        if granted.is_stored() || granted.left.is_some() {
            let login = Login {
                asked,
                id,
                digest: secret.digest(),
                last4: secret.last4().to_owned(),
            };
            (revision, stored) = self.spend(Command::Login(Box::new(login))).await?;
        }
        // The writer judges by the settings of its moment.
        let text = match (stored, sealed) {
            (true, _) => Zeroizing::new(secret.reveal().to_owned()),
            (false, Some(sealed)) => sealed,
            (false, None) => self.sealed(&claims, &self.minting_key().await?)?,
        };
        self.require_vouched_for()?;
        self.replica.note_login(LoginNoted {
            at_ms: claims.issued_ms,
            kind: LoginKind::Login,
            account: Some(granted.account),
            credential: claims.origin,
            parent: None,
            token: id,
            from,
            expires_ms: claims.expires_ms,
        });
        self.replica
            .note_used(claims.origin, claims.issued_ms, from);
        let mut given = Given::of(text, &claims, revision);
        given.renewable = granted.renewable;
        given.stored = stored;
        given.clipped = granted.clipped;
        Ok(given)
    }

    /// Carries out a login that changes something; the revision, and whether it stored a token.
    async fn spend(&self, command: Command) -> Result<(Revision, bool), Refusal> {
        let envelope = Envelope {
            caller: Caller::System,
            reason: String::new(),
            request: None,
            command,
        };
        let done = self.replica.submit(envelope).await?;
        match done.decided.outcome {
            Outcome::Change {
                change: Change::Login { token, .. },
                ..
            } => Ok((done.revision, token.is_some())),
            // There is nothing to spend or to store any more.
            Outcome::Already => Ok((done.revision, false)),
            _ => Err(Refusal::LoginRefused(None)),
        }
    }

    /// The next access token of the session of the calling one.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn renew_access(
        &self,
        credentials: Credentials<'_>,
        ttl_s: Option<u32>,
    ) -> Result<Given, Refusal> {
        let (caller, state, now) = self.presented(credentials).await?;
        let (claims, clipped) = renew(&state, &caller, ttl_s, now, self.replica.lifetimes())?;
        let text = self.sealed(&claims, &self.minting_key().await?)?;
        self.note_given(&state, &caller, LoginKind::Renewal, &claims, now.latest);
        let mut given = Given::of(text, &claims, state.head().revision());
        given.renewable = true;
        given.clipped = clipped;
        Ok(given)
    }

    /// A narrower, shorter token for the one that is presented (RFC 8693).
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn exchange(
        &self,
        credentials: Credentials<'_>,
        asked: &ExchangeAsked,
    ) -> Result<Given, Refusal> {
        let (caller, state, now) = self.presented(credentials).await?;
        let mut claims = exchange(&state, &caller, asked, now, self.replica.lifetimes())?;
        claims.id = self.new_token_id();
        let text = self.sealed(&claims, &self.minting_key().await?)?;
        self.note_given(&state, &caller, LoginKind::Exchange, &claims, now.latest);
        let given = Given::of(text, &claims, state.head().revision());
        let wanted_ms = asked.ttl_s.map(|seconds| u64::from(seconds) * 1_000);
        Ok(Given {
            life_ms: claims.expires_ms.saturating_sub(now.latest),
            clipped: wanted_ms.is_some_and(|wanted| claims.expires_ms < now.latest + wanted),
            ..given
        })
    }

    /// Who presents a token to be given another for it, and the State and the instant that it is
    /// judged by.
    async fn presented(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<(Caller, Arc<State>, Now), Refusal> {
        self.require_vouched_for()?;
        let caller = self.caller(credentials)?;
        self.look_for(&caller).await?;
        Ok((
            caller,
            self.replica.state_full(),
            self.replica.clock().now(),
        ))
    }

    /// Notes a token that a caller was given for its own.
    fn note_given(
        &self,
        state: &State,
        caller: &Caller,
        kind: LoginKind,
        claims: &Claims,
        now_ms: UnixMs,
    ) {
        let account = match state.subject_of(caller) {
            Some(Subject::Principal(account)) => Some(account),
            _ => None,
        };
        self.replica.note_login(LoginNoted {
            at_ms: now_ms,
            kind,
            account,
            credential: claims.origin,
            parent: state.calling(caller),
            token: claims.id,
            from: caller.client_ip(),
            expires_ms: claims.expires_ms,
        });
        self.note_used(state, caller, now_ms);
    }

    /// The text of claims that were decided on.
    fn sealed(&self, claims: &Claims, key: &SealKeyRecord) -> Result<Zeroizing<String>, Refusal> {
        // Decided on a State that was vouched for, and given only while this server may answer.
        self.require_vouched_for()?;
        let seals = self.replica.seals().load();
        if !seals.has(key.id) {
            return Err(not_loaded(key.id));
        }
        let text = seals.seal(claims, key.id, &key.salt).map(Zeroizing::new);
        text.ok_or_else(|| {
            let what =
                "the access token would be longer than 2048 characters; ask for fewer scopes";
            Refusal::Limit(what.to_owned())
        })
    }
}

/// Why an assertion that could be read logs nobody in: whoever can sign guesses nothing.
fn unfit(wrong: Wrong) -> LoginRefused {
    LoginRefused::Ended(match wrong {
        Wrong::Form(_) | Wrong::Signature => return LoginRefused::Wrong,
        Wrong::Client => LoginCause::OtherClient,
        Wrong::Audience => LoginCause::OtherAudience,
        Wrong::Expired => LoginCause::AssertionExpired,
        Wrong::Early => LoginCause::AssertionEarly,
        Wrong::FarAhead => LoginCause::TooFarAhead,
    })
}

impl Given {
    fn of(text: Zeroizing<String>, claims: &Claims, revision: Revision) -> Self {
        Self {
            text,
            id: claims.id,
            life_ms: claims.expires_ms.saturating_sub(claims.issued_ms),
            expires_ms: claims.expires_ms,
            session_end_ms: claims.session_end_ms,
            renewable: false,
            stored: false,
            clipped: false,
            revision,
        }
    }
}
