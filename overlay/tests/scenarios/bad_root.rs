//! A root that is slow, or silent, or has become far: what it costs to be granted a fetch all the same; and that one node is, not two. The
//! same where the bad node is not the root, but may be one of those that are to hold a lease before it is granted.

use std::time::Duration;

use atoll_overlay::{
    Acquired, Beat, Config, Key, Lease, Levels,
    core::{Command, Outcome},
    sim::{Network, Sim},
};

use bytes::Bytes;

use super::support::{acquire, acquire_command, beat_for, id, ms, put, secs, started};

/// What becomes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// All packets take so much longer each way.
    Slow(Duration),
    /// Nothing comes from it, nor to it.
    Hole,
}

const TURNS: [Turn; 7] = [
    Turn::Slow(ms(1_000)),
    Turn::Slow(ms(500)),
    Turn::Slow(ms(300)),
    Turn::Slow(ms(200)),
    Turn::Slow(ms(100)),
    Turn::Slow(ms(50)),
    Turn::Hole,
];

impl Turn {
    /// Its round trip, unless nothing can answer so late.
    fn round_trip(self) -> Option<Duration> {
        match self {
            Self::Slow(extra) => Some(2 * extra + NEAR).filter(|took| *took < ms(600)),
            Self::Hole => None,
        }
    }

    /// How long a grant may take that the bad node is the root for. One that answers in time decides itself: it names its own copy, is told
    /// that this failed, and asks those that are to hold the lease.
    fn bound_of_root(self) -> Duration {
        self.round_trip().map_or(ms(450), |trip| (3 * trip + ms(100)).max(ms(450)))
    }

    /// The same of another root, which may ask the bad node to hold the lease, and waits for it unless that takes half of the time.
    fn bound_of_other(self) -> Duration {
        let waited_for = self.round_trip().filter(|trip| *trip < ms(300));
        waited_for.map_or(ms(300), |trip| (HEDGE + trip + 3 * NEAR).max(ms(300)))
    }
}

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
        let far =
            move |one: usize, other: usize| NEAR + if (one >= FAR) == (other >= FAR) { Duration::ZERO } else { more };
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
            put(&mut sim, bad, *key, secs(3_600), Levels::All).expect("stored");
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
            for (key, bound) in [(root, turn.bound_of_root()), (other, turn.bound_of_other())] {
                let took = place.until_granted(2, key);
                assert!(took.is_some_and(|took| took <= bound), "{turn:?}, seed {seed}, {at}: {took:?} of {bound:?}");
                place.sim.run_for(ms(250));
            }
        }
    }
}

