//! The redirector's settings. A duration is written as `"20s"` or `"300ms"` (ns, us, ms, s, m, h, d). Each field says what
//! worsens in each direction and where its default comes from.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use atoll_overlay::Level;
use atoll_units::{span, spans};
use serde::Deserialize;

use crate::{Dnssec, Network, Probes, ServeError, Sources, dnssec::Signer, overrides::Overrides, zone::Zone};

/// Everything the redirector may be told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The zone this server is authoritative for, without a trailing dot, as delegated to it by its parent.
    pub zone: String,
    /// Where questions are taken, UDP and TCP both. All are bound or the start fails. Port 0 takes a free one. Name addresses
    /// rather than `0.0.0.0` on a machine with several: a reply leaves from the address the kernel picks. \[guess\]
    pub listen: Vec<SocketAddr>,
    /// Where questions are taken over TLS (RFC 7858), by custom port 853. Needs certificates. Empty: nowhere.
    pub listen_tls: Vec<SocketAddr>,
    /// Where questions are taken over HTTPS (RFC 8484), at the path `/dns-query`. Needs certificates. Empty: nowhere.
    pub listen_https: Vec<SocketAddr>,
    /// Certificates for both with their keys, PEM files; chosen by the name a client asks for, the first if none fits. Read again
    /// within 10 s when a file changes.
    pub certificates: Vec<atoll_tls::Files>,
    /// How public names are answered.
    pub mode: Mode,
    /// The RTT to the resolver under which each level from 1 inwards begins, falling; 1 to 7 of them. Lower: fewer resolvers find
    /// a near cluster. Higher: "near" means less. They must be those of the index. \[Coral 4.4: 60 ms, 20 ms\]
    #[serde(with = "spans")]
    pub thresholds: Vec<Duration>,
    /// The name servers of the zone's apex as the parent names them. Empty: servers known to the index, this one first.
    pub nameservers: Vec<ApexServer>,
    /// Mailbox of the SOA, `@` as `.`; relative to the zone if it has no dot at its end.
    pub contact: String,
    /// Serial of the SOA. Of no use to resolvers; raise it when `records` change. \[RFC 1035 3.3.13\]
    pub serial: u32,
    /// Plain records of the zone (mail, ACME, a web page at the apex, delegations). Of any type: those without a text form here as
    /// `TYPE65280` with data `\\# LENGTH HEX`. \[RFC 3597\]
    pub records: Vec<StaticRecord>,
    /// More plain records, in a zone file; its SOA and NS of the zone itself go before the settings'. \[RFC 1035 5\]
    pub zone_file: Option<PathBuf>,
    /// How long answers may be kept.
    pub ttl: Ttls,
    /// What may measure the RTT to a resolver.
    pub sources: Sources,
    /// Whether the first question of an unknown prefix waits for a first probe, `probe.wait` at most. Off: it is answered at
    /// once and measured for the next one. \[guess\]
    pub wait: bool,
    /// A file that says where prefixes belong, against all measurements; read again within 5 s when it changes. A line each:
    /// `192.0.2.0/24 level 2`, or `2001:db8::/32 at 198.51.100.7`.
    pub overrides: Option<PathBuf>,
    /// Networks that a client subnet is believed of although they are private (loopback, link-local, RFC 1918 and their like in IPv6):
    /// where this server answers such clients. With others of these a question is answered as if it had no client subnet, and
    /// nothing is measured there, nor for another server that asks how far they are: whoever asks could have this server connect
    /// inside its own network. \[RFC 7871 11\]
    pub private_subnets: Vec<Network>,
    /// Bounds of active measurement.
    pub probe: Probes,
    /// How proxies are watched.
    pub health: Health,
    /// Ceilings.
    pub limits: Limits,
    /// Addresses in an answer, 1 to 4; twice as many (4 at most) if those chosen are busy. Fewer: a dead proxy hurts until the
    /// next question. More: a site's requests meet in fewer common caches. \[guess\]
    pub answers: usize,
    /// Questions a second from which a site is hot: at twice as many its clients are spread over twice as many proxies, eight times
    /// at most. Lower: more copies of what is asked for; higher: more load on few. 0: never. \[guess\]
    pub hot: u32,
    /// Whether cookies are given and known: clients that return one are spared the rate limit. \[RFC 7873\]
    pub cookies: bool,
    /// The master secret of cookies, 32 hexadecimal digits. Empty: one is drawn at the start. Servers that share an address must
    /// share it. \[RFC 9018 6\]
    pub cookie_secret: String,
    /// How much one prefix may have answered over UDP.
    pub rate_limit: RateLimit,
    /// Networks that may ask for TXT of `why.NAME`, which says how a name's answer for them comes about. Empty: nobody.
    pub why: Vec<Network>,
    /// Which questions are written down.
    pub query_log: QueryLog,
    /// Whether answers are signed.
    pub dnssec: Dnssec,
    /// What NSID says of this server. Empty: NSID is not answered. At most 64 bytes. \[RFC 5001\]
    pub nsid: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zone: "nyud.example".to_owned(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5353))],
            listen_tls: Vec::new(),
            listen_https: Vec::new(),
            certificates: Vec::new(),
            mode: Mode::Levels,
            thresholds: vec![Duration::from_millis(60), Duration::from_millis(20)],
            nameservers: Vec::new(),
            contact: "hostmaster".to_owned(),
            serial: 1,
            records: Vec::new(),
            zone_file: None,
            ttl: Ttls::default(),
            sources: Sources::default(),
            wait: false,
            overrides: None,
            private_subnets: Vec::new(),
            probe: Probes::default(),
            health: Health::default(),
            limits: Limits::default(),
            answers: 2,
            hot: 200,
            cookies: true,
            cookie_secret: String::new(),
            rate_limit: RateLimit::default(),
            why: Vec::new(),
            query_log: QueryLog::default(),
            dnssec: Dnssec::default(),
            nsid: String::new(),
        }
    }
}

