//! Messages in: who sent them is noted, questions are answered, answers go to who asked.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Contact, Node, Output, Peer,
    message::{Body, Hello, Message, Refusal, Reply, Request, Seen, Want},
    node::Timer,
    peers::{DEAD_AFTER, Known, REGREET},
    pointers::{Asked, Errand, Intent},
    search::{Manner, Pending, Purpose},
    tend::crossing,
    time::{Instant, Stamp},
};
use crate::{Key, Level, Mode, NodeInfo};

impl Node {
    pub(super) fn on_message(&mut self, now: Instant, from: Contact, message: Message) {
        if from == self.contact {
            return;
        }
        if let Some(known) = self.peers.entry(from) {
            let (reached, back) = (known.reached(), known.is_lost());
            let news = known.hear(now, message.header);
            if back {
                self.peers.loosen();
                self.reunite(now);
            }
            if reached && (news || back) {
                self.note_met(now, from, back);
                self.on_header(now, from);
            } else if !reached && matches!(message.body, Body::Request { .. } | Body::Hello(_)) {
                self.welcome(now, from);
            }
        }
        self.on_body(now, from, message.body);
    }

    pub(super) fn on_body(&mut self, now: Instant, from: Contact, body: Body) {
        match body {
            Body::Hello(hello) => self.on_hello(now, from, *hello),
            Body::Goodbye => self.bury(now, from),
            Body::Spread(record) => self.on_spread(now, from, record),
            Body::Request { id, request } => self.on_request(now, from, id, request),
            Body::Reply { id, spent, reply: Reply::Wait } => self.on_wait(now, from, id, spent),
            Body::Reply { id, spent, reply } => {
                if let Some(pending) = self.exchanges.close(id, from.peer) {
                    self.disarm(pending.due, Timer::Exchange(id));
                    self.on_answer(now, pending, spent, reply);
                }
            }
        }
    }

    /// The node asked is there and will answer: it has until the operation's own deadline.
    fn on_wait(&mut self, now: Instant, from: Contact, id: u64, spent: Duration) {
        let time = self.config.acquire_deadline;
        let Some(pending) = self.exchanges.get_mut(id).filter(|pending| pending.to == from) else { return };
        let (was_due, due) = (pending.due, now + time);
        (pending.due, pending.late) = (due, true);
        let pending = *pending;
        self.disarm(was_due, Timer::Exchange(id));
        self.arm_new(due, Timer::Exchange(id));
        if from != self.contact {
            if let Purpose::Task(task) = pending.purpose {
                self.extend(now, task);
            }
            self.on_sampled(now, &pending, spent);
        }
    }

    /// Asks a node something. False if too many questions are under way.
    pub(super) fn ask(&mut self, now: Instant, to: Contact, request: Request, purpose: Purpose) -> bool {
        let manner = Manner::of(&request);
        let patience = match manner {
            Manner::HandedOn => self.config.seek_patience,
            Manner::Directly => self.patience(to, purpose),
        };
        let sooner = if request.is_through_levels() {
            patience / 2
        } else {
            self.hedge(to, &request).map_or(patience, |hedge| hedge.min(patience))
        };
        let (due, later) = (now + sooner, (sooner < patience).then_some(now + patience));
        let linked = self.peers.get(to).is_some_and(|known| known.linked());
        let Some(id) = self.exchanges.open(Pending { to, sent: now, due, late: false, later, linked, manner, purpose })
        else {
            return false;
        };
        self.arm_new(due, Timer::Exchange(id));
        if to != self.contact
            && let Some(known) = self.peers.entry(to)
        {
            known.asked = Stamp::of(now);
        }
        self.send(to, Body::Request { id, request });
        true
    }

