//! What a scenario's function works with: labs made from its file, the questions all of them ask, and a list of claims.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread::sleep,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::outcome::{Claim, Wanted};
use crate::{
    address::HostId,
    config::Config,
    error::{Doing, Error},
    lab::{Lab, Stop},
    measure::{Answer, stub},
    scenario::{Host, Role, Scale, Scenario},
};

/// How scenarios are run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) config: Config,
    /// In place of the files' own.
    pub(crate) matrix: Option<PathBuf>,
    pub(crate) scale: Scale,
    /// Where pictures are kept.
    pub(crate) artefacts: PathBuf,
    pub(crate) stop: Stop,
}

/// One run of one scenario.
pub(crate) struct Stage<'s> {
    name: &'s str,
    file: &'s Path,
    setting: &'s Setting,
    claims: Vec<Claim>,
    /// The network of the scenario before, at first; later that of this one, for the next.
    left: Option<Lab>,
}

impl<'s> Stage<'s> {
    /// The hosts of a file, as labs of this name, or the network that another scenario has left.
    pub(crate) fn new(name: &'s str, file: &'s Path, setting: &'s Setting, left: Option<Lab>) -> Self {
        Self { name, file, setting, claims: Vec::new(), left }
    }

    /// The network that the scenario before has left, or one brought up from the file.
    pub(crate) fn go_on(&mut self) -> Result<Lab, Error> {
        self.left.take().map_or_else(|| self.up(|_| ()), Ok)
    }

    /// Leaves a network, whole and as its file says, to a scenario that goes on in it.
    pub(crate) fn leave(&mut self, lab: Lab) {
        self.left = Some(lab);
    }

    /// Brings up the file's hosts, with changes. Labs of one scenario follow each other: they share a name.
    pub(crate) fn up(&self, change: impl FnOnce(&mut Scenario)) -> Result<Lab, Error> {
        let mut scenario = Scenario::read(self.file, self.setting.matrix.as_deref(), self.setting.scale)?;
        // Two runs at once, of two checkouts say, must not meet.
        scenario.name = format!("{}-{}", self.name, std::process::id());
        change(&mut scenario);
        Lab::up(scenario, &self.setting.config, &self.setting.stop)
    }

    /// `short` or `long`, by scale.
    pub(crate) fn by_scale<T>(&self, short: T, long: T) -> T {
        match self.setting.scale {
            Scale::Short => short,
            Scale::Long => long,
        }
    }

    /// The longest TTL of what is answered to a resolver not yet measured, and of addresses near it, with a second to spare.
    pub(crate) fn refresh(&self) -> Duration {
        self.by_scale(Duration::from_secs(7), Duration::from_secs(32))
    }

    /// The longest TTL of addresses.
    pub(crate) fn longest_ttl(&self) -> Duration {
        self.by_scale(Duration::from_secs(8), Duration::from_secs(60))
    }

    /// What a share must reach: as the issue of the lab wants it at full scale. At short scale answers are few and nodes not
    /// optimised, on whatever machine; there the bound is one that chance would miss and a busy machine does not.
    pub(crate) fn share(&self, long: f64) -> Wanted {
        Wanted::AtLeast(self.by_scale(LOOSE, long))
    }

    /// A figure that must be so.
    pub(crate) fn claim(&mut self, name: impl Into<String>, value: f64, unit: &'static str, wanted: Wanted) {
        self.claims.push(Claim { name: name.into(), value, unit, wanted });
    }

