//! Where bytes come from: one flight's fetch, from peers or the origin, into the store.
//!
//! A source that is lost is followed by the next, from the byte reached, under the same validator only, or by the origin's whole
//! answer if it begins with what is there: copies are never mixed.
//! A copy from a peer counts as whole once its BLAKE3 is the one its fetcher stated; its last piece is held back until then, so
//! that no client takes a wrong copy for a whole one. (Signed chunk digests will let every piece be checked before it is shown.)
//! Nothing that is short, failed or not whole ever replaces what is stored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    cache::{Cache, Negative, Wanted, directory, store_key},
    conditions::if_changed,
    flight::{Answer, Content, End, Lead},
    frames::Frame,
    freshness::{self, Vary},
    keeper::{Keeper, Kept},
    meta::{Meta, strip_hop_by_hop, validator},
    origin::{OriginAnswer, OriginBody},
    peer::{PeerFill, PeerRequest},
    reason::{Failure, Reason, Source},
    reference::Reference,
    seek::{Seek, Step},
};
use atoll_overlay::{Key, Marker, NodeId, Value};
use atoll_store::{Head, PurgeNumber, StoreError, Tags, Writer};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// A stored answer that went stale, which the origin may confirm.
#[derive(Debug, Clone)]
pub(crate) struct Stale {
    pub(crate) meta: Meta,
    /// What the store holds it under.
    pub(crate) key: Key,
}

/// Leads a flight to its end. Runs as a task of its own.
pub(crate) async fn lead(cache: Arc<Cache>, lead: Lead, wanted: Wanted, stale: Option<Stale>) {
    let keeper = Keeper::start(&cache, &lead, wanted.key);
    let seek = Seek::new(&cache, PeerRequest { key: wanted.key, url: wanted.url.clone(), from: None });
    let mut fetch =
        Fetch { cache: Arc::clone(&cache), lead, wanted, stale, keeper, filling: None, born: PurgeNumber(0) };
    let end = tokio::select! {
        end = fetch.run(seek) => end,
        () = stopped(&cache) => End::Failed(Failure::Internal),
    };
    if let End::Failed(failure) = end
        && failure.is_origins()
        && !fetch.lead.has_head()
    {
        fetch.cache.failed(fetch.wanted.key, Negative::Failure(failure));
    }
    fetch.lead.finish(end);
}

/// Ready once the proxy is stopped.
async fn stopped(cache: &Cache) {
    let mut stop = cache.stop.subscribe();
    // The sender lives in the cache that is borrowed here.
    let _ = stop.wait_for(|stop| *stop).await;
}

struct Fetch {
    cache: Arc<Cache>,
    lead: Lead,
    wanted: Wanted,
    stale: Option<Stale>,
    keeper: Keeper,
    filling: Option<Filling>,
    born: PurgeNumber,
}

/// A body that is being written.
struct Filling {
    writer: Writer,
    hasher: blake3::Hasher,
    answer: Arc<Answer>,
    shown: bool,
    at: u64,
}

/// What one source came to.
enum Outcome {
    End(End),
    /// The source is gone; go on with another.
    Next(NodeId),
    /// A lower lease lives at this holder.
    Superseded(Value),
}

impl Fetch {
    async fn run(&mut self, mut seek: Seek) -> End {
        loop {
            let outcome = match self.step(&mut seek).await {
                Step::Peer(fill) => {
                    if let Some(lease) = seek.take_lease() {
                        self.keeper.hold(lease);
                    }
                    self.take_peer(*fill).await
                }
                Step::Origin(lease) => {
                    match lease {
                        Some(lease) => self.keeper.hold(lease),
                        None => self.cache.counters.ungranted(),
                    }
                    self.ask_origin().await
                }
                Step::Marked(Marker::Pass(span)) => {
                    self.cache.passing.put(self.wanted.key, (), span);
                    Outcome::End(End::Again)
                }
                Step::Marked(Marker::Vary(names)) => {
                    self.remember_vary(&names).await;
                    Outcome::End(End::Again)
                }
                Step::Failed(failure) => Outcome::End(End::Failed(failure)),
            };
            // Two that lost one source must not wait for each other: whoever asks this flight meanwhile is told.
            self.lead.lost(!matches!(outcome, Outcome::End(_)));
            match outcome {
                Outcome::End(end) => return end,
                Outcome::Superseded(value) => seek.prefer(value),
                Outcome::Next(holder) => {
                    // What nobody has seen is no bond to that copy.
                    self.filling.take_if(|filling| !filling.shown);
                    let from = self.filling.as_ref().map(|filling| (filling.at, filling.answer.meta.validator));
                    seek.lost(holder, from, self.lead.reference());
                }
            }
        }
    }

