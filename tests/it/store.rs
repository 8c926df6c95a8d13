//! The store, by the door of its trait: one conformance suite that every store runs whole, and
//! what only the embedded one promises.
//!
//! The suite takes a fresh store and drives it with batches that a scribe writes; nothing in it
//! knows SQL. A test of one store has that store's name in its own.

mod conformance;
mod embedded;
pub(crate) mod history;
mod history_logins;
pub(crate) mod postgres;
pub(crate) mod scribe;
