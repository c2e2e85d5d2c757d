//! One of the nodes this one has heard of: distance, liveness, clusters, and what it says of itself.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    Contact,
    message::{ClusterTag, Header},
    rtt::Rtt,
    time::{Instant, Short, Stamp},
};
use crate::{Key, Level, NodeInfo, Prefix};

/// One other node, in 40 bytes. A hundred thousand simulated nodes know three hundred and fifty each: what is added here is paid
/// thirty-five million times.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Who it is, and what it last said of itself and its clusters; shared with its messages, and by all simulated nodes that heard it.
    said: Arc<Header>,
    pub(super) rtt: Rtt,
    /// When a message from it last came; the start if never.
    pub(super) heard: Stamp,
    /// When it was last asked anything; the start if never.
    pub(super) asked: Stamp,
    /// When it was last told about this node, if that was lately.
    greeted: Short,
    marks: Marks,
    tally: Tally,
    /// The levels whose table it is in, a bit each.
    pub(super) tables: u8,
    /// Who admitted it, as a number that `Peers` gave; 0 if that is not known.
    pub(super) operator: u8,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Known>() <= 40, "a neighbour takes more than it may");

impl Known {
    pub(super) fn new(contact: Contact) -> Self {
        Self {
            said: Arc::new(Header { of: contact, ..Header::default() }),
            rtt: Rtt::NONE,
            heard: Stamp::START,
            asked: Stamp::START,
            greeted: Short::default(),
            marks: Marks::default(),
            tally: Tally::default(),
            tables: 0,
            operator: 0,
        }
    }

    pub(super) fn contact(&self) -> Contact {
        self.said.of
    }

    /// A message of it came now. Whether it says something new of its clusters.
    pub(super) fn hear(&mut self, now: Instant, header: Arc<Header>) -> bool {
        // Of one silent for so long it is not known any more when it was greeted: the stamp may have wrapped.
        let returns = self.heard != Stamp::START && Duration::from_nanos(self.heard.age(now)) > Short::TOLD_APART;
        self.heard = Stamp::of(now);
        self.set_misses(0);
        if self.marks.has(Marks::GREETED) && (returns || self.greeted_ago(now) > REGREET) {
            self.marks.set(Marks::GREETED_BEFORE, true);
        }
        let news = !Arc::ptr_eq(&self.said, &header) && *self.said != *header;
        if news {
            self.said = self.signed(header);
        }
        news
    }

    /// What a message says, as said by this node.
    fn signed(&self, mut header: Arc<Header>) -> Arc<Header> {
        let (of, info) = (self.contact(), &self.said.info);
        let agrees = !self.is_described() || info.as_ref().map(Arc::as_ptr) == header.info.as_ref().map(Arc::as_ptr);
        if header.of == of && agrees {
            return header;
        }
        match Arc::get_mut(&mut header) {
            Some(own) => (own.of, own.info) = (of, info.clone()),
            None => header = Arc::new(Header { of, info: info.clone(), clusters: header.clusters.clone() }),
        }
        header
    }

    /// It says this of itself.
    pub(super) fn describe(&mut self, info: Arc<NodeInfo>) {
        if !self.said.info.as_ref().is_some_and(|said| Arc::ptr_eq(said, &info)) {
            self.said = Arc::new(Header { of: self.contact(), info: Some(info), clusters: self.said.clusters.clone() });
        }
        self.marks.set(Marks::DESCRIBED, true);
        self.marks.set(Marks::IN_NETWORK, true);
        self.marks.set(Marks::IN_NETWORK, self.prefix().is_some());
    }

    /// All that it says, as others that know it have it.
    #[cfg(feature = "sim")]
    pub(super) fn identify(&mut self, header: Arc<Header>) {
        let info = header.info.clone();
        self.said = header;
        info.into_iter().for_each(|info| self.describe(info));
    }

    /// What it says of itself, once it has.
    pub(super) fn info(&self) -> Option<&NodeInfo> {
        if self.is_described() { self.said.info.as_deref() } else { None }
    }

    /// Whether it has said something of itself.
    pub(super) const fn is_described(&self) -> bool {
        self.marks.has(Marks::DESCRIBED)
    }

    /// Its clusters, level 1 first, by its last message.
    pub(super) fn tags(&self) -> &[ClusterTag] {
        &self.said.clusters
    }

    /// Its cluster at a non-global level, if it is in one.
    pub(super) fn tag(&self, level: Level) -> Option<&ClusterTag> {
        usize::from(level.0).checked_sub(1).and_then(|at| self.tags().get(at))
    }

    /// Whether it is thought alive and has been reached.
    pub(super) const fn live(&self) -> bool {
        self.reached() && self.misses() < DEAD_AFTER
    }

