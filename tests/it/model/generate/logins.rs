//! Random logins: credentials, methods, locks, keys and what is done with what they give.
//!
//! Part of the generator. Which account a credential is of, and which sealed tokens are good, is
//! looked up, so that most logins are let in.

use std::sync::Arc;

use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::key::Algorithm;
use latchkey::domain::key_pair::KeyPair;
use latchkey::domain::login::{ClientNetwork, LockoutPolicy, LoginMethod, LoginSettings};
use latchkey::domain::peer::Proven;
use latchkey::domain::principal::PrincipalId;
use latchkey::domain::scopes::{PermissionSet, ScopeEntry, Scopes};
use latchkey::domain::seal::key::KeyId;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::state::decide::{
    Caller, Command, CreateCredential, CredentialForm, CutOffRequest, Envelope, Login,
    RevokeTarget, ScopesAsked, SetMethod,
};
use latchkey::state::login::{ExchangeAsked, LoginAsked, Shown};

use super::super::commands::{create_principal, envelope, name, resource};
use super::super::oracle::{Asked, Oracle, Place, Subject};
use super::super::sealed::{LoginStep, Shower};
use super::{ADDRESSES, Generator, Known, PRINCIPALS, Reason};

const SERVICES: [&str; 2] = ["service:s1", "service:s2"];
const METHODS: [LoginMethod; 3] = [
    LoginMethod::UniversalAuth,
    LoginMethod::UniversalAuth,
    LoginMethod::KeyPair,
];
/// Public keys are few, so that they come again.
const KEY_PAIRS: u64 = 6;
const SEAL_KEYS: u32 = 3;
const THUMBPRINT: &str = "x5t#S256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What a login can be made by.
#[derive(Clone, Copy)]
pub(super) struct Credential {
    shown: Shown,
    account: &'static str,
}

fn key_pair(number: u64) -> KeyPair {
    let entropy = SeededEntropy::new(0x5EED ^ number);
    KeyPair::generate(Algorithm::Ed25519, &entropy).expect("a pair")
}

fn lockout() -> LockoutPolicy {
    LockoutPolicy {
        duration_s: 600,
        ..LockoutPolicy::default()
    }
}

impl Generator {
    /// What every run knows of logins from the beginning.
    pub(super) fn logins_setup(&mut self, now: u64) -> Vec<Command> {
        let mut commands = vec![Command::RaiseFormat(2), self.mint(1)];
        for account in SERVICES {
            for method in [LoginMethod::UniversalAuth, LoginMethod::KeyPair] {
                let settings = LoginSettings {
                    max_ttl_s: Some(7_200),
                    ..LoginSettings::default()
                };
                commands.push(set_method(account, method, settings));
            }
            for (is_key, uses) in [(false, None), (false, Some(1)), (true, None)] {
                let mut create = self.credential(account, is_key, now);
                create.scopes = ScopesAsked::All;
                create.uses = uses;
                commands.push(Command::CreateCredential(Box::new(create)));
            }
        }
        commands
    }

    /// An account that logs in by a secret, and a session that is over.
    pub(super) fn logins_ending(&mut self, now: u64) -> Vec<Command> {
        let account = SERVICES[0];
        let settings = LoginSettings {
            max_ttl_s: Some(7_200),
            ..LoginSettings::default()
        };
        let mut create = self.credential(account, false, now);
        create.scopes = ScopesAsked::All;
        let session = TokenId::generate(now, &self.entropy);
        vec![
            create_principal(account, "a"),
            Command::SetDisabled {
                name: name(account),
                disabled: false,
            },
            set_method(account, LoginMethod::UniversalAuth, settings),
            Command::CreateCredential(Box::new(create)),
            Command::RevokeToken {
                target: RevokeTarget::Session(session),
                compromised: false,
            },
        ]
    }

    /// Locks a network out of that account.
    pub(crate) fn lock(&mut self, oracle: &Oracle) -> Envelope {
        let account = oracle.named(SERVICES[0]).expect("an account");
        let lock = Command::LockLogins {
            account: PrincipalId(account.id),
            method: LoginMethod::UniversalAuth,
            network: ClientNetwork::of(None),
        };
        envelope(Caller::System, lock)
    }

