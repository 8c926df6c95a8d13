//! How figures are printed: the median of the rounds with the lowest and the highest.

use std::fmt;
use std::time::Duration;

/// The median of some rounds, and their spread.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Spread {
    pub(crate) fn of(mut rounds: Vec<f64>) -> Self {
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

pub(crate) fn nanoseconds(elapsed: Duration, repeats: usize) -> f64 {
    elapsed.as_secs_f64() * 1e9 / repeats as f64
}

/// The median and the 99th percentile of latencies.
pub(crate) struct Percentiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

pub(crate) fn percentiles(taken: &mut [Duration]) -> Percentiles {
    taken.sort_unstable();
    let at = |hundredth: usize| taken[(taken.len() - 1) * hundredth / 100];
    Percentiles {
        p50: at(50),
        p99: at(99),
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms", ms(self.p50), ms(self.p99))
    }
}
