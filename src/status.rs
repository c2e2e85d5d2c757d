//! What a running node says of itself: the one record behind `/status`, `atoll status` and the dashboard.

use std::{collections::BTreeMap, fmt, net::IpAddr, pin::Pin, time::Duration};

use atoll_overlay::{
    LevelInfo, NodeInfo, Roles,
    membership::{Membership, UnixTime},
};
use serde::{Deserialize, Serialize};

use crate::{
    out::plain,
    purging::Purger,
    trace::{Report, Wanted},
    warm::{Nodes, Warmed, Warmth},
};

/// The seam between the admin API and the node: the node implements it, the API knows no more.
pub trait StatusSource: Send + Sync + 'static {
    /// The node as it is now. Called about once a second by each open dashboard: cheap, and never waits.
    fn status(&self) -> Status;

    /// How the answer to a name comes about for a client at an address, a fact a line; none if this node answers no DNS, or this
    /// is no name. Never waits.
    fn explain(&self, _name: &str, _from: IpAddr) -> Option<Vec<String>> {
        None
    }

    /// Sets the gauges of what is so now, for the metrics. Called once for each page of them: cheap, and never waits.
    fn gauge(&self) {}

    /// What purges and shows copies; none if this node holds none.
    fn purger(&self) -> Option<&dyn Purger> {
        None
    }

    /// The nodes that serve HTTP, as this one knows them.
    fn nodes(&self) -> Nodes {
        Nodes::default()
    }

    /// What was warmed by way of this node lately.
    fn warmed(&self) -> Vec<Warmed> {
        Vec::new()
    }

    /// `atoll warm` found this copy.
    fn note_warm(&self, _one: Warmth) {}

    /// Follows one request from DNS to its last byte. The text of an error says what could not be asked.
    fn trace(&self, wanted: Wanted) -> Pin<Box<dyn Future<Output = Result<Report, String>> + Send + '_>> {
        Box::pin(std::future::ready(Err(format!("{} cannot be traced here", wanted.url))))
    }

    /// Starts leaving, as SIGTERM does. Returns at once; a second call changes nothing.
    fn drain(&self);
    /// Has the node stop at once; what runs is cut.
    fn stop_now(&self);
}

/// A node at one moment. Counters run from its start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node's id, 40 hexadecimal digits.
    pub id: String,
    /// Program version.
    pub version: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Whether it is leaving.
    pub draining: bool,
    /// The network it belongs to.
    pub network: String,
    /// Who may be a member of it, and until when this node is.
    pub admission: Admitted,
    /// The zone, "" if none.
    pub zone: String,
    /// The operator's word for where it stands.
    pub site: String,
    /// Where it listens.
    pub listen: Vec<Listening>,
    /// Its clusters, level 0 first.
    pub levels: Vec<LevelStatus>,
    /// What it stores.
    pub store: StoreStatus,
    /// What its proxy did.
    pub proxy: ProxyStatus,
    /// What its dnssrv did.
    pub dns: DnsStatus,
}

/// Who may be a member of the network, and until when this node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Admitted {
    /// `open` or `closed`.
    pub mode: String,
    /// In a closed network, the public key that names it; else "".
    pub network_key: String,
    /// In a closed network, the end of this node's certificate, in seconds since the Unix epoch; else 0.
    pub until: u64,
}

impl Admitted {
    /// As the membership says; none is an open network.
    #[must_use]
    pub fn of(membership: Option<&Membership>) -> Self {
        match membership {
            None => Self { mode: "open".to_owned(), ..Self::default() },
            Some(Membership { network, certificate }) => Self {
                mode: "closed".to_owned(),
                network_key: network.to_string(),
                until: certificate.term.not_after.0,
            },
        }
    }
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode.as_str() {
            "closed" => {
                write!(f, "closed, key {}, member until {}", plain(&self.network_key), UnixTime(self.until))
            }
            _ => f.write_str("OPEN: anybody may join, for experiments only"),
        }
    }
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listening {
    /// What for: `http`, `dns/udp`, `dns/tcp`, `overlay`, `manager`, `admin`.
    pub service: String,
    /// `ADDRESS:PORT`, a multiaddr or the path of a socket.
    pub address: String,
}

