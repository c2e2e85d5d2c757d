//! One client's byte stream: what was read and not yet used, and a deadline that costs a request no timer.
//!
//! A worker looks at the deadlines of all its connections a few times a second ([`Watches::sweep`]); one that is over marks its
//! connection and wakes it, and the connection finds that out only where it would have to wait. So a client whose bytes are
//! there is never cut off, and one that lets us wait past its deadline is. While we are at work ourselves there is no deadline:
//! a slow disk is not the client's fault.

use std::{
    collections::HashMap,
    future::poll_fn,
    io::{self, IoSlice},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection's deadline, seen by its worker.
#[derive(Debug)]
pub(super) struct Watch {
    epoch: Instant,
    /// Milliseconds after `epoch`.
    deadline: AtomicU64,
    over: AtomicBool,
    /// It is to end at once.
    cut: AtomicBool,
    /// Between two requests, with nothing read of the next.
    idle: AtomicBool,
    /// Idle connections are to end.
    draining: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Watch {
    /// Whether the client is not to be waited for any longer.
    fn ended(&self) -> bool {
        let drained = self.idle.load(Ordering::Relaxed) && self.draining.load(Ordering::Relaxed);
        drained || self.cut.load(Ordering::Relaxed) || (self.over.load(Ordering::Relaxed) && self.is_over())
    }

    /// Whether the deadline that was found over is still the one that holds.
    fn is_over(&self) -> bool {
        let over = self.deadline.load(Ordering::Relaxed) <= milliseconds(self.epoch.elapsed());
        self.over.store(over, Ordering::Relaxed);
        over
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// The deadlines of a worker's connections.
#[derive(Debug)]
pub(super) struct Watches {
    epoch: Instant,
    all: Mutex<HashMap<u64, Arc<Watch>>>,
    next: AtomicU64,
}

impl Watches {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now(), all: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// Marks and wakes every connection whose deadline is over.
    pub(super) fn sweep(&self) {
        let now = milliseconds(self.epoch.elapsed());
        self.each(|watch| {
            if watch.deadline.load(Ordering::Relaxed) <= now && !watch.over.swap(true, Ordering::Relaxed) {
                watch.wake();
            }
        });
    }

    /// Ends connections that are idle now, and each of the others once it is.
    pub(super) fn drain(&self) {
        self.each(|watch| {
            watch.draining.store(true, Ordering::Relaxed);
            if watch.idle.load(Ordering::Relaxed) {
                watch.wake();
            }
        });
    }

    /// Ends every connection that waits for its client.
    pub(super) fn cut(&self) {
        self.each(|watch| {
            watch.cut.store(true, Ordering::Relaxed);
            watch.wake();
        });
    }

    fn each(&self, mut act: impl FnMut(&Watch)) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|watch| act(watch));
    }
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Bytes of `inbox` that were read and not used.
    start: usize,
    end: usize,
    watch: Arc<Watch>,
    watches: Arc<Watches>,
    number: u64,
    /// Bytes read and written for the request under way.
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Link {
    /// Takes a stream that was just accepted.
    pub(super) fn new(stream: TcpStream, watches: &Arc<Watches>) -> Self {
        let watch = Arc::new(Watch {
            epoch: watches.epoch,
            deadline: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let number = watches.next.fetch_add(1, Ordering::Relaxed);
        watches.all.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&watch));
        let (watches, inbox) = (Arc::clone(watches), vec![0; INBOX]);
        Self { stream, inbox, start: 0, end: 0, watch, watches, number, received: 0, sent: 0 }
    }

    /// To be awaited first, in the task that uses the link: whom to wake.
    pub(super) async fn settle(&self) {
        poll_fn(|cx| {
            *self.watch.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
    }

    /// From now on the client may let us wait until this much later.
    pub(super) fn within(&self, span: Duration) {
        let deadline = milliseconds(self.watch.epoch.elapsed().saturating_add(span));
        self.watch.deadline.store(deadline, Ordering::Relaxed);
    }

    /// From now on it is not the client that is waited for.
    pub(super) fn at_work(&self) {
        self.watch.deadline.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether the next byte read is a request's first.
    pub(super) fn set_idle(&self, idle: bool) {
        self.watch.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether idle connections are to end.
    pub(super) fn draining(&self) -> bool {
        self.watch.draining.load(Ordering::Relaxed)
    }

    /// What was read and not used.
    pub(super) fn unused(&self) -> &[u8] {
        &self.inbox[self.start..self.end]
    }

    /// Uses so many of them.
    pub(super) fn use_up(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads more, up to `limit` unused bytes: how many came, 0 at the end of the stream, or if it is to end.
    pub(super) async fn read_more(&mut self, limit: usize) -> io::Result<usize> {
        if self.end == self.inbox.len() {
            self.inbox.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.inbox.len() {
            self.inbox.resize((2 * self.inbox.len()).min(limit.max(self.end + 1)), 0);
        }
        let (stream, room) = (&mut self.stream, &mut self.inbox[self.end..]);
        let count = watched(&self.watch, stream.read(room)).await?;
        self.end += count;
        self.received += count as u64;
        Ok(count)
    }

    /// The next `count` bytes of a body.
    pub(super) async fn read_body(&mut self, count: usize) -> io::Result<Bytes> {
        let mut chunk = BytesMut::with_capacity(count);
        let ready = count.min(self.end - self.start);
        chunk.put_slice(&self.inbox[self.start..self.start + ready]);
        self.use_up(ready);
        while chunk.len() < count {
            let left = count - chunk.len();
            let mut room = (&mut chunk).limit(left);
            match watched(&self.watch, self.stream.read_buf(&mut room)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.received += read as u64,
            }
        }
        Ok(chunk.freeze())
    }

    /// Reads so many bytes of a body and drops them.
    pub(super) async fn skip_body(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.start == self.end && self.read_more(INBOX).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let part = usize::try_from(count).unwrap_or(usize::MAX).min(self.end - self.start);
            self.use_up(part);
            count -= part as u64;
        }
        Ok(())
    }

    /// Writes all of a head and the first bytes of its body.
    pub(super) async fn write(&mut self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        while !head.is_empty() || !body.is_empty() {
            let both = [IoSlice::new(head), IoSlice::new(body)];
            let parts = if head.is_empty() { &both[1..] } else { &both[..] };
            let count = watched(&self.watch, self.stream.write_vectored(parts)).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent += count as u64;
            let of_head = count.min(head.len());
            head = &head[of_head..];
            body = &body[count - of_head..];
        }
        Ok(())
    }

    /// Says that nothing more comes from here, and drops what the client still sends for a moment, so that it does not reset
    /// the last answer away.
    pub(super) async fn linger(&mut self) {
        self.within(LINGER);
        let _ = self.stream.shutdown().await;
        let mut dropped = 0;
        while dropped < LINGER_BYTES {
            self.use_up(INBOX.max(self.end));
            match self.read_more(INBOX).await {
                Ok(count @ 1..) => dropped += count,
                Ok(0) | Err(_) => return,
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.watches.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Lets a read or write wait for the client until its deadline.
async fn watched<T>(watch: &Watch, action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut action = pin!(action);
    poll_fn(|cx| match action.as_mut().poll(cx) {
        Poll::Pending if watch.ended() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        polled => polled,
    })
    .await
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of buffer that a connection begins with.
const INBOX: usize = 2_048;

/// How long, and for how much, an end waits for the client to stop sending.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
