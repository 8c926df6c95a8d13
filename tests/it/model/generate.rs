//! Random commands, Checks and clocks over a universe so small that everything collides.
//!
//! Used by the model test. All is drawn from one seed; secrets and ids are made here and put
//! into the commands, so a trace can be run again, whole or in part. Deliberately absent: any
//! opinion on what a command comes to.

use std::net::IpAddr;

use latchkey::domain::change::Display;
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::entry::Request;
use latchkey::domain::limits::{Audience, Networks, Workload};
use latchkey::domain::principal::{GrantId, PrincipalId};
use latchkey::domain::reason::Reason;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, KindSet, Secret, TokenId, TokenKind};
use latchkey::state::decide::{
    Caller, Command, CutOffRequest, Envelope, IssueToken, LimitsAsked, RevokeTarget, ScopesAsked,
    UseToken,
};

use super::algebra::{Perm, one_covers};
use super::commands::{
    actions, create_grant, create_principal, create_role, envelope, name, plain_issue,
    plain_update, resource, role,
};
use super::oracle::{ADDRESSES, Asked, Oracle};

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
        commands
            .into_iter()
            .map(|command| envelope(Caller::Local, command))
            .collect()
    }

    fn secret(&mut self, kind: TokenKind, now: u64) -> (TokenId, Digest) {
        let secret = Secret::generate(kind, &self.entropy);
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
            6..26 if !self.mighty.is_empty() => Some(self.dice.one(&self.mighty)),
            _ => Some(self.any()),
        }
    }

    /// Keeps the world from dying out: somebody with everything, and tokens for all.
    fn rescue(&mut self, now: u64) -> Command {
        let text = self.dice.one(&PRINCIPALS);
        match self.dice.below(8) {
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
        let client_ip = self.address();
        let mut caller = index.map_or(Caller::Local, |index| Caller::Bearer {
            key: self.known[index].key,
            client_ip,
            peer: None,
        });
        let command = match self.dice.below(100) {
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

    fn issue(&mut self, now: u64, caller: Option<TokenKind>) -> Command {
        let derive = caller.is_some() && self.dice.percent(30);
        let text = self.dice.one(&PRINCIPALS);
        let kind = match (self.dice.below(10), caller) {
            (0..9, Some(kind)) if derive => kind,
            (0..3, _) => TokenKind::Resource,
            _ => kind_of(text),
        };
        let (id, digest) = self.secret(kind, now);
        let mut issue = plain_issue(id, digest, kind);
        issue.derive = derive;
        let stray = self.dice.percent(3);
        if kind == TokenKind::Resource && !derive || stray {
            issue.resource = Some(resource(self.dice.one(&RESOURCES)));
        }
        if kind != TokenKind::Resource && !derive && !self.dice.percent(20) || stray {
            issue.subject = Some(name(text));
        }
        issue.scopes = self.scopes();
        issue.ttl_s = self
            .dice
            .one(&[None, None, Some(30), Some(900), Some(3_600), Some(80_000)]);
        if self.dice.percent(20) {
            issue.max_lifetime_s = self.dice.one(&[Some(20), Some(900)]);
        }
        if self.dice.percent(10) {
            issue.period_s = self.dice.one(&[Some(0), Some(40), Some(400)]);
        }
        if self.dice.percent(8) {
            issue.not_before_ms = Some(now + 1_000 * self.dice.below(60) as u64);
        }
        if self.dice.percent(5) {
            issue.uses = Some(self.dice.below(3) as u32);
        }
        if self.dice.percent(15) {
            issue.limits = LimitsAsked {
                networks: self.networks(),
                audience: self.audience(),
                workload: self.workload(),
            };
        }
        Command::IssueToken(Box::new(issue))
    }

    fn update(&mut self, now: u64) -> Command {
        let mut update = plain_update(self.any_known().id);
        let soon = now + 1_000 * self.dice.below(900) as u64 + 1;
        let instant = if self.dice.percent(30) {
            None
        } else {
            Some(soon)
        };
        for _ in 0..=self.dice.below(2) {
            match self.dice.below(9) {
                0..3 => update.scopes = Some(self.scopes()),
                3 => update.expires_ms = Some(instant),
                4 => update.not_before_ms = Some(instant),
                5 => update.expires_max_ms = Some(instant),
                6 => update.networks = Some(self.networks()),
                7 => update.audience = Some(self.audience()),
                _ => update.workload = Some(self.workload()),
            }
        }
        if self.dice.percent(5) {
            update.uses_left = Some(self.dice.one(&[None, Some(1), Some(2)]));
        }
        if self.dice.percent(8) {
            update.period_s = Some(self.dice.one(&[None, Some(40), Some(400)]));
        }
        if self.dice.percent(3) {
            update.expires_ms = Some(Some(self.dice.one(&STRAY_INSTANTS)));
        }
        if self.dice.percent(3) {
            update.expires_max_ms = Some(Some(self.dice.one(&STRAY_INSTANTS)));
        }
        if self.dice.percent(6) {
            update.display.name = Some("another".to_owned());
        }
        Command::UpdateToken(Box::new(update))
    }

    fn rotate(&mut self, now: u64) -> Command {
        let (id, kind) = {
            let one = self.any_known();
            (one.id, one.kind)
        };
        let itself = self.dice.percent(35);
        let (_, digest) = self.secret(kind, now);
        // The new secret belongs to the old id.
        let last = self.known.len() - 1;
        self.known[last].id = id;
        Command::RotateToken {
            id: (!itself).then_some(id),
            digest,
            last4: "0000".to_owned(),
            grace_s: self.dice.one(&[0, 5, 60, 100_000]),
            expected: self.dice.one(&[None, None, None, Some(0), Some(1)]),
        }
    }

    fn revoke(&mut self) -> Command {
        let (id, digest) = {
            let one = self.any_known();
            (one.id, Digest::of(&one.text))
        };
        let target = match self.dice.below(10) {
            0..2 => RevokeTarget::Itself,
            2..4 => RevokeTarget::Secret(digest),
            _ => RevokeTarget::Id(id),
        };
        Command::RevokeToken {
            target,
            compromised: self.dice.percent(35),
        }
    }

    fn revoke_all(&mut self) -> Command {
        let principal = name(self.dice.one(&PRINCIPALS));
        Command::RevokeAll(match self.dice.below(5) {
            0 => CutOffRequest::Subject(principal),
            1 => CutOffRequest::IssuedByPrincipal(principal),
            2 => CutOffRequest::IssuedByToken(self.any_known().id),
            3 => CutOffRequest::IssuedByNumber(PrincipalId(self.dice.below(14) as u32)),
            _ => CutOffRequest::ResourceUnder(resource(self.dice.one(&RESOURCES))),
        })
    }

    fn use_token(&mut self) -> Command {
        let asked = self.asked();
        Command::UseToken(Box::new(UseToken {
            key: asked.key,
            needs: asked.needs,
            client_ip: asked.address,
            audience: asked.audience,
            workload: asked.workload,
            kinds: KindSet::from_kinds(asked.kinds),
        }))
    }

    /// A Check of one of the secrets.
    pub(crate) fn asked(&mut self) -> Asked {
        let key = self.any_known().key;
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
