//! Records out of any segment: checked on the way, a body only as far as it is asked for.
//!
//! A short record is read in one go; of a longer one the head first, then whole pieces of the body. What is read is
//! held against its checksums and the key that was asked for: what does not match is a miss, never another's bytes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::config::PIECE;
use crate::engine::{Engine, slice_key};
use crate::index::Spot;
use crate::key::{Head, Key};
use crate::object::Pieces;
use crate::record::{DecodeError, HEADER, Header, Kind, Place, UNIT};
use crate::segment::Segment;

/// An object found on disk.
pub(crate) struct Loaded {
    pub(crate) spot: Spot,
    pub(crate) head: Head,
    pub(crate) header: Header,
    pub(crate) body: LoadedBody,
}

/// A body found on disk: read along with the head if it is small.
pub(crate) enum LoadedBody {
    Pieces(Pieces),
    At(Arc<[SliceAt]>),
}

/// Where one slice of a body, or all of it, is. Keeps the segment readable.
#[derive(Clone)]
pub(crate) struct SliceAt {
    pub(crate) key: Key,
    /// The number of its disk.
    pub(crate) disk: usize,
    spot: Spot,
    segment: Arc<Segment>,
    offset: u32,
}

/// One record as it was read.
pub(crate) struct Read {
    pub(crate) header: Header,
    pub(crate) metadata: Bytes,
    sums: Vec<u32>,
    /// The record's bytes as far as they were read along.
    bytes: Bytes,
}

/// Why a record could not be read.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    Corrupt(DecodeError),
    /// It is sound, and another than was looked for.
    Other,
}

/// A record up to this length is read in one go.
const AT_ONCE: u64 = PIECE + (8 << 10);
/// Of a longer one this much is read for its head.
const FRONT: u64 = 4 << 10;

impl Engine {
    /// The object under `key`, its head read and checked, its body too if that is small.
    pub(crate) fn load(&self, key: &Key) -> Result<Option<Loaded>, Fault> {
        let hash = self.hash(key);
        let mut spot = self.index.ask(hash);
        // The record may move while it is looked for; where it moves to is asked for again, twice.
        for _ in 0..3 {
            let Some(at) = spot else { return Ok(None) };
            if let Some(segment) = self.segment(at) {
                return self.load_from(key, hash, at, &segment);
            }
            // Reclaiming empties the index before it drops a segment. What is still there was entered after that, by a
            // write that took as long as all other segments: nobody else will take it out.
            self.index.remove(hash, at);
            spot = self.index.ask(hash);
        }
        Ok(None)
    }

    /// As `load`, if that is a small object that was written whole and the system has it in memory. `None` says nothing
    /// but that `load` is to be asked; whatever is wrong, it will meet.
    pub(crate) fn load_cached(&self, key: &Key) -> Option<Loaded> {
        let spot = self.index.ask(self.hash(key)).filter(|spot| spot.length() <= AT_ONCE)?;
        let (segment, offset) = (self.segment(spot)?, self.place(spot).offset);
        let begin = u64::from(offset) * UNIT;
        let length = spot.length().min(segment.header.size.checked_sub(begin)?);
        let bytes = segment.read_cached(begin, usize::try_from(length).ok()?).ok()??;
        let header = Header::decode(&bytes, segment.header.salt).ok()?;
        if header.kind != Kind::Whole || header.key != *key || header.record_length() > length {
            return None;
        }
        let (metadata, sums) = header.decode_front(&bytes).ok()?;
        let read = Read { header, metadata, sums, bytes };
        let body = LoadedBody::Pieces(self.body(&segment, offset, &read).ok()?);
        Some(Loaded { spot, head: read.header.head(read.metadata), header: read.header, body })
    }

    /// Where a slice is.
    pub(crate) fn find_slice(&self, key: Key) -> Option<SliceAt> {
        let spot = self.index.ask(self.hash(&key))?;
        let segment = self.segment(spot)?;
        Some(SliceAt { key, disk: self.number, spot, segment, offset: self.place(spot).offset })
    }

    /// Forgets a slice or a body that turned out unreadable.
    pub(crate) fn forget(&self, slice: &SliceAt) {
        self.index.remove(self.hash(&slice.key), slice.spot);
    }

    /// All of a slice or body, checked.
    pub(crate) fn read_slice(&self, slice: &SliceAt) -> Result<Pieces, Fault> {
        let read = self.read(&slice.segment, slice.offset, slice.spot.length())?;
        self.body(&slice.segment, slice.offset, &read)
    }

    /// 1 to `max` bytes at `offset` of a slice or body, checked; empty at its end.
    pub(crate) fn read_range(&self, slice: &SliceAt, offset: u64, max: usize) -> Result<Bytes, Fault> {
        let read = self.read(&slice.segment, slice.offset, slice.spot.length())?;
        let number = offset / PIECE;
        if offset >= u64::from(read.header.body_length) || max == 0 {
            return Ok(Bytes::new());
        }
        let piece = self.piece(&slice.segment, slice.offset, &read, number)?;
        let within = usize::try_from(offset % PIECE).unwrap_or_default();
        Ok(piece.slice(within.min(piece.len())..piece.len().min(within.saturating_add(max))))
    }

