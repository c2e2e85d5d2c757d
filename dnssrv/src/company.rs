//! Whom this server is in company with: the servers of the zone that the index names. Who of them is nearest to a prefix is known only
//! of those that were there to be asked, so it counts when others come, new ones or such as were cut off. Time is told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use atoll_overlay::NodeId;

/// Those that are known, and how often others came.
#[derive(Debug, Default)]
pub(crate) struct Company {
    /// When each was last named.
    named: BTreeMap<NodeId, Instant>,
    /// When the index was last looked at.
    looked: Option<Instant>,
    number: u64,
    /// When that last rose.
    rose: Option<Instant>,
    /// Whether somebody came since.
    came: bool,
    /// Whether one of those had been away.
    back: bool,
    /// When those who had been away were last counted.
    counted: Option<Instant>,
}

impl Company {
    /// The index names these now.
    pub(crate) fn named(&mut self, now: Instant, servers: impl Iterator<Item = NodeId>) {
        let looked = self.looked.replace(now);
        for server in servers {
            let last = self.named.insert(server, now);
            // Where nobody looked for long, nobody was away.
            let is_away = |last| looked != Some(last) && now.saturating_duration_since(last) >= AWAY;
            let was_away = last.is_some_and(is_away);
            self.came |= last.is_none() || was_away;
            self.back |= was_away;
        }
        while self.named.len() > MOST
            && let Some(longest) = self.named.iter().min_by_key(|(_, named)| **named).map(|(server, _)| *server)
        {
            self.named.remove(&longest);
        }
        if self.came && self.rose.is_none_or(|rose| now.saturating_duration_since(rose) >= APART) {
            if self.back {
                self.counted = Some(now);
            }
            (self.number, self.rose, self.came, self.back) = (self.number + 1, Some(now), false, false);
        }
    }

    /// Rises when others come, those of a few seconds at once. From 1.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether some who had been away came back so lately that who is near whom is still being found out, and that they may not know
    /// this server yet.
    pub(crate) fn is_just_back(&self, now: Instant) -> bool {
        self.back || self.counted.is_some_and(|counted| now.saturating_duration_since(counted) < LINGERS)
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
    fn it_rises_when_others_come_and_those_who_had_been_away_are_back_for_a_while() {
        let (mut company, start) = (Company::default(), Instant::now());
        let mut at = |seconds, servers: &[u8]| named(&mut company, start + Duration::from_secs(seconds), servers);
        assert_eq!([at(0, &[]), at(1, &[1]), at(2, &[1])], [(0, false), (1, false), (1, false)]);
        assert_eq!([at(3, &[1, 2]), at(4, &[1, 2, 3])], [(1, false), (2, false)], "those of three seconds at once");
        assert_eq!([at(6, &[1]), at(6, &[1, 2, 3])], [(2, false); 2], "a look missed them");
        assert_eq!([at(20, &[1]), at(66, &[1, 2])], [(2, false), (3, true)], "it was cut off");
        assert_eq!([at(67, &[1, 2, 3]), at(69, &[1, 2, 3])], [(3, true), (4, true)], "the next one came at once");
        assert_eq!([at(78, &[1, 2, 3]), at(79, &[1, 2, 3])], [(4, true), (4, false)]);
        assert_eq!(at(99, &[1, 2, 3]), (4, false), "nobody looked meanwhile");
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (mut company, now) = (Company::default(), Instant::now());
        let server = |number: usize| NodeId::from(Key::of(&number.to_be_bytes()));
        (0..3).for_each(|part| company.named(now, (0..2_000).map(|number| server(part * 2_000 + number))));
        assert_eq!(company.named.len(), MOST);
    }
}
