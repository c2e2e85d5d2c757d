//! How each peer is reached: the connections that stand, the dials under way, and what waits for them. Bounded per peer and in the
//! number of dials, so in all.
//!
//! A peer has links, which carry messages and on which round trips are measured, and bulk connections, which carry byte streams. Both
//! sides prefer the same one of two links: that dialled by the node with the smaller peer id. Of two that were made farther apart than
//! two that dial each other at once make them, the newer one: its maker may have found the other silent, or have lost it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use libp2p::{PeerId, swarm::ConnectionId};
use tokio::sync::mpsc::error::TrySendError;

use super::{behaviour::Way, budget::Budget, certificate::Purpose, handler::Open};
use crate::{
    Key, Roles,
    core::{Contact, Peer, time::Instant},
};

/// All peers that are linked, dialled or kept.
#[derive(Debug, Default)]
pub(super) struct Roads {
    peers: BTreeMap<Peer, Road>,
    /// Admitted connections.
    connections: BTreeMap<ConnectionId, Peer>,
    links: usize,
    /// How far apart the links of two that dial each other at once may be.
    apart: Duration,
}

/// The way to one peer.
#[derive(Debug, Default)]
struct Road {
    ways: Vec<Way>,
    kept: bool,
    /// Dials under way.
    dials: Vec<(ConnectionId, Purpose)>,
    messages: VecDeque<Bytes>,
    /// Wishes for byte streams, and what each is wanted by.
    opens: VecDeque<(Open, Purpose)>,
    /// The last bulk dial failed, by every carrier: a peer that cannot be dialled keeps its streams on the link it made itself.
    bulk_failed: bool,
}

/// An admitted peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) contact: Contact,
    pub(super) peer_id: PeerId,
    /// What its certificate allows it to run.
    pub(super) roles: Roles,
    /// Who admitted it, in a closed network.
    pub(super) operator: Option<Key>,
    /// Whether the core was told of its link: not before it was found where it says it is.
    pub(super) told: bool,
    /// Dials under way that look whether it is.
    pub(super) checks: usize,
    /// What it may still send.
    pub(super) budget: Budget,
    /// Since when it owes an answer: it was sent a question, and nothing has come from it.
    pub(super) unanswered: Option<Instant>,
}

/// What became of a message or wish handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// To a connection.
    Over,
    /// It waits for a dial under way.
    Waits,
    /// It waits, and a dial must be made.
    Dial,
    /// It was dropped: a queue is full.
    Dropped,
}

/// What a road's change means to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The first link stands.
    Linked,
    /// The last link is gone.
    Unlinked,
    /// Neither.
    Nothing,
}

impl Roads {
    /// None yet. Links made farther `apart` than this are not of two that dialled each other at once.
    pub(super) fn new(apart: Duration) -> Self {
        Self { apart, ..Self::default() }
    }

    /// Whether no peer is linked.
    pub(super) const fn is_alone(&self) -> bool {
        self.links == 0
    }

    /// Whether this peer is linked.
    pub(super) fn is_linked(&self, peer: Peer) -> bool {
        self.peers.get(&peer).is_some_and(Road::is_linked)
    }

    /// Whether a link to this peer takes messages: one that is ending does not.
    pub(super) fn takes_messages(&self, peer: Peer) -> bool {
        let takes = |way: &Way| way.purpose == Purpose::Link && !way.frames.is_closed();
        self.peers.get(&peer).is_some_and(|road| road.ways.iter().any(takes))
    }

    /// Whose connection this is, if it is admitted.
    pub(super) fn owner(&self, connection: ConnectionId) -> Option<Peer> {
        self.connections.get(&connection).copied()
    }

    /// Whether any connection to this peer is admitted.
    pub(super) fn is_reached(&self, peer: Peer) -> bool {
        self.peers.get(&peer).is_some_and(|road| !road.ways.is_empty())
    }

