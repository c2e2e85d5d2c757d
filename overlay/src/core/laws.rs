//! Laws of one node, whatever others say to it: properties over strangers' messages, answers and silences. Each test's name is the
//! law. Those of a single table or store stand beside these.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    message::{Acquisition, Beaten, Body, Held, Hello, LeaseState, Refusal, Reply, Request, Room, Seen, Verdict},
    node::Timer,
    order::{is_better, ranks_above},
    tests::{Alone, TTL, answer_pings, info, key, ping, stranger},
    time::Instant,
    *,
};
use crate::{Config, Level, NodesQuery, Roles};

/// Something that happens to a node.
#[derive(Debug, Clone)]
enum Happens {
    /// Its caller wants something, by number, of a key.
    Wants(u8, u32),
    /// So many milliseconds pass.
    Passes(u64),
    /// One of its questions under way is answered, by this kind of answer, once or twice.
    Answered(prop::sample::Index, u8, bool),
    /// A stranger asks it something, by number, about a key.
    Asks(u32, u8, u32),
    /// A stranger tells of itself.
    Greets(u32),
    /// A link comes up.
    Connected(u32),
    /// A link goes down.
    Disconnected(u32),
    /// A stranger cannot be reached.
    Unreachable(u32),
}

fn happens() -> impl Strategy<Value = Happens> {
    let who = 1_u32..24;
    prop_oneof![
        3 => (0_u8..8, 0_u32..4).prop_map(|(what, key)| Happens::Wants(what, key)),
        4 => (0_u64..3_000).prop_map(Happens::Passes),
        8 => (any::<prop::sample::Index>(), 0_u8..16, any::<bool>()).prop_map(|(at, how, twice)| Happens::Answered(at, how, twice)),
        5 => (who.clone(), 0_u8..14, 0_u32..4).prop_map(|(who, what, key)| Happens::Asks(who, what, key)),
        1 => who.clone().prop_map(Happens::Greets),
        3 => who.clone().prop_map(Happens::Connected),
        1 => who.clone().prop_map(Happens::Disconnected),
        1 => who.prop_map(Happens::Unreachable),
    ]
}

/// A node, its questions that nobody has answered, and all it said.
struct World {
    alone: Alone,
    open: Vec<(Peer, u64)>,
    said: Vec<Output>,
    commands: u64,
}

impl World {
    fn new() -> Self {
        Self { alone: Alone::new(Config::default()), open: Vec::new(), said: Vec::new(), commands: 0 }
    }

    fn live(&mut self, life: &[Happens]) {
        for event in life {
            self.happen(event);
            assert!(self.alone.node.poll_timeout().is_some(), "it always looks after itself again");
        }
    }

    fn happen(&mut self, event: &Happens) {
        let outputs = match event {
            Happens::Wants(what, about) => {
                let op = Op(self.commands);
                self.commands += 1;
                self.alone.give(Input::Command { op, command: command(*what, *about) })
            }
            Happens::Passes(millis) => self.alone.pass(Duration::from_millis(*millis)),
            Happens::Answered(at, how, twice) => {
                if self.open.is_empty() {
                    return;
                }
                let (to, id) = self.open.swap_remove(at.index(self.open.len()));
                let body = || Body::Reply { id, spent: Duration::from_millis(u64::from(*how)), reply: reply(*how) };
                let mut outputs = self.alone.hear(to.0, body());
                if *twice {
                    outputs.extend(self.alone.hear(to.0, body()));
                }
                outputs
            }
            Happens::Asks(who, what, about) => {
                self.alone.hear(*who, Body::Request { id: 7, request: request(*what, *who, *about) })
            }
            Happens::Greets(who) => self.alone.hear(*who, hello(*who)),
            Happens::Connected(who) => self.alone.give(Input::Connected(stranger(*who))),
            Happens::Disconnected(who) => self.alone.give(Input::Disconnected(Peer(*who))),
            Happens::Unreachable(who) => self.alone.give(Input::Unreachable(Peer(*who))),
        };
        self.note(outputs);
    }

    fn note(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Send { to, message } = &output
                && let Body::Request { id, .. } = message.body
            {
                self.open.push((*to, id));
            }
            self.said.push(output);
        }
    }

    /// How often each command ended.
    fn ends(&self) -> Vec<usize> {
        let mut ends = vec![0; usize::try_from(self.commands).unwrap()];
        for output in &self.said {
            if let Output::Done { op, .. } = output {
                ends[usize::try_from(op.0).unwrap()] += 1;
            }
        }
        ends
    }
}

