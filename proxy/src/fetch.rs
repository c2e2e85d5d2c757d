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

use atoll_overlay::{Key, Marker, NodeId, Value};
use atoll_store::{Head, PurgeNumber, StoreError, Tags, Writer};
use bytes::Bytes;
use http::StatusCode;

use crate::{
    cache::{Cache, Negative, Wanted, directory, store_key},
    clock,
    flight::{Answer, Content, End, Lead},
    frames::Frame,
    freshness,
    keeper::Keeper,
    meta::Meta,
    peer::{PeerFill, PeerRequest},
    reason::{Failure, Source},
    reference::Reference,
    seek::{Seek, Step},
    site::Own,
};

/// A stored answer that went stale, which the origin may confirm.
#[derive(Debug, Clone)]
pub(crate) struct Stale {
    pub(crate) meta: Meta,
    /// What the store holds it under.
    pub(crate) key: Key,
}

/// Leads a flight to its end. Runs as a task of its own.
pub(crate) async fn lead(cache: Arc<Cache>, lead: Lead, wanted: Wanted, stale: Option<Stale>, mode: Mode) {
    let keeper = Keeper::start(&cache, &lead, wanted.key);
    let request = PeerRequest { key: wanted.key, url: wanted.url.clone(), from: None };
    let mut fetch =
        Fetch { cache: Arc::clone(&cache), lead, wanted, stale, mode, keeper, filling: None, born: PurgeNumber(0) };
    let end = tokio::select! {
        end = fetch.run(request) => end,
        () = stopped(&cache) => End::Failed(Failure::Internal),
    };
    if let End::Failed(failure) = end
        && failure.is_origins()
        && !fetch.lead.has_head()
    {
        fetch.cache.failed(fetch.wanted.key, Negative::Failure(failure));
    }
    fetch.wanted.trace.note("flight", || format!("ended: {}", end.in_words()));
    fetch.lead.finish(end);
}

/// Ready once the proxy is stopped.
async fn stopped(cache: &Cache) {
    let mut stop = cache.stop.subscribe();
    // The sender lives in the cache that is borrowed here.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whom a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everyone: peers are asked first, and whoever comes joins.
    Shared,
    /// One client, until its answer says that others may have it too.
    Alone,
    /// One client, who wants nothing of it kept.
    Unstored,
}

pub(crate) struct Fetch {
    pub(crate) cache: Arc<Cache>,
    pub(crate) lead: Lead,
    pub(crate) wanted: Wanted,
    pub(crate) stale: Option<Stale>,
    pub(crate) mode: Mode,
    pub(crate) keeper: Keeper,
    pub(crate) filling: Option<Filling>,
    pub(crate) born: PurgeNumber,
}

/// A body that is being written.
pub(crate) struct Filling {
    writer: Writer,
    hasher: blake3::Hasher,
    pub(crate) answer: Arc<Answer>,
    shown: bool,
    pub(crate) at: u64,
}

/// What one source came to.
pub(crate) enum Outcome {
    End(End),
    /// The source is gone; go on with another.
    Next(NodeId),
    /// A lower lease lives at this holder.
    Superseded(Value),
}

impl Fetch {
    async fn run(&mut self, request: PeerRequest) -> End {
        if self.mode != Mode::Shared {
            self.born = self.cache.store.purge_number();
            return match self.ask_origin().await {
                Outcome::End(end) => end,
                // Without a lease nothing is given way to.
                Outcome::Next(_) | Outcome::Superseded(_) => End::Failed(Failure::Internal),
            };
        }
        let trace = self.wanted.trace.clone();
        let mut seek = Seek::new(&self.cache, request, trace.clone());
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
                        Some(lease) => {
                            trace.note("origin", || format!("asked under lease {}.{}", lease.epoch, lease.counter));
                            self.keeper.hold(lease);
                        }
                        None => {
                            trace.note("origin", || "asked without a lease".to_owned());
                            self.cache.counters.ungranted();
                        }
                    }
                    self.ask_origin().await
                }
                Step::Marked(Marker::Pass(span)) => {
                    self.cache.passing.put(self.wanted.key, (), span);
                    Outcome::End(End::Again)
                }
                Step::Marked(Marker::Vary(names)) => {
                    self.remember_vary(&names, None).await;
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

    /// A writer for an answer whose head is known.
    pub(crate) fn begin(&mut self, meta: Meta, source: Source) -> Result<(), End> {
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
    pub(crate) async fn take(&mut self, data: Bytes) -> Result<(), End> {
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
        // What nobody else can join, a part above all, is no copy to name to others yet.
        if first && self.mode == Mode::Shared {
            self.keeper.announce();
        }
        Ok(())
    }

    /// All bytes are in: the object replaces the older one, and the index learns of it.
    pub(crate) async fn complete(&mut self) -> End {
        let Some(filling) = self.filling.take() else { return End::Failed(Failure::Internal) };
        let mut meta = filling.answer.meta.clone();
        meta.length = Some(filling.at);
        meta.digest = Some(filling.hasher.finalize());
        meta.withhold_private();
        if !filling.shown {
            self.lead.head(Arc::clone(&filling.answer));
        }
        if self.lead.is_overtaken() {
            // What was asked for before an unsafe method may be what that method changed.
            filling.writer.abort();
            return End::Whole;
        }
        let written = meta.encode(clock::now());
        if let Err(error) = filling.writer.commit(Some(written)).await {
            tracing::warn!(%error, url = %self.wanted.url, "a whole object could not be stored");
            return End::Failed(Failure::Internal);
        }
        self.cache.recovered(self.wanted.key);
        if meta.status == StatusCode::PARTIAL_CONTENT {
            return End::Whole;
        }
        self.wanted.trace.note("kept", || format!("stored whole, {} bytes, and announced", meta.length.unwrap_or(0)));
        self.keeper.whole(self.wanted.key, Reference::whole_of(&meta), self.fresh_for(&meta));
        End::Whole
    }

    /// Freshness left.
    pub(crate) fn fresh_for(&self, meta: &Meta) -> Duration {
        fresh_for(&self.cache, self.wanted.site.as_deref(), meta)
    }

    pub(crate) fn head(&self, key: Key, meta: &Meta, expires: SystemTime) -> Head {
        Head {
            key: store_key(key),
            directory: directory(&self.wanted.url),
            tags: Tags::default(),
            expires: Some(expires),
            metadata: meta.encode(clock::now()),
            length: meta.length,
            born: self.born,
        }
    }

    /// When even a stale copy is of no more use.
    pub(crate) fn expires(&self, meta: &Meta) -> SystemTime {
        let now = clock::now();
        let fresh = self.fresh_for(meta);
        now + fresh + self.cache.config.freshness.keep
    }
}

/// Freshness left.
pub(crate) fn fresh_for(cache: &Cache, site: Option<&Own>, meta: &Meta) -> Duration {
    cache.lifetime(site, meta).fresh.saturating_sub(meta.age(clock::now()))
}

pub(crate) fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
