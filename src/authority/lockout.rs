//! Guesses at logins: counted, and whoever makes too many locked out for a while.
//!
//! ```text
//! refused ─► queue ─► count (store) ─► at the threshold: a lock, which is a change
//! let in  ─► queue of its own ─► the count begins anew, as when its locks are ended
//! ```
//!
//! Counted behind the answer, in their order, by one task: whoever guesses waits for nothing and
//! so learns nothing from how long it takes, of accounts that are not there or lock nobody out as
//! little as of others. What does not fit into the queue is lost. Whoever is let in waits for its
//! count to begin anew, but not for the guesses of others. Absent: what a guess is, which is
//! `login`'s, and what a lock does, which is State's.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::domain::login::{ClientNetwork, LockoutPolicy, LoginMethod};
use crate::domain::principal::PrincipalName;
use crate::replica::Replica;
use crate::state::decide::{Caller, Command, Envelope, Outcome};
use crate::store::logins::{Failure, FailureKey};

use super::{Authority, half_hash};

/// Guesses that wait to be counted, and counts that wait to begin anew; of more guesses the count
/// is lost.
const WAITING_MAX: usize = 256;
/// Counts that this server knows to have begun; a login that succeeds ends them.
const FAILED_MAX: usize = 10_000;
/// How long whoever is let in waits for its count to begin anew. In a store that takes longer it
/// begins anew later, and once more with the next login that succeeds.
const CLEARED_WITHIN: Duration = Duration::from_secs(3);

/// Whose logins failed here. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub(super) struct Failures(Arc<Inner>);

#[derive(Default)]
struct Inner {
    // Begun by the first guess.
    counting: OnceLock<Counting>,
    // Locked for a look, never across an await.
    failed: Mutex<BTreeMap<FailureKey, Forgotten>>,
}

/// Set once a count has begun anew: guesses of before that still wait are not counted.
type Forgotten = Arc<AtomicBool>;

/// The task that counts; it ends with its owner.
struct Counting {
    guesses: mpsc::Sender<(Guess, Forgotten)>,
    clears: mpsc::Sender<Clear>,
    _task: JoinSet<()>,
}

/// Counts that begin anew, and who is told so.
struct Clear {
    keys: RangeInclusive<FailureKey>,
    cleared: oneshot::Sender<()>,
}

/// A login that was refused as a guess.
pub(super) struct Guess {
    /// Who it said it is; none if that is no name at all.
    pub(super) account: Option<PrincipalName>,
    /// How it tried.
    pub(super) method: LoginMethod,
    /// Where it came from.
    pub(super) network: ClientNetwork,
    /// What it is counted under.
    pub(super) key: FailureKey,
    /// When it was made.
    pub(super) now_ms: u64,
}

impl Failures {
    fn remember(&self, key: FailureKey) -> Forgotten {
        let mut failed = self.failed();
        if failed.len() >= FAILED_MAX && !failed.contains_key(&key) {
            // Half of them make room: their counts end by themselves.
            let mut stays = false;
            failed.retain(|_, _| {
                stays = !stays;
                stays
            });
        }
        Arc::clone(failed.entry(key).or_default())
    }

    /// Whether any of them had failed.
    fn forget(&self, keys: &RangeInclusive<FailureKey>) -> bool {
        let mut failed = self.failed();
        let forgotten = failed.extract_if(keys.clone(), |_, _| true);
        let each = forgotten.map(|(_, forgotten)| forgotten.store(true, Ordering::Release));
        each.count() > 0
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<FailureKey, Forgotten>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counting(&self, replica: &Replica) -> &Counting {
        self.0.counting.get_or_init(|| {
            let (guesses, waiting) = mpsc::channel(WAITING_MAX);
            let (clears, clearing) = mpsc::channel(WAITING_MAX);
            let mut task = JoinSet::new();
            task.spawn(count_all(replica.clone(), waiting, clearing));
            Counting {
                guesses,
                clears,
                _task: task,
            }
        })
    }
}

impl Authority {
    /// Counts a guess; nobody waits for it.
    pub(super) fn count_failure(&self, guess: Guess) {
        let forgotten = self.failures.remember(guess.key);
        let counting = self.failures.counting(&self.replica);
        // Where more are waiting than fit, those are enough to lock somebody out.
        let _ = counting.guesses.try_send((guess, forgotten));
    }

    /// Begins the count of whoever was let in anew: what failed before counts no more.
    pub(super) async fn succeeded(&self, key: FailureKey) {
        let keys = key..=key;
        if self.failures.forget(&keys) && !self.clear_failures(keys).await {
            self.failures.remember(key);
        }
    }

    /// Begins the counts of a client anew, from one network or from all of them.
    pub(super) async fn pardon(&self, client_id: &str, network: Option<ClientNetwork>) {
        let keys = match network {
            Some(network) => {
                let key = failure_key(client_id, network);
                key..=key
            }
            None => failure_keys(client_id),
        };
        self.failures.forget(&keys);
        // What is left of them ends by itself.
        self.clear_failures(keys).await;
    }

