//! Purges that cost objects no memory: one record each, met by every later read.
//!
//! A hit whose object was born before a purge that matches it is a miss (hard) or is returned marked (soft), so a purge
//! is effective the moment it stands here, also for a fill under way. Selectors are looked up by what they select, so
//! a hit looks at its own key, its own directory and the purges by tag of that directory or of all. A purge that a
//! later one covers is forgotten. At half the limit the sweep settles the table: once every stored object that a purge
//! takes is out for good, the purge itself goes, and only its number stays as the floor, below which nothing may come in
//! late. Over the limit, should the sweep not keep up, the oldest are folded into one number that matches every older
//! object: more than was asked for is purged, never less. The log on disk is `purge_log`'s.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::key::{Head, Key, PurgeNumber, Tags};

/// Which objects a purge is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The one object under this key.
    Key(Key),
    /// Every object of this directory.
    Directory(u64),
    /// Every object whose 64 tag bits are `value` where `mask` is set.
    Tags {
        /// Only within this directory; `None` is all of them.
        directory: Option<u64>,
        /// The bits of [`Tags::bits`] that are compared.
        mask: u64,
        /// What they must be.
        value: u64,
        /// If present, asked of the owner (`Store::set_filter`) about each object whose bits match.
        filter: Option<Bytes>,
    },
    /// Every object.
    All,
}

/// How a purge takes an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PurgeKind {
    /// The object is still returned, marked: its owner asks the origin before using it.
    Soft,
    /// The object is gone.
    Hard,
}

/// How far the sweep for one purge is. The purge itself is in force from the moment it has a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeProgress {
    /// Objects looked at so far.
    pub examined: u64,
    /// Objects among them that the purge takes; for a soft purge, that it marks.
    pub removed: u64,
    /// Bytes of these, metadata and body.
    pub bytes: u64,
    /// Whether every object was looked at.
    pub done: bool,
}

/// What the purges say of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Clean,
    Soft,
    Hard,
}

/// What purges look at in an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) key: &'a Key,
    pub(crate) directory: u64,
    pub(crate) tags: Tags,
    pub(crate) born: PurgeNumber,
    pub(crate) metadata: &'a [u8],
}

impl<'a> Subject<'a> {
    pub(crate) fn of(head: &'a Head) -> Self {
        let Head { key, directory, tags, born, metadata, .. } = head;
        Self { key, directory: *directory, tags: *tags, born: *born, metadata }
    }
}

/// The opaque selector's evaluator: (filter, metadata) to whether the object is meant.
pub type Filter = dyn Fn(&[u8], &[u8]) -> bool + Send + Sync;

/// One purge, as it stands in the table and in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Purge {
    pub(crate) number: PurgeNumber,
    pub(crate) kind: PurgeKind,
    pub(crate) selector: Selector,
}

/// The purges in force.
#[derive(Debug, Default)]
pub(crate) struct Purges {
    latest: PurgeNumber,
    limit: usize,
    /// Purges up to this one may be forgotten: what was born before it and comes in only now may be meant by one.
    floor: PurgeNumber,
    /// The newest purge of everything, folded ones included.
    all: Newest,
    keys: HashMap<Key, Newest>,
    directories: HashMap<u64, Newest>,
    tags: HashMap<Option<u64>, Vec<TagPurge>>,
    /// Every purge but those of everything, by number, for folding the oldest and for writing the log anew.
    order: BTreeMap<PurgeNumber, (PurgeKind, Selector)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    hard: PurgeNumber,
    soft: PurgeNumber,
}

#[derive(Clone, Debug)]
struct TagPurge {
    number: PurgeNumber,
    kind: PurgeKind,
    mask: u64,
    value: u64,
    filter: Option<Bytes>,
}

impl Purges {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The purge that `selector` makes now, not yet in force.
    pub(crate) fn next(&self, selector: Selector, kind: PurgeKind) -> Purge {
        Purge { number: PurgeNumber(self.latest.0.saturating_add(1)), kind, selector }
    }

