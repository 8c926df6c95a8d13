//! What a file says, in use while the server runs: read at start, and again whenever it has changed.
//!
//! ```text
//! every poll, or told to ─► content ─► as judged before? ─► judge ─► swapped whole
//!                                                             └──► or refused: the old one stays
//! ```
//!
//! Compares what files say, not when they were written: what Kubernetes mounts is swapped by a
//! link above it. What the poll finds counts once it is read twice alike, for a file that is
//! written in place is half there for a while; who says that it is to be read vouches for it. One
//! task writes; readers hold the value they began with, and none waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How soon what has changed is read once more.
pub(crate) const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Where a value comes from.
pub trait Source: Clone + Send + Sync + 'static {
    /// What is read, or why there is nothing to read.
    type Content: PartialEq + Send + Sync + 'static;
    /// What it means.
    type Value: Send + Sync + 'static;
    /// Why it means nothing.
    type Error: Send + 'static;

    /// Reads; may block.
    fn read(&self) -> Self::Content;

    /// What the content means.
    ///
    /// # Errors
    /// Why it cannot be used; the value before stays in use.
    fn judge(&self, content: &Self::Content) -> Result<Self::Value, Self::Error>;

    /// Whether a value may take the place of the one in use. One that may not is asked about again
    /// at each look, for that may hang on the time.
    ///
    /// # Errors
    /// Why it may not yet.
    fn succeeds(&self, _next: &Self::Value, _current: &Self::Value) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Writes to the log what was taken or refused.
    fn tell(&self, judged: Result<&Self::Value, &Self::Error>);
}

/// What became of a value since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that another one was taken.
    pub reloads: u64,
    /// Contents that were refused.
    pub refusals: u64,
    /// Whether the content is another than that of the value in use, because it is refused.
    pub refused: bool,
}

/// The value in use. Its follower alone writes it; it is read without a lock.
#[derive(Debug, Default)]
pub struct Live<T> {
    value: Arc<ArcSwap<T>>,
    reloads: AtomicU64,
    refusals: AtomicU64,
    refused: AtomicBool,
    look: Notify,
}

impl<T> Live<T> {
    /// A value that stays as it is.
    #[must_use]
    pub fn of(value: T) -> Self {
        Self {
            value: Arc::new(ArcSwap::from_pointee(value)),
            reloads: AtomicU64::default(),
            refusals: AtomicU64::default(),
            refused: AtomicBool::default(),
            look: Notify::default(),
        }
    }

    /// The value of a source, and who follows it. Blocks while it is read.
    ///
    /// # Errors
    /// Those of the source: who starts with nothing to go by does not know what it does.
    pub fn follow<S>(source: S) -> Result<(Arc<Self>, Follower<S>), S::Error>
    where
        S: Source<Value = T>,
    {
        let judged = source.read();
        let value = source.judge(&judged)?;
        source.tell(Ok(&value));
        let live = Arc::new(Self::of(value));
        let follower = Follower {
            live: Arc::clone(&live),
            source,
            judged: Arc::new(judged),
            changed: None,
            held: None,
        };
        Ok((live, follower))
    }

    /// The value as it is now; a reader asks once, and goes by what it was given.
    #[must_use]
    #[inline]
    pub fn current(&self) -> Guard<Arc<T>> {
        self.value.load()
    }

    /// What always holds the value in use, for who is to know nothing of where it comes from.
    #[must_use]
    pub fn handle(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.value)
    }

    /// Has the source read at once, and what it says taken as it is.
    pub fn look_now(&self) {
        self.look.notify_one();
    }

    /// What became of the value since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            reloads: self.reloads.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// Who keeps the value as its source says.
pub struct Follower<S: Source> {
    live: Arc<Live<S::Value>>,
    source: S,
    /// What the source said when it was last taken or refused.
    judged: Arc<S::Content>,
    /// What it says now, if that was seen once only.
    changed: Option<S::Content>,
    /// What it means, if that may not take the place of the value in use yet.
    held: Option<S::Value>,
}