impl Config {
    /// Whether anything is sent from here to measure.
    pub(crate) const fn probes(&self) -> bool {
        self.probe.per_second > 0 && (self.sources.tcp_connect || self.sources.icmp)
    }

    /// How many neighbours are asked how far they are from a prefix, and can tell.
    pub(crate) const fn fellows(&self) -> usize {
        if self.probes() && self.probe.sends_scouts() { self.probe.fellows } else { 0 }
    }

    /// Whether a server could start with these settings: each in its range, the zone and its records well formed.
    pub fn check(&self) -> Result<(), ServeError> {
        self.check_values()?;
        self.check_files()
    }

    /// Whether each setting is in its range.
    pub(crate) fn check_values(&self) -> Result<(), ServeError> {
        let wrong = |field: &str, reason: &str| Err(ServeError::config(field, reason));
        let falling = self.thresholds.windows(2).all(|pair| matches!(pair, [wide, narrow] if wide > narrow));
        if self.thresholds.is_empty() || self.thresholds.len() > 7 || !falling {
            return wrong("thresholds", "one to seven durations, each shorter than the one before it");
        }
        if !(1..=4).contains(&self.answers) {
            return wrong("answers", "1 to 4");
        }
        if self.nsid.len() > 64 {
            return wrong("nsid", "64 bytes at most");
        }
        if !(512..=4096).contains(&self.limits.udp_payload) {
            return wrong("limits.udp_payload", "512 to 4096");
        }
        let health = &self.health;
        if !(1..=32).contains(&health.of)
            || !(1..=health.of).contains(&health.up)
            || !(1..=health.of).contains(&health.down)
        {
            return wrong("health", "of is 1 to 32, up and down are 1 to of");
        }
        if health.panic > 100 || health.doubt > 100 {
            return wrong("health", "panic and doubt are percentages, 0 to 100");
        }
        if !self.cookie_secret.is_empty() && secret(&self.cookie_secret).is_none() {
            return wrong("cookie_secret", "32 hexadecimal digits");
        }
        if !(1..=64).contains(&self.limits.aliases) {
            return wrong("limits.aliases", "1 to 64");
        }
        if self.rate_limit.per_second > 1_000_000 {
            return wrong("rate_limit.per_second", "1000000 at most");
        }
        if self.listen.is_empty() {
            return wrong("listen", "one address at least");
        }
        if self.certificates.is_empty() && !(self.listen_tls.is_empty() && self.listen_https.is_empty()) {
            return wrong("certificates", "listen_tls and listen_https need one certificate at least");
        }
        if self.dnssec.key.is_some() && self.mode == Mode::Levels {
            return wrong(
                "dnssec.key",
                "the levels are answered by many servers and not signed; set mode to \"direct\"",
            );
        }
        if self.dnssec.validity < 4 * self.ttl.longest() {
            return wrong(
                "dnssec.validity",
                "four times the longest of ttl at least, or answers outlive their signatures",
            );
        }
        Ok(())
    }
}

