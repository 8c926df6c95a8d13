//! Random companies, and what everybody in them may do: the ground of the tests of the boundary.
//!
//! What is permitted is a set of cells, one for each action on each resource, asked by Checks.
//! Deliberately absent: any opinion on who may do what.

use std::net::IpAddr;

use super::super::check::check;
use super::super::directory::Principal;
use super::attempts_tests::{
    Draw, GIVEN, HOMES, PATTERNS, PRINCIPALS, ROLES, Row, SORTS, kind_of, limit_by, role_with,
    sort_of,
};
use super::tests::{T0, World, name, resource, scopes};
use super::*;
use crate::domain::change::{Display, Subject};
use crate::domain::entropy::SeededEntropy;
use crate::domain::permission::ActionPattern;
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
    pub(super) text: String,
    pub(super) id: TokenId,
}

/// A company with everything that was ever made in it.
pub(super) struct Company {
    pub(super) world: World,
    pub(super) made: Vec<Made>,
    /// Tokens that are drawn more often than others.
    pub(super) favoured: Vec<TokenId>,
}

impl Company {
    /// Eight principals with tokens, five roles, and what the rows make of them: by the
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

    /// An administrator, and what it issues for others.
    fn root(&mut self) {
        self.world.local(Command::CreateRole {
            name: RoleName::parse("root").expect("valid"),
            home: resource("z"),
            actions: vec![ActionPattern::parse("*").expect("valid")],
            display: Display::default(),
        });
        self.world.grant("user:root", "root", "**");
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
            self.made.push(Made { text, id });
        }
    }

    fn give_out(&mut self, principal: &str, asked: ScopesAsked, limit: usize) {
        let kind = kind_of(&name(principal));
        let (text, mut issue) = self.world.asked(kind, Some(principal), asked);
        limit_by(&mut issue, limit, self.world.now_ms);
        let made = Made { text, id: issue.id };
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
            _ => (draw.below(SORTS), 0),
        };
        let caller = by.checked_sub(1).map(|by| self.made[by].text.clone());
        // What is refused is no part of the company.
        let _ = self.carry_out(sort, caller, &mut draw);
    }

    /// Carries out a command of this sort, for the bearer of a secret or for the administrator.
    /// What it made, if it made anything with a secret.
    pub(super) fn carry_out(
        &mut self,
        sort: usize,
        bearer_of: Option<String>,
        draw: &mut Draw<'_>,
    ) -> Result<(Outcome, Option<Made>), Refusal> {
        let (command, made) = self.command(sort, bearer_of.as_deref(), draw);
        assert_eq!(sort_of(&command), sort, "each number draws its sort");
        let caller = match &bearer_of {
            // Uses are counted by the server, of whatever is presented.
            _ if matches!(command, Command::UseToken(_)) => Caller::System,
            None => Caller::Local,
            Some(text) => Caller::Bearer {
                key: Digest::of(text).key(),
                client_ip: Some(HERE),
            },
        };
        let outcome = self.world.run(caller, command, "because")?;
        if let (Some(made), Outcome::Change { .. }) = (&made, &outcome) {
            self.made.push(made.clone());
            return Ok((outcome, Some(made.clone())));
        }
        Ok((outcome, None))
    }

    /// Gives somebody more, as an administrator would: by a grant, a membership or enabling.
    pub(super) fn give(&mut self, row: &Row) {
        let mut draw = Draw::of(row);
        let sort = [17, 12, 11][draw.below(3)];
        // It may have it already.
        let _ = self.carry_out(sort, None, &mut draw);
    }

    /// What a secret permits where the attacker is.
    pub(super) fn permits(&self, secret: &str) -> Cells {
        let here = Context {
            client_ip: Some(HERE),
            ..Context::default()
        };
        self.cells(secret, here)
    }

    /// What a secret permits where its token may be used.
    pub(super) fn permits_there(&self, made: &Made) -> Cells {
        let record = self.world.state.token(made.id);
        let limited = record.as_ref().is_some_and(|one| !one.networks.is_empty());
        let there = Context {
            client_ip: Some(if limited { THERE } else { HERE }),
            audience: None,
            workload: Some(WORKLOAD),
        };
        self.cells(&made.text, there)
    }

    fn cells(&self, secret: &str, context: Context<'_>) -> Cells {
        let now = Now::at(self.world.now_ms);
        let allowed = |needs: &[Need<'_>]| {
            let request = CheckRequest {
                token: secret,
                needs,
                context,
                kinds: KindSet::ALL,
            };
            check(&self.world.state, &request, now).allowed()
        };
        if !allowed(&[]) {
            return 0;
        }
        let id = self.world.id_of(secret);
        let power = self.world.state.power(id).expect("found");
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

    /// Whom a token speaks for, and which principals and tokens answer for it.
    pub(super) fn behind(&self, id: TokenId) -> (Vec<PrincipalId>, Vec<TokenId>) {
        let Some(record) = self.world.state.token(id) else {
            // Forgotten before it began.
            return Default::default();
        };
        let issuers = record.issuers.iter();
        let principals = issuers.clone().filter_map(|one| one.principal);
        let tokens = issuers.flat_map(|one| one.tokens.iter().copied());
        let principals = principals.chain(self.subject(id));
        (principals.collect(), tokens.collect())
    }

    /// The principal that a token speaks for.
    pub(super) fn subject(&self, id: TokenId) -> Option<PrincipalId> {
        match self.world.state.token(id)?.subject {
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
