//! The nodes this one has heard of: distance, liveness, clusters, and what they say of themselves. In a table or not; bounded.
//! They stand in the order of their ids, so that `routing.rs` finds the nearest to a point without looking at all.

use std::{cell::Cell, net::IpAddr, ops::Range, sync::Arc, time::Duration};

use super::{
    Contact, Peer,
    message::{ClusterTag, Header},
    rtt::Rtt,
    time::{Instant, Short, Stamp},
};
use crate::{Key, Level, NodeId, NodeInfo, Prefix};

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
    /// Who admitted it, as a number that [`Peers::operator`] gave; 0 if that is not known.
    pub(super) operator: u8,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Known>() <= 40, "a neighbour takes more than it may");

impl Known {
    fn new(contact: Contact) -> Self {
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
        self.heard = Stamp::of(now);
        self.set_misses(0);
        if self.marks.has(Marks::GREETED) && self.greeted_ago(now) > REGREET {
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

/// How many nodes a bucket holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets {
    pub(super) size: usize,
    /// Of one prefix, where there are others.
    pub(super) per_prefix: usize,
    /// Of one operator, where there are others.
    pub(super) per_operator: usize,
}

/// One bucket of a table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// No node in it costs more than this.
    pub(super) farthest: u32,
    /// How many nodes are in it.
    pub(super) count: u8,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    pub(super) me: NodeId,
    /// The first four bytes of each id, in order: what a search looks at first.
    pub(super) heads: Vec<u32>,
    /// Every `stride`th of them, the highest number past the last: a search looks at two places in memory instead of ten.
    fences: [u32; FENCES],
    stride: usize,
    /// In the order of their ids.
    pub(super) all: Vec<Known>,
    pub(super) buckets: Buckets,
    /// Those who admitted nodes that are known; their place here, from 1 on, is their number.
    operators: Vec<Key>,
    /// The head of who was found last, and where: one input asks for one node many times.
    recent: Cell<(u32, usize)>,
    /// The buckets of each level's table, by the bits their nodes share with this one.
    pub(super) tables: Vec<Vec<Bucket>>,
    /// How large each level's cluster is thought to be.
    pub(super) estimates: [u32; LEVELS],
    /// Some may be dead. Set when one is found so; taken back when a look at all of them finds none.
    some_dead: bool,
    /// Before this none may be forgotten: when to look at all of them again.
    kept_until: Instant,
    limit: usize,
}

impl Peers {
    pub(super) fn new(me: NodeId, levels: usize, buckets: Buckets, limit: usize) -> Self {
        Self {
            me,
            heads: Vec::new(),
            fences: [u32::MAX; FENCES],
            stride: 1,
            all: Vec::new(),
            buckets: Buckets { size: buckets.size.min(usize::from(u8::MAX)), ..buckets },
            operators: Vec::new(),
            recent: Cell::new((0, usize::MAX)),
            tables: vec![Vec::new(); levels.min(LEVELS)],
            estimates: [1; LEVELS],
            some_dead: false,
            kept_until: Instant::START,
            limit,
        }
    }

    /// The node's entry, made if it is new. Past the limit the longest unheard that need not be kept goes; if all are kept, the
    /// newcomer gets none.
    pub(super) fn entry(&mut self, contact: Contact) -> Option<&mut Known> {
        let mut place = self.place(contact.id);
        if let Err(at) = place
            && self.all.len() >= self.limit
        {
            let idle = self.all.iter().enumerate().filter(|(_, known)| !known.is_kept());
            let (oldest, _) = idle.min_by_key(|(_, known)| known.heard)?;
            self.all.remove(oldest);
            self.heads.remove(oldest);
            self.set_fences();
            place = Err(at - usize::from(oldest < at));
        }
        let at = match place {
            Ok(at) => at,
            Err(at) => {
                make_room(&mut self.heads);
                make_room(&mut self.all);
                self.heads.insert(at, contact.id.key().head());
                self.all.insert(at, Known::new(contact));
                self.set_fences();
                self.loosen();
                self.recent.set((contact.id.key().head(), at));
                at
            }
        };
        let known = self.all.get_mut(at)?;
        // A driver that reuses a handle for another node has broken its promise; the old id would poison every distance.
        debug_assert_eq!(known.contact(), contact, "a handle stands for one node for ever");
        Some(known)
    }

