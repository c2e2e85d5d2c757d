//! The parts of a running node and how they are joined: what one needs of another is handed over here and nowhere else.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use atoll_overlay::{
    Certificate, Index, NodeId, NodeInfo, Streams,
    driver::{self, Identity, Overlay, Saved},
};
use atoll_store::Store;
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{StartError, member, purger::PurgesFile, watched::Watched};
use crate::{
    admin::Admin,
    config::{Config, Role},
    manager::Manager,
    port_holder::{Protocol, bind_error},
    state::{Kept, State},
    status::{Listening, StatusSource as _},
    warm::Board,
};

/// Everything that runs.
pub(super) struct Parts {
    pub(super) config: Config,
    state: Arc<State>,
    pub(super) started: Instant,
    pub(super) drain: watch::Sender<bool>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) store: Store,
    pub(super) overlay: Overlay,
    pub(super) proxy: Option<Arc<atoll_proxy::Proxy>>,
    pub(super) dns: Slot<atoll_dnssrv::Server>,
    manager: Slot<Manager>,
    listen: Mutex<Vec<Listening>>,
    pub(super) warmed: Board,
}

impl Parts {
    /// Starts the parts in order; if one fails, those before it are stopped.
    pub(super) async fn start(config: Config) -> Result<Self, StartError> {
        let state = Arc::new(State::open(&config.node.state)?);
        let store = Store::open(config.store.clone()).await?;
        let overlay = start_overlay(&config, &state).await?;
        let mut parts = Self {
            config,
            state,
            started: Instant::now(),
            drain: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            store,
            overlay,
            proxy: None,
            dns: Slot::default(),
            manager: Slot::default(),
            listen: Mutex::default(),
            warmed: Board::default(),
        };
        if let Err(error) = parts.start_servers().await {
            parts.stop().await;
            return Err(error);
        }
        parts.note_listeners();
        Ok(parts)
    }

    async fn start_servers(&mut self) -> Result<(), StartError> {
        if self.config.node.runs(Role::Proxy) {
            let streams: Arc<dyn Streams> = Arc::new(self.overlay.clone());
            let (mut config, purges) = (self.config.proxy.clone(), self.state.load(Kept::Purges)?.map(Bytes::from));
            // What only gets its port later follows when it has one.
            config.protected.extend(self.config.admin.listen.iter().filter(|address| address.port() != 0));
            if self.config.overlay.admission == driver::Admission::Open && config.purges.believed.is_empty() {
                tracing::warn!(
                    "THIS NETWORK IS OPEN: a purge by anybody who joins it is believed; `believed` in [proxy.purges] names who may"
                );
            }
            let proxy = atoll_proxy::Proxy::start_knowing(config, self.index(), streams, self.store.clone(), purges);
            let proxy = proxy.map_err(proxy_failed)?;
            if let Some(used) = self.state.load(Kept::Shares)?
                && !proxy.restore_use(&used)
            {
                tracing::warn!("what was sent before cannot be read; all shares begin anew");
            }
            self.proxy = Some(Arc::new(proxy));
        }
        // The dnssrv watches what the index says of this node: it must know the ports by then.
        self.describe();
        self.described().await;
        if self.config.node.runs(Role::Dnssrv) {
            let saved = self.state.load(Kept::DnsSet)?.map(Bytes::from);
            let server = atoll_dnssrv::serve(self.config.dns.clone(), self.index(), saved);
            self.dns.fill(server.await.map_err(dns_failed)?);
        }
        if self.config.node.runs(Role::Manager) {
            let guide = self.dns.with(atoll_dnssrv::Server::guide);
            let manager = Manager::start(&self.config.manager, &self.config.node.zone, self.index(), guide);
            self.manager.fill(manager.await.map_err(|error| part("manager", error))?);
        }
        Ok(())
    }

    pub(super) fn index(&self) -> Arc<dyn Index> {
        Arc::new(Watched(self.overlay.clone()))
    }

