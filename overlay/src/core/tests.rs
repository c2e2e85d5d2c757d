//! One node among strangers: every bound of its memory is reached and holds, and every operation ends once.

use std::{collections::BTreeSet, time::Duration};

use super::{
    message::{Body, Hello, Message, Pointer, Refusal, Reply, Request, Seen, SpreadRecord, Want},
    time::Instant,
    *,
};
use crate::{Config, Level, Roles};

/// A node, and what it says.
pub(super) struct Alone {
    pub(super) node: Node,
    pub(super) now: Instant,
}

impl Alone {
    pub(super) fn new(config: Config) -> Self {
        let me = stranger(u32::MAX);
        Self { node: Node::new(config, me.peer, info(me.id), 1), now: Instant::START }
    }

    pub(super) fn give(&mut self, input: Input) -> Vec<Output> {
        self.node.handle_input(self.now, input);
        std::iter::from_fn(|| self.node.poll_output()).collect()
    }

    /// A message from a stranger.
    pub(super) fn hear(&mut self, from: u32, body: Body) -> Vec<Output> {
        let message = Message { header: std::sync::Arc::default(), body };
        self.give(Input::Received { from: stranger(from), message: Box::new(message) })
    }

    /// A question from a stranger, and the answers to it.
    fn ask(&mut self, from: u32, request: Request) -> Vec<Reply> {
        let outputs = self.hear(from, Body::Request { id: 7, request });
        let reply = |output| match output {
            Output::Send { message, .. } => {
                let Body::Reply { id: 7, reply, .. } = message.body else { return None };
                Some(reply)
            }
            Output::Pin { .. } | Output::Done { .. } | Output::Heard(_) | Output::Asked(..) | Output::Granted(_) => {
                None
            }
        };
        outputs.into_iter().filter_map(reply).collect()
    }

    /// Lets time pass; what it wants done meanwhile.
    pub(super) fn pass(&mut self, span: Duration) -> Vec<Output> {
        let until = self.now + span;
        let mut outputs = Vec::new();
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= until) {
            assert!(
                at >= self.now || self.now == Instant::START,
                "no deadline lies in the past once outputs are drained"
            );
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            outputs.extend(std::iter::from_fn(|| self.node.poll_output()));
        }
        self.now = until;
        outputs
    }
}

pub(super) fn stranger(number: u32) -> Contact {
    Contact { peer: Peer(number), id: NodeId::of("test", 0, &number.to_be_bytes()) }
}

pub(super) fn info(id: NodeId) -> NodeInfo {
    NodeInfo::new(id, Roles::PROXY)
}

pub(super) fn key(number: u32) -> Key {
    Key::of(&number.to_be_bytes())
}

pub(super) const TTL: Duration = Duration::from_secs(20);

#[test]
fn ten_thousand_strangers_fill_no_more_than_the_caps() {
    let config = Config { peers: 64, keys: 50, values_per_peer: 10, leases: 40, spread_log: 30, ..Config::default() };
    let mut node = Alone::new(config);
    for number in 0..10_000 {
        let value = Bytes::from_static(b"v");
        node.hear(
            number,
            Body::Hello(Box::new(Hello { info: std::sync::Arc::new(info(stranger(number).id)), spreads: 9 })),
        );
        node.ask(number, Request::Store { level: Level::GLOBAL, key: key(number), value: value.clone(), ttl: TTL });
        let (failed, unreached) = (Vec::new(), Vec::new());
        node.ask(number, Request::Acquire { key: key(number), reference: value, ttl: TTL, failed, unreached });
        let record = Bytes::copy_from_slice(&number.to_be_bytes());
        node.hear(number, Body::Spread(SpreadRecord { signer: stranger(number).id, record }));
    }
    let counts = node.node.counts();
    assert!(counts.peers <= 64 && counts.keys <= 50 && counts.values <= 50 && counts.leases <= 40, "{counts:?}");
    assert!(counts.exchanges <= 4_096, "{counts:?}");
    let refused =
        node.ask(5, Request::Store { level: Level::GLOBAL, key: key(7_777_777), value: Bytes::new(), ttl: TTL });
    assert_eq!(refused, [Reply::Refused(Refusal::Keys)]);
    let (failed, unreached) = (Vec::new(), Vec::new());
    let acquire = Request::Acquire { key: key(8_888_888), reference: Bytes::new(), ttl: TTL, failed, unreached };
    assert_eq!(node.ask(5, acquire), [Reply::Refused(Refusal::Keys)]);
    let reply = node.ask(5, Request::SpreadKeys { from: 0 });
    assert!(matches!(&reply[..], [Reply::SpreadKeys { shorts, more: false }] if shorts.len() == 30));
}

