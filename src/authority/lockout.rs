//! Guesses at logins: counted, and whoever makes too many locked out for a while.
//!
//! ```text
//! refused ─► queue ─► count (store) ─► at the threshold: a lock, which is a change
//! let in  ─► queue ─► the count begins anew, as when its locks are ended
//! ```
//!
//! Counted behind the answer, in their order, by one task: whoever guesses waits for nothing and
//! so learns nothing from how long it takes, of accounts that are not there or lock nobody out as
//! little as of others. What does not fit into the queue is lost. Absent: what a guess is, which
//! is `login`'s, and what a lock does, which is State's.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::domain::login::{ClientNetwork, LockoutPolicy, LoginMethod};
use crate::domain::principal::PrincipalName;
use crate::replica::Replica;
use crate::state::decide::{Caller, Command, Envelope, Outcome};
use crate::store::logins::{Failure, FailureKey};

use super::{Authority, half_hash};

/// Guesses and successes that wait to be counted; of more the count is lost.
const WAITING_MAX: usize = 256;
/// Counts that this server knows to have begun; a login that succeeds ends them.
const FAILED_MAX: usize = 10_000;

/// Whose logins failed here. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub(super) struct Failures(Arc<Inner>);

#[derive(Default)]
struct Inner {
    // Begun by the first guess.
    counting: OnceLock<Counting>,
    // Locked for a look, never across an await.
    keys: Mutex<HashSet<FailureKey>>,
}

/// The task that counts; it ends with its owner.
struct Counting {
    notes: mpsc::Sender<Note>,
    _task: JoinSet<()>,
}

enum Note {
    Failed(Guess),
    // Begins counts anew, and tells so: what was noted before is counted then.
    Clear(RangeInclusive<FailureKey>, oneshot::Sender<()>),
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
    fn remember(&self, key: FailureKey) {
        let mut keys = self.keys();
        if keys.len() >= FAILED_MAX {
            // Half of them make room: their counts end by themselves.
            let mut stays = false;
            keys.retain(|_| {
                stays = !stays;
                stays
            });
        }
        keys.insert(key);
    }

    fn forget(&self, key: FailureKey) -> bool {
        self.keys().remove(&key)
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashSet<FailureKey>> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, replica: &Replica, note: Note) {
        let counting = self.0.counting.get_or_init(|| {
            let (notes, waiting) = mpsc::channel(WAITING_MAX);
            let mut task = JoinSet::new();
            task.spawn(count_all(replica.clone(), waiting));
            Counting { notes, _task: task }
        });
        // Where more are waiting than fit, those are enough to lock somebody out.
        let _ = counting.notes.try_send(note);
    }
}

impl Authority {
    /// Counts a guess; nobody waits for it.
    pub(super) fn count_failure(&self, guess: Guess) {
        self.failures.remember(guess.key);
        self.failures.note(&self.replica, Note::Failed(guess));
    }

    /// Begins the count of whoever was let in anew, once all that failed before is counted.
    pub(super) async fn succeeded(&self, key: FailureKey) {
        if self.failures.forget(key) {
            self.clear_failures(key..=key).await;
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
        self.clear_failures(keys).await;
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) {
        let (cleared, when_cleared) = oneshot::channel();
        self.failures
            .note(&self.replica, Note::Clear(keys, cleared));
        // What is left of them ends by itself.
        let _ = when_cleared.await;
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

async fn count_all(replica: Replica, mut waiting: mpsc::Receiver<Note>) {
    while let Some(note) = waiting.recv().await {
        match note {
            Note::Failed(guess) => count(&replica, guess).await,
            Note::Clear(keys, cleared) => {
                let _ = replica.store().clear_failures(keys).await;
                let _ = cleared.send(());
            }
        }
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
            assert!(failures.keys().contains(&key(number)), "{number}");
        }
        assert!(failures.keys().len() <= FAILED_MAX);
        let last = key(3 * FAILED_MAX - 1);
        assert!(failures.forget(last) && !failures.forget(last));
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
