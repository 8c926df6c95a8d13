//! Random commands: what the attacker of the boundary tries, and what its company is made by.
//!
//! Everything is read off rows of bytes, so that what shrinks are bytes: fewer rows, smaller
//! numbers, simpler commands. The universe is so small that everything collides.

use super::company_tests::{Company, ELSEWHERE, HERE, Made, RESOURCES, WORKLOAD};
use super::login_attempts_tests::{EXCHANGE, RENEW};
use super::tests::{name, resource, scopes, unchanged};
use super::*;
use crate::domain::change::Display;
use crate::domain::limits::{Networks, Workload};
use crate::domain::permission::ActionPattern;
use crate::domain::principal::PrincipalName;
use crate::domain::scopes::{PermissionSet, Scopes};
use crate::domain::token::{Digest, Secret};

/// A row of bytes: a command, and everything in it.
pub(super) type Row = [u8; 16];

pub(super) const PRINCIPALS: [&str; 11] = [
    "user:u0",
    "user:u1",
    "user:u2",
    "team:t0",
    "team:t1",
    "service:s0",
    "service:s1",
    // Holds everything.
    "user:root",
    "user:new",
    "team:new",
    "service:new",
];
pub(super) const ROLES: [&str; 5] = ["r0", "r1", "r2", "r3", "new"];
pub(super) const HOMES: [&str; 3] = ["a", "a/b", "x"];
/// What is there twice is drawn twice as often.
pub(super) const PATTERNS: [&str; 11] = [
    "a", "a/b", "a/**", "a/**", "a/b/**", "a/*", "x", "x/**", "*/b", "**", "**",
];
pub(super) const GIVEN: [&str; 16] = [
    "s:read",
    "s:write",
    "s:*",
    "tokens:issue",
    "tokens:revoke",
    "tokens:*",
    "grants:write",
    "roles:write",
    "users:write",
    "teams:write",
    "services:write",
    "roles:read",
    "tokens:*",
    "*",
    "*",
    "*",
];
const DAY_MS: u64 = 86_400_000;

/// What a row says, read from its beginning; past its end everything is 0.
pub(super) struct Draw<'r>(std::slice::Iter<'r, u8>);

impl<'r> Draw<'r> {
    pub(super) fn of(row: &'r Row) -> Self {
        Self(row.iter())
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % bound
    }

    pub(super) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of them, if there is any.
    pub(super) fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| self.one(of))
    }
}

/// The sorts of commands; one that is added to [`Command`] and not here does not compile.
pub(super) const SORTS: usize = 31;

/// The number of a command's sort.
pub(super) fn sort_of(command: &Command) -> usize {
    match command {
        Command::IssueToken(_) => 0,
        Command::UpdateToken(_) => 1,
        Command::RenewToken { .. } => 2,
        Command::RotateToken { .. } => 3,
        Command::RevokeToken { .. } => 4,
        Command::RevokeAll(_) => 5,
        Command::UseToken(_) => 6,
        Command::CreatePrincipal { .. } => 7,
        Command::UpdatePrincipal { .. } => 8,
        Command::DeletePrincipal(_) => 9,
        Command::SetDisabled { disabled: true, .. } => 10,
        Command::SetDisabled { .. } => 11,
        Command::AddMember { .. } => 12,
        Command::RemoveMember { .. } => 13,
        Command::CreateRole { .. } => 14,
        Command::UpdateRole { .. } => 15,
        Command::DeleteRole(_) => 16,
        Command::CreateGrant { .. } => 17,
        Command::DeleteGrant(_) => 18,
        Command::Confirm => 19,
        // The server's own.
        Command::Forget { .. } => 20,
        Command::RaiseFormat(_) => 21,
        #[cfg(debug_assertions)]
        Command::Note => 21,
        Command::CreateCredential(_) => 22,
        Command::SetMethod(_) => 23,
        Command::RemoveMethod { .. } => 24,
        Command::Login(_) => LOGIN,
        Command::LockLogins { .. } => 26,
        Command::MintBy { .. } => 27,
        Command::RetireKey(_) => 28,
        Command::RevokeKey(_) => 29,
        Command::UnlockLogins { .. } => 30,
    }
}

/// What is carried out by [`Company::log_in`].
pub(super) const LOGIN: usize = 25;

/// The sorts that are about tokens only.
pub(super) fn sorts_of_tokens() -> Vec<usize> {
    let logins = [22, LOGIN, LOGIN, EXCHANGE, RENEW];
    (0..7).chain(logins).collect()
}

