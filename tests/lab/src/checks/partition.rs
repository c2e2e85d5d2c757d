//! Scenario 5: the world is cut in two; both sides serve all that they hold, and after healing all is as before: answers within 30 s,
//! clusters within 60 s.
//!
//! A side holds what nodes of it have served before the cut: the origin is on one side, and the other lives by its copies. While cut,
//! each client asks for all that its side holds, until everybody has everything or the time of the cut is over: what a resolver was
//! told before the cut may name the other side for one TTL.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::rr::Name;

use super::{
    flash_crowd::origin,
    outcome::{Wanted, percent},
    stage::{Clusters, NEAR, Stage, clients, http, look_up, named, nodes, say_aside},
};
use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    measure::fetch,
    router::Change,
    scenario::{Host, OriginFile, Role},
    units::millis,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let lab = stage.up(|_| ())?;
    stage.wait_for_clusters(&lab)?;
    let (_, files) = origin(&lab)?;
    let name = format!("www.site.test.{}", lab.scenario().zone);
    let world = World {
        lab: &lab,
        name,
        files: &files[..stage.by_scale(4, files.len()).min(files.len())],
        sides: halves(&lab),
    };
    let (all, mut before) = (world.everything(), Served::new());
    stage.wait_until(Duration::from_secs(60), || {
        before.extend(world.serve(&all));
        before.len() == all.len()
    })?;
    stage.claim("served_before", percent(before.len(), all.len()), "%", Wanted::Exactly(100.0));
    // What was answered to strangers lapses, so that each side has been referred to its own servers.
    stage.wait(stage.refresh())?;
    let answers = world.distances(&world.serve(&world.first_file()));
    let clusters = Clusters::of(&lab);
    let (found, could) = clusters.found_their_neighbours(&lab);
    stage.claim("clustered_before", percent(found, could), "%", stage.share(80.0));
    let [east, west] = &world.sides;
    lab.change(Change::Cut { from: list(east), to: list(west), one_way: false });
    let cut = Instant::now();
    world.claim_while_cut(stage, &before, cut)?;
    stage.wait(stage.by_scale(SHORT_CUT, LONG_CUT).saturating_sub(cut.elapsed()))?;
    lab.change(Change::HealAll);
    world.claim_after(stage, &answers, &clusters, Instant::now())?;
    stage.leave(lab);
    Ok(())
}

/// Who asked for which file, by its place in the list, and the node that served it.
type Served = BTreeMap<(HostId, usize), HostId>;
type Pairs = BTreeSet<(HostId, usize)>;

/// A lab, what its clients ask for, and how it is cut.
struct World<'l> {
    lab: &'l Lab,
    name: String,
    files: &'l [OriginFile],
    sides: [BTreeSet<HostId>; 2],
}