#[test]
fn askers_beyond_the_waiters_a_grant_may_have_are_refused() {
    let config = Config { waiters: 3, ..Config::default() };
    let mut node = Alone::new(config);
    // One reached neighbour, so that a grant has a copy to wait for.
    node.give(Input::Connected(stranger(1)));
    answer_pings(&mut node, 1);
    let far = node.node.id().key();
    let acquire = || {
        let (failed, unreached) = (Vec::new(), Vec::new());
        Request::Acquire { key: far, reference: Bytes::new(), ttl: TTL, failed, unreached }
    };
    for asker in 10..13 {
        assert_eq!(node.ask(asker, acquire()), [Reply::Wait], "asker {asker}");
    }
    assert_eq!(node.ask(13, acquire()), [Reply::Refused(Refusal::Busy)]);
}

/// Whom a ping goes to, and its number.
pub(super) fn ping(output: &Output) -> Option<(Peer, u64)> {
    let Output::Send { to, message } = output else { return None };
    let Body::Request { id, request: Request::Ping } = message.body else { return None };
    Some((*to, id))
}

/// Answers what the node asks of one neighbour, for a second.
pub(super) fn answer_pings(node: &mut Alone, peer: u32) {
    for _ in 0..20 {
        for output in node.pass(Duration::from_millis(50)) {
            if let Some((to, id)) = ping(&output)
                && to == Peer(peer)
            {
                node.hear(peer, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Pong });
            }
        }
    }
}

#[test]
fn operations_beyond_the_cap_are_answered_at_once_with_a_refusal() {
    let config = Config { operations: 5, ..Config::default() };
    let mut node = Alone::new(config);
    node.give(Input::Seeds(vec![stranger(1)]));
    node.give(Input::Connected(stranger(1)));
    answer_pings(&mut node, 1);
    let outputs: Vec<Output> = (0..20)
        .flat_map(|op| {
            node.give(Input::Command { op: Op(op), command: Command::Get(Key::of(&op.to_be_bytes()), Levels::All) })
        })
        .collect();
    let refused = outputs
        .iter()
        .filter(|output| matches!(output, Output::Done { outcome: Outcome::Get(Err(IndexError::Refused(_))), .. }));
    assert!(refused.count() >= 15);
    assert!(node.node.counts().operations <= 5);
}

#[test]
fn every_operation_ends_once_by_its_deadline_though_nobody_answers() {
    let mut node = Alone::new(Config::default());
    node.give(Input::Connected(stranger(1)));
    answer_pings(&mut node, 1);
    let reference = Bytes::from_static(b"r");
    let lease = Lease { epoch: 1, counter: 1, key: key(2) };
    let put = Put { key: key(3), value: reference.clone(), ttl: TTL, levels: Levels::All };
    let commands = [
        Command::Put(put),
        Command::Get(key(3), Levels::All),
        Command::Withdraw(key(3)),
        Command::Acquire(Acquire { key: key(2), reference: reference.clone(), ttl: TTL, failed: Vec::new() }),
        Command::Beat(lease, reference.clone()),
        Command::Release(lease),
        Command::Pass(lease, Marker::Pass(TTL)),
        Command::Spread(reference),
    ];
    let count = u64::try_from(commands.len()).unwrap();
    let mut outputs = Vec::new();
    for (op, command) in (0..).zip(commands) {
        outputs.extend(node.give(Input::Command { op: Op(op), command }));
    }
    outputs.extend(node.pass(Duration::from_secs(6)));
    let done = |output: &Output| match output {
        Output::Done { op, .. } => Some(op.0),
        Output::Send { .. } | Output::Pin { .. } | Output::Heard(_) | Output::Asked(..) | Output::Granted(_) => None,
    };
    let ends: Vec<u64> = outputs.iter().filter_map(done).collect();
    assert_eq!(ends.iter().copied().collect::<BTreeSet<_>>(), (0..count).collect());
    assert_eq!(ends.len(), commands_len(count), "each once");
    assert_eq!(node.node.counts().operations, 0);
}

fn commands_len(count: u64) -> usize {
    usize::try_from(count).unwrap()
}

#[test]
fn a_cancelled_operation_has_no_outcome() {
    let mut node = Alone::new(Config::default());
    node.give(Input::Connected(stranger(1)));
    answer_pings(&mut node, 1);
    node.give(Input::Command { op: Op(1), command: Command::Get(key(1), Levels::All) });
    node.give(Input::Cancel(Op(1)));
    let outputs = node.pass(Duration::from_secs(6));
    assert!(outputs.iter().all(|output| !matches!(output, Output::Done { .. })));
}

