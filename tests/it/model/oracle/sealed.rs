//! The oracle's sealed tokens: rows of a list of their own, which no command changes.
//!
//! A sealed token is a token whose parent is what it was born from, with what only its claims say;
//! so whatever holds for a token with ancestors holds for it. Written from DESIGN.md (*Sealed form*,
//! *Cut-offs*, *Derived*) and the documentation of the login service.

use latchkey::domain::login::{LoginMethod, LoginSettings};
use latchkey::domain::reason::Reason;
use latchkey::domain::scopes::Scopes;
use latchkey::domain::token::{TokenId, TokenKind};
use latchkey::state::login::ExchangeAsked;

use super::super::algebra::{Perm, canonical, one_covers, perms};
use super::verbs::No;
use super::{Asked, Issuer, Oracle, Place, Subject, Token, addresses_in};

const MONTH_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
const ANCESTORS_MAX: usize = 8;
const EXCHANGED_S: u32 = 900;

/// What only a sealed token has.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    pub key: u32,
    /// Its own session, and those of the sealed tokens that it was exchanged from.
    pub sessions: Vec<TokenId>,
    /// When the login's token was given or renewed, and when the session began.
    pub issued: u64,
    pub began: u64,
    pub session_end: Option<u64>,
}

/// What a token was born from, if from a credential.
pub(crate) struct Born {
    /// The settings of its method now; none if that is gone, or another one.
    pub method: Option<LoginSettings>,
    issued: u64,
    began: u64,
}

impl Born {
    pub(crate) fn settings(&self) -> Option<LoginSettings> {
        self.method.clone()
    }

    /// "Shortened, it ends those that are there."
    pub(crate) fn ends(&self) -> Option<Vec<u64>> {
        let settings = self.method.as_ref()?;
        let life = self.issued + ms(life_s(settings));
        let session = session_s(settings).map(|session| self.began + ms(session));
        Some(session.into_iter().chain([life]).collect())
    }
}

pub(crate) fn ms(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000
}

/// A period, where there is one, else the lifetime.
pub(crate) fn life_s(settings: &LoginSettings) -> u32 {
    settings.period_s.unwrap_or(settings.ttl_s)
}

/// How long a session lasts; for ever with a period.
pub(crate) fn session_s(settings: &LoginSettings) -> Option<u32> {
    let bounded = settings.max_ttl_s.unwrap_or(settings.ttl_s);
    settings.period_s.is_none().then_some(bounded)
}

pub(crate) fn is_renewable(settings: &LoginSettings) -> bool {
    settings.period_s.is_some() || settings.max_ttl_s.is_some()
}

pub(crate) fn method_of(kind: TokenKind) -> Option<LoginMethod> {
    match kind {
        TokenKind::ClientSecret => Some(LoginMethod::UniversalAuth),
        TokenKind::PublicKey => Some(LoginMethod::KeyPair),
        _ => None,
    }
}

/// Scopes as layers: none for all of it.
pub(crate) fn layers(scopes: &Scopes) -> Vec<Vec<Perm>> {
    match scopes {
        Scopes::All => Vec::new(),
        Scopes::Only(set) => vec![perms(set)],
    }
}

impl Oracle {
    pub(crate) fn minting(&self) -> Option<u32> {
        let key = self.keys.iter().find(|key| key.phase == "minting");
        key.map(|key| key.id)
    }

    pub(crate) fn sealed(&self, id: TokenId) -> Option<&Token> {
        self.sealed.iter().find(|token| token.id == id)
    }

    /// Its key is not in use any more, or a session of it was ended.
    pub(crate) fn is_unsealed(&self, seal: &Seal) -> bool {
        let in_use = |phase: &str| phase == "minting" || phase == "verifying";
        let mut keys = self.keys.iter();
        let ended = |session: &TokenId| self.ended_sessions.iter().any(|(one, _)| one == session);
        !keys.any(|key| key.id == seal.key && in_use(key.phase)) || seal.sessions.iter().any(ended)
    }