    /// A figure to print.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.claim(name, value, unit, Wanted::Nothing);
    }

    /// The path of a file that is to outlive the run; its folder is there.
    pub(crate) fn artefact(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = &self.setting.artefacts;
        let path = std::fs::create_dir_all(folder).and_then(|()| std::path::absolute(folder));
        Ok(path.doing(|| format!("make {}", folder.display()))?.join(format!("{}-{name}", self.name)))
    }

    pub(crate) fn end(self) -> (Vec<Claim>, Option<Lab>) {
        (self.claims, self.left)
    }

    /// Lets time pass, unless the run is interrupted.
    pub(crate) fn wait(&self, time: Duration) -> Result<(), Error> {
        self.wait_until(time, || false).map(drop)
    }

    /// Waits until something holds, `time` at most; says whether it does.
    pub(crate) fn wait_until(&self, time: Duration, mut holds: impl FnMut() -> bool) -> Result<bool, Error> {
        let start = Instant::now();
        loop {
            if self.setting.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if holds() {
                return Ok(true);
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(left.min(Duration::from_millis(200)));
        }
    }

    /// What the nodes' proxies served and from where, all nodes together.
    pub(crate) fn figures_of_nodes(&mut self, lab: &Lab) {
        let statuses: Vec<_> = nodes(lab).iter().filter_map(|node| lab.node_status(&node.name)).collect();
        let words = [
            "/requests",
            "/served/local",
            "/served/peers/2",
            "/served/peers/1",
            "/served/peers/0",
            "/served/origin",
            "/served/error",
            "/origin_requests",
            "/origin_ungranted",
            "/collapsed",
        ];
        for word in words {
            let sum: u64 = statuses.iter().filter_map(|status| status["proxy"].pointer(word)?.as_u64()).sum();
            self.figure(format!("nodes{}", word.replace('/', "_")), sum as f64, "");
        }
    }

    /// Waits until every living node knows all others at level 0. Returns the seconds it took, or not a number if it did not
    /// come to that within `patience`.
    pub(crate) fn whole_within(&self, lab: &Lab, patience: Duration) -> Result<f64, Error> {
        let start = Instant::now();
        let all = nodes(lab).len() as u64;
        let whole = self.wait_until(patience, || {
            sleep(LOOK);
            let clusters = Clusters::of(lab);
            nodes(lab).iter().all(|node| clusters.sizes(node.id)[0] >= all)
        })?;
        Ok(if whole { start.elapsed().as_secs_f64() } else { f64::NAN })
    }

    /// Waits a while for the nodes to find each other; scenarios go on with what there is. Returns the seconds it took, or not a
    /// number if they did not.
    pub(crate) fn wait_for_clusters(&self, lab: &Lab) -> Result<f64, Error> {
        self.clusters_within(lab, self.by_scale(Duration::from_secs(20), Duration::from_secs(90)))
    }

    /// Waits until the nodes have found each other and stay together: every node for which there is one, clearly within 20 ms, knows a
    /// level-2 cluster of two or more, all know some at level 0, and none moves for a while. Returns the seconds until they had,
    /// or not a number if they had not within `patience`.
    pub(crate) fn clusters_within(&self, lab: &Lab, patience: Duration) -> Result<f64, Error> {
        let start = Instant::now();
        let (mut last, mut since) = (Clusters::default(), None);
        let settled = self.wait_until(patience + CALM, || {
            // Each look starts a program per node, which would be in the way of what it looks at.
            sleep(LOOK);
            let now = Clusters::of(lab);
            let same = now.same_ids(&last);
            since = since.filter(|_| same).or_else(|| Some(start.elapsed())).filter(|_| now.are_settled(lab));
            last = now;
            since.is_some_and(|since| since + CALM <= start.elapsed())
        })?;
        if !settled {
            last.explain(lab);
        }
        Ok(since.filter(|_| settled).map_or(f64::NAN, |since| since.as_secs_f64()))
    }
}

/// The cluster of every living node at each level, as it says itself: its id, and how large the node takes it to be.
#[derive(Default)]
pub(crate) struct Clusters(BTreeMap<HostId, Vec<(String, u64)>>);

/// By node, level 0 first: the cluster's id and its size.
impl FromIterator<(HostId, Vec<(String, u64)>)> for Clusters {
    fn from_iter<I: IntoIterator<Item = (HostId, Vec<(String, u64)>)>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}

