//! Upkeep: join through seeds, reach newcomers, measure neighbours, refresh tables, drop what has expired. Fast while
//! things change, about a message a second when all is quiet.

use std::time::Duration;

use super::{
    Contact, Node,
    message::{Reply, Request},
    node::Timer,
    peers::Known,
    search::{Purpose, Search, Task, Way},
    time::Instant,
};
use crate::{Config, Level};

impl Node {
    pub(super) fn on_seeds(&mut self, now: Instant, contacts: Vec<Contact>) {
        for contact in contacts {
            if contact != self.contact && !self.seeds.contains(&contact) && self.seeds.len() < SEEDS {
                self.seeds.push(contact);
                self.ask(now, contact, Request::Ping, Purpose::Probe);
            }
        }
        self.unrest(now);
    }

    /// A node was heard from that has not answered us yet: it is asked, soon.
    pub(super) fn welcome(&mut self, now: Instant, contact: Contact) {
        let reached = self.peers.get(contact).is_some_and(Known::live);
        if contact == self.contact || reached || self.newcomers.contains(&contact) {
            return;
        }
        if self.newcomers.len() < NEWCOMERS {
            self.newcomers.push_front(contact);
            self.arm_sooner(now, Timer::Probe);
        }
    }

    /// A node was named by another: it is asked when there is room for it in a table.
    pub(super) fn meet(&mut self, now: Instant, contact: Contact) {
        if contact == self.contact || self.newcomers.len() >= NEWCOMERS || self.newcomers.contains(&contact) {
            return;
        }
        let room = now < self.unrest_until || self.peers.has_room(Level::GLOBAL, contact);
        // Most that are named are of no use, known or not: they need not be looked for.
        let wanted = (room || self.peers.may_have_dead())
            && match self.peers.get(contact) {
                // Others have heard of a node that was lost here: it may be back.
                Some(known) => known.is_lost() && now.since(known.asked.moment(now)) >= LOST_PAUSE,
                None => room,
            };
        if wanted {
            self.newcomers.push_back(contact);
            self.arm_sooner(now + MEET_PAUSE, Timer::Probe);
        }
    }

    /// A neighbour was found dead: others may have died with it, so a few are looked at at once. If these are dead too, it goes on.
    pub(super) fn alarm(&mut self, now: Instant) {
        self.alarmed = (self.alarmed + ALARM).min(ALARM_MOST);
        self.arm_sooner(now + MEET_PAUSE, Timer::Probe);
    }

    /// A lost node is back: a partition may have healed, so the others that were lost are asked as well.
    pub(super) fn reunite(&mut self, now: Instant) {
        let lost: Vec<(Contact, Instant)> =
            self.peers.lost().map(|known| (known.contact(), known.asked.moment(now))).collect();
        if lost.len() > self.peers.count(Level::GLOBAL) / 4 {
            self.forget_departures();
            // Of those asked now some may not answer yet: they are tried again at the pace of a network that forms.
            self.unrest(now);
        }
        let lost = lost.into_iter().filter(|(_, asked)| now.since(*asked) >= LOST_AGAIN).map(|(contact, _)| contact);
        for contact in lost {
            if self.newcomers.len() < NEWCOMERS && !self.newcomers.contains(&contact) {
                self.newcomers.push_back(contact);
            }
        }
        self.arm_sooner(now + MEET_PAUSE, Timer::Probe);
    }

    /// Things change: probe fast for a while.
    pub(super) fn unrest(&mut self, now: Instant) {
        if now >= self.unrest_until {
            self.refreshed = 0;
        }
        self.unrest_until = self.unrest_until.max(now + self.config.unrest);
        self.arm_sooner(now + self.config.probe_fast, Timer::Probe);
        self.arm_sooner(now + self.config.probe_fast, Timer::Check);
    }

    /// A new node, or one that moved, is a reason to look around only if it bears on a cluster.
    pub(super) fn unrest_if_near(&mut self, now: Instant, rtt: Duration, first: bool) {
        let widest = self.config.thresholds.first().copied().unwrap_or(Duration::ZERO);
        if !first || rtt < widest {
            self.arm_sooner(now + self.config.probe_fast, Timer::Check);
        }
        if !first {
            self.forget_rejections();
            self.unrest(now);
        }
    }

