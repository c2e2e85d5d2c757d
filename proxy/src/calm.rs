//! What an HTTP/2 client sends that makes work and brings nothing: PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, CONTINUATION, DATA
//! without bytes, kinds that nobody knows [bad-inputs H17]. The parser behind answers each of them, for ever; so their number is
//! bounded here, by the frames' heads alone (RFC 9113 4.1, 10.5), as they pass. Everybody else needs some of them, and the more the
//! more it is sent: what is allowed grows with the time and with the bytes that go out. Who has asked for nothing by the deadline that
//! a head has is let go too [bad-inputs H13].

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::http2::Streams;

/// A client's stream of HTTP/2, which ends once [`Calm`] has had enough.
pub(crate) struct Calmed<S> {
    inner: S,
    calm: Calm,
    /// Until when something must have been asked; none once it was.
    first: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Bytes of the last word that are out.
    said: usize,
    /// Told of the bytes that go out.
    streams: Streams,
}

impl<S> Calmed<S> {
    /// At most so many idle frames at once, and a first request by then.
    pub(crate) fn new(inner: S, (most, first): (u64, Instant), streams: Streams) -> Self {
        let first = Some(Box::pin(sleep_until(first)));
        Self { inner, calm: Calm::new(most), first, ended: false, said: 0, streams }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Calmed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // An end: the parser says what it still has to say, and shuts the stream down.
        if this.ended || this.calm.is_over() {
            return Poll::Ready(Ok(()));
        }
        let from = into.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, into) {
            read?;
            let passed = this.calm.take(Instant::now(), into.filled().get(from..).unwrap_or_default());
            into.set_filled(from + passed);
            if this.calm.has_asked() {
                this.first = None;
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.first {
            Some(first) => ready!(first.as_mut().poll(cx)),
            None => return Poll::Pending,
        }
        this.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Calmed<S> {
    fn sent(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.calm.sent(*count);
            self.streams.sent(*count);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Calmed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Asked once all of the parser's frames are out, so that this is a frame of its own.
        if this.calm.is_over() {
            let goodbye = this.calm.goodbye();
            while let Some(rest) = goodbye.get(this.said..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut this.inner).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => this.said += count,
                }
            }
        }
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Follows the frames of one connection, from the first byte of its preface on.
#[derive(Debug)]
pub(crate) struct Calm {
    /// Bytes of the preface or of a payload still to come.
    skip: usize,
    /// A frame's head, so far as it is there.
    head: [u8; HEAD],
    filled: usize,
    /// Idle frames that may still come.
    left: u64,
    most: u64,
    /// Bytes sent that no frame was allowed for yet.
    sent: usize,
    /// When the time was counted last.
    at: Option<Instant>,
    /// The highest stream that the client has opened.
    stream: u32,
    asked: Asked,
    over: bool,
}

/// Whether a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// Its last frame is on its way.
    Ending,
    Yes,
}

impl Calm {
    /// At most so many idle frames at once.
    pub(crate) const fn new(most: u64) -> Self {
        let (filled, sent, stream) = (0, 0, 0);
        let (at, asked, over) = (None, Asked::No, false);
        Self { skip: PREFACE, head: [0; HEAD], filled, left: most, most, sent, at, stream, asked, over }
    }

    /// So many bytes went to the client.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count);
        let earned = u64::try_from(self.sent / SENT_PER_FRAME).unwrap_or(u64::MAX);
        self.sent %= SENT_PER_FRAME;
        self.left = self.left.saturating_add(earned).min(self.most);
    }

    /// How many of these bytes may pass. All, until a frame too many has come: then up to that frame's end, and nothing after it.
    pub(crate) fn take(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(rest.len());
                self.skip -= count;
                if self.skip == 0 && self.asked == Asked::Ending {
                    self.asked = Asked::Yes;
                }
                rest = rest.split_at_checked(count).unwrap_or_default().1;
                continue;
            }
            if self.is_over() {
                break;
            }
            let Some((byte, after)) = rest.split_first() else { break };
            if let Some(place) = self.head.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            rest = after;
            if self.filled == HEAD {
                self.filled = 0;
                self.frame(now);
            }
        }
        bytes.len() - rest.len()
    }

    /// Whether a frame too many has come, and gone whole.
    pub(crate) const fn is_over(&self) -> bool {
        self.over && self.skip == 0
    }

    /// Whether the head of a request has come whole.
    pub(crate) fn has_asked(&self) -> bool {
        self.asked == Asked::Yes
    }

    /// What such a client is told: GOAWAY with `ENHANCE_YOUR_CALM` (RFC 9113 6.8, 7).
    pub(crate) fn goodbye(&self) -> [u8; HEAD + 8] {
        let [a, b, c, d] = self.stream.to_be_bytes();
        [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, ENHANCE_YOUR_CALM]
    }

    fn frame(&mut self, now: Instant) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        // An empty block is no request; nobody waits for the rest of one.
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 && self.asked == Asked::No && length > 0 {
            self.asked = Asked::Ending;
        }
        let idle = match kind {
            DATA => length == 0 && flags & END_STREAM == 0,
            HEADERS => {
                self.stream = self.stream.max(u32::from_be_bytes(stream) & !RESERVED);
                false
            }
            // The answers to what this side asks.
            SETTINGS | PING => flags & ACK == 0,
            _ => true,
        };
        if !idle {
            return;
        }
        let at = *self.at.get_or_insert(now);
        let spans = now.saturating_duration_since(at).as_millis() / PER_FRAME.as_millis();
        if spans > 0 {
            self.left = self.left.saturating_add(u64::try_from(spans).unwrap_or(u64::MAX)).min(self.most);
            self.at = Some(now);
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.over = true,
        }
    }
}

