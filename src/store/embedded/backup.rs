//! Copies: taken while another process serves, and put back where nothing is.
//!
//! A backup is one file of one revision, in the database's own format, written under another
//! name and renamed when it is whole and synced. Restoring verifies the whole log before the
//! file is put in place, and refuses a copy older than what the place has seen. Nothing is ever
//! overwritten.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::fault::Fault;
use super::place::{Place, create_private, sync_folder};
use super::witness::Witness;
use super::{OpenError, Progress, compare, log, schema};
use crate::domain::chain::Head;
use crate::store::StoreError;

/// Pages copied between two reports of progress: 4 MiB.
const STEP_PAGES: i32 = 1_024;

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

    /// Verifies the whole log, and returns the head it leads to. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first revision that is wrong.
    pub fn verify_all(&self, progress: Option<Progress<'_>>) -> Result<Head, StoreError> {
        log::verify_all(&self.connection, progress).map_err(|fault| fault.at(0))
    }

    /// Writes a copy of one revision to a new file and returns its head; progress is told in
    /// pages. Blocks.
    ///
    /// # Errors
    /// [`OpenError::Exists`] if there is such a file, or why it could not be written.
    pub fn backup_to(
        &self,
        file: &Path,
        progress: Option<Progress<'_>>,
    ) -> Result<Head, OpenError> {
        if file.exists() {
            return Err(OpenError::Exists(file.to_owned()));
        }
        let part = Part::create(part_of(file))?;
        let head = copy(&self.connection, &part.path, progress)?;
        part.rename(file)?;
        Ok(head)
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

fn copy(from: &Connection, to: &Path, progress: Option<Progress<'_>>) -> Result<Head, OpenError> {
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
    Ok(head.head)
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

/// Puts a backup into a data directory without a database, after verifying all of it; returns
/// its head. Blocks.
///
/// # Errors
/// [`OpenError`]; then nothing was put in place. [`StoreError::OlderCopy`] when the directory has
/// seen a newer revision and that is not accepted.
pub fn restore(
    file: &Path,
    folder: &Path,
    accept_older: bool,
    progress: Option<Progress<'_>>,
) -> Result<Head, OpenError> {
    if !file.exists() {
        return Err(OpenError::NoDatabase(file.to_owned()));
    }
    let place = Place::prepare(folder)?;
    let _lock = place.lock()?;
    refuse_remains(&place.database())?;
    let failed = |source| OpenError::files(&place.witness(), source);
    let seen = Witness::seen(&place.witness()).map_err(failed)?;
    let part = Part::create(part_of(&place.database()))?;
    copy_file(file, &part.path)?;
    let head = prove_copy(&part.path, file, progress, |connection, head| {
        if accept_older {
            Ok(())
        } else {
            compare(connection, head, &seen)
        }
    })?;
    // Before the file is in place: after it, a crash must not leave a witness that refuses it.
    if accept_older {
        Witness::begin(&place.witness(), &head).map_err(failed)?;
    }
    part.rename(&place.database())?;
    Ok(head)
}

/// Refuses to restore over a database, or over a log of writes that SQLite would replay into what
/// is restored. Without either, the other files that SQLite leaves hold nothing.
fn refuse_remains(database: &Path) -> Result<(), OpenError> {
    let paths = ["", "-wal", "-journal"].map(|suffix| beside(database, suffix));
    for (index, path) in paths.into_iter().enumerate() {
        let bytes = fs::metadata(&path).map(|found| found.len());
        if bytes.is_ok_and(|bytes| index == 0 || bytes > 0) {
            return Err(OpenError::Exists(path));
        }
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let path = beside(database, suffix);
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

/// Proves a copy that is not yet in place, and marks it as verified.
fn prove_copy(
    path: &Path,
    named: &Path,
    progress: Option<Progress<'_>>,
    compare: impl FnOnce(&Connection, &Head) -> Result<(), OpenError>,
) -> Result<Head, OpenError> {
    let fault = |fault: Fault| OpenError::Store(fault.at(0));
    let connection = schema::open_copy(path, named)?;
    stand_alone(&connection)?;
    schema::quick_check(&connection).map_err(fault)?;
    let head = log::verify_all(&connection, progress).map_err(fault)?;
    compare(&connection, &head)?;
    log::write_checkpoint(&connection, &head, true).map_err(fault)?;
    Ok(head)
}
