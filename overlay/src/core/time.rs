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

    /// Its four bytes, for where it must not be aligned.
    pub(super) const fn bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The stamp of these four bytes.
    pub(super) const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// The ticks between two stamps of which this is the earlier.
    pub(super) const fn ticks_to(self, later: Self) -> u32 {
        later.0.wrapping_sub(self.0)
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

/// The same in two bytes, for what is of no more interest after a quarter of an hour: then it wraps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Short(u16);

impl Short {
    /// Moments farther back than this may be taken for later ones.
    pub(super) const TOLD_APART: Duration = Duration::from_secs(900);

    pub(super) const fn of(moment: Instant) -> Self {
        Self(low_quarter(moment.0 / TICK))
    }

    /// The latest moment up to now that has this stamp.
    pub(super) const fn moment(self, now: Instant) -> Instant {
        let ticks = now.0 / TICK;
        let back = low_quarter(ticks).wrapping_sub(self.0);
        Instant(ticks.saturating_sub(back as u64) * TICK)
    }
}

/// A tick is 16 ms.
const TICK: u64 = 16_000_000;

/// So many ticks.
pub(super) const fn span_of(ticks: u32) -> Duration {
    // Widening, as above.
    Duration::from_nanos(ticks as u64 * TICK)
}

/// The low half of a number, kept on purpose.
#[expect(clippy::cast_possible_truncation, reason = "the upper half is what wraps")]
const fn low_half(number: u64) -> u32 {
    number as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the upper part is what wraps")]
const fn low_quarter(number: u64) -> u16 {
    number as u16
}

#[expect(clippy::cast_possible_truncation, reason = "bounded by the line before")]
const fn nanos(span: Duration) -> u64 {
    let nanos = span.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

#[cfg(test)]
mod tests {
    use super::{Instant, Short, Stamp, TICK};

    #[test]
    fn a_stamp_s_age_is_right_at_the_start_and_across_the_wrap() {
        assert_eq!(Stamp::START.age(Instant::START), 0);
        let wrap = (u64::from(u32::MAX) + 1) * TICK;
        for stamped in [0, wrap - TICK, wrap, wrap + TICK] {
            for later in [0, TICK, 225_000 * TICK] {
                let (then, now) = (Instant(stamped), Instant(stamped + later));
                assert_eq!(Stamp::of(then).age(now), later, "{stamped} {later}");
                assert_eq!(Stamp::of(then).moment(now), then);
            }
        }
        // Within a tick, the tick's beginning counts.
        assert_eq!(Stamp::of(Instant(TICK + 1)).age(Instant(TICK + 2)), 2);
    }

    #[test]
    fn a_short_stamp_is_right_for_a_quarter_of_an_hour() {
        for stamped in [0, 65_535, 65_536, 1 << 40] {
            for later in [0, 1, 56_250, 65_535] {
                let (then, now) = (Instant(stamped * TICK), Instant((stamped + later) * TICK + 1));
                assert_eq!(Short::of(then).moment(now), then, "{stamped} {later}");
            }
        }
    }
}
