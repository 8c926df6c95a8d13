//! The log table: writing entries, reading them back, and proving that they are whole.
//!
//! Every entry that leaves this file was hashed again and continues the chain of the one before
//! it, so that a changed bit is found where it is and not where it hurts. The columns beside the
//! body are copies for people who read by SQL; verification holds them against the body.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};

use super::Progress;
use super::fault::Fault;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::UnixMs;
use crate::domain::entry::{Entry, LogEntry};
use crate::store::StoreError;
use crate::store::follow::{Beside, Walk, follow};
use crate::store::transfer::Last;

/// Most entries that one call returns.
pub(super) const ENTRIES_MAX: usize = 10_000;
const PROGRESS_EVERY: u64 = 4_096;

const COLUMNS: &str = "revision, instant_ms, kind, actor, actor_principal, actor_token, target, \
                       reason, body, body_hash, chain";

/// The head row.
#[derive(Clone, Debug)]
pub(super) struct HeadRow {
    pub(super) head: Head,
    pub(super) instant_ms: UnixMs,
    pub(super) state_digest: Option<[u8; 32]>,
    pub(super) principal_max: u32,
    pub(super) grant_max: u32,
    pub(super) requests: usize,
    pub(super) format: u32,
}

/// Where the log was whole when the store last closed.
pub(super) struct Checkpoint {
    pub(super) clean: bool,
    pub(super) head: Head,
}

pub(super) fn read_head(connection: &Connection) -> Result<HeadRow, Fault> {
    let sql = "-- read_head
        SELECT revision, chain, instant_ms, state_digest, principal_max, grant_max, requests,
          format
        FROM head WHERE id = 1";
    let row = connection.prepare_cached(sql)?.query_row([], |row| {
        Ok(HeadRow {
            head: Head {
                revision: row.get(0)?,
                chain: row.get(1)?,
            },
            instant_ms: row.get(2)?,
            state_digest: row.get(3)?,
            principal_max: row.get(4)?,
            grant_max: row.get(5)?,
            requests: row.get(6)?,
            format: row.get(7)?,
        })
    })?;
    Ok(row)
}

/// The head row, and where the log begins.
pub(super) fn last(connection: &Connection) -> Result<Last, Fault> {
    let head = read_head(connection)?;
    Ok(Last {
        cut: read_cut(connection)?,
        head: head.head,
        instant_ms: head.instant_ms,
        state_digest: head.state_digest,
        principal_max: head.principal_max,
        grant_max: head.grant_max,
        requests: head.requests as u64,
        format: head.format,
    })
}

pub(super) fn write_head(connection: &Connection, row: &HeadRow) -> Result<(), Fault> {
    let sql = "-- write_head
        UPDATE head SET revision = ?1, chain = ?2, instant_ms = ?3, state_digest = ?4,
          principal_max = ?5, grant_max = ?6, requests = ?7, format = ?8
        WHERE id = 1";
    let written = connection.prepare_cached(sql)?.execute(params![
        row.head.revision,
        row.head.chain,
        row.instant_ms,
        row.state_digest,
        row.principal_max,
        row.grant_max,
        row.requests,
        row.format,
    ])?;
    exactly_one(written, "head row")
}

/// Notes the batch that was compared with the head: makes an empty batch a durable write.
pub(super) fn write_touched(connection: &Connection, batch_id: &[u8; 16]) -> Result<(), Fault> {
    let sql = "-- write_touched\nUPDATE housekeeping SET touched = ?1, clean = 0 WHERE id = 1";
    let written = connection.prepare_cached(sql)?.execute([batch_id])?;
    exactly_one(written, "housekeeping row")
}

pub(super) fn read_checkpoint(connection: &Connection) -> Result<Checkpoint, Fault> {
    let sql = "-- read_checkpoint
        SELECT clean, checkpoint, checkpoint_hash FROM housekeeping WHERE id = 1";
    let checkpoint = connection.query_row(sql, [], |row| {
        Ok(Checkpoint {
            clean: row.get(0)?,
            head: Head {
                revision: row.get(1)?,
                chain: row.get(2)?,
            },
        })
    })?;
    Ok(checkpoint)
}

/// Records that the log is whole up to `head`; `clean` is for a store that writes no more.
pub(super) fn write_checkpoint(
    connection: &Connection,
    head: &Head,
    clean: bool,
) -> Result<(), Fault> {
    let sql = "-- write_checkpoint
        UPDATE housekeeping SET clean = ?1, checkpoint = ?2, checkpoint_hash = ?3 WHERE id = 1";
    let written = connection.execute(sql, params![clean, head.revision, head.chain])?;
    exactly_one(written, "housekeeping row")
}

fn exactly_one(written: usize, what: &'static str) -> Result<(), Fault> {
    (written == 1).then_some(()).ok_or(Fault::Row(what))
}

/// Writes `entries` behind `base` and returns the head after them.
pub(super) fn append_log(
    connection: &Connection,
    base: &Head,
    entries: &[LogEntry],
) -> Result<Head, Fault> {
    let sql = "-- append_log
        INSERT INTO log (revision, instant_ms, kind, actor, actor_principal, actor_token, target,
          reason, body, body_hash, chain)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let mut insert = connection.prepare_cached(sql)?;
    let mut head = *base;
    for logged in entries {
        let entry = &logged.entry;
        let body_hash: [u8; 32] = Sha256::digest(&logged.body).into();
        head = head.after_hash(&body_hash);
        if head != logged.head || entry.revision != head.revision {
            return Err(Fault::refused("its entries do not continue its base"));
        }
        insert.execute(params![
            entry.revision,
            entry.instant_ms,
            entry.kind.name(),
            entry.actor.name,
            entry.actor.principal.map(|id| id.0),
            entry.actor.token.map(|id| id.to_bytes()),
            entry.target,
            entry.reason,
            logged.body,
            body_hash,
            head.chain,
        ])?;
    }
    Ok(head)
}

