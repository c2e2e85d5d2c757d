//! Laws of one node among neighbours that answer and say which clusters they are in: whom its tables hold (3), how often it asks to
//! store a key (5), and how soon it moves on (8). Those over strangers' random words stand in `laws.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    message::{Body, ClusterTag, Header, Message, Pointer, Reply, Request, Room, Seen, Verdict, Want},
    tests::{Alone, key, stranger},
    time::Instant,
    *,
};
use crate::{Config, Level, Mode};

/// A node, its neighbours' clusters, and their answers under way.
struct Company {
    alone: Alone,
    /// The clusters of each neighbour, level 1 first; those of the node itself where none is said.
    clusters: Vec<[Option<u8>; 2]>,
    /// What is to be said when, by whom.
    answers: Vec<(Instant, u32, Body)>,
    /// Who was asked for room for which key, when.
    intents: Vec<(Peer, Key, Instant)>,
    /// Neighbours that say they have a value under any key at level 2.
    have: Vec<u32>,
    /// Who was asked for values.
    sought: Vec<Peer>,
    outcomes: Vec<Outcome>,
}

impl Company {
    fn new(config: Config, neighbours: u32) -> Self {
        let mut company = Self {
            alone: Alone::new(config),
            clusters: (0..neighbours).map(|number| [Some(u8::try_from(number % 3).unwrap_or(0)); 2]).collect(),
            answers: Vec::new(),
            intents: Vec::new(),
            have: Vec::new(),
            sought: Vec::new(),
            outcomes: Vec::new(),
        };
        for neighbour in 1..=neighbours {
            let outputs = company.alone.give(Input::Connected(stranger(neighbour)));
            company.note(outputs);
        }
        company
    }

    /// Lets a step of time pass, with its answers.
    fn step(&mut self) {
        // An answer comes a part later than it is due, at most.
        for _ in 0..PARTS {
            let outputs = self.alone.pass(STEP / PARTS);
            self.note(outputs);
            let now = self.alone.now;
            for (_, from, body) in self.answers.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>() {
                let message = Message { header: Arc::new(self.header(from)), body };
                let outputs = self.alone.give(Input::Received { from: stranger(from), message: Box::new(message) });
                self.note(outputs);
            }
        }
    }

    fn command(&mut self, op: u64, command: Command) {
        let outputs = self.alone.give(Input::Command { op: Op(op), command });
        self.note(outputs);
    }

    /// Answers questions one way later.
    fn note(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Done { outcome, .. } = &output {
                self.outcomes.push(outcome.clone());
            }
            let Output::Send { to, message } = output else { continue };
            let Body::Request { id, request } = message.body else { continue };
            let others = || (1..=u32::try_from(self.clusters.len()).unwrap()).map(stranger);
            let reply = match request {
                Request::Neighbours { .. } => Reply::Nodes(others().take(Reply::NODES).collect()),
                Request::Step { level, key, want, .. } => {
                    let mut nodes: Vec<Contact> = others().collect();
                    nodes.sort_by_key(|node| node.id.key().distance(&key));
                    nodes.truncate(Reply::NODES);
                    let seen = match want {
                        Want::Room { .. } => {
                            self.intents.push((to, key, self.alone.now));
                            Seen::Room(Room { loaded: false, count: 0, soonest: Duration::ZERO })
                        }
                        Want::Values => {
                            self.sought.push(to);
                            let holds = level == Level(2) && self.have.contains(&to.0);
                            if holds { Seen::Values(vec![pointer(to.0)]) } else { Seen::Nothing }
                        }
                        Want::Nodes => Seen::Nothing,
                    };
                    Reply::Step { seen, nodes }
                }
                Request::Store { .. } => Reply::Stored(Verdict::Accepted),
                Request::Ping
                | Request::Seek { .. }
                | Request::Copy { .. }
                | Request::Withdraw { .. }
                | Request::Acquire { .. }
                | Request::Beat { .. }
                | Request::Pass { .. }
                | Request::Hold { .. }
                | Request::SpreadKeys { .. }
                | Request::SpreadGet { .. } => Reply::Pong,
            };
            self.answers.push((self.alone.now + WAY, to.0, Body::Reply { id, spent: Duration::ZERO, reply }));
        }
    }

    /// The id of a cluster by its number.
    fn cluster(&self, level: Level, number: Option<u8>) -> Key {
        let own = || self.alone.node.membership(level).map_or(Key::ZERO, |own| own.id);
        number.map_or_else(own, |number| Key::of(&[level.0, number]))
    }

    fn header(&self, of: u32) -> Header {
        let neighbour = usize::try_from(of - 1).unwrap();
        let tag = |level: u8| {
            let number = self.clusters[neighbour][usize::from(level - 1)];
            let mates = self.clusters.iter().filter(|one| one[usize::from(level - 1)] == number).count();
            ClusterTag { id: self.cluster(Level(level), number), age: HOUR.into(), size: u32::try_from(mates).unwrap() }
        };
        Header { clusters: [tag(1), tag(2)].into_iter().collect(), ..Header::default() }
    }

    /// The node's cluster at a level, how long it has been there, and how many it thinks are.
    fn own(&self, level: Level) -> (Key, Duration, u32) {
        let (node, now) = (&self.alone.node, self.alone.now);
        let own = node.membership(level).unwrap();
        (own.id, own.since(now), own.size(now, node.seen(level)))
    }
}

