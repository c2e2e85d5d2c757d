//! What an operator may set of the libp2p driver: where it listens, how it is reached, whom it asks first, and the bound of
//! every queue. The core's own settings are in `core`.

use std::{net::IpAddr, time::Duration};

use atoll_units::{ByteSize, span};
use serde::{Deserialize, Serialize};

use super::{
    address::{self, Carrier},
    protocol::Names,
};

/// Settings of the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the network, 1 to 64 of `a-z 0-9 . -`. Part of every protocol name and of every node id: nodes of different
    /// networks do not understand each other. `[guess]`
    pub network: String,
    /// Who may be a member: `closed`, whoever shows a certificate that the network's key stands behind; `open`, everybody who speaks
    /// the network's name, which is for experiments.
    pub admission: Admission,
    /// Multiaddrs to listen on, `/tcp/PORT` or `/udp/PORT/quic-v1`. Port 0 lets the system choose. Add `/ip6/::/tcp/7400` where IPv6
    /// is on, and `/ip4/0.0.0.0/udp/7400/quic-v1` for QUIC. `[guess]`
    pub listen: Vec<String>,
    /// The carrier dialled first where a peer has both; the other one if that fails. `tcp` costs 25 KiB a connection, `quic` 80 KiB
    /// and more CPU to connect, but connects in fewer round trips. `[facts C]`
    pub carrier: Carrier,
    /// Multiaddrs others shall dial, at most 3; if empty, the addresses listened on.
    pub advertise: Vec<String>,
    /// Address that outgoing connections start from; if none, the system chooses. Addresses of the other family are not bound.
    pub bind_source: Option<IpAddr>,
    /// Nodes to join by: HOST:PORT or multiaddr, at most 64. None: the first node of a network.
    pub bootstrap: Vec<String>,
    /// Pause after the first failed round of joining, doubled per round. 100ms to 1m: shorter floods a seed that restarts,
    /// longer joins later. `[guess]`
    #[serde(with = "span")]
    pub rejoin_first: Duration,
    /// Longest pause between rounds while alone, from which each is up to half away. 1s to 10m: shorter costs dials to dead seeds, longer
    /// leaves the node alone after they are back: for less than a minute by default. `[guess]`
    #[serde(with = "span")]
    pub rejoin_longest: Duration,
    /// Pause between dials to unlinked seeds while there are neighbours, so that halves of a split network find each other.
    /// 10s to 1h: shorter costs dials, longer heals later. `[guess]`
    #[serde(with = "span")]
    pub rejoin_linked: Duration,
    /// Bound on TCP connect, Noise and yamux together. 1s to 1m: shorter loses far peers, longer notices dead ones later and lets
    /// half-open connections stay. `[facts: libp2p's own is 10 s]`
    #[serde(with = "span")]
    pub handshake_timeout: Duration,
    /// A peer that has not shown its certificate by then is cut. 1s to 30s: shorter cuts slow members, longer lets strangers hold
    /// slots. `[design 2, Membership]`
    #[serde(with = "span")]
    pub certificate_timeout: Duration,
    /// A link without message or stream for this long is closed unless the core keeps it. 10s to 1h: shorter dials more, longer
    /// holds 25 KiB per idle link. `[facts C, Keep-alive]`
    #[serde(with = "span")]
    pub idle_timeout: Duration,
    /// Pause between keep-alive pings on a link; one that fails closes it. 5s to 5m: shorter costs traffic, longer notices a host
    /// that vanished later. `[guess]`
    #[serde(with = "span")]
    pub ping_interval: Duration,
    /// How long a peer that was sent a question may say nothing before the next question closes its connections and goes over a new one.
    /// Shorter dials peers anew that are only slow; longer heals later where the network was cut: TCP waits about as long as the cut
    /// lasted. 1s to 5m. `[measured: after a cut of 60 s, 20 nodes were whole in 55 s without this]`
    #[serde(with = "span")]
    pub silence: Duration,
    /// Bound on opening a byte stream, dial included. 100ms to 1m: shorter gives up on far peers, longer delays the next
    /// choice. `[guess]`
    #[serde(with = "span")]
    pub open_timeout: Duration,
    /// Bound on the farewell when stopping, until the last datagram of it. 0s to 10s: shorter may lose the goodbye, longer stops
    /// later. `[guess]`
    #[serde(with = "span")]
    pub stop_timeout: Duration,
    /// Commands that wait for the driver; past it callers wait. 1 to 65,536: fewer slow callers down, more hide overload. `[guess]`
    pub commands: usize,
    /// Messages that wait for one link; past it they are dropped and reported as undeliverable. 8 to 4,096: fewer drop bursts,
    /// more delay behind a slow peer. `[guess]`
    pub link_queue: usize,
    /// Messages that wait for one peer being dialled; past it they are dropped and reported as undeliverable. 1 to 1,024. `[guess]`
    pub dial_queue: usize,
    /// Dials under way; past it a message to an unlinked peer is undeliverable. 8 to 1,024: fewer slow a join, more let hearsay
    /// cost sockets. `[facts B, Limits]`
    pub dials: u32,
    /// Byte streams accepted by the network and not yet by the node; past it they are reset. 16 to 65,536. `[guess]`
    pub accept_queue: usize,
    /// Streams at a time per connection, both ways together; each side opens half of them at most, less 8, and refuses more. 32 to
    /// 8,192: fewer refuse busy peers, more let one peer hold memory. `[facts C: 512]`
    pub streams: usize,
    /// Established connections, both ways together. 16 to 65,536, about 25 KiB each; by QUIC 80 KiB, and what is under way on it, as
    /// `quic_window` and the next bound it: fewer refuse members. `[facts C]`
    pub connections: u32,
    /// Connections to one peer: links, bulk, and those that look whether it is where it says. 2 to 16: fewer break simultaneous dials, more let one peer hold slots.
    /// `[guess]`
    pub connections_per_peer: u32,
    /// Incoming connections that have not shown a certificate, all together. 16 to 65,536: fewer let a flood keep members out,
    /// more cost sockets, and their handshakes more of the thread that carries all messages. `[guess]`
    pub knocks: usize,
    /// The same from one /24 or /48 (from one address inside loopback). Half as many may knock by QUIC, all together, before their
    /// addresses have answered; others send back a token first. 1 to 1,024: fewer slow a site's restart, more help a flood. `[guess]`
    pub knocks_per_prefix: usize,
    /// Admitted incoming connections from one /24 or /48 (from one address inside loopback). 1 to 65,536: fewer refuse members of a
    /// large site, more let one network hold the places of others. `[guess]`
    pub connections_per_prefix: usize,
    /// Messages read from one peer per second, twice as many at once; more are dropped unread. 10 to 1,000,000: fewer slow busy
    /// peers down, more let one peer take the node's time. `[guess]`
    pub messages_per_peer: u32,
    /// Bytes that a TCP link carries in a second, both ways, before it goes to the threads for bulk: a peer that cannot be dialled has
    /// its byte streams on its link. 1 MiB to 1 GiB: fewer move links that are busy with messages, more let streams delay
    /// the messages of others. `[guess: 5,000 messages of 1,200 bytes, each way and more]`
    pub link_bytes: ByteSize,
    /// Bytes that may be under way on a QUIC connection at first, each way: of a stranger, and of this side. 64 KiB to 16 MiB: fewer slow
    /// the first bytes to far peers, more let strangers hold memory. `[guess: what fills 100 ms at 20 Mbit/s]`
    pub quic_window: ByteSize,
    /// Bytes that a member may send ahead of their being read on one QUIC stream. On all of a connection it may send twice as many
    /// unread, and more once windows grow: a stream that nobody reads leaves room for as much. 64 KiB to 16 MiB: fewer slow a stream from
    /// far away, more let one member hold memory. `[guess: what fills 100 ms at 80 Mbit/s]`
    pub quic_stream_window: ByteSize,
    /// Where the window of a QUIC connection ends that doubles with each as much that moves, each way. `quic_window` or twice
    /// `quic_stream_window`, whichever is more, to 1 GiB: less slows many streams to one far peer, more lets one member hold memory.
    /// `[guess: what fills 100 ms at 640 Mbit/s]`
    pub quic_window_most: ByteSize,
    /// Bytes by which the windows of all QUIC connections may grow together, both ways, each member's room for two full streams among
    /// them (at the defaults 1.75 MiB: enough for 292 members); past it they stay as large as they are. 0 to 1 TiB: less slows far
    /// peers of a busy node, and lets a stream that nobody reads hold up others beside it; more lets members hold memory. `[guess]`
    pub quic_windows: ByteSize,
    /// Threads that carry byte streams over bulk connections, made as these come, each with its connections; 0: one for every two
    /// processors. One more carries all links. 0 to 1,024: fewer bound what bulk takes of the processors, more carry more of it at once.
    /// `[measured on two processors, where two of them woke one another]`
    pub bulk_threads: usize,
    /// How much nicer the threads for bulk are than the node's others. 0 to 19: less delays messages beside byte streams, more lets
    /// what else runs on the machine starve them. `[measured]`
    pub bulk_nicer: u8,
    /// Peers remembered with their addresses; past it the longest unused that is not linked is forgotten. 256 to 2^22, about 500
    /// bytes each: fewer forget holders of pointers. `[guess]`
    pub known_peers: usize,
    /// Peers handed to the node to survive a restart. 8 to 1,024. `[guess]`
    pub saved_peers: usize,
}

