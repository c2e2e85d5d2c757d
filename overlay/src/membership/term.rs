//! When something signed is valid: from its issue to its end, by the calendar.

use std::{fmt, time::Duration};

/// Seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This much later.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// How long ago that was; zero if it is still to come.
    #[must_use]
    pub const fn since(self, then: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(then.0))
    }
}

impl fmt::Display for UnixTime {
    /// As `2026-11-22 07:00:00 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / DAY, self.0 % DAY);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        // Years are counted from March, so that the day leapt over is the last of its year; 719,468 days lead from there to 1970.
        let days = days.saturating_add(719_468);
        let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// From when until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When it was signed.
    pub issued: UnixTime,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
}

impl Term {
    /// The longest there is: what an admission key may have. `[design 2, Membership]`
    pub const LONGEST: Duration = Duration::from_secs(90 * DAY);

    /// How far the clock of whoever signed may be ahead of the reader's. A node whose clock is behind must still be able to join; a
    /// certificate from the future helps nobody. `[bad-inputs P11: +-1 day]`
    pub const CLOCKS_APART: Duration = Duration::from_secs(DAY);

    /// From now on, for this long.
    #[must_use]
    pub const fn from(now: UnixTime, span: Duration) -> Self {
        Self { issued: now, not_after: now.plus(span) }
    }

    /// How long it is.
    #[must_use]
    pub const fn span(&self) -> Duration {
        self.not_after.since(self.issued)
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_over(&self, now: UnixTime) -> bool {
        now.0 > self.not_after.0
    }

    /// Whether it has not begun, even if the reader's clock is late.
    #[must_use]
    pub const fn is_to_come(&self, now: UnixTime) -> bool {
        self.issued.0 > now.plus(Self::CLOCKS_APART).0
    }

    /// Whether two thirds of it are over: time to renew.
    #[must_use]
    pub const fn wants_renewal(&self, now: UnixTime) -> bool {
        let left = self.not_after.since(now).as_secs();
        left.saturating_mul(3) < self.span().as_secs()
    }
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Days of 400 years.
const DAYS_PER_ERA: u64 = 146_097;

#[cfg(test)]
mod tests {
    use super::{DAY, Duration, Term, UnixTime};

    #[test]
    fn a_moment_is_told_as_a_date() {
        let cases = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_330_800, "2026-11-22 07:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ];
        for (seconds, text) in cases {
            assert_eq!(UnixTime(seconds).to_string(), text);
        }
        assert!(!UnixTime(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn a_term_may_begin_by_a_late_clock_and_ends_to_the_second() {
        let now = UnixTime(1_000 * DAY);
        let term = Term::from(now, Duration::from_secs(30 * DAY));
        assert!(!term.is_to_come(UnixTime(now.0 - DAY)));
        assert!(term.is_to_come(UnixTime(now.0 - DAY - 1)));
        assert!(!term.is_over(term.not_after));
        assert!(term.is_over(UnixTime(term.not_after.0 + 1)));
        assert!(!term.wants_renewal(UnixTime(now.0 + 20 * DAY)));
        assert!(term.wants_renewal(UnixTime(now.0 + 20 * DAY + 1)));
    }
}
