//! The settings of measuring: which sources tell how far a prefix is, and how what is not known yet is found out.

use std::time::Duration;

use serde::Deserialize;

use atoll_units::{span, spans};

/// What may measure the RTT to a resolver. Each is a switch of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// The gap between a CNAME sent and the query for its target. Costs nothing. Resolvers that first minimise the target in
    /// several steps may show two round trips. \[measured\]
    pub cname_gap: bool,
    /// The gap between a referral sent and the query that follows it here. Costs nothing, right to 1 ms. \[measured\]
    pub referral_gap: bool,
    /// A TCP connect to the resolver's port 53; a refusal measures as well. \[measured\]
    pub tcp_connect: bool,
    /// An ICMP echo, where this process may open a ping socket. \[measured\]
    pub icmp: bool,
    /// The handshake of a resolver's connection: of those it opens by itself, and of those it is asked for
    /// (`probe.cut_one_in`). \[measured\]
    pub tcp_info: bool,
    /// What this node's proxy saw of the connections of clients in the same prefix, by the index; what neighbours' did comes with
    /// `hints`.
    pub proxies: bool,
    /// What other servers measured, from the index.
    pub hints: bool,
    /// Whether a client subnet option (RFC 7871) goes ahead of the resolver's own address.
    pub client_subnet: bool,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            cname_gap: true,
            referral_gap: true,
            tcp_connect: true,
            icmp: true,
            tcp_info: true,
            proxies: true,
            hints: true,
            client_subnet: true,
        }
    }
}

/// Bounds of active measurement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// The longest a question waits for a first probe, if `wait` is on. Past the first threshold nothing is gained. \[design: 60 ms\]
    #[serde(with = "span")]
    pub wait: Duration,
    /// The longest from when a resolver asks until it has its answer, both ways included, as far as it depends on these waits.
    /// Shorter: fewer far resolvers are placed by the first answer. Longer: resolvers ask again meanwhile, and elsewhere.
    /// \[unbound asks again after 376 ms, Knot Resolver and BIND after 800\]
    #[serde(with = "span")]
    pub answer_within: Duration,
    /// The same in mode `direct`, whatever is asked for, where no referral leads a far resolver on to who is near it. A
    /// server that is near it is as far from here as it is, so its word comes two round trips after the question. Shorter: fewer far
    /// resolvers are placed by the first answer. Longer: resolvers ask again elsewhere; unbound, after 376 ms, asks here again and
    /// takes the same answer. \[measured\]
    #[serde(with = "span")]
    pub direct_within: Duration,
    /// How much longer it waits, if `wait` is on and the resolver is far, until those were heard that may be near it: the quickest of
    /// them ends it. Shorter: the first answer of a far resolver leads anywhere; longer: it comes later. 0: not at all. \[measured\]
    #[serde(with = "span")]
    pub wait_scouts: Duration,
    /// When a probe is given up. \[guess\]
    #[serde(with = "span")]
    pub timeout: Duration,
    /// The least time between two probes of one prefix, lengthened by up to a half at random. Shorter: complaints. \[guess\]
    #[serde(with = "span")]
    pub interval: Duration,
    /// Probes begun in one second, all prefixes and all repeats together; repeats leave half of them to first ones. More: complaints
    /// under a flood of strange sources. Fewer: what a busy moment made look far stays so. 0: none, and no scouts are sent; what
    /// costs nobody anything still measures. \[guess\]
    pub per_second: u32,
    /// When what was measured at first, and is neither near nor far, is measured again: at each a while after the one before,
    /// half as long to half as long again. More: more probes; fewer: what a busy moment made look far stays so. \[measured\]
    #[serde(with = "spans")]
    pub later: Vec<Duration>,
    /// Prefixes queued for a probe; past it, requests for probes are dropped. \[guess\]
    pub queue: usize,
    /// The port a TCP connect goes to. \[RFC 7766\]
    pub port: u16,
    /// One in so many questions of prefixes whose distance is unknown is answered over UDP by an order to ask over TCP, whose
    /// handshake measures. Costs that client two round trips. 0: none. \[guess\]
    pub cut_one_in: u32,
    /// How long a minimum is kept without being confirmed; it lapses between one and two of these. \[guess\]
    #[serde(with = "span")]
    pub window: Duration,
    /// How long the index's word on a prefix is believed before it is asked again, at the next question. Shorter: more lookups;
    /// longer: a far resolver is handed over later. \[guess\]
    #[serde(with = "span")]
    pub ask_again: Duration,
    /// How long a prefix that is far from here counts as unknown, while those it was referred to measure it. \[guess\]
    #[serde(with = "span")]
    pub settle: Duration,
    /// Servers of other clusters that are sent at a time to measure a prefix, so that it is handed to the nearest cluster; three
    /// times as many at most. More: nearer, and more probes in all. 0: none, a far prefix is measured by whomever it happens
    /// to ask. \[guess\]
    pub scouts: usize,
    /// Neighbours asked at once beside them by a server that is near a prefix, but not at the innermost level. More: the nearest
    /// is found sooner, and more probes in all. \[guess\]
    pub beside: usize,
    /// Neighbours at the innermost level that are asked how far each is from a prefix near this server. More: more of a large
    /// cluster's proxies are known to be near, and more probes in all. \[guess\]
    pub fellows: usize,
    /// The least time between two such searches for one prefix. Longer: one that moved is found later. \[guess\]
    #[serde(with = "span")]
    pub scout_again: Duration,
    /// The port at which other servers of the network take questions. \[RFC 1035\]
    pub scout_port: u16,
}

impl Probes {
    /// Whether other servers are asked to measure.
    pub(crate) const fn sends_scouts(&self) -> bool {
        self.per_second > 0 && self.scouts > 0
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            wait: Duration::from_millis(60),
            wait_scouts: Duration::from_millis(400),
            answer_within: Duration::from_millis(350),
            direct_within: Duration::from_millis(700),
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(120),
            per_second: 100,
            later: [700, 2000, 8000].map(Duration::from_millis).to_vec(),
            queue: 256,
            port: 53,
            cut_one_in: 0,
            window: Duration::from_secs(1800),
            ask_again: Duration::from_secs(3),
            settle: Duration::from_secs(60),
            scouts: 6,
            beside: 6,
            fellows: 16,
            scout_again: Duration::from_secs(600),
            scout_port: 53,
        }
    }
}
