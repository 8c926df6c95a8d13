//! Random logins: credentials and methods that the attacker of the boundary makes, what it logs in
//! by, renews and exchanges.
//!
//! Sealed tokens are claims here: that nobody else makes any is the seal's promise.

use super::super::login::{ExchangeAsked, LoginAsked, Shown, exchange, grant, renew};
use super::attempts_tests::{Draw, PRINCIPALS, SORTS};
use super::company_tests::{Cells, Company, ELSEWHERE, HERE, Made};
use super::tests::{name, resource};
use super::*;
use crate::domain::change::Display;
use crate::domain::entropy::Entropy as _;
use crate::domain::key::Algorithm;
use crate::domain::key_pair::KeyPair;
use crate::domain::limits::Networks;
use crate::domain::login::{ClientNetwork, LoginMethod, LoginSettings};
use crate::domain::scopes::Scopes;
use crate::domain::seal::claims::Claims;
use crate::domain::seal::key::KeyId;
use crate::domain::token::{Digest, Secret};

/// What a token is got by without a command.
pub(super) const EXCHANGE: usize = SORTS;
pub(super) const RENEW: usize = EXCHANGE + 1;

pub(super) const KEY: KeyId = KeyId(1);
const METHODS: [LoginMethod; 3] = [
    LoginMethod::UniversalAuth,
    LoginMethod::UniversalAuth,
    LoginMethod::KeyPair,
];

impl Company {
    /// Every account logs in by either method, the second perhaps from elsewhere only; and each has
    /// client secrets and keys, of which some are no good here.
    pub(super) fn let_in(&mut self, draw: &mut Draw<'_>) {
        for (account, settings) in PRINCIPALS[5..7].iter().zip([4, draw.below(4)]) {
            for method in [LoginMethod::UniversalAuth, LoginMethod::KeyPair] {
                self.world.local(Command::SetMethod(Box::new(SetMethod {
                    account: name(account),
                    method,
                    settings: settings_of(settings),
                })));
            }
            // From nowhere that matters: it is there to be ended.
            let named = self.world.state.principal_named(&name(account));
            let lock = Command::LockLogins {
                account: named.expect("there").id,
                method: LoginMethod::UniversalAuth,
                network: ClientNetwork::of(None),
            };
            let locked = self.world.run(Caller::System, lock, "");
            locked.expect("the server may");
            for (limit, form) in [(0, 0), (0, 3), (draw.below(4), 0), (draw.below(4), 3)] {
                let (command, made) = self.credential(account, ScopesAsked::All, limit, form);
                self.world.local(command);
                self.made.extend(made);
            }
        }
    }

    pub(super) fn any_credential(&self, draw: &mut Draw<'_>) -> (Command, Option<Made>) {
        let account = draw.one(&PRINCIPALS[5..7]);
        let asked = self.scopes(draw);
        self.credential(account, asked, draw.below(6), draw.below(4))
    }

    fn credential(
        &self,
        account: &str,
        scopes: ScopesAsked,
        limit: usize,
        form: usize,
    ) -> (Command, Option<Made>) {
        let entropy = &self.world.entropy;
        let id = TokenId::generate(self.world.now_ms, entropy);
        let secret = Secret::generate(TokenKind::ClientSecret, entropy);
        let (form, text) = match form {
            3 => {
                let pair = KeyPair::generate(Algorithm::Ed25519, entropy).expect("a pair");
                (CredentialForm::Key(pair.public().clone()), String::new())
            }
            _ => {
                let text = secret.reveal().to_owned();
                (CredentialForm::Secret(secret.digest()), text)
            }
        };
        let mut create = CreateCredential {
            id,
            form,
            account: name(account),
            scopes,
            ttl_s: None,
            not_before_ms: None,
            uses: None,
            networks: Networks::default(),
            workload: None,
            display: Display::default(),
        };
        match limit {
            1 => create.networks = Networks::parse(&[ELSEWHERE]).expect("valid"),
            2 => create.ttl_s = Some(100),
            3 => create.uses = Some(1),
            _ => {}
        }
        let command = Command::CreateCredential(Box::new(create));
        (command, Some(Made::stored(text, id)))
    }

    pub(super) fn any_method(&self, set: bool, draw: &mut Draw<'_>) -> Command {
        let account = name(draw.one(&PRINCIPALS[5..7]));
        let method = draw.one(&METHODS);
        if !set {
            return Command::RemoveMethod { account, method };
        }
        Command::SetMethod(Box::new(SetMethod {
            account,
            method,
            settings: settings_of(draw.below(6)),
        }))
    }

    pub(super) fn any_unlock(draw: &mut Draw<'_>) -> Command {
        Command::UnlockLogins {
            account: name(draw.one(&PRINCIPALS[5..7])),
            network: [None, Some(ClientNetwork::of(None))][draw.below(2)],
        }
    }

    pub(super) fn any_lock(&self, draw: &mut Draw<'_>) -> Command {
        Command::LockLogins {
            account: PrincipalId(6 + draw.below(2) as u32),
            method: draw.one(&METHODS),
            network: ClientNetwork::of(Some(HERE)),
        }
    }

