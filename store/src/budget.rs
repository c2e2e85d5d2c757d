//! What fills under way may hold, in RAM and on disk, and what each of them does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::StoreError;
use crate::tiers::Tiers;

/// Bytes that fills under way hold, in RAM or on disk.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicU64,
    limit: u64,
}

/// One fill's share of a budget, given back when dropped.
pub(crate) struct Charge {
    tiers: Arc<Tiers>,
    budget: fn(&Tiers) -> &Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { held: AtomicU64::new(0), limit }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether half of what may be held is.
    pub(crate) fn is_half_held(&self) -> bool {
        self.held() > self.limit / 2
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Holds so many more, if there is room for others `beside`.
    fn add(&self, bytes: u64, beside: u64) -> Result<(), StoreError> {
        let fits = |held: u64| held.checked_add(bytes).filter(|held| held.saturating_add(beside) <= self.limit);
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|held| StoreError::NoRoom { held, limit: self.limit })
    }
}

impl Charge {
    /// A fill that holds nothing of this budget yet.
    pub(crate) fn new(tiers: &Arc<Tiers>, budget: fn(&Tiers) -> &Budget) -> Self {
        Self { tiers: Arc::clone(tiers), budget, bytes: 0 }
    }

    /// Holds so many more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.add_beside(bytes, 0)
    }

    /// The same, if there is room for so many `beside` them.
    pub(crate) fn add_beside(&mut self, bytes: u64, beside: u64) -> Result<(), StoreError> {
        (self.budget)(&self.tiers).add(bytes, beside)?;
        self.bytes += bytes;
        self.tiers.fills_changed();
        Ok(())
    }

    /// All that is held, from now on another's to give back.
    pub(crate) fn hand_over(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        Self { tiers: Arc::clone(&self.tiers), budget: self.budget, bytes }
    }

    /// Holds no more than this.
    pub(crate) fn keep(&mut self, bytes: u64) {
        self.give_back(self.bytes.saturating_sub(bytes));
    }

    /// Holds so many less.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        (self.budget)(&self.tiers).held.fetch_sub(bytes, Ordering::Relaxed);
        self.tiers.fills_changed();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}