/// One level and the cluster the node is in there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LevelStatus {
    /// The level, 0 the widest.
    pub level: u8,
    /// RTT its clusters stay under, in milliseconds; none at level 0.
    pub threshold_ms: Option<f64>,
    /// The cluster's id.
    pub cluster: String,
    /// How many nodes it is thought to have, this one included.
    pub size: u32,
    /// Neighbours known in it, nearest first, at most [`NEIGHBOURS_SHOWN`].
    pub neighbours: Vec<Neighbour>,
}

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// Its id.
    pub id: String,
    /// Addresses clients reach it at.
    pub addresses: Vec<String>,
    /// Minimum RTT measured to it, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What it runs.
    pub roles: Vec<String>,
    /// Where it says it stands.
    pub site: String,
    /// How busy it is, 0 to 100.
    pub load: u8,
    /// Whether it is leaving.
    pub draining: bool,
}

/// What the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Objects held.
    pub objects: u64,
    /// Their bytes in RAM.
    pub memory_bytes: u64,
    /// Their bytes on disk.
    pub disk_bytes: u64,
    /// `ok`, `none` (RAM only), or what is wrong with the disk.
    pub disk: String,
}

/// What the proxy did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyStatus {
    /// Requests answered, errors included.
    pub requests: u64,
    /// Where the answers came from.
    pub served: Served,
    /// Requests that shared another's fetch; each also counts under its source.
    pub collapsed: u64,
    /// Answers that were stale, as allowed.
    pub stale: u64,
    /// Requests and heads refused: by the gate, by policy, by a ceiling.
    pub refused: u64,
    /// Requests made to origins.
    pub origin_requests: u64,
    /// Of these, those the index did not answer for in time.
    pub origin_ungranted: u64,
    /// Body bytes received from origins.
    pub origin_bytes: u64,
    /// Body bytes received from peers.
    pub peer_bytes: u64,
    /// Lookups among the near that came back: at most one for each object that was not here, none where nobody is near.
    pub near_lookups: u64,
    /// Those that named a copy.
    pub near_found: u64,
    /// Fetches from peers by what came of them: `ok`, `timeout`, `hash_mismatch`, `stale`, `refused`, `no_room`, `too_large`, `store_failed`.
    pub peer_fetches: BTreeMap<String, u64>,
    /// Fetches that went to the origin because no peer made progress.
    pub hedged: u64,
    /// Times that another peer was faster than one that made no progress.
    pub hedged_by_peers: u64,
    /// Copies sent to peers, whole or in part.
    pub peer_served: u64,
    /// Copies being sent to peers now.
    pub peer_streams: u64,
    /// What the node may send in a period, and has sent.
    pub shares: Vec<Share>,
    /// Times that a peer was caught lying.
    pub peer_lies: u64,
    /// The ids of those that were, and are left alone for now.
    pub liars: Vec<String>,
    /// Times that an origin said otherwise than what a peer had signed.
    pub peer_contradictions: u64,
    /// The ids of those that were contradicted, each with the host of whose copies it is not believed for now.
    pub doubted: Vec<String>,
    /// Fetches under way now.
    pub flights: u64,
    /// Client connections open now.
    pub connections: u64,
}

/// A share of the node's: what it may send in a period.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// The period: `hour`, `day` or `month`.
    pub period: String,
    /// Bytes sent in it so far.
    pub used: u64,
    /// Bytes that may be sent.
    pub limit: u64,
}

/// Where the bodies served came from, by request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Served {
    /// This node's own store.
    pub local: u64,
    /// Peers, by the nearest level shared with them.
    pub peers: BTreeMap<u8, u64>,
    /// The origin.
    pub origin: u64,
    /// Nobody: an error.
    pub error: u64,
}

/// What the dnssrv did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsStatus {
    /// Queries answered.
    pub queries: u64,
    /// Of these, by response code in lower case (`noerror`, `refused`).
    pub codes: BTreeMap<String, u64>,
    /// Answers that depended on who asked, by the level they were led to, level 0 first.
    pub levels: Vec<u64>,
    /// Datagrams that were not answered.
    pub dropped: u64,
    /// Replies over UDP that the rate limit kept back, by what was done (`slip`, `drop`).
    pub limited: BTreeMap<String, u64>,
    /// Proxies seen alive, by level, level 0 first.
    pub live: Vec<u64>,
    /// Resolver prefixes whose RTT was measured, by how.
    pub measured: BTreeMap<String, u64>,
    /// Where answers went: the prefixes that were answered most, the busiest first.
    pub map: Vec<AnswersTo>,
}

