//! How far the network's nodes are from one prefix, each as it measured it itself, and which proxies are near enough for clients
//! there. A cluster's threshold bounds the distance between its nodes; from outside it, one may be near some of them only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use atoll_overlay::Level;

use crate::{
    near::AS_NEAR,
    roster::{Proxy, Server},
};

/// RTTs between nodes, by any of their addresses, and one prefix. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Distances {
    known: Arc<BTreeMap<IpAddr, Duration>>,
    /// Whether neighbours were asked and have not answered yet: until then nobody unmeasured stands beside one who is near.
    awaited: bool,
}

impl Distances {
    /// A node measured the prefix.
    pub(crate) fn insert(&mut self, node: IpAddr, rtt: Duration) {
        let known = Arc::make_mut(&mut self.known);
        known.insert(node, rtt);
        if known.len() > MOST
            && let Some(farthest) = known.iter().max_by_key(|(_, rtt)| **rtt).map(|(node, _)| *node)
        {
            known.remove(&farthest);
        }
    }

    /// The same, with answers of neighbours still to come or not.
    pub(crate) fn awaiting(&self, awaited: bool) -> Self {
        Self { known: Arc::clone(&self.known), awaited }
    }

    /// The proxies of a cluster of a level that clients of the prefix are best sent to: all that are under the innermost threshold,
    /// if some are; else, farther out, those nearly as near as the nearest. Too few of them are filled up with those nobody measured:
    /// not with `asked` ones, who are still to say, and in a wide cluster, where one is nearer than it is wide, only with `mute` ones,
    /// whom nobody asks. All of them if nothing was measured; never none.
    pub(crate) fn nearest(
        &self,
        level: Level,
        thresholds: &[Duration],
        proxies: &[Proxy],
        asked: &[Server],
        mute: &BTreeSet<IpAddr>,
    ) -> Vec<Proxy> {
        let rtt = |proxy: &Proxy| {
            let addresses = [proxy.v4.map(IpAddr::V4), proxy.v6.map(IpAddr::V6)];
            addresses.iter().flatten().filter_map(|address| self.known.get(address)).min().copied()
        };
        let Some(best) = proxies.iter().filter_map(rtt).min() else { return proxies.to_vec() };
        let nearly = best.mul_f64(NEARLY).max(best + AS_NEAR);
        let threshold = usize::from(level.0).checked_sub(1).and_then(|at| thresholds.get(at));
        let (is_innermost, innermost) = (usize::from(level.0) == thresholds.len(), thresholds.last());
        // Whatever cluster they are of: some are as near as can be wanted.
        let innermost = innermost.copied().filter(|innermost| best < *innermost);
        let limit = match (innermost, threshold) {
            (Some(innermost), _) => innermost,
            (None, Some(_)) if is_innermost => best,
            (None, Some(threshold)) => nearly.min((*threshold).max(best)),
            (None, None) => nearly,
        };
        let (measured, unknown): (Vec<&Proxy>, Vec<&Proxy>) = proxies.iter().partition(|proxy| rtt(proxy).is_some());
        let near: Vec<&Proxy> =
            measured.into_iter().filter(|proxy| rtt(proxy).is_some_and(|rtt| rtt <= limit)).collect();
        // Of a wider cluster those are most likely farther than one that is known to be nearer than it is wide.
        let is_near = thresholds.first().is_some_and(|outermost| best < *outermost);
        let is_sure = !near.is_empty() && (self.awaited || (is_near && !is_innermost));
        let is_asked = |proxy: &&Proxy| {
            let is = |server: &Server| server.addresses().any(|address| proxy.has(address));
            !near.is_empty() && asked.iter().any(is)
        };
        // They share a cluster with this server; at level 0 nothing says that they are any nearer than the rest of the world.
        let is_mute =
            |proxy: &Proxy| level > Level::GLOBAL && !self.awaited && mute.iter().any(|address| proxy.has(*address));
        let fills = |proxy: &&Proxy| near.len() < ENOUGH && !is_asked(proxy) && (!is_sure || is_mute(proxy));
        let fill: Vec<&Proxy> = unknown.into_iter().filter(fills).collect();
        near.into_iter().chain(fill).cloned().collect()
    }

