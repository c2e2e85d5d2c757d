//! What the driver counts, for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The live counters, shared by everything in the driver.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(Arc<Live>);

#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) sent: Counter,
    pub(super) received: Counter,
    pub(super) malformed: Counter,
    pub(super) dropped: Counter,
    pub(super) dials: Counter,
    pub(super) dials_failed: Counter,
    pub(super) admitted: Counter,
    pub(super) closed: Counter,
    pub(super) strangers: Counter,
    pub(super) expelled: Counter,
    pub(super) crowded: Counter,
    pub(super) broken: Counter,
    pub(super) flooded: Counter,
    pub(super) substreams: Counter,
    pub(super) streams_opened: Counter,
    pub(super) streams_accepted: Counter,
    pub(super) streams_refused: Counter,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// The counters at one moment, all since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages handed to a connection.
    pub messages_sent: u64,
    /// Messages received and decoded.
    pub messages_received: u64,
    /// Frames of admitted peers that were no message.
    pub messages_malformed: u64,
    /// Messages dropped because a queue was full or the peer could not be reached.
    pub messages_dropped: u64,
    /// Dials begun.
    pub dials: u64,
    /// Dials that led to no admitted connection.
    pub dials_failed: u64,
    /// Connections whose peer was admitted; less those closed, the connections that stand.
    pub connections_admitted: u64,
    /// Admitted connections that ended.
    pub connections_closed: u64,
    /// Peers cut because their certificate was not believed.
    pub strangers: u64,
    /// Connections cut because their peer's certificate ended or was revoked meanwhile.
    pub expelled: u64,
    /// Incoming connections refused because too many wait without certificate.
    pub crowded: u64,
    /// Connections given up because the peer broke the rules or was too slow to show a certificate.
    pub broken: u64,
    /// Messages of peers dropped unread because they sent more than their budget.
    pub flooded: u64,
    /// Substreams asked for on connections, whatever for: none for a message on a warm link.
    pub substreams: u64,
    /// Byte streams opened by this node.
    pub streams_opened: u64,
    /// Byte streams accepted from peers.
    pub streams_accepted: u64,
    /// Byte streams of peers reset because nobody took them.
    pub streams_refused: u64,
}

impl Counters {
    /// Their values now.
    pub(super) fn read(&self) -> Counts {
        Counts {
            messages_sent: self.sent.get(),
            messages_received: self.received.get(),
            messages_malformed: self.malformed.get(),
            messages_dropped: self.dropped.get(),
            dials: self.dials.get(),
            dials_failed: self.dials_failed.get(),
            connections_admitted: self.admitted.get(),
            connections_closed: self.closed.get(),
            strangers: self.strangers.get(),
            expelled: self.expelled.get(),
            crowded: self.crowded.get(),
            broken: self.broken.get(),
            flooded: self.flooded.get(),
            substreams: self.substreams.get(),
            streams_opened: self.streams_opened.get(),
            streams_accepted: self.streams_accepted.get(),
            streams_refused: self.streams_refused.get(),
        }
    }
}

impl std::ops::Deref for Counters {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

impl Counter {
    /// One more.
    pub(super) fn add(&self) {
        self.add_many(1);
    }

    /// That many more.
    pub(super) fn add_many(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
