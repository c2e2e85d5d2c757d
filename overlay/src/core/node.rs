//! [`Node`]: the four verbs of the core and its read-only views. It sorts inputs to their machines and holds no rule itself.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    Contact, Input, Op, Outcome, Output, Peer,
    cluster::Membership,
    joint::{Answer, Joint},
    message::{Body, Header, Hello, Message, Reply, Request},
    peers::{Buckets, Known, Peers},
    pointers::{Deferred, Hints, Leases, Newborn, SpreadLog, Values},
    rng::Rng,
    search::{Ending, Exchanges, Manner, Task},
    time::Instant,
};
use crate::{Config, Key, Level, NodeId, NodeInfo, Prefix, Question};

/// One node of the index.
///
/// The contract: after each `handle_*`, drain [`Node::poll_output`] to `None`, then arm one timer from [`Node::poll_timeout`]
/// and call [`Node::handle_timeout`] at or after it.
pub struct Node {
    pub(super) config: Arc<Config>,
    pub(super) contact: Contact,
    pub(super) me: Arc<NodeInfo>,
    pub(super) rng: Rng,
    pub(super) outbox: VecDeque<Output>,
    /// The time of the last input, for the views.
    pub(super) now: Instant,
    /// Messages of this node to itself, delivered before the handler returns.
    local: VecDeque<Body>,
    /// What is to be done when, the next one last.
    pub(super) timers: Vec<(Instant, Timer)>,
    pub(super) peers: Peers,
    /// The header of the last message and when it was made.
    pub(super) header: (Instant, Arc<Header>),
    pub(super) memberships: Vec<Membership>,
    pub(super) exchanges: Exchanges,
    /// In boxes: they are large, and a map keeps room for eleven once it has held one.
    pub(super) tasks: BTreeMap<u64, Box<Running>>,
    /// Commands whose questions are to be told.
    watched: BTreeSet<Op>,
    pub(super) next_task: u64,
    /// Operations that several callers may wait for.
    pub(super) joints: Vec<Joint>,
    /// What some of them found.
    pub(super) answers: Vec<Answer>,
    pub(super) values: Values,
    pub(super) leases: Leases,
    pub(super) deferred: Vec<Deferred>,
    pub(super) newborn: Newborn,
    pub(super) hints: Hints,
    pub(super) spread_log: SpreadLog,
    /// Nodes that may be asked to join.
    pub(super) seeds: Vec<Contact>,
    /// Nodes heard of or from, yet to be reached.
    pub(super) newcomers: VecDeque<Contact>,
    /// Keys lately asked for by this node's own callers, oldest first.
    pub(super) asked: VecDeque<crate::core::command::Asked>,
    /// When to look again who is at this node's site.
    pub(super) site_due: Instant,
    /// Thorough gets that may be made, and since when they were counted.
    pub(super) thorough: (u32, Instant),
    /// The closest sets may have changed since the copies were last looked at, up to this key.
    pub(super) reseed: Option<(Key, Level)>,
    pub(super) unrest_until: Instant,
    /// Lookups of its own since the last unrest began.
    pub(super) refreshed: u32,
    pub(super) probes: u32,
    /// Where the last look for a neighbour to measure ended.
    pub(super) probed_to: usize,
    /// Nodes lately found to have moved away, and when.
    pub(super) moved: Vec<(Contact, Instant)>,
    /// Neighbours to look at soon, since others were found dead.
    pub(super) alarmed: u32,
}

/// An operation and who waits for it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) task: Task,
    reason: Reason,
    begun: Instant,
    due: Instant,
}