/// Who may be a member of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Whoever shows a certificate from an admission key of the network's key. See [`crate::membership`].
    Closed,
    /// Everybody who speaks the network's name, with serial 0: for experiments only, and said so loudly at every start.
    Open,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: "atoll".to_owned(),
            admission: Admission::Open,
            listen: vec!["/ip4/0.0.0.0/tcp/7400".to_owned()],
            advertise: Vec::new(),
            carrier: Carrier::Tcp,
            bind_source: None,
            bootstrap: Vec::new(),
            rejoin_first: Duration::from_secs(1),
            rejoin_longest: Duration::from_secs(30),
            rejoin_linked: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(10),
            certificate_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(90),
            ping_interval: Duration::from_secs(30),
            silence: Duration::from_secs(10),
            open_timeout: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(1),
            commands: 1_024,
            link_queue: 256,
            dial_queue: 32,
            dials: 64,
            accept_queue: 256,
            streams: 512,
            connections: 1_024,
            connections_per_peer: 8,
            knocks: 512,
            knocks_per_prefix: 16,
            connections_per_prefix: 512,
            messages_per_peer: 5_000,
            link_bytes: ByteSize::mib(16),
            quic_window: ByteSize::kib(256),
            quic_stream_window: ByteSize::mib(1),
            quic_window_most: ByteSize::mib(8),
            quic_windows: ByteSize::mib(512),
            bulk_threads: 0,
            bulk_nicer: 10,
            known_peers: 65_536,
            saved_peers: 128,
        }
    }
}

