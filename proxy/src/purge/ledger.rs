//! The purges this node knows of, each signed: whose they are, in which order, and what others have that it lacks. Pure.
//!
//! Every signer counts its own. A purge carries its number and the number of the signer's purge before it, so that a gap shows. A
//! number is the signer's clock in milliseconds, or one more than the last where that is later: a signer that lost its state goes
//! on above what it said before. Of each signer a node knows everything up to its *head*; purges beyond a gap are in force, and not
//! counted. So the heads of all signers, a few dozen bytes, say what a node has applied: two nodes compare them, and each gets what
//! it lacks.
//!
//! What is forgotten, after [`Bounds::keep`] or for want of room, is never taken again: below the head there is nothing new. Of what
//! went for want of room the signer's own words stay, the *floor*: a node that lacks it has missed something that nobody can tell it
//! any more. A signer of whom nothing is left that is young enough is forgotten too, so that there is room for others.

use std::{collections::BTreeMap, time::Duration};

use atoll_overlay::{Key, NodeId};
use atoll_store::PurgeNumber;
use bytes::Bytes;
use http::HeaderMap;
use prost::Message as _;

use super::selector::Selector;
use crate::meta::Meta;

/// One purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Purge {
    /// The signer's count: milliseconds since the Unix epoch, strictly growing.
    pub(crate) number: u64,
    /// The signer's purge before this one; 0 if it knew of none.
    pub(crate) previous: u64,
    /// Whether what is meant is gone, and not only to be asked for again.
    pub(crate) hard: bool,
    pub(crate) selector: Selector,
}

/// A purge with its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) signer: NodeId,
    pub(crate) purge: Purge,
    /// As it is spread.
    pub(crate) signed: Bytes,
    /// Its number in this node's store; 0 if it was applied before this process began.
    pub(crate) applied: PurgeNumber,
}

/// The highest number below which a node knows all of a signer's purges, by signer.
pub(crate) type Heads = BTreeMap<NodeId, u64>;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Purges; past it the oldest is forgotten.
    pub(crate) records: usize,
    /// Signers; purges of others are refused.
    pub(crate) signers: usize,
    /// How long a purge is kept.
    pub(crate) keep: Duration,
}

/// What a purge is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// New: to be applied, then added.
    New,
    /// It is here.
    Known,
    /// Its number was passed: it is a replay, or came too late.
    Passed,
    /// It is older than anything is kept.
    TooOld,
    /// There are as many signers as are remembered.
    NoRoom,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Ledger {
    bounds: Bounds,
    chains: BTreeMap<NodeId, Chain>,
    /// By number, then signer: about as old as they look.
    log: BTreeMap<(u64, NodeId), Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chain {
    head: u64,
    /// Purges up to this one were forgotten before their time.
    floor: Option<Floor>,
}

/// The newest purge of a signer that was forgotten before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) number: u64,
    /// As it was spread: nobody else's word on how far a signer is counts.
    pub(crate) signed: Bytes,
}

