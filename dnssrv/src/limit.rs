//! Response-rate limiting: what a prefix may have answered over UDP before its questions are dropped or, one in a few, answered
//! by an empty, truncated reply that sends an honest client to TCP. Of fixed size: a table of so many prefixes, a colliding one
//! begins anew. Lock-free, since every socket's thread asks.
//!
//! A reply costs one unit for each two times the question's bytes it has, begun ones whole: so whatever the names asked for, a
//! flood from one (forged) prefix is answered by at most twice its bytes once it has used up a second's units.
//!
//! What a prefix is charged follows from it alone, so that who answers many of its questions finds it out once.

use std::{
    hash::Hasher as _,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use siphasher::sip::SipHasher13;

use atoll_overlay::Prefix;

use crate::config::RateLimit;

/// The limiter.
#[derive(Debug)]
pub(crate) struct Limiter {
    config: RateLimit,
    began: Instant,
    key: [u8; 16],
    /// A tag of 16 bits, and until when a prefix has used up its units, in microseconds since the start, 48 bits.
    slots: Vec<AtomicU64>,
    /// Microseconds that one unit uses up.
    unit: u64,
    limited: AtomicU64,
}

/// What replies to a prefix are charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Nothing: all of it is exempt.
    Free,
    /// Its place in the table and its tag there.
    Slot(usize, u64),
    /// The same, but for some addresses in it, which are exempt.
    ButExempt(usize, u64),
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
        let unit = SECOND / u64::from(config.per_second.max(1));
        Self { config, began, key, slots, unit, limited: AtomicU64::new(0) }
    }

    /// Whether a reply of so many bytes to a question of so many may be sent.
    pub(crate) fn check(&self, now: Instant, to: IpAddr, question: usize, reply: usize) -> Action {
        self.take(self.micros(now), self.charge(Prefix::of(to)), to, (question, reply))
    }

    /// What replies to a prefix are charged to.
    pub(crate) fn charge(&self, to: Prefix) -> Charge {
        let Ok(count @ 1..) = u64::try_from(self.slots.len()) else { return Charge::Free };
        let bits = if to.address().is_ipv4() { 24 } else { 48 };
        let exempt = self.config.exempt.iter().map(|network| network.holds(to.address(), bits));
        let (all, some) =
            exempt.fold((false, false), |(all, some), one| (all || one == Some(true), some || one.is_none()));
        if all {
            return Charge::Free;
        }
        let mut hash = SipHasher13::new_with_key(&self.key);
        match to.address() {
            IpAddr::V4(v4) => hash.write_u32(v4.to_bits() >> 8),
            IpAddr::V6(v6) => hash.write_u128(v6.to_bits() >> 80),
        }
        let hash = hash.finish();
        let (at, tag) = (usize::try_from(hash % count).unwrap_or(0), hash >> 48);
        if some { Charge::ButExempt(at, tag) } else { Charge::Slot(at, tag) }
    }

    /// A moment in microseconds since the start.
    pub(crate) fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.began))
    }

    /// As [`Self::check`], of a prefix whose charge is known.
    pub(crate) fn take(&self, now: u64, charge: Charge, to: IpAddr, (question, reply): (usize, usize)) -> Action {
        let (at, tag) = match charge {
            Charge::Free => return Action::Send,
            Charge::ButExempt(..) if self.config.exempt.iter().any(|network| network.contains(to)) => {
                return Action::Send;
            }
            Charge::Slot(at, tag) | Charge::ButExempt(at, tag) => (at, tag),
        };
        let Some(slot) = self.slots.get(at) else { return Action::Send };
        let units = u64::try_from(reply.div_ceil(question.max(1) * 2)).unwrap_or(u64::MAX).max(1);
        let cost = units.saturating_mul(self.unit);
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
    fn what_a_prefix_is_charged_says_of_each_of_its_addresses_whether_it_is_exempt() {
        let began = Instant::now();
        let exempt = |networks: &[&str]| {
            let exempt = networks.iter().map(|network| network.parse().unwrap()).collect();
            Limiter::new(RateLimit { per_second: 1, slip: 0, exempt, prefixes: 64 }, began, [3; 16])
        };
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let actions = |limiter: &Limiter, last| {
            let charge = limiter.charge(Prefix::of(address(last)));
            let mut each = (0..3).map(|_| limiter.take(0, charge, address(last), (60, 60)));
            each.all(|action| action == Action::Send)
        };
        for (networks, first, second) in [
            (&["192.0.2.0/24"][..], true, true),
            (&["192.0.0.0/16", "192.0.2.9/32"], true, true),
            (&["192.0.2.1/32"], true, false),
            (&["192.0.3.0/24", "192.0.3.1/32", "2001:db8::/32"], false, false),
            (&[], false, false),
        ] {
            let limiter = exempt(networks);
            assert_eq!((actions(&limiter, 1), actions(&limiter, 2)), (first, second), "{networks:?}");
        }
        let off = Limiter::new(RateLimit { per_second: 0, ..RateLimit::default() }, began, [3; 16]);
        assert!(actions(&off, 1));
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
