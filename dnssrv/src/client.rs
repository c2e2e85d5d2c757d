//! Who is asking: the prefix of a resolver or its client, how far it is from here (`minima.rs`), which cluster of others is nearest
//! to it (`nearest.rs`), and whether that was looked for (`search.rs`); where it belongs follows (`placement.rs`). Bounded in
//! prefixes. Time is told.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Key, Level, Prefix};

use crate::{
    Probes, Source,
    distances::Distances,
    minima::Minima,
    near::{Near, TOLD_FOR},
    nearest::Nearest,
    overrides::Overrides,
    placement::Placement,
    search::{Due, Scouts, Search, Searches},
};

/// What is known of prefixes.
#[derive(Debug)]
pub(crate) struct Clients {
    known: BTreeMap<Prefix, Known>,
    order: VecDeque<Prefix>,
    thresholds: Vec<Duration>,
    /// This server's clusters, level 0 first.
    clusters: Vec<Key>,
    searches: Searches,
    probe: Probes,
    limit: usize,
    overrides: Arc<Overrides>,
}

/// One prefix.
#[derive(Debug, Clone)]
struct Known {
    /// When anything was first known of it.
    since: Instant,
    /// Whether it was asked for since its place was last looked at.
    used: bool,
    minima: Minima,
    near: Nearest,
    /// When the index was last asked about it, and answered.
    asked: Option<Instant>,
    distances: Distances,
    scouted: Option<Search>,
    /// Whether no other server may be asked to measure it.
    private: bool,
    /// What this server told the index of it, and when.
    told: Option<(Arc<Near>, Instant)>,
}

impl Clients {
    /// Nothing known yet; thresholds and times as in the configuration.
    pub(crate) fn new(thresholds: Vec<Duration>, probe: Probes, limit: usize) -> Self {
        let (known, order, clusters, overrides) = (BTreeMap::new(), VecDeque::new(), Vec::new(), Arc::default());
        let searches = Searches::new(Instant::now(), probe.scout_again);
        Self { known, order, thresholds, clusters, searches, probe, limit, overrides }
    }

    /// The same, but for prefixes that the operator has placed.
    pub(crate) fn with_overrides(self, overrides: &Arc<Overrides>) -> Self {
        Self { overrides: Arc::clone(overrides), ..self }
    }

    /// This server is in these clusters from now on, level 0 first.
    pub(crate) fn set_clusters(&mut self, clusters: Vec<Key>) {
        self.clusters = clusters;
    }

    /// The company this server is in from now on. Who is near a prefix that was searched for in an earlier one is found out anew when
    /// it is next asked for: nobody of those who came back had been asked. What is known of it holds meanwhile.
    pub(crate) fn set_company(&mut self, now: Instant, company: u64) {
        self.searches.set_company(now, company);
    }

    /// Whether a prefix belongs to a cluster rather than to this server, which is of this level to it, at this RTT.
    pub(crate) fn is_nearer(&self, near: &Near, level: Level, rtt: Option<Duration>) -> bool {
        near.beats(level, rtt, self.clusters.get(usize::from(near.level.0)) == Some(&near.cluster))
    }

    /// An RTT was measured from here.
    pub(crate) fn measured(&mut self, now: Instant, prefix: Prefix, source: Source, rtt: Duration) {
        let window = self.probe.window;
        self.entry(now, prefix).minima.measured(now, source, rtt, window);
    }

    /// The index was asked who is near a prefix.
    pub(crate) fn asked(&mut self, now: Instant, prefix: Prefix, near: Option<(Near, Duration)>) {
        let near = near.filter(|(near, _)| self.is_possible(near));
        let known = self.entry(now, prefix);
        known.asked = Some(now);
        if let Some((near, ttl)) = near {
            known.near.take(now, near, ttl, false);
        }
    }

