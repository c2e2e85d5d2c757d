//! Response-rate limiting: what a prefix may have answered over UDP before its questions are dropped or, one in a few, answered
//! by an empty, truncated reply that sends an honest client to TCP. Of fixed size: a table of so many prefixes, a colliding one
//! begins anew. Lock-free, since every socket's thread asks.
//!
//! ```text
//!   a reply costs one unit for each two times the question's bytes it has, begun ones whole
//!
//!   below the limit   units flow back, so many a second; while there are some, replies are whole, and the first after all have
//!                     flowed back is, whatever it costs. What they have beyond two times their questions' bytes is written up
//!                     until the prefix has been idle.
//!   limited           from the first reply there are no units for, until all have flowed back, sent or not. Each question brings
//!                     two times its bytes, so many questions a second at most. A reply is whole if these make up for what was
//!                     written up and for itself; a cut one is charged, too.
//! ```
//!
//! So a flood from one (forged) prefix is sent at most two times its bytes from its first question on, once what it had been sent
//! before it was known for one is made up for. A prefix below the limit is no flood: it gets whole answers.
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
    slots: Vec<Slot>,
    /// Microseconds that one unit uses up.
    unit: u64,
    /// Microseconds that may be used up at once.
    burst: u64,
    limited: AtomicU64,
}

/// One prefix's place.
#[derive(Debug, Default)]
struct Slot {
    /// A tag of 15 bits, whether it is limited, and until when it has used up its units, in microseconds since the start, 48 bits.
    used: AtomicU64,
    /// Bytes that it was sent beyond two times its own since it was last idle; of a limited one as a signed number, below 0 what its
    /// questions have left.
    owed: AtomicU64,
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
        let slots = (0..count).map(|_| Slot::default()).collect();
        let unit = SECOND / u64::from(config.per_second.max(1));
        // Of a low rate some units, or only the first reply would ever be whole.
        let burst = (4 * unit).clamp(BURST, SECOND);
        Self { config, began, key, slots, unit, burst, limited: AtomicU64::new(0) }
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
        let (at, tag) = (usize::try_from(hash % count).unwrap_or(0), hash >> TAG_AT);
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
        let (brought, reply) = (2 * bytes(question).max(1), bytes(reply));
        // Most replies have no more, and no division is cheaper than one.
        let cost = if reply <= brought { self.unit } else { reply.div_ceil(brought) * self.unit };
        let known = slot.used.load(Ordering::Relaxed);
        let used_until = if known >> TAG_AT == tag { (known & TIME).max(now) } else { now };
        let is_idle = used_until == now;
        let until = used_until + cost;
        // Whoever was idle gets his reply, even if it alone uses up more than there may be at once of a low rate.
        if !is_idle && (known & LIMITED != 0 || until - now > self.burst) {
            return self.limit(slot, tag, (now, used_until), (cost, brought, reply));
        }
        // Threads that race may all be let through: the bound is then off by one reply for each of them.
        slot.used.store(tag << TAG_AT | (until & TIME), Ordering::Relaxed);
        let owed = if is_idle { 0 } else { slot.owed.load(Ordering::Relaxed) };
        slot.owed.store(owed.wrapping_add(reply).saturating_sub(brought), Ordering::Relaxed);
        Action::Send
    }

    /// What becomes of a reply to a prefix that is limited, or is from now on. A question brings so many bytes, but those that come faster
    /// than units flow back bring less.
    #[cold]
    fn limit(
        &self,
        slot: &Slot,
        tag: u64,
        (now, used_until): (u64, u64),
        (cost, brought, reply): (u64, u64, u64),
    ) -> Action {
        let owed = if used_until == now { 0 } else { slot.owed.load(Ordering::Relaxed).cast_signed().min(MOST_OWED) };
        let room = self.burst.saturating_sub(used_until - now);
        let until = used_until + cost.min(room);
        slot.used.store(tag << TAG_AT | LIMITED | (until & TIME), Ordering::Relaxed);
        let brings = brought * room.min(self.unit) / self.unit.max(1);
        let owed = (owed - brings.cast_signed()).max(-MOST_LEFT);
        let (action, owed) = if owed + reply.cast_signed() <= 0 {
            (Action::Send, owed + reply.cast_signed())
        } else {
            match self.config.slip {
                slip @ 1.. if self.limited.fetch_add(1, Ordering::Relaxed).is_multiple_of(slip.into()) => {
                    (Action::Slip, owed + brought.cast_signed() / 2 + COOKIE)
                }
                _ => (Action::Drop, owed),
            }
        };
        slot.owed.store(owed.cast_unsigned(), Ordering::Relaxed);
        action
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

/// A message's length: at most 65,535, so that no sum of these overflows.
fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(0xFFFF)
}

