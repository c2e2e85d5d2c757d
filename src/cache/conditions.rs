//! Ranges and conditions of a GET or HEAD as a pure function of its fields and the object (RFC 9110 13.2.2, 14.2).
//!
//! One range is served; several at once are answered with the whole, as RFC 9110 14.2 allows, and so is a range that is not well
//! formed or whose If-Range does not hold.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use super::{
    answer::unix_seconds,
    head::{Head, number},
    meta::Meta,
};

/// What is to be sent of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// 200 with all of it.
    Whole,
    /// 206 with these bytes, the last included.
    Range {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// 304: the client has it.
    NotModified,
    /// 412: the client meant another.
    Failed,
    /// 416: no such bytes.
    Unsatisfiable,
}

/// The conditional fields of a request.
#[derive(Debug, Default)]
struct Conditions<'h> {
    range: Option<&'h [u8]>,
    if_range: Option<&'h [u8]>,
    match_any: Option<bool>,
    none_match: Option<bool>,
    modified_since: Option<u64>,
    unmodified_since: Option<u64>,
}

/// What is to be sent of an object of this length.
pub(super) fn part(head: &Head, bytes: &[u8], head_only: bool, meta: &Meta<'_>, length: u64) -> Part {
    let conditions = Conditions::of(head, bytes, meta);
    if !conditions.match_any.unwrap_or_else(|| conditions.unmodified_since.is_none_or(|date| meta.modified <= date)) {
        return Part::Failed;
    }
    if !conditions.none_match.unwrap_or_else(|| conditions.modified_since.is_none_or(|date| meta.modified > date)) {
        return Part::NotModified;
    }
    // A range of a HEAD has no meaning [RFC 9110 14.2].
    let range = conditions.range.filter(|_| !head_only).filter(|_| conditions.range_holds(meta));
    range.and_then(|range| one_range(range, length)).unwrap_or(Part::Whole)
}

impl<'h> Conditions<'h> {
    fn of(head: &Head, bytes: &'h [u8], meta: &Meta<'_>) -> Self {
        let mut found = Self::default();
        for field in &head.fields {
            let name = bytes.get(field.name.clone()).unwrap_or_default();
            // Most fields are none of these.
            if !matches!(name.first(), Some(b'r' | b'R' | b'i' | b'I')) {
                continue;
            }
            let value = bytes.get(field.value.clone()).unwrap_or_default();
            let named = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
            if named("range") {
                // Twice is not well formed.
                found.range = if found.range.is_none() { Some(value) } else { Some(b"") };
            } else if named("if-range") {
                found.if_range = Some(value);
            } else if named("if-match") {
                *found.match_any.get_or_insert(false) |= listed(value, meta.etag, true);
            } else if named("if-none-match") {
                *found.none_match.get_or_insert(true) &= !listed(value, meta.etag, false);
            } else if named("if-modified-since") {
                found.modified_since = date(value);
            } else if named("if-unmodified-since") {
                found.unmodified_since = date(value);
            }
        }
        found
    }

    /// Whether If-Range lets a range be sent: the same strong entity tag, or the very date.
    fn range_holds(&self, meta: &Meta<'_>) -> bool {
        self.if_range.is_none_or(|value| match value.first() {
            Some(b'"') => value == meta.etag,
            Some(_) | None => date(value) == Some(meta.modified),
        })
    }
}

/// Whether a list of entity tags has this one; strongly compared, weak ones are equal to none.
fn listed(list: &[u8], etag: &[u8], strong: bool) -> bool {
    if list == b"*" {
        return true;
    }
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").map(<[u8]>::to_vec);
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
        if strong {
            return tag == etag && tag.starts_with(b"\"");
        }
        tag.strip_prefix(b"W/").unwrap_or(tag) == opaque(etag).as_deref().unwrap_or(etag)
    })
}

fn date(value: &[u8]) -> Option<u64> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok().map(unix_seconds)
}

/// `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`; none for anything else.
fn one_range(range: &[u8], length: u64) -> Option<Part> {
    let (unit, set) = range.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let set = set.trim_ascii();
    let at = set.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (set.get(..at)?, set.get(at + 1..)?);
    let end = length.checked_sub(1);
    if first.is_empty() {
        let count = large(last)?;
        return Some(match end {
            Some(end) if count > 0 => Part::Range { first: length.saturating_sub(count), last: end },
            _ => Part::Unsatisfiable,
        });
    }
    let first = large(first)?;
    let last = if last.is_empty() { u64::MAX } else { large(last)? };
    if first > last {
        return None;
    }
    Some(match end {
        Some(end) if first <= end => Part::Range { first, last: last.min(end) },
        _ => Part::Unsatisfiable,
    })
}

