//! Listening, and the proxy as a whole: connections of clients and streams of peers in, each behind the gate; ceilings; an end that
//! lets what runs finish.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_overlay::{Index, NodeId, Streams};
use atoll_store::Store;
use atoll_tls::Certificates;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    ahead::Ahead,
    cache::Cache,
    config::Config,
    connection::{self, head_limits},
    error::StartError,
    fairness::Standing,
    gated::{Gated, Waits},
    hot::Hot,
    limits::PerClient,
    log::{AccessLog, Entry},
    observe::Observer,
    reason::Failure,
    receive::Origin,
    shed::{Reserve, turn_away},
    stats::{Counters, Stats},
    step,
    takedown::Takedown,
    url::Authority,
};

/// A running proxy. Dropping it stops it at once.
pub struct Proxy {
    pub(crate) cache: Arc<Cache>,
    local: Vec<SocketAddr>,
    secure: Vec<SocketAddr>,
    certificates: Arc<Certificates>,
    phase: watch::Sender<Phase>,
    tasks: Mutex<JoinSet<()>>,
    shared: Arc<Shared>,
}

/// What all listeners share.
#[derive(Default)]
struct Shared {
    clients: PerClient,
    distances: Observer,
    connections: AtomicU64,
    peer_streams: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Nobody new; what runs finishes.
    Draining,
}

impl Proxy {
    /// Binds every address and serves until [`Self::drain`] or [`Self::stop`]. To be called inside a tokio runtime.
    pub fn start(
        config: Config,
        index: Arc<dyn Index>,
        streams: Arc<dyn Streams>,
        store: Store,
    ) -> Result<Self, StartError> {
        Self::start_knowing(config, index, streams, store, None)
    }

