//! The log as it is read: entries after a revision, each held against the chain.
//!
//! By one statement in a transaction of its own: what the feed waits for after a wake-up is one
//! round trip, on a line that nobody else reads by and within the deadline of the lease's calls.
//! A feed that stands still must cost no lease. Everybody else reads by the pool.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::fault::{self, Fault};
use super::line::Line;
use super::row::{bytes, number, value};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::store::StoreError;
use crate::store::follow::follow;

/// Most entries that one call returns.
const ENTRIES_MAX: usize = 10_000;

/// The keeper's line, and within what time it must have its answer.
pub(super) struct Feed {
    pub(super) line: Line,
    pub(super) limit: Duration,
}

impl Feed {
    /// As [`changes_after`].
    pub(super) async fn read(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let connection = self.line.connection(self.limit).await?;
        let read = changes_after(&connection.client, "feed", revision, limit);
        let fault = match timeout(self.limit, read).await {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(Fault::Sql(error)))
                if !fault::is_rolled_back(&error) || fault::loses_server(&error) =>
            {
                Fault::Sql(error)
            }
            Ok(Err(fault)) => return Err(fault.at(revision)),
            Err(_) => StoreError::Unavailable("the log did not come in time".to_owned()).into(),
        };
        // It is in doubt.
        self.line.discard(&connection);
        Err(fault.at(revision))
    }
}

/// Up to `limit` entries after `revision`; none when there is no such revision yet. The statement
/// bears the name.
pub(super) async fn changes_after(
    client: &Client,
    name: &str,
    revision: RevisionNumber,
    limit: usize,
) -> Result<Vec<LogEntry>, Fault> {
    // The entry at the revision itself comes along: its chain is what the next continues.
    let sql = format!(
        "-- {name}
        SELECT revision, chain, body FROM latchkey.log
        WHERE revision >= $1 ORDER BY revision LIMIT $2"
    );
    let after = i64::try_from(revision).unwrap_or(i64::MAX);
    let rows = i64::try_from(limit.min(ENTRIES_MAX) + usize::from(revision > 0));
    let rows = rows.unwrap_or(i64::MAX);
    let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&after, Type::INT8), (&rows, Type::INT8)];
    let rows = client.query_typed(&sql, &bound).await?;
    entries(client, revision, &rows, limit).await
}

/// The last revision that was trimmed, and the chain at it.
pub(super) async fn cut(client: &Client) -> Result<Head, Fault> {
    let sql = "-- cut\nSELECT revision, chain FROM latchkey.log_cut";
    let row = client.query_typed_one(sql, &[]).await?;
    Ok(Head {
        revision: number(&row, 0)?,
        chain: bytes(&row, 1)?,
    })
}

async fn entries(
    client: &Client,
    after: RevisionNumber,
    rows: &[Row],
    limit: usize,
) -> Result<Vec<LogEntry>, Fault> {
    let Some((first, rest)) = rows.split_first() else {
        return Ok(Vec::new());
    };
    let revision = number(first, 0)?;
    let (mut head, rows) = if revision == after {
        let chain = bytes(first, 1)?;
        (Head { revision, chain }, rest)
    } else if after == 0 && revision == 1 {
        (Head::EMPTY, rows)
    } else {
        // The entry that comes before is not there: is it the one that the log was cut at?
        let cut = cut(client).await?;
        if after < cut.revision {
            return Err(StoreError::Trimmed { asked: after, cut }.into());
        }
        if after > cut.revision {
            return Err(Fault::damaged(after, "the entry is missing"));
        }
        (cut, rows)
    };
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows.iter().take(limit) {
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
