//! A flash crowd (NSDI'04 6.1): every proxy wants the same new files, and the origin sits behind a thin line. What a proxy does is
//! reduced to what bears on the origin: acquire, fetch or stream, beat, announce.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Figure, Report, Series, count},
    setup::{Churn, acquire, key, put},
};
use crate::{
    Acquired, Beat, Found, Lease, Levels, NodeId, Value,
    core::{Command, Op, Outcome, rng::Rng, time::Instant},
    sim::Sim,
};

/// How clients ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    /// Each walks all files in an order of its own, from the start.
    Walk,
    /// Each draws files at random, after a delay of up to three minutes, as in the paper.
    Draws,
}

/// What one proxy is about.
#[derive(Debug, Clone)]
enum State {
    /// Its client thinks until then.
    Thinks(Instant),
    /// It asked the index.
    Asks { op: Op, file: usize, since: Instant, failed: Vec<NodeId> },
    /// The root was silent, so it asks who has a copy: what a real proxy does from the start.
    Looks { op: Op, file: usize },
    /// It fetches from the origin.
    Fetches { file: usize, lease: Option<Lease>, left: f64, beat: Instant, beaten: Option<Op> },
    /// It streams from another.
    Streams { file: usize, from: usize, until: Option<Instant> },
    /// Its client has left.
    Done,
}

struct Crowd {
    sim: Sim,
    seed: u64,
    rng: Rng,
    workload: Workload,
    states: Vec<State>,
    /// When each client began to want the file it waits for.
    wanted: Vec<Instant>,
    /// The longest that one waited, or waits.
    slowest: Duration,
    /// Proxies that are there from the start; those that churn brings come later.
    first: usize,
    orders: Vec<Vec<usize>>,
    holds: Vec<[bool; FILES]>,
    by_id: BTreeMap<NodeId, usize>,
    fetches: usize,
    ungranted: usize,
    died_fetching: usize,
    warm: Option<Instant>,
    load: Vec<(f64, f64)>,
}

pub(super) fn flash_crowd(setup: &Setup, progress: Progress<'_>) -> Report {
    let mut report = Report::default();
    let nodes = setup.nodes(Scenario::FlashCrowd);
    let minutes = setup.minutes(Scenario::FlashCrowd);
    let mut crowd = Crowd::new(setup, nodes, Workload::Walk);
    crowd.run(setup, minutes.min(10), &mut |done, events| progress(done / 2.0, events));
    let most =
        if setup.churn { Bound::AtMost(count(FILES + crowd.died_fetching)) } else { Bound::Exactly(count(FILES)) };
    report.hold("origin_fetches", count(crowd.fetches), most);
    report.hold("all_warm_s", crowd.warm_seconds(), Bound::Below(60.0));
    report.print("origin_ungranted", count(crowd.ungranted));
    report.print("died_fetching", count(crowd.died_fetching));
    report.print("slowest_file_s", crowd.slowest.as_secs_f64());
    let walk = Series { name: "each walks all files".to_owned(), points: crowd.load.clone() };
    report.close(&crowd.sim);
    drop(crowd);
    let mut crowd = Crowd::new(setup, nodes, Workload::Draws);
    crowd.run(setup, minutes, &mut |done, events| progress(0.5 + done / 2.0, events));
    report.print("paper_origin_fetches", count(crowd.fetches));
    report.print("paper_all_warm_s", crowd.warm_seconds());
    report.print("paper_slowest_file_s", crowd.slowest.as_secs_f64());
    report.close(&crowd.sim);
    report.figures.push(Figure {
        name: "flash-crowd".to_owned(),
        title: format!("fetches from the origin, {nodes} proxies, {FILES} files"),
        axes: ["seconds".to_owned(), "fetches so far".to_owned()],
        series: vec![walk, Series { name: "random draws".to_owned(), points: crowd.load.clone() }],
        points: false,
    });
    report
}

impl Crowd {
    fn new(setup: &Setup, nodes: usize, workload: Workload) -> Self {
        let mut sim = setup.warm(setup.config(), nodes);
        sim.run_for(Duration::from_secs(5));
        let mut rng = setup.rng();
        let start = sim.now();
        let delay = |rng: &mut Rng| match workload {
            Workload::Walk => Duration::ZERO,
            Workload::Draws => Duration::from_millis(u64::try_from(rng.below(180_000)).unwrap_or(0)),
        };
        let states = (0..nodes).map(|_| State::Thinks(start + delay(&mut rng))).collect();
        let mut crowd = Self {
            sim,
            seed: setup.seed,
            workload,
            states,
            wanted: vec![start; nodes],
            slowest: Duration::ZERO,
            first: nodes,
            orders: Vec::new(),
            holds: vec![[false; FILES]; nodes],
            by_id: BTreeMap::new(),
            fetches: 0,
            ungranted: 0,
            died_fetching: 0,
            warm: None,
            load: vec![(0.0, 0.0)],
            rng,
        };
        (0..nodes).for_each(|node| crowd.admit(node));
        crowd
    }

