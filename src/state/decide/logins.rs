//! Credentials, login methods, logins that change something, sessions and seal keys.
//!
//! Whoever makes a credential for an account, or changes how it logs in, could log in as it: so
//! both obey the issue rule of a service token, and nobody comes to more than they hold. A login
//! that spends a use or whose token is stored is decided here, on the State that it changes; the
//! rest of them change nothing and never come here.

use crate::domain::change::{
    Change, CutOffTarget, Display, KeyPhase, NewToken, SealKeyRecord, Subject, TokenRecord,
};
use crate::domain::clock::UnixMs;
use crate::domain::entry::EntryKind;
use crate::domain::key::PublicKey;
use crate::domain::limits::{Networks, Uses, Workload};
use crate::domain::login::{ClientNetwork, LOCKS_MAX, LoginMethod, LoginSettings, MethodRecord};
use crate::domain::permission::ResourcePattern;
use crate::domain::principal::{PrincipalId, PrincipalKind, PrincipalName};
use crate::domain::refusal::Refusal;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::key::KeyId;
use crate::domain::seal::ring::Salt;
use crate::domain::seal::{REVOKED_KEPT_MS, SEALED_MS_MAX};
use crate::domain::token::{Digest, TokenId, TokenKind};

use super::super::directory::Principal;
use super::super::lineage::Lineage;
use super::super::login::{LoginAsked, grant};
use super::issue::too_large;
use super::{About, Judged, Outcome, ScopesAsked};

/// How far the clocks of two servers may part.
const SKEW_MS: UnixMs = 5 * 60 * 1_000;

/// What a credential is shown by.
#[derive(Clone, Debug)]
pub enum CredentialForm {
    /// A client secret with this digest.
    Secret(Digest),
    /// A private key whose public one this is.
    Key(PublicKey),
}

/// A credential that is asked for.
#[derive(Clone, Debug)]
pub struct CreateCredential {
    /// Its public name.
    pub id: TokenId,
    /// What it is shown by.
    pub form: CredentialForm,
    /// The service account that it logs in.
    pub account: PrincipalName,
    /// What access tokens that are born from it are narrowed to.
    pub scopes: ScopesAsked,
    /// How long it lives, in seconds; none is without end.
    pub ttl_s: Option<u32>,
    /// Not good before.
    pub not_before_ms: Option<UnixMs>,
    /// How many logins it is good for.
    pub uses: Option<u32>,
    /// From where it may log in.
    pub networks: Networks,
    /// Who must log in by it, and present what is born from it.
    pub workload: Option<Workload>,
    /// What the tables keep beside it.
    pub display: Display,
}

/// How an account shall log in.
#[derive(Clone, Debug)]
pub struct SetMethod {
    /// The account.
    pub account: PrincipalName,
    /// The method.
    pub method: LoginMethod,
    /// What holds for it.
    pub settings: LoginSettings,
}

/// A login that changes something.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who logs in by what.
    pub asked: LoginAsked,
    /// The token's id, and the digest of its secret if it is stored.
    pub id: TokenId,
    /// As above.
    pub digest: Digest,
    /// The last four characters of that secret.
    pub last4: String,
}