    /// How long until a question to a node is late.
    fn patience(&self, to: Contact, purpose: Purpose) -> Duration {
        if to == self.contact {
            return self.config.put_deadline;
        }
        let rto = self.rto(to);
        if purpose == Purpose::Probe {
            // Nobody waits for a probe, and it must still measure a node that has moved far away: patience doubles per miss.
            let misses = self.peers.get(to).map_or(0, |known| u32::from(known.misses()));
            return (rto.max(self.config.rto_probe) * (1 << misses.min(4))).min(self.config.rto_max);
        }
        match purpose {
            // It cannot answer in time: whether it still is so far, a short wait tells.
            Purpose::Nearer if self.is_as_far(to, self.config.acquire_deadline) => self.config.lost_min / 4,
            // Somebody waits for the word on it, and that its answers varied is no word.
            Purpose::Nearer | Purpose::Holder(_) => self.usual(to).map_or(rto, |usual| rto.min(usual)),
            Purpose::Hold(_) => rto.min(self.config.acquire_deadline / 2),
            Purpose::Task(_)
            | Purpose::Probe
            | Purpose::Sample(_)
            | Purpose::Explore
            | Purpose::Copy(..)
            | Purpose::SpreadKeys(_)
            | Purpose::SpreadGet => rto,
        }
    }

    /// How long an answer of a node may take by what its answers took.
    fn rto(&self, to: Contact) -> Duration {
        let known = self.peers.get(to).filter(|known| known.linked());
        let measured = known.and_then(|known| known.rtt.timeout());
        measured.map_or(self.config.rto_unknown, |rto| rto.clamp(self.config.rto_min, self.config.rto_max))
    }

    /// How long an answer takes over a link by its distance alone, a short pause of the process included: a quarter of the longest.
    fn usual(&self, to: Contact) -> Option<Duration> {
        let known = self.peers.get(to).filter(|known| known.linked())?;
        known.distance().map(|distance| (distance * 2).max(self.config.lost_min / 4))
    }

    /// How long a node that is asked on behalf of an acquire is waited for alone, however much its answers varied: not at all if its
    /// distance takes half of the time there is. Nobody waits for the answer to a beat: it is asked elsewhere in time, and no sooner.
    fn hedge(&self, to: Contact, request: &Request) -> Option<Duration> {
        let half = self.config.acquire_deadline / 2;
        if matches!(request, Request::Beat { .. }) {
            return self.usual(to).map(|usual| usual.min(half));
        }
        if !matches!(request, Request::Acquire { .. } | Request::Hold { .. }) {
            return None;
        }
        if self.is_as_far(to, half) { Some(Duration::ZERO) } else { self.usual(to) }
    }

    fn is_as_far(&self, node: Contact, least: Duration) -> bool {
        self.peers.get(node).and_then(Known::distance).is_some_and(|distance| distance >= least)
    }

    /// A question is late, or lost.
    pub(super) fn on_exchange_due(&mut self, now: Instant, id: u64) {
        let Some(pending) = self.exchanges.get_mut(id) else { return };
        if pending.late {
            if let Some(pending) = self.exchanges.drop(id) {
                // Who was asked because another could not reach it had little time: its own probe counts.
                if pending.manner == Manner::HandedOn || pending.purpose == Purpose::Nearer {
                    self.doubt(now, pending.to);
                } else {
                    self.miss(now, pending.to);
                }
                self.on_lost(now, pending);
            }
            return;
        }
        if let Some(due) = pending.later.take() {
            pending.due = due;
            let (to, purpose, manner) = (pending.to, pending.purpose, pending.manner);
            self.arm_new(due, Timer::Exchange(id));
            match purpose {
                Purpose::Task(task) => self.feed(now, task, |task| task.on_slow(to, manner)),
                Purpose::Hold(key) => self.on_hold_slow(now, to, key),
                Purpose::Probe
                | Purpose::Sample(_)
                | Purpose::Explore
                | Purpose::Copy(..)
                | Purpose::Holder(_)
                | Purpose::Nearer
                | Purpose::SpreadKeys(_)
                | Purpose::SpreadGet => {}
            }
            return;
        }
        let pending = *pending;
        let Pending { to, purpose, manner, sent, .. } = pending;
        let again = (now + now.since(sent)).max(sent + self.lost_after(&pending));
        if let Some(pending) = self.exchanges.get_mut(id) {
            (pending.late, pending.due) = (true, again);
        }
        self.arm_new(again, Timer::Exchange(id));
        match purpose {
            Purpose::Task(task) => self.feed(now, task, |task| task.on_late(to, manner)),
            Purpose::Hold(key) => self.on_hold_late(now, to, key),
            Purpose::Probe
            | Purpose::Sample(_)
            | Purpose::Explore
            | Purpose::Copy(..)
            | Purpose::Holder(_)
            | Purpose::Nearer
            | Purpose::SpreadKeys(_)
            | Purpose::SpreadGet => {}
        }
    }