#[test]
fn a_fetch_is_granted_soon_however_much_is_known_yet_of_a_root_that_fetched_it_and_fell_silent() {
    for (turn, seed) in
        [Turn::Slow(ms(1_000)), Turn::Hole].into_iter().flat_map(|turn| (0..8).map(move |seed| (turn, seed)))
    {
        let mut place = Place::new(seed, turn);
        let roots = place.roots.clone();
        for key in &roots {
            // The next-closest nodes keep its lease until they hear more of it, which they do not.
            let granted = acquire(&mut place.sim, place.bad, *key, &[]);
            assert!(matches!(granted, Ok(Acquired::Granted(_))), "{turn:?}, seed {seed}: {granted:?}");
        }
        place.spoil(turn);
        for (at, key) in roots.into_iter().enumerate() {
            let asker = [2, 3][at % 2];
            let took = place.until_granted(asker, key);
            let bound = if turn == Turn::Hole { SOON } else { LATER };
            assert!(took.is_some_and(|took| took <= bound), "{turn:?}, seed {seed}, {at}: {took:?}");
            // Each finds the nodes at another stage of noticing.
            place.sim.run_for(ms(37));
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

#[test]
fn a_root_that_stands_still_for_a_moment_and_who_stands_in_for_it_grant_one_fetch_between_them() {
    let pauses = [50, 100, 150, 200, 250, 300, 400, 600];
    for (pause, seed) in pauses.into_iter().flat_map(|pause| (0..4).map(move |seed| (pause, seed))) {
        let mut place = Place::new(seed, Turn::Hole);
        for key in place.others.split_off(EACH / 2).into_iter().chain(place.roots.clone()) {
            let root = (0..NODES).min_by_key(|node| id(&place.sim, *node).key().distance(&key)).expect("nodes");
            let failed = [id(&place.sim, place.bad)];
            let good: Vec<usize> = (0..NODES).filter(|node| *node != place.bad && *node != root).collect();
            // It may stand still before, while or after it is asked first.
            let (first, rest) = good.split_first().expect("others");
            let mut ops = vec![(*first, place.sim.command(*first, acquire_command(key, &failed)))];
            place.sim.run_for(ms(seed * 5));
            place.sim.freeze(root, ms(pause));
            for node in rest {
                ops.push((*node, place.sim.command(*node, acquire_command(key, &failed))));
                place.sim.run_for(ms(pause / 4));
            }
            let said = ops.into_iter().map(|(node, op)| (node, place.sim.wait(op, secs(3))));
            let granted: Vec<_> = said
                .filter(|(_, said)| matches!(said, Some((_, Outcome::Acquire(Ok(Acquired::Granted(_)))))))
                .map(|(node, _)| node)
                .collect();
            // Nobody waits for longer than 600 ms: whoever it began to grant the fetch asks the origin by itself then.
            let least = usize::from(pause < 600);
            assert!((least..=1).contains(&granted.len()), "{pause} ms, seed {seed}: {granted:?}");
            place.sim.run_for(secs(2));
        }
    }
}

#[test]
fn of_two_that_are_granted_a_fetch_as_one_reaches_the_root_and_the_other_does_not_one_goes_on() {
    let turn = Turn::Slow(ms(300));
    for seed in 0..4 {
        let mut place = Place::new(seed, turn);
        place.spoil(turn);
        let (here, beside) = (2, 3);
        place.sim.relocate(beside, FAR + beside);
        // All have measured it.
        place.sim.run_for(secs(20));
        let (key, failed) = (place.roots[0], [id(&place.sim, place.bad)]);
        let ops = [here, beside].map(|node| (node, place.sim.command(node, acquire_command(key, &failed))));
        let mut fetching: Vec<(usize, Lease)> = Vec::new();
        for (node, op) in ops {
            match place.sim.wait(op, secs(4)) {
                Some((_, Outcome::Acquire(Ok(Acquired::Granted(lease))))) => fetching.push((node, lease)),
                Some((_, Outcome::Acquire(Ok(Acquired::References(_))))) => {}
                other => panic!("seed {seed}, node {node}: {other:?}"),
            }
        }
        // Copies of leases are renewed every 5 s.
        for _ in 0..20 {
            let beat = |lease: &Lease| Command::Beat(*lease, Bytes::from_static(b"further"));
            let ops: Vec<_> = fetching.iter().map(|(node, lease)| place.sim.command(*node, beat(lease))).collect();
            let mut said = ops.into_iter().map(|op| place.sim.wait(op, secs(2))).collect::<Vec<_>>().into_iter();
            fetching.retain(|_| !matches!(said.next(), Some(Some((_, Outcome::Beat(Ok(Beat::Superseded(_))))))));
            place.sim.run_for(ms(200));
        }
        assert_eq!(fetching.len(), 1, "seed {seed}: {fetching:?}");
    }
}

/// Sites below this are near each other, and so are those from here on; one and the other are far from each other.
const FAR: usize = 100;

const NEAR: Duration = ms(8);

const NODES: usize = 6;

/// Keys of each kind.
const EACH: usize = 16;

/// A quarter of the shortest time after which silence counts against a node, until the next one is asked; half of it, for that one to
/// see for itself; and what they say to each other.
const SOON: Duration = ms(63 + 125 + 6 * 8 + 14);

/// The same where what the root said long ago comes in meanwhile, so that it looks alive: it is asked a second time.
const LATER: Duration = ms(450);

/// How long a proxy waits for a holder that is near, before it says that it failed.
const HEDGE: Duration = ms(200);
