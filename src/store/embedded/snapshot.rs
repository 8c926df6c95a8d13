//! State at the head, streamed from the tables in the order of [`Row`]'s variants.
//!
//! One read transaction on a thread of its own, so that every row is of one revision however
//! long the reader takes; a receiver that is dropped ends it. Chunks keep the channel cheap.

use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

use super::directory_row::{self, GRANT_COLUMNS, PRINCIPAL_COLUMNS, ROLE_COLUMNS};
use super::fault::Fault;
use super::log::{self, HeadRow};
use super::login_row::{self, LOCK_COLUMNS, METHOD_COLUMNS, SEAL_KEY_COLUMNS, SESSION_COLUMNS};
use super::readers::Turn;
use super::token_row::{RECORD_COLUMNS, TokenRows};
use crate::domain::entry::Request;
use crate::domain::format::FORMAT_FIRST;
use crate::domain::principal::PrincipalId;
use crate::state::RowsDigest;
use crate::store::follow::TABLES_DIFFER;
use crate::store::{Row, StoreError};

const CHUNK_ROWS: usize = 1_000;
/// Chunks that may wait for the receiver.
pub(super) const CHUNKS_QUEUED: usize = 4;

type Chunks = mpsc::Sender<Result<Vec<Row>, StoreError>>;
type HeadReply = oneshot::Sender<Result<HeadRow, StoreError>>;

/// Sends the head, then the rows; blocks.
pub(super) fn stream(turn: Turn, head: HeadReply, chunks: &Chunks) {
    let mut head = Some(head);
    let result = turn.run(|connection| {
        send(connection, chunks, |found| {
            if let Some(reply) = head.take() {
                // A caller that is gone drops its receiver, too: the first chunk ends it.
                let _ = reply.send(Ok(found.clone()));
            }
        })
    });
    if let Err(error) = result {
        match head {
            Some(reply) => drop(reply.send(Err(error))),
            None => drop(chunks.blocking_send(Err(error))),
        }
    }
}

/// Sends the rows of a database that nobody else has; blocks.
pub(super) fn stream_alone(connection: &mut Connection, chunks: &Chunks) {
    if let Err(fault) = send(connection, chunks, |_| {}) {
        drop(chunks.blocking_send(Err(fault.at(0))));
    }
}

/// Holds the tables against the digest of the head entry, at one moment; blocks.
pub(super) fn verify(connection: &mut Connection) -> Result<(), Fault> {
    let (chunks, mut rows) = mpsc::channel::<Result<Vec<Row>, StoreError>>(CHUNKS_QUEUED);
    std::thread::scope(|scope| {
        let digested = scope.spawn(move || {
            let mut digest = RowsDigest::default();
            while let Some(Ok(chunk)) = rows.blocking_recv() {
                chunk.iter().for_each(|row| digest.add(row));
            }
            digest.finish()
        });
        let mut last = None;
        let sent = send(connection, &chunks, |head| last = Some(head.clone()));
        drop(chunks);
        let digest = digested.join().ok();
        sent?;
        match last {
            Some(last) if digest == Some(last.state_digest.unwrap_or_default()) => Ok(()),
            last => {
                let revision = last.map_or(0, |last| last.head.revision);
                Err(Fault::damaged(revision, TABLES_DIFFER))
            }
        }
    })
}

fn send(
    connection: &mut Connection,
    chunks: &Chunks,
    found: impl FnOnce(&HeadRow),
) -> Result<(), Fault> {
    let transaction = connection.transaction()?;
    let head = log::read_head(&transaction)?;
    found(&head);
    let mut sink = Sink {
        chunk: Vec::with_capacity(CHUNK_ROWS),
        chunks,
    };
    let sent = send_rows(&transaction, &head, &mut sink);
    match sent.and_then(|()| sink.flush()) {
        Err(Ended::Gone) | Ok(()) => Ok(()),
        Err(Ended::Fault(fault)) => Err(fault),
    }
}