impl Ledger {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, chains: BTreeMap::new(), log: BTreeMap::new() }
    }

    /// The next purge of this signer, by its clock in milliseconds.
    pub(crate) fn next(&self, me: NodeId, now: u64, selector: Selector, hard: bool) -> Purge {
        let logged = self.log.keys().rev().find(|(_, signer)| *signer == me).map_or(0, |(number, _)| *number);
        let previous = logged.max(self.head(me));
        Purge { number: now.max(previous + 1), previous, hard, selector }
    }

    /// What a purge is; `now` in milliseconds.
    pub(crate) fn judge(&self, signer: NodeId, purge: &Purge, now: u64) -> Judged {
        if self.log.contains_key(&(purge.number, signer)) {
            return Judged::Known;
        }
        if purge.number.saturating_add(millis(self.bounds.keep)) < now {
            return Judged::TooOld;
        }
        if purge.number <= self.head(signer) {
            return Judged::Passed;
        }
        if self.has_room(signer) { Judged::New } else { Judged::NoRoom }
    }

    /// Takes a purge in that was judged new and has been applied; `now` in milliseconds.
    pub(crate) fn add(&mut self, entry: Entry, now: u64) {
        let (signer, previous) = (entry.signer, entry.purge.previous);
        self.log.insert((entry.purge.number, signer), entry);
        let chain = self.chains.entry(signer).or_default();
        if previous.saturating_add(millis(self.bounds.keep)) < now {
            // Nobody keeps what lies between, and whoever was away for so long has had everything revalidated.
            chain.head = chain.head.max(previous);
        }
        self.advance(signer);
        self.forget(now);
    }

    /// Gives up on what lies in a gap, of every signer that has one: nobody has it any more. Whoever calls this has everything
    /// revalidated. False if there was no gap.
    pub(crate) fn jump(&mut self) -> bool {
        let gaps = self.gaps();
        for (signer, first) in &gaps {
            if let Some(chain) = self.chains.get_mut(signer) {
                chain.head = chain.head.max(*first);
            }
            self.advance(*signer);
        }
        !gaps.is_empty()
    }

    /// Whether a floor of this signer's shows that purges were missed which count here; `now` in milliseconds.
    pub(crate) fn misses(&self, signer: NodeId, floor: u64, now: u64) -> bool {
        floor > self.head(signer) && floor.saturating_add(millis(self.bounds.keep)) >= now && self.has_room(signer)
    }

    /// Goes on above what a peer has forgotten before its time and this node never knew, which it has found signed by that signer.
    /// Whoever calls this has everything revalidated. False if nothing was missed; `now` in milliseconds.
    pub(crate) fn miss(&mut self, floors: &[(NodeId, Floor)], now: u64) -> bool {
        let mut missed = false;
        for (signer, floor) in floors {
            if self.misses(*signer, floor.number, now) {
                missed = true;
                self.chains.insert(*signer, Chain { head: floor.number, floor: Some(floor.clone()) });
                self.advance(*signer);
            }
        }
        missed
    }

    /// Whether a signer's purge is missing between others of it.
    pub(crate) fn has_gap(&self) -> bool {
        !self.gaps().is_empty()
    }

    pub(crate) fn heads(&self) -> Heads {
        self.chains.iter().map(|(signer, chain)| (*signer, chain.head)).collect()
    }

    /// What was forgotten before its time that somebody with these heads never knew.
    pub(crate) fn floors<'a>(&'a self, heads: &'a Heads) -> impl Iterator<Item = &'a Floor> {
        self.chains.iter().filter_map(|(signer, chain)| {
            chain.floor.as_ref().filter(|floor| heads.get(signer).is_none_or(|head| *head < floor.number))
        })
    }

    /// What somebody with these heads lacks, oldest first.
    pub(crate) fn lacking<'a>(&'a self, heads: &'a Heads) -> impl Iterator<Item = &'a Entry> {
        self.log.values().filter(|entry| !covers(heads, entry))
    }

    /// Whether an answer is older than a purge that means it: one that whoever fetched it, with these heads, had not applied.
    pub(crate) fn outdates(&self, heads: &Heads, answer: &Meta) -> bool {
        let level = self.chains.iter().all(|(signer, chain)| heads.get(signer).is_some_and(|head| *head >= chain.head));
        let in_step = level && !self.has_gap();
        !in_step && self.lacking(heads).any(|entry| entry.purge.selector.means(answer))
    }

    /// Whether a purge means an answer whose request began when the store's purge number was this.
    pub(crate) fn took(&self, born: PurgeNumber, url: &str, fields: &HeaderMap) -> bool {
        self.log.values().any(|entry| entry.applied > born && entry.purge.selector.means_answer(url, fields))
    }

    /// The same of hard purges alone.
    pub(crate) fn gave_up(&self, born: PurgeNumber, answer: &Meta) -> bool {
        let mut hard = self.log.values().filter(|entry| entry.purge.hard && entry.applied > born);
        hard.any(|entry| entry.purge.selector.means(answer))
    }

    /// All there are, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.log.values()
    }

    /// As bytes for the next start.
    pub(crate) fn save(&self, synced: u64) -> Bytes {
        let chain = |(signer, chain): (&NodeId, &Chain)| ChainWire {
            signer: id_bytes(*signer),
            head: chain.head,
            floor: chain.floor.as_ref().map_or(0, |floor| floor.number),
            forgotten: chain.floor.as_ref().map(|floor| floor.signed.clone()).unwrap_or_default(),
        };
        let record = |entry: &Entry| RecordWire {
            signer: id_bytes(entry.signer),
            words: entry.purge.to_bytes().into(),
            signed: entry.signed.clone(),
        };
        Saved {
            version: VERSION,
            synced,
            chains: self.chains.iter().map(chain).collect(),
            records: self.log.values().map(record).collect(),
        }
        .encode_to_vec()
        .into()
    }

    /// What [`Self::save`] wrote, with the moment this node was last in step. `None`: damaged, or of another version.
    pub(crate) fn load(bounds: Bounds, bytes: &Bytes) -> Option<(Self, u64)> {
        let saved = Saved::decode(bytes.clone()).ok().filter(|saved| saved.version == VERSION)?;
        let mut ledger = Self::new(bounds);
        for chain in saved.chains.into_iter().take(bounds.signers) {
            let floor = (chain.floor > 0).then_some(Floor { number: chain.floor, signed: chain.forgotten });
            ledger.chains.insert(id(&chain.signer)?, Chain { head: chain.head, floor });
        }
        for record in saved.records {
            let (signer, purge) = (id(&record.signer)?, Purge::from_bytes(&record.words)?);
            let entry = Entry { signer, purge, signed: record.signed, applied: PurgeNumber(0) };
            ledger.log.insert((entry.purge.number, signer), entry);
        }
        ledger.shrink();
        Some((ledger, saved.synced))
    }

    /// Whether this signer's purges are kept.
    fn has_room(&self, signer: NodeId) -> bool {
        self.chains.contains_key(&signer) || self.chains.len() < self.bounds.signers
    }

    fn head(&self, signer: NodeId) -> u64 {
        self.chains.get(&signer).map_or(0, |chain| chain.head)
    }

    /// Raises a signer's head over all purges that follow without a gap.
    fn advance(&mut self, signer: NodeId) {
        let Some(chain) = self.chains.get_mut(&signer) else { return };
        for ((number, by), entry) in self.log.range((chain.head.saturating_add(1), NodeId::from(Key::ZERO))..) {
            if *by == signer {
                if entry.purge.previous > chain.head {
                    break;
                }
                chain.head = *number;
            }
        }
    }

    /// Signers with something missing, and the number before the first purge beyond it.
    fn gaps(&self) -> Vec<(NodeId, u64)> {
        let mut gaps = Vec::new();
        for (signer, chain) in &self.chains {
            let mut beyond = self.log.range((chain.head.saturating_add(1), NodeId::from(Key::ZERO))..);
            if let Some((_, entry)) = beyond.find(|((_, by), _)| by == signer) {
                gaps.push((*signer, entry.purge.previous));
            }
        }
        gaps
    }

    /// Forgets what is too old, and the oldest of too many; `now` in milliseconds.
    pub(crate) fn forget(&mut self, now: u64) {
        let oldest = now.saturating_sub(millis(self.bounds.keep));
        while let Some(first) = self.log.first_entry().filter(|first| first.key().0 < oldest) {
            first.remove();
        }
        self.shrink();
        // What such a signer said is too old to be taken again, whatever its head was.
        let log = &self.log;
        self.chains.retain(|signer, chain| chain.head >= oldest || log.keys().any(|(_, by)| by == signer));
    }

    fn shrink(&mut self) {
        while self.log.len() > self.bounds.records
            && let Some(((number, signer), entry)) = self.log.pop_first()
        {
            let chain = self.chains.entry(signer).or_default();
            if chain.floor.as_ref().is_none_or(|floor| floor.number < number) {
                chain.floor = Some(Floor { number, signed: entry.signed });
            }
            chain.head = chain.head.max(number);
        }
    }
}

