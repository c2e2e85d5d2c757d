//! Slices of a fill that go to disk behind the writer's back, one after the other, while more of the body comes.
//!
//! Nobody reads a byte less for it: what is on its way stays in RAM until it is on disk. The writer learns at its next append, or at
//! the commit, that a slice was refused; the commit waits until all are written.

use std::io;
use std::sync::Arc;

use crate::engine::slice_key;
use crate::error::StoreError;
use crate::fill::{Fill, State};
use crate::key::Key;
use crate::object::Pieces;

/// One slice that is to be written.
struct Slice {
    key: Key,
    pieces: Arc<Pieces>,
    /// The CRC-32 of each piece.
    sums: Vec<u32>,
}

/// The right to write slices of one fill.
struct Turn {
    fill: Arc<Fill>,
    over: bool,
}

impl Fill {
    /// Sends whole slices to disk while there is more than one slice in RAM; with `all` also the last one, and waits for all. Else it
    /// waits only while more than `write_behind` waits behind them, or fills hold half of what they may, in RAM or on disk.
    pub(crate) async fn flush(self: &Arc<Self>, all: bool) -> Result<(), StoreError> {
        if self.disk.is_none() {
            return Ok(());
        }
        if all {
            self.state().last = true;
        }
        loop {
            let begins = {
                let mut state = self.state();
                if let Some(error) = state.refused.take() {
                    return Err(error);
                }
                if state.stay.is_some() {
                    return self.stays(&mut state);
                }
                self.place(&mut state)?;
                let begins = !state.writing && self.is_due(&state);
                state.writing |= begins;
                if !begins && !self.must_wait(&state) {
                    return Ok(());
                }
                begins
            };
            if begins {
                drop(tokio::spawn(Turn { fill: Arc::clone(self), over: false }.run()));
            } else {
                self.moved.notified().await;
            }
        }
    }

    /// Takes room on disk for all that goes there: who finds none is told so with the bytes that are too many.
    fn place(&self, state: &mut State) -> Result<(), StoreError> {
        let slice = self.tiers.config.slice_bytes();
        loop {
            let left = state.length - state.placed;
            if left <= slice && !(state.last && left > 0) {
                return Ok(());
            }
            state.on_disk.add(slice.min(left))?;
            state.placed += slice.min(left);
        }
    }

    /// Whether a slice is to be written.
    fn is_due(&self, state: &State) -> bool {
        let in_ram = state.in_ram();
        in_ram > self.tiers.config.slice_bytes() || state.last && in_ram > 0
    }

    /// Whether the writer is to wait until more is written.
    fn must_wait(&self, state: &State) -> bool {
        let behind = self.tiers.config.write_behind.0;
        let much = state.in_ram().saturating_sub(self.tiers.config.slice_bytes()) > behind;
        // Where room is scarce, who is refused has nothing on its way to disk that would take it from the others.
        let scarce = self.tiers.budget.is_half_held() || self.tiers.disk_budget.is_half_held();
        state.writing && (state.last || much || self.is_due(state) && scarce)
    }

    /// The object is none too large: it is the disk that is missing.
    fn stays(&self, state: &mut State) -> Result<(), StoreError> {
        if state.length <= self.tiers.memory_limit() {
            return Ok(());
        }
        state.stay.take().map_or(Ok(()), |error| Err(StoreError::Disk(error)))
    }

    /// The next slice, if one is due. Reclaiming spares it from now on.
    fn next(&self) -> Option<Slice> {
        let mut state = self.state();
        if state.aborted || state.failed || !self.is_due(&state) {
            state.end_turn();
            return None;
        }
        let whole = usize::try_from(self.tiers.config.slice_bytes() / crate::config::PIECE).unwrap_or(usize::MAX);
        let count = whole.min(state.pieces.len());
        let (pieces, sums) = (state.pieces.iter().take(count), state.sums.iter().take(count));
        let (pieces, sums) = (Arc::new(Pieces::new(pieces.cloned().collect())), sums.copied().collect());
        let number = state.slices.len() as u64;
        let key = slice_key(&self.head.key, self.generation, number);
        state.begun = number + 1;
        state.under_way = pieces.len();
        if let Some(engine) = self.engine() {
            engine.begin_slice(&key);
        }
        Some(Slice { key, pieces, sums })
    }

    async fn write(&self, Slice { key, pieces, sums }: Slice) -> Result<(), StoreError> {
        let (head, length, count) = (self.head.clone(), pieces.len(), pieces.list().len());
        let permit = tokio::select! {
            biased;
            // It holds its slice no longer than it must.
            () = self.gone.notified() => return Ok(()),
            permit = self.tiers.pool.begin_write() => permit.map_err(StoreError::Disk)?,
        };
        let put = self.tiers.write_with(permit, move |tiers| tiers.put_slice(key, &head, pieces, &sums)).await;
        put.map_err(StoreError::Disk)??;
        let mut state = self.state();
        state.under_way = 0;
        if state.aborted {
            if let Some(engine) = self.engine() {
                // Whoever gave up saw nothing of it in the index.
                engine.done(std::iter::once(key), true);
            }
            return Ok(());
        }
        state.slices.push(key);
        state.flushed += length;
        state.pieces.drain(..count);
        state.sums.drain(..count);
        state.in_ram.give_back(length);
        Ok(())
    }

    /// The disk refused a slice.
    fn refuse(&self, error: StoreError) {
        let mut state = self.state();
        (state.failed, state.under_way) = (true, 0);
        match error {
            StoreError::Disk(error) if state.slices.is_empty() => state.stay = Some(error),
            other => state.refused = Some(other),
        }
    }
}

impl Turn {
    async fn run(mut self) {
        while let Some(slice) = self.fill.next() {
            if let Err(error) = self.fill.write(slice).await {
                self.fill.refuse(error);
            }
            self.fill.moved.notify_one();
        }
        self.over = true;
        self.fill.moved.notify_one();
    }
}

impl Drop for Turn {
    /// If the runtime ended before all was written, the fill has failed.
    fn drop(&mut self) {
        if !self.over {
            let mut state = self.fill.state();
            (state.failed, state.under_way) = (true, 0);
            state.end_turn();
            state.refused.get_or_insert_with(|| StoreError::Disk(io::Error::other("nobody writes any more")));
            drop(state);
            self.fill.moved.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behind_tests::{SLICE, bytes, config, head, open, run};
    use crate::double::Double;

    #[test]
    fn after_a_refusal_no_slice_is_written_though_the_writer_was_told_of_it() {
        run(async {
            let store = open(&Double::default(), config()).await;
            let fill = Arc::new(Fill::new(Arc::clone(&store.tiers), head(&store, 1)));
            fill.state().append(bytes(0, 3 * SLICE));
            // Somebody writes, and the writer is told of the refusal before the next slice is looked for.
            fill.state().writing = true;
            fill.refuse(StoreError::Broken);
            assert!(matches!(fill.flush(false).await, Err(StoreError::Broken)));
            assert!(fill.next().is_none());
            assert!(!fill.state().writing);
        });
    }
}
