//! Where bytes come from: one flight's fetch, from peers or the origin, into the store.
//!
//! A source that is lost is followed by the next, from the byte reached, under the same validator only, or by the origin
//! ([`crate::follow_on`]): copies are never mixed.
//! Of a copy from a peer no byte is shown, stored or passed on before its chunk is what its fetcher signed ([`crate::checked`]). So a
//! peer that lies half way costs a change of source, and what came before it stands.
//! Nothing that is short, failed or not whole ever replaces what is stored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use atoll_overlay::{Key, Level, Marker, NodeId, Value};
use atoll_store::{Head, Keep, PurgeNumber, StoreError, Writer};
use bytes::Bytes;
use http::StatusCode;

use crate::{
    cache::{Cache, Negative, directory, store_key},
    checked::Good,
    clock, digest,
    flight::{Answer, Content, End, Lead},
    freshness,
    keeper::Keeper,
    ledger::Reach,
    meta::Meta,
    peer::{Came, PeerError, PeerFill, PeerRequest},
    plan::{Cut, Plan},
    purge::{self, Heads},
    reason::{Failure, Reason, Source},
    recheck,
    seek::{Seek, Step},
    site::Own,
    stated::Stated,
    swarm::Swarm,
    variants::is_for_all,
    vouch::{CHUNK, Copied, Groups, Vouched},
    wanted::Wanted,
};

/// A stored answer that went stale, which the origin may confirm.
#[derive(Debug, Clone)]
pub(crate) struct Stale {
    pub(crate) meta: Meta,
    /// What the store holds it under.
    pub(crate) key: Key,
}

/// Leads a flight to its end, in a task of its own.
pub(crate) fn lead(cache: &Arc<Cache>, lead: Lead, wanted: Wanted, stale: Option<Stale>, mode: Mode) {
    // On the heap at once: a large future that becomes a task by value is moved ten times on its way into it and out.
    tokio::spawn(Box::pin(led(Arc::clone(cache), lead, wanted, stale, mode)));
}

