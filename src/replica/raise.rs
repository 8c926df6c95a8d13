//! The level of the log's format: raised by the writer, its only caller, before the first change
//! that needs it, and only to what every server reads.
//!
//! Who reads what is in the members' rows. The keeper reads them at every renewal, which may be
//! too late for the first change after a start; the writer then reads them itself. What nobody
//! wants, or is refused, raises nothing: an older server need not know it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::state::decide::{Command, decide};

use super::Queued;
use super::writer::{Writer, is_change};

impl Writer {
    /// The newest format that every server reads, as far as this one knows.
    pub(super) fn readable(&self) -> u32 {
        let own = self.settings.identity.format_max;
        match self.shared.store.cluster() {
            // What it reads is read by all.
            None => own,
            Some(_) => own.min(self.shared.readable.load(Ordering::Relaxed)),
        }
    }

    /// The newest format up to this one that the log is not raised to, of what would be a change
    /// if it were: what is refused raises nothing.
    fn wanted(&self, waiting: &VecDeque<Queued>, readable: u32) -> Option<u32> {
        let state = self.shared.published.load();
        let newer = waiting.iter().filter_map(|queued| {
            let format = queued.envelope.command.kind()?.format();
            let raised = state.raised(format)?;
            let decided = decide(&raised, &queued.envelope, self.moment(&raised, 0));
            (format <= readable && is_change(&decided)).then_some(format)
        });
        newer.max()
    }

    /// Whether one of them wants a format that every server reads, or may read: the members may not
    /// have been read yet.
    pub(super) fn is_raise_wanted(&self, waiting: &VecDeque<Queued>) -> bool {
        let readable = match self.readable() {
            0 => self.settings.identity.format_max,
            readable => readable,
        };
        self.wanted(waiting, readable).is_some()
    }

    /// Raises the level of the log to a format that is wanted now. If by the last reading of the
    /// members one of them reads less, they are read again: it may have left.
    pub(super) async fn make_writable(&mut self, waiting: &VecDeque<Queued>) {
        let wanted = self.wanted(waiting, self.settings.identity.format_max);
        if wanted > Some(self.readable()) {
            self.read_members().await;
        }
        if let Some(level) = self.wanted(waiting, self.readable()) {
            self.raise(level).await;
        }
    }

    async fn read_members(&mut self) {
        let shared = Arc::clone(&self.shared);
        if let Some(cluster) = shared.store.cluster() {
            match self.following(cluster.roster()).await {
                Ok(roster) => shared.seen(&roster),
                Err(error) => tracing::debug!(%error, "the members cannot be read"),
            }
        }
    }

    pub(super) async fn raise(&mut self, level: u32) {
        let former = self.shared.published.load().format();
        self.command("every server reads it", Command::RaiseFormat(level))
            .await;
        let raised = self.shared.published.load().format();
        if raised > former {
            tracing::info!(format = raised, "the log's format level was raised");
        }
    }
}
