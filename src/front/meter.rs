//! All that leaves for clients is counted here: each download under way with its progress, the records of those that ended, the
//! rate and the quota that the machine was lent with.
//!
//! What ended waits in a bounded queue, numbered, until whoever collects the records has said up to which number it has them; past
//! the bound the newest are dropped and counted.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use atoll_proxy::{Bucket, Caps, Quota, Used};
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{
    body::FrontBody,
    record::{Asker, Outcome, Record, source_of},
};

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Meter {
    bucket: Option<Bucket>,
    quota: Mutex<Quota>,
    /// Whether addresses are truncated in records.
    private: bool,
    /// The URL that records name.
    own_url: Mutex<String>,
    sent: AtomicU64,
    /// Answers under way that are too short to be shown.
    brief: AtomicUsize,
    state: Mutex<State>,
    /// The queue is half full.
    half: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_download: u64,
    running: BTreeMap<u64, Arc<Running>>,
    /// The number of the first in the queue.
    first: u64,
    ended: VecDeque<Ended>,
    dropped: u64,
}

/// One download under way, or one that was.
#[derive(Debug)]
struct Running {
    asker: Asker,
    status: u16,
    source: Cow<'static, str>,
    total: Option<u64>,
    sent: AtomicU64,
    started: Instant,
}

/// A place among the downloads under way. Given back by [`Meter::left_off`].
#[derive(Debug)]
pub(crate) struct Passing {
    running: Arc<Running>,
    /// Its number; a brief one has none.
    id: Option<u64>,
}

/// A download that ended, of which there is to be a record.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    running: Arc<Running>,
    outcome: Outcome,
}

impl Ended {
    /// Its record, as this machine tells it.
    pub(crate) fn record<'r>(&'r self, peer: &'r str, private: bool) -> Record<'r> {
        self.running.asker.record(&self.outcome, peer, private)
    }
}

/// A download as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Download {
    pub(crate) key: String,
    pub(crate) client: String,
    pub(crate) sent: u64,
    pub(crate) total: Option<u64>,
    pub(crate) seconds: u64,
}

/// What the machine was lent with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lent {
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
    /// Bytes a day.
    pub(crate) daily: Option<u64>,
    /// Bytes a month.
    pub(crate) monthly: Option<u64>,
}

impl Meter {
    /// A meter under these limits.
    pub(crate) fn new(lent: &Lent, used: Used, private: bool) -> Self {
        Self {
            bucket: lent.rate.map(|rate| Bucket::new(rate, Instant::now())),
            quota: Mutex::new(Quota::new(Caps { hourly: None, daily: lent.daily, monthly: lent.monthly }, used)),
            private,
            own_url: Mutex::default(),
            sent: AtomicU64::new(0),
            brief: AtomicUsize::new(0),
            state: Mutex::default(),
            half: Notify::new(),
        }
    }

    /// Says under which URL this machine serves.
    pub(crate) fn set_url(&self, url: &str) {
        url.clone_into(&mut lock(&self.own_url));
    }

