//! The overlay's settings. Every bound the core keeps stands here, with what worsens in each direction and where it is from.

use std::time::Duration;

use atoll_units::{span, spans};
use serde::{Deserialize, Serialize};

use crate::Level;

/// How the index behaves. The same on every node of a network, or lookups and storage rules disagree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Coral as published, or ours.
    pub mode: Mode,
    /// RTT a cluster of each non-global level stays under, level 1 first, each below the one before; 0 to 7 levels. Lower: nearer
    /// copies, smaller clusters, fewer hits in them. [Coral 4.4]
    #[serde(with = "spans")]
    pub thresholds: Vec<Duration>,
    /// Bits a lookup corrects per hop where it must not run over the nodes around a hot key; 1 to 8. More: fewer hops, and more
    /// load on the closest node by (2^b - 1) / b. [Coral 4.2]
    pub bits: u8,
    /// Values stored per key and level (Coral's l); 1 to 16. More: fewer spills, longer answers. [Coral 4.2]
    pub values_per_key: usize,
    /// Store-intents per minute and key that a node lets go on nearer the key (Coral's beta); 1 to 1,000. More: fresher values
    /// near hot keys, and more load there. [Coral 4.2]
    pub leak_per_minute: usize,
    /// Nodes that store each put in mode `best`; 1 to 8. More: survives more deaths, costs as many more stores. `[guess]`
    pub copies: usize,
    /// Nodes per k-bucket; 4 to 64. More: fewer hops, more neighbours to probe. [overlay model: 8 to 16]
    pub bucket: usize,
    /// Nodes of one prefix (/24 or /48) that keep their places in a full bucket when others come; 1 to 64. More: an attacker with
    /// many addresses of one network gets more of the table; fewer: distance counts for less. [facts: 2 to 10 elsewhere; guess]
    pub bucket_per_prefix: usize,
    /// Nodes that one operator, by the key that signed their certificates, admitted and that keep their places in a full bucket when
    /// others' come; 1 to 64; an open network knows no operators. More: one operator's nodes may be most of what a node knows; fewer:
    /// distance counts for less. `[guess]`
    pub bucket_per_operator: usize,
    /// Questions a lookup keeps under way at once; 1 to 8. More: faster under loss, more messages. [Kademlia: 3]
    pub window: usize,

    /// The shortest time-out of an exchange. Shorter: hedges on jitter. [overlay model: 30 ms]
    #[serde(with = "span")]
    pub rto_min: Duration,
    /// The longest time-out of an exchange. Longer: dead nodes cost more. [overlay model: 1 s]
    #[serde(with = "span")]
    pub rto_max: Duration,
    /// When a question is late to a node without a measured RTT, or without a link, which costs 3.6 round trips more; six times that
    /// and it is lost. Shorter: more hedges on cold paths; longer: dead strangers hold lookups up. `[measured]`
    #[serde(with = "span")]
    pub rto_unknown: Duration,
    /// Time-out of a probe at least; it doubles per miss. Shorter: a node that moved far away is thought dead before it is measured
    /// anew. `[guess]`
    #[serde(with = "span")]
    pub rto_probe: Duration,
    /// An unanswered question counts against a node after this long at least, however near it is; after half of it a root that an asker
    /// does not reach either is stood in for. Shorter: a pause of its process looks like death. `[guess]`
    #[serde(with = "span")]
    pub lost_min: Duration,
    /// A get handed on from node to node that has no answer by then goes on hop by hop, beside it; on its way through nearer levels it
    /// is handed on once more after half of that, straight at the widest. Shorter: more messages on long paths; longer: a silent
    /// node on the way is noticed later. [overlay model: p99 504 ms]
    #[serde(with = "span")]
    pub seek_patience: Duration,
    /// A `get` that has not ended by then is answered with a time-out. `[guess]`
    #[serde(with = "span")]
    pub get_deadline: Duration,
    /// A `put`, `withdraw` or `pass` that has not ended by then is answered with what it reached. Shorter: a put over a dozen cold
    /// hops, a bit each, ends before it stores. [measured: 1 in 100 at 5 s]
    #[serde(with = "span")]
    pub put_deadline: Duration,
    /// An `acquire` or `beat` that has not ended by then is answered with a time-out. Longer: a partitioned node waits longer
    /// before it asks the origin. [design: 600 ms at most]
    #[serde(with = "span")]
    pub acquire_deadline: Duration,

    /// How long the reference of a fetch stays without its end being heard of; 1 s to 10 min: none at all is how a lease is given back.
    /// [Coral: 20 s]
    #[serde(with = "span")]
    pub reference_ttl: Duration,
    /// Without a beat for this long, a lease lapses. Three beats and some slack. Shorter: a slow link loses its lease; longer: a
    /// dead holder is waited for. `[guess]`
    #[serde(with = "span")]
    pub beat_limit: Duration,
    /// How often a root renews the copies of a lease at its next-closest nodes while it is beaten. `[guess]`
    #[serde(with = "span")]
    pub copy_every: Duration,
    /// Next-closest nodes that must hold a lease before it is granted; 0 to 4. [design: 2]
    pub lease_copies: usize,
    /// Leases and markers a node keeps, its own and copies. Past it: refused. `[guess]`
    pub leases: usize,
    /// Askers that may wait at a root for one grant. Past it: refused. `[guess]`
    pub waiters: usize,

    /// Keys a node stores values under. Past it: refused. `[guess]`
    pub keys: usize,
    /// Bytes of values a node stores. Past it: refused. `[guess]`
    pub value_bytes: usize,
    /// Pointers of one putter a node stores. Past it: refused; bounds what one node can fill. `[guess]`
    pub values_per_peer: usize,

    /// Nodes kept in memory, in a table or not. Past it the longest unheard goes. `[guess]`
    pub peers: usize,
    /// Links kept open to neighbours. More: fewer dials, more memory (25 KiB each). [overlay model: 250 to 350]
    pub pins: usize,
    /// Exchanges under way at once; past it the new one fails at once. `[guess]`
    pub exchanges: usize,
    /// Operations under way at once; past it the new one is answered with a refusal. `[guess]`
    pub operations: usize,

    /// Pause between probes of neighbours while clusters form or distances change. Shorter: settles sooner, more messages. `[guess]`
    #[serde(with = "span")]
    pub probe_fast: Duration,
    /// Pause between probes of neighbours when all is quiet. Bounds idle traffic. [overlay model: 1 message/s]
    #[serde(with = "span")]
    pub probe_idle: Duration,
    /// Age past which an RTT minimum no longer counts, if there is a newer sample. Shorter: moves sooner, on jitter too. `[guess]`
    #[serde(with = "span")]
    pub rtt_window: Duration,
    /// How long after a change probing stays fast. Longer: clusters are settled sooner, more messages under churn. [measured: at
    /// 30 s 490 nodes settle sooner, but idle ones say more than a message a second; at 60 s clusters get too wide]
    #[serde(with = "span")]
    pub unrest: Duration,
    /// How often membership is reconsidered when nothing happens. [Coral 4.4: 5 min]
    #[serde(with = "span")]
    pub check_every: Duration,
    /// Share of a cluster's sampled members that must be near to join, in percent. Less: larger clusters, of which the worst has
    /// its 80th percentile over the threshold. [Coral 4.4: 80; measured: 85]
    pub join_percent: u32,
    /// RTT under so many percent of the threshold counts as near when joining: what is measured is a minimum, which lies below what
    /// messages will take. More: nodes join what they will leave. `[measured]`
    pub near_percent: u32,
    /// Share of the own cluster's members over the threshold past which a node leaves, in percent, if it stays so for `far_holds`.
    /// More: wider clusters; less: more nodes alone. [Coral 4.4: 50; measured: 30]
    pub leave_percent: u32,
    /// How far over the threshold counts as over when leaving, in percent; hysteresis beside that of `near_percent`. `[measured]`
    pub leave_margin_percent: u32,
    /// How long that share of a cluster's members must be too far before it is left; 0 to 10 min. The time in which it is not is taken
    /// back. Longer: nodes that moved away stay for longer; shorter: processes that stand still for a moment part clusters.
    /// [measured: of nine nodes that each stand still for up to 150 ms a tenth of the time, moves in three minutes fall from 20 to 3 at
    /// 3 s]
    #[serde(with = "span")]
    pub far_holds: Duration,
    /// Members sampled before joining. `[guess]`
    pub sample: usize,
    /// How much larger, in percent, a cluster must be to be larger at all; below that the lower id wins. For who has been in company of
    /// more than three for a minute sizes count to a power of two instead; after three minutes this is 200 at least, and who is there moves
    /// to no smaller one whatever its id. `[guess]`
    pub larger_percent: u32,
    /// Time in a cluster before moving to a better one, at first, and less in one of fewer than eight nodes; doubles per move from company
    /// to company; who leaves as too far comes to be alone, and its next join counts as none. [design: 15 s]
    #[serde(with = "span")]
    pub dwell: Duration,
    /// Where that doubling ends. [design: 10 min]
    #[serde(with = "span")]
    pub dwell_max: Duration,
    /// A cluster that was left is not joined again for this long, unless distances have changed; among fewer than 64 nodes for
    /// `dwell` only. Doubles each time. Shorter: nodes on the edge of two clusters swing between them. [measured: 53 returns in 8
    /// minutes among 490 nodes without]
    #[serde(with = "span")]
    pub hold_down: Duration,
    /// How often a table is refreshed by a lookup of a random key when all is quiet. [Kademlia: 1 h; guess]
    #[serde(with = "span")]
    pub refresh_every: Duration,

    /// How long a prefix hint stays in the index. `[guess]`
    #[serde(with = "span")]
    pub hint_ttl: Duration,
    /// Prefixes whose hints a node remembers. `[guess]`
    pub hints: usize,
    /// Hints a node puts per second at most. `[guess]`
    pub hints_per_second: u32,
    /// Spread records a node remembers, for those who return; the oldest goes. `[guess]`
    pub spread_log: usize,
    /// Nodes a spread record is passed on to. More: faster, more duplicates. `[guess]`
    pub spread_fanout: usize,
    /// Spread records passed on per second at most; the rest is pulled. `[guess]`
    pub spread_per_second: u32,
}