    /// Whether a bulk connection is to be dialled: none stands or is under way, and none failed since the peer was last reached. What
    /// is ending takes no more streams, and stands no more.
    pub(super) fn wants_bulk(&self, peer: Peer) -> bool {
        self.peers.get(&peer).is_some_and(|road| {
            let taking = || road.ways.iter().filter(|way| !way.opens.is_closed());
            let stands = taking().any(|way| way.purpose == Purpose::Bulk);
            !(road.dials(Purpose::Bulk) || stands || road.bulk_failed && taking().next().is_some())
        })
    }

    /// A dial was begun.
    pub(super) fn dialling(&mut self, peer: Peer, connection: ConnectionId, purpose: Purpose) {
        self.peers.entry(peer).or_default().dials.push((connection, purpose));
    }

    /// Hands a message over, or lets it wait for a link. At most `limit` wait.
    pub(super) fn send(&mut self, peer: Peer, mut frame: Bytes, me: PeerId, peer_id: PeerId, limit: usize) -> Handed {
        let apart = self.apart;
        let road = self.peers.entry(peer).or_default();
        for way in road.links(me, peer_id, apart) {
            match way.frames.try_send(frame) {
                Ok(()) => return Handed::Over,
                Err(TrySendError::Full(_)) => return Handed::Dropped,
                Err(TrySendError::Closed(back)) => frame = back,
            }
        }
        if road.messages.len() >= limit {
            return Handed::Dropped;
        }
        road.messages.push_back(frame);
        road.waits(Purpose::Link)
    }

    /// Hands over a wish for a byte stream, or lets it wait for a connection. A bulk connection is preferred; where only a link
    /// stands it is used rather than have the stream wait for a dial, unless it is wanted `by` a bulk connection and that may come.
    /// At most `limit` wait.
    pub(super) fn open(&mut self, peer: Peer, mut open: Open, by: Purpose, limit: usize) -> Handed {
        let road = self.peers.entry(peer).or_default();
        let patient = by == Purpose::Bulk && !road.bulk_failed;
        for way in road.bulk_first().filter(|way| !patient || way.purpose == Purpose::Bulk) {
            match way.opens.try_send(open) {
                Ok(()) => return Handed::Over,
                Err(TrySendError::Full(_)) => return Handed::Dropped,
                Err(TrySendError::Closed(back)) => open = back,
            }
        }
        road.opens.retain(|(open, _)| !open.is_closed());
        if road.opens.len() >= limit {
            return Handed::Dropped;
        }
        road.opens.push_back((open, by));
        road.waits(Purpose::Bulk)
    }

    /// Lets a message wait for a peer to be found where it says it is. At most `limit` wait.
    pub(super) fn wait(&mut self, peer: Peer, frame: Bytes, limit: usize) -> Handed {
        let road = self.peers.entry(peer).or_default();
        if road.messages.len() >= limit {
            return Handed::Dropped;
        }
        road.messages.push_back(frame);
        Handed::Waits
    }

    /// What waits for a peer goes over the links that stand.
    pub(super) fn flush(&mut self, peer: Peer) {
        let Some(road) = self.peers.get_mut(&peer) else { return };
        if let Some(way) = road.ways.iter().find(|way| way.purpose == Purpose::Link) {
            while let Some(message) = road.messages.pop_front() {
                let _ = way.frames.try_send(message);
            }
        }
    }

    /// What waits for a peer is dropped, unless a dial under way may still carry it. Returns how many messages.
    pub(super) fn drop_waiting(&mut self, peer: Peer) -> usize {
        let Some(road) = self.peers.get_mut(&peer).filter(|road| road.dials.is_empty()) else { return 0 };
        let dropped = road.messages.len();
        road.messages.clear();
        self.forget_if_idle(peer);
        dropped
    }

