//! One narrow wire with a bounded queue before it: a host's uplink or downlink.

use std::time::Duration;

use crate::units::{Rate, Size};

/// A wire that sends one packet after the other at `rate`, and drops what its queue cannot hold (tail drop).
#[derive(Clone, Debug)]
pub(crate) struct Link {
    rate: Option<Rate>,
    queue: Size,
    busy_until: Duration,
}

impl Link {
    /// A wire of this speed, or one without a limit; `queue` bounds the bytes that wait.
    pub(crate) fn new(rate: Option<Rate>, queue: Size) -> Self {
        Self { rate, queue, busy_until: Duration::ZERO }
    }

    /// When a packet of `bytes` that comes at `now` has crossed, or `None` if the queue is full.
    pub(crate) fn cross(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let Some(rate) = self.rate else { return Some(now) };
        let waiting = self.busy_until.saturating_sub(now);
        let queue = rate.time_for(usize::try_from(self.queue.0).unwrap_or(usize::MAX));
        if !waiting.is_zero() && waiting > queue {
            return None;
        }
        self.busy_until = self.busy_until.max(now) + rate.time_for(bytes);
        Some(self.busy_until)
    }
}
