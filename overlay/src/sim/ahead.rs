//! Looking ahead. The nodes of a large network lie all over the memory, and each event is for another one: a simulator that takes
//! events as they come waits for the memory several times in each. So what the next events will need is looked at some events
//! before, of several at once: the processor then waits for all of it together. Nothing here changes anything.

use std::hint::black_box;

use super::{Sim, queue::Event, world::usize_of};

impl Sim {
    /// Looks at what events to come will need: each three times, deeper as it comes nearer, since where the deeper parts are is
    /// known from the outer ones alone.
    pub(super) fn look_ahead(&self) {
        let outer = self.coming(OUTER).map_or(0, |event| {
            let place = self.places.get(usize_of(event.node())).map_or(0, |place| place.site);
            let node = self.nodes.get(usize_of(event.node())).map_or(0, |node| node.core.glance());
            usize_of(place) + node
        });
        let middle = self.coming(MIDDLE).and_then(|event| self.nodes.get(usize_of(event.node())));
        let middle = middle.map_or(0, |node| node.core.look());
        let inner = self.coming(INNER).map_or(0, |event| match event {
            Event::Deliver { to, from, message } => {
                let from = self.places.get(usize_of(*from)).map(|place| place.contact);
                let known = from.zip(self.nodes.get(usize_of(*to))).map_or(0, |(from, node)| node.core.look_for(from));
                known + message.header.clusters.len()
            }
            Event::Wake { .. }
            | Event::DeliverBytes { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Unreachable { .. } => 0,
        });
        // The numbers mean nothing; without a use the compiler would not read them.
        black_box(outer + middle + inner);
    }

    fn coming(&self, by: usize) -> Option<&Event> {
        self.queue.ahead(by)
    }
}

/// How many events before its turn each part is looked at.
const OUTER: usize = 9;
const MIDDLE: usize = 6;
const INNER: usize = 3;