    /// A connection was admitted. What waited goes over it, unless it is a link and a bulk connection that is wanted may still come.
    pub(super) fn admit(&mut self, peer: Peer, way: Way) -> Change {
        let road = self.peers.entry(peer).or_default();
        road.dials.retain(|(connection, _)| *connection != way.connection);
        road.bulk_failed = false;
        self.connections.insert(way.connection, peer);
        let bulk_comes = way.purpose == Purpose::Link && road.dials(Purpose::Bulk);
        for (open, by) in std::mem::take(&mut road.opens) {
            if bulk_comes && by == Purpose::Bulk {
                road.opens.push_back((open, by));
            } else {
                // The queue holds as many as may wait.
                let _ = way.opens.try_send(open);
            }
        }
        let first = way.purpose == Purpose::Link && !road.is_linked();
        if way.purpose == Purpose::Link {
            while let Some(message) = road.messages.pop_front() {
                let _ = way.frames.try_send(message);
            }
        }
        road.ways.push(way);
        self.links += usize::from(first);
        if first { Change::Linked } else { Change::Nothing }
    }

    /// An admitted connection is gone.
    pub(super) fn close(&mut self, connection: ConnectionId) -> Option<(Peer, Change)> {
        let peer = self.connections.remove(&connection)?;
        let road = self.peers.get_mut(&peer)?;
        let before = road.is_linked();
        road.ways.retain(|way| way.connection != connection);
        let last = before && !road.is_linked();
        self.links -= usize::from(last);
        self.forget_if_idle(peer);
        Some((peer, if last { Change::Unlinked } else { Change::Nothing }))
    }

    /// A dial came to nothing, or none could be begun: what waited for it is refused, unless another dial goes on. Returns how many
    /// messages were dropped.
    pub(super) fn dial_failed(&mut self, peer: Peer, connection: Option<ConnectionId>, why: &str) -> usize {
        let Some(road) = self.peers.get_mut(&peer) else { return 0 };
        let was_bulk = road.dials.iter().any(|dial| Some(dial.0) == connection && dial.1 == Purpose::Bulk);
        road.dials.retain(|(dial, _)| Some(*dial) != connection);
        let bulk_comes = road.dials(Purpose::Bulk);
        road.bulk_failed |= was_bulk && !bulk_comes;
        let mut dropped = 0;
        if !road.dials(Purpose::Link) {
            dropped = road.messages.len();
            road.messages.clear();
        }
        if !bulk_comes {
            // What waited for a bulk connection goes over a link then.
            for (open, by) in std::mem::take(&mut road.opens) {
                match road.hand_over(open) {
                    Some(open) if road.dials.is_empty() => drop(open.send(Err(why.to_owned()))),
                    Some(open) => road.opens.push_back((open, by)),
                    None => {}
                }
            }
        }
        self.forget_if_idle(peer);
        dropped
    }

    /// Keeps or releases the link to a peer, now and when another one takes its place.
    pub(super) fn keep(&mut self, peer: Peer, keep: bool) {
        self.peers.entry(peer).or_default().kept = keep;
        self.forget_if_idle(peer);
    }

    /// Every link of a peer, and whether it is to stay open while idle: the preferred one if the peer is kept.
    pub(super) fn keeps(&mut self, peer: Peer, me: PeerId, peer_id: PeerId) -> Vec<(ConnectionId, bool)> {
        let Some(road) = self.peers.get_mut(&peer) else { return Vec::new() };
        let kept = road.kept;
        road.links(me, peer_id, self.apart)
            .enumerate()
            .map(|(place, way)| (way.connection, kept && place == 0))
            .collect()
    }

    /// All admitted connections.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.connections.keys().copied().collect()
    }

    /// The admitted connections to a peer.
    pub(super) fn connections_to(&self, peer: Peer) -> Vec<ConnectionId> {
        self.peers.get(&peer).map_or_else(Vec::new, |road| road.ways.iter().map(|way| way.connection).collect())
    }

    fn forget_if_idle(&mut self, peer: Peer) {
        if self.peers.get(&peer).is_some_and(Road::is_idle) {
            self.peers.remove(&peer);
        }
    }
}

impl Road {
    fn is_linked(&self) -> bool {
        self.ways.iter().any(|way| way.purpose == Purpose::Link)
    }

    fn is_idle(&self) -> bool {
        self.ways.is_empty() && self.dials.is_empty() && !self.kept && self.messages.is_empty() && self.opens.is_empty()
    }

