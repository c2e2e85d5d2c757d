//! A [`Duration`] that may be left out.

use std::time::Duration;

use serde::{Deserializer, Serializer};

use crate::span;

/// Reads a span that is there, for a field marked `#[serde(with = "maybe_span", default)]`.
///
/// # Errors
/// Those of [`span::deserialize`].
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    span::deserialize(from).map(Some)
}

/// Writes a span, or nothing.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => span::serialize(span, to),
        None => to.serialize_none(),
    }
}