impl<'s> Judged<'s> {
    fn account(&self, name: &PrincipalName) -> Result<&'s Principal, Refusal> {
        if name.kind() != PrincipalKind::Service {
            let what = "names a service account: only they log in";
            return Err(Refusal::invalid("service_account", what));
        }
        let found = self.state.directory.named(name);
        found.ok_or(Refusal::NotFound(name.kind().name()))
    }

    pub(super) fn create_credential(
        &self,
        create: &CreateCredential,
    ) -> Result<(Outcome, About), Refusal> {
        let account = self.account(&create.account)?;
        let (kind, key, digest, public_key) = match &create.form {
            CredentialForm::Secret(digest) => {
                (TokenKind::ClientSecret, digest.key(), *digest, None)
            }
            CredentialForm::Key(key) => {
                let digest = key.digest(&create.account);
                (
                    TokenKind::PublicKey,
                    digest.key(),
                    digest,
                    Some(key.clone()),
                )
            }
        };
        // Rights first: a caller without any learns nothing from how the rest is refused.
        self.require_seen("tokens:issue", account)?;
        let scopes = self.written_out(&create.scopes)?;
        let ceiling = self.hand_over_account(account, &scopes)?;
        if let Some(method) = LoginMethod::of(kind).filter(|one| account.method(*one).is_none()) {
            return Err(not_set(method, &create.account));
        }
        let expires_ms = self.credential_end(kind, create)?;
        let tokens = &self.state.tokens;
        if tokens.knows_key(key) || self.state.token(create.id).is_some() {
            return Err(Refusal::AlreadyExists("credential, perhaps revoked,"));
        }
        let record = TokenRecord {
            id: create.id,
            key,
            kind,
            subject: Subject::Principal(account.record.id),
            scopes,
            ceiling,
            issuers: self.issuer(0).into_iter().collect(),
            parent: None,
            made_at: self.moment.revision,
            not_before_ms: create.not_before_ms,
            expires_ms,
            expires_max_ms: None,
            ttl_s: None,
            period_s: None,
            uses: create.uses.map(|limit| Uses { limit, left: limit }),
            networks: create.networks.clone(),
            audience: None,
            workload: create.workload.clone(),
            rotation: 0,
            grace: None,
            revoked: None,
            public_key,
        };
        let change = Change::PutToken {
            record: Box::new(record),
            digest: Some(digest),
            display: create.display.clone(),
        };
        let (kind, id) = (EntryKind::CredentialCreate, create.id);
        Ok(Self::change(kind, id, change, About::Token(id)))
    }

    /// Requires of a credential that it can log in again: not of one whose method is gone.
    pub(super) fn require_method(&self, record: &TokenRecord) -> Result<(), Refusal> {
        let (Some(method), Subject::Principal(id)) =
            (LoginMethod::of(record.kind), &record.subject)
        else {
            return Ok(());
        };
        if !self.state.lacks_method(record) {
            return Ok(());
        }
        let account = self.state.directory.principal(*id);
        let account = account.ok_or(Refusal::NotFound("credential"))?;
        if account.method(method).is_none() {
            return Err(not_set(method, &account.record.name));
        }
        let what =
            format!("{method} was set again after this credential was made: make another one");
        Err(Refusal::Precondition(what))
    }

    /// What a credential hands on is all that the account holds, also when its scopes narrow it:
    /// whoever logs in by it is taken for the account.
    pub(super) fn hand_over_account(
        &self,
        account: &Principal,
        scopes: &Scopes,
    ) -> Result<Option<PermissionSet>, Refusal> {
        self.hands_on(self.state.live_permissions(account))?;
        if let Scopes::Only(set) = scopes {
            self.hands_on(set.iter().cloned())?;
        }
        if account.record.disabled {
            let what = "the account is disabled: enable it first";
            return Err(Refusal::Precondition(what.to_owned()));
        }
        match scopes {
            Scopes::All => self.power.ceiling().map_err(too_large),
            Scopes::Only(_) => Ok(None),
        }
    }

    fn credential_end(
        &self,
        kind: TokenKind,
        create: &CreateCredential,
    ) -> Result<Option<UnixMs>, Refusal> {
        let longest = self.moment.lifetimes.of(kind);
        match (create.ttl_s, longest) {
            (Some(0), _) => return Err(Refusal::invalid("ttl", "is at least one second")),
            (Some(asked), Some(longest)) if asked > longest => {
                let what = format!("a {kind} lives at most {longest} s here");
                return Err(Refusal::invalid("ttl", what));
            }
            _ => {}
        }
        if create.uses == Some(0) {
            return Err(Refusal::invalid("uses", "is at least 1"));
        }
        let now = self.moment.now.latest;
        let ends = create.ttl_s.or(longest).map(|s| now + u64::from(s) * 1_000);
        if let (Some(begins), Some(ends)) = (create.not_before_ms, ends)
            && begins >= ends
        {
            return Err(Refusal::invalid("not_before", "is not before the expiry"));
        }
        Ok(ends)
    }

    /// An account of which the caller may say how it logs in.
    fn governed(&self, name: &PrincipalName) -> Result<&'s Principal, Refusal> {
        let account = self.account(name)?;
        self.require_seen("services:write", account)?;
        self.hands_on(self.state.live_permissions(account))?;
        Ok(account)
    }

    pub(super) fn set_method(&self, set: &SetMethod) -> Result<(Outcome, About), Refusal> {
        let SetMethod {
            account,
            method,
            settings,
        } = set;
        let method = *method;
        let principal = self.governed(account)?;
        settings.check()?;
        let id = principal.record.id;
        let former = principal.method(method);
        let record = MethodRecord {
            principal: id,
            method,
            made_at: former.map_or(self.moment.revision, |former| former.made_at),
            settings: settings.clone(),
        };
        let about = About::Method(id, method);
        if former == Some(&record) {
            return Ok((Outcome::Already, about));
        }
        let change = Change::PutMethod(Box::new(record));
        Ok(Self::change(EntryKind::MethodSet, account, change, about))
    }

    pub(super) fn remove_method(
        &self,
        account: &PrincipalName,
        method: LoginMethod,
    ) -> Result<(Outcome, About), Refusal> {
        let principal = self.account(account)?;
        // It takes away, and so needs no more than the right to.
        self.require_seen("services:write", principal)?;
        let id = principal.record.id;
        if principal.method(method).is_none() {
            return Ok((Outcome::Already, About::Nothing));
        }
        let change = Change::DeleteMethod {
            principal: id,
            method,
        };
        let kind = EntryKind::MethodRemove;
        Ok(Self::change(kind, account, change, About::Nothing))
    }

    /// A login that was found good is judged again on this State.
    pub(super) fn login(&self, login: &Login) -> Result<(Outcome, About), Refusal> {
        self.require_server()?;
        let now = self.moment.now;
        let granted = grant(self.state, &login.asked, now, self.moment.lifetimes)
            .map_err(|refused| Refusal::LoginRefused(refused.cause()))?;
        let origin = granted.claims.origin;
        let token = granted.is_stored().then(|| {
            Box::new(NewToken {
                record: granted.record(login.id, login.digest.key(), self.moment.revision),
                digest: login.digest,
                display: Display {
                    last4: Some(login.last4.clone()),
                    ..Display::default()
                },
            })
        });
        let about = match &token {
            Some(new) => About::Token(new.record.id),
            None => About::Nothing,
        };
        let spent = granted.left.map(|left| (origin, left));
        if spent.is_none() && token.is_none() {
            return Ok((Outcome::Already, about));
        }
        let change = Change::Login { spent, token };
        let target = &login.asked.account;
        Ok(Self::change(EntryKind::Login, target, change, about))
    }

    /// Locks logins of an account from one network out for a while, as its settings say.
    pub(super) fn lock_logins(
        &self,
        principal: PrincipalId,
        method: LoginMethod,
        network: ClientNetwork,
    ) -> Result<(Outcome, About), Refusal> {
        self.require_server()?;
        let account = self.state.directory.principal(principal);
        let account = account.ok_or(Refusal::NotFound("service"))?;
        let policy = account.method(method).and_then(|one| one.settings.lockout);
        let now = self.moment.now.latest;
        let already = Ok((Outcome::Already, About::Nothing));
        let Some(policy) = policy else {
            return already;
        };
        let locks = self.state.locks_of(principal);
        let standing: Vec<_> = locks.filter(|(_, until_ms)| *until_ms > now).collect();
        let is_locked = standing.iter().any(|(locked, _)| *locked == network);
        // Whoever has many networks shall not fill the log.
        if is_locked || standing.len() >= LOCKS_MAX {
            return already;
        }
        let change = Change::Lock {
            principal,
            network,
            until_ms: now + u64::from(policy.duration_s) * 1_000,
        };
        let (kind, target) = (EntryKind::LoginLock, &account.text);
        Ok(Self::change(kind, target, change, About::Nothing))
    }

    /// Ends the locks of an account that stand, or the one of a network.
    pub(super) fn unlock_logins(
        &self,
        name: &PrincipalName,
        network: Option<ClientNetwork>,
    ) -> Result<(Outcome, About), Refusal> {
        let account = self.governed(name)?;
        let principal = account.record.id;
        let now = self.moment.now.latest;
        let locks = self.state.locks_of(principal);
        let networks: Vec<_> = locks
            .filter(|(of, until_ms)| *until_ms > now && network.is_none_or(|only| only == *of))
            .map(|(of, _)| of)
            .collect();
        if networks.is_empty() {
            return Ok((Outcome::Already, About::Nothing));
        }
        let change = Change::Unlock {
            principal,
            networks,
        };
        let kind = EntryKind::LoginUnlock;
        Ok(Self::change(kind, name, change, About::Nothing))
    }

    /// Refuses a sealed token that was shown: its session, if it is of one, for as long as any
    /// token of that can live, and otherwise until its own end, which is that of its children.
    pub(super) fn revoke_sealed(
        &self,
        sealed: Sealed<'_>,
        compromised: bool,
    ) -> Result<(Outcome, About), Refusal> {
        let now = self.moment.now.latest;
        let lineage = Lineage::sealed(self.state, sealed);
        let account = lineage.principal();
        if lineage.is_session() {
            let until_ms = now + REVOKED_KEPT_MS;
            return self.revoke_session(sealed.id, account, until_ms, compromised);
        }
        // Bearers make such tokens as they like: what is over leaves no entry.
        if sealed.expires_ms <= now && !compromised {
            return Ok((Outcome::Already, About::Nothing));
        }
        let until_ms = sealed.expires_ms.max(now) + SKEW_MS;
        self.revoke_session(sealed.id, account, until_ms, compromised)
    }

    /// Refuses a session of sealed tokens, with all that was exchanged from it.
    pub(super) fn revoke_session(
        &self,
        id: TokenId,
        account: Option<PrincipalId>,
        until_ms: UnixMs,
        compromised: bool,
    ) -> Result<(Outcome, About), Refusal> {
        let session = id.session();
        let issued = CutOffTarget::IssuedByToken(session);
        if self.state.is_revoked(session) && (!compromised || self.state.cut_off(&issued) > 0) {
            return Ok((Outcome::Already, About::Nothing));
        }
        let change = Change::RevokeSession {
            session,
            account,
            until_ms,
            compromised,
        };
        let kind = EntryKind::SessionRevoke;
        Ok(Self::change(kind, id, change, About::Nothing))
    }

    /// Whether an id can be that of a session: it is of the form that is made here, and not of
    /// the future, as far as clocks agree. A session that is renewed for ever may be old.
    pub(super) fn require_possible(&self, id: TokenId) -> Result<(), Refusal> {
        if id.is_made_here() && id.created_ms() <= self.moment.now.latest + SKEW_MS {
            Ok(())
        } else {
            Err(Refusal::NotFound("token"))
        }
    }

    fn key_change(kind: EntryKind, id: KeyId, keys: Vec<SealKeyRecord>) -> (Outcome, About) {
        let change = Change::PutSealKeys(keys);
        Self::change(kind, id, change, About::Nothing)
    }

    fn require_keys(&self) -> Result<(), Refusal> {
        self.require_on("keys:write", ResourcePattern::everything())
    }

    fn known_key(&self, id: KeyId) -> Result<SealKeyRecord, Refusal> {
        let found = self.state.seal_key(id).copied();
        found.ok_or(Refusal::NotFound("key"))
    }

    /// New tokens are sealed by this key from now on; that every server has loaded it was seen
    /// before.
    pub(super) fn mint_by(&self, id: KeyId, salt: Salt) -> Result<(Outcome, About), Refusal> {
        self.require_keys()?;
        let since_ms = self.moment.now.latest;
        let phase = KeyPhase::Minting;
        let record = match self.state.seal_key(id) {
            None => SealKeyRecord {
                id,
                salt,
                phase,
                since_ms,
            },
            Some(known) => match known.phase {
                KeyPhase::Minting => return Ok((Outcome::Already, About::Nothing)),
                KeyPhase::Verifying => SealKeyRecord {
                    phase,
                    since_ms,
                    ..*known
                },
                KeyPhase::Retired | KeyPhase::Revoked => {
                    let what = format!(
                        "key {id} is {}: generate another (latchkey seal-key generate)",
                        known.phase.name()
                    );
                    return Err(Refusal::Precondition(what));
                }
            },
        };
        let former = self.state.minting_key().map(|former| SealKeyRecord {
            phase: KeyPhase::Verifying,
            since_ms,
            ..*former
        });
        let keys = former.into_iter().chain([record]).collect();
        Ok(Self::key_change(EntryKind::KeyMint, id, keys))
    }

    /// What it has sealed has ended: it need not be loaded any more.
    pub(super) fn retire_key(&self, id: KeyId) -> Result<(Outcome, About), Refusal> {
        self.require_keys()?;
        let known = self.known_key(id)?;
        let now = self.moment.now.latest;
        let ended = known.since_ms + SEALED_MS_MAX;
        match known.phase {
            KeyPhase::Retired => Ok((Outcome::Already, About::Nothing)),
            KeyPhase::Verifying if ended <= now => {
                let record = SealKeyRecord {
                    phase: KeyPhase::Retired,
                    since_ms: now,
                    ..known
                };
                Ok(Self::key_change(EntryKind::KeyRetire, id, vec![record]))
            }
            KeyPhase::Verifying => {
                let hours = (ended - now).div_ceil(60 * 60 * 1_000);
                let what = format!(
                    "tokens that key {id} sealed may live for {hours} hours more; wait, or revoke \
                     it, which ends them"
                );
                Err(Refusal::Precondition(what))
            }
            KeyPhase::Minting => {
                let what = format!("key {id} seals new tokens: rotate to another first");
                Err(Refusal::Precondition(what))
            }
            KeyPhase::Revoked => {
                let what = format!("key {id} is revoked: it need not be loaded any more");
                Err(Refusal::Precondition(what))
            }
        }
    }

    /// All that it has sealed is refused from now on.
    pub(super) fn revoke_key(&self, id: KeyId) -> Result<(Outcome, About), Refusal> {
        self.require_keys()?;
        let known = self.known_key(id)?;
        if known.phase == KeyPhase::Revoked {
            return Ok((Outcome::Already, About::Nothing));
        }
        let record = SealKeyRecord {
            phase: KeyPhase::Revoked,
            since_ms: self.moment.now.latest,
            ..known
        };
        Ok(Self::key_change(EntryKind::KeyRevoke, id, vec![record]))
    }
}

fn not_set(method: LoginMethod, account: &PrincipalName) -> Refusal {
    let (name, word) = (account.name(), method.name().replace('_', "-"));
    Refusal::Precondition(format!(
        "{method} is not set on {account}: set it first (latchkey service login-method set {name} \
         {word})"
    ))
}
