//! The in-process check: on few and many tokens, and beside a writer of 10,000 changes a second.
//!
//! The floor that ratios stand on is one dependent read from memory that no cache holds.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use latchkey::domain::change::Row;
use latchkey::domain::clock::Now;
use latchkey::domain::permission::Need;
use latchkey::domain::reason::Reason;
use latchkey::domain::token::KindSet;
use latchkey::state::State;
use latchkey::state::check::{CheckRequest, Context, check};

use super::population::{Population, mix, need, secret};
use super::report::{Spread, nanoseconds};

const ROUNDS: usize = 9;
const CHECKS: usize = 200_000;
const NOW_MS: u64 = 1_800_000_000_000;

/// The texts of all questions one behind another, as requests lie in a receive buffer.
struct Questions {
    texts: String,
    // Where token, action and resource of each end.
    ends: Vec<[u32; 3]>,
}

impl Questions {
    fn of(count: u64) -> Self {
        let (mut texts, mut ends) = (String::new(), Vec::with_capacity(CHECKS));
        for i in 0..CHECKS as u64 {
            let n = mix(i ^ 0xBEEF) % count;
            let (action, resource) = need(n);
            ends.push([secret(n), action, resource].map(|text| {
                texts.push_str(&text);
                texts.len() as u32
            }));
        }
        Self { texts, ends }
    }

    fn iter(&self) -> impl Iterator<Item = [&str; 3]> {
        let mut start = 0;
        self.ends.iter().map(move |ends| {
            ends.map(|end| {
                let text = &self.texts[start..end as usize];
                start = end as usize;
                text
            })
        })
    }
}

pub(crate) fn run(counts: &[u64]) {
    let floor = memory_line();
    println!("one random memory line (dependent, 1 GiB): {floor} ns");
    let population = Population::new();
    for &count in counts {
        let built = Instant::now();
        let state = population.state(count);
        let built = built.elapsed();
        let [index, ext, sets] = state.token_bytes();
        let bytes = (index + ext + sets) as f64 / count as f64;
        let questions = Questions::of(count);
        let published = Arc::new(ArcSwap::from_pointee(state));
        let quiet = measure(&published, &questions);
        let busy = beside_a_writer(&published, &population, count, &questions);
        println!(
            "check, {count:>9} tokens: {quiet} ns ({:.2} memory lines); beside 10,000 changes/s: \
             {} ns ({:.2} of quiet; {:.0} changes/s made); {bytes:.1} bytes a token \
             (index {:.1}, limits {:.1}, scope sets {:.1}); built in {:.1} s",
            quiet.median / floor.median,
            busy.0,
            busy.0.median / quiet.median,
            busy.1,
            index as f64 / count as f64,
            ext as f64 / count as f64,
            sets as f64 / count as f64,
            built.as_secs_f64(),
        );
    }
}

fn measure(published: &ArcSwap<State>, questions: &Questions) -> Spread {
    let client_ip = Some(IpAddr::from([10, 1, 2, 3]));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut allowed = 0;
        for [token, action, resource] in questions.iter() {
            let state = published.load();
            // Parsing the need is part of a check: it is what a request brings.
            let needs = [Need::parse(action, resource).expect("valid")];
            let request = CheckRequest {
                token,
                needs: &needs,
                context: Context {
                    client_ip,
                    ..Context::default()
                },
                kinds: KindSet::ALL,
            };
            let decision = black_box(check(&state, &request, Now::at(NOW_MS)));
            allowed += usize::from(decision.reason == Reason::Allowed);
        }
        rounds.push(nanoseconds(begun.elapsed(), CHECKS));
        assert_eq!(allowed, CHECKS, "every question is answered by an allow");
    }
    Spread::of(rounds)
}

/// Ten changes a millisecond, half of them new tokens, half updates of existing ones.
fn beside_a_writer(
    published: &Arc<ArcSwap<State>>,
    population: &Population,
    count: u64,
    questions: &Questions,
) -> (Spread, f64) {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = count;
            let begun = Instant::now();
            let mut due = begun;
            while !stop.load(Ordering::Relaxed) {
                let mut state = (**published.load()).clone();
                for _ in 0..5 {
                    state.load(&Row::Token(Box::new(population.record(next))));
                    let known = mix(next) % count;
                    let mut record = population.record(known);
                    record.expires_ms = Some(2_000_000_000_000 + next);
                    state.load(&Row::Token(Box::new(record)));
                    next += 1;
                }
                let former = published.swap(Arc::new(state));
                made.fetch_add(10, Ordering::Relaxed);
                due += Duration::from_millis(1);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                drop(former);
            }
            made.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
        });
        let spread = measure(published, questions);
        stop.store(true, Ordering::Relaxed);
        (spread, writer.join().expect("the writer"))
    })
}

/// The price of one dependent read from memory that no cache holds.
fn memory_line() -> Spread {
    const LINES: usize = 1 << 24;
    const READS: usize = 1_000_000;
    let lines: Vec<[u64; 8]> = (0..LINES as u64).map(|n| [mix(n); 8]).collect();
    let rounds = (0..ROUNDS).map(|round| {
        let begun = Instant::now();
        let mut at = round;
        for read in 0..READS {
            // The number of the read keeps the walk from falling into a short circle.
            at = (lines[at][0] as usize ^ read) % LINES;
        }
        black_box(at);
        nanoseconds(begun.elapsed(), READS)
    });
    Spread::of(rounds.collect())
}
