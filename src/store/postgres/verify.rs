//! Verifying what lies in a database: the whole log, the columns beside it, and the tables.
//!
//! One reading of one moment, also beside servers that write. The log is read a stretch at a time
//! and each entry hashed again; then the digest that the head entry carries is made once more from
//! the rows of the tables, without State in memory. Used by `audit verify`, and by the copy before
//! it commits. Deliberately absent: what no entry vouches for (members, turns).

use tokio::sync::mpsc;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::OpenError;
use super::connect;
use super::fault::Fault;
use super::migrate;
use super::row::{bytes, number, optional_number, value};
use super::settings::Settings;
use super::snapshot;
use crate::domain::chain::Head;
use crate::domain::format::FORMAT_FIRST;
use crate::state::RowsDigest;
use crate::store::follow::{Beside, TABLES_DIFFER, Walk};
use crate::store::transfer::{Last, Progress};
use crate::store::{self, StoreError};

/// Entries that are read at a time.
const STRETCH: i64 = 2_000;

/// Verifies log and tables from the cut on, and returns what they begin and end with.
///
/// # Errors
/// [`StoreError::Damaged`] with the first revision that is wrong, or why nothing could be read.
pub async fn verify(
    settings: &Settings,
    progress: Option<Progress<'_>>,
) -> Result<Last, OpenError> {
    let connection = connect::once(&settings.url, settings).await?;
    let client = &connection.client;
    migrate::check(client).await?;
    let begin = "-- verify
        BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET LOCAL statement_timeout = 0;
        SET LOCAL idle_in_transaction_session_timeout = 0";
    let read = async {
        client.batch_execute(begin).await?;
        let last = snapshot::read_last(client).await?;
        log(client, &last, progress).await?;
        tables(client, &last).await?;
        Ok::<_, Fault>(last)
    };
    Ok(read.await.map_err(|fault| fault.at(0))?)
}

/// Verifies the whole log, up to the head row.
pub(super) async fn log(
    client: &Client,
    last: &Last,
    progress: Option<Progress<'_>>,
) -> Result<Head, Fault> {
    let sql = "-- verify_log
        SELECT revision, body, chain, instant_ms, kind, actor, actor_principal, actor_token,
          target, reason, body_hash, batch_id
        FROM latchkey.log WHERE revision > $1 ORDER BY revision LIMIT $2";
    last.readable()?;
    let mut walk = Walk::behind(last.cut);
    loop {
        let next = walk.head.revision + 1;
        let after = i64::try_from(walk.head.revision).map_err(|_| Fault::Row("revision"))?;
        let bound: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&after, Type::INT8), (&STRETCH, Type::INT8)];
        let rows = client.query_typed(sql, &bound).await;
        let rows = rows.map_err(|error| Fault::from(error).at(next))?;
        if rows.is_empty() {
            return Ok(walk.end(last)?);
        }
        for row in &rows {
            let next = walk.head.revision + 1;
            step(&mut walk, row).map_err(|fault| fault.at(next))?;
        }
        if let Some(progress) = progress {
            let done = walk.head.revision;
            progress(done, last.head.revision.max(done));
        }
    }
}

fn step(walk: &mut Walk, row: &Row) -> Result<(), Fault> {
    let token: Option<uuid::Uuid> = value(row, 7)?;
    let beside = Beside {
        instant_ms: number(row, 3)?,
        kind: value(row, 4)?,
        actor: value(row, 5)?,
        actor_principal: optional_number(row, 6)?,
        actor_token: token.map(uuid::Uuid::into_bytes),
        target: value(row, 8)?,
        reason: value(row, 9)?,
        body_hash: value(row, 10)?,
    };
    let revision = number(row, 0)?;
    let entry = walk.step(revision, value(row, 1)?, &bytes(row, 2)?, &beside)?;
    if value::<&[u8]>(row, 11)? != entry.batch_id {
        return Err(Fault::damaged(revision, "a column differs from the body"));
    }
    Ok(())
}

/// Holds the tables against the digest of the head entry.
pub(super) async fn tables(client: &Client, last: &Last) -> Result<(), Fault> {
    let (chunks, mut rows) =
        mpsc::channel::<Result<Vec<store::Row>, StoreError>>(snapshot::CHUNKS_QUEUED);
    let format = last.format;
    let digested = async move {
        let mut digest = RowsDigest::default();
        if format > FORMAT_FIRST {
            digest.add(&store::Row::Format(format));
        }
        while let Some(chunk) = rows.recv().await {
            chunk?.iter().for_each(|row| digest.add(row));
        }
        Ok::<_, StoreError>(digest.finish())
    };
    let (sent, digest) = tokio::join!(snapshot::send_to(client, chunks), digested);
    sent.map_err(|fault| fault.at(last.head.revision))?;
    let expected = last.state_digest.unwrap_or_default();
    if digest? != expected {
        return Err(Fault::damaged(last.head.revision, TABLES_DIFFER));
    }
    Ok(())
}
