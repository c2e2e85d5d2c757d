//! The nodes as they are: drivers on loopback with a relay between them, which grow from one seed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use atoll_overlay::{
    Found, Index as _, IndexError, Key, LevelInfo, Levels, NodeId, NodeInfo, Put, Roles,
    driver::{self, Identity, Overlay},
};
use bytes::Bytes;
use tokio::time::sleep;

use super::{
    Answer, NETWORK, Question, TTL, VALUE,
    relay::{self, Relay},
};

/// Nodes that run, and the way between them.
pub(super) struct Swarms {
    nodes: Vec<Overlay>,
    _relay: Relay,
}

/// How long the nodes grew.
pub(super) struct Grown {
    pub(super) took: Duration,
    /// Their clusters stayed the same in the end.
    pub(super) settled: bool,
}

impl Swarms {
    /// Starts a node for each identity, one after the other.
    pub(super) async fn start(
        identities: &[Identity],
        index: &atoll_overlay::Config,
        mut relay: Relay,
    ) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("a node of many: {error}");
        let mut nodes: Vec<Overlay> = Vec::new();
        let mut seed: Option<SocketAddr> = None;
        for (number, identity) in identities.iter().enumerate() {
            let door = relay::door().await.map_err(|error| told(&error))?;
            let at = door.local_addr().map_err(|error| told(&error))?;
            let config = driver::Config {
                network: NETWORK.to_owned(),
                listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
                advertise: vec![format!("/ip4/127.0.0.1/tcp/{}", at.port())],
                bind_source: Some(relay::source(number)),
                bootstrap: seed.iter().map(SocketAddr::to_string).collect(),
                ..driver::Config::default()
            };
            let info = NodeInfo::new(Key::ZERO.into(), Roles::PROXY);
            let started = driver::start(config, index.clone(), identity, info, None).await;
            let node = started.map_err(|error| told(&error))?;
            let target = *node.listen_addrs().first().ok_or("a node of many listens nowhere")?;
            relay.open(door, number, target);
            seed.get_or_insert(at);
            nodes.push(node);
        }
        Ok(Self { nodes, _relay: relay })
    }

    /// Waits until all have neighbours and the clusters have been the same for so long; at most as long again and again eight times.
    pub(super) async fn settle(&self, calm: Duration) -> Grown {
        let began = Instant::now();
        let mut settled = false;
        let (mut before, mut since) = (Vec::new(), Instant::now());
        while began.elapsed() < calm * 8 {
            sleep(Duration::from_millis(200)).await;
            let views = self.views();
            let known = |view: &Vec<LevelInfo>| view.first().map_or(0, |global| global.neighbours.len());
            let lonely = views.iter().any(|view| known(view) < self.nodes.len().min(ACQUAINTED) - 1);
            let clusters: Vec<Vec<Key>> =
                views.iter().map(|view| view.iter().map(|info| info.cluster).collect()).collect();
            if lonely || clusters != before {
                (before, since) = (clusters, Instant::now());
            } else if since.elapsed() >= calm {
                settled = true;
                break;
            }
        }
        Grown { took: began.elapsed(), settled }
    }

    /// What each node says of its levels.
    pub(super) fn views(&self) -> Vec<Vec<LevelInfo>> {
        self.nodes.iter().map(|node| node.levels()).collect()
    }

    /// Connections that stand, each counted once.
    pub(super) fn connections(&self) -> usize {
        let open = |node: &Overlay| node.counts().connections_admitted - node.counts().connections_closed;
        self.nodes.iter().map(|node| usize::try_from(open(node)).unwrap_or(0)).sum::<usize>() / 2
    }

    /// Puts what is asked for, each at its holder.
    pub(super) async fn put(&self, questions: &[Question], pause: Duration) -> Result<(), String> {
        let mut puts = Vec::new();
        for question in questions {
            let holder = self.node(question.holder)?;
            let put = Put {
                key: question.key,
                value: Bytes::from_static(VALUE),
                ttl: TTL,
                levels: Levels::Only(question.level),
            };
            puts.push(tokio::spawn(async move { holder.put(put).await }));
            sleep(pause).await;
        }
        for put in puts {
            let stored: Result<_, IndexError> = put.await.map_err(|error| error.to_string())?;
            stored.map_err(|error| format!("a put among many: {error}"))?;
        }
        Ok(())
    }

    /// Asks, one question a pause, whether or not the last one is answered.
    pub(super) async fn ask(&self, questions: &[Question], pause: Duration) -> Result<Vec<Answer>, String> {
        let mut gets = Vec::new();
        for question in questions {
            let (asker, key) = (self.node(question.asker)?, question.key);
            gets.push(tokio::spawn(async move {
                let began = Instant::now();
                let found = asker.get(key, Levels::All).await;
                answer(found, began.elapsed())
            }));
            sleep(pause).await;
        }
        let mut answers = Vec::new();
        for get in gets {
            answers.push(get.await.map_err(|error| error.to_string())?);
        }
        Ok(answers)
    }

    pub(super) async fn stop(self) {
        for node in &self.nodes {
            node.stop().await;
        }
    }

    fn node(&self, number: usize) -> Result<Overlay, String> {
        self.nodes.get(number).cloned().ok_or_else(|| format!("there is no node {number}"))
    }
}

/// What a get came to.
pub(super) fn answer(found: Result<Found, IndexError>, took: Duration) -> Answer {
    let none = |lost| Answer { level: None, holders: BTreeSet::new(), took, lost };
    match found {
        Ok(Found::Values { level, values }) => {
            let holders: BTreeSet<NodeId> = values.iter().map(|value| value.holder).collect();
            Answer { level: Some(level), holders, took, lost: false }
        }
        Ok(Found::Nothing) => none(false),
        Err(_) => none(true),
    }
}

/// Nodes that each has met when it has joined, itself among them.
const ACQUAINTED: usize = 16;
