//! Parts of an answer that came as 206 (RFC 9110 15.3.7): some stretches of bytes of each URL are kept beside the whole, and serve
//! ranges, and all of it, where one of them has what is asked for or several of one version have it together (RFC 9111 3.4). A
//! beginning may be completed to the whole (`complete.rs`).
//!
//! Each stretch has one of [`PLACES`] places, the beginning always the first; so nothing need be kept of which there are. Where none is
//! free a new one takes another's, by where it begins.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use atoll_overlay::Key;
use atoll_store::{Object, Tier};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    body::{Body, Part},
    cache::{Cache, store_key},
    clock,
    conditions::{Ranged, Verdict, conditions, range, range_of_unknown, strong_validator},
    deliver::{CACHE_STATUS, append_via, refuse},
    found::Found,
    lookup::seconds,
    meta::Meta,
    reason::{CacheStatus, Source},
    receive::Asked,
    stated::CONTENT_DIGEST,
    step::Told,
    wish::Use,
};

/// Which bytes of a whole; the total says of how many it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Within<T> {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of the whole.
    pub(crate) total: T,
}

/// Which bytes of how many.
pub(crate) type Span = Within<u64>;

/// Which bytes, of how many if that is known.
pub(crate) type Stretch = Within<Option<u64>>;

impl<T> Within<T> {
    /// How many bytes.
    pub(crate) fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

impl Span {
    /// What Content-Range says: `bytes 0-4/10`, the whole known.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        let Stretch { first, last, total } = Stretch::of(fields)?;
        Some(Self { first, last, total: total? })
    }

    /// As a request asks for it.
    pub(crate) fn asked(self) -> HeaderValue {
        let text = format!("bytes={}-{}", self.first, self.last);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
    }
}

impl Stretch {
    /// What Content-Range says: `bytes 0-4/10`, or `bytes 0-4/*`.
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
        let total = if total == "*" { None } else { Some(number(total)?) };
        let found = Self { first: number(first)?, last: number(last)?, total };
        // One more than the last is a number too.
        let within = found.last < total.unwrap_or(u64::MAX);
        (unit.eq_ignore_ascii_case("bytes") && found.first <= found.last && within).then_some(found)
    }

    /// Whether it can be of a whole of so many bytes.
    fn is_in(self, total: u64) -> bool {
        self.last < total && self.total.is_none_or(|said| said == total)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/", self.first, self.last)?;
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_char('*'),
        }
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

/// A part as it is stored.
struct Stored {
    key: Key,
    object: Object,
    meta: Meta,
    stretch: Stretch,
}

impl Stored {
    async fn get(cache: &Cache, key: Key, url: &str) -> Option<Self> {
        let object = cache.store.get(&store_key(key)).await?;
        let meta = Meta::decode_stored(&object.head().metadata)?;
        let stretch = Stretch::of(&meta.fields)?;
        let good = meta.url == url && object.len() == stretch.length() && !object.soft_purged();
        good.then_some(Self { key, object, meta, stretch })
    }

    /// Whether the bytes of both are of one version of the whole [RFC 9111 3.4].
    fn is_of(&self, other: &Self) -> bool {
        let coding = |part: &Self| part.meta.fields.get(header::CONTENT_ENCODING).cloned();
        let totals = self.stretch.total.zip(other.stretch.total).is_none_or(|(one, other)| one == other);
        let strong = strong_validator(&self.meta.fields);
        totals && strong.is_some() && strong == strong_validator(&other.meta.fields) && coding(self) == coding(other)
    }
}

/// Parts of one version of a whole.
struct Version<'p> {
    parts: Vec<&'p Stored>,
    /// Bytes of the whole, if one of them says so.
    total: Option<u64>,
}

impl<'p> Version<'p> {
    /// Those that are of the same as this one.
    fn of(part: &'p Stored, parts: &'p [Stored]) -> Self {
        let mut parts: Vec<_> = parts.iter().filter(|other| other.key == part.key || part.is_of(other)).collect();
        let total = part.stretch.total.or_else(|| parts.iter().find_map(|part| part.stretch.total));
        parts.retain(|part| total.is_none_or(|total| part.stretch.is_in(total)));
        Self { parts, total }
    }

