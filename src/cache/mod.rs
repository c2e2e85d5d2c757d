//! `atoll cache`: a cache that is told what to keep (Hornet's API), by PUT, and asked by GET; deletes by tag at once; keeps all of it
//! over any stop. No origin, no peers: it stands behind something that has them.
//!
//! ```text
//!   client --bytes--> Worker: Link -> Head -> Asked --+--> Service: store, admission, deletions
//!      ^                                              |
//!      +---- head and body in one write <-------------+--> access log (a thread of its own)
//! ```
//!
//! HTTP/1.1 is read and written here rather than by a library: a hit from RAM is then one read and one write to the system, with
//! no allocation between them but the store's handle. Read [`Cache`] first, then `connection`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use atoll_store::Store;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

mod config;
pub use config::CacheConfig;

mod server;

mod connection;

mod link;

mod head;

mod target;

mod conditions;

mod answer;

mod meta;

mod service;

mod admission;

mod access_log;

use crate::port_holder::{Protocol, bind_error};

/// A running cache. Dropping it cuts its connections.
#[derive(Debug)]
pub struct Cache {
    addresses: Vec<SocketAddr>,
    phase: watch::Sender<server::Phase>,
    /// Ends when every worker has.
    workers: mpsc::Receiver<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
    log: Option<access_log::AccessLog>,
    grace: Duration,
}

/// Why a cache could not start.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// An address cannot be had.
    #[error("the cache cannot listen: {0}")]
    Listen(String),
    /// The access log cannot be written.
    #[error("access log {path}: {source}")]
    AccessLog {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("a worker could not start: {0}")]
    Thread(std::io::Error),
}

impl Cache {
    /// Opens the addresses of the configuration, or none of them, and serves from `store`. To be called inside a tokio runtime.
    pub fn start(config: CacheConfig, store: Store) -> Result<Self, CacheError> {
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        };
        let listeners = server::Listeners::open(&config.listen, workers)
            .map_err(|(address, error)| CacheError::Listen(bind_error(&error, address, Protocol::Tcp)))?;
        let log = config.access_log.as_deref().map(|path| {
            let refused = |source| CacheError::AccessLog { path: path.display().to_string(), source };
            access_log::AccessLog::start(path).map_err(refused)
        });
        let log = log.transpose()?;
        let host = config.host.clone().unwrap_or_else(host_name);
        let grace = config.drain_grace;
        let service = Arc::new(service::Service::new(config, store, &host));
        let (phase, phases) = watch::channel(server::Phase::Running);
        let (alive, workers) = mpsc::channel(1);
        let connections = Arc::default();
        let mut threads = Vec::new();
        for listeners in listeners.of_workers {
            let worker = server::Worker {
                listeners,
                service: Arc::clone(&service),
                connections: Arc::clone(&connections),
                phases: phases.clone(),
                log: server::gatherer(log.as_ref()),
                _alive: alive.clone(),
            };
            let thread = std::thread::Builder::new().name("cache".to_owned()).spawn(move || worker.run());
            threads.push(thread.map_err(CacheError::Thread)?);
        }
        Ok(Self { addresses: listeners.local, phase, workers, threads, log, grace })
    }

    /// The addresses it listens on, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Opens the access log anew, after it was moved away.
    pub fn reopen_log(&self) {
        self.log.iter().for_each(access_log::AccessLog::reopen);
    }

    /// Takes nobody new and waits until every request under way is answered, as long as the configuration grants. True if all
    /// were.
    pub async fn drain(&mut self) -> bool {
        self.phase.send_replace(server::Phase::Draining);
        timeout(self.grace, self.workers.recv()).await.is_ok()
    }

    /// Cuts every connection that is left, and waits for the workers to end.
    pub async fn stop(mut self) {
        self.phase.send_replace(server::Phase::Stopped);
        self.workers.recv().await;
        for thread in self.threads.drain(..) {
            // A worker's panic was told already, by the panic itself.
            let _ = thread.join();
        }
    }
}

/// This machine's name, as far as it can stand in a header.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fit = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
    let name: String = name.trim().chars().filter(fit).take(253).collect();
    if name.is_empty() { "atoll".to_owned() } else { name }
}
