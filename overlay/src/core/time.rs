//! Time as the core knows it: the span since the node started, handed in with every input and never read.

use std::{ops::Add, time::Duration};

/// A moment: time since start. It has no `now()`; the driver or the simulator says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The moment the node started.
    pub const START: Self = Self(0);

    /// The moment this long after the start; past five centuries, the end of them.
    #[must_use]
    pub const fn at(since_start: Duration) -> Self {
        Self(nanos(since_start))
    }

    /// The span since the start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The span since the start in nanoseconds.
    #[cfg(feature = "sim")]
    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    /// The span since an earlier moment; zero if that moment is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

/// A moment in four bytes, to 16 ms: what is kept of every neighbour is many such. It wraps after two years, long after
/// whatever it stamps has ceased to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Stamp(u32);

impl Stamp {
    /// The start.
    pub(super) const START: Self = Self(0);

    pub(super) const fn of(moment: Instant) -> Self {
        Self(low_half(moment.0 / TICK))
    }

    /// How long ago the latest moment was that has this stamp, in nanoseconds: of many, cheaper to compare than spans.
    pub(super) const fn age(self, now: Instant) -> u64 {
        now.0.saturating_sub(self.moment(now).0)
    }

    /// The latest moment up to now that has this stamp.
    pub(super) const fn moment(self, now: Instant) -> Instant {
        let ticks = now.0 / TICK;
        let back = low_half(ticks).wrapping_sub(self.0);
        // Widening, which `u64::from` cannot do in a const fn.
        Instant(ticks.saturating_sub(back as u64) * TICK)
    }
}

const TICK: u64 = 16_000_000;

/// The low half of a number, kept on purpose.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is what wraps")]
const fn low_half(number: u64) -> u32 {
    number as u32
}

#[expect(clippy::cast_possible_truncation, reason = "bounded by the line before")]
const fn nanos(span: Duration) -> u64 {
    let nanos = span.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_stamp_is_zero_at_once_and_right_to_a_tick_past_its_wrap() {
        let wrap = Instant(TICK << 32);
        for stamped in [Instant::START, Instant(TICK), Instant(wrap.0 - TICK), wrap, Instant(wrap.0 + 5 * TICK)] {
            let stamp = Stamp::of(stamped);
            assert_eq!(stamp.age(stamped), 0, "{stamped:?}");
            assert_eq!(stamp.age(Instant(stamped.0 + TICK - 1)), TICK - 1, "the rest of a tick counts");
            assert_eq!(stamp.age(Instant(stamped.0 + 100 * TICK)), 100 * TICK, "{stamped:?}");
        }
        assert_eq!(Stamp::START.age(wrap), 0, "a whole wrap ago cannot be told from now");
    }
}