    /// Whether the index is to be asked about a prefix (again): seldom about one that is as near to this server as can be.
    pub(crate) fn is_to_ask(&self, now: Instant, prefix: Prefix) -> bool {
        let asked = self.known.get(&prefix).and_then(|known| known.asked);
        let near =
            self.rtt(now, prefix).is_some_and(|(rtt, _)| usize::from(self.level(rtt).0) == self.thresholds.len());
        let again = if near { self.probe.settle.max(self.probe.ask_again) } else { self.probe.ask_again };
        asked.is_none_or(|asked| now.saturating_duration_since(asked) >= again)
    }

    /// Nodes said how far they are from a prefix.
    pub(crate) fn heard(&mut self, now: Instant, prefix: Prefix, rtts: impl IntoIterator<Item = (IpAddr, Duration)>) {
        let known = self.entry(now, prefix);
        rtts.into_iter().for_each(|(node, rtt)| known.distances.insert(node, rtt));
    }

    /// Nodes said so some time ago: they may have come to know better since.
    pub(crate) fn heard_of(
        &mut self,
        now: Instant,
        prefix: Prefix,
        rtts: impl IntoIterator<Item = (IpAddr, Duration)>,
    ) {
        let known = self.entry(now, prefix);
        for (node, rtt) in rtts {
            let least = known.distances.get(node).map_or(rtt, |known| known.min(rtt));
            known.distances.insert(node, least);
        }
    }

    /// Nodes could not say how far they are, so at least this far, unless they said before.
    pub(crate) fn not_heard(
        &mut self,
        now: Instant,
        prefix: Prefix,
        nodes: impl IntoIterator<Item = IpAddr>,
        least: Duration,
    ) {
        let known = self.entry(now, prefix);
        for node in nodes {
            if known.distances.get(node).is_none() {
                known.distances.insert(node, least);
            }
        }
    }

    /// Whether servers of other clusters are to be sent to measure a prefix (again), sooner if some are lacking that would be asked
    /// now. If so they count as sent.
    pub(crate) fn is_to_scout(&mut self, now: Instant, prefix: Prefix, lacks: impl FnOnce(&Placement) -> bool) -> bool {
        let last = self.entry(now, prefix).scouted;
        let placement = || self.placement(now, prefix, true);
        let is_innermost = || usize::from(placement().level.0) == self.thresholds.len();
        let due = self.searches.due(now, last, || lacks(&placement()), is_innermost);
        let sends = due == Due::Now || (due == Due::WithinPace && self.searches.has_room(now));
        if sends {
            let sent = self.searches.sent(now, last);
            self.entry(now, prefix).scouted = Some(sent);
        }
        sends
    }

    /// They could not be sent after all.
    pub(crate) fn scouts_stayed(&mut self, prefix: Prefix) {
        if let Some(known) = self.known.get_mut(&prefix) {
            known.scouted = known.scouted.and_then(Search::stayed);
        }
    }

    /// Some of them were sent away by servers that do not know this one yet.
    pub(crate) fn scouts_refused(&mut self, prefix: Prefix) {
        if let Some(search) = self.known.get_mut(&prefix).and_then(|known| known.scouted.as_mut()) {
            search.refused();
        }
    }

    /// They are never sent there: to each of them it would be another machine.
    pub(crate) fn is_private(&mut self, prefix: Prefix) {
        if let Some(known) = self.known.get_mut(&prefix) {
            known.private = true;
        }
    }

    /// Whether they are on their way and none but the quickest was heard yet.
    pub(crate) fn is_scouted(&self, prefix: Prefix) -> bool {
        self.known.get(&prefix).and_then(|known| known.scouted).is_some_and(|search| search.scouts() == Scouts::Out)
    }

    /// Some of them, or all, said which cluster is nearer than this server's, if there is one.
    pub(crate) fn scouted(&mut self, now: Instant, prefix: Prefix, near: Option<(Near, Duration)>, scouts: Scouts) {
        let near = near.filter(|(near, _)| self.is_possible(near));
        let known = self.entry(now, prefix);
        known.scouted = Search::came(known.scouted, now, scouts);
        // Another search may have found a nearer one.
        if let Some((near, ttl)) = near {
            known.near.take(now, near, ttl, true);
        }
    }

