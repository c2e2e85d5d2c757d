//! One connection: its handshake, and its streams as libp2p wants them.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, future::BoxFuture};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxer, StreamMuxerEvent},
    tls::certificate,
};
use quinn::{ConnectionError, RecvStream, SendStream, rustls::pki_types::CertificateDer};

use super::{
    Error,
    runtime::Seat,
    window::{Growth, Window},
};
use crate::driver::lanes::{in_bulk, is_admitted};

/// A handshake, and whose it was. Whoever began it sets it a deadline.
pub(super) type Handshake = BoxFuture<'static, Result<(PeerId, Connection), Error>>;

/// Waits for the end of a handshake.
pub(super) async fn shake_hands(
    begun: quinn::Connecting,
    seat: Seat,
    growth: Growth,
) -> Result<(PeerId, Connection), Error> {
    let connection = begun.await?;
    let peer = peer(&connection).ok_or(Error::Nobody)?;
    let window = Window::new(connection.clone(), growth);
    let (admitted, inbound, outbound, closing) = (false, None, None, None);
    Ok((peer, Connection { connection, window, admitted, seat: Some(seat), inbound, outbound, closing }))
}

/// Who is named by the certificate that was shown.
fn peer(connection: &quinn::Connection) -> Option<PeerId> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(certificate::parse(certificates.first()?).ok()?.peer_id())
}

/// A stream that is being opened or waited for.
type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A connection to a peer. It lives until it is closed, or this and all its streams are dropped.
pub(in crate::driver) struct Connection {
    pub(super) connection: quinn::Connection,
    pub(super) window: Arc<Window>,
    /// It is known to be a member's.
    admitted: bool,
    /// Where quinn's task for it runs; none after it came along to where bulk runs.
    seat: Option<Seat>,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        if !self.admitted && is_admitted() {
            self.admitted = true;
            self.window.admit();
        }
        if in_bulk()
            && let Some(seat) = self.seat.take()
        {
            seat.come_here();
        }
        let Self { connection, window, inbound, .. } = &mut *self;
        poll_opening(inbound, window, cx, || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        })
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let Self { connection, window, outbound, .. } = &mut *self;
        poll_opening(outbound, window, cx, || {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        })
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Error>> {
        // quinn moves it.
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { connection, closing, .. } = &mut *self;
        let closing = closing.get_or_insert_with(|| {
            connection.close(0_u32.into(), &[]);
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }
}

fn poll_opening(
    opening: &mut Option<Opening>,
    window: &Arc<Window>,
    cx: &mut Context<'_>,
    begin: impl FnOnce() -> Opening,
) -> Poll<Result<Stream, Error>> {
    let opened = ready!(opening.get_or_insert_with(begin).as_mut().poll(cx));
    *opening = None;
    let (send, receive) = opened?;
    Poll::Ready(Ok(Stream { send, receive, window: Arc::clone(window), closed: None }))
}

/// A stream. Dropped, it ends this side's bytes and takes no more of the other's.
pub(in crate::driver) struct Stream {
    send: SendStream,
    receive: RecvStream,
    window: Arc<Window>,
    /// How this side's bytes ended.
    closed: Option<Result<(), io::ErrorKind>>,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if matches!(self.closed, Some(Err(_))) {
            return Poll::Ready(Ok(0));
        }
        let read = ready!(AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer))?;
        self.window.moved(read);
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes))?;
        self.window.moved(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It may be asked again after it ended.
        if let Some(closed) = self.closed {
            return Poll::Ready(closed.map_err(io::Error::from));
        }
        let closed = ready!(AsyncWrite::poll_close(Pin::new(&mut self.send), cx));
        self.closed = Some(closed.as_ref().copied().map_err(io::Error::kind));
        Poll::Ready(closed)
    }
}
