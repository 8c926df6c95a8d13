//! Files with seal keys: who else may read them, how one is read, made and added to.
//!
//! Whoever reads a key makes tokens, so a file that others may read is refused rather than
//! pointed out: by the rule that PostgreSQL has for its private key. A mounted Secret is exempt,
//! for its mode is the cluster's to set. Used by the server and by `latchkey seal-key generate`.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, fstatvfs};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::domain::seal::key::SealKey;

/// The mode of a file that is made here.
pub const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// What nobody but the owner and the group may do, and what the group may not do either.
const OTHERS: u32 = 0o037;
/// What nobody but the owner may do.
const GROUP_AND_OTHERS: u32 = 0o077;

/// Why a file of keys cannot be used; says nothing of what it holds.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FileError {
    /// It cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the system says.
        error: String,
    },
    /// It cannot be made or added to.
    #[error("{file}: cannot be written: {error}")]
    Unwritable {
        /// Its path.
        file: String,
        /// What the system says.
        error: String,
    },
    /// Others could make tokens with what they read there.
    #[error(
        "{file}: others may read or write it (mode {mode:o}); `chmod 600` it, or leave it to root with mode 640"
    )]
    Open {
        /// Its path.
        file: String,
        /// Its mode.
        mode: u32,
    },
    /// A directory, or a device.
    #[error("{0}: is no file")]
    NoFile(String),
    /// No directory of keys has as many.
    #[error("{0}: has more than 64 entries")]
    TooMany(String),
    /// No keys are as long.
    #[error("{0}: has more than 16384 bytes")]
    TooLong(String),
}

impl FileError {
    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self::Unreadable {
            file: file.display().to_string(),
            error: error.to_string(),
        }
    }

    fn unwritable(file: &Path, error: &io::Error) -> Self {
        Self::Unwritable {
            file: file.display().to_string(),
            error: error.to_string(),
        }
    }
}

/// The content of a file that no others may read.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |error: io::Error| FileError::unreadable(path, &error);
    let file = File::open(path).map_err(failed)?;
    // Of what was opened, not of what the name stands for by now.
    refuse_open(path, &file)?;
    // Never moved while it grows: what is left behind would not be wiped.
    let room = usize::try_from(FILE_BYTES_MAX + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLong(path.display().to_string()));
    }
    Ok(bytes)
}

/// Makes a file with one new key, and the folder for it, if there is none; says whether it did.
///
/// Of several processes that find none one makes it, and all read that one.
///
/// # Errors
/// [`FileError::Unwritable`].
pub fn ensure(path: &Path, key: impl FnOnce() -> SealKey) -> Result<bool, FileError> {
    let failed = |error: io::Error| FileError::unwritable(path, &error);
    if path.exists() {
        return Ok(false);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(failed)?;
    // Whole before it has its name: nobody reads half of it.
    let key = key();
    let mut part = path.to_owned().into_os_string();
    part.push(format!(".{}", key.id()));
    let part = Path::new(&part);
    let made = write_new(part, &key).and_then(|()| std::fs::hard_link(part, path));
    let _ = std::fs::remove_file(part);
    match made {
        Ok(()) => File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map(|()| true)
            .map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn write_new(path: &Path, key: &SealKey) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(line(key).as_bytes())?;
    file.sync_all()
}

/// Adds a key to a file as a line of its own, and makes the file if there is none.
///
/// # Errors
/// [`FileError`]; a file that others may read is not added to.
pub fn add(path: &Path, key: &SealKey) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::unwritable(path, &error);
    let mut options = OpenOptions::new();
    options.append(true).read(true).create(true).mode(FILE_MODE);
    let mut file = options.open(path).map_err(failed)?;
    refuse_open(path, &file)?;
    let before = read(path)?;
    let mut text = Zeroizing::new(String::with_capacity(64));
    if before.last().is_some_and(|last| *last != b'\n') {
        text.push('\n');
    }
    text.push_str(&line(key));
    // One write: a server that reads meanwhile finds the line or does not.
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)
}

fn line(key: &SealKey) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(64));
    line.push_str(&key.reveal());
    line.push('\n');
    line
}

fn refuse_open(path: &Path, file: &File) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::unreadable(path, &error);
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(FileError::NoFile(path.display().to_string()));
    }
    let mounted = fstatvfs(file).map_err(|error| failed(error.into()))?;
    if is_open(
        found.mode(),
        found.uid(),
        mounted.f_flag.contains(StatVfsMountFlags::RDONLY),
    ) {
        return Err(FileError::Open {
            file: path.display().to_string(),
            mode: mode(&found),
        });
    }
    Ok(())
}

fn mode(found: &Metadata) -> u32 {
    found.mode() & 0o777
}

/// Whether others may read or write it. Root may let a group read what is root's, as of PostgreSQL's
/// `ssl_key_file`; the group is then a service's own. On a mount that nobody can write to, as
/// Kubernetes and Docker mount their secrets, a mode is not there to be mended, and who else is in
/// the container reads it by the cluster's will.
fn is_open(mode: u32, owner: u32, mounted_read_only: bool) -> bool {
    let forbidden = if owner == 0 { OTHERS } else { GROUP_AND_OTHERS };
    !mounted_read_only && mode & forbidden != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_judged_by_the_owner_and_the_mount() {
        let check = |mode: u32, owner: u32, mounted: bool, expected: bool| {
            assert_eq!(
                is_open(mode, owner, mounted),
                expected,
                "{mode:o} {owner} {mounted}"
            );
        };
        check(0o600, 1_000, false, false);
        check(0o400, 1_000, false, false);
        check(0o640, 1_000, false, true);
        check(0o604, 1_000, false, true);
        check(0o640, 0, false, false);
        check(0o440, 0, false, false);
        check(0o660, 0, false, true);
        check(0o644, 0, false, true);
        // As Kubernetes mounts a Secret where nothing is said, and where there is an `fsGroup`.
        check(0o644, 0, true, false);
        check(0o640, 1_000, true, false);
    }
}