/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Bytes before the first frame [RFC 9113 3.4].
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const RESERVED: u32 = 1 << 31;
const ENHANCE_YOUR_CALM: u8 = 11;

/// For so many bytes that it is sent a client may send a frame: windows are opened again, downloads given up. \[guess\]
const SENT_PER_FRAME: usize = 1_024;

/// For each such span too. \[guess\]
const PER_FRAME: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 5;

    fn frame(kind: u8, flags: u8, stream: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.resize(HEAD + usize::from(length), 0);
        frame
    }

    /// How many of these frames pass a client that has sent nothing else.
    fn passed(frames: &[Vec<u8>]) -> usize {
        let mut calm = Calm::new(MOST);
        let bytes = [vec![0; PREFACE], frames.concat()].concat();
        let taken = calm.take(Instant::now(), &bytes);
        let mut ends = frames.iter().scan(PREFACE, |end, frame| {
            *end += frame.len();
            Some(*end)
        });
        1 + ends.position(|end| end == taken).expect("it ends with a frame")
    }

    #[test]
    fn frames_that_bring_nothing_are_counted_and_the_one_too_many_is_the_last() {
        for (kind, flags, length) in
            [(6, 0, 8), (4, 0, 0), (4, 0, 6), (2, 0, 5), (3, 0, 4), (8, 0, 4), (9, 0, 1), (0, 0, 0), (77, 1, 3)]
        {
            let frames = vec![frame(kind, flags, 1, length); 20];
            assert_eq!(passed(&frames), 6, "kind {kind}");
        }
    }

    #[test]
    fn requests_bodies_and_answers_to_what_we_ask_are_not() {
        for (kind, flags, length) in [(1, 5, 20), (0, 0, 1), (0, 1, 0), (4, 1, 0), (6, 1, 8)] {
            assert_eq!(passed(&vec![frame(kind, flags, 1, length); 20]), 20, "kind {kind}");
        }
    }

    #[test]
    fn the_time_and_what_is_sent_allow_more() {
        let mut calm = Calm::new(MOST);
        let mut now = Instant::now();
        calm.take(now, &[0; PREFACE]);
        let ping = frame(6, 0, 0, 8);
        for _ in 0..100 {
            for _ in 0..MOST {
                assert_eq!(calm.take(now, &ping), ping.len());
            }
            now += PER_FRAME * 5;
        }
        for _ in 0..100 {
            assert_eq!(calm.take(now, &ping), ping.len());
            calm.sent(SENT_PER_FRAME / 2);
            calm.sent(SENT_PER_FRAME / 2);
        }
        // An hour in which nothing came allows no more than a moment.
        now += Duration::from_secs(3_600);
        let passed = (0..20).take_while(|_| calm.take(now, &ping) == ping.len() && !calm.is_over()).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn the_last_word_names_the_last_stream() {
        let mut calm = Calm::new(0);
        let bytes = [vec![0; PREFACE], frame(1, 5, 9, 3), frame(6, 0, 0, 8)].concat();
        assert_eq!(calm.take(Instant::now(), &bytes), bytes.len());
        assert!(calm.is_over());
        assert_eq!(calm.goodbye(), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 11]);
    }

    #[test]
    fn no_bytes_make_it_panic_and_cuts_change_nothing() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let now = Instant::now();
            let bytes = [&[0; PREFACE], bytes].concat();
            let (mut whole, mut cut) = (Calm::new(1), Calm::new(1));
            let once = whole.take(now, &bytes);
            let twice: usize = bytes.chunks(3).map(|piece| cut.take(now, piece)).sum();
            assert_eq!((once, whole.is_over()), (twice, cut.is_over()));
        });
    }
}