    /// After how long at least a late question is lost.
    fn lost_after(&self, pending: &Pending) -> Duration {
        let Pending { to, purpose, linked, .. } = *pending;
        // A dial takes its time: a stranger is asked beside others soon, and given up late.
        let least = if linked { self.config.lost_min } else { self.config.rto_unknown * 6 };
        match purpose {
            // The grant did not wait for it as long as it may take.
            Purpose::Hold(_) => least.max(self.rto(to) * 2),
            // The second that doubts it: each asks half as long as one alone would.
            Purpose::Nearer if linked => least / 2,
            Purpose::Holder(_) if linked && self.is_dead(to) => least / 2,
            Purpose::Task(_)
            | Purpose::Probe
            | Purpose::Sample(_)
            | Purpose::Explore
            | Purpose::Copy(..)
            | Purpose::Holder(_)
            | Purpose::Nearer
            | Purpose::SpreadKeys(_)
            | Purpose::SpreadGet => least,
        }
    }

    /// A question will have no answer.
    pub(super) fn on_lost(&mut self, now: Instant, pending: Pending) {
        let (to, manner) = (pending.to, pending.manner);
        match pending.purpose {
            Purpose::Task(id) => self.feed(now, id, |task| task.on_failure(to, manner)),
            Purpose::Hold(key) => self.on_hold_failure(now, to, key),
            Purpose::Holder(key) => self.on_holder(now, to, key, false),
            Purpose::Nearer => self.on_nearer(now, to, false),
            Purpose::Copy(level, key) => self.on_copied(now, to, (level, key), false),
            Purpose::Probe | Purpose::Sample(_) | Purpose::Explore | Purpose::SpreadKeys(_) | Purpose::SpreadGet => {}
        }
    }

    fn on_answer(&mut self, now: Instant, pending: Pending, spent: Duration, mut reply: Reply) {
        let to = pending.to;
        if to != self.contact {
            self.on_sampled(now, &pending, spent);
        }
        if let Reply::Step { nodes, .. } | Reply::Nodes(nodes) = &reply {
            nodes.iter().for_each(|node| self.meet(now, *node));
        }
        // What this node knows to be dead, it need not be told to ask.
        if let Reply::Step { nodes, .. } = &mut reply {
            nodes.retain(|node| !self.is_dead(*node));
        }
        match (pending.purpose, reply) {
            (Purpose::Task(id), reply) => {
                if to != self.contact {
                    self.extend(now, id);
                }
                let crowded = self.is_crowded(now, id);
                let says = self.has_say(to, id, &reply);
                let reply = if says { reply } else { Reply::Refused(Refusal::NotInCluster) };
                self.feed(now, id, |task| {
                    if crowded {
                        task.be_content();
                    }
                    task.on_reply(to, pending.manner, reply);
                });
            }
            (Purpose::Sample(level), Reply::Nodes(nodes)) => self.on_sample(now, level, &nodes),
            (Purpose::Hold(key), Reply::Held(held)) => self.on_held(now, to, key, held),
            (Purpose::Hold(key), _) => self.on_hold_failure(now, to, key),
            (Purpose::Holder(key), _) => self.on_holder(now, to, key, true),
            (Purpose::Nearer, _) => self.on_nearer(now, to, true),
            (Purpose::SpreadKeys(from), Reply::SpreadKeys { shorts, more }) => {
                self.on_spread_keys(now, to, (from, shorts, more));
            }
            (Purpose::Copy(level, key), reply) => {
                self.on_copied(now, to, (level, key), matches!(reply, Reply::Done));
            }
            (Purpose::SpreadGet, Reply::Spread(record)) => self.on_spread(now, to, record),
            (
                Purpose::Probe | Purpose::Sample(_) | Purpose::Explore | Purpose::SpreadKeys(_) | Purpose::SpreadGet,
                _,
            ) => {}
        }
    }