    /// A cluster that was heard of, unless all its proxies are dead while one that is known lives.
    pub(crate) fn prefer_living(
        &mut self,
        now: Instant,
        prefix: Prefix,
        near: Option<(Near, Duration)>,
        lives: impl Fn(&Near) -> bool,
    ) -> Option<(Near, Duration)> {
        let near = near.filter(|(near, _)| self.is_possible(near))?;
        let known = self.known.get_mut(&prefix);
        known.is_none_or(|known| known.near.admits(now, &near.0, lives)).then_some(near)
    }

    /// Whether there is such a level here: a pointer that speaks of a deeper one would go before all that is true.
    fn is_possible(&self, near: &Near) -> bool {
        usize::from(near.level.0) <= self.thresholds.len()
    }

    /// Whether the index is to be told this of a prefix: it changed, or is about to lapse there.
    pub(crate) fn is_to_tell(&mut self, now: Instant, prefix: Prefix, near: &Near) -> bool {
        let told = &mut self.entry(now, prefix).told;
        let fresh = told.as_ref().is_some_and(|(known, at)| {
            let age = now.saturating_duration_since(*at);
            // That it is nearer than it was said to be is worth a put at any time.
            let lately = age < TELL_AT_MOST && near.level <= known.level;
            lately || (age < TOLD_FOR / 2 && known.says_the_same(near))
        });
        if !fresh {
            *told = Some((Arc::new(near.clone()), now));
        }
        !fresh
    }

    /// Whether the cluster last heard of near a prefix was found by scouts, rather than in the index.
    pub(crate) fn is_found_by_scouts(&self, prefix: Prefix) -> bool {
        self.known.get(&prefix).is_some_and(|known| known.near.is_found_by_scouts())
    }

    /// The least RTT from here to a prefix, and what measured it.
    pub(crate) fn rtt(&self, now: Instant, prefix: Prefix) -> Option<(Duration, Source)> {
        self.known.get(&prefix)?.minima.least(now, self.probe.window)
    }

    /// The same from here alone, whatever neighbours saw: how far this node itself is.
    pub(crate) fn rtt_from_here(&self, now: Instant, prefix: Prefix) -> Option<Duration> {
        let minima = self.known.get(&prefix)?.minima.each(now, self.probe.window);
        minima.filter(|(source, _)| *source != Source::Neighbour).map(|(_, rtt)| rtt).min()
    }

    /// Every source's minimum for a prefix.
    pub(crate) fn minima(&self, now: Instant, prefix: Prefix) -> Vec<(Source, Duration)> {
        self.known.get(&prefix).map(|known| known.minima.each(now, self.probe.window).collect()).unwrap_or_default()
    }

    /// Where a prefix belongs. `hints` says whether the index is asked at all.
    pub(crate) fn placement(&self, now: Instant, prefix: Prefix, hints: bool) -> Placement {
        self.overrides.placement(prefix).unwrap_or_else(|| self.found(now, prefix, hints))
    }

