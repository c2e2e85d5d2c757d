//! When members of a cluster count as too far (NSDI'04 4.4, the leave rule, over time instead of at a moment): processes that stand still
//! for moments look far to all, and who is on the edge looks far and near by turns.

use std::time::Duration;

use super::time::Instant;

/// For how long a cluster's members have been too far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Far {
    /// What is held against them; the time they are near is taken back.
    pub(super) time: Duration,
    /// Whether they were at the last look.
    pub(super) now: bool,
    looked: Instant,
}

impl Far {
    pub(super) const fn never(now: Instant) -> Self {
        Self { time: Duration::ZERO, now: false, looked: now }
    }

    /// Takes what a look shows; whether they are far as they were not at the last one.
    pub(super) fn look(&mut self, now: Instant, far: bool) -> bool {
        let passed = now.since(self.looked);
        self.time = match (self.now, far) {
            (true, true) => self.time + passed,
            // They may have been near for most of it: this node may have stood still itself.
            (true, false) => self.time + passed.min(DOUBTFUL),
            (false, _) => self.time.saturating_sub(passed),
        };
        self.looked = now;
        let before = std::mem::replace(&mut self.now, far);
        far && !before
    }
}

/// Of the time between a look that found them far and one that found them near, no more counts as far.
const DOUBTFUL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// When members are to be left that look far (`true`) or near at looks 500 ms apart, with the default; in looks.
    fn left_after(looks: impl IntoIterator<Item = bool>) -> Option<usize> {
        let (mut far, holds) = (Far::never(Instant::START), Config::default().far_holds);
        looks.into_iter().take(1_000).enumerate().find_map(|(number, is_far)| {
            let at = Instant::at(Duration::from_millis(500) * u32::try_from(number).unwrap());
            far.look(at, is_far);
            (is_far && far.time >= holds).then_some(number)
        })
    }

    #[test]
    fn who_is_far_for_three_seconds_or_more_often_than_not_is_left_and_who_was_for_moments_is_not() {
        assert_eq!(left_after(std::iter::repeat(true)), Some(6));
        // On the edge, and never far for three seconds at a stretch.
        assert!(left_after([true, true, false].into_iter().cycle()).is_some());
        // Far for a second in four.
        let moments = [true, true, false, false, false, false, false, false];
        assert_eq!(left_after(moments.into_iter().cycle()), None);
    }
}
