//! A certificate renewed while a connection stands: its holder shows it on a substream of the same name as the first one, one frame,
//! no answer. So a link outlives the certificate that it began with.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::BoxFuture};
use libp2p::Stream;

use super::{
    certificate::GREETING_LIMIT,
    frame::{FrameError, FrameReader, FrameWriter},
};

/// The renewals of both sides of one connection.
pub(super) struct Renewal {
    /// To be shown, once a substream is asked for it.
    own: Option<Vec<u8>>,
    showing: Option<BoxFuture<'static, Result<(), FrameError>>>,
    reading: Option<BoxFuture<'static, Result<Bytes, FrameError>>>,
    /// How many more the peer may show; each costs two signatures to check.
    left: u8,
}

/// What the handler has to do for it.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask for a substream to the peer, to show this.
    Ask(Vec<u8>),
    /// Have this greeting of the peer's checked.
    Came(Bytes),
}

impl Renewal {
    /// This side's greeting, to be shown.
    pub(super) fn show(&mut self, greeting: Vec<u8>) {
        self.own = Some(greeting);
    }

    /// The substream asked for stands.
    pub(super) fn on_outbound(&mut self, mut stream: Stream, greeting: Vec<u8>) {
        self.showing = Some(Box::pin(async move {
            FrameWriter::send(&mut stream, &greeting).await?;
            // Ended, and held until the peer has read it: a reset could overtake the greeting, and in QUIC a stream that is let go
            // before the peer has agreed to its name never reaches it.
            stream.close().await?;
            while stream.read(&mut [0]).await? > 0 {}
            Ok(())
        }));
    }

    /// The peer opened a substream for it. One at a time is read, and [`MOST`] in all.
    pub(super) fn on_inbound(&mut self, mut stream: Stream) {
        if self.reading.is_none() && self.left > 0 {
            self.left -= 1;
            self.reading = Some(Box::pin(async move { FrameReader::new(GREETING_LIMIT).next(&mut stream).await }));
        }
    }

    /// Advances until it waits for something. A substream that breaks is forgotten: the certificate known before still stands.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(greeting) = self.own.take() {
            return Poll::Ready(Step::Ask(greeting));
        }
        if self.showing.as_mut().is_some_and(|showing| showing.as_mut().poll(cx).is_ready()) {
            self.showing = None;
        }
        let Some(Poll::Ready(read)) = self.reading.as_mut().map(|reading| reading.as_mut().poll(cx)) else {
            return Poll::Pending;
        };
        self.reading = None;
        read.map_or(Poll::Pending, |greeting| Poll::Ready(Step::Came(greeting)))
    }
}

impl Default for Renewal {
    fn default() -> Self {
        Self { own: None, showing: None, reading: None, left: MOST }
    }
}

/// Renewals that a peer may show on one connection; past it the connection ends with the certificate last shown. A year and more of
/// certificates for 30 days. `[guess]`
const MOST: u8 = 16;
