//! Copies: taken while another process serves, and put back where nothing is.
//!
//! A backup is one file of one revision, in the database's own format, written under another
//! name and renamed when it is whole and synced. Restoring verifies the whole log, lets the caller
//! compare the tables with it, and refuses a copy older than what the place has seen, all before
//! the file is put in place. Nothing is ever overwritten, and a refusal leaves nothing behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tokio::sync::mpsc;

use super::fault::Fault;
use super::place::{Lock, Place, create_private, sync_folder};
use super::witness::Witness;
use super::{OpenError, Progress, compare, log, schema, snapshot};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::LogEntry;
use crate::store::{Snapshot, StoreError};

/// Pages copied between two reports of progress: 4 MiB.
const STEP_PAGES: i32 = 1_024;

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its head.
    pub head: Head,
    /// Its tokens, with those that have ended and are not yet forgotten.
    pub tokens: u64,
    /// The size of its file.
    pub bytes: u64,
}

/// A database that is only read; another process may serve it meanwhile.
pub struct ReadOnly {
    connection: Connection,
}

impl ReadOnly {
    pub(super) fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = Place::existing(folder)?.database();
        if !path.exists() {
            return Err(OpenError::NoDatabase(path));
        }
        let connection = schema::open_reader(&path)?;
        Ok(Self { connection })
    }

    /// The head now.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn head(&self) -> Result<Head, StoreError> {
        let row = log::read_head(&self.connection);
        row.map(|row| row.head).map_err(|fault| fault.at(0))
    }

    /// The last revision that was trimmed from the log, and the chain at it.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn cut(&self) -> Result<Head, StoreError> {
        log::read_cut(&self.connection).map_err(|fault| fault.at(0))
    }

    /// Up to `limit` entries after a revision, as the store's own. Blocks.
    ///
    /// # Errors
    /// Those of the store's own.
    pub fn changes_after(
        &self,
        revision: RevisionNumber,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let entries = log::changes_after(&self.connection, revision, limit);
        entries.map_err(|fault| fault.at(revision))
    }

    /// Verifies the whole log, and returns the head it leads to. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first revision that is wrong.
    pub fn verify_all(&self, progress: Option<Progress<'_>>) -> Result<Head, StoreError> {
        log::verify_all(&self.connection, progress).map_err(|fault| fault.at(0))
    }

    /// Holds the tables against the digest that the log's head carries. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at the head when they are not what the log makes.
    pub fn verify_tables(&mut self) -> Result<(), StoreError> {
        snapshot::verify(&mut self.connection).map_err(|fault| fault.at(0))
    }

    /// Writes a copy of one revision to a new file and tells what is in it; progress is told in
    /// pages. Blocks.
    ///
    /// # Errors
    /// [`OpenError::Exists`] if there is such a file, or why it could not be written.
    pub fn backup_to(
        &self,
        file: &Path,
        progress: Option<Progress<'_>>,
    ) -> Result<Copied, OpenError> {
        if file.exists() {
            return Err(OpenError::Exists(file.to_owned()));
        }
        let part = Part::create(part_of(file))?;
        let copied = copy(&self.connection, &part.path, progress)?;
        part.rename(file)?;
        Ok(copied)
    }
}

/// A file that is not yet whole; removed unless it is renamed.
struct Part {
    path: PathBuf,
}

impl Part {
    fn create(path: PathBuf) -> Result<Self, OpenError> {
        create_private(&path).map_err(|source| OpenError::files(&path, source))?;
        Ok(Self { path })
    }

