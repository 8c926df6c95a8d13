//! The oracle's records and its Check: plain lists, texts and loops, written from DESIGN.md.
//!
//! Used by the model test beside the real State; commands are decided in `oracle::verbs`, logins in
//! `oracle::logins`; what is sealed is judged as a token that has a row (`oracle::sealed`). It
//! knows every token, principal, role and grant as a row in a vector, finds by scanning, and
//! judges a Check by the list of reasons in their order. Deliberately absent: anything shared
//! with `latchkey::state`, and speed.

mod ends;
mod logins;
mod repeats;
mod sealed;
mod tokens;
mod updates;
pub(crate) mod verbs;

use std::net::IpAddr;
use std::sync::Arc;

use latchkey::domain::limits::Networks;
use latchkey::domain::login::{LoginMethod, LoginSettings};
use latchkey::domain::peer::Proven;
use latchkey::domain::reason::Reason;
use latchkey::domain::token::{TokenId, TokenKind};

pub(crate) use sealed::Seal;

use super::algebra::{Perm, one_covers};

/// Addresses of every sort that the networks of this test tell apart.
pub(crate) const ADDRESSES: [&str; 4] = ["10.1.2.3", "10.9.9.9", "192.0.2.1", "203.0.113.5"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Principal(u32),
    Resource(String),
}

/// Who answers for a token, and from which revision on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuer {
    pub principal: Option<u32>,
    pub tokens: Vec<TokenId>,
    pub since: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub id: TokenId,
    pub key: u128,
    pub grace: Option<(u128, u64)>,
    pub kind: TokenKind,
    pub subject: Subject,
    /// Sets that must all permit: none for `All`, one for scopes.
    pub scopes: Vec<Vec<Perm>>,
    /// The same for the ceiling, which may come of several.
    pub ceiling: Vec<Vec<Perm>>,
    pub issuers: Vec<Issuer>,
    pub parent: Option<TokenId>,
    pub made_at: u64,
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
    pub expires_max: Option<u64>,
    pub ttl_s: Option<u32>,
    pub period_s: Option<u32>,
    pub uses_left: Option<u32>,
    /// Which of [`ADDRESSES`] may use it.
    pub addresses: [bool; ADDRESSES.len()],
    /// As they were written; none for no limit.
    pub networks: Vec<String>,
    pub audience: Option<String>,
    pub workload: Option<String>,
    pub rotation: u32,
    /// Revision and instant.
    pub revoked: Option<(u64, u64)>,
    /// What only a sealed one has, which has no row.
    pub seal: Option<Seal>,
}

/// How an account logs in.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub account: u32,
    pub method: LoginMethod,
    pub made_at: u64,
    pub settings: LoginSettings,
}

/// A network that is locked out of an account.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub account: u32,
    pub network: String,
    pub until: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct SealKey {
    pub id: u32,
    pub phase: &'static str,
    pub since: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub id: u32,
    pub name: String,
    pub home: String,
    pub disabled: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub name: String,
    pub home: String,
    pub actions: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub id: u32,
    pub principal: u32,
    pub role: String,
    pub resource: String,
}

/// Whose tokens, if made before a revision, are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Subject(u32),
    ByPrincipal(u32),
    ByToken(TokenId),
    TeamTokensBy {
        team: u32,
        member: u32,
    },
    Under(String),
    /// Access tokens of an account.
    Sessions(u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub key: [u8; 16],
    pub fingerprint: [u8; 16],
    pub revision: u64,
    pub instant: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    pub revision: u64,
    pub instant: u64,
    pub tokens: Vec<Token>,
    pub principals: Vec<Principal>,
    /// Team and member.
    pub members: Vec<(u32, u32)>,
    pub roles: Vec<Role>,
    pub grants: Vec<Grant>,
    pub cuts: Vec<(Cut, u64)>,
    pub requests: Vec<Answered>,
    pub methods: Vec<Method>,
    pub locks: Vec<Lock>,
    pub keys: Vec<SealKey>,
    /// Sessions that were revoked, and until when that is kept.
    pub ended_sessions: Vec<(TokenId, u64)>,
    /// The access tokens that were sealed: no part of what commands change.
    pub sealed: Vec<Token>,
    pub format: u32,
    pub principal_last: u32,
    pub grant_last: u32,
    /// The longest life of each kind, by its number less one.
    pub longest_s: [Option<u32>; 7],
}

