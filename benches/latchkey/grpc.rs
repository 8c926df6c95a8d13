//! A method over gRPC against one that does nothing: throughput, CPU time, user instructions.
//!
//! ```text
//! this process ─► serve-check, serve-empty, …: the benchmark again, each a server alone
//! ```
//!
//! The rounds of both alternate, so that what else the machine does meets both. What is measured
//! is the server's own; the load runs in this process and is the same for both.

mod counted;
pub(crate) mod load;
mod server;

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio::runtime::Runtime;
use tonic::codegen::Bytes;

use super::report::Spread;
use counted::{Counted, Counter};
use load::{CONNECTIONS, Load, STREAMS};
pub(crate) use server::Time;

const ROUNDS: usize = 7;
const ROUND_REQUESTS: usize = 100_000;
const TOKENS: u64 = 1_000_000;
const COUNTED_ROUNDS: usize = 3;
const COUNTED_TOKENS: u64 = 1_000;
// proc(5) counts in hundredths of a second on every architecture that Rust's Linux targets have.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Latchkey, asked for Checks.
    Check,
    /// The same, of sealed access tokens.
    Sealed,
    /// Latchkey with the telemetry of a server that nobody has set otherwise.
    Told,
    /// Latchkey without, asked by callers that say that they do not sample.
    Parented,
    /// The same with traces on, and a collector that is not there.
    Traced,
    /// An RPC of empty messages.
    Empty,
    /// Latchkey, asked by Envoy.
    Authorize,
    /// An authorisation server that reads the question, lets everything pass and says the same.
    Constant,
    /// One that neither reads the question nor says anything.
    Unread,
}

const KINDS: [Kind; 9] = [
    Kind::Check,
    Kind::Sealed,
    Kind::Told,
    Kind::Parented,
    Kind::Traced,
    Kind::Empty,
    Kind::Authorize,
    Kind::Constant,
    Kind::Unread,
];

impl Kind {
    /// The hidden word that makes the benchmark this server.
    fn word(self) -> &'static str {
        match self {
            Self::Check => "serve-check",
            Self::Sealed => "serve-sealed",
            Self::Told => "serve-told",
            Self::Parented => "serve-parented",
            Self::Traced => "serve-traced",
            Self::Empty => "serve-empty",
            Self::Authorize => "serve-authorize",
            Self::Constant => "serve-constant",
            Self::Unread => "serve-unread",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Check | Self::Sealed | Self::Told | Self::Parented | Self::Traced => {
                "latchkey.v1.CheckService/Check"
            }
            Self::Empty => "bench.v1.EmptyService/Call",
            Self::Authorize | Self::Constant | Self::Unread => {
                "envoy.service.auth.v3.Authorization/Check"
            }
        }
    }
}

/// Serves and returns true if this process was started as one of the servers.
pub(crate) fn served(words: &[String]) -> bool {
    let [word, tokens, clock] = words else {
        return false;
    };
    let Some(kind) = KINDS.into_iter().find(|kind| kind.word() == word) else {
        return false;
    };
    let time = if clock == "stands" {
        Time::Stands
    } else {
        Time::Runs
    };
    server::serve(kind, tokens.parse().expect("a number"), time);
    true
}

/// Check against an empty RPC.
pub(crate) fn run() {
    let runtime = runtime();
    let pair = [Kind::Check, Kind::Empty];
    println!(
        "Check over gRPC against an empty RPC, {TOKENS} tokens, {CONNECTIONS} connections of \
         {STREAMS} streams, 1 worker, {ROUNDS} rounds of {ROUND_REQUESTS}:"
    );
    speed(&runtime, pair);
    instructions(&runtime, pair, COUNTED_TOKENS);
    println!("Check of a sealed access token over gRPC against one of a stored token:");
    instructions(&runtime, [Kind::Sealed, Kind::Check], COUNTED_TOKENS);
    println!(
        "Check over gRPC with the telemetry of default settings against one with counts alone:"
    );
    instructions(&runtime, [Kind::Told, Kind::Check], COUNTED_TOKENS);
    println!("Check over gRPC of callers that do not sample, traces on against traces off:");
    instructions(&runtime, [Kind::Traced, Kind::Parented], COUNTED_TOKENS);
}

/// For the load: the servers have their own.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A server process; it ends when its standard input does.
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
}

impl Process {
    pub(crate) fn start(wrapper: &[String], kind: Kind, tokens: u64, time: Time) -> Self {
        let program = std::env::current_exe().expect("the benchmark");
        let mut words = wrapper.iter();
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(&program),
        };
        command.args(words);
        if !wrapper.is_empty() {
            command.arg(&program);
        }
        let clock = if time == Time::Stands {
            "stands"
        } else {
            "runs"
        };
        let mut child = command
            .args([kind.word(), &tokens.to_string(), clock])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let port = line.trim().parse().expect("the server prints its port");
        Self { child, port }
    }

    /// User and system time so far, in microseconds.
    pub(crate) fn cpu_us(&self) -> [f64; 2] {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("runs");
        // The name before may hold anything; fields 14 and 15 by proc(5).
        let (_, rest) = stat.rsplit_once(')').expect("as in proc(5)");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        [11, 12].map(|at| fields[at].parse::<f64>().expect("ticks") / TICKS_PER_SECOND * 1e6)
    }

    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("ends").success());
    }
}

