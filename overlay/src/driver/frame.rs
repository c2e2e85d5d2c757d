//! Frames on a substream: a length of 4 bytes, most significant first, then that many bytes. The length is checked against its cap
//! before anything is allocated.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};

/// Reads frames, one at a time.
#[derive(Debug)]
pub(super) struct FrameReader {
    limit: usize,
    head: [u8; HEAD],
    body: Vec<u8>,
    /// Bytes of head and body read so far.
    filled: usize,
}

impl FrameReader {
    /// A reader that refuses frames longer than this.
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, head: [0; HEAD], body: Vec::new(), filled: 0 }
    }

    /// The next frame; none at the end of the stream. Once it failed, it is not to be polled again.
    pub(super) fn poll_next<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, FrameError>> {
        loop {
            let target = match self.filled.checked_sub(HEAD) {
                None => self.head.get_mut(self.filled..),
                Some(body) => self.body.get_mut(body..),
            };
            let target = target.unwrap_or_default();
            if target.is_empty() && self.filled >= HEAD {
                self.filled = 0;
                return Poll::Ready(Ok(Some(std::mem::take(&mut self.body).into())));
            }
            let count = ready!(Pin::new(&mut *from).poll_read(cx, target))?;
            if count == 0 {
                let clean = self.filled == 0;
                return Poll::Ready(if clean { Ok(None) } else { Err(FrameError::CutShort) });
            }
            self.filled += count;
            if self.filled == HEAD {
                let length = u32::from_be_bytes(self.head);
                let body = usize::try_from(length).ok().filter(|length| *length <= self.limit);
                let Some(body) = body else {
                    return Poll::Ready(Err(FrameError::TooLong { length, limit: self.limit }));
                };
                self.body = vec![0; body];
            }
        }
    }

    /// [`FrameReader::poll_next`] as a future for exactly one frame.
    pub(super) async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> Result<Bytes, FrameError> {
        std::future::poll_fn(|cx| self.poll_next(from, cx)).await?.ok_or(FrameError::CutShort)
    }
}

/// Writes frames behind a buffer, so that several go out at once.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    buffer: BytesMut,
}

impl FrameWriter {
    /// Whether another frame may be pushed; otherwise write first.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < BUFFERED
    }

    /// Whether everything pushed has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, frame: &[u8]) {
        let Ok(length) = u32::try_from(frame.len()) else { return };
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(frame);
    }

    /// Writes and flushes what was pushed.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(count);
        }
        Pin::new(to).poll_flush(cx)
    }

    /// Writes one frame.
    pub(super) async fn send<W: AsyncWrite + Unpin>(to: &mut W, frame: &[u8]) -> io::Result<()> {
        let mut writer = Self::default();
        writer.push(frame);
        std::future::poll_fn(|cx| writer.poll_write(to, cx)).await
    }
}

/// Why a substream carries no more frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The peer misbehaved: a frame longer than any may be.
    #[error("a frame of {length} bytes, at most {limit} are allowed")]
    TooLong { length: u32, limit: usize },
    /// The stream ended inside a frame, or before the one expected.
    #[error("the stream ended inside a frame")]
    CutShort,
    /// The substream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes of the length before each frame.
const HEAD: usize = 4;

/// Bytes that are gathered before they are written. `[guess]`
const BUFFERED: usize = 16 * 1_024;

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::{FrameError, FrameReader, FrameWriter};

    fn read(bytes: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut reader = FrameReader::new(limit);
        let mut from = Cursor::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = block_on(std::future::poll_fn(|cx| reader.poll_next(&mut from, cx)))? {
            frames.push(frame.to_vec());
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let frames: [&[u8]; 4] = [b"", b"a", b"", &[7; 300]];
        let mut bytes = Vec::new();
        for frame in frames {
            block_on(FrameWriter::send(&mut bytes, frame)).unwrap();
        }
        assert_eq!(read(&bytes, 300).unwrap(), frames);
        assert!(matches!(read(&bytes[..bytes.len() - 1], 300), Err(FrameError::CutShort)));
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_anything_is_allocated() {
        // Allocating what these claim would abort the test process.
        for length in [301, 1 << 31, u32::MAX] {
            let refused = read(&length.to_be_bytes(), 300);
            assert!(matches!(refused, Err(FrameError::TooLong { length: l, limit: 300 }) if l == length));
        }
    }

    #[test]
    fn foreign_bytes_become_frames_within_the_cap() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(frames) = read(bytes, 64) {
                assert!(frames.iter().all(|frame| frame.len() <= 64));
            }
        });
    }
}
