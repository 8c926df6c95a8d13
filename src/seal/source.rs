//! Where seal keys are read from: a text, a file and a directory, any of them or all.
//!
//! A line is a key, blank lines and those that begin with `#` aside. Of a directory every file is
//! read, as a mounted Secret has one for each entry. All is taken or nothing: a key less than
//! its operator thinks is tokens that are refused. Errors name the file and the line, never what
//! stands there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::domain::seal::key::{KeyId, SealKey, SealKeyError};
use crate::domain::seal::ring::Ring;
use crate::followed;

use super::file::{self, FileError};

/// Keys that may be loaded at once.
pub const KEYS_MAX: usize = 16;
/// Entries that a directory may have, also those that are no keys.
const ENTRIES_MAX: usize = 64;
/// What names begin with that Kubernetes keeps beside the entries of a Secret.
const SWAPPED: &str = "..";

/// Where keys are read from; nothing of it is no keys.
#[derive(Clone, Default)]
pub struct KeySource {
    /// Keys themselves, such as an environment variable has; also with commas between them.
    pub text: Zeroizing<String>,
    /// A file.
    pub file: Option<PathBuf>,
    /// A directory.
    pub dir: Option<PathBuf>,
}

/// Where a key stands: what holds it, and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The setting or the file.
    pub name: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

/// Why keys are not taken from where they are.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SourceError {
    /// A file or directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line is no key.
    #[error("{0}: {1}")]
    Wrong(Place, SealKeyError),
    /// A key is there twice.
    #[error("{0}: the same key ({2}) as in {1}; one of them is enough")]
    Twice(Place, Place, KeyId),
    /// Two keys have one id; by chance, once in a billion pairs.
    #[error("{0}: another key with the id {2}, that of {1}; make a new one")]
    SameId(Place, Place, KeyId),
    /// There is nothing where keys are looked for.
    #[error("{0}: holds no key; `latchkey seal-key generate --out FILE` makes one")]
    NoKey(String),
    /// More than can be of use.
    #[error("more than 16 seal keys; remove those that are retired or revoked")]
    TooMany,
}

/// What one setting or file holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    name: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl KeySource {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.file.is_none() && self.dir.is_none()
    }

    fn pieces(&self) -> Result<Vec<Piece>, FileError> {
        let mut pieces = Vec::new();
        if !self.text.trim().is_empty() {
            pieces.push(Piece {
                name: "seal.keys".to_owned(),
                bytes: Zeroizing::new(self.text.replace(',', "\n").into_bytes()),
            });
        }
        if let Some(path) = &self.file {
            pieces.push(piece(path)?);
        }
        if let Some(dir) = &self.dir {
            for path in entries(dir)? {
                pieces.push(piece(&path)?);
            }
        }
        Ok(pieces)
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, dir) = (&self.file, &self.dir);
        write!(f, "KeySource {{ file: {file:?}, dir: {dir:?}, .. }}")
    }
}

impl followed::Source for KeySource {
    type Content = Result<Vec<Piece>, FileError>;
    type Value = Ring;
    type Error = SourceError;

    fn read(&self) -> Self::Content {
        self.pieces()
    }

    fn judge(&self, content: &Self::Content) -> Result<Ring, SourceError> {
        let pieces = content.as_ref().map_err(Clone::clone)?;
        let mut found: Vec<(Place, SealKey)> = Vec::new();
        for piece in pieces {
            let before = found.len();
            for (place, line) in lines(piece) {
                let key = SealKey::parse(line)
                    .map_err(|error| SourceError::Wrong(place.clone(), error))?;
                let id = key.id();
                if let Some((first, known)) = found.iter().find(|(_, known)| known.id() == id) {
                    let first = first.clone();
                    return Err(match *known == key {
                        true => SourceError::Twice(place, first, id),
                        false => SourceError::SameId(place, first, id),
                    });
                }
                if found.len() == KEYS_MAX {
                    return Err(SourceError::TooMany);
                }
                found.push((place, key));
            }
            if found.len() == before {
                return Err(SourceError::NoKey(piece.name.clone()));
            }
        }
        match &self.dir {
            // Its files are a piece each; without one nobody has said so yet.
            Some(dir) if found.is_empty() => Err(SourceError::NoKey(dir.display().to_string())),
            _ => Ok(Ring::new(found.into_iter().map(|(_, key)| key))),
        }
    }

    fn tell(&self, judged: Result<&Ring, &SourceError>) {
        match judged {
            Ok(ring) => {
                let ids: Vec<String> = ring.ids().iter().map(KeyId::to_string).collect();
                tracing::info!(ids = ids.join(" "), "seal keys read");
            }
            Err(error) => {
                tracing::warn!(%error, "seal keys refused: those before stay in use");
            }
        }
    }
}

/// The lines that should be keys; one that is no text is no key.
fn lines(piece: &Piece) -> impl Iterator<Item = (Place, &str)> {
    let lines = piece.bytes.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(index, line)| {
        let place = Place {
            name: piece.name.clone(),
            line: index + 1,
        };
        (place, str::from_utf8(line).unwrap_or("\u{fffd}").trim())
    });
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn piece(path: &Path) -> Result<Piece, FileError> {
    Ok(Piece {
        name: path.display().to_string(),
        bytes: file::read(path)?,
    })
}