/// Whether somebody with these heads has applied a purge.
pub(crate) fn covers(heads: &Heads, entry: &Entry) -> bool {
    heads.get(&entry.signer).is_some_and(|head| entry.purge.number <= *head)
}

impl Purge {
    /// What is signed: version 1 (now 1); hard 1; number 8; previous 8; selector.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (number, previous) = (self.number.to_be_bytes(), self.previous.to_be_bytes());
        [&[1, u8::from(self.hard)][..], &number, &previous, &self.selector.to_bytes()].concat()
    }

    /// Reads the layout above. `None`: malformed, or of another version.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([1, hard @ (0 | 1)], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (number, rest) = rest.split_first_chunk()?;
        let (previous, rest) = rest.split_first_chunk()?;
        let (number, previous) = (u64::from_be_bytes(*number), u64::from_be_bytes(*previous));
        // Within what milliseconds can be, so that nobody's next number overflows.
        let good = previous < number && number < u64::MAX / 2;
        good.then_some(())?;
        Some(Self { number, previous, hard: *hard == 1, selector: Selector::from_bytes(rest)? })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A node's id as it travels.
pub(crate) fn id_bytes(id: NodeId) -> Bytes {
    Bytes::copy_from_slice(id.key().as_bytes())
}

/// The way back.
pub(crate) fn id(bytes: &[u8]) -> Option<NodeId> {
    Some(Key::from_bytes(bytes.try_into().ok()?).into())
}