impl Company {
    /// A command of this sort, with what it makes that has a secret.
    pub(super) fn command(
        &self,
        sort: usize,
        by: Option<&Made>,
        draw: &mut Draw<'_>,
    ) -> (Command, Option<Made>) {
        let disabled = sort == 10;
        let command = match sort {
            0 => return self.issue(by, draw),
            1 => self.update(draw),
            2 => Command::RenewToken {
                id: Some(self.any_token(draw)),
                ttl_s: [None, Some(50)][draw.below(2)],
            },
            3 => return self.rotation(draw),
            4 => self.revocation(by, draw),
            5 => Command::RevokeAll(self.cut_off(draw)),
            6 => Self::using(&by.unwrap_or(&self.made[0]).text),
            7 => Command::CreatePrincipal {
                name: name(draw.one(&PRINCIPALS[8..])),
                home: resource(draw.one(&HOMES)),
                display: Display::default(),
            },
            8 => Command::UpdatePrincipal {
                name: any_principal(draw),
                display: text_of("new"),
            },
            9 => Command::DeletePrincipal(any_principal(draw)),
            10 | 11 => Command::SetDisabled {
                name: any_principal(draw),
                disabled,
            },
            12 => Command::AddMember {
                team: name(draw.one(&PRINCIPALS[3..5])),
                member: any_principal(draw),
            },
            13 => Command::RemoveMember {
                team: name(draw.one(&PRINCIPALS[3..5])),
                member: any_principal(draw),
                cut_off_tokens: draw.below(2) == 1,
            },
            14 => role_with(ROLES[4], draw),
            15 => Command::UpdateRole {
                name: any_role(draw),
                actions: Some(actions(draw)),
                display: Display::default(),
            },
            16 => Command::DeleteRole(any_role(draw)),
            17 => Command::CreateGrant {
                principal: any_principal(draw),
                role: any_role(draw),
                resource: ResourcePattern::parse(draw.one(&PATTERNS)).expect("valid"),
            },
            18 => {
                let last = self.world.state.directory.grant_last() as usize;
                Command::DeleteGrant(GrantId(1 + draw.below(last + 1) as u32))
            }
            19 => Command::Confirm,
            20 => Command::Forget {
                before_ms: u64::MAX,
                slice: draw.below(256) as u8,
            },
            21 => Command::RaiseFormat(self.world.state.format() + 1),
            22 => return self.any_credential(draw),
            23 | 24 => self.any_method(sort == 23, draw),
            26 => self.any_lock(draw),
            30 => Self::any_unlock(draw),
            _ => self.any_key(sort, draw),
        };
        (command, None)
    }

    fn issue(&self, by: Option<&Made>, draw: &mut Draw<'_>) -> (Command, Option<Made>) {
        let calling = by.and_then(|by| self.world.state.token(by.id));
        let named = any_principal(draw);
        let (kind, subject) = match (draw.below(4), &calling) {
            (1, Some(own)) => (own.kind, None),
            (2, _) => (TokenKind::Resource, None),
            _ => (kind_of(&named), Some(named.to_string())),
        };
        let asked = self.scopes(draw);
        let (text, mut issue) = self.world.asked(kind, subject.as_deref(), asked);
        if kind == TokenKind::Resource {
            issue.resource = Some(resource(draw.one(&RESOURCES)));
        }
        if let (None, Some(own)) = (&subject, &calling) {
            issue.derive = draw.below(2) == 1;
            if issue.derive {
                (issue.kind, issue.resource) = (own.kind, None);
            }
        }
        limit_by(&mut issue, draw.below(10), self.world.now_ms);
        let made = Made::stored(text, issue.id);
        (Command::IssueToken(Box::new(issue)), Some(made))
    }

    /// Scopes without roles.
    pub(super) fn listed(&self, draw: &mut Draw<'_>) -> Scopes {
        let mut one = || Permission::parse(draw.one(&GIVEN), draw.one(&PATTERNS)).expect("valid");
        let both = [one(), one()];
        match draw.below(4) {
            0 | 1 => Scopes::All,
            count => {
                Scopes::Only(PermissionSet::new(both.into_iter().take(count - 1)).expect("few"))
            }
        }
    }

    pub(super) fn scopes(&self, draw: &mut Draw<'_>) -> ScopesAsked {
        let mut entry = || match draw.below(6) {
            5 => format!("role:{}@{}", draw.one(&ROLES), draw.one(&PATTERNS)),
            _ => format!("{}@{}", draw.one(&GIVEN), draw.one(&PATTERNS)),
        };
        let (first, second) = (entry(), entry());
        match draw.below(10) {
            0..=2 => ScopesAsked::All,
            3..=5 => scopes(&[&first]),
            6 => scopes(&[]),
            _ => scopes(&[&first, &second]),
        }
    }

    fn update(&self, draw: &mut Draw<'_>) -> Command {
        let mut update = unchanged(self.any_token(draw));
        match draw.below(13) {
            1 | 7 => update.networks = Some(Networks::default()),
            2 | 8 => update.workload = Some(None),
            3 | 9 => update.not_before_ms = Some(None),
            4 | 10 => update.uses_left = Some([None, Some(5)][draw.below(2)]),
            5 => update.expires_ms = Some(None),
            6 => update.display = text_of("new"),
            _ => update.scopes = Some(self.scopes(draw)),
        }
        Command::UpdateToken(Box::new(update))
    }

