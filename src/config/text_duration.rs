//! Durations as text, such as `10s` or `1h 30m`, for serde's `with`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(D::Error::custom)
}

pub(super) fn parse(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("{text:?} is no duration such as 10s or 1h 30m")),
    }
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&shown(*duration))
}

/// Years and months are of no whole number of days: in days, where that is shorter.
fn shown(duration: Duration) -> String {
    const DAY_S: u64 = 24 * 60 * 60;
    let text = humantime::format_duration(duration).to_string();
    let days = format!("{}days", duration.as_secs() / DAY_S);
    let whole = duration.subsec_nanos() == 0 && duration.as_secs().is_multiple_of(DAY_S);
    if whole && days.len() < text.len() {
        days
    } else {
        text
    }
}
