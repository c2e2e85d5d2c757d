//! Response-rate limiting: what a prefix may have answered over UDP before its questions are dropped or, one in a few, answered
//! by an empty, truncated reply that sends an honest client to TCP. Of fixed size: a table of so many prefixes, a colliding one
//! begins anew. Lock-free, since every socket's thread asks.
//!
//! A reply costs one unit for each two times the question's bytes it has, begun ones whole: so whatever the names asked for, a
//! flood from one (forged) prefix is answered by at most twice its bytes once it has used up a second's units.

use std::{
    hash::Hasher as _,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use siphasher::sip::SipHasher13;

use crate::config::RateLimit;

/// The limiter.
#[derive(Debug)]
pub(crate) struct Limiter {
    config: RateLimit,
    began: Instant,
    key: [u8; 16],
    /// A tag of 16 bits, and until when a prefix has used up its units, in microseconds since the start, 48 bits.
    slots: Vec<AtomicU64>,
    limited: AtomicU64,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is sent.
    Send,
    /// A truncated one is sent in its place.
    Slip,
    /// Nothing is sent.
    Drop,
}

impl Limiter {
    /// Nobody limited yet. The key keeps others from choosing prefixes that collide.
    pub(crate) fn new(config: RateLimit, began: Instant, key: [u8; 16]) -> Self {
        let count = if config.per_second == 0 { 0 } else { config.prefixes.max(1) };
        let slots = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { config, began, key, slots, limited: AtomicU64::new(0) }
    }

    /// Whether a reply of so many bytes to a question of so many may be sent.
    pub(crate) fn check(&self, now: Instant, to: IpAddr, question: usize, reply: usize) -> Action {
        if self.slots.is_empty() || self.config.exempt.iter().any(|network| network.contains(to)) {
            return Action::Send;
        }
        let mut hash = SipHasher13::new_with_key(&self.key);
        match to {
            IpAddr::V4(v4) => hash.write_u32(v4.to_bits() >> 8),
            IpAddr::V6(v6) => hash.write_u128(v6.to_bits() >> 80),
        }
        let hash = hash.finish();
        let count = u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        let Some(slot) = usize::try_from(hash % count).ok().and_then(|at| self.slots.get(at)) else {
            return Action::Send;
        };
        let tag = hash >> 48;
        let now = micros(now.saturating_duration_since(self.began));
        let units = u64::try_from(reply.div_ceil(question.max(1) * 2)).unwrap_or(u64::MAX).max(1);
        let cost = units.saturating_mul(SECOND / u64::from(self.config.per_second));
        let known = slot.load(Ordering::Relaxed);
        let used_until = if known >> 48 == tag { (known & TIME).max(now) } else { now };
        let until = used_until.saturating_add(cost);
        if until - now <= SECOND {
            // Two threads that race may both be let through: the bound is then off by one reply.
            slot.store(tag << 48 | (until & TIME), Ordering::Relaxed);
            return Action::Send;
        }
        match self.config.slip {
            0 => Action::Drop,
            slip if self.limited.fetch_add(1, Ordering::Relaxed).is_multiple_of(slip.into()) => Action::Slip,
            _ => Action::Drop,
        }
    }
}

impl Action {
    /// Its word in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Slip => "slip",
            Self::Drop => "drop",
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX) & TIME
}

const SECOND: u64 = 1_000_000;
const TIME: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, slip: u32) -> (Limiter, Instant) {
        let began = Instant::now();
        let config = RateLimit { per_second, slip, exempt: Vec::new(), prefixes: 64 };
        (Limiter::new(config, began, [3; 16]), began)
    }

    #[test]
    fn a_flood_gets_at_most_twice_its_bytes_whatever_it_asks_for() {
        for (question, reply, questions) in [(60, 1232, 1_000), (40, 90, 5_000), (60, 400, 20_000), (300, 512, 700)] {
            let (limiter, began) = limiter(500, 2);
            let (mut bytes_in, mut bytes_out) = (0, 0);
            for at in 0..questions {
                let now = began + Duration::from_micros(at * 100);
                bytes_in += question;
                bytes_out += match limiter.check(now, [192, 0, 2, 1].into(), question, reply) {
                    Action::Send => reply,
                    // A truncated reply is the question and a header.
                    Action::Slip => question,
                    Action::Drop => 0,
                };
            }
            assert!(bytes_out <= 2 * bytes_in, "{question} -> {reply}: {bytes_in} in, {bytes_out} out");
        }
    }

    #[test]
    fn whatever_is_asked_a_prefix_is_sent_so_many_bytes_a_second_at_most() {
        for (question, reply) in [(60, 1232), (40, 90), (25, 4_000), (300, 310)] {
            let (limiter, began) = limiter(100, 0);
            let (mut sent, seconds) = (0, 10);
            for at in 0..seconds * 2_000 {
                let now = began + Duration::from_micros(at * 500);
                let is_sent = limiter.check(now, [192, 0, 2, 1].into(), question, reply) == Action::Send;
                sent += if is_sent { reply } else { 0 };
            }
            // A second's worth at once, then as much in each.
            let most = (usize::try_from(seconds).unwrap() + 1) * 100 * 2 * question;
            assert!(sent <= most && sent * 2 > most.min(question * 20_000), "{question} -> {reply}: {sent} of {most}");
        }
    }

    #[test]
    fn a_prefix_under_its_rate_is_never_limited_and_others_are_not_either() {
        let (limiter, began) = limiter(100, 2);
        for at in 0..1_000_u64 {
            let now = began + Duration::from_millis(at * 10);
            assert_eq!(limiter.check(now, [192, 0, 2, 1].into(), 60, 110), Action::Send);
        }
        for _ in 0..1_000 {
            limiter.check(began, [198, 51, 100, 1].into(), 60, 110);
        }
        assert_ne!(limiter.check(began, [198, 51, 100, 9].into(), 60, 110), Action::Send, "the same /24");
        assert_eq!(limiter.check(began, [203, 0, 113, 1].into(), 60, 110), Action::Send);
    }

    #[test]
    fn one_limited_question_in_so_many_slips() {
        for (slip, expected) in [(0, 0), (1, 300), (2, 150), (3, 100)] {
            let (limiter, began) = limiter(1, slip);
            limiter.check(began, [192, 0, 2, 1].into(), 60, 60);
            let actions = (0..300).map(|_| limiter.check(began, [192, 0, 2, 1].into(), 60, 60));
            assert_eq!(actions.filter(|action| *action == Action::Slip).count(), expected, "slip {slip}");
        }
    }
}