    fn rotation(&self, draw: &mut Draw<'_>) -> (Command, Option<Made>) {
        let id = self.any_token(draw);
        let kind = self.world.state.token(id).map(|record| record.kind);
        let secret = Secret::generate(kind.unwrap_or(TokenKind::User), &self.world.entropy);
        let command = Command::RotateToken {
            id: Some(id),
            digest: secret.digest(),
            last4: secret.last4().to_owned(),
            grace_s: [0, 30][draw.below(2)],
            expected: None,
        };
        let text = secret.reveal().to_owned();
        (command, Some(Made::stored(text, id)))
    }

    fn revocation(&self, by: Option<&Made>, draw: &mut Draw<'_>) -> Command {
        let target = match draw.below(20) {
            19 => RevokeTarget::Itself,
            18 => RevokeTarget::Session(self.any_token(draw)),
            17 => match by.and_then(|by| by.claims.clone()) {
                Some(claims) => RevokeTarget::Sealed(claims),
                None => RevokeTarget::Itself,
            },
            _ => RevokeTarget::Id(self.any_token(draw)),
        };
        Command::RevokeToken {
            target,
            compromised: draw.below(2) == 1,
        }
    }

    fn cut_off(&self, draw: &mut Draw<'_>) -> CutOffRequest {
        match draw.below(7) {
            5 => CutOffRequest::IssuedByCredential(self.any_token(draw)),
            6 => CutOffRequest::Sessions(any_principal(draw)),
            0 => CutOffRequest::IssuedByToken(self.any_token(draw)),
            1 => CutOffRequest::IssuedByPrincipal(any_principal(draw)),
            2 => CutOffRequest::IssuedByNumber(PrincipalId(1 + draw.below(7) as u32)),
            3 => CutOffRequest::ResourceUnder(resource(draw.one(&HOMES))),
            _ => CutOffRequest::Subject(any_principal(draw)),
        }
    }

    pub(super) fn using(secret: &str) -> Command {
        Command::UseToken(Box::new(UseToken {
            key: Digest::of(secret).key(),
            needs: Vec::new(),
            client_ip: Some(HERE),
            audience: None,
            workload: None,
            kinds: KindSet::ALL,
        }))
    }

    fn any_token(&self, draw: &mut Draw<'_>) -> TokenId {
        let favoured = draw.below(2) == 1;
        let favoured = draw.one_of(&self.favoured).filter(|_| favoured);
        favoured.unwrap_or_else(|| self.made[draw.below(self.made.len())].id)
    }
}

fn any_principal(draw: &mut Draw<'_>) -> PrincipalName {
    // Mostly those that are there from the beginning.
    let among = [8, 8, 8, PRINCIPALS.len()][draw.below(4)];
    name(draw.one(&PRINCIPALS[..among]))
}

pub(super) fn kind_of(name: &PrincipalName) -> TokenKind {
    match name.kind() {
        PrincipalKind::User => TokenKind::User,
        PrincipalKind::Team => TokenKind::Team,
        PrincipalKind::Service => TokenKind::Service,
    }
}

fn any_role(draw: &mut Draw<'_>) -> RoleName {
    // Oftener than others the first one, which lets nobody manage anything.
    let among = [1, ROLES.len(), ROLES.len()][draw.below(3)];
    role_name(draw.one(&ROLES[..among]))
}

pub(super) fn role_name(text: &str) -> RoleName {
    RoleName::parse(text).expect("valid")
}

/// Of ten limits four are none.
pub(super) fn limit_by(issue: &mut IssueToken, limit: usize, now_ms: UnixMs) {
    match limit {
        1 => issue.limits.networks = Networks::parse(&[ELSEWHERE]).expect("valid"),
        2 => issue.limits.workload = Workload::parse(WORKLOAD),
        3 => issue.not_before_ms = Some(now_ms + DAY_MS),
        4 => issue.uses = Some(1),
        5 => (issue.ttl_s, issue.max_lifetime_s) = (Some(100), Some(300)),
        6 => issue.period_s = Some(100),
        _ => {}
    }
}

pub(super) fn role_with(text: &str, draw: &mut Draw<'_>) -> Command {
    Command::CreateRole {
        name: role_name(text),
        home: resource(draw.one(&HOMES)),
        actions: actions(draw),
        display: Display::default(),
    }
}

fn actions(draw: &mut Draw<'_>) -> Vec<ActionPattern> {
    let count = 1 + draw.below(3);
    let given = (0..count).map(|_| ActionPattern::parse(draw.one(&GIVEN)).expect("valid"));
    given.collect()
}

fn text_of(text: &str) -> Display {
    Display {
        description: Some(text.to_owned()),
        ..Display::default()
    }
}
