//! User instructions of a server alone: by the processor's counters, or else by callgrind.
//!
//! Both wrap the server's command and write what they counted to a file once it ends. Used by
//! `grpc`, which subtracts two runs so that start and end cancel out. callgrind simulates a
//! processor without SHA instructions: what sha2 takes in software is told apart.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// What counts instructions on this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    Perf,
    Callgrind,
}

/// Instructions of a whole run.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) all: f64,
    /// Those of SHA-256's compression; known to callgrind alone.
    pub(crate) sha: f64,
}

impl Counter {
    /// The processor's counters where they may be read, else callgrind where it is installed.
    pub(crate) fn find() -> Option<Self> {
        let words = ["stat", "-x,", "-e", "instructions:u", "true"];
        let perf = Command::new("perf").args(words).output();
        let perf =
            perf.is_ok_and(|ran| perf_count(&String::from_utf8_lossy(&ran.stderr)).is_some());
        let valgrind = || Command::new("valgrind").arg("--version").output().is_ok();
        if perf {
            Some(Self::Perf)
        } else {
            valgrind().then_some(Self::Callgrind)
        }
    }

    /// The words in front of the server's command.
    pub(crate) fn wrapper(self, out: &Path) -> Vec<String> {
        let out = out.display();
        let words = match self {
            Self::Perf => format!("perf stat -x, -e instructions:u -o {out} --"),
            Self::Callgrind => format!("valgrind -q --tool=callgrind --callgrind-out-file={out}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }

    /// What the wrapper wrote.
    pub(crate) fn read(self, out: &Path) -> Counted {
        let text = std::fs::read(out).expect("the counter wrote its file");
        let text = String::from_utf8_lossy(&text);
        match self {
            Self::Perf => Counted {
                all: perf_count(&text).expect("counted before"),
                sha: 0.0,
            },
            Self::Callgrind => callgrind_count(&text),
        }
    }
}

/// The first column of the line of the event; words when it is not supported.
fn perf_count(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.parse().ok()
}

/// Sums the lines of cost: `fn=` and `fi=` say whose they are, a name once and then its number;
/// the line after `calls=` repeats what the called function has by itself.
fn callgrind_count(text: &str) -> Counted {
    let mut names: HashMap<(bool, &str), bool> = HashMap::new();
    let (mut in_function, mut in_file, mut repeated) = (false, false, false);
    let mut counted = Counted { all: 0.0, sha: 0.0 };
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=') {
            let is_function = matches!(key, "fn" | "cfn");
            let is_file = matches!(key, "fl" | "fi" | "fe" | "cfi" | "cfl");
            repeated = key == "calls";
            if is_function || is_file {
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                let of_sha = if is_function {
                    name.contains("sha2") && name.contains("compress")
                } else {
                    name.contains("/sha2-")
                };
                let entry = names.entry((is_function, number)).or_insert(of_sha);
                match key {
                    "fn" => in_function = *entry,
                    "fl" | "fi" | "fe" => in_file = *entry,
                    _ => {}
                }
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.rsplit(' ').next().and_then(|cost| cost.parse().ok());
            if !std::mem::take(&mut repeated) {
                let cost: f64 = cost.unwrap_or(0.0);
                counted.all += cost;
                counted.sha += if in_function || in_file { cost } else { 0.0 };
            }
        }
    }
    counted
}
