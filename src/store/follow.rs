//! Following the chain over stored entries: what every store holds its log against.
//!
//! Every entry that leaves a store was hashed again and continues the chain of the one before it,
//! so that a changed bit is found where it is and not where it hurts.

use super::StoreError;
use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::entry::Entry;

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