impl World<'_> {
    /// Every client, every file.
    fn everything(&self) -> Pairs {
        let files = |client: &Host| (0..self.files.len()).map(|file| (client.id, file)).collect::<Vec<_>>();
        clients(self.lab).into_iter().flat_map(files).collect()
    }

    /// Every client, one file.
    fn first_file(&self) -> Pairs {
        clients(self.lab).into_iter().map(|client| (client.id, 0)).collect()
    }

    /// What each side's clients can ask for that nodes of their side have served.
    fn held(&self, served: &Served) -> [Pairs; 2] {
        self.sides.each_ref().map(|side| {
            let held: BTreeSet<usize> =
                served.iter().filter(|(_, node)| side.contains(node)).map(|((_, file), _)| *file).collect();
            let all = self.everything().into_iter();
            all.filter(|(client, file)| side.contains(client) && held.contains(file)).collect()
        })
    }

    fn claim_while_cut(&self, stage: &mut Stage<'_>, before: &Served, cut: Instant) -> Result<(), Error> {
        let held = self.held(before);
        let all: Pairs = held.iter().flatten().copied().collect();
        let mut now = Served::new();
        let patience = stage.by_scale(SHORT_CUT, LONG_CUT);
        stage.wait_until(patience, || {
            now = self.serve(&all);
            now.len() == all.len()
        })?;
        stage.figure("served_while_cut_after", cut.elapsed().as_secs_f64(), "s");
        for (side, held) in ["east", "west"].into_iter().zip(&held) {
            stage.figure(
                format!("{side}_holds"),
                held.iter().map(|(_, file)| file).collect::<BTreeSet<_>>().len() as f64,
                "",
            );
            let served = held.iter().filter(|pair| now.contains_key(pair)).count();
            let share = percent(served, held.len());
            stage.claim(format!("{side}_serves_what_it_holds"), share, "%", Wanted::Exactly(100.0));
        }
        // A copy that crossed would be none of that side's.
        let crossed =
            now.iter().filter(|((client, _), node)| self.sides.iter().any(|s| s.contains(client) != s.contains(node)));
        stage.claim("served_across_the_cut", crossed.count() as f64, "", Wanted::Exactly(0.0));
        Ok(())
    }

    fn claim_after(
        &self,
        stage: &mut Stage<'_>,
        answers: &BTreeMap<HostId, Duration>,
        clusters: &Clusters,
        healed: Instant,
    ) -> Result<(), Error> {
        let all = clients(self.lab).len();
        let [in_answers, in_clusters] = [ANSWERS, CLUSTERS].map(|time| stage.by_scale(time * 2, time));
        let last = self.ask_on(stage, answers, (healed, in_answers))?;
        let served = last.values().filter(|last| last.is_served).count();
        let since: Vec<Duration> = last.values().filter_map(|last| last.like_before_since).collect();
        let as_before = (since.len() == all).then(|| since.iter().max().copied().unwrap_or_default());
        if as_before.is_none() {
            self.explain(answers);
        }
        stage.claim("served_30_s_after_healing", percent(served, all), "%", Wanted::Exactly(100.0));
        stage.figure("answers_as_near_as_before", percent(since.len(), all), "%");
        let most = |most: Duration| Wanted::AtMost(most.as_secs_f64());
        let seconds = as_before.map_or(f64::NAN, |after| after.as_secs_f64());
        stage.claim("answers_as_before_after", seconds, "s", most(in_answers));
        self.claim_clusters(stage, clusters, (healed, in_clusters))
    }

    /// Claims that every node knows as many others as before, and that clusters are as before: each as soon as it was so.
    fn claim_clusters(
        &self,
        stage: &mut Stage<'_>,
        then: &Clusters,
        (healed, patience): (Instant, Duration),
    ) -> Result<(), Error> {
        let (mut now, mut share) = (Clusters::default(), f64::NAN);
        let (mut whole, mut as_before) = (None, None);
        stage.wait_until(patience.saturating_sub(healed.elapsed()), || {
            now = Clusters::of(self.lab);
            share = then.regained_by(&now);
            let at = healed.elapsed();
            whole = whole.or_else(|| then.all_know_as_many(&now).then_some(at));
            as_before = as_before.filter(|_| share >= REGAINED).or_else(|| (share >= REGAINED).then_some(at));
            whole.is_some() && as_before.is_some()
        })?;
        if whole.is_none() {
            self.explain_strangers(then, &now);
        }
        if as_before.is_none() {
            self.explain_clusters(then, &now);
        }
        let seconds = |at: Option<Duration>| at.map_or(f64::NAN, |at| at.as_secs_f64());
        let wanted = Wanted::AtMost(patience.as_secs_f64());
        stage.claim("whole_after", seconds(whole), "s", wanted);
        stage.figure("clusters_regained", share, "%");
        stage.claim("clusters_as_before_after", seconds(as_before), "s", Wanted::AtMost(patience.as_secs_f64()));
        Ok(())
    }

    /// Every client asks on by itself, as soon as it was answered, until all are answered as before at the same time or time is up. So
    /// one that waits for what does not answer holds nobody else's word up.
    fn ask_on(
        &self,
        stage: &Stage<'_>,
        answers: &BTreeMap<HostId, Duration>,
        (healed, patience): (Instant, Duration),
    ) -> Result<BTreeMap<HostId, Last>, Error> {
        let last: Mutex<BTreeMap<HostId, Last>> =
            Mutex::new(clients(self.lab).iter().map(|client| (client.id, Last::default())).collect());
        let lock = || last.lock().unwrap_or_else(PoisonError::into_inner);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in clients(self.lab) {
                let (lock, over) = (&lock, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let now = self.distances(&self.serve_one(client, vec![0])).get(&client.id).copied();
                        let is_like = now.zip(answers.get(&client.id)).is_some_and(|(now, then)| is_like(then, &now));
                        lock().entry(client.id).or_default().note(healed.elapsed(), now.is_some(), is_like);
                        std::thread::sleep(BETWEEN);
                    }
                });
            }
            // What is under way when the wait is over is no part of it.
            let mut then = BTreeMap::new();
            let waited = stage.wait_until(patience.saturating_sub(healed.elapsed()), || {
                then.clone_from(&lock());
                then.values().all(|last| last.like_before_since.is_some())
            });
            over.store(true, Ordering::Relaxed);
            waited.map(|_| then)
        })
    }

    /// Who is still sent farther than before, to whom, for how long, and whom its resolver holds to be the servers.
    fn explain(&self, answers: &BTreeMap<HostId, Duration>) {
        let (hosts, zone) = (
            &self.lab.scenario().hosts,
            Name::from_ascii(format!("{}.", self.lab.scenario().zone)).unwrap_or_default(),
        );
        let side = |host: HostId| if self.sides[0].contains(&host) { "east" } else { "west" };
        let name = |host: &HostId| format!("{} ({})", hosts[host.index()].name, side(*host));
        for client in clients(self.lab) {
            let Some(then) = answers.get(&client.id) else { continue };
            let Ok(answer) = look_up(self.lab, client, &format!("{}.", self.name)) else { continue };
            let rtt = |node: &HostId| self.lab.scenario().rtt(client.id, *node);
            let to: Vec<HostId> = named(&answer);
            if to.iter().any(|node| is_like(then, &rtt(node))) {
                continue;
            }
            let ttl = answer.addresses.iter().map(|(_, ttl)| *ttl).max().unwrap_or_default();
            let to: Vec<String> = to.iter().map(|node| format!("{} at {} ms", name(node), millis(rtt(node)))).collect();
            let (who, then) = (name(&client.id), millis(*then));
            say_aside(&format!("  {who}, whose node was at {then} ms, is told {to:?} for {ttl} s"));
            for (cut, servers) in client.resolver.map(|one| self.lab.watch().held(one, &zone)).unwrap_or_default() {
                let servers: Vec<String> = servers.iter().map(name).collect();
                say_aside(&format!("    {cut} is served by {servers:?}"));
            }
        }
    }

    /// Which nodes know fewer others than before.
    fn explain_strangers(&self, then: &Clusters, now: &Clusters) {
        for node in nodes(self.lab) {
            let [before, after] = [then, now].map(|clusters| clusters.sizes(node.id)[0]);
            if after < before {
                say_aside(&format!("  {} takes the network for {after} nodes, {before} before", node.name));
            }
        }
    }

    /// Which pairs of nodes no longer share a cluster, and how far apart they are taken to be.
    fn explain_clusters(&self, then: &Clusters, now: &Clusters) {
        let scenario = self.lab.scenario();
        for level in [1, 2] {
            for (one, other) in then.pairs(level).difference(&now.pairs(level)) {
                let [name, other_name] = [one, other].map(|node| &scenario.hosts[node.index()].name);
                let (sizes, rtt) =
                    ([one, other].map(|node| now.sizes(*node)[level]), millis(scenario.rtt(*one, *other)));
                let status = self.lab.node_status(name).unwrap_or_default();
                let neighbours = status["levels"][0]["neighbours"].as_array().map(Vec::as_slice).unwrap_or_default();
                let address = other.v4().to_string();
                let known = neighbours.iter().find(|known| known["addresses"][0] == address.as_str());
                let measured = known.and_then(|known| known["rtt_ms"].as_f64()).unwrap_or(f64::NAN);
                say_aside(&format!(
                    "  level {level}: {name} and {other_name} are apart, in clusters of {sizes:?}; {rtt} ms, measured {measured:.1}"
                ));
            }
        }
    }

    /// All clients ask at once, each for one of its files after the other. Those that were served.
    fn serve(&self, asked: &Pairs) -> Served {
        std::thread::scope(|scope| {
            let asking: Vec<_> = clients(self.lab)
                .into_iter()
                .map(|client| {
                    let files = asked.iter().filter(|(who, _)| *who == client.id).map(|(_, file)| *file).collect();
                    scope.spawn(move || self.serve_one(client, files))
                })
                .collect();
            asking.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        })
    }

    /// One question, then one file after the other, up to the first that nobody serves: what was answered may be of another time.
    /// Whoever served the last is tried first.
    fn serve_one(&self, client: &Host, files: Vec<usize>) -> Served {
        let Ok(answer) = look_up(self.lab, client, &format!("{}.", self.name)) else { return Served::new() };
        let serves = |node: HostId, file: usize| {
            let got = fetch(http(node.v4().into()), &self.name, &self.files[file].path, PATIENCE, 1 << 20);
            got.is_ok_and(|got| got.status == 200)
        };
        let mut nodes = named(&answer);
        let mut from = |file| {
            let at = nodes.iter().position(|node| serves(*node, file))?;
            nodes.rotate_left(at);
            Some(((client.id, file), nodes[0]))
        };
        self.lab.within(&client.name, || files.into_iter().map_while(&mut from).collect()).unwrap_or_default()
    }

    /// How far each client is from the node that served it.
    fn distances(&self, served: &Served) -> BTreeMap<HostId, Duration> {
        served.iter().map(|((client, _), node)| (*client, self.lab.scenario().rtt(*client, *node))).collect()
    }
}

