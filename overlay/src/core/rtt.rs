//! Round trips: SRTT and RTTVAR for time-outs (RFC 6298, in integers), and a minimum over a window for distance. The minimum
//! ages out, so that a node that moves is noticed.

use std::{num::NonZeroU16, time::Duration};

use super::time::{Instant, Stamp, span_of};

/// What was measured to one node, in 18 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rtt {
    smoothed: Micros,
    variation: Micros,
    /// The minimum of the half-window under way, and of the one before.
    minimum: [Micros; 2],
    /// When the last sample came: a [`Stamp`].
    sampled: [u8; 4],
    /// How long before that the half-window under way began, if it has as many samples as it takes to end it.
    since: Option<Span>,
}

impl Rtt {
    /// Nothing measured yet.
    pub(super) const NONE: Self = Self {
        smoothed: Micros::ZERO,
        variation: Micros::ZERO,
        minimum: [Micros::ZERO; 2],
        sampled: Stamp::START.bytes(),
        since: None,
    };

    /// One round trip measured: what a converged network would know.
    #[cfg(feature = "sim")]
    pub(super) fn known(now: Instant, rtt: Duration) -> Self {
        let mut known = Self::NONE;
        known.sample(now, rtt, Duration::MAX);
        known.variation = Micros::of(known.smoothed.get() / 16);
        known
    }

    /// A round trip of this length ended now.
    pub(super) fn sample(&mut self, now: Instant, rtt: Duration, window: Duration) {
        let first = self.is_empty();
        self.smooth(rtt);
        let rtt = micros(rtt);
        let [current, before] = self.minimum;
        let stamp = Stamp::of(now);
        if first {
            (self.minimum, self.since) = ([rtt; 2], None);
        } else if self.since.is_some_and(|since| since.is_over(now.since(self.last().moment(now)), window)) {
            (self.minimum, self.since) = ([rtt, current], None);
        } else {
            // One sample says little of distance: a half-window without several goes on, however long it takes.
            self.minimum = [current.min(rtt), before];
            self.since = Some(Span::of(self.since.map_or(0, Span::ticks).saturating_add(self.last().ticks_to(stamp))));
        }
        self.sampled = stamp.bytes();
    }

    /// The same of a round trip that may have lost a packet: it bears on time-outs, not on distance.
    pub(super) fn smooth(&mut self, rtt: Duration) {
        let rtt = micros(rtt).get();
        let (smoothed, variation) = (self.smoothed.get(), self.variation.get());
        let (smoothed, variation) = if self.is_empty() {
            (rtt, rtt / 2)
        } else {
            (smoothed - smoothed / 8 + rtt / 8, variation - variation / 4 + smoothed.abs_diff(rtt) / 4)
        };
        (self.smoothed, self.variation) = (Micros::of(smoothed), Micros::of(variation));
    }

    /// The node has moved: only this round trip counts now.
    pub(super) fn moved(&mut self, now: Instant, rtt: Duration) {
        *self = Self::NONE;
        self.sample(now, rtt, Duration::MAX);
    }

    /// The minimum within the window; none before the first sample.
    pub(super) fn minimum(&self) -> Option<Duration> {
        self.minimum_micros().map(|micros| Duration::from_micros(u64::from(micros)))
    }

    /// The same in microseconds.
    pub(super) fn minimum_micros(&self) -> Option<u32> {
        let [current, before] = self.minimum;
        (!self.is_empty()).then(|| current.get().min(before.get()))
    }

    /// When the last sample came; none before the first.
    pub(super) fn sampled(&self, now: Instant) -> Option<Instant> {
        (!self.is_empty()).then(|| self.last().moment(now))
    }

    /// How long ago that was, in nanoseconds; since the start before the first.
    pub(super) fn age(&self, now: Instant) -> u64 {
        if self.is_empty() { now.nanos() } else { self.last().age(now) }
    }

    const fn last(&self) -> Stamp {
        Stamp::from_bytes(self.sampled)
    }

    /// Nothing measured yet: no sample is zero, and the mean of samples never falls to it.
    fn is_empty(&self) -> bool {
        self.smoothed == Micros::ZERO
    }

    /// How long to wait for an answer before asking somebody else: SRTT + 4 RTTVAR; none before the first sample.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let micros = u64::from(self.smoothed.get()) + 4 * u64::from(self.variation.get());
        (!self.is_empty()).then(|| Duration::from_micros(micros))
    }
}

/// Microseconds in three bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Micros([u8; 3]);

impl Micros {
    const ZERO: Self = Self([0; 3]);
    /// A round trip of more than 16 s is an error of the measurement.
    const MOST: u32 = (1 << 24) - 1;

    fn of(micros: u32) -> Self {
        let [a, b, c, _] = micros.min(Self::MOST).to_le_bytes();
        Self([a, b, c])
    }

    const fn get(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }

    fn min(self, other: Self) -> Self {
        if other.get() < self.get() { other } else { self }
    }
}

