//! When servers of other clusters are sent to measure a prefix, and how far they have come: of one prefix a [`Search`], of all together
//! what makes a search outdated and how often that may be ([`Searches`]). What they are asked and find is `scout.rs`'s. Time is told.

use std::time::{Duration, Instant};

use crate::hints::Pace;

/// The last search by servers of other clusters for who is near a prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// When they were sent.
    at: Instant,
    /// How far it has come, or the one before it.
    scouts: Scouts,
    /// The company they were sent in; 0: too few were sent.
    company: u64,
    /// Whether some did not know this server and said nothing.
    refused: bool,
}

/// How far a search by servers of other clusters has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scouts {
    /// They are on their way.
    Out,
    /// Each of the first was heard, or is late.
    Heard,
    /// All are back.
    Back,
}

/// What the searches for all prefixes have in common.
#[derive(Debug)]
pub(crate) struct Searches {
    /// The least time between two for one prefix without a reason.
    again: Duration,
    /// Of the servers that are known now, and since when they are.
    company: (u64, Option<Instant>),
    /// How often what was searched in other company is searched anew.
    renewals: Pace,
}

/// Whether a search is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// It is not.
    No,
    /// If few others of its kind began lately ([`Searches::has_room`]).
    WithinPace,
    /// It is.
    Now,
}

impl Search {
    /// How far it has come, or the one before it.
    pub(crate) const fn scouts(&self) -> Scouts {
        self.scouts
    }

    /// When they were sent.
    pub(crate) const fn at(&self) -> Instant {
        self.at
    }

    /// They could not be sent after all: what an earlier search found holds, if there was one.
    pub(crate) fn stayed(self) -> Option<Self> {
        (self.scouts > Scouts::Out).then_some(Self { company: 0, ..self })
    }

    /// Some were sent away by servers that do not know this one yet.
    pub(crate) const fn refused(&mut self) {
        self.refused = true;
    }

    /// Some, or all, of the last search came back.
    pub(crate) fn came(last: Option<Self>, now: Instant, scouts: Scouts) -> Option<Self> {
        match (last, scouts) {
            // Some were asked ahead of the search, which is still to be sent.
            (None, Scouts::Out) => None,
            // Of one that was forgotten meanwhile.
            (None, _) => Some(Self { at: now, scouts, company: 0, refused: false }),
            (Some(search), _) => Some(Self { scouts: search.scouts.max(scouts), ..search }),
        }
    }
}

impl Searches {
    /// None yet; of one prefix one in `again` at most, unless there is a reason for more.
    pub(crate) fn new(now: Instant, again: Duration) -> Self {
        Self { again, company: (0, None), renewals: Pace::new(now, RENEWALS) }
    }

    /// The company this server is in from now on.
    pub(crate) fn set_company(&mut self, now: Instant, company: u64) {
        if company > self.company.0 {
            self.company = (company, Some(now));
        }
    }

    /// Whether a prefix whose last search this is, is to be searched for (again): sooner if it `lacks` some that would be asked now, or
    /// if others may be nearer than all that were found, unless this server is as near as can be.
    pub(crate) fn due(
        &self,
        now: Instant,
        last: Option<Search>,
        lacks: impl FnOnce() -> bool,
        is_innermost: impl FnOnce() -> bool,
    ) -> Due {
        let Some(search) = last else { return Due::Now };
        let age = now.saturating_duration_since(search.at);
        if age >= self.again || (age >= self.again.min(LACKING) && lacks()) {
            Due::Now
        } else if age >= self.again.min(RENEWED) && self.is_outdated(now, search) && !is_innermost() {
            Due::WithinPace
        } else {
            Due::No
        }
    }

    /// Whether one more may begin of those that go by pace. If so it counts as begun.
    pub(crate) fn has_room(&mut self, now: Instant) -> bool {
        self.renewals.spare(now)
    }

    /// One that begins now, after this one.
    pub(crate) fn sent(&self, now: Instant, last: Option<Search>) -> Search {
        let scouts = last.map_or(Scouts::Out, |search| search.scouts);
        Search { at: now, scouts, company: self.company.0, refused: false }
    }

    /// Whether some came since a search, or did not know this server then.
    fn is_outdated(&self, now: Instant, search: Search) -> bool {
        let (company, since) = self.company;
        let refused = search.refused && since.is_some_and(|at| now.saturating_duration_since(at) < KNOWN_BY_THEN);
        search.company < company || refused
    }
}

