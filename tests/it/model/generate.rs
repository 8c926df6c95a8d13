//! Random commands, Checks and clocks over a universe so small that everything collides.
//!
//! Used by the model test. All is drawn from one seed; secrets and ids are made here and put
//! into the commands, so a trace can be run again, whole or in part. Deliberately absent: any
//! opinion on what a command comes to.

mod logins;
mod tokens;

use std::net::IpAddr;
use std::sync::Arc;

use latchkey::domain::change::Display;
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::entry::Request;
use latchkey::domain::limits::{Audience, Networks, Workload};
use latchkey::domain::principal::GrantId;
use latchkey::domain::reason::Reason;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, Secret, TokenId, TokenKind};
use latchkey::state::decide::{Caller, Command, Envelope, IssueToken, ScopesAsked};

use super::algebra::{Perm, one_covers};
use super::commands::{
    actions, create_grant, create_principal, create_role, envelope, name, plain_issue, role,
};
use super::oracle::{ADDRESSES, Asked, Oracle, Place};

pub(crate) const PRINCIPALS: [&str; 7] = [
    "user:u1",
    "user:u2",
    "user:u3",
    "team:t1",
    "team:t2",
    "service:s1",
    "service:s2",
];
pub(crate) const ROLES: [&str; 3] = ["r1", "r2", "r3"];
const HOMES: [&str; 3] = ["a", "a/x", "b"];
const RESOURCES: [&str; 6] = ["a", "b", "a/x", "a/y", "b/x", "a/x/y"];
const PATTERNS: [&str; 11] = [
    "**", "*", "a", "a/**", "a/*", "a/x", "a/y", "*/x", "b/**", "b/x", "a/x/**",
];
const PATTERNED: [&str; 15] = [
    "*",
    "s:*",
    "s:read",
    "s:write",
    "tokens:issue",
    "tokens:revoke",
    "tokens:read",
    "tokens:*",
    "grants:write",
    "users:write",
    "teams:write",
    "roles:write",
    "services:write",
    "users:read",
    "roles:read",
];
const NEEDED: [&str; 6] = [
    "s:read",
    "s:write",
    "tokens:issue",
    "tokens:revoke",
    "grants:write",
    "users:write",
];
const NETWORKS: [&str; 3] = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24"];
/// Instants at the edges of what can be kept, and beyond them.
const STRAY_INSTANTS: [u64; 4] = [0, 1, (1 << 46) - 1, 1 << 46];
const WORKLOAD: &str = "spiffe://acme/w";

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to choose.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A secret that was made here, whether a token ever had it or not.
pub(crate) struct Known {
    pub text: String,
    pub key: u128,
    pub id: TokenId,
    pub kind: TokenKind,
}

