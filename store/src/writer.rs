//! An object that is written: a body arrives in chunks, is read by others meanwhile, and is committed or aborted.
//!
//! A body longer than one slice goes to disk slice by slice as it arrives, behind the writer's back (`behind`), so a fill holds little
//! more than a slice and `write_behind` in RAM; what all fills hold, in RAM and on disk, is counted in a
//! [`Budget`](crate::budget::Budget) each. Without a disk, or when it failed before the first slice was written, the body stays in RAM.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::slice_key;
use crate::error::{ReadError, StoreError};
use crate::fill::{At, Fill};
use crate::group::Put;
use crate::key::Head;
use crate::object::{Object, Pieces};
use crate::record::to_millisecond;
use crate::tiers::Tiers;

/// A body on its way in. Dropping it aborts.
pub struct Writer {
    head: Head,
    fill: Arc<Fill>,
    /// An append was refused, so the body has a hole.
    broken: bool,
    committed: bool,
    /// All of the body is there for its readers, whether it is stored or not.
    whole: bool,
}

/// Where a small object is once it is stored, if the disk took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In RAM too.
    InRam,
    /// On disk; in RAM once it is asked for again, which most of what is asked for once never is.
    OnDisk,
}

/// Reads what has been appended to a [`Writer`] so far, also after its commit.
#[derive(Clone)]
pub struct Partial {
    fill: Arc<Fill>,
}

impl Writer {
    pub(crate) fn new(tiers: Arc<Tiers>, head: Head) -> Result<Self, StoreError> {
        tiers.check_metadata(&head.metadata)?;
        if let Some(length) = head.length {
            tiers.check_length(length)?;
        }
        let head = Head { expires: head.expires.map(to_millisecond), ..head };
        let fill = Arc::new(Fill::new(tiers, head.clone()));
        fill.state().begin(head.metadata.len() as u64, head.length)?;
        Ok(Self { head, fill, broken: false, committed: false, whole: false })
    }

    /// Appends the next bytes of the body; waits while more of it than `write_behind` is to go to disk.
    ///
    /// # Errors
    /// The body is longer than announced or than is stored here, fills under way hold all they may, or the disk failed,
    /// also with what was appended before. After an error the fill cannot be committed any more; what was appended before is
    /// still read.
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
        {
            let mut state = self.fill.state();
            state.in_ram.add(chunk.len() as u64)?;
            state.append(chunk);
        }
        self.fill.flush(false).await?;
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
    /// and RAM cannot hold the object either. A small body that was whole is still read then.
    pub async fn commit(self, metadata: Option<Bytes>) -> Result<Object, StoreError> {
        self.commit_with(metadata, Keep::InRam, false).await
    }

    /// As [`Writer::commit`], kept as is said, but where more than `write_queue` waits for the disk, a small object does not wait
    /// too: it is held in RAM alone, and goes to disk once it is asked for there. One that RAM cannot take, or of which the disk
    /// has an older one, waits.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub async fn commit_or_hold(self, metadata: Option<Bytes>, keep: Keep) -> Result<Object, StoreError> {
        self.commit_with(metadata, keep, true).await
    }

    async fn commit_with(
        mut self,
        metadata: Option<Bytes>,
        keep: Keep,
        may_be_held: bool,
    ) -> Result<Object, StoreError> {
        if let Some(metadata) = metadata {
            self.fill.tiers.check_metadata(&metadata)?;
            self.head.metadata = metadata;
        }
        if self.broken {
            return Err(StoreError::Broken);
        }
        let (found, begun) = {
            let mut state = self.fill.state();
            state.close_piece();
            (state.length, state.writing || state.begun > 0)
        };
        if let Some(expected) = self.head.length.filter(|expected| *expected != found) {
            return Err(StoreError::Length { expected, found });
        }
        self.head.length = Some(found);
        if begun {
            Box::pin(self.fill.flush(true)).await?;
        }
        let run = begun && self.fill.state().stay.is_none();
        self.whole = !run;
        let object =
            if run { Box::pin(self.commit_run()).await? } else { self.commit_whole(keep, may_be_held).await? };
        self.committed = true;
        Ok(object)
    }

    /// Gives up: readers of the partial body are told.
    pub fn abort(self) {
        drop(self);
    }

    async fn commit_whole(&mut self, keep: Keep, may_be_held: bool) -> Result<Object, StoreError> {
        let tiers = Arc::clone(&self.fill.tiers);
        let (pieces, sums, charge) = {
            let mut state = self.fill.state();
            let pieces = Arc::new(Pieces::new(state.pieces.clone()));
            let charge = self.fill.disk.map(|_| state.in_ram.hand_over());
            (pieces, state.sums.clone(), charge)
        };
        let head = self.head.clone();
        let Some((disk, charge)) = self.fill.disk.zip(charge) else { return tiers.put_resident(head, pieces) };
        let group = tiers.groups.get(disk).ok_or(StoreError::Broken)?;
        group.put(&tiers, disk, Put { head, pieces, sums, _charge: charge, keep, may_be_held }).await
    }

    async fn commit_run(&self) -> Result<Object, StoreError> {
        let slices = self.fill.state().slices.clone();
        let (head, generation) = (self.head.clone(), self.fill.generation);
        let work = move |tiers: &Arc<Tiers>| tiers.put_run(head, generation, &slices);
        self.fill.tiers.write(work).await.map_err(StoreError::Disk)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let begun = {
            let mut state = self.fill.state();
            if self.committed || self.whole {
                state.give_back();
            } else {
                state.abort(self.fill.head.metadata.len() as u64);
            }
            state.begun
        };
        self.fill.gone.notify_one();
        if let Some(engine) = self.fill.engine() {
            let slices = (0..begun).map(|number| slice_key(&self.head.key, self.fill.generation, number));
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
