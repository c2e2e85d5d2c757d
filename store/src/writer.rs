//! An object that is written: a body arrives in chunks, is read by others meanwhile, and is committed or aborted.
//!
//! Chunks are gathered into pieces, pieces into slices. A body longer than one slice goes to disk slice by slice as it
//! arrives, so a fill holds little more than a slice in RAM; what all fills hold, in RAM and on disk, is counted in a
//! [`Budget`](crate::budget::Budget) each. Without a disk, or when it failed before the first slice was written, the body stays in RAM.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::budget::Charge;
use crate::config::PIECE;
use crate::engine::{Engine, slice_key};
use crate::error::{ReadError, StoreError};
use crate::group::Put;
use crate::key::{Head, Key};
use crate::object::{Object, Pieces};
use crate::record::to_millisecond;
use crate::tiers::Tiers;

/// A body on its way in. Dropping it aborts.
pub struct Writer {
    head: Head,
    fill: Arc<Fill>,
    generation: u64,
    in_ram: Charge,
    on_disk: Charge,
    /// Slices that were sent to disk, also such whose writing nobody waited for.
    begun: u64,
    /// An append was refused, so the body has a hole.
    broken: bool,
    /// Why the disk refused the first slice: the body stays in RAM if it fits.
    stay: Option<io::Error>,
    committed: bool,
}

/// Reads what has been appended to a [`Writer`] so far, also after its commit.
#[derive(Clone)]
pub struct Partial {
    fill: Arc<Fill>,
}

/// What a writer and its readers share.
struct Fill {
    tiers: Arc<Tiers>,
    /// The number of the disk that its slices go to.
    disk: Option<usize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whole slices that are on disk.
    slices: Vec<Key>,
    /// Bytes in them.
    flushed: u64,
    /// Whole pieces after them.
    pieces: Vec<Bytes>,
    /// The CRC-32 of each, taken while it is in the processor's cache; none if there is no disk.
    sums: Vec<u32>,
    summed: bool,
    /// Chunks of the piece under way.
    tail: Vec<Bytes>,
    tail_length: u64,
    length: u64,
    aborted: bool,
}

/// Where the bytes at an offset are.
enum At {
    Ready(Bytes),
    Disk(Key, u64),
}

/// Chunks shorter than this are copied together, so that a body of tiny chunks costs little more than its bytes.
const SMALL_CHUNK: usize = 1 << 10;

impl Writer {
    pub(crate) fn new(tiers: Arc<Tiers>, head: Head) -> Result<Self, StoreError> {
        tiers.check_metadata(&head.metadata)?;
        if let Some(length) = head.length {
            tiers.check_length(length)?;
        }
        let mut in_ram = Charge::new(&tiers, |tiers| &tiers.budget);
        let on_disk = Charge::new(&tiers, |tiers| &tiers.disk_budget);
        in_ram.add(head.metadata.len() as u64)?;
        let engine = tiers.disks.of(&head.key);
        let (disk, generation) = (engine.map(|engine| engine.number), engine.map_or(0, Engine::generation));
        let state = Mutex::new(State { summed: disk.is_some(), ..State::default() });
        Ok(Self {
            head: Head { expires: head.expires.map(to_millisecond), ..head },
            generation,
            fill: Arc::new(Fill { disk, tiers, state }),
            in_ram,
            on_disk,
            begun: 0,
            broken: false,
            stay: None,
            committed: false,
        })
    }