    /// Whether the counts have begun anew, within the time that is waited for it.
    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> bool {
        let (cleared, when_cleared) = oneshot::channel();
        let counting = self.failures.counting(&self.replica);
        let sent = counting.clears.try_send(Clear { keys, cleared });
        sent.is_ok() && matches!(timeout(CLEARED_WITHIN, when_cleared).await, Ok(Ok(())))
    }
}

/// What failures of a client from a network are counted under.
pub(super) fn failure_key(client_id: &str, network: ClientNetwork) -> FailureKey {
    let mut key = *failure_keys(client_id).start();
    key[8..].copy_from_slice(&half_hash(network.to_string().as_bytes())[..8]);
    key
}

/// The same from all networks.
fn failure_keys(client_id: &str) -> RangeInclusive<FailureKey> {
    let client = half_hash(client_id.as_bytes());
    let (mut first, mut last) = ([0; 16], [u8::MAX; 16]);
    for key in [&mut first, &mut last] {
        key[..8].copy_from_slice(&client[..8]);
    }
    first..=last
}

async fn count_all(
    replica: Replica,
    mut guesses: mpsc::Receiver<(Guess, Forgotten)>,
    mut clears: mpsc::Receiver<Clear>,
) {
    loop {
        tokio::select! {
            biased;
            Some(clear) = clears.recv() => {
                begin_anew(&replica, clear).await;
                // In turns: whoever is let in often does not keep others from being counted.
                if let Ok(guess) = guesses.try_recv() {
                    count_one(&replica, guess).await;
                }
            }
            Some(guess) = guesses.recv() => count_one(&replica, guess).await,
            else => return,
        }
    }
}

async fn begin_anew(replica: &Replica, clear: Clear) {
    if replica.store().clear_failures(clear.keys).await.is_ok() {
        let _ = clear.cleared.send(());
    }
}

async fn count_one(replica: &Replica, (guess, forgotten): (Guess, Forgotten)) {
    if !forgotten.load(Ordering::Acquire) {
        count(replica, guess).await;
    }
}

/// Counts a guess, and locks its network out once there were too many. Of a network that is
/// locked out nothing is counted.
async fn count(replica: &Replica, guess: Guess) {
    let account = guess.account.as_ref().and_then(|name| {
        let state = replica.state();
        let account = state.principal_named(name)?.id;
        let method = state.method(account, guess.method)?;
        let until_ms = state.locked_until(account, guess.method, guess.network);
        let is_locked = until_ms.is_some_and(|until| until > guess.now_ms);
        Some((account, method.settings.lockout.filter(|_| !is_locked)))
    });
    // Accounts that are not there are counted alike, so that they look alike.
    let policy = match account {
        Some((_, None)) => return,
        Some((_, Some(policy))) => policy,
        None => LockoutPolicy::default(),
    };
    let failure = Failure {
        key: guess.key,
        now_ms: guess.now_ms,
        reset_ms: u64::from(policy.reset_s) * 1_000,
    };
    let count = replica.store().note_failure(&failure).await;
    let Some((account, _)) = account.filter(|_| count.is_ok_and(|n| n >= policy.threshold)) else {
        return;
    };
    let network = guess.network;
    let command = Command::LockLogins {
        account,
        method: guess.method,
        network,
    };
    let envelope = Envelope {
        caller: Caller::System,
        reason: String::new(),
        request: None,
        command,
    };
    let name = guess.account.as_ref().map(tracing::field::display);
    match replica.submit(envelope).await {
        Ok(done) => {
            // Another server was sooner, or as many networks are locked out as can be.
            if let Outcome::Change { .. } = done.decided.outcome {
                tracing::warn!(account = name, %network, "logins are locked out");
            }
        }
        Err(error) => tracing::warn!(%error, "logins could not be locked out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> FailureKey {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn a_failure_is_remembered_however_many_there_were() {
        let failures = Failures::default();
        for number in 0..3 * FAILED_MAX {
            failures.remember(key(number));
            assert!(failures.failed().contains_key(&key(number)), "{number}");
        }
        assert!(failures.failed().len() <= FAILED_MAX);
        let last = key(3 * FAILED_MAX - 1);
        let last = last..=last;
        assert!(failures.forget(&last) && !failures.forget(&last));
    }

    #[test]
    fn what_is_forgotten_is_forgotten_of_guesses_that_wait_too() {
        let failures = Failures::default();
        let (before, other) = (failures.remember(key(1)), failures.remember(key(2)));
        failures.forget(&(key(1)..=key(1)));
        let after = failures.remember(key(1));
        let forgotten = [before, other, after].map(|one| one.load(Ordering::Acquire));
        assert_eq!(forgotten, [true, false, false]);
    }

    #[test]
    fn counts_of_one_client_lie_beside_each_other() {
        let from = |text: &str| ClientNetwork::of(text.parse().ok());
        let (here, there) = (from("192.0.2.1"), from("2001:db8::1"));
        let key = failure_key("service:ci", here);
        assert_ne!(key, failure_key("service:ci", there));
        for network in [here, there, from("nowhere")] {
            assert!(failure_keys("service:ci").contains(&failure_key("service:ci", network)));
            assert!(!failure_keys("service:ci").contains(&failure_key("service:c", network)));
        }
    }
}
