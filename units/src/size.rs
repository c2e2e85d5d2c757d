//! A number of bytes: `8MiB` (units with an `i` are powers of 1024), `15GB` (the others are powers of 1000), or the bare number.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

/// Bytes of each unit.
const UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number of bytes; in a configuration an integer, or a string with a unit such as `"8MiB"` or `"2GB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// This many times 1,024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// This many times 1,024 KiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// This many times 1,024 MiB.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The size of `8MiB`, `2 GB` or `17`. None if it is none of these, or does not fit.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = crate::number_and_unit(text)?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*factor).map(Self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a string such as \"8MiB\"")
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).ok_or_else(|| {
                    E::custom(format_args!(
                        "{text:?} is no size: write a whole number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), \
                         such as \"8MiB\""
                    ))
                })
            }
        }
        from.deserialize_any(Size)
    }
}

/// Reads a [`ByteSize`] as a bare number, for a field marked `#[serde(with = "size")]`.
///
/// # Errors
/// What is no size; the message says how to write one.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    ByteSize::deserialize(from).map(|ByteSize(bytes)| bytes)
}

/// Writes the bare number.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_that_may_carry_a_unit() {
        assert_eq!(ByteSize::parse("8MiB"), Some(ByteSize::mib(8)));
        assert_eq!(ByteSize::parse("2 GB"), Some(ByteSize(2_000_000_000)));
        assert_eq!(ByteSize::parse("17"), Some(ByteSize(17)));
        for wrong in ["", "MiB", "-1", "1.5GiB", "8 mib", "5gb", "99999999999TiB", "8MiB of RAM"] {
            assert_eq!(ByteSize::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_size_is_read_from_a_number_or_a_text_and_nothing_else() {
        let read = |json: &str| serde_json::from_str::<ByteSize>(json).map_err(|error| error.to_string());
        assert_eq!(read("4096"), Ok(ByteSize(4096)));
        assert_eq!(read("\"4KiB\""), Ok(ByteSize(4096)));
        for (wrong, why) in
            [("-1", "is not negative"), ("\"4 kilo\"", "write a whole number"), ("1.5", "a number of bytes")]
        {
            assert!(read(wrong).is_err_and(|error| error.contains(why)), "{wrong}");
        }
    }

    #[test]
    fn any_text_is_a_size_or_refused() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let Some(ByteSize(bytes)) = ByteSize::parse(text) else { return };
            assert_eq!(ByteSize::parse(&format!("{bytes} B")), Some(ByteSize(bytes)), "{text:?}");
        });
    }
}
