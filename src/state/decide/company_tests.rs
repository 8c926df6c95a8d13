//! Random companies, and what everybody in them may do: the ground of the tests of the boundary.
//!
//! What is permitted is a set of cells, one for each action on each resource, asked by Checks.
//! Deliberately absent: any opinion on who may do what.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::check::{check, check_sealed};
use super::super::directory::Principal;
use super::attempts_tests::{
    Draw, GIVEN, HOMES, LOGIN, PATTERNS, PRINCIPALS, ROLES, Row, SORTS, kind_of, limit_by,
    role_with, sort_of,
};
use super::login_attempts_tests::{EXCHANGE, KEY, RENEW};
use super::tests::{T0, World, name, resource, scopes};
use super::*;
use crate::domain::change::{Display, Subject};
use crate::domain::entropy::SeededEntropy;
use crate::domain::format::FORMAT_LOGINS;
use crate::domain::permission::ActionPattern;
use crate::domain::seal::claims::{Claims, Sealed};
use crate::domain::token::Digest;

/// A set of cells.
pub(super) type Cells = u128;

const ACTIONS: [&str; 10] = [
    "s:read",
    "s:write",
    // Nobody names this one: it comes with patterns only.
    "s:list",
    "tokens:issue",
    "tokens:revoke",
    "grants:write",
    "roles:write",
    "users:write",
    "teams:write",
    "services:write",
];
/// Those of them that let nobody manage anything.
const DATA_ACTIONS: usize = 3;
pub(super) const RESOURCES: [&str; 7] = ["a", "a/b", "a/b/c", "a/z", "x", "x/y", "z"];
pub(super) const ELSEWHERE: &str = "192.0.2.0/24";
pub(super) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
pub(super) const WORKLOAD: &str = "spiffe://acme/w";

/// The cells of management: whoever has one of them may change what others have.
pub(super) fn management() -> Cells {
    !0 << (DATA_ACTIONS * RESOURCES.len())
}

/// The cells in words.
pub(super) fn told(cells: Cells) -> Vec<String> {
    let all = needs().filter(|(cell, _)| cells >> cell & 1 == 1);
    all.map(|(_, need)| need.to_permission().to_string())
        .collect()
}

/// Every cell with what it needs.
fn needs() -> impl Iterator<Item = (usize, Need<'static>)> {
    let pairs = ACTIONS
        .iter()
        .flat_map(|action| RESOURCES.iter().map(move |on| (*action, *on)));
    let needs = pairs.map(|(action, on)| Need::parse(action, on).expect("valid"));
    needs.enumerate()
}