    /// Looks which credentials there are, and which sealed tokens.
    pub(crate) fn look_at_logins(
        &mut self,
        oracle: &Oracle,
        sealed: &[(TokenId, Arc<[u8]>)],
        now: u64,
    ) {
        self.credentials = self
            .known
            .iter()
            .filter_map(|one| {
                let (token, _) = oracle.by_key(one.key)?;
                let Subject::Principal(id) = token.subject else {
                    return None;
                };
                let account = oracle.principal(id)?;
                let account = SERVICES.into_iter().find(|name| *name == account.name)?;
                let shown = match token.kind {
                    TokenKind::ClientSecret => Shown::Secret(one.key),
                    TokenKind::PublicKey => Shown::Key(one.id),
                    _ => return None,
                };
                Some(Credential { shown, account })
            })
            .collect();
        let asked = Asked {
            address: ADDRESSES[0].parse().ok(),
            ..Asked::default()
        };
        let now = now.max(oracle.instant);
        let good = |id: TokenId| {
            let token = oracle.sealed(id);
            token.is_some_and(|one| oracle.judge(one, None, &asked, now) == Reason::Allowed)
        };
        self.sealed = sealed.to_vec();
        self.good_sealed = sealed.iter().filter(|(id, _)| good(*id)).cloned().collect();
    }

    /// One of the sealed tokens, mostly a good one.
    pub(super) fn any_sealed(&mut self) -> Option<(TokenId, Arc<[u8]>)> {
        let good = !self.good_sealed.is_empty() && self.dice.percent(85);
        let among = if good {
            &self.good_sealed
        } else {
            &self.sealed
        };
        let at = self.dice.below(among.len().max(1));
        among.get(at).cloned()
    }

    fn credential(&mut self, account: &str, is_key: bool, now: u64) -> CreateCredential {
        let (id, form) = if is_key {
            let pair = key_pair(self.dice.below(KEY_PAIRS as usize) as u64);
            let id = TokenId::generate(now, &self.entropy);
            let key = pair.public().clone();
            self.known.push(Known {
                text: String::new(),
                key: key.digest(&name(account)).key(),
                id,
                kind: TokenKind::PublicKey,
            });
            (id, CredentialForm::Key(key))
        } else {
            let (id, digest) = self.secret(TokenKind::ClientSecret, now);
            (id, CredentialForm::Secret(digest))
        };
        CreateCredential {
            id,
            form,
            account: name(account),
            scopes: self.scopes(),
            ttl_s: None,
            not_before_ms: None,
            uses: None,
            networks: Default::default(),
            workload: None,
            display: Default::default(),
        }
    }

    fn create_credential(&mut self, now: u64) -> Command {
        let account = match self.dice.percent(4) {
            true => self.dice.one(&PRINCIPALS),
            false => self.dice.one(&SERVICES),
        };
        let is_key = self.dice.percent(35);
        let mut create = self.credential(account, is_key, now);
        if self.dice.percent(50) {
            create.scopes = ScopesAsked::All;
        }
        if self.dice.percent(25) {
            create.ttl_s = self.dice.one(&[Some(0), Some(30), Some(900), Some(80_000)]);
        }
        if self.dice.percent(25) {
            create.not_before_ms = Some(now + 1_000 * self.dice.below(60) as u64);
        }
        if self.dice.percent(35) {
            create.uses = Some(self.dice.below(3) as u32);
        }
        if self.dice.percent(12) {
            create.networks = self.networks();
        }
        if self.dice.percent(20) {
            create.workload = self.workload();
        }
        Command::CreateCredential(Box::new(create))
    }

