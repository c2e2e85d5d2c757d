//! How much each side may have under way on a connection, which is what a peer can make this node hold: little at first, so that
//! strangers hold little; room for two full streams once the peer is a member, so that one that nobody reads leaves as much to the
//! others; and twice as much each time as much has been written and read as fits. Both come out of what all may grow by.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use quinn::{Connection, VarInt};

use crate::driver::config::Config;

/// How large windows may be, bytes. [`Config::check`] bounds all but the last to 1 GiB.
#[derive(Debug, Clone, Copy)]
pub(in crate::driver) struct Windows {
    /// Of one stream; quinn never changes it.
    pub(super) stream: usize,
    /// Of a connection at first, each way.
    pub(super) first: usize,
    /// The same at most.
    pub(super) most: usize,
    /// By how much all may grow together, both ways.
    pub(super) all: usize,
}

impl Windows {
    pub(in crate::driver) fn of(config: &Config) -> Self {
        let bytes = |size: atoll_units::ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Self {
            stream: bytes(config.quic_stream_window),
            first: bytes(config.quic_window),
            most: bytes(config.quic_window_most),
            all: bytes(config.quic_windows),
        }
    }
}

/// Bytes by which the windows of all connections may still grow together.
#[derive(Debug, Clone)]
pub(super) struct Growth {
    windows: Windows,
    left: Arc<AtomicUsize>,
}

impl Growth {
    pub(super) fn of(windows: Windows) -> Self {
        Self { windows, left: Arc::new(AtomicUsize::new(windows.all)) }
    }

    fn take(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Window {
    connection: Connection,
    growth: Growth,
    size: AtomicUsize,
    /// Bytes that the peer may have under way at least: room for two full streams of a member, or none.
    room: AtomicUsize,
    moved: AtomicUsize,
    /// Held while size or room change and quinn is told: the last word is the newest.
    changing: Mutex<()>,
}

impl Window {
    pub(super) fn new(connection: Connection, growth: Growth) -> Arc<Self> {
        let (size, room, moved) = (AtomicUsize::new(growth.windows.first), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { connection, growth, size, room, moved, changing: Mutex::new(()) })
    }

    /// The peer is a member from now on: it has room for two full streams, if all may still grow by that.
    pub(super) fn admit(&self) {
        if self.room.load(Ordering::Relaxed) == 0 {
            let _changing = self.changing();
            self.become_of(self.size(), 2 * self.growth.windows.stream);
        }
    }

    /// So many bytes more have been written or read.
    pub(super) fn moved(&self, bytes: usize) {
        let (size, most) = (self.size(), self.growth.windows.most);
        if size >= most || self.moved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < size {
            return;
        }
        let _changing = self.changing();
        // Another stream may have come here at the same time.
        if self.size() == size {
            self.become_of((2 * size).min(most), self.room.load(Ordering::Relaxed));
        }
    }

    /// Bytes that this side may have under way, and a stranger.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes that the peer may have under way: two full streams of a member fit, however much the windows have grown.
    pub(super) fn receive(&self) -> usize {
        self.size().max(self.room.load(Ordering::Relaxed))
    }

    /// Both windows become as large as this, out of what all may grow by; or stay as they are.
    fn become_of(&self, size: usize, room: usize) {
        let more = (size - self.size()) + (size.max(room) - self.receive());
        if self.growth.take(more) {
            self.size.store(size, Ordering::Relaxed);
            self.room.store(room, Ordering::Relaxed);
            let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
            self.connection.set_receive_window(VarInt::from_u32(bytes(self.receive())));
            self.connection.set_send_window(bytes(self.size()).into());
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.growth.give_back(self.size() + self.receive() - 2 * self.growth.windows.first);
    }
}
