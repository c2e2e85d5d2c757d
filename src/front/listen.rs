//! Accepting clients. A connection whose first bytes ask for the program itself (`/_atoll/`, `/_log`, or a POST) is a plain one;
//! every other runs behind the proxy's gate, where what is plain is answered (`quick`) and a parser is lent the rest. Where there is a
//! certificate, one that begins with a TLS record speaks TLS, on the same port. Whoever leaves takes no new client and lets what runs
//! finish; the program itself is still spoken to meanwhile.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use atoll_proxy::{Early, Gated};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{body::FrontBody, quick, service::Service};

/// Answers what comes in at the front.
pub(crate) trait Desk: Send + Sync + 'static {
    /// What is served.
    fn service(&self) -> &Service;

    /// What becomes of a plain GET; for [`Early::Told`] the whole head is written.
    fn decide(&self, client: Client, target: &str, head: &mut Vec<u8>) -> Early;

    /// Answers one request of any kind. Those with a body come only by plain connections.
    fn answer(&self, client: Client, request: Request<Incoming>) -> impl Future<Output = Response<FrontBody>> + Send;
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// The round trip to it when it connected, in microseconds, where the system tells.
    pub(crate) rtt_us: Option<u64>,
    /// Whether it came over TLS.
    pub(crate) secure: bool,
}

/// A listener with what it accepted. Dropping it cuts all.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    task: JoinSet<()>,
}

/// How far a front is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// No new clients.
    Leaving,
    /// Nobody new.
    Closed,
}

impl Front {
    /// Binds; nothing is accepted before [`Self::serve`], so that the port may be told to others first.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }

    /// Serves until drained or dropped, at most so many connections at once; over TLS as well, if there is a configuration for it.
    pub(crate) fn serve<D: Desk>(
        listener: TcpListener,
        connections: usize,
        tls: Option<Arc<ServerConfig>>,
        desk: Arc<D>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (phase, phases) = watch::channel(Phase::Open);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, connections, tls.map(TlsAcceptor::from), desk, phases));
        Ok(Self { address, phase, task })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new client; idle connections of clients are closed, busy ones after their answer.
    pub(crate) fn close(&self) {
        self.phase.send_replace(Phase::Leaving);
    }

    /// Takes nobody new and waits until all connections have ended, at most this long; then cuts them. True if all ended.
    pub(crate) async fn finish(mut self, most: Duration) -> bool {
        self.phase.send_replace(Phase::Closed);
        let ended = timeout(most, async { while self.task.join_next().await.is_some() {} }).await.is_ok();
        self.task.shutdown().await;
        ended
    }
}

async fn accept<D: Desk>(
    listener: TcpListener,
    most: usize,
    tls: Option<TlsAcceptor>,
    desk: Arc<D>,
    phases: watch::Receiver<Phase>,
) {
    let slots = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                        // One try, never waited for; the kernel's buffer has room for it.
                        let _ = stream.try_write(BUSY);
                        continue;
                    };
                    let rtt = atoll_sys::tcp::round_trip(&stream).ok().flatten();
                    let rtt_us = rtt.and_then(|rtt| u64::try_from(rtt.smoothed.as_micros()).ok());
                    let (desk, tls, phases) = (Arc::clone(&desk), tls.clone(), phases.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        welcome(desk, Client { address, rtt_us, secure: false }, stream, (tls, phases)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = reached(phases.clone(), Phase::Closed) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Finds out what a connection speaks, and serves it.
async fn welcome<D: Desk>(
    desk: Arc<D>,
    client: Client,
    stream: TcpStream,
    (tls, phases): (Option<TlsAcceptor>, watch::Receiver<Phase>),
) {
    // A client that left at once is noticed soon enough.
    let _ = stream.set_nodelay(true);
    let opening = tokio::select! {
        opening = look(&stream) => opening,
        () = reached(phases.clone(), Phase::Closed) => return,
    };
    match (opening, tls) {
        (None, _) => {}
        (Some(Opening::Tls), Some(tls)) => {
            let shaken = async {
                let mut stream = timeout(HEAD_TIMEOUT, tls.accept(stream)).await.ok()?.ok()?;
                let (opening, first) = timeout(HEAD_TIMEOUT, read_ahead(&mut stream)).await.ok()??;
                let (read, write) = tokio::io::split(stream);
                Some((opening, tokio::io::join(io::Cursor::new(first).chain(read), write)))
            };
            let shaken = tokio::select! {
                shaken = shaken => shaken,
                () = reached(phases.clone(), Phase::Closed) => return,
            };
            if let Some((opening, stream)) = shaken {
                converse(desk, Client { secure: true, ..client }, opening, stream, phases).await;
            }
        }
        // Without a certificate the gate says that this is no HTTP.
        (Some(opening), _) => converse(desk, client, opening, stream, phases).await,
    }
}

async fn converse<D, S>(desk: Arc<D>, client: Client, opening: Opening, mut stream: S, phases: watch::Receiver<Phase>)
where
    D: Desk,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = {
        let desk = Arc::clone(&desk);
        service_fn(move |request| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(desk.answer(client, request).await) }
        })
    };
    let mut builder = http1::Builder::new();
    if opening == Opening::Own {
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
        let closed = reached(phases, Phase::Closed);
        Box::pin(run(builder.serve_connection(TokioIo::new(stream), service), closed)).await;
        return;
    }
    if *phases.borrow() != Phase::Open {
        Box::pin(refuse(&mut stream)).await;
        return;
    }
    // Half-closed connections are kept: the parser then never reads ahead of its answers, as the gate needs.
    builder.half_close(true);
    let mut gated = quick::gate(&desk, client, stream);
    while matches!(next(&mut gated, &phases).await, Ok(true)) {
        // A parser lives for one request: what it holds is not held by connections that wait.
        let leaving = reached(phases.clone(), Phase::Leaving);
        let ended = Box::pin(run(builder.serve_connection(TokioIo::new(&mut gated), &service), leaving)).await;
        if !gated.take_back() || !ended {
            return;
        }
    }
    // Whoever has gone is not to be told goodbye.
    let _ = gated.shutdown().await;
}

