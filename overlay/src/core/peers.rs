//! The nodes this one has heard of (`known.rs` is one of them), in a table or not; bounded. They stand in the order of their ids, so
//! that `routing.rs` finds the nearest to a point without looking at all.

use std::{cell::Cell, ops::Range, time::Duration};

pub(super) use super::known::{DEAD_AFTER, Known, REGREET};
use super::{Contact, Peer, time::Instant};
use crate::{Key, NodeId};

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
        let is_at = |place: usize| self.all.get(place).is_some_and(|known| known.contact().id == id);
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

/// Places of the heads that are noted beside them.
const FENCES: usize = 64;

/// Levels of tables at most: as many as there are bits to note them in.
pub(super) const LEVELS: usize = 8;