    /// It is told about this node now.
    pub(super) const fn greet(&mut self, now: Instant) {
        self.greeted = Short::of(now);
        self.marks.set(Marks::GREETED, true);
        self.marks.set(Marks::GREETED_BEFORE, false);
    }

    /// How long ago it was told about this node, if that was lately; very long if not.
    pub(super) const fn greeted_ago(&self, now: Instant) -> Duration {
        let lately = self.marks.has(Marks::GREETED) && !self.marks.has(Marks::GREETED_BEFORE);
        if lately { now.since(self.greeted.moment(now)) } else { Duration::MAX }
    }

    /// Whether it was ever told.
    pub(super) const fn was_greeted(&self) -> bool {
        self.marks.has(Marks::GREETED)
    }

    /// Whether a link to it stands.
    pub(super) const fn linked(&self) -> bool {
        self.marks.has(Marks::LINKED)
    }

    pub(super) const fn set_linked(&mut self, linked: bool) {
        self.marks.set(Marks::LINKED, linked);
    }

    /// Whether it has answered a question of ours: it may be in tables.
    pub(super) const fn reached(&self) -> bool {
        self.marks.has(Marks::REACHED)
    }

    pub(super) const fn set_reached(&mut self) {
        self.marks.set(Marks::REACHED, true);
    }

    /// Questions in a row that it did not answer, up to seven.
    pub(super) const fn misses(&self) -> u8 {
        self.tally.0 & Tally::MOST
    }

    pub(super) const fn set_misses(&mut self, misses: u8) {
        self.tally = Tally::of(misses, self.odd());
    }

    /// Answers in a row that put it at another level than its minimum does, up to seven.
    pub(super) const fn odd(&self) -> u8 {
        self.tally.0 >> Tally::BITS
    }

    pub(super) const fn set_odd(&mut self, odd: u8) {
        self.tally = Tally::of(self.misses(), odd);
    }

    /// Whether this node keeps its link.
    pub(super) const fn kept_here(&self) -> bool {
        self.marks.has(Marks::KEPT_HERE)
    }

    /// Keeps its link from now on, or no more. Whether that is a change.
    pub(super) const fn keep_here(&mut self, keep: bool) -> bool {
        let changes = self.kept_here() != keep;
        self.marks.set(Marks::KEPT_HERE, keep);
        changes
    }

    /// Whether it keeps the link itself, as far as that was noted.
    #[cfg(feature = "sim")]
    pub(super) const fn kept_there(&self) -> bool {
        self.marks.has(Marks::KEPT_THERE)
    }

    /// Notes that it does, or no more.
    #[cfg(feature = "sim")]
    pub(super) const fn keep_there(&mut self, keep: bool) {
        self.marks.set(Marks::KEPT_THERE, keep);
    }

    /// Whether it has been reached once and is thought dead.
    pub(super) const fn is_lost(&self) -> bool {
        self.reached() && !self.live()
    }

    /// Whether it may not be forgotten.
    pub(super) const fn is_kept(&self) -> bool {
        self.kept_here() || self.linked() || self.tables != 0
    }

    /// Its measured distance; none before the first sample.
    pub(super) fn distance(&self) -> Option<Duration> {
        self.rtt.minimum()
    }

    /// What it costs to be asked, for choosing between neighbours: its distance in microseconds, the most if unknown.
    pub(super) fn cost(&self) -> u64 {
        self.rtt.minimum_micros().map_or(u64::MAX, u64::from)
    }

    /// The network it says it is reached in; none on loopback, or if it has not said.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        let info = if self.marks.has(Marks::IN_NETWORK) { self.info() } else { None }?;
        let v4 = info.v4.first().copied().map(IpAddr::from);
        let address = v4.or_else(|| info.v6.first().copied().map(IpAddr::from))?;
        (!address.is_loopback()).then(|| Prefix::of(address))
    }

    /// The ids of its clusters.
    pub(super) fn clusters(&self) -> Vec<Key> {
        self.tags().iter().map(|tag| tag.id).collect()
    }
}

/// What is true of it, a bit each.
#[derive(Debug, Clone, Copy, Default)]
struct Marks(u8);

impl Marks {
    /// A link to it stands.
    const LINKED: u8 = 1;
    /// It has answered.
    const REACHED: u8 = 1 << 1;
    /// This end keeps its link.
    const KEPT_HERE: u8 = 1 << 2;
    /// The other end does.
    #[cfg(feature = "sim")]
    const KEPT_THERE: u8 = 1 << 3;
    /// It was told about this node,
    const GREETED: u8 = 1 << 4;
    /// and longer ago than matters.
    const GREETED_BEFORE: u8 = 1 << 5;
    /// It has described itself,
    const DESCRIBED: u8 = 1 << 6;
    /// and said in which network it is reached.
    const IN_NETWORK: u8 = 1 << 7;