/// Up to `limit` entries after `revision`; none when there is no such revision yet.
pub(super) fn changes_after(
    connection: &Connection,
    revision: RevisionNumber,
    limit: usize,
) -> Result<Vec<LogEntry>, Fault> {
    let cut = read_cut(connection)?;
    if revision < cut.revision {
        let asked = revision;
        return Err(StoreError::Trimmed { asked, cut }.into());
    }
    let Some(chain) = chain_at(connection, revision)? else {
        return Ok(Vec::new());
    };
    let sql = "-- changes_after
        SELECT body, chain, revision FROM log WHERE revision > ?1 ORDER BY revision LIMIT ?2";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(params![revision, limit.min(ENTRIES_MAX)])?;
    let mut head = Head { revision, chain };
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let body: Vec<u8> = row.get(0)?;
        let entry = follow(&mut head, row.get(2)?, &body, &row.get(1)?)?;
        entries.push(LogEntry { entry, body, head });
    }
    Ok(entries)
}

/// The chain hash at a revision; `None` where the log has none.
pub(super) fn chain_at(
    connection: &Connection,
    revision: RevisionNumber,
) -> Result<Option<[u8; 32]>, Fault> {
    if revision == 0 {
        return Ok(Some(Head::EMPTY.chain));
    }
    let sql = "-- chain_at\nSELECT chain FROM log WHERE revision = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_row([revision], |row| row.get(0)).optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let cut = read_cut(connection)?;
    Ok((cut.revision == revision).then_some(cut.chain))
}

/// The last revision that was trimmed, and the chain at it.
pub(super) fn read_cut(connection: &Connection) -> Result<Head, Fault> {
    let sql = "-- read_cut\nSELECT revision, chain FROM log_cut WHERE id = 1";
    let cut = connection.prepare_cached(sql)?.query_row([], |row| {
        Ok(Head {
            revision: row.get(0)?,
            chain: row.get(1)?,
        })
    })?;
    Ok(cut)
}

/// Verifies the log from its beginning, which is behind the cut.
pub(super) fn verify_all(
    connection: &Connection,
    progress: Option<Progress<'_>>,
) -> Result<Head, Fault> {
    verify(connection, Head::EMPTY, progress)
}

/// Verifies every entry after `from`, and that the head row is what the last one makes.
pub(super) fn verify(
    connection: &Connection,
    from: Head,
    progress: Option<Progress<'_>>,
) -> Result<Head, Fault> {
    let newest = read_head(connection)?.head.revision;
    let head = walk(connection, from, |_, entry| {
        if let Some(progress) = progress
            && entry.revision.is_multiple_of(PROGRESS_EVERY)
        {
            progress(entry.revision, newest.max(entry.revision));
        }
        Ok(true)
    })?;
    if let Some(progress) = progress {
        progress(head.revision, head.revision);
    }
    Ok(head)
}

/// Verifies the same, and shows each row with its entry; showing may end it early.
pub(super) fn walk(
    connection: &Connection,
    from: Head,
    mut show: impl FnMut(&Row<'_>, &Entry) -> Result<bool, Fault>,
) -> Result<Head, Fault> {
    // One read transaction: the head row and the log must be of one moment.
    let transaction = connection.unchecked_transaction()?;
    let last = last(&transaction)?;
    last.readable()?;
    let from = if from.revision < last.cut.revision {
        last.cut
    } else {
        from
    };
    if chain_at(&transaction, from.revision)? != Some(from.chain) {
        return Err(Fault::damaged(
            from.revision,
            "the entry is missing, or not the one that was verified before",
        ));
    }
    let mut walk = Walk::behind(from);
    let sql = format!("-- verify\nSELECT {COLUMNS} FROM log WHERE revision > ?1 ORDER BY revision");
    let mut select = transaction.prepare(&sql)?;
    let mut rows = select.query([from.revision])?;
    loop {
        let next = walk.head.revision + 1;
        let Some(row) = rows.next().map_err(|error| Fault::from(error).at(next))? else {
            break;
        };
        let entry = step(&mut walk, row).map_err(|fault| fault.at(next))?;
        if !show(row, &entry)? {
            return Ok(walk.head);
        }
    }
    Ok(walk.end(&last)?)
}

fn step(walk: &mut Walk, row: &Row<'_>) -> Result<Entry, Fault> {
    let text = |index: usize| row.get_ref(index)?.as_str().map_err(|_| Fault::Row("text"));
    let bytes = |index: usize| {
        row.get_ref(index)?
            .as_blob()
            .map_err(|_| Fault::Row("body"))
    };
    let beside = Beside {
        instant_ms: row.get(1)?,
        kind: text(2)?,
        actor: text(3)?,
        actor_principal: row.get(4)?,
        actor_token: row.get(5)?,
        target: text(6)?,
        reason: text(7)?,
        body_hash: bytes(9)?,
    };
    Ok(walk.step(row.get(0)?, bytes(8)?, &row.get(10)?, &beside)?)
}