    /// The links, preferred first: both sides sort alike; of those alike the newest goes first.
    fn links(&mut self, me: PeerId, peer_id: PeerId, apart: Duration) -> impl Iterator<Item = &Way> {
        let mine_first = me < peer_id;
        let links = self.ways.iter().filter(|way| way.purpose == Purpose::Link);
        let newest = links.map(|way| way.since).max().unwrap_or_default();
        self.ways.sort_by_key(|way| {
            let old = newest.since(way.since) > apart;
            (old, way.dialled != mine_first, std::cmp::Reverse(way.connection))
        });
        self.ways.iter().filter(|way| way.purpose == Purpose::Link)
    }

    /// All ways, as byte streams prefer them; links among themselves as they were.
    fn bulk_first(&mut self) -> impl Iterator<Item = &Way> {
        self.ways.sort_by_key(|way| std::cmp::Reverse(way.purpose));
        self.ways.iter()
    }

    /// Hands a wish to any way that takes it; back if none does.
    fn hand_over(&mut self, mut open: Open) -> Option<Open> {
        for way in self.bulk_first() {
            match way.opens.try_send(open) {
                Ok(()) => return None,
                Err(back) => open = back.into_inner(),
            }
        }
        Some(open)
    }

    /// Whether a dial of this purpose is under way.
    fn dials(&self, purpose: Purpose) -> bool {
        self.dials.iter().any(|(_, wanted)| *wanted == purpose)
    }

    fn waits(&self, purpose: Purpose) -> Handed {
        if self.dials(purpose) { Handed::Waits } else { Handed::Dial }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use libp2p::{PeerId, swarm::ConnectionId};
    use tokio::sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    };

    use super::{Change, Duration, Handed, Instant, Open, Peer, Purpose, Roads, Way};
    use crate::driver::handler::Queues;

    const PEER: Peer = Peer(1);
    const LIMIT: usize = 3;

    fn way(number: usize, purpose: Purpose, dialled: bool) -> (Way, Queues) {
        let (frames, frames_end) = mpsc::channel(4);
        let (opens, opens_end) = mpsc::channel(LIMIT);
        let connection = ConnectionId::new_unchecked(number);
        (
            Way { connection, purpose, dialled, since: Instant::START, frames, opens },
            Queues { frames: frames_end, opens: opens_end },
        )
    }

