//! HTTP/2's settings, and the streams of one connection: which are under way, until their last byte is handed on, and whose client
//! lets them wait.
//!
//! A connection whose streams are under way is not idle, however long that takes. A stream is given the time that [`Patience`] allows:
//! its task asks for the next piece of a body once the client's window has had room for the last, so the time between is the client's.
//! [`Streams`] runs these tasks, and drops one whose client takes too long, which resets that stream and no other.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use atoll_units::{size, span};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Deserialize;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    body::Body,
    patience::{Pace, Patience},
    reason::Failure,
};

/// What HTTP/2 clients may do. The size of a head is `limits.head`, counted as RFC 9113 6.5.2 says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Config {
    /// Requests of one connection at a time; more are refused. Fewer: pages with many parts load slower, more: one client has more of
    /// the node. [RFC 9113 6.5.2: at least 100]
    pub streams: u32,
    /// Bytes of request bodies that a client may send before they are taken, of one stream; of all of a connection four times as many,
    /// so that an origin that takes nothing of one leaves room for others. Less: slow uploads over long lines, more: more memory.
    /// \[guess\]
    #[serde(with = "size")]
    pub window: u64,
    /// Bytes of one answer that wait for the client's window. Less: slower over long lines, more: more memory. [bad-inputs H14]
    #[serde(with = "size")]
    pub send_buffer: u64,
    /// Streams that a client, or an error of its, may reset before they are done with; past it the connection ends. Fewer: clients
    /// that cancel much are cut, more: floods cost more. [bad-inputs H17]
    pub resets: usize,
    /// How often a client is asked whether it lives. Shorter: more packets, longer: the dead hold their connections. \[guess\]
    #[serde(with = "span")]
    pub ping: Duration,
    /// How long a client may leave that unanswered. Shorter: those who lose packets are cut, longer: as above. \[guess\]
    #[serde(with = "span")]
    pub pong: Duration,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            streams: 128,
            window: 1 << 20,
            send_buffer: 64 << 10,
            resets: 32,
            ping: Duration::from_secs(60),
            pong: Duration::from_secs(20),
        }
    }
}

impl Http2Config {
    /// The window of a whole connection [RFC 9113 6.9.1].
    pub(crate) fn connection_window(&self) -> u32 {
        let most = i32::MAX.unsigned_abs();
        u32::try_from(self.window.saturating_mul(STREAM_WINDOWS)).unwrap_or(most).min(most)
    }
}

/// The streams of one connection; runs their tasks.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    begun: AtomicU64,
    running: AtomicU32,
    /// Bytes that the client's system has taken.
    sent: AtomicU64,
    pace: Pace,
}

impl Streams {
    pub(crate) fn new(pace: Pace) -> Self {
        let (begun, running, sent) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Self(Arc::new(Counts { begun, running, sent, pace }))
    }

    /// So many bytes of the connection have gone out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Ready once nothing was asked for a whole span, and nothing is under way.
    pub(crate) async fn idle(&self, span: Duration) {
        loop {
            let before = self.0.begun.load(Ordering::Relaxed);
            sleep(span).await;
            if self.0.running.load(Ordering::Relaxed) == 0 && self.0.begun.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Ready once nothing is under way, and the client has taken less in a whole span of silence than it has to: what was handed on
    /// last waits for its window after its task has ended.
    pub(crate) async fn still(&self) {
        let Pace { silence, rate, .. } = self.0.pace;
        let least = rate.saturating_mul(silence.as_secs()).max(1);
        loop {
            let before = self.0.sent.load(Ordering::Relaxed);
            sleep(silence).await;
            let sent = self.0.sent.load(Ordering::Relaxed).wrapping_sub(before);
            if self.0.running.load(Ordering::Relaxed) == 0 && sent < least {
                return;
            }
        }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let stream = Arc::new(Stream::of(self));
        tokio::spawn(STREAM.scope(Arc::clone(&stream), async move {
            tokio::select! {
                biased;
                () = task => {}
                () = stream.stalled() => tracing::trace!("a stream was reset: its client takes too little of it"),
            }
        }));
    }
}

tokio::task_local! {
    /// The stream whose task runs.
    static STREAM: Arc<Stream>;
}

/// One stream, until its task ends.
#[derive(Debug)]
struct Stream {
    counts: Arc<Counts>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    patience: Patience,
    /// Bytes that the client has been given and not taken yet.
    given: Option<usize>,
}

impl Stream {
    fn of(streams: &Streams) -> Self {
        let counts = Arc::clone(&streams.0);
        counts.begun.fetch_add(1, Ordering::Relaxed);
        counts.running.fetch_add(1, Ordering::Relaxed);
        let state = State { patience: Patience::new(counts.pace), given: None };
        Self { counts, state: Mutex::new(state) }
    }

    /// The client has room for more.
    fn taken(&self) {
        let mut state = self.state();
        if let Some(bytes) = state.given.take() {
            state.patience.came(Instant::now(), bytes, self.sharers());
        }
    }

    /// The client is given so many bytes.
    fn given(&self, bytes: usize) {
        let mut state = self.state();
        state.given = Some(bytes);
        state.patience.wait(Instant::now(), self.sharers());
    }

    /// Ready once the client has let it wait for too long.
    async fn stalled(&self) {
        loop {
            let due = {
                let mut state = self.state();
                let waits = state.given.is_some();
                waits.then(|| state.patience.wait(Instant::now(), self.sharers()))
            };
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    sleep_until(due).await;
                    // On a busy machine the connection may have heard from the client and not been asked yet.
                    yield_now().await;
                }
                // What begins to wait meanwhile is noticed after as long at most.
                None => sleep(self.counts.pace.silence).await,
            }
        }
    }

    /// How many have a part of the line: a stream that waits for its turn is not one that its client lets wait.
    fn sharers(&self) -> u32 {
        self.counts.running.load(Ordering::Relaxed).clamp(1, SHARERS)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body as its stream's task takes it.
pub(crate) struct Paced {
    body: Body,
    stream: Option<Arc<Stream>>,
}

impl Paced {
    /// To be called in the stream's own task.
    pub(crate) fn new(body: Body) -> Self {
        Self { body, stream: STREAM.try_with(Arc::clone).ok() }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        if let Some(stream) = &this.stream {
            stream.taken();
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(stream)) = (&polled, &this.stream) {
            stream.given(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Streams whose windows a connection has room for.
const STREAM_WINDOWS: u64 = 4;

/// Streams that are taken to share a line at most, so that many that stall together end too.
const SHARERS: u32 = 16;