    /// Whether a node may answer what a get asks in a cluster: who is not in it was named by somebody who lied or was out of date.
    fn has_say(&self, node: Contact, task: u64, reply: &Reply) -> bool {
        let asked = self.tasks.get(&task).and_then(|running| running.task.level());
        !matches!(reply, Reply::Step { .. }) || asked.is_none_or(|level| self.is_in(node, level))
    }

    /// An exchange has ended: the node is reached, and its distance measured.
    fn on_sampled(&mut self, now: Instant, pending: &Pending, spent: Duration) {
        let Some(known) = self.peers.get_mut(pending.to) else { return };
        let elapsed = now.since(pending.sent);
        // A responder cannot have spent more than passed; one that says so gets no nearer by it.
        let rtt = if spent > elapsed { elapsed } else { elapsed - spent };
        let (before, cost) = (known.distance(), known.cost());
        // The answer to a question handed on holds the way beyond this node, that over a new link its dialling.
        let direct = pending.linked && pending.manner == Manner::Directly;
        let mut again = !pending.linked && before.is_none();
        // One slow answer is a lost packet; a node has moved away when two in a row are slow.
        let slower = before.is_some_and(|before| rtt > before);
        let odd = direct && before.is_some_and(|before| crossing(&self.config, before, rtt));
        known.set_odd(if odd { known.odd() + 1 } else { 0 });
        let crosses = odd && (!slower || known.odd() >= ODD);
        let moved = crosses && slower;
        match (direct, moved, odd && !crosses) {
            (true, true, _) => known.rtt.moved(now, rtt),
            (true, false, true) => known.rtt.smooth(rtt),
            (true, false, false) => known.rtt.sample(now, rtt, self.config.rtt_window),
            (false, ..) => {}
        }
        again |= odd && !crosses;
        known.set_reached();
        let greet = !known.was_greeted() || (!known.is_described() && known.greeted_ago(now) > REGREET);
        if known.tables != 0 && known.cost() > cost {
            self.peers.note_cost(pending.to);
        }
        if before.is_none() {
            self.note_met(now, pending.to, false);
        }
        self.on_header(now, pending.to);
        if greet {
            self.greet(now, pending.to);
        }
        if again {
            self.ask(now, pending.to, Request::Ping, Purpose::Probe);
        }
        if pending.manner == Manner::Directly && (before.is_none() || crosses) {
            self.unrest_if_near(now, rtt, before.is_none());
        }
        if moved {
            self.on_moved(now, pending.to);
        }
    }

    fn on_request(&mut self, now: Instant, from: Contact, id: u64, request: Request) {
        let reply = match request {
            Request::Ping => Reply::Pong,
            Request::Neighbours { level, nearest } => Reply::Nodes(self.neighbours(from, level, nearest)),
            Request::Step { level, key, aim, want } => self.on_step(now, from, (level, key, aim), want),
            Request::Seek { .. } => return self.on_seek(now, from, id, &request),
            Request::Copy { level, key, values } => self.on_copy(now, from, (level, key), values),
            Request::Store { level, key, value, ttl } => self.on_store(now, from, (level, key), (value, ttl)),
            Request::Withdraw { key } => {
                self.values.withdraw(key, from.peer);
                Reply::Done
            }
            Request::Acquire { key, reference, ttl, failed, unreached } => {
                let what = Errand::Acquire { key, reference, ttl, failed };
                return self
                    .on_root_request(now, Asked { from, id, arrived: now, unreached, silent: Vec::new(), what });
            }
            Request::Beat { lease, reference, ttl, unreached } => {
                let what = Errand::Beat { lease, reference, ttl };
                return self
                    .on_root_request(now, Asked { from, id, arrived: now, unreached, silent: Vec::new(), what });
            }
            Request::Pass { lease, marker } => {
                let what = Errand::Pass { lease, marker };
                let (unreached, silent) = (Vec::new(), Vec::new());
                return self.on_root_request(now, Asked { from, id, arrived: now, unreached, silent, what });
            }
            Request::Hold { key, state } => self.on_hold(now, from, key, state),
            Request::SpreadKeys { from } => {
                let (shorts, more) = self.spread_log.page(from);
                Reply::SpreadKeys { shorts, more }
            }
            Request::SpreadGet { short } => self.spread_log.get(short).cloned().map_or(Reply::Done, Reply::Spread),
        };
        self.reply(now, from, id, now, reply);
    }

