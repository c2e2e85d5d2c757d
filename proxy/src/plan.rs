//! What is known of a large object whose slices are fetched one by one: its fields, its length, the strong entity tag that all slices
//! must share; and how it becomes known.
//!
//! A plan is stored as a record without a body, under a key that follows from the whole's. A slice stands under a key that follows from
//! the whole's, the tag, the length and its number, so that slices of two versions never meet.

use std::{sync::Arc, time::Duration};

use atoll_overlay::Key;
use atoll_store::Keep;
use atoll_units::size;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use crate::{
    cache::{Cache, store_key},
    clock,
    fetch::Fetch,
    flight::End,
    meta::Meta,
    part::Span,
    receive::Asked,
    reference::Reference,
    vouch::Vouched,
    wish::Use,
};

/// How what is large is cut.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlicesConfig {
    /// Bytes of an object from which on ranges of it are fetched slice by slice; less is fetched whole. Less: more requests to the
    /// origin, more: more bytes for nothing. [design 4]
    #[serde(with = "size")]
    pub over: u64,
    /// Bytes of a slice. Less: more requests, more: more bytes that nobody asked for. [design 4]
    #[serde(with = "size")]
    pub size: u64,
}

impl Default for SlicesConfig {
    fn default() -> Self {
        Self { over: 8 << 20, size: 2 << 20 }
    }
}

/// What of an object a fetch is for, if not all of it.
#[derive(Debug, Clone)]
pub(crate) enum Cut {
    /// Whatever the origin makes of a first range: nothing is known of the object under this key.
    First(Key),
    /// One slice.
    Slice(Arc<Plan>, u64),
}

/// A large object as its slices know it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    whole: Key,
    /// The answer as if it were whole.
    pub(crate) meta: Meta,
    /// Bytes of the whole.
    pub(crate) total: u64,
    pub(crate) tag: HeaderValue,
    /// Bytes of a slice.
    pub(crate) size: u64,
}

impl Plan {
    /// The plan that follows from a 206; none if its slices could not be told from another version's, or it is not large.
    pub(crate) fn of(whole: Key, part: &Meta, config: &SlicesConfig) -> Option<Self> {
        let total = Span::of(&part.fields)?.total;
        let tag = part.fields.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))?.clone();
        let mut meta = part.clone();
        meta.status = StatusCode::OK;
        meta.length = Some(total);
        meta.digest = None;
        meta.fields.remove(header::CONTENT_RANGE);
        meta.fields.remove(header::CONTENT_LENGTH);
        (total > config.over).then(|| Self { whole, meta, total, tag, size: config.size.max(1) })
    }

    /// Where the plan of what stands under a key stands.
    pub(crate) fn key(whole: Key) -> Key {
        derived(whole, b"plan", &[])
    }

    /// Where a slice stands.
    pub(crate) fn slice_key(&self, number: u64) -> Key {
        let numbers = [self.total, self.size, number].map(u64::to_be_bytes).concat();
        derived(self.whole, b"slice", &[self.tag.as_bytes(), &[0], &numbers].concat())
    }

    /// A slice's bytes.
    pub(crate) fn span(&self, number: u64) -> Span {
        let first = number.saturating_mul(self.size).min(self.total);
        Span { first, last: first.saturating_add(self.size).min(self.total).saturating_sub(1), total: self.total }
    }

    /// A slice's bytes from this one of its on.
    pub(crate) fn rest_of(&self, number: u64, at: u64) -> Span {
        let span = self.span(number);
        Span { first: span.first.saturating_add(at).min(span.last), ..span }
    }

    /// Whether an answer is this slice of this version.
    pub(crate) fn fits(&self, number: u64, part: &Meta) -> bool {
        part.status == StatusCode::PARTIAL_CONTENT
            && part.fields.get(header::ETAG) == Some(&self.tag)
            && Span::of(&part.fields) == Some(self.span(number))
            && part.length == Some(self.span(number).length())
    }

    /// What is stored of a plan: an answer without a body that names the whole's length in Content-Range.
    fn record(&self) -> Meta {
        let mut meta = self.meta.clone();
        meta.status = StatusCode::PARTIAL_CONTENT;
        meta.length = Some(0);
        meta.digest = Some(blake3::hash(b""));
        if let Ok(range) = HeaderValue::try_from(format!("bytes 0-0/{}", self.total)) {
            meta.fields.insert(header::CONTENT_RANGE, range);
        }
        meta
    }

    /// The plan under a key, if it is there and as fresh as this request wants it, or was made for this very request.
    pub(crate) async fn stored(cache: &Cache, asked: &Asked, whole: Key, first_round: bool) -> Option<Arc<Self>> {
        let object = cache.store.get(&store_key(Self::key(whole))).await?;
        let record = Meta::decode_stored(&object.head().metadata)?;
        let lifetime = cache.lifetime(asked.site.as_deref(), &record);
        let now = clock::now();
        let made = !first_round && now.duration_since(record.received).is_ok_and(|since| since < JUST_NOW);
        let fresh = made || asked.wish.judge(lifetime, record.age(now)) == Use::Send(None);
        let purged = object.soft_purged() || cache.purges.doubts(record.received);
        let good = record.url == asked.url.to_string() && fresh && !purged;
        let plan = Self::of(whole, &record, &cache.config.slices).filter(|_| good)?;
        Some(Arc::new(plan))
    }
}