    /// Reads a record's head, and the rest along with it if it is short.
    pub(crate) fn read(&self, segment: &Segment, offset: u32, length: u64) -> Result<Read, Fault> {
        let begin = u64::from(offset) * UNIT;
        let most = segment.header.size.saturating_sub(begin);
        let first = if length <= AT_ONCE { length } else { FRONT };
        let mut bytes = read_bytes(segment, begin, first.min(most))?;
        let header = Header::decode(&bytes, segment.header.salt).map_err(Fault::Corrupt)?;
        if header.record_length() > most {
            return Err(Fault::Corrupt(DecodeError::Field));
        }
        if header.body_begin() > bytes.len() as u64 {
            bytes = read_bytes(segment, begin, header.body_begin())?;
        }
        let (metadata, sums) = header.decode_front(&bytes).map_err(Fault::Corrupt)?;
        Ok(Read { header, metadata, sums, bytes })
    }

    /// All of a record's body, checked.
    pub(crate) fn body(&self, segment: &Segment, offset: u32, read: &Read) -> Result<Pieces, Fault> {
        let pieces = (0..read.header.pieces()).map(|number| self.piece(segment, offset, read, number));
        pieces.collect::<Result<Vec<_>, _>>().map(Pieces::new)
    }

    /// Counts a fault of reading; a corrupt record is forgotten.
    pub(crate) fn note(&self, fault: &Fault) {
        match fault {
            Fault::Io(error) => self.note_error("read", error),
            Fault::Corrupt(error) => {
                self.counts.corrupt.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a stored record is corrupt and counts as a miss");
            }
            Fault::Other => {}
        }
    }

    fn load_from(&self, key: &Key, hash: u64, spot: Spot, segment: &Arc<Segment>) -> Result<Option<Loaded>, Fault> {
        let loaded = self.load_sound(key, spot, segment);
        match &loaded {
            Err(Fault::Corrupt(_)) => drop(self.index.remove(hash, spot)),
            // A freshen without its body, or a run without all its slices, is of no more use.
            Ok(None) => drop(self.index.remove(hash, spot)),
            Ok(Some(_)) | Err(Fault::Io(_) | Fault::Other) => {}
        }
        loaded
    }

    fn load_sound(&self, key: &Key, spot: Spot, segment: &Arc<Segment>) -> Result<Option<Loaded>, Fault> {
        let offset = self.place(spot).offset;
        let read = self.read(segment, offset, spot.length())?;
        if read.header.key != *key {
            return Err(Fault::Other);
        }
        let head = read.header.head(read.metadata.clone());
        let at = |segment: &Arc<Segment>, offset, spot| {
            let slice = SliceAt { key: *key, disk: self.number, spot, segment: Arc::clone(segment), offset };
            LoadedBody::At(Arc::from([slice]))
        };
        let body = match read.header.kind {
            Kind::Whole if read.header.record_length() <= AT_ONCE => {
                LoadedBody::Pieces(self.body(segment, offset, &read)?)
            }
            Kind::Whole => at(segment, offset, spot),
            Kind::Freshen => {
                let Place { segment: number, offset } = read.header.body_at;
                let Some(segment) = self.segment_numbered(number) else { return Ok(None) };
                let length = read.header.length + HEADER as u64;
                let body = self.read(&segment, offset, length)?;
                if body.header.key != *key || body.header.generation != read.header.generation {
                    return Err(Fault::Corrupt(DecodeError::Field));
                }
                if body.header.record_length() <= AT_ONCE {
                    LoadedBody::Pieces(self.body(&segment, offset, &body)?)
                } else {
                    at(&segment, offset, Spot::new(read.header.body_at, body.header.record_length(), false, false))
                }
            }
            Kind::Run => match self.slices(&read.header) {
                Some(slices) => LoadedBody::At(slices),
                None => return Ok(None),
            },
            Kind::Slice | Kind::Tombstone => return Err(Fault::Other),
        };
        Ok(Some(Loaded { spot, head, header: read.header, body }))
    }

    /// Where all slices of a run are; `None` if one is gone.
    fn slices(&self, run: &Header) -> Option<Arc<[SliceAt]>> {
        let count = run.length.div_ceil(u64::from(run.slice));
        (0..count).map(|number| self.find_slice(slice_key(&run.key, run.generation, number))).collect()
    }

    fn piece(&self, segment: &Segment, offset: u32, read: &Read, number: u64) -> Result<Bytes, Fault> {
        let begin = read.header.body_begin() + number * PIECE;
        let length = PIECE.min(u64::from(read.header.body_length).saturating_sub(number * PIECE));
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = if begin + length <= read.bytes.len() as u64 {
            read.bytes.slice(within(begin)..within(begin + length))
        } else {
            read_bytes(segment, u64::from(offset) * UNIT + begin, length)?
        };
        match usize::try_from(number).ok().and_then(|number| read.sums.get(number)) {
            Some(sum) if crc32fast::hash(&bytes) == *sum => Ok(bytes),
            Some(_) | None => Err(Fault::Corrupt(DecodeError::Checksum)),
        }
    }
}

fn read_bytes(segment: &Segment, offset: u64, length: u64) -> Result<Bytes, Fault> {
    let length = usize::try_from(length).map_err(|_| Fault::Corrupt(DecodeError::Field))?;
    segment.read(offset, length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Corrupt(DecodeError::Short),
        _ => Fault::Io(error),
    })
}