#[test]
fn what_is_longer_than_an_index_value_is_refused_to_the_caller_with_both_lengths() {
    let mut node = Alone::new(Config::default());
    let value = Bytes::from(vec![0; Pointer::LIMIT + 1]);
    let put = Command::Put(Put { key: key(1), value, ttl: TTL, levels: Levels::All });
    let outputs = node.give(Input::Command { op: Op(1), command: put });
    let error = IndexError::ValueTooLong { length: 257, limit: 256 };
    assert!(matches!(&outputs[..], [Output::Done { outcome: Outcome::Put(Err(refused)), .. }] if *refused == error));
}

#[test]
fn links_kept_are_as_many_as_allowed_and_let_go_when_a_neighbour_dies() {
    let config = Config { pins: 4, ..Config::default() };
    let mut node = Alone::new(config);
    for peer in 1..=12 {
        node.give(Input::Connected(stranger(peer)));
    }
    let mut kept = BTreeSet::new();
    for _ in 0..200 {
        for output in node.pass(Duration::from_millis(50)) {
            match output {
                Output::Pin { peer, keep: true } => drop(kept.insert(peer)),
                Output::Pin { peer, keep: false } => drop(kept.remove(&peer)),
                output @ (Output::Send { .. }
                | Output::Done { .. }
                | Output::Heard(_)
                | Output::Asked(..)
                | Output::Granted(_)) => {
                    if let Some((to, id)) = ping(&output) {
                        node.hear(to.0, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Pong });
                    }
                }
            }
        }
    }
    assert_eq!(kept.len(), 4);
    let dead = *kept.first().unwrap();
    let outputs = node.give(Input::Unreachable(dead));
    assert!(outputs.iter().any(|output| matches!(output, Output::Pin { peer, keep: false } if *peer == dead)));
}

#[test]
fn a_responder_that_claims_to_have_spent_more_than_passed_gets_no_nearer_than_zero_and_no_panic() {
    let mut node = Alone::new(Config::default());
    node.give(Input::Connected(stranger(1)));
    for _ in 0..20 {
        for output in node.pass(Duration::from_millis(50)) {
            let Output::Send { message, .. } = output else { continue };
            if let Body::Request { id, .. } = message.body {
                node.now = node.now + Duration::from_millis(40);
                node.hear(1, Body::Reply { id, spent: Duration::from_secs(3_600), reply: Reply::Pong });
            }
        }
    }
    let levels = node.node.levels();
    let rtt = levels[0].neighbours[0].rtt.unwrap();
    assert!(rtt >= Duration::from_millis(40), "{rtt:?}");
}

#[test]
fn a_put_or_get_at_a_level_is_not_honoured_outside_the_cluster() {
    let mut node = Alone::new(Config::default());
    let store = Request::Store { level: Level(2), key: key(1), value: Bytes::new(), ttl: TTL };
    assert_eq!(node.ask(1, store), [Reply::Refused(Refusal::NotInCluster)]);
    let want = Want::Values;
    let step = Request::Step { level: Level(1), key: key(1), aim: key(1), want };
    assert_eq!(node.ask(1, step), [Reply::Refused(Refusal::NotInCluster)]);
    let step = Request::Step { level: Level(7), key: key(1), aim: key(1), want };
    assert_eq!(node.ask(1, step), [Reply::Refused(Refusal::NotInCluster)], "a level there is not");
}

#[test]
fn whoever_the_index_names_at_the_same_site_is_asked() {
    let mut node = Alone::new(Config::default());
    node.give(Input::Describe(NodeInfo { site: "north".to_owned(), ..info(node.node.id()) }));
    node.give(Input::Connected(stranger(1)));
    let (site, level) = (Key::of(b"site north"), Level::GLOBAL);
    let at_site = Pointer { holder: stranger(9), clusters: Vec::new(), value: Bytes::new(), ttl: TTL };
    let (mut put, mut asked) = (false, false);
    for _ in 0..200 {
        for output in node.pass(Duration::from_millis(50)) {
            let Output::Send { to, message } = output else { continue };
            let Body::Request { id, request } = message.body else { continue };
            asked |= to == Peer(9) && request == Request::Ping;
            put |= matches!(&request, Request::Step { key, want: Want::Room { .. }, .. } if *key == site);
            let values = vec![at_site.clone()];
            let reply = if matches!(&request, Request::Seek { key, .. } if *key == site) {
                Reply::Sought { level, values }
            } else if matches!(&request, Request::Step { key, want: Want::Values, .. } if *key == site) {
                Reply::Step { seen: Seen::Values(values), nodes: Vec::new() }
            } else if request == Request::Ping {
                Reply::Pong
            } else {
                continue;
            };
            node.hear(to.0, Body::Reply { id, spent: Duration::ZERO, reply });
        }
    }
    assert!(put && asked, "put {put}, asked {asked}");
}