impl Config {
    /// Byte streams that this side opens at a time over one connection: half of what yamux allows, less the substreams that carry no
    /// bytes. As many may wait for a connection.
    pub(super) const fn streams_each_way(&self) -> usize {
        (self.streams / 2).saturating_sub(OWN_SUBSTREAMS)
    }

    /// How far apart the links may be that two make by dialling each other at once: one by its first carrier at once, the other by its
    /// second after the first was tried in vain.
    pub(super) const fn dials_apart(&self) -> Duration {
        self.handshake_timeout.saturating_mul(2).saturating_add(self.certificate_timeout)
    }

    /// Refuses what no driver can run with, naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |field, reason| Err(ConfigError { field, reason });
        if Names::of(&self.network).is_none() {
            return refuse("network", "it must be 1 to 64 of a-z 0-9 . -");
        }
        if self.listen.is_empty() || self.listen.len() > 16 {
            return refuse("listen", "there must be 1 to 16 addresses");
        }
        if self.advertise.len() > address::LIMIT {
            return refuse("advertise", "there may be 3 addresses at most");
        }
        if self.bootstrap.len() > 64 {
            return refuse("bootstrap", "there may be 64 nodes at most");
        }
        let spans = [
            ("rejoin_first", self.rejoin_first, 100),
            ("rejoin_longest", self.rejoin_longest, 1_000),
            ("rejoin_linked", self.rejoin_linked, 1_000),
            ("handshake_timeout", self.handshake_timeout, 1_000),
            ("certificate_timeout", self.certificate_timeout, 1_000),
            ("idle_timeout", self.idle_timeout, 1_000),
            ("ping_interval", self.ping_interval, 1_000),
            ("silence", self.silence, 1_000),
            ("open_timeout", self.open_timeout, 100),
        ];
        if let Some((field, ..)) = spans.iter().find(|(_, span, least)| span.as_millis() < *least) {
            return refuse(field, "it is too short");
        }
        let counts = [
            ("commands", self.commands, 1),
            ("link_queue", self.link_queue, 8),
            ("dial_queue", self.dial_queue, 1),
            ("accept_queue", self.accept_queue, 1),
            ("streams", self.streams, 32),
            ("knocks", self.knocks, 1),
            ("knocks_per_prefix", self.knocks_per_prefix, 1),
            ("connections_per_prefix", self.connections_per_prefix, 1),
            ("messages_per_peer", usize::try_from(self.messages_per_peer).unwrap_or(usize::MAX), 10),
            ("known_peers", self.known_peers, 16),
        ];
        if let Some((field, ..)) = counts.iter().find(|(_, count, least)| count < least) {
            return refuse(field, "it is too small");
        }
        if !(ByteSize::mib(1).0..=ByteSize::mib(1 << 10).0).contains(&self.link_bytes.0) {
            return refuse("link_bytes", "it must be 1 MiB to 1 GiB");
        }
        self.check_windows()?;
        if self.bulk_threads > 1_024 {
            return refuse("bulk_threads", "there may be 1,024 at most");
        }
        if self.bulk_nicer > 19 {
            return refuse("bulk_nicer", "it may be 19 at most");
        }
        if self.dial_queue > self.link_queue {
            return refuse("dial_queue", "it must not exceed link_queue, into which it empties");
        }
        Ok(())
    }

    fn check_windows(&self) -> Result<(), ConfigError> {
        let refuse = |field, reason| Err(ConfigError { field, reason });
        let range = ByteSize::kib(64)..=ByteSize::mib(16);
        if !range.contains(&self.quic_window) {
            return refuse("quic_window", "it must be 64 KiB to 16 MiB");
        }
        if !range.contains(&self.quic_stream_window) {
            return refuse("quic_stream_window", "it must be 64 KiB to 16 MiB");
        }
        let least = self.quic_window.max(ByteSize(2 * self.quic_stream_window.0));
        if !(least..=ByteSize::gib(1)).contains(&self.quic_window_most) {
            return refuse(
                "quic_window_most",
                "it must be 1 GiB at most, and quic_window and twice quic_stream_window at least",
            );
        }
        if self.quic_windows > ByteSize::gib(1 << 10) {
            return refuse("quic_windows", "it may be 1 TiB at most");
        }
        Ok(())
    }
}

