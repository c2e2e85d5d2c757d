//! Choosing among the proxies of a level: rendezvous hashing with bounded load, so that a site's requests meet in the same few
//! caches and a change of one proxy moves only its own share. Pure, and without allocation once a deck is made.

use std::{hash::Hasher as _, net::IpAddr};

use siphasher::sip::SipHasher24;

use crate::{
    roster::{Family, Proxy},
    site::Site,
};

/// Proxies that can be chosen, those of one family.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deck {
    /// By address.
    cards: Vec<Card>,
    /// What every question reckons with, one of each card.
    marks: Vec<Mark>,
    /// Whether all weigh the same, so that weights need not be reckoned with.
    even: bool,
    /// Whether some are busy, so that an answer may have to name more than usual.
    busy: bool,
}

/// One proxy.
#[derive(Debug, Clone)]
struct Card {
    address: IpAddr,
    seed: u64,
    weight: f64,
    load: u32,
}

/// What of a proxy's rank is the same for all sites. A rank says by one number who goes before whom:
///
/// ```text
/// bit 63   not too busy          bits 16-62   score          bits 0-15   the card's number, inverted
/// ```
#[derive(Debug, Clone, Copy)]
struct Mark {
    seed: u64,
    fixed: u64,
}

/// How many are wanted, and of how wide a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    /// Addresses in an answer.
    pub(crate) count: usize,
    /// How many times as many proxies the site's requests are spread over: 1 unless it is hot.
    pub(crate) width: usize,
    /// Which part of a wide set whoever asks is given: a number of its prefix.
    pub(crate) turn: u64,
}

/// The addresses chosen, best first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picked {
    addresses: [IpAddr; MOST],
    count: usize,
}

impl Deck {
    /// The proxies that have an address of a family.
    pub(crate) fn of(proxies: &[Proxy], family: Family) -> Self {
        let card = |proxy: &Proxy| {
            let address = proxy.address(family)?;
            Some(Card { address, seed: seed(proxy), weight: f64::from(proxy.weight), load: u32::from(proxy.load) })
        };
        let mut cards: Vec<Card> = proxies.iter().filter_map(card).collect();
        cards.sort_by_key(|card| card.address);
        cards.truncate(MOST_CARDS);
        let total: u32 = cards.iter().map(|card| card.load).sum();
        let mean = total / u32::try_from(cards.len().max(1)).unwrap_or(u32::MAX);
        let even = cards.windows(2).all(|pair| matches!(pair, [a, b] if a.weight.total_cmp(&b.weight).is_eq()));
        // Bounded load: a quarter above the mean, and nobody stands back who is not busy at all.
        let bound = (mean + mean / 4).max(BUSY);
        let mark = |(card, number): (&Card, u16)| {
            let calm = if card.load <= bound { CALM } else { 0 };
            Mark { seed: card.seed, fixed: calm | u64::from(!number) }
        };
        let marks = cards.iter().zip(0..=u16::MAX).map(mark).collect();
        let busy = cards.iter().any(|card| card.load > BUSY);
        Self { cards, marks, even, busy }
    }

    /// The proxies a site's requests go to: the highest scores win (weighted rendezvous hashing), the busiest stand back.
    pub(crate) fn pick(&self, site: Site, want: Want) -> Picked {
        let count = want.count.clamp(1, MOST);
        // As most are: of a site that is not hot, by proxies that are not busy.
        if want.width == 1 && !self.busy && count <= USUAL {
            return Picked::of(self.best::<USUAL>(site).iter().take(count).filter_map(|rank| self.card(*rank)));
        }
        let width = want.width.clamp(1, WIDEST / count).min(self.cards.len().div_ceil(count).max(1));
        let room = (count * width).max(if self.busy { (count * 2).min(MOST) } else { count });
        let how = (count, width, want.turn);
        // What a question costs here grows with the room.
        if room <= USUAL {
            self.choose(&self.best::<USUAL>(site), room, how)
        } else if room <= MOST {
            self.choose(&self.best::<MOST>(site), room, how)
        } else {
            self.choose(&self.best::<WIDEST>(site), room, how)
        }
    }

