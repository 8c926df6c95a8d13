//! The oracle's logins: credentials, methods, locks, seal keys, and what a login gives.
//!
//! Written from the documentation of the login and credential services and from DESIGN.md. A login
//! that writes nothing is no command: [`Oracle::granted`] says what it comes to.

use latchkey::domain::login::{ClientNetwork, LoginCause, LoginMethod, LoginSettings};
use latchkey::domain::principal::{PrincipalKind, PrincipalName};
use latchkey::domain::reason::Reason;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::state::decide::{Command, CreateCredential, CredentialForm, Login};
use latchkey::state::login::{LoginAsked, LoginRefused, Shown};

use super::super::algebra::Perm;
use super::sealed::{is_renewable, layers, life_s, method_of, ms, session_s};
use super::verbs::{Me, No, Outcome, change};
use super::{Lock, Method, Oracle, Seal, SealKey, Subject, Token, addresses_in, allows};

const MONTH_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
const LOCKS_MAX: usize = 64;

/// What a login gives.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub account: u32,
    /// The token as if it were sealed; its id is still to be made.
    pub token: Token,
    pub life_s: u32,
    pub period_s: Option<u32>,
    pub uses: Option<u32>,
    pub left: Option<u32>,
    pub renewable: bool,
    pub clipped: bool,
}

impl Given {
    /// "What lives longer than 30 days, or has a number of uses, is stored."
    pub(crate) fn is_stored(&self) -> bool {
        self.uses.is_some() || ms(self.life_s) > MONTH_MS
    }
}

impl Oracle {
    fn method(&self, account: u32, method: LoginMethod) -> Option<&Method> {
        let mut methods = self.methods.iter();
        methods.find(|one| one.account == account && one.method == method)
    }

    fn locked(&self, account: u32, network: &str, now: u64) -> bool {
        let mut locks = self.locks.iter();
        locks.any(|one| one.account == account && one.network == network && one.until > now)
    }

    /// What a login comes to at `now`.
    pub(crate) fn granted(&self, asked: &LoginAsked, now: u64) -> Result<Given, LoginRefused> {
        let now = now.max(self.instant);
        let account = self.named(&asked.account.to_string());
        let account = account.ok_or(LoginRefused::Wrong)?;
        let (shown_by, found) = match asked.shown {
            Shown::Secret(key) => (LoginMethod::UniversalAuth, self.by_key(key)),
            Shown::Key(id) => (LoginMethod::KeyPair, self.token(id).map(|one| (one, None))),
        };
        let network = ClientNetwork::of(asked.client_ip).to_string();
        let locks_out = self.method(account.id, shown_by);
        let locks_out = locks_out.is_some_and(|one| one.settings.lockout.is_some());
        if locks_out && self.locked(account.id, &network, now) {
            return Err(LoginRefused::Locked);
        }
        let of_account = |token: &Token| token.subject == Subject::Principal(account.id);
        let (credential, grace) = found
            .filter(|(token, _)| method_of(token.kind) == Some(shown_by) && of_account(token))
            .ok_or(LoginRefused::Wrong)?;
        let ended = |reason| Err(LoginRefused::Ended(LoginCause::Credential(reason)));
        if self.is_revoked(credential) {
            return ended(Reason::Revoked);
        }
        if account.disabled {
            return ended(Reason::SubjectDisabled);
        }
        let over = credential.expires.into_iter().chain(grace);
        if over.min().is_some_and(|at| at <= now) {
            return ended(Reason::Expired);
        }
        let method = self.method(account.id, shown_by);
        let method = method.filter(|one| one.made_at <= credential.made_at);
        let settings = match method {
            Some(method) => &method.settings,
            None => return Err(LoginRefused::Ended(LoginCause::NoMethod)),
        };
        if credential.not_before.is_some_and(|at| at > now) {
            return ended(Reason::NotYetValid);
        }
        let from_here = credential.used_from(asked.client_ip);
        if !from_here || !allows(&settings.login_networks, asked.client_ip) {
            return ended(Reason::Network);
        }
        let shows = |workload: &String| asked.peer.as_ref().is_some_and(|peer| peer.is(workload));
        if credential.workload.as_ref().is_some_and(|one| !shows(one)) {
            return ended(Reason::Workload);
        }
        if credential.uses_left == Some(0) {
            return ended(Reason::UsesExhausted);
        }
        Ok(self.gives(account.id, credential, settings, asked, now))
    }