/// The version written and read. 2: floors are signed.
const VERSION: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Saved {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// Seconds since the Unix epoch; 0 if it never was.
    #[prost(uint64, tag = "2")]
    synced: u64,
    #[prost(message, repeated, tag = "3")]
    chains: Vec<ChainWire>,
    #[prost(message, repeated, tag = "4")]
    records: Vec<RecordWire>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChainWire {
    #[prost(bytes = "bytes", tag = "1")]
    signer: Bytes,
    #[prost(uint64, tag = "2")]
    head: u64,
    #[prost(uint64, tag = "3")]
    floor: u64,
    /// The purge of that number, as it was spread.
    #[prost(bytes = "bytes", tag = "4")]
    forgotten: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordWire {
    #[prost(bytes = "bytes", tag = "1")]
    signer: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    words: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    signed: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const BOUNDS: Bounds = Bounds { records: 8, signers: 2, keep: Duration::from_secs(30 * 86_400) };

    fn signer(number: u8) -> NodeId {
        Key::from_bytes([number; 20]).into()
    }

    fn entry(by: u8, number: u64, previous: u64) -> Entry {
        let purge = Purge { number, previous, hard: false, selector: Selector::All };
        Entry { signer: signer(by), signed: purge.to_bytes().into(), purge, applied: PurgeNumber(number) }
    }

    fn floor(by: u8, number: u64, previous: u64) -> Floor {
        Floor { number, signed: entry(by, number, previous).signed }
    }

    fn ledger(entries: &[(u8, u64, u64)]) -> Ledger {
        let mut ledger = Ledger::new(BOUNDS);
        for (by, number, previous) in entries {
            let entry = entry(*by, *number, *previous);
            assert_eq!(ledger.judge(entry.signer, &entry.purge, 100), Judged::New, "{number}");
            ledger.add(entry, 100);
        }
        ledger
    }

    fn heads(of: &[(u8, u64)]) -> Heads {
        of.iter().map(|(by, head)| (signer(*by), *head)).collect()
    }

    #[test]
    fn a_head_rises_only_where_nothing_is_missing() {
        let mut late = ledger(&[(1, 10, 0), (1, 30, 20), (1, 40, 30)]);
        assert_eq!(late.heads(), heads(&[(1, 10)]));
        assert!(late.has_gap());
        // The two beyond the gap are in force, but only what is below it counts as applied.
        assert_eq!(late.lacking(&heads(&[(1, 10)])).count(), 2);
        late.add(entry(1, 20, 10), 100);
        assert_eq!((late.heads(), late.has_gap()), (heads(&[(1, 40)]), false));
        // Where nobody has it any more, the rest goes on.
        let mut given_up = ledger(&[(1, 10, 0), (1, 30, 20)]);
        assert!(given_up.jump() && !given_up.jump());
        assert_eq!(given_up.heads(), heads(&[(1, 30)]));
    }

    #[test]
    fn a_replay_is_known_or_passed_and_never_new() {
        let ledger = ledger(&[(1, 10, 0), (1, 20, 10)]);
        let judge = |by, number, previous| {
            let entry = entry(by, number, previous);
            ledger.judge(entry.signer, &entry.purge, 100)
        };
        assert_eq!(judge(1, 20, 10), Judged::Known);
        assert_eq!(judge(1, 15, 10), Judged::Passed);
        assert_eq!(judge(2, 15, 10), Judged::New, "each signer counts its own");
        let old = entry(2, 15, 10);
        assert_eq!(ledger.judge(old.signer, &old.purge, 15 + 31 * DAY), Judged::TooOld);
    }

    // A signer that lost its state knows of no purge before; its clock lifts it above those it made.
    #[test]
    fn a_signer_without_its_state_goes_on_above_what_it_said() {
        let mut others = ledger(&[(1, 10, 0), (1, 20, 10)]);
        let purge = Ledger::new(BOUNDS).next(signer(1), 500, Selector::All, true);
        assert_eq!((purge.number, purge.previous), (500, 0));
        others.add(entry(1, 500, 0), 500);
        assert_eq!((others.heads(), others.has_gap()), (heads(&[(1, 500)]), false));
        // A clock that went back does not bring numbers back.
        assert_eq!(others.next(signer(1), 3, Selector::All, true).number, 501);
    }

    #[test]
    fn room_is_bounded_and_what_was_forgotten_early_is_told() {
        let mut full = ledger(&[(1, 10, 0), (2, 11, 0)]);
        let third = entry(3, 12, 0);
        assert_eq!(full.judge(third.signer, &third.purge, 100), Judged::NoRoom);
        for number in 21..=30 {
            full.add(entry(1, number, if number == 21 { 10 } else { number - 1 }), 100);
        }
        let floors = [(signer(1), floor(1, 22, 21)), (signer(2), floor(2, 11, 0))];
        let told: Vec<_> = full.floors(&Heads::new()).cloned().collect();
        assert_eq!((full.iter().count(), &told[..]), (BOUNDS.records, &[floors[0].1.clone(), floors[1].1.clone()][..]));
        assert_eq!(full.floors(&heads(&[(1, 22), (2, 10)])).count(), 1, "who knew it needs no telling");
        // A node that knew 21 and nothing of the other has missed some; one that knew all of it has not.
        assert!(!ledger(&[(1, 22, 0), (2, 11, 0)]).miss(&floors, 100));
        let mut behind = ledger(&[(1, 21, 0)]);
        assert!(behind.miss(&floors, 100) && !behind.miss(&floors, 100));
        assert_eq!(behind.heads(), heads(&[(1, 22), (2, 11)]));
        // Whose purges find no room here has no floor here either, and what is too old to be taken is not missed.
        assert!(!full.miss(&[(signer(3), floor(3, 50, 0))], 100));
        assert!(!ledger(&[]).miss(&floors, 100 + 31 * DAY));
        // What is forgotten in time is no floor.
        full.add(entry(1, 40 * DAY, 30), 40 * DAY);
        assert_eq!(
            (full.iter().count(), full.floors(&Heads::new()).cloned().collect()),
            (1, vec![floors[0].1.clone()])
        );
        let replayed = entry(1, 25, 24);
        assert_eq!(full.judge(replayed.signer, &replayed.purge, 100), Judged::Passed);
    }

    // Else whoever signs once takes a place for good, and after so many nobody else may purge.
    #[test]
    fn a_signer_of_whom_nothing_is_young_enough_makes_room_for_another() {
        let mut ledger = ledger(&[(1, 10, 0), (2, DAY, 0)]);
        let third = entry(3, 31 * DAY, 0);
        assert_eq!(ledger.judge(third.signer, &third.purge, 30 * DAY), Judged::NoRoom);
        ledger.forget(30 * DAY + 100);
        assert_eq!(ledger.heads(), heads(&[(2, DAY)]));
        assert_eq!(ledger.judge(third.signer, &third.purge, 30 * DAY + 100), Judged::New);
        let replayed = entry(1, 10, 0);
        assert_eq!(ledger.judge(replayed.signer, &replayed.purge, 30 * DAY + 100), Judged::TooOld);
    }

    // Numbers that were saved are bytes from outside too.
    #[test]
    fn no_head_is_too_high_to_go_on_from() {
        let mut top = Ledger::new(BOUNDS);
        top.chains.insert(signer(1), Chain { head: u64::MAX, floor: None });
        top.advance(signer(1));
        assert!(!top.has_gap());
    }

    #[test]
    fn it_survives_as_bytes_and_damage_is_told() {
        let ledger = ledger(&[(1, 10, 0), (1, 30, 20), (2, 5, 0)]);
        let (read, synced) = Ledger::load(BOUNDS, &ledger.save(77)).unwrap();
        assert_eq!((read.heads(), read.has_gap(), synced), (ledger.heads(), true, 77));
        assert_eq!(read.lacking(&Heads::new()).count(), 3);
        assert!(read.iter().all(|entry| entry.applied == PurgeNumber(0)));
        let narrow = Bounds { records: 1, ..BOUNDS };
        assert_eq!(Ledger::load(narrow, &ledger.save(77)).unwrap().0.iter().count(), 1);
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            drop(Ledger::load(BOUNDS, &Bytes::copy_from_slice(bytes)));
            if let Some(purge) = Purge::from_bytes(bytes) {
                assert_eq!(purge.to_bytes(), bytes);
            }
        });
    }
}
