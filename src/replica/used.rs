//! Last used: when, and from where, each stored token was last used. Gathered in memory, written
//! in batches.
//!
//! ```text
//! Check ─► noted this hour? ─ no ─► queue ─► flusher, now and then ─► store.note_used
//! ```
//!
//! A Check reads one word and goes on; only a token's first use in an hour does more, and then
//! waits for nothing. Everything is bounded: a use for which there is no room is dropped
//! and counted, and a collision in the table of words costs a token one hour. No part of State, no
//! entry of the log, and nothing is decided by it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::clock::UnixMs;
use crate::domain::entropy::Entropy;
use crate::domain::token::TokenId;
use crate::store::list::LastUsed;
use crate::store::{Store, StoreError};

use super::flush::{FlusherTask, Pace, Waiting};
use super::{Counters, Replica, Shared};

/// Words of what was noted: 2 MiB, whatever the number of tokens.
const WORDS: usize = 1 << 18;
const HOUR_MS: u64 = 60 * 60 * 1_000;
/// How much later the hours of each word begin than those of the next: they fill an hour, so that
/// not all tokens are noted anew at its turn.
const PHASE_MS: u64 = HOUR_MS.div_ceil(WORDS as u64);
const HOUR_SHIFT: u32 = 48;
/// Uses that may wait for the flusher, whatever the settings.
const WAITING_MAX: usize = 1 << 16;

/// How uses are written.
#[derive(Clone, Copy, Debug)]
pub struct LastUsedSettings {
    /// A use is written so long after it at the latest, if the store takes it; half of it at least
    /// is between two rounds of writing.
    pub interval: Duration,
    /// Uses that this server writes in a second at the most, but for those of its last moment.
    pub per_second: usize,
}

impl Default for LastUsedSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            per_second: 200,
        }
    }
}

impl LastUsedSettings {
    pub(super) fn pace(&self) -> Pace {
        let seconds = usize::try_from(self.interval.as_secs()).unwrap_or(usize::MAX);
        let written = self.per_second.saturating_mul(seconds.max(1));
        Pace {
            interval: self.interval,
            per_second: self.per_second,
            waiting_max: written.clamp(1, WAITING_MAX),
        }
    }
}

/// What the flusher receives.
pub(super) type Gathered = mpsc::Receiver<(TokenId, LastUsed)>;

/// What was noted. Any thread reads and writes it.
pub(super) struct Gatherer {
    // An hour (16 bits), and two bits of 48 for each token of the word that was noted in it. A
    // word of another hour holds nothing. Relaxed throughout: a lost bit costs a second writing.
    words: Box<[AtomicU64; WORDS]>,
    queue: mpsc::Sender<(TokenId, LastUsed)>,
}

/// Where a use is noted, and by which bits.
struct Place {
    word: usize,
    hour: u64,
    bits: u64,
}

impl Place {
    #[inline]
    fn of(token: TokenId, at_ms: UnixMs) -> Self {
        // The lower half of an id is random, but for two bits at its top.
        let id = token.as_u128() as u64;
        let word = id as usize % WORDS;
        let hour = (at_ms + word as u64 * PHASE_MS) / HOUR_MS;
        // The hour is mixed in, so that no two tokens stand in each other's way for ever.
        let salted = (id >> WORDS.trailing_zeros()) ^ hour.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let mixed = salted.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self {
            word,
            hour: hour << HOUR_SHIFT,
            bits: 1 << (mixed >> 59) | 1 << (16 + (mixed >> 54 & 31)),
        }
    }

    #[inline]
    fn is_noted(&self, word: u64) -> bool {
        word & (u64::MAX << HOUR_SHIFT | self.bits) == self.hour | self.bits
    }

    fn noted(&self, word: u64) -> u64 {
        if word >> HOUR_SHIFT == self.hour >> HOUR_SHIFT {
            word | self.bits
        } else {
            self.hour | self.bits
        }
    }
}

impl Gatherer {
    /// The gatherer, and what the flusher receives.
    pub(super) fn new(settings: &LastUsedSettings) -> (Self, Gathered) {
        let (queue, gathered) = mpsc::channel(settings.pace().waiting_max);
        let words: Box<[AtomicU64]> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let gatherer = Self {
            words: words.try_into().expect("as many as were made"),
            queue,
        };
        (gatherer, gathered)
    }

    /// Notes a use, unless one of this hour was noted; counts it as dropped if there is no room.
    #[inline]
    pub(super) fn note(
        &self,
        token: TokenId,
        at_ms: UnixMs,
        from: Option<IpAddr>,
        dropped: &AtomicU64,
    ) {
        let place = Place::of(token, at_ms);
        if !place.is_noted(self.words[place.word].load(Ordering::Relaxed)) {
            let from = from.map(|address| address.to_canonical());
            self.first(token, LastUsed { at_ms, from }, &place, dropped);
        }
    }

    // What finds no room is not noted, so that the next use may find some.
    #[cold]
    #[inline(never)]
    fn first(&self, token: TokenId, used: LastUsed, place: &Place, dropped: &AtomicU64) {
        if self.queue.try_send((token, used)).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let noted = |former| Some(place.noted(former));
        // Two threads may both come here; the flusher writes one of the two.
        let word = &self.words[place.word];
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, noted);
    }
}

impl Replica {
    /// Notes that a stored token was used, where that is noted at all; costs next to nothing.
    #[inline]
    pub fn note_used(&self, token: TokenId, at_ms: UnixMs, from: Option<IpAddr>) {
        if let Some(used) = &self.shared.used {
            used.note(token, at_ms, from, &self.shared.counters.last_used_dropped);
        }
    }
}

/// The task that writes what was noted.
pub(super) fn flusher(
    shared: &Arc<Shared>,
    settings: LastUsedSettings,
    gathered: Gathered,
    entropy: &Arc<dyn Entropy>,
) -> FlusherTask {
    FlusherTask::start::<Uses>(shared, gathered, settings.pace(), entropy)
}

/// Uses that are to be written, of a token the latest.
#[derive(Default)]
struct Uses(BTreeMap<TokenId, LastUsed>);

impl Waiting for Uses {
    type Item = (TokenId, LastUsed);
    const NAME: &'static str = "last uses of tokens";

    fn put(&mut self, (token, used): Self::Item) {
        match self.0.entry(token) {
            Entry::Vacant(free) => {
                free.insert(used);
            }
            Entry::Occupied(mut former) if former.get().at_ms < used.at_ms => {
                former.insert(used);
            }
            Entry::Occupied(_) => {}
        }
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn first(&self, most: usize) -> Vec<Self::Item> {
        let first = self.0.iter().take(most);
        first.map(|(token, used)| (*token, *used)).collect()
    }

    fn remove_first(&mut self, count: usize) {
        for _ in 0..count {
            self.0.pop_first();
        }
    }

    async fn write(store: &dyn Store, batch: &[Self::Item]) -> Result<(), StoreError> {
        store.note_used(batch).await
    }

    fn dropped(counters: &Counters) -> &AtomicU64 {
        &counters.last_used_dropped
    }
}