    fn gives(
        &self,
        account: u32,
        credential: &Token,
        settings: &LoginSettings,
        asked: &LoginAsked,
        now: u64,
    ) -> Given {
        let longest = self.longest_s[TokenKind::Access as usize - 1];
        let shortest = |seconds: u32| longest.map_or(seconds, |longest| seconds.min(longest));
        let life = shortest(life_s(settings));
        let life = asked.ttl_s.map_or(life, |ttl| ttl.min(life));
        let session_end = session_s(settings)
            .map(shortest)
            .or(longest)
            .map(|session| now + ms(session));
        let ends = session_end.into_iter().chain(credential.expires);
        let expires = ends.fold(now + ms(life), u64::min);
        let id = TokenId::from_u128(0);
        let token = Token {
            scopes: layers(&asked.scopes),
            audience: asked.audience.as_ref().map(|one| one.as_str().to_owned()),
            seal: Some(Seal {
                key: 0,
                sessions: Vec::new(),
                issued: now,
                began: now,
                session_end,
            }),
            ..self.access(id, credential.id, &[], expires)
        };
        Given {
            account,
            token,
            life_s: life,
            period_s: settings.period_s,
            uses: settings.uses,
            left: credential.uses_left.map(|left| left - 1),
            renewable: is_renewable(settings) && settings.uses.is_none(),
            clipped: asked.ttl_s.is_some_and(|ttl| expires < now + ms(ttl)),
        }
    }
}

impl<'o> Me<'o> {
    pub(crate) fn login_verb(&self, command: &Command) -> Outcome {
        match command {
            Command::CreateCredential(create) => self.create_credential(create),
            Command::SetMethod(set) => self.set_method(&set.account, set.method, &set.settings),
            Command::RemoveMethod { account, method } => self.remove_method(account, *method),
            Command::Login(login) => self.login(login),
            Command::LockLogins {
                account,
                method,
                network,
            } => self.lock(account.0, *method, *network),
            Command::UnlockLogins { account, network } => self.unlock(account, *network),
            Command::MintBy { key, .. } => self.mint(key.0),
            Command::RetireKey(key) => self.retire(key.0),
            Command::RevokeKey(key) => self.revoke_key(key.0),
            Command::RaiseFormat(level) => self.raise(*level),
            other => panic!("the generator makes no {other:?}"),
        }
    }

    pub(super) fn require_server(&self) -> Result<(), No> {
        match self.token.is_none() {
            true => Ok(()),
            false => Err(No::NotPermitted(vec![Perm::new("*", "**").text()])),
        }
    }

    fn raise(&self, level: u32) -> Outcome {
        self.require_server()?;
        if level <= self.oracle.format {
            return Ok(None);
        }
        change("format.raise", move |oracle, _, _| oracle.format = level)
    }