    /// Seeks on; a purge that comes after this moment is newer than what is found.
    async fn step(&mut self, seek: &mut Seek) -> Step {
        if self.filling.is_none() {
            self.born = self.cache.store.purge_number();
        }
        let step = seek.next().await;
        self.lead.lost(false);
        step
    }

    /// Streams a peer's copy in.
    async fn take_peer(&mut self, mut fill: PeerFill) -> Outcome {
        let holder = fill.holder.value.holder;
        if self.filling.is_none() {
            let source = Source::Peer(fill.holder.value.level);
            if let Err(end) = self.begin(fill.meta.clone(), source) {
                return Outcome::End(end);
            }
        }
        let promised = fill.holder.reference.whole();
        let mut held: Option<Bytes> = None;
        loop {
            match fill.next().await {
                Ok(Frame::Wait) => self.lead.beat(),
                Ok(Frame::Data(data)) => {
                    self.cache.counters.peer_bytes(data.len());
                    if let Some(before) = held.replace(data)
                        && let Err(end) = self.take(before).await
                    {
                        return Outcome::End(end);
                    }
                    // Only what may be the last piece waits for the verdict.
                    if !self.may_be_last(held.as_ref())
                        && let Some(data) = held.take()
                        && let Err(end) = self.take(data).await
                    {
                        return Outcome::End(end);
                    }
                }
                Ok(Frame::End { length, digest }) => {
                    return self.judge(holder, held, (length, digest), promised).await;
                }
                // A copy that breaks off here may be whole elsewhere; what was held back is asked for again.
                Ok(Frame::Abort(_) | Frame::Head(_)) | Err(_) => {
                    self.cache.counters.peer_fetch("timeout");
                    return Outcome::Next(holder);
                }
            }
        }
    }

    /// Whether these bytes reach the end of the body. Where its length is unknown the end is said by itself.
    fn may_be_last(&self, held: Option<&Bytes>) -> bool {
        let Some((filling, held)) = self.filling.as_ref().zip(held) else { return false };
        filling.answer.meta.length.is_some_and(|length| filling.at + wide(held.len()) >= length)
    }

    /// The peer says the body is whole: it is, or the peer lied.
    async fn judge(
        &mut self,
        holder: NodeId,
        held: Option<Bytes>,
        (length, digest): (u64, blake3::Hash),
        promised: Option<blake3::Hash>,
    ) -> Outcome {
        let Some(filling) = self.filling.as_mut() else { return Outcome::End(End::Failed(Failure::Internal)) };
        let mut hasher = filling.hasher.clone();
        let last = held.unwrap_or_default();
        hasher.update(&last);
        let whole = filling.at + wide(last.len());
        let stated = filling.answer.meta.digest.or(promised);
        let true_copy = hasher.finalize() == digest
            && stated.is_none_or(|stated| stated == digest)
            && whole == length
            && filling.answer.meta.length.is_none_or(|expected| expected == length);
        if !true_copy {
            tracing::warn!(%holder, url = %self.wanted.url, "a peer's copy is not what was promised");
            self.cache.counters.peer_fetch("hash_mismatch");
            self.cache.shunned.put(holder, (), self.cache.config.peers.shun);
            let shown = filling.shown;
            self.filling = None;
            // Clients that saw some of it are cut off; if none did, the next source starts over.
            return if shown { Outcome::End(End::Failed(Failure::ResponseIncomplete)) } else { Outcome::Next(holder) };
        }
        if !last.is_empty()
            && let Err(end) = self.take(last).await
        {
            return Outcome::End(end);
        }
        self.cache.counters.peer_fetch("ok");
        Outcome::End(self.complete().await)
    }

    /// Asks the origin: for all of it, for the rest, or whether the stale copy is still good.
    async fn ask_origin(&mut self) -> Outcome {
        let mut fields = self.wanted.fields.clone();
        if let Some(filling) = &self.filling {
            // Only a strong tag makes the rest belong to what is there; else all of it is asked for and compared.
            let tag = filling.answer.meta.fields.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
            if let Some(tag) = tag {
                fields.insert(header::IF_RANGE, tag.clone());
                fields.insert(header::RANGE, ascii(&format!("bytes={}-", filling.at)));
            }
        } else if let Some(stale) = &self.stale {
            if_changed(&mut fields, &stale.meta.fields);
        }
        let asked = SystemTime::now();
        let cache = Arc::clone(&self.cache);
        let get = cache.origin.get(&self.wanted.upstream, self.wanted.url.path(), &fields);
        let answer = match self.keeper.alive(&self.lead, get).await {
            Kept::Ready(Ok(answer)) => answer,
            Kept::Ready(Err(failure)) => return Outcome::End(End::Failed(failure)),
            Kept::Superseded(value) => return Outcome::Superseded(value),
        };
        if self.filling.is_some() {
            return Outcome::End(self.resume(answer).await);
        }
        Outcome::End(self.answered(answer, asked).await)
    }