    /// Takes an answer's body under its care, until it is sent or dropped.
    pub(crate) fn metered<B>(self: &Arc<Self>, asker: Asker, response: Response<B>) -> Response<FrontBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (head, body) = response.into_parts();
        let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let total = length.and_then(|length| length.parse().ok()).or_else(|| body.size_hint().exact());
        let passing = self.enter((asker, head.status.as_u16(), source_of(&head.headers).into()), total, true);
        let body = Metered { body, held: None, pause: None, ended: false, passing, meter: Arc::clone(self) };
        Response::from_parts(head, body.boxed_unsync())
    }

    /// An answer out of RAM begins, which nothing holds back; its bytes are told by [`Self::passed`].
    pub(crate) fn begins(&self, asker: Asker, body: u64) -> Passing {
        self.enter((asker, 200, "memory".into()), Some(body), body > BRIEF)
    }

    /// So many more bytes of it have left: true once that is all.
    pub(crate) fn passed(&self, passing: &Passing, bytes: u64) -> bool {
        self.count(bytes);
        Some(passing.running.sent.fetch_add(bytes, Ordering::Relaxed) + bytes) >= passing.running.total
    }

    fn enter(
        &self,
        (asker, status, source): (Asker, u16, Cow<'static, str>),
        total: Option<u64>,
        shown: bool,
    ) -> Passing {
        let running = Running { asker, status, source, total, sent: AtomicU64::new(0), started: Instant::now() };
        let running = Arc::new(running);
        if !shown {
            self.brief.fetch_add(1, Ordering::Relaxed);
            return Passing { running, id: None };
        }
        let mut state = lock(&self.state);
        state.next_download += 1;
        let id = state.next_download;
        state.running.insert(id, Arc::clone(&running));
        Passing { running, id: Some(id) }
    }

    /// Whether nothing holds back what is sent.
    pub(crate) const fn is_free(&self) -> bool {
        self.bucket.is_none()
    }

    /// Downloads under way.
    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.state).running.len() + self.brief.load(Ordering::Relaxed)
    }

    /// Those that have run longest, at most so many.
    pub(crate) fn downloads(&self, most: usize) -> Vec<Download> {
        let running: Vec<Arc<Running>> = lock(&self.state).running.values().take(most).cloned().collect();
        let download = |running: Arc<Running>| Download {
            key: running.asker.key.clone(),
            client: if self.private {
                super::record::truncated(running.asker.client.ip()).to_string()
            } else {
                running.asker.client.to_string()
            },
            sent: running.sent.load(Ordering::Relaxed),
            total: running.total,
            seconds: running.started.elapsed().as_secs(),
        };
        running.into_iter().map(download).collect()
    }

    /// Bytes still to be sent by downloads whose length is known.
    pub(crate) fn left(&self) -> u64 {
        let of = |running: &Arc<Running>| {
            running.total.map_or(0, |total| total.saturating_sub(running.sent.load(Ordering::Relaxed)))
        };
        lock(&self.state).running.values().map(of).sum()
    }

    /// Body bytes sent to clients so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The rate, if one was set, in bytes a second.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.bucket.as_ref().map(Bucket::rate)
    }

    /// Bytes of the quota left; none without one.
    pub(crate) fn quota_left(&self) -> Option<u64> {
        lock(&self.quota).left(unix_now())
    }

    /// Seconds until a spent quota begins anew.
    pub(crate) fn quota_again_in(&self) -> u64 {
        lock(&self.quota).again_in(unix_now())
    }

    /// What of the quota is used, to keep.
    pub(crate) fn quota_used(&self) -> Used {
        lock(&self.quota).used()
    }

    /// The oldest records that nobody has yet, at most so many and so many bytes of keys, with the number of the first.
    pub(crate) fn records(&self, most: usize) -> (u64, Vec<Record<'static>>) {
        let (first, ended) = {
            let state = lock(&self.state);
            let mut room = RECORD_BYTES;
            let fits = |ended: &&Ended| {
                let size = ended.running.asker.key.len() + 4_096;
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            };
            (state.first, state.ended.iter().take(most).take_while(fits).cloned().collect::<Vec<_>>())
        };
        let url = self.url();
        (first, ended.iter().map(|ended| ended.record(&url, self.private).owned()).collect())
    }

    /// Takes the oldest that ended out of the queue, at most so many.
    pub(crate) fn take(&self, most: usize) -> Vec<Ended> {
        let mut state = lock(&self.state);
        let count = state.ended.len().min(most);
        state.first += u64::try_from(count).unwrap_or(u64::MAX);
        state.ended.drain(..count).collect()
    }

    /// Ready once the queue is half full.
    pub(crate) async fn half_full(&self) {
        self.half.notified().await;
    }

    /// The URL that records name, and whether they name networks alone.
    pub(crate) fn tells_as(&self) -> (String, bool) {
        (self.url(), self.private)
    }

    /// Forgets records below this number: they have arrived.
    pub(crate) fn collected(&self, below: u64) {
        let mut state = lock(&self.state);
        while state.first < below && state.ended.pop_front().is_some() {
            state.first += 1;
        }
    }

    /// Records that found the queue full.
    pub(crate) fn dropped(&self) -> u64 {
        lock(&self.state).dropped
    }

    fn url(&self) -> String {
        lock(&self.own_url).clone()
    }

    fn count(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        lock(&self.quota).count(unix_now(), bytes);
    }

    /// A download ended, whole or not.
    pub(crate) fn left_off(&self, passing: Passing, whole: bool) {
        let Passing { running, id } = passing;
        let outcome = Outcome {
            success: whole && running.status < 400,
            status: running.status,
            bytes: running.sent.load(Ordering::Relaxed),
            total: running.total,
            milliseconds: u64::try_from(running.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            source: running.source.clone(),
            at: unix_now(),
        };
        let mut state = lock(&self.state);
        if let Some(id) = id {
            state.running.remove(&id);
        } else {
            self.brief.fetch_sub(1, Ordering::Relaxed);
        }
        if state.ended.len() >= QUEUE {
            state.dropped += 1;
            return;
        }
        state.ended.push_back(Ended { running, outcome });
        if state.ended.len() == QUEUE / 2 {
            self.half.notify_one();
        }
    }
}

/// A body under the meter's care.
struct Metered<B: Body> {
    body: B,
    /// Bytes that wait for the rate.
    held: Option<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The body said that nothing more comes.
    ended: bool,
    passing: Passing,
    meter: Arc<Meter>,
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.held.is_none() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
            };
            let Ok(bytes) = frame.into_data() else { return Poll::Ready(None) };
            let wait = this.meter.bucket.as_ref().map(|bucket| bucket.take(Instant::now(), bytes.len()));
            this.pause = wait.filter(|wait| !wait.is_zero()).map(|wait| Box::pin(sleep(wait)));
            this.held = Some(bytes);
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let bytes = this.held.take().unwrap_or_default();
        this.meter.passed(&this.passing, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // A held piece has left the body, but not us.
        let held = self.held.as_ref().map_or(0, |held| u64::try_from(held.len()).unwrap_or(u64::MAX));
        self.body.size_hint().exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + held))
    }
}

