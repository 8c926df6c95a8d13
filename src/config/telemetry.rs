//! Telemetry: what is told of single questions and of how many, and to which collector.
//!
//! Metrics are always there to be read; what is told beyond them costs something for each question
//! and is off, but for lines of denials, which are few or worth it. Nothing is sent anywhere unless
//! a collector is named. Headers for it may hold a secret and are never printed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{optional_duration, text_duration};

const MILLION: u32 = 1_000_000;
const PER_SECOND_MAX: u32 = 100_000;
const MASK: &str = "***";
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

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
    /// By which collector.
    pub otlp: Otlp,
    /// In spans.
    pub traces: Traces,
    /// What this server is part of, where that is told; empty if nothing.
    pub namespace: String,
}

/// Metadata for a collector as text; never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct OtlpHeaders(String);

impl OtlpHeaders {
    /// The text, for whoever sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { MASK })
    }
}

impl Serialize for OtlpHeaders {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(if self.0.is_empty() { "" } else { MASK })
    }
}

/// The collector that telemetry is sent to, by OTLP over gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// Its address with `http://` or `https://`; empty if nothing is sent.
    pub endpoint: String,
    /// Metadata of every call: `NAME=VALUE`, with commas or line ends between them.
    pub headers: OtlpHeaders,
    /// A file with such; empty if there is none.
    pub headers_file: PathBuf,
    /// A file with the authorities that its certificate may be signed by; empty if there is none.
    pub ca_file: PathBuf,
    /// How long a sending may take.
    #[serde(with = "text_duration")]
    pub timeout: Duration,
    /// How often metrics are sent; none is never.
    #[serde(with = "optional_duration")]
    pub metrics_every: Option<Duration>,
}

/// Which calls have spans.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// Whether any have; if so, those whose callers sample.
    pub enabled: bool,
    /// How many of those whose callers say nothing.
    pub ratio: Ratio,
    /// How many in a second at the most because their callers sample.
    pub asked_per_second: u32,
}

impl Otlp {
    fn names_a_user(&self) -> bool {
        let behind = self.endpoint.split_once("://");
        let behind = behind.map_or(&*self.endpoint, |(_, behind)| behind);
        let authority = behind.split(['/', '?', '#']).next();
        authority.is_some_and(|authority| authority.contains('@'))
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: OtlpHeaders::default(),
            headers_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            timeout: Duration::from_secs(10),
            metrics_every: Some(Duration::from_secs(60)),
        }
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            enabled: true,
            ratio: Ratio::NONE,
            asked_per_second: 1_000,
        }
    }
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
        if self.access.denials_per_second > PER_SECOND_MAX {
            let what = format!("more than {PER_SECOND_MAX}");
            return Some(("telemetry.access.denials_per_second", what));
        }
        if self.traces.asked_per_second > PER_SECOND_MAX {
            let what = format!("more than {PER_SECOND_MAX}");
            return Some(("telemetry.traces.asked_per_second", what));
        }
        if self.otlp.metrics_every.is_some_and(|every| every.is_zero()) {
            let what = "less than 1s".to_owned();
            return Some(("telemetry.otlp.metrics_every", what));
        }
        // It would not be sent, and is shown with the settings.
        if self.otlp.names_a_user() {
            let what = "with a name or a password in it: set telemetry.otlp.headers".to_owned();
            return Some(("telemetry.otlp.endpoint", what));
        }
        (!(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.otlp.timeout)).then(|| {
            (
                "telemetry.otlp.timeout",
                "not within 10ms to 1min".to_owned(),
            )
        })
    }

    /// Whether spans are made and sent.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.traces.enabled && !self.otlp.endpoint.is_empty()
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
    fn a_collector_is_named_without_a_password() {
        let check = |endpoint: &str, refused: bool| {
            let mut telemetry = Telemetry::default();
            telemetry.otlp.endpoint = endpoint.to_owned();
            let wrong = telemetry.wrong();
            assert_eq!(wrong.is_some(), refused, "{endpoint}");
            assert!(wrong.is_none_or(|(_, what)| !what.contains("hidden")));
        };
        check("", false);
        check("http://collector:4317", false);
        check("http://collector:4317/a@b", false);
        check("http://user:hidden@collector:4317", true);
        check("https://hidden@collector", true);
        check("user:hidden@collector:4317", true);
    }

    #[test]
    fn a_ratio_is_written_as_it_was_read() {
        for (part, text) in [(0.0, "0"), (0.01, "0.01"), (0.3, "0.3"), (1.0, "1")] {
            assert_eq!(Ratio::of(part).unwrap().to_string(), text);
        }
    }
}