    pub(crate) fn born(&self, token: &Token) -> Option<Born> {
        let chain = self.lineage(token)?;
        let [.., child, credential] = chain.as_slice() else {
            return None;
        };
        let method = method_of(credential.kind)?;
        let mut methods = self.methods.iter();
        let found = methods.find(|one| {
            Subject::Principal(one.account) == credential.subject
                && one.method == method
                && one.made_at <= credential.made_at
        });
        let (issued, began) = match &token.seal {
            Some(seal) => (seal.issued, seal.began),
            // A row says when it ends and how long it lives, and its id when it was made.
            None => {
                let created = child.id.created_ms();
                let life = child.period_s.or(child.ttl_s);
                let issued = child.expires.zip(life);
                let issued = issued.map(|(at, life)| at.saturating_sub(ms(life)));
                (issued.unwrap_or(created), created)
            }
        };
        Some(Born {
            method: found.map(|one| one.settings.clone()),
            issued,
            began,
        })
    }

    /// Sealed, and of a login itself: what was exchanged is no session of its own.
    pub(crate) fn is_session(&self, token: &Token) -> bool {
        let origin = token.parent.and_then(|id| self.token(id));
        let alone = token
            .seal
            .as_ref()
            .is_some_and(|seal| seal.sessions.len() == 1);
        alone && origin.is_some_and(Token::is_credential)
    }

