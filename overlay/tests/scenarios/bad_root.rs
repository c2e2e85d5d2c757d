//! A root that is slow, or silent, or has become far: what it costs to be granted a fetch all the same; and that one node is, not two. The
//! same where the bad node is not the root, but may be one of those that are to hold a lease before it is granted.

use std::time::Duration;

use atoll_overlay::{
    Acquired, Config, Key, Levels,
    core::Outcome,
    sim::{Network, Sim},
};

use super::support::{acquire, acquire_command, beat_for, id, ms, put, secs, started};

/// What becomes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// All packets take so much longer each way.
    Slow(Duration),
    /// Nothing comes from it, nor to it.
    Hole,
}

const TURNS: [Turn; 4] = [Turn::Slow(ms(1_000)), Turn::Slow(ms(500)), Turn::Slow(ms(300)), Turn::Hole];

/// Nodes in one place, and the bad one among them. It has put all keys, as one does that has copies.
struct Place {
    sim: Sim,
    bad: usize,
    /// Keys whose root it is.
    roots: Vec<Key>,
    others: Vec<Key>,
}

impl Place {
    fn new(seed: u64, turn: Turn) -> Self {
        let more = if let Turn::Slow(extra) = turn { 2 * extra } else { Duration::ZERO };
        let far = move |one: usize, other: usize| ms(8) + if one.max(other) >= FAR { more } else { Duration::ZERO };
        let mut sim = started(Sim::new(Config::default(), Network::Function(Box::new(far)), seed), NODES);
        sim.run_for(secs(30));
        let bad = NODES - 2;
        let is_root = |key: &Key| (0..NODES).min_by_key(|node| id(&sim, *node).key().distance(key)) == Some(bad);
        let (mut roots, mut others): (Vec<Key>, Vec<Key>) =
            (0_u32..1_000).map(|name| Key::of(&name.to_be_bytes())).partition(is_root);
        roots.truncate(EACH);
        others.truncate(EACH);
        assert_eq!((roots.len(), others.len()), (EACH, EACH), "keys of both kinds, seed {seed}");
        for key in roots.iter().chain(&others) {
            put(&mut sim, bad, *key, secs(3_600), Levels::All).unwrap();
        }
        Self { sim, bad, roots, others }
    }

    fn spoil(&mut self, turn: Turn) {
        if turn != Turn::Hole {
            return self.sim.relocate(self.bad, FAR + self.bad);
        }
        for node in (0..NODES).filter(|node| *node != self.bad) {
            self.sim.faults_mut().block(node, self.bad);
            self.sim.faults_mut().block(self.bad, node);
        }
    }

    /// How long until a node may fetch, as a proxy goes about it: who is named fails it, which it knows after a while, and asks again. None
    /// if it is granted nothing.
    fn until_granted(&mut self, node: usize, key: Key) -> Option<Duration> {
        let (start, failed) = (self.sim.now(), [id(&self.sim, self.bad)]);
        let mut answer = acquire(&mut self.sim, node, key, &[]);
        if let Ok(Acquired::References(_)) = answer {
            self.sim.run_until(self.sim.now().max(start + HEDGE));
            answer = acquire(&mut self.sim, node, key, &failed);
        }
        matches!(answer, Ok(Acquired::Granted(_))).then(|| self.sim.now().since(start))
    }
}

#[test]
fn a_fetch_is_granted_in_time_whatever_becomes_of_the_root_or_of_one_of_its_next() {
    for (turn, seed) in TURNS.into_iter().flat_map(|turn| (0..4).map(move |seed| (turn, seed))) {
        let mut place = Place::new(seed, turn);
        place.spoil(turn);
        let (roots, others) = (place.roots.clone(), place.others.clone());
        for (at, (root, other)) in roots.into_iter().zip(others).enumerate() {
            for (key, bound) in [(root, ms(450)), (other, ms(300))] {
                let took = place.until_granted(2, key);
                assert!(took.is_some_and(|took| took <= bound), "{turn:?}, seed {seed}, {at}: {took:?} of {bound:?}");
                place.sim.run_for(ms(250));
            }
        }
    }
}

#[test]
fn while_the_root_does_not_answer_one_of_all_is_granted_the_fetch() {
    for (turn, seed) in TURNS.into_iter().flat_map(|turn| (0..4).map(move |seed| (turn, seed))) {
        let mut place = Place::new(seed, turn);
        place.spoil(turn);
        let key = place.roots[0];
        let failed = [id(&place.sim, place.bad)];
        let good = || (0..NODES).filter(|node| *node != NODES - 2);
        let ops: Vec<_> = good().map(|node| (node, place.sim.command(node, acquire_command(key, &failed)))).collect();
        let mut granted = Vec::new();
        for (node, op) in ops {
            match place.sim.wait(op, secs(2)) {
                Some((_, Outcome::Acquire(Ok(Acquired::Granted(lease))))) => granted.push((node, lease)),
                Some((_, Outcome::Acquire(Ok(Acquired::References(_))))) => {}
                other => panic!("{turn:?}, seed {seed}, node {node}: {other:?}"),
            }
        }
        let [(holder, lease)] = granted[..] else { panic!("{turn:?}, seed {seed}: {granted:?}") };
        // It stays so while the late questions arrive at the root, and its neighbours learn what it is like.
        for _ in 0..4 {
            beat_for(&mut place.sim, holder, lease, secs(1));
            for node in good().filter(|node| *node != holder) {
                let answer = acquire(&mut place.sim, node, key, &failed);
                assert!(matches!(answer, Ok(Acquired::References(_))), "{turn:?}, seed {seed}, {node}: {answer:?}");
            }
        }
    }
}

/// Sites below this are 8 ms apart; those from here on are slow.
const FAR: usize = 100;

const NODES: usize = 6;

/// Keys of each kind.
const EACH: usize = 16;

/// How long a proxy waits for a holder that is near, before it says that it failed.
const HEDGE: Duration = ms(200);
