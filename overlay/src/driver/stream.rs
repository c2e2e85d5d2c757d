//! A libp2p substream as tokio knows byte streams.
//!
//! A substream whose name the peer has not confirmed yet cannot bear to be touched again once that confirmation failed to come: it
//! panics (multistream-select 0.14, `Negotiated`). HTTP flushes after a read that failed, so a peer that died at that moment ended
//! the task of whoever asked it, and broke off what that task was giving out. After a failed read nothing reaches the substream.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

use super::batch::Waiter;

/// A byte stream to a peer. Shutting it down ends this side's bytes; dropping it before resets it.
#[derive(Debug)]
pub(super) struct PeerStream<S = libp2p::Stream> {
    substream: S,
    reader: Waiter,
    writer: Waiter,
    /// Bytes that the next read has room for.
    room: usize,
    /// Why a read failed: then all fails.
    broken: Option<io::ErrorKind>,
    /// Gives its place back when the stream is dropped, if this side opened it.
    _place: Option<OwnedSemaphorePermit>,
}

impl<S: Unpin> PeerStream<S> {
    /// The byte stream on this substream.
    pub(super) const fn new(substream: S, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { substream, reader: Waiter::new(), writer: Waiter::new(), room: READ, broken: None, _place: place }
    }

    /// The substream, unless it is not to be touched any more.
    fn whole(&mut self) -> io::Result<Pin<&mut S>> {
        match self.broken {
            Some(why) => Err(why.into()),
            None => Ok(Pin::new(&mut self.substream)),
        }
    }
}

impl<S: futures::AsyncRead + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining().min(self.room);
        let waker = self.reader.patient(cx.waker());
        let cx = &mut Context::from_waker(&waker);
        let read = ready!(self.whole()?.poll_read(cx, buffer.initialize_unfilled_to(room)));
        if let Err(error) = &read {
            self.broken = Some(error.kind());
        }
        let count = read?;
        self.room = count.saturating_mul(2).clamp(READ_LEAST, READ);
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: futures::AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waker = self.writer.patient(cx.waker());
        self.whole()?.poll_write(&mut Context::from_waker(&waker), bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let waker = self.writer.patient(cx.waker());
        let cx = &mut Context::from_waker(&waker);
        let mut slices = slices.iter().map(|slice| &slice[..]).filter(|slice| !slice.is_empty());
        let substream = self.whole()?;
        match slices.next() {
            None => Poll::Ready(Ok(0)),
            Some(first) if first.len() >= FRAME => substream.poll_write(cx, first),
            // Carriers take one slice at a time, and make a frame of it however short it is.
            Some(first) => {
                let (mut frame, mut length) = ([0; FRAME], 0);
                for slice in std::iter::once(first).chain(slices) {
                    let room = &mut frame[length..];
                    let count = slice.len().min(room.len());
                    room[..count].copy_from_slice(&slice[..count]);
                    length += count;
                    if length == FRAME {
                        break;
                    }
                }
                substream.poll_write(cx, &frame[..length])
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?.poll_close(cx)
    }
}

/// Bytes read at a time at most, and how many at least if there is room: they are set to zero before, whether they come or not, so
/// that a read has room for twice what the one before brought.
const READ: usize = 64 << 10;
const READ_LEAST: usize = 4 << 10;

/// Bytes of a frame of yamux at most.
const FRAME: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Takes what is written; its first read fails, and then it panics when it is touched.
    #[derive(Default)]
    struct Unconfirmed {
        failed: bool,
    }

    impl futures::AsyncRead for Unconfirmed {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            assert!(!std::mem::replace(&mut self.failed, true), "read again");
            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    impl futures::AsyncWrite for Unconfirmed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            assert!(!self.failed, "written to");
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            assert!(!self.failed, "flushed");
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            assert!(!self.failed, "closed");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn after_a_failed_read_nothing_reaches_the_substream() {
        let mut stream = PeerStream::new(Unconfirmed::default(), None);
        stream.write_all(b"GET").await.unwrap();
        stream.flush().await.unwrap();
        let why = |result: io::Result<()>| result.unwrap_err().kind();
        let eof = io::ErrorKind::UnexpectedEof;
        for _ in 0..2 {
            assert_eq!(why(stream.read(&mut [0; 9]).await.map(drop)), eof);
            assert_eq!(why(stream.flush().await), eof);
            assert_eq!(why(stream.write(b"x").await.map(drop)), eof);
            assert_eq!(why(stream.write_vectored(&[IoSlice::new(b"x")]).await.map(drop)), eof);
            assert_eq!(why(stream.shutdown().await), eof);
        }
    }
}