    /// A token that is shown to be renewed or exchanged, wherever it may be used.
    fn presented<'o>(
        &'o self,
        token: &'o Token,
        place: &Place,
        now: u64,
    ) -> Result<Vec<&'o Token>, No> {
        let chain = self.lineage(token).ok_or(No::Unauthenticated)?;
        let asked = Asked {
            audience: chain.iter().find_map(|one| one.audience.clone()),
            ..place.asked()
        };
        match self.judge(token, None, &asked, now) {
            Reason::Allowed => Ok(chain.into_iter().skip(1).collect()),
            _ => Err(No::Unauthenticated),
        }
    }

    /// The next token of a session, and whether it ends earlier than was asked for.
    pub(crate) fn renewed(
        &self,
        token: &Token,
        place: &Place,
        ttl_s: Option<u32>,
        now: u64,
    ) -> Result<(Token, bool), No> {
        let now = now.max(self.instant);
        let above = self.presented(token, place, now)?;
        let seal = token.seal.as_ref().ok_or(No::Invalid)?;
        let settings = self.born(token).and_then(|born| born.settings());
        let settings = settings.filter(|one| is_renewable(one) && self.is_session(token));
        let settings = settings.ok_or(No::Precondition)?;
        if ttl_s == Some(0) {
            return Err(No::Invalid);
        }
        let longest = self.longest_s[TokenKind::Access as usize - 1];
        let life = life_s(&settings);
        let wanted = now + ms(ttl_s.unwrap_or(life));
        let mut ends = vec![wanted, now + ms(life), now + MONTH_MS];
        let session = [session_s(&settings), longest].into_iter().flatten();
        ends.extend(session.map(|session| seal.began + ms(session)));
        if settings.period_s.is_none() {
            ends.extend(seal.session_end);
        }
        ends.extend(above.iter().filter_map(|one| one.expires));
        let expires = ends.into_iter().min().unwrap_or(wanted);
        if expires <= now {
            return Err(No::Precondition);
        }
        let renewed = Token {
            id: token.id.renewed(now),
            made_at: self.revision,
            expires: Some(expires),
            seal: Some(Seal {
                issued: now,
                ..seal.clone()
            }),
            ..token.clone()
        };
        Ok((renewed, expires < wanted))
    }

    /// A narrower, shorter child of a token.
    pub(crate) fn exchanged(
        &self,
        token: &Token,
        place: &Place,
        asked: &ExchangeAsked,
        id: TokenId,
        now: u64,
    ) -> Result<Token, No> {
        let now = now.max(self.instant);
        let stored = self.presented(token, place, now)?;
        if token.uses_left.is_some() {
            return Err(No::Precondition);
        }
        let sessions = token.seal.iter().flat_map(|seal| seal.sessions.clone());
        let sessions: Vec<TokenId> = sessions.collect();
        // A session each, and what has rows.
        let rows = stored.len() + usize::from(token.seal.is_none());
        if sessions.len() + rows > ANCESTORS_MAX {
            return Err(No::Limit);
        }
        if asked.ttl_s == Some(0) {
            return Err(No::Invalid);
        }
        self.within(token, asked)?;
        let longest = self.longest_s[TokenKind::Access as usize - 1];
        let ttl = asked.ttl_s.unwrap_or(EXCHANGED_S);
        let life = ms(longest.map_or(ttl, |longest| ttl.min(longest))).min(MONTH_MS);
        let ends = self.ends(token).into_iter();
        let born = self.born(token);
        let scopes = match &asked.scopes {
            Scopes::All if token.seal.is_some() => token.scopes.clone(),
            asked => layers(asked),
        };
        // What a row says is read when it is checked; claims are copied.
        let own = token.seal.is_some().then_some(token);
        let networks = match (asked.networks.is_empty(), own) {
            (true, Some(own)) => own.networks.clone(),
            _ => asked.networks.iter().collect(),
        };
        let word = |asked: Option<String>, own: Option<&Option<String>>| {
            asked.or_else(|| own.cloned().flatten())
        };
        let audience = asked.audience.as_ref().map(|one| one.as_str().to_owned());
        let workload = asked.workload.as_ref().map(|one| one.as_str().to_owned());
        let origin = own.map_or(Some(token.id), |own| own.parent);
        Ok(Token {
            scopes,
            addresses: match networks.is_empty() {
                true => [true; super::ADDRESSES.len()],
                false => addresses_of(&networks),
            },
            networks,
            audience: word(audience, own.map(|own| &own.audience)),
            workload: word(workload, own.map(|own| &own.workload)),
            seal: Some(Seal {
                key: 0,
                sessions: [id.session()].into_iter().chain(sessions.clone()).collect(),
                issued: born.as_ref().map_or(now, |born| born.issued),
                began: born.as_ref().map_or(now, |born| born.began),
                session_end: None,
            }),
            ..self.access(
                id,
                origin.ok_or(No::Unauthenticated)?,
                &sessions,
                ends.fold(now + life, u64::min),
            )
        })
    }

    /// "Bounded by it in everything."
    fn within(&self, token: &Token, asked: &ExchangeAsked) -> Result<(), No> {
        if let Scopes::Only(set) = &asked.scopes {
            let cuts = self.cuts_of(token);
            let missing: Vec<Perm> = perms(set)
                .into_iter()
                .filter(|one| !cuts.iter().all(|layer| one_covers(layer, one)))
                .collect();
            if !missing.is_empty() {
                return Err(No::Boundary(canonical(&missing)));
            }
        }
        let chain = self.lineage(token).unwrap_or_default();
        let wanted = addresses_in(&asked.networks);
        let other = |given: Option<&str>, limit: &Option<String>| {
            given.is_some() && limit.is_some() && given != limit.as_deref()
        };
        for one in chain {
            let mut pairs = wanted.iter().zip(one.addresses);
            let wider = pairs.any(|(wanted, allowed)| *wanted && !allowed);
            let networks = !asked.networks.is_empty() && !one.is_credential() && wider;
            let audience = asked.audience.as_ref().map(|one| one.as_str());
            let workload = asked.workload.as_ref().map(|one| one.as_str());
            if networks || other(audience, &one.audience) || other(workload, &one.workload) {
                return Err(No::Invalid);
            }
        }
        Ok(())
    }

    /// An access token that was born from a row: nothing of its own yet but when it ends.
    pub(crate) fn access(
        &self,
        id: TokenId,
        origin: TokenId,
        sessions: &[TokenId],
        expires: u64,
    ) -> Token {
        let origin = self.token(origin).expect("a token of the lineage");
        let chain = self.lineage(origin).unwrap_or_default();
        // It was made by its subject, with what it was made from.
        let principal = match origin.subject {
            Subject::Principal(id) => Some(id),
            Subject::Resource(_) => None,
        };
        let tokens = chain.iter().map(|one| one.id).chain(sessions.to_vec());
        Token {
            id,
            key: 0,
            grace: None,
            kind: TokenKind::Access,
            subject: origin.subject.clone(),
            scopes: Vec::new(),
            ceiling: Vec::new(),
            issuers: vec![Issuer {
                principal,
                tokens: tokens.collect(),
                since: 0,
            }],
            parent: Some(origin.id),
            made_at: self.revision,
            not_before: None,
            expires: Some(expires),
            expires_max: None,
            ttl_s: None,
            period_s: None,
            uses_left: None,
            addresses: [true; super::ADDRESSES.len()],
            networks: Vec::new(),
            audience: None,
            workload: None,
            rotation: 0,
            revoked: None,
            seal: None,
        }
    }
}

fn addresses_of(networks: &[String]) -> [bool; super::ADDRESSES.len()] {
    let networks = latchkey::domain::limits::Networks::parse(networks);
    addresses_in(&networks.expect("networks of the test's"))
}