/// Where the answers for one prefix lead.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswersTo {
    /// The prefix of the resolver, or of its client where that was told.
    pub prefix: String,
    /// The level of what was named.
    pub level: u8,
    /// The cluster of what was named.
    pub cluster: String,
    /// What placed it there.
    pub source: String,
    /// How many answers.
    pub answers: u64,
}

impl AnswersTo {
    /// As the DNS server tells it.
    #[must_use]
    pub fn of(told: &atoll_dnssrv::Destination) -> Self {
        Self {
            prefix: told.prefix.to_string(),
            level: told.level.0,
            cluster: told.cluster.to_string(),
            source: told.source.to_owned(),
            answers: told.answers,
        }
    }
}

impl LevelStatus {
    /// A level as the index tells it.
    #[must_use]
    pub fn of(info: &LevelInfo) -> Self {
        let mut neighbours: Vec<&NodeInfo> = info.neighbours.iter().collect();
        neighbours.sort_by_key(|node| (node.rtt.unwrap_or(Duration::MAX), node.id));
        Self {
            level: info.level.0,
            threshold_ms: info.threshold.map(milliseconds),
            cluster: info.cluster.to_string(),
            size: info.size,
            neighbours: neighbours.into_iter().take(NEIGHBOURS_SHOWN).map(Neighbour::of).collect(),
        }
    }
}

impl Neighbour {
    /// A neighbour as the index tells it.
    #[must_use]
    pub fn of(info: &NodeInfo) -> Self {
        let v4 = info.v4.iter().map(ToString::to_string);
        Self {
            id: info.id.to_string(),
            addresses: v4.chain(info.v6.iter().map(ToString::to_string)).collect(),
            rtt_ms: info.rtt.map(milliseconds),
            roles: role_words(info.roles),
            site: info.site.clone(),
            load: info.load,
            draining: info.draining,
        }
    }
}

/// The roles as words.
#[must_use]
pub fn role_words(roles: Roles) -> Vec<String> {
    let all =
        [(Roles::DNSSRV, "dnssrv"), (Roles::PROXY, "proxy"), (Roles::MANAGER, "manager"), (Roles::PURGE, "purge")];
    all.into_iter().filter(|(role, _)| roles.contain(*role)).map(|(_, word)| word.to_owned()).collect()
}

/// Milliseconds to three places: microseconds are as much as is measured.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Neighbours told per level; a busy node knows hundreds.
pub const NEIGHBOURS_SHOWN: usize = 32;

/// As `atoll status` prints it. What other nodes said of themselves cannot move the terminal's cursor.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.draining { "draining" } else { "running" };
        writeln!(f, "node {}  {state}  up {}  version {}", plain(&self.id), Uptime(self.uptime), plain(&self.version))?;
        writeln!(f, "  roles {}  network {}  zone {}", words(&self.roles), word(&self.network), word(&self.zone))?;
        writeln!(f, "  admission {}", self.admission)?;
        for listening in &self.listen {
            writeln!(f, "  {:<8} {}", plain(&listening.service), plain(&listening.address))?;
        }
        for level in &self.levels {
            let below = level.threshold_ms.map_or(String::new(), |threshold| format!(" (RTT < {threshold} ms)"));
            writeln!(f, "level {}{below}: cluster {} of {} nodes", level.level, short(&level.cluster), level.size)?;
            for neighbour in &level.neighbours {
                let rtt = neighbour.rtt_ms.map_or_else(|| "     ?".to_owned(), |rtt| format!("{rtt:6.1}"));
                let leaving = if neighbour.draining { "  draining" } else { "" };
                let addresses = words(&neighbour.addresses);
                writeln!(
                    f,
                    "  {} {rtt} ms  {addresses}  {}  {}{leaving}",
                    short(&neighbour.id),
                    words(&neighbour.roles),
                    word(&neighbour.site)
                )?;
            }
        }
        let StoreStatus { objects, memory_bytes, disk_bytes, disk } = &self.store;
        writeln!(f, "store: {objects} objects, {memory_bytes} bytes in RAM, {disk_bytes} on disk ({})", word(disk))?;
        self.proxy.fmt(f)?;
        self.dns.fmt(f)
    }
}

