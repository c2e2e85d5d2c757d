//! A byte stream behind the gate: each head is judged before the parser sees it, on every request of a connection, and the
//! head's deadline runs from accept. What [`Hot`] can answer is answered here, and no parser sees it.
//!
//! The parser is lent one whole head at a time and reads the next only after it has answered (the server keeps half-closed
//! connections, so it never reads ahead). A refusal is written when the parser shuts the stream down, which is after the
//! answers to the heads before it.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use atoll_store::Object;
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    alarm::Alarm,
    chunks::Chunks,
    config::{Config, Timeouts},
    gate::{Following, Gate, HeadLimits, OwnSite, Passed, Refusal},
    hot::{Answered, Hot, pieces},
    interim::Interim,
    log::Entry,
    patience::{Pace, Patience},
    stats::Counters,
};

/// How long this stream may wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// For the rest of a head.
    pub(crate) head: Duration,
    /// For the next head's first byte.
    pub(crate) keep_alive: Duration,
    /// For a body's next byte.
    pub(crate) send: Duration,
    /// For the other side to take what is sent.
    pub(crate) pace: Pace,
}

impl Waits {
    /// As the settings say.
    pub(crate) const fn of(config: &Config) -> Self {
        let Timeouts { head, keep_alive, send, .. } = config.timeouts;
        Self { head, keep_alive, send, pace: client_pace(config) }
    }
}

/// What is asked of clients that take what is sent to them, or send bodies.
pub(crate) const fn client_pace(config: &Config) -> Pace {
    let send = config.timeouts.send;
    Pace { silence: send, debt: send, rate: config.limits.slowest_client }
}

/// A client's stream behind the gate; what is read of it are whole heads that passed, and what may follow them.
pub struct Gated<S> {
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
    deadline: Alarm,
    /// What `deadline` stands for.
    waiting: Waiting,
    sending: Alarm,
    /// With who takes what is sent.
    patience: Patience,
    state: State,
    /// Answers what is common.
    hot: Option<Hot>,
    /// The head of such an answer, kept for the next.
    head: Vec<u8>,
    /// What of it is on its way.
    answering: Option<Answering>,
    /// The parser is lent one request, and then an end.
    lending: bool,
    /// The parser has been told of that end, and not been refused.
    returned: bool,
    /// What is written beside the parser, and what of it is under way.
    interim: Option<Interim>,
    beside: BytesMut,
    /// All that the parser's other half wrote is out: the next byte begins an answer.
    between: bool,
    counters: Arc<Counters>,
}