/// What a Check of the model asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub key: u128,
    pub needs: Vec<(String, String)>,
    pub address: Option<IpAddr>,
    pub audience: Option<String>,
    pub workload: Option<String>,
    pub kinds: Vec<TokenKind>,
}

/// From where a call comes, and what its mTLS peer has proven.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub address: Option<IpAddr>,
    pub peer: Option<Arc<Proven>>,
}

impl Place {
    /// A Check of the caller itself.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            address: self.address,
            workload: self.peer.as_ref().map(|peer| peer.named(None).to_owned()),
            ..Asked::default()
        }
    }
}

pub(crate) fn addresses_in(networks: &Networks) -> [bool; ADDRESSES.len()] {
    ADDRESSES.map(|address| {
        networks.is_empty()
            || networks.iter().any(|network| match network.as_str() {
                "10.0.0.0/8" => address.starts_with("10."),
                "10.1.0.0/16" => address.starts_with("10.1."),
                "192.0.2.0/24" => address.starts_with("192.0.2."),
                other => panic!("the generator knows no network {other}"),
            })
    })
}

impl Oracle {
    pub(crate) fn token(&self, id: TokenId) -> Option<&Token> {
        self.tokens.iter().find(|token| token.id == id)
    }

    pub(crate) fn token_mut(&mut self, id: TokenId) -> Option<&mut Token> {
        self.tokens.iter_mut().find(|token| token.id == id)
    }

    /// The token of a secret; the instant is set when it is the one before the last rotation.
    pub(crate) fn by_key(&self, key: u128) -> Option<(&Token, Option<u64>)> {
        self.tokens.iter().find_map(|token| match token.grace {
            _ if token.key == key => Some((token, None)),
            Some((old, until)) if old == key => Some((token, Some(until))),
            _ => None,
        })
    }