fn command(what: u8, about: u32) -> Command {
    let (key, value) = (key(about), Bytes::from_static(b"v"));
    let lease = Lease { epoch: 1, counter: u64::from(about), key };
    match what {
        0 => Command::Put(Put { key, value, ttl: TTL, levels: Levels::All }),
        1 => Command::Get(key, Levels::All),
        2 => Command::Withdraw(key),
        3 => Command::Acquire(Acquire { key, reference: value, ttl: TTL, failed: Vec::new() }),
        4 => Command::Beat(lease, value),
        5 => Command::Pass(lease, Marker::Pass(TTL)),
        6 => Command::Release(lease),
        _ => Command::Spread(value),
    }
}

fn pointer(holder: u32) -> message::Pointer {
    message::Pointer { holder: stranger(holder), clusters: Vec::new(), value: Bytes::from_static(b"v"), ttl: TTL }
}

/// Answers of every kind, to whatever question.
fn reply(how: u8) -> Reply {
    let (lease, nodes) = (Lease { epoch: 0, counter: 0, key: key(0) }, (1..6).map(stranger).collect::<Vec<_>>());
    match how {
        0 => Reply::Wait,
        1 => Reply::Nodes(nodes),
        2 => Reply::Step { seen: Seen::Nothing, nodes },
        3 => Reply::Step { seen: Seen::Values(vec![pointer(3)]), nodes: Vec::new() },
        4 => Reply::Step { seen: Seen::Room(Room { loaded: false, count: 0, soonest: Duration::ZERO }), nodes },
        5 => Reply::Sought { level: Level::GLOBAL, values: Vec::new() },
        6 => Reply::Sought { level: Level(9), values: vec![pointer(4)] },
        7 => Reply::Stored(Verdict::Accepted),
        8 => Reply::Stored(Verdict::Full),
        9 => Reply::Acquired(Acquisition::Granted(lease)),
        10 => Reply::Acquired(Acquisition::Elsewhere(nodes)),
        11 => Reply::Beaten(Beaten::Elsewhere(nodes)),
        12 => Reply::Held(Held::Yes(Vec::new())),
        13 => Reply::Refused(Refusal::Busy),
        14 => Reply::Done,
        _ => Reply::Pong,
    }
}

/// Questions of a stranger.
fn request(what: u8, who: u32, about: u32) -> Request {
    let (key, value, level) = (key(about), Bytes::from_static(b"v"), Level::GLOBAL);
    let (failed, unreached) = (vec![stranger(who + 1).id], Vec::new());
    match what {
        0 => Request::Ping,
        1 => Request::Store { level, key, value, ttl: TTL },
        2 => Request::Seek { level, widest: level, key, seeker: stranger(who).id, hops: Request::HOPS },
        3 => Request::Acquire { key, reference: value, ttl: TTL, failed, unreached },
        4 => Request::Copy { level, key, values: vec![pointer(who)] },
        5 => Request::Step { level, key, aim: key, want: message::Want::Room { ttl: TTL } },
        6 => Request::Neighbours { level, nearest: true },
        7 => Request::Withdraw { key },
        _ => of_a_lease(what - 8, who, Lease { epoch: 1, counter: u64::from(about), key }),
    }
}

/// Questions about a lease.
fn of_a_lease(what: u8, who: u32, lease: Lease) -> Request {
    let (reference, unreached, key) = (Bytes::from_static(b"v"), Vec::new(), lease.key);
    let held = |ttl| LeaseState::Leased { lease, holder: message::Pointer { ttl, ..pointer(who) } };
    match what {
        0 => Request::Acquire { key, reference, ttl: TTL, failed: Vec::new(), unreached },
        1 => Request::Beat { lease, reference, ttl: TTL, unreached },
        RELEASE => Request::Beat { lease, reference, ttl: Duration::ZERO, unreached },
        3 => Request::Hold { key, state: held(TTL) },
        4 => Request::Hold { key, state: held(Duration::ZERO) },
        5 => Request::Pass { lease, marker: Marker::Pass(TTL) },
        _ => Request::Hold { key, state: LeaseState::Marked { marker: Marker::Pass(TTL), ttl: TTL } },
    }
}

/// The number of the question by which a lease is given back.
const RELEASE: u8 = 2;

fn hello(who: u32) -> Body {
    Body::Hello(Box::new(Hello { info: std::sync::Arc::new(info(stranger(who).id)), spreads: 0 }))
}