    fn account(&self, name: &PrincipalName) -> Result<&'o super::Principal, No> {
        if name.kind() != PrincipalKind::Service {
            return Err(No::Invalid);
        }
        self.oracle.named(&name.to_string()).ok_or(No::NotFound)
    }

    /// "To hold all that the account holds": whoever makes a credential could log in as it.
    fn create_credential(&self, create: &CreateCredential) -> Outcome {
        let account = self.account(&create.account)?;
        self.require_seen("tokens:issue", "services:read", &account.home)?;
        let scopes = self.written_out(&create.scopes)?;
        self.hands_on(&self.oracle.live(account.id))?;
        if let Some(listed) = scopes.first() {
            self.hands_on(listed)?;
        }
        if account.disabled {
            return Err(No::Precondition);
        }
        let ceiling = match (&scopes.first(), self.token) {
            (None, Some(me)) if !self.may("*", "**") => self.oracle.power(me),
            _ => Vec::new(),
        };
        let (kind, key) = match &create.form {
            CredentialForm::Secret(digest) => (TokenKind::ClientSecret, digest.key()),
            CredentialForm::Key(key) => {
                let digest = key.digest(&create.account);
                (TokenKind::PublicKey, digest.key())
            }
        };
        let method = method_of(kind).and_then(|one| self.oracle.method(account.id, one));
        method.ok_or(No::Precondition)?;
        if create.uses == Some(0) || create.ttl_s == Some(0) {
            return Err(No::Invalid);
        }
        let longest = self.oracle.longest_s[kind as usize - 1];
        if longest
            .zip(create.ttl_s)
            .is_some_and(|(most, ttl)| ttl > most)
        {
            return Err(No::Invalid);
        }
        let expires = create.ttl_s.or(longest).map(|ttl| self.now + ms(ttl));
        let begins = create.not_before_ms;
        if begins
            .zip(expires)
            .is_some_and(|(begins, ends)| begins >= ends)
        {
            return Err(No::Invalid);
        }
        if self.oracle.by_key(key).is_some() || self.oracle.token(create.id).is_some() {
            return Err(No::AlreadyExists);
        }
        let token = Token {
            id: create.id,
            key,
            grace: None,
            kind,
            subject: Subject::Principal(account.id),
            scopes,
            ceiling,
            issuers: self.me_as_issuer(0).into_iter().collect(),
            parent: None,
            made_at: self.oracle.revision + 1,
            not_before: create.not_before_ms,
            expires,
            expires_max: None,
            ttl_s: None,
            period_s: None,
            uses_left: create.uses,
            addresses: addresses_in(&create.networks),
            networks: create.networks.iter().collect(),
            audience: None,
            workload: create.workload.as_ref().map(|one| one.as_str().to_owned()),
            rotation: 0,
            revoked: None,
            seal: None,
        };
        super::tokens::put("credential.create", token)
    }

    /// Who may say how an account logs in.
    fn governed(&self, name: &PrincipalName) -> Result<u32, No> {
        let account = self.account(name)?;
        self.require_seen("services:write", "services:read", &account.home)?;
        self.hands_on(&self.oracle.live(account.id))?;
        Ok(account.id)
    }

    fn set_method(
        &self,
        name: &PrincipalName,
        method: LoginMethod,
        settings: &LoginSettings,
    ) -> Outcome {
        let account = self.governed(name)?;
        if !is_valid(settings) {
            return Err(No::Invalid);
        }
        let former = self.oracle.method(account, method).cloned();
        if former.as_ref().is_some_and(|one| one.settings == *settings) {
            return Ok(None);
        }
        let settings = settings.clone();
        change("method.set", move |oracle, revision, _| {
            let made_at = former.map_or(revision, |former| former.made_at);
            let other = |one: &Method| one.account != account || one.method != method;
            oracle.methods.retain(other);
            oracle.methods.push(Method {
                account,
                method,
                made_at,
                settings,
            });
        })
    }

    /// It takes away, and so needs no more than the right to.
    fn remove_method(&self, name: &PrincipalName, method: LoginMethod) -> Outcome {
        let account = self.account(name)?;
        self.require_seen("services:write", "services:read", &account.home)?;
        let account = account.id;
        if self.oracle.method(account, method).is_none() {
            return Ok(None);
        }
        change("method.remove", move |oracle, _, _| {
            let other = |one: &Method| one.account != account || one.method != method;
            oracle.methods.retain(other);
        })
    }

    /// Spends a use, or stores the token, or both.
    fn login(&self, login: &Login) -> Outcome {
        self.require_server()?;
        let given = self.oracle.granted(&login.asked, self.now);
        let given = given.map_err(|refused| No::LoginRefused(refused.cause()))?;
        if !given.is_stored() && given.left.is_none() {
            return Ok(None);
        }
        let stored = given.is_stored().then(|| Token {
            id: login.id,
            key: login.digest.key(),
            made_at: self.oracle.revision + 1,
            expires_max: given.token.seal.as_ref().and_then(|seal| seal.session_end),
            ttl_s: Some(given.life_s),
            period_s: given.period_s,
            uses_left: given.uses,
            seal: None,
            ..given.token.clone()
        });
        change("login", move |oracle, _, _| {
            let credential = given.token.parent.and_then(|id| oracle.token_mut(id));
            if let (Some(credential), Some(left)) = (credential, given.left) {
                credential.uses_left = Some(left);
            }
            oracle.tokens.extend(stored);
        })
    }

    fn lock(&self, account: u32, method: LoginMethod, network: ClientNetwork) -> Outcome {
        self.require_server()?;
        self.oracle.principal(account).ok_or(No::NotFound)?;
        let policy = self.oracle.method(account, method);
        let Some(policy) = policy.and_then(|one| one.settings.lockout) else {
            return Ok(None);
        };
        let (now, network) = (self.now, network.to_string());
        let standing = self.oracle.locks.iter();
        let standing = standing.filter(|one| one.account == account && one.until > now);
        if self.oracle.locked(account, &network, now) || standing.count() >= LOCKS_MAX {
            return Ok(None);
        }
        change("login.lock", move |oracle, _, _| {
            oracle
                .locks
                .retain(|one| one.account != account || one.until > now);
            oracle.locks.push(Lock {
                account,
                network,
                until: now + ms(policy.duration_s),
            });
        })
    }

    fn unlock(&self, name: &PrincipalName, network: Option<ClientNetwork>) -> Outcome {
        let account = self.governed(name)?;
        let (now, network) = (self.now, network.map(|one| one.to_string()));
        let ends = move |one: &Lock| {
            let meant = network.as_ref().is_none_or(|only| *only == one.network);
            one.account == account && one.until > now && meant
        };
        if !self.oracle.locks.iter().any(&ends) {
            return Ok(None);
        }
        change("login.unlock", move |oracle, _, _| {
            oracle.locks.retain(|one| !ends(one));
        })
    }

    fn key(&self, id: u32) -> Option<&SealKey> {
        self.oracle.keys.iter().find(|key| key.id == id)
    }

    /// One key seals at a time.
    fn mint(&self, id: u32) -> Outcome {
        self.require("keys:write", "**")?;
        match self.key(id).map(|key| key.phase) {
            Some("minting") => return Ok(None),
            Some("retired" | "revoked") => return Err(No::Precondition),
            _ => {}
        }
        change("key.mint", move |oracle, _, now| {
            oracle.put_key(oracle.minting(), "verifying", now);
            oracle.put_key(Some(id), "minting", now);
        })
    }

    /// Once no token that it has sealed can be good any more.
    fn retire(&self, id: u32) -> Outcome {
        self.require("keys:write", "**")?;
        let key = self.key(id).ok_or(No::NotFound)?;
        match key.phase {
            "retired" => Ok(None),
            "verifying" if key.since + MONTH_MS <= self.now => {
                change("key.retire", move |oracle, _, now| {
                    oracle.put_key(Some(id), "retired", now);
                })
            }
            _ => Err(No::Precondition),
        }
    }

    fn revoke_key(&self, id: u32) -> Outcome {
        self.require("keys:write", "**")?;
        if self.key(id).ok_or(No::NotFound)?.phase == "revoked" {
            return Ok(None);
        }
        change("key.revoke", move |oracle, _, now| {
            oracle.put_key(Some(id), "revoked", now);
        })
    }
}

impl Oracle {
    fn put_key(&mut self, id: Option<u32>, phase: &'static str, since: u64) {
        let Some(id) = id else { return };
        self.keys.retain(|key| key.id != id);
        self.keys.push(SealKey { id, phase, since });
    }
}

fn is_valid(settings: &LoginSettings) -> bool {
    let seconds = [Some(settings.ttl_s), settings.max_ttl_s, settings.period_s];
    let max_ttl = settings.max_ttl_s;
    // Nothing beside it says how long tokens live; an hour is what nobody has set.
    let goes_by_period = settings.ttl_s == 3_600 && max_ttl.is_none() && settings.uses.is_none();
    let lockout = settings.lockout.is_none_or(|policy| {
        (1..=30).contains(&policy.threshold)
            && (30..=86_400).contains(&policy.duration_s)
            && (5..=3_600).contains(&policy.reset_s)
    });
    !seconds.contains(&Some(0))
        && max_ttl.is_none_or(|max| max >= settings.ttl_s)
        && (settings.period_s.is_none() || goes_by_period)
        && settings.uses != Some(0)
        && lockout
}
