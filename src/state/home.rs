//! The installation's own home: where the first administrator and orphaned tokens are managed.

use crate::domain::permission::Resource;

/// The name of the installation's home.
pub const INSTALLATION: &str = "latchkey";

/// The installation's home as a resource.
///
/// # Panics
/// Never: the name is one valid segment.
#[must_use]
pub fn installation() -> Resource {
    Resource::parse(INSTALLATION).expect("one valid segment")
}
