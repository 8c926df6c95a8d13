//! The format level: which kinds of entries may be in a log.
//!
//! A log begins at [`FORMAT_FIRST`]; an entry `format.raise` raises its level, and only behind it
//! are kinds of that format written. A server reads every format up to its own [`format_max`], and
//! one that reads less than a log's level does not serve it. So servers of two versions share a
//! log, and the older ones never meet what they do not know.
//!
//! Format 2 brought credentials, logins, sealed access tokens and their keys. The level is raised
//! by the first change that wants it, so that a log without any can still be served by a server
//! that does not know them.
//!
//! Debug builds can be made one format newer than they are ([`know_next`]), with one more kind,
//! `note`, which changes nothing: an upgrade can then be tested before there is a next version.

/// The format that every log begins with.
pub const FORMAT_FIRST: u32 = 1;

/// The format that brought logins.
pub const FORMAT_LOGINS: u32 = 2;

/// The newest format that this version reads and writes.
pub const FORMAT_MAX: u32 = 2;

#[cfg(debug_assertions)]
static NEXT_IS_KNOWN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// The newest format that this process reads and writes.
#[must_use]
pub fn format_max() -> u32 {
    #[cfg(debug_assertions)]
    if NEXT_IS_KNOWN.load(std::sync::atomic::Ordering::Relaxed) {
        return FORMAT_MAX + 1;
    }
    FORMAT_MAX
}

/// Makes this process one format newer than it is. Absent from release builds.
#[cfg(debug_assertions)]
pub fn know_next() {
    NEXT_IS_KNOWN.store(true, std::sync::atomic::Ordering::Relaxed);
}
