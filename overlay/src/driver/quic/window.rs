//! How much each side may have under way on a connection, which is what a peer can make this node hold: little at first, so that
//! strangers hold little; room for two full streams once the peer is a member, so that one that nobody reads leaves as much to the
//! others; and twice as much each time as much has been written and read as fits, out of what all may grow by.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
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
    moved: AtomicUsize,
    /// Its peer is a member.
    admitted: AtomicBool,
    /// Held while quinn is told: the last word is the newest.
    telling: Mutex<()>,
}

impl Window {
    pub(super) fn new(connection: Connection, growth: Growth) -> Arc<Self> {
        let (size, moved) = (AtomicUsize::new(growth.windows.first), AtomicUsize::new(0));
        let (admitted, telling) = (AtomicBool::new(false), Mutex::new(()));
        Arc::new(Self { connection, growth, size, moved, admitted, telling })
    }

    /// The peer is a member from now on.
    pub(super) fn admit(&self) {
        if !self.admitted.swap(true, Ordering::Relaxed) {
            self.tell();
        }
    }

    /// So many bytes more have been written or read.
    pub(super) fn moved(&self, bytes: usize) {
        let (size, most) = (self.size(), self.growth.windows.most);
        if size >= most || self.moved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < size {
            return;
        }
        let larger = (2 * size).min(most);
        // Both ways.
        let more = 2 * (larger - size);
        if !self.growth.take(more) {
            return;
        }
        // Another stream may have come here at the same time.
        if self.size.compare_exchange(size, larger, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.growth.give_back(more);
            return;
        }
        self.tell();
    }

    /// Bytes that this side may have under way, and a stranger.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Bytes that the peer may have under way: two full streams of a member fit, however much the windows have grown.
    pub(super) fn receive(&self) -> usize {
        let room = if self.admitted.load(Ordering::Relaxed) { 2 * self.growth.windows.stream } else { 0 };
        self.size().max(room)
    }

    fn tell(&self) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.connection.set_receive_window(VarInt::from_u32(size(self.receive())));
        self.connection.set_send_window(size(self.size()).into());
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.growth.give_back(2 * (self.size() - self.growth.windows.first));
    }
}