    /// Measures one node: a newcomer, a seed while alone, or the neighbour measured longest ago.
    pub(super) fn probe(&mut self, now: Instant) {
        let restless = now < self.unrest_until;
        self.probes = self.probes.wrapping_add(1);
        let mut target = self.next_newcomer();
        if target.is_none() && self.peers.count(Level::GLOBAL) == 0 {
            target = self.seeds.get(self.rng.below(self.seeds.len())).copied();
        }
        if target.is_none() && self.probes.is_multiple_of(LOST_TURN) {
            target = self.longest_lost(now);
        }
        if target.is_none() && restless && self.probes.is_multiple_of(EXPLORE_TURN) {
            self.explore(now);
        }
        if let Some(target) = target.or_else(|| self.stalest(now)) {
            self.ask(now, target, Request::Ping, Purpose::Probe);
        }
        let alarmed = self.alarmed > 0;
        self.alarmed = self.alarmed.saturating_sub(1);
        let pause = if alarmed || !self.newcomers.is_empty() {
            MEET_PAUSE
        } else if restless {
            self.config.probe_fast
        } else {
            self.config.probe_idle
        };
        // A little early or late, so that nodes started together do not beat in time.
        let jitter = pause / 8 * u32::try_from(self.rng.below(16)).unwrap_or(0) / 8;
        self.arm(now + pause * 7 / 8 + jitter, Timer::Probe);
    }

    fn next_newcomer(&mut self) -> Option<Contact> {
        while let Some(contact) = self.newcomers.pop_front() {
            let fresh = self.peers.get(contact).is_none_or(|known| !known.live());
            if fresh && !self.exchanges.is_asked(contact.peer, Purpose::Probe) {
                return Some(contact);
            }
        }
        None
    }

    /// The neighbour measured longest ago among the next few in turn; cluster mates count double, since clusters stand and fall
    /// with them. Every so often the turn is that of the nearest in the id space, who keep the same keys.
    fn stalest(&mut self, now: Instant) -> Option<Contact> {
        let (from, count) = self.looked_at(self.probes);
        if count == LOOKED_AT {
            self.probed_to = from;
        }
        // What was heard of it lately counts half: it says that the node lives, not how far it is.
        let age = |known: &Known| {
            let measured = known.rtt.age(now).min(known.asked.age(now));
            (measured + known.heard.age(now)) * u64::from(1 + (known.tables >> 1).count_ones())
        };
        let mut stalest: Option<(u64, &Known)> = None;
        for known in self.peers.turn(from, count).filter(|known| known.live() && known.tables != 0) {
            let age = age(known);
            if stalest.is_none_or(|(most, one)| age > most || age == most && known.contact() > one.contact()) {
                stalest = Some((age, known));
            }
        }
        let (_, stalest) = stalest?;
        (now.since(stalest.asked.moment(now)) >= self.config.probe_fast).then_some(stalest.contact())
    }

    /// From where on the probe of this number looks for a neighbour to measure, and at how many.
    pub(super) fn looked_at(&self, probe: u32) -> (usize, usize) {
        let all = self.peers.len();
        if probe.is_multiple_of(LEAF_TURN) {
            let me = self.peers.place(self.contact.id).unwrap_or_else(|at| at);
            (me + all - (LEAVES / 2).min(all), LEAVES)
        } else {
            ((self.probed_to + LOOK_STEP) % all.max(1), LOOKED_AT)
        }
    }

    /// A dead node is asked now and then: partitions heal.
    fn longest_lost(&self, now: Instant) -> Option<Contact> {
        let lost = self.peers.lost().min_by_key(|known| (known.asked, known.contact()))?;
        (now.since(lost.asked.moment(now)) >= LOST_PAUSE).then_some(lost.contact())
    }

    /// Asks one of the nearest nodes for its nearest: whoever is near me is near it.
    fn explore(&mut self, now: Instant) {
        let mut near: Vec<(Duration, Contact)> = self
            .peers
            .iter()
            .filter(|known| known.live())
            .filter_map(|known| Some((known.distance()?, known.contact())))
            .collect();
        if near.len() > EXPLORED {
            near.select_nth_unstable(EXPLORED);
            near.truncate(EXPLORED);
        }
        near.sort_unstable();
        if let Some((_, to)) = near.get(self.rng.below(near.len())) {
            self.ask(now, *to, Request::Neighbours { level: Level::GLOBAL, nearest: true }, Purpose::Explore);
        }
    }

