//! Dates in fields (RFC 9110 5.6.7), read as a cache should (RFC 9111 4.2): in any case, in all three formats, in no zone but GMT.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` or `Sun Nov  6 08:49:37 1994`. Two digits of a year from
/// 70 up mean the last century. Moments before 1970 are read as 1970.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim_matches([' ', '\t']);
    let (day, month, year, time) = imf(text).or_else(|| rfc850(text)).or_else(|| asctime(text))?;
    let days = days_since_1970(year, month, day)?;
    let seconds = days.checked_mul(86_400)?.checked_add(time)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

type Parts = (i64, i64, i64, i64);

fn imf(text: &str) -> Option<Parts> {
    let rest = weekday(text, &SHORT)?.strip_prefix(", ")?;
    let mut parts = rest.split(' ');
    let day = number(parts.next()?, 2)?;
    let month = month(parts.next()?)?;
    let year = number(parts.next()?, 4)?;
    let time = time(parts.next()?)?;
    let zone = parts.next()?;
    (zone.eq_ignore_ascii_case("GMT") && parts.next().is_none()).then_some((day, month, year, time))
}

fn rfc850(text: &str) -> Option<Parts> {
    let rest = weekday(text, &LONG)?.strip_prefix(", ")?;
    let mut parts = rest.split(' ');
    let mut date = parts.next()?.split('-');
    let day = number(date.next()?, 2)?;
    let month = month(date.next()?)?;
    let year = number(date.next()?, 2)?;
    let time = time(parts.next()?)?;
    let zone = parts.next()?;
    let ends = zone.eq_ignore_ascii_case("GMT") && parts.next().is_none() && date.next().is_none();
    ends.then_some((day, month, if year < 70 { 2_000 + year } else { 1_900 + year }, time))
}

fn asctime(text: &str) -> Option<Parts> {
    let rest = weekday(text, &SHORT)?.strip_prefix(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    let month = month(name)?;
    let (day, rest) = rest.split_at_checked(2)?;
    let day = number(day.strip_prefix(' ').unwrap_or(day), if day.starts_with(' ') { 1 } else { 2 })?;
    let (clock, year) = rest.strip_prefix(' ')?.split_once(' ')?;
    Some((day, month, number(year, 4)?, time(clock)?))
}

/// What follows a weekday's name. Which one it is does not count.
fn weekday<'a>(text: &'a str, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let (first, rest) = text.split_at_checked(name.len())?;
        first.eq_ignore_ascii_case(name).then_some(rest)
    })
}

fn month(text: &str) -> Option<i64> {
    let at = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(text))?;
    i64::try_from(at + 1).ok()
}

/// `08:49:37` as seconds; a leap second is the one before.
fn time(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let good = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    good.then_some(hour * 3_600 + minute * 60 + second.min(59))
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Days of the proleptic Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day < 1 || day > length {
        return None;
    }
    // Years begin in March, so that the odd day of a leap year is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

const SHORT: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_formats_in_any_case_are_one_moment() {
        let moment = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sUN, 06 nOV 1994 08:49:37 gmt",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 GMT\t",
        ] {
            assert_eq!(parse(text), Some(moment), "{text}");
        }
        assert_eq!(parse("Thu, 01 Jan 1970 00:00:00 GMT"), Some(UNIX_EPOCH));
        assert_eq!(parse("Wed, 31 Dec 1969 00:00:00 GMT"), Some(UNIX_EPOCH));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun,06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 30 Feb 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn dates_agree_with_another_reader_and_nothing_panics() {
        for seconds in (0..4_000_000_000_u64).step_by(86_399_997) {
            let moment = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse(&httpdate::fmt_http_date(moment)), Some(moment));
        }
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            parse(&String::from_utf8_lossy(bytes));
        });
    }
}
