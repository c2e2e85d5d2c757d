//! Listening, and the proxy as a whole: connections of clients and streams of peers in, each behind the gate; ceilings; an end that
//! lets what runs finish.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_overlay::{Index, Streams};
use atoll_store::Store;
use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    body::Body,
    cache::Cache,
    config::Config,
    error::StartError,
    gate::HeadLimits,
    gated::{Gated, Waits},
    limits::PerClient,
    reason::Failure,
    receive::Origin,
    serve_peer,
    stats::Stats,
    step,
    url::Authority,
};

/// A running proxy. Dropping it stops it at once.
pub struct Proxy {
    cache: Arc<Cache>,
    local: Vec<SocketAddr>,
    phase: watch::Sender<Phase>,
    tasks: Mutex<JoinSet<()>>,
    shared: Arc<Shared>,
}

/// What all listeners share.
#[derive(Default)]
struct Shared {
    clients: PerClient,
    connections: AtomicU64,
    peer_streams: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
        let mut listeners = Vec::new();
        let mut local = Vec::new();
        for address in &config.listen {
            let bind = |source| StartError::Bind { address: *address, source };
            let listener = listen(*address).map_err(bind)?;
            local.push(listener.local_addr().map_err(bind)?);
            listeners.push(listener);
        }
        let cache = Cache::new(config, (index, streams, store), local.clone())
            .map_err(|(setting, source)| StartError::Setting { setting, source })?;
        let cache = Arc::new(cache);
        let (phase, phases) = watch::channel(Phase::Running);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(serve_clients(Arc::clone(&cache), listener, Arc::clone(&shared), phases.clone()));
        }
        tasks.spawn(serve_peers(Arc::clone(&cache), Arc::clone(&shared), phases.clone()));
        tasks.spawn(announce(Arc::clone(&cache), phases));
        Ok(Self { cache, local, phase, tasks: Mutex::new(tasks), shared })
    }

    /// The addresses that are served, in the order of [`Config::listen`], with the ports that were free.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.local.clone()
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            flights: self.cache.flights.len() as u64,
            connections: self.shared.connections.load(Ordering::Relaxed),
            peer_streams: self.shared.peer_streams.load(Ordering::Relaxed),
            ..self.cache.counters.stats()
        }
    }

    /// Answers one request without a body as the listeners would, for a front with listeners of its own. The request is to come
    /// through [`Self::behind_gate`]. A body that breaks ends in its error: the connection is then to be cut.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
    ) -> Response<impl http_body::Body<Data = Bytes, Error = Failure> + Send + Unpin + use<B>> {
        step::handle(Arc::clone(&self.cache), request.map(|_| None)).await
    }

    /// A client's stream with every head on it judged before a parser sees it, and slow clients cut, as the listeners do. The
    /// parser behind it must keep half-closed connections and take at least 256 fields.
    pub fn behind_gate<S>(&self, stream: S) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let timeouts = &self.cache.config.timeouts;
        let waits = Waits { head: timeouts.head, keep_alive: timeouts.keep_alive, send: timeouts.send };
        let own = Arc::new(|_: &Authority| false);
        let counters = Arc::clone(&self.cache.counters);
        Gated::new(stream, Instant::now(), (head_limits(&self.cache), waits), own, counters)
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

async fn serve_clients(cache: Arc<Cache>, listener: TcpListener, shared: Arc<Shared>, phases: watch::Receiver<Phase>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => accept(&cache, &shared, &phases, &mut connections, stream, client),
                Err(error) => {
                    // Out of descriptors, or a client that left already: others are served on, and no loop spins.
                    tracing::warn!(%error, "a connection could not be accepted");
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
    stream: TcpStream,
    client: SocketAddr,
) {
    let limits = &cache.config.limits;
    let place = shared.clients.enter(client.ip(), limits.connections_per_client);
    let count = Count::of(shared, |shared| &shared.connections);
    let Some(place) = place.filter(|_| count.before < limits.connections as u64) else {
        cache.counters.refused();
        // One try, never waited for; the kernel's buffer has room for it.
        let _ = stream.try_write(BUSY);
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "a client left at once");
    }
    let (cache, phases) = (Arc::clone(cache), phases.clone());
    let accepted = Instant::now();
    connections.spawn(async move {
        let _held = (place, count);
        let timeouts = &cache.config.timeouts;
        let waits = Waits { head: timeouts.head, keep_alive: timeouts.keep_alive, send: timeouts.send };
        let sites = Arc::clone(&cache.sites);
        let own = Arc::new(move |authority: &Authority| sites.find(authority).is_some());
        let mut gated = Gated::new(stream, accepted, (head_limits(&cache), waits), own, Arc::clone(&cache.counters));
        let from = Origin { client, secure: false, interim: Some(gated.interim()) };
        let served = Arc::clone(&cache);
        let handle = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(from.clone());
            step::handle(Arc::clone(&served), request.map(Some))
        };
        serve(gated, phases, true, handle).await;
    });
}

/// Serves what peers ask, on the streams they open.
async fn serve_peers(cache: Arc<Cache>, shared: Arc<Shared>, phases: watch::Receiver<Phase>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = cache.streams.accept() => match accepted {
                Ok((_, stream)) => {
                    let count = Count::of(&shared, |shared| &shared.peer_streams);
                    if count.before >= cache.config.limits.peer_streams as u64 {
                        continue;
                    }
                    let (cache, phases) = (Arc::clone(&cache), phases.clone());
                    streams.spawn(async move {
                        let _held = count;
                        let (head, send) = (cache.config.timeouts.head, cache.config.timeouts.send);
                        let waits = Waits { head, keep_alive: head, send };
                        let own = Arc::new(|_: &Authority| false);
                        let counters = Arc::clone(&cache.counters);
                        let gated = Gated::new(stream, Instant::now(), (head_limits(&cache), waits), own, counters);
                        let served = Arc::clone(&cache);
                        serve(gated, phases, false, move |request| serve_peer::handle(Arc::clone(&served), request)).await;
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
        () = cache.announcer.run() => {}
        () = draining(phases) => {}
    }
}

/// Serves one gated stream to its end.
async fn serve<S, F, R>(gated: Gated<S>, phases: watch::Receiver<Phase>, keep_alive: bool, handle: F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    // Half-closed connections are kept: the parser then never reads ahead of its answers, as the gate needs.
    let connection = http1::Builder::new()
        .half_close(true)
        .keep_alive(keep_alive)
        .max_headers(PARSER_FIELDS)
        .serve_connection(TokioIo::new(gated), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining(phases) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}

/// Ready once the proxy drains, or is gone.
async fn draining(mut phases: watch::Receiver<Phase>) {
    let _ = phases.wait_for(|phase| *phase == Phase::Draining).await;
}

fn head_limits(cache: &Cache) -> HeadLimits {
    let limits = &cache.config.limits;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    HeadLimits { head: size(limits.head), target: size(limits.target), fields: limits.fields.min(PARSER_FIELDS) }
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

/// Fields the parser behind the gate takes; the gate's limit is never above it.
const PARSER_FIELDS: usize = 256;

/// To those who find no place.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: atoll\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
