//! The seal keys that this process has loaded: from files or the environment, never from the store.
//!
//! ```text
//! seal.keys, seal.keys_file, seal.keys_dir ─► source ─► keys ─► live: followed and swapped whole
//! data directory, nothing set ─► its own file ─┘
//! ```
//!
//! Used by `cli`, which hands the keys on, and by `rpc`, which counts them. Absent: which of them
//! seals. State says that, and only of keys that every server has loaded.

mod file;
mod source;

use std::sync::Arc;

use crate::domain::seal::ring::Ring;
use crate::followed;

pub use file::{FILE_MODE, FileError, add, ensure};
pub use source::{KEYS_MAX, KeySource, Place, SourceError};

/// The keys in use; see [`followed::Live`].
pub type Live = followed::Live<Ring>;
/// Who keeps them as their source says.
pub type Follower = followed::Follower<KeySource>;

impl Live {
    /// No keys: nothing can be sealed, and nothing that is sealed is opened.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The keys of a source, and who follows it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(source: KeySource) -> Result<(Arc<Self>, Follower), SourceError> {
        Self::follow(source)
    }
}
