//! An object that is read: its head, and its body wherever that is.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::PIECE;
use crate::error::ReadError;
use crate::index::Spot;
use crate::key::{Head, Key, PurgeNumber, Tags};
use crate::load::SliceAt;
use crate::record::milliseconds;
use crate::tiers::Tiers;

/// Where an object was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// In RAM: reads cost no copy and no wait.
    Memory,
    /// On disk: the first read of a part waits for the disk.
    Disk,
}

/// An object of the store. Cheap to clone; what it reads stays readable while it lives, also once evicted.
#[derive(Clone)]
pub struct Object {
    pub(crate) soft_purged: bool,
    pub(crate) tier: Tier,
    pub(crate) body: Body,
}

/// An object as it was found. A hit in RAM costs one reference and touches nothing else.
#[derive(Clone)]
pub(crate) enum Body {
    Memory(Arc<Whole>),
    Disk(Arc<OnDisk>),
}

/// An object whose body is on disk, in one record or in a run of slices.
pub(crate) struct OnDisk {
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) head: Head,
    pub(crate) stored: SystemTime,
    pub(crate) slices: Arc<[SliceAt]>,
    pub(crate) kind: DiskKind,
}

/// How a body on disk is cut.
pub(crate) enum DiskKind {
    /// One record. Once read whole it is in the RAM tier, and found there while it stays.
    Whole { spot: Spot, loaded: Mutex<Weak<Pieces>> },
    /// Slices of this many bytes, the last one shorter.
    Run { slice: u64 },
}

/// Bytes in pieces of [`PIECE`] bytes, the last one shorter: so a reader never pins more than it reads.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    list: Box<[Bytes]>,
    length: u64,
}

/// A whole object in RAM, or one slice of a larger one. What a hit looks at comes first, and with the count of references
/// takes a cache line's bytes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Whole {
    /// Every purge up to this number was met and left the object as it is.
    pub(crate) checked: AtomicU64,
    /// Bytes of the body.
    length: u64,
    /// When the object expires, in milliseconds since 1970.
    deadline: u64,
    /// As in the head.
    pub(crate) key: Key,
    pub(crate) soft_purged: bool,
    slice: bool,
    /// How often it was asked for in the RAM tier since it came in or was last passed over, up to [`ASKED_MOST`].
    asked: AtomicU8,
    /// Whether it stands in the RAM tier's main queue.
    in_main: AtomicBool,
    /// Tells its entry in the RAM tier's queues from an older or newer one under the same key.
    pub(crate) entry: AtomicU64,
    pub(crate) head: Head,
    pub(crate) stored: SystemTime,
    pub(crate) pieces: Arc<Pieces>,
    /// It is to go to disk once it is asked for: there was no time for it.
    owed: AtomicBool,
    /// What the store's owner made of the metadata.
    made: OnceLock<Box<Made>>,
}

/// Anything that several threads may look at.
type Made = dyn Any + Send + Sync;

/// The deadline of what never expires.
const NEVER: u64 = u64::MAX;
/// How often an object was asked for is counted up to this.
const ASKED_MOST: u8 = 3;

impl Whole {
    pub(crate) fn new(head: Head, stored: SystemTime, soft_purged: bool, pieces: Arc<Pieces>) -> Self {
        Self {
            checked: AtomicU64::new(0),
            length: pieces.len(),
            deadline: head.expires.map_or(NEVER, milliseconds),
            key: head.key,
            soft_purged,
            slice: false,
            asked: AtomicU8::new(0),
            in_main: AtomicBool::new(false),
            entry: AtomicU64::new(0),
            head,
            stored,
            pieces,
            owed: AtomicBool::new(false),
            made: OnceLock::new(),
        }
    }

    /// One that is in RAM alone; `owed`: it goes to disk once it is asked for.
    pub(crate) fn held(head: Head, stored: SystemTime, pieces: Arc<Pieces>, owed: bool) -> Self {
        Self { owed: AtomicBool::new(owed), ..Self::new(head, stored, false, pieces) }
    }

    /// One slice of a large body, under the slice's key.
    pub(crate) fn slice(key: Key, pieces: Arc<Pieces>) -> Self {
        let (tags, metadata, born) = (Tags::default(), Bytes::new(), PurgeNumber::default());
        let head = Head { key, directory: 0, tags, expires: None, metadata, length: None, born };
        Self { slice: true, ..Self::new(head, SystemTime::UNIX_EPOCH, false, pieces) }
    }

    /// Whether it is to go to disk once it is asked for.
    pub(crate) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    /// It is on disk.
    pub(crate) fn settle(&self) {
        self.owed.store(false, Ordering::Relaxed);
    }

    /// Whether it is a slice.
    pub(crate) fn is_slice(&self) -> bool {
        self.slice
    }

    /// Bytes of the body.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Bytes of the body, of the metadata, and of what its owner makes of them.
    pub(crate) fn weight(&self) -> u64 {
        self.length + 2 * self.head.metadata.len() as u64
    }

    /// Whether it comes from disk with one read.
    pub(crate) fn is_read_at_once(&self) -> bool {
        self.length + self.head.metadata.len() as u64 <= PIECE
    }

    /// Counts that it was asked for; true: the first time since it came in or was last passed over.
    pub(crate) fn ask(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked < ASKED_MOST {
            // Two at once may count as one: it is a hint, and a plain store costs a hit less.
            self.asked.store(asked + 1, Ordering::Relaxed);
        }
        asked == 0
    }

