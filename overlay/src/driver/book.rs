//! The address book: which handle stands for which node, and where each can be dialled. It writes and reads the contact records by
//! which nodes name one another.
//! Layout of a record (protobuf, at most 256 bytes): { 1: peer id, 2: serial, 3: addresses, at most 3 multiaddrs }.
//!
//! What a node says of itself on connect goes before what others say of it, and is told to nobody before it was dialled there with
//! success: else whoever is connected could send the network to any address. The book is bounded: past its limit the longest unused
//! node that is not held (linked) is forgotten, and its handle never comes back.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use prost::Message as _;

use super::address::{self, Carrier};
use crate::{
    NodeId,
    core::{Contact, Peer, time::Instant, wire},
};

/// All nodes this one has met or heard of.
#[derive(Debug)]
pub(super) struct AddressBook {
    network: String,
    limit: usize,
    /// Whether addresses inside loopback, told by others, are believed: only if this node is itself there.
    loopback: bool,
    next: u32,
    entries: BTreeMap<Peer, Entry>,
    by_id: BTreeMap<NodeId, Peer>,
    /// Entries that may be forgotten, longest unused first.
    unheld: BTreeMap<u64, Peer>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    contact: Contact,
    peer_id: PeerId,
    serial: u64,
    addresses: Vec<Multiaddr>,
    /// Those of the addresses at which it was itself dialled, and answered.
    verified: Vec<Multiaddr>,
    /// When its own word was last put to the test.
    tested: Option<Instant>,
    record: Option<Bytes>,
    /// The carrier by which it was dialled last with success.
    reached: Option<Carrier>,
    told: Told,
    held: bool,
    used: u64,
    /// When it was last met, by the count of uses; zero in an earlier life; none if it never was.
    met: Option<u64>,
}

/// Where an entry's addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// From the node itself, when linked.
    ByItself,
    /// From another node.
    ByOthers,
    /// From anybody, and the last dial failed: newer word replaces them.
    InVain,
}

/// How a node can be dialled: by the addresses of one carrier, and if they all fail by those of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) peer_id: PeerId,
    pub(super) first: Vec<Multiaddr>,
    pub(super) second: Vec<Multiaddr>,
}

/// A node as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) peer_id: PeerId,
    pub(super) serial: u64,
}

impl AddressBook {
    /// A book that knows only its owner, under the handle [`AddressBook::ME`].
    pub(super) fn new(network: &str, me: Name, limit: usize, loopback: bool) -> Self {
        let mut book = Self {
            network: network.to_owned(),
            limit,
            loopback,
            next: 0,
            entries: BTreeMap::new(),
            by_id: BTreeMap::new(),
            unheld: BTreeMap::new(),
            uses: 0,
        };
        let contact = book.add(me, Vec::new(), Told::ByItself);
        debug_assert_eq!(contact.peer, Self::ME);
        book.hold(Self::ME);
        book
    }

    /// This node's own handle.
    pub(super) const ME: Peer = Peer(0);

    /// The owner as others see it.
    pub(super) fn me(&self) -> Contact {
        self.entries
            .get(&Self::ME)
            .map_or_else(|| unreachable!("the owner is held from the start"), |entry| entry.contact)
    }

    /// Sets where the owner can be dialled.
    pub(super) fn advertise(&mut self, addresses: Vec<Multiaddr>) {
        if let Some(entry) = self.entries.get_mut(&Self::ME) {
            entry.set(addresses, Told::ByItself);
        }
    }

    /// A node showed its certificate and said where it can be dialled.
    pub(super) fn meet(&mut self, name: Name, addresses: Vec<Multiaddr>) -> Contact {
        let addresses = self.believable(addresses);
        let contact = match self.find(name) {
            Some(contact) => contact,
            None => self.add(name, Vec::new(), Told::ByOthers),
        };
        self.touch(contact.peer);
        let uses = self.uses;
        if let Some(entry) = self.entries.get_mut(&contact.peer).filter(|_| contact.peer != Self::ME) {
            entry.met = Some(uses);
            if !addresses.is_empty() {
                entry.set(addresses, Told::ByItself);
            }
        }
        contact
    }

