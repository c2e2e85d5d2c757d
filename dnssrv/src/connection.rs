//! Connections in clear (RFC 7766), over TLS (RFC 7858) or HTTPS (RFC 8484), from the first byte to the last. Who may connect is
//! `seats.rs`'s. The handshake of a connection in clear tells the distance of whoever opened it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::Prefix;
use atoll_tls::Certificates;
use bytes::{Buf as _, BytesMut};
use rand::RngExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Config, ServeError, Source, Transport,
    answer::Answer,
    doh,
    later::answer_later,
    redirector::Redirector,
    respond::{Asked, Outcome},
    seats::{Seat, Seats},
    waiters::Waited,
};

/// What is spoken on a listener's connections.
#[derive(Clone)]
pub(crate) enum Way {
    /// Messages after their length.
    Clear,
    /// The same over TLS.
    Tls(TlsAcceptor),
    /// HTTP requests over TLS.
    Https(TlsAcceptor),
}

impl Way {
    /// The listeners over TLS.
    pub(crate) fn tls(
        config: &Config,
        certificates: &Arc<Certificates>,
    ) -> Result<Vec<(SocketAddr, Self)>, ServeError> {
        let acceptor = acceptor(certificates, &["dot"])?;
        Ok(config.listen_tls.iter().map(|address| (*address, Self::Tls(acceptor.clone()))).collect())
    }

    /// The listeners over HTTPS.
    pub(crate) fn https(
        config: &Config,
        certificates: &Arc<Certificates>,
    ) -> Result<Vec<(SocketAddr, Self)>, ServeError> {
        let acceptor = acceptor(certificates, &["h2", "http/1.1"])?;
        Ok(config.listen_https.iter().map(|address| (*address, Self::Https(acceptor.clone()))).collect())
    }
}

fn acceptor(certificates: &Arc<Certificates>, protocols: &[&str]) -> Result<TlsAcceptor, ServeError> {
    let server = certificates.server(protocols);
    server.map(TlsAcceptor::from).map_err(|error| ServeError::config("certificates", error.to_string()))
}

/// Reads certificates again when their files change.
pub(crate) async fn look_at(certificates: Arc<Certificates>) {
    loop {
        tokio::time::sleep(atoll_tls::LOOK).await;
        certificates.refresh();
    }
}