impl fmt::Display for ProxyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, flights, connections, collapsed, stale, refused, .. } = self;
        writeln!(
            f,
            "proxy: {requests} requests ({collapsed} shared a fetch, {stale} stale, {refused} refused), {flights} fetches under \
             way, {connections} connections"
        )?;
        let Served { local, peers, origin, error } = &self.served;
        write!(f, "  served from: own store {local}")?;
        peers.iter().rev().try_for_each(|(level, count)| write!(f, ", level {level} {count}"))?;
        writeln!(f, ", origin {origin}, errors {error}")?;
        let Self { origin_requests, origin_ungranted, origin_bytes, peer_bytes, peer_lies, liars, .. } = self;
        writeln!(
            f,
            "  origins: {origin_requests} requests ({origin_ungranted} ungranted), {origin_bytes} bytes; peers: {peer_bytes} bytes"
        )?;
        if *peer_lies > 0 {
            let liars: Vec<String> = liars.iter().map(|liar| short(liar)).collect();
            writeln!(f, "  peers caught lying: {peer_lies} times; left alone for it: {}", words(&liars))?;
        }
        let Self { peer_contradictions, doubted, .. } = self;
        if *peer_contradictions > 0 {
            let doubted = doubted.iter().filter_map(|one| one.split_once(' '));
            let doubted: Vec<String> = doubted.map(|(peer, host)| format!("{} of {host}", short(peer))).collect();
            writeln!(
                f,
                "  peers contradicted by origins: {peer_contradictions} times; not believed: {}",
                words(&doubted)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for DnsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dns: {} queries, {} dropped", self.queries, self.dropped)?;
        self.codes.iter().try_for_each(|(code, count)| write!(f, ", {} {count}", plain(code)))?;
        self.limited.iter().try_for_each(|(action, count)| write!(f, ", rate limit {} {count}", plain(action)))?;
        let by_level = |counts: &[u64]| {
            let counts = counts.iter().enumerate().rev().map(|(level, count)| format!("level {level} {count}"));
            word(&counts.collect::<Vec<_>>().join(", "))
        };
        write!(
            f,
            "\n  led to: {}\n  live proxies: {}\n  prefixes measured:",
            by_level(&self.levels),
            by_level(&self.live)
        )?;
        self.measured.iter().try_for_each(|(source, count)| write!(f, " {} {count}", plain(source)))
    }
}

/// Seconds as days, hours, minutes, seconds: the two largest that are not zero.
struct Uptime(u64);

impl fmt::Display for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hours, minutes, seconds) = (self.0 / 86_400, self.0 / 3_600 % 24, self.0 / 60 % 60, self.0 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, _) => write!(f, "{minutes}m{seconds}s"),
            (0, ..) => write!(f, "{hours}h{minutes}m"),
            _ => write!(f, "{days}d{hours}h"),
        }
    }
}

fn short(id: &str) -> String {
    plain(id).chars().take(8).collect()
}

fn word(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { plain(text) }
}

fn words(list: &[String]) -> String {
    word(&list.join(","))
}

#[cfg(test)]
mod tests {
    use atoll_overlay::{Key, Level};

    use super::*;

    /// A node in Berlin with one neighbour whose site label is hostile.
    fn sample() -> Status {
        let neighbour = |name: &str, rtt| NodeInfo {
            v4: vec![[127, 0, 0, 2].into()],
            http_ports: vec![8080],
            load: 3,
            rtt,
            site: "a\u{1b}[2J\nnode".to_owned(),
            ..NodeInfo::new(Key::of(name.as_bytes()).into(), Roles::PROXY.with(Roles::DNSSRV))
        };
        let level = LevelInfo {
            level: Level(2),
            threshold: Some(Duration::from_millis(20)),
            cluster: Key::of(b"cluster"),
            size: 3,
            neighbours: vec![neighbour("unmeasured", None), neighbour("near", Some(Duration::from_micros(3_456)))],
        };
        Status {
            id: Key::of(b"me").to_string(),
            roles: vec!["proxy".to_owned()],
            uptime: 3_700,
            levels: vec![LevelStatus::of(&level)],
            ..Status::default()
        }
    }

    #[test]
    fn neighbours_are_listed_nearest_first_and_cannot_move_the_cursor() {
        let text = sample().to_string();
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let near = text.find("3.5 ms").unwrap();
        assert!(near < text.find("? ms").unwrap(), "{text}");
        assert!(text.contains("a\\u{1b}[2J\\nnode"), "{text}");
        assert!(text.contains("up 1h1m"), "{text}");
    }

    #[test]
    fn a_status_survives_json_and_an_older_nodes_status_lacks_nothing_vital() {
        let status = sample();
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        assert_eq!(serde_json::from_str::<Status>("{}").unwrap(), Status::default());
    }
}