    /// Appends the next bytes of the body; waits while a slice goes to disk.
    ///
    /// # Errors
    /// The body is longer than announced or than is stored here, fills under way hold all they may, or the disk failed.
    /// After an error the fill cannot be committed any more; what was appended before is still read.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        // Stays set if this future is dropped half-way, too.
        if std::mem::replace(&mut self.broken, true) {
            return Err(StoreError::Broken);
        }
        let length = self.fill.state().length + chunk.len() as u64;
        if let Some(expected) = self.head.length.filter(|expected| length > *expected) {
            return Err(StoreError::Length { expected, found: length });
        }
        self.fill.tiers.check_length(length)?;
        self.in_ram.add(chunk.len() as u64)?;
        self.fill.state().append(chunk);
        self.flush(false).await?;
        self.broken = false;
        Ok(())
    }

    /// A reader of what has been and will be appended.
    pub fn partial(&self) -> Partial {
        Partial { fill: Arc::clone(&self.fill) }
    }

    /// Stores the object in place of any older one under its key; `metadata` replaces the head's if given.
    ///
    /// # Errors
    /// An append failed before, the body is shorter than announced, the metadata is over the limit, or the disk failed
    /// and RAM cannot hold the object either.
    pub async fn commit(mut self, metadata: Option<Bytes>) -> Result<Object, StoreError> {
        if let Some(metadata) = metadata {
            self.fill.tiers.check_metadata(&metadata)?;
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
        self.fill.state().close_piece();
        let run = !self.fill.state().slices.is_empty();
        if run {
            self.flush(true).await?;
        }
        let object = if run { self.commit_run().await? } else { self.commit_whole().await? };
        self.committed = true;
        Ok(object)
    }

    /// Gives up: readers of the partial body are told.
    pub fn abort(self) {
        drop(self);
    }

    async fn commit_whole(&mut self) -> Result<Object, StoreError> {
        let tiers = Arc::clone(&self.fill.tiers);
        let (pieces, sums) = {
            let state = self.fill.state();
            (Arc::new(Pieces::new(state.pieces.clone())), state.sums.clone())
        };
        let head = self.head.clone();
        let Some(disk) = self.fill.disk else { return tiers.put_resident(head, pieces) };
        let group = tiers.groups.get(disk).ok_or(StoreError::Broken)?;
        group.put(&tiers, disk, Put { head, pieces, sums, _charge: self.in_ram.hand_over() }).await
    }

    async fn commit_run(&self) -> Result<Object, StoreError> {
        let slices = self.fill.state().slices.clone();
        let (head, generation) = (self.head.clone(), self.generation);
        let work = move |tiers: &Arc<Tiers>| tiers.put_run(head, generation, &slices);
        self.fill.tiers.write(work).await.map_err(StoreError::Disk)?
    }

    /// Sends whole slices to disk, with `all` also the last one, while there is more than one slice in RAM.
    async fn flush(&mut self, all: bool) -> Result<(), StoreError> {
        let tiers = Arc::clone(&self.fill.tiers);
        if tiers.disks.is_empty() {
            return Ok(());
        }
        let slice = tiers.config.slice_bytes();
        while self.stay.is_none() {
            let (number, pieces, sums) = {
                let state = self.fill.state();
                let in_ram = state.length - state.flushed;
                if in_ram == 0 || (in_ram <= slice && !all) {
                    return Ok(());
                }
                let count = usize::try_from(slice / PIECE).unwrap_or(usize::MAX).min(state.pieces.len());
                let pieces = Arc::new(Pieces::new(state.pieces[..count].to_vec()));
                (state.slices.len() as u64, pieces, state.sums[..count].to_vec())
            };
            match self.flush_slice(number, Arc::clone(&pieces), sums).await {
                Ok(at) => {
                    let mut state = self.fill.state();
                    state.slices.push(at);
                    state.flushed += pieces.len();
                    state.pieces.drain(..pieces.list().len());
                    state.sums.drain(..pieces.list().len());
                    drop(state);
                    self.in_ram.give_back(pieces.len());
                }
                Err(StoreError::Disk(error)) if number == 0 => self.stay = Some(error),
                Err(error) => return Err(error),
            }
        }
        // The object is none too large: it is the disk that is missing.
        let fits = self.fill.state().length <= tiers.memory_limit();
        if fits { Ok(()) } else { self.stay.take().map_or(Ok(()), |error| Err(StoreError::Disk(error))) }
    }

    async fn flush_slice(&mut self, number: u64, pieces: Arc<Pieces>, sums: Vec<u32>) -> Result<Key, StoreError> {
        self.on_disk.add(pieces.len())?;
        let (head, key) = (self.head.clone(), slice_key(&self.head.key, self.generation, number));
        if let Some(engine) = self.fill.engine() {
            self.begun = self.begun.max(number + 1);
            engine.begin_slice(&key);
        }
        let work = move |tiers: &Arc<Tiers>| tiers.put_slice(key, &head, pieces, &sums);
        self.fill.tiers.write(work).await.map_err(StoreError::Disk)??;
        Ok(key)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.fill.state().aborted = !self.committed;
        if let Some(engine) = self.fill.engine() {
            let slices = (0..self.begun).map(|number| slice_key(&self.head.key, self.generation, number));
            engine.done(slices, !self.committed);
        }
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
    ///
    /// # Errors
    /// The writer gave up, or a slice on disk cannot be read.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, ReadError> {
        let tiers = &self.fill.tiers;
        let at = {
            let state = self.fill.state();
            if state.aborted {
                return Err(ReadError::Aborted);
            }
            state.at(offset, max, tiers.config.slice_bytes())
        };
        match at {
            At::Ready(bytes) => Ok(bytes),
            At::Disk(key, within) => {
                let engine = self.fill.engine().ok_or(ReadError::Lost)?;
                let slice = engine.find_slice(key).ok_or(ReadError::Lost)?;
                Arc::clone(tiers).read_slice(&slice, within, max).await
            }
        }
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Fill {
    fn engine(&self) -> Option<&Engine> {
        self.tiers.disks.at(self.disk?)
    }

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
        self.tail_length = 0;
        let tail = std::mem::take(&mut self.tail);
        let length = tail.iter().map(Bytes::len).sum();
        if length == 0 {
            return;
        }
        let alone = <[Bytes; 1]>::try_from(tail).map(|[chunk]| filling(chunk).map_err(|chunk| vec![chunk]));
        let piece = alone.unwrap_or_else(Err).unwrap_or_else(|tail| {
            // Copied once, so that a piece pins no network buffer larger than itself.
            let mut piece = BytesMut::with_capacity(length);
            tail.iter().for_each(|chunk| piece.extend_from_slice(chunk));
            piece.freeze()
        });
        if self.summed {
            self.sums.push(crc32fast::hash(&piece));
        }
        self.pieces.push(piece);
    }

    fn at(&self, offset: u64, max: usize, slice: u64) -> At {
        let number = usize::try_from(offset / slice).unwrap_or(usize::MAX);
        match self.slices.get(number) {
            Some(at) if offset < self.length => At::Disk(*at, offset % slice),
            Some(_) => At::Ready(Bytes::new()),
            None => At::Ready(self.in_ram(offset.saturating_sub(self.flushed), max)),
        }
    }

    fn in_ram(&self, offset: u64, max: usize) -> Bytes {
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

/// A chunk that has its buffer to itself, and fills it.
fn filling(chunk: Bytes) -> Result<Bytes, Bytes> {
    let chunk = chunk.try_into_mut()?;
    if chunk.len() == chunk.capacity() { Ok(chunk.freeze()) } else { Err(chunk.freeze()) }
}
