//! Callers that never stop while replicas come and go: each asks about all tokens in turn, and what
//! came out wrong is kept.
//!
//! Whom they ask and how is the test's own, by [`Asks`]. Tokens may be added at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Until so many must have been answered on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One of them.
pub(crate) trait Asks: Send + 'static {
    /// What a token must get.
    type Expected: Clone + Send + 'static;

    /// Asks about a token; what was wrong with the answer, if anything was.
    fn ask(
        &mut self,
        round: usize,
        secret: &str,
        expected: &Self::Expected,
    ) -> impl Future<Output = Option<String>> + Send;
}

/// What they share.
struct Shared<E> {
    tokens: Mutex<Vec<(String, E)>>,
    answered: watch::Sender<u64>,
    wrong: Mutex<Vec<String>>,
    stop: CancellationToken,
}

/// All of them.
pub(crate) struct Callers<E> {
    shared: Arc<Shared<E>>,
    calling: Vec<JoinHandle<()>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Clone + Send + 'static> Callers<E> {
    /// Nobody yet.
    pub(crate) fn new() -> Self {
        let shared = Shared {
            tokens: Mutex::default(),
            answered: watch::channel(0).0,
            wrong: Mutex::default(),
            stop: CancellationToken::new(),
        };
        Self {
            shared: Arc::new(shared),
            calling: Vec::new(),
        }
    }

    /// More tokens to ask about, with what each must get.
    pub(crate) fn add(&self, tokens: impl IntoIterator<Item = (String, E)>) {
        locked(&self.shared.tokens).extend(tokens);
    }

    /// Lets them begin; there is a token to ask about.
    pub(crate) fn start(&mut self, callers: impl IntoIterator<Item = impl Asks<Expected = E>>) {
        for (first, caller) in callers.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            self.calling.push(tokio::spawn(shared.call(caller, first)));
        }
    }

    /// How many were answered, however.
    pub(crate) fn answered(&self) -> u64 {
        *self.shared.answered.borrow()
    }

    /// Until so many were.
    pub(crate) async fn until(&self, wanted: u64) {
        let mut answered = self.shared.answered.subscribe();
        let enough = answered.wait_for(|answered| *answered >= wanted);
        let enough = timeout(PATIENCE, enough).await;
        enough.expect("in time").expect("they are called");
    }

    /// Ends them: how many were answered, and what was wrong with which.
    pub(crate) async fn end(self) -> (u64, Vec<String>) {
        self.shared.stop.cancel();
        for calling in self.calling {
            calling.await.expect("called");
        }
        let wrong = std::mem::take(&mut *locked(&self.shared.wrong));
        (*self.shared.answered.borrow(), wrong)
    }
}

impl<E: Clone + Send + 'static> Shared<E> {
    async fn call(self: Arc<Self>, mut caller: impl Asks<Expected = E>, first: usize) {
        for round in first.. {
            if self.stop.is_cancelled() {
                return;
            }
            let (secret, expected) = {
                let tokens = locked(&self.tokens);
                tokens[round % tokens.len()].clone()
            };
            let wrong = caller.ask(round, &secret, &expected).await;
            locked(&self.wrong).extend(wrong);
            self.answered.send_modify(|answered| *answered += 1);
        }
    }
}