    /// There will be so many in all.
    #[cfg(feature = "sim")]
    pub(super) fn make_room_for(&mut self, count: usize) {
        let count = count.min(self.limit);
        self.heads.reserve_exact(count.saturating_sub(self.heads.len()));
        self.all.reserve_exact(count.saturating_sub(self.all.len()));
    }

    /// The number of who admits nodes. Past as many as there are numbers the rest counts as not known: the network key grants few
    /// admission keys.
    pub(super) fn operator(&mut self, operator: Key) -> u8 {
        let place = self.operators.iter().position(|one| *one == operator).unwrap_or(self.operators.len());
        let Ok(number) = u8::try_from(place + 1) else { return 0 };
        if place == self.operators.len() {
            self.operators.push(operator);
        }
        number
    }

    pub(super) fn get(&self, contact: Contact) -> Option<&Known> {
        self.place(contact.id).ok().and_then(|at| self.all.get(at))
    }

    pub(super) fn get_mut(&mut self, contact: Contact) -> Option<&mut Known> {
        self.place(contact.id).ok().and_then(|at| self.all.get_mut(at))
    }

    /// The node with this handle. Looks at all: for what happens rarely.
    pub(super) fn find(&self, peer: Peer) -> Option<Contact> {
        self.all.iter().map(Known::contact).find(|contact| contact.peer == peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.all.iter()
    }

    /// So many of them, from a place on and around the end.
    pub(super) fn turn(&self, from: usize, count: usize) -> impl Iterator<Item = &Known> {
        let (before, after) = self.all.split_at_checked(from % self.all.len().max(1)).unwrap_or_default();
        after.iter().chain(before).take(count)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.all.iter_mut()
    }

    /// Those that were reached once and are thought dead.
    pub(super) fn lost(&self) -> impl Iterator<Item = &Known> {
        // Most of the time there is none, and what is not looked at need not be fetched from memory.
        let all = if self.some_dead { self.all.as_slice() } else { &[] };
        all.iter().filter(|known| known.is_lost())
    }

    /// Whether there may be some that did not answer for long, reached before or not.
    pub(super) const fn may_have_dead(&self) -> bool {
        self.some_dead
    }

    /// One of them was found dead.
    pub(super) const fn note_death(&mut self) {
        self.some_dead = true;
    }

    /// Something that kept one of them from being forgotten is gone.
    pub(super) const fn loosen(&mut self) {
        self.kept_until = Instant::START;
    }

    /// Forgets passers-by that were silent for so long: those that need not be kept and are not lost.
    pub(super) fn prune(&mut self, now: Instant, silence: Duration) {
        let silent_at = |known: &Known| known.heard.moment(now).max(known.asked.moment(now)) + silence;
        let goes = |known: &Known| !known.is_kept() && !known.is_lost() && silent_at(known) <= now;
        if now < self.kept_until && !self.some_dead {
            debug_assert!(!self.all.iter().any(goes), "none is to be forgotten before `kept_until`");
            return;
        }
        let before = self.all.len();
        // By what is looked at anyway: who each of them is lies elsewhere in memory.
        let mut stays = self.all.iter().map(|known| !goes(known));
        self.heads.retain(|_| stays.next().unwrap_or(false));
        if self.heads.len() < before {
            self.all.retain(|known| !goes(known));
            self.set_fences();
        }
        self.some_dead = self.all.iter().any(|known| known.misses() >= DEAD_AFTER);
        let passing = self.all.iter().filter(|known| !known.is_kept() && !known.is_lost());
        self.kept_until = passing.map(silent_at).min().unwrap_or(Instant::at(Duration::MAX));
    }

    /// See `glance.rs`.
    #[cfg(feature = "sim")]
    pub(super) fn glance(&self) -> usize {
        let fences = self.fences.iter().step_by(16).fold(0, |seen, one| seen ^ one);
        usize::try_from(fences).unwrap_or(0) ^ self.heads.len() ^ self.tables.len() ^ self.limit
    }

    /// The same of the stretch of heads that a node's is in.
    #[cfg(feature = "sim")]
    pub(super) fn glance_heads(&self, id: NodeId) -> usize {
        let heads = self.heads.get(self.fenced(id.key().head())).unwrap_or_default();
        let ends = heads.first().zip(heads.last()).map_or(0, |(first, last)| first ^ last);
        usize::try_from(ends).unwrap_or(0)
    }

    /// The same of all heads, for a search among them.
    #[cfg(feature = "sim")]
    pub(super) fn glance_all_heads(&self) -> usize {
        let heads = self.heads.iter().step_by(16).fold(0, |seen, one| seen ^ one);
        usize::try_from(heads).unwrap_or(0)
    }

    /// Where a node stands if it is known, by the heads alone.
    #[cfg(feature = "sim")]
    pub(super) fn spot(&self, id: NodeId) -> usize {
        let head = id.key().head();
        let between = self.fenced(head);
        between.start + self.heads.get(between.clone()).unwrap_or_default().partition_point(|one| *one < head)
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// See [`Known::distance`].
    pub(super) fn distance(&self, id: NodeId) -> Option<Duration> {
        self.place(id).ok().and_then(|at| self.all.get(at)).and_then(Known::distance)
    }

    /// Where a node stands, or would stand.
    pub(super) fn place(&self, id: NodeId) -> Result<usize, usize> {
        let head = id.key().head();
        let is_at = |place: usize| self.all.get(place).is_some_and(|known| known.said.of.id == id);
        // Others may have come or gone since, so whoever stands there is looked at.
        let (last, place) = self.recent.get();
        if last == head && is_at(place) {
            return Ok(place);
        }
        let between = self.fenced(head);
        let from =
            between.start + self.heads.get(between.clone()).unwrap_or_default().partition_point(|one| *one < head);
        if self.heads.get(from) != Some(&head) {
            return Err(from);
        }
        // Hardly ever do two heads agree.
        if is_at(from) {
            self.recent.set((head, from));
            return Ok(from);
        }
        let same = self.heads.iter().skip(from).take_while(|one| **one == head).count();
        let known = self.all.get(from..from + same).unwrap_or_default();
        debug_assert!(known.iter().all(|one| one.contact().id.key().head() == head), "heads stand beside their nodes");
        known.binary_search_by_key(&id, |known| known.contact().id).map(|at| from + at).map_err(|at| from + at)
    }

    /// The stretch of heads at whose end, or in which, the first stands that is not below this one: from the last fence below it
    /// to the next.
    fn fenced(&self, head: u32) -> Range<usize> {
        let fence = self.fences.partition_point(|one| *one < head);
        fence.saturating_sub(1) * self.stride..(fence * self.stride).min(self.heads.len())
    }

    /// After each change of the heads.
    fn set_fences(&mut self) {
        self.stride = self.heads.len().div_ceil(FENCES).max(1);
        let heads = self.heads.iter().step_by(self.stride).copied().chain(std::iter::repeat(u32::MAX));
        for (fence, head) in self.fences.iter_mut().zip(heads) {
            *fence = head;
        }
    }
}

/// Makes room for one more by a sixteenth instead of doubling: of what every simulated node has hundreds, half would lie idle.
fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 16 + 4);
    }
}

/// A node is not told about this one again within this time, unless something changed.
pub(super) const REGREET: Duration = Duration::from_secs(5);

/// Unanswered questions in a row after which a node counts as dead.
pub(super) const DEAD_AFTER: u8 = 2;

/// Places of the heads that are noted beside them.
const FENCES: usize = 64;

/// Levels of tables at most: as many as there are bits to note them in.
pub(super) const LEVELS: usize = 8;
