//! State at the head, streamed from the tables in the order of [`Row`]'s variants.
//!
//! One transaction of REPEATABLE READ, so that every row and the head are of one revision however
//! long the reader takes; a receiver that is dropped ends it, and one that takes nothing for too
//! long as well, because an open snapshot keeps the database from cleaning up. Rows come as the
//! driver streams them, in chunks that keep the channel cheap.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::directory_row::{self, GRANT_COLUMNS, PRINCIPAL_COLUMNS, ROLE_COLUMNS};
use super::fault::Fault;
use super::login_row::{self, LOCK_COLUMNS, METHOD_COLUMNS, SEAL_KEY_COLUMNS, SESSION_COLUMNS};
use super::pool::Pool;
use super::row::{bytes, number, optional_bytes};
use super::token_row::{RECORD_COLUMNS, TokenRows};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::Request;
use crate::domain::format::FORMAT_FIRST;
use crate::domain::principal::PrincipalId;
use crate::store::transfer::Last;
use crate::store::{Row, StoreError};

const CHUNK_ROWS: usize = 1_000;
/// Chunks that may wait for the receiver.
pub(super) const CHUNKS_QUEUED: usize = 16;
/// Until the last row must have been sent.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Until the next row must have come: a server that is frozen sends none.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Until the receiver must have taken a chunk.
const TAKE_TIME_MAX: Duration = Duration::from_secs(60);

type Chunks = mpsc::Sender<Result<Vec<Row>, StoreError>>;

/// Sends what the snapshot is of, then its rows.
pub(super) async fn stream(
    pool: Arc<Pool>,
    found: oneshot::Sender<Result<Last, StoreError>>,
    chunks: Chunks,
) {
    let reading = match pool.reading(SNAPSHOT_TIME_MAX).await {
        Ok(reading) => reading,
        Err(error) => return drop(found.send(Err(error))),
    };
    let head = async { read_last(reading.client()?).await };
    let head = match reading.briefly(head).await {
        Ok(head) => head,
        Err(fault) => {
            let error = reading.end::<()>(Err(fault), 0).await.err();
            return drop(found.send(Err(error.unwrap_or_else(super::closed))));
        }
    };
    let revision = head.head.revision;
    let mut first = Vec::new();
    if head.format > FORMAT_FIRST {
        first.push(Row::Format(head.format));
    }
    first.push(Row::Counters {
        principal: head.principal_max,
        grant: head.grant_max,
    });
    // A caller that is gone drops its receiver, too: the first chunk ends it.
    let _ = found.send(Ok(head));
    let mut sink = Sink {
        chunk: first,
        chunks: &chunks,
    };
    let sent = reading.bounded(async {
        match send_rows(reading.client()?, &mut sink).await {
            Ok(()) => Ok(true),
            Err(Ended::Gone) => Ok(false),
            Err(Ended::Fault(fault)) => Err(fault),
        }
    });
    let sent = match sent.await {
        // What is still to come is not waited for: the connection is given up.
        Ok(false) => return,
        Ok(true) => Ok(()),
        Err(fault) => Err(fault),
    };
    if let Err(error) = reading.end(sent, revision).await {
        drop(chunks.send(Err(error)).await);
    }
}

/// Sends the rows that a transaction of the caller sees, all of them.
pub(super) async fn send_to(client: &Client, chunks: Chunks) -> Result<(), Fault> {
    let mut sink = Sink {
        chunk: Vec::new(),
        chunks: &chunks,
    };
    match send_rows(client, &mut sink).await {
        Ok(()) => Ok(()),
        Err(Ended::Gone) => Err(super::closed().into()),
        Err(Ended::Fault(fault)) => Err(fault),
    }
}

/// The head row, and where the log begins.
pub(super) async fn read_last(client: &Client) -> Result<Last, Fault> {
    let sql = "-- read_last
        SELECT h.revision, h.chain, h.instant_ms, h.state_digest, h.principal_max, h.grant_max,
          h.requests, h.format, c.revision, c.chain
        FROM latchkey.head h, latchkey.log_cut c";
    let row = client.query_typed_one(sql, &[]).await?;
    Ok(Last {
        cut: Head {
            revision: number(&row, 8)?,
            chain: bytes(&row, 9)?,
        },
        head: Head {
            revision: number(&row, 0)?,
            chain: bytes(&row, 1)?,
        },
        instant_ms: number(&row, 2)?,
        state_digest: optional_bytes(&row, 3)?,
        principal_max: number(&row, 4)?,
        grant_max: number(&row, 5)?,
        requests: number(&row, 6)?,
        format: number(&row, 7)?,
    })
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
    async fn push(&mut self, row: Row) -> Result<(), Ended> {
        self.chunk.push(row);
        if self.chunk.len() < CHUNK_ROWS {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_ROWS));
        match timeout(TAKE_TIME_MAX, self.chunks.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::Gone),
        }
    }
}

