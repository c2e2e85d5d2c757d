//! The listeners: datagrams and connections in, replies out. It decides nothing but who may connect and how long a question may
//! be under way.
//!
//! hickory-server is not used for these: it drops what it cannot parse before a handler sees it, runs one task per datagram and
//! accepts connections without a bound.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use atoll_overlay::{Index, Prefix};
use bytes::Bytes;
use hickory_proto::rr::Name;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    Config, Explanation, ServeError, Stats, Transport, hints, last_good,
    live::{self, Watch},
    probe, query_log,
    redirector::{Outcome, Redirector},
    udp::Threads,
    waiters::Patience,
};

/// Starts a redirector. `saved` is what [`Server::save`] gave in an earlier run. Returns once all addresses are bound and the
/// index has been asked who is there; proxies are being checked from then on.
///
/// # Errors
/// A [`ServeError`] that names the setting or the address; nothing then runs.
pub async fn serve(config: Config, index: Arc<dyn Index>, saved: Option<Bytes>) -> Result<Server, ServeError> {
    let (redirector, probes, errands) = Redirector::new(config, index)?;
    let redirector = Arc::new(redirector);
    let mut bound = Vec::new();
    for address in &redirector.config.listen {
        bound.push(bind(*address, sockets(redirector.config.limits.udp_sockets))?);
    }
    let addresses: Vec<SocketAddr> = bound.iter().map(|listeners| listeners.address).collect();
    let levels = u8::try_from(redirector.config.thresholds.len() + 1).unwrap_or(u8::MAX);
    let fallback = addresses.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), SocketAddr::ip);
    let mut watch = Watch::new(redirector.config.health.clone(), levels, fallback, saved.as_ref());
    watch.look(&redirector);
    redirector.set_roster(watch.roster(Instant::now()));
    let mut tasks = JoinSet::new();
    tasks.spawn(live::run(Arc::clone(&redirector), watch));
    tasks.spawn(probe::run(Arc::clone(&redirector), probes));
    tasks.spawn(hints::run(Arc::clone(&redirector), errands));
    if let Some(file) = redirector.config.query_log.file.clone() {
        tasks.spawn(query_log::run(file, redirector.log_to()));
    }
    let connections = Arc::new(Connections::default());
    let mut threads = Threads::default();
    for Bound { udp, tcp, address } in bound {
        tracing::info!(%address, zone = %redirector.config.zone, "answering DNS");
        for socket in udp {
            threads.start(&redirector, socket).map_err(|source| ServeError::Bind {
                address,
                transport: "udp",
                source,
            })?;
        }
        tasks.spawn(accept(Arc::clone(&redirector), tcp, Arc::clone(&connections)));
    }
    Ok(Server { redirector, addresses, tasks, threads })
}

/// A running redirector. Dropped, it stops at once.
pub struct Server {
    redirector: Arc<Redirector>,
    addresses: Vec<SocketAddr>,
    tasks: JoinSet<()>,
    threads: Threads,
}

impl Server {
    /// Where it listens, in the order of the configuration, with the ports taken.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.redirector.stats()
    }

    /// Where a prefix is served, and why.
    #[must_use]
    pub fn explain(&self, prefix: Prefix) -> Explanation {
        self.redirector.explain(Instant::now(), prefix)
    }

    /// How a name's answer for a client at an address comes about, a fact a line. None if this is no domain name.
    #[must_use]
    pub fn why(&self, name: &str, from: IpAddr) -> Option<Vec<String>> {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        Some(self.redirector.why(Instant::now(), &name, from))
    }

    /// What is to survive a restart: the last good set of proxies. At most 90 KiB.
    #[must_use]
    pub fn save(&self) -> Bytes {
        last_good::write(&self.redirector.roster().last_good)
    }

    /// Stops naming this node, as a proxy and as a server, if there is any other. It goes on answering.
    pub fn leave(&self) {
        self.redirector.leaving.store(true, Ordering::Relaxed);
        self.redirector.refresh.notify_one();
    }

    /// Stops answering and frees the addresses.
    pub async fn stop(mut self) {
        self.threads.stop().await;
        self.tasks.shutdown().await;
    }
}

struct Bound {
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
    address: SocketAddr,
}

/// Binds one address for both transports: TCP first, which nobody can share with us unseen.
fn bind(address: SocketAddr, sockets: usize) -> Result<Bound, ServeError> {
    let mut refused = None;
    // A free TCP port may be taken over UDP; then another is tried.
    for _ in 0..if address.port() == 0 { 16 } else { 1 } {
        let tcp = listen(address).map_err(|source| ServeError::Bind { address, transport: "tcp", source })?;
        let address = tcp.local_addr().map_err(|source| ServeError::Bind { address, transport: "tcp", source })?;
        match (0..sockets).map(|_| datagram_socket(address, sockets > 1)).collect() {
            Ok(udp) => return Ok(Bound { udp, tcp, address }),
            Err(source) => refused = Some(ServeError::Bind { address, transport: "udp", source }),
        }
    }
    let taken = || ServeError::Bind { address, transport: "udp", source: io::ErrorKind::AddrInUse.into() };
    Err(refused.unwrap_or_else(taken))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier run that linger are no reason not to start.
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// So many sockets as asked for, or one per core that this process may use; where they cannot share an address, one.
fn sockets(wanted: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = if wanted == 0 { cores() } else { wanted };
    if cfg!(unix) { wanted.clamp(1, 64) } else { 1 }
}

fn datagram_socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        share(&socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(unix)]
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share(_: &Socket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The answer to a question that was put off: once what it waits for is known, or has taken too long.
pub(crate) async fn answer_later(
    redirector: &Redirector,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
    known: Patience,
) -> Option<Vec<u8>> {
    // Known, given up, or too late: the answer is made from what there is.
    let _ = timeout(known.most, known.known).await;
    match redirector.respond(Instant::now(), query, from, transport, false) {
        Outcome::Reply(reply) => Some(reply),
        Outcome::Silence | Outcome::Wait(_) => None,
    }
}

/// Connections under way, by prefix.
#[derive(Default)]
struct Connections(Mutex<BTreeMap<Prefix, usize>>);

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

async fn accept(redirector: Arc<Redirector>, listener: TcpListener, connections: Arc<Connections>) {
    let mut open = JoinSet::new();
    let limits = redirector.config.limits.clone();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                if let Some(seat) = connections.seat(from, limits.tcp_connections, limits.tcp_per_prefix) {
                    let redirector = Arc::clone(&redirector);
                    open.spawn(async move {
                        let ended = converse(&redirector, stream, from).await;
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

/// Questions and replies over one connection, in order (RFC 7766 6.2.1), until the client is done, is silent too long or does
/// not take what it asked for.
async fn converse(redirector: &Redirector, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    let idle = redirector.config.limits.tcp_idle;
    stream.set_nodelay(true)?;
    loop {
        let Some(query) = timeout(idle, read_query(&mut stream)).await?? else { return Ok(()) };
        let reply = match redirector.respond(Instant::now(), &query, from, Transport::Tcp, true) {
            Outcome::Silence => return Ok(()),
            Outcome::Reply(reply) => reply,
            Outcome::Wait(known) => match answer_later(redirector, &query, from, Transport::Tcp, known).await {
                Some(reply) => reply,
                None => return Ok(()),
            },
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        // One write, so that the length and the message leave together (RFC 7766 8).
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(idle, stream.write_all(&framed)).await??;
    }
}

/// The next message; none at the end, or if its length is none a message has.
async fn read_query(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
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
