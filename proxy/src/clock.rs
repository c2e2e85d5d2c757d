//! The time of day as this process has it: read once, and counted on by a clock that nobody sets. So a jump of the system's clock
//! makes nothing stored older or younger [bad-inputs C08]; what was stored before a start is dated by the clock then.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

/// Now.
pub(crate) fn now() -> SystemTime {
    at(Instant::now())
}

/// The time of day at a moment of the clock that nobody sets.
pub(crate) fn at(moment: Instant) -> SystemTime {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(|| Clock { start: Instant::now(), at: SystemTime::now() }).at(moment)
}

/// How long something has been here that arrived then. What arrived later than now did so by another run's clock: the difference counts
/// all the same, so that nothing is young for as long as a clock was wrong.
pub(crate) fn resident(arrived: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(arrived).unwrap_or_else(|ahead| ahead.duration())
}

/// The time of day, read once.
struct Clock {
    start: Instant,
    at: SystemTime,
}

impl Clock {
    fn at(&self, moment: Instant) -> SystemTime {
        self.at + moment.saturating_duration_since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // C08: whatever the system's clock is set to meanwhile, a second lasts a second.
    #[test]
    fn time_passes_as_the_clock_that_nobody_sets_has_it() {
        let (start, day) = (Instant::now(), Duration::from_secs(86_400));
        for read in [SystemTime::UNIX_EPOCH, SystemTime::now(), SystemTime::now() - day, SystemTime::now() + day] {
            let clock = Clock { start, at: read };
            let stored = clock.at(start + day);
            for later in [Duration::ZERO, Duration::from_millis(1), day] {
                assert_eq!(resident(stored, clock.at(start + day + later)), later);
            }
        }
    }

    // A second reading anywhere would let a jump in.
    #[test]
    fn nothing_else_in_the_proxy_reads_the_system_s_clock() {
        fn look(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    look(&path, found);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("mod tests {").next().unwrap_or_default();
                found.extend((0..code.matches("SystemTime::now()").count()).map(|_| path.display().to_string()));
            }
        }
        let mut found = Vec::new();
        look(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.len() == 1 && found[0].ends_with("clock.rs"), "{found:?}");
    }

    #[test]
    fn it_never_goes_back() {
        let mut last = now();
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
