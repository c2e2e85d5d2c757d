//! What a machine may send in a day and in a month (UTC), counted through restarts. A new day or month begins with the first byte
//! of it.

use serde::{Deserialize, Serialize};

/// Bytes sent in the running day and month, and what they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    daily: Option<u64>,
    monthly: Option<u64>,
    used: Used,
}

/// What survives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Used {
    /// Days since 1970-01-01.
    day: u64,
    /// Bytes sent in it.
    of_day: u64,
    /// Months since 1970-01.
    month: u64,
    /// Bytes sent in it.
    of_month: u64,
}

impl Quota {
    /// A quota of which so much is used; none: no limit.
    pub(crate) const fn new(daily: Option<u64>, monthly: Option<u64>, used: Used) -> Self {
        Self { daily, monthly, used }
    }

    /// Counts bytes sent at this moment, in seconds since the epoch.
    pub(crate) fn count(&mut self, now: u64, bytes: u64) {
        self.turn(now);
        self.used.of_day = self.used.of_day.saturating_add(bytes);
        self.used.of_month = self.used.of_month.saturating_add(bytes);
    }

    /// Bytes left now; none without a limit.
    pub(crate) fn left(&mut self, now: u64) -> Option<u64> {
        self.turn(now);
        let of_day = self.daily.map(|limit| limit.saturating_sub(self.used.of_day));
        let of_month = self.monthly.map(|limit| limit.saturating_sub(self.used.of_month));
        of_day.into_iter().chain(of_month).min()
    }

    /// Seconds until something is left again; zero if it is.
    pub(crate) fn again_in(&mut self, now: u64) -> u64 {
        if self.left(now) != Some(0) {
            return 0;
        }
        let spent = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if spent(self.monthly, self.used.of_month) {
            // The first of the next month is at most 31 days after today.
            let days = now / DAY;
            return (1..=31)
                .map(|ahead| (days + ahead) * DAY)
                .find(|at| month_of(*at) != self.used.month)
                .unwrap_or(now)
                - now;
        }
        (now / DAY + 1) * DAY - now
    }

    /// What to keep.
    pub(crate) const fn used(&self) -> Used {
        self.used
    }

    /// A clock set back starts no new day: what was sent stays counted.
    fn turn(&mut self, now: u64) {
        let (day, month) = (now / DAY, month_of(now));
        if day > self.used.day {
            (self.used.day, self.used.of_day) = (day, 0);
        }
        if month > self.used.month {
            (self.used.month, self.used.of_month) = (month, 0);
        }
    }
}

/// Months since 1970-01 of a moment, by the civil calendar.
fn month_of(now: u64) -> u64 {
    // Days of an era of 400 years that begins in March, as the calendar itself is easiest to count.
    let days = now / DAY + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let (year, month) = (era * 400 + year_of_era + march_month / 10, (march_month + 2) % 12);
    (year * 12 + month).saturating_sub(1_970 * 12)
}

/// Seconds of one.
const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        for (seconds, month) in [
            (0, 0),
            (31 * DAY - 1, 0),
            (31 * DAY, 1),
            (59 * DAY, 2),
            // 2024-02-29 and 2024-03-01, 2100-02-28 and 2100-03-01 (no leap year).
            (1_709_164_800, 54 * 12 + 1),
            (1_709_251_200, 54 * 12 + 2),
            (4_107_456_000, 130 * 12 + 1),
            (4_107_542_400, 130 * 12 + 2),
        ] {
            assert_eq!(month_of(seconds), month, "{seconds}");
        }
    }

    #[test]
    fn a_spent_day_ends_at_midnight_and_a_spent_month_with_the_month() {
        let mut quota = Quota::new(Some(100), Some(150), Used::default());
        let noon = 1_709_164_800 + 43_200;
        assert_eq!(quota.left(noon), Some(100));
        quota.count(noon, 100);
        assert_eq!((quota.left(noon), quota.again_in(noon)), (Some(0), 43_200));
        // The next day is another month: both begin anew.
        assert_eq!(quota.left(noon + 43_200), Some(100));
        quota.count(noon + 43_200, 90);
        let next = noon + 43_200 + DAY;
        assert_eq!(quota.left(next), Some(60));
        quota.count(next, 60);
        assert_eq!(quota.again_in(next), 30 * DAY);
        // A clock set back gives nothing.
        assert_eq!(quota.left(next - 40 * DAY), Some(0));
        let mut again = Quota::new(Some(100), Some(150), quota.used());
        assert_eq!(again.left(next), Some(0));
        assert_eq!(Quota::new(None, None, Used::default()).left(next), None);
    }
}
