//! The data directory: where the files are, who may read them, and that one process has them.
//!
//! ```text
//! DIR/latchkey.db (-wal, -shm)   the database
//! DIR/head                       the witness: the newest revision seen here
//! DIR/lock                       held for life by the process that serves from here
//! ```
//!
//! Network file systems are refused: their locks and their fsync promise less than SQLite needs.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use super::OpenError;

/// What only the owner may read and write.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

const DATABASE: &str = "latchkey.db";
/// How often a lock is tried whose file others withdraw meanwhile.
const LOCK_TRIES_MAX: usize = 16;

/// File systems by the magic number of statfs(2).
const NETWORK_MAGICS: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
];

const FUSE_MAGIC: u64 = 0x6573_5546;

/// FUSE file systems that reach over a network; mountinfo names them `fuse.NAME`.
const NETWORK_FUSE: &[&str] = &[
    "sshfs",
    "glusterfs",
    "s3fs",
    "rclone",
    "gcsfuse",
    "goofys",
    "blobfuse",
    "blobfuse2",
    "davfs",
    "juicefs",
    "cephfs",
    "ceph-fuse",
    "moosefs",
    "curlftpfs",
    "smbnetfs",
    "mount-s3",
];

/// A data directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    folder: PathBuf,
}

/// The right to serve from a data directory; ends when dropped, also by the death of the process.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    made: bool,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file alone would leave it locked for as long as a child has it, too, that
        // was forked meanwhile and has not come to its exec yet.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock's file away if this process made it: who gives up a directory that it has
    /// not used leaves it as it was.
    pub(super) fn withdraw(self) {
        if self.made {
            // Still held here. Whoever has opened this file already finds it without its name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Place {
    /// The directory as it is; it must exist.
    pub(super) fn existing(folder: &Path) -> Result<Self, OpenError> {
        let found = fs::metadata(folder).and_then(|found| match found.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        found.map_err(|source| OpenError::files(folder, source))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The directory, made for the owner alone if it is not there.
    pub(super) fn prepare(folder: &Path) -> Result<Self, OpenError> {
        if !folder.is_dir() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(FOLDER_MODE).create(folder);
            made.map_err(|source| OpenError::files(folder, source))?;
            if let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) {
                sync_folder(parent).map_err(|source| OpenError::files(parent, source))?;
            }
        }
        let place = Self::existing(folder)?;
        place.refuse_network()?;
        Ok(place)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }

    pub(super) fn witness(&self) -> PathBuf {
        self.folder.join("head")
    }

    /// Takes the directory for this process.
    pub(super) fn lock(&self) -> Result<Lock, OpenError> {
        let path = self.folder.join("lock");
        let failed = |source| OpenError::files(&path, source);
        for _ in 0..LOCK_TRIES_MAX {
            let made = match create_private(&path) {
                Ok(file) => Some((file, true)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                Err(error) => return Err(failed(error)),
            };
            let opened = made.map_or_else(
                || {
                    OpenOptions::new()
                        .write(true)
                        .open(&path)
                        .map(|file| (file, false))
                },
                Ok,
            );
            let (file, made) = match opened {
                Ok(opened) => opened,
                // Withdrawn between the two.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::InUse(self.folder.clone()));
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // A lock on a file that was withdrawn keeps nobody out.
            if same_file(&file, &path).map_err(failed)? {
                return Ok(Lock { file, path, made });
            }
        }
        Err(OpenError::InUse(self.folder.clone()))
    }

    /// What stands in the way of a new database: the log of writes of one that is gone, which
    /// SQLite would throw away or replay, or what a restore has left that did not finish.
    pub(super) fn remains(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix(DATABASE)) else {
                continue;
            };
            let written = matches!(suffix, "-wal" | "-journal") && entry.metadata()?.len() > 0;
            if written || is_part(suffix) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes the database file for the owner alone before SQLite opens it; SQLite gives its
    /// other files the same mode. Closing a descriptor drops the POSIX locks that SQLite has on
    /// the file, so this is called before the first connection and never again.
    pub(super) fn prepare_database(&self) -> Result<(), OpenError> {
        let path = self.database();
        let failed = |source| OpenError::files(&path, source);
        if path.exists() {
            let private = fs::Permissions::from_mode(FILE_MODE);
            return fs::set_permissions(&path, private).map_err(failed);
        }
        create_private(&path).map_err(failed)?;
        self.sync().map_err(failed)
    }

    /// Makes names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.folder)
    }

    fn refuse_network(&self) -> Result<(), OpenError> {
        let failed = |source| OpenError::files(&self.folder, source);
        let found = rustix::fs::statfs(&self.folder).map_err(|error| failed(error.into()))?;
        // The field is signed, and 32 bits of it count.
        let magic = found.f_type as u64 & 0xffff_ffff;
        let named = NETWORK_MAGICS.iter().find(|(known, _)| *known == magic);
        let kind = match named {
            Some((_, name)) => Some((*name).to_owned()),
            None if magic == FUSE_MAGIC => self.network_fuse().map_err(failed)?,
            None => None,
        };
        kind.map_or(Ok(()), |kind| {
            Err(OpenError::NetworkFileSystem {
                folder: self.folder.clone(),
                kind,
            })
        })
    }

    fn network_fuse(&self) -> io::Result<Option<String>> {
        let folder = fs::canonicalize(&self.folder)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounted_type(&mounts, &folder)
            .and_then(|kind| kind.strip_prefix("fuse."))
            .filter(|name| NETWORK_FUSE.contains(name))
            .map(str::to_owned))
    }
}

/// The type of the file system that `folder` is on, by the text of `/proc/self/mountinfo`.
fn mounted_type<'m>(mounts: &'m str, folder: &Path) -> Option<&'m str> {
    let parse = |line: &'m str| {
        let (front, back) = line.split_once(" - ")?;
        let point = front.split(' ').nth(4)?;
        Some((point, back.split(' ').next()?))
    };
    mounts
        .lines()
        .filter_map(parse)
        .filter(|(point, _)| folder.starts_with(point))
        // The last of equals hides those before it.
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

