//! The progress of long work, on a terminal alone.
//!
//! Used by whatever may take longer than a second: opening and loading a store, copying,
//! verifying, applying. One line at the bottom of standard error, redrawn five times a second,
//! gone when the work ends however it ends. Log lines are written above it. Where standard error
//! is no terminal nothing is drawn, so that a script reads answers and errors only.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle, WeakProgressBar};

const DRAWS_PER_SECOND: u8 = 5;

/// Without a length: that something goes on, and since when.
const SPINNER: &str = "{spinner} {msg} {elapsed}";
/// With one: how much of it is done, and how long the rest will take.
const BAR: &str = "{spinner} {msg} {wide_bar} {pos}/{len} {eta}";

/// The meter on the screen, for log lines. Written when a meter starts, read by log lines; held
/// for no longer than a line is written.
static SHOWN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// One piece of work; clones are handles to the same line.
#[derive(Clone)]
pub(crate) struct Meter {
    bar: ProgressBar,
}

impl Meter {
    /// Begins a line that says `what`.
    #[must_use]
    pub(crate) fn start(what: &'static str) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style(SPINNER))
            .with_message(what)
            .with_finish(ProgressFinish::AndClear);
        if !bar.is_hidden() {
            *shown() = Some(bar.downgrade());
            bar.tick();
            bar.enable_steady_tick(Duration::from_secs(1) / u32::from(DRAWS_PER_SECOND));
        }
        Self { bar }
    }

    /// The next part of the work, of unknown length.
    pub(crate) fn goes_on(&self, what: &'static str) {
        self.bar.unset_length();
        self.bar.set_style(style(SPINNER));
        self.bar.set_message(what);
    }

    /// So much is done, of so much.
    pub(crate) fn told(&self, done: u64, of: u64) {
        // First, since it is drawn now and then only, and a length always.
        self.bar.set_position(done);
        if self.bar.length() != Some(of) {
            self.bar.set_style(style(BAR));
            self.bar.set_length(of);
        }
    }

    /// Takes the line away; so does dropping the last handle.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn shown() -> std::sync::MutexGuard<'static, Option<WeakProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error for log lines, which are written above the meter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AboveMeter;

impl Write for AboveMeter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bar = shown().as_ref().and_then(WeakProgressBar::upgrade);
        let write = || io::stderr().lock().write_all(line);
        match bar {
            Some(bar) => bar.suspend(write)?,
            None => write()?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_can_be_drawn() {
        for template in [SPINNER, BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_meter_has_a_length_once_it_is_told_one() {
        let meter = Meter {
            bar: ProgressBar::hidden(),
        };
        assert_eq!(meter.bar.length(), None);
        meter.told(3, 10);
        assert_eq!((meter.bar.position(), meter.bar.length()), (3, Some(10)));
        meter.goes_on("next");
        assert_eq!(meter.bar.length(), None);
        meter.end();
        assert!(meter.bar.is_finished());
    }
}
