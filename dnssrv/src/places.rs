//! Where prefixes are served, as one thread's fast path (`hot.rs`) keeps it: a table of a fixed size whose entries last a tenth of a
//! second, so that what is learnt meanwhile is used and the whole path sees each prefix often enough to go on learning.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use atoll_overlay::{Level, Prefix};

use crate::{
    deck::Deck,
    limit::Charge,
    redirector::{Redirector, turn},
    stats,
};

/// The prefixes asked from of late, each at the slot of its hash.
pub(crate) struct Places(Vec<Option<Known>>);

/// Where one is served.
#[derive(Clone)]
pub(crate) struct Known {
    prefix: u128,
    whole: Prefix,
    pub(crate) level: Level,
    /// What there is to choose from, if that is not all of the level.
    pub(crate) near: Option<Box<[Deck; 2]>>,
    /// What placed it there, by its number among the counters.
    pub(crate) why: usize,
    /// Which part of a hot site's proxies it is given.
    pub(crate) turn: u64,
    /// What the rate limit charges.
    pub(crate) charge: Charge,
    until: Instant,
    /// Questions answered here since.
    answers: u64,
}

impl Places {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self(vec![None; PLACES])
    }

    /// What a slot says.
    pub(crate) fn get(&self, slot: usize) -> Option<&Known> {
        self.0.get(slot)?.as_ref()
    }

    /// Which slot says where a resolver's prefix is served, if that is settled and this server's own clusters serve it.
    pub(crate) fn slot(&mut self, redirector: &Redirector, now: Instant, resolver: IpAddr) -> Option<usize> {
        let prefix = bits(resolver);
        let slot = usize::try_from(prefix.wrapping_mul(SPREAD) >> 96).ok()? % PLACES;
        if let Some(Some(known)) = self.0.get_mut(slot)
            && known.prefix == prefix
            && now < known.until
        {
            known.answers += 1;
            return Some(slot);
        }
        if let Some(known) = self.0.get_mut(slot).and_then(Option::take) {
            redirector.atlas.more(known.whole, known.answers);
        }
        // This one goes the whole way, so that what is to be asked and told of the prefix is.
        let whole = Prefix::of(resolver);
        let (level, near, why) = redirector.own_place(now, whole)?;
        let (near, why) = (near.map(Box::new), stats::number(why));
        let (turn, charge) = (turn(whole), redirector.limiter.charge(whole));
        let until = now + KEPT;
        *self.0.get_mut(slot)? = Some(Known { prefix, whole, level, near, why, turn, charge, until, answers: 0 });
        None
    }
}

/// A prefix as a number: /24 or /48, told apart.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8) | 1 << 127,
        IpAddr::V6(v6) => v6.to_bits() >> 80,
    }
}

/// Prefixes kept per thread. \[guess\]
const PLACES: usize = 1024;
/// How long. \[guess\]
const KEPT: Duration = Duration::from_millis(100);
/// An odd number without pattern: 2^128 over the golden ratio.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
