//! Groups of commands at once, through two replicas on one store that fails now and then.
//!
//! The log says in which order the changes happened; every reply must be what the oracle
//! replies at its place in that order: a change at its own revision, everything else at some
//! revision between the changes before and after it in its replica's queue. Then both replicas,
//! a replay of the log and the oracle must agree on everything.

use std::sync::Arc;

use futures_util::future::join_all;
use latchkey::domain::change::Change;
use latchkey::domain::clock::ManualClock;
use latchkey::domain::refusal::Refusal;
use latchkey::replica::{Done, Replica, Settings, WriterTask};
use latchkey::state::State;
use latchkey::state::decide::{Caller, Command, Envelope};

use super::commands::{envelope, name};
use super::compare::{compare, compare_check, entropy, reply_of};
use super::direct::{lifetimes, tick};
use super::generate::Generator;
use super::memory_store::{Fault, MemoryStore};
use super::oracle::Oracle;
use super::oracle::verbs::Reply;
use super::{T0, power, seeds};

type Answer = Result<Done, Refusal>;

struct Cluster {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    replicas: Vec<(Replica, WriterTask)>,
    oracle: Oracle,
    /// What the log made, judged entry by entry.
    judged: State,
}

impl Cluster {
    async fn start(seed: u64) -> Self {
        let (store, clock) = (
            Arc::new(MemoryStore::default()),
            Arc::new(ManualClock::at(T0)),
        );
        let settings = Settings {
            lifetimes: lifetimes(),
            batch_commands_max: 7,
            forget_every_ms: 3_600_000,
            ..Settings::default()
        };
        let mut replicas = Vec::new();
        for number in 0..2 {
            let random = Arc::new(entropy(seed * 2 + number));
            let replica =
                Replica::start(store.clone(), clock.clone(), random, settings.clone()).await;
            replicas.push(replica.expect("an empty store loads"));
        }
        let oracle = Oracle {
            longest_s: lifetimes().max_s,
            ..Oracle::default()
        };
        Self {
            store,
            clock,
            replicas,
            oracle,
            judged: State::default(),
        }
    }

    /// Sends each replica its commands at once, in their order.
    async fn send(&self, queues: &[Vec<Envelope>; 2]) -> [Vec<Answer>; 2] {
        let sent = queues
            .iter()
            .zip(&self.replicas)
            .map(|(queue, (replica, _))| {
                join_all(queue.iter().map(|one| replica.submit(one.clone())))
            });
        let mut answers = join_all(sent).await.into_iter();
        [
            answers.next().unwrap_or_default(),
            answers.next().unwrap_or_default(),
        ]
    }

    /// Compares the answers with the oracle's, in the order of the log.
    fn settle(
        &mut self,
        now: u64,
        queues: &[Vec<Envelope>; 2],
        answers: &[Vec<Answer>; 2],
    ) -> Result<(), String> {
        let start = self.oracle.revision;
        let log = self.store.log();
        let mut states = vec![self.oracle.clone()];
        for logged in &log[start as usize..] {
            let before = self.judged.clone();
            self.judged
                .apply(logged)
                .map_err(|error| error.to_string())?;
            power::judge(&before, &self.judged, logged)?;
            let revision = logged.entry.revision;
            let made = |answer: &Answer| {
                answer.as_ref().is_ok_and(|done| {
                    let change = matches!(
                        reply_of(&Ok(done.decided.outcome.clone())),
                        Some(Reply::Change(_))
                    );
                    change && done.revision.number == revision
                })
            };
            let mut all = queues
                .iter()
                .zip(answers)
                .flat_map(|(queue, answers)| queue.iter().zip(answers));
            let told = all.find(|(_, answer)| made(answer));
            if let (None, Change::RaiseFormat(level)) = (told, &logged.entry.change) {
                // A replica does so by itself for the first command that needs it.
                let raise = envelope(Caller::System, Command::RaiseFormat(*level));
                self.oracle.command(&raise, now);
                states.push(self.oracle.clone());
                continue;
            }
            let (command, answer) =
                told.ok_or_else(|| format!("nobody was told of revision {revision}: {logged:?}"))?;
            let ours = self.oracle.command(command, now);
            let real = reply_of(&answer.clone().map(|done| done.decided.outcome));
            if real.as_ref() != Some(&ours) {
                return Err(format!(
                    "{command:?} at {revision}: replied {real:?}, the oracle {ours:?}"
                ));
            }
            states.push(self.oracle.clone());
        }
        for (queue, answers) in queues.iter().zip(answers) {
            between(now, start, &states, queue, answers)?;
        }
        Ok(())
    }