    /// A pointer to who sent it is to be kept.
    pub(super) fn on_store(
        &mut self,
        now: Instant,
        from: Contact,
        (level, key): (Level, Key),
        (value, ttl): (Bytes, Duration),
    ) -> Reply {
        if !self.is_in(from, level) {
            return Reply::Refused(Refusal::NotInCluster);
        }
        let pointer = self.pointer_of(from, value, ttl);
        let stored = self.values.store(now, level, key, pointer);
        self.note_closest(level, key);
        stored.map_or_else(Reply::Refused, Reply::Stored)
    }

    /// One hop of somebody's lookup.
    pub(super) fn on_step(
        &mut self,
        now: Instant,
        from: Contact,
        (level, key, aim): (Level, Key, Key),
        want: Want,
    ) -> Reply {
        if !self.is_in(from, level) {
            return Reply::Refused(Refusal::NotInCluster);
        }
        let seen = match want {
            Want::Nodes => Seen::Nothing,
            Want::Values => {
                let mut values = self.values.get(now, level, key);
                self.rng.shuffle(&mut values);
                values.truncate(Reply::VALUES);
                if values.is_empty() { Seen::Nothing } else { Seen::Values(values) }
            }
            Want::Room { ttl } => {
                let (mine, copies) = (self.contact.id.key().distance(&key), self.config.copies());
                let closest = self.peers.closest(level, &key, copies);
                let near = closest.iter().filter(|one| one.id.key().distance(&key) < mine).count() < copies;
                let promise = self.config.mode == Mode::Best;
                let leaks = promise || self.is_leak(level, &key, &aim);
                Seen::Room(self.values.room(now, level, key, Intent { from: from.peer, ttl, near, promise, leaks }))
            }
        };
        let ends = match &seen {
            Seen::Values(values) => {
                let own_counts = self.config.mode == Mode::Paper;
                values.iter().any(|value| own_counts || value.holder != from)
            }
            // Loaded by its own puts, this node goes no further.
            Seen::Room(room) => room.loaded && from == self.contact,
            Seen::Nothing => false,
        };
        let nodes = if ends { Vec::new() } else { self.towards(level, &key, &aim, from) };
        Reply::Step { seen, nodes }
    }

    /// Nodes nearest the aim, and the two nearest the key.
    fn towards(&self, level: Level, key: &Key, aim: &Key, asker: Contact) -> Vec<Contact> {
        let mut nodes = self.peers.closest(level, key, if aim == key { Reply::NODES } else { TO_THE_KEY });
        if aim != key {
            for node in self.peers.closest(level, aim, Reply::NODES) {
                if nodes.len() < Reply::NODES && !nodes.contains(&node) {
                    nodes.push(node);
                }
            }
        }
        nodes.retain(|node| *node != asker);
        nodes
    }

    /// Whether a node shares this node's cluster at a level: puts and gets of others are not honoured there.
    pub(super) fn is_in(&self, from: Contact, level: Level) -> bool {
        self.peers.has_level(level)
            && (from == self.contact
                || level == Level::GLOBAL
                || self.peers.get(from).is_some_and(|known| self.shares(known, level)))
    }

    fn on_hello(&mut self, now: Instant, from: Contact, hello: Hello) {
        let Some(known) = self.peers.get_mut(from) else { return };
        known.describe(hello.info);
        let answer = known.greeted_ago(now) > REGREET;
        if answer {
            self.greet(now, from);
        }
        self.on_spread_digest(now, from, hello.spreads);
    }

    /// Tells a node how this one describes itself.
    pub(super) fn greet(&mut self, now: Instant, to: Contact) {
        let hello = self.hello();
        if let Some(known) = self.peers.get_mut(to) {
            known.greet(now);
            self.send(to, hello);
        }
    }

