//! Hostile clients of the open port: what each attack can make the server hold, and how it ends.
//!
//! ```text
//! attacker, 127.0.0.2 ─► bytes no library would send ─┐
//!                                                     ├─► `latchkey dev` with small limits
//! good client, 127.0.0.1 ─► Checks, one by one ───────┘
//! ```
//!
//! By the program as it is run, on loopback. While an attack lasts every Check of the good client
//! is answered, and rightly; the attacker's connection is ended in the way that its limit says; and
//! the server's memory stays within what its limits allow. `cargo test --test it -- abuse::
//! --nocapture` shows the figures. Absent on purpose: floods of what nobody can refuse, such as
//! whole requests; they cost what they cost.

mod attacker;
mod floods;
mod headers;
mod resets;
mod scene;
mod slow;