    /// The highest ranks, in order; 0 is nobody's.
    fn best<const N: usize>(&self, site: Site) -> [u64; N] {
        let mut best = [0; N];
        if self.even {
            for mark in &self.marks {
                sink(&mut best, mark.fixed | mark.bits(site));
            }
        } else {
            for (mark, card) in self.marks.iter().zip(&self.cards) {
                sink(&mut best, mark.fixed | weighted(card.weight, mark.bits(site)));
            }
        }
        best
    }

    fn choose(&self, best: &[u64], room: usize, (count, width, turn): (usize, usize, u64)) -> Picked {
        let card = |rank: &u64| self.card(*rank);
        let held = best.iter().take(room).take_while(|rank| **rank > 0).count();
        let first = usize::try_from(turn).unwrap_or(0) % width * count;
        let mut firsts = best.iter().take(held.min(count)).filter(|rank| **rank & CALM != 0).filter_map(card);
        let crowded = width == 1 && firsts.any(|card| card.load > BUSY);
        let wanted = if crowded { (count * 2).min(MOST) } else { count };
        let chosen = best.iter().take(held).skip(first).chain(best.iter().take(held.min(first))).filter_map(card);
        Picked::of(chosen.take(wanted))
    }

    /// Whose rank this is; nobody's, if it is 0.
    fn card(&self, rank: u64) -> Option<&Card> {
        let number = usize::try_from(!rank & NUMBER).ok()?;
        self.cards.get(number).filter(|_| rank > 0)
    }

    /// Every proxy with its load and weight.
    pub(crate) fn cards(&self) -> impl Iterator<Item = (IpAddr, u32, f64)> {
        self.cards.iter().map(|card| (card.address, card.load, card.weight))
    }
}

impl Mark {
    /// The score's bits, which depend on the site and the proxy. Both are hashes already, so that one multiplication mixes them.
    const fn bits(self, site: Site) -> u64 {
        (site.0 ^ self.seed).wrapping_mul(SPREAD) & SCORE
    }
}

/// The score of a proxy among some that do not all weigh the same: weight / -ln(u), u uniform in (0, 1). Among equals u alone orders
/// the same way.
fn weighted(weight: f64, bits: u64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "47 bits, which a double holds")]
    let wide = |bits: u64| (bits >> SCORE.trailing_zeros()) as f64;
    // Moved off both ends of the interval.
    let uniform = (wide(bits) + 0.5) / (wide(SCORE) + 1.0);
    // The bits of numbers that are not negative are in the numbers' order; the first is zero.
    (weight / -uniform.ln()).to_bits() & !NUMBER
}

/// Puts a rank where it belongs; the last falls out. Without branches: where one belongs is a matter of chance.
fn sink<const N: usize>(best: &mut [u64; N], mut rank: u64) {
    for held in best {
        (*held, rank) = ((*held).max(rank), (*held).min(rank));
    }
}

impl Picked {
    fn of<'c>(cards: impl Iterator<Item = &'c Card>) -> Self {
        let mut picked = Self { addresses: [NOBODY; MOST], count: 0 };
        for (to, card) in picked.addresses.iter_mut().zip(cards) {
            *to = card.address;
            picked.count += 1;
        }
        picked
    }

    /// The addresses, best first.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        self.addresses.get(..self.count).unwrap_or_default()
    }
}

/// The proxy counts by its address, so that servers that know it from a pointer and those that know it as a node choose alike.
fn seed(proxy: &Proxy) -> u64 {
    let mut hash = SipHasher24::new();
    match (proxy.v4, proxy.v6) {
        (Some(v4), _) => hash.write(&v4.octets()),
        (None, Some(v6)) => hash.write(&v6.octets()),
        (None, None) => {}
    }
    hash.finish()
}