    fn settings(&mut self) -> LoginSettings {
        let mut settings = LoginSettings {
            ttl_s: self.dice.one(&[30, 600, 3_600, 3_600]),
            lockout: self.dice.percent(85).then(lockout),
            ..LoginSettings::default()
        };
        match self.dice.below(8) {
            0..4 => settings.max_ttl_s = self.dice.one(&[Some(600), Some(7_200)]),
            4 | 5 => {
                settings.period_s = self.dice.one(&[Some(0), Some(60), Some(900)]);
                if self.dice.percent(80) {
                    settings.ttl_s = LoginSettings::default().ttl_s;
                }
            }
            _ => {}
        }
        let counts = if settings.period_s.is_some() { 5 } else { 15 };
        if self.dice.percent(counts) {
            settings.uses = Some(self.dice.below(4) as u32);
        }
        if self.dice.percent(5) {
            // Longer than anything sealed.
            (settings.ttl_s, settings.max_ttl_s) = (3_000_000, None);
        }
        if self.dice.percent(15) {
            settings.networks = self.networks();
        }
        if self.dice.percent(15) {
            settings.login_networks = self.networks();
        }
        settings
    }

    /// From where a call comes.
    pub(super) fn place(&mut self) -> Place {
        Place {
            address: self.address(),
            peer: self.peer(),
        }
    }

    fn peer(&mut self) -> Option<Arc<Proven>> {
        let workload = self.workload()?;
        let peer = Proven::new(Some(workload.as_str()), Vec::new(), THUMBPRINT);
        Some(Arc::new(peer.expect("a thumbprint")))
    }

    fn asked_login(&mut self) -> LoginAsked {
        let credential = match self.credentials.is_empty() || self.dice.percent(12) {
            true => Credential {
                shown: Shown::Secret(self.any_known().key),
                account: self.dice.one(&SERVICES),
            },
            false => {
                let at = self.dice.below(self.credentials.len());
                self.credentials[at]
            }
        };
        let account = match self.dice.percent(5) {
            true => self.dice.one(&PRINCIPALS),
            false => credential.account,
        };
        LoginAsked {
            account: name(account),
            shown: credential.shown,
            client_ip: self.address(),
            peer: self.peer(),
            ttl_s: self
                .dice
                .one(&[None, None, Some(10), Some(1_000), Some(100_000)]),
            scopes: self.listed(),
            audience: self.audience().filter(|_| self.dice.percent(30)),
        }
    }

    /// Scopes that are written out already.
    fn listed(&mut self) -> Scopes {
        if self.dice.percent(60) {
            return Scopes::All;
        }
        let ScopesAsked::Only(entries) = self.scopes() else {
            return Scopes::All;
        };
        let listed = entries.into_iter().filter_map(|entry| match entry {
            ScopeEntry::Permissions(some) => Some(some),
            ScopeEntry::Role(..) => None,
        });
        let listed: Vec<_> = listed.flatten().collect();
        Scopes::Only(PermissionSet::new(listed).expect("few enough"))
    }

    pub(crate) fn login_step(&mut self, now: u64) -> LoginStep {
        let id = TokenId::generate(now, &self.entropy);
        // The youngest is the deepest, now and then.
        let shown = match self.good_sealed.last() {
            Some(last) if self.dice.percent(40) => Some(last.clone()),
            _ => self.any_sealed(),
        };
        let place = self.place();
        match (self.dice.below(10), shown) {
            (0..3, Some((shown, _))) => {
                let ttl_s = self
                    .dice
                    .one(&[None, None, Some(0), Some(10), Some(100_000)]);
                LoginStep::Renew(shown, place, ttl_s)
            }
            (3..6, shown) => {
                let stored = self.any_known().key;
                let shown = match shown.filter(|_| self.dice.percent(70)) {
                    Some((id, _)) => Shower::Sealed(id),
                    None => Shower::Stored(stored),
                };
                let asked = ExchangeAsked {
                    scopes: self.listed(),
                    ttl_s: self
                        .dice
                        .one(&[None, None, Some(0), Some(60), Some(100_000)]),
                    networks: match self.dice.percent(25) {
                        true => self.networks(),
                        false => Default::default(),
                    },
                    audience: self.audience().filter(|_| self.dice.percent(30)),
                    workload: self.workload().filter(|_| self.dice.percent(15)),
                };
                LoginStep::Exchange(shown, place, Box::new(asked), id)
            }
            _ => LoginStep::Enter(Box::new(self.asked_login()), id),
        }
    }

    pub(crate) fn sealed_check(&mut self) -> Option<LoginStep> {
        let (id, _) = self.any_sealed()?;
        Some(LoginStep::Check(id, self.asked()))
    }