/// An answer out of RAM, so far as it is out.
struct Answering {
    object: Option<Object>,
    sent: usize,
    /// What is logged of it, at its end or when it is given up.
    entry: Option<Entry>,
    /// When it began, if it is timed.
    began: Option<std::time::Instant>,
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
            deadline: Alarm::at(accepted + waits.head),
            waiting: Waiting::Rest,
            sending: Alarm::default(),
            patience: Patience::new(waits.pace),
            state: State::Open,
            hot: None,
            head: Vec::new(),
            answering: None,
            lending: false,
            returned: false,
            interim: None,
            beside: BytesMut::new(),
            between: true,
            counters,
        }
    }

    /// Has what is common answered here; heads are to be waited for by [`Self::poll_head`] then.
    pub(crate) fn answer_with(&mut self, hot: Hot) {
        self.hot = Some(hot);
        self.lending = true;
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
        let (head, body) = refusal.response();
        if let Some(hot) = &self.hot {
            hot.refused(&self.buffer, (refusal.status(), body.len()));
        }
        self.buffer.clear();
        self.state = State::Refused((head + &body).into());
    }

    fn wait_for(&mut self, waiting: Waiting, span: Duration) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.deadline.due = Some(Instant::now() + span);
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
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut into = ReadBuf::uninit(&mut piece);
        if let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(cx, &mut into) {
            read?;
            if into.filled().is_empty() {
                self.state = State::Ended;
            }
            self.buffer.extend_from_slice(into.filled());
            // One that drips must not outrun its deadline.
            if self.waiting == Waiting::First || self.deadline.due.is_none_or(|due| Instant::now() < due) {
                return Poll::Ready(Ok(()));
            }
        }
        if self.deadline.poll(cx).is_ready() {
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
        Poll::Pending
    }

    /// Drops what the refused still sends, for a little while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        while let State::Lingering(left) = self.state {
            let mut into = ReadBuf::new(&mut piece);
            let over = self.deadline.poll(cx).is_ready();
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
            if this.lending && matches!(this.following, Body::None) {
                this.returned = true;
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

    /// Bounds how long the other side may take nothing, or next to nothing.
    fn sent(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &polled {
            if self.patience.is_owed() {
                self.patience.came(Instant::now(), taken.as_ref().map_or(0, |count| *count), 1);
            }
            self.sending.due = None;
            return polled;
        }
        self.sending.due = Some(self.patience.wait(Instant::now(), 1));
        ready!(self.sending.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Closes our half, for which the other side may have to take something too.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx).map_ok(|()| 1);
        self.sent(cx, polled).map_ok(|_| ())
    }

    /// Has what a layer below still holds written: TLS takes up to 64 KiB more than it has sent.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx).map_ok(|()| 1);
        self.sent(cx, polled).map_ok(|_| ())
    }

    /// Whether an answer is under way that no parser knows of.
    pub const fn owes(&self) -> bool {
        self.answering.is_some()
    }

    /// Whether the parser has given the stream back for more, and not ended it.
    pub fn take_back(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// Ready with the next head that is for the parser, which may then be lent this stream for one request. False: there is none,
    /// and the stream is to be shut down. What is answered without the parser is answered meanwhile.
    ///
    /// # Errors
    /// The stream's, or that the client was too slow.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.poll_answer(cx))?;
            if self.passed > 0 || !matches!(self.state, State::Open) {
                return Poll::Ready(Ok(self.passed > 0));
            }
            if !self.answers() && !self.judge() {
                ready!(self.poll_fill(cx))?;
            }
        }
    }

    /// Whether an answer has begun to what is buffered.
    fn answers(&mut self) -> bool {
        let Some(hot) = &mut self.hot else { return false };
        let Some(Answered { length, object, entry, began }) = hot.answer(&self.buffer, &mut self.head) else {
            return false;
        };
        self.buffer.advance(length);
        self.gate = Gate::default();
        self.skipped = false;
        self.waiting = Waiting::Nothing;
        self.answering = Some(Answering { object, sent: 0, entry, began });
        true
    }

    /// Writes what is left of an answer out of RAM.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(Answering { object, sent, .. }) = &self.answering {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let (mut skip, mut count) = (*sent, 0);
            let parts = std::iter::once(&self.head[..]).chain(object.iter().flat_map(pieces).map(|piece| &piece[..]));
            for part in parts {
                let Some(rest) = part.get(skip..).filter(|rest| !rest.is_empty()) else {
                    skip -= part.len();
                    continue;
                };
                skip = 0;
                let Some(slice) = slices.get_mut(count) else { break };
                *slice = IoSlice::new(rest);
                count += 1;
            }
            if count == 0 {
                ready!(self.poll_out(cx))?;
                if let Some(mut ended) = self.answering.take() {
                    ended.entry.iter_mut().for_each(Entry::completed);
                    if let Some((began, hot)) = ended.began.zip(self.hot.as_ref()) {
                        hot.ended(began);
                    }
                }
                break;
            }
            let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, &slices[..count]);
            let written = ready!(self.sent(cx, polled))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(answering) = &mut self.answering {
                let body = |sent: usize| sent.saturating_sub(self.head.len());
                let before = body(answering.sent);
                answering.sent += written;
                let written = body(answering.sent) - before;
                answering.entry.iter_mut().for_each(|entry| entry.sent(written));
                if let Some(hot) = self.hot.as_mut().filter(|_| answering.object.is_some()) {
                    hot.sent(written);
                }
            }
        }
        Poll::Ready(Ok(()))
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
        slices: &[IoSlice<'_>],
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
        self.poll_out(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.returned {
            return Poll::Ready(Ok(()));
        }
        while let State::Refused(response) = &mut this.state {
            if response.is_empty() {
                ready!(this.poll_closed(cx))?;
                this.deadline.due = Some(Instant::now() + LINGER);
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
        this.poll_closed(cx)
    }
}

/// Pieces of an answer given to the system at a time: with its head, a body of 2 MiB.
const SLICES: usize = 33;

/// Bytes read at a time.
const PIECE: usize = 4_096;

/// How long what follows a refusal is read.
const LINGER: Duration = Duration::from_secs(1);

/// How much of what follows a refusal is read.
const LINGER_BYTES: usize = 256 << 10;