    /// Looks up its own place, then random ones: first often, then rarely.
    pub(super) fn refresh(&mut self, now: Instant) {
        let alone = self.peers.count(Level::GLOBAL) == 0;
        if !alone {
            let own = self.refreshed.is_multiple_of(2);
            let key = if own { self.contact.id.key() } else { self.rng.key() };
            let closest = if own || now < self.unrest_until { Reply::NODES } else { QUIET_CLOSEST };
            let way = Way { bits: None, closest, window: self.config.window };
            let level = self.level_to_refresh();
            let search = Task::Search(Search::new(self.contact, level, key, way));
            self.begin(now, None, search, self.config.put_deadline);
            self.refreshed = self.refreshed.saturating_add(1);
            self.seek_site(now);
        }
        let pause = if alone {
            REFRESH_FIRST
        } else {
            REFRESH_FIRST.saturating_mul(1 << self.refreshed.min(20)).min(self.config.refresh_every)
        };
        let jitter = pause / 8 * u32::try_from(self.rng.below(8)).unwrap_or(0) / 8;
        self.arm(now + pause + jitter, Timer::Refresh);
    }

    fn level_to_refresh(&mut self) -> Level {
        // Two of three go to the global table: it is the largest, and every newcomer enters through it.
        let levels: Vec<Level> = self.config.levels().filter(|level| self.seen(*level) > 1).collect();
        let turn = usize::try_from(self.refreshed / 2).unwrap_or(0);
        if turn % 3 < 2 {
            Level::GLOBAL
        } else {
            levels.get(turn / 3 % levels.len().max(1)).copied().unwrap_or(Level::GLOBAL)
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.values.sweep(now);
        self.leases.sweep(now);
        self.timers.shrink_to(TIMERS_KEPT);
        // Passers-by are forgotten; those that were lost are not, or a partition would never heal.
        self.peers.prune(now, FORGOTTEN);
        self.arm(now + SWEEP_PAUSE, Timer::Sweep);
    }

    /// Tells linked nodes how this one has changed.
    pub(super) fn greet_all(&mut self, now: Instant) {
        let linked: Vec<Contact> =
            self.peers.iter().filter(|known| known.linked() && known.live()).map(|known| known.contact()).collect();
        for contact in linked {
            self.greet(now, contact);
        }
    }
}

/// Whether a new sample puts a node at another level than its minimum did, by more than jitter.
pub(super) fn crossing(config: &Config, before: Duration, sample: Duration) -> bool {
    let level = |rtt: Duration| config.thresholds.iter().filter(|limit| rtt < **limit).count();
    let far = before.max(sample) > before.min(sample) * 3 / 2 + JITTER;
    far && level(before) != level(sample)
}

/// Seeds remembered.
const SEEDS: usize = 64;

/// Newcomers that wait to be reached.
const NEWCOMERS: usize = 64;

/// Pause between newcomers.
const MEET_PAUSE: Duration = Duration::from_millis(50);

/// Every so many probes a dead node is tried.
const LOST_TURN: u32 = 4;

/// A dead node is tried this often at most.
const LOST_PAUSE: Duration = Duration::from_secs(10);

/// Neighbours looked at in turn for one to measure, and by how many the turn goes on.
pub(super) const LOOKED_AT: usize = 32;
const LOOK_STEP: usize = 8;

/// Every so many probes go to one of the nearest in the id space.
const LEAF_TURN: u32 = 3;

/// Neighbours looked at at once for each that was found dead, and those that may wait for it at most.
const ALARM: u32 = 4;
const ALARM_MOST: u32 = 64;

/// Even if another one came back it is not tried again sooner than this.
const LOST_AGAIN: Duration = Duration::from_secs(3);

/// Every so many probes a near node is asked for its near ones, while things change.
const EXPLORE_TURN: u32 = 3;

/// So many of the nearest are asked in turn.
const EXPLORED: usize = 6;

/// Round trips that differ by less say nothing of distance.
const JITTER: Duration = Duration::from_millis(3);

/// A lookup of a random key ends at so many of the nodes nearest it when all is quiet; it is the way there that fills tables.
const QUIET_CLOSEST: usize = 3;

/// Pause before the second refresh; it doubles.
const REFRESH_FIRST: Duration = Duration::from_millis(500);

/// Nodes nearest in the id space that are always linked.
pub(super) const LEAVES: usize = 16;

/// A node that is in no table and not linked is forgotten after so long a silence.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Timers for which there is room when all is quiet.
const TIMERS_KEPT: usize = 8;

/// Pause between sweeps.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