    /// Somebody, an operator or a peer, says where a node can be dialled. None if that is no use and it was not known.
    pub(super) fn hear(&mut self, name: Name, addresses: Vec<Multiaddr>) -> Option<Contact> {
        let addresses = self.believable(addresses);
        let Some(contact) = self.find(name) else {
            return (!addresses.is_empty() && self.make_room()).then(|| self.add(name, addresses, Told::ByOthers));
        };
        self.touch(contact.peer);
        let entry = self.entries.get_mut(&contact.peer)?;
        if entry.told != Told::ByItself && !addresses.is_empty() {
            entry.set(addresses, Told::ByOthers);
        }
        Some(contact)
    }

    /// This node was met in an earlier life: saved again until it is forgotten for want of room.
    pub(super) fn keep_saved(&mut self, peer: Peer) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.met.get_or_insert(0);
        }
    }

    /// No address of this node answered.
    pub(super) fn in_vain(&mut self, peer: Peer) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.told = Told::InVain;
        }
    }

    /// Keeps a node from being forgotten while it is linked.
    pub(super) fn hold(&mut self, peer: Peer) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.held = true;
            self.unheld.remove(&entry.used);
        }
    }

    /// Lets a node be forgotten again, as the last used.
    pub(super) fn release(&mut self, peer: Peer) {
        if let Some(entry) = self.entries.get_mut(&peer).filter(|_| peer != Self::ME) {
            entry.held = false;
        }
        self.touch(peer);
    }

    /// How libp2p names this node.
    pub(super) fn peer_id(&self, peer: Peer) -> Option<PeerId> {
        Some(self.entries.get(&peer)?.peer_id)
    }

    /// Whom to dial and where, by each carrier that reaches it: the one that did last goes first, else the one preferred. Counts as
    /// a use.
    pub(super) fn route(&mut self, peer: Peer, preferred: Carrier) -> Option<Route> {
        self.touch(peer);
        let entry = self.entries.get(&peer)?;
        let first = entry.reached.unwrap_or(preferred);
        let (one, other): (Vec<_>, Vec<_>) =
            entry.addresses.iter().cloned().partition(|at| address::carrier(at) == first);
        let (first, second) = if one.is_empty() { (other, one) } else { (one, other) };
        (!first.is_empty()).then_some(Route { peer_id: entry.peer_id, first, second })
    }

    /// This node was dialled there, and answered.
    pub(super) fn reached(&mut self, peer: Peer, at: &Multiaddr) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.reached = Some(address::carrier(at));
        if entry.addresses.contains(at) && !entry.verified.contains(at) {
            entry.verified.push(at.clone());
            entry.write();
        }
    }

    /// Whether this node is where it says, as far as is known: at one of its addresses at least.
    pub(super) fn is_verified(&self, peer: Peer) -> bool {
        self.entries.get(&peer).is_some_and(|entry| !entry.verified.is_empty())
    }

    /// Whether this node was found at this address.
    pub(super) fn is_found_at(&self, peer: Peer, at: &Multiaddr) -> bool {
        self.entries.get(&peer).is_some_and(|entry| entry.verified.contains(at))
    }

    /// Where this node says it is and was not found yet, to be dialled now: none if that was tried within the last `pause`.
    pub(super) fn due_test(&mut self, peer: Peer, now: Instant, pause: Duration) -> Option<(PeerId, Vec<Multiaddr>)> {
        let entry = self.entries.get_mut(&peer).filter(|entry| entry.told == Told::ByItself)?;
        if entry.tested.is_some_and(|tested| now.since(tested) < pause) {
            return None;
        }
        let unproved: Vec<_> = entry.addresses.iter().filter(|at| !entry.verified.contains(at)).cloned().collect();
        if unproved.is_empty() {
            return None;
        }
        entry.tested = Some(now);
        Some((entry.peer_id, unproved))
    }

    /// The handle of the node at this place, if it is known.
    pub(super) fn peer(&self, id: NodeId) -> Option<Peer> {
        self.by_id.get(&id).copied()
    }

    /// Records of the nodes met last, latest first, at most this many: what is worth saving.
    pub(super) fn met(&self, count: usize) -> Vec<Bytes> {
        let mut met: Vec<_> =
            self.entries.values().filter_map(|entry| Some((entry.met?, entry.record.clone()?))).collect();
        met.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        met.into_iter().take(count).map(|(_, record)| record).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn find(&self, name: Name) -> Option<Contact> {
        let id = name.id(&self.network);
        self.by_id.get(&id).map(|peer| Contact { peer: *peer, id })
    }

    fn add(&mut self, name: Name, addresses: Vec<Multiaddr>, told: Told) -> Contact {
        let contact = Contact { peer: Peer(self.next), id: name.id(&self.network) };
        self.next = self.next.checked_add(1).unwrap_or_else(|| unreachable!("four thousand million peers met"));
        self.uses += 1;
        let Name { peer_id, serial } = name;
        let mut entry = Entry {
            contact,
            peer_id,
            serial,
            addresses: Vec::new(),
            verified: Vec::new(),
            tested: None,
            record: None,
            reached: None,
            told,
            held: false,
            used: self.uses,
            met: None,
        };
        entry.set(addresses, told);
        self.unheld.insert(self.uses, contact.peer);
        self.by_id.insert(contact.id, contact.peer);
        self.entries.insert(contact.peer, entry);
        contact
    }

    fn touch(&mut self, peer: Peer) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        self.uses += 1;
        self.unheld.remove(&entry.used);
        entry.used = self.uses;
        if !entry.held {
            self.unheld.insert(self.uses, peer);
        }
    }

    /// Forgets until one more fits. False if all are held.
    fn make_room(&mut self) -> bool {
        while self.entries.len() >= self.limit {
            let Some((_, peer)) = self.unheld.pop_first() else { return false };
            if let Some(entry) = self.entries.remove(&peer) {
                self.by_id.remove(&entry.contact.id);
            }
        }
        true
    }

    fn believable(&self, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        addresses.retain(|at| address::is_dialable(at) && (self.loopback || !address::is_loopback(at)));
        addresses.truncate(address::LIMIT);
        addresses
    }
}