    fn asked(&self, by: &Made, draw: &mut Draw<'_>) -> Option<LoginAsked> {
        let record = self.world.state.token(by.id)?;
        let shown = match LoginMethod::of(record.kind)? {
            LoginMethod::UniversalAuth => Shown::Secret(Digest::of(&by.text).key()),
            LoginMethod::KeyPair => Shown::Key(by.id),
        };
        let own = self
            .subject(by.id)
            .and_then(|id| self.world.state.principal(id));
        // Now and then as the other account.
        let account = match (draw.below(8), own) {
            (0..=6, Some(own)) => own.name.clone(),
            _ => name(draw.one(&PRINCIPALS[5..7])),
        };
        Some(LoginAsked {
            account,
            shown,
            client_ip: Some(HERE),
            peer: None,
            ttl_s: None,
            scopes: Scopes::All,
            audience: None,
        })
    }

    /// What is permitted by what a login with this credential would give here and now.
    pub(super) fn given(&self, by: &Made, permits: impl Fn(&Self, &Made) -> Cells) -> Cells {
        let nothing = [0; 16];
        let now = Now::at(self.world.now_ms);
        let Some(asked) = self.asked(by, &mut Draw::of(&nothing)) else {
            return 0;
        };
        let Ok(granted) = grant(&self.world.state, &asked, now, self.world.lifetimes) else {
            return 0;
        };
        if !granted.is_stored() {
            return permits(self, &self.sealed(granted.claims));
        }
        // What is stored is to be found by its secret.
        let mut tried = self.fork();
        let made = tried.log_in(by, &mut Draw::of(&nothing));
        made.map_or(0, |made| permits(&tried, &made))
    }

    /// Logs in, as the server does: what is counted or stored is a command.
    pub(super) fn log_in(&mut self, by: &Made, draw: &mut Draw<'_>) -> Option<Made> {
        let asked = self.asked(by, draw)?;
        let now = Now::at(self.world.now_ms);
        let granted = grant(&self.world.state, &asked, now, self.world.lifetimes).ok()?;
        let secret = Secret::generate(TokenKind::Access, &self.world.entropy);
        let sealed = self.sealed(granted.claims.clone());
        if !granted.is_stored() && granted.left.is_none() {
            self.made.push(sealed.clone());
            return Some(sealed);
        }
        let id = sealed.id;
        let command = Command::Login(Box::new(Login {
            asked,
            id,
            digest: secret.digest(),
            last4: secret.last4().to_owned(),
        }));
        let done = self.world.run(Caller::System, command, "").ok()?;
        assert!(
            matches!(done, Outcome::Change { .. }),
            "it is counted or stored"
        );
        let made = match granted.is_stored() {
            true => Made::stored(secret.reveal().to_owned(), id),
            false => sealed,
        };
        self.made.push(made.clone());
        Some(made)
    }

    /// Exchanges a token for another, or renews it.
    pub(super) fn trade(&mut self, sort: usize, by: &Made, draw: &mut Draw<'_>) -> Option<Made> {
        let (now, lifetimes) = (Now::at(self.world.now_ms), self.world.lifetimes);
        let (state, caller) = (&self.world.state, by.caller());
        let made = if sort == RENEW {
            renew(state, &caller, None, now, lifetimes).ok()?.0
        } else {
            let asked = ExchangeAsked {
                scopes: self.listed(draw),
                ttl_s: [None, Some(100_000)][draw.below(2)],
                networks: Networks::default(),
                audience: None,
                workload: None,
            };
            exchange(state, &caller, &asked, now, lifetimes).ok()?
        };
        let made = match sort {
            RENEW => Made::sealed(&made),
            _ => self.sealed(made),
        };
        self.made.push(made.clone());
        Some(made)
    }

    fn sealed(&self, claims: Claims) -> Made {
        Made::sealed(&Claims {
            id: TokenId::generate(self.world.now_ms, &self.world.entropy),
            ..claims
        })
    }

    pub(super) fn any_key(&self, sort: usize, draw: &mut Draw<'_>) -> Command {
        let key = KeyId(1 + draw.below(3) as u32);
        match sort {
            27 => {
                let mut salt = [0; 16];
                self.world.entropy.fill(&mut salt);
                Command::MintBy { key, salt }
            }
            28 => Command::RetireKey(key),
            _ => Command::RevokeKey(key),
        }
    }
}

fn settings_of(number: usize) -> LoginSettings {
    let mut settings = LoginSettings::default();
    match number {
        1 => settings.networks = Networks::parse(&[ELSEWHERE]).expect("valid"),
        2 => settings.login_networks = Networks::parse(&[ELSEWHERE]).expect("valid"),
        3 => settings.uses = Some(3),
        4 => settings.max_ttl_s = Some(10_000),
        _ => {}
    }
    settings
}

/// Locks are about principals by their numbers.
#[test]
fn accounts_stand_where_the_company_puts_them() {
    let company = Company::new(&[]);
    for (number, account) in [(6, "service:s0"), (7, "service:s1")] {
        let record = company.world.state.principal_named(&name(account));
        let record = record.expect("made");
        assert_eq!(
            (record.id, &record.home),
            (PrincipalId(number), &resource("a"))
        );
    }
}
