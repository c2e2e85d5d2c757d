//! Where a host stands, as text of a zone file (RFC 1876 3) to the bytes of a LOC record (2).

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

/// A record's data: `d [m [s]] N|S  d [m [s]] E|W  altitude [size [horizontal [vertical]]]`, the last four in metres.
pub(crate) fn data(words: &[&str]) -> Result<Vec<u8>, String> {
    let wrong = || "a LOC record is such as 51 30 12.7 N 0 7 39.6 W 10m 100m 1000m 10m".to_owned();
    let (latitude, rest) = angle(words, ["N", "S"], 90).ok_or_else(wrong)?;
    let (longitude, rest) = angle(rest, ["E", "W"], 180).ok_or_else(wrong)?;
    let [altitude, sizes @ ..] = rest else { return Err(wrong()) };
    let centimetres = decimal(altitude.trim_end_matches('m'), 2).ok_or_else(wrong)?;
    let altitude = u32::try_from(centimetres + BELOW_SEA).map_err(|_| wrong())?;
    let mut bytes = vec![0];
    for (at, usual) in ["1", "10000", "10"].into_iter().enumerate() {
        let text = sizes.get(at).copied().unwrap_or(usual);
        bytes.push(size(decimal(text.trim_end_matches('m'), 2).ok_or_else(wrong)?).ok_or_else(wrong)?);
    }
    for number in [latitude, longitude, altitude] {
        bytes.extend(number.to_be_bytes());
    }
    if sizes.len() <= 3 { Ok(bytes) } else { Err(wrong()) }
}

/// Thousandths of a second of arc, 2^31 being none; and the words after it.
fn angle<'w, 't>(words: &'w [&'t str], [plus, minus]: [&str; 2], most: i64) -> Option<(u32, &'w [&'t str])> {
    let is_end = |word: &&str| word.eq_ignore_ascii_case(plus) || word.eq_ignore_ascii_case(minus);
    let end = words.iter().take(4).position(is_end)?;
    let (numbers, rest) = words.split_at_checked(end)?;
    let [sign, rest @ ..] = rest else { return None };
    let whole = |text: &str, most: i64| text.parse::<i64>().ok().filter(|number| (0..=most).contains(number));
    let degrees = whole(numbers.first()?, most)?;
    let minutes = numbers.get(1).map_or(Some(0), |text| whole(text, 59))?;
    let thousandths = numbers.get(2).map_or(Some(0), |text| decimal(text, 3))?;
    let sum = (degrees * 60 + minutes) * 60_000 + thousandths;
    if !(0..60_000).contains(&thousandths) || sum > most * 3_600_000 {
        return None;
    }
    let signed = if sign.eq_ignore_ascii_case(plus) { sum } else { -sum };
    Some((u32::try_from(signed + (1 << 31)).ok()?, rest))
}

/// A number in units of its last of so many decimal places.
fn decimal(text: &str, places: usize) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let good = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 10 || part.len() > places || !good(whole) || !good(part) {
        return None;
    }
    let number: i64 = format!("{whole}{part:0<places$}").parse().ok()?;
    Some(if negative { -number } else { number })
}

/// Centimetres as a digit and a power of ten.
fn size(centimetres: i64) -> Option<u8> {
    let (mut digit, mut power) = (u64::try_from(centimetres).ok()?, 0);
    while digit > 9 {
        (digit, power) = (digit / 10, power + 1);
    }
    (power <= 9).then(|| u8::try_from(digit << 4).ok().map(|high| high | power)).flatten()
}

/// How far below the sea altitudes begin.
const BELOW_SEA: i64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_rfc_1876_has_it() {
        let words = |text: &str| data(&text.split(' ').collect::<Vec<_>>());
        let (north, west) =
            ((1_u32 << 31) + (42 * 3600 + 21 * 60 + 54) * 1000, (1_u32 << 31) - (71 * 3600 + 6 * 60 + 18) * 1000);
        let expected =
            [&[0, 0x33, 0x16, 0x13][..], &north.to_be_bytes(), &west.to_be_bytes(), &9_997_600_u32.to_be_bytes()]
                .concat();
        assert_eq!(words("42 21 54 N 71 06 18 W -24m 30m"), Ok(expected));
        assert_eq!(words("0 N 0 E 0").unwrap()[..4], [0, 0x12, 0x16, 0x13]);
        assert_eq!(words("1 2 3.004 S 0 E 0.5m 0m").unwrap()[4..8], ((1_u32 << 31) - 3_723_004).to_be_bytes());
        for wrong in [
            "91 N 0 E 0",
            "90 1 N 0 E 0",
            "1 60 N 0 E 0",
            "1 N 2 N 0",
            "1 N 2 E",
            "1 N 2 E 0 1 1 1 1",
            "N E 0",
            "1 N 2 E 1.234",
        ] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