    /// The origin answered a whole or conditional request.
    async fn answered(&mut self, mut answer: OriginAnswer, asked: SystemTime) -> End {
        strip_hop_by_hop(&mut answer.fields);
        if answer.status == StatusCode::NOT_MODIFIED {
            return self.confirmed(&answer, asked).await;
        }
        if answer.status == StatusCode::PARTIAL_CONTENT || answer.status.is_informational() {
            return End::Failed(Failure::Protocol);
        }
        if self.wanted.is_sent_to_https(answer.status, &answer.fields) {
            self.cache.upgraded.put(self.wanted.url.host().to_owned(), (), UPGRADE_KEPT);
            self.keeper.pass(Marker::Pass(UPGRADE_PASS));
            return End::Again;
        }
        let received = SystemTime::now();
        let length = if answer.status == StatusCode::NO_CONTENT { Some(0) } else { answer.length };
        let url = self.wanted.url.to_string();
        let meta = Meta {
            validator: validator(&url, &answer.fields, length, rand::random()),
            url,
            status: answer.status,
            initial_age: freshness::initial_age(&answer.fields, asked, received),
            fields: answer.fields,
            received,
            length,
            digest: None,
            varies_by: Vec::new(),
        };
        if meta.status.is_server_error() {
            return self.origin_error(meta, answer.body).await;
        }
        if let Err(reason) = freshness::storable(meta.status, &meta.fields, false) {
            return self.unshared(meta, answer.body, reason);
        }
        if let Vary::Names(names) = Vary::of(&meta.fields) {
            self.varies(&names).await;
        }
        match self.begin(meta.clone(), Source::Origin) {
            Ok(()) => {}
            Err(End::Failed(Failure::BodyTooLarge)) => return self.unshared(meta, answer.body, Reason::TooLarge),
            Err(end) => return end,
        }
        self.pump(answer.body, 0).await
    }

    /// Reads an origin's body to its end. Its first `known` bytes must be those that are there already.
    async fn pump(&mut self, mut body: OriginBody, known: u64) -> End {
        let mut compared = 0;
        loop {
            let mut data = match self.keeper.beating(&self.lead, body.next()).await {
                Ok(Some(data)) => data,
                Ok(None) => break,
                Err(failure) => return End::Failed(failure),
            };
            let again = usize::try_from(known - compared).unwrap_or(usize::MAX).min(data.len());
            let again = data.split_to(again);
            if !self.has(compared, &again).await {
                return End::Failed(Failure::ResponseIncomplete);
            }
            compared += wide(again.len());
            if !data.is_empty()
                && let Err(end) = self.take(data).await
            {
                return end;
            }
        }
        let short = self.filling.as_ref().is_some_and(|it| it.answer.meta.length.is_some_and(|length| length != it.at));
        if short || compared < known { End::Failed(Failure::ResponseIncomplete) } else { self.complete().await }
    }

    /// Whether these bytes are there at this place.
    async fn has(&self, mut at: u64, bytes: &[u8]) -> bool {
        let Some(Filling { answer, .. }) = &self.filling else { return false };
        let Content::Filling(partial) = &answer.content else { return false };
        let mut left = bytes;
        while !left.is_empty() {
            let Ok(there) = partial.read(at, left.len()).await else { return false };
            let Some(rest) = left.strip_prefix(&there[..]).filter(|rest| rest.len() < left.len()) else { return false };
            at += wide(there.len());
            left = rest;
        }
        true
    }

    /// The rest of a body whose peer was lost, from the origin: exactly the bytes asked for, or all of a body that begins with
    /// what is there. Either way what clients get is one answer of the origin's.
    async fn resume(&mut self, answer: OriginAnswer) -> End {
        let Some(filling) = &self.filling else { return End::Failed(Failure::Internal) };
        let range = answer.fields.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let length = filling.answer.meta.length;
        let expected = length.map(|length| format!("bytes {}-{}/{length}", filling.at, length.saturating_sub(1)));
        if answer.status == StatusCode::OK && filling.answer.meta.status == StatusCode::OK && answer.length == length {
            let known = filling.at;
            return self.pump(answer.body, known).await;
        }
        let same = answer.fields.get(header::ETAG) == filling.answer.meta.fields.get(header::ETAG);
        if answer.status != StatusCode::PARTIAL_CONTENT || !same || expected.as_deref() != range {
            return End::Failed(Failure::ResponseIncomplete);
        }
        self.pump(answer.body, 0).await
    }

