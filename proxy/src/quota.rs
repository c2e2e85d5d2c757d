//! How much of something may go in an hour, a day and a month (UTC), counted through restarts: bytes or requests. A new hour, day or
//! month begins with the first of it.

use serde::{Deserialize, Serialize};

/// What went in the running hour, day and month, and what may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    caps: Caps,
    used: Used,
}

/// What may go in each span; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// In an hour.
    pub hourly: Option<u64>,
    /// In a day.
    pub daily: Option<u64>,
    /// In a month.
    pub monthly: Option<u64>,
}

/// What survives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Hours since 1970-01-01.
    hour: u64,
    /// What went in it.
    of_hour: u64,
    /// Days since 1970-01-01.
    day: u64,
    /// What went in it.
    of_day: u64,
    /// Months since 1970-01.
    month: u64,
    /// What went in it.
    of_month: u64,
}

impl Quota {
    /// A quota of which so much is used.
    #[must_use]
    pub const fn new(caps: Caps, used: Used) -> Self {
        Self { caps, used }
    }

    /// Counts what goes at this moment, in seconds since the epoch.
    pub fn count(&mut self, now: u64, amount: u64) {
        self.turn(now);
        for used in [&mut self.used.of_hour, &mut self.used.of_day, &mut self.used.of_month] {
            *used = used.saturating_add(amount);
        }
    }

    /// What is left now; none without a limit.
    pub fn left(&mut self, now: u64) -> Option<u64> {
        self.turn(now);
        self.spans().into_iter().filter_map(|(cap, used)| Some(cap?.saturating_sub(used))).min()
    }

    /// Percent used of the span that is used most; 0 without a limit, 100 and more once one is spent.
    pub fn percent(&mut self, now: u64) -> u64 {
        self.turn(now);
        let percent =
            |cap: u64, used: u64| u64::try_from(u128::from(used) * 100 / u128::from(cap.max(1))).unwrap_or(u64::MAX);
        self.spans().into_iter().filter_map(|(cap, used)| Some(percent(cap?, used))).max().unwrap_or(0)
    }

    /// What is used of each span that has a cap, and its cap.
    pub(crate) fn capped(&mut self, now: u64) -> Vec<(&'static str, u64, u64)> {
        self.turn(now);
        let spans = ["hour", "day", "month"].into_iter().zip(self.spans());
        spans.filter_map(|(name, (cap, used))| Some((name, used, cap?))).collect()
    }

    /// Seconds until something is left again; zero if it is.
    pub fn again_in(&mut self, now: u64) -> u64 {
        if self.left(now) != Some(0) {
            return 0;
        }
        let spent = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used >= limit);
        if spent(self.caps.monthly, self.used.of_month) {
            // The first of the next month is at most 31 days after today.
            let days = now / DAY;
            return (1..=31)
                .map(|ahead| (days + ahead) * DAY)
                .find(|at| month_of(*at) != self.used.month)
                .unwrap_or(now)
                - now;
        }
        let span = if spent(self.caps.daily, self.used.of_day) { DAY } else { HOUR };
        (now / span + 1) * span - now
    }

    /// What to keep.
    #[must_use]
    pub const fn used(&self) -> Used {
        self.used
    }

    fn spans(&self) -> [(Option<u64>, u64); 3] {
        let (caps, used) = (self.caps, self.used);
        [(caps.hourly, used.of_hour), (caps.daily, used.of_day), (caps.monthly, used.of_month)]
    }

    /// A clock set back starts nothing anew: what went stays counted.
    fn turn(&mut self, now: u64) {
        let (hour, day, month) = (now / HOUR, now / DAY, month_of(now));
        if hour > self.used.hour {
            (self.used.hour, self.used.of_hour) = (hour, 0);
        }
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
const HOUR: u64 = 3_600;

/// Seconds of one.
const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(hourly: Option<u64>, daily: Option<u64>, monthly: Option<u64>) -> Caps {
        Caps { hourly, daily, monthly }
    }

    #[test]
    fn a_spent_hour_ends_with_the_hour_and_the_fullest_span_counts() {
        let mut quota = Quota::new(caps(Some(10), Some(100), None), Used::default());
        let at = 1_709_164_800 + 600;
        quota.count(at, 10);
        assert_eq!((quota.left(at), quota.percent(at), quota.again_in(at)), (Some(0), 100, 3_000));
        assert_eq!((quota.left(at + 3_000), quota.percent(at + 3_000)), (Some(10), 10));
    }

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
        let mut quota = Quota::new(caps(None, Some(100), Some(150)), Used::default());
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
        let mut again = Quota::new(caps(None, Some(100), Some(150)), quota.used());
        assert_eq!(again.left(next), Some(0));
        assert_eq!(Quota::new(Caps::default(), Used::default()).left(next), None);
    }
}
