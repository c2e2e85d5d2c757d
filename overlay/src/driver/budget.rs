//! What one peer may send: so many messages a second, as many again at once. What is over it is dropped unread, so that a flood costs
//! no decoding and starts no work; the sender's own time-outs slow it down.

use crate::core::time::Instant;

/// What is left of a peer's budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub(super) fn full(now: Instant, per_second: u32) -> Self {
        Self { left: 2.0 * f64::from(per_second), at: now }
    }

    /// Whether one more message may be read now.
    pub(super) fn take(&mut self, now: Instant, per_second: u32) -> bool {
        let rate = f64::from(per_second);
        self.left = now.since(self.at).as_secs_f64().mul_add(rate, self.left).min(2.0 * rate);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Budget, Instant};

    #[test]
    fn a_flood_is_cut_to_the_rate_after_a_burst_of_two_seconds() {
        let mut budget = Budget::full(Instant::START, 10);
        let mut taken = |now| (0..100).filter(|_| budget.take(now, 10)).count();
        assert_eq!(taken(Instant::START), 20);
        assert_eq!(taken(Instant::START + Duration::from_millis(500)), 5);
        assert_eq!(taken(Instant::START + Duration::from_secs(60)), 20);
    }
}
