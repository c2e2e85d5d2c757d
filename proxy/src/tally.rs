//! One answer from its head to its last byte, for the metrics and the access log: where it was found, what it weighed, how long it took.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{log::Entry, reason::Source, stats::Counters, step::Told};

/// Where an answer was found, in the words of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the store, fresh.
    Hit,
    /// At the origin, and stored.
    Miss,
    /// In the store, stale, as allowed.
    Stale,
    /// In the store, once the origin had confirmed it.
    Revalidated,
    /// At the origin, for this request alone.
    Pass,
    /// At a peer.
    Peer,
    /// In another's fetch.
    Collapsed,
    /// Nowhere: an error of ours.
    Denied,
}

impl Outcome {
    pub(crate) const ALL: [Self; 8] =
        [Self::Hit, Self::Miss, Self::Stale, Self::Revalidated, Self::Pass, Self::Peer, Self::Collapsed, Self::Denied];

    pub(crate) const fn of(told: &Told) -> Self {
        match told.source {
            _ if told.stale => Self::Stale,
            _ if told.collapsed => Self::Collapsed,
            _ if told.revalidated => Self::Revalidated,
            _ if told.passed => Self::Pass,
            Some(Source::Memory | Source::Disk) => Self::Hit,
            Some(Source::Peer(_)) => Self::Peer,
            Some(Source::Origin) => Self::Miss,
            None => Self::Denied,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Pass => "pass",
            Self::Peer => "peer",
            Self::Collapsed => "collapsed",
            Self::Denied => "denied",
        }
    }
}

/// What is counted of the answers with one outcome; found once.
pub(crate) struct Flow {
    first: metrics::Histogram,
    total: metrics::Histogram,
    bytes: metrics::Counter,
}

impl Flow {
    pub(crate) fn of(outcome: Outcome) -> Self {
        let cache = outcome.word();
        let seconds =
            |phase| metrics::histogram!("atoll_http_request_duration_seconds", "phase" => phase, "cache" => cache);
        let bytes = metrics::counter!("atoll_http_response_bytes_total", "cache" => cache);
        Self { first: seconds("ttfb"), total: seconds("total"), bytes }
    }

    /// A head is on its way after so long.
    pub(crate) fn began(&self, after: Duration) {
        self.first.record(after.as_secs_f64());
    }

    /// The last byte is, or the answer was given up.
    pub(crate) fn ended(&self, after: Duration) {
        self.total.record(after.as_secs_f64());
    }

    /// So much more of a body is.
    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes.increment(bytes);
    }
}

/// An answer on its way. What is known of it is counted when it is dropped.
pub(crate) struct Tally {
    counters: Arc<Counters>,
    outcome: Option<Outcome>,
    began: Instant,
    bytes: u64,
    entry: Option<Entry>,
}

impl Tally {
    /// An answer to a request that began then; `outcome` is none of what the metrics leave out.
    pub(crate) const fn new(
        counters: Arc<Counters>,
        outcome: Option<Outcome>,
        began: Instant,
        entry: Option<Entry>,
    ) -> Self {
        Self { counters, outcome, began, bytes: 0, entry }
    }

    /// So much more of the body is on its way.
    pub(crate) fn sent(&mut self, count: usize) {
        self.bytes += u64::try_from(count).unwrap_or(0);
    }

    /// Whether so much of the body is on its way.
    pub(crate) const fn is_at(&self, length: u64) -> bool {
        self.bytes == length
    }

    /// All of the body is.
    pub(crate) fn completed(&mut self) {
        self.entry.iter_mut().for_each(Entry::completed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.sent(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        }
        if let Some(outcome) = self.outcome {
            let flow = self.counters.flow(outcome);
            flow.sent(self.bytes);
            flow.ended(self.began.elapsed());
        }
    }
}
