//! The embedded store: SQLite in a data directory, for one process, with nothing to install.
//!
//! ```text
//!  append ─► one writer thread ─┐
//!                               ├─► latchkey.db (WAL, synchronous=FULL)    head, lock beside it
//!  lists, log, snapshot ─► a few readers (blocking threads)
//! ```
//!
//! Opening proves what is there: the lock, the schema, the form of every page, the log's chain
//! since the last clean stop (all of it after any other), and that the database is not an older
//! copy than this place has seen. Backups and verification also work beside a process that
//! serves. Deliberately absent: replicas; they need Postgres.

mod backup;
mod directory_list;
mod directory_row;
mod error;
mod failures;
mod fault;
mod forget;
mod log;
mod login_row;
mod logins;
mod moved;
mod place;
mod project;
mod readers;
mod schema;
mod snapshot;
mod source;
mod token_list;
mod token_row;
mod trim;
mod used;
mod witness;
mod writer;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::domain::token::TokenId;
use crate::store::list::{
    GrantQuery, LastUsed, MemberQuery, Page, PrincipalQuery, RoleQuery, StoredGrant, StoredMember,
    StoredPrincipal, StoredRole, StoredToken, TokenQuery,
};
use crate::store::logins::{
    Failure, FailureKey, LoginNoted, LoginQuery, Logins, OneTime, StoredLogin,
};
use crate::store::{Appended, Batch, Snapshot, Store, StoreError, Trim};

pub use crate::store::transfer::Progress;
pub use backup::{Copied, ReadOnly, restore};
pub use error::OpenError;
pub use source::Source;

use failures::Failures;
use moved::Moved;
use place::Place;
use readers::{Readers, closed};
use used::{NOTED_TOGETHER, Noter};
use witness::Witness;
use writer::{Command, Writer};

/// Batches that may wait for the writer; the replica sends one at a time.
const COMMANDS_QUEUED: usize = 16;

/// How much of the log opening verifies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// What was written since the last clean stop; all of it when the last stop was not clean.
    #[default]
    SinceCheckpoint,
    /// From the first revision.
    All,
}

/// How to open a data directory.
#[derive(Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// Serve the database even if it is older than what this place has seen, or has another
    /// history. What was revoked in between is then not revoked.
    pub accept_older: bool,
    /// Serve the database even if it was moved to another store; from here on it counts as never
    /// moved. Two authorities over one history part at once.
    pub accept_moved: bool,
    /// How much of the log to verify.
    pub verify: Verify,
    /// Told the revision and the newest one during verification.
    pub progress: Option<Progress<'a>>,
    /// Most pages of 4 KiB that the database may have; beyond it appends answer `Unavailable`.
    pub pages_max: Option<u32>,
}

/// The store of one process. Dropping it ends the writer after what it is doing; only
/// [`Store::close`] makes the next start quick.
pub struct EmbeddedStore {
    place: Place,
    commands: mpsc::Sender<Command>,
    readers: Arc<Readers>,
    /// Any caller writes it, in a moment.
    failures: Mutex<Failures>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the data directory, making it if it is not there. Blocks, and reads the whole
    /// database.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is served and nothing was changed.
    pub fn open(folder: &Path, options: OpenOptions<'_>) -> Result<Self, OpenError> {
        let place = Place::prepare(folder)?;
        let lock = place.lock()?;
        let failed = |source| OpenError::files(&place.witness(), source);
        Moved::refuse(&place, options.accept_moved)?;
        let seen = Witness::seen(&place.witness()).map_err(failed)?;
        // Refused before an empty database is made, which would stand in a restore's way.
        if !place.database().exists() {
            if let Some(path) = place.remains().map_err(failed)?.into_iter().next() {
                return Err(OpenError::Remains(path));
            }
            if seen.revision > 0 && !options.accept_older {
                return Err(older(0, &seen));
            }
        }
        place.prepare_database()?;
        let opened = schema::open_writer(&place.database(), options.pages_max);
        let connection = opened.map_err(|error| error.named(seen.revision))?;
        let head =
            prove(&connection, &seen, &options).map_err(|error| error.named(seen.revision))?;
        let newest = Arc::new(AtomicU64::new(head.revision));
        let readers = Readers::new(place.database(), Arc::clone(&newest));
        let writer = Writer {
            witness: Witness::begin(&place.witness(), &head).map_err(failed)?,
            place: place.clone(),
            pages_max: options.pages_max,
            connection: Some(connection),
            noter: Noter::default(),
            newest,
            lock,
        };
        // Last: what is refused above leaves the mark.
        Moved::take_back(&place)?;
        place.sync().map_err(failed)?;
        let (commands, queue) = mpsc::channel(COMMANDS_QUEUED);
        let thread = std::thread::Builder::new().name("latchkey-store".to_owned());
        let thread = thread.spawn(move || writer.run(queue)).map_err(failed)?;
        Ok(Self {
            place,
            commands,
            readers: Arc::new(readers),
            failures: Mutex::default(),
            writer: Some(thread),
        })
    }

