//! Conditional and range requests against a known answer (RFC 9110 13 and 14). Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{body::Part, freshness::date, meta::Meta};

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send the answer.
    Send,
    /// 304: the client has it.
    NotModified,
}

/// What a request's Range comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ranged {
    /// All of it: no range, or one that is to be ignored.
    Whole,
    /// This part.
    Part(Part),
    /// These parts, two or more, in the order asked for; no byte is in two of them.
    Parts(Vec<Part>),
    /// 416.
    Unsatisfiable,
}

/// The conditions that caches are to judge, in their order. If-Match and If-Unmodified-Since are for origins [RFC 9111 4.3.2].
pub(crate) fn conditions(request: &HeaderMap, answer: &Meta) -> Verdict {
    if request.contains_key(header::IF_NONE_MATCH) {
        let tag = answer.fields.get(header::ETAG);
        return if listed(request, &header::IF_NONE_MATCH, tag) { Verdict::NotModified } else { Verdict::Send };
    }
    let Some(since) = date(request, &header::IF_MODIFIED_SINCE) else { return Verdict::Send };
    // What does not say when it changed did so no later than it was made [RFC 9111 4.3.2].
    let changed = date(&answer.fields, &header::LAST_MODIFIED).or_else(|| date(&answer.fields, &header::DATE));
    if changed.unwrap_or(answer.received) <= since { Verdict::NotModified } else { Verdict::Send }
}

/// Makes a request conditional: the origin may say that a stale answer with these fields is still good [RFC 9111 4.3.1].
pub(crate) fn if_changed(request: &mut HeaderMap, stale: &HeaderMap) {
    if let Some(tag) = stale.get(header::ETAG) {
        request.insert(header::IF_NONE_MATCH, tag.clone());
    }
    if let Some(changed) = stale.get(header::LAST_MODIFIED) {
        request.insert(header::IF_MODIFIED_SINCE, changed.clone());
    }
}

/// The ranges to serve. Too many, overlapping, or together no less than the whole are answered with the whole, as 14.2 allows.
pub(crate) fn range(request: &HeaderMap, answer: &HeaderMap, length: Option<u64>) -> Ranged {
    let mut values = request.get_all(header::RANGE).iter();
    let (Some(value), None, Some(length)) = (values.next(), values.next(), length) else { return Ranged::Whole };
    if !if_range(request, answer) {
        return Ranged::Whole;
    }
    let Some((unit, set)) = value.to_str().ok().and_then(|text| text.split_once('=')) else { return Ranged::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ranged::Whole;
    }
    let mut parts: Vec<Part> = Vec::new();
    for (count, spec) in set.split(',').map(str::trim).enumerate() {
        match one(spec, length) {
            _ if count >= RANGES => return Ranged::Whole,
            // Invalid: the field is ignored.
            None => return Ranged::Whole,
            Some(None) => {}
            Some(Some(part)) => {
                let apart = |other: &Part| other.to <= Some(part.from) || part.to <= Some(other.from);
                if !parts.iter().all(apart) {
                    return Ranged::Whole;
                }
                parts.push(part);
            }
        }
    }
    let together: u64 = parts.iter().filter_map(|part| Some(part.to? - part.from + PART_HEAD)).sum();
    match parts.as_slice() {
        [] => Ranged::Unsatisfiable,
        [part] => Ranged::Part(*part),
        _ if together >= length => Ranged::Whole,
        _ => Ranged::Parts(parts),
    }
}

/// The one range asked for that can be told without knowing how long the whole is: with a first byte and a last.
pub(crate) fn range_of_unknown(request: &HeaderMap, answer: &HeaderMap) -> Option<Part> {
    match range(request, answer, Some(BEYOND_ALL)) {
        Ranged::Part(part) if part.to < Some(BEYOND_ALL) => Some(part),
        Ranged::Part(_) | Ranged::Whole | Ranged::Parts(_) | Ranged::Unsatisfiable => None,
    }
}

/// One range: `None` if it is invalid, `Some(None)` if there is no such part.
fn one(spec: &str, length: u64) -> Option<Option<Part>> {
    let (first, last) = spec.split_once('-')?;
    match (number(first)?, number(last)?) {
        (Number::None, Number::Is(suffix)) => {
            let some = suffix > 0 && length > 0;
            Some(some.then(|| Part { from: length.saturating_sub(suffix), to: Some(length) }))
        }
        (Number::Is(first), Number::None) => Some(part(first, u64::MAX, length)),
        (Number::Is(first), Number::Is(last)) if first <= last => Some(part(first, last, length)),
        (Number::None, Number::None) | (Number::Is(_), Number::Is(_)) => None,
    }
}

fn part(first: u64, last: u64, length: u64) -> Option<Part> {
    (first < length).then(|| Part { from: first, to: Some(last.saturating_add(1).min(length)) })
}

enum Number {
    None,
    Is(u64),
}