    /// Gives a node its client's order of files.
    fn admit(&mut self, node: usize) {
        let mut order: Vec<usize> = (0..FILES).collect();
        self.rng.shuffle(&mut order);
        self.orders.push(order);
        if let Some(contact) = self.sim.contact(node) {
            self.by_id.insert(contact.id, node);
        }
    }

    fn run(&mut self, setup: &Setup, minutes: u64, progress: Progress<'_>) {
        let start = self.sim.now();
        let end = start + Duration::from_secs(60 * minutes);
        let mut churn = setup.churn.then(|| Churn::new(&self.sim, Duration::from_secs(3_600), self.seed));
        while self.sim.now() < end && (self.warm.is_none() || self.workload == Workload::Draws) {
            let next = self.sim.now() + TICK;
            match &mut churn {
                Some(churn) => churn.run_until(&mut self.sim, next),
                None => self.sim.run_until(next),
            }
            self.newcomers();
            self.serve_origin();
            (0..self.states.len()).for_each(|node| self.step(node));
            let whole = |node: &usize| self.holds[*node].iter().all(|held| *held);
            // A newcomer has its whole walk before it, and under churn there is always another one.
            if self.warm.is_none() && (0..self.first).filter(|node| self.sim.is_alive(*node)).all(|node| whole(&node)) {
                self.warm = Some(self.sim.now());
            }
            let since = self.sim.now().since(start).as_secs_f64();
            progress(since / end.since(start).as_secs_f64(), self.sim.events());
        }
        self.note_waiting();
        self.warm = self.warm.map(|at| Instant::at(at.since(start)));
        self.load.push((self.sim.now().since(start).as_secs_f64(), count(self.fetches)));
    }

    /// Who has no file yet has waited until now.
    fn note_waiting(&mut self) {
        let waits = |state: &State| !matches!(state, State::Thinks(_) | State::Done);
        for (_, wanted) in self.states.iter().zip(&self.wanted).filter(|(state, _)| waits(state)) {
            self.slowest = self.slowest.max(self.sim.now().since(*wanted));
        }
    }

    fn warm_seconds(&self) -> f64 {
        self.warm.map_or(f64::INFINITY, |at| at.since_start().as_secs_f64())
    }

    /// Nodes that were born of churn begin with a cold cache.
    fn newcomers(&mut self) {
        for node in self.states.len()..self.sim.len() {
            self.states.push(State::Thinks(self.sim.now() + Duration::from_secs(5)));
            self.wanted.push(self.sim.now());
            self.holds.push([false; FILES]);
            self.admit(node);
        }
        for node in 0..self.states.len() {
            if !self.sim.is_alive(node) && !matches!(self.states[node], State::Done) {
                self.died_fetching += usize::from(matches!(self.states[node], State::Fetches { .. }));
                self.states[node] = State::Done;
            }
        }
    }

    /// The origin's line is shared by all that fetch.
    fn serve_origin(&mut self) {
        let fetching = self.states.iter().filter(|state| matches!(state, State::Fetches { .. })).count();
        let share = ORIGIN_BYTES_PER_SECOND * TICK.as_secs_f64() / count(fetching.max(1));
        for state in &mut self.states {
            if let State::Fetches { left, .. } = state {
                *left -= share;
            }
        }
    }

    fn step(&mut self, node: usize) {
        let now = self.sim.now();
        let state = std::mem::replace(&mut self.states[node], State::Done);
        self.states[node] = match state {
            State::Thinks(until) if until <= now => self.want(node),
            State::Asks { op, file, since, failed } => self.asked(node, op, (file, since), failed),
            State::Looks { op, file } => self.looked(op, file),
            State::Fetches { file, lease, left, beat, beaten } => {
                self.fetching(node, file, lease, (left, beat, beaten))
            }
            State::Streams { file, from, until } => self.streaming(node, file, from, until),
            State::Thinks(_) | State::Done => state,
        };
    }

    /// The client wants its next file.
    fn want(&mut self, node: usize) -> State {
        let file = match self.workload {
            Workload::Walk => match self.orders[node].pop() {
                Some(file) => file,
                None => return State::Done,
            },
            Workload::Draws => self.rng.below(FILES),
        };
        if self.holds[node][file] {
            return self.think();
        }
        self.wanted[node] = self.sim.now();
        self.ask(node, file, Vec::new())
    }

    fn think(&self) -> State {
        State::Thinks(self.sim.now() + REQUEST_EVERY)
    }

    fn ask(&mut self, node: usize, file: usize, failed: Vec<NodeId>) -> State {
        let op = self.sim.command(node, acquire(key(self.seed, 4, file), failed.clone()));
        State::Asks { op, file, since: self.sim.now(), failed }
    }

