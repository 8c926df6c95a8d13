//! Logins that write nothing, beside the oracle: login, renewal, exchange, and Checks of what they
//! give.
//!
//! Used by `direct`. Sealed tokens are kept by their ids on both sides, so that a run without some
//! of its steps is still a run: a step about a token that is not there any more does nothing.

use std::sync::Arc;

use latchkey::domain::clock::Now;
use latchkey::domain::permission::Need;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::Scopes;
use latchkey::domain::seal::claims::{Claims, Sealed};
use latchkey::domain::token::{KindSet, TokenId};
use latchkey::state::check::{CheckRequest, Context, check_sealed};
use latchkey::state::decide::{Caller, Command, Envelope, RevokeTarget};
use latchkey::state::explain::{Target, explain};
use latchkey::state::login::{self, ExchangeAsked, LoginAsked, LoginRefused};

use super::algebra::{extent, perms};
use super::compare::{reply_of, same};
use super::direct::{Pair, lifetimes};
use super::oracle::verbs::{No, Reply};
use super::oracle::{Asked, Place, Seal, Token};

/// What is shown to be exchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shower {
    Sealed(TokenId),
    /// By the key of its secret.
    Stored(u128),
}

/// Something about logins that is no command.
#[derive(Clone, Debug)]
pub(crate) enum LoginStep {
    /// A login, and the id that its token gets if it is sealed.
    Enter(Box<LoginAsked>, TokenId),
    Renew(TokenId, Place, Option<u32>),
    Exchange(Shower, Place, Box<ExchangeAsked>, TokenId),
    Check(TokenId, Asked),
}

impl Place {
    pub(crate) fn bearer(&self, key: u128) -> Caller {
        Caller::Bearer {
            key,
            client_ip: self.address,
            peer: self.peer.clone(),
        }
    }

    pub(crate) fn sealed(&self, claims: Arc<[u8]>) -> Caller {
        Caller::Sealed {
            claims,
            client_ip: self.address,
            peer: self.peer.clone(),
        }
    }
}

impl Pair {
    fn claims(&self, id: TokenId) -> Option<Arc<[u8]>> {
        let found = self.sealed.iter().find(|(known, _)| *known == id);
        found.map(|(_, claims)| Arc::clone(claims))
    }

    /// A command with the claims that its sealed tokens have in this run; none if one is not there.
    pub(crate) fn current(&self, envelope: &Envelope) -> Option<Envelope> {
        let mut envelope = envelope.clone();
        let again = |claims: &Arc<[u8]>| self.claims(Sealed::read(claims)?.id);
        if let Caller::Sealed { claims, .. } = &mut envelope.caller {
            *claims = again(claims)?;
        }
        if let Command::RevokeToken { target, .. } = &mut envelope.command
            && let RevokeTarget::Sealed(claims) = target
        {
            *claims = again(claims)?;
        }
        Some(envelope)
    }

    /// Takes a sealed token into both sides, if there is a key to seal by.
    fn seal(&mut self, how: &str, real: &Claims, mut ours: Token) -> Result<(), String> {
        same_claims(real, &ours)?;
        let minting = self.state.minting_key().map(|key| key.id);
        same(
            "the minting key",
            minting.map(|id| id.0),
            self.oracle.minting(),
        )?;
        let Some(key) = minting else {
            return Ok(());
        };
        self.reach("sealed", how);
        self.sealed.retain(|(id, _)| *id != real.id);
        self.sealed.push((real.id, real.encode(key).into()));
        if let Some(seal) = &mut ours.seal {
            seal.key = key.0;
        }
        self.oracle.sealed.retain(|token| token.id != ours.id);
        self.oracle.sealed.push(ours);
        Ok(())
    }

    pub(crate) fn login_step(&mut self, now: u64, step: &LoginStep) -> Result<(), String> {
        match step {
            LoginStep::Enter(asked, id) => self.enter(now, asked, *id),
            LoginStep::Renew(id, place, ttl_s) => self.renew(now, *id, place, *ttl_s),
            LoginStep::Exchange(shown, place, asked, id) => {
                self.exchange(now, *shown, place, asked, *id)
            }
            LoginStep::Check(id, asked) => self.check_sealed(now, *id, asked),
        }
    }

    fn enter(&mut self, now: u64, asked: &LoginAsked, id: TokenId) -> Result<(), String> {
        let real = login::grant(&self.state, asked, Now::at(now), lifetimes());
        let ours = self.oracle.granted(asked, now);
        let what = format!("login {asked:?} at {now}");
        let (real, ours) = match (real, ours) {
            (Ok(real), Ok(ours)) => (real, ours),
            (real, ours) => {
                if let Err(refused) = &ours {
                    self.reach("login", login_word(*refused));
                }
                return same(&what, real.err(), ours.err());
            }
        };
        same(&what, real.account.0, ours.account)?;
        same(&what, (real.uses, real.left), (ours.uses, ours.left))?;
        same(&what, real.renewable, ours.renewable)?;
        same(&what, real.clipped, ours.clipped)?;
        same(&what, real.is_stored(), ours.is_stored())?;
        if real.is_stored() || real.left.is_some() {
            self.reach("login", if real.is_stored() { "stored" } else { "spends" });
            return Ok(());
        }
        let claims = Claims { id, ..real.claims };
        let mut token = ours.token;
        token.id = id;
        if let Some(seal) = &mut token.seal {
            seal.sessions = vec![id.session()];
        }
        self.seal("login", &claims, token)
    }