/// Why an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody on this node asked.
    Command(Op),
    /// To learn who is near a prefix.
    Hint(Prefix),
    /// To learn who is at this node's site.
    Site,
    /// Another node asked.
    Relay {
        /// Who.
        asker: Contact,
        /// The number of its question.
        id: u64,
        /// When it came.
        arrived: Instant,
    },
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
    /// When copies are to be brought to nodes that have become one of the closest.
    Reseed,
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
            timers: timers.into_iter().rev().map(|timer| (Instant::START, timer)).collect(),
            peers: Peers::new(
                me.id,
                config.thresholds.len() + 1,
                Buckets {
                    size: config.bucket,
                    per_prefix: config.bucket_per_prefix,
                    per_operator: config.bucket_per_operator,
                },
                config.peers,
            ),
            header: (Instant::START, Arc::default()),
            memberships,
            exchanges: Exchanges::new(config.exchanges),
            tasks: BTreeMap::new(),
            watched: BTreeSet::new(),
            next_task: 0,
            joints: Vec::new(),
            answers: Vec::new(),
            values: Values::new(&config),
            leases: Leases::new(config.leases),
            deferred: Vec::new(),
            newborn: Newborn::default(),
            hints: Hints::new(config.hints),
            spread_log: SpreadLog::new(config.spread_log),
            seeds: Vec::new(),
            newcomers: VecDeque::new(),
            asked: VecDeque::new(),
            site_due: Instant::START,
            thorough: (crate::core::command::THOROUGH_BURST, Instant::START),
            reseed: None,
            unrest_until: Instant::START + config.unrest,
            refreshed: 0,
            probes: 0,
            probed_to: 0,
            moved: Vec::new(),
            alarmed: 0,
            me: me.into(),
            config,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        debug_assert!(self.outbox.is_empty(), "outputs are drained after every input");
        self.now = self.now.max(now);
        match input {
            Input::Connected(contact) => self.on_connected(now, contact),
            Input::Admitted { contact, by } => self.on_admitted(contact, by),
            Input::Disconnected(peer) => self.on_disconnected(now, peer),
            Input::Unreachable(peer) => self.on_unreachable(now, peer),
            Input::Received { from, message } => self.on_message(now, from, *message),
            Input::Seeds(contacts) => self.on_seeds(now, contacts),
            Input::Command { op, command } => self.command(now, op, command),
            Input::Watch(op) => drop(self.watched.insert(op)),
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
        while let Some((_, timer)) = self.timers.pop_if(|(at, _)| *at <= now) {
            match timer {
                Timer::Exchange(id) => self.on_exchange_due(now, id),
                Timer::Task(id) => self.on_task_due(now, id),
                Timer::Probe => self.probe(now),
                Timer::Check => self.check_clusters(now),
                Timer::Refresh => self.refresh(now),
                Timer::Pin => self.choose_pins(now),
                Timer::Sweep => self.sweep(now),
                Timer::Greet => self.greet_all(now),
                Timer::Reseed => self.reseed(now),
            }
            self.settle(now);
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let next = self.outbox.pop_front();
        // No room is kept: of many nodes in one process only one has outputs at a time, and takes what the last one gave back.
        if next.is_none() && self.outbox.capacity() > 0 {
            self.outbox = VecDeque::new();
        }
        next
    }

    /// When to call [`Node::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.last().map(|(at, _)| *at)
    }

    /// This node as others name it.
    #[must_use]
    pub const fn contact(&self) -> Contact {
        self.contact
    }

    /// This node's place.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.contact.id
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
        self.peers.get(contact).map_or_else(Vec::new, Known::clusters)
    }

    /// Sends a message, to another node or to itself.
    pub(super) fn send(&mut self, to: Contact, body: Body) {
        if to == self.contact {
            self.local.push_back(body);
        } else {
            // The header is put in when the handler ends, so that it shows what the handler decided.
            let header = Arc::clone(&self.header.1);
            self.outbox.push_back(Output::Send { to: to.peer, message: Box::new(Message { header, body }) });
        }
    }

    /// Answers a question.
    pub(super) fn reply(&mut self, now: Instant, to: Contact, id: u64, arrived: Instant, reply: Reply) {
        let spent = Duration::from_micros(u64::try_from(now.since(arrived).as_micros()).unwrap_or(u64::MAX));
        self.send(to, Body::Reply { id, spent, reply });
    }

    /// Arms a timer of which there is one, in place of what was armed.
    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        self.timers.retain(|(_, one)| *one != timer);
        self.arm_new(at, timer);
    }

    /// The same, unless it is armed for an earlier time.
    pub(super) fn arm_sooner(&mut self, at: Instant, timer: Timer) {
        if self.timers.iter().all(|(armed, one)| *one != timer || *armed > at) {
            self.arm(at, timer);
        }
    }

    pub(super) fn arm_new(&mut self, at: Instant, timer: Timer) {
        let place = self.timers.partition_point(|one| *one > (at, timer));
        self.timers.insert(place, (at, timer));
    }

    pub(super) fn disarm(&mut self, at: Instant, timer: Timer) {
        if let Ok(place) = self.timers.binary_search_by(|one| (at, timer).cmp(one)) {
            self.timers.remove(place);
        }
    }

    /// Starts an operation; none if too many run.
    pub(super) fn begin(&mut self, now: Instant, reason: Option<Reason>, task: Task, time: Duration) -> Option<u64> {
        if self.tasks.len() >= self.config.operations {
            return None;
        }
        let id = self.next_task;
        self.next_task += 1;
        let due = now + time;
        let running = Running { task, reason: reason.unwrap_or(Reason::Upkeep), begun: now, due };
        self.tasks.insert(id, running.into());
        self.arm_new(due, Timer::Task(id));
        self.drive(now, id);
        Some(id)
    }

    /// Does what an operation wants until it waits or ends.
    pub(super) fn drive(&mut self, now: Instant, id: u64) {
        loop {
            let Some(running) = self.tasks.get_mut(&id) else { return };
            match running.task.next() {
                super::search::Step::Ask(to, request) if to == self.contact => self.ask_self(now, request, id),
                super::search::Step::Ask(to, request) => self.ask_for_task(now, to, request, id),
                super::search::Step::Wait => return,
                super::search::Step::Done(ending) => {
                    if let Some(running) = self.tasks.remove(&id) {
                        self.disarm(running.due, Timer::Task(id));
                        self.end(now, id, running.reason, ending);
                    }
                    return;
                }
            }
        }
    }

    /// Asks this node itself on behalf of an operation: what it can say at once goes without a message.
    fn ask_self(&mut self, now: Instant, request: Request, id: u64) {
        let me = self.contact;
        if matches!(request, Request::Step { .. } | Request::Store { .. }) {
            self.tell(me, &request, id);
        }
        let reply = match request {
            Request::Step { level, key, aim, want } => self.on_step(now, me, (level, key, aim), want),
            Request::Store { level, key, value, ttl } => self.on_store(now, me, (level, key), (value, ttl)),
            other @ (Request::Ping
            | Request::Neighbours { .. }
            | Request::Seek { .. }
            | Request::Copy { .. }
            | Request::Withdraw { .. }
            | Request::Acquire { .. }
            | Request::Beat { .. }
            | Request::Pass { .. }
            | Request::Hold { .. }
            | Request::SpreadKeys { .. }
            | Request::SpreadGet { .. }) => return self.ask_for_task(now, me, other, id),
        };
        if let Some(running) = self.tasks.get_mut(&id) {
            running.task.on_reply(me, Manner::Directly, reply);
        }
    }

    /// Asks on behalf of an operation.
    fn ask_for_task(&mut self, now: Instant, to: Contact, request: Request, id: u64) {
        if to != self.contact {
            // No sign of life can come sooner than the way takes, a lost packet on it included; to dial takes longer than to ask.
            let known = self.peers.get(to).filter(|known| known.linked()).and_then(Known::distance);
            let time = self.config.acquire_deadline;
            let least = known.map_or(time * COLD_LIMIT, |rtt| rtt * 4);
            if let Some(more) = least.checked_sub(time) {
                self.extend(now + more, id);
            }
        }
        let manner = Manner::of(&request);
        self.tell(to, &request, id);
        if !self.ask(now, to, request, super::search::Purpose::Task(id))
            && let Some(running) = self.tasks.get_mut(&id)
        {
            running.task.on_failure(to, manner);
        }
    }

    /// Tells of a question, if its command is watched.
    fn tell(&mut self, to: Contact, request: &Request, id: u64) {
        if self.watched.is_empty() {
            return;
        }
        let Some(Running { reason: Reason::Command(op), .. }) = self.tasks.get(&id).map(AsRef::as_ref) else { return };
        if self.watched.contains(op) {
            let (level, handed_on) = request.reach();
            self.outbox.push_back(Output::Asked(*op, Question { to: to.id, level, handed_on }));
        }
    }

    /// An errand has a sign of life from the way to the root: its deadline counts from here, up to a limit. So a far root is told
    /// apart from one that cannot be reached.
    pub(super) fn extend(&mut self, now: Instant, id: u64) {
        let time = self.config.acquire_deadline;
        let Some(running) = self.tasks.get_mut(&id).filter(|running| matches!(running.task, Task::Errand(_))) else {
            return;
        };
        let (was, due) = (running.due, (now + time).min(running.begun + time * ERRAND_LIMIT));
        if due > was {
            running.due = due;
            self.disarm(was, Timer::Task(id));
            self.arm_new(due, Timer::Task(id));
        }
    }

    /// Feeds an operation and goes on with it.
    pub(super) fn feed(&mut self, now: Instant, id: u64, with: impl FnOnce(&mut Task)) {
        if let Some(running) = self.tasks.get_mut(&id) {
            with(&mut running.task);
            self.drive(now, id);
        }
    }

    fn on_task_due(&mut self, now: Instant, id: u64) {
        if let Some(running) = self.tasks.remove(&id) {
            let ending = running.task.expire();
            self.end(now, id, running.reason, ending);
        }
    }

    /// Hands an ending to who waits for it.
    fn end(&mut self, now: Instant, id: u64, reason: Reason, ending: Ending) {
        match reason {
            Reason::Command(op) => {
                self.watched.remove(&op);
                if let Some(outcome) = self.outcome(ending) {
                    self.arrive(now, id, &outcome);
                    self.outbox.push_back(Output::Done { op, outcome });
                }
            }
            Reason::Hint(prefix) => {
                if let Ending::Found(_, pointers) = ending {
                    let found = pointers.into_iter().map(|pointer| (pointer.holder.id, pointer.value));
                    self.hints.learn(prefix, found);
                }
            }
            Reason::Site => {
                if let Ending::Found(_, pointers) = ending {
                    self.on_site(now, pointers);
                }
            }
            Reason::Relay { asker, id: question, arrived } => {
                let answer = if let Ending::Relayed(answer) = ending { Some(answer) } else { None };
                self.arrive_seek(now, id, answer.as_ref());
                if let Some(answer) = answer {
                    self.reply(now, asker, question, arrived, answer);
                }
            }
            Reason::Upkeep if matches!(ending, Ending::Searched) => self.on_searched(now, id),
            Reason::Upkeep => {}
        }
    }

    fn cancel(&mut self, op: Op) {
        self.watched.remove(&op);
        self.part(op);
        let ids: Vec<(u64, Instant)> = self
            .tasks
            .iter()
            .filter(|(_, running)| running.reason == Reason::Command(op))
            .map(|(id, running)| (*id, running.due))
            .collect();
        for (id, due) in ids {
            if let Some(heir) = self.heir(id) {
                if let Some(running) = self.tasks.get_mut(&id) {
                    running.reason = Reason::Command(heir);
                }
                continue;
            }
            self.tasks.remove(&id);
            self.disarm(due, Timer::Task(id));
        }
    }

    pub(super) fn done(&mut self, op: Op, outcome: Outcome) {
        self.watched.remove(&op);
        self.outbox.push_back(Output::Done { op, outcome });
    }

    /// A description of this node as it goes to others.
    pub(super) fn hello(&self) -> Body {
        Body::Hello(Box::new(Hello { info: Arc::clone(&self.me), spreads: self.spread_log.digest() }))
    }

    /// Delivers what this node said to itself, then stamps the header on what it says to others.
    fn settle(&mut self, now: Instant) {
        while let Some(body) = self.local.pop_front() {
            self.on_body(now, self.contact, body);
        }
        if self.outbox.iter().any(|output| matches!(output, Output::Send { .. })) {
            let header = self.header(now);
            for output in &mut self.outbox {
                if let Output::Send { message, .. } = output {
                    message.header = Arc::clone(&header);
                }
            }
        }
    }
}

/// An errand to a node without a link has so many times its deadline.
const COLD_LIMIT: u32 = 4;

/// An errand has at most so many times its deadline, however often somebody on its way answers.
const ERRAND_LIMIT: u32 = 5;
