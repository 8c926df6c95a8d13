//! Following the chain over stored entries: what every store holds its log against.
//!
//! Every entry that leaves a store was hashed again and continues the chain of the one before it,
//! so that a changed bit is found where it is and not where it hurts. A [`Walk`] goes along a
//! whole log and holds the columns beside each body against it, and the head row at the end.

use sha2::{Digest as _, Sha256};

use super::StoreError;
use super::transfer::Last;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::clock::UnixMs;
use crate::domain::entry::Entry;

/// What is wrong where the rows of the tables are not those that the log makes.
pub(super) const TABLES_DIFFER: &str =
    "the tables do not agree with the log: the state digest differs";

/// Moves `head` over one stored body, which must be the next, hash to its chain and be readable.
///
/// # Errors
/// [`StoreError::Damaged`] at the revision that was expected.
pub(super) fn follow(
    head: &mut Head,
    revision: RevisionNumber,
    body: &[u8],
    chain: &[u8; 32],
) -> Result<Entry, StoreError> {
    let next = head.after(body);
    let damaged = |what: &str| StoreError::Damaged {
        revision: next.revision,
        what: what.to_owned(),
    };
    if revision != next.revision {
        return Err(damaged("the entry is missing"));
    }
    if next.chain != *chain {
        return Err(damaged("the entry or its hash was changed"));
    }
    let entry = Entry::decode(body).map_err(|error| damaged(&error.to_string()))?;
    if entry.revision != revision {
        return Err(damaged("the body names another revision"));
    }
    *head = next;
    Ok(entry)
}

/// The columns beside a body: copies for people who read by SQL.
pub(super) struct Beside<'a> {
    pub(super) instant_ms: UnixMs,
    pub(super) kind: &'a str,
    pub(super) actor: &'a str,
    pub(super) actor_principal: Option<u32>,
    pub(super) actor_token: Option<[u8; 16]>,
    pub(super) target: &'a str,
    pub(super) reason: &'a str,
    pub(super) body_hash: &'a [u8],
}

impl Beside<'_> {
    fn agrees(&self, entry: &Entry, body: &[u8]) -> bool {
        self.instant_ms == entry.instant_ms
            && self.kind == entry.kind.name()
            && self.actor == entry.actor.name
            && self.actor_principal == entry.actor.principal.map(|id| id.0)
            && self.actor_token == entry.actor.token.map(|id| id.to_bytes())
            && self.target == entry.target
            && self.reason == entry.reason
            && self.body_hash == &Sha256::digest(body)[..]
    }
}

/// How far a verification has come.
pub(super) struct Walk {
    pub(super) head: Head,
    newest: Option<(UnixMs, Option<[u8; 32]>)>,
}

impl Walk {
    /// Begins behind a head that is taken as given.
    pub(super) fn behind(head: Head) -> Self {
        Self { head, newest: None }
    }

    /// Takes the next stored row.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] at the revision that was expected.
    pub(super) fn step(
        &mut self,
        revision: RevisionNumber,
        body: &[u8],
        chain: &[u8; 32],
        beside: &Beside<'_>,
    ) -> Result<Entry, StoreError> {
        let entry = follow(&mut self.head, revision, body, chain)?;
        let damaged = |what: &str| StoreError::Damaged {
            revision,
            what: what.to_owned(),
        };
        if !beside.agrees(&entry, body) {
            return Err(damaged("a column differs from the body"));
        }
        if self
            .newest
            .is_some_and(|(floor_ms, _)| entry.instant_ms < floor_ms)
        {
            return Err(damaged("time runs backwards"));
        }
        self.newest = Some((entry.instant_ms, entry.state_digest));
        Ok(entry)
    }

    /// Holds the head row against where the walk has led.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a log that ends before its head, or leads to another.
    pub(super) fn end(&self, last: &Last) -> Result<Head, StoreError> {
        let damaged = |revision, what: &str| StoreError::Damaged {
            revision,
            what: what.to_owned(),
        };
        if last.head.revision > self.head.revision {
            return Err(damaged(self.head.revision + 1, "the entry is missing"));
        }
        let newest = (last.instant_ms, last.state_digest);
        if last.head != self.head || self.newest.is_some_and(|found| found != newest) {
            let what = "the head row is not what the last entry makes";
            return Err(damaged(self.head.revision, what));
        }
        Ok(self.head)
    }
}
