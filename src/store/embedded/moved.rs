//! The mark of a store that was moved: two authorities must not go on from one history.
//!
//! A small file beside the database. It is written as *moving* before the other store commits and
//! as *moved* after it, so that a crash in between serves neither by mistake; before that moment
//! a copy leaves no mark. Read by whoever opens the store to write.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::OpenError;
use super::place::{Place, create_private};
use crate::domain::chain::RevisionNumber;

const NAME: &str = "moved";
const PART: &str = "moved.part";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moved {
    /// Where; never with a password.
    pub(super) to: String,
    /// The head that was moved.
    pub(super) revision: RevisionNumber,
    /// Whether the other store is known to have it all.
    pub(super) done: bool,
}

impl Moved {
    /// What the place says; none if it was never moved.
    pub(super) fn read(place: &Place) -> Result<Option<Self>, OpenError> {
        let path = path(place);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::files(&path, error)),
        };
        let parsed = serde_json::from_slice(&text);
        let mark = parsed.map_err(|error| OpenError::files(&path, error.into()))?;
        Ok(Some(mark))
    }

    /// Refuses a place that was moved, unless that is accepted.
    pub(super) fn refuse(place: &Place, accept: bool) -> Result<(), OpenError> {
        if accept {
            return Ok(());
        }
        let folder = place.folder().to_owned();
        match Self::read(place)? {
            None => Ok(()),
            Some(Self {
                to, done: false, ..
            }) => Err(OpenError::Moving { folder, to }),
            Some(Self { to, revision, .. }) => Err(OpenError::Moved {
                folder,
                to,
                revision,
            }),
        }
    }

    /// Writes the mark durably, in the place of a former one.
    pub(super) fn write(&self, place: &Place) -> Result<(), OpenError> {
        let (path, part) = (path(place), place.folder().join(PART));
        let written = || {
            remove(&part)?;
            let mut file: File = create_private(&part)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            place.sync()
        };
        written().map_err(|source| OpenError::files(&path, source))
    }

    /// Takes the mark away.
    pub(super) fn take_back(place: &Place) -> Result<(), OpenError> {
        let path = path(place);
        let taken = remove(&path).and_then(|()| place.sync());
        taken.map_err(|source| OpenError::files(&path, source))
    }
}

fn path(place: &Place) -> PathBuf {
    place.folder().join(NAME)
}

fn remove(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