/// The least time between two searches for a prefix of which neighbours have not said how far they are. \[guess\]
const LACKING: Duration = Duration::from_secs(10);
/// The least time between two searches for a prefix of which others may be nearer that were not asked. \[guess\]
const RENEWED: Duration = Duration::from_secs(3);
/// Such searches begun in a second: with what each takes of it, a fraction of the errands there may be at a time. \[guess\]
const RENEWALS: u32 = 8;
/// How long it takes those who came at most to know this server as it knows them. \[guess\]
const KNOWN_BY_THEN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use atoll_overlay::Prefix;

    use super::*;
    use crate::{
        Source,
        client::{
            Clients,
            tests::{ms, prefix, searching},
        },
    };

    /// A prefix that was searched for at this distance in company 1, and that it is searched for in company 2.
    fn searched_in_company(now: Instant, rtt: u64) -> Clients {
        searched_in_company_among(now, rtt, 2)
    }

    /// The same, with room for so many prefixes.
    fn searched_in_company_among(now: Instant, rtt: u64, limit: usize) -> Clients {
        let mut clients = searching(limit);
        clients.set_company(now, 1);
        clients.measured(now, prefix(), Source::CnameGap, ms(rtt));
        assert!(clients.is_to_scout(now, prefix(), |_| false));
        clients.scouted(now, prefix(), None, Scouts::Back);
        clients
    }

    #[test]
    fn who_is_near_is_found_out_anew_once_others_came_back_and_what_is_known_holds_meanwhile() {
        for (rtt, renewed) in [(130, true), (30, true), (15, false)] {
            let now = Instant::now();
            let mut clients = searched_in_company(now, rtt);
            let later = now + ms(300_000);
            assert!(!clients.is_to_scout(later, prefix(), |_| false));
            clients.set_company(later, 2);
            assert_eq!(clients.is_to_scout(later, prefix(), |_| false), renewed, "{rtt} ms");
            assert!(clients.placement(later, prefix(), true).settled, "{rtt} ms");
            assert!(!clients.is_to_scout(later + RENEWED * 2, prefix(), |_| false), "once");
        }
    }

    #[test]
    fn a_search_that_began_before_others_came_is_done_again_whenever_it_ends() {
        let now = Instant::now();
        let mut clients = searched_in_company(now, 130);
        assert!(clients.is_to_scout(now + ms(600_000), prefix(), |_| false));
        clients.set_company(now + ms(600_100), 2);
        clients.scouted(now + ms(600_200), prefix(), None, Scouts::Back);
        assert!(!clients.is_to_scout(now + ms(602_999), prefix(), |_| false));
        assert!(clients.is_to_scout(now + ms(603_000), prefix(), |_| false));
    }

    #[test]
    fn where_scouts_were_not_known_yet_they_are_sent_again_until_they_should_be() {
        let now = Instant::now();
        let mut clients = searched_in_company(now, 130);
        clients.scouts_refused(prefix());
        assert!(clients.is_to_scout(now + RENEWED, prefix(), |_| false));
        assert!(!clients.is_to_scout(now + RENEWED * 2, prefix(), |_| false), "this time nobody refused");
        clients.scouts_refused(prefix());
        assert!(!clients.is_to_scout(now + KNOWN_BY_THEN, prefix(), |_| false));
    }

    #[test]
    fn where_there_is_no_room_for_a_search_what_an_earlier_one_found_holds() {
        let now = Instant::now();
        let mut clients = searched_in_company(now, 130);
        clients.set_company(now, 2);
        let mut at = now;
        for _ in 0..3 {
            at += RENEWED;
            assert!(clients.is_to_scout(at, prefix(), |_| false), "it is still to be done");
            clients.scouts_stayed(prefix());
            assert!(clients.placement(at, prefix(), true).settled);
        }
    }

    #[test]
    fn however_many_prefixes_are_to_be_searched_anew_it_is_a_few_at_a_time() {
        let now = Instant::now();
        let mut clients = searched_in_company_among(now, 130, 1_000);
        let other = |number: u32| Prefix::of(std::net::Ipv4Addr::from(number << 8).into());
        for number in 1..=500 {
            clients.measured(now, other(number), Source::CnameGap, ms(130));
            assert!(clients.is_to_scout(now, other(number), |_| false), "a new one waits for nobody");
        }
        let mut renewed = |at| (1..=500).filter(|number| clients.is_to_scout(at, other(*number), |_| false)).count();
        let began = renewed(now + ms(60_000));
        assert_eq!(began, 0, "nobody came");
        clients.set_company(now + ms(60_000), 2);
        let mut renewed = |at| (1..=500).filter(|number| clients.is_to_scout(at, other(*number), |_| false)).count();
        let many: Vec<usize> = (60..64).map(|second| renewed(now + ms(second * 1_000))).collect();
        let most = usize::try_from(RENEWALS).unwrap();
        assert!(many.iter().all(|many| (1..=most).contains(many)), "{many:?}");
    }
}