    pub(super) fn on_connected(&mut self, now: Instant, contact: Contact) {
        let Some(known) = self.peers.entry(contact) else { return };
        known.set_linked(true);
        known.set_misses(0);
        self.greet(now, contact);
        self.welcome(now, contact);
    }

    pub(super) fn on_admitted(&mut self, contact: Contact, by: Key) {
        let operator = self.peers.operator(by);
        if let Some(known) = self.peers.entry(contact) {
            known.operator = operator;
        }
    }

    pub(super) fn on_disconnected(&mut self, now: Instant, peer: Peer) {
        let Some(contact) = self.peers.find(peer) else { return };
        let Some(known) = self.peers.get_mut(contact) else { return };
        known.set_linked(false);
        // A probe that is lost with a link says nothing of its node: it is made again over a new link, once.
        let wanted = known.kept_here() || known.tables != 0 || self.exchanges.is_probed_over_link(peer);
        self.peers.loosen();
        // What was asked over the link is lost with it.
        self.fail_exchanges(now, peer);
        // An idle link may close on a live node; a neighbour is asked again, which dials it.
        if wanted {
            self.ask(now, contact, Request::Ping, Purpose::Probe);
        }
    }

    pub(super) fn on_unreachable(&mut self, now: Instant, peer: Peer) {
        if let Some(contact) = self.peers.find(peer) {
            self.bury(now, contact);
        }
        self.fail_exchanges(now, peer);
    }

    fn fail_exchanges(&mut self, now: Instant, peer: Peer) {
        for (id, pending) in self.exchanges.drop_to(peer) {
            self.disarm(pending.due, Timer::Exchange(id));
            self.on_lost(now, pending);
        }
    }

    /// A node did not answer: after the second time in a row it counts as dead, and is asked at once after the first.
    fn miss(&mut self, now: Instant, contact: Contact) {
        let Some(known) = self.peers.get_mut(contact) else { return };
        known.set_misses(known.misses() + 1);
        if known.misses() >= DEAD_AFTER {
            self.bury(now, contact);
        } else if !self.exchanges.is_asked(contact.peer, Purpose::Probe) {
            self.ask(now, contact, Request::Ping, Purpose::Probe);
        }
    }

    /// A question handed on was lost, here or further on: whether here, a probe will tell.
    fn doubt(&mut self, now: Instant, contact: Contact) {
        if self.peers.get(contact).is_some_and(Known::live) && !self.exchanges.is_asked(contact.peer, Purpose::Probe) {
            self.ask(now, contact, Request::Ping, Purpose::Probe);
        }
    }

    /// A node is gone: out of the tables until it is heard of again.
    pub(super) fn bury(&mut self, now: Instant, contact: Contact) {
        let Some(known) = self.peers.get_mut(contact) else { return };
        known.set_misses(DEAD_AFTER);
        if known.keep_here(false) {
            self.outbox.push_back(Output::Pin { peer: contact.peer, keep: false });
        }
        self.peers.note_death();
        self.peers.loosen();
        if self.peers.leave_all(contact) {
            self.closest_changed(now);
            self.alarm(now);
            self.arm_sooner(now + PIN_SOON, Timer::Pin);
        }
    }

    pub(super) fn on_describe(&mut self, now: Instant, info: NodeInfo) {
        if info.site != self.me.site {
            self.site_due = now;
        }
        self.me = NodeInfo { id: self.me.id, clusters: Vec::new(), rtt: None, ..info }.into();
        self.arm_sooner(now + GREET_PAUSE, Timer::Greet);
    }
}

/// Known nodes nearest to the key itself that an answer names besides those nearest the aim.
const TO_THE_KEY: usize = 2;

/// Changes of the description within this time go out together.
const GREET_PAUSE: Duration = Duration::from_secs(1);

/// Answers in a row that put a node at another level than its minimum did, before it counts as moved.
const ODD: u8 = 2;

/// How soon links are chosen anew after a neighbour is gone.
const PIN_SOON: Duration = Duration::from_secs(1);