impl Config {
    /// Whether the files named can be read and used.
    fn check_files(&self) -> Result<(), ServeError> {
        let zone = Zone::new(self)?;
        Signer::configured(self, zone.origin(), [0; 16])?;
        Overrides::new(self.overrides.clone(), self.thresholds.len() + 1, self.limits.overrides)?;
        let certificates = atoll_tls::Certificates::load(&self.certificates);
        certificates.map(|_| ()).map_err(|error| ServeError::config("certificates", error.to_string()))
    }
}

/// How public names are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By a CNAME into the levels and referrals to near servers, which then give the addresses.
    #[default]
    Levels,
    /// By addresses at once. One lookup, but every refresh comes to the apex servers.
    Direct,
    /// Not at all: the zone is its plain records alone, as any nameserver's.
    Plain,
}

/// A name server of the apex.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApexServer {
    /// Its name: relative to the zone if it has no dot at its end (`"ns1"`).
    pub name: String,
    /// Its addresses, if its name lies in the zone.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// A plain record, as in a zone file: `{ name = "@", type = "MX", data = "10 mail.example.org." }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRecord {
    /// Its owner relative to the zone; `"@"` is the zone itself.
    pub name: String,
    /// Its type by name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its data in the text form of zone files. Names in it are absolute.
    pub data: String,
    /// How long it may be kept.
    #[serde(default = "an_hour", with = "span")]
    pub ttl: Duration,
}

/// How long answers may be kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ttls {
    /// Of the CNAME of a public name: it never changes. Shorter: one more query the more often. \[design: 1 h\]
    #[serde(with = "span")]
    pub alias: Duration,
    /// Of addresses in the near levels. Longer: clients keep a dead proxy that long. \[design: 30 s\]
    #[serde(with = "span")]
    pub near: Duration,
    /// Of addresses at level 0. \[design: 60 s\]
    #[serde(with = "span")]
    pub global: Duration,
    /// Of addresses while the distance of the resolver is unknown. \[design: 5 s\]
    #[serde(with = "span")]
    pub unknown: Duration,
    /// Of addresses while less than `health.doubt` percent of the level's proxies are seen alive, if that is less than their level's.
    /// Of the widest level also while some that were cut off come back.
    /// Longer: those named now may be dead by then, too; shorter: more questions while things are bad. \[guess\]
    #[serde(with = "span")]
    pub doubtful: Duration,
    /// Of a delegation after a measurement. Longer: a resolver stays longer with a cluster it has moved away from. \[design: 1 h\]
    #[serde(with = "span")]
    pub delegation: Duration,
    /// Of a delegation before a measurement. \[design: 30 s\]
    #[serde(with = "span")]
    pub delegation_unknown: Duration,
    /// Of a delegation for a resolver that is far from here while nobody is known to be near it. Longer: it finds a near
    /// cluster later; shorter: it comes to the apex more often. \[guess\]
    #[serde(with = "span")]
    pub delegation_far: Duration,
    /// Of "no such record" for names that never have one. \[design: 1 h\]
    #[serde(with = "span")]
    pub negative: Duration,
}

impl Ttls {
    /// Of addresses of live proxies of a level; `alone`: of one address, although there are other proxies, but too far, or of proxies
    /// that stand in for nearer ones. The sooner these are asked for if that one dies, or those are back, the better.
    pub(crate) fn of_live(&self, level: Level, alone: bool) -> Duration {
        match (level, alone) {
            (_, true) => self.near.min(self.unknown.saturating_mul(2)),
            (Level::GLOBAL, false) => self.global,
            (_, false) => self.near,
        }
    }