    /// Where it belongs by what was measured and heard, whatever the operator says.
    pub(crate) fn found(&self, now: Instant, prefix: Prefix, hints: bool) -> Placement {
        let known = self.known.get(&prefix);
        let rtt = self.rtt(now, prefix).map(|(rtt, _)| rtt);
        let own = rtt.map_or(Level::GLOBAL, |rtt| self.level(rtt));
        let near = known.and_then(|known| known.near.at(now));
        let near = near.filter(|near| self.is_nearer(near, own, rtt)).cloned();
        let level = near.as_ref().map_or(own, |near| near.level);
        let innermost = usize::from(level.0) == self.thresholds.len();
        let looked = known.is_some_and(|known| {
            let is_long_ago = |at: Instant| now.saturating_duration_since(at) >= self.probe.settle;
            let long_known = is_long_ago(known.since);
            let somewhere = near.is_some() || own > Level::GLOBAL;
            // Whoever is near had the time to say so in the index.
            let heard = somewhere && known.asked.is_some_and(|asked| asked >= known.since + SAID_WITHIN);
            match known.scouted.map(|search| (search.scouts(), search.at())) {
                Some((Scouts::Back, _)) => true,
                // Farther out, one may still be found that is nearer.
                Some((Scouts::Heard, _)) => innermost || long_known,
                Some((Scouts::Out, sent)) => heard || is_long_ago(sent),
                // Measured for another server alone: that nobody is near is not known before this one looked.
                None if self.probe.sends_scouts() => heard || (long_known && (somewhere || known.private)),
                // Nobody is sent: those it is referred to measure it, and say so in the index.
                None => !hints || innermost || (known.asked.is_some() && (own > Level::GLOBAL || long_known)),
            }
        });
        let handed_over = near.is_some() && (innermost || !self.probe.sends_scouts());
        let settled = handed_over || ((rtt.is_some() || near.is_some()) && looked);
        let awaited = known.and_then(|known| known.scouted).is_some_and(|search| search.scouts() == Scouts::Out);
        let distances = known.map(|known| known.distances.awaiting(awaited)).unwrap_or_default();
        Placement { level, rtt, near, settled, distances, placed: false }
    }

    /// A question is answered by what is known of a prefix: those that are asked for again outlive those that were asked for once.
    pub(crate) fn is_used(&mut self, prefix: Prefix) {
        if let Some(known) = self.known.get_mut(&prefix) {
            known.used = true;
        }
    }

    /// Forgets the oldest prefix that was not asked for since it was last looked at.
    fn make_room(&mut self) {
        for chance in 0..=CHANCES {
            let Some(oldest) = self.order.pop_front() else { return };
            match self.known.get_mut(&oldest) {
                Some(known) if known.used && chance < CHANCES => {
                    known.used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    self.known.remove(&oldest);
                    return;
                }
            }
        }
    }

    /// The level an RTT belongs to.
    pub(crate) fn level(&self, rtt: Duration) -> Level {
        let under = self.thresholds.iter().take_while(|threshold| rtt < **threshold).count();
        Level(u8::try_from(under).unwrap_or(u8::MAX))
    }

    /// Prefixes of which anything is known.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    fn entry(&mut self, now: Instant, prefix: Prefix) -> &mut Known {
        if !self.known.contains_key(&prefix) {
            if self.order.len() >= self.limit {
                self.make_room();
            }
            self.order.push_back(prefix);
        }
        self.known.entry(prefix).or_insert_with(|| Known {
            since: now,
            used: false,
            minima: Minima::default(),
            near: Nearest::default(),
            asked: None,
            distances: Distances::default(),
            scouted: None,
            private: false,
            told: None,
        })
    }
}