const SECOND: u64 = 1_000_000;
/// Of a second's units those that may be used up at once: as few as a flood of 500 questions makes up for. \[measured\]
const BURST: u64 = SECOND / 4;
const TIME: u64 = (1 << 48) - 1;
const LIMITED: u64 = 1 << 48;
const TAG_AT: u32 = 49;
/// Bytes that a prefix is held to have been sent too many at most: what it cannot make up for within a minute or so is no flood's
/// doing. \[guess\]
const MOST_OWED: i64 = 1 << 20;
/// Bytes that a limited prefix may have left for a longer reply: that of some of the longest. \[guess\]
const MOST_LEFT: i64 = 16 << 10;
/// Bytes that a cut reply may have more than its question: the server's part of a cookie.
const COOKIE: i64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, slip: u32) -> (Limiter, Instant) {
        let began = Instant::now();
        let config = RateLimit { per_second, slip, exempt: Vec::new(), prefixes: 64 };
        (Limiter::new(config, began, [3; 16]), began)
    }

    /// What a flood brought, and what it was sent: whole replies, and all.
    #[derive(Default)]
    struct Sum {
        questions: usize,
        whole: usize,
        out: usize,
    }

    /// A flood of questions and replies of these lengths, so many microseconds between two.
    fn flood(
        limiter: &(Limiter, Instant),
        (count, apart): (u64, u64),
        (question, reply): (usize, usize),
        mut after: impl FnMut(&Sum, Action),
    ) -> Sum {
        let mut sum = Sum::default();
        for at in 0..count {
            let now = limiter.1 + Duration::from_micros(at * apart);
            let action = limiter.0.check(now, [192, 0, 2, 1].into(), question, reply);
            sum.questions += question;
            sum.whole += if action == Action::Send { reply } else { 0 };
            sum.out += match action {
                Action::Send => reply,
                // A truncated reply is the question and a header, and may have a cookie.
                Action::Slip => question + 16,
                Action::Drop => 0,
            };
            after(&sum, action);
        }
        sum
    }

    const LENGTHS: [(usize, usize); 7] =
        [(45, 1232), (45, 300), (45, 110), (40, 90), (60, 400), (60, 130), (300, 1232)];

    #[test]
    fn d08_a_flood_gets_at_most_twice_its_bytes_fast_or_slow_long_or_short() {
        for (question, reply) in LENGTHS {
            for slip in [0, 1, 2, 3] {
                // Cut replies to every question, longer than these, make up for less.
                let bursts = [500, 1_000, 2_000].map(|count| (if slip == 1 { 2 * count } else { count }, 0));
                let rates = [100, 500, 1_000, 2_000, 10_000].map(|rate| ((rate * 20).max(6_000), SECOND / rate));
                for (count, apart) in bursts.into_iter().chain(rates) {
                    // What stays below the limit is no flood.
                    let mut is_limited = false;
                    let sum = flood(&limiter(1_000, slip), (count, apart), (question, reply), |_, action| {
                        is_limited |= action != Action::Send;
                    });
                    let (brought, out) = (sum.questions, sum.out);
                    assert!(
                        !is_limited || out <= 2 * brought,
                        "{question} -> {reply}, {count} questions {apart} us apart, slip {slip}: {brought} in, {out} out"
                    );
                }
            }
        }
    }

    #[test]
    fn from_where_a_prefix_is_limited_it_never_gets_more_than_twice_what_it_brings() {
        for (question, reply) in LENGTHS {
            for rate in [100, 300, 500, 900, 1_100, 2_000, 20_000] {
                let mut since = None;
                flood(&limiter(1_000, 2), (rate * 10, SECOND / rate), (question, reply), |sum, action| {
                    if action != Action::Send && since.is_none() {
                        since = Some((
                            sum.questions - question,
                            sum.out - if action == Action::Slip { question + 16 } else { 0 },
                        ));
                    }
                    if let Some((brought, out)) = since {
                        let (brought, out) = (sum.questions - brought, sum.out - out);
                        assert!(out <= 2 * brought, "{question} -> {reply}, {rate} a second: {brought} in, {out} out");
                    }
                });
            }
        }
    }

    #[test]
    fn a_limited_prefix_gets_whole_replies_for_what_its_questions_bring_and_is_free_again_once_it_asks_less() {
        let limiter = limiter(1_000, 2);
        // Twice its rate: what it was sent too much is soon made up for, and then it gets whole replies again.
        let sum = flood(&limiter, (10_000, 1_000), (45, 300), |_, _| {});
        assert!(sum.whole > sum.questions / 2, "{} of {} are whole replies", sum.whole, sum.out);
        let began = limiter.1 + Duration::from_secs(10);
        let mut at = began;
        // Below the limit, without a pause.
        for _ in 0..400 {
            limiter.0.check(at, [192, 0, 2, 1].into(), 45, 300);
            at += Duration::from_millis(10);
        }
        for _ in 0..100 {
            assert_eq!(limiter.0.check(at, [192, 0, 2, 1].into(), 45, 300), Action::Send);
            at += Duration::from_millis(10);
        }
    }

    #[test]
    fn whatever_is_asked_a_prefix_is_sent_so_many_bytes_a_second_at_most() {
        for (question, reply) in [(60, 1232), (40, 90), (25, 4_000), (300, 310)] {
            for rate in [500, 2_000, 20_000] {
                let sum = flood(&limiter(100, 0), (rate * 10, SECOND / rate), (question, reply), |_, _| {});
                // What it may have at once, then as much in each second.
                let most = 11 * 100 * 2 * question;
                assert!(sum.whole <= most, "{question} -> {reply}, {rate} a second: {} of {most}", sum.whole);
            }
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
    fn at_however_low_a_rate_who_was_idle_gets_a_whole_reply_however_long() {
        for per_second in [1, 2, 10, 50, 56, 100] {
            for slip in [0, 2] {
                let (limiter, began) = limiter(per_second, slip);
                // Longer than any of these takes to flow back; the flood between two limits the prefix.
                for minute in 0..5 {
                    let now = began + Duration::from_secs(60 * minute);
                    let mut actions =
                        (0..100).map(|_| limiter.check(now, [192, 0, 2, 1].into(), 45, 1232) == Action::Send);
                    assert!(actions.next().unwrap(), "{per_second} a second, slip {slip}, minute {minute}");
                    assert!(!actions.all(|is_sent| is_sent), "{per_second} a second, slip {slip}, minute {minute}");
                }
            }
        }
    }

    #[test]
    fn of_a_steady_resolver_past_the_rate_the_share_of_whole_replies_is_what_its_questions_make_up_for() {
        // 1400 units a second of 1000.
        for (slip, least, most) in [(0, 0.07, 0.075), (2, 0.045, 0.055)] {
            let limiter = limiter(1_000, slip);
            let (mut asked, mut whole) = (0.0, 0.0);
            flood(&limiter, (20_000, 10_000), (45, 1232), |sum, action| {
                // Once what was sent before is made up for.
                if sum.questions > 45 * 10_000 {
                    asked += 1.0;
                    whole += if action == Action::Send { 1.0 } else { 0.0 };
                }
            });
            let share = whole / asked;
            assert!((least..=most).contains(&share), "slip {slip}: {share}");
        }
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
