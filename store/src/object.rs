//! An object that is read: its head, and its body wherever that is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::PIECE;
use crate::error::ReadError;
use crate::key::Head;

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
    pub(crate) head: Arc<Head>,
    pub(crate) stored: SystemTime,
    pub(crate) soft_purged: bool,
    pub(crate) length: u64,
    pub(crate) body: Body,
}

/// Where a body is.
#[derive(Clone)]
pub(crate) enum Body {
    Memory(Arc<Pieces>),
}

/// Bytes in pieces of [`PIECE`] bytes, the last one shorter: so a reader never pins more than it reads.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    list: Box<[Bytes]>,
    length: u64,
}

/// A whole object in RAM.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) head: Arc<Head>,
    pub(crate) stored: SystemTime,
    pub(crate) soft_purged: bool,
    pub(crate) pieces: Arc<Pieces>,
    /// Every purge up to this number was met and left the object as it is.
    pub(crate) checked: AtomicU64,
}

impl Object {
    /// What is known of the object beside its body. `length` is the body's.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of the body.
    #[expect(clippy::len_without_is_empty, reason = "an object without a body is an object still")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Where the body was found.
    pub fn tier(&self) -> Tier {
        match &self.body {
            Body::Memory(_) => Tier::Memory,
        }
    }

    /// When the body was stored; `freshen` leaves it as it is.
    pub fn stored(&self) -> SystemTime {
        self.stored
    }

    /// Whether a soft purge took it since it was born: ask the origin before using it.
    pub fn soft_purged(&self) -> bool {
        self.soft_purged
    }

    /// 1 to `max` bytes of the body at `offset`; empty only at or past its end, or if `max` is 0.
    #[expect(clippy::unused_async, reason = "a body on disk is waited for")]
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        match &self.body {
            Body::Memory(pieces) => Ok(pieces.read(offset, max)),
        }
    }

    pub(crate) fn in_memory(whole: &Whole, soft_purged: bool) -> Self {
        Self {
            head: Arc::clone(&whole.head),
            stored: whole.stored,
            soft_purged,
            length: whole.pieces.len(),
            body: Body::Memory(Arc::clone(&whole.pieces)),
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("head", &self.head).field("tier", &self.tier()).finish_non_exhaustive()
    }
}

impl Pieces {
    /// Pieces that are each of [`PIECE`] bytes but for the last.
    pub(crate) fn new(list: Vec<Bytes>) -> Self {
        let length = list.iter().map(|piece| piece.len() as u64).sum();
        Self { list: list.into_boxed_slice(), length }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
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
