//! The listeners and the redirector as a whole: addresses are bound, tasks and threads started and stopped. What goes on in a
//! connection is `connection.rs`'s, with datagrams `udp.rs`'s.
//!
//! hickory-server is not used for these: it drops what it cannot parse before a handler sees it, runs one task per datagram and
//! accepts connections without a bound.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use atoll_overlay::{Index, Prefix};
use atoll_tls::Certificates;
use bytes::Bytes;
use hickory_proto::rr::Name;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    Config, Explanation, Guide, ServeError, Stats,
    connection::{self, Way},
    hints, last_good,
    live::{self, Watch},
    overrides, probe, query_log,
    redirector::Redirector,
    seats::Seats,
    udp::Threads,
};

/// Starts a redirector. `saved` is what [`Server::save`] gave in an earlier run. Returns once all addresses are bound and the
/// index has been asked who is there; proxies are being checked from then on.
///
/// # Errors
/// A [`ServeError`] that names the setting or the address; nothing then runs.
pub async fn serve(config: Config, index: Arc<dyn Index>, saved: Option<Bytes>) -> Result<Server, ServeError> {
    let (redirector, probes, errands) = Redirector::new(config, index)?;
    let redirector = Arc::new(redirector);
    if redirector.zone().names_no_server() {
        tracing::warn!(
            zone = %redirector.config.zone,
            "no `nameservers` are set in [dns]: the zone's NS change with who is there and its SOA names none of them, which checkers of \
             delegations find wrong; set them, the same on every node, before the zone is delegated"
        );
    }
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
    let seats = Arc::new(Seats::default());
    let mut secure = [Vec::new(), Vec::new()];
    let certificates = Certificates::load(&redirector.config.certificates)
        .map_err(|error| ServeError::config("certificates", error.to_string()))?;
    for (ways, taken) in [Way::tls(&redirector.config, &certificates)?, Way::https(&redirector.config, &certificates)?]
        .into_iter()
        .zip(&mut secure)
    {
        for (address, way) in ways {
            let refused = |source| ServeError::Bind { address, transport: "tcp", source };
            let listener = listen(address).map_err(refused)?;
            taken.push(listener.local_addr().map_err(refused)?);
            tasks.spawn(connection::accept(Arc::clone(&redirector), listener, Arc::clone(&seats), way));
        }
    }
    tasks.spawn(connection::look_at(certificates));
    tasks.spawn(look_at_overrides(Arc::clone(&redirector)));
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
        let (redirector, seats) = (Arc::clone(&redirector), Arc::clone(&seats));
        tasks.spawn(connection::accept(redirector, tcp, seats, Way::Clear));
    }
    let [tls, https] = secure;
    Ok(Server { redirector, addresses, tls, https, tasks, threads })
}

/// A running redirector. Dropped, it stops at once.
pub struct Server {
    redirector: Arc<Redirector>,
    addresses: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    tasks: JoinSet<()>,
    threads: Threads,
}

impl Server {
    /// Where it listens, in the order of the configuration, with the ports taken.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// As [`Self::local_addrs`], of those where it answers over TLS.
    #[must_use]
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls
    }

    /// As [`Self::local_addrs`], of those where it answers over HTTPS.
    #[must_use]
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.https
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

    /// The addresses that the same answer has, IPv4 first; none where it has none.
    #[must_use]
    pub fn chosen(&self, name: &str, from: IpAddr) -> Vec<IpAddr> {
        let Ok(mut name) = Name::from_ascii(name) else { return Vec::new() };
        name.set_fqdn(true);
        self.redirector.chosen(Instant::now(), &name, from)
    }

    /// What leads clients by other means than answers to where answers lead them.
    #[must_use]
    pub fn guide(&self) -> Guide {
        Guide::new(Arc::clone(&self.redirector))
    }

    /// What is to survive a restart: the last good set of proxies. At most 90 KiB.
    #[must_use]
    pub fn save(&self) -> Bytes {
        last_good::write(&self.redirector.roster().last_good)
    }

    /// Reads the file of overrides at once instead of within seconds; true if it was changed and good.
    pub fn reload_overrides(&self) -> bool {
        self.redirector.overrides.refresh()
    }

    /// Takes up the plain records of other settings, and what their zone file says now; the serial comes with them. All else stays.
    ///
    /// # Errors
    /// A [`ServeError`] that names what cannot be used; then nothing changes.
    pub fn reload(&self, config: &Config) -> Result<(), ServeError> {
        self.redirector.reload(config)
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
    // A reply longer than the path takes, up to `udp_payload`, is cut in fragments on its way, whatever somebody says of the path.
    // A kernel that knows no such option does as it likes.
    let _ = atoll_sys::datagrams::heed_no_path_mtu(&socket, address);
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

/// Reads the overrides again when their file changes.
async fn look_at_overrides(redirector: Arc<Redirector>) {
    loop {
        tokio::time::sleep(overrides::LOOK).await;
        redirector.overrides.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn no_datagram_socket_heeds_what_is_said_of_the_path() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for shared in [false, true] {
                let Ok(socket) = datagram_socket(address.parse().unwrap(), shared) else { continue };
                let own = socket.local_addr().unwrap();
                assert!(!atoll_sys::datagrams::heeds_path_mtu(&socket, own).unwrap(), "{address}");
            }
        }
    }
}
