//! Records into the open segment: several at a time, in as few calls as they take.
//!
//! Space is reserved under a lock, records are written without one. Only the step to the next segment holds a lock across
//! file calls, and nobody but writers that need that segment meets it. What need not be done before a record is
//! acknowledged is left to the `chores`: no record waits for a sync.

use std::borrow::Cow;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::chores::Chore;
use crate::engine::{Engine, Held, is_full, is_held};
use crate::footer::{Entry, SegmentHeader};
use crate::index::Spot;
use crate::record::{self, HEADER, Header, Kind, Place, UNIT};
use crate::segment::{Due, Reserved, Room, Segment};

/// A record that is to be written.
pub(crate) struct Draft<'d> {
    pub(crate) header: Header,
    pub(crate) metadata: &'d [u8],
    pub(crate) pieces: &'d [Bytes],
    /// The CRC-32 of each piece.
    pub(crate) sums: Cow<'d, [u32]>,
}

/// A record that was written.
pub(crate) struct Written {
    pub(crate) spot: Spot,
    segment: Arc<Segment>,
    reserved: Reserved,
}

/// Records that have their places, each right behind the one before.
#[derive(Default)]
struct Run<'d> {
    segment: Option<Arc<Segment>>,
    records: Vec<Laid<'d>>,
    end: u64,
}

/// A record that has its place.
struct Laid<'d> {
    kind: Kind,
    reserved: Reserved,
    /// Bytes of the record, padding included.
    length: u64,
    front: Vec<u8>,
    pieces: &'d [Bytes],
}

/// What a record is filled up with to the next [`UNIT`].
const PADDING: [u8; 16] = [0; 16];

impl<'d> Draft<'d> {
    /// A record of this body.
    pub(crate) fn new(header: Header, metadata: &'d [u8], pieces: &'d [Bytes]) -> Self {
        Self { header, metadata, pieces, sums: record::sums(pieces).into() }
    }

    fn length(&self) -> u64 {
        let body: usize = self.pieces.iter().map(Bytes::len).sum();
        let length = (HEADER + self.metadata.len() + 4 * self.pieces.len() + body) as u64;
        length.next_multiple_of(UNIT)
    }
}

