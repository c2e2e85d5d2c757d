//! Parts of an answer that came as 206 (RFC 9110 15.3.7): some stretches of bytes of each URL are kept beside the whole, and serve
//! ranges that lie within one of them. A stretch that is the beginning may be completed to the whole (`complete.rs`).
//!
//! Each stretch has one of [`PLACES`] places, the beginning always the first; so nothing need be kept of which there are. Where none is
//! free a new one takes another's, by where it begins.

use std::fmt::Write as _;

use atoll_overlay::Key;
use atoll_store::{Object, Tier};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    body::{Body, Part},
    cache::{Cache, store_key},
    clock,
    conditions::{Ranged, Verdict, conditions, range, strong_validator},
    deliver::{CACHE_STATUS, refuse},
    meta::Meta,
    reason::{CacheStatus, Source},
    receive::Asked,
    step::{Found, Told, seconds},
};

/// Which bytes of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of the whole.
    pub(crate) total: u64,
}

impl Span {
    /// What Content-Range says: `bytes 0-4/10`, the whole known.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        let mut values = fields.get_all(header::CONTENT_RANGE).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let (unit, rest) = value.to_str().ok()?.trim().split_once(' ')?;
        let (span, total) = rest.trim().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let found = Self { first: number(first)?, last: number(last)?, total: number(total)? };
        let good = unit.eq_ignore_ascii_case("bytes") && found.first <= found.last && found.last < found.total;
        good.then_some(found)
    }

    /// As a request asks for it.
    pub(crate) fn asked(self) -> HeaderValue {
        let text = format!("bytes={}-{}", self.first, self.last);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
    }

    /// How many bytes.
    pub(crate) const fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Where the part of what stands under a key stands that begins at this byte.
fn key(whole: Key, first: u64) -> Key {
    // What begins at the beginning has a place of its own; the others are spread by where they begin.
    let place = if first == 0 { 0 } else { 1 + first.wrapping_mul(SPREAD) % (PLACES - 1) };
    at(whole, place)
}

/// Where a part is put that begins at this byte: its own place, or else one that is free.
pub(crate) async fn place(cache: &Cache, whole: Key, first: u64) -> Key {
    let own = key(whole, first);
    if first == 0 || !cache.store.contains(&store_key(own)).await {
        return own;
    }
    for other in keys(whole).skip(1) {
        if !cache.store.contains(&store_key(other)).await {
            return other;
        }
    }
    own
}

/// Where all parts of what stands under a key stand.
pub(crate) fn keys(whole: Key) -> impl Iterator<Item = Key> {
    (0..PLACES).map(move |place| at(whole, place))
}

fn at(whole: Key, place: u64) -> Key {
    Key::of(&[whole.as_bytes(), &b"part"[..], &place.to_be_bytes()].concat())
}

/// A stored beginning of a whole.
pub(crate) struct Begun {
    pub(crate) key: Key,
    pub(crate) object: Object,
    pub(crate) fields: HeaderMap,
    /// What the rest must have too.
    pub(crate) validator: (HeaderName, HeaderValue),
    pub(crate) length: u64,
    pub(crate) total: u64,
}

/// The beginning that is stored of what stands under a key, with a strong validator, if it is not all of it.
pub(crate) async fn begun(cache: &Cache, whole: Key, url: &str) -> Option<Begun> {
    let key = key(whole, 0);
    let object = cache.store.get(&store_key(key)).await?;
    let meta = Meta::decode_stored(&object.head().metadata)?;
    let held = Span::of(&meta.fields)?;
    let validator = strong_validator(&meta.fields)?;
    let good = meta.url == url && held.first == 0 && object.len() == held.length() && held.length() < held.total;
    let good = good && !object.soft_purged();
    let (length, total) = (held.length(), held.total);
    good.then_some(Begun { key, object, fields: meta.fields, validator, length, total })
}

/// A part that has what was asked for.
pub(crate) struct Held {
    object: Object,
    meta: Meta,
    /// Within the object.
    part: Part,
    /// Within the whole.
    span: Span,
    ttl: i64,
}