/// Tells a client that it comes too late. One that hears nothing of it comes again as it would have.
async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let told = async {
        // What is left unread would take the answer back with it.
        let _ = stream.read(&mut [0; 4_096]).await?;
        stream.write_all(BUSY).await?;
        stream.shutdown().await
    };
    let _ = timeout(HEAD_TIMEOUT, told).await;
}

/// Waits for the next head for the parser; for none, once the front closes and nothing is owed.
async fn next<S>(gated: &mut Gated<S>, phases: &watch::Receiver<Phase>) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut leaving = std::pin::pin!(reached(phases.clone(), Phase::Leaving));
    let mut watched = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(next) = gated.poll_head(cx) {
            return Poll::Ready(next);
        }
        // Looked at when it changes, not at each request.
        if gated.owes() || std::mem::replace(&mut watched, true) && !phases.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        leaving.as_mut().poll(cx).map(|()| Ok(false))
    })
    .await
}

/// Serves a parser's requests: whether that ended properly.
async fn run<I, S>(connection: http1::Connection<I, S>, leaving: impl Future<Output = ()>) -> bool
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = FrontBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = leaving => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = &ended {
        tracing::trace!(%error, "a connection ended early");
    }
    ended.is_ok()
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// With a request for the program itself.
    Own,
    /// With a record of TLS.
    Tls,
    /// With anything else.
    Client,
}

impl Opening {
    /// None: the beginning of a request for the program itself, or nothing yet.
    fn of(seen: &[u8]) -> Option<Self> {
        if OWN.iter().any(|own| seen.starts_with(own)) {
            return Some(Self::Own);
        }
        if OWN.iter().any(|own| own.starts_with(seen)) {
            return None;
        }
        Some(if seen.first() == Some(&TLS_HANDSHAKE) { Self::Tls } else { Self::Client })
    }
}

/// How a connection begins; nothing is taken from it. None if nothing comes.
async fn look(stream: &TcpStream) -> Option<Opening> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let mut first = [0; 16];
    while Instant::now() < deadline {
        let count = timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await.ok()?.ok()?;
        let seen = first.get(..count)?;
        if seen.is_empty() {
            return None;
        }
        if let Some(opening) = Opening::of(seen) {
            return Some(opening);
        }
        // The beginning of one of them: the rest is on its way.
        sleep(PEEK_PAUSE).await;
    }
    None
}

/// The same for a stream that cannot be looked at: with what was read. None if it ends.
async fn read_ahead(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Opening, Vec<u8>)> {
    let mut first = Vec::with_capacity(64);
    loop {
        if stream.read_buf(&mut first).await.ok()? == 0 {
            return None;
        }
        if let Some(opening) = Opening::of(&first) {
            return Some((opening, first));
        }
    }
}

/// Ready once the front is that far, or is gone.
async fn reached(mut phases: watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.wait_for(|reached| *reached >= phase).await;
}

/// How requests for the program itself begin.
const OWN: [&[u8]; 5] = [b"POST ", b"GET /_atoll/", b"HEAD /_atoll/", b"GET /_log", b"HEAD /_log"];

/// The first byte of a TLS handshake [RFC 8446 5.1].
const TLS_HANDSHAKE: u8 = 22;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at a head that dawdles.
const PEEK_PAUSE: Duration = Duration::from_millis(10);

/// For the first bytes, and for a plain connection's heads.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a plain connection's head.
const MAX_HEAD: usize = 64 << 10;

/// To those who find no place, or come too late.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: atoll\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
