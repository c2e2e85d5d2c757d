//! Ranges of what is large: out of slices of 2 MiB, each fetched and stored by itself, so that a client's range brings what it needs
//! and no more.
//!
//! ```text
//!   range asked --> whole in store, or being fetched this far? ---------------> as ever
//!              \--> plan stored? --no--> first contact: the slice around the range's first byte
//!                         |yes                 |206, long, one strong tag: the plan is stored, and that slice
//!                         v                    \else: as ever, and not tried again for a while
//!                  slice by slice: store, the fetch under way, or one of our own (`If-Range`)
//! ```
//!
//! Slices are fetched as anything else is: one flight each, by acquire in the network, announced, given to peers. An origin that
//! answers a slice with something else has a new version: the plan is given up, whoever was half-way is cut off. A GET of the whole is
//! one plain GET still, and its copy one object; ranges are cut out of it, also while it streams.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_overlay::{Found as Indexed, Key, Levels};
use atoll_store::{Object, Tier};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, StatusCode, header};
use tokio::time::{Instant, sleep};

use crate::{
    body::{Body, PIECE, Part},
    cache::{Cache, Negative, store_key},
    clock,
    conditions::{Ranged, range},
    config::Ranges,
    deliver::Links,
    fetch::{self, Mode, wide},
    flight::{Answer, Content, End, Joined, Lead, Waiter},
    lookup::seconds,
    meta::Meta,
    part::Span,
    plan::{Cut, Plan},
    reason::{CacheStatus, Failure, Forwarded, Source},
    receive::{Asked, CONDITIONS},
    wanted::Wanted,
};

/// What slices make of a request.
pub(crate) enum Served {
    Found(Box<Sliced>),
    /// An answer that is none of a slice.
    Flown(Waiter, Arc<Answer>),
    /// An error that the origin gave a moment ago.
    Repeated(Arc<Answer>),
    Failed(Failure),
    /// More is known now.
    Again,
    /// Nothing: it is served as ever.
    No,
}

/// Serves a range out of slices, if it is one of something large.
pub(crate) async fn serve(cache: &Arc<Cache>, asked: &Asked, wanted: &Wanted, first_round: bool) -> Served {
    let whole = wanted.key;
    let Some(begin) = eligible(cache, asked) else { return Served::No };
    if let Some(mut waiter) = cache.flights.find(whole)
        && begin.is_none_or(|begin| begin <= waiter.now().visible.saturating_add(cache.config.slices.over))
    {
        return Served::No;
    }
    if let Some(plan) = Plan::stored(cache, asked, whole, first_round).await {
        let length = Some(plan.total);
        let first = match range(&asked.client.fields, &plan.meta.fields, length) {
            Ranged::Part(part) => Some(part),
            Ranged::Parts(parts) => parts.first().copied(),
            Ranged::Whole | Ranged::Unsatisfiable => None,
        };
        let Some(first) = first else { return Served::No };
        return Sliced::open(cache, wanted, plan, first).await;
    }
    if first_round { contact(cache, asked, wanted, begin).await } else { Served::No }
}

/// Where the lowest of the ranges begins that may be served out of slices, or that it is the last bytes; none if they may not.
fn eligible(cache: &Cache, asked: &Asked) -> Option<Option<u64>> {
    let mut ranges = asked.client.fields.get_all(header::RANGE).iter();
    let (value, None) = (ranges.next()?, ranges.next()) else { return None };
    let parts = asked.site.as_ref().is_none_or(|site| site.rules.ranges == Ranges::Part);
    let wish = &asked.wish;
    if !parts || asked.client.head || asked.personal || wish.no_store || wish.no_cache || wish.origin_judges {
        return None;
    }
    let (unit, set) = value.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // All of it is better had in one request.
    if set.trim() == "0-" || cache.unsliced.get(&asked.url.key()).is_some() {
        return None;
    }
    // If there is nothing at the lowest place, there is nothing at the others.
    let mut lowest: Option<u64> = None;
    for range in set.split(',') {
        let (first, _) = range.trim().split_once('-')?;
        if !first.is_empty() {
            let first = first.parse().ok()?;
            lowest = Some(lowest.map_or(first, |lowest| lowest.min(first)));
        }
    }
    Some(lowest)
}

