//! Exports of the log: what is kept of entries that are trimmed, as lines of JSON.
//!
//! ```text
//! {"export":"latchkey.log","version":1,"after":{"revision":…,"chain":…}}
//! {"revision":…,"instant_ms":…,"kind":…,"actor":…,"target":…,"reason":…,"body":…,"chain":…}   …
//! {"until":{"revision":…,"chain":…},"entries":…}
//! ```
//!
//! Bodies are the exact bytes that were hashed, as hexadecimal digits: whoever has the chain at one
//! revision can verify all that leads to it, without any store. What stands beside a body is for
//! people, and must agree with it. Bodies hold digests of secrets, never secrets.

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::StoreError;
use super::follow::follow;
use super::hex::{hex, parse_hex};
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::UnixMs;
use crate::domain::entry::{Entry, LogEntry};

const NAME: &str = "latchkey.log";
const VERSION: u32 = 1;
/// The longest line that is read; a batch's bytes as digits are shorter.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// What it begins after.
    pub after: Head,
    /// Its last entry.
    pub until: Head,
}

/// Why a file is not taken for an export.
#[derive(Debug, Error)]
pub enum ExportError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none, not whole, or was changed.
    #[error("line {line}: {what}")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong there.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    revision: RevisionNumber,
    chain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    export: String,
    version: u32,
    after: At,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    revision: RevisionNumber,
    instant_ms: UnixMs,
    kind: String,
    actor: String,
    target: String,
    reason: String,
    body: String,
    chain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    until: At,
    entries: u64,
}

impl At {
    fn of(head: &Head) -> Self {
        Self {
            revision: head.revision,
            chain: hex(&head.chain),
        }
    }

    fn head(&self) -> Option<Head> {
        Some(Head {
            revision: self.revision,
            chain: parse_hex(&self.chain)?.try_into().ok()?,
        })
    }
}

impl Line {
    fn of(logged: &LogEntry) -> Self {
        let entry = &logged.entry;
        Self {
            revision: entry.revision,
            instant_ms: entry.instant_ms,
            kind: entry.kind.name().to_owned(),
            actor: entry.actor.name.clone(),
            target: entry.target.clone(),
            reason: entry.reason.clone(),
            body: hex(&logged.body),
            chain: hex(&logged.head.chain),
        }
    }

    fn agrees(&self, entry: &Entry) -> bool {
        self.instant_ms == entry.instant_ms
            && self.kind == entry.kind.name()
            && self.actor == entry.actor.name
            && self.target == entry.target
            && self.reason == entry.reason
    }
}

/// An export that is being written.
pub struct Export<W> {
    out: W,
    exported: Exported,
}

impl<W: Write> Export<W> {
    /// Begins one after a head.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut out: W, after: Head) -> io::Result<Self> {
        let first = First {
            export: NAME.to_owned(),
            version: VERSION,
            after: At::of(&after),
        };
        put(&mut out, &first)?;
        let exported = Exported {
            after,
            until: after,
        };
        Ok(Self { out, exported })
    }

    /// Adds the entries that come next.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, entries: &[LogEntry]) -> io::Result<()> {
        for logged in entries {
            put(&mut self.out, &Line::of(logged))?;
            self.exported.until = logged.head;
        }
        Ok(())
    }

    /// The last entry that was added.
    #[must_use]
    pub fn until(&self) -> Head {
        self.exported.until
    }

    /// Ends it: only now it is whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<(Exported, W)> {
        let Exported { after, until } = self.exported;
        let last = Last {
            until: At::of(&until),
            entries: until.revision - after.revision,
        };
        put(&mut self.out, &last)?;
        self.out.flush()?;
        Ok((self.exported, self.out))
    }
}

fn put(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Proves that an export is whole: every entry is readable, agrees with what stands beside it and
/// continues the chain from the first line to the last.
///
/// # Errors
/// [`ExportError`] with the first line that is wrong.
pub fn verify(mut input: impl BufRead) -> Result<Exported, ExportError> {
    let mut number = 1;
    let wrong = |line: u64, what: &str| ExportError::Line {
        line,
        what: what.to_owned(),
    };
    let line = read(&mut input)?;
    let first: First = serde_json::from_str(&line)
        .map_err(|_| wrong(number, "this does not begin as an export of a log does"))?;
    if first.export != NAME || first.version != VERSION {
        return Err(wrong(number, "an export of another kind or version"));
    }
    let after = first.after.head();
    let after = after.ok_or_else(|| wrong(number, "not a chain hash"))?;
    let mut until = after;
    loop {
        number += 1;
        let line = read(&mut input)?;
        if line.is_empty() {
            return Err(wrong(number, "the export ends before its last line"));
        }
        if let Ok(last) = serde_json::from_str::<Last>(&line) {
            let agrees =
                last.until.head() == Some(until) && last.entries == until.revision - after.revision;
            if !agrees {
                return Err(wrong(number, "the last line is of another export"));
            }
            if !read(&mut input)?.is_empty() {
                return Err(wrong(number + 1, "something follows the last line"));
            }
            return Ok(Exported { after, until });
        }
        read_entry(&mut until, &line).map_err(|what| wrong(number, &what))?;
    }
}

fn read(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(LINE_BYTES_MAX).read_line(&mut line)?;
    Ok(line)
}

fn read_entry(head: &mut Head, line: &str) -> Result<(), String> {
    let line: Line = serde_json::from_str(line).map_err(|_| "not an entry".to_owned())?;
    let body = parse_hex(&line.body).ok_or("the body is not hexadecimal")?;
    let chain = parse_hex(&line.chain).and_then(|chain| <[u8; 32]>::try_from(chain).ok());
    let chain = chain.ok_or("not a chain hash")?;
    match follow(head, line.revision, &body, &chain) {
        Ok(entry) if line.agrees(&entry) => Ok(()),
        Ok(_) => Err("the text differs from the body".to_owned()),
        Err(StoreError::Damaged { what, .. }) => Err(what),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