    /// The bytes from this one on, as far as they are there, and no farther than this.
    fn chain(&self, from: u64, to: u64) -> Chain<'p> {
        let mut chain = Chain { pieces: Vec::new(), to: from };
        while chain.to < to {
            let at = chain.to;
            let there = self.parts.iter().filter(|part| part.stretch.first <= at && at <= part.stretch.last);
            let Some(part) = there.max_by_key(|part| part.stretch.last) else { break };
            chain.to = to.min(part.stretch.last + 1);
            let first = part.stretch.first;
            chain.pieces.push((*part, Part { from: at - first, to: Some(chain.to - first) }));
        }
        chain
    }
}

/// Bytes out of parts that follow each other.
struct Chain<'p> {
    /// Whose they are, and where in each they stand.
    pieces: Vec<(&'p Stored, Part)>,
    /// One past the last.
    to: u64,
}

impl Chain<'_> {
    /// What came last: its fields count [RFC 9111 3.4].
    fn newest(&self) -> Option<&Meta> {
        self.pieces.iter().map(|(part, _)| &part.meta).max_by_key(|meta| meta.received)
    }
}

/// A stored beginning of a whole.
pub(crate) struct Begun {
    /// Under what its parts stand, and what of each is of it.
    pub(crate) pieces: Vec<(Key, Object, Part)>,
    pub(crate) fields: HeaderMap,
    /// What the rest must have too.
    pub(crate) validator: (HeaderName, HeaderValue),
    pub(crate) length: u64,
    /// Bytes of the whole, if known.
    pub(crate) total: Option<u64>,
}

/// The beginning that is stored of what stands under a key, with a strong validator, if it is not all of it.
pub(crate) async fn begun(cache: &Cache, whole: Key, url: &str) -> Option<Begun> {
    let first = Stored::get(cache, key(whole, 0), url).await.filter(|part| part.stretch.first == 0)?;
    let validator = strong_validator(&first.meta.fields)?;
    let mut parts = vec![first];
    for key in keys(whole).skip(1) {
        parts.extend(Stored::get(cache, key, url).await);
    }
    let version = Version::of(parts.first()?, &parts);
    let total = version.total;
    let chain = version.chain(0, total.unwrap_or(u64::MAX));
    let (length, fields) = (chain.to, chain.newest()?.fields.clone());
    let pieces = chain.pieces.iter().map(|(part, of)| (part.key, part.object.clone(), *of)).collect();
    (Some(length) != total).then_some(Begun { pieces, fields, validator, length, total })
}

/// Parts that have what was asked for.
pub(crate) struct Held {
    pieces: Vec<(Object, Part)>,
    meta: Meta,
    /// Within the whole; `None`: all of it was asked for.
    stretch: Option<Stretch>,
    age: Duration,
    ttl: i64,
}

/// Fresh parts that have the range asked for, or all of it where that was.
pub(crate) async fn stored(cache: &Cache, asked: &Asked, whole: Key) -> Option<Found> {
    let ranged = asked.client.fields.contains_key(header::RANGE);
    if asked.client.head || asked.wish.no_cache {
        return None;
    }
    // Without a beginning there is no whole.
    if !ranged && !cache.store.contains(&store_key(key(whole, 0))).await {
        return None;
    }
    let url = asked.url.to_string();
    let mut parts = Vec::new();
    for key in keys(whole) {
        parts.extend(Stored::get(cache, key, &url).await.filter(|part| is_fresh(cache, asked, &part.meta)));
    }
    // What came last counts; where it says which version it is of, others are over [RFC 9111 4].
    parts.sort_by_key(|part| std::cmp::Reverse(part.meta.received));
    if let Some(newest) = parts.first().filter(|newest| strong_validator(&newest.meta.fields).is_some()) {
        let same: Vec<bool> = parts.iter().map(|part| part.is_of(newest) || part.key == newest.key).collect();
        let mut same = same.into_iter();
        parts.retain(|_| same.next().unwrap_or(false));
    }
    let held = parts.iter().find_map(|part| held(cache, asked, &Version::of(part, &parts), ranged))?;
    Some(Found::Part(Box::new(held)))
}

fn is_fresh(cache: &Cache, asked: &Asked, meta: &Meta) -> bool {
    let lifetime = cache.lifetime(asked.site.as_deref(), meta);
    asked.wish.judge(lifetime, meta.age(clock::now())) == Use::Send(None)
        && !cache.purges.doubts(meta.received)
        && conditions(&asked.client.fields, meta) == Verdict::Send
}