    /// Whether some of these servers have not said yet how far they are.
    pub(crate) fn lack(&self, asked: &[Server]) -> bool {
        asked.iter().any(|server| !server.addresses().any(|address| self.known.contains_key(&address)))
    }

    /// How far a node is, if it is known.
    pub(crate) fn get(&self, node: IpAddr) -> Option<Duration> {
        self.known.get(&node).copied()
    }

    /// Every node's, for people.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, Duration)> + '_ {
        self.known.iter().map(|(node, rtt)| (*node, *rtt))
    }
}

/// Nodes per prefix whose distance is kept; past it the farthest goes. \[guess\]
const MOST: usize = 64;
/// Proxies known to be near that make those of unknown distance superfluous: as many as an answer names. \[design: 2 to 4\]
const ENOUGH: usize = 2;
/// Within this factor of the nearest, or within `AS_NEAR` of it, is as good: a user sees no difference, and a site's requests
/// should not all meet in one proxy. \[guess\]
const NEARLY: f64 = 1.3;

#[cfg(test)]
mod tests {
    use super::*;

    /// The last octets of proxies 1 to 4 that are near enough, by the RTTs of some in milliseconds.
    fn check(level: u8, measured: &[(u8, u64)], expected: &[u8]) {
        let address = |last: u8| [192, 0, 2, last];
        let proxies: Vec<Proxy> = (1..=4)
            .map(|last| Proxy { v4: Some(address(last).into()), v6: None, load: 0, weight: 100, port: 0 })
            .collect();
        let mut distances = Distances::default();
        for (last, millis) in measured {
            distances.insert(address(*last).into(), Duration::from_millis(*millis));
        }
        let thresholds = [60, 20].map(Duration::from_millis);
        let near = distances.nearest(Level(level), &thresholds, &proxies, &[], &BTreeSet::new());
        let lasts: Vec<u8> = near.iter().map(|proxy| proxy.v4.unwrap().octets()[3]).collect();
        assert_eq!(lasts, expected, "{measured:?} at level {level}");
    }

    #[test]
    fn without_a_measurement_every_proxy_of_the_cluster_is_near() {
        check(2, &[], &[1, 2, 3, 4]);
    }

    #[test]
    fn at_the_innermost_level_the_threshold_decides() {
        check(2, &[(1, 3), (2, 19), (3, 21), (4, 30)], &[1, 2]);
        check(2, &[(1, 25), (2, 40), (3, 21), (4, 30)], &[3]);
    }

    #[test]
    fn a_proxy_of_a_wider_cluster_under_the_innermost_threshold_goes_before_those_nearly_as_near() {
        check(1, &[(1, 17), (2, 24), (3, 27), (4, 46)], &[1]);
        check(0, &[(1, 17), (2, 19), (3, 24), (4, 130)], &[1, 2]);
        check(1, &[(1, 17), (2, 24)], &[1]);
    }