    /// The stale copy is still good [RFC 9111 4.3.4].
    async fn confirmed(&mut self, answer: &OriginAnswer, asked: SystemTime) -> End {
        let Some(stale) = self.stale.take() else { return End::Failed(Failure::Protocol) };
        let received = SystemTime::now();
        let fields = freshness::freshened(&stale.meta.fields, &answer.fields);
        let initial_age = freshness::initial_age(&fields, asked, received);
        let meta = Meta { fields, received, initial_age, ..stale.meta };
        let expires = self.expires(&meta);
        let freshened = self
            .cache
            .store
            .freshen_since(&store_key(stale.key), meta.encode(received), Some(expires), self.born)
            .await;
        let object = match freshened {
            Ok(Some(object)) => object,
            // Purged or evicted meanwhile: the next request fetches it whole.
            Ok(None) => return End::Again,
            Err(error) => {
                tracing::warn!(%error, "a renewed answer could not be stored");
                return End::Failed(Failure::Internal);
            }
        };
        self.cache.recovered(self.wanted.key);
        self.keeper.whole(stale.key, Reference::whole_of(&meta), fresh_for(&self.cache, &meta));
        let varies_by = freshness::varies_by(&meta.fields);
        let content = Content::Stored(object);
        let answer = Answer { meta, key: stale.key, varies_by, source: Source::Origin, reason: None, content };
        self.lead.head(Arc::new(answer));
        End::Whole
    }

