//! Peers that lied, and for how long nothing of theirs is asked for, nor believed second hand.
//!
//! Bytes that are not what was signed prove a lie to everybody. That the origin says otherwise than what was signed is the origin's word
//! alone: it may answer each asker differently, and so have honest fetchers accused. So its word counts for copies of its own host;
//! a peer that the origins of several sites contradict is the liar itself.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use atoll_overlay::NodeId;
use tokio::time::Instant;

use crate::{config::Peers, memory::Memory};

/// Who lied.
#[derive(Debug)]
pub(crate) struct Liars {
    everywhere: Memory<NodeId, ()>,
    /// By the host of the copies that its origin says are none.
    of_host: Memory<(NodeId, String), ()>,
    /// By whom they were contradicted, of origins that are likely somebody's together, and until when that counts.
    by_sites: Memory<NodeId, BTreeMap<String, Instant>>,
    span: Duration,
    sites: usize,
}

impl Liars {
    /// Of each kind so many are remembered.
    pub(crate) fn new(remembered: usize, config: &Peers) -> Self {
        let (span, sites) = (config.liar, config.contradicted);
        let (everywhere, of_host, by_sites) =
            (Memory::new(remembered), Memory::new(remembered), Memory::new(remembered));
        Self { everywhere, of_host, by_sites, span, sites }
    }

    /// It was seen to lie.
    pub(crate) fn lied(&self, peer: NodeId) {
        self.everywhere.put(peer, (), self.span);
    }

    /// This origin says otherwise than what the peer signed of the host. Clients choose the names of hosts that one site serves: so
    /// origins are counted. Whether there are enough of them now for nothing of the peer's to be believed.
    pub(crate) fn contradicted(&self, peer: NodeId, host: &str, origin: &str) -> bool {
        self.of_host.put((peer, host.to_owned()), (), self.span);
        let now = Instant::now();
        let mut sites = self.by_sites.get(&peer).unwrap_or_default();
        sites.retain(|_, until| *until > now);
        sites.insert(site(origin).to_owned(), now + self.span);
        let is_enough = sites.len() >= self.sites;
        if is_enough {
            self.by_sites.forget(&peer);
            self.lied(peer);
        } else {
            self.by_sites.put(peer, sites, self.span);
        }
        is_enough
    }

    /// Whether what a peer says or signed of a host's URLs counts.
    pub(crate) fn believes(&self, peer: NodeId, host: &str) -> bool {
        let doubted = || !self.of_host.is_unused() && self.of_host.get(&(peer, host.to_owned())).is_some();
        self.everywhere.get(&peer).is_none() && !doubted()
    }

    /// Those of whom nothing counts, in no order.
    pub(crate) fn all(&self) -> Vec<NodeId> {
        self.everywhere.keys()
    }

    /// Those who are not believed about a host, in no order.
    pub(crate) fn doubted(&self) -> Vec<(NodeId, String)> {
        self.of_host.keys()
    }
}

/// The hosts that are likely somebody's together: two labels in common, or one address.
fn site(host: &str) -> &str {
    let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    let last_two = host.rmatch_indices('.').nth(1).map(|(at, _)| at + 1);
    last_two.filter(|_| !is_address).and_then(|at| host.get(at..)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use atoll_overlay::Key;

    use super::*;

    #[test]
    fn one_origin_has_a_peer_disbelieved_for_its_own_host_and_several_everywhere() {
        let liars = Liars::new(100, &Peers { contradicted: 3, ..Peers::default() });
        let [peer, other] = [1, 2].map(|number: u8| NodeId::from(Key::of(&[number])));
        let believed = |peer| ["a.evil.test", "b.evil.test", "good.test"].map(|host| liars.believes(peer, host));
        assert!(!liars.contradicted(peer, "a.evil.test", "a.evil.test"));
        assert_eq!((believed(peer), believed(other)), ([false, true, true], [true; 3]));
        for host in ["b.evil.test", "c.d.evil.test", "evil.test", "192.0.2.1"] {
            assert!(!liars.contradicted(peer, host, host), "{host}");
        }
        for host in ["one.test", "two.test", "three.test"] {
            assert!(!liars.contradicted(peer, host, "192.0.2.1"), "{host} is a name for what another name was for");
        }
        assert_eq!((believed(peer), liars.all()), ([false, false, true], Vec::new()));
        assert_eq!(liars.doubted().len(), 8);
        assert!(liars.contradicted(peer, "192.0.2.2", "192.0.2.2"));
        assert_eq!((believed(peer), believed(other), liars.all()), ([false; 3], [true; 3], vec![peer]));
        liars.lied(other);
        assert_eq!(believed(other), [false; 3]);
    }

    #[test]
    fn names_of_two_labels_in_common_are_one_site_and_each_address_is_one() {
        let sites = ["a.b.test", "b.test", "test", "192.0.2.1", "[2001:db8::1]"].map(site);
        assert_eq!(sites, ["b.test", "b.test", "test", "192.0.2.1", "[2001:db8::1]"]);
    }
}
