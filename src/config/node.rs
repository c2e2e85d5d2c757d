//! `[node]`, `[manager]` and `[log]`: what belongs to the node as a whole rather than to one of its crates.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use atoll_overlay::Roles;
use atoll_units::span;
use serde::{Deserialize, Serialize};

/// `[node]`: who this node is and what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// What it runs; any subset, at least one. None by default: an operator says what a machine is for.
    pub roles: Vec<Role>,
    /// The one directory this node writes to: its key, its peers, the last good DNS set, the cache and the admin socket.
    pub state: PathBuf,
    /// The network to join; nodes of other networks are not talked to. 1 to 64 of `a-z 0-9 . -`.
    pub network: String,
    /// The zone under which names are Coralized, such as `nyud.example`; "" if there is none. A dnssrv needs it.
    pub zone: String,
    /// The operator's word for where the node stands; nodes of one site are taken to be near each other. 0 to 32 bytes.
    pub site: String,
    /// Share of the traffic it wants against others. 0 (none) to 1000; 100 is the norm. More draws more clients. `[guess]`
    pub weight: u16,
    /// Addresses at which clients reach its proxy, at most 4 of each family. Empty: those of its listeners that name one.
    pub addresses: Vec<IpAddr>,
    /// Ports at which clients reach its proxy, cleartext first, at most 4; if it listens over TLS, that port last.
    /// Empty: those of its listeners.
    pub http_ports: Vec<u16>,
    /// Nodes to ask first, as `HOST:PORT` or a multiaddr, at most 64. Empty: those it knew last; a node that knows none is alone.
    pub bootstrap: Vec<String>,
    /// How long a node that stops goes on serving after it has left DNS: the longest TTL of an answer naming it. 0 s to 1 h.
    /// Shorter cuts off clients that still hold an answer, longer makes stopping slow. [Coral 4.3: TTL 60 s at level 0]
    #[serde(with = "span")]
    pub drain_wait: Duration,
    /// How long after that it waits for downloads under way. 0 s to 1 d. Shorter cuts them off, longer makes stopping slow. `[guess]`
    #[serde(with = "span")]
    pub drain_grace: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            roles: Vec::new(),
            state: PathBuf::from("/var/lib/atoll"),
            network: "atoll".to_owned(),
            zone: String::new(),
            site: String::new(),
            weight: 100,
            addresses: Vec::new(),
            http_ports: Vec::new(),
            bootstrap: Vec::new(),
            drain_wait: Duration::from_secs(60),
            drain_grace: Duration::from_secs(30),
        }
    }
}

impl NodeConfig {
    /// Whether the node is to run this role.
    #[must_use]
    pub fn runs(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The roles as other nodes see them.
    #[must_use]
    pub fn role_set(&self) -> Roles {
        self.roles.iter().fold(Roles::NONE, |set, role| set.with(role.bit()))
    }
}

/// One thing a node may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers DNS for the zone.
    Dnssrv,
    /// Serves HTTP from its cache.
    Proxy,
    /// Redirects clients to a near proxy over HTTP, where no DNS delegation can be had.
    Manager,
}

impl Role {
    /// The word for it in the configuration, in metrics and in `atoll status`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Dnssrv => "dnssrv",
            Self::Proxy => "proxy",
            Self::Manager => "manager",
        }
    }

    /// The role as other nodes see it.
    #[must_use]
    pub const fn bit(self) -> Roles {
        match self {
            Self::Dnssrv => Roles::DNSSRV,
            Self::Proxy => Roles::PROXY,
            Self::Manager => Roles::MANAGER,
        }
    }
}

/// `[manager]`: the HTTP redirector of role manager.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerConfig {
    /// Where it listens, at most 16 addresses. Port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Connections served at once, 1 to 65536; more wait to be accepted. More costs memory (about 10 KiB each). `[guess]`
    pub connections: usize,
    /// How long a client may take to send a request head, 100 ms to 60 s. Shorter drops slow clients, longer lets idle ones
    /// hold a connection. `[guess]`
    #[serde(with = "span")]
    pub head_timeout: Duration,
    /// How many of the nearest proxies share a site's requests, 1 to 16. Fewer meet in fuller caches, more spread the load. In a node
    /// that runs dnssrv, too, its answers say which they are. `[guess]`
    pub spread: usize,
    /// Whether redirects name proxies as `HOST.n-ID.ZONE` instead of by address. Only where the zone is delegated: a page then keeps an
    /// origin of its own, as browsers see it; else nobody finds the name. `[guess]`
    pub names: bool,
    /// What a client is told to wait when no proxy is alive, 1 s to 1 h. `[guess]`
    #[serde(with = "span")]
    pub retry_after: Duration,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8081)],
            connections: 1_024,
            head_timeout: Duration::from_secs(10),
            spread: 2,
            names: false,
            retry_after: Duration::from_secs(5),
        }
    }
}

/// `[log]`: what is written about the node's own doings, one line an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Least severity: `error`, `warn`, `info`, `debug`, `trace`, or a list of `target=severity` after it, separated by commas.
    /// `debug` and `trace` cost throughput. `[guess]`
    pub level: String,
    /// A file to append to, reopened on SIGUSR1. Unset: standard error.
    pub file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), file: None }
    }
}
