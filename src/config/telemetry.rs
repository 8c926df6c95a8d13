//! Telemetry: what is told of single questions, and how many of them.
//!
//! Metrics are always there to be read; what is told beyond them costs something for each question
//! and is off, but for denials, which are few or worth it.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MILLION: u32 = 1_000_000;
const PER_SECOND_MAX: u32 = 100_000;

/// How many of all, from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// How many of a million.
    #[must_use]
    pub fn of_a_million(self) -> u32 {
        self.0
    }

    fn of(part: f64) -> Option<Self> {
        // Rounded, so that what is written is what was read.
        (0.0..=1.0)
            .contains(&part)
            .then(|| Self((part * f64::from(MILLION)).round() as u32))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / f64::from(MILLION))
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Read from a number as from a text: a variable of the environment is one.
struct Read;

impl Visitor<'_> for Read {
    type Value = Ratio;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of all, from 0 to 1")
    }

    fn visit_f64<E: Error>(self, part: f64) -> Result<Ratio, E> {
        Ratio::of(part).ok_or_else(|| E::custom(format!("{part} is not within 0 to 1")))
    }

    fn visit_i64<E: Error>(self, part: i64) -> Result<Ratio, E> {
        self.visit_f64(part as f64)
    }

    fn visit_u64<E: Error>(self, part: u64) -> Result<Ratio, E> {
        self.visit_f64(part as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ratio, E> {
        let part = text
            .parse()
            .map_err(|_| E::custom(format!("{text:?} is not within 0 to 1")))?;
        self.visit_f64(part)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Read)
    }
}

/// What is told of single questions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// In the log.
    pub access: AccessLines,
}

/// Which questions have a line in the log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLines {
    /// How many of all, whatever was decided.
    pub ratio: Ratio,
    /// How many denials in a second at the most, beside those; 0 is none.
    pub denials_per_second: u32,
}

impl Default for AccessLines {
    fn default() -> Self {
        Self {
            ratio: Ratio::NONE,
            denials_per_second: 10,
        }
    }
}

impl Telemetry {
    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        (self.access.denials_per_second > PER_SECOND_MAX).then(|| {
            let what = format!("more than {PER_SECOND_MAX}");
            ("telemetry.access.denials_per_second", what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u32>) {
        let file = format!("[telemetry.access]\nratio = {text}\n");
        let read: Result<crate::config::Config, _> = toml::from_str(&file);
        let read = read
            .ok()
            .map(|config| config.telemetry.access.ratio.of_a_million());
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn a_ratio_is_a_number_or_its_text_from_0_to_1() {
        check("0", Some(0));
        check("1", Some(1_000_000));
        check("0.5", Some(500_000));
        check("\"0.001\"", Some(1_000));
        check("0.000001", Some(1));
        check("2", None);
        check("-1", None);
        check("1.01", None);
        check("nan", None);
        check("\"nan\"", None);
        check("\"half\"", None);
        check("true", None);
    }

    #[test]
    fn a_ratio_is_written_as_it_was_read() {
        for (part, text) in [(0.0, "0"), (0.01, "0.01"), (0.3, "0.3"), (1.0, "1")] {
            assert_eq!(Ratio::of(part).unwrap().to_string(), text);
        }
    }
}
