//! A body on its way in, as far as it has come: what its writer, its readers and who writes behind them share.
//!
//! Chunks are gathered into pieces, pieces into slices. Of a body longer than one slice the first ones are on disk, the rest in RAM:
//!
//! ```text
//!   slices: on disk      | one slice on its way to disk | what waits behind it, `write_behind` at most | tail
//!   -------------------->|==============================|----------------|----------------|------------|->
//!                     flushed                           pieces, 64 KiB each                          length
//! ```

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::budget::Charge;
use crate::config::PIECE;
use crate::engine::Engine;
use crate::error::StoreError;
use crate::key::{Head, Key};
use crate::tiers::Tiers;

/// What a writer and its readers share.
pub(crate) struct Fill {
    pub(crate) tiers: Arc<Tiers>,
    /// As the writer was given it.
    pub(crate) head: Head,
    /// The number of the disk that its slices go to.
    pub(crate) disk: Option<usize>,
    /// Tells its slices from those of other bodies under its key.
    pub(crate) generation: u64,
    state: Mutex<State>,
    /// Told to the writer, when a slice went to disk or was refused.
    pub(crate) moved: Notify,
    /// Told to who writes slices, when the writer gave up.
    pub(crate) gone: Notify,
}

/// How far it is.
pub(crate) struct State {
    /// Whole slices that are on disk.
    pub(crate) slices: Vec<Key>,
    /// Bytes in them.
    pub(crate) flushed: u64,
    /// Whole pieces after them.
    pub(crate) pieces: Vec<Bytes>,
    /// The CRC-32 of each, taken while it is in the processor's cache; none if there is no disk.
    pub(crate) sums: Vec<u32>,
    summed: bool,
    /// Chunks of the piece under way.
    tail: Vec<Bytes>,
    tail_length: u64,
    pub(crate) length: u64,
    /// Slices that were sent to disk, also such as are not there yet.
    pub(crate) begun: u64,
    /// Bytes for which there is room on disk.
    pub(crate) placed: u64,
    /// Somebody is writing slices.
    pub(crate) writing: bool,
    /// Bytes of the slice that is being written, which stay in RAM until that has ended.
    pub(crate) under_way: u64,
    /// All is there: what is less than a slice goes to disk too.
    pub(crate) last: bool,
    /// Why the disk refused the first slice: the body stays in RAM if it fits.
    pub(crate) stay: Option<io::Error>,
    /// Why a later one was refused: the fill has failed.
    pub(crate) refused: Option<StoreError>,
    /// The disk refused a slice, whether the writer was told yet or not: no more are written.
    pub(crate) failed: bool,
    pub(crate) aborted: bool,
    pub(crate) in_ram: Charge,
    pub(crate) on_disk: Charge,
}

/// Where the bytes at an offset are.
pub(crate) enum At {
    Ready(Bytes),
    Disk(Key, u64),
}

/// Chunks shorter than this are copied together, so that a body of tiny chunks costs little more than its bytes.
const SMALL_CHUNK: usize = 1 << 10;

impl Fill {
    pub(crate) fn new(tiers: Arc<Tiers>, head: Head) -> Self {
        let engine = tiers.disks.of(&head.key);
        let (disk, generation) = (engine.map(|engine| engine.number), engine.map_or(0, Engine::generation));
        let state = State {
            slices: Vec::new(),
            flushed: 0,
            pieces: Vec::new(),
            sums: Vec::new(),
            summed: disk.is_some(),
            tail: Vec::new(),
            tail_length: 0,
            length: 0,
            begun: 0,
            placed: 0,
            writing: false,
            under_way: 0,
            last: false,
            stay: None,
            refused: None,
            failed: false,
            aborted: false,
            in_ram: Charge::new(&tiers, |tiers| &tiers.budget),
            on_disk: Charge::new(&tiers, |tiers| &tiers.disk_budget),
        };
        Self { tiers, head, disk, generation, state: Mutex::new(state), moved: Notify::new(), gone: Notify::new() }
    }

    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.tiers.disks.at(self.disk?)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Bytes that are not on disk.
    pub(crate) fn in_ram(&self) -> u64 {
        self.length - self.flushed
    }

    /// Takes room for the metadata, if there is some for what is known to come too, all of a short body: what would be refused half-way
    /// is better refused now. Bytes that have not come take none, so that slow bodies keep nobody out.
    pub(crate) fn begin(&mut self, metadata: u64, body: Option<u64>) -> Result<(), StoreError> {
        self.in_ram.add_beside(metadata, body.unwrap_or_default().min(PIECE))
    }

    pub(crate) fn append(&mut self, mut chunk: Bytes) {
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

    pub(crate) fn close_piece(&mut self) {
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

    /// Its writer gave up: nothing is read any more. What is on its way to disk counts until it is there.
    pub(crate) fn abort(&mut self, metadata: u64) {
        self.aborted = true;
        (self.pieces, self.sums, self.tail) = (Vec::new(), Vec::new(), Vec::new());
        // Its slices make room for others' on disk from now on.
        drop(self.on_disk.hand_over());
        if self.writing {
            self.in_ram.keep(self.under_way + metadata);
        } else {
            self.give_back();
        }
    }

    /// Nobody writes slices any more.
    pub(crate) fn end_turn(&mut self) {
        self.writing = false;
        if self.aborted {
            self.give_back();
        }
    }

    /// Readers may keep what is shared for longer than it counts.
    pub(crate) fn give_back(&mut self) {
        drop((self.in_ram.hand_over(), self.on_disk.hand_over()));
    }

    pub(crate) fn at(&self, offset: u64, max: usize, slice: u64) -> At {
        let number = usize::try_from(offset / slice).unwrap_or(usize::MAX);
        match self.slices.get(number) {
            Some(at) if offset < self.length => At::Disk(*at, offset % slice),
            Some(_) => At::Ready(Bytes::new()),
            None => At::Ready(self.in_pieces(offset.saturating_sub(self.flushed), max)),
        }
    }

    fn in_pieces(&self, offset: u64, max: usize) -> Bytes {
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