    /// Opens a data directory for reading, also while another process serves from it.
    ///
    /// # Errors
    /// [`OpenError`] when there is no database that this version reads.
    pub fn open_read_only(folder: &Path) -> Result<ReadOnly, OpenError> {
        ReadOnly::open(folder)
    }

    /// Verifies the whole log while serving, and returns the head it leads to. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first revision that is wrong.
    pub fn verify_all(&self, progress: Option<Progress<'_>>) -> Result<Head, StoreError> {
        let reading = ReadOnly::open(self.place.folder()).map_err(OpenError::into_store)?;
        reading.verify_all(progress)
    }

    /// Writes a consistent copy of the database to a new file while serving; tells what is in it.
    /// Blocks.
    ///
    /// # Errors
    /// [`OpenError::Exists`] if there is such a file, or why it could not be written.
    pub fn backup_to(
        &self,
        file: &Path,
        progress: Option<Progress<'_>>,
    ) -> Result<Copied, OpenError> {
        ReadOnly::open(self.place.folder())?.backup_to(file, progress)
    }

    /// Trims the log, and returns where it then begins. In small batches, between which others
    /// write; the space is used again, the file does not shrink.
    ///
    /// # Errors
    /// [`StoreError`]; what was trimmed stays so.
    pub async fn trim(&self, trim: Trim) -> Result<Head, StoreError> {
        loop {
            let (cut, done) = self.ask(|reply| Command::Trim(trim, reply)).await?;
            if done {
                return Ok(cut);
            }
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| closed())?;
        let stopped = |_| StoreError::OutcomeUnknown("the writer stopped".to_owned());
        answer.await.map_err(stopped)?
    }

    fn failures<T>(&self, with: impl FnOnce(&mut Failures) -> T) -> Result<T, StoreError> {
        if self.commands.is_closed() {
            return Err(closed());
        }
        // What a panic leaves half-done is a count too few.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(with(&mut failures))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.readers.close();
        // Without a sender the thread ends; joined so that the directory is free after this.
        self.commands = mpsc::channel(1).0;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn older(found: RevisionNumber, seen: &Head) -> OpenError {
    OpenError::Store(StoreError::OlderCopy {
        found,
        seen: seen.revision,
    })
}

/// Proves that the database is whole and no older than what was seen; returns its head.
fn prove(
    connection: &Connection,
    seen: &Head,
    options: &OpenOptions<'_>,
) -> Result<Head, OpenError> {
    let fault = |fault: fault::Fault| OpenError::Store(fault.at(0));
    schema::quick_check(connection).map_err(fault)?;
    let checkpoint = log::read_checkpoint(connection).map_err(fault)?;
    let from = match options.verify {
        Verify::SinceCheckpoint if checkpoint.clean => checkpoint.head,
        _ => Head::EMPTY,
    };
    let head = log::verify(connection, from, options.progress).map_err(fault)?;
    if !options.accept_older {
        compare(connection, &head, seen)?;
    }
    Ok(head)
}

/// Refuses a database that does not continue what was seen here.
fn compare(connection: &Connection, head: &Head, seen: &Head) -> Result<(), OpenError> {
    if head.revision < seen.revision {
        return Err(older(head.revision, seen));
    }
    let chain = log::chain_at(connection, seen.revision);
    if chain.map_err(|fault| OpenError::Store(fault.at(seen.revision)))? != Some(seen.chain) {
        return Err(OpenError::Store(StoreError::Damaged {
            revision: seen.revision,
            what: "another history than the one that this place has seen".to_owned(),
        }));
    }
    Ok(())
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let turn = self.readers.turn().await?;
        let (head, found) = oneshot::channel();
        let (chunks, rows) = mpsc::channel(snapshot::CHUNKS_QUEUED);
        tokio::task::spawn_blocking(move || snapshot::stream(turn, head, &chunks));
        let stopped = |_| StoreError::Unavailable("a reader stopped".to_owned());
        let found = found.await.map_err(stopped)??;
        Ok(Snapshot {
            head: found.head,
            instant_ms: found.instant_ms,
            state_digest: found.state_digest,
            rows,
        })
    }

    async fn append(&self, batch: Batch) -> Result<Appended, StoreError> {
        self.ask(|reply| Command::Append(batch, reply)).await
    }

    async fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.readers
            .read(move |connection| log::changes_after(connection, revision, limit))
            .await
    }