    /// Puts a purge in force, and forgets or folds what it makes superfluous.
    pub(crate) fn add(&mut self, purge: Purge) {
        let Purge { number, kind, selector } = purge;
        self.latest = self.latest.max(number);
        match &selector {
            Selector::All => return self.add_all(number, kind),
            Selector::Key(key) => {
                let newest = self.keys.entry(*key).or_default();
                newest.raise(number, kind).into_iter().for_each(|covered| drop(self.order.remove(&covered)));
            }
            Selector::Directory(directory) => {
                let newest = self.directories.entry(*directory).or_default();
                newest.raise(number, kind).into_iter().for_each(|covered| drop(self.order.remove(&covered)));
                self.forget_tags(Some(*directory), |tag| kind.covers(tag.kind) && tag.number < number);
            }
            Selector::Tags { directory, mask, value, filter } => {
                let (mask, value, filter) = (*mask, *value, filter.clone());
                let same = |tag: &TagPurge| tag.mask == mask && tag.value == value && tag.filter == filter;
                self.forget_tags(*directory, |tag| same(tag) && kind.covers(tag.kind) && tag.number < number);
                self.tags.entry(*directory).or_default().push(TagPurge { number, kind, mask, value, filter });
            }
        }
        self.order.insert(number, (kind, selector));
        while self.order.len() > self.limit {
            self.fold_oldest();
        }
    }

    /// The number of the newest purge.
    pub(crate) fn latest(&self) -> PurgeNumber {
        self.latest
    }

    /// Raises the number that the next purge follows, without purging anything.
    pub(crate) fn raise_latest(&mut self, number: PurgeNumber) {
        self.latest = self.latest.max(number);
    }

    /// Purges kept one by one.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// What the purges say of this object, the strongest word.
    pub(crate) fn verdict(&self, subject: Subject<'_>, filter: Option<&Filter>) -> Verdict {
        if subject.born >= self.latest {
            return Verdict::Clean;
        }
        let mut verdict = self.all.verdict(subject.born);
        if let Some(newest) = self.keys.get(subject.key) {
            verdict = verdict.max(newest.verdict(subject.born));
        }
        if let Some(newest) = self.directories.get(&subject.directory) {
            verdict = verdict.max(newest.verdict(subject.born));
        }
        for directory in [Some(subject.directory), None] {
            for tag in self.tags.get(&directory).into_iter().flatten() {
                if tag.kind.verdict() > verdict && tag.matches(subject, filter) {
                    verdict = tag.kind.verdict();
                }
            }
        }
        verdict
    }

    /// What the purges say of an object that comes in: also those that no stored object can meet any more.
    pub(crate) fn verdict_on_entry(&self, subject: Subject<'_>, filter: Option<&Filter>) -> Verdict {
        if subject.born < self.floor { Verdict::Hard } else { self.verdict(subject, filter) }
    }

    /// Whether so many purges are kept that settling them is due.
    pub(crate) fn is_crowded(&self) -> bool {
        self.order.len() > self.limit / 2
    }

    /// The purge to settle up to: the newest quarter of the limit stays, so that what comes in meanwhile is not held
    /// against the floor.
    pub(crate) fn settles_to(&self) -> Option<PurgeNumber> {
        let due = self.order.len().checked_sub(self.limit / 4)?;
        self.order.keys().nth(due.checked_sub(1)?).copied()
    }

    /// Forgets the purges up to `number`: everything stored that they take is out for good.
    pub(crate) fn settle(&mut self, number: PurgeNumber) {
        let settled: Vec<_> = self.order.range(..=number).map(|(number, _)| *number).collect();
        settled.into_iter().for_each(|number| self.remove(number));
        self.all.settle(number);
        self.raise_floor(number);
    }

    /// Lets nothing in any more that was born before `number`.
    pub(crate) fn raise_floor(&mut self, number: PurgeNumber) {
        self.floor = self.floor.max(number);
        self.latest = self.latest.max(number);
    }

    /// What was born before it does not come in.
    pub(crate) fn floor(&self) -> PurgeNumber {
        self.floor
    }

