//! One large copy from several peers that have it whole, at once: each sends a stretch the size of a slice, those needed first asked
//! for first [Kraken, Dragonfly]. All are as near as the first.
//!
//! ```text
//!   in the store | being taken in | ahead, held in memory: one stretch from one peer | nobody was asked for
//!   ------------>|====>           |========|=====>  |==>     |                       |
//! ```
//!
//! What comes goes into the store in order, so that clients and peers stream from it as from any fill; no more is ahead of it than one
//! stretch for each peer, and over all copies no more than the operator gives memory for. Whoever has nothing to send helps with the stretch that is needed now, from where that is; when that makes
//! no progress somebody helps who is busy. The first to go on where the store ends is taken from, and the others are let go. A peer
//! that is lost, or lies, costs the rest of its stretch. Where there is only one peer, it is asked once, for all.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use atoll_overlay::NodeId;
use futures::{
    Stream, StreamExt as _, TryFutureExt as _,
    stream::{self, BoxStream},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::{
    cache::Cache,
    checked::Good,
    config::Config,
    fetch::{Fetch, Outcome, wide},
    frames::Abort,
    peer::{Came, Candidate, Life, PeerError, PeerFill, PeerRequest, ask},
    seek::{BUSY_MOST, BUSY_PAUSE, Seek},
    trace::short,
    vouch::Group,
};

impl Fetch {
    /// Streams a copy in that its holder has whole; from others too, as these become known.
    pub(crate) async fn take_swarm(&mut self, fill: PeerFill, seek: &mut Seek) -> Outcome {
        if let Err(outcome) = self.begin_copy(&fill.meta, (fill.holder.value.holder, fill.holder.value.level)).await {
            return outcome;
        }
        let request = self.wanted.of_peers();
        let mut swarm = Swarm::of(&self.cache, request, fill, self.reached());
        let first = swarm.first.clone();
        loop {
            let began = Instant::now();
            let handed_on = self.hand_on(&mut swarm).await;
            swarm.was_away(began.elapsed());
            match handed_on {
                Ok(true) => return self.end_copy().await,
                Ok(false) => {}
                Err(outcome) => return outcome,
            }
            swarm.share_out();
            let (room, hedge) = (swarm.has_room(), swarm.hedge_at());
            let happened = tokio::select! {
                biased;
                candidate = seek.another(&first, room) => {
                    self.wanted.trace.note("peer", || format!("{} sends a part", short(candidate.value.holder)));
                    swarm.join(candidate);
                    Happened::Came
                }
                happened = swarm.happened() => happened,
                () = sleep_until(hedge) => {
                    swarm.hedge();
                    Happened::Came
                }
            };
            if let Some(lease) = seek.take_lease() {
                self.keeper.hold(lease);
            }
            match happened {
                Happened::Came => {}
                Happened::Life => self.lead.beat(),
                Happened::Failed(holder, PeerError::Aborted(Abort::Busy(_))) if swarm.rest(holder) => {}
                // Too busy for a part is not too busy for all of it: it may be the one that is left.
                Happened::Failed(holder, PeerError::Aborted(Abort::Busy(_))) if swarm.sources.len() > 1 => {
                    seek.put_back(swarm.source(holder));
                    swarm.leave(holder);
                }
                Happened::Failed(holder, error) => {
                    self.note_loss(holder, &error);
                    if !swarm.leave(holder) {
                        return Outcome::Next(holder);
                    }
                    seek.gave_up(holder);
                }
            }
        }
    }

    /// What is there goes into the store; whether that is all.
    async fn hand_on(&mut self, swarm: &mut Swarm) -> Result<bool, Outcome> {
        loop {
            let at = self.reached();
            match swarm.next(at) {
                Next::Wait => return Ok(false),
                Next::Whole => return Ok(true),
                Next::Words(words) => self.lead.ledger().push(words, at),
                Next::Chunk(words, good, holder) => {
                    if let Some(words) = words {
                        self.lead.ledger().push(words, at);
                    }
                    if self.take_chunks(vec![good]).await.map_err(Outcome::End)? {
                        continue;
                    }
                    self.note_loss(holder, &PeerError::Contradicts);
                    swarm.forget(at);
                    if !swarm.leave(holder) {
                        return Err(Outcome::Other(holder));
                    }
                }
            }
        }
    }
}

/// The peers that one copy comes from, and what is on its way.
pub(crate) struct Swarm {
    cache: Arc<Cache>,
    request: PeerRequest,
    validator: [u8; 16],
    /// Bytes of the whole.
    length: u64,
    /// The first of them: others hold the same copy, and are as near.
    first: Candidate,
    sources: Vec<Source>,
    /// What is asked for and not all in the store, in order and without gaps.
    stretches: VecDeque<Stretch>,
    /// Where the part begins that nobody was asked for.
    next: u64,
    /// When the store last got something.
    progress: Instant,
    /// Runs so far.
    runs: u64,
}

/// A peer.
struct Source {
    candidate: Candidate,
    /// Bytes that it sent.
    bytes: u64,
    /// How often it was busy since it last sent something.
    busy: u32,
    /// Until when it is left alone for that.
    rests: Option<Instant>,
}

/// Bytes that are asked for together.
struct Stretch {
    from: u64,
    to: u64,
    /// Each begins where those before it were when it was asked.
    runs: Vec<Run>,
    /// Which of them is being taken in.
    taken: Option<u64>,
    /// Its place among all that is held ahead; the one that is needed first when it is asked for is held nowhere.
    _room: Option<OwnedSemaphorePermit>,
}

/// What one peer sends of a stretch.
struct Run {
    name: u64,
    holder: NodeId,
    /// `None`: nothing more comes.
    flow: Option<BoxStream<'static, Result<Came, PeerError>>>,
    /// The body's end came too.
    ended: bool,
    came: VecDeque<Event>,
    /// The words for what comes next, if they were not passed on yet.
    words: Option<Arc<Group>>,
    /// Up to where it has sent.
    reach: u64,
    /// It was asked because another was slow.
    helps: bool,
}

enum Event {
    Words(Arc<Group>),
    Chunk(Good),
}

/// What is next for the store.
enum Next {
    /// A chunk, the words for it if they are new, and who sent it.
    Chunk(Option<Arc<Group>>, Good, NodeId),
    /// Words that the body ends here.
    Words(Arc<Group>),
    /// Nothing yet.
    Wait,
    /// Nothing more: the body is whole.
    Whole,
}

/// What became of one who was asked.
enum Happened {
    Came,
    /// The copy's fetcher lives.
    Life,
    Failed(NodeId, PeerError),
}

impl Swarm {
    /// Whether a copy may come from several.
    pub(crate) fn is_for(cache: &Cache, fill: &PeerFill) -> bool {
        let large = fill.meta.length.is_some_and(|length| length > cache.config.slices.over);
        large && cache.config.peers.sources > 1 && fill.holder.reference.whole().is_some()
    }

    /// Begins with one who sends all of the rest already, from this byte on.
    fn of(cache: &Arc<Cache>, request: PeerRequest, fill: PeerFill, at: u64) -> Self {
        let length = fill.meta.length.unwrap_or(0);
        let request = PeerRequest { absence: fill.absence.clone(), ..request };
        let mut swarm = Self {
            cache: Arc::clone(cache),
            request,
            validator: fill.meta.validator,
            length,
            first: fill.holder.clone(),
            sources: vec![Source::of(fill.holder.clone())],
            stretches: VecDeque::new(),
            next: length,
            progress: Instant::now(),
            runs: 0,
        };
        let run = swarm.run(fill.holder.value.holder, at, flow(fill).boxed());
        swarm.stretches.push_back(Stretch { from: at, to: length, runs: vec![run], taken: None, _room: None });
        swarm
    }

    /// For so long nobody looked at what comes.
    fn was_away(&mut self, span: Duration) {
        self.request.absence.add(span);
        self.progress = (self.progress + span).min(Instant::now());
    }

    /// Whether one more may join.
    fn has_room(&self) -> bool {
        self.sources.len() < self.cache.config.peers.sources
    }

    /// One more joins. Of what one was asked for all of, the rest is shared out.
    fn join(&mut self, candidate: Candidate) {
        self.sources.push(Source::of(candidate));
        let size = self.size();
        if let Some(last) = self.stretches.back_mut() {
            let cut = end_of_slice(last.reach(), size);
            if cut < last.to {
                (last.to, self.next) = (cut, cut);
            }
        }
    }

    /// Asks a peer no more; what it sent stays. False if nobody is left.
    fn leave(&mut self, holder: NodeId) -> bool {
        self.sources.retain(|source| source.candidate.value.holder != holder);
        for run in self.stretches.iter_mut().flat_map(|stretch| &mut stretch.runs) {
            if run.holder == holder {
                run.flow = None;
            }
        }
        !self.sources.is_empty()
    }

    /// One is left: it is asked for all that nobody has begun to send.
    fn leave_to_one(&mut self) {
        while let [.., before, last] = &self.stretches.make_contiguous()[..]
            && last.reach() == last.from
            && last.open().next().is_none()
        {
            self.next = before.to;
            self.stretches.pop_back();
        }
        if let Some(last) = self.stretches.back_mut().filter(|last| last.open().next().is_none()) {
            (last.to, self.next) = (self.length, self.length);
        }
    }

    /// What is held of the stretch that is needed now is not to be used.
    fn forget(&mut self, at: u64) {
        if let Some(first) = self.stretches.front_mut() {
            first.from = at;
            first.runs.clear();
        }
    }

    /// A peer is busy: it is left alone for a while. False if it was so too often.
    fn rest(&mut self, holder: NodeId) -> bool {
        let Some(source) = self.source_mut(holder) else { return false };
        source.busy += 1;
        source.rests = Some(Instant::now() + BUSY_PAUSE * source.busy);
        source.busy <= BUSY_MOST
    }

    /// Gives whoever sends nothing something to send.
    fn share_out(&mut self) {
        if self.sources.len() == 1 {
            self.leave_to_one();
        }
        let now = Instant::now();
        let is_idle = |source: &Source| {
            let holder = source.candidate.value.holder;
            source.rests.is_none_or(|until| until <= now)
                && !self.stretches.iter().flat_map(Stretch::open).any(|run| run.holder == holder)
        };
        let idle: Vec<NodeId> =
            self.sources.iter().filter(|source| is_idle(source)).map(|source| source.candidate.value.holder).collect();
        for holder in idle {
            self.employ(holder);
        }
    }

    /// The first that is needed of what nobody sends: the rest of a stretch, a new one; else what another may be slow with.
    fn employ(&mut self, holder: NodeId) {
        let length = self.length;
        let left = |stretch: &Stretch| !stretch.is_over(length) && stretch.open().next().is_none();
        if let Some(place) = self.stretches.iter().position(left) {
            return self.ask(place, holder);
        }
        let ahead = !self.stretches.is_empty();
        let room = if ahead { Arc::clone(&self.cache.ahead).try_acquire_owned().ok() } else { None };
        let may = room.is_some() || !ahead;
        if may && self.next < length && self.stretches.len() <= self.sources.len() {
            let to = if self.sources.len() > 1 { end_of_slice(self.next, self.size()).min(length) } else { length };
            self.stretches.push_back(Stretch { from: self.next, to, runs: Vec::new(), taken: None, _room: room });
            self.next = to;
            return self.ask(self.stretches.len() - 1, holder);
        }
        let slow = |stretch: &Stretch| !stretch.is_over(length) && stretch.open().count() == 1;
        if let Some(place) = self.stretches.iter().position(slow) {
            self.ask(place, holder);
        }
    }

    /// When something is to be done if nothing comes: help with what is needed now, or asking one who was busy.
    fn hedge_at(&self) -> Instant {
        let hedge = self.progress + self.cache.config.peers.hedge;
        let now = Instant::now();
        let rests = self.sources.iter().filter_map(|source| source.rests).filter(|until| *until > now);
        rests.fold(hedge, Instant::min)
    }

    /// Nothing came for a while: the best of the others helps with what is needed now, whatever else it sends.
    fn hedge(&mut self) {
        if self.progress.elapsed() < self.cache.config.peers.hedge {
            return;
        }
        self.progress = Instant::now();
        let Some(slow) = self.stretches.front().and_then(|first| match &first.open().collect::<Vec<_>>()[..] {
            [one] => Some(one.holder),
            _ => None,
        }) else {
            return;
        };
        let others =
            self.sources.iter().filter(|source| source.candidate.value.holder != slow && source.rests.is_none());
        if let Some(best) = others.max_by_key(|source| source.bytes).map(|source| source.candidate.value.holder) {
            self.ask(0, best);
            if let Some(helper) = self.stretches.front_mut().and_then(|first| first.runs.last_mut()) {
                helper.helps = true;
            }
        }
    }

    /// Waits for anything to come.
    async fn happened(&mut self) -> Happened {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// What is needed first is looked for first.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        let length = self.length;
        for Stretch { to, runs, .. } in &mut self.stretches {
            for run in runs {
                let Some(flow) = &mut run.flow else { continue };
                let Poll::Ready(come) = flow.poll_next_unpin(cx) else { continue };
                let before = run.reach;
                let happened = run.take(come, *to, length);
                let (holder, bytes) = (run.holder, run.reach.saturating_sub(before));
                if bytes > 0
                    && let Some(source) = self.sources.iter_mut().find(|it| it.candidate.value.holder == holder)
                {
                    source.bytes += bytes;
                    (source.busy, source.rests) = (0, None);
                }
                return Poll::Ready(happened);
            }
        }
        Poll::Pending
    }

    /// What follows these bytes.
    fn next(&mut self, at: u64) -> Next {
        while let Some(first) = self.stretches.front_mut() {
            if let Some(run) = first.ready(at)
                && let Some(Event::Chunk(good)) = run.came.pop_front()
            {
                if std::mem::take(&mut run.helps) {
                    self.cache.counters.hedge("peer");
                }
                self.progress = Instant::now();
                return Next::Chunk(run.words.take(), good, run.holder);
            }
            if at < first.to {
                return Next::Wait;
            }
            if first.to >= self.length {
                let Some(last) = first.runs.iter_mut().find(|run| run.ended) else { return Next::Wait };
                return last.words.take().map_or(Next::Whole, Next::Words);
            }
            self.stretches.pop_front();
        }
        // Between stretches: the next is about to be asked for.
        Next::Wait
    }

    /// Asks a peer for what is missing of a stretch.
    fn ask(&mut self, place: usize, holder: NodeId) {
        let source = self.sources.iter().find(|source| source.candidate.value.holder == holder);
        let (Some(source), Some(stretch)) = (source, self.stretches.get(place)) else { return };
        let (from, length) = (stretch.reach(), self.length);
        // Of one alone all of the rest is asked for: it is not to be too busy for a part.
        let to = (stretch.to < length && self.sources.len() > 1).then_some(stretch.to);
        let request = PeerRequest { from: Some((from, self.validator)), to, ..self.request.clone() };
        let (cache, candidate) = (Arc::clone(&self.cache), source.candidate.clone());
        let opened = async move {
            let patience = cache.config.peers.patience;
            let fill = ask(Arc::clone(&cache), candidate, request, Life::new(), patience).await?;
            if fill.meta.length == Some(length) { Ok(flow(fill)) } else { Err(PeerError::Absent) }
        };
        let run = self.run(holder, from, opened.try_flatten_stream().boxed());
        if let Some(stretch) = self.stretches.get_mut(place) {
            stretch.runs.push(run);
        }
    }

    fn run(&mut self, holder: NodeId, reach: u64, flow: BoxStream<'static, Result<Came, PeerError>>) -> Run {
        self.runs += 1;
        let (name, flow) = (self.runs, Some(flow));
        Run { name, holder, flow, ended: false, came: VecDeque::new(), words: None, reach, helps: false }
    }

    fn source(&self, holder: NodeId) -> Option<Candidate> {
        let source = self.sources.iter().find(|source| source.candidate.value.holder == holder);
        source.map(|source| source.candidate.clone())
    }

    fn source_mut(&mut self, holder: NodeId) -> Option<&mut Source> {
        self.sources.iter_mut().find(|source| source.candidate.value.holder == holder)
    }

    fn size(&self) -> u64 {
        self.cache.config.slices.size.max(1)
    }
}

impl Source {
    fn of(candidate: Candidate) -> Self {
        Self { candidate, bytes: 0, busy: 0, rests: None }
    }
}

impl Stretch {
    /// Up to where it was sent.
    fn reach(&self) -> u64 {
        self.runs.iter().map(|run| run.reach).fold(self.from, u64::max)
    }

    /// Those who send of it.
    fn open(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.flow.is_some())
    }

    /// Whether all of it was sent; of a body so long the end must have been said too.
    fn is_over(&self, length: u64) -> bool {
        self.reach() >= self.to && (self.to < length || self.runs.iter().any(|run| run.ended))
    }

    /// The run that has what follows these bytes, if one has: the one that is being taken, or else another. It is let go then.
    fn ready(&mut self, at: u64) -> Option<&mut Run> {
        let mut ready: Vec<u64> = Vec::new();
        for run in &mut self.runs {
            if run.is_ready(at) {
                ready.push(run.name);
            }
        }
        let taken = self.taken.filter(|taken| ready.contains(taken)).or_else(|| ready.first().copied())?;
        if let Some(before) = self.taken.replace(taken).filter(|before| *before != taken) {
            self.runs.retain(|run| run.name != before);
        }
        self.runs.iter_mut().find(|run| run.name == taken)
    }
}

