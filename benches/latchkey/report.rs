//! How figures are printed: the median of the rounds with the lowest and the highest.

use std::fmt;
use std::time::Duration;

/// The median of some rounds, and their spread.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    pub fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        Self {
            median: rounds[rounds.len() / 2],
            lowest: rounds[0],
            highest: rounds[rounds.len() - 1],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} [{:.0}-{:.0}]",
            self.median, self.lowest, self.highest
        )
    }
}

pub fn nanoseconds(elapsed: Duration, repeats: usize) -> f64 {
    elapsed.as_secs_f64() * 1e9 / repeats as f64
}
