//! The foreign cluster nearest to one prefix, of those that the index and scouts told of (`near.rs` is what they tell), and which word
//! goes before which: a get need not hear all that was put, so a nearer cluster that was heard of lately holds against a wider one;
//! of one server the later word holds, whatever it says. Time is told.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::near::{Near, TOLD_FOR};

/// The nearest that is known, if any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nearest(Option<Nearby>);

/// A foreign cluster near a prefix, as it was last heard of.
#[derive(Debug, Clone)]
struct Nearby {
    near: Arc<Near>,
    heard: Instant,
    until: Instant,
    /// Whether scouts found it, rather than that the index told of it.
    by_scouts: bool,
}

impl Nearest {
    /// It, unless its pointer has lapsed.
    pub(crate) fn at(&self, now: Instant) -> Option<&Arc<Near>> {
        self.0.as_ref().filter(|known| now < known.until).map(|known| &known.near)
    }

    /// Whether the one last heard of was found by scouts, rather than in the index.
    pub(crate) fn is_found_by_scouts(&self) -> bool {
        self.0.as_ref().is_some_and(|known| known.by_scouts)
    }

    /// Whether one that was heard of may be taken up: not if all its proxies are dead while the known one lives. One that is known and
    /// dead is forgotten for one that lives: it would be held against a wider one for long.
    pub(crate) fn admits(&mut self, now: Instant, near: &Near, lives: impl Fn(&Near) -> bool) -> bool {
        let Some(known) = self.at(now) else { return true };
        // Of what the same server says the later word goes first, whatever it is.
        if near.is_by_who_said(known) {
            return true;
        }
        match (lives(known), lives(near)) {
            (false, true) => {
                self.0 = None;
                true
            }
            (true, false) => false,
            (true, true) | (false, false) => true,
        }
    }

    /// Takes up a cluster near the prefix, with the time it is good for, unless a nearer one was heard of lately. A get need not
    /// hear all that was put: that it brought a wider cluster only is no word against a nearer one, unless who named that says so.
    /// The later word of the same server counts at once.
    pub(crate) fn take(&mut self, now: Instant, near: Near, ttl: Duration, by_scouts: bool) {
        if self.0.as_ref().is_some_and(|known| now < known.until && near.is_before(&known.near)) {
            metrics::counter!("atoll_dns_pointers_refused_total").increment(1);
            return;
        }
        let lately = |known: &&Nearby| {
            let is_wider = near.level < known.near.level && !near.is_by_who_said(&known.near);
            let holds = if is_wider { TOLD_FOR / 2 } else { SAID_BY_THEN };
            now < known.until.min(known.heard + holds)
        };
        let is_outdated = |known: &&Nearby| near.is_by_who_said(&known.near) && near.epoch > known.near.epoch;
        let better = self.0.as_ref().filter(lately).filter(|known| !is_outdated(known));
        if better.is_none_or(|known| (near.level, known.near.rtt) >= (known.near.level, near.rtt)) {
            // Whoever scouts found says so in the index, too.
            let is_found = |known: &Nearby| {
                known.by_scouts
                    && now < known.until
                    && near.cluster == known.near.cluster
                    && near.is_by_who_said(&known.near)
            };
            let by_scouts = by_scouts || self.0.as_ref().is_some_and(is_found);
            self.0 = Some(Nearby { near: Arc::new(near), heard: now, until: now + ttl, by_scouts });
        }
    }
}

