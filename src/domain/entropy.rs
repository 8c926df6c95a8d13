//! Randomness as a parameter: the operating system's in production, a seeded one in tests.
//!
//! The only file that asks the operating system for random bytes.

use std::sync::Mutex;

use sha2::{Digest as _, Sha256};

/// A source of random bytes that may be shared between threads.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with unpredictable bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness no secret can be made and nothing sensible is left to do.
        getrandom::fill(bytes).expect("the operating system provides random bytes");
    }
}

/// A repeatable stream for tests and simulations: SHA-256 in counter mode. Never for secrets
/// that protect anything.
#[derive(Debug)]
pub struct SeededEntropy {
    counter: Mutex<u64>,
    seed: u64,
}

impl SeededEntropy {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            counter: Mutex::new(0),
            seed,
        }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut counter = self
            .counter
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed.to_be_bytes())
                .chain_update(counter.to_be_bytes())
                .finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            *counter += 1;
        }
    }
}