fn cells_of(permits: impl Fn(Need<'_>) -> bool) -> Cells {
    needs().fold(0, |cells, (cell, need)| {
        cells | Cells::from(permits(need)) << cell
    })
}

/// A secret that was ever made, with the token that it is of.
#[derive(Clone)]
pub(super) struct Made {
    /// Empty where there is none: a key, or a sealed token.
    pub(super) text: String,
    pub(super) id: TokenId,
    /// The claims of a sealed token.
    pub(super) claims: Option<Arc<[u8]>>,
}

impl Made {
    pub(super) fn stored(text: String, id: TokenId) -> Self {
        let claims = None;
        Self { text, id, claims }
    }

    pub(super) fn sealed(claims: &Claims) -> Self {
        Self {
            text: String::new(),
            id: claims.id,
            claims: Some(claims.encode(KEY).into()),
        }
    }

    /// Its bearer, where the attacker is.
    pub(super) fn caller(&self) -> Caller {
        let client_ip = Some(HERE);
        match &self.claims {
            Some(claims) => Caller::Sealed {
                claims: Arc::clone(claims),
                client_ip,
                peer: None,
            },
            None => Caller::Bearer {
                key: Digest::of(&self.text).key(),
                client_ip,
                peer: None,
            },
        }
    }
}

/// A company with everything that was ever made in it.
pub(super) struct Company {
    pub(super) world: World,
    pub(super) made: Vec<Made>,
    /// Tokens that are drawn more often than others.
    pub(super) favoured: Vec<TokenId>,
}

impl Company {
    /// Eight principals with tokens, six roles, and what the rows make of them: by the
    /// administrator, or by one of the tokens that it gave out.
    pub(super) fn new(rows: &[Row]) -> Self {
        let world = World {
            state: State::default(),
            now_ms: T0,
            entropy: SeededEntropy::new(11),
            lifetimes: Lifetimes::default(),
            log: Vec::new(),
        };
        let mut company = Self {
            world,
            made: Vec::new(),
            favoured: Vec::new(),
        };
        company.world.local(Command::RaiseFormat(FORMAT_LOGINS));
        let salt = [7; 16];
        company.world.local(Command::MintBy { key: KEY, salt });
        // Says the first of everything: a role that reads, for instance.
        let zero = [0; 16];
        let first = rows.first().unwrap_or(&zero);
        let mut homes = Draw::of(first);
        for one in &PRINCIPALS[..8] {
            let home = resource(homes.one(&HOMES));
            company.world.local(Command::CreatePrincipal {
                name: name(one),
                home,
                display: Display::default(),
            });
        }
        for (number, role) in ROLES[..4].iter().enumerate() {
            let row = rows.get(1 + number).unwrap_or(&zero);
            // The first one manages nothing.
            let row = if number == 0 { &zero } else { row };
            company.world.local(role_with(role, &mut Draw::of(row)));
        }
        for (number, one) in PRINCIPALS[..7].iter().enumerate() {
            company.give_out(one, ScopesAsked::All, 0);
            // And one that is narrowed to issuing and a little more.
            let mut draw = Draw::of(rows.get(number).unwrap_or(&zero));
            let more = format!("{}@{}", draw.one(&GIVEN), draw.one(&PATTERNS));
            company.give_out(one, scopes(&["tokens:issue@**", &more]), 0);
        }
        company.root();
        company.let_in(&mut homes);
        // And such as can be renewed, or are no good where the attacker is, or not yet, or no more.
        for limit in [5, 6, 1, 2, 3, 4] {
            let mut draw = Draw::of(rows.get(limit).unwrap_or(&zero));
            company.give_out(draw.one(&PRINCIPALS[..3]), ScopesAsked::All, limit);
        }
        let spent = company.made.last().map(|one| Self::using(&one.text));
        company
            .world
            .run(Caller::System, spent.expect("made"), "")
            .expect("spent");
        for row in rows.iter().skip(5) {
            company.set_up(row);
        }
        company
    }

    /// An administrator, and what it issues for others; a keeper of tokens and accounts, who has
    /// nothing else; an account that may do something.
    fn root(&mut self) {
        let keeps = ["tokens:issue", "tokens:revoke", "services:write"];
        for (role, actions) in [("root", &["*"][..]), ("keeper", &keeps)] {
            let actions = actions.iter().map(|one| ActionPattern::parse(one));
            self.world.local(Command::CreateRole {
                name: RoleName::parse(role).expect("valid"),
                home: resource("z"),
                actions: actions.map(|one| one.expect("valid")).collect(),
                display: Display::default(),
            });
        }
        self.world.grant("user:root", "root", "**");
        self.world.grant("user:u0", "keeper", "**");
        self.world.grant("service:s0", ROLES[1], "**");
        self.give_out("user:root", ScopesAsked::All, 0);
        let root = self.made.last().map(|one| one.text.clone());
        for one in &PRINCIPALS[..2] {
            let (text, issue) = self
                .world
                .asked(kind_of(&name(one)), Some(one), ScopesAsked::All);
            let (id, command) = (issue.id, Command::IssueToken(Box::new(issue)));
            let issued = self
                .world
                .as_bearer(root.as_deref().expect("made"), command);
            issued.expect("it may");
            self.made.push(Made::stored(text, id));
        }
    }

    fn give_out(&mut self, principal: &str, asked: ScopesAsked, limit: usize) {
        let kind = kind_of(&name(principal));
        let (text, mut issue) = self.world.asked(kind, Some(principal), asked);
        limit_by(&mut issue, limit, self.world.now_ms);
        let made = Made::stored(text, issue.id);
        self.world.local(Command::IssueToken(Box::new(issue)));
        self.made.push(made);
    }

    fn set_up(&mut self, row: &Row) {
        let mut draw = Draw::of(row);
        let (sort, by) = match draw.below(10) {
            0..=3 => (17, 0),
            4 => (12, 0),
            5 | 6 => (0, draw.below(self.made.len() + 1)),
            7 => (10, 0),
            8 => (
                [LOGIN, EXCHANGE][draw.below(2)],
                1 + draw.below(self.made.len()),
            ),
            _ => (draw.below(SORTS), 0),
        };
        let by = by.checked_sub(1).map(|by| self.made[by].clone());
        // What is refused is no part of the company.
        let _ = self.carry_out(sort, by.as_ref(), &mut draw);
    }

    /// Carries out what is of this sort, for a bearer or for the administrator. Whether anything
    /// changed, and what was made that is presented.
    pub(super) fn carry_out(
        &mut self,
        sort: usize,
        by: Option<&Made>,
        draw: &mut Draw<'_>,
    ) -> (bool, Option<Made>) {
        match (sort, by) {
            (LOGIN, Some(by)) => {
                let given = self.log_in(by, draw);
                return (given.is_some(), given);
            }
            (EXCHANGE | RENEW, Some(by)) => {
                let given = self.trade(sort, by, draw);
                return (given.is_some(), given);
            }
            (LOGIN | EXCHANGE | RENEW, None) => return (false, None),
            _ => {}
        }
        let (command, made) = self.command(sort, by, draw);
        assert_eq!(sort_of(&command), sort, "each number draws its sort");
        let caller = match by {
            // Uses are counted by the server, of whatever is presented.
            _ if matches!(command, Command::UseToken(_)) => Caller::System,
            None => Caller::Local,
            Some(by) => by.caller(),
        };
        let Ok(Outcome::Change { .. }) = self.world.run(caller, command, "because") else {
            return (false, None);
        };
        self.made.extend(made.clone());
        (true, made)
    }

    /// Gives somebody more, as an administrator would: by a grant, a membership or enabling.
    pub(super) fn give(&mut self, row: &Row) {
        let mut draw = Draw::of(row);
        let sort = [17, 12, 11][draw.below(3)];
        // It may have it already.
        let _ = self.carry_out(sort, None, &mut draw);
    }

    /// Another one of the same state, to try what is not to happen.
    pub(super) fn fork(&self) -> Self {
        let world = World {
            state: self.world.state.clone(),
            now_ms: self.world.now_ms,
            entropy: SeededEntropy::new(13),
            lifetimes: self.world.lifetimes,
            log: Vec::new(),
        };
        Self {
            world,
            made: self.made.clone(),
            favoured: Vec::new(),
        }
    }

    /// What a token permits where the attacker is.
    pub(super) fn permits(&self, made: &Made) -> Cells {
        let here = Context {
            client_ip: Some(HERE),
            ..Context::default()
        };
        self.cells(made, here)
    }

    /// The same, and what is got by logging in.
    pub(super) fn is_worth(&self, made: &Made) -> Cells {
        let given = self.given(made, Self::permits);
        self.permits(made) | given
    }

    /// What a token permits where it may be used.
    pub(super) fn permits_there(&self, made: &Made) -> Cells {
        let from = |client_ip| Context {
            client_ip: Some(client_ip),
            audience: None,
            workload: Some(WORKLOAD),
        };
        self.cells(made, from(HERE)) | self.cells(made, from(THERE))
    }

    fn cells(&self, made: &Made, context: Context<'_>) -> Cells {
        let (state, now) = (&self.world.state, Now::at(self.world.now_ms));
        let allowed = |needs: &[Need<'_>]| {
            let request = CheckRequest {
                token: &made.text,
                needs,
                context,
                kinds: KindSet::ALL,
            };
            match &made.claims {
                None => check(state, &request, now).allowed(),
                Some(claims) => {
                    let sealed = Sealed::read(claims).expect("claims");
                    check_sealed(state, sealed, &request, now).allowed()
                }
            }
        };
        if !allowed(&[]) {
            return 0;
        }
        let caller = made.caller();
        let power = state.power_of(&caller).expect("found");
        let cells = cells_of(|need| power.permits(need));
        // What the power says is what is answered: all that it permits, and nothing besides.
        let permitted = needs().filter(|(cell, _)| cells >> cell & 1 == 1);
        let permitted: Vec<_> = permitted.map(|(_, need)| need).collect();
        assert!(allowed(&permitted), "{:?}", told(cells));
        let beyond = needs().find(|(cell, _)| cells >> cell & 1 == 0);
        assert!(
            beyond.is_none_or(|(_, need)| !allowed(&[need])),
            "{:?}",
            told(cells)
        );
        cells
    }

    /// What every principal that lives holds now: nothing while it is paused.
    pub(super) fn principals(&self) -> Vec<(PrincipalId, Cells)> {
        let directory = &self.world.state.directory;
        let held = |one: &Principal| match one.record.disabled {
            true => 0,
            false => cells_of(|need| directory.permits(one, &need)),
        };
        directory
            .principals()
            .map(|one| (one.record.id, held(one)))
            .collect()
    }

    /// The stored token that it is, or that it was born from.
    fn origin(&self, id: TokenId) -> Option<TokenId> {
        let made = self.made.iter().find(|one| one.id == id)?;
        match &made.claims {
            None => Some(id),
            Some(claims) => Some(Sealed::read(claims)?.origin),
        }
    }

    /// Which principals and tokens a token speaks for, was born from, or was issued by.
    pub(super) fn behind(&self, id: TokenId) -> (Vec<PrincipalId>, Vec<TokenId>) {
        let Some(record) = self.origin(id).and_then(|id| self.world.state.token(id)) else {
            // Forgotten before it began.
            return Default::default();
        };
        let issuers = record.issuers.iter();
        let principals = issuers.clone().filter_map(|one| one.principal);
        let tokens = issuers.flat_map(|one| one.tokens.iter().copied());
        let principals = principals.chain(self.subject(id));
        (principals.collect(), tokens.chain([record.id]).collect())
    }

    /// The principal that a token speaks for.
    pub(super) fn subject(&self, id: TokenId) -> Option<PrincipalId> {
        match self.world.state.token(self.origin(id)?)?.subject {
            Subject::Principal(id) => Some(id),
            Subject::Resource(_) => None,
        }
    }

    /// The teams that a principal is in.
    pub(super) fn teams(&self, id: PrincipalId) -> Vec<PrincipalId> {
        let one = self.world.state.directory.principal(id);
        one.map_or_else(Vec::new, |one| one.teams.clone())
    }
}
