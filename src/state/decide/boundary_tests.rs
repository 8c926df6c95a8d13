//! The boundary as a property: whatever is tried, nobody ends up with more than was held.
//!
//! An administrator sets up a random company. Then an attacker, who holds some of its tokens, tries random commands of every sort with them and with every secret that these
//! commands give it, from where it is. After each accepted one, nothing that it knows permits a
//! cell that none of its tokens permitted at the beginning, and nobody and nothing else permits
//! what it did not before, unless the attacker held it. Besides: an attacker that may manage
//! nothing changes nothing for others, and what is granted to others later reaches no token
//! that it made before.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use super::attempts_tests::{Draw, LOGIN, Row, sorts_of_tokens};
use super::company_tests::{Cells, Company, Made, management, told};
use super::login_attempts_tests::{EXCHANGE, RENEW};
use super::*;

/// What the attacker may do instead: let some time pass.
const WAIT: usize = RENEW + 1;
const WAIT_MS: u64 = 15_000;

/// What everybody and everything permits at some moment.
struct Reach {
    principals: Vec<(PrincipalId, Cells)>,
    // In the order of the company's secrets: where the token may be used; and where the attacker
    // is, with what a login by it gives.
    there: Vec<Cells>,
    here: Vec<Cells>,
}

impl Reach {
    fn of(company: &Company) -> Self {
        let made = || company.made.iter();
        Self {
            principals: company.principals(),
            there: made().map(|one| company.permits_there(one)).collect(),
            here: made().map(|one| company.is_worth(one)).collect(),
        }
    }

    fn principal(&self, id: PrincipalId) -> Cells {
        let found = self.principals.iter().find(|(one, _)| *one == id);
        found.map_or(0, |(_, cells)| *cells)
    }
}

struct Attack {
    company: Company,
    /// Which of the company's secrets it knows.
    known: Vec<usize>,
    /// Whom these speak for at the beginning, and their teams.
    mine: Vec<PrincipalId>,
    held: Cells,
    /// What it gets by logging in and can only use elsewhere.
    held_there: Cells,
    before: Reach,
    /// How many commands of each sort changed something.
    accepted: [usize; WAIT],
}

impl Attack {
    /// By whoever knows up to three of the secrets that permit nothing of `never`, and up to three
    /// that are no good where it is.
    fn on(mut company: Company, choice: &Row, never: Cells) -> Self {
        let mut draw = Draw::of(choice);
        let before = Reach::of(&company);
        let here = &before.here;
        let (dead, mut among): (Vec<usize>, Vec<usize>) =
            (0..company.made.len()).partition(|one| here[*one] == 0);
        among.retain(|one| here[*one] & never == 0);
        // Mostly those that may manage something and not everything.
        let may = |one: &usize| here[*one] & management();
        let some = |one: &usize| may(one) != 0 && may(one) != management();
        let some: Vec<usize> = among.iter().copied().filter(some).collect();
        if !some.is_empty() && draw.below(5) > 0 {
            among = some;
        }
        let mut known = Vec::new();
        for of in [among, dead] {
            for _ in 0..1 + draw.below(3) {
                known.extend(draw.one_of(&of));
            }
        }
        company.favoured = known.iter().map(|one| company.made[*one].id).collect();
        let held = known.iter().fold(0, |held, one| held | before.here[*one]);
        let there = known
            .iter()
            .map(|one| company.given(&company.made[*one], Company::permits_there));
        let held_there = there.fold(0, |held, cells| held | cells);
        let ids = known.iter().map(|one| company.made[*one].id);
        let subjects: Vec<_> = ids.filter_map(|id| company.subject(id)).collect();
        let teams = subjects.iter().flat_map(|id| company.teams(*id));
        let mine = subjects.iter().copied().chain(teams).collect();
        Self {
            company,
            known,
            mine,
            held,
            held_there,
            before,
            accepted: [0; WAIT],
        }
    }

    /// Tries what a row says; whether it changed anything.
    fn attempt(&mut self, row: &Row, sorts: &[usize]) -> bool {
        let mut draw = Draw::of(row);
        let sort = sorts[draw.below(sorts.len())];
        if sort == WAIT {
            self.company.world.now_ms += WAIT_MS;
            return true;
        }
        let Some(by) = draw.one_of(&self.known) else {
            return false;
        };
        let by = self.company.made[by].clone();
        let (changed, made) = self.company.carry_out(sort, Some(&by), &mut draw);
        if let Some(made) = made {
            self.known.push(self.company.made.len() - 1);
            self.company.favoured.push(made.id);
        }
        self.accepted[sort] += usize::from(changed);
        changed
    }

    /// The property.
    fn gained(&self) -> Result<(), String> {
        let now = Reach::of(&self.company);
        let beyond = |who: String, cells: Cells| match cells {
            0 => Ok(()),
            cells => Err(format!(
                "{who} gains {:?}; the attacker held {:?}",
                told(cells),
                told(self.held)
            )),
        };
        for one in &self.known {
            let id = self.company.made[*one].id;
            beyond(format!("its token {id}"), now.here[*one] & !self.held)?;
        }
        for (id, cells) in &now.principals {
            let gains = cells & !self.before.principal(*id);
            beyond(format!("principal {}", id.0), gains & !self.held)?;
        }
        for (index, Made { id, .. }) in self.company.made.iter().enumerate() {
            let was = |cells: &[Cells]| cells.get(index).copied().unwrap_or(0);
            let there = now.there[index] & !was(&self.before.there);
            let here = now.here[index] & !was(&self.before.here);
            beyond(format!("token {id}"), here & !self.held)?;
            beyond(format!("token {id}"), there & !self.held & !self.held_there)?;
        }
        Ok(())
    }