/// A fresh part that has the range asked for.
pub(crate) async fn stored(cache: &Cache, asked: &Asked, whole: Key) -> Option<Found> {
    if asked.client.head || asked.wish.no_cache {
        return None;
    }
    for key in keys(whole) {
        if let Some(found) = held(cache, asked, key).await {
            return Some(found);
        }
    }
    None
}

async fn held(cache: &Cache, asked: &Asked, key: Key) -> Option<Found> {
    let object = cache.store.get(&store_key(key)).await?;
    let mut meta = Meta::decode_stored(&object.head().metadata)?;
    let held = Span::of(&meta.fields)?;
    let (age, lifetime) = (meta.age(clock::now()), cache.lifetime(asked.site.as_deref(), &meta));
    let good = meta.url == asked.url.to_string()
        && object.len() == held.length()
        && age < lifetime.fresh
        && !object.soft_purged()
        && !cache.purges.doubts(meta.received);
    if !good || conditions(&asked.client.fields, &meta) != Verdict::Send {
        return None;
    }
    let Ranged::Part(part) = range(&asked.client.fields, &meta.fields, Some(held.total)) else { return None };
    let to = part.to?;
    if part.from < held.first || to > held.last + 1 {
        return None;
    }
    meta.withhold();
    let span = Span { first: part.from, last: to - 1, total: held.total };
    let part = Part { from: part.from - held.first, to: Some(to - held.first) };
    let ttl = seconds(lifetime.fresh) - seconds(age);
    Some(Found::Part(Box::new(Held { object, meta, part, span, ttl })))
}

impl Held {
    /// The response.
    pub(crate) async fn respond(self, asked: &Asked) -> (Response<Body>, Option<Told>) {
        let Self { object, meta, part, span, ttl } = self;
        let source = if object.tier() == Tier::Memory { Source::Memory } else { Source::Disk };
        let status = CacheStatus::hit(source, ttl, None);
        let told = Some(Told { source: Some(source), ..Told::default() });
        let body = match Body::object(object, part).await {
            Ok(body) => body,
            Err(failure) => return (refuse(failure, "the part could not be read", Some(&status)), told),
        };
        let mut fields = meta.fields.clone();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "bytes {}-{}/{}", span.first, span.last, span.total);
        if let Ok(range) = text.try_into() {
            fields.insert(header::CONTENT_RANGE, range);
        }
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(span.length()));
        fields.insert(header::AGE, HeaderValue::from(meta.age(clock::now()).as_secs()));
        fields.append(header::VIA, HeaderValue::from_static("1.1 atoll"));
        fields.append(CACHE_STATUS, status.value());
        tracing::trace!(url = %asked.url, "a range out of a part");
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        *response.headers_mut() = fields;
        (response, told)
    }
}

/// Stretches of one URL.
const PLACES: u64 = 8;

/// Spreads the beginnings of stretches over their places.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_keeps_its_place_and_all_places_are_found() {
        let whole = Key::of(b"k");
        let all: Vec<_> = keys(whole).collect();
        assert_eq!(all.len(), 8);
        let mut used = std::collections::BTreeSet::new();
        for first in 1..1_000_u64 {
            let key = key(whole, first * 4_096);
            assert!(all[1..].contains(&key));
            used.insert(key);
        }
        assert_eq!((key(whole, 0), used.len()), (all[0], 7));
    }

    #[test]
    fn only_a_stretch_of_a_known_whole_is_a_part() {
        let of = |text: &str| Span::of(&HeaderMap::from_iter([(header::CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(of("bytes 2-4/10"), Some(Span { first: 2, last: 4, total: 10 }));
        assert_eq!(of("Bytes 0-0/1").map(Span::length), Some(1));
        for wrong in [
            "bytes 2-4/*",
            "bytes */10",
            "bytes 4-2/10",
            "bytes 2-10/10",
            "2-4/10",
            "items 2-4/10",
            "bytes +2-4/10",
            "",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                Span::of(&HeaderMap::from_iter([(header::CONTENT_RANGE, value)]));
            }
        });
    }
}
