//! The log as it is read: entries after a revision, each held against the chain.
//!
//! Read on a line of its own, by one statement in a transaction of its own: what the feed waits
//! for after a wake-up is one round trip.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::fault::{self, Fault};
use super::line::Line;
use super::row::{bytes, number, value};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::store::StoreError;
use crate::store::follow::follow;

/// Most entries that one call returns.
const ENTRIES_MAX: usize = 10_000;

/// The line that reads the log, and within what time.
pub(super) struct Log {
    pub(super) line: Line,
    pub(super) limit: Duration,
}

impl Log {
    /// Up to `limit` entries after `revision`; none when there is no such revision yet.
    pub(super) async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let connection = self.line.connection(self.limit).await?;
        // The entry at the revision itself comes along: its chain is what the next continues.
        let sql = "-- changes_after
            SELECT revision, chain, body FROM latchkey.log
            WHERE revision >= $1 ORDER BY revision LIMIT $2";
        let after = i64::try_from(revision).unwrap_or(i64::MAX);
        let rows = i64::try_from(limit.min(ENTRIES_MAX) + usize::from(revision > 0));
        let rows = rows.unwrap_or(i64::MAX);
        let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&after, Type::INT8), (&rows, Type::INT8)];
        let read = timeout(self.limit, connection.client.query_typed(sql, &bound)).await;
        let fault = match read {
            Ok(Ok(rows)) => return entries(revision, &rows).map_err(|fault| fault.at(revision)),
            Ok(Err(error)) if fault::is_rolled_back(&error) && !fault::loses_server(&error) => {
                return Err(Fault::from(error).at(revision));
            }
            Ok(Err(error)) => Fault::from(error),
            Err(_) => StoreError::Unavailable("the log did not come in time".to_owned()).into(),
        };
        self.line.discard(&connection).await;
        Err(fault.at(revision))
    }
}

fn entries(after: RevisionNumber, rows: &[Row]) -> Result<Vec<LogEntry>, Fault> {
    let (mut head, rows) = match rows.split_first() {
        _ if after == 0 => (Head::EMPTY, rows),
        None => return Ok(Vec::new()),
        Some((first, rest)) => {
            let (revision, chain) = (number::<u64>(first, 0)?, bytes(first, 1)?);
            if revision != after {
                return Err(Fault::damaged(after, "the entry is missing"));
            }
            (Head { revision, chain }, rest)
        }
    };
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let body: &[u8] = value(row, 2)?;
        let entry = follow(&mut head, number(row, 0)?, body, &bytes(row, 1)?)?;
        entries.push(LogEntry {
            entry,
            body: body.to_vec(),
            head,
        });
    }
    Ok(entries)
}
