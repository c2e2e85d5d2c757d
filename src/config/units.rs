//! Durations and sizes as an operator writes them in TOML: `"300ms"`, `"20s"`, `"8MiB"`. The crates read their own sections
//! by the same rules.

use std::{fmt, time::Duration};

use serde::de::{Deserializer, Error, Visitor};

/// Reads `"20s"`, `"300ms"`, `"1h"` for a field marked `#[serde(deserialize_with = "units::duration")]`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"300ms\", \"20s\" or \"1h\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).ok_or_else(|| {
                E::custom(format_args!(
                    "{text:?} is no duration: write a whole number and a unit (ns, us, ms, s, m, h, d), such as \"20s\""
                ))
            })
        }
    }
    from.deserialize_str(Text)
}

/// A whole number and a unit, nothing else; none if it is not that or does not fit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit {
        "ns" => Some(Duration::from_nanos(number)),
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        assert_eq!(parse_duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(parse_duration("20s"), Some(Duration::from_secs(20)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        for wrong in
            ["", "20", "s", "-1s", "+1s", "1.5s", "1 s", "1S", "20ss", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }
}