/// Asks for the slice around the range's first byte, to learn what it is a slice of.
async fn contact(cache: &Arc<Cache>, asked: &Asked, wanted: &Wanted, begin: Option<u64>) -> Served {
    // A condition may make the answer another; a short range of an own site is asked for as it is.
    let short = asked.site.is_some() && is_short(&asked.client.fields, cache.config.slices.size);
    if short || CONDITIONS.iter().any(|name| asked.client.fields.contains_key(name)) {
        return Served::No;
    }
    let Some(begin) = begin else { return Served::No };
    let key = Plan::key(wanted.key);
    if cache.spared(&key).is_some() || is_small_elsewhere(cache, asked, wanted.key).await {
        return Served::No;
    }
    let mut waiter = match cache.flights.join(key) {
        Joined::Full => return Served::Failed(Failure::Busy),
        Joined::Follow(mut waiter) => {
            // What it is a slice of is known once its head is.
            let _ = waiter.answer().await;
            return Served::Again;
        }
        Joined::Lead(lead) => {
            let Some(waiter) = lead.follow() else { return Served::Failed(Failure::Busy) };
            let size = cache.config.slices.size.max(1);
            let first = begin / size * size;
            let mut wanted = Wanted { key, cut: Some(Cut::First(wanted.key)), ..wanted.clone() };
            let slice = Span { first, last: first.saturating_add(size - 1), total: u64::MAX };
            Arc::make_mut(&mut wanted.fields).insert(header::RANGE, slice.asked());
            fetch::lead(cache, lead, wanted, None, Mode::Shared);
            waiter
        }
    };
    match waiter.answer().await {
        Ok(answer) if answer.meta.status == StatusCode::PARTIAL_CONTENT => Served::Again,
        // Nothing is there, but the last bytes may be asked for too.
        Ok(answer) if answer.meta.status == StatusCode::RANGE_NOT_SATISFIABLE && is_list(&asked.client.fields) => {
            Served::No
        }
        Ok(answer) => Served::Flown(waiter, answer),
        Err(End::Again | End::Whole) => Served::Again,
        Err(End::Failed(failure)) => Served::Failed(failure),
    }
}

/// Whether several ranges are asked for.
fn is_list(fields: &HeaderMap) -> bool {
    fields.get(header::RANGE).is_some_and(|value| value.as_bytes().contains(&b','))
}

