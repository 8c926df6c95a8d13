//! The one thread that writes: it owns the writing connection, the witness and the lock.
//!
//! ```text
//!  append ─► channel ─► BEGIN IMMEDIATE, compare, log, tables, head, COMMIT ─► witness ─► reply
//! ```
//!
//! Commands are taken one by one, so a reply always follows the fsync of its own commit. Ends
//! when it is told to close, or when every sender is gone. Deliberately absent: any decision;
//! a batch is written whole or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use super::place::{Lock, Place};
use super::used::{self, Noter};
use super::witness::Witness;
use super::{OpenError, log, logins, project, schema, trim};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::domain::token::TokenId;
use crate::store::list::LastUsed;
use crate::store::logins::{LoginNoted, OneTime};
use crate::store::{Appended, Batch, StoreError, Trim};

/// What the writer is asked.
pub(super) enum Command {
    Append(Batch, oneshot::Sender<Result<Appended, StoreError>>),
    Trim(Trim, oneshot::Sender<Result<(Head, bool), StoreError>>),
    NoteUsed(
        Vec<(TokenId, LastUsed)>,
        oneshot::Sender<Result<(), StoreError>>,
    ),
    Consume(OneTime, oneshot::Sender<Result<bool, StoreError>>),
    NoteLogins(Vec<LoginNoted>, oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// What the thread owns. Nobody else writes to any of it.
pub(super) struct Writer {
    pub(super) place: Place,
    pub(super) pages_max: Option<u32>,
    /// `None` after a failure that may have left it in an unknown condition; then opened anew.
    pub(super) connection: Option<Connection>,
    /// Writes beside the log.
    pub(super) noter: Noter,
    pub(super) witness: Witness,
    /// The head's revision, for those who report damage.
    pub(super) newest: Arc<AtomicU64>,
    /// Held until the thread has ended.
    pub(super) lock: Lock,
}

/// How far a batch came before it failed.
pub(super) enum Failed {
    /// Rolled back.
    Before(Fault),
    /// In COMMIT itself: what is on the disk is not known.
    Commit(rusqlite::Error),
}

impl<F: Into<Fault>> From<F> for Failed {
    fn from(fault: F) -> Self {
        Self::Before(fault.into())
    }
}

/// The outcome, and the head when it is durable.
type Written = (Appended, Option<Head>);

impl Writer {
    /// The body of the thread.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Append(batch, reply) => {
                    // A caller that no longer waits learns the outcome from the log.
                    let _ = reply.send(self.append(&batch));
                }
                Command::Trim(trim, reply) => {
                    let _ = reply.send(self.trim(&trim));
                }
                Command::NoteUsed(used, reply) => {
                    let noted = self.note_beside(|connection| used::note_used(connection, &used));
                    let _ = reply.send(noted);
                }
                Command::Consume(once, reply) => {
                    let _ = reply.send(self.consume(&once));
                }
                Command::NoteLogins(noted, reply) => {
                    let noted =
                        self.note_beside(|connection| logins::note_logins(connection, &noted));
                    let _ = reply.send(noted);
                }
                Command::Close(reply) => {
                    commands.close();
                    let closed = self.close();
                    // The directory is free before anybody is told so.
                    drop(self.lock);
                    let _ = reply.send(closed);
                    return;
                }
            }
        }
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, StoreError> {
        let revision = batch.base.revision + 1;
        let connection = self.connection()?;
        match write(connection, batch) {
            Ok((appended, head)) => {
                self.note(head);
                Ok(appended)
            }
            Err(Failed::Before(fault)) => {
                if !fault.spares_connection() {
                    self.connection = None;
                }
                Err(fault.at(revision))
            }
            Err(Failed::Commit(error)) => {
                self.connection = None;
                // The frame that commits is the last to be written: where there was no room for
                // all of them, there is no commit that a recovery could find.
                let had_no_room = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
                let error = Fault::from(error).at(revision);
                if had_no_room {
                    Err(error)
                } else {
                    self.settle(batch, error)
                }
            }
        }
    }

    fn trim(&mut self, trim: &Trim) -> Result<(Head, bool), StoreError> {
        let trimmed = trim::batch(self.connection()?, trim);
        // A batch is made again from where the last one came to, whatever became of this one.
        trimmed.map_err(|fault| {
            self.connection = None;
            fault.at(0)
        })
    }

    fn consume(&mut self, once: &OneTime) -> Result<bool, StoreError> {
        let consumed = logins::consume(self.connection()?, once);
        consumed.map_err(|failed| {
            self.connection = None;
            match failed {
                Failed::Before(fault) => fault.at(0),
                // A recovery may find the frames of a commit that failed.
                Failed::Commit(error) => {
                    StoreError::OutcomeUnknown(Fault::from(error).at(0).to_string())
                }
            }
        })
    }

    fn note_beside(
        &mut self,
        write: impl FnOnce(&mut Connection) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        self.noter.note(&self.place, self.pages_max, write)
    }

    /// Finds out what became of a failed COMMIT, by one more durable write. While that has not
    /// succeeded, frames of the lost commit may stand in the WAL and come back at a recovery.
    fn settle(&mut self, batch: &Batch, error: StoreError) -> Result<Appended, StoreError> {
        let unknown = |why: &dyn std::fmt::Display| StoreError::OutcomeUnknown(why.to_string());
        let connection = self.connection().map_err(|why| unknown(&why))?;
        let settled = match touch(connection, batch) {
            Ok(head) => head,
            Err(Failed::Before(fault)) => {
                self.connection = None;
                return Err(unknown(&fault.at(batch.base.revision)));
            }
            Err(Failed::Commit(_)) => {
                self.connection = None;
                return Err(unknown(&error));
            }
        };
        let written = batch.entries.last().map_or(batch.base, |last| last.head);
        if settled == written {
            self.note(Some(settled));
            Ok(Appended::Committed)
        } else if settled == batch.base {
            let text = match error {
                StoreError::Unavailable(text) => text,
                other => other.to_string(),
            };
            Err(StoreError::Unavailable(text))
        } else {
            Err(unknown(&error))
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            let opened = schema::open_writer(&self.place.database(), self.pages_max);
            self.connection = Some(opened.map_err(OpenError::into_store)?);
        }
        let connection = self.connection.as_mut();
        connection.ok_or_else(|| StoreError::Unavailable("no connection".to_owned()))
    }

    fn note(&mut self, head: Option<Head>) {
        let Some(head) = head else {
            return;
        };
        self.newest.store(head.revision, Ordering::Relaxed);
        if let Err(error) = self.witness.note(&head) {
            // The commit stands; only the guard against older copies is behind.
            tracing::warn!(%error, revision = head.revision, "the witness file cannot be written");
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.noter.close();
        let connection = self.connection()?;
        let revision = close_log(connection).map_err(|fault| fault.at(0))?;
        // A reader that still runs keeps the WAL from being cut; nothing is lost by that.
        let emptied =
            connection.query_row("-- close\nPRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                row.get::<_, i64>(0)
            });
        emptied.map_err(|error| Fault::from(error).at(revision))?;
        self.connection = None;
        let synced = self.witness.sync();
        synced.map_err(|error| StoreError::Unavailable(format!("the witness file: {error}")))
    }
}

