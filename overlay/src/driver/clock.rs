//! The only clock of the overlay. Everything else is told the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{core::time::Instant, membership::UnixTime};

/// Time since the node started, and the calendar for certificates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts the clock.
    #[expect(clippy::disallowed_methods, reason = "the driver owns the clock that the core is told")]
    pub(super) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    /// The time since the start.
    pub(super) fn now(self) -> Instant {
        Instant::at(self.start.elapsed())
    }

    /// The calendar; zero if the system's is before the Unix epoch.
    #[expect(clippy::disallowed_methods, reason = "certificates expire by the calendar")]
    pub(super) fn unix(self) -> UnixTime {
        UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
    }

    /// How long from now until then; zero if it has passed.
    pub(super) fn until(self, then: Instant) -> Duration {
        then.since(self.now())
    }
}