/// Whether a range names no more than so many bytes.
fn is_short(fields: &HeaderMap, most: u64) -> bool {
    let text = fields.get(header::RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ends = text.split_once('=').and_then(|(_, set)| set.split_once('-'));
    let Some((first, last)) =
        ends.and_then(|(first, last)| first.trim().parse::<u64>().ok().zip(last.trim().parse::<u64>().ok()))
    else {
        return false;
    };
    last >= first && last - first < most
}

/// Whether the index names copies of something that is not large: these are nearer than the origin.
async fn is_small_elsewhere(cache: &Cache, asked: &Asked, whole: Key) -> bool {
    if matches!(asked.client.links, Links::Site) {
        return false;
    }
    let found = tokio::time::timeout(cache.config.peers.hedge, cache.index.get(whole, Levels::All)).await;
    let Ok(Ok(Indexed::Values { values, .. })) = found else { return false };
    let me = cache.company.me();
    let mut others = values.into_iter().filter(|value| value.holder != me).filter_map(crate::peer::Candidate::of);
    others.any(|holder| holder.reference.length.is_some_and(|length| length <= cache.config.slices.over))
}

/// A range of a large object, its first slice at hand.
pub(crate) struct Sliced {
    pub(crate) meta: Meta,
    pub(crate) status: CacheStatus,
    reading: Reading,
}

impl Sliced {
    async fn open(cache: &Arc<Cache>, wanted: &Wanted, plan: Arc<Plan>, part: Part) -> Served {
        let mut reading =
            Reading { cache: Arc::clone(cache), wanted: wanted.clone(), plan, at: part.from, now: None, next: None };
        let number = part.from / reading.plan.size;
        if let Some(Negative::Answer(answer)) = cache.spared(&reading.plan.slice_key(number)) {
            return Served::Repeated(answer);
        }
        let (source, stored) = match reading.open(number).await {
            Err(failure) => return Served::Failed(failure),
            Ok(Opened::Stored(object)) => {
                let source = if object.tier() == Tier::Memory { Source::Memory } else { Source::Disk };
                reading.now = Some((number, Opened::Stored(object)));
                (source, true)
            }
            Ok(Opened::Flying(mut waiter)) => match waiter.answer().await {
                // It changed, or landed just now.
                Err(End::Again | End::Whole) => return Served::Again,
                Err(End::Failed(failure)) => return Served::Failed(failure),
                Ok(answer) if !reading.plan.fits(number, &answer.meta) => return Served::Flown(waiter, answer),
                Ok(answer) => {
                    reading.now = Some((number, Opened::Flying(waiter)));
                    (answer.source, false)
                }
            },
        };
        let mut meta = reading.plan.meta.clone();
        meta.withhold();
        let ttl = cache.lifetime(wanted.site.as_deref(), &meta).fresh;
        let ttl = seconds(ttl) - seconds(meta.age(clock::now()));
        let mut status = CacheStatus::hit(source, ttl, None);
        if !stored {
            status.forwarded = Some(Forwarded::Partial);
            status.status = Some(StatusCode::PARTIAL_CONTENT);
            status.stored = true;
        }
        Served::Found(Box::new(Self { meta, status, reading }))
    }

    /// The body of this part.
    pub(crate) fn body(self, part: Part) -> Body {
        let to = part.to.unwrap_or(self.reading.plan.total).min(self.reading.plan.total);
        let mut reading = self.reading;
        reading.at = part.from;
        let length = to.saturating_sub(part.from);
        let pieces = stream::try_unfold(reading, move |mut reading| async move {
            Ok(reading.piece(to).await?.map(|piece| (piece, reading)))
        });
        Body::Stream(Box::pin(pieces), Some(length))
    }

    /// These parts, each after its head, and what ends them.
    pub(crate) fn parts(self, parts: Vec<(Bytes, Part)>, end: Bytes) -> Body {
        let total = self.reading.plan.total;
        let of = |(head, part): &(Bytes, Part)| wide(head.len()) + part.to.unwrap_or(total).saturating_sub(part.from);
        let length = parts.iter().map(of).sum::<u64>() + wide(end.len());
        let walk = (self.reading, VecDeque::from(parts), None::<u64>, Some(end));
        let pieces = stream::try_unfold(walk, move |(mut reading, mut parts, until, mut end)| async move {
            if let Some(to) = until
                && let Some(piece) = reading.piece(to).await?
            {
                return Ok(Some((piece, (reading, parts, until, end))));
            }
            if let Some((head, part)) = parts.pop_front() {
                reading.at = part.from;
                return Ok(Some((head, (reading, parts, part.to.or(Some(total)), end))));
            }
            Ok(end.take().map(|last| (last, (reading, parts, None, end))))
        });
        Body::Stream(Box::pin(pieces), Some(length))
    }
}

/// A walk along the slices of an object.
struct Reading {
    cache: Arc<Cache>,
    wanted: Wanted,
    plan: Arc<Plan>,
    at: u64,
    now: Option<(u64, Opened)>,
    /// The one after, on its way while this one is read.
    next: Option<(u64, Opened)>,
}

/// Where a slice is.
enum Opened {
    Stored(Object),
    Flying(Waiter),
}

impl Reading {
    /// The next bytes before `to`; none at `to`.
    async fn piece(&mut self, to: u64) -> Result<Option<Bytes>, Failure> {
        if self.at >= to {
            return Ok(None);
        }
        let number = self.at / self.plan.size;
        self.turn_to(number, to).await?;
        let Some((_, opened)) = &mut self.now else { return Err(Failure::Internal) };
        let span = self.plan.span(number);
        let offset = self.at - span.first;
        let room = usize::try_from(to.min(span.last + 1) - self.at).unwrap_or(PIECE).min(PIECE);
        let bytes = match opened {
            Opened::Stored(object) => object.read(offset, room).await.map_err(|_| Failure::ResponseIncomplete)?,
            Opened::Flying(waiter) => {
                let answer = waiter.answer().await.map_err(|_| Failure::ResponseIncomplete)?;
                if !self.plan.fits(number, &answer.meta) {
                    return Err(Failure::ResponseIncomplete);
                }
                match &answer.content {
                    Content::Filling(partial) => waiter.read(partial, offset, room).await?.unwrap_or_default(),
                    Content::Stored(object) => {
                        object.read(offset, room).await.map_err(|_| Failure::ResponseIncomplete)?
                    }
                    Content::Bytes(_) | Content::Direct(_) => return Err(Failure::ResponseIncomplete),
                }
            }
        };
        if bytes.is_empty() {
            return Err(Failure::ResponseIncomplete);
        }
        self.at += wide(bytes.len());
        Ok(Some(bytes))
    }

    /// Has the slice at hand, and the one after on its way if it is wanted too.
    async fn turn_to(&mut self, number: u64, to: u64) -> Result<(), Failure> {
        if self.now.as_ref().is_none_or(|(now, _)| *now != number) {
            let next = self.next.take().filter(|(next, _)| *next == number);
            let opened = match next {
                Some((_, opened)) => self.with_room(number, Ok(opened)).await?,
                None => self.with_room(number, self.open(number).await).await?,
            };
            self.now = Some((number, opened));
        }
        let after = number + 1;
        if self.next.is_none() && self.plan.span(after).first < to {
            // Should it fail now, it is tried again when it is needed.
            self.next = self.open(after).await.ok().map(|opened| (after, opened));
        }
        Ok(())
    }

    /// A slice for a client that is half-way already: where there is no room for its fetch, among the others or in the store, it is looked
    /// for again for as long as a fetch may wait for its origin.
    async fn with_room(&self, number: u64, mut opened: Result<Opened, Failure>) -> Result<Opened, Failure> {
        let until = Instant::now() + self.cache.config.timeouts.connect;
        loop {
            let no_room = match &mut opened {
                Err(failure) => *failure == Failure::Busy,
                Ok(Opened::Flying(waiter)) => matches!(waiter.answer().await, Err(End::Failed(Failure::Busy))),
                Ok(Opened::Stored(_)) => false,
            };
            if !no_room || Instant::now() >= until {
                return opened;
            }
            sleep(ROOM_AGAIN).await;
            opened = self.open(number).await;
        }
    }

    /// A slice out of the store, from the fetch under way, or from one that begins now.
    async fn open(&self, number: u64) -> Result<Opened, Failure> {
        let key = self.plan.slice_key(number);
        for _ in 0..OPENED {
            if let Some(object) = self.stored(key, number).await {
                return Ok(Opened::Stored(object));
            }
            match self.cache.spared(&key) {
                Some(Negative::Failure(failure)) => return Err(failure),
                Some(Negative::Answer(_)) => return Err(Failure::ResponseIncomplete),
                None => {}
            }
            match self.cache.flights.join(key) {
                Joined::Full => return Err(Failure::Busy),
                Joined::Follow(mut waiter) => {
                    if !waiter.has_landed() {
                        return Ok(Opened::Flying(waiter));
                    }
                    waiter.ended().await;
                }
                Joined::Lead(lead) => {
                    if let Some(object) = self.stored(key, number).await {
                        lead.finish(End::Again);
                        return Ok(Opened::Stored(object));
                    }
                    return self.lead(lead, key, number);
                }
            }
        }
        Err(Failure::Internal)
    }

    fn lead(&self, lead: Lead, key: Key, number: u64) -> Result<Opened, Failure> {
        let waiter = lead.follow().ok_or(Failure::Busy)?;
        let span = self.plan.span(number);
        let cut = Some(Cut::Slice(Arc::clone(&self.plan), number));
        let mut wanted = Wanted { key, cut, interim: None, ..self.wanted.clone() };
        let fields = Arc::make_mut(&mut wanted.fields);
        fields.insert(header::RANGE, span.asked());
        fields.insert(header::IF_RANGE, self.plan.tag.clone());
        fetch::lead(&self.cache, lead, wanted, None, Mode::Shared);
        Ok(Opened::Flying(waiter))
    }

    async fn stored(&self, key: Key, number: u64) -> Option<Object> {
        let object = self.cache.store.get(&store_key(key)).await?;
        let meta = Meta::decode_stored(&object.head().metadata)?;
        let good = meta.url == self.plan.meta.url && self.plan.fits(number, &meta);
        let good = good && !object.soft_purged() && !self.cache.purges.doubts(meta.received);
        (good && Some(object.len()) == meta.length).then_some(object)
    }
}

/// How often a slice is looked for while others fetch it.
const OPENED: usize = 4;

/// Room for a slice is looked for again after this. \[guess\]
const ROOM_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_short_range_has_both_ends() {
        let short = |value: &'static str| {
            is_short(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(value))]), 4)
        };
        assert!(short("bytes=5-8"));
        for long in ["bytes=5-9", "bytes=5-", "bytes=-2", "bytes=9-5", "x"] {
            assert!(!short(long), "{long}");
        }
    }
}
