//! The last good set: the proxies that were live lately, for the day when none is. It outlives a restart as bytes that the node
//! keeps:
//! ```text
//!   byte 0     version, 1
//!   then       one entry per proxy, at most 4096: level, then its addresses as in `near.rs`
//! ```

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    near::{NORMAL_WEIGHT, Reader, put_addresses},
    roster::Proxy,
};

/// Proxies with the time they were last seen alive, by level. At most as many per level as are looked at, twice over.
#[derive(Debug)]
pub(crate) struct LastGood {
    levels: Vec<Vec<(Proxy, Instant)>>,
    most: usize,
}

impl LastGood {
    /// The set of an earlier run, as much of it as can be read; empty without one.
    pub(crate) fn new(now: Instant, saved: Option<&[u8]>, levels: u8, candidates: usize) -> Self {
        let saved = read(saved.unwrap_or_default(), levels);
        let since = |proxies: Vec<Proxy>| proxies.into_iter().map(|proxy| (proxy, now)).collect();
        Self { levels: saved.into_iter().map(since).collect(), most: candidates.saturating_mul(2) }
    }

    /// These are live at a level now. Those that were a while ago are forgotten, but never all.
    pub(crate) fn seen(&mut self, now: Instant, level: usize, live: &[Proxy]) {
        let Some(known) = self.levels.get_mut(level).filter(|_| !live.is_empty()) else { return };
        known.retain(|(proxy, seen)| {
            let again = live.iter().any(|live| live.v4 == proxy.v4 && live.v6 == proxy.v6);
            !again && now.saturating_duration_since(*seen) < REMEMBERED
        });
        known.extend(live.iter().map(|proxy| (proxy.clone(), now)));
        let excess = known.len().saturating_sub(self.most);
        known.drain(..excess);
    }

    /// These addresses want nobody any more.
    pub(crate) fn forget(&mut self, addresses: &[IpAddr]) {
        let unwilling = |address: Option<IpAddr>| address.is_some_and(|address| addresses.contains(&address));
        for known in &mut self.levels {
            known.retain(|(proxy, _)| !unwilling(proxy.v4.map(Into::into)) && !unwilling(proxy.v6.map(Into::into)));
        }
    }

    /// Those of a level.
    pub(crate) fn of(&self, level: usize) -> impl Iterator<Item = &Proxy> {
        self.levels.get(level).into_iter().flatten().map(|(proxy, _)| proxy)
    }

    /// The set, by level.
    pub(crate) fn proxies(&self) -> Vec<Vec<Proxy>> {
        self.levels.iter().map(|known| known.iter().map(|(proxy, _)| proxy.clone()).collect()).collect()
    }
}

/// A set as bytes.
pub(crate) fn write(last_good: &[Vec<Proxy>]) -> Bytes {
    let mut to = BytesMut::new();
    to.put_u8(VERSION);
    let each = last_good.iter().enumerate().flat_map(|(at, proxies)| proxies.iter().map(move |proxy| (at, proxy)));
    for (at, proxy) in each.filter(|(_, proxy)| proxy.v4.is_some() || proxy.v6.is_some()).take(SAVED) {
        to.put_u8(u8::try_from(at).unwrap_or(u8::MAX));
        put_addresses(&mut to, proxy.v4, proxy.v6);
    }
    to.freeze()
}

/// A set from bytes: as much of it as can be read, none of another version.
fn read(bytes: &[u8], levels: u8) -> Vec<Vec<Proxy>> {
    let mut from = Reader(bytes);
    let mut last_good = vec![Vec::new(); levels.into()];
    if from.array() != Some([VERSION]) {
        return last_good;
    }
    for _ in 0..SAVED {
        let Some([at]) = from.array() else { break };
        let Some((v4, v6)) = from.addresses() else { break };
        if let Some(proxies) = last_good.get_mut(usize::from(at)) {
            proxies.push(Proxy { v4, v6, load: 0, weight: NORMAL_WEIGHT, port: 0 });
        }
    }
    last_good
}

const VERSION: u8 = 1;
/// Proxies in a saved set.
const SAVED: usize = 4096;
/// How long a dead proxy stays in the set while others live. When several die one after another, it still holds them all. \[guess\]
const REMEMBERED: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(last: u8) -> Proxy {
        Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: NORMAL_WEIGHT, port: 0 }
    }

    fn numbers(set: &LastGood) -> Vec<u8> {
        set.proxies()[0].iter().map(|proxy| proxy.v4.unwrap().octets()[3]).collect()
    }

    #[test]
    fn proxies_that_die_one_after_another_stay_in_the_set_and_those_long_dead_do_not() {
        let now = Instant::now();
        let mut set = LastGood::new(now, None, 1, 8);
        set.seen(now, 0, &[proxy(1), proxy(2)]);
        set.seen(now + REMEMBERED / 2, 0, &[proxy(2)]);
        set.seen(now + REMEMBERED, 0, &[]);
        assert_eq!(numbers(&set), [1, 2]);
        set.seen(now + REMEMBERED * 9, 0, &[]);
        assert_eq!(numbers(&set), [1, 2], "never empty");
        set.seen(now + REMEMBERED * 9, 0, &[proxy(3)]);
        assert_eq!(numbers(&set), [3]);
    }

    #[test]
    fn a_node_that_left_is_forgotten_at_once_and_the_set_is_bounded() {
        let now = Instant::now();
        let mut set = LastGood::new(now, None, 1, 1);
        for last in 1..=3 {
            set.seen(now, 0, &[proxy(last)]);
        }
        assert_eq!(numbers(&set), [2, 3]);
        set.forget(&[[192, 0, 2, 3].into()]);
        assert_eq!(numbers(&set), [2]);
    }

    #[test]
    fn any_saved_bytes_are_read_or_passed_over() {
        bolero::check!().for_each(|bytes| {
            let read_back = read(bytes, 3);
            assert_eq!(read_back.len(), 3);
            assert_eq!(read(&write(&read_back), 3), read_back);
        });
    }
}