/// Digits, which may be none; too many are the largest.
fn number(text: &str) -> Option<Number> {
    if text.is_empty() {
        return Some(Number::None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Number::Is(text.parse().unwrap_or(u64::MAX)))
}

/// Whether the range is meant for this answer [RFC 9110 13.1.5].
fn if_range(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(wanted) = request.get(header::IF_RANGE) else { return true };
    if wanted.as_bytes().starts_with(b"\"") {
        return answer.get(header::ETAG).is_some_and(|tag| strong_equal(tag.as_bytes(), wanted.as_bytes()));
    }
    // A date counts only where it is exactly the stored one and old enough to be strong.
    let changed = date(answer, &header::LAST_MODIFIED);
    is_changed_strong(answer) && changed.is_some() && date(request, &header::IF_RANGE) == changed
}

/// What tells that two parts are of one whole: a strong entity tag, or a date of change that is old enough [RFC 9110 8.8.2.2].
pub(crate) fn strong_validator(answer: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
    match answer.get(header::ETAG) {
        Some(tag) => tag.as_bytes().starts_with(b"\"").then(|| (header::ETAG, tag.clone())),
        None if is_changed_strong(answer) => Some((header::LAST_MODIFIED, answer.get(header::LAST_MODIFIED)?.clone())),
        None => None,
    }
}

/// Whether the date of change is so much older than the answer that nothing can have changed twice in its second.
pub(crate) fn is_changed_strong(answer: &HeaderMap) -> bool {
    date(answer, &header::LAST_MODIFIED)
        .zip(date(answer, &header::DATE))
        .is_some_and(|(changed, date)| date.duration_since(changed).is_ok_and(|age| age.as_secs() >= 60))
}

/// Whether a list of entity tags, or `*`, has this one, weakly compared.
fn listed(request: &HeaderMap, name: &HeaderName, tag: Option<&HeaderValue>) -> bool {
    request.get_all(name).iter().any(|value| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || tag.is_some_and(|tag| tags(value).any(|listed| weak_equal(listed, tag.as_bytes())))
    })
}

/// The members of a list of entity tags; commas inside quotes do not part them.
fn tags(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let parts = value.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.map(<[u8]>::trim_ascii)
}

/// Ranges one request may name; of more none is served [bad-inputs G02].
const RANGES: usize = 16;

/// Longer than anything is.
const BEYOND_ALL: u64 = u64::MAX >> 1;

/// About what each part of several costs beside its bytes.
const PART_HEAD: u64 = 128;

pub(crate) fn strong_equal(one: &[u8], other: &[u8]) -> bool {
    one == other && one.starts_with(b"\"")
}

