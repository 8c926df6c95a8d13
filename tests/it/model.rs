//! The model test: random commands against an oracle that shares no code with State.
//!
//! ```text
//! seed ─► generate ─► replica A ─┐                 ┌─► replies, records, Checks: the same?
//!                 └─► replica B ─┴─► one log ─► State
//!                 └─► oracle (naive, from DESIGN.md)┘
//! ```
//!
//! `direct` runs one command after the other and shrinks what diverges; `batched` drives two
//! replicas on one store that fails now and then; `cases_of_*` keep every divergence as a literal;
//! `readers` holds that a Check sees one revision. `LATCHKEY_MODEL_SEED` sets the seed and
//! `LATCHKEY_MODEL_ROUNDS` multiplies the rounds; a failure prints both.

mod algebra;
mod batched;
mod cases_of_life;
mod cases_of_logins;
mod cases_of_power;
mod commands;
mod compare;
mod direct;
mod generate;
pub(crate) mod memory_store;
mod oracle;
mod power;
mod readers;
pub(crate) mod recorded;
mod sealed;
mod story;

/// The instant at which every run begins.
const T0: u64 = 1_700_000_000_000;

/// The seeds to run: the one that is set, or `count` of them from 1.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("LATCHKEY_MODEL_SEED") {
        Ok(text) => vec![text.parse().expect("LATCHKEY_MODEL_SEED is a number")],
        Err(_) => (1..=count * rounds()).collect(),
    }
}

fn rounds() -> u64 {
    let text = std::env::var("LATCHKEY_MODEL_ROUNDS").unwrap_or_else(|_| "1".to_owned());
    text.parse().expect("LATCHKEY_MODEL_ROUNDS is a number")
}