    /// Every purge in force, oldest first, such that adding them to an empty table gives this one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Purge> + '_ {
        let all = [(self.all.soft, PurgeKind::Soft), (self.all.hard, PurgeKind::Hard)];
        let all = all.into_iter().filter(|(number, _)| number.0 > 0);
        let all = all.map(|(number, kind)| Purge { number, kind, selector: Selector::All });
        all.chain(self.order.iter().map(|(number, (kind, selector))| Purge {
            number: *number,
            kind: *kind,
            selector: selector.clone(),
        }))
    }

    fn add_all(&mut self, number: PurgeNumber, kind: PurgeKind) {
        drop(self.all.raise(number, kind));
        let covered: Vec<_> = self.order.range(..number).filter(|(_, (older, _))| kind.covers(*older)).collect();
        let covered: Vec<_> = covered.into_iter().map(|(number, _)| *number).collect();
        covered.into_iter().for_each(|number| self.remove(number));
    }

    fn fold_oldest(&mut self) {
        if let Some((number, (kind, _))) = self.order.first_key_value() {
            let (number, kind) = (*number, *kind);
            self.remove(number);
            drop(self.all.raise(number, kind));
        }
    }

    fn remove(&mut self, number: PurgeNumber) {
        match self.order.remove(&number) {
            Some((_, Selector::Key(key))) => forget(&mut self.keys, &key, number),
            Some((_, Selector::Directory(directory))) => forget(&mut self.directories, &directory, number),
            Some((_, Selector::Tags { directory, .. })) => self.forget_tags(directory, |tag| tag.number == number),
            Some((_, Selector::All)) | None => {}
        }
    }

    fn forget_tags(&mut self, directory: Option<u64>, covered: impl Fn(&TagPurge) -> bool) {
        let Some(tags) = self.tags.get_mut(&directory) else { return };
        for tag in tags.iter().filter(|tag| covered(tag)) {
            self.order.remove(&tag.number);
        }
        tags.retain(|tag| !covered(tag));
        if tags.is_empty() {
            self.tags.remove(&directory);
        }
    }
}

impl Newest {
    /// Notes a purge; what it covers is returned, to be forgotten.
    fn raise(&mut self, number: PurgeNumber, kind: PurgeKind) -> Vec<PurgeNumber> {
        let mut covered = Vec::new();
        let mut lift = |slot: &mut PurgeNumber, to: PurgeNumber| {
            if slot.0 > 0 && *slot < number {
                covered.push(*slot);
                *slot = to;
            }
        };
        match kind {
            PurgeKind::Soft => {
                lift(&mut self.soft, number);
                self.soft = self.soft.max(number);
            }
            PurgeKind::Hard => {
                lift(&mut self.soft, PurgeNumber(0));
                lift(&mut self.hard, number);
                self.hard = self.hard.max(number);
            }
        }
        covered
    }

    fn settle(&mut self, number: PurgeNumber) {
        for slot in [&mut self.hard, &mut self.soft] {
            if *slot <= number {
                *slot = PurgeNumber(0);
            }
        }
    }

    fn verdict(self, born: PurgeNumber) -> Verdict {
        if born < self.hard {
            Verdict::Hard
        } else if born < self.soft {
            Verdict::Soft
        } else {
            Verdict::Clean
        }
    }

    fn forget(&mut self, number: PurgeNumber) {
        for slot in [&mut self.hard, &mut self.soft] {
            if *slot == number {
                *slot = PurgeNumber(0);
            }
        }
    }
}

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Newest>, key: &K, number: PurgeNumber) {
    let Some(newest) = map.get_mut(key) else { return };
    newest.forget(number);
    if newest.hard.0 == 0 && newest.soft.0 == 0 {
        map.remove(key);
    }
}

