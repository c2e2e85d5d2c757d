//! Round trips seen for free: the time between a CNAME or a referral sent and the query that can only follow it.
//!
//! A query with the site's label follows that site's CNAME or referral. A minimised one (`l0`, `http.l2.l1.l0`) tells no site,
//! so it counts only if exactly one reply to this resolver could have led to it. Time is told.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use atoll_overlay::Level;

use crate::{site::Site, zone::Place};

/// What was sent, and so what to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A CNAME to the site's target.
    Alias(Site),
    /// A referral to where a level begins.
    Referral(Level),
}

/// A reply and the query that followed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Followed {
    /// The reply.
    pub(crate) sent: Sent,
    /// The time between them.
    pub(crate) gap: Duration,
}

/// Replies sent lately, by resolver.
#[derive(Debug)]
pub(crate) struct Gaps {
    sent: BTreeMap<IpAddr, Vec<(Sent, Instant)>>,
    order: VecDeque<IpAddr>,
    limit: usize,
}

impl Gaps {
    /// None yet; of at most this many resolvers at a time.
    pub(crate) const fn new(limit: usize) -> Self {
        Self { sent: BTreeMap::new(), order: VecDeque::new(), limit }
    }

    /// A reply went to a resolver. `above` are the sites whose names the name asked for lies below: a resolver that minimises
    /// asked for them on its way here, and follows none of their aliases.
    pub(crate) fn sent(&mut self, now: Instant, to: IpAddr, sent: Sent, above: &[Site]) {
        if !self.sent.contains_key(&to) {
            if self.order.len() >= self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                self.sent.remove(&oldest);
            }
            self.order.push_back(to);
        }
        let replies = self.sent.entry(to).or_default();
        let passed = |sent: &Sent| matches!(sent, Sent::Alias(site) if above.contains(site));
        replies.retain(|(sent, at)| now.saturating_duration_since(*at) < LONGEST && !passed(sent));
        // A and AAAA of one name are asked at once: what follows may follow the first.
        if replies.len() < AT_ONCE && !replies.iter().any(|(known, _)| *known == sent) {
            replies.push((sent, now));
        }
    }

    /// Whether this reply went to a resolver and was not followed yet.
    pub(crate) fn is_sent(&self, now: Instant, to: IpAddr, sent: Sent) -> bool {
        let lately = |(known, at): &(Sent, Instant)| *known == sent && now.saturating_duration_since(*at) < LONGEST;
        self.sent.get(&to).is_some_and(|replies| replies.iter().any(lately))
    }

    /// A query came from a resolver: the reply it must have followed, if there is one. Each reply counts once.
    pub(crate) fn came(&mut self, now: Instant, from: IpAddr, place: &Place<'_>) -> Option<Followed> {
        let replies = self.sent.get_mut(&from)?;
        replies.retain(|(_, at)| now.saturating_duration_since(*at) < LONGEST);
        let site = if let Place::Target(site) = place { Some(*site) } else { None };
        let mut fitting = replies.iter().enumerate().filter(|(_, (sent, _))| sent.leads_to(place));
        let exact = replies.iter().rposition(|(sent, _)| site.is_some() && sent.site() == site);
        let at = exact.or_else(|| fitting.next().filter(|_| fitting.next().is_none()).map(|(at, _)| at));
        let followed = at.and_then(|at| replies.get(at).copied());
        // A resolver that asks for cuts minimises: it is inside of them when it asks for the full name, and no alias still
        // says where that came from.
        let minimised = matches!(place, Place::Cut(_) | Place::Empty(Some(_)));
        replies.retain(|(other, _)| {
            let done = followed.is_some_and(|(sent, _)| sent == *other) || (site.is_some() && other.site() == site);
            !(done || minimised && matches!(other, Sent::Alias(_)))
        });
        followed.map(|(sent, since)| Followed { sent, gap: now.saturating_duration_since(since) })
    }

    /// Replies remembered.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.sent.values().map(Vec::len).sum()
    }

    /// Whether a question for a site may follow something sent to a resolver.
    pub(crate) fn is_expecting(&self, now: Instant, from: IpAddr, site: Site) -> bool {
        let may = |(sent, at): &(Sent, Instant)| {
            let others = matches!(sent, Sent::Alias(other) if *other != site);
            !others && now.saturating_duration_since(*at) < LONGEST
        };
        self.sent.get(&from).is_some_and(|replies| replies.iter().any(may))
    }
}

impl Sent {
    const fn site(self) -> Option<Site> {
        match self {
            Self::Alias(site) => Some(site),
            Self::Referral(_) => None,
        }
    }