    /// What would be kept for so long: for less if it is `doubtful`, of a level too few of whose proxies are seen alive.
    pub(crate) fn while_doubtful(&self, kept: Duration, doubtful: bool) -> Duration {
        if doubtful { kept.min(self.doubtful) } else { kept }
    }
}

impl Default for Ttls {
    fn default() -> Self {
        Self {
            alias: an_hour(),
            near: Duration::from_secs(30),
            global: Duration::from_secs(60),
            unknown: Duration::from_secs(5),
            doubtful: Duration::from_secs(5),
            delegation: an_hour(),
            delegation_unknown: Duration::from_secs(30),
            delegation_far: Duration::from_secs(300),
            negative: an_hour(),
        }
    }
}

impl Ttls {
    /// The longest of all.
    fn longest(&self) -> Duration {
        let near = self.near.max(self.global).max(self.unknown);
        let servers = self.delegation.max(self.delegation_unknown).max(self.delegation_far);
        self.alias.max(self.negative).max(near).max(servers)
    }
}

/// Which questions are written down, as a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryLog {
    /// Where to; lines are appended, and the file may be moved away at any time. None: nowhere.
    pub file: Option<PathBuf>,
    /// One in so many questions. Fewer of them: less to write; more: less is seen. \[guess\]
    pub one_in: u32,
}

impl Default for QueryLog {
    fn default() -> Self {
        Self { file: None, one_in: 100 }
    }
}

/// How much one prefix (/24 or /48) may have answered over UDP. Past it replies are dropped or cut; who returns a cookie or asks
/// over TCP is answered all the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Units a second, a quarter of them at once: a reply costs one for each two times its question's bytes it has. Whoever is
    /// past it is sent two times its bytes at most until it asks less. 0 switches the limit off. Fewer: busy resolvers are sent to
    /// TCP; more: a better amplifier. \[guess\]
    pub per_second: u32,
    /// One in so many of the replies past the rate is sent empty and truncated, the others not at all. 0: none is sent. \[BIND, NSD,
    /// Knot: 1 or 2\]
    pub slip: u32,
    /// Networks whose replies are not limited. By default the loopback: nobody else's packets can bear its addresses.
    pub exempt: Vec<Network>,
    /// Prefixes told apart; 16 bytes each. Fewer: prefixes that collide are limited late. \[guess\]
    pub prefixes: usize,
}

impl Default for RateLimit {
    fn default() -> Self {
        let exempt = ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| text.parse().ok()).collect();
        Self { per_second: 1000, slip: 2, exempt, prefixes: 65_536 }
    }
}

/// How proxies are watched: each is asked over HTTP, and counts as live after `up` good of the last `of` answers, as dead after
/// `down` bad ones. The very first answer decides alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Time between two checks of one proxy, jittered by a fifth; a quarter of it after a failure and while it is dead. Shorter: more
    /// traffic; longer: clients are sent to the dead. \[guess\]
    #[serde(with = "span")]
    pub interval: Duration,
    /// When a check is given up. \[guess\]
    #[serde(with = "span")]
    pub timeout: Duration,
    /// Good answers that make a dead proxy live.
    pub up: u32,
    /// Bad answers that make a live proxy dead.
    pub down: u32,
    /// How many of the last answers count, 1 to 32.
    pub of: u32,
    /// Percent of a level's proxies that must be live for health to count; below it all are named, unless none is live at all.
    /// Of five proxies or more. Lower: the last few are overrun; higher: the dead are named. 0: never. \[guess\]
    pub panic: u32,
    /// Percent of a level's proxies, those known and those seen alive within the last two minutes, that must be seen alive now for
    /// answers to be kept as long as the level's are; below it they are kept for `ttl.doubtful`. Lower: resolvers keep what a cut or
    /// an outage is taking away; higher: more questions while some are down. 0: never, nor while some that were cut off come back.
    /// \[measured: after a cut of 20 nodes into 12 and 8,
    /// at 50 what the larger side had answered outlived the cut\]
    pub doubt: u32,
    /// Checks at a time. \[guess\]
    pub concurrent: usize,
    /// Proxies and servers looked at per level. More: more checks; fewer: less choice. \[guess\]
    pub candidates: usize,
    /// How often the index is asked who is there. Longer: a draining node is named that much longer. \[guess\]
    #[serde(with = "span")]
    pub refresh: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            up: 2,
            down: 2,
            of: 3,
            panic: 20,
            doubt: 75,
            concurrent: 16,
            candidates: 64,
            refresh: Duration::from_millis(250),
        }
    }
}

