//! What the wide area does to packets: distance, jitter, loss, reordering, narrow links, cuts. No device and no clock:
//! the caller hands in packets with the time, and asks what is due, so that every rule is tested in virtual time.
//!
//! A packet passes three stages: it waits for and crosses its sender's uplink, travels for the pair's one-way delay,
//! then waits for and crosses the receiver's downlink. Packets of one pair never overtake each other unless the
//! scenario asks for reordering: a due time is never earlier than the pair's previous one.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{Link, Watch};
use crate::address::{HostId, ends_of};

/// The whole wide area as a machine: after each [`Wan::handle_packet`], drain [`Wan::poll_delivery`] and arm one timer
/// from [`Wan::poll_timeout`]. Time is a `Duration` since start.
pub(crate) struct Wan {
    hosts: Vec<Host>,
    pairs: Vec<Pair>,
    weather: Weather,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
    random: StdRng,
    watch: Watch,
}

/// What may happen to any packet, whatever its ends.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Mean of the exponential extra delay of each packet, cut at ten times the mean; 0 = none.
    pub jitter: Duration,
    /// Share of packets lost, 0.0 to 1.0.
    pub loss: f64,
    /// Share of packets held back so that later ones overtake them, 0.0 to 1.0.
    pub reorder: f64,
    /// How long such a packet is held back.
    pub reorder_by: Duration,
    /// Most packets under way at once in the whole lab; beyond it new ones are dropped and counted as `no_room`.
    pub most_under_way: usize,
}

/// One host's connection to the wide area.
pub(crate) struct Access {
    pub(crate) up: Link,
    pub(crate) down: Link,
}

/// What became of the packets a host sent (`no_*`, `lost` and so on) and was sent (`received`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets read from the host's device.
    pub sent: u64,
    /// Packets written to the host's device.
    pub received: u64,
    /// Bytes written to the host's device.
    pub received_bytes: u64,
    /// Lost by chance, as the scenario asks.
    pub lost: u64,
    /// Dropped because the pair is cut.
    pub cut: u64,
    /// Dropped at a full uplink or downlink queue.
    pub queue_full: u64,
    /// Dropped because the whole lab has too much under way.
    pub no_room: u64,
    /// For an address no host of the lab has (multicast included), or no IP packet.
    pub no_route: u64,
    /// From an address that is not the sender's.
    pub spoofed: u64,
    /// The host's device did not take it.
    pub refused: u64,
}

/// A packet that has reached its receiver.
pub(crate) struct Delivery {
    pub(crate) to: HostId,
    pub(crate) due: Duration,
    pub(crate) packet: Vec<u8>,
}

struct Host {
    access: Access,
    slow: Duration,
    counters: Counters,
}

#[derive(Clone, Copy)]
struct Pair {
    one_way: Duration,
    cut: bool,
    last_due: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Travelling,
    Delivering,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Duration,
    sequence: u64,
    stage: Stage,
    from: HostId,
    to: HostId,
    packet: Vec<u8>,
}

impl Wan {
    /// A wide area of `accesses.len()` hosts; `one_way(from, to)` is asked once per ordered pair.
    pub(crate) fn new(
        accesses: Vec<Access>,
        one_way: impl Fn(usize, usize) -> Duration,
        weather: Weather,
        seed: u64,
    ) -> Self {
        let count = accesses.len();
        let pairs = (0..count * count).map(|at| Pair {
            one_way: one_way(at / count, at % count),
            cut: false,
            last_due: Duration::ZERO,
        });
        let pairs = pairs.collect();
        let host = |access| Host { access, slow: Duration::ZERO, counters: Counters::default() };
        Self {
            hosts: accesses.into_iter().map(host).collect(),
            pairs,
            weather,
            under_way: BinaryHeap::new(),
            sequence: 0,
            random: StdRng::seed_from_u64(seed),
            watch: Watch::default(),
        }
    }

    /// Takes a packet that `from` has just sent.
    pub(crate) fn handle_packet(&mut self, now: Duration, from: HostId, packet: Vec<u8>) {
        let Some(to) = self.admit(from, &packet) else { return };
        self.watch.note(now, from, to, &packet);
        let (loss, reorder) = (self.weather.loss, self.weather.reorder);
        if loss > 0.0 && self.random.random::<f64>() < loss {
            self.hosts[from.index()].counters.lost += 1;
            return;
        }
        let Some(departure) = self.hosts[from.index()].access.up.cross(now, packet.len()) else {
            self.hosts[from.index()].counters.queue_full += 1;
            return;
        };
        let slow = self.hosts[from.index()].slow + self.hosts[to.index()].slow;
        let jitter = self.jitter();
        let held_back = reorder > 0.0 && self.random.random::<f64>() < reorder;
        let pair = &mut self.pairs[from.index() * self.hosts.len() + to.index()];
        let mut due = departure + pair.one_way + slow + jitter;
        if held_back {
            due += self.weather.reorder_by;
        } else {
            due = due.max(pair.last_due);
            pair.last_due = due;
        }
        self.push(UnderWay { due, sequence: 0, stage: Stage::Travelling, from, to, packet });
    }