/// Sends what `read` makes of every row of a query.
async fn send_each(
    client: &Client,
    sink: &mut Sink<'_>,
    sql: &str,
    mut read: impl FnMut(&tokio_postgres::Row) -> Result<Row, Fault>,
) -> Result<(), Ended> {
    let nothing: [(i64, Type); 0] = [];
    let rows = client.query_typed_raw(sql, nothing).await;
    let rows = rows.map_err(Fault::from)?;
    // A timer for what is there, not for each row of it.
    let mut ready = pin!(rows.ready_chunks(CHUNK_ROWS));
    loop {
        let next = timeout(SILENCE_MAX, ready.next()).await;
        let silent = |_| StoreError::Unavailable("the snapshot stopped coming".to_owned());
        let Some(rows) = next.map_err(silent)? else {
            return Ok(());
        };
        for row in rows {
            sink.push(read(&row.map_err(Fault::from)?)?).await?;
        }
    }
}

async fn send_rows(client: &Client, sink: &mut Sink<'_>) -> Result<(), Ended> {
    let sql = format!(
        "-- send_principals
        SELECT {PRINCIPAL_COLUMNS} FROM latchkey.principals p
        WHERE deleted_at IS NULL ORDER BY id"
    );
    send_each(client, sink, &sql, |row| {
        directory_row::principal(row).map(Row::Principal)
    })
    .await?;
    let sql = "-- send_members\nSELECT team, member FROM latchkey.members ORDER BY team, member";
    send_each(client, sink, sql, |row| {
        Ok(Row::Member {
            team: PrincipalId(number(row, 0)?),
            member: PrincipalId(number(row, 1)?),
        })
    })
    .await?;
    let sql = format!("-- send_roles\nSELECT {ROLE_COLUMNS} FROM latchkey.roles r ORDER BY name");
    send_each(client, sink, &sql, |row| {
        directory_row::role(row).map(Row::Role)
    })
    .await?;
    let sql = format!("-- send_grants\nSELECT {GRANT_COLUMNS} FROM latchkey.grants g ORDER BY id");
    send_each(client, sink, &sql, |row| {
        directory_row::grant(row).map(Row::Grant)
    })
    .await?;
    let sql = "-- send_cut_offs
        SELECT kind, target, revision FROM latchkey.cut_offs ORDER BY kind, target";
    send_each(client, sink, sql, |row| {
        let revision: RevisionNumber = number(row, 2)?;
        Ok(Row::CutOff(directory_row::cut_off_target(row)?, revision))
    })
    .await?;
    let sql = "-- send_requests
        SELECT key, fingerprint, revision, instant_ms FROM latchkey.requests ORDER BY revision";
    send_each(client, sink, sql, |row| {
        Ok(Row::Request {
            request: Request {
                key: bytes(row, 0)?,
                fingerprint: bytes(row, 1)?,
            },
            revision: number(row, 2)?,
            instant_ms: number(row, 3)?,
        })
    })
    .await?;
    send_logins(client, sink).await?;
    let sql = format!("-- send_tokens\nSELECT {RECORD_COLUMNS} FROM latchkey.tokens t");
    let mut records = TokenRows::default();
    send_each(client, sink, &sql, |row| {
        Ok(Row::Token(Box::new(records.read(row)?)))
    })
    .await?;
    sink.flush().await
}

async fn send_logins(client: &Client, sink: &mut Sink<'_>) -> Result<(), Ended> {
    let sql = format!(
        "-- send_methods
        SELECT {METHOD_COLUMNS} FROM latchkey.login_methods ORDER BY principal, method"
    );
    send_each(client, sink, &sql, login_row::method).await?;
    let sql =
        format!("-- send_seal_keys\nSELECT {SEAL_KEY_COLUMNS} FROM latchkey.seal_keys ORDER BY id");
    send_each(client, sink, &sql, login_row::seal_key).await?;
    let sql = format!(
        "-- send_revoked_sessions
        SELECT {SESSION_COLUMNS} FROM latchkey.revoked_sessions ORDER BY session"
    );
    send_each(client, sink, &sql, login_row::revoked_session).await?;
    let sql = format!(
        "-- send_locks
        SELECT {LOCK_COLUMNS} FROM latchkey.login_locks ORDER BY principal, network"
    );
    send_each(client, sink, &sql, login_row::lock).await
}