    /// Lets every replica see the whole log, and compares them.
    async fn agree(&self, generator: &mut Generator, now: u64) -> Result<(), String> {
        for (replica, _) in &self.replicas {
            let nothing = Command::SetDisabled {
                name: name("user:nobody"),
                disabled: true,
            };
            let answer = replica.submit(envelope(Caller::Local, nothing)).await;
            if !matches!(answer, Err(Refusal::NotFound(_))) {
                return Err(format!("a command for nobody: {answer:?}"));
            }
            let state = replica.state_full();
            if (state.head(), state.digest()) != (self.judged.head(), self.judged.digest()) {
                return Err(format!(
                    "{state:?} is not {:?}, which the log makes",
                    self.judged
                ));
            }
            compare(&state, &self.oracle, &generator.known)?;
            for _ in 0..12 {
                let asked = generator.asked();
                compare_check(&state, &self.oracle, &generator.known, &asked, now)?;
            }
        }
        Ok(())
    }
}

/// Everything that is no change must fit between the changes around it in its queue.
fn between(
    now: u64,
    start: u64,
    states: &[Oracle],
    queue: &[Envelope],
    answers: &[Answer],
) -> Result<(), String> {
    let changed = |answer: &Answer| match answer {
        Ok(done) => matches!(
            reply_of(&Ok(done.decided.outcome.clone())),
            Some(Reply::Change(_))
        )
        .then(|| (done.revision.number - start) as usize),
        Err(_) => None,
    };
    let mut earliest = 0;
    for (index, (command, answer)) in queue.iter().zip(answers).enumerate() {
        if let Some(at) = changed(answer) {
            if at <= earliest && earliest > 0 {
                return Err(format!("{command:?} overtook the command before it"));
            }
            earliest = at;
            continue;
        }
        let latest = answers[index..]
            .iter()
            .find_map(changed)
            .map_or(states.len() - 1, |at| at - 1);
        let Some(real) = reply_of(&answer.clone().map(|done| done.decided.outcome)) else {
            continue;
        };
        let fits = |state: &Oracle| state.clone().command(command, now) == real;
        if !states[earliest..=latest].iter().any(fits) {
            let ours = states[latest].clone().command(command, now);
            return Err(format!(
                "{command:?}: replied {real:?}, the oracle {ours:?}"
            ));
        }
    }
    Ok(())
}

fn faults(generator: &mut Generator) -> Vec<Fault> {
    let all = [
        Fault::Unavailable,
        Fault::Refused,
        Fault::LostAnswer,
        Fault::LostBatch,
    ];
    let count = if generator.dice.percent(25) {
        1 + generator.dice.below(2)
    } else {
        0
    };
    (0..count).map(|_| generator.dice.one(&all)).collect()
}

async fn one_run(seed: u64, groups: usize) -> Result<(), String> {
    let mut cluster = Cluster::start(seed).await;
    let mut generator = Generator::new(seed);
    let setup = [generator.setup(T0), Vec::new()];
    let answers = cluster.send(&setup).await;
    cluster.settle(T0, &setup, &answers)?;
    let (mut clock, mut now) = (T0, T0);
    for _ in 0..groups {
        clock = tick(&mut generator, clock);
        cluster.clock.set(clock);
        now = now.max(clock);
        generator.look(&cluster.oracle, now);
        generator.look_at_logins(&cluster.oracle, &[], now);
        let mut queues = [Vec::new(), Vec::new()];
        let shared = generator.dice.percent(50);
        let first = generator.dice.below(2);
        for _ in 0..=generator.dice.below(20) {
            let which = if shared {
                generator.dice.below(2)
            } else {
                first
            };
            queues[which].push(generator.command(now));
        }
        let faults = faults(&mut generator);
        let may_fail = faults
            .iter()
            .any(|one| matches!(one, Fault::Unavailable | Fault::Refused));
        cluster.store.fail_next(faults);
        let answers = cluster.send(&queues).await;
        cluster.store.fail_next([]);
        for refusal in answers
            .iter()
            .flatten()
            .filter_map(|answer| answer.as_ref().err())
        {
            match refusal {
                Refusal::Unavailable(_) if may_fail => {}
                Refusal::Unavailable(_) | Refusal::OutcomeUnknown => {
                    return Err(format!("{refusal:?} from a store that answers"));
                }
                _ => {}
            }
        }
        cluster.settle(clock, &queues, &answers)?;
        cluster.agree(&mut generator, clock).await?;
    }
    let replayed = State::replay(&cluster.store.log()).map_err(|error| error.to_string())?;
    if replayed.digest() != cluster.judged.digest() {
        return Err("the replayed log makes another State".to_owned());
    }
    if cluster.store.appends() >= cluster.store.log().len() + 6 * groups {
        return Err("commands that wait together are not appended together".to_owned());
    }
    for (_, task) in cluster.replicas {
        task.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn two_replicas_on_one_failing_store_are_one_history() {
    for seed in seeds(6) {
        if let Err(error) = one_run(seed, 30).await {
            panic!("LATCHKEY_MODEL_SEED={seed}: {error}");
        }
    }
}
