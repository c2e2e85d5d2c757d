//! The workers: one thread, one runtime and one listener each, so that a request stays on its core; and the ends, warm and cold.
//!
//! The listeners of one address share its port (SO_REUSEPORT) and the system deals connections out among them. Before, the port
//! is taken once without sharing, so that a port that another program has is told as such.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    access_log::{AccessLog, Gathered},
    connection::Connection,
    link::Watches,
    service::Service,
};

/// What the workers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Nobody new; what runs finishes.
    Draining,
    /// Everybody out.
    Stopped,
}

/// What a worker is given.
pub(super) struct Worker {
    /// One for each address.
    pub(super) listeners: Vec<std::net::TcpListener>,
    pub(super) service: Arc<Service>,
    /// Connections of all workers.
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) phases: watch::Receiver<Phase>,
    pub(super) log: Option<Arc<Gathered>>,
    /// Dropped when the worker has ended.
    pub(super) _alive: mpsc::Sender<()>,
}

/// A listener on this address, shared if `shared`.
fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Each worker's listeners, one for each address, and the addresses with the ports they got.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) of_workers: Vec<Vec<std::net::TcpListener>>,
    pub(super) local: Vec<SocketAddr>,
}

impl Listeners {
    /// Opens all of them; the error names the address that cannot be had.
    pub(super) fn open(addresses: &[SocketAddr], workers: usize) -> Result<Self, (SocketAddr, io::Error)> {
        let mut all = Self { of_workers: (0..workers).map(|_| Vec::new()).collect(), local: Vec::new() };
        for address in addresses {
            let refused = |error| (*address, error);
            let alone = listen(*address, false).map_err(refused)?;
            let bound = alone.local_addr().map_err(refused)?;
            all.local.push(bound);
            if let [only] = &mut all.of_workers[..] {
                only.push(alone);
                continue;
            }
            drop(alone);
            for listeners in &mut all.of_workers {
                listeners.push(listen(bound, true).map_err(refused)?);
            }
        }
        Ok(all)
    }
}

impl Worker {
    /// Serves until it is told to end, on a thread of its own.
    pub(super) fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(Duration::from_secs(60))
            .build();
        match runtime {
            Ok(runtime) => {
                runtime.block_on(self.serve());
                // What still reads the disk for a client that was cut off is not waited for.
                runtime.shutdown_background();
            }
            Err(error) => tracing::error!(%error, "a worker could not start"),
        }
    }

    async fn serve(mut self) {
        let watches = Arc::new(Watches::new());
        let mut listeners = Vec::new();
        for listener in std::mem::take(&mut self.listeners) {
            match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
                Ok(listener) => listeners.push(listener),
                Err(error) => return tracing::error!(%error, "a worker could not listen"),
            }
        }
        let mut tasks = JoinSet::new();
        let (accepted, mut streams) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, accepted.clone(), self.phases.clone()));
        }
        drop(accepted);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taking = true;
        loop {
            tokio::select! {
                stream = streams.recv(), if taking => match stream {
                    Some(stream) => self.take(stream, &watches, &mut tasks),
                    None => taking = false,
                },
                Some(_) = tasks.join_next() => {}
                _ = ticks.tick() => {
                    watches.sweep();
                    self.log.iter().for_each(|log| log.flush());
                    match *self.phases.borrow() {
                        Phase::Running => {}
                        Phase::Draining => watches.drain(),
                        Phase::Stopped => break,
                    }
                }
                changed = self.phases.changed() => if changed.is_err() { break } else { ticks.reset_immediately() },
            }
            if !taking && tasks.is_empty() {
                break;
            }
        }
        watches.cut();
        tasks.shutdown().await;
        self.log.iter().for_each(|log| log.flush());
    }

    /// Serves a stream, or says that there are too many.
    fn take(&self, stream: TcpStream, watches: &Arc<Watches>, tasks: &mut JoinSet<()>) {
        let place = Place::of(&self.connections);
        if place.before >= self.service.config.connections {
            metrics::counter!("atoll_cache_connections_refused_total").increment(1);
            // One try, never waited for; the system's buffer has room for it.
            let _ = stream.try_write(BUSY);
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "a client left at once");
        }
        let connection = Connection::new(stream, Arc::clone(&self.service), watches, self.log.clone());
        tasks.spawn(async move {
            let _place = place;
            connection.serve().await;
        });
    }
}

/// Accepts until the drain, and then whom the system has accepted already.
async fn accept(listener: TcpListener, streams: mpsc::Sender<TcpStream>, mut phases: watch::Receiver<Phase>) {
    loop {
        let draining = async {
            let _ = phases.wait_for(|phase| *phase > Phase::Running).await;
        };
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = draining => return,
        };
        match accepted {
            Ok((stream, _)) => {
                if streams.send(stream).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, or a client that left already: others are served on, and no loop spins.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One of the connections there may be, until dropped.
struct Place {
    connections: Arc<AtomicUsize>,
    before: usize,
}

impl Place {
    fn of(connections: &Arc<AtomicUsize>) -> Self {
        let before = connections.fetch_add(1, Ordering::Relaxed);
        Self { connections: Arc::clone(connections), before }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The log's part for each worker.
pub(super) fn gatherer(log: Option<&AccessLog>) -> Option<Arc<Gathered>> {
    log.map(|log| Arc::new(log.gatherer()))
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often deadlines are looked at and the log is handed over.
const TICK: Duration = Duration::from_millis(250);

/// Disk reads of one worker at a time; the store has a bound of its own for all.
const BLOCKING_THREADS: usize = 256;

/// To one connection too many.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\ntoo many connections\n";
