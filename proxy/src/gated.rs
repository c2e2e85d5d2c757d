//! A byte stream behind the gate: each head is judged before the parser sees it, on every request of a connection, and the
//! head's deadline runs from accept.
//!
//! The parser is lent one whole head at a time and reads the next only after it has answered (the server keeps half-closed
//! connections, so it never reads ahead). A refusal is written when the parser shuts the stream down, which is after the
//! answers to the heads before it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    chunks::Chunks,
    gate::{Following, Gate, HeadLimits, OwnSite, Passed, Refusal},
    interim::Interim,
    stats::Counters,
};

/// How long this stream may wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For the rest of a head.
    pub(crate) head: Duration,
    /// For the next head's first byte.
    pub(crate) keep_alive: Duration,
    /// For the other side to take a byte.
    pub(crate) send: Duration,
}

/// See the file's head.
pub(crate) struct Gated<S> {
    inner: S,
    limits: HeadLimits,
    waits: Waits,
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that the parser may have.
    passed: usize,
    /// What comes after these.
    following: Body,
    gate: Gate,
    own: Arc<OwnSite>,
    /// An empty line before the current head was dropped already [RFC 9112 2.2].
    skipped: bool,
    deadline: Pin<Box<Sleep>>,
    /// What `deadline` stands for.
    waiting: Waiting,
    sending: Option<Pin<Box<Sleep>>>,
    state: State,
    /// What is written beside the parser, and what of it is under way.
    interim: Option<Interim>,
    beside: BytesMut,
    /// All that the parser's other half wrote is out: the next byte begins an answer.
    between: bool,
    counters: Arc<Counters>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For nothing: a request is being answered.
    Nothing,
    /// For a first byte.
    First,
    /// For the rest of a head.
    Rest,
    /// For more of a body.
    Body,
}

/// A request's body on its way to the parser.
#[derive(Debug)]
enum Body {
    None,
    Length(u64),
    Chunks(Chunks),
}

#[derive(Debug)]
enum State {
    Open,
    /// The parser is told that the stream ended; the answer is still to be written.
    Refused(Bytes),
    /// The answer is written; what still comes is read and dropped, so that it does not reset the answer away.
    Lingering(usize),
    Ended,
}

impl<S> Gated<S> {
    /// A stream accepted at this moment.
    pub(crate) fn new(
        inner: S,
        accepted: Instant,
        (limits, waits): (HeadLimits, Waits),
        own: Arc<OwnSite>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            inner,
            limits,
            waits,
            buffer: BytesMut::new(),
            passed: 0,
            following: Body::None,
            gate: Gate::default(),
            own,
            skipped: false,
            deadline: Box::pin(sleep_until(accepted + waits.head)),
            waiting: Waiting::Rest,
            sending: None,
            state: State::Open,
            interim: None,
            beside: BytesMut::new(),
            between: true,
            counters,
        }
    }

    /// What was read of the stream before.
    pub(crate) fn read_before(&mut self, before: BytesMut) {
        self.buffer = before;
    }

    /// Where interim answers are left to be written here.
    pub(crate) fn interim(&mut self) -> Interim {
        self.interim.get_or_insert_with(Interim::default).clone()
    }

    /// Judges what is buffered: true if a head passed or the stream was refused.
    fn judge(&mut self) -> bool {
        if !self.skipped && self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            self.skipped = true;
        }
        if self.buffer.is_empty() || self.buffer[..] == b"\r"[..] {
            return false;
        }
        match self.gate.judge(&self.buffer, self.limits, &*self.own) {
            Ok(Some(Passed { head, body })) => {
                self.passed = head;
                self.following = match body {
                    Following::Head => Body::None,
                    Following::Length(length) => Body::Length(length),
                    Following::Chunks => Body::Chunks(Chunks::default()),
                };
                self.gate = Gate::default();
                self.skipped = false;
                self.waiting = Waiting::Nothing;
                true
            }
            Ok(None) => false,
            Err(refusal) => {
                self.refuse(refusal);
                true
            }
        }
    }

    /// Lets what is buffered of a body pass: true if there was some, or the body has ended.
    fn follow(&mut self) -> io::Result<bool> {
        match &mut self.following {
            Body::None => return Ok(true),
            Body::Length(left) => {
                self.passed = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= u64::try_from(self.passed).unwrap_or(*left);
                if *left == 0 {
                    self.following = Body::None;
                }
            }
            Body::Chunks(chunks) => {
                self.passed = chunks.take(&self.buffer).map_err(|_| io::ErrorKind::InvalidData)?;
                if chunks.is_done() {
                    self.following = Body::None;
                }
            }
        }
        if self.passed > 0 {
            self.waiting = Waiting::Nothing;
        }
        Ok(self.passed > 0)
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.counters.head_refused(refusal.status());
        self.buffer.clear();
        self.state = State::Refused(refusal.response().into());
    }

    fn wait_for(&mut self, waiting: Waiting, span: Duration) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.deadline.as_mut().reset(Instant::now() + span);
        }
    }
}