pub(crate) struct Generator {
    pub dice: Dice,
    pub known: Vec<Known>,
    entropy: SeededEntropy,
    /// Of the secrets those that are good for something, and the grants that stand: so that
    /// most commands are about what exists.
    living: Vec<usize>,
    mighty: Vec<usize>,
    grants: Vec<u32>,
    credentials: Vec<logins::Credential>,
    sealed: Vec<(TokenId, Arc<[u8]>)>,
    good_sealed: Vec<(TokenId, Arc<[u8]>)>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            known: Vec::new(),
            entropy: SeededEntropy::new(seed),
            living: Vec::new(),
            mighty: Vec::new(),
            grants: Vec::new(),
            credentials: Vec::new(),
            sealed: Vec::new(),
            good_sealed: Vec::new(),
        }
    }

    /// What every run begins with: everybody, some roles, some rights, and tokens for all.
    pub(crate) fn setup(&mut self, now: u64) -> Vec<Envelope> {
        let mut commands: Vec<Command> = Vec::new();
        for (index, text) in PRINCIPALS.iter().enumerate() {
            commands.push(create_principal(text, HOMES[index % HOMES.len()]));
        }
        commands.push(create_role("r1", "a", &["*"]));
        commands.push(create_role(
            "r2",
            "a/x",
            &["s:*", "tokens:*", "grants:write", "roles:write"],
        ));
        commands.push(create_role(
            "r3",
            "b",
            &["s:read", "tokens:issue", "teams:write"],
        ));
        for (principal, of, on) in [
            ("user:u1", "r1", "**"),
            ("user:u2", "r2", "a/**"),
            ("user:u3", "r3", "*"),
            ("team:t1", "r2", "a/x/**"),
            ("team:t2", "r3", "b/**"),
            ("service:s1", "r1", "b/**"),
        ] {
            commands.push(create_grant(principal, of, on));
        }
        for (team, member) in [
            ("team:t1", "user:u3"),
            ("team:t1", "service:s1"),
            ("team:t2", "user:u2"),
        ] {
            commands.push(Command::AddMember {
                team: name(team),
                member: name(member),
            });
        }
        for text in PRINCIPALS {
            let (kind, subject) = (kind_of(text), Some(name(text)));
            let (id, digest) = self.secret(kind, now);
            let issue = IssueToken {
                subject,
                ..plain_issue(id, digest, kind)
            };
            commands.push(Command::IssueToken(Box::new(issue)));
        }
        commands.extend(self.logins_setup(now));
        commands
            .into_iter()
            .map(|command| envelope(Caller::Local, command))
            .collect()
    }

    /// What a history ends with that is to hold some of everything, whatever came before.
    pub(crate) fn ending(&mut self, now: u64) -> Vec<Envelope> {
        let user = PRINCIPALS[0];
        let mut commands = vec![
            create_principal(user, "a"),
            create_principal("team:t1", "a"),
            create_role("r1", "a", &["*"]),
            Command::UpdateRole {
                name: role("r1"),
                actions: Some(actions(&["*"])),
                display: Display::default(),
            },
            Command::SetDisabled {
                name: name(user),
                disabled: false,
            },
            create_grant(user, "r1", "**"),
            Command::AddMember {
                team: name("team:t1"),
                member: name(user),
            },
        ];
        let ended = self.secret(TokenKind::User, now);
        let kept = self.secret(TokenKind::User, now);
        for (id, digest) in [ended, kept] {
            let mut issue = plain_issue(id, digest, TokenKind::User);
            issue.subject = Some(name(user));
            commands.push(Command::IssueToken(Box::new(issue)));
        }
        commands.extend(self.revocations(ended.0));
        commands.extend(self.logins_ending(now));
        let request = Request {
            key: [0xFF; 16],
            fingerprint: [0; 16],
        };
        let local = |command| envelope(Caller::Local, command);
        let mut ending: Vec<_> = commands.into_iter().map(local).collect();
        // Issued by a bearer, under a request id.
        let (id, digest) = self.secret(TokenKind::User, now);
        let issue = plain_issue(id, digest, TokenKind::User);
        let caller = Place::default().bearer(kept.1.key());
        ending.push(Envelope {
            request: Some(request),
            ..envelope(caller, Command::IssueToken(Box::new(issue)))
        });
        ending
    }

    fn secret(&mut self, kind: TokenKind, now: u64) -> (TokenId, Digest) {
        // A registered key has no secret of a form of its own.
        let form = Some(kind).filter(|kind| kind.has_secret());
        let secret = Secret::generate(form.unwrap_or(TokenKind::ClientSecret), &self.entropy);
        let id = TokenId::generate(now, &self.entropy);
        let (text, key) = (secret.reveal().to_owned(), secret.digest().key());
        self.known.push(Known {
            text,
            key,
            id,
            kind,
        });
        (id, secret.digest())
    }

    /// Looks which secrets and grants there are now.
    pub(crate) fn look(&mut self, oracle: &Oracle, now: u64) {
        let good = |one: &Known| {
            let asked = Asked {
                key: one.key,
                address: ADDRESSES[0].parse().ok(),
                ..Asked::default()
            };
            oracle.check(&asked, now) == Reason::Allowed
        };
        let everything = Perm::new("*", "**");
        let mighty = |one: &Known| {
            oracle.by_key(one.key).is_some_and(|(token, _)| {
                oracle
                    .power(token)
                    .iter()
                    .all(|layer| one_covers(layer, &everything))
            })
        };
        self.living = (0..self.known.len())
            .filter(|index| good(&self.known[*index]))
            .collect();
        self.mighty = self
            .living
            .iter()
            .copied()
            .filter(|one| mighty(&self.known[*one]))
            .collect();
        self.grants = oracle.grants.iter().map(|grant| grant.id).collect();
    }

    /// One of the secrets, mostly one that is good.
    fn any(&mut self) -> usize {
        if self.living.is_empty() || self.dice.percent(18) {
            return self.dice.below(self.known.len());
        }
        self.dice.one(&self.living)
    }

    fn any_known(&mut self) -> &Known {
        let index = self.any();
        &self.known[index]
    }

    /// Which of the secrets calls; none is whoever has the server in hand.
    fn caller(&mut self) -> Option<usize> {
        match self.dice.below(100) {
            0..6 => None,
            6..36 if !self.mighty.is_empty() => Some(self.dice.one(&self.mighty)),
            _ => Some(self.any()),
        }
    }

    /// Whether the world needs rescue: nobody with everything is left, or there are few tokens.
    fn is_dying(&self) -> bool {
        self.mighty.is_empty() || self.living.len() < 5
    }

    /// Keeps the world from dying out: somebody with everything, and tokens for all.
    fn rescue(&mut self, now: u64) -> Command {
        // One that has all of it is worth more than some of it for each.
        let text = match self.is_dying() && self.dice.percent(60) {
            true => PRINCIPALS[0],
            false => self.dice.one(&PRINCIPALS),
        };
        match self.dice.below(11) {
            8.. => self.login_rescue(now),
            0 => create_principal(text, self.dice.one(&HOMES)),
            1 => create_role("r1", "a", &["*"]),
            2 => Command::UpdateRole {
                name: role("r1"),
                actions: Some(actions(&["*"])),
                display: Display::default(),
            },
            3 => create_grant(text, "r1", self.dice.one(&["**", "a/**", "**"])),
            4 => Command::SetDisabled {
                name: name(text),
                disabled: false,
            },
            _ => {
                let kind = kind_of(text);
                let (id, digest) = self.secret(kind, now);
                let issue = IssueToken {
                    subject: Some(name(text)),
                    ..plain_issue(id, digest, kind)
                };
                Command::IssueToken(Box::new(issue))
            }
        }
    }

    fn address(&mut self) -> Option<IpAddr> {
        let text = if self.dice.percent(60) {
            ADDRESSES[0]
        } else {
            self.dice.one(&ADDRESSES)
        };
        (!self.dice.percent(10)).then(|| text.parse().expect("an address"))
    }

    pub(crate) fn command(&mut self, now: u64) -> Envelope {
        let index = self.caller();
        let place = self.place();
        let sealed = self.dice.percent(12);
        let sealed = self.sealed_caller(&place).filter(|_| sealed);
        let mut caller = index.map_or(Caller::Local, |index| place.bearer(self.known[index].key));
        if let Some(sealed) = sealed {
            caller = sealed;
        }
        let rescue = self.is_dying() && self.dice.percent(20);
        let command = match self.dice.below(125) {
            _ if rescue => {
                caller = Caller::Local;
                self.rescue(now)
            }
            100.. => {
                let (command, own) = self.login_command(now);
                if own {
                    caller = Caller::System;
                }
                command
            }
            0..34 => self.issue(now, index.map(|index| self.known[index].kind)),
            34..44 => self.update(now),
            44..49 => Command::RenewToken {
                id: self.maybe_token(),
                ttl_s: self
                    .dice
                    .one(&[None, None, Some(0), Some(10), Some(100), Some(100_000)]),
            },
            49..55 => self.rotate(now),
            55..60 => self.revoke(),
            60..63 => self.revoke_all(),
            63..67 => self.use_token(),
            67..72 => {
                caller = Caller::Local;
                self.rescue(now)
            }
            _ => self.directory_command(now),
        };
        let caller = match command {
            Command::UseToken(_) => Caller::System,
            Command::Forget { .. } if !self.dice.percent(15) => Caller::System,
            _ => caller,
        };
        let request = self.dice.percent(12).then(|| Request {
            key: [self.dice.below(4) as u8; 16],
            fingerprint: [self.dice.below(2) as u8; 16],
        });
        let reason = if self.dice.percent(4) { "" } else { "because" };
        Envelope {
            caller,
            reason: reason.to_owned(),
            request,
            command,
        }
    }

    fn directory_command(&mut self, now: u64) -> Command {
        let principal = name(self.dice.one(&PRINCIPALS));
        let (team, member) = (
            name(self.dice.one(&PRINCIPALS[3..5])),
            name(self.dice.one(&PRINCIPALS)),
        );
        match self.dice.below(32) {
            0..4 => create_principal(&principal.to_string(), self.dice.one(&HOMES)),
            4 => Command::DeletePrincipal(principal),
            5..9 => Command::SetDisabled {
                name: principal,
                disabled: self.dice.percent(40),
            },
            9..13 => Command::AddMember { team, member },
            13..15 => {
                let cut_off_tokens = self.dice.percent(40);
                Command::RemoveMember {
                    team,
                    member,
                    cut_off_tokens,
                }
            }
            15..17 => {
                let (of, home) = (self.dice.one(&ROLES), self.dice.one(&HOMES));
                create_role(of, home, &self.some_actions())
            }
            17..20 => Command::UpdateRole {
                name: role(self.dice.one(&ROLES)),
                actions: Some(actions(&self.some_actions())),
                display: Display::default(),
            },
            20 => Command::DeleteRole(role(self.dice.one(&ROLES))),
            21..27 => {
                let of = self.dice.one(&ROLES);
                create_grant(&principal.to_string(), of, self.dice.one(&PATTERNS))
            }
            27..30 => {
                let id = self.dice.below(60) as u32;
                let stands = !self.grants.is_empty() && self.dice.percent(85);
                Command::DeleteGrant(GrantId(if stands {
                    self.dice.one(&self.grants)
                } else {
                    id
                }))
            }
            _ => Command::Forget {
                before_ms: self.dice.one(&[now, now - 10_000, now - 100_000, u64::MAX]),
                slice: (self.any_known().key >> 120) as u8,
            },
        }
    }

    fn some_actions(&mut self) -> Vec<&'static str> {
        (0..=self.dice.below(4))
            .map(|_| self.dice.one(&PATTERNED))
            .collect()
    }

    fn maybe_token(&mut self) -> Option<TokenId> {
        let id = self.any_known().id;
        (!self.dice.percent(35)).then_some(id)
    }

    fn scopes(&mut self) -> ScopesAsked {
        if self.dice.percent(45) {
            return ScopesAsked::All;
        }
        let entries = (0..self.dice.below(9).min(3)).map(|_| {
            let on = self.dice.one(&PATTERNS);
            let text = if self.dice.percent(25) {
                format!("role:{}@{on}", self.dice.one(&ROLES))
            } else {
                format!("{}@{on}", self.some_actions().join(","))
            };
            ScopeEntry::parse(&text).expect("scope text of the test's")
        });
        ScopesAsked::Only(entries.collect())
    }

    fn networks(&mut self) -> Networks {
        let count = self.dice.below(3);
        let texts: Vec<&str> = (0..count).map(|_| self.dice.one(&NETWORKS)).collect();
        Networks::parse(&texts).expect("networks of the test's")
    }

    fn audience(&mut self) -> Option<Audience> {
        let text = self.dice.one(&["web", "app"]);
        self.dice
            .percent(50)
            .then(|| Audience::parse(text).expect("an audience"))
    }

    fn workload(&mut self) -> Option<Workload> {
        self.dice
            .percent(50)
            .then(|| Workload::parse(WORKLOAD).expect("a workload"))
    }

    /// A Check of one of the secrets.
    pub(crate) fn asked(&mut self) -> Asked {
        let one = self.any();
        // A registered key is no secret that could be shown.
        let has_text = |one: &Known| !one.text.is_empty();
        let key = self.known[one..].iter().find(|one| has_text(one));
        let key = key.unwrap_or(&self.known[0]).key;
        let needs = (0..self.dice.below(3)).map(|_| {
            (
                self.dice.one(&NEEDED).to_string(),
                self.dice.one(&RESOURCES).to_string(),
            )
        });
        let needs = needs.collect();
        let address = self.address();
        let word = self.dice.one(&["web", "web", "app"]);
        let audience = (!self.dice.percent(15)).then(|| word.to_owned());
        let workload = (!self.dice.percent(15)).then(|| WORKLOAD.to_owned());
        let kinds = match self.dice.percent(10) {
            true => vec![self.dice.one(&TokenKind::ALL)],
            false => Vec::new(),
        };
        Asked {
            key,
            needs,
            address,
            audience,
            workload,
            kinds,
        }
    }
}

fn kind_of(name: &str) -> TokenKind {
    let word = name.split(':').next().unwrap_or_default();
    TokenKind::from_name(word).expect("principals and their tokens share words")
}