/// The files of a directory, in the order of their names.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |error: io::Error| FileError::unreadable(dir, &error);
    let mut found = Vec::new();
    for (index, entry) in fs::read_dir(dir).map_err(failed)?.enumerate() {
        if index == ENTRIES_MAX {
            return Err(FileError::TooMany(dir.display().to_string()));
        }
        let entry = entry.map_err(failed)?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(SWAPPED.as_bytes())
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::Duration;

    use tempfile::TempDir;

    use crate::domain::entropy::SeededEntropy;
    use crate::followed::SETTLE_TIME;

    use super::super::Live;
    use super::super::file::{add, ensure};
    use super::*;

    fn key(seed: u64) -> SealKey {
        SealKey::generate(&SeededEntropy::new(seed))
    }

    fn text(seeds: &[u64]) -> String {
        let lines = seeds
            .iter()
            .map(|seed| key(*seed).reveal().to_string() + "\n");
        lines.collect()
    }

    fn keys(seeds: &[u64]) -> Vec<KeyId> {
        let mut ids: Vec<KeyId> = seeds.iter().map(|seed| key(*seed).id()).collect();
        ids.sort();
        ids
    }

    struct World {
        dir: TempDir,
        source: KeySource,
    }

    impl World {
        fn new() -> Self {
            let dir = TempDir::new().expect("a directory");
            let source = KeySource::default();
            Self { dir, source }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.at(name), content).expect("written");
            self.set_mode(name, 0o600);
        }

        fn set_mode(&self, name: &str, mode: u32) {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(self.at(name), mode).expect("set");
        }

        fn open(&self) -> Result<Vec<KeyId>, String> {
            let live = Live::open(self.source.clone()).map_err(|error| error.to_string())?;
            Ok(live.0.current().ids())
        }

        /// What it is refused with, its own paths aside.
        fn refusal(&self) -> String {
            let told = self.open().expect_err("refused");
            let here = format!("{}/", self.dir.path().display());
            assert!(!told.contains("AAAA"), "{told}");
            told.replace(&here, "")
        }
    }

    #[test]
    fn keys_come_from_all_that_is_set() {
        let mut world = World::new();
        assert_eq!(world.open(), Ok(vec![]), "nothing is set");
        world.source.text = Zeroizing::new(format!(" {},{}", *key(1).reveal(), *key(2).reveal()));
        assert_eq!(world.open(), Ok(keys(&[1, 2])));
        world.write("keys", format!("# ours\r\n\n  {}", text(&[3, 4])));
        world.source.file = Some(world.at("keys"));
        assert_eq!(world.open(), Ok(keys(&[1, 2, 3, 4])));
        fs::create_dir(world.at("dir")).expect("made");
        world.write("dir/b", text(&[6]));
        world.write("dir/a", text(&[5]));
        world.source.dir = Some(world.at("dir"));
        assert_eq!(world.open(), Ok(keys(&[1, 2, 3, 4, 5, 6])));
    }

    #[test]
    fn a_directory_is_read_whole_or_refused() {
        let mut world = World::new();
        fs::create_dir(world.at("dir")).expect("made");
        world.source.dir = Some(world.at("dir"));
        world.write("dir/key", text(&[1]));
        for number in 1..ENTRIES_MAX {
            world.write(&format!("dir/..{number}"), "no key");
        }
        assert_eq!(world.open(), Ok(keys(&[1])));
        world.write("dir/..more", "no key");
        assert_eq!(world.refusal(), "dir: has more than 64 entries");
    }

    #[test]
    fn what_holds_no_keys_is_refused_with_its_place() {
        let mut world = World::new();
        world.source.file = Some(world.at("keys"));
        assert!(
            world.refusal().starts_with("keys: cannot be read: "),
            "{}",
            world.refusal()
        );
        let check = |content: &str, expected: &str| {
            world.write("keys", content);
            assert!(world.refusal().starts_with(expected), "{}", world.refusal());
        };
        check("", "keys: holds no key; `latchkey seal-key generate");
        check("# none\n", "keys: holds no key");
        check("\nAAAA\n", "keys:2: is not the base64 of 32 bytes");
        check(&format!("{}AAAA", text(&[1])), "keys:2: is not the base64");
        check(&text(&[1])[1..], "keys:1: is not the base64");
        check(&format!("{}=\n", "A".repeat(43)), "keys:1: is not random");
        check(&text(&[1, 2, 1]), "keys:3: the same key (");
        check(
            &text(&(0..17).collect::<Vec<_>>()),
            "more than 16 seal keys",
        );
        check(&"#".repeat(20_000), "keys: has more than 16384 bytes");
        world.write("keys", b"\xff\n");
        assert!(world.refusal().starts_with("keys:1: is not the base64"));
        world.write("keys", text(&[1]));
        world.source.text = key(1).reveal();
        assert!(world.refusal().starts_with("keys:1: the same key ("));
        assert!(world.refusal().contains(") as in seal.keys:1;"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let mut world = World::new();
        world.write("keys", text(&[1]));
        world.source.file = Some(world.at("keys"));
        for mode in [0o600, 0o400] {
            world.set_mode("keys", mode);
            assert_eq!(world.open(), Ok(keys(&[1])), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o602, 0o620, 0o660, 0o666] {
            world.set_mode("keys", mode);
            let told = format!("keys: others may read or write it (mode {mode:o}); `chmod 600` it");
            assert!(world.refusal().starts_with(&told), "{}", world.refusal());
            let added = add(&world.at("keys"), &key(2));
            assert!(matches!(added, Err(FileError::Open { .. })), "{added:?}");
        }
        world.source.file = Some(world.dir.path().to_owned());
        assert!(world.open().is_err_and(|told| told.contains("no file")));
    }

    #[test]
    fn keys_are_added_line_by_line() {
        let mut world = World::new();
        world.source.file = Some(world.at("made/keys"));
        let file = world.at("made/keys");
        assert_eq!(ensure(&file, || key(1)), Ok(true));
        assert_eq!(ensure(&file, || key(2)), Ok(false), "it is there");
        assert_eq!(world.open(), Ok(keys(&[1])));
        add(&file, &key(2)).expect("added");
        assert_eq!(world.open(), Ok(keys(&[1, 2])));
        fs::write(&file, text(&[1]).trim()).expect("written");
        add(&file, &key(3)).expect("added");
        assert_eq!(
            world.open(),
            Ok(keys(&[1, 3])),
            "after a line without an end"
        );
        world.source.file = Some(world.at("other"));
        add(&world.at("other"), &key(4)).expect("added");
        assert_eq!(world.open(), Ok(keys(&[4])));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&world.at("other"))), (0o600, 0o600));
        assert_eq!(mode(&world.at("made")), 0o700);
        let left = fs::read_dir(world.at("made")).expect("there").count();
        assert_eq!(left, 1, "a part of a file is left behind");
    }

    #[test]
    fn of_many_that_find_no_file_one_makes_it() {
        let world = World::new();
        let file = world.at("keys");
        let made: Vec<bool> = std::thread::scope(|scope| {
            let make = |seed| {
                scope.spawn({
                    let file = &file;
                    move || ensure(file, || key(seed))
                })
            };
            let threads: Vec<_> = (0..8).map(make).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().expect("ended"));
            ended.map(|made| made.expect("no error")).collect()
        });
        assert_eq!(made.iter().filter(|made| **made).count(), 1);
        let read = file::read(&file).expect("whole");
        assert_eq!(read.len(), 45);
    }

    /// As Kubernetes mounts a Secret: each file is a link into a folder behind a link, and that
    /// one is swapped.
    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_swapped_is_followed() {
        let mut world = World::new();
        for (version, seeds) in [("..1", [1, 2]), ("..2", [2, 3])] {
            fs::create_dir(world.at(version)).expect("made");
            for (name, seed) in ["first", "second"].into_iter().zip(seeds) {
                world.write(&format!("{version}/{name}"), text(&[seed]));
            }
        }
        symlink("..1", world.at("..data")).expect("linked");
        for name in ["first", "second"] {
            symlink(format!("..data/{name}"), world.at(name)).expect("linked");
        }
        world.source.dir = Some(world.dir.path().to_owned());
        let (live, follower) = Live::open(world.source.clone()).expect("keys");
        assert_eq!(live.current().ids(), keys(&[1, 2]));
        let handle = live.handle();
        let task = tokio::spawn(follower.run(Duration::from_secs(2)));

        symlink("..2", world.at("..data_tmp")).expect("linked");
        fs::rename(world.at("..data_tmp"), world.at("..data")).expect("swapped");
        while live.counts().reloads < 1 {
            tokio::time::advance(SETTLE_TIME).await;
        }
        assert_eq!(handle.load().ids(), keys(&[2, 3]));

        world.write("..2/second", "nonsense");
        live.look_now();
        while live.counts().refusals < 1 {
            tokio::time::advance(SETTLE_TIME).await;
        }
        assert_eq!(
            live.current().ids(),
            keys(&[2, 3]),
            "those before stay in use"
        );
        assert!(live.counts().refused);
        task.abort();
    }

    #[test]
    fn a_directory_without_a_file_has_no_keys() {
        let mut world = World::new();
        world.source.dir = Some(world.dir.path().to_owned());
        fs::create_dir(world.at("..data")).expect("made");
        assert!(
            world
                .open()
                .is_err_and(|told| told.contains("holds no key"))
        );
        fs::create_dir(world.at("folder")).expect("made");
        assert_eq!(world.refusal(), "folder: is no file");
    }

    #[test]
    fn debug_shows_no_key() {
        let mut world = World::new();
        world.source.text = key(1).reveal();
        let shown = format!("{:?}", world.source);
        assert!(!shown.contains(key(1).reveal().as_str()), "{shown}");
    }
}