/// Ceilings. More of each costs memory, or work under attack; fewer loses what would have been known or served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Prefixes whose distance is kept; the oldest that is not asked for again goes first. About 300 bytes each. \[guess\]
    pub prefixes: usize,
    /// Resolvers whose next query is awaited to measure a gap; the oldest goes first. \[guess\]
    pub awaited: usize,
    /// Questions that wait for a probe at a time, whichever way they came; past it they are answered at once. \[guess\]
    pub waiting: usize,
    /// Lookups and puts of prefixes in the index, in one second. \[guess\]
    pub index_per_second: u32,
    /// UDP sockets per address, each with its own thread; 0: one per core. \[measured\]
    pub udp_sockets: usize,
    /// How long a socket's thread stays awake for the next datagram, while most come within that; 0: it sleeps at once. Longer:
    /// quicker answers under load, for processor time that others could use. \[measured\]
    #[serde(with = "span")]
    pub udp_awake: Duration,
    /// TCP connections in all; past it the one that idled longest is closed, or the new one if none idles. \[RFC 9210 4\]
    pub tcp_connections: usize,
    /// TCP connections from one prefix, as above; those that `rate_limit.exempt` lists have no such bound. \[RFC 9210 4\]
    pub tcp_per_prefix: usize,
    /// How long a TCP connection may stay without a whole question. \[RFC 7766 6.2.3\]
    #[serde(with = "span")]
    pub tcp_idle: Duration,
    /// Prefixes in the file of overrides. \[guess\]
    pub overrides: usize,
    /// Prefixes whose answers are counted for the answer map; those that ask least are forgotten. \[guess\]
    pub map: usize,
    /// Aliases followed inside the zone for one answer, 1 to 64; past it the resolver asks on itself. \[guess\]
    pub aliases: usize,
    /// Bytes of a UDP reply, 512 to 4096. Larger ones are cut and asked again over TCP. \[RFC 9715: 1232\]
    pub udp_payload: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prefixes: 100_000,
            awaited: 10_000,
            waiting: 256,
            index_per_second: 50,
            udp_sockets: 0,
            udp_awake: Duration::from_micros(5),
            tcp_connections: 512,
            tcp_per_prefix: 32,
            tcp_idle: Duration::from_secs(10),
            overrides: 100_000,
            map: 1024,
            aliases: 16,
            udp_payload: 1232,
        }
    }
}

/// A secret of 16 bytes written as hexadecimal digits.
pub(crate) fn secret(text: &str) -> Option<[u8; 16]> {
    let number = Some(text).filter(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    number.and_then(|text| u128::from_str_radix(text, 16).ok()).map(u128::to_be_bytes)
}

const fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Config, Mode};

    #[test]
    fn settings_are_read_from_toml_and_what_is_not_one_is_refused() {
        let config: Config = toml::from_str(
            r#"
            zone = "nyud.example"
            listen = ["127.0.0.1:53", "[::1]:53"]
            mode = "direct"
            thresholds = ["80ms", "10ms"]
            nameservers = [{ name = "ns1", addresses = ["192.0.2.1"] }]
            records = [{ name = "@", type = "MX", data = "10 mail.example.org." }]
            ttl.near = "15s"
            sources.icmp = false
            health = { interval = "1s", up = 1 }
            "#,
        )
        .unwrap();
        assert_eq!((config.mode, config.listen.len(), config.ttl.near), (Mode::Direct, 2, Duration::from_secs(15)));
        assert_eq!(config.thresholds, [Duration::from_millis(80), Duration::from_millis(10)]);
        assert_eq!(config.records[0].ttl, Duration::from_secs(3600));
        assert!(!config.sources.icmp && config.sources.hints);
        for wrong in ["zon = 1", "mode = \"near\"", "ttl.near = 15", "sources.dns = true", "thresholds = [\"fast\"]"] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
    }
}
