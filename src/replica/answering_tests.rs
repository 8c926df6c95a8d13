//! What a Check is answered from: the order of its two readings, and what stale answers may be.
//!
//! A pause between the two readings is made by a clock that does as much as it likes when read.

use std::sync::Weak;

use super::tests::unlinked;
use super::*;
use crate::domain::chain::Head;
use crate::domain::clock::{ManualClock, Now};

/// A clock during whose reading a whole renewal passes, as if the reader stood still there.
#[derive(Default)]
struct Renewing(Mutex<Weak<Shared>>);

impl Clock for Renewing {
    fn now(&self) -> Now {
        Now::at(100)
    }

    fn boot_ms(&self) -> u64 {
        let shared = self.0.lock().expect("no panic").upgrade();
        if let Some(shared) = shared {
            let mut state = State::default();
            state.seal(Head {
                revision: 7,
                chain: [7; 32],
            });
            shared.published.store(Arc::new(state));
            shared.lease.extend(shared.lease.term(), 1_000);
        }
        100
    }

    fn wall_ahead_ms(&self) -> i64 {
        0
    }
}

fn replica(shared: Shared) -> Replica {
    Replica {
        shared: Arc::new(shared),
        commands: mpsc::channel(1).0,
        logins: mpsc::channel(1).0,
        lease: LeaseSettings::default(),
        identity: Arc::default(),
        lifetimes: Lifetimes::default(),
    }
}

#[test]
fn state_is_taken_after_the_lease_was_read() {
    let clock = Arc::new(Renewing::default());
    let replica = replica(unlinked(
        Arc::clone(&clock) as Arc<dyn Clock>,
        &Settings::default(),
    ));
    let lease = &replica.shared.lease;
    lease.extend(lease.term(), 200);
    *clock.0.lock().expect("no panic") = Arc::downgrade(&replica.shared);
    let (held, state) = replica.answering();
    assert!(held);
    assert_eq!(state.head().revision, 7, "not what was published before");
}

#[test]
fn stale_answers_bridge_an_outage_and_not_a_state_that_is_known_to_be_wrong() {
    let mut settings = Settings::default();
    let clock = Arc::new(ManualClock::at(100));
    let strict = replica(unlinked(Arc::clone(&clock) as Arc<dyn Clock>, &settings));
    settings.lease.serve_stale = true;
    let stale = replica(unlinked(Arc::clone(&clock) as Arc<dyn Clock>, &settings));
    for one in [&strict, &stale] {
        one.shared.lease.extend(one.shared.lease.term(), 200);
    }
    assert!(strict.may_answer() && stale.may_answer());
    clock.set(200);
    assert!(!strict.may_answer() && stale.may_answer());
    stale.shared.diverged();
    assert!(!stale.may_answer());
    // What was loaded anew may lack what was acknowledged here: only a renewal tells.
    stale.shared.lease.lift();
    assert!(!stale.may_answer());
    stale.shared.lease.extend(stale.shared.lease.term(), 300);
    assert!(stale.may_answer());
    clock.set(300);
    assert!(stale.may_answer());
    // It leaves.
    stale.shared.lease.end();
    assert!(!stale.may_answer());
}
