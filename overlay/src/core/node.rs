//! [`Node`]: the four verbs of the core and its read-only views. It sorts inputs to their machines and holds no rule itself.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    Contact, Input, Op, Outcome, Output, Peer,
    cluster::Membership,
    message::{Body, Header, Hello, Message, Reply, Request},
    peers::{Known, Peers},
    pointers::{Deferred, Hints, Leases, SpreadLog, Values},
    rng::Rng,
    routing::Tables,
    search::{Ending, Exchanges, Task},
    time::Instant,
};
use crate::{Config, Key, Level, NodeId, NodeInfo, Prefix};

/// One node of the index.
///
/// The contract: after each `handle_*`, drain [`Node::poll_output`] to `None`, then arm one timer from [`Node::poll_timeout`]
/// and call [`Node::handle_timeout`] at or after it.
pub struct Node {
    pub(super) config: Arc<Config>,
    pub(super) contact: Contact,
    pub(super) me: NodeInfo,
    pub(super) rng: Rng,
    pub(super) outbox: VecDeque<Output>,
    /// The time of the last input, for the views.
    pub(super) now: Instant,
    /// Messages of this node to itself, delivered before the handler returns.
    local: VecDeque<Body>,
    timers: BTreeSet<(Instant, Timer)>,
    /// When each timer of which there is one goes off.
    armed: BTreeMap<Timer, Instant>,
    pub(super) peers: Peers,
    pub(super) tables: Tables,
    pub(super) memberships: Vec<Membership>,
    pub(super) exchanges: Exchanges,
    pub(super) tasks: BTreeMap<u64, Running>,
    next_task: u64,
    pub(super) values: Values,
    pub(super) leases: Leases,
    pub(super) deferred: Vec<Deferred>,
    pub(super) hints: Hints,
    pub(super) spread_log: SpreadLog,
    /// Nodes that may be asked to join.
    pub(super) seeds: Vec<Contact>,
    /// Nodes heard of or from, yet to be reached.
    pub(super) newcomers: VecDeque<Contact>,
    pub(super) unrest_until: Instant,
    /// Lookups of its own since the last unrest began.
    pub(super) refreshed: u32,
    pub(super) probes: u32,
}

/// An operation and who waits for it.
#[derive(Debug)]
pub(super) struct Running {
    task: Task,
    reason: Reason,
    due: Instant,
}

/// Why an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody on this node asked.
    Command(Op),
    /// To learn who is near a prefix.
    Hint(Prefix),
    /// For the node itself.
    Upkeep,
}

/// What is to be done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// When a question is late, or lost.
    Exchange(u64),
    /// When an operation has had all its time.
    Task(u64),
    /// When the next neighbour is to be measured.
    Probe,
    /// When cluster membership is to be reconsidered.
    Check,
    /// When a table is to be refreshed by a lookup.
    Refresh,
    /// When links to keep are to be chosen anew.
    Pin,
    /// When what has expired is to be dropped.
    Sweep,
    /// When neighbours are to be told how this node has changed.
    Greet,
}