/// A setting that no driver can run with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be as set: {reason}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// Why not.
    pub reason: &'static str,
}

/// Substreams one side may have besides byte streams: certificates, messages, pings, and some that are ending.
const OWN_SUBSTREAMS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_loads_beyond_their_range_are_refused() {
        let bytes = |link_bytes| Config { link_bytes: ByteSize(link_bytes), ..Config::default() };
        let threads = |bulk_threads| Config { bulk_threads, ..Config::default() };
        let nicer = |bulk_nicer| Config { bulk_nicer, ..Config::default() };
        for fits in [bytes(1 << 20), bytes(1 << 30), threads(0), threads(1_024), nicer(0), nicer(19)] {
            fits.check().unwrap();
        }
        for (field, config) in [
            ("link_bytes", bytes((1 << 20) - 1)),
            ("link_bytes", bytes((1 << 30) + 1)),
            ("bulk_threads", threads(1_025)),
            ("bulk_nicer", nicer(20)),
        ] {
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn windows_beyond_their_range_are_refused_and_so_is_one_that_two_full_streams_do_not_fit_in() {
        let windows = |first: u64, stream: u64, most: u64, all: u64| Config {
            quic_window: ByteSize(first),
            quic_stream_window: ByteSize(stream),
            quic_window_most: ByteSize(most),
            quic_windows: ByteSize(all),
            ..Config::default()
        };
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1 << 30);
        for fits in [
            windows(64 * kib, 64 * kib, 128 * kib, 0),
            windows(16 * mib, 64 * kib, 16 * mib, mib),
            windows(16 * mib, 16 * mib, gib, gib << 10),
        ] {
            fits.check().unwrap();
        }
        for (field, config) in [
            ("quic_window", windows(64 * kib - 1, mib, 8 * mib, 0)),
            ("quic_window", windows(16 * mib + 1, mib, 32 * mib, 0)),
            ("quic_stream_window", windows(mib, 64 * kib - 1, 8 * mib, 0)),
            ("quic_stream_window", windows(mib, 16 * mib + 1, 64 * mib, 0)),
            ("quic_window_most", windows(64 * kib, mib, 2 * mib - 1, 0)),
            ("quic_window_most", windows(4 * mib, mib, 4 * mib - 1, 0)),
            ("quic_window_most", windows(mib, mib, gib + 1, 0)),
            ("quic_windows", windows(mib, mib, gib, (gib << 10) + 1)),
        ] {
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
