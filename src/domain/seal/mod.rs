//! Sealed tokens: those that carry their claims and a MAC, and have no record.

pub mod key;