/// Everything written came through this process and continues a verified log, so the next
/// start need not read all of it again.
fn close_log(connection: &mut Connection) -> Result<RevisionNumber, Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let head = log::read_head(&transaction)?.head;
    log::write_checkpoint(&transaction, &head, true)?;
    transaction.commit()?;
    Ok(head.revision)
}

fn write(connection: &mut Connection, batch: &Batch) -> Result<Written, Failed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut head = log::read_head(&transaction)?;
    if head.head != batch.base {
        return Ok((
            Appended::Conflict(missed(&transaction, &head.head, &batch.base)?),
            None,
        ));
    }
    head.head = log::append_log(&transaction, &batch.base, &batch.entries)?;
    for logged in &batch.entries {
        project::project(&transaction, &mut head, &logged.entry)?;
    }
    if !batch.entries.is_empty() {
        log::write_head(&transaction, &head)?;
    }
    log::write_touched(&transaction, &batch.id)?;
    transaction.commit().map_err(Failed::Commit)?;
    Ok((Appended::Committed, Some(head.head)))
}

/// The entries after a base that is no longer the head, the first of them if they are many.
fn missed(transaction: &Transaction<'_>, head: &Head, base: &Head) -> Result<Vec<LogEntry>, Fault> {
    let common = log::chain_at(transaction, base.revision)? == Some(base.chain);
    if !common || head.revision < base.revision {
        let revision = base.revision.min(head.revision);
        return Err(Fault::damaged(
            revision,
            "the base is not in this log's history",
        ));
    }
    log::changes_after(transaction, base.revision, log::ENTRIES_MAX)
}

