//! Memory is fetched before it is needed. Ten thousand nodes are more than any cache holds, so nearly every event meets a node that
//! lies in memory, and would wait for it a dozen times in a row. So the nodes of the next few events are looked at together first:
//! the processor fetches them all at the same time. Nothing here changes anything.

use std::hint::black_box;

use super::{Sim, queue::Event, world::usize_of};
use crate::{
    Key,
    core::{
        Contact, Node,
        message::{Body, Message, Reply, Request},
        time::Instant,
    },
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
        let (mut seen, mut coming) = (0, [const { None }; AHEAD]);
        self.ahead = self.queue.coming(AHEAD).count();
        for (place, (at, event)) in coming.iter_mut().zip(self.queue.coming(AHEAD)) {
            *place = self.foresee(at, event);
            if let Some(one) = place {
                seen ^= one.node.glance() ^ one.message.map_or(0, number);
            }
        }
        for one in coming.iter().flatten() {
            seen ^= one.node.glance_at_lists(one.from);
            seen ^= one.message.map_or(0, |message| message.header.clusters.len() ^ named(message));
            if one.sought.is_some() {
                seen ^= one.node.glance_at_heads();
            }
        }
        for one in coming.iter_mut().flatten() {
            one.spot = one.node.spot(one.from);
            let first = one.message.and_then(|message| message.header.clusters.first());
            seen ^= first.map_or(0, |tag| usize::from(tag.size > 1));
        }
        for one in coming.iter().flatten() {
            seen ^= one.node.glance_at_spot(one.spot, one.from);
            if let Some(point) = one.sought {
                seen ^= one.node.glance_around(one.node.spot_of(point));
            }
        }
        for one in coming.iter().flatten() {
            seen ^= one.node.glance_at_header(one.spot);
        }
        black_box(seen);
    }

    /// Tells the other ends of these links whether a node keeps them.
    pub(super) fn note_pins(&mut self, node: u32, pins: &[(u32, bool)]) {
        let Some(me) = self.contact(usize_of(node)) else { return };
        for some in pins.chunks(AHEAD) {
            self.look_at_ends(me, some);
            for (peer, keep) in some {
                self.note_kept(*peer, me, *keep);
            }
        }
    }

    /// Looks at the other ends of a node's links, before they are told whether it keeps them: a node that chooses its links anew lets
    /// a hundred go at once, whose other ends lie anywhere.
    fn look_at_ends(&self, me: Contact, pins: &[(u32, bool)]) {
        if self.nodes.len() < MANY || pins.len() < 2 {
            return;
        }
        let ends = || pins.iter().filter_map(|(peer, _)| self.nodes.get(usize_of(*peer)).map(|one| &one.core));
        let mut seen = ends().fold(0, |seen, end| seen ^ end.glance_at_fences());
        seen ^= ends().fold(0, |seen, end| seen ^ end.glance_at_heads_near(me));
        let mut spots = [0; AHEAD];
        for (spot, end) in spots.iter_mut().zip(ends()) {
            *spot = end.spot(Some(me));
        }
        seen ^= spots.iter().zip(ends()).fold(0, |seen, (spot, end)| seen ^ end.glance_at_header(*spot));
        black_box(seen);
    }

    /// The node that an event happens to, and what comes; none if nothing will.
    fn foresee<'a>(&'a self, at: Instant, event: &'a Event) -> Option<Coming<'a>> {
        let number = usize_of(event.node());
        let place = self.places.get(number)?;
        let (from, message) = match event {
            Event::Deliver { from, message, .. } => (self.contact(usize_of(*from)), Some(&**message)),
            Event::DeliverBytes { from, .. } => (self.contact(usize_of(*from)), None),
            // It has been put off.
            Event::Wake { .. } if place.due > at => return None,
            Event::Wake { .. } | Event::Connected { .. } | Event::Disconnected { .. } | Event::Unreachable { .. } => {
                (None, None)
            }
        };
        let sought = message.and_then(sought);
        Some(Coming { node: &self.nodes.get(number)?.core, from, message, sought, spot: 0 })
    }
}

/// Looks at a message from end to end.
fn number(message: &Message) -> usize {
    let id = match &message.body {
        Body::Request { id, request } => *id ^ u64::from(*request == Request::Ping),
        Body::Reply { id, reply, .. } => *id ^ u64::from(*reply == Reply::Pong),
        Body::Hello(hello) => hello.spreads,
        Body::Goodbye | Body::Spread(_) => 0,
    };
    usize::try_from(id).unwrap_or(0)
}

/// Looks at the nodes that a message names.
fn named(message: &Message) -> usize {
    match &message.body {
        Body::Reply { reply: Reply::Step { nodes, .. } | Reply::Nodes(nodes), .. } => {
            nodes.iter().step_by(2).fold(0, |seen, one| seen ^ usize_of(one.peer.0))
        }
        Body::Reply { .. } | Body::Request { .. } | Body::Hello(_) | Body::Goodbye | Body::Spread(_) => 0,
    }
}

/// The point that those are searched for who are nearest it.
fn sought(message: &Message) -> Option<Key> {
    match &message.body {
        Body::Request { request: Request::Step { aim: point, .. } | Request::Seek { key: point, .. }, .. } => {
            Some(*point)
        }
        Body::Request { .. } | Body::Reply { .. } | Body::Hello(_) | Body::Goodbye | Body::Spread(_) => None,
    }
}

/// What a node will have to deal with.
struct Coming<'a> {
    node: &'a Node,
    from: Option<Contact>,
    message: Option<&'a Message>,
    /// It searches for those nearest this.
    sought: Option<Key>,
    /// Where that stands which it will look for.
    spot: usize,
}

/// Events looked at together: as many as leave the processor's first cache room, and more than it waits for at a time.
const AHEAD: usize = 16;

/// Fewer nodes than this stay in its last cache by themselves.
const MANY: usize = 1_000;
