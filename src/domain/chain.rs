//! The hash chain of the change log: how entries are bound to all that came before them.
//!
//! `chain_n = SHA-256(chain_(n-1) ‖ n as u64 big-endian ‖ SHA-256(body_n))`, `chain_0` all zero.
//! A body enters only by its hash, so a client verifies the chain without seeing a digest.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The number of a change; dense, from 1, in commit order. 0 is before the first.
pub type RevisionNumber = u64;

/// The newest revision and the chain hash at it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest revision, 0 when nothing was ever written.
    pub revision: RevisionNumber,
    /// The chain hash at that revision.
    pub chain: [u8; 32],
}

impl Head {
    /// The head of an empty log.
    pub const EMPTY: Self = Self {
        revision: 0,
        chain: [0; 32],
    };

    /// The head after one more entry with this body.
    #[must_use]
    pub fn after(&self, body: &[u8]) -> Self {
        self.after_hash(&Sha256::digest(body).into())
    }

    /// The head after one more entry whose body has this hash.
    #[must_use]
    pub fn after_hash(&self, body_hash: &[u8; 32]) -> Self {
        let revision = self.revision + 1;
        let chain = Sha256::new()
            .chain_update(self.chain)
            .chain_update(revision.to_be_bytes())
            .chain_update(body_hash)
            .finalize()
            .into();
        Self { revision, chain }
    }

    /// The consistency token: the revision and the first 64 bits of the hash at it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        let mut chain = [0; 8];
        chain.copy_from_slice(&self.chain[..8]);
        Revision {
            number: self.revision,
            chain,
        }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.revision())
    }
}

/// A consistency token; text form `NUMBER-HEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The revision.
    pub number: RevisionNumber,
    /// The first 64 bits of the chain hash at it.
    pub chain: [u8; 8],
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.number)?;
        self.chain
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_the_documented_formula() {
        let body_hash: [u8; 32] = Sha256::digest(b"body").into();
        let mut input = vec![0; 32];
        input.extend_from_slice(&1_u64.to_be_bytes());
        input.extend_from_slice(&body_hash);
        let expected: [u8; 32] = Sha256::digest(&input).into();
        let head = Head::EMPTY.after(b"body");
        assert_eq!((head.revision, head.chain), (1, expected));
        assert_eq!(head, Head::EMPTY.after_hash(&body_hash));
    }

    #[test]
    fn another_body_or_order_is_another_chain() {
        let one = Head::EMPTY.after(b"a").after(b"b");
        assert_ne!(one, Head::EMPTY.after(b"b").after(b"a"));
        assert_eq!(one.revision().to_string().len(), "2-".len() + 16);
    }
}
