//! A libp2p substream as tokio knows byte streams.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

/// A byte stream to a peer. Shutting it down ends this side's bytes; dropping it before resets it.
#[derive(Debug)]
pub(super) struct PeerStream {
    substream: libp2p::Stream,
    /// Gives its place back when the stream is dropped, if this side opened it.
    _place: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    /// The byte stream on this substream.
    pub(super) const fn new(substream: libp2p::Stream, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { substream, _place: place }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining().min(READ);
        let count = ready!(Pin::new(&mut self.substream).poll_read(cx, buffer.initialize_unfilled_to(room)))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.substream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices = slices.iter().map(|slice| &slice[..]).filter(|slice| !slice.is_empty());
        let substream = Pin::new(&mut self.substream);
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
        Pin::new(&mut self.substream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.substream).poll_close(cx)
    }
}

/// Bytes read at a time: they are set to zero before, whether they come or not, and a carrier seldom has more at hand.
const READ: usize = 64 << 10;

/// Bytes of a frame of yamux at most.
const FRAME: usize = 16 << 10;