pub(crate) fn weak_equal(one: &[u8], other: &[u8]) -> bool {
    one.strip_prefix(b"W/").unwrap_or(one) == other.strip_prefix(b"W/").unwrap_or(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn meta(fields: &[(&str, &str)]) -> Meta {
        Meta {
            url: String::new(),
            status: http::StatusCode::OK,
            fields: map(fields),
            received: std::time::SystemTime::now(),
            initial_age: std::time::Duration::ZERO,
            validator: [0; 16],
            length: None,
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: crate::vouch::Vouched::default(),
        }
    }

    const CHANGED: &str = "Sun, 06 Nov 1994 08:00:00 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 09:00:00 GMT";

    #[test]
    fn conditions_come_in_their_order() {
        let answer = meta(&[("etag", "\"a\""), ("last-modified", CHANGED)]);
        let check = |request: &[(&str, &str)]| conditions(&map(request), &answer);
        assert_eq!(check(&[("if-none-match", "\"x,y\", W/\"a\"")]), Verdict::NotModified);
        assert_eq!(check(&[("if-none-match", "*")]), Verdict::NotModified);
        assert_eq!(check(&[("if-none-match", "\"b\""), ("if-modified-since", LATER)]), Verdict::Send);
        assert_eq!(check(&[("if-modified-since", CHANGED)]), Verdict::NotModified);
        assert_eq!(check(&[("if-modified-since", "nonsense")]), Verdict::Send);
        assert_eq!(check(&[("if-match", "\"a\""), ("if-none-match", "\"a\"")]), Verdict::NotModified);
        assert_eq!(
            check(&[("if-match", "\"b\""), ("if-unmodified-since", CHANGED)]),
            Verdict::Send,
            "no cache's to judge"
        );
    }

    #[test]
    fn what_has_no_date_of_change_has_that_of_its_making() {
        let answer = meta(&[("date", CHANGED)]);
        assert_eq!(conditions(&map(&[("if-modified-since", LATER)]), &answer), Verdict::NotModified);
        assert_eq!(conditions(&map(&[("if-modified-since", "Sat, 05 Nov 1994 08:00:00 GMT")]), &answer), Verdict::Send);
    }

    // G03
    #[test]
    fn one_range_is_served_and_nonsense_is_ignored() {
        let check = |value: &str| range(&map(&[("range", value)]), &HeaderMap::new(), Some(10));
        let part = |from, to| Ranged::Part(Part { from, to: Some(to) });
        assert_eq!(check("bytes=0-0"), part(0, 1));
        assert_eq!(check("BYTES=2-"), part(2, 10));
        assert_eq!(check("bytes=5-999999999999999999999"), part(5, 10));
        assert_eq!(check("bytes=-3"), part(7, 10));
        assert_eq!(check("bytes=-99999999999999999999999"), part(0, 10));
        for unsatisfiable in ["bytes=10-", "bytes=-0", "bytes=99-100"] {
            assert_eq!(check(unsatisfiable), Ranged::Unsatisfiable, "{unsatisfiable}");
        }
        for ignored in [
            "bytes=",
            "bytes=5-2",
            "abc=0-1",
            "bytes=a-b",
            "bytes",
            "bytes=--1",
            "bytes=+1-2",
            "bytes=-",
            "bytes=0-1,",
            "bytes=0-1,5-2",
        ] {
            assert_eq!(check(ignored), Ranged::Whole, "{ignored}");
        }
    }

    #[test]
    fn of_a_whole_of_unknown_length_only_what_has_an_end_is_told() {
        let check = |value: &str| range_of_unknown(&map(&[("range", value)]), &HeaderMap::new());
        assert_eq!(check("bytes=3-4"), Some(Part { from: 3, to: Some(5) }));
        for none in ["bytes=3-", "bytes=-3", "bytes=3-18446744073709551615", "bytes=1-2,4-5", "bytes=4-3", "x=1-2"] {
            assert_eq!(check(none), None, "{none}");
        }
    }

    // G02, G05
    #[test]
    fn several_ranges_are_served_if_they_are_few_and_apart() {
        let check = |value: &str| range(&map(&[("range", value)]), &HeaderMap::new(), Some(10_000));
        let part = |from, to| Part { from, to: Some(to) };
        assert_eq!(
            check("bytes=0-1, 500-599 ,-10"),
            Ranged::Parts(vec![part(0, 2), part(500, 600), part(9_990, 10_000)])
        );
        assert_eq!(check("bytes=500-599,0-1"), Ranged::Parts(vec![part(500, 600), part(0, 2)]));
        assert_eq!(check("bytes=0-1,20000-"), Ranged::Part(part(0, 2)));
        assert_eq!(check("bytes=20000-,30000-"), Ranged::Unsatisfiable);
        let many = |count: u32| (0..count).map(|at| format!("{}-{}", at * 10, at * 10)).collect::<Vec<_>>().join(",");
        assert!(matches!(check(&format!("bytes={}", many(16))), Ranged::Parts(_)));
        assert_eq!(check(&format!("bytes={}", many(17))), Ranged::Whole);
        for whole in ["bytes=0-,0-", "bytes=0-10,5-20", "bytes=0-4999,5000-9999", "bytes=0-1,-9999"] {
            assert_eq!(check(whole), Ranged::Whole, "{whole}");
        }
    }

    #[test]
    fn a_range_of_another_answer_gets_the_whole() {
        let answer = map(&[("etag", "\"a\""), ("last-modified", CHANGED), ("date", LATER)]);
        let check = |wanted: &str| range(&map(&[("range", "bytes=0-0"), ("if-range", wanted)]), &answer, Some(10));
        assert!(matches!(check("\"a\""), Ranged::Part(_)));
        assert!(matches!(check(CHANGED), Ranged::Part(_)));
        for other in ["\"b\"", "W/\"a\"", LATER, "nonsense"] {
            assert_eq!(check(other), Ranged::Whole, "{other}");
        }
    }

    #[test]
    fn parts_are_told_by_a_strong_tag_or_an_old_date() {
        let name = |fields: &[(&str, &str)]| strong_validator(&map(fields)).map(|(name, _)| name);
        let (old, young) = (("last-modified", CHANGED), ("last-modified", LATER));
        assert_eq!(name(&[("etag", "\"a\""), old, ("date", LATER)]), Some(header::ETAG));
        assert_eq!(name(&[old, ("date", LATER)]), Some(header::LAST_MODIFIED));
        for weak in [&[("etag", "W/\"a\""), old, ("date", LATER)][..], &[young, ("date", LATER)], &[old], &[]] {
            assert_eq!(name(weak), None, "{weak:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic_nor_reach_beyond_the_body() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
            let request = HeaderMap::from_iter([(header::RANGE, value.clone()), (header::IF_NONE_MATCH, value)]);
            let parts = match range(&request, &HeaderMap::new(), Some(10_000)) {
                Ranged::Part(part) => vec![part],
                Ranged::Parts(parts) => parts,
                Ranged::Whole | Ranged::Unsatisfiable => Vec::new(),
            };
            let total: u64 = parts.iter().map(|part| part.to.unwrap() - part.from).sum();
            assert!(total <= 10_000 && parts.iter().all(|part| part.from < part.to.unwrap()));
            conditions(&request, &meta(&[("etag", "\"a\"")]));
        });
    }
}