    #[test]
    fn nobody_stands_in_while_neighbours_are_still_to_say_how_near_they_are() {
        let proxies: Vec<Proxy> = (1..=2)
            .map(|last| Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 0 })
            .collect();
        let thresholds = [60, 20].map(Duration::from_millis);
        let mut distances = Distances::default();
        let named =
            |distances: &Distances| distances.nearest(Level(2), &thresholds, &proxies, &[], &BTreeSet::new()).len();
        assert_eq!(named(&distances.awaiting(true)), 2, "never none");
        distances.insert([192, 0, 2, 1].into(), Duration::from_millis(17));
        assert_eq!([true, false].map(|awaited| named(&distances.awaiting(awaited))), [1, 2]);
    }

    #[test]
    fn farther_out_those_nearly_as_near_as_the_nearest_are_named() {
        check(1, &[(1, 25), (2, 35), (3, 36), (4, 58)], &[1, 2]);
        check(0, &[(1, 100), (2, 130), (3, 131), (4, 300)], &[1, 2]);
        check(1, &[(1, 55), (2, 59), (3, 62), (4, 64)], &[1, 2]);
    }

    #[test]
    fn those_of_unknown_distance_stand_in_for_near_ones_only() {
        check(2, &[(1, 3), (3, 30)], &[1, 2, 4]);
        check(2, &[(1, 3), (2, 4)], &[1, 2]);
        check(1, &[(1, 24), (3, 64)], &[1]);
        check(0, &[(1, 24), (3, 64)], &[1]);
        check(0, &[(1, 90), (3, 200)], &[1, 2, 4]);
    }

    #[test]
    fn a_neighbour_that_joined_since_is_named_once_it_has_said_how_near_it_is() {
        let proxies: Vec<Proxy> = (1..=3)
            .map(|last| Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 0 })
            .collect();
        let server = |last: u8| Server {
            id: atoll_overlay::Key::from_bytes([last; 20]).into(),
            v4: Some([192, 0, 2, last].into()),
            v6: None,
            cluster: None,
        };
        let thresholds = [60, 20].map(Duration::from_millis);
        let mut distances = Distances::default();
        // The third serves no DNS: nobody can ask it.
        let named = |distances: &Distances| {
            let near = distances.nearest(Level(2), &thresholds, &proxies, &[server(2)], &BTreeSet::new());
            near.iter().map(|proxy| proxy.v4.unwrap().octets()[3]).collect::<Vec<_>>()
        };
        assert_eq!(named(&distances), [1, 2, 3]);
        distances.insert([192, 0, 2, 1].into(), Duration::from_millis(17));
        assert_eq!((named(&distances), distances.lack(&[server(2)])), (vec![1, 3], true));
        distances.insert([192, 0, 2, 2].into(), Duration::from_millis(12));
        assert_eq!((named(&distances), distances.lack(&[server(2)])), (vec![1, 2], false));
    }

    #[test]
    fn a_wide_clusters_few_near_ones_are_filled_up_with_those_nobody_asks_and_no_others() {
        let proxies: Vec<Proxy> = (1..=6)
            .map(|last| Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 0 })
            .collect();
        // The second is a server of DNS that was not asked, or did not say.
        let mute: BTreeSet<IpAddr> = (3..=6).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let thresholds = [60, 20].map(Duration::from_millis);
        let mut distances = Distances::default();
        let named = |distances: &Distances, level| {
            let near = distances.nearest(Level(level), &thresholds, &proxies, &[], &mute);
            near.iter().map(|proxy| proxy.v4.unwrap().octets()[3]).collect::<Vec<_>>()
        };
        distances.insert([192, 0, 2, 1].into(), Duration::from_millis(30));
        assert_eq!(named(&distances, 1), [1, 3, 4, 5, 6]);
        assert_eq!(named(&distances, 0), [1], "they may be anywhere");
        assert_eq!(named(&distances.awaiting(true), 1), [1], "others may turn out to be near in a moment");
        distances.insert([192, 0, 2, 4].into(), Duration::from_millis(90));
        assert_eq!(named(&distances, 1), [1, 3, 5, 6], "its clients' connections told");
        distances.insert([192, 0, 2, 2].into(), Duration::from_millis(33));
        assert_eq!(named(&distances, 1), [1, 2], "enough are known");
    }

    #[test]
    fn what_is_kept_of_a_prefix_is_bounded_and_the_nearest_stay() {
        let mut distances = Distances::default();
        for last in 0..100_u8 {
            distances.insert([192, 0, 2, last].into(), Duration::from_millis(last.into()));
        }
        assert_eq!(distances.iter().count(), MOST);
        assert!(distances.iter().any(|(_, rtt)| rtt.is_zero()));
    }
}
