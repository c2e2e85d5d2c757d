//! What must hold as the simulation runs: after each input no deadline lies in the past, no cap is passed, and every command ends
//! once. A breach is noted with its moment, not raised: the run goes on, and the scenario fails with the line that replays it.

use std::collections::VecDeque;

use crate::{
    Config, Found, Key, Lease, Level,
    core::{Grant, Node, Op, Outcome, message::Reply, time::Instant},
};

impl super::Sim {
    /// The last grants of a key's fetch, in words: when, by which node, to whom and why.
    #[must_use]
    pub fn grants_of(&self, key: Key) -> Vec<String> {
        self.invariants.grants_of(key)
    }
}

/// What was checked, and what was broken.
#[derive(Debug)]
pub(super) struct Invariants {
    peers: usize,
    exchanges: usize,
    operations: usize,
    keys: usize,
    bucket: usize,
    values: usize,
    checks: u64,
    /// A bit for each command that ended, by its number.
    ended: Vec<u64>,
    violations: Vec<String>,
    /// The last grants: when, by whom, what.
    grants: VecDeque<(Instant, u32, Grant)>,
}

impl Invariants {
    pub(super) const fn new(config: &Config) -> Self {
        Self {
            peers: config.peers,
            exchanges: config.exchanges,
            operations: config.operations,
            keys: config.keys,
            bucket: config.bucket,
            values: config.values_per_key,
            checks: 0,
            ended: Vec::new(),
            violations: Vec::new(),
            grants: VecDeque::new(),
        }
    }

    /// A node has dealt with an input. Its deadline is looked at every time, its memory every so often.
    pub(super) fn drained(&mut self, now: Instant, node: u32, core: &Node) {
        self.checks += 1;
        if !self.checks.is_multiple_of(MEMORY_TURN) {
            return;
        }
        let counts = core.counts();
        let caps = [
            ("peers", counts.peers, self.peers),
            ("exchanges", counts.exchanges, self.exchanges),
            ("operations", counts.operations, self.operations),
            ("keys", counts.keys, self.keys),
            ("values", counts.values, counts.keys * self.values),
        ];
        for (what, count, cap) in caps {
            if count > cap {
                self.note(now, format!("node {node} has {count} {what}, it may have {cap}"));
            }
        }
        if let Some((level, count)) = core.overfull(self.bucket) {
            self.note(now, format!("node {node} has {count} nodes in a bucket of level {}", level.0));
        }
        if core.poll_timeout().is_none() {
            self.note(now, format!("node {node} has no timer armed: it would never look after itself again"));
        }
    }

    /// A command has ended.
    pub(super) fn ended(&mut self, now: Instant, op: Op, outcome: &Outcome) {
        let (word, bit) = (usize::try_from(op.0 / 64).unwrap_or(0), 1 << (op.0 % 64));
        if self.ended.len() <= word {
            self.ended.resize(word + 1, 0);
        }
        if self.ended[word] & bit != 0 {
            self.note(now, format!("command {} ended twice", op.0));
        }
        self.ended[word] |= bit;
        if let Outcome::Get(Ok(Found::Values { level: Level(level), values })) = outcome
            && values.len() > Reply::VALUES * THOROUGH
        {
            self.note(now, format!("a get at level {level} returned {} values", values.len()));
        }
    }

    /// A node has granted a fetch.
    pub(super) fn granted(&mut self, now: Instant, node: u32, grant: Grant) {
        if self.grants.len() >= GRANTS {
            self.grants.pop_front();
        }
        self.grants.push_back((now, node, grant));
    }

    /// Grants of a key lately, in words: when, by whom, to whom and why.
    pub(super) fn grants_of(&self, key: Key) -> Vec<String> {
        let of_key = self.grants.iter().filter(|(_, _, grant)| grant.key == key);
        let words = |(at, node, grant): &(Instant, u32, Grant)| {
            let Grant { holder, lease, why, standing_in, copies, .. } = grant;
            let (at, Lease { epoch, counter, .. }) = (at.since_start().as_secs_f64(), lease);
            format!(
                "{at:.3} s: node {node} to {holder}, lease {epoch}.{counter}, {why}, for {standing_in} others, {copies} copies"
            )
        };
        of_key.map(words).collect()
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    fn note(&mut self, now: Instant, what: String) {
        if self.violations.len() < SHOWN {
            self.violations.push(format!("after {:.3} s: {what}", now.since_start().as_secs_f64()));
        }
    }
}

/// Memory is looked at every so many inputs.
const MEMORY_TURN: u64 = 64;

/// Grants remembered.
const GRANTS: usize = 4_096;

/// Breaches noted.
const SHOWN: usize = 8;

/// A thorough get hears so many nodes at most.
const THOROUGH: usize = 16;