/// A sample.
fn micros(rtt: Duration) -> Micros {
    Micros::of(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1))
}

/// How long a half-window has been under way, up to the last of its samples, of which it has two or more. In ticks, from one on.
#[derive(Debug, Clone, Copy)]
struct Span(NonZeroU16);

impl Span {
    fn of(ticks: u32) -> Self {
        let next = u16::try_from(ticks.saturating_add(1)).unwrap_or(u16::MAX);
        Self(NonZeroU16::new(next).unwrap_or(NonZeroU16::MIN))
    }

    fn ticks(self) -> u32 {
        u32::from(self.0.get() - 1)
    }

    /// Whether it is over, so long after that sample: after half the window, or a quarter of an hour, past which it is not counted.
    fn is_over(self, after: Duration, window: Duration) -> bool {
        self.0.get() == u16::MAX || span_of(self.ticks()) + after >= window / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Law 9.
        #[test]
        fn within_its_window_the_minimum_never_rises_and_is_the_least_of_the_samples(
            samples in prop::collection::vec((0_u64..400, 1_u64..500), 1..50),
        ) {
            let (mut rtt, mut now, mut least) = (Rtt::NONE, Instant::START, Duration::MAX);
            for (after, millis) in samples {
                // A window far longer than all of them take together.
                (now, least) = (now + Duration::from_millis(after), least.min(Duration::from_millis(millis)));
                rtt.sample(now, Duration::from_millis(millis), Duration::from_secs(3_600));
                prop_assert_eq!(rtt.minimum(), Some(least));
            }
        }
    }

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::at(Duration::from_secs(seconds))
    }

    #[test]
    fn the_minimum_forgets_a_distance_that_no_longer_holds_within_one_window() {
        let mut rtt = Rtt::NONE;
        (0..=8).for_each(|second| rtt.sample(at(second), Duration::from_millis(5), WINDOW));
        (9..=20).for_each(|second| rtt.sample(at(second), Duration::from_millis(80), WINDOW));
        assert_eq!(rtt.minimum(), Some(Duration::from_millis(80)));
    }

    #[test]
    fn the_age_of_what_was_measured_counts_from_the_last_sample_and_from_the_start_before_the_first() {
        const SECOND: u64 = 1_000_000_000;
        let mut rtt = Rtt::NONE;
        assert_eq!((rtt.age(at(0)), rtt.age(at(40))), (0, 40 * SECOND));
        // 2^32 ticks of 16 ms are 68,719,476.736 s.
        for second in [0, 8, 68_719_480] {
            rtt.sample(at(second), Duration::from_millis(5), WINDOW);
            assert_eq!((rtt.age(at(second)), rtt.age(at(second + 16))), (0, 16 * SECOND), "{second}");
        }
    }

    #[test]
    fn a_window_ends_after_half_an_hour_however_long_it_is_and_a_sample_counts_as_sixteen_seconds_at_most() {
        let (mut rtt, hours) = (Rtt::NONE, Duration::from_secs(36_000));
        for (second, millis) in [(0, 5), (600, 5), (1_200, 3_600_000), (1_800, 3_600_000)] {
            rtt.sample(at(second), Duration::from_millis(millis), hours);
            assert_eq!(rtt.minimum(), Some(Duration::from_millis(5)), "{second}");
        }
        for second in [2_400, 3_000, 3_600] {
            rtt.sample(at(second), Duration::from_secs(3_600), hours);
        }
        assert_eq!(rtt.minimum(), Some(Duration::from_micros((1 << 24) - 1)));
    }

    #[test]
    fn one_slow_answer_does_not_move_a_node() {
        let mut rtt = Rtt::NONE;
        rtt.sample(at(0), Duration::from_millis(5), WINDOW);
        rtt.sample(at(6), Duration::from_millis(300), WINDOW);
        assert_eq!(rtt.minimum(), Some(Duration::from_millis(5)));
    }

    #[test]
    fn the_age_is_that_of_the_last_sample_or_of_the_node_before_the_first() {
        let mut rtt = Rtt::NONE;
        // Two years and a half: stamps have wrapped.
        let late = 80_000_000;
        for now in [0, 7, late] {
            assert_eq!(rtt.age(at(now)), at(now).nanos());
        }
        rtt.sample(at(late), Duration::from_millis(5), WINDOW);
        assert_eq!((rtt.age(at(late)), rtt.age(at(late + 7))), (0, at(7).nanos()));
    }

    #[test]
    fn the_timeout_widens_with_variation_and_is_near_the_round_trip_without() {
        let mut rtt = Rtt::NONE;
        (0..100).for_each(|second| rtt.sample(at(second), Duration::from_millis(50), WINDOW));
        let calm = rtt.timeout().unwrap();
        assert!(calm < Duration::from_millis(60), "{calm:?}");
        (100..120).for_each(|second| rtt.sample(at(second), Duration::from_millis(20 + 60 * (second % 2)), WINDOW));
        assert!(rtt.timeout().unwrap() > calm + Duration::from_millis(50));
    }
}
