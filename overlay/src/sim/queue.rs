//! The event queue: by time, then in order of arrival.

use std::{cmp::Reverse, collections::BinaryHeap};

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
    DeliverBytes { to: u32, from: u32, bytes: Bytes },
    /// A link stands.
    Connected { node: u32, peer: u32 },
    /// A link is gone.
    Disconnected { node: u32, peer: u32 },
    /// A dial failed.
    Unreachable { node: u32, peer: u32 },
}

/// All that will happen.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Queued>>,
    next: u64,
}

#[derive(Debug)]
struct Queued {
    at: Instant,
    order: u64,
    event: Event,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.heap.push(Reverse(Queued { at, order: self.next, event }));
        self.next += 1;
    }

    /// The next event, if it is not after this time.
    pub(super) fn pop_until(&mut self, until: Instant) -> Option<(Instant, Event)> {
        self.heap.peek().filter(|Reverse(next)| next.at <= until)?;
        self.heap.pop().map(|Reverse(next)| (next.at, next.event))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