impl Run {
    /// Takes in what came; of a stretch that ends before the body no more is waited for than it has, and nothing has more than the
    /// body.
    fn take(&mut self, come: Option<Result<Came, PeerError>>, to: u64, length: u64) -> Happened {
        match come {
            None => (self.flow, self.ended) = (None, true),
            Some(Err(error)) => {
                self.flow = None;
                return Happened::Failed(self.holder, error);
            }
            Some(Ok(Came::Wait)) => return Happened::Life,
            Some(Ok(Came::Promise(group))) => self.came.push_back(Event::Words(group)),
            Some(Ok(Came::Good(chunks))) => {
                for chunk in chunks {
                    self.reach = chunk.start.saturating_add(wide(chunk.bytes.len()));
                    if self.reach > length {
                        self.flow = None;
                        return Happened::Failed(self.holder, PeerError::Misbehaved);
                    }
                    self.came.push_back(Event::Chunk(chunk));
                }
                if to < length && self.reach >= to {
                    self.flow = None;
                }
            }
        }
        Happened::Came
    }

    /// Whether the next chunk follows these bytes; those before it are dropped.
    fn is_ready(&mut self, at: u64) -> bool {
        while let Some(event) = self.came.pop_front() {
            match event {
                Event::Words(words) => self.words = Some(words),
                Event::Chunk(chunk) if chunk.start + wide(chunk.bytes.len()) <= at => {}
                Event::Chunk(chunk) => {
                    let ready = chunk.start <= at;
                    self.came.push_front(Event::Chunk(chunk));
                    return ready;
                }
            }
        }
        false
    }
}

/// What a peer sends, until the body is whole.
fn flow(fill: PeerFill) -> impl Stream<Item = Result<Came, PeerError>> + Send + 'static {
    stream::try_unfold(fill, |mut fill| async move {
        if fill.is_whole() {
            return Ok(None);
        }
        let came = fill.next().await?;
        Ok(Some((came, fill)))
    })
}

/// How many stretches may be held ahead, over all copies.
pub(crate) fn places(config: &Config) -> usize {
    let places = config.peers.ahead / config.slices.size.max(1);
    usize::try_from(places).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

/// Where the slice ends that holds this byte.
const fn end_of_slice(at: u64, size: u64) -> u64 {
    (at / size).saturating_add(1).saturating_mul(size)
}