/// How long it takes a server that finds itself near a prefix to say so in the index. \[guess\]
pub(crate) const SAID_WITHIN: Duration = Duration::from_millis(1500);
/// Prefixes looked at when one is to be forgotten. \[guess\]
const CHANCES: usize = 64;
/// The least time between two puts for one prefix. \[guess\]
const TELL_AT_MOST: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const HOUR: Duration = Duration::from_secs(3600);

    pub(crate) fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    pub(crate) fn prefix() -> Prefix {
        Prefix::of([192, 0, 2, 1].into())
    }

    /// Where nobody is sent to measure.
    pub(crate) fn clients() -> Clients {
        Clients::new(vec![ms(60), ms(20)], Probes { window: HOUR, scouts: 0, ..Probes::default() }, 2)
    }

    /// Where some are, with room for so many prefixes.
    pub(crate) fn searching(limit: usize) -> Clients {
        Clients::new(vec![ms(60), ms(20)], Probes { window: HOUR, scouts: 6, ..Probes::default() }, limit)
    }

    pub(crate) fn near(level: u8) -> Near {
        Near { level: Level(level), rtt: ms(5), cluster: Key::ZERO, servers: Vec::new(), proxies: Vec::new(), epoch: 0 }
    }

    #[test]
    fn the_level_is_that_of_the_least_rtt_of_any_source() {
        let now = Instant::now();
        let mut clients = clients();
        for (rtt, level) in [(70, 0), (60, 0), (59, 1), (20, 1), (19, 2), (80, 2)] {
            clients.measured(now, prefix(), Source::CnameGap, ms(rtt));
            assert_eq!(clients.placement(now, prefix(), false).level, Level(level), "{rtt} ms");
        }
    }

    #[test]
    fn a_far_prefix_is_settled_only_after_the_index_was_asked_and_others_had_time() {
        let now = Instant::now();
        let mut clients = clients();
        assert!(!clients.placement(now, prefix(), true).settled);
        clients.measured(now, prefix(), Source::CnameGap, ms(90));
        assert!(!clients.placement(now, prefix(), true).settled);
        clients.asked(now, prefix(), None);
        assert!(!clients.placement(now, prefix(), true).settled);
        assert!(clients.placement(now + Probes::default().settle, prefix(), true).settled);
        clients.measured(now, prefix(), Source::CnameGap, ms(50));
        assert!(clients.placement(now, prefix(), true).settled, "a cluster of ours is near enough to stay with");
    }

    #[test]
    fn that_nobody_is_near_is_settled_by_time_only_where_nobody_can_be_sent() {
        let now = Instant::now();
        let mut clients = searching(2);
        clients.measured(now, prefix(), Source::TcpConnect, ms(106));
        clients.asked(now + SAID_WITHIN, prefix(), None);
        let later = now + Probes::default().settle;
        assert!(!clients.placement(later, prefix(), true).settled, "it was measured for another server");
        clients.is_private(prefix());
        assert!(clients.placement(later, prefix(), true).settled);
    }

    #[test]
    fn where_scouts_are_sent_a_prefix_is_settled_when_they_are_back() {
        let now = Instant::now();
        let mut clients = searching(2);
        clients.measured(now, prefix(), Source::CnameGap, ms(15));
        assert!(clients.is_to_scout(now, prefix(), |_| false) && !clients.is_to_scout(now, prefix(), |_| false));
        assert!(!clients.placement(now, prefix(), true).settled, "its proxies may not be as near as its server");
        clients.heard(now, prefix(), [([192, 0, 2, 9].into(), ms(25))]);
        clients.scouted(now, prefix(), None, Scouts::Back);
        let placement = clients.placement(now, prefix(), true);
        assert_eq!((placement.settled, placement.distances.iter().count()), (true, 1));
        let again = now + Probes::default().scout_again;
        assert!(clients.is_to_scout(again, prefix(), |_| false));
        assert!(clients.placement(again, prefix(), true).settled, "what is known holds meanwhile");
        assert!(!clients.is_to_scout(again + ms(9_999), prefix(), |_| true));
        assert!(clients.is_to_scout(again + ms(10_000), prefix(), |_| true), "a neighbour joined");
    }

    #[test]
    fn a_delegation_is_not_made_for_long_while_scouts_that_may_find_a_nearer_cluster_are_out() {
        let now = Instant::now();
        let mut clients = searching(2);
        clients.measured(now, prefix(), Source::CnameGap, ms(51));
        assert!(clients.is_to_scout(now, prefix(), |_| false));
        for (scouts, settled) in [(Scouts::Out, false), (Scouts::Heard, false), (Scouts::Back, true)] {
            clients.scouted(now, prefix(), None, scouts);
            assert_eq!(clients.placement(now, prefix(), true).settled, settled, "{scouts:?}");
        }
    }

    #[test]
    fn at_the_same_level_the_nearer_cluster_goes_first_and_our_own_unless_it_is_clearly_farther() {
        let now = Instant::now();
        for (own, same, handed_over) in [(30, false, true), (4, false, false), (30, true, true), (14, true, false)] {
            let mut clients = clients();
            // The pointers below speak of cluster 0.
            clients.set_clusters(vec![Key::from_bytes([u8::from(!same); 20]); 3]);
            clients.measured(now, prefix(), Source::CnameGap, ms(own));
            clients.scouted(now, prefix(), Some((near(1), HOUR)), Scouts::Back);
            assert_eq!(clients.placement(now, prefix(), true).near.is_some(), handed_over, "{own} ms");
        }
    }

    #[test]
    fn a_cluster_nearer_than_ours_goes_first_until_its_pointer_lapses() {
        let now = Instant::now();
        let mut clients = clients();
        clients.asked(now, prefix(), Some((near(2), HOUR)));
        let hinted = clients.placement(now, prefix(), true);
        assert_eq!((hinted.level, hinted.settled, hinted.near.is_some()), (Level(2), true, true));
        assert_eq!(clients.placement(now + HOUR, prefix(), true).near, None);
        clients.measured(now, prefix(), Source::CnameGap, ms(3));
        assert_eq!(clients.placement(now, prefix(), true).near, None);
    }

    #[test]
    fn a_pointer_that_speaks_of_a_level_there_is_not_is_passed_over() {
        let now = Instant::now();
        let mut clients = clients();
        clients.asked(now, prefix(), Some((near(3), HOUR)));
        clients.scouted(now, prefix(), Some((near(7), HOUR)), Scouts::Back);
        assert_eq!(clients.placement(now, prefix(), true).near, None);
        clients.asked(now, prefix(), Some((near(2), HOUR)));
        assert_eq!(clients.placement(now, prefix(), true).level, Level(2));
    }

    #[test]
    fn the_index_is_told_once_and_again_when_something_changed() {
        let now = Instant::now();
        let mut clients = clients();
        assert!(clients.is_to_tell(now, prefix(), &near(2)));
        assert!(!clients.is_to_tell(now + ms(6_000), prefix(), &near(2)));
        assert!(clients.is_to_tell(now + ms(6_000), prefix(), &near(1)));
        assert!(!clients.is_to_tell(now + ms(7_000), prefix(), &Near { cluster: Key::from_bytes([1; 20]), ..near(1) }));
        assert!(clients.is_to_tell(now + ms(7_000), prefix(), &near(2)), "sooner, if it turns out to be nearer");
        assert!(clients.is_to_tell(now + ms(12_000), prefix(), &near(1)));
        assert!(clients.is_to_tell(now + ms(12_000) + TOLD_FOR / 2, prefix(), &near(1)));
    }

    #[test]
    fn prefixes_that_are_asked_for_outlive_any_number_of_others() {
        let now = Instant::now();
        let mut clients = clients();
        let other = |number: u32| Prefix::of(std::net::Ipv4Addr::from(number << 8).into());
        clients.measured(now, prefix(), Source::Icmp, ms(1));
        for number in 0..1_000 {
            clients.is_used(prefix());
            clients.measured(now, other(number), Source::Icmp, ms(2));
        }
        assert_eq!((clients.count(), clients.order.len()), (2, 2));
        assert!(clients.rtt(now, prefix()).is_some(), "the busy one stays");
        for number in 1_000..1_003 {
            clients.measured(now, other(number), Source::Icmp, ms(2));
        }
        assert_eq!(clients.rtt(now, prefix()), None, "once nobody asks for it, it goes");
    }

    #[test]
    fn past_the_limit_the_oldest_prefix_is_forgotten() {
        let now = Instant::now();
        let mut clients = clients();
        for last in 1..=3 {
            clients.measured(now, Prefix::of([192, 0, last, 1].into()), Source::Icmp, ms(1));
        }
        assert_eq!(clients.known.len(), 2);
        assert_eq!(clients.rtt(now, Prefix::of([192, 0, 1, 1].into())), None);
    }
}