impl<S: Source> fmt::Debug for Follower<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

impl<S: Source> Follower<S> {
    /// Follows the source until it is dropped.
    pub async fn run(mut self, poll: Duration) {
        loop {
            let wait = match self.changed {
                None => poll,
                Some(_) => poll.min(SETTLE_TIME),
            };
            let told = tokio::select! {
                () = self.live.look.notified() => true,
                () = sleep(wait) => false,
            };
            self.look(told).await;
        }
    }

    /// Looks once; what is new is taken or refused if it was seen before, or if it is vouched for.
    pub(crate) async fn look(&mut self, vouched: bool) {
        let source = self.source.clone();
        // A file may lie on a disk that hangs; that is not to hold up requests.
        let Ok(read) = spawn_blocking(move || source.read()).await else {
            return;
        };
        if read == *self.judged {
            self.changed = None;
            if let Some(held) = self.held.take() {
                match self.succeeds(&held) {
                    Ok(()) => self.take(Ok(held)),
                    Err(_) => self.held = Some(held),
                }
            }
            return;
        }
        if !vouched && self.changed.as_ref() != Some(&read) {
            self.changed = Some(read);
            return;
        }
        self.changed = None;
        let (source, read) = (self.source.clone(), Arc::new(read));
        let content = Arc::clone(&read);
        if let Ok(judged) = spawn_blocking(move || source.judge(&content)).await {
            self.judged = read;
            self.held = None;
            match judged {
                Ok(value) => match self.succeeds(&value) {
                    Ok(()) => self.take(Ok(value)),
                    Err(error) => {
                        self.held = Some(value);
                        self.take(Err(error));
                    }
                },
                Err(error) => self.take(Err(error)),
            }
        }
    }

    fn succeeds(&self, next: &S::Value) -> Result<(), S::Error> {
        self.source.succeeds(next, &self.live.current())
    }

    fn take(&self, judged: Result<S::Value, S::Error>) {
        let live = &*self.live;
        live.refused.store(judged.is_err(), Ordering::Relaxed);
        self.source.tell(judged.as_ref());
        match judged {
            Ok(value) => {
                live.value.store(Arc::new(value));
                live.reloads.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                live.refusals.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Says what it is told to; nothing takes the place of another until it is let.
    #[derive(Clone, Default)]
    struct Told {
        says: Arc<AtomicU32>,
        lets: Arc<AtomicBool>,
    }

    impl Source for Told {
        type Content = u32;
        type Value = u32;
        type Error = ();

        fn read(&self) -> u32 {
            self.says.load(Ordering::Relaxed)
        }

        fn judge(&self, content: &u32) -> Result<u32, ()> {
            Ok(*content)
        }

        fn succeeds(&self, _next: &u32, _current: &u32) -> Result<(), ()> {
            self.lets.load(Ordering::Relaxed).then_some(()).ok_or(())
        }

        fn tell(&self, _judged: Result<&u32, &()>) {}
    }

    #[tokio::test]
    async fn what_may_not_take_its_place_yet_takes_it_when_it_may() {
        let source = Told::default();
        let (live, mut follower) = Live::follow(source.clone()).unwrap();
        let counted = || {
            let counts = live.counts();
            (counts.reloads, counts.refusals, counts.refused)
        };
        source.says.store(1, Ordering::Relaxed);
        for _ in 0..3 {
            follower.look(true).await;
            assert_eq!((**live.current(), counted()), (0, (0, 1, true)));
        }
        source.lets.store(true, Ordering::Relaxed);
        follower.look(false).await;
        assert_eq!((**live.current(), counted()), (1, (1, 1, false)));
        // What is told meanwhile takes the place of what is held.
        source.lets.store(false, Ordering::Relaxed);
        source.says.store(2, Ordering::Relaxed);
        follower.look(true).await;
        source.says.store(3, Ordering::Relaxed);
        follower.look(true).await;
        source.lets.store(true, Ordering::Relaxed);
        follower.look(false).await;
        assert_eq!((**live.current(), counted()), (3, (2, 3, false)));
    }
}