    /// How often it was asked for, up to 3.
    pub(crate) fn asked(&self) -> u8 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Notes that it stands in the RAM tier's main queue or the small one, asked for this often.
    pub(crate) fn stands(&self, in_main: bool, asked: u8) {
        self.in_main.store(in_main, Ordering::Relaxed);
        self.asked.store(asked, Ordering::Relaxed);
    }

    /// Whether it stands in the RAM tier's main queue.
    pub(crate) fn in_main(&self) -> bool {
        self.in_main.load(Ordering::Relaxed)
    }

    /// Whether it has expired; asks `now` only if it ever does.
    pub(crate) fn expired(&self, now: impl FnOnce() -> SystemTime) -> bool {
        self.deadline != NEVER && self.deadline <= milliseconds(now())
    }
}

impl Object {
    /// What is known of the object beside its body. `length` is the body's.
    pub fn head(&self) -> &Head {
        match &self.body {
            Body::Memory(whole) => &whole.head,
            Body::Disk(found) => &found.head,
        }
    }

    /// Bytes of the body.
    #[expect(clippy::len_without_is_empty, reason = "an object without a body is an object still")]
    pub fn len(&self) -> u64 {
        match &self.body {
            Body::Memory(whole) => whole.len(),
            Body::Disk(found) => found.head.length.unwrap_or_default(),
        }
    }

    /// Where the body was found.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// When the body was stored, to the millisecond; `freshen` leaves it as it is.
    pub fn stored(&self) -> SystemTime {
        match &self.body {
            Body::Memory(whole) => whole.stored,
            Body::Disk(found) => found.stored,
        }
    }

    /// Whether a soft purge took it since it was born: ask the origin before using it.
    pub fn soft_purged(&self) -> bool {
        self.soft_purged
    }

    /// 1 to `max` bytes of the body at `offset`; empty only at or past its end, or if `max` is 0. From RAM without a
    /// copy; from disk a slice is read whole if it is read from its beginning, and kept in RAM, else 64 KiB of it.
    ///
    /// # Errors
    /// The bytes are not those that were written, the disk failed, or a slice was replaced meanwhile.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        match &self.body {
            Body::Memory(whole) => Ok(whole.pieces.read(offset, max)),
            Body::Disk(found) if offset < self.len() => found.read(self.soft_purged, offset, max).await,
            Body::Disk(_) => Ok(Bytes::new()),
        }
    }

    /// The body in its pieces if it is in RAM.
    pub fn resident(&self) -> Option<&[Bytes]> {
        match &self.body {
            Body::Memory(whole) => Some(whole.pieces.list()),
            Body::Disk(_) => None,
        }
    }

    /// What [`Object::make`] kept with the object.
    pub fn made<T: Any>(&self) -> Option<&T> {
        match &self.body {
            Body::Memory(whole) => whole.made.get()?.downcast_ref(),
            Body::Disk(_) => None,
        }
    }

    /// Keeps something with an object in RAM until it leaves or gets other metadata: what its owner made of the metadata, so
    /// that it is made once. It is to take no more bytes than the metadata, as which it is counted. The first one stays; one
    /// for an object on disk is dropped.
    pub fn make<T: Any + Send + Sync>(&self, made: T) {
        if let Body::Memory(whole) = &self.body {
            // Of two that were made at once either will do.
            let _ = whole.made.set(Box::new(made));
        }
    }

    pub(crate) fn in_memory(whole: Arc<Whole>, soft_purged: bool) -> Self {
        Self { soft_purged, tier: Tier::Memory, body: Body::Memory(whole) }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("head", self.head()).field("tier", &self.tier()).finish_non_exhaustive()
    }
}

impl OnDisk {
    async fn read(&self, soft_purged: bool, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        let tiers = Arc::clone(&self.tiers);
        match &self.kind {
            DiskKind::Run { slice } => {
                let number = usize::try_from(offset / slice).unwrap_or(usize::MAX);
                let at = self.slices.get(number).ok_or(ReadError::Lost)?;
                tiers.read_slice(at, offset % slice, max).await
            }
            DiskKind::Whole { spot, loaded } => {
                let kept = loaded.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
                if let Some(pieces) = kept {
                    return Ok(pieces.read(offset, max));
                }
                let at = self.slices.first().ok_or(ReadError::Lost)?;
                if offset > 0 {
                    return tiers.read_range(at, Some(*spot), offset, max).await;
                }
                let pieces = tiers.promote(at, *spot, self, soft_purged).await?;
                *loaded.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&pieces);
                Ok(pieces.read(offset, max))
            }
        }
    }
}

impl Pieces {
    /// Pieces that are each of [`PIECE`] bytes but for the last, or one that is empty.
    pub(crate) fn new(mut list: Vec<Bytes>) -> Self {
        list.retain(|piece| !piece.is_empty());
        let length = list.iter().map(|piece| piece.len() as u64).sum();
        Self { list: list.into_boxed_slice(), length }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    pub(crate) fn list(&self) -> &[Bytes] {
        &self.list
    }

    pub(crate) fn read(&self, offset: u64, max: usize) -> Bytes {
        let index = usize::try_from(offset / PIECE).unwrap_or(usize::MAX);
        let within = usize::try_from(offset % PIECE).unwrap_or(usize::MAX);
        match self.list.get(index) {
            Some(piece) if within < piece.len() => piece.slice(within..piece.len().min(within.saturating_add(max))),
            Some(_) | None => Bytes::new(),
        }
    }
}
