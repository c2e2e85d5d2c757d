//! Whom this server is in company with: the servers of the zone that the index names. Who of them is nearest to a prefix is known only
//! of those that were there to be asked, so it counts when some come back that were cut off. New ones come all the time, and make
//! themselves known in the index where they are near. Time is told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use atoll_overlay::NodeId;

/// Those that are known, and how often some of them came back.
#[derive(Debug, Default)]
pub(crate) struct Company {
    /// When each was last named.
    named: BTreeMap<NodeId, Instant>,
    /// When the index was last looked at.
    looked: Option<Instant>,
    /// How often some came back.
    number: u64,
    /// When that last rose.
    rose: Option<Instant>,
    /// Whether somebody came back since.
    back: bool,
}

impl Company {
    /// The index names these now.
    pub(crate) fn named(&mut self, now: Instant, servers: impl Iterator<Item = NodeId>) {
        let looked = self.looked.replace(now);
        for server in servers {
            let last = self.named.insert(server, now);
            // Where nobody looked for long, nobody was away.
            let is_away = |last| looked != Some(last) && now.saturating_duration_since(last) >= AWAY;
            self.back |= last.is_some_and(is_away);
        }
        while self.named.len() > MOST
            && let Some(longest) = self.named.iter().min_by_key(|(_, named)| **named).map(|(server, _)| *server)
        {
            self.named.remove(&longest);
        }
        if self.back && self.rose.is_none_or(|rose| now.saturating_duration_since(rose) >= APART) {
            (self.number, self.rose, self.back) = (self.number + 1, Some(now), false);
        }
    }

    /// Rises when some come back who had been away, those of a few seconds at once. From 1.
    pub(crate) const fn number(&self) -> u64 {
        self.number + 1
    }

    /// Whether some who had been away came back so lately that who is near whom is still being found out, and that they may not know
    /// this server yet.
    pub(crate) fn is_just_back(&self, now: Instant) -> bool {
        self.back || self.rose.is_some_and(|rose| now.saturating_duration_since(rose) < LINGERS)
    }
}

/// Not named for so long, a server was away. Shorter than any cut that the index notices, longer than a look at it. \[guess\]
const AWAY: Duration = Duration::from_secs(3);
/// The least time between two rises: after a cut they come one by one. \[guess\]
const APART: Duration = Duration::from_secs(3);
/// Longer than answers of that time are kept, which are asked for again, and a search takes. \[guess\]
const LINGERS: Duration = Duration::from_secs(10);
/// Servers of which it is known that they were here. \[guess\]
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use atoll_overlay::Key;

    use super::*;

    /// These are named at a time: the number, and whether some are just back.
    fn named(company: &mut Company, at: Instant, servers: &[u8]) -> (u64, bool) {
        company.named(at, servers.iter().map(|last| Key::from_bytes([*last; 20]).into()));
        (company.number(), company.is_just_back(at))
    }

    #[test]
    fn it_rises_when_some_come_back_who_had_been_away_and_not_for_new_ones() {
        let (mut company, start) = (Company::default(), Instant::now());
        let mut at = |seconds, servers: &[u8]| named(&mut company, start + Duration::from_secs(seconds), servers);
        assert_eq!([at(0, &[]), at(2, &[1]), at(3, &[1])], [(1, false); 3]);
        assert_eq!([at(3, &[1, 2]), at(4, &[1, 2, 3])], [(1, false); 2], "new ones");
        assert_eq!([at(6, &[1]), at(6, &[1, 2, 3])], [(1, false); 2], "a look missed them");
        assert_eq!([at(20, &[1]), at(66, &[1, 2])], [(1, false), (2, true)], "it was cut off");
        assert_eq!([at(67, &[1, 2, 3]), at(69, &[1, 2, 3])], [(2, true), (3, true)], "those of three seconds at once");
        assert_eq!([at(78, &[1, 2, 3]), at(79, &[1, 2, 3])], [(3, true), (3, false)]);
        assert_eq!(at(99, &[1, 2, 3]), (3, false), "nobody looked meanwhile");
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (mut company, now) = (Company::default(), Instant::now());
        let server = |number: usize| NodeId::from(Key::of(&number.to_be_bytes()));
        (0..3).for_each(|part| company.named(now, (0..2_000).map(|number| server(part * 2_000 + number))));
        assert_eq!(company.named.len(), MOST);
    }
}