impl Node {
    /// A node that knows nobody. `me.id` is its place, `peer` its own handle: the driver's `Book` gives this node's own record
    /// for it, and interns that record as it. The seed is all its randomness.
    #[must_use]
    pub fn new(config: impl Into<Arc<Config>>, peer: Peer, me: NodeInfo, seed: u64) -> Self {
        let config = config.into();
        let mut rng = Rng::new(seed);
        let mut memberships = Vec::with_capacity(config.thresholds.len());
        for level in config.levels().rev().filter(|level| *level != Level::GLOBAL) {
            memberships.push(Membership::alone(Instant::START, level, &mut rng, &config));
        }
        let timers = [Timer::Probe, Timer::Check, Timer::Refresh, Timer::Pin, Timer::Sweep];
        Self {
            contact: Contact { peer, id: me.id },
            rng,
            outbox: VecDeque::new(),
            now: Instant::START,
            local: VecDeque::new(),
            armed: timers.into_iter().map(|timer| (timer, Instant::START)).collect(),
            timers: timers.into_iter().map(|timer| (Instant::START, timer)).collect(),
            peers: Peers::new(config.peers),
            tables: Tables::new(me.id, config.thresholds.len() + 1, config.bucket),
            memberships,
            exchanges: Exchanges::new(config.exchanges),
            tasks: BTreeMap::new(),
            next_task: 0,
            values: Values::new(&config),
            leases: Leases::new(config.leases),
            deferred: Vec::new(),
            hints: Hints::new(config.hints),
            spread_log: SpreadLog::new(config.spread_log),
            seeds: Vec::new(),
            newcomers: VecDeque::new(),
            unrest_until: Instant::START + config.unrest,
            refreshed: 0,
            probes: 0,
            me,
            config,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        debug_assert!(self.outbox.is_empty(), "outputs are drained after every input");
        self.now = self.now.max(now);
        match input {
            Input::Connected(contact) => self.on_connected(now, contact),
            Input::Disconnected(peer) => self.on_disconnected(now, peer),
            Input::Unreachable(peer) => self.on_unreachable(now, peer),
            Input::Received { from, message } => self.on_message(now, from, message),
            Input::Seeds(contacts) => self.on_seeds(now, contacts),
            Input::Command { op, command } => self.command(now, op, command),
            Input::Cancel(op) => self.cancel(op),
            Input::Describe(info) => self.on_describe(now, info),
            Input::Observe { prefix, rtt } => self.on_observe(now, prefix, rtt),
            Input::Leave => self.take_leave(),
        }
        self.settle(now);
    }

    /// The time asked for by [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        debug_assert!(self.outbox.is_empty(), "outputs are drained after every input");
        self.now = self.now.max(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            self.armed.remove(&timer);
            match timer {
                Timer::Exchange(id) => self.on_exchange_due(now, id),
                Timer::Task(id) => self.on_task_due(id),
                Timer::Probe => self.probe(now),
                Timer::Check => self.check_clusters(now),
                Timer::Refresh => self.refresh(now),
                Timer::Pin => self.choose_pins(now),
                Timer::Sweep => self.sweep(now),
                Timer::Greet => self.greet_all(now),
            }
            self.settle(now);
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`Node::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// This node as others name it.
    #[must_use]
    pub const fn contact(&self) -> Contact {
        self.contact
    }

    /// This node's place.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.me.id
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The ids of its clusters, level 1 first.
    pub(super) fn clusters(&self) -> Vec<Key> {
        self.memberships.iter().map(|membership| membership.id).collect()
    }

    /// The ids of a node's clusters, as far as known.
    pub(super) fn clusters_of(&self, contact: Contact) -> Vec<Key> {
        if contact == self.contact {
            return self.clusters();
        }
        self.peers.get(contact.peer).map_or_else(Vec::new, Known::clusters)
    }

    /// Sends a message, to another node or to itself.
    pub(super) fn send(&mut self, to: Contact, body: Body) {
        if to == self.contact {
            self.local.push_back(body);
        } else {
            // The header is put in when the handler ends, so that it shows what the handler decided.
            self.outbox.push_back(Output::Send { to: to.peer, message: Message { header: Header::default(), body } });
        }
    }

    /// Answers a question.
    pub(super) fn reply(&mut self, now: Instant, to: Contact, id: u64, arrived: Instant, reply: Reply) {
        let spent = Duration::from_micros(u64::try_from(now.since(arrived).as_micros()).unwrap_or(u64::MAX));
        self.send(to, Body::Reply { id, spent, reply });
    }

    /// Arms a timer of which there is one, in place of what was armed.
    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        if let Some(before) = self.armed.insert(timer, at) {
            self.timers.remove(&(before, timer));
        }
        self.timers.insert((at, timer));
    }

    /// The same, unless it is armed for an earlier time.
    pub(super) fn arm_sooner(&mut self, at: Instant, timer: Timer) {
        if self.armed.get(&timer).is_none_or(|armed| *armed > at) {
            self.arm(at, timer);
        }
    }

    pub(super) fn arm_new(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(super) fn disarm(&mut self, at: Instant, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    /// Starts an operation; none if too many run.
    pub(super) fn begin(&mut self, now: Instant, reason: Option<Reason>, task: Task, time: Duration) -> Option<u64> {
        if self.tasks.len() >= self.config.operations {
            return None;
        }
        let id = self.next_task;
        self.next_task += 1;
        let due = now + time;
        self.tasks.insert(id, Running { task, reason: reason.unwrap_or(Reason::Upkeep), due });
        self.arm_new(due, Timer::Task(id));
        self.drive(now, id);
        Some(id)
    }

    /// Does what an operation wants until it waits or ends.
    pub(super) fn drive(&mut self, now: Instant, id: u64) {
        loop {
            let Some(running) = self.tasks.get_mut(&id) else { return };
            match running.task.next() {
                super::search::Step::Ask(to, request) => self.ask_for_task(now, to, request, id),
                super::search::Step::Wait => return,
                super::search::Step::Done(ending) => {
                    if let Some(running) = self.tasks.remove(&id) {
                        self.disarm(running.due, Timer::Task(id));
                        self.end(running.reason, ending);
                    }
                    return;
                }
            }
        }
    }

    /// Asks on behalf of an operation.
    fn ask_for_task(&mut self, now: Instant, to: Contact, request: Request, id: u64) {
        if !self.ask(now, to, request, super::search::Purpose::Task(id))
            && let Some(running) = self.tasks.get_mut(&id)
        {
            running.task.on_failure(to);
        }
    }

    /// Feeds an operation and goes on with it.
    pub(super) fn feed(&mut self, now: Instant, id: u64, with: impl FnOnce(&mut Task)) {
        if let Some(running) = self.tasks.get_mut(&id) {
            with(&mut running.task);
            self.drive(now, id);
        }
    }

    fn on_task_due(&mut self, id: u64) {
        if let Some(running) = self.tasks.remove(&id) {
            let ending = running.task.expire();
            self.end(running.reason, ending);
        }
    }

    /// Hands an ending to who waits for it.
    fn end(&mut self, reason: Reason, ending: Ending) {
        match reason {
            Reason::Command(op) => {
                if let Some(outcome) = self.outcome(ending) {
                    self.outbox.push_back(Output::Done { op, outcome });
                }
            }
            Reason::Hint(prefix) => {
                if let Ending::Found(_, pointers) = ending {
                    let found = pointers.into_iter().map(|pointer| (pointer.holder.id, pointer.value));
                    self.hints.learn(prefix, found);
                }
            }
            Reason::Upkeep => {}
        }
    }

    fn cancel(&mut self, op: Op) {
        let ids: Vec<(u64, Instant)> = self
            .tasks
            .iter()
            .filter(|(_, running)| running.reason == Reason::Command(op))
            .map(|(id, running)| (*id, running.due))
            .collect();
        for (id, due) in ids {
            self.tasks.remove(&id);
            self.disarm(due, Timer::Task(id));
        }
    }

    pub(super) fn done(&mut self, op: Op, outcome: Outcome) {
        self.outbox.push_back(Output::Done { op, outcome });
    }

    /// A description of this node as it goes to others.
    pub(super) fn hello(&self) -> Body {
        Body::Hello(Box::new(Hello { info: self.me.clone(), spreads: self.spread_log.digest() }))
    }

    /// Delivers what this node said to itself, then stamps the header on what it says to others.
    fn settle(&mut self, now: Instant) {
        while let Some(body) = self.local.pop_front() {
            self.on_body(now, self.contact, body);
        }
        if self.outbox.iter().any(|output| matches!(output, Output::Send { .. })) {
            let header = self.header(now);
            for output in &mut self.outbox {
                if let Output::Send { message, .. } = output
                    && message.header.clusters.is_empty()
                {
                    message.header = header.clone();
                }
            }
        }
    }
}