    fn mint(&self, key: u32) -> Command {
        Command::MintBy {
            key: KeyId(key),
            salt: [7; 16],
        }
    }

    fn seal_key(&mut self) -> Command {
        let key = 1 + self.dice.below(SEAL_KEYS as usize) as u32;
        match self.dice.below(7) {
            0 => Command::RevokeKey(KeyId(key)),
            1..4 => Command::RetireKey(KeyId(key)),
            _ => self.mint(key),
        }
    }

    pub(super) fn login_rescue(&mut self, now: u64) -> Command {
        let account = self.dice.one(&SERVICES);
        match self.dice.below(3) {
            0 => {
                let settings = LoginSettings {
                    max_ttl_s: Some(7_200),
                    ..LoginSettings::default()
                };
                let method = self.dice.one(&METHODS);
                set_method(account, method, settings)
            }
            1 => {
                let is_key = self.dice.percent(30);
                let mut create = self.credential(account, is_key, now);
                create.scopes = ScopesAsked::All;
                Command::CreateCredential(Box::new(create))
            }
            _ => {
                let key = self.dice.below(40) as u32;
                self.mint(1 + key)
            }
        }
    }

    fn network(&mut self) -> ClientNetwork {
        ClientNetwork::of(self.address())
    }

    /// A command about logins, and whether it is the server's own.
    pub(super) fn login_command(&mut self, now: u64) -> (Command, bool) {
        let account = name(self.dice.one(&SERVICES));
        let method = self.dice.one(&METHODS);
        let own = !self.dice.percent(5);
        match self.dice.below(26) {
            0..5 => (self.create_credential(now), false),
            5..9 => {
                let settings = self.settings();
                let account = account.to_string();
                (set_method(&account, method, settings), false)
            }
            9 => (Command::RemoveMethod { account, method }, false),
            10..15 => {
                let asked = self.asked_login();
                let (id, digest) = self.secret(TokenKind::Access, now);
                let last4 = "0000".to_owned();
                let login = Login {
                    asked,
                    id,
                    digest,
                    last4,
                };
                (Command::Login(Box::new(login)), own)
            }
            15 | 16 => {
                let account = PrincipalId(6 + self.dice.below(3) as u32);
                let network = self.network();
                let lock = Command::LockLogins {
                    account,
                    method,
                    network,
                };
                (lock, own)
            }
            17 | 18 => {
                let network = self.network();
                let network = self.dice.percent(30).then_some(network);
                (Command::UnlockLogins { account, network }, false)
            }
            19 => {
                let sealed = self.any_sealed();
                let cut = match (self.dice.below(4), sealed) {
                    (0, _) => CutOffRequest::Sessions(account),
                    (1..3, Some((id, _))) => CutOffRequest::IssuedByToken(id),
                    _ => CutOffRequest::IssuedByCredential(self.any_known().id),
                };
                (Command::RevokeAll(cut), false)
            }
            20..23 => (self.seal_key(), own),
            23 => {
                let (id, ttl_s) = (Some(self.any_known().id), Some(100_000));
                (Command::RenewToken { id, ttl_s }, true)
            }
            _ => (self.revoke_sealed(), false),
        }
    }

    fn revoke_sealed(&mut self) -> Command {
        let Some((id, claims)) = self.any_sealed() else {
            return Command::RevokeAll(CutOffRequest::ResourceUnder(resource("a/x/y")));
        };
        let target = match self.dice.below(8) {
            0..3 => RevokeTarget::Sealed(claims),
            3..5 => RevokeTarget::Session(id),
            5 => RevokeTarget::Session(self.any_known().id),
            6 => RevokeTarget::Id(id),
            _ => RevokeTarget::Itself,
        };
        Command::RevokeToken {
            target,
            compromised: self.dice.percent(35),
        }
    }

    /// A caller that is sealed, if there is any.
    pub(super) fn sealed_caller(&mut self, place: &Place) -> Option<Caller> {
        let (_, claims) = self.any_sealed()?;
        Some(place.sealed(claims))
    }
}

fn set_method(account: &str, method: LoginMethod, settings: LoginSettings) -> Command {
    Command::SetMethod(Box::new(SetMethod {
        account: name(account),
        method,
        settings,
    }))
}