    const fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    const fn set(&mut self, mark: u8, on: bool) {
        self.0 = if on { self.0 | mark } else { self.0 & !mark };
    }
}

/// Its misses, then its odd answers; both end at the most.
#[derive(Debug, Clone, Copy, Default)]
struct Tally(u8);

impl Tally {
    const BITS: u8 = 3;
    const MOST: u8 = (1 << Self::BITS) - 1;

    const fn of(misses: u8, odd: u8) -> Self {
        const fn most(count: u8) -> u8 {
            if count > Tally::MOST { Tally::MOST } else { count }
        }
        Self(most(odd) << Self::BITS | most(misses))
    }
}

/// A node is not told about this one again within this time, unless something changed.
pub(super) const REGREET: Duration = Duration::from_secs(5);

/// Unanswered questions in a row after which a node counts as dead.
pub(super) const DEAD_AFTER: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Roles,
        core::{Age, Peer, Tags},
    };

    fn contact(number: u32) -> Contact {
        Contact { peer: Peer(number), id: Key::of(&number.to_be_bytes()).into() }
    }

    fn tags(size: u32) -> Tags {
        [ClusterTag { id: Key::ZERO, age: Age::NEW, size }].into_iter().collect()
    }

    fn at(seconds: u64) -> Instant {
        Instant::at(Duration::from_secs(seconds))
    }

    #[test]
    fn what_a_node_says_is_shared_if_it_says_who_it_is_and_signed_if_not() {
        let (mut known, info) = (Known::new(contact(1)), Arc::new(NodeInfo::new(contact(1).id, Roles::PROXY)));
        let own = Arc::new(Header { clusters: tags(1), of: contact(1), info: Some(Arc::clone(&info)) });
        assert!(known.hear(at(1), Arc::clone(&own)) && Arc::ptr_eq(&known.said, &own));
        assert!(!known.hear(at(1), Arc::new(Header { clusters: tags(1), ..Header::default() })));
        assert!(known.info().is_none(), "it has not said it to this node");
        known.describe(info);
        assert!(known.info().is_some() && Arc::ptr_eq(&known.said, &own));
        // As read from a wire, and one that others hold too and that names another node.
        let others = Arc::new(Header { clusters: tags(3), of: contact(2), info: None });
        for header in [Arc::new(Header { clusters: tags(2), ..Header::default() }), Arc::clone(&others)] {
            let clusters = header.clusters.clone();
            assert!(known.hear(at(2), header));
            assert_eq!((known.contact(), known.tags()), (contact(1), &*clusters));
            assert_eq!(known.info().map(|info| info.id), Some(contact(1).id));
        }
        assert_eq!(others.of, contact(2));
    }

    #[test]
    fn a_greeting_counts_until_it_is_longer_ago_than_matters_and_never_again() {
        let mut known = Known::new(contact(1));
        assert_eq!((known.was_greeted(), known.greeted_ago(at(100))), (false, Duration::MAX));
        known.greet(at(100));
        let ago = known.greeted_ago(at(104));
        assert!(known.was_greeted() && ago >= Duration::from_secs(4) && ago < Duration::from_millis(4_016), "{ago:?}");
        known.hear(at(106), Arc::default());
        // 2^16 ticks of 16 ms are 1,048.576 s.
        for later in [106, 1_148, 1_149, 2_197] {
            assert_eq!((known.was_greeted(), known.greeted_ago(at(later))), (true, Duration::MAX), "{later}");
        }
        known.greet(at(2_200));
        assert!(known.greeted_ago(at(2_201)) < REGREET);
        // Nor of one that is silent until the stamp has wrapped.
        let mut silent = Known::new(contact(2));
        silent.hear(at(100), Arc::new(Header::default()));
        silent.greet(at(100));
        silent.hear(at(1_150), Arc::new(Header::default()));
        assert_eq!(silent.greeted_ago(at(1_150)), Duration::MAX);
    }

    #[test]
    fn misses_and_odd_answers_are_counted_apart_and_each_ends_at_seven() {
        let mut known = Known::new(contact(1));
        for count in 0..20_u8 {
            assert_eq!((known.misses(), known.odd()), (count.min(7), 2 * u8::from(count > 0)));
            known.set_misses(known.misses() + 1);
            known.set_odd(2);
        }
        known.set_odd(200);
        assert_eq!((known.misses(), known.odd()), (7, 7));
    }
}
