//! State from a snapshot of the tables, many rows at a time.
//!
//! Tokens come in any order and are random in the index: put one by one, each would cost a few
//! misses of every cache. They are gathered, and put into the index sorted, some part of what is
//! there already at a time, so that memory is walked in order. The index has a thread of its own
//! meanwhile, and so has the digest, which does not care for the order of rows; with the one that
//! reads the rows, all are busy at once. Used at start and after divergence; what is loaded is State
//! only once it has been compared with what the log's head vouches for.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::domain::chain::Head;
use crate::domain::change::Row;
use crate::domain::clock::UnixMs;

use super::digest::RowsDigest;
use super::tokens::{Gathered, Index};
use super::{Diverged, State};

/// Fewer tokens than this are not worth putting into the index.
const GATHERED_MIN: usize = if cfg!(test) { 100 } else { 65_536 };
/// What part of the tokens in the index may be gathered beside it, twice: while some are put there,
/// the next are gathered.
const GATHERED_PART: usize = 4;
/// Chunks of rows that may wait for their digest.
const CHUNKS_QUEUED: usize = 16;

/// State on its way from a snapshot.
pub struct Loader {
    state: State,
    gathered: Gathered,
    // Tokens that are in the index, or on their way to it.
    indexed: usize,
    index: Beside<Gathered, Index>,
    digest: Beside<Arc<Vec<Row>>, RowsDigest>,
}

impl Default for Loader {
    fn default() -> Self {
        let hash = |digest: &mut RowsDigest, rows: Arc<Vec<Row>>| {
            rows.iter().for_each(|row| digest.add(row));
        };
        Self {
            state: State::default(),
            gathered: Gathered::default(),
            indexed: 0,
            index: Beside::start(0, Index::extend),
            digest: Beside::start(CHUNKS_QUEUED, hash),
        }
    }
}

impl Loader {
    /// Puts rows; every record comes once.
    pub fn put(&mut self, rows: Vec<Row>) {
        let rows = Arc::new(rows);
        self.digest.send(Arc::clone(&rows));
        for row in rows.iter() {
            match row {
                Row::Token(record) => self.state.tokens.gather(record, &mut self.gathered),
                other => self.state.load(other),
            }
        }
        if self.gathered.len() >= GATHERED_MIN.max(self.indexed / GATHERED_PART) {
            self.index();
        }
    }

    fn index(&mut self) {
        self.indexed += self.gathered.len();
        self.index.send(std::mem::take(&mut self.gathered));
    }

    /// The format level so far; it comes with the first rows.
    #[must_use]
    pub fn format(&self) -> u32 {
        self.state.format()
    }

    /// State at `head`, of which these were all rows.
    ///
    /// # Errors
    /// [`Diverged::Digest`] when the rows are not what the head entry's writer had.
    pub fn finish(
        mut self,
        head: Head,
        instant_ms: UnixMs,
        vouched: Option<[u8; 32]>,
    ) -> Result<State, Diverged> {
        self.index();
        let mut state = self.state;
        state.tokens.found_by(self.index.finish());
        state.digest = self.digest.finish().0;
        state.head = head;
        state.instant_ms = instant_ms;
        match vouched {
            Some(digest) if digest != state.digest() => Err(Diverged::Digest(head.revision)),
            _ => Ok(state),
        }
    }
}

/// A thread that makes a result of what it is sent; dropped, it ends by itself.
struct Beside<T, R> {
    sender: SyncSender<T>,
    thread: JoinHandle<R>,
}

impl<T: Send + 'static, R: Default + Send + 'static> Beside<T, R> {
    fn start(queued_max: usize, take: impl Fn(&mut R, T) + Send + 'static) -> Self {
        let (sender, received) = sync_channel(queued_max);
        let thread = thread::spawn(move || {
            let mut result = R::default();
            received.iter().for_each(|one| take(&mut result, one));
            result
        });
        Self { sender, thread }
    }

    fn send(&self, one: T) {
        // It is gone only if it has panicked: `finish` tells.
        let _ = self.sender.send(one);
    }

