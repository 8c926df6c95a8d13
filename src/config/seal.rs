//! Where the keys are that access tokens are sealed with.
//!
//! Keys that are set themselves are never printed: [`SealKeys`] shows that there are some, in
//! `serve --print-config` as in any error. What the keys are is read where they are loaded.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::text_duration;

const MASK: &str = "***";
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(60 * 60);

/// Keys as text; never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SealKeys(String);

impl SealKeys {
    /// The text, for whoever loads the keys.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { MASK })
    }
}

impl Serialize for SealKeys {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(if self.0.is_empty() { "" } else { MASK })
    }
}

/// Where the keys are that access tokens are sealed with; what is set is all read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seal {
    /// The keys themselves.
    pub keys: SealKeys,
    /// A file with one a line; empty if there is none.
    pub keys_file: PathBuf,
    /// A directory with such files; empty if there is none.
    pub keys_dir: PathBuf,
    /// How often they are read again.
    #[serde(with = "text_duration")]
    pub poll: Duration,
}

impl Default for Seal {
    fn default() -> Self {
        Self {
            keys: SealKeys::default(),
            keys_file: PathBuf::new(),
            keys_dir: PathBuf::new(),
            poll: Duration::from_secs(2),
        }
    }
}

impl Seal {
    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        (!(POLL_MIN..=POLL_MAX).contains(&self.poll))
            .then(|| ("seal.poll", "not within 100ms to 1h".to_owned()))
    }
}
