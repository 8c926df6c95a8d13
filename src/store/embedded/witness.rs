//! The witness: the newest head that this place has seen, in a small file beside the database.
//!
//! It tells a restored older copy, which forgets revocations, from the database that was here
//! before. Two slots on different pages, written in turn after each commit and without fsync:
//! a torn write loses one, and what it loses is never more than the database has. Synced when
//! the store closes. Deliberately absent: any say in what is durable; that is the database's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::place::create_private;
use crate::domain::chain::Head;

const MAGIC: &[u8; 8] = b"lkhead\x00\x01";
const CHECKSUM_BYTES: usize = 8;
const SLOT_BYTES: usize = 8 + 8 + 32 + CHECKSUM_BYTES;
/// A page each, so that one torn page takes one slot.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// The open witness file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    next: usize,
}

impl Witness {
    /// What the file at `path` has seen; nothing if there is none or neither slot is whole.
    pub(super) fn seen(path: &Path) -> io::Result<Head> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Head::EMPTY),
            Err(error) => return Err(error),
        };
        let heads = SLOT_OFFSETS.into_iter().filter_map(|offset| {
            let mut slot = [0; SLOT_BYTES];
            file.read_exact_at(&mut slot, offset).ok()?;
            decode(&slot)
        });
        let newest = heads.max_by_key(|head| head.revision);
        Ok(newest.unwrap_or(Head::EMPTY))
    }

    /// Opens or makes the file, and writes `head` durably into both slots: from here on it
    /// names what this process serves, whatever it named before.
    pub(super) fn begin(path: &Path, head: &Head) -> io::Result<Self> {
        let file = if path.exists() {
            OpenOptions::new().write(true).open(path)?
        } else {
            create_private(path)?
        };
        let mut witness = Self { file, next: 0 };
        for _ in SLOT_OFFSETS {
            witness.note(head)?;
            // One at a time: a crash in between must leave one slot whole.
            witness.sync()?;
        }
        Ok(witness)
    }

    /// Notes the head of a commit; durable at the next [`Witness::sync`].
    pub(super) fn note(&mut self, head: &Head) -> io::Result<()> {
        self.file
            .write_all_at(&encode(head), SLOT_OFFSETS[self.next])?;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Makes what was noted durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn checksum(front: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::digest(front);
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    first
}

fn encode(head: &Head) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&head.revision.to_be_bytes());
    slot[16..48].copy_from_slice(&head.chain);
    let sum = checksum(&slot[..48]);
    slot[48..].copy_from_slice(&sum);
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<Head> {
    let (magic, rest) = slot.split_first_chunk::<8>()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (chain, sum) = rest.split_first_chunk::<32>()?;
    let whole = magic == MAGIC && sum == checksum(&slot[..48]);
    whole.then(|| Head {
        revision: u64::from_be_bytes(*revision),
        chain: *chain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("head");
        assert_eq!(Witness::seen(&path).expect("absent"), Head::EMPTY);

        let one = Head::EMPTY.after(b"a");
        let two = one.after(b"b");
        let three = two.after(b"c");
        let mut witness = Witness::begin(&path, &one).expect("made");
        witness.note(&two).expect("noted");
        witness.note(&three).expect("noted");
        assert_eq!(Witness::seen(&path).expect("read"), three);

        // Revision 3 went into the second slot: tear it.
        witness
            .file
            .write_all_at(b"torn", SLOT_OFFSETS[1] + 20)
            .expect("torn");
        assert_eq!(Witness::seen(&path).expect("read"), two);
        witness.file.write_all_at(b"torn", 0).expect("torn");
        assert_eq!(Witness::seen(&path).expect("read"), Head::EMPTY);
    }

    #[test]
    fn beginning_again_forgets_what_was_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("head");
        let one = Head::EMPTY.after(b"a");
        Witness::begin(&path, &one.after(b"b")).expect("made");
        Witness::begin(&path, &one).expect("again");
        assert_eq!(Witness::seen(&path).expect("read"), one);
    }

    #[test]
    fn any_changed_byte_spoils_a_slot() {
        let slot = encode(&Head::EMPTY.after(b"a"));
        assert!(decode(&slot).is_some());
        for at in 0..SLOT_BYTES {
            let mut torn = slot;
            torn[at] ^= 1;
            assert_eq!(decode(&torn), None, "byte {at}");
        }
    }
}
