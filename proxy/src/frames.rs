//! The body of one proxy's answer to another: a stream of frames, so that a fill under way can show that it lives before it has a
//! head, and that each byte comes with the word of whoever has it from the origin.
//!
//! A frame is a kind byte, a length (u32, big endian) and so many bytes:
//!
//! | kind | bytes | meaning |
//! |---|---|---|
//! | `W` | 0 | the origin's fetcher still waits; relays pass it on and never make one, so a ring of relays falls silent |
//! | `H` | <= 256 KiB | [`crate::meta::Meta`]; once, before any `D` |
//! | `S` | <= 811 | a [`crate::vouch::Group`]: what the bytes that follow are to be |
//! | `D` | <= 1 MiB | a piece of the body: after an `S`, from its first chunk that the asker has not whole |
//! | `E` | 8 | the end: length (u64, big endian) |
//! | `X` | 1, then up to 8 node ids of 20 | the end: no good; which [`Abort`] |

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use atoll_overlay::{Key, NodeId};
use bytes::{Buf as _, Bytes, BytesMut};

use crate::{reason::Failure, uploads::TOLD, vouch::GROUP_LIMIT};

/// One frame as read. A `D` comes in as many pieces as it arrived in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The fill lives.
    Wait,
    /// The head.
    Head(Bytes),
    /// A group, unread.
    Signed(Bytes),
    /// Body bytes, at least one.
    Data(Bytes),
    /// The body is whole: so many bytes.
    End(u64),
    /// It will not be whole.
    Abort(Abort),
}

/// Why a fill ended without being whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Abort {
    /// The origin failed; asking it again would not help.
    Origin(Failure),
    /// The answer cannot be shared, or stands under another key.
    NotShared,
    /// This copy broke; another may be whole.
    Broken,
    /// It is given to as many as can be; these have it, or are getting it.
    Busy(Vec<NodeId>),
}

/// The stream is not made of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame")]
pub(crate) struct Malformed;

impl Frame {
    /// The head, or all of the frame if it is no `D`: data follows uncopied.
    pub(crate) fn head(&self) -> Bytes {
        let with = |kind: u8, body: &[u8]| {
            let mut bytes = BytesMut::with_capacity(HEAD + body.len());
            bytes.extend_from_slice(&head(kind, body.len()));
            bytes.extend_from_slice(body);
            bytes.freeze()
        };
        match self {
            Self::Wait => with(b'W', &[]),
            Self::Head(meta) => with(b'H', meta),
            Self::Data(data) => data_head(data.len()),
            Self::Signed(group) => with(b'S', group),
            Self::End(length) => with(b'E', &length.to_be_bytes()),
            Self::Abort(abort) => with(b'X', &abort.bytes()),
        }
    }
}

/// The head of a `D` of so many bytes.
pub(crate) fn data_head(count: usize) -> Bytes {
    Bytes::copy_from_slice(&head(b'D', count))
}

fn head(kind: u8, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, a, b, c, d]
}

impl Abort {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::NotShared => vec![0],
            Self::Broken => vec![1],
            Self::Origin(failure) => match failure.status().as_u16() {
                504 => vec![3],
                _ => vec![2],
            },
            Self::Busy(others) => {
                let ids = others.iter().take(TOLD).flat_map(|id| *id.key().as_bytes());
                std::iter::once(4).chain(ids).collect()
            }
        }
    }

    fn read(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            Some((0, _)) => Self::NotShared,
            Some((2, _)) => Self::Origin(Failure::ConnectRefused),
            Some((3, _)) => Self::Origin(Failure::ResponseTimeout),
            Some((4, ids)) => {
                let ids = ids.chunks_exact(20).filter_map(|id| id.try_into().ok().map(Key::from_bytes));
                Self::Busy(ids.map(NodeId::from).collect())
            }
            _ => Self::Broken,
        }
    }
}

/// Cuts frames out of bytes as they arrive. Holds at most one unfinished frame that is no data; data is handed on uncopied.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// What is not read yet.
    arrived: Bytes,
    /// A frame's head, and the rest of it if it is no data.
    begun: BytesMut,
    /// Bytes of the current `D` still to come.
    data: usize,
}

impl Frames {
    /// Takes what arrived: everything, since [`Self::next`] is drained first.
    pub(crate) fn feed(&mut self, bytes: Bytes) {
        self.arrived = if self.arrived.is_empty() { bytes } else { [&self.arrived[..], &bytes[..]].concat().into() };
    }