/// How a client was last answered.
#[derive(Clone, Copy, Default)]
struct Last {
    is_served: bool,
    /// Since when, after the healing, each answer was as near as before the cut.
    like_before_since: Option<Duration>,
}

impl Last {
    fn note(&mut self, at: Duration, is_served: bool, is_like_before: bool) {
        self.is_served = is_served;
        self.like_before_since = is_like_before.then(|| self.like_before_since.unwrap_or(at));
    }
}

impl Clusters {
    /// Whether every node knows as many others as it did then.
    fn all_know_as_many(&self, now: &Self) -> bool {
        self.nodes().all(|node| now.sizes(node)[0] >= self.sizes(node)[0])
    }

    /// Of the pairs of nodes that shared a cluster then, those that do now, in per cent: of levels 1 and 2 the lower figure.
    fn regained_by(&self, now: &Self) -> f64 {
        let shares = [1, 2].map(|level| {
            let (then, now) = (self.pairs(level), now.pairs(level));
            percent(then.intersection(&now).count(), then.len())
        });
        // Where no pair shared a cluster there is none to regain.
        shares.into_iter().filter(|share| !share.is_nan()).fold(f64::NAN, f64::min)
    }

    /// The pairs of nodes that share a cluster, the one with the lower number first.
    fn pairs(&self, level: usize) -> BTreeSet<(HostId, HostId)> {
        let mut members: BTreeMap<&str, Vec<HostId>> = BTreeMap::new();
        self.nodes().filter_map(|node| Some((self.at(node, level)?, node))).for_each(|(id, node)| {
            members.entry(id).or_default().push(node);
        });
        let pairs = |of: &Vec<HostId>| {
            let after = of.iter().enumerate().map(|(at, one)| of[at + 1..].iter().map(|other| (*one, *other)));
            after.flatten().collect::<Vec<_>>()
        };
        members.values().flat_map(pairs).collect()
    }
}