    /// Two peer ids, the smaller one first.
    fn ids() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        if a < b { (a, b) } else { (b, a) }
    }

    fn send(roads: &mut Roads) -> Handed {
        let (me, other) = ids();
        roads.send(PEER, Bytes::from_static(b"m"), me, other, LIMIT)
    }

    fn open() -> (Open, oneshot::Receiver<Result<crate::driver::stream::PeerStream, String>>) {
        oneshot::channel()
    }

    #[test]
    fn messages_wait_for_one_dial_up_to_the_bound_and_go_with_the_link() {
        let mut roads = Roads::default();
        assert_eq!(send(&mut roads), Handed::Dial);
        roads.dialling(PEER, ConnectionId::new_unchecked(1), Purpose::Link);
        assert_eq!(send(&mut roads), Handed::Waits);
        assert_eq!(send(&mut roads), Handed::Waits);
        assert_eq!(send(&mut roads), Handed::Dropped);
        let (link, mut queues) = way(1, Purpose::Link, true);
        assert_eq!(roads.admit(PEER, link), Change::Linked);
        assert_eq!(queues.frames.len(), 3);
        assert_eq!(send(&mut roads), Handed::Over);
        assert_eq!(send(&mut roads), Handed::Dropped, "the link's queue is full");
        queues.frames.close();
        assert_eq!(send(&mut roads), Handed::Dial, "a link that is ending takes no more");
    }

    #[test]
    fn a_failed_dial_refuses_what_waited_for_it() {
        let mut roads = Roads::default();
        let connection = ConnectionId::new_unchecked(1);
        send(&mut roads);
        roads.dialling(PEER, connection, Purpose::Link);
        let (wish, mut answer) = open();
        assert_eq!(roads.open(PEER, wish, Purpose::Link, LIMIT), Handed::Dial);
        assert_eq!(roads.dial_failed(PEER, Some(connection), "refused"), 1);
        assert!(matches!(answer.try_recv(), Ok(Err(why)) if why == "refused"));
        assert_eq!(send(&mut roads), Handed::Dial);
    }

    #[test]
    fn byte_streams_prefer_bulk_and_use_a_link_rather_than_wait() {
        let mut roads = Roads::default();
        let (link, mut on_link) = way(1, Purpose::Link, true);
        roads.admit(PEER, link);
        assert_eq!(roads.open(PEER, open().0, Purpose::Link, LIMIT), Handed::Over);
        assert!(on_link.opens.try_recv().is_ok());
        assert!(roads.wants_bulk(PEER));
        let (bulk, mut on_bulk) = way(2, Purpose::Bulk, true);
        assert_eq!(roads.admit(PEER, bulk), Change::Nothing);
        assert_eq!(roads.open(PEER, open().0, Purpose::Link, LIMIT), Handed::Over);
        assert!(on_bulk.opens.try_recv().is_ok());
        assert!(!roads.wants_bulk(PEER));
    }

    #[test]
    fn a_stream_for_much_waits_for_bulk_and_uses_a_link_once_that_cannot_come() {
        let mut roads = Roads::default();
        let mut answers = Vec::new();
        let mut much = |roads: &mut Roads| {
            let (wish, answer) = open();
            answers.push(answer);
            roads.open(PEER, wish, Purpose::Bulk, LIMIT)
        };
        let (link, mut on_link) = way(1, Purpose::Link, true);
        roads.admit(PEER, link);
        assert_eq!(much(&mut roads), Handed::Dial);
        assert!(roads.wants_bulk(PEER));
        let dial = ConnectionId::new_unchecked(2);
        roads.dialling(PEER, dial, Purpose::Bulk);
        assert_eq!(much(&mut roads), Handed::Waits);
        assert!(on_link.opens.try_recv().is_err());
        let (bulk, mut on_bulk) = way(2, Purpose::Bulk, true);
        roads.admit(PEER, bulk);
        assert!(on_bulk.opens.try_recv().is_ok() && on_bulk.opens.try_recv().is_ok());
        roads.close(dial);
        assert_eq!(much(&mut roads), Handed::Dial);
        roads.dialling(PEER, dial, Purpose::Bulk);
        roads.dial_failed(PEER, Some(dial), "refused");
        assert!(on_link.opens.try_recv().is_ok(), "what waited goes over the link");
        assert_eq!(much(&mut roads), Handed::Over, "and so does what comes after");
        assert!(on_link.opens.try_recv().is_ok());
    }

    #[test]
    fn a_stream_for_much_does_not_take_a_link_that_comes_before_its_bulk_connection() {
        let mut roads = Roads::default();
        let dial = ConnectionId::new_unchecked(2);
        let (much, _much) = open();
        assert_eq!(roads.open(PEER, much, Purpose::Bulk, LIMIT), Handed::Dial);
        roads.dialling(PEER, dial, Purpose::Bulk);
        let (little, _little) = open();
        assert_eq!(roads.open(PEER, little, Purpose::Link, LIMIT), Handed::Waits);
        let (link, mut on_link) = way(1, Purpose::Link, false);
        roads.admit(PEER, link);
        assert_eq!(on_link.opens.len(), 1, "what is little need not wait");
        let (bulk, mut on_bulk) = way(2, Purpose::Bulk, true);
        roads.admit(PEER, bulk);
        assert!(on_bulk.opens.try_recv().is_ok() && on_link.opens.try_recv().is_ok());
        assert!(on_link.opens.try_recv().is_err());
    }

    #[test]
    fn a_bulk_connection_that_is_ending_is_dialled_anew() {
        let mut roads = Roads::default();
        let ((link, _on_link), (bulk, on_bulk)) = (way(1, Purpose::Link, true), way(2, Purpose::Bulk, true));
        roads.admit(PEER, link);
        roads.admit(PEER, bulk);
        assert!(!roads.wants_bulk(PEER));
        drop(on_bulk);
        let (much, mut answer) = open();
        assert_eq!(roads.open(PEER, much, Purpose::Bulk, LIMIT), Handed::Dial);
        assert!(roads.wants_bulk(PEER) && answer.try_recv().is_err());
    }

    #[test]
    fn a_stream_for_much_waits_until_no_bulk_dial_is_left_and_then_takes_any_way() {
        let mut roads = Roads::default();
        let ((dead, on_dead), (live, mut on_live)) = (way(1, Purpose::Link, true), way(2, Purpose::Link, false));
        roads.admit(PEER, dead);
        roads.admit(PEER, live);
        drop(on_dead);
        let (much, mut answer) = open();
        roads.open(PEER, much, Purpose::Bulk, LIMIT);
        let [first, second] = [3, 4].map(ConnectionId::new_unchecked);
        roads.dialling(PEER, first, Purpose::Bulk);
        // By the other carrier.
        roads.dialling(PEER, second, Purpose::Bulk);
        roads.dial_failed(PEER, Some(first), "refused");
        let (more, _more) = open();
        assert_eq!(roads.open(PEER, more, Purpose::Bulk, LIMIT), Handed::Waits);
        assert!(on_live.opens.try_recv().is_err());
        roads.dial_failed(PEER, Some(second), "refused");
        assert_eq!(on_live.opens.len(), 2);
        assert_eq!(answer.try_recv().err(), Some(TryRecvError::Empty), "nothing was refused");
        assert!(on_live.opens.try_recv().is_ok());
    }

    #[test]
    fn what_waited_for_bulk_and_finds_no_way_waits_for_the_link_under_way() {
        let mut roads = Roads::default();
        let (much, mut answer) = open();
        roads.open(PEER, much, Purpose::Bulk, LIMIT);
        let [bulk, link] = [1, 2].map(ConnectionId::new_unchecked);
        roads.dialling(PEER, bulk, Purpose::Bulk);
        roads.dialling(PEER, link, Purpose::Link);
        roads.dial_failed(PEER, Some(bulk), "refused");
        assert_eq!(answer.try_recv().err(), Some(TryRecvError::Empty));
        let (link, mut on_link) = way(2, Purpose::Link, true);
        roads.admit(PEER, link);
        assert!(on_link.opens.try_recv().is_ok());
    }

    #[test]
    fn a_peer_that_cannot_be_dialled_is_not_dialled_for_every_stream() {
        let mut roads = Roads::default();
        let (link, queues) = way(1, Purpose::Link, false);
        roads.admit(PEER, link);
        let dial = ConnectionId::new_unchecked(2);
        roads.dialling(PEER, dial, Purpose::Bulk);
        assert!(!roads.wants_bulk(PEER));
        roads.dial_failed(PEER, Some(dial), "refused");
        assert!(!roads.wants_bulk(PEER));
        // Else what finds it ending would wait for nothing.
        drop(queues);
        assert_eq!(roads.open(PEER, open().0, Purpose::Link, LIMIT), Handed::Dial);
        assert!(roads.wants_bulk(PEER));
    }

    #[test]
    fn wishes_given_up_make_room_for_others() {
        let mut roads = Roads::default();
        let wishes: Vec<_> = (0..LIMIT).map(|_| open()).collect();
        let mut answers = Vec::new();
        for (wish, answer) in wishes {
            roads.open(PEER, wish, Purpose::Link, LIMIT);
            answers.push(answer);
        }
        assert_eq!(roads.open(PEER, open().0, Purpose::Link, LIMIT), Handed::Dropped);
        answers.pop();
        assert_eq!(roads.open(PEER, open().0, Purpose::Link, LIMIT), Handed::Dial);
    }

    #[test]
    fn what_waits_for_a_dial_back_goes_with_it_or_is_dropped_with_it() {
        let mut roads = Roads::default();
        let (link, mut queues) = way(1, Purpose::Link, false);
        roads.admit(PEER, link);
        let wait = |roads: &mut Roads| roads.wait(PEER, Bytes::from_static(b"m"), LIMIT);
        assert_eq!([(); LIMIT].map(|()| wait(&mut roads)), [const { Handed::Waits }; LIMIT]);
        assert_eq!(wait(&mut roads), Handed::Dropped);
        assert!(queues.frames.try_recv().is_err());
        roads.flush(PEER);
        assert_eq!(queues.frames.len(), LIMIT);
        wait(&mut roads);
        roads.close(ConnectionId::new_unchecked(1));
        assert_eq!(roads.drop_waiting(PEER), 1);
        assert_eq!(roads.peers.len(), 0);
    }

    #[test]
    fn both_sides_keep_the_link_that_the_smaller_peer_id_dialled() {
        let (small, large) = ids();
        let kept = |me, other, dialled_by_me: [bool; 2]| {
            let mut roads = Roads::default();
            let mut ends = Vec::new();
            for (number, dialled) in dialled_by_me.into_iter().enumerate() {
                let (link, queues) = way(number, Purpose::Link, dialled);
                ends.push(queues);
                roads.admit(PEER, link);
            }
            roads.keep(PEER, true);
            let keeps = roads.keeps(PEER, me, other);
            assert_eq!(keeps.iter().filter(|(_, keep)| *keep).count(), 1);
            keeps.first().map(|(connection, _)| *connection)
        };
        // Connection 0 was dialled by the smaller id, connection 1 by the larger.
        assert_eq!(kept(small, large, [true, false]), Some(ConnectionId::new_unchecked(0)));
        assert_eq!(kept(large, small, [false, true]), Some(ConnectionId::new_unchecked(0)));
    }

    #[test]
    fn both_sides_prefer_a_link_made_long_after_the_other_whoever_made_it() {
        let (small, large) = ids();
        let apart = Duration::from_secs(25);
        for (later, old_first) in [(apart, true), (apart + Duration::from_millis(1), false)] {
            // Connection 0 was dialled by the smaller id, connection 1, later, by the larger.
            for (me, other, mine) in [(small, large, true), (large, small, false)] {
                let mut roads = Roads::new(apart);
                let ((old, mut on_old), (mut new, mut on_new)) =
                    (way(0, Purpose::Link, mine), way(1, Purpose::Link, !mine));
                new.since = old.since + later;
                roads.admit(PEER, old);
                roads.admit(PEER, new);
                roads.keep(PEER, true);
                let keeps = roads.keeps(PEER, me, other);
                assert_eq!(keeps.first(), Some(&(ConnectionId::new_unchecked(usize::from(!old_first)), true)));
                assert_eq!(roads.send(PEER, Bytes::from_static(b"m"), me, other, LIMIT), Handed::Over);
                assert_eq!(
                    (on_old.frames.try_recv().is_ok(), on_new.frames.try_recv().is_ok()),
                    (old_first, !old_first)
                );
            }
        }
    }

    #[test]
    fn only_the_last_link_that_goes_unlinks_a_peer() {
        let mut roads = Roads::default();
        let (first, _one) = way(1, Purpose::Link, true);
        let (second, _two) = way(2, Purpose::Link, false);
        let (bulk, _three) = way(3, Purpose::Bulk, false);
        assert_eq!(roads.admit(PEER, first), Change::Linked);
        assert_eq!(roads.admit(PEER, second), Change::Nothing);
        assert_eq!(roads.admit(PEER, bulk), Change::Nothing);
        let close = |roads: &mut Roads, number| roads.close(ConnectionId::new_unchecked(number));
        assert_eq!(close(&mut roads, 1), Some((PEER, Change::Nothing)));
        assert!(!roads.is_alone());
        assert_eq!(close(&mut roads, 2), Some((PEER, Change::Unlinked)));
        assert!(roads.is_alone());
        assert!(roads.is_reached(PEER));
        assert_eq!(close(&mut roads, 3), Some((PEER, Change::Nothing)));
        assert!(!roads.is_reached(PEER));
        assert_eq!(close(&mut roads, 3), None);
    }
}