/// One round on one server: requests a second, user and whole CPU time a request.
struct Round {
    rate: f64,
    user_us: f64,
    cpu_us: f64,
}

fn speed(runtime: &Runtime, pair: [Kind; 2]) {
    let servers = pair.map(|kind| Process::start(&[], kind, TOKENS, Time::Runs));
    let loads = [0, 1].map(|at| {
        let messages = load::messages(pair[at], ROUND_REQUESTS as u64, TOKENS);
        runtime.block_on(Load::connect(pair[at], servers[at].port, &messages))
    });
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for at in 0..2 {
            let before = servers[at].cpu_us();
            let elapsed = runtime.block_on(loads[at].ask(ROUND_REQUESTS));
            let after = servers[at].cpu_us();
            let each = [0, 1].map(|i| (after[i] - before[i]) / ROUND_REQUESTS as f64);
            if round > 0 {
                rounds[at].push(Round {
                    rate: ROUND_REQUESTS as f64 / elapsed.as_secs_f64(),
                    user_us: each[0],
                    cpu_us: each[0] + each[1],
                });
            }
        }
    }
    let compared = |of: fn(&Round) -> f64| {
        let [check, empty] = [0, 1].map(|at| rounds[at].iter().map(of).collect());
        Compared::of(check, empty)
    };
    println!("  requests a second: {:.0}", compared(|round| round.rate));
    println!(
        "  user CPU of the server, us a request: {:.2}",
        compared(|round| round.user_us)
    );
    println!(
        "  user and system CPU, us a request: {:.2}",
        compared(|round| round.cpu_us)
    );
    for load in loads {
        runtime.block_on(load.close());
    }
    servers.into_iter().for_each(Process::stop);
}

/// User instructions of the first of a pair and of the second, a request.
pub(crate) fn instructions(runtime: &Runtime, pair: [Kind; 2], tokens: u64) {
    let Some(counter) = Counter::find() else {
        println!("  instructions: neither perf's counters nor valgrind are here");
        return;
    };
    // Two runs each, so that start and end cancel out.
    let [few, many] = match counter {
        Counter::Perf => [20_000, 220_000],
        Counter::Callgrind => [1_000, 11_000],
    };
    let messages = pair.map(|kind| load::messages(kind, many as u64, tokens));
    let mut rounds: [Vec<Counted>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..COUNTED_ROUNDS {
        for at in 0..2 {
            let [less, more] = [few, many].map(|requests| {
                count(
                    runtime,
                    counter,
                    (pair[at], tokens),
                    &messages[at],
                    requests,
                )
            });
            let each = (many - few) as f64;
            rounds[at].push(Counted {
                all: (more.all - less.all) / each,
                sha: (more.sha - less.sha) / each,
            });
        }
    }
    let compared = |of: fn(&Counted) -> f64| {
        let [check, empty] = [0, 1].map(|at| rounds[at].iter().map(of).collect());
        Compared::of(check, empty)
    };
    let whole = compared(|counted| counted.all);
    let how = format!("{tokens} tokens, {CONNECTIONS} connections of {STREAMS} streams");
    match counter {
        Counter::Perf => {
            println!("  user instructions a request, by perf ({how}): {whole:.0}");
        }
        Counter::Callgrind => {
            let sha = Spread::of(rounds[0].iter().map(|counted| counted.sha).collect());
            println!(
                "  user instructions a request, by callgrind ({how}; the clock stands; valgrind \
                 has no SHA instructions): {whole:.0}"
            );
            println!(
                "  the same without the {sha} that SHA-256 takes in software: {:.0}",
                compared(|counted| counted.all - counted.sha)
            );
        }
    }
}

/// Instructions of a server from its start to its end, with so many requests between.
fn count(
    runtime: &Runtime,
    counter: Counter,
    (kind, tokens): (Kind, u64),
    messages: &Arc<[Bytes]>,
    requests: usize,
) -> Counted {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("counted");
    // What was sealed ends by the clock that stands.
    let time = match (counter, kind) {
        (Counter::Callgrind, _) | (_, Kind::Sealed) => Time::Stands,
        (Counter::Perf, _) => Time::Runs,
    };
    let server = Process::start(&counter.wrapper(&out), kind, tokens, time);
    runtime.block_on(async {
        let load = Load::connect(kind, server.port, messages).await;
        load.ask(requests).await;
        load.close().await;
    });
    server.stop();
    counter.read(&out)
}

/// Two servers by medians with their spread, and the ratio of each pair of rounds.
pub(crate) struct Compared([Spread; 3]);

impl Compared {
    pub(crate) fn of(check: Vec<f64>, empty: Vec<f64>) -> Self {
        let ratios = check.iter().zip(&empty).map(|(check, empty)| check / empty);
        let ratios = Spread::of(ratios.collect());
        Self([Spread::of(check), Spread::of(empty), ratios])
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(0);
        let shown = |spread: &Spread, places: usize| {
            let Spread {
                median,
                lowest,
                highest,
            } = spread;
            format!("{median:.places$} [{lowest:.places$}-{highest:.places$}]")
        };
        let [check, empty, ratio] = &self.0;
        let (check, empty) = (shown(check, places), shown(empty, places));
        write!(f, "{check} against {empty}; ratio {}", shown(ratio, 3))
    }
}
