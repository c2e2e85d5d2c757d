//! Hints (NSDI'04 4.4, without the routers): which nodes are near a network prefix. A node that measured a prefix stores its RTT
//! under the prefix's hashed key, and learns there who else is near.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{NodeId, Prefix, core::time::Instant};

/// What is known of prefixes.
#[derive(Debug)]
pub(in crate::core) struct Hints {
    known: BTreeMap<Prefix, Hint>,
    limit: usize,
    /// Hints put since this moment.
    put: (Instant, u32),
}

#[derive(Debug)]
struct Hint {
    /// Measured here.
    rtt: Duration,
    /// When it was last put, and with what.
    put: Option<(Instant, Duration)>,
    /// Measured by others.
    others: Vec<(NodeId, Duration)>,
    touched: Instant,
}

impl Hints {
    pub(in crate::core) const fn new(limit: usize) -> Self {
        Self { known: BTreeMap::new(), limit, put: (Instant::START, 0) }
    }

    /// A prefix was measured. The value to store in the index, if it is time to.
    pub(in crate::core) fn observe(
        &mut self,
        now: Instant,
        prefix: Prefix,
        rtt: Duration,
        (ttl, per_second): (Duration, u32),
    ) -> Option<Bytes> {
        if !self.known.contains_key(&prefix) && self.known.len() >= self.limit {
            let oldest = self.known.iter().min_by_key(|(_, hint)| hint.touched).map(|(prefix, _)| *prefix)?;
            self.known.remove(&oldest);
        }
        let hint = self.known.entry(prefix).or_insert(Hint { rtt, put: None, others: Vec::new(), touched: now });
        hint.touched = now;
        // Half its life after it was put, a measurement starts anew: the minimum of long ago may no longer hold.
        let due = hint.put.is_none_or(|(at, with)| now.since(at) >= ttl / 2 || rtt < with * 3 / 4);
        hint.rtt = if hint.put.is_some_and(|(at, _)| now.since(at) >= ttl / 2) { rtt } else { hint.rtt.min(rtt) };
        if now.since(self.put.0) >= Duration::from_secs(1) {
            self.put = (now, 0);
        }
        if !due || self.put.1 >= per_second {
            return None;
        }
        self.put.1 += 1;
        hint.put = Some((now, hint.rtt));
        Some(encode(hint.rtt))
    }

    /// What others stored for a prefix.
    pub(in crate::core) fn learn(&mut self, prefix: Prefix, found: impl Iterator<Item = (NodeId, Bytes)>) {
        let Some(hint) = self.known.get_mut(&prefix) else { return };
        for (node, value) in found {
            let Some(rtt) = decode(&value) else { continue };
            hint.others.retain(|(one, _)| *one != node);
            hint.others.push((node, rtt));
        }
        hint.others.sort_by_key(|(_, rtt)| *rtt);
        hint.others.truncate(OTHERS);
    }

    /// How far a node is from a prefix, if known.
    pub(in crate::core) fn distance(&self, prefix: Prefix, node: NodeId, me: NodeId) -> Option<Duration> {
        let hint = self.known.get(&prefix)?;
        if node == me {
            return Some(hint.rtt);
        }
        hint.others.iter().find(|(one, _)| *one == node).map(|(_, rtt)| *rtt)
    }
}

/// A hint's value: microseconds, 4 bytes, big endian.
fn encode(rtt: Duration) -> Bytes {
    Bytes::copy_from_slice(&u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).to_be_bytes())
}

fn decode(value: &[u8]) -> Option<Duration> {
    value.try_into().ok().map(|bytes| Duration::from_micros(u64::from(u32::from_be_bytes(bytes))))
}

/// Other nodes remembered per prefix.
const OTHERS: usize = 8;