    /// What the index said, if it did.
    fn asked(&mut self, node: usize, op: Op, (file, since): (usize, Instant), failed: Vec<NodeId>) -> State {
        match self.sim.outcome(op) {
            None => State::Asks { op, file, since, failed },
            Some((_, Outcome::Acquire(Ok(Acquired::Granted(lease))))) => self.fetch(file, Some(lease)),
            Some((_, Outcome::Acquire(Ok(Acquired::References(values))))) => match self.source(&values) {
                Some(from) => State::Streams { file, from, until: None },
                None => {
                    let named: Vec<NodeId> = values.iter().map(|value| value.holder).collect();
                    self.ask(node, file, named)
                }
            },
            Some(_) => {
                let op = self.sim.command(node, Command::Get(key(self.seed, 4, file), Levels::All));
                State::Looks { op, file }
            }
        }
    }

    /// The root cannot be asked: without a copy elsewhere the proxy goes to the origin by itself, and this is counted.
    fn looked(&mut self, op: Op, file: usize) -> State {
        let from = match self.sim.outcome(op) {
            None => return State::Looks { op, file },
            Some((_, Outcome::Get(Ok(Found::Values { values, .. })))) => self.source(&values),
            Some(_) => None,
        };
        if let Some(from) = from {
            return State::Streams { file, from, until: None };
        }
        self.ungranted += 1;
        self.fetch(file, None)
    }

    fn source(&self, values: &[Value]) -> Option<usize> {
        let able = |holder: &usize| self.sim.is_alive(*holder);
        values.iter().filter_map(|value| self.by_id.get(&value.holder)).copied().find(able)
    }

    fn fetch(&mut self, file: usize, lease: Option<Lease>) -> State {
        self.fetches += 1;
        self.load.push((self.sim.now().since_start().as_secs_f64() - 5.0, count(self.fetches)));
        State::Fetches { file, lease, left: FILE_BYTES, beat: self.sim.now() + BEAT, beaten: None }
    }

    fn fetching(
        &mut self,
        node: usize,
        file: usize,
        lease: Option<Lease>,
        (left, beat, mut beaten): (f64, Instant, Option<Op>),
    ) -> State {
        if left <= 0.0 {
            return self.take(node, file);
        }
        if let Some((_, Outcome::Beat(Ok(Beat::Superseded(by))))) = beaten.and_then(|op| self.sim.outcome(op)) {
            // Somebody with an older right fetches already.
            if let Some(from) = self.by_id.get(&by.holder).copied().filter(|from| self.can_give(*from, file)) {
                return State::Streams { file, from, until: None };
            }
        }
        let now = self.sim.now();
        let due = beat <= now;
        if let Some(lease) = lease.filter(|_| due) {
            beaten = Some(self.sim.command(node, Command::Beat(lease, Bytes::from_static(b"further"))));
        }
        State::Fetches { file, lease, left, beat: if due { now + BEAT } else { beat }, beaten }
    }

    /// A stream ends a round trip and its transfer after it began, or when its source has the whole.
    fn streaming(&mut self, node: usize, file: usize, from: usize, until: Option<Instant>) -> State {
        let now = self.sim.now();
        // A source that was granted the fetch a moment ago may not have begun.
        let begins =
            matches!(&self.states[from], State::Asks { file: one, .. } if *one == file) && self.sim.is_alive(from);
        if !self.can_give(from, file) && !begins {
            let failed = self.sim.contact(from).map(|one| one.id).into_iter().collect();
            return self.ask(node, file, failed);
        }
        let transfer = self.sim.distance(node, from) * 2 + TRANSFER;
        match until {
            Some(until) if until <= now => self.take(node, file),
            Some(_) => State::Streams { file, from, until },
            None if self.holds[from][file] => State::Streams { file, from, until: Some(now + transfer) },
            None => State::Streams { file, from, until },
        }
    }

    /// The file is here: the index is told, and the client goes on.
    fn take(&mut self, node: usize, file: usize) -> State {
        self.holds[node][file] = true;
        self.slowest = self.slowest.max(self.sim.now().since(self.wanted[node]));
        self.sim.command(node, put(key(self.seed, 4, file), b"whole", Levels::All));
        self.think()
    }

    /// Whether a node lives and has the file, or is getting it.
    fn can_give(&self, node: usize, file: usize) -> bool {
        let getting = matches!(&self.states[node], State::Fetches { file: one, .. } | State::Streams { file: one, .. } if *one == file);
        self.sim.is_alive(node) && (self.holds[node][file] || getting)
    }
}

/// Files and their size (4 pages of 3 images each, 41 KB), and the origin's line: 384 kbit/s. [NSDI'04 6.1]
const FILES: usize = 12;
const FILE_BYTES: f64 = 41_000.0;
const ORIGIN_BYTES_PER_SECOND: f64 = 48_000.0;

/// 0.6 requests a second and client. [NSDI'04 6.1]
const REQUEST_EVERY: Duration = Duration::from_micros(1_666_667);

/// Time between looks at what proxies do.
const TICK: Duration = Duration::from_millis(20);

/// Time between beats.
const BEAT: Duration = Duration::from_millis(300);

/// What a file takes over a line of 10 Mbit/s.
const TRANSFER: Duration = Duration::from_millis(33);