impl Clusters {
    pub(crate) fn of(lab: &Lab) -> Self {
        let clusters = |node: &Host| {
            let status = lab.node_status(&node.name)?;
            let levels = status["levels"].as_array()?;
            let level = |level: &serde_json::Value| {
                (level["cluster"].as_str().unwrap_or_default().to_owned(), level["size"].as_u64().unwrap_or(0))
            };
            Some((node.id, levels.iter().map(level).collect()))
        };
        nodes(lab).into_iter().filter_map(clusters).collect()
    }

    /// The id of a node's cluster.
    pub(crate) fn at(&self, node: HostId, level: usize) -> Option<&str> {
        Some(self.0.get(&node)?.get(level)?.0.as_str())
    }

    /// How large a node takes its clusters to be, level 0 first; zeros if it says nothing.
    pub(crate) fn sizes(&self, node: HostId) -> [u64; 3] {
        [0, 1, 2].map(|level: usize| self.0.get(&node).and_then(|levels| levels.get(level)).map_or(0, |known| known.1))
    }

    /// The nodes that said something.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = HostId> + '_ {
        self.0.keys().copied()
    }

    /// How many nodes know a near cluster, of how many that have near nodes.
    pub(crate) fn found_their_neighbours(&self, lab: &Lab) -> (usize, usize) {
        let nodes = nodes(lab).into_iter().filter(|node| !near_to(lab, node).is_empty());
        let found: Vec<bool> = nodes.map(|node| self.sizes(node.id)[2] > 1).collect();
        (found.iter().filter(|found| **found).count(), found.len())
    }

    fn same_ids(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|(node, levels)| {
                other.0.get(node).is_some_and(|then| then.iter().map(|known| &known.0).eq(levels.iter().map(|l| &l.0)))
            })
    }

    /// Whether every node knows a near cluster where there is one for it, and some others anyway.
    fn are_settled(&self, lab: &Lab) -> bool {
        let living = nodes(lab);
        living.iter().all(|node| {
            let [all, _, near] = self.sizes(node.id);
            self.0.contains_key(&node.id)
                && (living.len() == 1 || all > 1)
                && (near > 1 || !self.could_join(lab.scenario(), node.id))
        })
    }

    /// Whether there is a cluster at level 2 for a node that is alone: that of a node clearly near it, most of which is near enough to
    /// be joined. Of three nodes in a row of which only the middle one is near both others, one may well stay alone.
    fn could_join(&self, scenario: &Scenario, node: HostId) -> bool {
        let is_within = |other: HostId, limit| scenario.rtt(node, other) < limit;
        let near = self.nodes().filter(|other| *other != node && is_within(*other, SURELY_NEAR));
        let mut clusters = near.filter_map(|near| self.at(near, 2));
        clusters.any(|cluster| {
            let members = || self.nodes().filter(|other| *other != node && self.at(*other, 2) == Some(cluster));
            members().filter(|member| is_within(*member, JOINED)).count() * 100 >= members().count() * MOST
        })
    }

    /// Who has not found its neighbours, on stderr.
    fn explain(&self, lab: &Lab) {
        for node in nodes(lab) {
            let (sizes, near) = (self.sizes(node.id), near_to(lab, node));
            if sizes[2] <= 1 && !near.is_empty() {
                let name = &node.name;
                say_aside(&format!(
                    "  {name} is alone at level 2 (cluster sizes {sizes:?}), near it: {}",
                    near.join(", ")
                ));
            }
        }
    }
}

/// The nodes that are clearly within 20 ms of another, by name.
fn near_to<'l>(lab: &'l Lab, node: &Host) -> Vec<&'l str> {
    let near = |other: &&Host| other.id != node.id && lab.scenario().rtt(node.id, other.id) < SURELY_NEAR;
    nodes(lab).into_iter().filter(near).map(|near| near.name.as_str()).collect()
}