    /// Tokens that it made and that speak for others, by no parent.
    fn foreign(&self) -> Vec<TokenId> {
        let made = self.company.made.iter().skip(self.before.here.len());
        let records = made.filter_map(|one| self.company.world.state.token(one.id));
        let foreign = records.filter(|record| {
            let subject = self.company.subject(record.id);
            let mine = subject.is_some_and(|one| self.mine.contains(&one));
            record.kind.is_credential() || (record.parent.is_none() && !mine)
        });
        foreign.map(|record| record.id).collect()
    }

    /// Principals and tokens that have nothing to do with the attacker: neither its own, nor
    /// those of its teams, nor what it or its tokens issued.
    fn strangers(&self) -> (Vec<PrincipalId>, Vec<usize>) {
        let ids: Vec<TokenId> = self
            .known
            .iter()
            .map(|one| self.company.made[*one].id)
            .collect();
        let mine = &self.mine;
        let principals = self.before.principals.iter().map(|(id, _)| *id);
        let tokens = (0..self.company.made.len()).filter(|index| {
            let id = self.company.made[*index].id;
            let (principals, tokens) = self.company.behind(id);
            !ids.contains(&id)
                && !principals.iter().any(|one| mine.contains(one))
                && !tokens.iter().any(|one| ids.contains(one))
        });
        let tokens = tokens.collect();
        (principals.filter(|id| !mine.contains(id)).collect(), tokens)
    }
}

fn rows(least: usize, most: usize) -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec(any::<Row>(), least..most)
}

/// Every sort of command, and time: what may give more oftener than what only takes away.
fn everything() -> Vec<usize> {
    let gives = [
        0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 11, 11, 12, 12, 15, 15, 17, 17,
    ];
    let logins = [22, 22, 22, 23, 23, LOGIN, LOGIN, LOGIN, EXCHANGE, RENEW];
    let gives = gives.into_iter().chain(logins);
    gives.chain(0..=WAIT).collect()
}

proptest! {
    #![proptest_config(Config {
        cases: 150,
        // A case that shrinks out of a random run is written down as a test.
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn nobody_ends_up_with_more_than_the_attacker_held(
        company in rows(20, 50),
        choice in any::<Row>(),
        attempts in rows(1, 60),
    ) {
        let mut attack = Attack::on(Company::new(&company), &choice, 0);
        for row in &attempts {
            if attack.attempt(row, &everything()) {
                prop_assert_eq!(attack.gained(), Ok(()));
            }
        }
    }

    #[test]
    fn who_may_manage_nothing_changes_nothing_for_others(
        company in rows(20, 50),
        choice in any::<Row>(),
        attempts in rows(1, 60),
    ) {
        let mut attack = Attack::on(Company::new(&company), &choice, management());
        let (principals, tokens) = attack.strangers();
        let commands: Vec<usize> = (0..WAIT).chain([LOGIN; 3]).collect();
        for row in &attempts {
            if !attack.attempt(row, &commands) {
                continue;
            }
            let now = Reach::of(&attack.company);
            prop_assert!(now.principals.len() == attack.before.principals.len());
            prop_assert_eq!(attack.foreign(), Vec::<TokenId>::new(), "speak for others");
            for id in &principals {
                prop_assert_eq!(now.principal(*id), attack.before.principal(*id), "{}", id.0);
            }
            for index in &tokens {
                prop_assert_eq!(now.there[*index], attack.before.there[*index], "{}", index);
                prop_assert_eq!(now.here[*index], attack.before.here[*index], "{}", index);
            }
        }
    }

    /// Only of tokens: a membership or a role is handed on with all that it will ever be.
    #[test]
    fn what_is_granted_later_reaches_no_token_that_was_made_before(
        company in rows(20, 50),
        choice in any::<Row>(),
        attempts in rows(1, 40),
        later in rows(1, 10),
    ) {
        let mut attack = Attack::on(Company::new(&company), &choice, 0);
        let first = attack.known.clone();
        for row in &attempts {
            attack.attempt(row, &sorts_of_tokens());
        }
        let mut without = Company::new(&company);
        for row in &later {
            for company in [&mut without, &mut attack.company] {
                company.give(row);
            }
        }
        let held = first.iter().fold(attack.held, |held, one| {
            held | without.is_worth(&without.made[*one])
        });
        for one in &attack.known {
            let more = attack.company.permits(&attack.company.made[*one]) & !held;
            prop_assert!(more == 0, "{:?}", told(more));
        }
    }
}

/// Nothing above would be worth anything if all were refused.
#[test]
fn the_attacker_succeeds_with_every_sort_of_command_but_the_servers_own() {
    let mut runner = TestRunner::deterministic();
    let mut accepted = [0; WAIT];
    let inputs = (rows(20, 50), any::<Row>(), rows(40, 60));
    for _ in 0..800 {
        let tree = inputs.new_tree(&mut runner).expect("a company");
        let (company, choice, attempts) = tree.current();
        let mut attack = Attack::on(Company::new(&company), &choice, 0);
        for row in &attempts {
            attack.attempt(row, &everything());
        }
        let counted = accepted.iter_mut().zip(attack.accepted);
        counted.for_each(|(all, more)| *all += more);
    }
    let never: Vec<usize> = (0..WAIT).filter(|sort| accepted[*sort] == 0).collect();
    // Confirming changes nothing; forgetting, raising the format and locking are the server's; a
    // key is retired after a month.
    assert_eq!(never, [19, 20, 21, 26, 28], "{accepted:?}");
}