/// By when what scouts found is in the index, too. \[guess\]
const SAID_BY_THEN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use atoll_overlay::{Key, Level};

    use super::*;
    use crate::{
        client::{
            Clients,
            tests::{HOUR, clients, ms, near, prefix},
        },
        roster::Server,
        search::Scouts,
    };

    #[test]
    fn the_index_has_the_last_word_on_who_is_near_once_it_can_know_what_scouts_found() {
        let now = Instant::now();
        let mut clients = clients();
        let moved = Near { rtt: ms(7), cluster: Key::from_bytes([1; 20]), ..near(2) };
        let cluster = |clients: &Clients, at| clients.placement(at, prefix(), true).near.map(|near| near.cluster);
        clients.scouted(now, prefix(), Some((near(2), HOUR)), Scouts::Back);
        clients.asked(now + ms(1_000), prefix(), Some((moved.clone(), HOUR)));
        assert_eq!(cluster(&clients, now + ms(1_000)), Some(Key::ZERO), "it is nearer");
        clients.asked(now + ms(11_000), prefix(), None);
        assert_eq!(cluster(&clients, now + ms(11_000)), Some(Key::ZERO), "nobody says otherwise");
        clients.asked(now + ms(11_000), prefix(), Some((moved, HOUR)));
        assert_eq!(cluster(&clients, now + ms(11_000)), Some(Key::from_bytes([1; 20])));
    }

    #[test]
    fn what_scouts_found_stays_found_by_them_when_the_index_repeats_it() {
        let now = Instant::now();
        let mut clients = clients();
        let server = |last| Server { id: Key::from_bytes([last; 20]).into(), v4: None, v6: None, cluster: None };
        let by = |last| Near { servers: vec![server(last)], ..near(2) };
        clients.asked(now, prefix(), Some((by(1), HOUR)));
        assert!(!clients.is_found_by_scouts(prefix()));
        clients.scouted(now, prefix(), Some((by(1), HOUR)), Scouts::Back);
        clients.asked(now + ms(1_000), prefix(), Some((by(1), HOUR)));
        assert!(clients.is_found_by_scouts(prefix()));
        clients.asked(now + ms(2_000), prefix(), Some((by(2), HOUR)));
        assert!(!clients.is_found_by_scouts(prefix()), "another server says so");
    }

    #[test]
    fn a_wider_cluster_displaces_a_nearer_one_only_by_the_word_of_who_named_that() {
        let now = Instant::now();
        let mut clients = clients();
        let server = |last| Server { id: Key::from_bytes([last; 20]).into(), v4: None, v6: None, cluster: None };
        let by = |last, level, epoch| Near { servers: vec![server(last)], epoch, ..near(level) };
        let level = |clients: &Clients, at| clients.placement(at, prefix(), true).level;
        clients.asked(now, prefix(), Some((by(1, 2, 1), HOUR)));
        clients.asked(now + ms(60_000), prefix(), Some((by(2, 1, 9), HOUR)));
        assert_eq!(level(&clients, now + ms(60_000)), Level(2), "the get did not hear of it, no more");
        clients.asked(now + ms(61_000), prefix(), Some((by(1, 1, 2), HOUR)));
        assert_eq!(level(&clients, now + ms(61_000)), Level(1), "it says so itself");
        clients.asked(now + ms(62_000), prefix(), Some((by(1, 2, 3), HOUR)));
        let later = now + ms(62_000) + TOLD_FOR / 2;
        clients.asked(later, prefix(), Some((by(2, 1, 9), HOUR)));
        assert_eq!(level(&clients, later), Level(1), "nobody has repeated it for long");
    }

    #[test]
    fn an_earlier_word_of_a_server_never_takes_the_place_of_its_later_one() {
        let now = Instant::now();
        let mut clients = clients();
        let server = Server { id: Key::ZERO.into(), v4: None, v6: None, cluster: None };
        let word = |epoch, last| Near { epoch, servers: vec![server.clone()], rtt: ms(last), ..near(2) };
        let rtt = |clients: &Clients| clients.placement(now + ms(20_001), prefix(), true).near.map(|near| near.rtt);
        clients.asked(now, prefix(), Some((word(7, 9), HOUR)));
        // The older one seems nearer; what scouts bring is no better.
        clients.asked(now + ms(20_000), prefix(), Some((word(6, 3), HOUR)));
        clients.scouted(now + ms(20_000), prefix(), Some((word(5, 1), HOUR)), Scouts::Back);
        assert_eq!(rtt(&clients), Some(ms(9)));
        clients.asked(now + ms(20_000), prefix(), Some((word(8, 12), HOUR)));
        assert_eq!(rtt(&clients), Some(ms(12)));
        // Soon after, and of a wider cluster: it may have moved.
        clients.asked(now + ms(23_000), prefix(), Some((Near { level: Level(1), ..word(9, 15) }, HOUR)));
        assert_eq!(clients.placement(now + ms(23_000), prefix(), true).level, Level(1));
    }
}