/// A neighbour goes to another cluster at a level, or to this node's own, and then so many steps pass.
fn moves() -> impl Strategy<Value = Vec<(usize, u8, Option<u8>, u16)>> {
    prop::collection::vec((0_usize..12, 1_u8..3, prop::option::weighted(0.8, 0_u8..3), 0_u16..160), 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Law 3, of the tables of clusters: who is in one said last that it is in that cluster.
    #[test]
    fn a_table_of_a_cluster_holds_those_alone_that_say_they_are_in_it(neighbours in 1_u32..12, life in moves()) {
        let mut company = Company::new(Config::default(), neighbours);
        let mut held = 0;
        for (who, level, to, steps) in life {
            let who = who % company.clusters.len();
            company.clusters[who][usize::from(level - 1)] = to;
            for _ in 0..steps {
                company.step();
                let node = &company.alone.node;
                for level in [1, 2].map(Level) {
                    let own = node.membership(level).unwrap().id;
                    for member in node.peers.members(level) {
                        held += 1;
                        prop_assert_eq!(member.tag(level).map(|tag| tag.id), Some(own));
                        prop_assert!(member.reached() && member.distance().is_some());
                    }
                }
            }
        }
        // Of eleven neighbours in three clusters some are joined in a second.
        prop_assert!(held > 0 || neighbours < 11 || company.alone.now.since_start() < Duration::from_secs(20));
    }

    /// Law 5: of all that a node's own callers want to store under a key, no more than beta a minute reach any one other node.
    #[test]
    fn no_node_is_asked_for_room_for_a_key_more_than_beta_times_a_minute(
        best in any::<bool>(),
        puts in prop::collection::vec((0_u32..2, 0_u16..60), 1..120),
    ) {
        let mode = if best { Mode::Best } else { Mode::Paper };
        let config = Config { mode, thresholds: Vec::new(), ..Config::default() };
        let beta = config.leak_per_minute;
        let mut company = Company::new(config, 6);
        (0..100).for_each(|_| company.step());
        for (op, (about, steps)) in (0..).zip(puts) {
            let value = Bytes::copy_from_slice(&u64::to_be_bytes(op));
            let put = Put { key: key(about), value, ttl: HOUR, levels: Levels::All };
            company.command(op, Command::Put(put));
            (0..steps).for_each(|_| company.step());
        }
        let mut asked: BTreeMap<(Peer, Key), Vec<Instant>> = BTreeMap::new();
        company.intents.iter().for_each(|(to, key, at)| asked.entry((*to, *key)).or_default().push(*at));
        for times in asked.into_values() {
            for (number, first) in times.iter().enumerate() {
                let within = times[number..].iter().filter(|at| at.since(*first) < MINUTE).count();
                prop_assert!(within <= beta, "{within} within a minute");
            }
        }
    }

    /// Law 8: who has company moves on to other company only once it has stayed for its dwell time, less in a small cluster.
    #[test]
    fn who_has_company_does_not_move_on_within_the_dwell_time(neighbours in 2_u32..12, life in moves()) {
        stays_for_its_dwell_time(neighbours, life)?;
    }
}

fn stays_for_its_dwell_time(neighbours: u32, life: Vec<(usize, u8, Option<u8>, u16)>) -> Result<(), TestCaseError> {
    let mut company = Company::new(Config::default(), neighbours);
    let dwell = Config::default().dwell;
    // How large each own cluster was lately: a check is begun by what is seen then, and ends up to two seconds later.
    let mut sizes = [1, 2].map(|level| vec![company.own(Level(level)).2]);
    for (who, level, to, steps) in life {
        let who = who % company.clusters.len();
        company.clusters[who][usize::from(level - 1)] = to;
        for _ in 0..steps {
            let before = [1, 2].map(|level| company.own(Level(level)));
            company.step();
            for level in [1, 2_u8] {
                let at = usize::from(level - 1);
                let (id, since, _) = before[at];
                let (now_in, _, size) = company.own(Level(level));
                let least = sizes[at].iter().rev().take(LATELY).copied().min().unwrap_or(1);
                let joined = (0..3).any(|number| company.cluster(Level(level), Some(number)) == now_in);
                if now_in != id {
                    let due = dwell * least.min(8) / 8;
                    prop_assert!(!joined || least <= 1 || since + STEP >= due, "after {since:?} among {least}");
                    sizes[at].clear();
                    // Who leaves is alone first, and may begin a check before the step ends in which others follow.
                    sizes[at].extend((!joined).then_some(1));
                }
                sizes[at].push(size);
            }
        }
    }
    Ok(())
}

#[test]
fn who_was_left_behind_may_go_where_it_was_about_to_go_when_others_came() {
    let life = vec![(4, 1, None, 46), (0, 2, Some(0), 98), (6, 1, None, 100)];
    stays_for_its_dwell_time(4, life).unwrap();
}

fn pointer(holder: u32) -> Pointer {
    Pointer { holder: stranger(holder), clusters: Vec::new(), value: Bytes::from_static(b"v"), ttl: HOUR }
}

/// A node in a level-2 cluster with neighbours 1 to 4; 5 is near, and in another one.
fn four_mates_and_an_outsider() -> Company {
    let mut company = Company::new(Config::default(), 5);
    company.clusters = vec![[Some(0); 2]; 5];
    company.clusters[4][1] = Some(1);
    (0..200).for_each(|_| company.step());
    let own = company.own(Level(2)).0;
    assert_eq!(own, company.cluster(Level(2), Some(0)), "of two small clusters the lower id draws who is alone");
    company.sought.clear();
    company
}

/// What a get at level 2 finds; those in `go` leave the cluster after they were asked.
fn got(company: &mut Company, go: &[usize]) -> Found {
    company.command(1, Command::Get(key(1), Levels::Only(Level(2))));
    go.iter().for_each(|who| company.clusters[*who][1] = Some(2));
    for _ in 0..400 {
        company.step();
        if let Some(outcome) = company.outcomes.pop() {
            let Outcome::Get(Ok(found)) = outcome else { panic!("{outcome:?}") };
            return found;
        }
    }
    panic!("a get ends");
}

#[test]
fn a_member_of_the_cluster_that_is_asked_has_a_say() {
    let mut company = four_mates_and_an_outsider();
    company.have = vec![1, 2, 3, 4];
    let found = got(&mut company, &[]);
    assert!(matches!(found, Found::Values { level: Level(2), .. }), "{found:?}");
}

#[test]
fn who_is_named_by_a_member_and_is_none_has_no_say() {
    let mut company = four_mates_and_an_outsider();
    company.have = vec![5];
    assert_eq!(got(&mut company, &[]), Found::Nothing);
    assert!(company.sought.contains(&Peer(5)), "it was asked: {:?}", company.sought);
}

#[test]
fn who_has_left_the_cluster_when_it_answers_has_no_say() {
    let mut company = four_mates_and_an_outsider();
    company.have = vec![1, 2, 3, 4];
    assert_eq!(got(&mut company, &[0, 1, 2, 3]), Found::Nothing);
    assert!(!company.sought.is_empty());
}

/// What passes at once, and in how many parts.
const STEP: Duration = Duration::from_millis(50);
const PARTS: u32 = 5;

/// Steps for which a check may be under way, and some more.
const LATELY: usize = 50;

/// How long an answer takes: near at every level.
const WAY: Duration = Duration::from_millis(5);

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
