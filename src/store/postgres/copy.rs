//! Taking another store whole: log, tables and head in one transaction of an empty database.
//!
//! ```text
//!  lock, empty? ─► COPY log, tables ─► head ─► verify what lies there ─► COMMIT
//! ```
//!
//! The lock is the one that appends take, and nothing is seen before the commit: a server finds
//! nothing or everything, wherever the copy is cut. Needs no more than the server's own role. Rows
//! go as the text form of COPY, a chunk at a time, so that memory does not grow with the store.

use std::fmt::Write as _;
use std::io::Cursor;
use std::pin::Pin;
use std::time::Duration;

use futures_util::SinkExt as _;
use tokio::time::timeout;
use tokio_postgres::CopyInSink;
use tokio_postgres::types::Type;

use super::connect::{self, Connection};
use super::fault::{self, Fault};
use super::settings::{self, Settings};
use super::{OpenError, literal, migrate, records, snapshot, verify};
use crate::domain::chain::Head;
use crate::store::StoreError;
use crate::store::transfer::{Cell, Chunks, Last, Progress, Sort, TABLES, Table};

/// Until the database must have taken a chunk, or the commit.
const STALL_TIME_MAX: Duration = Duration::from_secs(10 * 60);

/// A database that is about to take a store; what it took is gone if this is dropped.
pub struct Target {
    connection: Connection,
    name: String,
}

/// What is in a database already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A history that goes on from the head that was asked for: that store is here already.
    All,
    /// Another history, up to this revision.
    Another(u64),
}

/// Rows on their way into one table.
struct Incoming {
    table: usize,
    sink: Pin<Box<CopyInSink<Cursor<Vec<u8>>>>>,
    rows: u64,
}

impl Target {
    /// Connects past a pooler, refuses tables of another version, and keeps everybody from
    /// appending until the end.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let url = settings.listen_url.as_ref().unwrap_or(&settings.url);
        let name = settings::name(url, settings)?;
        let connection = connect::once(url, settings).await?;
        migrate::check(&connection.client).await?;
        let target = Self { connection, name };
        let begin = format!(
            "-- copy
            BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
            SET LOCAL statement_timeout = 0;
            SET LOCAL idle_in_transaction_session_timeout = 0;
            SET LOCAL lock_timeout = {};
            SELECT latchkey.durably();
            SELECT pg_advisory_xact_lock(1818979961, 1)",
            settings.lock_timeout.as_millis()
        );
        target.run(&begin).await?;
        Ok(target)
    }

    /// Hosts and database, as people may read it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is here already, compared with the head of what would be copied.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub async fn find(&self, head: &Head) -> Result<Found, StoreError> {
        self.found(head).await.map_err(|fault| fault.at(0))
    }

    async fn found(&self, head: &Head) -> Result<Found, Fault> {
        let client = &self.connection.client;
        let here = snapshot::read_last(client).await?.head;
        let some = TABLES
            .iter()
            .map(|table| format!("EXISTS (SELECT FROM latchkey.{})", table.name));
        let some = some.collect::<Vec<_>>().join(" OR ");
        let sql = format!("-- find\nSELECT {some}");
        let some: bool = client.query_typed_one(&sql, &[]).await?.try_get(0)?;
        if here == Head::EMPTY && !some {
            return Ok(Found::Nothing);
        }
        let revision = records::stored(head.revision)?;
        let sql = "-- find_head\nSELECT chain = $2 FROM latchkey.log WHERE revision = $1";
        let chain = head.chain.as_slice();
        let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&revision, Type::INT8), (&chain, Type::BYTEA)];
        match client.query_typed_opt(sql, &bound).await? {
            Some(row) if row.try_get(0)? => Ok(Found::All),
            _ => Ok(Found::Another(here.revision)),
        }
    }

    /// Takes everything that arrives and the head row that it ends in.
    ///
    /// # Errors
    /// What arrived as an error, or [`StoreError`] of the database; nothing will be there.
    pub async fn take(&self, last: &Last, mut chunks: Chunks) -> Result<(), StoreError> {
        if last.cut.revision > 0 {
            let begin = format!(
                "-- begin_log\nSELECT latchkey.begin_log({}, {})",
                last.cut.revision,
                literal::bytes(&last.cut.chain),
            );
            self.run(&begin).await?;
        }
        // Behind the cut, and as far as a head says that is on its way here.
        let revision = last.head.revision;
        let room = format!(
            "-- extend_log
            UPDATE latchkey.head SET revision = {revision};
            SELECT latchkey.extend_log({revision})"
        );
        self.run(&room).await?;
        let mut incoming: Option<Incoming> = None;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk?;
            let going = match incoming.take_if(|one| one.table == chunk.table) {
                Some(going) => going,
                None => {
                    if let Some(former) = incoming.take() {
                        former.end().await?;
                    }
                    self.begin(chunk.table).await?
                }
            };
            let table = &TABLES[chunk.table];
            let mut text = Vec::new();
            for row in &chunk.rows {
                encode(table, row, &mut text)?;
            }
            incoming = Some(going.send(text, chunk.rows.len() as u64).await?);
        }
        if let Some(former) = incoming {
            former.end().await?;
        }
        self.write_head(last).await
    }

    async fn begin(&self, table: usize) -> Result<Incoming, StoreError> {
        let Table { name, columns } = &TABLES[table];
        let columns = columns.iter().map(|(column, _)| *column);
        let columns = columns.collect::<Vec<_>>().join(", ");
        let sql = format!("-- copy_in\nCOPY latchkey.{name} ({columns}) FROM STDIN");
        let sink = bounded(self.connection.client.copy_in(&sql)).await?;
        Ok(Incoming {
            table,
            sink: Box::pin(sink),
            rows: 0,
        })
    }

    async fn write_head(&self, last: &Last) -> Result<(), StoreError> {
        let digest = last.state_digest.as_ref();
        let sql = format!(
            "-- copy_head
            SELECT latchkey.raise_format({});
            UPDATE latchkey.head SET revision = {}, chain = {}, instant_ms = {},
              state_digest = {}, principal_max = {}, grant_max = {}, requests = {};
            SELECT pg_notify('latchkey', '')",
            last.format,
            last.head.revision,
            literal::bytes(&last.head.chain),
            last.instant_ms,
            digest.map_or_else(|| "NULL".to_owned(), |digest| literal::bytes(digest)),
            last.principal_max,
            last.grant_max,
            last.requests,
        );
        self.run(&sql).await
    }

    /// Verifies log and tables as they now lie here, and that they end where they should.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first revision that is wrong.
    pub async fn verify(
        &self,
        last: &Last,
        progress: Option<Progress<'_>>,
    ) -> Result<(), StoreError> {
        let client = &self.connection.client;
        let read = async {
            if snapshot::read_last(client).await? != *last {
                let what = "the head row did not arrive as it was";
                return Err(Fault::damaged(last.head.revision, what));
            }
            verify::log(client, last, progress).await?;
            verify::tables(client, last).await
        };
        read.await.map_err(|fault| fault.at(last.head.revision))
    }

    /// Makes all of it last, or proves that what was found here does.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when the database did not say so in full; any other error
    /// is of a database that has nothing of it.
    pub async fn commit(self) -> Result<(), StoreError> {
        let unknown = |why: &str| StoreError::OutcomeUnknown(why.to_owned());
        let warnings = self.connection.warnings();
        // A write of its own, so that a commit also proves what stood here before.
        let sql = "-- copied\nUPDATE latchkey.head SET touched = 'copied'::bytea; COMMIT";
        let committed = timeout(STALL_TIME_MAX, self.connection.client.batch_execute(sql)).await;
        match committed {
            Ok(Ok(())) if self.connection.warnings() == warnings => Ok(()),
            Ok(Ok(())) => Err(unknown("the database warned about the commit")),
            Ok(Err(error)) if fault::is_rolled_back(&error) => Err(Fault::from(error).at(0)),
            Ok(Err(_)) => Err(unknown("the connection to the database was lost")),
            Err(_) => Err(unknown("the database did not answer in time")),
        }
    }

    async fn run(&self, sql: &str) -> Result<(), StoreError> {
        bounded(self.connection.client.batch_execute(sql)).await
    }
}