/// Whether an answer is as near as it was then, or not much farther: several nodes are as good.
fn is_like(then: &Duration, now: &Duration) -> bool {
    *now <= then.mul_f64(1.3).max(*then + SLACK).max(NEAR)
}

/// Whoever is nearer to the first node is east, whoever is nearer to the node farthest from it is west; the lab's own names go with
/// the east, so that the west lives by what its resolvers remember.
fn halves(lab: &Lab) -> [BTreeSet<HostId>; 2] {
    let scenario = lab.scenario();
    let nodes = nodes(lab);
    let Some(first) = nodes.first().map(|node| node.id) else { return [BTreeSet::new(), BTreeSet::new()] };
    let far = nodes.iter().map(|node| node.id).max_by_key(|node| scenario.rtt(first, *node)).unwrap_or(first);
    let is_east = |host: &&Host| match host.role {
        Role::Root(_) | Role::Tld(..) | Role::Nameserver(..) => true,
        _ => scenario.rtt(host.id, first) <= scenario.rtt(host.id, far),
    };
    let (east, west): (Vec<&Host>, Vec<&Host>) = scenario.hosts.iter().partition(is_east);
    [east, west].map(|side| side.into_iter().map(|host| host.id).collect())
}

fn list(hosts: &BTreeSet<HostId>) -> Vec<HostId> {
    hosts.iter().copied().collect()
}

const SHORT_CUT: Duration = Duration::from_secs(25);
const LONG_CUT: Duration = Duration::from_secs(60);
/// What an answer may be farther by than before.
const SLACK: Duration = Duration::from_millis(10);
/// Within what time of the healing answers must be as before.
const ANSWERS: Duration = Duration::from_secs(30);
/// Within what time of the healing clusters must be as before.
const CLUSTERS: Duration = Duration::from_secs(60);
/// The share of pairs, in per cent, that must share a cluster again: a node between two clusters may have chosen the other.
const REGAINED: f64 = 90.0;
/// Between two questions of one client.
const BETWEEN: Duration = Duration::from_millis(200);
/// How long a client waits for a file before it tries the next address.
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_as_before_from_the_first_after_the_last_that_was_not() {
        let mut last = Last::default();
        let second = Duration::from_secs(1);
        for (at, is_like) in [(1, true), (2, true), (3, false), (4, true), (5, true)] {
            last.note(at * second, true, is_like);
            assert_eq!(last.like_before_since.is_some(), is_like);
        }
        assert_eq!(last.like_before_since, Some(4 * second));
    }

    #[test]
    fn clusters_are_as_before_if_the_same_nodes_share_them() {
        let of = |ids: [&str; 4]| {
            let nodes = (0..4).filter_map(HostId::new);
            nodes.zip(ids).map(|(node, id)| (node, vec![("0".into(), 4), (id.into(), 2), (id.into(), 2)])).collect()
        };
        let then: Clusters = of(["a", "a", "b", "b"]);
        assert_eq!(then.pairs(2).len(), 2);
        assert_eq!(then.regained_by(&of(["x", "x", "y", "y"])), 100.0, "whatever they are called");
        assert_eq!(then.regained_by(&of(["a", "a", "b", "c"])), 50.0);
        assert_eq!(then.regained_by(&of(["a", "b", "a", "b"])), 0.0, "as many pairs, of others");
        assert!(of(["a", "b", "c", "d"]).regained_by(&then).is_nan());
    }
}
