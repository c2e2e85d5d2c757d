//! `[cache]`: the service of `atoll cache`, Hornet's API. Where its bytes are stood is `[store]`'s, its error log `[log]`'s.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use atoll_units::{ByteSize, span};
use serde::Deserialize;

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// Where it listens, 1 to 16 addresses. Whoever reaches it may store and delete: there is no password. Port 0 takes any free
    /// one. \[Hornet: 0.0.0.0:6969\]
    pub listen: Vec<SocketAddr>,
    /// Threads that serve, each with its own listener, 0 to 256; 0 is one a core. Fewer: idle cores. More: cores change hands.
    /// `[guess]`
    pub workers: usize,
    /// Connections at once, 1 to 1048576; one more is answered 503. More costs memory, about 4 KiB each. \[Hornet: 10240\]
    pub connections: usize,
    /// Bytes of a request's head, 512 B to 64 KiB. Less: long header blocks refused. More: memory a connection. \[Hornet: 4096\]
    pub head_limit: ByteSize,
    /// Header fields of a request, 1 to 1024. Less: refuses clients that send many. More: time a request. `[guess]`
    pub field_limit: usize,
    /// Bytes of an object, 0 B to 1 TiB; the store's own limit is half its capacity. Less: refuses large ones. More: one object
    /// pushes out many. `[guess]`
    pub object_limit: ByteSize,
    /// Bytes of a refused body that are read and dropped so that the connection lives on, 0 B to 1 TiB; a longer one ends it.
    /// Less: more connections made anew. More: bytes read for nothing. `[guess]`
    pub skip_limit: ByteSize,
    /// For a request's head, from its first byte, 100 ms to 60 s. Shorter: slow clients cut off. Longer: idle ones hold
    /// connections. \[Hornet: 2 s, never enforced\]
    #[serde(with = "span")]
    pub head_timeout: Duration,
    /// For the next request's first byte, 100 ms to 1 h. Shorter: more connections made anew. Longer: idle ones held. `[guess]`
    #[serde(with = "span")]
    pub idle_timeout: Duration,
    /// For a body in either direction, beside what its length takes at `min_rate`, 100 ms to 1 h. Shorter: stalls cut off.
    /// Longer: stalled clients hold connections, and memory if they PUT. `[guess]`
    #[serde(with = "span")]
    pub body_timeout: Duration,
    /// Bytes a second at which a client must take or send a body on average, 1 B to 1 GiB. Less: slow clients hold connections
    /// for longer. More: cuts off those on slow lines. `[guess]`
    pub min_rate: ByteSize,
    /// How long an object is kept if its PUT does not say, 1 s to 3650 d. Shorter: more misses. Longer: staler. \[Hornet: 1 h\]
    #[serde(with = "span")]
    pub default_expire: Duration,
    /// PUTs until an object is kept, 1 to 250; before, they are answered 202. 1 keeps it at once. More: less is written, and
    /// more is missed (a rule of "second request" raises misses on every public CDN trace). `[minicdn-hornet E.3]`
    pub admission: u8,
    /// Bytes for counting those PUTs, 1 KiB to 16 GiB; nine an object. Less: counts of objects seldom PUT are lost. `[guess]`
    pub admission_memory: ByteSize,
    /// Name of the request header that is copied into the access log, usually with the URL; "" for none. \[Hornet: Client-Ext\]
    pub log_header: String,
    /// Names of PUT headers that do not go out with the object, at most 64, beside those that never do. \[Hornet:
    /// item.ignore_headers, never used\]
    pub ignore_headers: Vec<String>,
    /// This machine's name in answers. Unset: the system's host name.
    pub host: Option<String>,
    /// A file for one line a request, opened anew on SIGUSR1. Unset: none.
    pub access_log: Option<PathBuf>,
    /// How long after SIGTERM requests under way may take, 0 s to 1 d. Shorter cuts them off, longer makes stopping slow. `[guess]`
    #[serde(with = "span")]
    pub drain_grace: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6969)],
            workers: 0,
            connections: 10_240,
            head_limit: ByteSize::kib(8),
            field_limit: 64,
            object_limit: ByteSize::gib(1),
            skip_limit: ByteSize::mib(64),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            min_rate: ByteSize::kib(16),
            default_expire: Duration::from_secs(3_600),
            admission: 1,
            admission_memory: ByteSize::mib(16),
            log_header: "Client-Ext".to_owned(),
            ignore_headers: Vec::new(),
            host: None,
            access_log: None,
            drain_grace: Duration::from_secs(30),
        }
    }
}

impl CacheConfig {
    /// How long a body of this length may take.
    pub(super) fn body_span(&self, length: u64) -> Duration {
        self.body_timeout.saturating_add(Duration::from_secs(length / self.min_rate.0.max(1)))
    }

    /// What is wrong with a name that no range tells: the key and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let token = |name: &str| {
            !name.is_empty()
                && name.len() <= 128
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if self.listen.is_empty() {
            return Err(("listen", "is empty: nobody could reach the cache".to_owned()));
        }
        if !self.log_header.is_empty() && !token(&self.log_header) {
            return Err(("log_header", format!("{:?} is no header name", self.log_header)));
        }
        if let Some(wrong) = self.ignore_headers.iter().find(|name| !token(name)) {
            return Err(("ignore_headers", format!("{wrong:?} is no header name")));
        }
        let printable = |host: &String| {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\;,".contains(&byte))
        };
        if let Some(wrong) = self.host.as_ref().filter(|host| !printable(host)) {
            return Err(("host", format!("{wrong:?} is no host name")));
        }
        Ok(())
    }
}