/// What explains a figure goes to stderr: a figure alone helps nobody.
pub(crate) fn say_aside(line: &str) {
    use std::io::Write;
    // A closed stderr is its reader's choice.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The hosts that run Atoll, in order.
pub(crate) fn nodes(lab: &Lab) -> Vec<&Host> {
    lab.scenario().with_role(|role| matches!(role, Role::Node { .. })).collect()
}

/// The clients, in order.
pub(crate) fn clients(lab: &Lab) -> Vec<&Host> {
    lab.scenario().with_role(|role| matches!(role, Role::Client { .. })).collect()
}

/// A client's question to its own resolver, over IPv4.
pub(crate) fn look_up(lab: &Lab, client: &Host, name: &str) -> Result<Answer, String> {
    let resolver = client.resolver.map(|id| &lab.scenario().hosts[id.index()]).ok_or("it has no resolver")?;
    let server = SocketAddr::from((resolver.id.v4(), 53));
    let asked = lab.within(&client.name, || stub(server, name, RecordType::A));
    asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// The same of all clients at once, each with its outcome.
pub(crate) fn look_up_all<'l>(lab: &'l Lab, name: &str) -> Vec<(&'l Host, Result<Answer, String>)> {
    look_up_each(lab, &[name.to_owned()]).into_iter().map(|(client, _, answer)| (client, answer)).collect()
}

/// All clients ask for all of these names at once: who asked, for which, and what came of it.
pub(crate) fn look_up_each<'l>(lab: &'l Lab, names: &[String]) -> Vec<(&'l Host, String, Result<Answer, String>)> {
    std::thread::scope(|scope| {
        let pairs = names.iter().flat_map(|name| clients(lab).into_iter().map(move |client| (client, name)));
        let asked: Vec<_> =
            pairs.map(|(client, name)| (client, name, scope.spawn(move || look_up(lab, client, name)))).collect();
        let died = |_| Err("its thread died".to_owned());
        let come = |(client, name, thread): (_, &String, std::thread::ScopedJoinHandle<'_, _>)| {
            (client, name.clone(), thread.join().unwrap_or_else(died))
        };
        asked.into_iter().map(come).collect()
    })
}

/// The nodes an answer names, in its order.
pub(crate) fn named(answer: &Answer) -> Vec<HostId> {
    answer.addresses.iter().filter_map(|(address, _)| HostId::owner(*address)).collect()
}

/// `rtt` in milliseconds.
pub(crate) fn ms(rtt: Duration) -> f64 {
    rtt.as_secs_f64() * 1e3
}

/// An address's port 80.
pub(crate) fn http(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

/// Level 2 of the overlay.
pub(crate) const NEAR: Duration = Duration::from_millis(20);
/// Nodes this near find each other whatever the machine's haste adds.
const SURELY_NEAR: Duration = Duration::from_millis(15);
/// Nodes so near are joined, where so many per cent of a cluster are: as the overlay's settings have it.
const JOINED: Duration = Duration::from_millis(19);
const MOST: usize = 85;
/// Level 1.
pub(crate) const MIDDLE: Duration = Duration::from_millis(60);
/// The share of answers, in per cent, that must be right at short scale: among four groups of nodes chance gives 25.
const LOOSE: f64 = 60.0;
/// How long clusters must stay as they are to be taken for settled, and how often they are looked at.
const CALM: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_near_one_of_a_pair_and_not_the_other_has_no_cluster_to_join() {
        // 13.8, 17.1 and 19.1 ms apart.
        let host = |name: &str, row| format!("[[host]]\nname = \"{name}\"\nrole = \"plain\"\nat = {row}\n");
        let text = ["name = \"t\"\n".into(), host("a", 17), host("b", 270), host("c", 394)].concat();
        let scenario = Scenario::parse(&text, Path::new("x.toml"), None, Scale::Short).unwrap();
        let b = scenario.hosts[1].id;
        let could_join = |ids: [&str; 3]| {
            let levels = |id: &str| vec![("0".into(), 3), ("1".into(), 3), (id.into(), 1)];
            let clusters: Clusters = scenario.hosts.iter().zip(ids).map(|(host, id)| (host.id, levels(id))).collect();
            clusters.could_join(&scenario, b)
        };
        assert!(could_join(["x", "y", "z"]), "c is alone as well");
        assert!(!could_join(["x", "y", "x"]), "a is too far");
    }
}