/// The end of a name that a restore writes under, before its process id and `.part`.
fn is_part(suffix: &str) -> bool {
    let number = suffix
        .strip_prefix('.')
        .and_then(|rest| rest.strip_suffix(".part"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a file for the owner alone; it must not exist.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .create_new(true)
        .write(true)
        .read(true)
        .mode(FILE_MODE);
    options.open(path)
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_tells_the_type() {
        let mounts = "\
            21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            40 21 0:40 / /data rw - fuse.sshfs host: rw\n\
            41 40 0:41 / /data/local rw shared:2 master:1 - fuse.fuse-overlayfs x rw\n";
        let check = |folder: &str, expected: &str| {
            assert_eq!(
                mounted_type(mounts, Path::new(folder)),
                Some(expected),
                "{folder}"
            );
        };
        check("/var", "ext4");
        check("/data", "fuse.sshfs");
        check("/database", "ext4");
        check("/data/x/y", "fuse.sshfs");
        check("/data/local/x", "fuse.fuse-overlayfs");
    }

    #[test]
    fn what_is_made_is_for_the_owner_alone() {
        let above = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(&above.path().join("a/b")).expect("made");
        place.prepare_database().expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(place.folder()), 0o700);
        assert_eq!(mode(&place.database()), 0o600);
        fs::set_permissions(place.database(), fs::Permissions::from_mode(0o644)).expect("set");
        place.prepare_database().expect("tightened");
        assert_eq!(mode(&place.database()), 0o600);
    }

    #[test]
    fn a_second_lock_is_refused_while_the_first_lives() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(folder.path()).expect("there");
        let first = place.lock().expect("free");
        assert!(matches!(place.lock(), Err(OpenError::InUse(_))));
        drop(first);
        place.lock().expect("free again");
    }

    #[test]
    fn a_lock_ends_with_its_owner_also_while_a_child_has_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(folder.path()).expect("there");
        let first = place.lock().expect("free");
        // What a process has that was forked and has not come to its exec yet.
        let inherited = first.file.try_clone().expect("another descriptor");
        drop(first);
        place.lock().expect("free again");
        drop(inherited);
    }

    #[test]
    fn a_withdrawn_lock_leaves_no_file_and_is_no_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(folder.path()).expect("there");
        let path = folder.path().join("lock");
        let first = place.lock().expect("free");
        let late = File::open(&path).expect("there");
        first.withdraw();
        assert!(!path.exists());
        // Who had opened the file before may lock it, and is alone with it.
        late.try_lock().expect("free");
        assert!(!same_file(&late, &path).expect("compared"));
        let second = place.lock().expect("another file");
        assert!(matches!(place.lock(), Err(OpenError::InUse(_))));
        drop(second);
        place.lock().expect("free").withdraw();
        assert!(path.exists(), "made by another");
    }

    #[test]
    fn remains_are_logs_of_writes_and_parts() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(folder.path()).expect("there");
        let check = |name: &str, text: &str, counts: bool| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            let expected = if counts { vec![path.clone()] } else { vec![] };
            assert_eq!(place.remains().expect("read"), expected, "{name}");
            fs::remove_file(path).expect("there");
        };
        check("latchkey.db-wal", "frames", true);
        check("latchkey.db-journal", "pages", true);
        check("latchkey.db.4711.part", "", true);
        check("latchkey.db-wal", "", false);
        check("latchkey.db-shm", "index", false);
        check("latchkey.db.old.part", "kept", false);
        check("latchkey.db.backup", "kept", false);
        check("head", "seen", false);
    }
}
