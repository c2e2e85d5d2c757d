//! Durations and sizes as an operator writes them: `"300ms"`, `"20s"`, `"8MiB"`. Every crate's configuration and command line
//! reads them by these rules, so that one way of writing is right everywhere.
//!
//! ```text
//!   "20s"  --> span: Duration        #[serde(with = "span")], "maybe_span" for Option, "spans" for Vec
//!   "8MiB" --> ByteSize              or #[serde(with = "size")] for a bare u64
//! ```
//!
//! A whole number and a unit, blanks between them allowed; nothing is rounded, and what does not fit is refused.

pub mod maybe_span;
pub mod size;
pub mod span;
pub mod spans;

pub use size::ByteSize;

/// The whole number and the unit of a text, blanks between and around them dropped. None if it does not begin with a number
/// that fits.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}
