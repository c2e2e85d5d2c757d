//! The units a scenario is written in: durations ("20ms"), rates ("384kbit") and sizes ("41KB", "8MiB").
//!
//! Parsed once at the edge; inside the crate a value carries its unit in its type.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A link's speed in bits per second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate(u64);

impl Rate {
    /// `bits` per second, at least 1.
    pub fn bits_per_second(bits: u64) -> Self {
        Self(bits.max(1))
    }

    /// How long `bytes` occupy a wire of this speed.
    pub fn time_for(self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000_000 == 0 => write!(f, "{}Gbit", bits / 1_000_000_000),
            bits if bits % 1_000_000 == 0 => write!(f, "{}Mbit", bits / 1_000_000),
            bits if bits % 1_000 == 0 => write!(f, "{}kbit", bits / 1_000),
            bits => write!(f, "{bits}bit"),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size(pub u64);

/// Reads "20ms", "1.5s", "300us", "2m", "1h".
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let scales = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds =
        scaled(text, &scales).ok_or_else(|| format!("`{text}` is not a duration such as \"20ms\" or \"3s\""))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is too long a duration"))
}

/// Reads "384kbit", "10Mbit", "1Gbit", "56000bit" (per second, powers of 1000).
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let scales = [("bit", 1.0), ("kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9)];
    match scaled(text, &scales) {
        Some(bits) if (1.0..=1e12).contains(&bits) => Ok(Rate(whole(bits))),
        _ => Err(format!("`{text}` is not a rate such as \"384kbit\" or \"10Mbit\"")),
    }
}

/// Reads "41KB" (1000) and "64KiB" (1024), or plain "512B".
pub(crate) fn size(text: &str) -> Result<Size, String> {
    let scales =
        [("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0)];
    match scaled(text, &scales) {
        Some(bytes) if bytes <= 1e12 => Ok(Size(whole(bytes))),
        _ => Err(format!("`{text}` is not a size such as \"41KB\" or \"8MiB\"")),
    }
}

fn scaled(text: &str, scales: &[(&str, f64)]) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let scale = scales.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<f64>().ok().map(|number| number * scale)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers bound the value to 0..=1e12")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

macro_rules! from_text {
    ($type:ty, $read:path) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}
from_text!(Rate, rate);
from_text!(Size, size);

/// A [`Duration`] that a scenario writes as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);
from_text!(Span, span);

fn span(text: &str) -> Result<Span, String> {
    duration(text).map(Span)
}

/// `value` as milliseconds with one decimal, for tables.
pub(crate) fn millis(value: Duration) -> String {
    format!("{:.1}", value.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_written_and_everything_else_is_refused() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(rate("384kbit"), Ok(Rate(384_000)));
        assert_eq!(size("41KB"), Ok(Size(41_000)));
        assert_eq!(size("64KiB"), Ok(Size(65_536)));
        for bad in ["", "20", "ms", "-3ms", "1e3ms", "20 parsecs", "..s", "99999999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(rate("0kbit").is_err());
        assert!(rate("10MB").is_err());
    }

    #[test]
    fn a_wire_of_384_kbit_takes_a_second_for_48_kilobytes() {
        assert_eq!(Rate(384_000).time_for(48_000), Duration::from_secs(1));
        assert_eq!(Rate(384_000).to_string(), "384kbit");
    }
}
