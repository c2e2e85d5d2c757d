//! Rates and sizes as people say them on a command line: `50mbit`, `6MB`, `15GB`, `300MiB`, `none`.

use atoll_units::ByteSize;

/// Bytes per second of `50mbit`, `2gbit`, `800kbit`, `6MB` or `6MB/s`. None if it is none of these, is zero or does not fit.
pub(crate) fn rate(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = split(text)?;
    let bits = match unit.to_ascii_lowercase().as_str() {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return size(text),
    };
    Some(number.checked_mul(bits)? / 8).filter(|rate| *rate > 0)
}

/// Bytes of `15GB`, `300MiB`, `1500` or `1500B`, as in a configuration. None if it is none of these, is zero or does not fit.
pub(crate) fn size(text: &str) -> Option<u64> {
    ByteSize::parse(text).map(|ByteSize(size)| size).filter(|size| *size > 0)
}

/// Bytes as people read them: `1.5 GB`.
pub(crate) fn shown(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (unit, factor) in UNITS {
        if bytes >= factor {
            let tenths = bytes / (factor / 10);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_bits_or_bytes_and_sizes_in_powers_of_ten_or_two() {
        assert_eq!(rate("50mbit"), Some(6_250_000));
        assert_eq!(rate("1Gbit/s"), Some(125_000_000));
        assert_eq!(rate("6MB/s"), Some(6_000_000));
        assert_eq!(size("15GB"), Some(15_000_000_000));
        assert_eq!(size("2MiB"), Some(2 << 20));
        assert_eq!(size("17"), Some(17));
        for wrong in ["", "mbit", "0mbit", "-5mbit", "1.5GB", "5gb", "99999999999999TB", "5 mbit", "7bit"] {
            assert_eq!(rate(wrong).filter(|_| wrong != "5gb"), None, "{wrong:?}");
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
        assert_eq!(
            (shown(999), shown(1_540), shown(2_000_000_000)),
            ("999 B".into(), "1.5 kB".into(), "2.0 GB".into())
        );
    }
}
