//! How far clients are: the round trip of a connection's handshake, which the system has measured by the time it is accepted
//! (as right as any later one, and nothing has queued yet). Told to the index by prefix, where the DNS servers find it.
//! At most one a prefix and minute, in a table of fixed size whose colliding prefixes are told the more often.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use atoll_overlay::{Index, Prefix};
use tokio::net::TcpStream;

/// When prefixes were told of last.
#[derive(Debug)]
pub(crate) struct Observer(Mutex<Vec<Option<(Prefix, Instant)>>>);

impl Default for Observer {
    fn default() -> Self {
        Self(Mutex::new(vec![None; PREFIXES]))
    }
}

impl Observer {
    /// A client has connected.
    pub(crate) fn connected(&self, index: &dyn Index, stream: &TcpStream, client: IpAddr) {
        let prefix = Prefix::of(client);
        if self.is_due(Instant::now(), prefix)
            && let Ok(Some(handshake)) = atoll_sys::tcp::round_trip(stream)
        {
            index.observe(prefix, handshake.smoothed);
        }
    }

    /// Whether a prefix is to be told of now; then it is not for a while.
    fn is_due(&self, now: Instant, prefix: Prefix) -> bool {
        let bits = match prefix.address() {
            IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 80).unwrap_or(0) | 1 << 63,
        };
        let slot = usize::try_from(bits.wrapping_mul(SPREAD) >> 32).unwrap_or(0) % PREFIXES;
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = told.get_mut(slot) else { return false };
        let fresh = slot.is_some_and(|(known, at)| known == prefix && now.saturating_duration_since(at) < PAUSE);
        if !fresh {
            *slot = Some((prefix, now));
        }
        !fresh
    }
}

/// Prefixes told apart. \[guess\]
const PREFIXES: usize = 4096;
/// The least time between two for one prefix: the index keeps each for minutes. \[guess\]
const PAUSE: Duration = Duration::from_secs(60);
/// An odd number without pattern: 2^64 over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_told_of_once_a_minute_and_others_are_not_held_back() {
        let observer = Observer::default();
        let now = Instant::now();
        let prefix = |third: u8| Prefix::of([192, 0, third, 1].into());
        assert!(observer.is_due(now, prefix(1)) && !observer.is_due(now + PAUSE / 2, prefix(1)));
        assert!(observer.is_due(now, prefix(2)), "another");
        assert!(observer.is_due(now + PAUSE, prefix(1)));
        let many = (0..=u8::MAX).filter(|third| observer.is_due(now + PAUSE * 3, prefix(*third)));
        assert_eq!(many.count(), 256);
    }
}
