//! A list of [`Duration`]s.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::span;

/// One of the list.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

/// Reads a list of spans, for a field marked `#[serde(with = "spans")]`.
///
/// # Errors
/// What is no list, and those of [`span::deserialize`].
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
    Ok(Vec::<Span>::deserialize(from)?.into_iter().map(|Span(span)| span).collect())
}

/// Writes them as [`span::serialize`] does.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(spans: &[Duration], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(spans.iter().copied().map(Span))
}
