//! Connections: who may connect, in clear (RFC 7766), over TLS (RFC 7858) or HTTPS (RFC 8484), and how long one may stay (RFC
//! 9210 4). The handshake of a connection in clear tells the distance of whoever opened it.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use atoll_overlay::Prefix;
use atoll_tls::Certificates;
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
    redirector::{Asked, Outcome, Redirector},
    server::answer_later,
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

/// Connections under way, by prefix.
#[derive(Default)]
pub(crate) struct Connections(Mutex<BTreeMap<Prefix, usize>>);

/// One connection's place among them.
struct Seat {
    connections: Arc<Connections>,
    prefix: Prefix,
}

impl Connections {
    /// A place for one more, if the bounds allow.
    fn seat(self: &Arc<Self>, from: SocketAddr, most: usize, most_per_prefix: usize) -> Option<Seat> {
        let prefix = Prefix::of(from.ip());
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = open.get(&prefix).copied().unwrap_or(0);
        if open.values().sum::<usize>() >= most || here >= most_per_prefix {
            return None;
        }
        open.insert(prefix, here + 1);
        Some(Seat { connections: Arc::clone(self), prefix })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.prefix);
            }
        }
    }
}

/// Takes connections for as long as it is polled.
pub(crate) async fn accept(
    redirector: Arc<Redirector>,
    listener: TcpListener,
    connections: Arc<Connections>,
    way: Way,
) {
    let mut open = JoinSet::new();
    let limits = redirector.config.limits.clone();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                if let Some(seat) = connections.seat(from, limits.tcp_connections, limits.tcp_per_prefix) {
                    let (redirector, way) = (Arc::clone(&redirector), way.clone());
                    open.spawn(async move {
                        let ended = serve(&redirector, stream, from, way).await;
                        tracing::trace!(%from, ?ended, "a DNS connection ended");
                        drop(seat);
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

async fn serve(redirector: &Arc<Redirector>, stream: TcpStream, from: SocketAddr, way: Way) -> io::Result<()> {
    let idle = redirector.config.limits.tcp_idle;
    stream.set_nodelay(true)?;
    measure(redirector, &stream, from);
    match way {
        Way::Clear => converse(redirector, stream, from, Transport::Tcp).await,
        Way::Tls(acceptor) => {
            let stream = timeout(idle, acceptor.accept(stream)).await??;
            converse(redirector, stream, from, Transport::Tls).await
        }
        Way::Https(acceptor) => {
            let stream = timeout(idle, acceptor.accept(stream)).await??;
            doh::serve(redirector, stream, from).await;
            Ok(())
        }
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

/// Questions and replies over one connection, in order (RFC 7766 6.2.1), until the client is done, is silent too long or does
/// not take what it asked for.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    redirector: &Redirector,
    mut stream: S,
    from: SocketAddr,
    transport: Transport,
) -> io::Result<()> {
    let idle = redirector.config.limits.tcp_idle;
    loop {
        let Some(query) = timeout(idle, read_query(&mut stream)).await?? else {
            // TLS says goodbye, so that nobody takes a cut line for the end.
            return timeout(idle, stream.shutdown()).await?;
        };
        let Some(reply) = reply(redirector, &query, from, transport).await else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        // One write, so that the length and the message leave together (RFC 7766 8).
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(idle, async {
            stream.write_all(&framed).await?;
            stream.flush().await
        })
        .await??;
    }
}

/// The reply to a question that came over a connection; none to what is no question.
pub(crate) async fn reply(
    redirector: &Redirector,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
) -> Option<Vec<u8>> {
    match redirector.respond(Instant::now(), query, from, transport, Some(Waited::default())) {
        Outcome::Silence => None,
        Outcome::Reply(reply) => Some(reply),
        Outcome::Wait(known) => answer_later(redirector, query, from, transport, known).await,
    }
}

/// The next message; none at the end, or if its length is none a message has.
async fn read_query<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read(length.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(length.get_mut(1..).unwrap_or_default()).await?;
    let length = u16::from_be_bytes(length);
    // Memory grows with what has come, not with what was promised.
    let mut query = Vec::new();
    stream.take(length.into()).read_to_end(&mut query).await?;
    Ok((length > 0 && query.len() == usize::from(length)).then_some(query))
}