    /// The next frame, or `None` if more must arrive. After an error the stream is useless.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        loop {
            if self.data > 0 {
                if self.arrived.is_empty() {
                    return Ok(None);
                }
                let count = self.data.min(self.arrived.len());
                self.data -= count;
                return Ok(Some(Frame::Data(self.arrived.split_to(count))));
            }
            self.gather(HEAD);
            let Some([kind, a, b, c, d]) = self.begun.first_chunk::<HEAD>().copied() else { return Ok(None) };
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Malformed)?;
            let allowed = match kind {
                b'W' => length == 0,
                b'H' => length <= HEAD_LIMIT,
                b'D' => length <= DATA_LIMIT,
                b'E' => length == END,
                b'S' => length <= GROUP_LIMIT,
                b'X' => (1..=1 + 20 * TOLD).contains(&length),
                _ => false,
            };
            if !allowed {
                return Err(Malformed);
            }
            if kind == b'D' {
                self.begun.clear();
                self.data = length;
                continue;
            }
            self.gather(HEAD + length);
            if self.begun.len() < HEAD + length {
                return Ok(None);
            }
            let mut body = self.begun.split().freeze();
            body.advance(HEAD);
            return match kind {
                b'W' => Ok(Some(Frame::Wait)),
                b'H' => Ok(Some(Frame::Head(body))),
                b'S' => Ok(Some(Frame::Signed(body))),
                b'E' => {
                    body.as_ref().try_into().map_or(Err(Malformed), |end| Ok(Some(Frame::End(u64::from_be_bytes(end)))))
                }
                _ => Ok(Some(Frame::Abort(Abort::read(&body)))),
            };
        }
    }

    /// Gathers so many bytes of a frame, or all that arrived.
    fn gather(&mut self, count: usize) {
        let missing = count.saturating_sub(self.begun.len()).min(self.arrived.len());
        self.begun.extend_from_slice(&self.arrived.split_to(missing));
    }
}

/// Bytes before a frame's own.
const HEAD: usize = 5;

/// Bytes of an `E`.
const END: usize = 8;

/// Bytes of an `H`.
const HEAD_LIMIT: usize = 256 << 10;

/// Bytes of a `D`.
pub(crate) const DATA_LIMIT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_however_they_are_cut() {
        let sent = [
            Frame::Wait,
            Frame::Head(Bytes::from_static(b"meta")),
            Frame::Signed(Bytes::from_static(b"words")),
            Frame::Data(Bytes::from_static(b"body")),
            Frame::End(4),
            Frame::Abort(Abort::Broken),
            Frame::Abort(Abort::Busy(vec![NodeId::from(Key::of(b"one")), NodeId::from(Key::of(b"two"))])),
        ];
        let mut wire = Vec::new();
        for frame in &sent {
            wire.extend_from_slice(&frame.head());
            if let Frame::Data(data) = frame {
                wire.extend_from_slice(data);
            }
        }
        for piece in [1, 2, 7, wire.len()] {
            let (mut frames, mut read, mut data) = (Frames::default(), Vec::new(), Vec::new());
            for bytes in wire.chunks(piece) {
                frames.feed(Bytes::copy_from_slice(bytes));
                while let Some(frame) = frames.next().unwrap() {
                    if let Frame::Data(piece) = &frame { data.extend_from_slice(piece) } else { read.push(frame) }
                }
            }
            assert_eq!(data, b"body");
            assert_eq!(read, sent.iter().filter(|frame| !matches!(frame, Frame::Data(_))).cloned().collect::<Vec<_>>());
        }
    }

    // P04: a length is checked before anything is allocated for it.
    #[test]
    fn lengths_over_the_cap_are_refused_at_once() {
        for head in [
            *b"D\xff\xff\xff\xff",
            *b"H\x7f\xff\xff\xff",
            *b"E\0\0\0\x09",
            *b"S\0\0\x04\0",
            *b"X\0\0\0\0",
            *b"X\0\0\0\xa2",
            *b"W\0\0\0\x01",
            *b"?\0\0\0\0",
        ] {
            let mut frames = Frames::default();
            frames.feed(Bytes::copy_from_slice(&head));
            assert_eq!(frames.next(), Err(Malformed));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.feed(Bytes::copy_from_slice(bytes));
            while let Ok(Some(_)) = frames.next() {}
        });
    }
}