impl Engine {
    /// Writes a record into the open segment; `may_roll` to the next one if it is full.
    pub(crate) fn write(&self, draft: Draft<'_>, may_roll: bool) -> io::Result<Written> {
        let written = self.write_all(vec![draft], may_roll).pop();
        written.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))
    }

    /// As `write`, several; what became of each.
    pub(crate) fn write_all(&self, drafts: Vec<Draft<'_>>, may_roll: bool) -> Vec<io::Result<Written>> {
        let (mut written, mut run) = (Vec::with_capacity(drafts.len()), Run::default());
        for draft in drafts {
            let laid = self.lay(draft, may_roll);
            if !laid.as_ref().is_ok_and(|(segment, laid)| run.goes_on(segment, laid)) {
                written.extend(self.write_run(std::mem::take(&mut run)));
            }
            match laid {
                Ok((segment, laid)) => run.push(segment, laid),
                Err(error) => written.push(Err(error)),
            }
        }
        written.extend(self.write_run(run));
        written
    }

    /// Puts a written record in the place of exactly `old`; false if something else is there by now.
    pub(crate) fn settle(&self, hash: u64, old: Spot, written: &Written) -> bool {
        let settled = self.index.replace(hash, old, written.spot);
        if !settled {
            self.disown(written);
        }
        settled
    }

    /// Takes back what a written record said.
    pub(crate) fn disown(&self, written: &Written) {
        written.segment.disown(written.reserved);
    }

    /// Gives a record its place.
    fn lay<'d>(&self, draft: Draft<'d>, may_roll: bool) -> io::Result<(Arc<Segment>, Laid<'d>)> {
        self.check_working()?;
        let length = draft.length();
        let Draft { mut header, metadata, pieces, sums } = draft;
        let hash = self.hash(&header.key);
        let entry = Entry { hash, offset: 0, length: 0, kind: header.kind, replaces: header.replaces };
        let reserved = self.reserve(length, entry, header.born.0, may_roll);
        let (segment, reserved) = reserved.inspect_err(|error| self.failed(error))?;
        let front = record::encode(&mut header, metadata, pieces, &sums, segment.header.salt);
        Ok((segment, Laid { kind: header.kind, reserved, length, front, pieces }))
    }

    fn write_run(&self, run: Run<'_>) -> Vec<io::Result<Written>> {
        let Some((segment, first)) = run.segment.as_ref().zip(run.records.first()) else { return Vec::new() };
        let outcome = segment.write(&mut run.parts(), u64::from(first.reserved.offset) * UNIT);
        match &outcome {
            Ok(()) => self.worked(),
            Err(error) => self.failed(error),
        }
        let due = segment.complete(run.records.iter().map(|laid| laid.reserved), outcome.is_ok());
        if outcome.is_err() {
            // Whatever is wrong with this file, the next record goes to another.
            self.retire(segment);
        }
        self.note_due(segment, due);
        let became = |laid: &Laid<'_>| match &outcome {
            Ok(()) => Ok(laid.written(segment)),
            Err(error) => Err(again(error)),
        };
        run.records.iter().map(became).collect()
    }

    fn note_due(&self, segment: &Arc<Segment>, due: Due) {
        if let Some((from, length)) = due.ahead {
            self.chores.add(Chore::Ahead { segment: Arc::downgrade(segment), from, length });
        }
        if due.seal {
            self.chores.add(Chore::Seal(Arc::downgrade(segment)));
        }
    }

    fn reserve(&self, length: u64, entry: Entry, born: u64, may_roll: bool) -> io::Result<(Arc<Segment>, Reserved)> {
        loop {
            let open = self.active().clone();
            if let Some(segment) = &open
                && let Some(reserved) = segment.reserve(length, entry, born)
            {
                return Ok((Arc::clone(segment), reserved));
            }
            if !may_roll {
                return Err(io::Error::new(io::ErrorKind::StorageFull, Held));
            }
            if length + length / 4 > self.shape.segment {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.roll(open.as_ref())?;
        }
    }

    /// Opens the next segment in place of `full`, unless somebody else just did.
    fn roll(&self, full: Option<&Arc<Segment>>) -> io::Result<()> {
        let _alone = self.roller();
        let open = self.active().clone();
        if open.as_ref().map(Arc::as_ptr) != full.map(Arc::as_ptr) {
            return Ok(());
        }
        self.make_room()?;
        let next = self.create_segment()?;
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(next.header.number, Arc::clone(&next));
        self.chores.add(Chore::Names(Arc::downgrade(&next)));
        *self.active() = Some(next);
        if let Some(full) = full
            && full.close()
        {
            self.chores.add(Chore::Seal(Arc::downgrade(full)));
        }
        // One segment's room stays free, so that the next roll need not drop one without a second chance.
        self.reclaim_surplus();
        Ok(())
    }

    fn create_segment(&self) -> io::Result<Arc<Segment>> {
        let mut tries = 0;
        loop {
            let header = SegmentHeader {
                number: self.next_number.fetch_add(1, Ordering::Relaxed),
                salt: self.disk.random(),
                seed: self.seed,
                size: self.shape.segment,
                purge: self.book.latest().0,
            };
            let room = Room::take(&self.ledger, header.size);
            match Segment::create(&*self.disk, header, room) {
                Ok(segment) => return Ok(Arc::new(segment)),
                // Others fill the disk too: give up our oldest rather than store nothing any more.
                Err(error) if is_full(&error) && tries < 3 && self.reclaim_oldest(false) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes no more into a segment that something is wrong with.
    pub(crate) fn retire(&self, segment: &Arc<Segment>) {
        let mut active = self.active();
        if active.as_ref().is_some_and(|open| Arc::ptr_eq(open, segment)) {
            *active = None;
        }
        drop(active);
        if segment.close() {
            self.chores.add(Chore::Seal(Arc::downgrade(segment)));
        }
    }

    fn check_working(&self) -> io::Result<()> {
        let until = *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(_) if self.is_bad() => Err(io::Error::other("the disk was given up")),
            Some(until) if self.disk.now() < until => Err(io::Error::other("the disk failed a moment ago")),
            Some(_) | None => Ok(()),
        }
    }

    fn worked(&self) {
        *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Notes that the disk refused to write.
    pub(crate) fn failed(&self, error: &io::Error) {
        if is_held(error) {
            // Nothing is wrong with the disk.
            return;
        }
        self.note_error("write", error);
        if !is_full(error) && error.kind() != io::ErrorKind::FileTooLarge {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let until = self.disk.now() + self.shape.retry;
        *self.failed_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl<'d> Run<'d> {
    /// Whether a record stands right behind these.
    fn goes_on(&self, segment: &Arc<Segment>, next: &Laid<'d>) -> bool {
        let here = self.segment.as_ref().is_some_and(|here| Arc::ptr_eq(here, segment));
        here && self.end == u64::from(next.reserved.offset) * UNIT
    }

    fn push(&mut self, segment: Arc<Segment>, laid: Laid<'d>) {
        self.end = u64::from(laid.reserved.offset) * UNIT + laid.length;
        self.segment = Some(segment);
        self.records.push(laid);
    }

    /// The bytes of all of them.
    fn parts(&self) -> Vec<IoSlice<'_>> {
        let mut parts = Vec::with_capacity(3 * self.records.len());
        for laid in &self.records {
            parts.push(IoSlice::new(&laid.front));
            parts.extend(laid.pieces.iter().map(|piece| IoSlice::new(piece)));
            let bytes = laid.front.len() + laid.pieces.iter().map(Bytes::len).sum::<usize>();
            let padding = usize::try_from(laid.length).unwrap_or(bytes).saturating_sub(bytes);
            parts.push(IoSlice::new(PADDING.get(..padding).unwrap_or(&PADDING)));
        }
        parts
    }
}

impl Laid<'_> {
    fn written(&self, segment: &Arc<Segment>) -> Written {
        let place = Place { segment: segment.header.number, offset: self.reserved.offset };
        let spot = Spot::new(place, self.length, self.kind == Kind::Slice, self.kind == Kind::Freshen);
        Written { spot, segment: Arc::clone(segment), reserved: self.reserved }
    }
}

/// The same error once more, for the next of several that it met.
fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
