//! Memory is fetched before it is needed. Ten thousand nodes are more than any cache holds, so nearly every event meets a node that
//! lies in memory, and would wait for it a dozen times in a row. So the nodes of the next few events are looked at together first:
//! the processor fetches them all at the same time. Nothing here changes anything.

use std::hint::black_box;

use super::{
    Sim,
    queue::Event,
    world::{Simulated, usize_of},
};
use crate::core::{
    Contact,
    message::{Body, Message},
};

impl Sim {
    /// Looks at the nodes of the next events, if those looked at last have happened. Pass by pass, since what one pass reads says
    /// where the next one reads.
    pub(super) fn look_ahead(&mut self) {
        if let Some(left) = self.ahead.checked_sub(1) {
            self.ahead = left;
            return;
        }
        if self.nodes.len() < MANY {
            return;
        }
        let (mut seen, mut spots) = (0, [0; AHEAD]);
        for (one, coming) in self.coming() {
            seen ^= one.core.glance() ^ coming.message.map_or(0, |message| usize::from(message.body == Body::Goodbye));
        }
        for (one, coming) in self.coming() {
            seen ^= one.core.glance_at_lists(coming.from);
            seen ^= coming.message.map_or(0, |message| message.header.clusters.len());
        }
        for ((one, coming), spot) in self.coming().zip(&mut spots) {
            *spot = one.core.spot(coming.from);
            let first = coming.message.and_then(|message| message.header.clusters.first());
            seen ^= first.map_or(0, |tag| usize::from(tag.size > 1));
        }
        for ((one, _), spot) in self.coming().zip(&spots) {
            seen ^= one.core.glance_at_spot(*spot);
        }
        for ((one, _), spot) in self.coming().zip(&spots) {
            seen ^= one.core.glance_at_header(*spot);
        }
        self.ahead = self.queue.coming(AHEAD).count();
        black_box(seen);
    }

    /// The nodes of the next events, each with what comes.
    fn coming(&self) -> impl Iterator<Item = (&Simulated, Coming<'_>)> {
        self.queue.coming(AHEAD).filter_map(|(at, event)| {
            let node = usize_of(event.node());
            let coming = match event {
                Event::Deliver { from, message, .. } => {
                    Coming { from: self.contact(usize_of(*from)), message: Some(message) }
                }
                Event::DeliverBytes { from, .. } => Coming { from: self.contact(usize_of(*from)), message: None },
                // It has been put off.
                Event::Wake { .. } if self.places.get(node)?.due > at => return None,
                Event::Wake { .. }
                | Event::Connected { .. }
                | Event::Disconnected { .. }
                | Event::Unreachable { .. } => Coming { from: None, message: None },
            };
            Some((self.nodes.get(node)?, coming))
        })
    }
}

/// What a node will have to deal with.
struct Coming<'a> {
    from: Option<Contact>,
    message: Option<&'a Message>,
}

/// Events looked at together: as many as leave the processor's first cache room, and more than it waits for at a time.
const AHEAD: usize = 16;

/// Fewer nodes than this stay in its last cache by themselves.
const MANY: usize = 1_000;