    /// An error of the origin: small ones are repeated to everyone for a moment, none is stored.
    async fn origin_error(&mut self, mut meta: Meta, mut body: OriginBody) -> End {
        let mut bytes = Vec::new();
        loop {
            match self.keeper.beating(&self.lead, body.next()).await {
                Ok(Some(data)) if bytes.len() + data.len() <= ERROR_BODY => bytes.extend_from_slice(&data),
                Ok(None) => break,
                // Too much to repeat or cut short: the status says enough.
                Ok(Some(_)) | Err(_) => {
                    bytes.clear();
                    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ETAG] {
                        meta.fields.remove(name);
                    }
                    break;
                }
            }
        }
        meta.length = Some(wide(bytes.len()));
        meta.fields.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        self.cache.counters.not_stored(Reason::Status);
        let answer = Arc::new(Answer {
            meta,
            key: self.wanted.key,
            varies_by: Vec::new(),
            source: Source::Origin,
            reason: Some(Reason::Status),
            content: Content::Bytes(bytes.into()),
        });
        self.cache.failed(self.wanted.key, Negative::Answer(Arc::clone(&answer)));
        self.lead.head(answer);
        End::Whole
    }

    /// The answer is for one request alone: its body goes to whoever takes it first, the others ask for themselves.
    fn unshared(&mut self, meta: Meta, body: OriginBody, reason: Reason) -> End {
        self.cache.counters.not_stored(reason);
        let span = self.cache.config.freshness.pass;
        self.cache.passing.put(self.wanted.key, (), span);
        let content = Content::Direct(std::sync::Mutex::new(Some(body)));
        let (key, source) = (self.wanted.key, Source::Origin);
        let answer = Answer { meta, key, varies_by: Vec::new(), source, reason: Some(reason), content };
        self.lead.head(Arc::new(answer));
        self.keeper.pass(Marker::Pass(span));
        End::Whole
    }

    /// The answer varies: the URL's key says by what, here and in the index, and the answer stands under the variant's.
    async fn varies(&mut self, list: &[String]) {
        let variant = self.wanted.variant(list);
        if variant == self.wanted.key {
            return;
        }
        self.remember_vary(list).await;
        self.lead.also(variant);
        self.wanted.key = variant;
        self.keeper.vary(list.to_vec(), variant);
    }

    /// Keeps, under the URL's key, the list of fields its answers vary by.
    async fn remember_vary(&self, list: &[String]) {
        let now = SystemTime::now();
        let meta = Meta {
            url: self.wanted.url.to_string(),
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            received: now,
            initial_age: Duration::ZERO,
            validator: [0; 16],
            length: Some(0),
            digest: None,
            varies_by: list.to_vec(),
        };
        let head = self.head(self.wanted.url.key(), &meta, now + VARY_KEPT);
        let stored = match self.cache.store.writer(head) {
            Ok(writer) => writer.commit(None).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::debug!(%error, "a list of varying fields could not be kept");
        }
    }

    /// A writer for an answer whose head is known.
    fn begin(&mut self, meta: Meta, source: Source) -> Result<(), End> {
        if meta.length.is_some_and(|length| length > self.cache.config.limits.object) {
            return Err(End::Failed(Failure::BodyTooLarge));
        }
        let expires = self.expires(&meta);
        let writer = match self.cache.store.writer(self.head(self.wanted.key, &meta, expires)) {
            Ok(writer) => writer,
            Err(StoreError::TooLarge { .. } | StoreError::NoRoom { .. } | StoreError::MetadataTooLong { .. }) => {
                return Err(End::Failed(Failure::BodyTooLarge));
            }
            Err(error) => {
                tracing::warn!(%error, "the store takes nothing in");
                return Err(End::Failed(Failure::BodyTooLarge));
            }
        };
        let content = Content::Filling(writer.partial());
        let varies_by = freshness::varies_by(&meta.fields);
        let answer = Arc::new(Answer { meta, key: self.wanted.key, varies_by, source, reason: None, content });
        // An origin's head is shown at once; a peer's with its first bytes, so that a lying peer can still be replaced.
        let shown = source == Source::Origin;
        if shown {
            self.lead.head(Arc::clone(&answer));
        }
        self.filling = Some(Filling { writer, hasher: blake3::Hasher::new(), answer, shown, at: 0 });
        Ok(())
    }

    /// Takes bytes in and shows them.
    async fn take(&mut self, data: Bytes) -> Result<(), End> {
        let Some(filling) = self.filling.as_mut() else { return Err(End::Failed(Failure::Internal)) };
        let count = wide(data.len());
        if filling.at + count > self.cache.config.limits.object {
            return Err(End::Failed(Failure::BodyTooLarge));
        }
        filling.hasher.update(&data);
        filling.writer.append(data).await.map_err(|error| {
            tracing::debug!(%error, "a fill was refused by the store");
            End::Failed(Failure::BodyTooLarge)
        })?;
        let first = filling.at == 0;
        filling.at += count;
        if !filling.shown {
            filling.shown = true;
            self.lead.head(Arc::clone(&filling.answer));
        }
        self.lead.show(filling.at);
        if first {
            self.keeper.announce();
        }
        Ok(())
    }

    /// All bytes are in: the object replaces the older one, and the index learns of it.
    async fn complete(&mut self) -> End {
        let Some(filling) = self.filling.take() else { return End::Failed(Failure::Internal) };
        let mut meta = filling.answer.meta.clone();
        meta.length = Some(filling.at);
        meta.digest = Some(filling.hasher.finalize());
        if !filling.shown {
            self.lead.head(Arc::clone(&filling.answer));
        }
        let written = meta.encode(SystemTime::now());
        if let Err(error) = filling.writer.commit(Some(written)).await {
            tracing::warn!(%error, url = %self.wanted.url, "a whole object could not be stored");
            return End::Failed(Failure::Internal);
        }
        self.cache.recovered(self.wanted.key);
        self.keeper.whole(self.wanted.key, Reference::whole_of(&meta), fresh_for(&self.cache, &meta));
        End::Whole
    }

    fn head(&self, key: Key, meta: &Meta, expires: SystemTime) -> Head {
        Head {
            key: store_key(key),
            directory: directory(&self.wanted.url),
            tags: Tags::default(),
            expires: Some(expires),
            metadata: meta.encode(SystemTime::now()),
            length: meta.length,
            born: self.born,
        }
    }

    /// When even a stale copy is of no more use.
    fn expires(&self, meta: &Meta) -> SystemTime {
        let now = SystemTime::now();
        let fresh = meta.lifetime(&self.cache.config.freshness).fresh.saturating_sub(meta.age(now));
        now + fresh + self.cache.config.freshness.keep
    }
}

/// Freshness left.
pub(crate) fn fresh_for(cache: &Cache, meta: &Meta) -> Duration {
    meta.lifetime(&cache.config.freshness).fresh.saturating_sub(meta.age(SystemTime::now()))
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A host's redirect to https is remembered so long.
pub(crate) const UPGRADE_KEPT: Duration = Duration::from_secs(3_600);

/// Others find out about the redirect by themselves for so long.
const UPGRADE_PASS: Duration = Duration::from_secs(30);

/// The list of fields that a URL's answers vary by is kept so long.
const VARY_KEPT: Duration = Duration::from_secs(86_400);

/// Bytes of an origin's error that are repeated to others.
const ERROR_BODY: usize = 64 << 10;
