//! What happened: counts, faults, answers, and what the oracle holds against them.
//!
//! Bounded: the newest answers and events are kept, the violations up to a number, and all of it
//! goes to a file only when something was found.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::LEASE;
use super::disturb::Kind;
use super::world::NAMES;
use crate::callers::locked;

const EVENTS_MAX: usize = 400_000;
const VIOLATIONS_MAX: usize = 100;
const VIOLATIONS_TOLD: usize = 5;

/// The boot clock.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).expect("after boot");
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("below a second")
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Checks,
    Allowed,
    Denied,
    Stale,
    Unanswered,
    Issued,
    NotIssued,
    Confirmed,
    Committed,
    Unknown,
}

const COUNTS: [(Count, &str); 10] = [
    (Count::Checks, "checks"),
    (Count::Allowed, "allowed"),
    (Count::Denied, "denied"),
    (Count::Stale, "stale"),
    (Count::Unanswered, "unanswered"),
    (Count::Issued, "issued"),
    (Count::NotIssued, "not issued, or unknown"),
    (Count::Confirmed, "revokes confirmed"),
    (Count::Committed, "revokes committed"),
    (Count::Unknown, "revokes unknown"),
];

struct Fault {
    kind: Kind,
    from_ns: u64,
    until_ns: u64,
}

struct Violation {
    text: String,
    sent_ns: u64,
    got_ns: u64,
}

/// The record of a run.
pub(super) struct History {
    seed: u64,
    began_ns: u64,
    counts: [AtomicU64; COUNTS.len()],
    allowed_by: [AtomicU64; NAMES.len()],
    faults: Mutex<Vec<Fault>>,
    events: Mutex<VecDeque<(u64, String)>>,
    violations: Mutex<Vec<Violation>>,
    logs: Mutex<Vec<(&'static str, String)>>,
    caught: Notify,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            began_ns: now_ns(),
            counts: Default::default(),
            allowed_by: Default::default(),
            faults: Mutex::default(),
            events: Mutex::default(),
            violations: Mutex::default(),
            logs: Mutex::default(),
            caught: Notify::new(),
        }
    }

    pub(super) fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn allowed_by(&self, replica: usize) {
        self.allowed_by[replica].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counted(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Takes note of something.
    pub(super) fn event(&self, text: String) {
        let mut events = locked(&self.events);
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back((now_ns(), text));
    }

    /// A fault begins; which one it is, for its end.
    pub(super) fn begun(&self, kind: Kind, replica: usize, time: Duration) -> usize {
        let name = NAMES[replica];
        self.event(format!(
            "fault {kind:?} at {name} for {} ms",
            time.as_millis()
        ));
        let mut faults = locked(&self.faults);
        faults.push(Fault {
            kind,
            from_ns: now_ns(),
            // Until it is over, it goes on.
            until_ns: u64::MAX,
        });
        faults.len() - 1
    }

    pub(super) fn over(&self, kind: Kind, fault: usize) {
        self.event(format!("fault {kind:?} is over"));
        locked(&self.faults)[fault].until_ns = now_ns();
    }

    /// A token that was gone was allowed, between these instants.
    pub(super) fn let_in(&self, sent_ns: u64, got_ns: u64, text: String) {
        self.violation(sent_ns, got_ns, text);
        self.caught.notify_one();
    }

    /// Something that must not happen did, between these instants.
    pub(super) fn violation(&self, sent_ns: u64, got_ns: u64, text: String) {
        self.event(format!("VIOLATION {text}"));
        let mut violations = locked(&self.violations);
        if violations.len() < VIOLATIONS_MAX {
            violations.push(Violation {
                text,
                sent_ns,
                got_ns,
            });
        }
    }

    /// Waits for a token that was let in.
    pub(super) async fn caught(&self) {
        self.caught.notified().await;
    }

    pub(super) fn violations(&self) -> Vec<String> {
        let violations = locked(&self.violations);
        violations.iter().map(|one| one.text.clone()).collect()
    }

    pub(super) fn keep_log(&self, name: &'static str, text: String) {
        locked(&self.logs).push((name, text));
    }

    /// The kinds that were to happen and did not.
    pub(super) fn never(&self, kinds: &[Kind]) -> Vec<Kind> {
        let kinds = kinds.iter().copied();
        kinds.filter(|kind| self.happened(*kind) == 0).collect()
    }

    fn happened(&self, kind: Kind) -> usize {
        let faults = locked(&self.faults);
        faults.iter().filter(|fault| fault.kind == kind).count()
    }

    /// How many violations there were while such a fault lasted, or a lease later.
    fn during(&self, kind: Kind) -> usize {
        let faults = locked(&self.faults);
        let after = u64::try_from(LEASE.as_nanos()).expect("short") * 2;
        let violations = locked(&self.violations);
        let during = violations.iter().filter(|violation| {
            let mut faults = faults.iter().filter(|fault| fault.kind == kind);
            faults.any(|fault| {
                fault.from_ns <= violation.got_ns
                    && violation.sent_ns <= fault.until_ns.saturating_add(after)
            })
        });
        during.count()
    }

    /// Everything in one table.
    pub(super) fn table(&self) -> String {
        let seconds = Duration::from_nanos(now_ns() - self.began_ns).as_secs();
        let mut table = format!("faults: seed {}, {seconds} s\n", self.seed);
        for (count, name) in COUNTS {
            let _ = writeln!(table, "  {name:<24}{:>9}", self.counted(count));
        }
        for (name, allowed) in NAMES.iter().zip(&self.allowed_by) {
            let _ = writeln!(
                table,
                "  allowed by {name:<13}{:>9}",
                allowed.load(Ordering::Relaxed)
            );
        }
        let _ = writeln!(table, "  {:<24}{:>9}{:>13}", "fault", "times", "violations");
        for kind in Kind::ALL {
            let (name, times) = (format!("{kind:?}"), self.happened(kind));
            let _ = writeln!(table, "  {name:<24}{times:>9}{:>13}", self.during(kind));
        }
        let _ = write!(
            table,
            "  {:<33}{:>13}",
            "violations in all",
            self.violations().len()
        );
        for violation in self.violations().iter().take(VIOLATIONS_TOLD) {
            let _ = write!(table, "\n  {violation}");
        }
        table
    }

    /// Writes everything to a file; where that is.
    pub(super) fn keep(&self) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let path = folder.join(format!("faults-{}.txt", self.seed));
        let mut text = self.table();
        text.push('\n');
        for (at_ns, event) in &*locked(&self.events) {
            let ms = at_ns.saturating_sub(self.began_ns) as f64 / 1e6;
            let _ = writeln!(text, "{ms:12.3} {event}");
        }
        for (name, log) in &*locked(&self.logs) {
            let _ = writeln!(text, "\nlog of {name}:\n{log}");
        }
        let written = std::fs::write(&path, text);
        let seed = format!("LATCHKEY_FAULT_SEED={}", self.seed);
        match written {
            Ok(()) => format!("{seed}; what happened is in {}", path.display()),
            Err(error) => format!("{seed}; {}: {error}", path.display()),
        }
    }
}