    fn renew(
        &mut self,
        now: u64,
        id: TokenId,
        place: &Place,
        ttl_s: Option<u32>,
    ) -> Result<(), String> {
        let (Some(claims), Some(token)) = (self.claims(id), self.oracle.sealed(id)) else {
            return Ok(());
        };
        let caller = place.sealed(claims);
        let real = login::renew(&self.state, &caller, ttl_s, Now::at(now), lifetimes());
        let ours = self.oracle.renewed(token, place, ttl_s, now);
        let what = format!("renewal of {id} by {ttl_s:?} s at {now}");
        match (real, ours) {
            (Ok((claims, real)), Ok((token, ours))) => {
                same(&what, real, ours)?;
                self.seal("renewal", &claims, token)
            }
            (real, ours) => self.both_refuse("renewal", &what, real.err(), ours.err()),
        }
    }

    fn exchange(
        &mut self,
        now: u64,
        shown: Shower,
        place: &Place,
        asked: &ExchangeAsked,
        id: TokenId,
    ) -> Result<(), String> {
        let (caller, token) = match shown {
            Shower::Sealed(id) => {
                let (Some(claims), Some(token)) = (self.claims(id), self.oracle.sealed(id)) else {
                    return Ok(());
                };
                (place.sealed(claims), Some((token, None)))
            }
            Shower::Stored(key) => (place.bearer(key), self.oracle.by_key(key)),
        };
        let real = login::exchange(&self.state, &caller, asked, Now::at(now), lifetimes());
        // In its grace an old secret can be checked and revoked, nothing else.
        let token = token.filter(|(_, grace)| grace.is_none());
        let ours = match token {
            Some((token, _)) => self.oracle.exchanged(token, place, asked, id, now),
            None => Err(No::Unauthenticated),
        };
        let what = format!("exchange of {shown:?} for {asked:?} at {now}");
        match (real, ours) {
            (Ok(claims), Ok(token)) => {
                let how = match claims.ancestors.is_empty() {
                    true => "exchange",
                    false => "exchange of a session",
                };
                self.seal(how, &Claims { id, ..claims }, token)
            }
            (real, ours) => self.both_refuse("exchange", &what, real.err(), ours.err()),
        }
    }

    fn both_refuse(
        &mut self,
        verb: &str,
        what: &str,
        real: Option<Refusal>,
        ours: Option<No>,
    ) -> Result<(), String> {
        let word = format!("{ours:?}");
        let word = word.trim_start_matches("Some(");
        self.reach(verb, word.split(['(', ')']).next().unwrap_or_default());
        let real = real.and_then(|refusal| reply_of(&Err(refusal)));
        same(what, real, ours.map(Reply::Refused))
    }

    fn reach(&mut self, verb: &str, word: &str) {
        self.reached.insert(format!("{verb}: {word}"));
    }

    fn check_sealed(&mut self, now: u64, id: TokenId, asked: &Asked) -> Result<(), String> {
        let (Some(claims), Some(token)) = (self.claims(id), self.oracle.sealed(id)) else {
            return Ok(());
        };
        let sealed = Sealed::read(&claims).ok_or("claims that do not read back")?;
        let needs: Vec<Need<'_>> = asked
            .needs
            .iter()
            .map(|(action, on)| Need::parse(action, on).expect("needs of the test's"))
            .collect();
        let request = CheckRequest {
            token: "",
            needs: &needs,
            context: Context {
                client_ip: asked.address,
                audience: asked.audience.as_deref(),
                workload: asked.workload.as_deref(),
            },
            kinds: KindSet::from_kinds(asked.kinds.iter().copied()),
        };
        let target = Target::Sealed(Ok(sealed));
        let told = explain(
            &self.state,
            target,
            &needs,
            request.context,
            request.kinds,
            Now::at(now),
        );
        let sealed = Sealed::read(&claims).ok_or("claims that do not read back")?;
        let real = check_sealed(&self.state, sealed, &request, Now::at(now));
        let ours = self
            .oracle
            .judge(token, None, asked, now.max(self.oracle.instant));
        let what = format!("check of sealed {id} for {asked:?} at {now}");
        let real = real.reason;
        self.reach("check", ours.name());
        same(&what, told.reason, real)?;
        same(&what, real, ours)
    }
}

fn login_word(refused: LoginRefused) -> &'static str {
    match refused {
        LoginRefused::Wrong => "no such credential",
        LoginRefused::Locked => "locked",
        LoginRefused::Ended(cause) => cause.name(),
    }
}

fn same_claims(real: &Claims, ours: &Token) -> Result<(), String> {
    let what = |field: &str| format!("{field} of sealed {}", real.id);
    let seal: &Seal = ours.seal.as_ref().ok_or("a row, not a seal")?;
    same(&what("id"), real.id, ours.id)?;
    same(&what("origin"), Some(real.origin), ours.parent)?;
    same(&what("ancestors"), &real.ancestors[..], &seal.sessions[1..])?;
    same(&what("made_at"), real.made_at, ours.made_at)?;
    same(&what("issued"), real.issued_ms, seal.issued)?;
    same(&what("expires"), Some(real.expires_ms), ours.expires)?;
    same(&what("session"), real.session_ms, seal.began)?;
    same(&what("session end"), real.session_end_ms, seal.session_end)?;
    let networks: Vec<String> = real.networks.iter().collect();
    same(&what("networks"), networks, ours.networks.clone())?;
    let audience = real.audience.as_ref().map(|one| one.as_str().to_owned());
    same(&what("audience"), &audience, &ours.audience)?;
    let workload = real.workload.as_ref().map(|one| one.as_str().to_owned());
    same(&what("workload"), &workload, &ours.workload)?;
    let scopes = match &real.scopes {
        Scopes::All => Vec::new(),
        Scopes::Only(set) => vec![perms(set)],
    };
    same(&what("scopes"), scopes.is_empty(), ours.scopes.is_empty())?;
    same(&what("scopes"), extent(&scopes), extent(&ours.scopes))
}