    pub(super) fn proxy(&self) -> Option<Arc<atoll_proxy::Proxy>> {
        self.proxy.clone()
    }

    pub(super) const fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Where the purges of this proxy are kept.
    pub(super) fn purges_file(&self, proxy: Arc<atoll_proxy::Proxy>) -> PurgesFile {
        PurgesFile { state: Arc::clone(&self.state), proxy }
    }

    /// Peers as bytes for the next start.
    pub(super) fn peers(&self) -> Option<Bytes> {
        Some(self.overlay.save_peers())
    }

    /// The last good DNS set as bytes for the next start; none without a dnssrv.
    pub(super) fn dns_set(&self) -> Option<Bytes> {
        self.dns.with(atoll_dnssrv::Server::save)
    }

    /// What the proxy has sent as bytes for the next start; none without a proxy or limits.
    pub(super) fn shares(&self) -> Option<Bytes> {
        self.proxy.as_ref().and_then(|proxy| proxy.save_use())
    }

    /// Has the proxy read what changed on disk: certificates and the takedown list.
    pub(super) fn reread(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.reload_certificates();
            proxy.reload_takedown();
        }
    }

    /// Has the DNS server take up the zone's plain records from other settings. Bad ones change nothing.
    pub(super) fn reload_records(&self, config: &atoll_dnssrv::Config) {
        match self.dns.with(|dns| dns.reload(config)) {
            Some(Ok(())) => tracing::info!("the zone's records were read again"),
            Some(Err(error)) => tracing::warn!(%error, "the zone's records stay as they are"),
            None => {}
        }
    }

    /// Tells the network how this node is now. One that has used much of its share wants less of the traffic, one that sleeps none.
    pub(super) fn describe(&self) {
        let own = self.overlay.me();
        let info = self.info(own.id);
        let standing = self.proxy.as_ref().map(|proxy| proxy.standing());
        let weight = standing.map_or(info.weight, |standing| weighted(info.weight, standing.weight));
        let quota_left = standing.and_then(|standing| standing.quota_left);
        let draining = *self.drain.borrow();
        self.overlay.describe(NodeInfo { load: self.load(), draining, weight, quota_left, ..info });
    }

    /// Waits until the overlay has taken in where this node serves.
    async fn described(&self) {
        let ports = self.info(self.overlay.me().id).http_ports;
        let taken = async {
            while self.overlay.me().http_ports != ports {
                sleep(LOOK).await;
            }
        };
        // A driver that ended takes nothing in; that it did is told elsewhere.
        let _ = timeout(TAKEN, taken).await;
    }

    pub(super) async fn drain_asked(&self) {
        let mut asked = self.drain.subscribe();
        // The sender lives as long as this: waiting cannot fail.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    pub(super) async fn stop_asked(&self) {
        let mut asked = self.stop.subscribe();
        // As above.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// Leaves DNS, waits out the TTL, then waits for what runs.
    pub(super) async fn leave(&self) {
        self.drain();
        tracing::info!(wait = ?self.config.node.drain_wait, "left DNS; waiting until no answer names this node");
        sleep(self.config.node.drain_wait).await;
        if let Some(proxy) = &self.proxy {
            tracing::info!(grace = ?self.config.node.drain_grace, "finishing what runs");
            if !proxy.drain(self.config.node.drain_grace).await {
                tracing::warn!("the grace is over; downloads that still ran are cut");
            }
        }
    }

    /// Stops the parts in reverse order.
    pub(super) async fn stop(&self) {
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
        if let Some(dns) = self.dns.take() {
            dns.stop().await;
        }
        if let Some(proxy) = &self.proxy {
            proxy.stop().await;
        }
        self.overlay.stop().await;
        self.store.clone().close().await;
    }

    /// Adds the admin API to the listeners that the status shows.
    pub(super) fn add_admin(&self, admin: &Admin) {
        let socket = admin.socket().map(|path| path.display().to_string());
        let addresses = admin.addresses().iter().map(ToString::to_string).chain(socket);
        self.listening().extend(addresses.map(|address| Listening { service: "admin".to_owned(), address }));
        self.protect();
    }

    /// Has the proxy dial none of this node's own listeners, whatever name leads there.
    fn protect(&self) {
        let Some(proxy) = &self.proxy else { return };
        let listening = self.listening();
        proxy.protect(listening.iter().filter_map(|listening| listening.address.parse().ok()));
    }

    fn note_listeners(&self) {
        let mut listening = self.listening();
        let mut add = |service: &str, addresses: &[SocketAddr]| {
            let entry = |address: &SocketAddr| Listening { service: service.to_owned(), address: address.to_string() };
            listening.extend(addresses.iter().map(entry));
        };
        add("overlay", &self.overlay.listen_addrs());
        add("http", &self.http());
        add("https", &self.proxy.as_ref().map(|proxy| proxy.tls_addrs()).unwrap_or_default());
        self.dns.with(|dns| {
            add("dns", dns.local_addrs());
            add("dns/tls", dns.tls_addrs());
            add("dns/https", dns.https_addrs());
        });
        self.manager.with(|manager| add("manager", manager.addresses()));
        // Not HOST:PORT, by which nobody could tell it from TCP.
        let quic = self.overlay.listen_multiaddrs().into_iter().filter(|address| address.ends_with("/quic-v1"));
        listening.extend(quic.map(|address| Listening { service: "overlay".to_owned(), address }));
        drop(listening);
        self.protect();
    }

    /// This node, then those it knows.
    pub(super) fn known(&self) -> Vec<NodeInfo> {
        let known = self.overlay.levels().into_iter().flat_map(|level| level.neighbours);
        std::iter::once(self.overlay.me()).chain(known).collect()
    }

    pub(super) fn listening(&self) -> std::sync::MutexGuard<'_, Vec<Listening>> {
        self.listen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node as it describes itself: what the configuration says, else what its proxy listens on.
    fn info(&self, id: NodeId) -> NodeInfo {
        let mut info = describe(&self.config, id, &self.http());
        let secure = self.proxy.as_ref().map(|proxy| proxy.tls_addrs()).unwrap_or_default();
        if let (Some(proxy), Some(address)) = (&self.proxy, secure.first()) {
            // Where the ports are not named, the listener's own is the one that clients reach; the one for TLS comes last.
            if self.config.node.http_ports.is_empty() && !info.http_ports.contains(&address.port()) {
                info.http_ports.push(address.port());
            }
            info.certificates = certificates(&self.config.node.zone, proxy.covered_names());
        }
        info
    }

    fn http(&self) -> Vec<SocketAddr> {
        self.proxy.as_ref().map(|proxy| proxy.local_addrs()).unwrap_or_default()
    }

    /// How busy the proxy is, by its connections: 0 to 100.
    fn load(&self) -> u8 {
        let Some(proxy) = &self.proxy else { return 0 };
        let most = u64::try_from(self.config.proxy.limits.connections).unwrap_or(u64::MAX).max(1);
        u8::try_from((proxy.stats().connections.saturating_mul(100) / most).min(100)).unwrap_or(100)
    }
}