impl wire::Book for AddressBook {
    fn record(&self, peer: Peer) -> Option<Bytes> {
        self.entries.get(&peer)?.record.clone()
    }

    fn intern(&mut self, record: &[u8]) -> Option<Contact> {
        let (name, addresses) = read_record(record)?;
        self.hear(name, addresses)
    }
}

impl Name {
    fn id(self, network: &str) -> NodeId {
        NodeId::of(network, self.serial, &self.peer_id.to_bytes())
    }
}

impl Entry {
    fn set(&mut self, addresses: Vec<Multiaddr>, told: Told) {
        if self.told == told && self.addresses == addresses {
            return;
        }
        if self.addresses != addresses {
            // Another word is put to the test at once.
            self.tested = None;
        }
        self.told = told;
        self.verified.retain(|at| addresses.contains(at));
        self.addresses = addresses;
        self.write();
    }

    /// Makes the record anew: hearsay is passed on as heard, its own word as far as it was found true.
    fn write(&mut self) {
        let mine = self.contact.peer == AddressBook::ME;
        let told = match self.told {
            Told::ByItself if !mine => &self.verified,
            Told::ByItself | Told::ByOthers | Told::InVain => &self.addresses,
        };
        self.record = (!told.is_empty()).then(|| write_record(self.peer_id, self.serial, told));
    }
}

/// The record of a node; addresses that no longer fit are left out.
fn write_record(peer_id: PeerId, serial: u64, addresses: &[Multiaddr]) -> Bytes {
    let mut wire = RecordWire { peer_id: peer_id.to_bytes(), serial, addresses: Vec::new() };
    for address in addresses.iter().take(address::LIMIT) {
        wire.addresses.push(address.to_vec());
        if wire.encoded_len() > wire::RECORD_LIMIT {
            wire.addresses.pop();
        }
    }
    wire.encode_to_vec().into()
}