/// Takes connections for as long as it is polled.
pub(crate) async fn accept(redirector: Arc<Redirector>, listener: TcpListener, seats: Arc<Seats>, way: Way) {
    let mut open = JoinSet::new();
    let limits = redirector.config.limits.clone();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                let address = from.ip().to_canonical();
                let is_exempt = redirector.config.rate_limit.exempt.iter().any(|network| network.contains(address));
                let most_here = if is_exempt { usize::MAX } else { limits.tcp_per_prefix };
                if let Some(seat) = seats.seat(from, limits.tcp_connections, most_here) {
                    let (redirector, way) = (Arc::clone(&redirector), way.clone());
                    open.spawn(async move {
                        let ended = serve(&redirector, stream, from, way, Arc::new(seat)).await;
                        tracing::trace!(%from, ?ended, "a DNS connection ended");
                    });
                } else {
                    metrics::counter!("atoll_dns_connections_refused_total").increment(1);
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: those open close in a while.
                tracing::warn!(%error, "accepting a DNS connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    redirector: &Arc<Redirector>,
    stream: TcpStream,
    from: SocketAddr,
    way: Way,
    seat: Arc<Seat>,
) -> io::Result<()> {
    let idle = redirector.config.limits.tcp_idle;
    stream.set_nodelay(true)?;
    measure(redirector, &stream, from);
    match way {
        Way::Clear => unless_lost(&seat, converse(redirector, stream, from, Transport::Tcp, &seat)).await,
        Way::Tls(acceptor) => {
            let spoken = async {
                let stream = timeout(idle, acceptor.accept(stream)).await??;
                converse(redirector, stream, from, Transport::Tls, &seat).await
            };
            unless_lost(&seat, spoken).await
        }
        Way::Https(acceptor) => {
            let shaken = async { timeout(idle, acceptor.accept(stream)).await? };
            let stream = unless_lost(&seat, shaken).await?;
            doh::serve(redirector, stream, from, seat).await;
            Ok(())
        }
    }
}

/// What is done on a connection, for as long as its place is not given to another.
async fn unless_lost<T>(seat: &Seat, done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::select! {
        done = done => done,
        () = seat.lost() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// The handshake was a round trip.
fn measure(redirector: &Redirector, stream: &TcpStream, from: SocketAddr) {
    if redirector.config.sources.tcp_info
        && let Ok(Some(handshake)) = atoll_sys::tcp::round_trip(stream)
    {
        redirector.measured(Instant::now(), Prefix::of(from.ip()), Source::TcpInfo, handshake.smoothed);
    }
}

impl Redirector {
    /// Whether a datagram is answered by an order to ask over TCP, whose handshake then measures.
    pub(crate) fn is_to_cut(&self, asked: &Asked<'_>, answer: &Answer) -> bool {
        let one_in = self.config.probe.cut_one_in;
        let prefix = Prefix::of(asked.from.ip().to_canonical());
        self.config.sources.tcp_info
            && one_in > 0
            && asked.transport == Transport::Udp
            && answer.level.is_some()
            && rand::rng().random_range(0..one_in) == 0
            && self.overrides.placement(prefix).is_none()
            && self.clients().rtt(asked.now, prefix).is_none()
    }
}

/// Questions and replies over one connection until the client is done, is silent too long or does not take what it asked for. Replies
/// are in order, but for those that wait for a measurement, which hold nobody up (RFC 7766 6.2.1.1, 7).
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    redirector: &Arc<Redirector>,
    stream: S,
    from: SocketAddr,
    transport: Transport,
    seat: &Seat,
) -> io::Result<()> {
    let idle = redirector.config.limits.tcp_idle;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut questions = Questions::default();
    let mut later: JoinSet<Option<Vec<u8>>> = JoinSet::new();
    let mut is_over = false;
    while !(is_over && later.is_empty()) {
        let query = tokio::select! {
            Some(done) = later.join_next() => {
                if let Ok(Some(reply)) = done {
                    send(&mut writer, &reply, idle).await?;
                }
                seat.is_busy(!later.is_empty());
                continue;
            }
            query = timeout(idle, questions.next(&mut reader)), if !is_over => match query {
                // Who waits for an answer is not idle.
                Err(_) if !later.is_empty() => continue,
                query => query??,
            },
        };
        let Some(query) = query else {
            is_over = true;
            continue;
        };
        seat.is_busy(true);
        let slot = Arc::clone(&redirector.waiting).try_acquire_owned().ok();
        let waited = slot.as_ref().map(|_| Waited::default());
        match redirector.respond(Instant::now(), &query, from, transport, waited) {
            Outcome::Silence => is_over = true,
            Outcome::Reply(reply) => {
                // A client that does not read keeps no place from those who wait.
                drop(slot);
                send(&mut writer, &reply, idle).await?;
            }
            Outcome::Wait(known) => {
                let redirector = Arc::clone(redirector);
                later.spawn(async move {
                    let reply = answer_later(&redirector, &query, from, transport, known).await;
                    drop(slot);
                    reply
                });
            }
        }
        seat.is_busy(!later.is_empty() || questions.has_next());
    }
    // TLS says goodbye, so that nobody takes a cut line for the end.
    timeout(idle, writer.shutdown()).await?
}

/// Sends a reply after its length, both by one write, so that they leave together (RFC 7766 8).
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, reply: &[u8], limit: Duration) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], reply].concat();
    timeout(limit, async {
        stream.write_all(&framed).await?;
        stream.flush().await
    })
    .await?
}

/// The reply to a question that came over a connection; none to what is no question.
pub(crate) async fn reply(
    redirector: &Redirector,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
) -> Option<Vec<u8>> {
    let slot = Arc::clone(&redirector.waiting).try_acquire_owned().ok();
    let waited = slot.as_ref().map(|_| Waited::default());
    match redirector.respond(Instant::now(), query, from, transport, waited) {
        Outcome::Silence => None,
        Outcome::Reply(reply) => Some(reply),
        Outcome::Wait(known) => answer_later(redirector, query, from, transport, known).await,
    }
}

/// What came over a connection and was not taken yet. Memory grows with what has come, not with what was promised.
#[derive(Default)]
struct Questions(BytesMut);

impl Questions {
    /// Whether a further one is here, not a part of it alone.
    fn has_next(&self) -> bool {
        self.0.split_first_chunk::<2>().is_some_and(|(length, rest)| rest.len() >= u16::from_be_bytes(*length).into())
    }

    /// The next message; none at the end, or if its length is none a message has. Nothing is lost if it is not awaited to its end.
    async fn next<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some((length, rest)) = self.0.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length == 0 {
                    return Ok(None);
                }
                if let Some(query) = rest.get(..length) {
                    let query = query.to_vec();
                    self.0.advance(2 + length);
                    return Ok(Some(query));
                }
            }
            self.0.reserve(CHUNK);
            if stream.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Bytes that there is room for when more is read.
const CHUNK: usize = 512;
