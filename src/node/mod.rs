//! The life of one node: starts store, overlay, proxy, dnssrv and manager in that order, and stops them in reverse.
//!
//! ```text
//!   Config --start--> running --drain--> leaves DNS, waits a TTL, finishes what runs --stop--> stopped
//!                        |                                                              ^
//!                        +--------------------------stop--------------------------------+
//! ```

mod gauges;
mod keep;
mod member;
mod parts;
mod purger;
mod told;
mod watched;

use std::{sync::Arc, time::Duration};

use atoll_overlay::Index;
use tokio::{sync::Notify, task::JoinHandle};

use self::parts::Parts;
use crate::{
    admin::{self, Admin, AdminError},
    config::Config,
    state::StateError,
    status::{Status, StatusSource as _},
};

/// A running node.
pub struct Node {
    parts: Arc<Parts>,
    admin: Admin,
    keeper: JoinHandle<()>,
    watcher: JoinHandle<()>,
    look: Arc<Notify>,
}

/// Why a node did not start. What had been started by then has been stopped again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// The node's key is damaged.
    #[error("the node's key in {path} cannot be read: {reason}; move the file away to become a new node")]
    Identity {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The node is no member of its closed network.
    #[error("{0}")]
    Membership(String),
    /// The cache cannot be opened.
    #[error("the store did not open: {0}")]
    Store(#[from] atoll_store::OpenError),
    /// A part of the node did not start.
    #[error("{part} did not start: {reason}")]
    Part {
        /// Which: overlay, proxy, dnssrv, manager.
        part: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// The admin API did not start.
    #[error("the admin API did not start: {0}")]
    Admin(#[from] AdminError),
}

impl Node {
    /// Starts all that the configuration names, or nothing.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        admin::start_counting();
        let admin_config = config.admin.clone();
        let parts = Arc::new(Parts::start(config).await?);
        let admin = match Admin::start(&admin_config, parts.state(), parts.clone()).await {
            Ok(admin) => admin,
            Err(error) => {
                parts.stop().await;
                return Err(error.into());
            }
        };
        parts.add_admin(&admin);
        let keeper = tokio::spawn(keep::keep(Arc::clone(&parts)));
        let look = Arc::new(Notify::new());
        let watcher = tokio::spawn(member::watch(Arc::clone(&parts), Arc::clone(&look)));
        Ok(Self { parts, admin, keeper, watcher, look })
    }

    /// Its index, for those who watch the network through it.
    #[must_use]
    pub fn index(&self) -> Arc<dyn Index> {
        self.parts.index()
    }

    /// Its proxy, for a front that has listeners of its own; none without the role.
    #[must_use]
    pub fn proxy(&self) -> Option<Arc<atoll_proxy::Proxy>> {
        self.parts.proxy()
    }

    /// The node as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.parts.status()
    }

    /// Where the dashboard is, with the token that opens it; none if the admin API listens on no TCP address.
    #[must_use]
    pub fn dashboard_url(&self) -> Option<String> {
        self.admin.dashboard_url()
    }

    /// The file with the admin API's token, if TCP is served.
    #[must_use]
    pub fn token_path(&self) -> Option<&std::path::Path> {
        self.admin.token_path()
    }

    /// Looks at once for renewed certificates, a changed takedown list and revocations to spread; otherwise every few seconds.
    pub fn reread(&self) {
        self.parts.reread();
        self.look.notify_one();
    }

    /// Takes up the zone's plain records from other settings, if it has a DNS server and they are good.
    pub fn reload_records(&self, config: &atoll_dnssrv::Config) {
        self.parts.reload_records(config);
    }

    /// Waits until the operator asks the node to leave, by the admin API.
    pub fn drain_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let parts = Arc::clone(&self.parts);
        async move { parts.drain_asked().await }
    }

    /// Waits until the operator asks the node to stop at once, by the admin API.
    pub fn stop_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let parts = Arc::clone(&self.parts);
        async move { parts.stop_asked().await }
    }

    /// Leaves DNS, waits as long as answers naming this node live, then until what runs is done or the grace is over.
    pub async fn drain(&self) {
        self.parts.leave().await;
    }

    /// Stops everything now.
    pub async fn stop(self) {
        self.keeper.abort();
        self.watcher.abort();
        self.admin.stop().await;
        keep::save(&self.parts).await;
        self.parts.stop().await;
        // What writes on another thread may hold the parts for a moment longer.
        self.parts.state().leave();
    }
}

/// How long stopping may take before the process ends anyway.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