/// A node that has reached this many neighbours.
fn among(neighbours: u32) -> Alone {
    let mut node = Alone::new(Config::default());
    for peer in 1..=neighbours {
        node.give(Input::Connected(stranger(peer)));
        let outputs = node.pass(Duration::from_millis(100));
        node.pong(outputs);
    }
    for _ in 0..40 {
        let outputs = node.pass(Duration::from_millis(100));
        node.pong(outputs);
    }
    node
}

impl Alone {
    /// Answers the pings among what it said.
    fn pong(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Some((to, id)) = ping(&output) {
                let outputs = self.hear(to.0, Body::Reply { id, spent: Duration::ZERO, reply: Reply::Pong });
                self.pong(outputs);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Law 1, progress.
    #[test]
    fn each_node_that_a_question_is_handed_to_is_nearer_the_key_and_has_a_hop_less(
        neighbours in 2_u32..20,
        about in any::<u32>(),
        hops in 0..=Request::HOPS,
    ) {
        let mut node = among(neighbours);
        let (key, level) = (key(about), Level::GLOBAL);
        let mine = node.node.id().key().distance(&key);
        let seek = Request::Seek { level, widest: level, key, seeker: stranger(1).id, hops };
        let outputs = node.hear(1, Body::Request { id: 7, request: seek });
        let mut handed = 0;
        for output in outputs {
            let Output::Send { to, message } = output else { continue };
            let Body::Request { request: Request::Seek { hops: left, level: at, .. }, .. } = message.body else { continue };
            handed += 1;
            prop_assert!(to != Peer(1), "not back to where it came from");
            prop_assert!(stranger(to.0).id.key().distance(&key) < mine);
            prop_assert!(at <= level && left == hops - 1);
        }
        prop_assert!(handed <= 1 && (hops > 0 || handed == 0));
    }

    /// Law 2.
    #[test]
    fn every_operation_ends_exactly_once_whatever_is_answered_and_whoever_goes(life in prop::collection::vec(happens(), 0..120)) {
        let mut world = World::new();
        world.live(&life);
        let rest = world.alone.pass(Duration::from_secs(120));
        world.note(rest);
        let ends = world.ends();
        prop_assert!(ends.iter().all(|times| *times == 1), "{ends:?}");
    }

    /// Laws 3 and 10.
    #[test]
    fn who_never_answered_enters_no_table_no_answer_and_moves_no_cluster(life in prop::collection::vec(happens(), 0..120)) {
        let silent: Vec<Happens> = life.into_iter().filter(|event| !matches!(event, Happens::Answered(..))).collect();
        let mut world = World::new();
        let clusters: Vec<Key> = world.alone.node.levels().iter().map(|info| info.cluster).collect();
        world.live(&silent);
        let node = &world.alone.node;
        prop_assert!(node.levels().iter().all(|info| info.neighbours.is_empty() && info.size == 1));
        prop_assert_eq!(node.levels().iter().map(|info| info.cluster).collect::<Vec<_>>(), clusters);
        let query = NodesQuery { level: Level::GLOBAL, count: 100, target: None, services: Roles::NONE };
        prop_assert_eq!(node.nodes(&query).len(), 1, "itself");
    }

    /// Law 3: whoever answered is in a level's table once, and in a nearer level's only if in the wider one's.
    #[test]
    fn whoever_is_in_a_table_answered_and_is_in_it_once(life in prop::collection::vec(happens(), 0..120)) {
        let mut world = World::new();
        let mut answered = std::collections::BTreeSet::new();
        for event in &life {
            let before = world.open.clone();
            world.happen(event);
            answered.extend(before.into_iter().filter(|one| !world.open.contains(one)).map(|(to, _)| stranger(to.0).id));
        }
        for info in world.alone.node.levels() {
            let ids: Vec<NodeId> = info.neighbours.iter().map(|one| one.id).collect();
            let once: std::collections::BTreeSet<NodeId> = ids.iter().copied().collect();
            prop_assert_eq!(once.len(), ids.len());
            prop_assert!(once.is_subset(&answered), "{:?}", info.level);
        }
    }

    /// Law 6: that no deadline lies in the past is asserted as time passes; here, that none is left behind.
    #[test]
    fn each_timer_is_of_something_under_way_or_of_upkeep(life in prop::collection::vec(happens(), 0..120)) {
        let mut world = World::new();
        world.live(&life);
        world.alone.pass(Duration::from_secs(120));
        let node = &world.alone.node;
        let (counts, kinds) = (node.counts(), node.timers.iter().map(|(_, timer)| *timer));
        let (mut tasks, mut exchanges, mut upkeep) = (0, 0, Vec::new());
        for kind in kinds {
            match kind {
                Timer::Task(_) => tasks += 1,
                Timer::Exchange(_) => exchanges += 1,
                Timer::Probe | Timer::Check | Timer::Refresh | Timer::Pin | Timer::Sweep | Timer::Greet | Timer::Reseed => upkeep.push(kind),
            }
        }
        prop_assert_eq!((tasks, exchanges), (counts.operations, counts.exchanges));
        let once: std::collections::BTreeSet<Timer> = upkeep.iter().copied().collect();
        prop_assert_eq!(once.len(), upkeep.len());
        prop_assert!(node.timers.iter().all(|(at, _)| *at >= node.now));
    }

    /// Law 11.
    #[test]
    fn a_lease_given_back_is_never_live_again_in_whatever_order_messages_come(
        life in prop::collection::vec((1_u32..4, prop_oneof![9 => 0_u8..5, 1 => 5_u8..7], 1_u64..3, 0_u64..500), 0..60),
    ) {
        let mut node = Alone::new(Config::default());
        for peer in 1..4 {
            node.give(Input::Connected(stranger(peer)));
        }
        let mut released = std::collections::BTreeSet::new();
        for (who, what, counter, millis) in life {
            let lease = Lease { epoch: 1, counter, key: key(0) };
            node.pass(Duration::from_millis(millis));
            node.hear(who, Body::Request { id: 7, request: of_a_lease(what, who, lease) });
            if what == RELEASE {
                released.insert((lease, stranger(who).id));
            }
            let live = node.node.live_lease(node.now, &lease.key);
            prop_assert!(live.is_none_or(|live| !released.contains(&live)), "{:?} lives again", live);
        }
    }

    /// Law 7.
    #[test]
    fn the_same_life_makes_the_same_words(life in prop::collection::vec(happens(), 0..120)) {
        let lived = || {
            let mut world = World::new();
            world.live(&life);
            format!("{:?}", world.said)
        };
        prop_assert_eq!(lived(), lived());
    }

    /// Law 8: two nodes that compare never change places.
    #[test]
    fn of_two_clusters_exactly_one_is_better_whoever_compares(
        (one, other) in (1_u32..200, 1_u32..200),
        (a, b) in (any::<u32>(), any::<u32>()),
        margin in 0_u32..100,
    ) {
        prop_assume!(a != b);
        let (one, other) = ((one, key(a)), (other, key(b)));
        prop_assert!(is_better(one, other, margin) != is_better(other, one, margin));
        prop_assert!(!is_better(one, one, margin));
        prop_assert!(ranks_above(one, other) != ranks_above(other, one));
    }

    /// Law 9: what a node says it spent on an answer makes it no nearer than it is, if it is more than passed.
    #[test]
    fn a_time_spent_that_cannot_be_makes_nobody_nearer(way in 1_u64..200, claimed in 250_u64..1 << 40) {
        let mut node = Alone::new(Config::default());
        node.give(Input::Connected(stranger(1)));
        let way = Duration::from_millis(way);
        let mut under_way: Vec<(Instant, u64)> = Vec::new();
        for _ in 0..100 {
            for output in node.pass(Duration::from_millis(10)) {
                under_way.extend(ping(&output).filter(|(to, _)| *to == Peer(1)).map(|(_, id)| (node.now + way, id)));
            }
            let now = node.now;
            for (_, id) in under_way.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>() {
                let spent = Duration::from_millis(claimed);
                node.hear(1, Body::Reply { id, spent, reply: Reply::Pong });
            }
        }
        let rtt = node.node.levels()[0].neighbours.first().and_then(|one| one.rtt);
        prop_assert!(rtt.is_some_and(|rtt| rtt >= way), "{rtt:?}");
    }
}

#[test]
fn time_that_jumps_an_hour_ends_what_was_under_way_and_breaks_nothing() {
    let mut node = Alone::new(Config::default());
    node.give(Input::Connected(stranger(1)));
    answer_pings(&mut node, 1);
    let before = node.give(Input::Command { op: Op(1), command: Command::Get(key(1), Levels::All) });
    // The machine slept.
    node.now = node.now + Duration::from_secs(3_600);
    node.node.handle_timeout(node.now);
    let mut after: Vec<Output> = std::iter::from_fn(|| node.node.poll_output()).collect();
    after.extend(node.hear(1, Body::Request { id: 7, request: Request::Ping }));
    after.extend(node.pass(Duration::from_secs(10)));
    let done = |output: &&Output| matches!(output, Output::Done { op: Op(1), .. });
    assert_eq!(before.iter().chain(&after).filter(done).count(), 1);
    assert!(node.node.poll_timeout().is_some_and(|at| at >= node.now));
}
