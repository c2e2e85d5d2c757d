//! Where proxies are asked whether they are there, and what they answered: k of n with hysteresis, so that one lost answer kills
//! nobody, and jittered, so that all are not asked at once. Time is told; the asking is `live.rs`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use rand::RngExt as _;

use crate::{config::Health, near::TOLD_FOR};

/// All that are asked.
#[derive(Default)]
pub(crate) struct Targets(BTreeMap<SocketAddr, Target>);

/// One address of a proxy.
struct Target {
    /// The last answers, the latest in bit 0; how many there were.
    answers: u32,
    count: u32,
    live: Option<bool>,
    due: Instant,
    asking: bool,
    /// Of a node that the index knows or knew, which says itself where it is. Of others a pointer says so: what becomes of
    /// them counts for pointers alone.
    own: bool,
    /// When the index or a pointer last named it.
    known: Instant,
}

impl Targets {
    /// Those of these nodes' addresses and those that pointers name are asked from now on. Others, which the
    /// index forgot most often because they died, are asked on while pointers may still speak of them: `most` of them at most.
    pub(crate) fn set(&mut self, now: Instant, own: &BTreeSet<SocketAddr>, foreign: &[SocketAddr], most: usize) {
        for address in own.iter().chain(foreign) {
            let new = || Target { answers: 0, count: 0, live: None, due: now, asking: false, own: false, known: now };
            let target = self.0.entry(*address).or_insert_with(new);
            target.own |= own.contains(address);
            target.known = now;
        }
        let mut gone: Vec<(Instant, SocketAddr)> =
            self.0.iter().filter(|(_, t)| t.known < now && !t.asking).map(|(at, t)| (t.known, *at)).collect();
        gone.sort();
        let too_many = gone.len().saturating_sub(most);
        for (at, (known, address)) in gone.into_iter().enumerate() {
            if at < too_many || now.saturating_duration_since(known) >= TOLD_FOR {
                self.0.remove(&address);
            }
        }
    }

    /// A target was asked. Says whether it counts otherwise than before.
    pub(crate) fn checked(&mut self, health: &Health, now: Instant, target: SocketAddr, good: bool) -> bool {
        let Some(target) = self.0.get_mut(&target) else { return false };
        let before = target.live;
        target.asking = false;
        target.answers = target.answers << 1 | u32::from(good);
        target.count = (target.count + 1).min(health.of);
        let of = u32::MAX >> (32 - target.count.clamp(1, 32));
        let good_ones = (target.answers & of).count_ones();
        target.live = Some(match target.live {
            None => good,
            Some(false) => good_ones >= health.up,
            Some(true) => target.count - good_ones < health.down,
        });
        let pause = if good && target.live == Some(true) { health.interval } else { health.interval / 4 };
        target.due = now + pause.mul_f64(rand::rng().random_range(0.8..1.2));
        target.live != before
    }

    /// A target that is to be asked now; it counts as being asked.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<SocketAddr> {
        let (address, target) =
            self.0.iter_mut().filter(|(_, t)| !t.asking && t.due <= now).min_by_key(|(_, t)| t.due)?;
        target.asking = true;
        Some(*address)
    }

    /// Whether one counts as alive; none before its first answer.
    pub(crate) fn is_live(&self, address: SocketAddr) -> Option<bool> {
        self.0.get(&address).and_then(|target| target.live)
    }

    /// The addresses that answer.
    pub(crate) fn answering(&self) -> BTreeSet<IpAddr> {
        let answering = self.0.iter().filter(|(_, target)| target.live == Some(true));
        answering.map(|(address, _)| address.ip()).collect()
    }

    /// The addresses of nodes at which nobody answers, at no port.
    pub(crate) fn dead(&self) -> Vec<IpAddr> {
        let own = || self.0.iter().filter(|(_, target)| target.own);
        let is_there = |ip: IpAddr| own().any(|(address, target)| address.ip() == ip && target.live != Some(false));
        let dead = own().filter(|(_, target)| target.live == Some(false)).map(|(address, _)| address.ip());
        dead.filter(|ip| !is_there(*ip)).collect()
    }

    /// Those known from pointers that do not answer. Where nearly none does, this server's own sight is the likelier fault.
    pub(crate) fn absent(&self, health: &Health) -> Vec<SocketAddr> {
        let of = |is_v4: bool| {
            let asked = self
                .0
                .iter()
                .filter(move |(address, target)| !target.own && target.live.is_some() && address.is_ipv4() == is_v4);
            let gone: Vec<SocketAddr> =
                asked.clone().filter(|(_, target)| target.live == Some(false)).map(|(address, _)| *address).collect();
            let asked = asked.count();
            if is_blind(health, asked - gone.len(), asked) { Vec::new() } else { gone }
        };
        [of(true), of(false)].concat()
    }

    /// How many are asked.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Whether fewer of those asked are live than can be believed.
pub(crate) fn is_blind(health: &Health, live: usize, asked: usize) -> bool {
    asked >= FEW && live * 100 < asked * usize::try_from(health.panic).unwrap_or(0)
}

/// Proxies from which on a share of them means anything. \[guess\]
const FEW: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 8080))
    }

    /// Two of nodes.
    fn targets() -> Targets {
        let mut targets = Targets::default();
        targets.set(Instant::now(), &[1, 2].map(address).into(), &[], 2);
        targets
    }

    /// Feeds answers ("+" good, "-" bad) of the first node and writes down its state after each.
    fn check(answers: &str, states: &str) {
        let (mut targets, target) = (targets(), address(1));
        let mut seen = String::new();
        for answer in answers.chars() {
            targets.checked(&Health::default(), Instant::now(), target, answer == '+');
            seen.push(if targets.0[&target].live == Some(true) { '+' } else { '-' });
        }
        assert_eq!(seen, states, "after {answers}");
    }

    #[test]
    fn the_first_answer_decides_alone() {
        check("+", "+");
        check("-", "-");
    }

    #[test]
    fn one_bad_answer_kills_nobody_and_one_good_one_raises_nobody() {
        check("++-++-+", "+++++++");
        check("-+-", "---");
    }

    #[test]
    fn two_bad_of_three_kill_and_two_good_of_three_raise() {
        check("+--", "++-");
        check("+-+-", "+++-");
        check("+--++", "++--+");
    }

    #[test]
    fn a_dead_proxy_that_answers_again_is_asked_once_more_soon() {
        let (mut targets, now, soon) = (targets(), Instant::now(), Health::default().interval / 2);
        let target = address(1);
        let mut due = |good| {
            targets.checked(&Health::default(), now, target, good);
            (targets.0[&target].live, targets.0[&target].due < now + soon)
        };
        assert_eq!([due(false), due(true), due(true)], [(Some(false), true), (Some(false), true), (Some(true), false)]);
    }

    #[test]
    fn each_target_is_asked_once_at_a_time_the_longest_due_first() {
        let mut targets = targets();
        let now = Instant::now();
        let first = targets.next_due(now).unwrap();
        let second = targets.next_due(now).unwrap();
        assert_ne!(first, second);
        assert_eq!(targets.next_due(now), None);
        targets.checked(&Health::default(), now, first, true);
        assert_eq!(targets.next_due(now), None, "not before its pause is over");
        assert_eq!(targets.next_due(now + Health::default().interval * 2), Some(first));
    }
}