async fn led(cache: Arc<Cache>, mut lead: Lead, wanted: Wanted, stale: Option<Stale>, mode: Mode) {
    lead.is_of(wanted.url.key());
    let (keeper, kept) = Keeper::start(&cache, &lead, wanted.key);
    let request = wanted.of_peers();
    let mut fetch = Fetch {
        cache: Arc::clone(&cache),
        lead,
        wanted,
        stale,
        mode,
        keeper,
        filling: None,
        all_anew: false,
        unconditional: false,
        unkept: None,
        born: PurgeNumber(0),
        applied: Heads::new(),
    };
    let end = tokio::select! {
        biased;
        end = fetch.run(request) => end,
        () = stopped(&cache) => End::Failed(Failure::Internal),
        never = kept => match never {},
    };
    if let End::Failed(failure) = end
        && failure.is_remembered()
        && !fetch.lead.has_head()
    {
        fetch.cache.failed(&fetch.wanted, fetch.born, Negative::Failure(failure));
    }
    fetch.count_unkept(end);
    if end == End::Whole {
        fetch.keeper.release();
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
    /// The origin's answer to a question for the rest was of no use: all is asked for.
    pub(crate) all_anew: bool,
    /// The origin confirmed something else than what is stored: it is asked for all, without conditions.
    pub(crate) unconditional: bool,
    /// Why the answer that was to be stored is not.
    pub(crate) unkept: Option<Reason>,
    pub(crate) born: PurgeNumber,
    /// The purges that had been applied by then.
    pub(crate) applied: Heads,
}

/// A body that is being written.
pub(crate) struct Filling {
    writer: Writer,
    /// None: it is made once somebody is there to be told of it. Kept apart: it is large, and a filling is moved about.
    digest: Option<Box<digest::Whole>>,
    /// What the origin says its digest is.
    stated: Option<Box<Stated>>,
    pub(crate) answer: Arc<Answer>,
    shown: bool,
    pub(crate) at: u64,
}

/// An answer that the store does not take in.
pub(crate) struct Refused {
    /// Why: there is no room now, or it is too large.
    pub(crate) failure: Failure,
    pub(crate) meta: Box<Meta>,
}

/// What one source came to.
pub(crate) enum Outcome {
    End(End),
    /// The source is gone; go on with another.
    Next(NodeId),
    /// What the source has is not what is here; go on with another.
    Other(NodeId),
    /// A lower lease lives at this holder.
    Superseded(Value),
    /// The origin did not bring the rest of what came from a peer before.
    Broken(Failure),
}

impl Fetch {
    async fn run(&mut self, request: PeerRequest) -> End {
        if self.mode != Mode::Shared {
            self.begins();
            return match self.ask_origin().await {
                Outcome::End(end) => end,
                // Without a lease nothing is given way to, and without peers nothing is followed.
                Outcome::Next(_) | Outcome::Other(_) | Outcome::Superseded(_) | Outcome::Broken(_) => {
                    End::Failed(Failure::Internal)
                }
            };
        }
        let mut seek = Seek::new(&self.cache, request, self.wanted.trace.clone());
        let (mut broken, mut contradicted) = (0, 0);
        loop {
            let step = self.step(&mut seek).await;
            let outcome = self.take_from(step, &mut seek).await;
            match outcome {
                Outcome::End(end) => return end,
                Outcome::Superseded(value) => {
                    self.lead.lost(true);
                    seek.prefer(value);
                }
                Outcome::Next(holder) => self.lose(&mut seek, Some(holder)),
                Outcome::Other(holder) => {
                    seek.gave_up(holder);
                    self.lose(&mut seek, None);
                    contradicted += 1;
                    // All of it is asked for, so that the origin says which is right.
                    self.all_anew = true;
                    if contradicted >= CONTRADICTED {
                        seek.ask_only_the_origin();
                    }
                }
                Outcome::Broken(failure) => {
                    broken += 1;
                    if let Err(end) = self.pause(broken, failure).await {
                        return end;
                    }
                    self.lose(&mut seek, None);
                }
            }
        }
    }

    /// Takes what a source sends.
    async fn take_from(&mut self, step: Step, seek: &mut Seek) -> Outcome {
        let trace = self.wanted.trace.clone();
        match step {
            Step::Peer(fill) => {
                if let Some(lease) = seek.take_lease() {
                    self.keeper.hold(lease);
                }
                let outcome = if Swarm::is_for(&self.cache, &fill) && self.wanted.cut.is_none() {
                    Box::pin(self.take_swarm(*fill, seek)).await
                } else {
                    Box::pin(self.take_peer(*fill)).await
                };
                let no_room = matches!(outcome, Outcome::End(End::Failed(Failure::Busy)));
                if !no_room || self.wanted.cut.is_some() {
                    return outcome;
                }
                // What the origin says can be passed on.
                trace.note("peer", || "its copy has no room in the store: the origin is asked".to_owned());
                self.cache.counters.ungranted();
                self.ask_origin().await
            }
            Step::Origin(lease) => {
                let leased = lease.as_ref().map(|lease| (lease.epoch, lease.counter));
                tracing::debug!(key = %self.wanted.key, ?leased, sought = %seek.in_words(), "the origin is asked");
                match lease {
                    Some(lease) => {
                        trace.note("origin", || format!("asked under lease {}.{}", lease.epoch, lease.counter));
                        self.keeper.hold(lease);
                    }
                    None => {
                        trace.note("origin", || "asked without a lease".to_owned());
                        if seek.is_rootless() {
                            self.keeper.without_lease();
                        }
                        self.cache.counters.ungranted();
                    }
                }
                self.ask_origin().await
            }
            Step::Alone => {
                self.keeper.without_lease();
                trace.note("origin", || "asked, since nobody else is there".to_owned());
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
        }
    }

    /// The source is gone, this peer or the origin: others are sought.
    fn lose(&mut self, seek: &mut Seek, holder: Option<NodeId>) {
        // Two that lost one source must not wait for each other: whoever asks this flight meanwhile is told.
        self.lead.lost(true);
        // What nobody has seen is no bond to that copy.
        self.filling.take_if(|filling| !filling.shown);
        let from = self.filling.as_ref().map(|filling| (filling.at, filling.answer.meta.validator));
        seek.lost(holder, from, self.lead.reference());
    }

    /// Seeks on; a purge that comes after this moment is newer than what is found.
    async fn step(&mut self, seek: &mut Seek) -> Step {
        if self.filling.is_none() {
            self.begins();
        }
        let step = seek.next().await;
        self.lead.lost(false);
        step
    }

    fn begins(&mut self) {
        // In this order: what is applied between the two is not said to be.
        self.applied = self.cache.purges.heads();
        self.born = self.cache.store.purge_number();
        self.lead.began(self.born);
    }

    /// Streams a peer's copy in. What it gives is good, whatever becomes of it.
    async fn take_peer(&mut self, mut fill: PeerFill) -> Outcome {
        let holder = fill.holder.value.holder;
        if let Err(outcome) = self.begin_copy(&fill.meta, (holder, fill.holder.value.level)).await {
            return outcome;
        }
        while !fill.is_whole() {
            let error = match fill.next().await {
                Ok(Came::Wait) => {
                    self.lead.beat();
                    continue;
                }
                Ok(Came::Promise(group)) => {
                    self.lead.ledger().push(group, self.reached());
                    continue;
                }
                Ok(Came::Good(chunks)) => match self.take_chunks(chunks).await {
                    Ok(true) => continue,
                    Ok(false) => PeerError::Contradicts,
                    Err(end) => return Outcome::End(end),
                },
                Err(error) => error,
            };
            self.note_loss(holder, &error);
            return if error == PeerError::Contradicts { Outcome::Other(holder) } else { Outcome::Next(holder) };
        }
        self.end_copy().await
    }

    /// A peer's copy is about to come, or the rest of it.
    pub(crate) async fn begin_copy(&mut self, meta: &Meta, (holder, level): (NodeId, Level)) -> Result<(), Outcome> {
        let misplaced = self.wanted.key == self.wanted.url.key() && self.wanted.cut.is_none() && !is_for_all(meta);
        if misplaced || !self.is_of_cut(meta) {
            self.cache.counters.peer_fetch("refused");
            return Err(Outcome::Next(holder));
        }
        if self.filling.is_some() {
            return Ok(());
        }
        if self.wanted.cut.is_none() && self.wanted.key != self.wanted.url.key() {
            self.list_copy(meta).await;
        }
        self.begin(meta.clone(), Source::Peer(level)).map_err(|refused| {
            self.cache.counters.peer_fetch(match refused.failure {
                Failure::Busy => "no_room",
                Failure::BodyTooLarge => "too_large",
                _ => "store_failed",
            });
            Outcome::End(End::Failed(refused.failure))
        })
    }

    /// All of it has come.
    pub(crate) async fn end_copy(&mut self) -> Outcome {
        self.cache.counters.peer_fetch("ok");
        let end = self.complete().await;
        if end == End::Whole {
            recheck::consider(&self.cache, &self.wanted);
        }
        Outcome::End(end)
    }

    /// Bytes that are there.
    pub(crate) fn reached(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.at)
    }

    /// Takes chunks that are good. False: one is not what is here at its place already.
    pub(crate) async fn take_chunks(&mut self, chunks: Vec<Good>) -> Result<bool, End> {
        for Good { start, mut bytes, digest } in chunks {
            self.cache.counters.peer_bytes(bytes.len());
            let there = self.filling.as_ref().map_or(0, |filling| filling.at);
            let again = usize::try_from(there.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
            let known = bytes.split_to(again);
            if self.differs(start, &known).await.is_some() {
                return Ok(false);
            }
            if !bytes.is_empty() {
                self.take_in(bytes, known.is_empty().then_some(digest)).await?;
            }
        }
        Ok(true)
    }

    /// Whether a peer's copy is the slice, or the plan, that is wanted.
    fn is_of_cut(&self, meta: &Meta) -> bool {
        match &self.wanted.cut {
            None => meta.status != StatusCode::PARTIAL_CONTENT,
            Some(Cut::Slice(plan, number)) => plan.fits(*number, meta),
            Some(Cut::First(whole)) => {
                meta.length == Some(0) && Plan::of(*whole, meta, &self.cache.config.slices).is_some()
            }
        }
    }

    /// A writer for an answer whose head is known; refused, the head is given back.
    pub(crate) fn begin(&mut self, mut meta: Meta, source: Source) -> Result<(), Refused> {
        if source == Source::Origin {
            meta.vouched = Vouched::from_origin(self.applied.clone());
        }
        let writer = match self.writer(&meta) {
            Ok(writer) => writer,
            Err(failure) => return Err(Refused { failure, meta: Box::new(meta) }),
        };
        // Of a peer's too: it may still be fetching, and not know yet that what it passes on is something else.
        let whole = meta.status == StatusCode::OK && self.wanted.cut.is_none();
        let stated = whole.then(|| Stated::of(&meta.fields)).flatten();
        let content = Content::Filling(writer.partial());
        let varies_by = freshness::varies_by(&meta.fields);
        let answer = Arc::new(Answer { meta, key: self.wanted.key, varies_by, source, reason: None, content });
        // Whatever was promised by somebody of whom nothing was shown.
        self.lead.ledger().reset();
        if source == Source::Origin {
            self.lead.ledger().take_over(0);
        }
        // An origin's head is shown at once; a peer's with its first bytes, so that a lying peer can still be replaced.
        let shown = source == Source::Origin;
        if shown {
            self.lead.head(Arc::clone(&answer));
        }
        let digest = (!self.can_wait(&answer.meta, source)).then(Box::default);
        self.filling = Some(Filling { writer, digest, stated, answer, shown, at: 0 });
        Ok(())
    }

    /// Whether the digest of what the origin is about to send can be made later: nobody is there to be told, and it is short.
    fn can_wait(&self, meta: &Meta, source: Source) -> bool {
        let short = meta.length.is_some_and(|length| length <= u64::from(CHUNK)) && meta.is_short();
        source == Source::Origin && short && self.cache.announcer().is_none()
    }

    fn writer(&self, meta: &Meta) -> Result<Writer, Failure> {
        if meta.length.is_some_and(|length| length > self.cache.config.limits.object) {
            return Err(Failure::BodyTooLarge);
        }
        let expires = self.expires(meta);
        self.cache.store.writer(self.first_head(meta, expires)).map_err(|error| match error {
            StoreError::NoRoom { .. } => Failure::Busy,
            StoreError::TooLarge { .. } | StoreError::MetadataTooLong { .. } => Failure::BodyTooLarge,
            error => {
                tracing::warn!(%error, "the store takes nothing in");
                Failure::Internal
            }
        })
    }

    /// Takes bytes in and shows them.
    pub(crate) async fn take(&mut self, data: Bytes) -> Result<(), End> {
        self.take_in(data, None).await
    }

    /// The same; the digest, if these bytes are a whole chunk.
    async fn take_in(&mut self, data: Bytes, digest: Option<blake3::Hash>) -> Result<(), End> {
        let Some(filling) = self.filling.as_mut() else { return Err(End::Failed(Failure::Internal)) };
        let count = wide(data.len());
        if filling.at + count > self.cache.config.limits.object {
            return Err(End::Failed(Failure::BodyTooLarge));
        }
        match (&mut filling.digest, digest) {
            (Some(whole), Some(digest)) => whole.chunk(&data, &digest),
            (Some(whole), None) => whole.update(&data),
            (None, _) => {}
        }
        if let Some(stated) = &mut filling.stated {
            stated.update(&data);
        }
        if let Err(error) = filling.writer.append(data).await {
            tracing::debug!(%error, "a fill was refused by the store");
            self.unkept = Some(Reason::of_store(&error));
            return Err(End::Failed(Failure::BodyTooLarge));
        }
        let first = filling.at == 0;
        filling.at += count;
        if !filling.shown {
            filling.shown = true;
            self.lead.head(Arc::clone(&filling.answer));
        }
        self.lead.show(filling.at);
        // What nobody else can join, a part above all, is no copy to name to others yet.
        if first && self.mode == Mode::Shared {
            self.keeper.announce(filling.answer.meta.length);
        }
        Ok(())
    }

    /// All bytes are in: the object replaces the older one, and the index learns of it.
    pub(crate) async fn complete(&mut self) -> End {
        let Some(mut filling) = self.filling.take() else { return End::Failed(Failure::Internal) };
        let mut meta = filling.answer.meta.clone();
        meta.length = Some(filling.at);
        meta.digest = filling.digest.map(|mut digest| digest.finalize());
        meta.undigested = meta.digest.is_none();
        meta.withhold_private();
        let signer = (self.cache.streams.as_ref(), Copied { key: self.wanted.key, validator: meta.validator });
        let partial = filling.writer.partial();
        let reach = Reach { partial: &partial, visible: filling.at, whole: true };
        meta.vouched.body = match self.lead.ledger().is_relayed() {
            false => Groups::Own,
            true => match Box::pin(self.lead.ledger().kept(signer, reach)).await {
                Ok(groups) => groups,
                Err(failure) => {
                    self.unkept = Some(Reason::of_broken(failure));
                    return End::Failed(failure);
                }
            },
        };
        if !filling.shown {
            self.lead.head(Arc::clone(&filling.answer));
        }
        self.lead.land();
        if !self.is_as_stated(filling.stated.take()) {
            self.lead.withhold(filling.writer);
            return End::Whole;
        }
        if meta.vouched.body == Groups::Beside {
            Box::pin(self.keep_beside(&meta)).await;
        }
        if self.lead.is_overtaken() {
            // What was asked for before an unsafe method may be what that method changed.
            self.wanted.trace.note("kept", || "not stored: a method that may change it came meanwhile".to_owned());
            self.unkept = Some(Reason::Overtaken);
            self.lead.withhold(filling.writer);
            return End::Whole;
        }
        let written = meta.encode(clock::now());
        let keep = if self.lead.is_in_demand() { Keep::InRam } else { Keep::OnDisk };
        let stored = match filling.writer.commit_or_hold(Some(written), keep).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, url = %self.wanted.url, "a whole object could not be stored");
                self.wanted.trace.note("kept", || format!("not stored: the store failed: {error}"));
                self.unkept = Some(Reason::of_store(&error));
                return End::Failed(Failure::Internal);
            }
        };
        if self.lead.is_overtaken() {
            self.unkept = Some(Reason::Overtaken);
            if let Err(error) = self.cache.store.remove(&store_key(self.wanted.key)).await {
                tracing::warn!(%error, "an answer that is no longer good could not be removed");
            }
        }
        self.cache.recovered(self.wanted.key);
        self.tell_of(&meta, &stored);
        End::Whole
    }

    /// Freshness left.
    pub(crate) fn fresh_for(&self, meta: &Meta) -> Duration {
        fresh_for(&self.cache, self.wanted.site.as_deref(), meta)
    }

    /// The head of a body that is about to come. What is known of it is written when all of it is there; before, it is only held against
    /// the store's limit, where it is not plainly below.
    fn first_head(&self, meta: &Meta, expires: SystemTime) -> Head {
        let metadata = if meta.is_short() { Bytes::new() } else { meta.encode(clock::now()) };
        self.head_with(metadata, self.wanted.key, meta, expires)
    }

    pub(crate) fn head(&self, key: Key, meta: &Meta, expires: SystemTime) -> Head {
        self.head_with(meta.encode(clock::now()), key, meta, expires)
    }

    fn head_with(&self, metadata: Bytes, key: Key, meta: &Meta, expires: SystemTime) -> Head {
        Head {
            key: store_key(key),
            directory: directory(&self.wanted.url),
            tags: purge::bits(purge::place_of(&meta.url), &meta.fields),
            expires: Some(expires),
            metadata,
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

/// Sources in one flight that contradict what is here: after so many it is rather that which is wrong.
const CONTRADICTED: u32 = 2;