/// Plain digits; more than 64 bits hold is as good as the most they hold.
fn large(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| number(digits).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::head::HeadLimits;

    const META: Meta<'static> = Meta { etag: b"\"v1\"", modified: 784_111_777, validators: b"", others: b"" };

    fn asked_of(fields: &str, head_only: bool, meta: &Meta<'_>, length: u64) -> Part {
        let text = format!("GET /1/2 HTTP/1.1\r\n{fields}\r\n");
        let mut head = Head::default();
        assert!(head.read(text.as_bytes(), 0, HeadLimits { bytes: 4096, fields: 64 }).unwrap());
        part(&head, text.as_bytes(), head_only, meta, length)
    }

    fn asked(fields: &str) -> Part {
        asked_of(&format!("{fields}\r\n"), false, &META, 100)
    }

    #[test]
    fn a_range_is_cut_to_the_object() {
        for (range, part) in [
            ("bytes=0-9", Part::Range { first: 0, last: 9 }),
            ("bytes=90-", Part::Range { first: 90, last: 99 }),
            ("BYTES=-5", Part::Range { first: 95, last: 99 }),
            ("bytes=-500", Part::Range { first: 0, last: 99 }),
            ("bytes=99-99999999999999999999999", Part::Range { first: 99, last: 99 }),
            ("bytes=100-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=", Part::Whole),
            ("bytes=5-2", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=0-1\r\nRange: bytes=2-3", Part::Whole),
        ] {
            assert_eq!(asked(&format!("Range: {range}")), part, "{range}");
        }
        assert_eq!(asked_of("Range: bytes=0-\r\n", false, &META, 0), Part::Unsatisfiable);
        assert_eq!(asked_of("Range: bytes=0-1\r\n", true, &META, 100), Part::Whole);
    }

    #[test]
    fn conditions_hold_in_the_order_of_the_rfc() {
        let (same, before, after) =
            ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let range = Part::Range { first: 0, last: 0 };
        for (fields, part) in [
            ("If-None-Match: \"v1\"".to_owned(), Part::NotModified),
            ("If-None-Match: \"v0\", W/\"v1\"".to_owned(), Part::NotModified),
            ("If-None-Match: \"v0\"\r\nIf-None-Match: *".to_owned(), Part::NotModified),
            ("If-None-Match: \"v0\"".to_owned(), Part::Whole),
            (format!("If-None-Match: \"v0\"\r\nIf-Modified-Since: {after}"), Part::Whole),
            (format!("If-Modified-Since: {same}"), Part::NotModified),
            (format!("If-Modified-Since: {before}"), Part::Whole),
            ("If-Modified-Since: soon".to_owned(), Part::Whole),
            ("If-Match: \"v0\"".to_owned(), Part::Failed),
            ("If-Match: W/\"v1\"".to_owned(), Part::Failed),
            ("If-Match: \"v0\", \"v1\"".to_owned(), Part::Whole),
            (format!("If-Unmodified-Since: {before}"), Part::Failed),
            (format!("If-Match: *\r\nIf-Unmodified-Since: {before}"), Part::Whole),
            ("Range: bytes=0-0\r\nIf-Range: \"v1\"".to_owned(), range),
            ("Range: bytes=0-0\r\nIf-Range: \"v0\"".to_owned(), Part::Whole),
            ("Range: bytes=0-0\r\nIf-Range: W/\"v1\"".to_owned(), Part::Whole),
            (format!("Range: bytes=0-0\r\nIf-Range: {same}"), range),
            (format!("Range: bytes=0-0\r\nIf-Range: {after}"), Part::Whole),
            ("Range: bytes=200-\r\nIf-None-Match: \"v1\"".to_owned(), Part::NotModified),
        ] {
            assert_eq!(asked(&fields), part, "{fields}");
        }
    }

    #[test]
    fn a_weak_tag_lets_no_range_be_spliced() {
        let weak = Meta { etag: b"W/\"v1\"", ..META };
        assert_eq!(asked_of("Range: bytes=0-0\r\nIf-Range: W/\"v1\"\r\n", false, &weak, 9), Part::Whole);
        assert_eq!(asked_of("If-None-Match: \"v1\"\r\n", false, &weak, 9), Part::NotModified);
    }
}
