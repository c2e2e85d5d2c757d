//! A connection before it is known what is spoken on it: HTTP/2 begins with a preface, everything else is HTTP/1. What was read to
//! find out is read again by whoever serves it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use crate::{
    alarm::Alarm,
    patience::{Pace, Patience},
};

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    One,
    Two,
}

/// Reads until it is clear what is spoken, at most until the deadline; silence and nonsense are HTTP/1's to judge.
pub(crate) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, until: Instant) -> io::Result<(BytesMut, Spoken)> {
    let mut buffer = BytesMut::new();
    let read = async {
        loop {
            let known = buffer.len().min(PREFACE.len());
            if buffer[..known] != PREFACE[..known] {
                return Ok::<_, io::Error>(Spoken::One);
            }
            if known == PREFACE.len() {
                return Ok(Spoken::Two);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(Spoken::One);
            }
        }
    };
    let spoken = timeout_at(until, read).await.unwrap_or(Ok(Spoken::One))?;
    Ok((buffer, spoken))
}

/// A stream whose first bytes were read already, and whose other side may not refuse bytes for ever.
pub(crate) struct Rewound<S> {
    inner: S,
    before: BytesMut,
    patience: Patience,
    sending: Alarm,
}

impl<S> Rewound<S> {
    pub(crate) fn new(inner: S, before: BytesMut, pace: Pace) -> Self {
        Self { inner, before, patience: Patience::new(pace), sending: Alarm::default() }
    }

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
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, into);
        }
        let count = self.before.len().min(into.remaining());
        into.put_slice(&self.before[..count]);
        self.before.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.sent(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx).map_ok(|()| 1);
        self.sent(cx, polled).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx).map_ok(|()| 1);
        self.sent(cx, polled).map_ok(|_| ())
    }
}

/// The first line of HTTP/2's preface [RFC 9113 3.4]; the parser reads the rest.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_the_whole_preface_is_http_2() {
        for (bytes, spoken) in [
            (PREFACE, Spoken::Two),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Spoken::Two),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Spoken::One),
            (b"POST / HTTP/1.1\r\n", Spoken::One),
            (b"PRI * HT", Spoken::One),
            (b"", Spoken::One),
        ] {
            let mut stream = bytes;
            let until = Instant::now() + Duration::from_secs(20);
            let (read, found) = sniff(&mut stream, until).await.unwrap();
            assert_eq!((&read[..], found), (bytes, spoken));
        }
    }
}