    pub(crate) fn principal(&self, id: u32) -> Option<&Principal> {
        self.principals.iter().find(|one| one.id == id)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Principal> {
        self.principals.iter().find(|one| one.name == name)
    }

    pub(crate) fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|one| one.name == name)
    }

    pub(crate) fn is_member(&self, team: u32, member: u32) -> bool {
        self.members.contains(&(team, member))
    }

    /// The token and its ancestors, nearest first; none when one of them is gone.
    pub(crate) fn lineage<'o>(&'o self, token: &'o Token) -> Option<Vec<&'o Token>> {
        let mut chain = vec![token];
        while let Some(parent) = chain[chain.len() - 1].parent {
            chain.push(self.token(parent)?);
        }
        Some(chain)
    }

    /// What a principal's own grants permit, disabled or not.
    pub(crate) fn own_permissions(&self, id: u32) -> Vec<Perm> {
        let own = self.grants.iter().filter(|grant| grant.principal == id);
        own.flat_map(|grant| {
            let actions = self.role(&grant.role).map_or(&[][..], |role| &role.actions);
            actions
                .iter()
                .map(|action| Perm::new(action, &grant.resource))
        })
        .collect()
    }

    /// "A member of a team holds what the team holds, now"; a paused team holds nothing.
    pub(crate) fn live(&self, id: u32) -> Vec<Perm> {
        let mut all = self.own_permissions(id);
        for (team, _) in self.members.iter().filter(|(_, member)| *member == id) {
            if self.principal(*team).is_some_and(|team| !team.disabled) {
                all.extend(self.own_permissions(*team));
            }
        }
        all
    }

    /// Scopes and ceilings of the whole lineage: every one of them must permit.
    pub(crate) fn cuts_of(&self, token: &Token) -> Vec<Vec<Perm>> {
        let lineage = self.lineage(token).unwrap_or_default();
        let both = |one: &&Token| {
            one.scopes
                .iter()
                .chain(&one.ceiling)
                .cloned()
                .collect::<Vec<_>>()
        };
        lineage.iter().flat_map(both).collect()
    }

    /// Everything that bounds a token: its cuts and its subject's live permissions.
    pub(crate) fn power(&self, token: &Token) -> Vec<Vec<Perm>> {
        let mut layers = self.cuts_of(token);
        if let Subject::Principal(id) = token.subject {
            layers.push(self.live(id));
        }
        layers
    }

    fn is_cut_off(&self, token: &Token) -> bool {
        self.cuts.iter().any(|(cut, revision)| {
            let issued = |fits: &dyn Fn(&Issuer) -> bool| {
                let fitting = token.issuers.iter().filter(|issuer| fits(issuer));
                fitting
                    .map(|one| one.since.max(token.made_at))
                    .any(|since| since < *revision)
            };
            match cut {
                Cut::Subject(id) => {
                    token.subject == Subject::Principal(*id) && token.made_at < *revision
                }
                Cut::ByPrincipal(id) => issued(&|issuer| issuer.principal == Some(*id)),
                // Of a session all tokens are one.
                Cut::ByToken(id) => issued(&|issuer| {
                    let mut tokens = issuer.tokens.iter();
                    tokens.any(|token| token.session() == id.session())
                }),
                Cut::Sessions(id) => {
                    token.kind == TokenKind::Access
                        && token.subject == Subject::Principal(*id)
                        && token.made_at < *revision
                }
                Cut::TeamTokensBy { team, member } => {
                    token.subject == Subject::Principal(*team)
                        && issued(&|issuer| issuer.principal == Some(*member))
                }
                Cut::Under(path) => match &token.subject {
                    Subject::Resource(on) => {
                        (on == path || on.starts_with(&format!("{path}/")))
                            && token.made_at < *revision
                    }
                    Subject::Principal(_) => false,
                },
            }
        })
    }

    /// The answer of a Check: the first reason in the order of precedence.
    pub(crate) fn check(&self, asked: &Asked, now: u64) -> Reason {
        match self.by_key(asked.key) {
            None => Reason::Unknown,
            Some((token, grace)) => self.judge(token, grace, asked, now.max(self.instant)),
        }
    }

    /// Whether a token counts as revoked, whatever it is asked for: it or an ancestor, its subject,
    /// or the method that it was born by.
    pub(crate) fn is_revoked(&self, token: &Token) -> bool {
        let gone = match token.subject {
            Subject::Principal(id) => self.principal(id).is_none(),
            Subject::Resource(_) => false,
        };
        let Some(chain) = self.lineage(token) else {
            return true;
        };
        let mut chain = chain.iter();
        let ended = |one: &&Token| one.revoked.is_some() || self.is_cut_off(one);
        gone || chain.any(ended)
            || self.born(token).is_some_and(|born| born.method.is_none())
            || token
                .seal
                .as_ref()
                .is_some_and(|seal| self.is_unsealed(seal))
    }

    /// Whether it, an ancestor or what it was born from has ended.
    pub(crate) fn has_ended(&self, token: &Token, now: u64) -> bool {
        self.ends(token).into_iter().any(|at| at <= now)
    }

    /// Every instant at which something ends that it depends on.
    pub(crate) fn ends(&self, token: &Token) -> Vec<u64> {
        let chain = self.lineage(token).unwrap_or_default();
        let own = chain.iter().filter_map(|one| one.expires);
        let born = self.born(token).and_then(|born| born.ends());
        own.chain(born.into_iter().flatten()).collect()
    }

    pub(crate) fn judge(
        &self,
        token: &Token,
        grace: Option<u64>,
        asked: &Asked,
        now: u64,
    ) -> Reason {
        let subject = match token.subject {
            Subject::Principal(id) => self.principal(id),
            Subject::Resource(_) => None,
        };
        let chain = self.lineage(token).unwrap_or_default();
        let any = |is: &dyn Fn(&Token) -> bool| chain.iter().any(|one| is(one));
        let missing = |need: &(String, String)| {
            let need = Perm::new(&need.0, &need.1);
            !self
                .power(token)
                .iter()
                .all(|layer| one_covers(layer, &need))
        };
        let wrong_kind = !asked.kinds.is_empty() && !asked.kinds.contains(&token.kind);
        let grace_ended = grace.is_some_and(|until| until <= now);
        // A token with a use limit has no children, so one that gets a limit loses them; the uses
        // of a credential are logins.
        let counts = |one: &Token| one.uses_left.is_some() && !one.is_credential();
        let lent = chain.iter().skip(1).any(|one| counts(one));
        // The settings of now hold for what was born by them before.
        let settings = self.born(token).and_then(|born| born.settings());
        let settings = settings.as_ref();
        let from_elsewhere = settings.is_some_and(|one| !allows(&one.networks, asked.address));
        // What a login gave, before its credential.
        let given = chain.len().checked_sub(2).and_then(|at| chain.get(at));
        let uncounted = settings.is_some_and(|one| one.uses.is_some())
            && (token.seal.is_some() || given.is_some_and(|one| one.uses_left.is_none()));
        let failed = [
            (wrong_kind || token.is_credential(), Reason::WrongKind),
            (self.is_revoked(token), Reason::Revoked),
            (
                subject.is_some_and(|one| one.disabled),
                Reason::SubjectDisabled,
            ),
            (grace_ended || self.has_ended(token, now), Reason::Expired),
            (
                any(&|one| one.not_before.is_some_and(|at| at > now)),
                Reason::NotYetValid,
            ),
            (
                // From where a credential may log in is another matter.
                any(&|one| !one.is_credential() && !one.used_from(asked.address)) || from_elsewhere,
                Reason::Network,
            ),
            (
                any(&|one| differs(&one.audience, &asked.audience)),
                Reason::Audience,
            ),
            (
                any(&|one| differs(&one.workload, &asked.workload)),
                Reason::Workload,
            ),
            (asked.needs.iter().any(missing), Reason::NotPermitted),
            (
                token.uses_left == Some(0) || lent || uncounted,
                Reason::UsesExhausted,
            ),
        ];
        let first = failed.into_iter().find(|(failed, _)| *failed);
        first.map_or(Reason::Allowed, |(_, reason)| reason)
    }
}

impl Token {
    pub(crate) fn is_credential(&self) -> bool {
        matches!(self.kind, TokenKind::ClientSecret | TokenKind::PublicKey)
    }

    /// "A limit whose input is missing denies."
    fn used_from(&self, address: Option<IpAddr>) -> bool {
        self.networks.is_empty() || is_among(self.addresses, address)
    }
}

/// The same of networks as they are written.
pub(crate) fn allows(networks: &Networks, address: Option<IpAddr>) -> bool {
    networks.is_empty() || is_among(addresses_in(networks), address)
}

fn is_among(allowed: [bool; ADDRESSES.len()], address: Option<IpAddr>) -> bool {
    let text = address.map(|ip| ip.to_string());
    let mut allowed = ADDRESSES
        .iter()
        .zip(allowed)
        .filter(|(_, allowed)| *allowed);
    text.is_some_and(|ip| allowed.any(|(known, _)| *known == ip))
}

fn differs(limit: &Option<String>, given: &Option<String>) -> bool {
    limit.is_some() && limit != given
}