/// Which rules are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Coral as published: one copy per level, b bits per hop for gets as well.
    Paper,
    /// Ours: several copies per level, greedy gets.
    #[default]
    Best,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Best,
            thresholds: vec![Duration::from_millis(60), Duration::from_millis(20)],
            bits: 1,
            values_per_key: 4,
            leak_per_minute: 12,
            copies: 3,
            bucket: 16,
            bucket_per_prefix: 4,
            bucket_per_operator: 8,
            window: 3,
            rto_min: Duration::from_millis(30),
            rto_max: Duration::from_secs(1),
            rto_unknown: Duration::from_millis(400),
            rto_probe: Duration::from_millis(250),
            lost_min: Duration::from_millis(250),
            seek_patience: Duration::from_millis(500),
            get_deadline: Duration::from_secs(4),
            put_deadline: Duration::from_secs(15),
            acquire_deadline: Duration::from_millis(600),
            reference_ttl: Duration::from_secs(20),
            beat_limit: Duration::from_secs(1),
            copy_every: Duration::from_secs(5),
            lease_copies: 2,
            leases: 65_536,
            waiters: 1_024,
            keys: 65_536,
            value_bytes: 32 << 20,
            values_per_peer: 16_384,
            peers: 1_024,
            pins: 256,
            exchanges: 4_096,
            operations: 4_096,
            probe_fast: Duration::from_millis(250),
            probe_idle: Duration::from_secs(4),
            rtt_window: Duration::from_secs(10),
            unrest: Duration::from_secs(20),
            check_every: Duration::from_secs(60),
            join_percent: 85,
            near_percent: 95,
            leave_percent: 30,
            leave_margin_percent: 0,
            far_holds: Duration::from_secs(3),
            sample: 12,
            larger_percent: 25,
            dwell: Duration::from_secs(15),
            dwell_max: Duration::from_secs(600),
            hold_down: Duration::from_secs(14_400),
            refresh_every: Duration::from_secs(120),
            hint_ttl: Duration::from_secs(3_600),
            hints: 4_096,
            hints_per_second: 5,
            spread_log: 1_024,
            spread_fanout: 16,
            spread_per_second: 64,
        }
    }
}

impl Config {
    /// Levels from the nearest to the global one.
    pub(crate) fn levels(&self) -> impl DoubleEndedIterator<Item = Level> + use<> {
        (0..=u8::try_from(self.thresholds.len()).unwrap_or(0)).rev().map(Level)
    }

    /// The threshold of a level; none for the global one and for levels there are not.
    pub(crate) fn threshold(&self, level: Level) -> Option<Duration> {
        usize::from(level.0).checked_sub(1).and_then(|at| self.thresholds.get(at)).copied()
    }

    /// Copies of a put per level.
    pub(crate) const fn copies(&self) -> usize {
        match self.mode {
            Mode::Paper => 1,
            Mode::Best => self.copies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_run_from_the_nearest_to_the_global_one_and_only_that_has_no_threshold() {
        let config = Config::default();
        let levels: Vec<_> = config.levels().map(|level| (level.0, config.threshold(level))).collect();
        let (near, region) = (Duration::from_millis(20), Duration::from_millis(60));
        assert_eq!(levels, [(2, Some(near)), (1, Some(region)), (0, None)]);
    }
}