impl Fetch {
    /// What a slice was asked for and something else came: what is known of the object is of another version.
    pub(crate) async fn changed(&self, plan: &Plan) -> End {
        tracing::debug!(url = %self.wanted.url, "a large object has changed; its slices are given up");
        if let Err(error) = self.cache.store.remove(&store_key(Plan::key(plan.whole))).await {
            tracing::warn!(%error, "a plan that is no longer good could not be removed");
        }
        End::Again
    }

    /// The first part of something comes: if it is large, its plan is stored and this is one of its slices; if this is all of it, it
    /// is as good as a plain answer, and is returned as that. Else it is not tried again for a while.
    pub(crate) async fn first_contact(
        &mut self,
        whole: Key,
        mut part: Meta,
        storable: bool,
    ) -> Result<Meta, Option<u64>> {
        let span = Span::of(&part.fields).filter(|span| part.length == Some(span.length()));
        if let Some(span) = span.filter(|span| storable && span.length() == span.total) {
            part.status = StatusCode::OK;
            part.length = Some(span.total);
            part.fields.remove(header::CONTENT_RANGE);
            return Ok(part);
        }
        let plan = Plan::of(whole, &part, &self.cache.config.slices).filter(|_| storable).zip(span);
        let found = plan.filter(|(plan, span)| span.first % plan.size == 0 && plan.fits(span.first / plan.size, &part));
        let Some((plan, span)) = found else {
            self.cache.unsliced.put(self.wanted.url.key(), (), UNSLICED);
            return Err(None);
        };
        self.store_plan(&plan).await;
        let number = span.first / plan.size;
        self.wanted.key = plan.slice_key(number);
        self.lead.also(self.wanted.key);
        self.wanted.cut = Some(Cut::Slice(Arc::new(plan), number));
        Err(Some(number))
    }

    /// Keeps what a part says of a large object, so that further ranges come out of slices.
    pub(crate) async fn store_plan(&self, plan: &Plan) {
        if self.lead.is_overtaken() {
            return;
        }
        let (key, mut record) = (Plan::key(plan.whole), plan.record());
        record.vouched = Vouched::from_origin(self.applied.clone());
        let stored = match self.cache.store.writer(self.head(key, &record, self.expires(&record))) {
            Ok(writer) => writer.commit_or_hold(None, Keep::InRam).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => self.keeper.whole(key, Reference::whole_of(&record), || self.fresh_for(&record)),
            Err(error) => tracing::debug!(%error, "the plan of a large object could not be kept"),
        }
    }
}

fn derived(whole: Key, word: &[u8], more: &[u8]) -> Key {
    Key::of(&[whole.as_bytes(), word, more].concat())
}

/// A plan that a request itself has had made is good for it, however short its freshness.
const JUST_NOW: Duration = Duration::from_secs(30);

/// What is not large, or cannot be cut, is not asked about again for so long.
const UNSLICED: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn part(range: &str, tag: &'static str) -> Meta {
        let span = Span::of(&HeaderMap::from_iter([(header::CONTENT_RANGE, range.parse().unwrap())]));
        let fields = [(header::CONTENT_RANGE, range.parse().unwrap()), (header::ETAG, HeaderValue::from_static(tag))];
        Meta {
            url: "http://a.test/".to_owned(),
            status: StatusCode::PARTIAL_CONTENT,
            fields: fields.into_iter().collect(),
            received: clock::now(),
            initial_age: Duration::ZERO,
            validator: [0; 16],
            length: span.map(Span::length),
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: Vouched::default(),
        }
    }

    #[test]
    fn a_plan_cuts_a_large_object_without_gap_or_overlap() {
        let config = SlicesConfig { over: 10, size: 4 };
        let key = Key::of(b"k");
        let plan = Plan::of(key, &part("bytes 4-7/11", "\"a\""), &config).unwrap();
        let spans: Vec<_> = (0..3).map(|number| (plan.span(number).first, plan.span(number).last)).collect();
        assert_eq!(spans, [(0, 3), (4, 7), (8, 10)]);
        assert!(plan.fits(1, &part("bytes 4-7/11", "\"a\"")));
        for (range, tag) in
            [("bytes 4-6/11", "\"a\""), ("bytes 4-7/12", "\"a\""), ("bytes 4-7/11", "\"b\""), ("bytes 0-3/11", "\"a\"")]
        {
            assert!(!plan.fits(1, &part(range, tag)), "{range} {tag}");
        }
        assert!(Plan::of(key, &part("bytes 4-7/11", "W/\"a\""), &config).is_none());
        assert!(Plan::of(key, &part("bytes 4-7/10", "\"a\""), &config).is_none());
        // A length that nobody has costs nothing and wraps nowhere.
        let endless = Plan::of(key, &part("bytes 0-3/18446744073709551615", "\"a\""), &config).unwrap();
        assert_eq!(endless.span(u64::MAX / 4).last, u64::MAX - 1);
        let again = Plan::of(key, &plan.record(), &config).unwrap();
        assert_eq!(again.slice_key(1), plan.slice_key(1));
        let other = Plan::of(key, &part("bytes 4-7/11", "\"b\""), &config).unwrap();
        assert_ne!(other.slice_key(1), plan.slice_key(1));
    }
}
