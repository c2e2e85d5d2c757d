//! The time of day as this process has it: read once, and counted on by a clock that nobody sets. So a jump of the system's clock
//! makes nothing stored older or younger [bad-inputs C08]; what was stored before a start is dated by the clock then.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime},
};

/// Now.
pub(crate) fn now() -> SystemTime {
    at(Instant::now())
}

/// The time of day at a moment of the clock that nobody sets.
pub(crate) fn at(moment: Instant) -> SystemTime {
    static START: OnceLock<(Instant, SystemTime)> = OnceLock::new();
    let (start, at) = START.get_or_init(|| (Instant::now(), SystemTime::now()));
    *at + moment.saturating_duration_since(*start)
}

#[cfg(test)]
mod tests {
    use super::*;

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