    fn finish(self) -> R {
        drop(self.sender);
        self.thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::{CutOffTarget, Grace, Subject, TokenRecord};
    use crate::domain::permission::Resource;
    use crate::domain::scopes::Scopes;
    use crate::domain::token::{TokenId, TokenKind};

    fn record(n: u128) -> TokenRecord {
        // Many keys are alike in their first bits, as a leaf of the index has them.
        let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) >> (n % 3 * 7);
        TokenRecord {
            id: TokenId::from_u128(n),
            key,
            kind: TokenKind::Resource,
            subject: Subject::Resource(Resource::parse(&format!("acme/{}", n % 7)).expect("valid")),
            scopes: Scopes::All,
            ceiling: None,
            issuers: Vec::new(),
            parent: n.is_multiple_of(5).then(|| TokenId::from_u128(n + 1)),
            made_at: n as u64,
            not_before_ms: None,
            expires_ms: Some(n as u64),
            expires_max_ms: None,
            ttl_s: n.is_multiple_of(4).then_some(60),
            period_s: None,
            uses: None,
            networks: Default::default(),
            audience: None,
            workload: None,
            rotation: 0,
            grace: n.is_multiple_of(3).then_some(Grace {
                key: !key,
                until_ms: 7,
            }),
            revoked: None,
            public_key: None,
        }
    }

    #[test]
    fn what_is_loaded_at_once_is_what_single_rows_make() {
        let rows: Vec<Row> = (1..3_000)
            .map(|n| Row::Token(Box::new(record(n))))
            .collect();
        let (mut single, mut loader) = (State::default(), Loader::default());
        rows.iter().for_each(|row| single.load(row));
        for chunk in rows[..1_000].chunks(7).chain(rows[1_000..].chunks(999)) {
            loader.put(chunk.to_vec());
        }
        let vouched = Some(single.digest());
        let mut loaded = loader.finish(Head::EMPTY, 0, vouched).expect("the same");
        assert_eq!(loaded.token_count(), 2_999);
        for n in 1..3_000 {
            let record = record(n);
            assert_eq!(loaded.token_by_key(record.key), Some(record.id));
            let grace = record.grace.map(|grace| loaded.token_by_key(grace.key));
            assert!(grace.is_none_or(|found| found == Some(record.id)), "{n}");
            assert_eq!(loaded.token(record.id), Some(record));
        }
        // And what is there can go again, with nothing left over.
        for n in 1..3_000 {
            loaded.remove_token(TokenId::from_u128(n));
        }
        assert_eq!(loaded.digest(), State::default().digest());
        assert_eq!(loaded.token_count(), 0);
    }

    #[test]
    fn cut_offs_by_a_token_and_its_session_are_the_rows_that_were_written() {
        let issued = |id: u128| CutOffTarget::IssuedByToken(TokenId::from_u128(id));
        let (one, next, session) = (issued(1 << 100 | 7), issued(2 << 100 | 7), issued(7));
        for rows in [
            vec![(one.clone(), 3)],
            vec![(one.clone(), 3), (next.clone(), 5), (session.clone(), 4)],
            vec![(next.clone(), 5), (session.clone(), 4), (one.clone(), 3)],
        ] {
            let newest = rows.iter().map(|(_, revision)| *revision).max();
            let rows: Vec<Row> = rows
                .into_iter()
                .map(|(target, revision)| Row::CutOff(target, revision))
                .collect();
            let (mut single, mut loader) = (State::default(), Loader::default());
            rows.iter().for_each(|row| single.load(row));
            loader.put(rows);
            let vouched = Some(single.digest());
            let loaded = loader.finish(Head::EMPTY, 0, vouched).expect("the same");
            for target in [&one, &next, &session] {
                assert_eq!(Some(loaded.cut_off(target)), newest);
            }
            assert_eq!(loaded.cut_off(&issued(8)), 0);
        }
    }

    #[test]
    fn rows_that_nobody_vouched_for_are_refused() {
        let mut loader = Loader::default();
        loader.put(vec![Row::Token(Box::new(record(1)))]);
        let vouched = Some(State::default().digest());
        let refused = loader.finish(Head::EMPTY, 0, vouched).err();
        assert_eq!(refused, Some(Diverged::Digest(0)));
    }
}