    /// The next packet whose time has come; drain to `None`.
    pub(crate) fn poll_delivery(&mut self, now: Duration) -> Option<Delivery> {
        while self.under_way.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Reverse(first) = self.under_way.pop()?;
            if self.pairs[first.from.index() * self.hosts.len() + first.to.index()].cut {
                self.hosts[first.from.index()].counters.cut += 1;
                continue;
            }
            match first.stage {
                Stage::Delivering => return Some(self.deliver(first)),
                Stage::Travelling => {
                    let down = &mut self.hosts[first.to.index()].access.down;
                    match down.cross(first.due, first.packet.len()) {
                        None => self.hosts[first.from.index()].counters.queue_full += 1,
                        // Also one that is due by now: others may wait here to be delivered before it.
                        Some(due) => self.push(UnderWay { due, stage: Stage::Delivering, ..first }),
                    }
                }
            }
        }
        None
    }

    /// When [`Wan::poll_delivery`] has something next.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(first)| first.due)
    }

    /// Cuts or heals the way `from` -> `to`; packets already under way are lost too.
    pub(crate) fn set_cut(&mut self, from: HostId, to: HostId, cut: bool) {
        let count = self.hosts.len();
        self.pairs[from.index() * count + to.index()].cut = cut;
    }

    /// Heals every pair and takes back every slowness.
    pub(crate) fn heal(&mut self) {
        self.pairs.iter_mut().for_each(|pair| pair.cut = false);
        self.hosts.iter_mut().for_each(|host| host.slow = Duration::ZERO);
    }

    /// Adds `extra` to every packet from and to `host`, each way; zero takes it back.
    pub(crate) fn set_slow(&mut self, host: HostId, extra: Duration) {
        self.hosts[host.index()].slow = extra;
    }

    /// How many ordered pairs are cut.
    pub(crate) fn cuts(&self) -> usize {
        self.pairs.iter().filter(|pair| pair.cut).count()
    }

    /// How many packets are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// What became of the packets of each host.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.hosts.iter().map(|host| &host.counters)
    }

    /// What was noted of DNS until now.
    pub(crate) fn watch(&self, now: Duration) -> Watch {
        let mut watch = self.watch.clone();
        watch.at = now;
        watch
    }

    /// The device of `host` did not take a delivery.
    pub(crate) fn handle_refusal(&mut self, host: HostId) {
        self.hosts[host.index()].counters.refused += 1;
    }

    fn admit(&mut self, from: HostId, packet: &[u8]) -> Option<HostId> {
        let count = self.hosts.len();
        let full = self.under_way.len() >= self.weather.most_under_way;
        let counters = &mut self.hosts[from.index()].counters;
        counters.sent += 1;
        let ends = ends_of(packet).map(|(source, destination)| (HostId::owner(source), HostId::owner(destination)));
        match ends {
            Some((Some(source), _)) if source != from => counters.spoofed += 1,
            Some((Some(_), Some(to))) if to.index() < count && to != from => {
                if self.pairs[from.index() * count + to.index()].cut {
                    counters.cut += 1;
                } else if full {
                    counters.no_room += 1;
                } else {
                    return Some(to);
                }
            }
            _ => counters.no_route += 1,
        }
        None
    }

    fn deliver(&mut self, arrived: UnderWay) -> Delivery {
        let counters = &mut self.hosts[arrived.to.index()].counters;
        counters.received += 1;
        counters.received_bytes += arrived.packet.len() as u64;
        Delivery { to: arrived.to, due: arrived.due, packet: arrived.packet }
    }

    fn push(&mut self, packet: UnderWay) {
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay { sequence: self.sequence, ..packet }));
    }

    fn jitter(&mut self) -> Duration {
        if self.weather.jitter.is_zero() {
            return Duration::ZERO;
        }
        let uniform: f64 = self.random.random();
        self.weather.jitter.mul_f64((-(1.0 - uniform).ln()).min(10.0))
    }
}

#[cfg(test)]
mod tests;