/// A durable write that changes nothing, and the head that it found.
fn touch(connection: &mut Connection, batch: &Batch) -> Result<Head, Failed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let head = log::read_head(&transaction)?.head;
    log::write_touched(&transaction, &batch.id)?;
    transaction.commit().map_err(Failed::Commit)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::{Change, CutOffTarget};
    use crate::domain::entry::{Actor, Entry, EntryKind, LogEntry};
    use crate::domain::principal::PrincipalId;

    /// A writer without its thread, in a folder that goes with it.
    fn writer() -> (Writer, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(folder.path()).expect("there");
        place.prepare_database().expect("made");
        let writer = Writer {
            pages_max: None,
            connection: None,
            noter: Noter::default(),
            witness: Witness::begin(&place.witness(), &Head::EMPTY).expect("made"),
            newest: Arc::default(),
            lock: place.lock().expect("free"),
            place,
        };
        (writer, folder)
    }

    /// A batch of one entry behind `base`, or of none.
    fn batch(id: u8, base: Head, entries: usize) -> Batch {
        let entry = Entry {
            revision: base.revision + 1,
            instant_ms: 1,
            actor: Actor {
                principal: None,
                token: None,
                name: "local".to_owned(),
            },
            kind: EntryKind::TokenRevokeAll,
            target: "user:alice".to_owned(),
            reason: "test".to_owned(),
            batch_id: [id; 16],
            request: None,
            state_digest: None,
            change: Change::CutOff(CutOffTarget::Subject(PrincipalId(1))),
        };
        Batch {
            id: [id; 16],
            base,
            entries: vec![LogEntry::new(entry, &base); entries],
        }
    }

    fn disk_full() -> StoreError {
        StoreError::Unavailable("the disk is full".to_owned())
    }

    #[test]
    fn a_failed_commit_that_left_nothing_is_unavailable() {
        let (mut writer, _folder) = writer();
        let lost = batch(1, Head::EMPTY, 1);
        match writer.settle(&lost, disk_full()) {
            Err(StoreError::Unavailable(text)) => assert_eq!(text, "the disk is full"),
            other => panic!("{other:?}"),
        }
        // It may be sent again.
        assert!(matches!(writer.append(&lost), Ok(Appended::Committed)));
    }

    #[test]
    fn a_failed_commit_that_stands_is_committed() {
        let (mut writer, _folder) = writer();
        let stands = batch(1, Head::EMPTY, 1);
        write(writer.connection().expect("opened"), &stands)
            .map_err(|_| ())
            .expect("written");
        let settled = writer.settle(&stands, disk_full());
        assert!(matches!(settled, Ok(Appended::Committed)), "{settled:?}");
        let seen = Witness::seen(&writer.place.witness()).expect("read");
        assert_eq!(seen, stands.entries[0].head);
        assert_eq!(writer.newest.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_empty_commit_is_done_by_settling_it() {
        let (mut writer, _folder) = writer();
        let settled = writer.settle(&batch(1, Head::EMPTY, 0), disk_full());
        assert!(matches!(settled, Ok(Appended::Committed)), "{settled:?}");
    }

    #[test]
    fn a_failed_commit_that_cannot_be_settled_is_unknown() {
        let (mut writer, folder) = writer();
        // Neither the base nor the batch: nobody else writes here, so nothing can be said.
        let other = batch(1, Head::EMPTY, 1);
        writer.append(&other).expect("appended");
        let elsewhere = batch(2, Head::EMPTY.after(b"elsewhere"), 1);
        let settled = writer.settle(&elsewhere, disk_full());
        assert!(
            matches!(settled, Err(StoreError::OutcomeUnknown(_))),
            "{settled:?}"
        );
        // And no database to ask.
        writer.connection = None;
        std::fs::remove_file(folder.path().join("latchkey.db")).expect("removed");
        let settled = writer.settle(&other, disk_full());
        assert!(
            matches!(settled, Err(StoreError::OutcomeUnknown(_))),
            "{settled:?}"
        );
    }
}
