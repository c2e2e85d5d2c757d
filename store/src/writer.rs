//! An object that is written: a body arrives in chunks, is read by others meanwhile, and is committed or aborted.
//!
//! Chunks are gathered into pieces; what fills under way hold in RAM is counted in one [`Budget`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::config::PIECE;
use crate::error::{ReadError, StoreError};
use crate::key::Head;
use crate::object::{Object, Pieces};
use crate::store::Inner;

/// A body on its way in. Dropping it aborts.
pub struct Writer {
    store: Arc<Inner>,
    head: Head,
    fill: Arc<Fill>,
    charge: Charge,
    /// An append was refused, so the body has a hole.
    broken: bool,
}

/// Reads what has been appended to a [`Writer`] so far, also after its commit.
#[derive(Clone)]
pub struct Partial {
    fill: Arc<Fill>,
}

/// What a writer and its readers share.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Bytes>,
    /// Chunks of the piece under way.
    tail: Vec<Bytes>,
    tail_length: u64,
    length: u64,
    aborted: bool,
}

/// Bytes that fills under way hold in RAM.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicU64,
    limit: u64,
}

/// One fill's share of the budget, given back when dropped.
struct Charge {
    store: Arc<Inner>,
    bytes: u64,
}

/// Chunks shorter than this are copied together, so that a body of tiny chunks costs no more than its bytes.
const SMALL_CHUNK: usize = 1 << 10;

impl Writer {
    pub(crate) fn new(store: Arc<Inner>, head: Head) -> Result<Self, StoreError> {
        store.check_metadata(&head.metadata)?;
        if let Some(length) = head.length {
            store.check_length(length)?;
        }
        let mut charge = Charge { store: Arc::clone(&store), bytes: 0 };
        charge.add(head.metadata.len() as u64)?;
        Ok(Self { store, head, fill: Arc::default(), charge, broken: false })
    }

    /// Appends the next bytes of the body. After an error the fill cannot be committed any more; what was appended
    /// before is still read.
    #[expect(clippy::unused_async, reason = "a slice on its way to disk is waited for")]
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.broken, true);
        if before {
            return Err(StoreError::Broken);
        }
        let length = self.fill.state().length + chunk.len() as u64;
        if let Some(expected) = self.head.length.filter(|expected| length > *expected) {
            return Err(StoreError::Length { expected, found: length });
        }
        self.store.check_length(length)?;
        self.charge.add(chunk.len() as u64)?;
        self.fill.state().append(chunk);
        self.broken = false;
        Ok(())
    }

    /// A reader of what has been and will be appended.
    pub fn partial(&self) -> Partial {
        Partial { fill: Arc::clone(&self.fill) }
    }

    /// Stores the object in place of any older one under its key; `metadata` replaces the head's if given.
    #[expect(clippy::unused_async, reason = "the record on its way to disk is waited for")]
    pub async fn commit(mut self, metadata: Option<Bytes>) -> Result<Object, StoreError> {
        if let Some(metadata) = metadata {
            self.store.check_metadata(&metadata)?;
            self.head.metadata = metadata;
        }
        if self.broken {
            return Err(StoreError::Broken);
        }
        let found = self.fill.state().length;
        if let Some(expected) = self.head.length.filter(|expected| *expected != found) {
            return Err(StoreError::Length { expected, found });
        }
        self.head.length = Some(found);
        let pieces = {
            let mut state = self.fill.state();
            state.close_piece();
            Arc::new(Pieces::new(state.pieces.clone()))
        };
        self.charge.release();
        let object = self.store.take_in(self.head.clone(), pieces);
        self.fill = Arc::default();
        Ok(object)
    }

    /// Gives up: readers of the partial body are told.
    pub fn abort(self) {
        drop(self);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.fill.state().aborted = true;
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Partial {
    /// Bytes appended so far.
    #[expect(clippy::len_without_is_empty, reason = "it grows: emptiness is a moment, not a state")]
    pub fn len(&self) -> u64 {
        self.fill.state().length
    }

    /// 1 to `max` bytes at `offset`; empty only if `offset` is [`Partial::len`] or more, or `max` is 0.
    #[expect(clippy::unused_async, reason = "a slice on disk is waited for")]
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        let state = self.fill.state();
        if state.aborted { Err(ReadError::Aborted) } else { Ok(state.read(offset, max)) }
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Fill {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, mut chunk: Bytes) {
        self.length += chunk.len() as u64;
        while !chunk.is_empty() {
            let room = usize::try_from(PIECE - self.tail_length).unwrap_or(usize::MAX);
            let part = chunk.split_to(room.min(chunk.len()));
            self.tail_length += part.len() as u64;
            match self.tail.last_mut() {
                Some(last) if last.len() + part.len() <= SMALL_CHUNK => *last = [&last[..], &part[..]].concat().into(),
                Some(_) | None => self.tail.push(part),
            }
            if self.tail_length == PIECE {
                self.close_piece();
            }
        }
    }

    fn close_piece(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        // Copied once, so that a piece pins no network buffer larger than itself.
        let mut piece = BytesMut::with_capacity(usize::try_from(self.tail_length).unwrap_or_default());
        self.tail.drain(..).for_each(|chunk| piece.extend_from_slice(&chunk));
        self.tail_length = 0;
        self.pieces.push(piece.freeze());
    }

    fn read(&self, offset: u64, max: usize) -> Bytes {
        let index = usize::try_from(offset / PIECE).unwrap_or(usize::MAX);
        let mut within = usize::try_from(offset % PIECE).unwrap_or(usize::MAX);
        let chunks = match self.pieces.get(index) {
            Some(piece) => std::slice::from_ref(piece),
            None if index == self.pieces.len() => &self.tail,
            None => &[],
        };
        for chunk in chunks {
            if within < chunk.len() {
                return chunk.slice(within..chunk.len().min(within.saturating_add(max)));
            }
            within -= chunk.len();
        }
        Bytes::new()
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { held: AtomicU64::new(0), limit }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) -> Result<(), StoreError> {
        let fits = |held: u64| held.checked_add(bytes).filter(|held| *held <= self.limit);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|held| StoreError::NoRoom { held, limit: self.limit })
    }
}

impl Charge {
    fn add(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.store.budget.add(bytes)?;
        self.bytes += bytes;
        self.store.fills_changed();
        Ok(())
    }

    fn release(&mut self) {
        self.store.budget.held.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.store.fills_changed();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}
