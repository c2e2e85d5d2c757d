//! How much each side may have under way on a connection, which is what a peer can make this node hold: little at first, so that
//! strangers hold little, and twice as much each time as much has been written and read as fits, out of what all may grow by.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use quinn::{Connection, VarInt};

/// Bytes by which the windows of all connections may still grow together.
#[derive(Debug, Clone)]
pub(super) struct Growth(Arc<AtomicUsize>);

impl Growth {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The windows of one connection, each way of the same size.
#[derive(Debug)]
pub(super) struct Window {
    connection: Connection,
    growth: Growth,
    size: AtomicUsize,
    moved: AtomicUsize,
}

impl Window {
    pub(super) fn new(connection: Connection, growth: Growth) -> Arc<Self> {
        let (size, moved) = (AtomicUsize::new(FIRST), AtomicUsize::new(0));
        Arc::new(Self { connection, growth, size, moved })
    }

    /// So many bytes more have been written or read.
    pub(super) fn moved(&self, bytes: usize) {
        let size = self.size();
        if size >= LAST || self.moved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < size {
            return;
        }
        // Both ways.
        if !self.growth.take(2 * size) {
            return;
        }
        // Another stream may have come here at the same time.
        if self.size.compare_exchange(size, 2 * size, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.growth.give_back(2 * size);
            return;
        }
        let size = u32::try_from(2 * size).unwrap_or(u32::MAX);
        self.connection.set_receive_window(VarInt::from_u32(size));
        self.connection.set_send_window(size.into());
    }

    /// Bytes each way.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.growth.give_back(2 * (self.size() - FIRST));
    }
}

/// Bytes of a window at first: what fills 100 ms at 20 Mbit/s. `[guess]`
pub(super) const FIRST_WINDOW: u32 = 256 << 10;
const FIRST: usize = FIRST_WINDOW as usize;

/// Bytes at last, five doublings later: what fills 100 ms at 640 Mbit/s. `[guess]`
const LAST: usize = FIRST << 5;
