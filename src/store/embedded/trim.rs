//! Trimming the log: one bounded batch of the oldest entries at a time, the cut moving with it.
//!
//! Each batch is a transaction of its own that leaves a log which verifies from its cut, so a trim
//! may end after any of them. Instants never run backwards along revisions: where a trim ends is
//! searched for by halves. The head's entry and what remembered requests were answered with stay.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::fault::Fault;
use super::log;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::UnixMs;
use crate::store::Trim;

/// Entries that are deleted at a time.
const BATCH_ENTRIES: u64 = 2_000;

/// Deletes the next entries that may go: where the log then begins, and whether that is all.
pub(super) fn batch(connection: &mut Connection, trim: &Trim) -> Result<(Head, bool), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let cut = log::read_cut(&transaction)?;
    let goal = goal(&transaction, &cut, trim)?;
    if goal <= cut.revision {
        return Ok((cut, true));
    }
    let revision = goal.min(cut.revision + BATCH_ENTRIES);
    let Some(chain) = log::chain_at(&transaction, revision)? else {
        return Err(Fault::damaged(revision, "the entry is missing"));
    };
    let sql = "-- trim\nDELETE FROM log WHERE revision <= ?1";
    transaction.execute(sql, [revision])?;
    let sql = "-- trim: the cut\nUPDATE log_cut SET revision = ?1, chain = ?2 WHERE id = 1";
    transaction.execute(sql, params![revision, chain])?;
    transaction.commit()?;
    Ok((Head { revision, chain }, revision == goal))
}

/// The last revision that may go.
fn goal(connection: &Connection, cut: &Head, trim: &Trim) -> Result<RevisionNumber, Fault> {
    let head = log::read_head(connection)?.head.revision;
    let sql = "-- trim: requests\nSELECT min(revision) FROM requests WHERE instant_ms >= ?1";
    let answered: Option<RevisionNumber> =
        connection.query_row(sql, [trim.requests_from_ms()], |row| row.get(0))?;
    let most = head.min(answered.unwrap_or(head)).saturating_sub(1);
    let (mut goes, mut stays) = (cut.revision, most.min(trim.upto).saturating_add(1));
    while goes + 1 < stays {
        let middle = goes + (stays - goes) / 2;
        if instant_at(connection, middle)? < trim.before_ms {
            goes = middle;
        } else {
            stays = middle;
        }
    }
    Ok(goes)
}

fn instant_at(connection: &Connection, revision: RevisionNumber) -> Result<UnixMs, Fault> {
    let sql = "-- trim: instant\nSELECT instant_ms FROM log WHERE revision = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let instant_ms = select.query_row([revision], |row| row.get(0)).optional()?;
    instant_ms.ok_or_else(|| Fault::damaged(revision, "the entry is missing"))
}
