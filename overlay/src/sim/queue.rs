//! The event queue: a wheel of buckets a millisecond wide, for the next seconds, and a shelf for what is later. Within a bucket
//! events are put in order when their time comes; that costs a twentieth of a heap with a million events in it.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;

use crate::core::{message::Message, time::Instant};

/// Something that will happen to a node.
#[derive(Debug)]
pub(super) enum Event {
    /// It asked to be woken.
    Wake { node: u32 },
    /// A message arrives.
    Deliver { to: u32, from: u32, message: Box<Message> },
    /// A message arrives as bytes.
    DeliverBytes { to: u32, from: u32, bytes: Box<Bytes> },
    /// A link stands.
    Connected { node: u32, peer: u32 },
    /// A link is gone.
    Disconnected { node: u32, peer: u32 },
    /// A dial failed.
    Unreachable { node: u32, peer: u32 },
}

impl Event {
    /// To whom it happens.
    pub(super) const fn node(&self) -> u32 {
        match self {
            Self::Wake { node }
            | Self::Connected { node, .. }
            | Self::Disconnected { node, .. }
            | Self::Unreachable { node, .. } => *node,
            Self::Deliver { to, .. } | Self::DeliverBytes { to, .. } => *to,
        }
    }
}

/// All that will happen, by time, then in the order of pushing.
#[derive(Debug)]
pub(super) struct Queue {
    /// The bucket whose time it is, the next event last; of those of one time, the first pushed.
    active: Vec<Queued>,
    /// Its number since the start.
    current: u64,
    /// Later buckets of the same turn, each in the order of pushing.
    buckets: Vec<Vec<Queued>>,
    /// Later turns.
    shelf: BTreeMap<u64, Vec<Queued>>,
}

#[derive(Debug)]
struct Queued {
    at: Instant,
    event: Event,
}

impl Default for Queue {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(Vec::new).take(TURN).collect();
        Self { active: Vec::new(), current: 0, buckets, shelf: BTreeMap::new() }
    }
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        let queued = Queued { at, event };
        let bucket = at.nanos() >> WIDTH_BITS;
        if bucket <= self.current {
            let place = self.active.partition_point(|one| one.at > at);
            self.active.insert(place, queued);
        } else if bucket >> TURN_BITS == self.current >> TURN_BITS {
            self.bucket(bucket).push(queued);
        } else {
            self.shelf.entry(bucket >> TURN_BITS).or_default().push(queued);
        }
    }

    /// The next event, if it is not after this time.
    pub(super) fn pop_until(&mut self, until: Instant) -> Option<(Instant, Event)> {
        while self.active.is_empty() {
            let next = self.next_bucket()?;
            if next > until.nanos() >> WIDTH_BITS {
                return None;
            }
            self.enter(next);
        }
        let next = self.active.pop_if(|next| next.at <= until)?;
        Some((next.at, next.event))
    }

    /// The next few events, as far as they are in order already.
    pub(super) fn coming(&self, most: usize) -> impl Iterator<Item = (Instant, &Event)> {
        self.active.iter().rev().take(most).map(|queued| (queued.at, &queued.event))
    }

    /// The next bucket that may hold something.
    fn next_bucket(&self) -> Option<u64> {
        let turn = self.current >> TURN_BITS;
        let rest = (self.current + 1..(turn + 1) << TURN_BITS).find(|bucket| !self.at(*bucket).is_empty());
        rest.or_else(|| self.shelf.first_key_value().map(|(turn, _)| turn << TURN_BITS))
    }

    fn enter(&mut self, bucket: u64) {
        let turn = bucket >> TURN_BITS;
        if turn != self.current >> TURN_BITS {
            for queued in self.shelf.remove(&turn).unwrap_or_default() {
                self.bucket(queued.at.nanos() >> WIDTH_BITS).push(queued);
            }
        }
        self.current = bucket;
        self.active = std::mem::take(self.bucket(bucket));
        self.active.reverse();
        self.active.sort_by_key(|one| Reverse(one.at));
    }

    fn at(&self, bucket: u64) -> &[Queued] {
        &self.buckets[place(bucket)]
    }

    fn bucket(&mut self, bucket: u64) -> &mut Vec<Queued> {
        &mut self.buckets[place(bucket)]
    }
}

fn place(bucket: u64) -> usize {
    usize::try_from(bucket).unwrap_or(usize::MAX) & (TURN - 1)
}

/// A bucket is 2^20 ns wide, about a millisecond.
const WIDTH_BITS: u32 = 20;

/// A turn is 2^12 buckets, about four seconds.
const TURN_BITS: u32 = 12;
const TURN: usize = 1 << TURN_BITS;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The wheel against a list sorted by time and order of pushing.
        #[test]
        fn events_come_by_time_then_in_the_order_of_pushing(spans in prop::collection::vec((0_u64..30_000_000, 0_u64..3), 1..200)) {
            let mut queue = Queue::default();
            let (mut expected, mut seen) = (Vec::new(), Vec::new());
            let mut now = Instant::START;
            for (order, (micros, pops)) in (0..).zip(&spans) {
                let at = now + Duration::from_micros(*micros);
                queue.push(at, Event::Wake { node: order });
                expected.push((at, order));
                for _ in 0..*pops {
                    if let Some((at, Event::Wake { node })) = queue.pop_until(Instant::at(Duration::MAX)) {
                        prop_assert!(at >= now, "time never goes back");
                        now = at;
                        seen.push((at, node));
                    }
                }
            }
            while let Some((at, Event::Wake { node })) = queue.pop_until(Instant::at(Duration::MAX)) {
                seen.push((at, node));
            }
            prop_assert_eq!(seen.len(), expected.len());
            prop_assert!(seen.is_sorted());
            expected.sort_unstable();
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
        }
    }
}