impl Purge {
    /// Whether it takes, or marks, this object.
    pub(crate) fn matches(&self, subject: Subject<'_>, filter: Option<&Filter>) -> bool {
        let (number, kind) = (self.number, self.kind);
        subject.born < number
            && match &self.selector {
                Selector::All => true,
                Selector::Key(key) => key == subject.key,
                Selector::Directory(directory) => *directory == subject.directory,
                Selector::Tags { directory, mask, value, filter: wanted } => {
                    let (mask, value) = (*mask, *value);
                    let tag = TagPurge { number, kind, mask, value, filter: wanted.clone() };
                    directory.is_none_or(|directory| directory == subject.directory) && tag.matches(subject, filter)
                }
            }
    }
}

impl TagPurge {
    /// A filter without an evaluator matches: rather too much is purged than too little.
    fn matches(&self, subject: Subject<'_>, filter: Option<&Filter>) -> bool {
        subject.born < self.number
            && subject.tags.bits() & self.mask == self.value & self.mask
            && match (&self.filter, filter) {
                (Some(wanted), Some(filter)) => filter(wanted, subject.metadata),
                (Some(_), None) | (None, _) => true,
            }
    }
}

impl PurgeKind {
    fn covers(self, older: Self) -> bool {
        self == Self::Hard || older == Self::Soft
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Soft => Verdict::Soft,
            Self::Hard => Verdict::Hard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 20])
    }

    fn tags(directory: Option<u64>, mask: u64, value: u64) -> Selector {
        Selector::Tags { directory, mask, value, filter: None }
    }

    /// Adds `purges` to a table that keeps `limit`, then asks about key 1, directory 7, tags 5.
    fn check(limit: usize, purges: Vec<(Selector, PurgeKind)>, born: u64, expect: Verdict) {
        let mut table = Purges::new(limit);
        for (selector, kind) in purges {
            table.add(table.next(selector, kind));
        }
        let subject =
            Subject { key: &key(1), directory: 7, tags: Tags::from_bits(5), born: PurgeNumber(born), metadata: b"m" };
        assert_eq!(table.verdict(subject, None), expect);
        let mut again = Purges::new(limit);
        table.iter().for_each(|purge| again.add(purge));
        assert_eq!(again.verdict(subject, None), expect, "after writing the table anew");
    }

    #[test]
    fn a_purge_takes_what_was_born_before_it_and_nothing_else() {
        use PurgeKind::Hard;
        check(16, vec![(Selector::Key(key(1)), Hard)], 0, Verdict::Hard);
        check(16, vec![(Selector::Key(key(1)), Hard)], 1, Verdict::Clean);
        check(16, vec![(Selector::Key(key(2)), Hard)], 0, Verdict::Clean);
        check(16, vec![(Selector::Directory(7), Hard)], 0, Verdict::Hard);
        check(16, vec![(Selector::Directory(8), Hard)], 0, Verdict::Clean);
        check(16, vec![(Selector::All, Hard)], 0, Verdict::Hard);
        check(16, vec![(tags(Some(7), 4, 4), Hard)], 0, Verdict::Hard);
        check(16, vec![(tags(None, 7, 5), Hard)], 0, Verdict::Hard);
        check(16, vec![(tags(Some(8), 4, 4), Hard)], 0, Verdict::Clean);
        check(16, vec![(tags(None, 2, 2), Hard)], 0, Verdict::Clean);
        check(16, vec![(tags(None, 0, 0), Hard)], 0, Verdict::Hard);
    }

    #[test]
    fn the_strongest_of_several_purges_counts() {
        use PurgeKind::{Hard, Soft};
        check(16, vec![(Selector::All, Soft)], 0, Verdict::Soft);
        check(16, vec![(Selector::All, Soft), (Selector::Key(key(1)), Hard)], 0, Verdict::Hard);
        check(16, vec![(Selector::Key(key(1)), Hard), (Selector::Key(key(1)), Soft)], 0, Verdict::Hard);
        check(16, vec![(Selector::Key(key(1)), Hard), (Selector::Key(key(1)), Soft)], 1, Verdict::Soft);
        check(16, vec![(Selector::Key(key(1)), Soft), (Selector::Key(key(1)), Hard)], 1, Verdict::Hard);
    }

    #[test]
    fn the_oldest_over_the_limit_are_folded_into_one_that_takes_more_never_less() {
        let mut purges = vec![(Selector::Key(key(1)), PurgeKind::Hard)];
        purges.extend((2..20).map(|n| (Selector::Key(key(n)), PurgeKind::Soft)));
        check(4, purges.clone(), 0, Verdict::Hard);
        check(4, purges.clone(), 1, Verdict::Soft);
        check(4, purges, 15, Verdict::Clean);
    }

    #[test]
    fn settled_purges_are_forgotten_and_nothing_older_comes_in_late() {
        let mut table = Purges::new(16);
        for n in 1..=6 {
            table.add(table.next(Selector::Key(key(n)), PurgeKind::Hard));
        }
        table.add(table.next(Selector::All, PurgeKind::Soft));
        assert!(!table.is_crowded());
        table.settle(PurgeNumber(5));
        let (key, tags) = (key(6), Tags::default());
        let subject = |born| Subject { key: &key, directory: 7, tags, born: PurgeNumber(born), metadata: b"" };
        assert_eq!((table.len(), table.floor()), (1, PurgeNumber(5)));
        assert_eq!(table.verdict(subject(5), None), Verdict::Hard, "purge 6 is still in force");
        assert_eq!(table.verdict_on_entry(subject(4), None), Verdict::Hard);
        assert_eq!(table.verdict_on_entry(subject(6), None), Verdict::Soft, "purge 7 is still in force");
        assert_eq!(table.verdict_on_entry(subject(7), None), Verdict::Clean);
        table.settle(PurgeNumber(7));
        assert_eq!(table.verdict(subject(0), None), Verdict::Clean, "what is stored has met all of them");
        assert_eq!(table.verdict_on_entry(subject(6), None), Verdict::Hard);
    }

    #[test]
    fn the_table_never_outgrows_its_limit_and_a_covered_purge_is_forgotten() {
        let mut table = Purges::new(8);
        for n in 0..100u8 {
            table.add(table.next(Selector::Key(key(n)), PurgeKind::Hard));
            table.add(table.next(tags(Some(u64::from(n)), 1, 1), PurgeKind::Soft));
            assert!(table.len() <= 8);
        }
        assert_eq!(table.latest(), PurgeNumber(200));
        assert_eq!(table.keys.len() + table.tags.len(), 8);
        table.add(table.next(tags(Some(99), 1, 1), PurgeKind::Soft));
        table.add(table.next(Selector::Directory(99), PurgeKind::Hard));
        assert!(!table.tags.contains_key(&Some(99)));
        table.add(table.next(Selector::All, PurgeKind::Hard));
        assert_eq!((table.len(), table.keys.len(), table.tags.len(), table.directories.len()), (0, 0, 0, 0));
        table.raise_latest(PurgeNumber(1000));
        assert_eq!(table.next(Selector::All, PurgeKind::Soft).number, PurgeNumber(1001));
    }

    #[test]
    fn the_filter_is_asked_only_where_the_bits_match() {
        let mut table = Purges::new(8);
        let selector = |mask| Selector::Tags { directory: None, mask, value: mask, filter: Some("want".into()) };
        let key = key(1);
        let subject =
            |metadata| Subject { key: &key, directory: 7, tags: Tags::from_bits(5), born: PurgeNumber(0), metadata };
        table.add(table.next(selector(2), PurgeKind::Hard));
        assert_eq!(table.verdict(subject(b"x"), Some(&|_, _| panic!("asked"))), Verdict::Clean);
        table.add(table.next(selector(4), PurgeKind::Hard));
        let filter: &Filter = &|wanted, metadata| wanted == b"want" && metadata == b"yes";
        assert_eq!(table.verdict(subject(b"yes"), Some(filter)), Verdict::Hard);
        assert_eq!(table.verdict(subject(b"no"), Some(filter)), Verdict::Clean);
        assert_eq!(table.verdict(subject(b"no"), None), Verdict::Hard);
    }
}