    /// As [`Self::start`], with what [`Self::save_purges`] gave in an earlier life. A node that holds copies and has none of it
    /// has all of them confirmed by their origins.
    pub fn start_knowing(
        config: Config,
        index: Arc<dyn Index>,
        streams: Arc<dyn Streams>,
        store: Store,
        purges: Option<Bytes>,
    ) -> Result<Self, StartError> {
        let certificates = Certificates::load(&config.certificates)?;
        let takedown = Arc::new(config.takedown_list()?);
        let acceptor = TlsAcceptor::from(certificates.server(&["h2", "http/1.1"])?);
        let mut listeners = Vec::new();
        let (mut local, mut secure) = (Vec::new(), Vec::new());
        let plain = config.listen.iter().map(|address| (address, false));
        for (address, tls) in plain.chain(config.listen_tls.iter().map(|address| (address, true))) {
            let bind = |source| StartError::Bind { address: *address, source };
            let listener = listen(*address).map_err(bind)?;
            if tls { &mut secure } else { &mut local }.push(listener.local_addr().map_err(bind)?);
            listeners.push((listener, tls.then(|| acceptor.clone())));
        }
        let log = AccessLog::open(&config.access_log).map_err(|source| StartError::AccessLog {
            file: config.access_log.file.clone().unwrap_or_default(),
            source,
        })?;
        let all = local.iter().chain(&secure).copied().collect();
        let cache =
            Cache::new(config, (index, streams, store), log.clone(), Arc::clone(&takedown), all, purges.as_ref())
                .map_err(|(setting, source)| StartError::Setting { setting, source })?;
        let cache = Arc::new(cache);
        let (phase, phases) = watch::channel(Phase::Running);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(serve_clients(Arc::clone(&cache), listener, Arc::clone(&shared), phases.clone()));
        }
        tasks.spawn(serve_peers(Arc::clone(&cache), Arc::clone(&shared), phases.clone()));
        tasks.spawn(announce(Arc::clone(&cache), phases.clone()));
        tasks.spawn(purge(Arc::clone(&cache), phases.clone()));
        tasks.spawn(look_at((Arc::clone(&certificates), takedown), Arc::clone(&cache.counters), phases.clone()));
        #[cfg(unix)]
        if let Some(log) = log {
            tasks.spawn(reopen(log, phases));
        }
        Ok(Self { cache, local, secure, certificates, phase, tasks: Mutex::new(tasks), shared })
    }

    /// The addresses that are served, in the order of [`Config::listen`], with the ports that were free.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.local.clone()
    }

    /// As [`Self::local_addrs`], of [`Config::listen_tls`].
    #[must_use]
    pub fn tls_addrs(&self) -> Vec<SocketAddr> {
        self.secure.clone()
    }

    /// The names its certificates cover, where it listens over TLS.
    #[must_use]
    pub fn covered_names(&self) -> Vec<atoll_tls::Covered> {
        if self.secure.is_empty() { Vec::new() } else { self.certificates.names() }
    }

    /// Reads changed certificates at once instead of within seconds; true if they were changed and good.
    pub fn reload_certificates(&self) -> bool {
        self.cache.counters.reloaded(self.certificates.refresh())
    }

    /// Reads a changed takedown list at once instead of within seconds; true if it was changed and good.
    pub fn reload_takedown(&self) -> bool {
        self.cache.counters.reloaded(self.cache.takedown.refresh())
    }

    /// Whether its certificates and its takedown list are in force as they are on disk: changed ones are not until they were read,
    /// and bad ones never.
    #[must_use]
    pub fn files_in_force(&self) -> bool {
        self.certificates.is_current() && self.cache.takedown.is_current()
    }

    /// Has these addresses never dialled as an origin's: where this process listens beside the proxy, its admin API above all. Those of an
    /// earlier call stay protected.
    pub fn protect(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.cache.listening.write().unwrap_or_else(PoisonError::into_inner).extend(addresses);
    }

    /// How this node stands to its share: what DNS is to know.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.cache.fairness.standing()
    }

    /// What was used of all shares, as bytes for the next start; none where nothing is limited.
    #[must_use]
    pub fn save_use(&self) -> Option<Bytes> {
        self.cache.fairness.save()
    }

    /// Goes on from what [`Self::save_use`] said in an earlier run; false if the bytes are none of ours.
    pub fn restore_use(&self, bytes: &[u8]) -> bool {
        self.cache.fairness.restore(bytes)
    }

    /// Opens the access log's file anew, as SIGUSR1 does.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.cache.log {
            log.reopen();
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            flights: self.cache.flights.len() as u64,
            connections: self.shared.connections.load(Ordering::Relaxed),
            peer_streams: self.shared.peer_streams.load(Ordering::Relaxed),
            circuits_open: self.cache.origin.open_circuits() as u64,
            ..self.cache.counters.stats()
        }
    }

    /// What of the node's own shares is used, and how much each is, in bytes, by period; none where nothing is limited.
    #[must_use]
    pub fn shares(&self) -> Vec<(&'static str, u64, u64)> {
        self.cache.fairness.node_spans()
    }

    /// The peers that were caught lying and are left alone for now.
    #[must_use]
    pub fn liars(&self) -> Vec<NodeId> {
        self.cache.liars.all()
    }

    /// The peers that an origin contradicted, each with a host of whose copies nothing of theirs is believed for now.
    #[must_use]
    pub fn doubted(&self) -> Vec<(NodeId, String)> {
        self.cache.liars.doubted()
    }

    /// Answers one request without a body as the listeners would, for a front with listeners of its own. The request is to come
    /// through [`Self::behind_gate`]. A body that breaks ends in its error: the connection is then to be cut.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
    ) -> Response<impl http_body::Body<Data = Bytes, Error = Failure> + Send + Unpin + use<B>> {
        step::handle(Arc::clone(&self.cache), request.map(|_| None)).await
    }

    /// A client's stream with every head on it judged before a parser sees it, and slow clients cut, as the listeners do; what is
    /// common is answered there, as the front decides. The parser is lent it for one request at a time, once
    /// [`Gated::poll_head`] says so, must keep half-closed connections and take at least 256 fields.
    pub fn behind_gate<S>(&self, stream: S, client: SocketAddr, ahead: Ahead) -> Gated<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let waits = Waits::of(&self.cache.config);
        let own = Arc::new(|_: &Authority| false);
        let (limits, counters) = (head_limits(&self.cache), Arc::clone(&self.cache.counters));
        let mut gated = Gated::new(stream, Instant::now(), (limits, waits), own, counters);
        let from = Origin { client, secure: false, interim: None };
        gated.answer_with(Hot::new(Arc::clone(&self.cache), from, limits).behind(ahead));
        gated
    }

    /// Takes nobody new and waits until what runs has finished, at most this long; then stops. True if all finished.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.phase.send_replace(Phase::Draining);
        let mut tasks = self.tasks.lock().await;
        let finished = timeout(deadline, async { while tasks.join_next().await.is_some() {} }).await.is_ok();
        self.cache.stop.send_replace(true);
        tasks.shutdown().await;
        finished
    }

    /// Stops now: connections are cut, fetches end.
    pub async fn stop(&self) {
        self.cache.stop.send_replace(true);
        self.tasks.lock().await.shutdown().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cache.stop.send_replace(true);
    }
}

