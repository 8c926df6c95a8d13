//! State from a snapshot of the tables, many rows at a time.
//!
//! Tokens come in any order and are random in the index: put one by one, each would cost a few
//! misses of every cache. They are gathered and put into the index sorted, some part of what is
//! there already at a time, so that memory is walked in order and at most a quarter more of it is
//! needed. The digest is summed beside, on a thread of its own: it is of the rows and does not care
//! for their order. Used at start and after divergence; what is loaded is State only once it has
//! been compared with what the log's head vouches for.

use std::thread;

use crate::domain::chain::Head;
use crate::domain::change::Row;
use crate::domain::clock::UnixMs;

use super::digest::RowsDigest;
use super::tokens::Gathered;
use super::{Diverged, State};

/// Fewer tokens than this are not worth putting into the index.
const GATHERED_MIN: usize = if cfg!(test) { 100 } else { 65_536 };
/// What part of the tokens in the index may be gathered beside it.
const GATHERED_PART: usize = 4;
/// Fewer rows than this are not worth a thread.
const ROWS_APART: usize = 256;

/// State on its way from a snapshot.
#[derive(Default)]
pub struct Loader {
    state: State,
    gathered: Gathered,
    digest: RowsDigest,
}

impl Loader {
    /// Puts rows; every record comes once.
    pub fn put(&mut self, rows: &[Row]) {
        let Self {
            state,
            gathered,
            digest,
        } = self;
        let mut hash = || rows.iter().for_each(|row| digest.add(row));
        if rows.len() < ROWS_APART {
            hash();
            return put(state, gathered, rows);
        }
        thread::scope(|scope| {
            scope.spawn(hash);
            put(state, gathered, rows);
        });
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
        self.state.tokens.index(&mut self.gathered);
        self.state.digest = self.digest.0;
        self.state.head = head;
        self.state.instant_ms = instant_ms;
        match vouched {
            Some(digest) if digest != self.state.digest() => Err(Diverged::Digest(head.revision)),
            _ => Ok(self.state),
        }
    }
}

fn put(state: &mut State, gathered: &mut Gathered, rows: &[Row]) {
    for row in rows {
        match row {
            Row::Token(record) => state.tokens.gather(record, gathered),
            other => state.load(other),
        }
    }
    if gathered.len() >= GATHERED_MIN.max(state.tokens.len() / GATHERED_PART) {
        state.tokens.index(gathered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::{Grace, Subject, TokenRecord};
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
        }
    }

    #[test]
    fn what_is_loaded_at_once_is_what_single_rows_make() {
        let rows: Vec<Row> = (1..3_000)
            .map(|n| Row::Token(Box::new(record(n))))
            .collect();
        let (mut single, mut loader) = (State::default(), Loader::default());
        rows.iter().for_each(|row| single.load(row));
        // Chunks with a thread beside them and without one.
        for chunk in rows[..1_000].chunks(7).chain(rows[1_000..].chunks(999)) {
            loader.put(chunk);
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
    fn rows_that_nobody_vouched_for_are_refused() {
        let mut loader = Loader::default();
        loader.put(&[Row::Token(Box::new(record(1)))]);
        let vouched = Some(State::default().digest());
        let refused = loader.finish(Head::EMPTY, 0, vouched).err();
        assert_eq!(refused, Some(Diverged::Digest(0)));
    }
}