/// See [`Mark`].
const CALM: u64 = 1 << 63;
/// See [`Mark`].
const SCORE: u64 = !(CALM | NUMBER);
/// See [`Mark`].
const NUMBER: u64 = 0xffff;
/// As many as have a number.
const MOST_CARDS: usize = 1 << 16;
/// An odd number without pattern: 2^64 over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// What stands where no address is.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
/// Addresses an answer has most often.
const USUAL: usize = 2;
/// Addresses an answer has at most. \[design\]
pub(crate) const MOST: usize = 4;
/// Proxies a hot site is spread over at most. \[guess\]
const WIDEST: usize = 16;
/// The load from which a proxy counts as busy. \[guess\]
const BUSY: u32 = 70;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn proxy(last: u8, load: u8, weight: u16) -> Proxy {
        Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load, weight, port: 0 }
    }

    fn pick(proxies: &[Proxy], site: u64, width: usize, turn: u64) -> Vec<IpAddr> {
        let want = Want { count: 2, width, turn };
        Deck::of(proxies, Family::V4).pick(Site::of(&site.to_string(), 80), want).addresses().to_vec()
    }

    #[test]
    fn each_proxy_gets_its_weight_in_sites_and_only_those_of_a_lost_one_move() {
        let proxies: Vec<Proxy> = (1..=10).map(|last| proxy(last, 0, if last == 10 { 300 } else { 100 })).collect();
        let mut firsts = BTreeMap::new();
        for site in 0..12_000 {
            let with = pick(&proxies, site, 1, 0);
            let without = pick(&proxies[1..], site, 1, 0);
            *firsts.entry(with[0]).or_insert(0) += 1;
            if !with.contains(&[192, 0, 2, 1].into()) {
                assert_eq!(with, without, "site {site} lost none of its proxies");
            }
        }
        // Twelve shares: one each, and three of the heavy one.
        for (address, count) in firsts {
            let share = if address == IpAddr::from([192, 0, 2, 10]) { 3_000 } else { 1_000 };
            assert!((share * 85 / 100..=share * 115 / 100).contains(&count), "{address}: {count}");
        }
    }

    #[test]
    fn the_busiest_stand_back_and_a_crowd_gets_more_addresses() {
        let mut proxies: Vec<Proxy> = (1..=6).map(|last| proxy(last, 10, 100)).collect();
        let first = pick(&proxies, 7, 1, 0)[0];
        for proxy in proxies.iter_mut().filter(|proxy| proxy.v4.map(IpAddr::V4) == Some(first)) {
            proxy.load = 95;
        }
        assert!(!pick(&proxies, 7, 1, 0).contains(&first));
        proxies.iter_mut().for_each(|proxy| proxy.load = 90);
        assert_eq!(pick(&proxies, 7, 1, 0).len(), 4);
    }

    #[test]
    fn a_hot_site_is_spread_by_who_asks_and_everybody_still_gets_as_many() {
        let proxies: Vec<Proxy> = (1..=9).map(|last| proxy(last, 0, 100)).collect();
        let narrow = pick(&proxies, 7, 1, 5);
        for (width, expected) in [(1, 2), (2, 4), (4, 8), (8, 9)] {
            let all: Vec<Vec<IpAddr>> = (0..20).map(|turn| pick(&proxies, 7, width, turn)).collect();
            assert!(all.iter().all(|some| some.len() == 2 && some[0] != some[1]));
            let distinct: BTreeSet<IpAddr> = all.iter().flatten().copied().collect();
            assert_eq!(distinct.len(), expected, "width {width}");
            assert_eq!(all[0], narrow, "the first part is the narrow set");
        }
        assert_eq!(pick(&proxies[..1], 7, 8, 3).len(), 1);
        assert!(pick(&[], 7, 8, 3).is_empty());
    }
}