/// A listener with room for a burst.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve_clients(
    cache: Arc<Cache>,
    (listener, tls): (TcpListener, Option<TlsAcceptor>),
    shared: Arc<Shared>,
    phases: watch::Receiver<Phase>,
) {
    let mut connections = JoinSet::new();
    let mut reserve = Reserve::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => accept(&cache, &shared, &phases, &mut connections, tls.as_ref(), (stream, client)),
                Err(error) if reserve.shed(&listener, &error, tls.is_some()) => cache.counters.refused(),
                Err(error) => {
                    // Still out of descriptors, or a client that left already: others are served on, and no loop spins.
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = draining(phases.clone()) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn accept(
    cache: &Arc<Cache>,
    shared: &Arc<Shared>,
    phases: &watch::Receiver<Phase>,
    connections: &mut JoinSet<()>,
    tls: Option<&TlsAcceptor>,
    (stream, client): (TcpStream, SocketAddr),
) {
    let limits = &cache.config.limits;
    let place = shared.clients.enter(client.ip(), limits.connections_of(client.ip()));
    let count = Count::of(shared, |shared| &shared.connections);
    let Some(place) = place.filter(|_| count.before < limits.connections as u64) else {
        cache.counters.refused();
        if let Some(log) = &cache.log {
            drop(Entry::of_refused(log, b"", client.ip(), (StatusCode::SERVICE_UNAVAILABLE, 0)));
        }
        turn_away(&stream, tls.is_some());
        return;
    };
    if cache.config.observe {
        shared.distances.connected(&*cache.index, &stream, client.ip());
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "a client left at once");
    }
    let (cache, phases) = (Arc::clone(cache), phases.clone());
    let accepted = Instant::now();
    let tls = tls.cloned();
    connections.spawn(async move {
        let _held = (place, count);
        connection::serve(cache, stream, client, tls, (accepted, phases)).await;
    });
}

/// Serves what peers ask, on the streams they open.
async fn serve_peers(cache: Arc<Cache>, shared: Arc<Shared>, phases: watch::Receiver<Phase>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = cache.streams.accept() => match accepted {
                Ok((peer, stream)) => {
                    let count = Count::of(&shared, |shared| &shared.peer_streams);
                    if count.before >= cache.config.limits.peer_streams as u64 {
                        continue;
                    }
                    let (cache, phases) = (Arc::clone(&cache), phases.clone());
                    streams.spawn(async move {
                        let _held = count;
                        connection::serve_peer(cache, (peer, stream), phases).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "no more streams of peers");
                    break;
                }
            },
            Some(_) = streams.join_next() => {}
            () = draining(phases.clone()) => break,
        }
    }
    while streams.join_next().await.is_some() {}
}

async fn announce(cache: Arc<Cache>, phases: watch::Receiver<Phase>) {
    tokio::select! {
        () = cache.announces.run(&cache.store) => {}
        () = draining(phases) => {}
    }
}

/// Hears of purges, and keeps in step with other nodes.
async fn purge(cache: Arc<Cache>, phases: watch::Receiver<Phase>) {
    tokio::select! {
        () = Arc::clone(&cache.purges).run() => {}
        () = draining(phases) => {}
    }
}

/// Has the access log opened anew at each SIGUSR1.
#[cfg(unix)]
async fn reopen(log: Arc<AccessLog>, phases: watch::Receiver<Phase>) {
    let asked = async {
        match signal(SignalKind::user_defined1()) {
            Ok(mut signal) => {
                while signal.recv().await.is_some() {
                    log.reopen();
                }
            }
            Err(error) => tracing::warn!(%error, "SIGUSR1 will not open the access log anew"),
        }
    };
    tokio::select! {
        () = asked => {}
        () = draining(phases) => {}
    }
}

/// Has changed certificates and a changed takedown list read.
async fn look_at(
    (certificates, takedown): (Arc<Certificates>, Arc<Takedown>),
    counters: Arc<Counters>,
    phases: watch::Receiver<Phase>,
) {
    let look = async {
        loop {
            sleep(atoll_tls::LOOK).await;
            counters.reloaded(certificates.refresh());
            counters.reloaded(takedown.refresh());
        }
    };
    tokio::select! {
        () = look => {}
        () = draining(phases) => {}
    }
}

/// Ready once the proxy drains, or is gone.
pub(crate) async fn draining(mut phases: watch::Receiver<Phase>) {
    let _ = phases.wait_for(|phase| *phase == Phase::Draining).await;
}

/// One of those counted in [`Shared`], until dropped.
struct Count {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &AtomicU64,
    before: u64,
}

impl Count {
    fn of(shared: &Arc<Shared>, counter: fn(&Shared) -> &AtomicU64) -> Self {
        let before = counter(shared).fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), counter, before }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