impl Incoming {
    async fn send(mut self, text: Vec<u8>, rows: u64) -> Result<Self, StoreError> {
        bounded(self.sink.send(Cursor::new(text))).await?;
        self.rows += rows;
        Ok(self)
    }

    async fn end(mut self) -> Result<(), StoreError> {
        let written = bounded(self.sink.as_mut().finish()).await?;
        if written == self.rows {
            return Ok(());
        }
        let name = TABLES[self.table].name;
        let what = format!("{name}: {written} of {} rows arrived", self.rows);
        Err(StoreError::Refused(what))
    }
}

async fn bounded<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match timeout(STALL_TIME_MAX, work).await {
        Ok(done) => done.map_err(|error| Fault::from(error).at(0)),
        Err(_) => {
            let what = "the database did not answer in time".to_owned();
            Err(StoreError::Unavailable(what))
        }
    }
}

/// One row in the text form of COPY.
fn encode(table: &Table, row: &[Cell], text: &mut Vec<u8>) -> Result<(), StoreError> {
    let mut line = String::new();
    for (index, (cell, (_, sort))) in row.iter().zip(table.columns).enumerate() {
        if index > 0 {
            line.push('\t');
        }
        match (sort, cell) {
            (_, Cell::Null) => line.push_str("\\N"),
            (Sort::Flag, Cell::Number(flag)) => line.push(if *flag == 0 { 'f' } else { 't' }),
            (Sort::Number, Cell::Number(number)) => {
                // Writing to a string does not fail.
                let _ = write!(line, "{number}");
            }
            (Sort::Text, Cell::Text(value)) => escape(value, &mut line),
            (Sort::Bytes, Cell::Bytes(bytes)) => {
                line.push_str("\\\\x");
                line.push_str(&literal::hex(bytes));
            }
            (Sort::Id, Cell::Bytes(bytes)) => line.push_str(&literal::hex(bytes)),
            _ => {
                let what = format!("a value of another sort in {}", table.name);
                return Err(StoreError::Refused(what));
            }
        }
    }
    line.push('\n');
    text.extend_from_slice(line.as_bytes());
    Ok(())
}

fn escape(value: &str, line: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\t' => line.push_str("\\t"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            other => line.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_whatever_is_in_it() {
        let table = Table {
            name: "t",
            columns: &[
                ("a", Sort::Text),
                ("b", Sort::Bytes),
                ("c", Sort::Flag),
                ("d", Sort::Number),
                ("e", Sort::Id),
                ("f", Sort::Text),
            ],
        };
        let row = [
            Cell::Text("x\ty\nz\r\\N".to_owned()),
            Cell::Bytes(vec![0, 255]),
            Cell::Number(1),
            Cell::Number(-7),
            Cell::Bytes(vec![1; 16]),
            Cell::Null,
        ];
        let mut text = Vec::new();
        encode(&table, &row, &mut text).expect("of the sorts");
        let expected = format!(
            "x\\ty\\nz\\r\\\\N\t\\\\x00ff\tt\t-7\t{}\t\\N\n",
            "01".repeat(16)
        );
        assert_eq!(String::from_utf8_lossy(&text), expected);
        let wrong = [Cell::Number(1)];
        assert!(encode(&table, &wrong, &mut text).is_err());
    }
}