impl<S: AsyncRead + Unpin> Gated<S> {
    /// Reads more of a head: ready once there is more, an end, or a refusal.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.following, Body::None) {
            self.wait_for(Waiting::Body, self.waits.send);
        } else if self.buffer.is_empty() && !self.skipped {
            // The first head's deadline runs from accept, whatever has come of it.
            if self.waiting == Waiting::Nothing {
                self.wait_for(Waiting::First, self.waits.keep_alive);
            }
        } else {
            self.wait_for(Waiting::Rest, self.waits.head);
        }
        if self.deadline.as_mut().poll(cx).is_ready() {
            if self.waiting == Waiting::Body {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if self.buffer.is_empty() {
                self.state = State::Ended;
            } else {
                self.refuse(Refusal::TooSlow);
            }
            return Poll::Ready(Ok(()));
        }
        let mut piece = [0; PIECE];
        let mut into = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut into))?;
        if into.filled().is_empty() {
            self.state = State::Ended;
        }
        self.buffer.extend_from_slice(into.filled());
        Poll::Ready(Ok(()))
    }

    /// Drops what the refused still sends, for a little while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        while let State::Lingering(left) = self.state {
            let mut into = ReadBuf::new(&mut piece);
            let over = self.deadline.as_mut().poll(cx).is_ready();
            if over || !matches!(Pin::new(&mut self.inner).poll_read(cx, &mut into), Poll::Pending) {
                let count = into.filled().len();
                self.state =
                    if over || count == 0 || left <= count { State::Ended } else { State::Lingering(left - count) };
                continue;
            }
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.passed > 0 {
                let count = this.passed.min(into.remaining());
                into.put_slice(&this.buffer.split_to(count));
                this.passed -= count;
                return Poll::Ready(Ok(()));
            }
            if !matches!(this.state, State::Open) {
                return Poll::Ready(Ok(()));
            }
            let more = if matches!(this.following, Body::None) { this.judge() } else { this.follow()? };
            if !more {
                ready!(this.poll_fill(cx))?;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gated<S> {
    /// Writes what waits beside, where an answer may begin.
    fn poll_beside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(interim) = self.interim.as_ref().filter(|_| self.between) {
            self.beside.unsplit(interim.take(cx));
        }
        while !self.beside.is_empty() {
            let polled = Pin::new(&mut self.inner).poll_write(cx, &self.beside);
            let count = ready!(self.sent(cx, polled))?;
            self.beside.advance(count.min(self.beside.len()));
        }
        Poll::Ready(Ok(()))
    }

    /// Bounds how long the other side may take nothing.
    fn sent(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.sending = None;
            return polled;
        }
        let until = Instant::now() + self.waits.send;
        let sleep = self.sending.get_or_insert_with(|| Box::pin(sleep_until(until)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_beside(cx))?;
        self.between = false;
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_beside(cx))?;
        self.between = false;
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.sent(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked only once nothing waits to be written.
        self.between = true;
        ready!(self.poll_beside(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while let State::Refused(response) = &mut this.state {
            if response.is_empty() {
                ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
                this.deadline.as_mut().reset(Instant::now() + LINGER);
                this.state = State::Lingering(LINGER_BYTES);
                break;
            }
            let polled = Pin::new(&mut this.inner).poll_write(cx, response);
            let count = ready!(this.sent(cx, polled))?;
            if let State::Refused(response) = &mut this.state {
                response.advance(count.min(response.len()));
            }
        }
        if matches!(this.state, State::Lingering(_)) {
            ready!(this.poll_linger(cx));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Bytes read at a time.
const PIECE: usize = 4_096;

/// How long what follows a refusal is read.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what follows a refusal is read.
const LINGER_BYTES: usize = 256 << 10;