    async fn cut(&self) -> Result<Head, StoreError> {
        self.readers
            .read(|connection| log::read_cut(connection))
            .await
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        self.readers
            .read(move |connection| token_list::token(connection, id))
            .await
    }

    async fn tokens(&self, query: TokenQuery) -> Result<Page<StoredToken, TokenId>, StoreError> {
        self.readers
            .read(move |connection| token_list::tokens(connection, &query))
            .await
    }

    async fn principals(
        &self,
        query: PrincipalQuery,
    ) -> Result<Page<StoredPrincipal, String>, StoreError> {
        self.readers
            .read(move |connection| directory_list::principals(connection, &query))
            .await
    }

    async fn members(&self, query: MemberQuery) -> Result<Page<StoredMember, String>, StoreError> {
        self.readers
            .read(move |connection| directory_list::members(connection, &query))
            .await
    }

    async fn roles(&self, query: RoleQuery) -> Result<Page<StoredRole, String>, StoreError> {
        self.readers
            .read(move |connection| directory_list::roles(connection, &query))
            .await
    }

    async fn grants(&self, query: GrantQuery) -> Result<Page<StoredGrant, u32>, StoreError> {
        self.readers
            .read(move |connection| directory_list::grants(connection, &query))
            .await
    }

    async fn note_used(&self, used: &[(TokenId, LastUsed)]) -> Result<(), StoreError> {
        // An append gets in between.
        for some in used.chunks(NOTED_TOGETHER) {
            self.ask(|reply| Command::NoteUsed(some.to_vec(), reply))
                .await?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.readers.close();
        if self.commands.is_closed() {
            return Ok(());
        }
        self.ask(Command::Close).await
    }
}

#[async_trait]
impl Logins for EmbeddedStore {
    async fn note_failure(&self, failure: &Failure) -> Result<u32, StoreError> {
        self.failures(|failures| failures.note(failure))
    }

    async fn clear_failures(&self, keys: RangeInclusive<FailureKey>) -> Result<(), StoreError> {
        self.failures(|failures| failures.clear(&keys))
    }

    async fn consume(&self, once: &OneTime) -> Result<bool, StoreError> {
        self.ask(|reply| Command::Consume(*once, reply)).await
    }

    async fn note_logins(&self, logins: &[LoginNoted]) -> Result<(), StoreError> {
        // An append gets in between.
        for some in logins.chunks(NOTED_TOGETHER) {
            self.ask(|reply| Command::NoteLogins(some.to_vec(), reply))
                .await?;
        }
        Ok(())
    }

    async fn logins(&self, query: LoginQuery) -> Result<Page<StoredLogin, u64>, StoreError> {
        self.readers
            .read(move |connection| logins::logins(connection, &query))
            .await
    }
}
