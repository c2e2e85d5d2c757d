//! What leaves the disk when its budget is spent: the oldest segment, whole.
//!
//! What was asked for since it was written gets a second chance: it is written again into the open segment, as far as
//! that has room and a share of the reclaimed segment's size. Slices of fills under way are spared in any case. Purged
//! and expired objects get none. A body that a freshen names is written again as one record with the fresh metadata, or
//! dropped along with it.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::append::Draft;
use crate::dead;
use crate::engine::{Engine, Held};
use crate::footer::Entry;
use crate::index::Spot;
use crate::load::Fault;
use crate::purge::Verdict;
use crate::record::{Header, Kind, Place};
use crate::segment::{Segment, name};

/// A live record of the segment that is reclaimed.
struct Candidate {
    hash: u64,
    /// What the index has: the record itself, or a freshen that names it.
    spot: Spot,
    offset: u32,
    length: u64,
}

impl Engine {
    /// Drops old segments until one more fits, without second chances. Fails if readers of dropped segments hold more
    /// than half of the capacity: dropping what is left would not help.
    pub(crate) fn make_room(&self) -> io::Result<()> {
        self.bury();
        while self.is_over() {
            if self.held() > self.shape.capacity / 2 || !self.reclaim_oldest(false) {
                return Err(io::Error::new(io::ErrorKind::StorageFull, Held));
            }
        }
        Ok(())
    }

    /// Reclaims old segments, with second chances, until one more would fit.
    pub(crate) fn reclaim_surplus(&self) {
        while self.is_over() && self.held() <= self.shape.capacity / 2 {
            if !self.reclaim_oldest(true) {
                return;
            }
        }
    }

    /// Whether one more segment is over capacity.
    fn is_over(&self) -> bool {
        self.ledger.load(Ordering::Relaxed) + self.shape.segment > self.shape.capacity
    }

    /// Bytes of dropped segments that are still read.
    fn held(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let live: u64 = segments.values().map(|segment| segment.header.size).sum();
        self.ledger.load(Ordering::Relaxed).saturating_sub(live)
    }

    /// Drops the oldest segment but the open one; false if there is none.
    pub(crate) fn reclaim_oldest(&self, second_chance: bool) -> bool {
        let open = self.active().as_ref().map(|segment| segment.header.number);
        let oldest = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.iter().next().map(|(number, segment)| (*number, Arc::clone(segment)))
        };
        let Some((number, segment)) = oldest.filter(|(number, _)| Some(*number) != open) else { return false };
        segment.close();
        match segment.footer() {
            Ok(Some(footer)) => self.reclaim(&segment, &footer.entries, second_chance),
            Ok(None) | Err(_) => {
                let lost = self.index.remove_segment(number);
                self.counts.evicted.fetch_add(lost, Ordering::Relaxed);
            }
        }
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.undead.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
        self.bury();
        true
    }

    /// Unlinks the files of dropped segments. One that cannot be unlinked still counts, and is tried again.
    fn bury(&self) {
        let mut undead = self.undead.lock().unwrap_or_else(PoisonError::into_inner);
        undead.retain(|segment| match self.disk.remove(&name(segment.header.number)) {
            Ok(()) => {
                if self.dead.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment.header.number).is_some() {
                    drop(self.disk.remove(&dead::name(segment.header.number)));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.note_error("remove", &error);
                true
            }
        });
    }

    fn reclaim(&self, segment: &Arc<Segment>, entries: &[Entry], second_chance: bool) {
        let mut budget = segment.header.size / 100 * self.shape.reinsertion_percent;
        for entry in entries {
            let Some(candidate) = self.candidate(segment, entry) else { continue };
            let asked = second_chance && candidate.spot.asked() && candidate.length <= budget;
            let keep = asked || self.is_filling(candidate.hash);
            if keep && self.reinsert(segment, &candidate).unwrap_or(false) {
                budget = budget.saturating_sub(candidate.length);
            } else if self.index.remove(candidate.hash, candidate.spot) {
                self.counts.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The record of this entry, if the index has it or a freshen that names it.
    fn candidate(&self, segment: &Segment, entry: &Entry) -> Option<Candidate> {
        let spot = self.index.get(entry.hash)?;
        let (at, here) = (self.place(spot), Place { segment: segment.header.number, offset: entry.offset });
        let candidate = Candidate { hash: entry.hash, spot, offset: entry.offset, length: u64::from(entry.length) };
        if at == here {
            return Some(candidate);
        }
        if !spot.freshen() || entry.kind != Kind::Whole {
            return None;
        }
        let fresh = self.read(&*self.segment(spot)?, at.offset, spot.length()).ok()?;
        (fresh.header.body_at == here).then_some(candidate)
    }

    /// Writes a record again; false if it is purged, expired, or there is no room.
    fn reinsert(&self, segment: &Segment, candidate: &Candidate) -> Result<bool, Fault> {
        let read = self.read(segment, candidate.offset, candidate.length)?;
        let at = self.place(candidate.spot);
        let (mut header, metadata) = if candidate.spot.freshen() {
            // A freshen in the segment that is reclaimed lost its body to an earlier one, or was merged just now.
            if read.header.kind == Kind::Freshen {
                return Ok(false);
            }
            let Some(other) = self.segment(candidate.spot) else { return Ok(false) };
            let fresh = self.read(&other, at.offset, candidate.spot.length())?;
            let merged = Header { expires: fresh.header.expires, born: fresh.header.born, ..read.header.clone() };
            (Header { soft_purged: fresh.header.soft_purged, ..merged }, fresh.metadata)
        } else {
            (read.header.clone(), read.metadata.clone())
        };
        if header.kind != Kind::Slice {
            let head = header.head(metadata.clone());
            match self.book.verdict(&head) {
                Verdict::Hard => return Ok(false),
                Verdict::Soft => header.soft_purged = true,
                Verdict::Clean => {}
            }
            if header.expires.is_some_and(|expires| expires <= self.disk.now()) {
                return Ok(false);
            }
        }
        header.replaces = at;
        let body = self.body(segment, candidate.offset, &read)?;
        let draft = Draft::new(header, &metadata, body.list());
        let Ok(written) = self.write(draft, false) else { return Ok(false) };
        // If it was replaced meanwhile, the newer one stays, and nothing of this is left to take out.
        self.settle(candidate.hash, candidate.spot, &written);
        Ok(true)
    }
}