/// The node that a record names. None for bytes that are none.
fn read_record(record: &[u8]) -> Option<(Name, Vec<Multiaddr>)> {
    if record.len() > wire::RECORD_LIMIT {
        return None;
    }
    let wire = RecordWire::decode(record).ok()?;
    let peer_id = PeerId::from_bytes(&wire.peer_id).ok()?;
    let addresses = wire.addresses.iter().take(address::LIMIT).filter_map(|bytes| address::parse(bytes)).collect();
    Some((Name { peer_id, serial: wire.serial }, addresses))
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordWire {
    #[prost(bytes = "vec", tag = "1")]
    peer_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    serial: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    addresses: Vec<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::{
        AddressBook, Carrier, Duration, Instant, Multiaddr, Name, PeerId, read_record, wire::Book as _, write_record,
    };
    use crate::core::wire::RECORD_LIMIT;

    fn name() -> Name {
        Name { peer_id: PeerId::random(), serial: 0 }
    }

    fn at(host: &str) -> Vec<Multiaddr> {
        vec![format!("/ip4/{host}/tcp/7400").parse().unwrap()]
    }

    #[test]
    fn a_record_names_the_same_node_in_every_book() {
        let (a, b, c) = (name(), name(), name());
        let mut here = AddressBook::new("net", a, 16, true);
        let mut there = AddressBook::new("net", b, 16, true);
        let met = here.meet(c, at("127.0.0.3"));
        here.reached(met.peer, &at("127.0.0.3")[0]);
        let record = here.record(met.peer).unwrap();
        let heard = there.intern(&record).unwrap();
        assert_eq!(heard.id, met.id);
        let route = there.route(heard.peer, Carrier::Tcp).unwrap();
        assert_eq!((route.peer_id, route.first, route.second), (c.peer_id, at("127.0.0.3"), Vec::new()));
        assert_eq!(there.peer(met.id), Some(heard.peer));
        assert_eq!(there.intern(&here.record(AddressBook::ME).unwrap_or_default()), None, "no address, no record");
        here.advertise(at("127.0.0.1"));
        assert_eq!(there.intern(&here.record(AddressBook::ME).unwrap()).unwrap().id, here.me().id);
    }

    #[test]
    fn what_a_node_says_of_itself_goes_before_what_others_say_until_it_fails() {
        let c = name();
        let mut book = AddressBook::new("net", name(), 16, true);
        let peer = book.meet(c, at("192.0.2.1")).peer;
        book.hear(c, at("192.0.2.2"));
        assert_eq!(book.route(peer, Carrier::Tcp).unwrap().first, at("192.0.2.1"));
        book.in_vain(peer);
        book.hear(c, at("192.0.2.2"));
        assert_eq!(book.route(peer, Carrier::Tcp).unwrap().first, at("192.0.2.2"));
    }

    #[test]
    fn the_carrier_that_reached_a_node_last_goes_before_the_preferred_one() {
        let mut book = AddressBook::new("net", name(), 16, true);
        let quic: Vec<Multiaddr> = vec!["/ip4/192.0.2.1/udp/7400/quic-v1".parse().unwrap()];
        let peer = book.meet(name(), [at("192.0.2.1"), quic.clone()].concat()).peer;
        let route = |book: &mut AddressBook| book.route(peer, Carrier::Tcp).unwrap();
        assert_eq!((route(&mut book).first, route(&mut book).second), (at("192.0.2.1"), quic.clone()));
        book.reached(peer, &quic[0]);
        assert_eq!((route(&mut book).first, route(&mut book).second), (quic.clone(), at("192.0.2.1")));
        let alone = book.meet(name(), quic.clone()).peer;
        assert_eq!(book.route(alone, Carrier::Tcp).unwrap().first, quic);
    }

    #[test]
    fn what_a_node_says_of_itself_is_told_on_only_where_it_was_found() {
        let (now, pause) = (Instant::START, Duration::from_secs(60));
        let mut book = AddressBook::new("net", name(), 16, true);
        let both = [at("192.0.2.1"), at("192.0.2.2")].concat();
        let peer = book.meet(name(), both.clone()).peer;
        assert_eq!((book.record(peer), book.is_verified(peer)), (None, false));
        assert_eq!(book.due_test(peer, now, pause).unwrap().1, both);
        assert_eq!(book.due_test(peer, now, pause), None, "once in a while");
        book.reached(peer, &both[1]);
        assert_eq!(read_record(&book.record(peer).unwrap()).unwrap().1, both[1..]);
        assert_eq!(
            book.due_test(peer, now + pause, pause).unwrap().1,
            both[..1],
            "the other one is not believed by that"
        );
        // Found elsewhere than it says, it is not told on.
        let other = book.meet(name(), at("192.0.2.3")).peer;
        book.reached(other, &both[0]);
        assert_eq!((book.record(other), book.is_verified(other)), (None, false));
    }

    #[test]
    fn loopback_addresses_told_by_others_are_believed_only_inside_loopback() {
        let mut book = AddressBook::new("net", name(), 16, false);
        assert_eq!(book.hear(name(), at("127.0.0.1")), None);
        assert!(book.hear(name(), at("192.0.2.1")).is_some());
    }

    #[test]
    fn past_the_limit_the_longest_unused_that_is_not_held_is_forgotten() {
        let mut book = AddressBook::new("net", name(), 4, true);
        let held = book.meet(name(), at("192.0.2.1"));
        book.hold(held.peer);
        let old = book.hear(name(), at("192.0.2.2")).unwrap();
        let used = book.hear(name(), at("192.0.2.3")).unwrap();
        for peer in [old.peer, used.peer, old.peer] {
            book.route(peer, Carrier::Tcp);
        }
        let new = book.hear(name(), at("192.0.2.4")).unwrap();
        assert_eq!(book.len(), 4);
        assert_eq!(book.peer(used.id), None);
        assert_eq!(book.record(used.peer), None);
        for kept in [held, old, new] {
            assert_eq!(book.peer(kept.id), Some(kept.peer));
        }
        book.hold(old.peer);
        book.hold(new.peer);
        assert_eq!(book.hear(name(), at("192.0.2.5")), None, "all are held");
        book.release(new.peer);
        assert!(book.hear(name(), at("192.0.2.5")).is_some());
    }

    #[test]
    fn those_met_last_are_saved_first_and_those_of_an_earlier_life_last() {
        let mut book = AddressBook::new("net", name(), 16, true);
        let old = book.hear(name(), at("192.0.2.1")).unwrap();
        book.keep_saved(old.peer);
        book.hear(name(), at("192.0.2.2"));
        let met = [3, 4].map(|last| {
            let there = at(&format!("192.0.2.{last}"));
            let met = book.meet(name(), there.clone());
            book.reached(met.peer, &there[0]);
            met
        });
        let records = [met[1], met[0], old].map(|contact| book.record(contact.peer).unwrap());
        assert_eq!(book.met(9), records);
        assert_eq!(book.met(1), records[..1]);
    }

    #[test]
    fn a_record_keeps_as_many_addresses_as_fit() {
        let long: Multiaddr = format!("/dns/{}.example.test/tcp/7400", "a".repeat(48)).parse().unwrap();
        let record = write_record(PeerId::random(), u64::MAX, &vec![long; 3]);
        assert!(record.len() <= RECORD_LIMIT);
        assert!(!read_record(&record).unwrap().1.is_empty());
    }

    #[test]
    fn foreign_bytes_are_a_record_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some((name, addresses)) = read_record(bytes) {
                assert!(write_record(name.peer_id, name.serial, &addresses).len() <= RECORD_LIMIT);
            }
        });
    }
}
