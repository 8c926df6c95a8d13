//! Lifetimes as text, such as `90d`, or `none` for no bound, for serde's `with`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

use super::text_duration;

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "none" {
        return Ok(None);
    }
    let duration = text_duration::parse(&text).map_err(D::Error::custom)?;
    // Lifetimes are whole seconds, and some 136 years are enough.
    if duration.subsec_nanos() != 0 || duration.as_secs() > u64::from(u32::MAX) {
        return Err(D::Error::custom(
            "whole seconds are wanted, and not so many",
        ));
    }
    Ok(Some(duration))
}

// The shape is serde's.
#[allow(clippy::ref_option)]
pub(super) fn serialize<S: Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => text_duration::serialize(duration, to),
        None => to.serialize_str("none"),
    }
}
