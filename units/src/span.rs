//! A [`Duration`] as a whole number and a unit, from `ns` to `d`.

use std::{fmt, time::Duration};

use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

/// Nanoseconds of each unit, widest first, so that a span is written in the widest unit that it fills.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The span of `300ms`, `20s` or `1h`. None if it is none of these, or longer than 584 years.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = crate::number_and_unit(text)?;
    let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*nanoseconds).map(Duration::from_nanos)
}

/// Reads what [`parse`] does, for a field marked `#[serde(with = "span")]`.
///
/// # Errors
/// What is no text, or no span; the message says how to write one.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"300ms\", \"20s\" or \"1h\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).ok_or_else(|| {
                E::custom(format_args!(
                    "{text:?} is no duration: write a whole number and a unit (ns, us, ms, s, m, h, d), such as \"20s\""
                ))
            })
        }
    }
    from.deserialize_str(Text)
}

/// Writes a span in the widest unit that it fills, so that [`parse`] gives the same again.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let nanoseconds = span.as_nanos();
    let fills = |size: u64| nanoseconds.is_multiple_of(u128::from(size));
    let (unit, size) = UNITS.into_iter().find(|(_, size)| fills(*size)).unwrap_or(("ns", 1));
    to.collect_str(&format_args!("{}{unit}", nanoseconds / u128::from(size)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::{IntoDeserializer as _, value::Error};

    use super::*;

    #[test]
    fn a_span_is_a_whole_number_and_a_unit() {
        let parsed = ["300ms", "20s", "1h", "15 m", "5us", "7ns", " 1d ", "0s"].map(parse);
        let nanoseconds =
            [300_000_000, 20_000_000_000, 3_600_000_000_000, 900_000_000_000, 5_000, 7, 86_400_000_000_000, 0];
        assert_eq!(parsed, nanoseconds.map(|count| Some(Duration::from_nanos(count))));
        let wrong =
            ["", "20", "s", "-1s", "+1s", "1.5s", "1S", "20ss", "20 parsecs", "99999999999999999999s", "9999999999d"];
        for wrong in wrong {
            assert_eq!(parse(wrong), None, "{wrong:?}");
            let read: Result<_, Error> = deserialize(wrong.into_deserializer());
            assert!(read.unwrap_err().to_string().contains("write a whole number and a unit"), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(count in 0..1_000_000_u64, unit in 0..UNITS.len()) {
            let span = Duration::from_nanos(count.saturating_mul(UNITS[unit].1));
            let text = serialize(&span, serde_json::value::Serializer).unwrap();
            prop_assert_eq!(text.as_str().and_then(parse), Some(span), "{}", text);
        }
    }

    #[test]
    fn any_text_is_a_span_or_refused() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let Some(span) = parse(text) else { return };
            assert_eq!(parse(&format!("{}ns", span.as_nanos())), Some(span), "{text:?}");
        });
    }
}