/// A part that is stopped by value while others still look at the whole.
pub(super) struct Slot<T>(Mutex<Option<T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Slot<T> {
    fn fill(&self, part: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    }

    /// Asks the part something that does not wait; none if it does not run.
    /// Asks the part, if it runs.
    pub(super) fn with<R>(&self, ask: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

async fn start_overlay(config: &Config, state: &State) -> Result<Overlay, StartError> {
    let unreadable =
        |reason: String| StartError::Identity { path: state.path(Kept::Identity).display().to_string(), reason };
    let identity = match state.load(Kept::Identity)? {
        Some(bytes) => Identity::from_bytes(&bytes).map_err(|error| unreadable(error.to_string()))?,
        None => {
            let identity = Identity::generate();
            let bytes = identity.to_bytes().map_err(|error| unreadable(error.to_string()))?;
            state.save(Kept::Identity, &bytes)?;
            identity
        }
    };
    let saved = Saved {
        peers: state.load(Kept::Peers)?.map(Bytes::from),
        revocations: state.load(Kept::Revocations)?.map(Bytes::from),
        membership: member::load(config, state)?,
    };
    // The driver knows the node's place better.
    let info = describe(config, identity.node_id(&config.node.network, 0), &[]);
    let started = driver::start(config.overlay.clone(), config.index.clone(), &identity, info, saved).await;
    started.map_err(|error| match error {
        driver::StartError::Membership(error) => member::failed(state, &error),
        driver::StartError::Listen { address, source } => part("overlay", listen_failed(&address, &source)),
        other => part("overlay", other),
    })
}

/// So many percent of a weight; some, where it was and is to be some.
fn weighted(weight: u16, percent: u8) -> u16 {
    let least = u32::from(weight.min(u16::from(percent)).min(1));
    u16::try_from((u32::from(weight) * u32::from(percent) / 100).max(least)).unwrap_or(weight)
}

/// A node in its own words.
fn describe(config: &Config, id: NodeId, listeners: &[SocketAddr]) -> NodeInfo {
    let node = &config.node;
    let mut addresses: Vec<IpAddr> = node.addresses.clone();
    if addresses.is_empty() {
        addresses.extend(listeners.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified()));
    }
    let mut http_ports = node.http_ports.clone();
    if http_ports.is_empty() {
        http_ports.extend(listeners.iter().map(SocketAddr::port));
    }
    http_ports.dedup();
    NodeInfo {
        id,
        v4: addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            })
            .collect(),
        v6: addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V6(v6) => Some(*v6),
                IpAddr::V4(_) => None,
            })
            .collect(),
        http_ports,
        roles: node.role_set(),
        load: 0,
        weight: node.weight,
        quota_left: None,
        draining: false,
        rtt: None,
        clusters: Vec::new(),
        site: node.site.clone(),
        certificates: Vec::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What is said of certificates: those for names in the zone, its own `*` first, four at most.