/// Why sending ended before the last row.
enum Ended {
    /// Nobody receives any more.
    Gone,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Ended {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

struct Sink<'a> {
    chunk: Vec<Row>,
    chunks: &'a Chunks,
}

impl Sink<'_> {
    fn push(&mut self, row: Row) -> Result<(), Ended> {
        self.chunk.push(row);
        if self.chunk.len() < CHUNK_ROWS {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Ended> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_ROWS));
        self.chunks
            .blocking_send(Ok(chunk))
            .map_err(|_| Ended::Gone)
    }
}

/// Sends what `read` makes of every row of a query.
fn send_each(
    connection: &Connection,
    sink: &mut Sink<'_>,
    sql: &str,
    mut read: impl FnMut(&rusqlite::Row<'_>) -> Result<Row, Fault>,
) -> Result<(), Ended> {
    let mut select = connection.prepare(sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        sink.push(read(row)?)?;
    }
    Ok(())
}

fn send_rows(
    transaction: &Transaction<'_>,
    head: &HeadRow,
    sink: &mut Sink<'_>,
) -> Result<(), Ended> {
    if head.format > FORMAT_FIRST {
        sink.push(Row::Format(head.format))?;
    }
    sink.push(Row::Counters {
        principal: head.principal_max,
        grant: head.grant_max,
    })?;
    let sql = format!(
        "-- send_principals
        SELECT {PRINCIPAL_COLUMNS} FROM principals p WHERE deleted_at IS NULL ORDER BY id"
    );
    send_each(transaction, sink, &sql, |row| {
        directory_row::principal(row).map(Row::Principal)
    })?;
    let sql = "-- send_members\nSELECT team, member FROM members ORDER BY team, member";
    send_each(transaction, sink, sql, |row| {
        Ok(Row::Member {
            team: PrincipalId(row.get(0)?),
            member: PrincipalId(row.get(1)?),
        })
    })?;
    let sql = format!("-- send_roles\nSELECT {ROLE_COLUMNS} FROM roles ORDER BY name");
    send_each(transaction, sink, &sql, |row| {
        directory_row::role(row).map(Row::Role)
    })?;
    let sql = format!("-- send_grants\nSELECT {GRANT_COLUMNS} FROM grants g ORDER BY id");
    send_each(transaction, sink, &sql, |row| {
        directory_row::grant(row).map(Row::Grant)
    })?;
    let sql = "-- send_cut_offs\nSELECT kind, target, revision FROM cut_offs ORDER BY kind, target";
    send_each(transaction, sink, sql, |row| {
        Ok(Row::CutOff(
            directory_row::cut_off_target(row)?,
            row.get(2)?,
        ))
    })?;
    let sql = "-- send_requests
        SELECT key, fingerprint, revision, instant_ms FROM requests ORDER BY revision";
    send_each(transaction, sink, sql, |row| {
        Ok(Row::Request {
            request: Request {
                key: row.get(0)?,
                fingerprint: row.get(1)?,
            },
            revision: row.get(2)?,
            instant_ms: row.get(3)?,
        })
    })?;
    send_logins(transaction, sink)?;
    let sql = format!("-- send_tokens\nSELECT {RECORD_COLUMNS} FROM tokens t ORDER BY id");
    let mut records = TokenRows::default();
    send_each(transaction, sink, &sql, |row| {
        Ok(Row::Token(Box::new(records.read(row)?)))
    })
}

fn send_logins(transaction: &Transaction<'_>, sink: &mut Sink<'_>) -> Result<(), Ended> {
    let sql = format!(
        "-- send_methods\nSELECT {METHOD_COLUMNS} FROM login_methods ORDER BY principal, method"
    );
    send_each(transaction, sink, &sql, login_row::method)?;
    let sql = format!("-- send_seal_keys\nSELECT {SEAL_KEY_COLUMNS} FROM seal_keys ORDER BY id");
    send_each(transaction, sink, &sql, login_row::seal_key)?;
    let sql = format!(
        "-- send_revoked_sessions
        SELECT {SESSION_COLUMNS} FROM revoked_sessions ORDER BY session"
    );
    send_each(transaction, sink, &sql, login_row::revoked_session)?;
    let sql = format!(
        "-- send_locks\nSELECT {LOCK_COLUMNS} FROM login_locks ORDER BY principal, network"
    );
    send_each(transaction, sink, &sql, login_row::lock)
}