    /// Gives the file its name, durably; no other file may have it.
    fn rename(&self, name: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::files(name, source);
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced.map_err(failed)?;
        if name.exists() {
            return Err(OpenError::Exists(name.to_owned()));
        }
        fs::rename(&self.path, name).map_err(failed)?;
        sync_folder(name.parent().unwrap_or(Path::new(""))).map_err(failed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(&self.path, suffix));
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn part_of(path: &Path) -> PathBuf {
    beside(path, &format!(".{}.part", std::process::id()))
}

fn copy(from: &Connection, to: &Path, progress: Option<Progress<'_>>) -> Result<Copied, OpenError> {
    // The read transaction keeps the copy at one revision however long it takes.
    let transaction = from.unchecked_transaction()?;
    let head = log::read_head(&transaction).map_err(|fault| OpenError::Store(fault.at(0)))?;
    let mut target = Connection::open(to)?;
    {
        let backup = Backup::new(&transaction, &mut target)?;
        loop {
            let step = backup.step(STEP_PAGES)?;
            if let Some(progress) = progress {
                let found = backup.progress();
                let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
                progress(
                    count(found.pagecount - found.remaining),
                    count(found.pagecount),
                );
            }
            match step {
                StepResult::More => {}
                StepResult::Done => break,
                _ => return Err(StoreError::Unavailable("the copy is locked".to_owned()).into()),
            }
        }
    }
    stand_alone(&target)?;
    copied(&target, to, head.head)
}

fn copied(connection: &Connection, file: &Path, head: Head) -> Result<Copied, OpenError> {
    let sql = "-- copied\nSELECT count(*) FROM tokens";
    let tokens = connection.query_row(sql, [], |row| row.get(0))?;
    let found = fs::metadata(file).map_err(|source| OpenError::files(file, source))?;
    Ok(Copied {
        head,
        tokens,
        bytes: found.len(),
    })
}

/// Takes the database out of WAL mode, so that it is whole in one file.
fn stand_alone(connection: &Connection) -> Result<(), OpenError> {
    let sql = "-- stand_alone\nPRAGMA journal_mode = DELETE";
    let mode: String = connection.query_row(sql, [], |row| row.get(0))?;
    if mode != "delete" {
        return Err(StoreError::Unavailable("the copy is locked".to_owned()).into());
    }
    Ok(())
}

/// Puts a backup into a data directory without a database, after verifying all of it; tells what
/// is in it. `agrees` is given the tables, and says what is wrong with them. Blocks.
///
/// # Errors
/// [`OpenError`]; then the directory is as it was. [`StoreError::OlderCopy`] when it has seen a
/// newer revision and that is not accepted.
pub fn restore(
    file: &Path,
    folder: &Path,
    accept_older: bool,
    progress: Option<Progress<'_>>,
    agrees: impl FnOnce(Snapshot) -> Result<(), StoreError>,
) -> Result<Copied, OpenError> {
    if !file.exists() {
        return Err(OpenError::NoDatabase(file.to_owned()));
    }
    let mut traces = Traces::of(folder);
    let place = Place::prepare(folder)?;
    traces.lock = Some(place.lock()?);
    if place.database().exists() {
        return Err(OpenError::Exists(place.database()));
    }
    refuse_writes(&place)?;
    let failed = |source| OpenError::files(&place.witness(), source);
    let seen = Witness::seen(&place.witness()).map_err(failed)?;
    let part = Part::create(part_of(&place.database()))?;
    copy_file(file, &part.path)?;
    let (mut connection, head) = prove_copy(&part.path, file, progress)?;
    if !accept_older {
        compare(&connection, &head, &seen)?;
    }
    compare_tables(&mut connection, agrees)?;
    let fault = |fault: Fault| OpenError::Store(fault.at(0));
    log::write_checkpoint(&connection, &head, true).map_err(fault)?;
    let copied = copied(&connection, &part.path, head)?;
    drop(connection);
    // Before the file is in place: after it, a crash must not leave a witness that refuses it.
    if accept_older {
        Witness::begin(&place.witness(), &head).map_err(failed)?;
    }
    sweep(&place, &part)?;
    part.rename(&place.database())?;
    traces.kept = true;
    Ok(copied)
}

/// What a restore makes on its way: gone again unless it is kept.
struct Traces {
    /// Folders that were not there, the innermost first.
    folders: Vec<PathBuf>,
    lock: Option<Lock>,
    kept: bool,
}

impl Traces {
    fn of(folder: &Path) -> Self {
        let missing = folder
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        Self {
            folders: missing.map(Path::to_owned).collect(),
            lock: None,
            kept: false,
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let lock = self.lock.take();
        if self.kept {
            return;
        }
        if let Some(lock) = lock {
            lock.withdraw();
        }
        for folder in &self.folders {
            // Not if somebody else has put something there meanwhile.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Refuses to restore beside a log of writes that SQLite would replay into what is restored.
fn refuse_writes(place: &Place) -> Result<(), OpenError> {
    for suffix in ["-wal", "-journal"] {
        let path = beside(&place.database(), suffix);
        if fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            return Err(OpenError::Exists(path));
        }
    }
    Ok(())
}

/// Removes what SQLite and restores before this one have left: without a database and without
/// writes in it, it holds nothing. The directory's lock is held, so nobody works on it.
fn sweep(place: &Place, part: &Part) -> Result<(), OpenError> {
    let database = place.database();
    let failed = |source| OpenError::files(&database, source);
    let mut paths = place.remains().map_err(failed)?;
    paths.retain(|path| *path != part.path);
    paths.extend(["-wal", "-shm", "-journal"].map(|suffix| beside(&database, suffix)));
    for path in paths {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::files(&path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), OpenError> {
    let mut source = File::open(from).map_err(|error| OpenError::files(from, error))?;
    let copied = fs::OpenOptions::new()
        .write(true)
        .open(to)
        .and_then(|mut target| {
            io::copy(&mut source, &mut target)?;
            target.sync_all()
        });
    copied.map_err(|error| OpenError::files(to, error))
}

/// Proves the log of a copy that is not yet in place.
fn prove_copy(
    path: &Path,
    named: &Path,
    progress: Option<Progress<'_>>,
) -> Result<(Connection, Head), OpenError> {
    let fault = |fault: Fault| OpenError::Store(fault.at(0));
    let connection = schema::open_copy(path, named)?;
    stand_alone(&connection)?;
    schema::quick_check(&connection).map_err(fault)?;
    let head = log::verify_all(&connection, progress).map_err(fault)?;
    Ok((connection, head))
}

/// Hands the tables to whoever can hold them against the log; a start would do the same, and
/// refuse what is then in place.
fn compare_tables(
    connection: &mut Connection,
    agrees: impl FnOnce(Snapshot) -> Result<(), StoreError>,
) -> Result<(), OpenError> {
    let head = log::read_head(connection).map_err(|fault| OpenError::Store(fault.at(0)))?;
    let (chunks, rows) = mpsc::channel(snapshot::CHUNKS_QUEUED);
    let snapshot = Snapshot {
        head: head.head,
        instant_ms: head.instant_ms,
        state_digest: head.state_digest,
        rows,
    };
    std::thread::scope(|scope| {
        scope.spawn(move || snapshot::stream_alone(connection, &chunks));
        agrees(snapshot)
    })?;
    Ok(())
}