fn certificates(zone: &str, covered: Vec<atoll_tls::Covered>) -> Vec<Certificate> {
    let star = format!("*.{zone}");
    let inside = |name: &str| name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    let mut names: Vec<_> = covered.into_iter().filter(|one| inside(&one.name)).collect();
    names.sort_by_key(|one| (one.name != star, std::cmp::Reverse(one.expires)));
    names.dedup_by(|later, first| later.name == first.name);
    names.into_iter().take(4).map(|one| Certificate { name: one.name, expires: one.expires }).collect()
}

fn proxy_failed(error: atoll_proxy::StartError) -> StartError {
    match error {
        atoll_proxy::StartError::Bind { address, source } => part("proxy", bind_error(&source, address, Protocol::Tcp)),
        other => part("proxy", other),
    }
}

fn dns_failed(error: atoll_dnssrv::ServeError) -> StartError {
    match error {
        atoll_dnssrv::ServeError::Bind { address, transport, source } => {
            let protocol = if transport == "udp" { Protocol::Udp } else { Protocol::Tcp };
            part("dnssrv", bind_error(&source, address, protocol))
        }
        other => part("dnssrv", other),
    }
}

/// A multiaddr that could not be listened on, with who holds its port if that can be known.
fn listen_failed(multiaddr: &str, source: &io::Error) -> String {
    let mut words = multiaddr.split('/').skip(2);
    let address = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = words.nth(1).and_then(|port| port.parse::<u16>().ok());
    match (address, port) {
        (Some(address), Some(port)) => bind_error(source, (address, port).into(), Protocol::Tcp),
        _ => format!("cannot listen on {multiaddr}: {source}"),
    }
}

fn part(part: &'static str, reason: impl ToString) -> StartError {
    StartError::Part { part, reason: reason.to_string() }
}

/// How often it is looked whether the overlay has taken in what it was told, and how long.
const LOOK: Duration = Duration::from_millis(1);
const TAKEN: Duration = Duration::from_secs(5);