    /// Whether a query without a site's label, or for a site whose label was not in what was sent, may follow this.
    fn leads_to(self, place: &Place<'_>) -> bool {
        match (self, place) {
            (Self::Alias(_), Place::Cut(level)) => *level == Level::GLOBAL,
            (Self::Referral(cut), Place::Cut(level)) => level.0 == cut.0 + 1,
            (Self::Referral(cut), Place::Empty(Some(level))) => cut == *level,
            (Self::Referral(_), Place::Target(_)) => true,
            (Self::Alias(_) | Self::Referral(_), _) => false,
        }
    }
}

/// A query later than this follows something else.
const LONGEST: Duration = Duration::from_secs(1);
/// Replies remembered per resolver; a busy resolver's others are not needed.
const AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 53));
    const SITE: Site = Site(1);

    fn check(sent: &[(Sent, u64)], came: (Place<'_>, u64)) -> Option<u64> {
        let start = Instant::now();
        let mut gaps = Gaps::new(4);
        for (what, at) in sent {
            gaps.sent(start + Duration::from_millis(*at), RESOLVER, *what, &[]);
        }
        let followed = gaps.came(start + Duration::from_millis(came.1), RESOLVER, &came.0)?;
        Some(u64::try_from(followed.gap.as_millis()).unwrap())
    }

    #[test]
    fn a_target_follows_its_own_alias() {
        let other = Sent::Alias(Site(2));
        assert_eq!(check(&[(Sent::Alias(SITE), 0), (other, 5)], (Place::Target(SITE), 20)), Some(20));
        assert_eq!(check(&[(other, 5)], (Place::Target(SITE), 20)), None);
    }

    #[test]
    fn a_minimised_query_counts_only_if_one_reply_can_have_led_to_it() {
        let l0 = Place::Cut(Level(0));
        assert_eq!(check(&[(Sent::Alias(SITE), 0)], (l0, 20)), Some(20));
        assert_eq!(check(&[(Sent::Alias(SITE), 0), (Sent::Alias(Site(2)), 5)], (l0, 20)), None);
        assert_eq!(check(&[(Sent::Referral(Level(0)), 3)], (Place::Cut(Level(1)), 20)), Some(17));
        assert_eq!(check(&[(Sent::Referral(Level(0)), 3)], (Place::Cut(Level(2)), 20)), None);
        assert_eq!(check(&[(Sent::Referral(Level(2)), 3)], (Place::Empty(Some(Level(2))), 20)), Some(17));
    }

    #[test]
    fn aliases_met_on_the_way_down_a_name_are_not_followed() {
        let start = Instant::now();
        let mut gaps = Gaps::new(4);
        gaps.sent(start, RESOLVER, Sent::Alias(Site(2)), &[]);
        gaps.sent(start + Duration::from_millis(5), RESOLVER, Sent::Alias(SITE), &[Site(2)]);
        let followed = gaps.came(start + Duration::from_millis(20), RESOLVER, &Place::Cut(Level(0))).unwrap();
        assert_eq!(followed.gap, Duration::from_millis(15));
    }

    #[test]
    fn after_a_cut_was_asked_for_no_alias_says_where_a_full_name_came_from() {
        let start = Instant::now();
        let mut gaps = Gaps::new(4);
        gaps.sent(start, RESOLVER, Sent::Alias(SITE), &[]);
        gaps.sent(start, RESOLVER, Sent::Alias(Site(2)), &[]);
        assert_eq!(gaps.came(start, RESOLVER, &Place::Cut(Level(0))), None);
        assert_eq!(gaps.came(start, RESOLVER, &Place::Target(SITE)), None);
    }

    #[test]
    fn the_first_of_two_like_replies_counts_and_a_late_query_does_not() {
        assert_eq!(check(&[(Sent::Alias(SITE), 0), (Sent::Alias(SITE), 9)], (Place::Target(SITE), 20)), Some(20));
        assert_eq!(check(&[(Sent::Alias(SITE), 0)], (Place::Target(SITE), 2_000)), None);
    }

    #[test]
    fn past_the_limit_the_oldest_resolver_is_forgotten() {
        let start = Instant::now();
        let mut gaps = Gaps::new(2);
        let resolver = |last: u8| IpAddr::from([192, 0, 2, last]);
        for last in 1..=3 {
            gaps.sent(start, resolver(last), Sent::Alias(SITE), &[]);
        }
        assert_eq!(gaps.came(start, resolver(1), &Place::Target(SITE)), None);
        assert!(gaps.came(start, resolver(3), &Place::Target(SITE)).is_some());
        assert_eq!(gaps.sent.len(), 2);
    }
}