impl<B: Body> Drop for Metered<B> {
    fn drop(&mut self) {
        let Passing { running, id } = &self.passing;
        let all = running.total == Some(running.sent.load(Ordering::Relaxed));
        let whole = self.held.is_none() && (self.ended || all || self.body.is_end_stream());
        self.meter.left_off(Passing { running: Arc::clone(running), id: *id }, whole);
    }
}

/// Seconds since the epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that wait to be collected: at a thousand requests a second, eight seconds without a manager. More holds memory (up to
/// 20 KiB each), fewer drops more when a manager restarts. `[guess]`
const QUEUE: usize = 8_192;

/// Bytes of a body that is sent before anybody could look at it. `[guess]`
const BRIEF: u64 = 64 << 10;

/// Bytes of records in one collection.
const RECORD_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::front::body::whole;

    fn meter(lent: &Lent) -> Arc<Meter> {
        Arc::new(Meter::new(lent, Used::default(), false))
    }

    fn answer(meter: &Arc<Meter>, size: usize) -> Response<FrontBody> {
        let asker = Asker::of(([127, 0, 0, 1], 9).into(), None, "/a", &HeaderMap::new());
        meter.metered(asker, Response::new(whole(vec![0; size])))
    }

    #[tokio::test]
    async fn a_download_is_seen_while_it_runs_and_recorded_when_it_ends() {
        let meter = meter(&Lent::default());
        meter.set_url("http://me");
        let running = answer(&meter, 5);
        assert_eq!(
            meter.downloads(9)[0],
            Download { key: "/a".into(), client: "127.0.0.1:9".into(), sent: 0, total: Some(5), seconds: 0 }
        );
        assert_eq!((meter.in_flight(), meter.left()), (1, 5));
        running.into_body().collect().await.unwrap();
        drop(answer(&meter, 5));
        assert_eq!((meter.in_flight(), meter.sent()), (0, 5));
        let (first, records) = meter.records(9);
        let came_of: Vec<_> = records.iter().map(|record| (record.data.success, record.data.bytes)).collect();
        assert_eq!((first, came_of), (0, vec![(true, 5), (false, 0)]));
        assert_eq!(records[0].peer, "http://me");
        meter.collected(1);
        assert_eq!(meter.records(9).0, 1);
        assert_eq!(meter.records(9).1.len(), 1);
    }

    #[tokio::test]
    async fn past_the_bound_records_are_dropped_and_counted_and_the_rest_can_be_had() {
        let meter = meter(&Lent::default());
        for _ in 0..QUEUE + 3 {
            drop(answer(&meter, 1));
        }
        assert_eq!(meter.dropped(), 3);
        let mut collected = 0;
        loop {
            let (first, records) = meter.records(500);
            if records.is_empty() {
                break;
            }
            collected += records.len();
            meter.collected(first + records.len() as u64);
            // Said twice, it is still said once.
            meter.collected(first + records.len() as u64);
        }
        assert_eq!(collected, QUEUE);
    }

    #[tokio::test]
    async fn answers_out_of_ram_are_counted_while_they_run_and_shown_if_they_last() {
        let meter = meter(&Lent::default());
        let asker = || Asker::of(([127, 0, 0, 1], 9).into(), None, "/a", &HeaderMap::new());
        let brief = meter.begins(asker(), BRIEF);
        let long = meter.begins(asker(), BRIEF + 1);
        assert_eq!((meter.in_flight(), meter.downloads(9).len(), meter.left()), (2, 1, BRIEF + 1));
        assert!(!meter.passed(&brief, 1) && meter.passed(&brief, BRIEF - 1));
        assert!(!meter.passed(&long, BRIEF));
        meter.left_off(brief, true);
        meter.left_off(long, false);
        let ended = meter.take(9);
        let came_of: Vec<_> = ended.iter().map(|ended| ended.record("me", false).data.success).collect();
        assert_eq!((came_of, meter.in_flight(), meter.sent()), (vec![true, false], 0, 2 * BRIEF));
        assert_eq!(meter.records(9), (2, Vec::new()), "taken");
    }

    #[tokio::test]
    async fn whoever_collects_is_told_before_the_queue_is_full() {
        let meter = meter(&Lent::default());
        for _ in 0..QUEUE / 2 {
            drop(answer(&meter, 1));
        }
        meter.half_full().await;
        assert_eq!(meter.take(QUEUE).len(), QUEUE / 2);
    }

    #[tokio::test]
    async fn a_rate_holds_back_what_is_sent() {
        let meter = meter(&Lent { rate: Some(1_000), ..Lent::default() });
        let mut body = answer(&meter, 30_000).into_body();
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        assert_eq!((meter.sent(), meter.left()), (0, 30_000));
    }

    #[tokio::test]
    async fn what_is_sent_counts_against_the_quota() {
        let meter = meter(&Lent { daily: Some(10), ..Lent::default() });
        answer(&meter, 7).into_body().collect().await.unwrap();
        assert_eq!(meter.quota_left(), Some(3));
        answer(&meter, 7).into_body().collect().await.unwrap();
        assert_eq!(meter.quota_left(), Some(0));
        assert!(meter.quota_again_in() > 0);
    }
}
