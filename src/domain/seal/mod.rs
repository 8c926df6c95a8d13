//! Sealed access tokens: the claims themselves with a keyed MAC, and no row anywhere.
//!
//! ```text
//! claims ─► bytes ─► MAC by a key of the ring ─► lka_ … text ─► bytes ─► MAC holds ─► claims
//! ```
//!
//! Every replica opens what any replica sealed, without a look-up, a write or a wait. Whether an
//! opened token is good is `state`'s to say: it knows what was revoked. Deliberately absent: where
//! keys come from, and clocks.

pub mod claims;
pub mod key;
pub mod ring;
pub mod text;

use super::clock::UnixMs;

/// The longest life of one sealed token, in milliseconds: 30 days. What must live longer is stored.
pub const SEALED_MS_MAX: UnixMs = 30 * 24 * 60 * 60 * 1_000;
/// How long the revocation of a session is kept: a day longer than any token of it lives.
pub const REVOKED_KEPT_MS: UnixMs = SEALED_MS_MAX + 24 * 60 * 60 * 1_000;