/// What parts of one version have of what was asked for, if it is all of that.
fn held(cache: &Cache, asked: &Asked, version: &Version<'_>, ranged: bool) -> Option<Held> {
    let fields = &version.parts.first()?.meta.fields;
    let total = version.total;
    let wanted = match (ranged, total) {
        (false, total) => Part { from: 0, to: Some(total?) },
        (true, Some(total)) => match range(&asked.client.fields, fields, Some(total)) {
            Ranged::Part(part) => part,
            Ranged::Whole | Ranged::Parts(_) | Ranged::Unsatisfiable => return None,
        },
        (true, None) => range_of_unknown(&asked.client.fields, fields)?,
    };
    let chain = version.chain(wanted.from, wanted.to?);
    if Some(chain.to) != wanted.to {
        return None;
    }
    let mut meta = chain.newest()?.clone();
    meta.withhold();
    // As old as its oldest bytes, and fresh for as long as all of them are.
    let now = clock::now();
    let metas = || chain.pieces.iter().map(|(part, _)| &part.meta);
    let age = metas().map(|meta| meta.age(now)).max()?;
    let fresh = |meta: &Meta| seconds(cache.lifetime(asked.site.as_deref(), meta).fresh) - seconds(meta.age(now));
    let ttl = metas().map(fresh).min()?;
    let stretch = ranged.then_some(Stretch { first: wanted.from, last: chain.to.checked_sub(1)?, total });
    let pieces = chain.pieces.iter().map(|(part, of)| (part.object.clone(), *of)).collect();
    Some(Held { pieces, meta, stretch, age, ttl })
}

impl Held {
    /// The response.
    pub(crate) async fn respond(self, asked: &Asked) -> (Response<Body>, Option<Told>) {
        let Self { pieces, meta, stretch, age, ttl } = self;
        let in_memory = pieces.iter().all(|(object, _)| object.tier() == Tier::Memory);
        let source = if in_memory { Source::Memory } else { Source::Disk };
        let status = CacheStatus::hit(source, ttl, None);
        let told = Some(Told { source: Some(source), ..Told::default() });
        let is_as_it_came = matches!(&pieces[..], [(object, part)] if part.length() == Some(object.len()));
        let length: u64 = pieces.iter().filter_map(|(_, part)| part.length()).sum();
        let body = match Body::joined(pieces).await {
            Ok(body) => body,
            Err(failure) => return (refuse(failure, "the part could not be read", Some(&status)), told),
        };
        let mut fields = meta.fields;
        fields.remove(header::CONTENT_RANGE);
        if !is_as_it_came {
            fields.remove(CONTENT_DIGEST);
        }
        if let Some(range) = stretch.and_then(|stretch| stretch.to_string().try_into().ok()) {
            fields.insert(header::CONTENT_RANGE, range);
        }
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        fields.insert(header::AGE, HeaderValue::from(age.as_secs()));
        append_via(&mut fields);
        fields.append(CACHE_STATUS, status.value());
        tracing::trace!(url = %asked.url, "out of parts");
        let mut response = Response::new(body);
        *response.status_mut() = if stretch.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
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
    fn only_a_stretch_of_bytes_is_a_part() {
        let of = |text: &str| Stretch::of(&HeaderMap::from_iter([(header::CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(of("bytes 2-4/10"), Some(Stretch { first: 2, last: 4, total: Some(10) }));
        assert_eq!(of("bytes 2-4/*"), Some(Stretch { first: 2, last: 4, total: None }));
        assert_eq!(of("Bytes 0-0/1").map(Stretch::length), Some(1));
        for good in ["bytes 2-4/10", "bytes 2-4/*"] {
            assert_eq!(of(good).unwrap().to_string(), good);
        }
        let unknown = HeaderMap::from_iter([(header::CONTENT_RANGE, "bytes 2-4/*".parse().unwrap())]);
        assert_eq!(Span::of(&unknown), None);
        for wrong in [
            "bytes */10",
            "bytes */*",
            "bytes 2-4/",
            "bytes 2-18446744073709551615/*",
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
                let found = Stretch::of(&HeaderMap::from_iter([(header::CONTENT_RANGE, value)]));
                assert!(found.is_none_or(|found| found.length() > 0));
            }
        });
    }
}
