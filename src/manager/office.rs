//! What a running manager holds, and what its desk, its control and its watch share.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Catalogue,
    journal::Journal,
    ledger::Ledger,
    login::Login,
    membership::{self, Keys},
    metalink::Metalinks,
    roster::Roster,
    token::{NetworkId, Token},
    warm::Warms,
};
use crate::{
    Node,
    front::{ask::Place, listen::Client, meter::unix_now, record::Record, service::Service},
    signals::or_never,
    state::{Kept, State},
};

/// See the file's head.
pub(crate) struct Office {
    pub(crate) service: Service,
    pub(crate) journal: Journal,
    pub(crate) catalogue: Catalogue,
    pub(crate) login: Login,
    pub(crate) rules: Rules,
    /// Where others reach this manager.
    pub(crate) own: Place,
    pub(crate) network: Network,
    pub(crate) overlay_port: u16,
    /// The port by which peers elsewhere reach a backend that only this machine can reach.
    pub(crate) door: Option<u16>,
    pub(crate) started: Instant,
    pub(crate) draining: AtomicBool,
    /// No peer has been heard lately: nobody is led anywhere. Set with the roster held.
    pub(crate) alone: AtomicBool,
    /// The operator asked for the manager itself to leave.
    pub(crate) leave: tokio::sync::Notify,
    /// And at once.
    pub(crate) stop: tokio::sync::Notify,
    pub(crate) totals: Totals,
    pub(crate) warms: Warms,
    pub(crate) metalinks: Metalinks,
    node: Mutex<Option<Node>>,
    state: State,
    roster: Mutex<Roster>,
    keys: Mutex<Keys>,
    ledger: Mutex<Ledger>,
    beside: Mutex<BTreeMap<String, Beside>>,
    member: (String, u64),
}

/// What the operator set.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Files up to this size are served here.
    pub(crate) redirect_above: u64,
    pub(crate) redirect_status: http::StatusCode,
    pub(crate) private: bool,
    /// Clients come over https, by whatever stands before us: peers that speak http are no good to them.
    pub(crate) secure: bool,
}

/// The private network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    /// The name. No secret: who is no member gets nothing by it.
    pub(crate) name: String,
    /// Where its node here listened last.
    #[serde(default)]
    pub(crate) port: u16,
    /// Nodes of other managers to ask first, `HOST:PORT`.
    #[serde(default)]
    pub(crate) seeds: Vec<String>,
}

/// A manager beside this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// Where it asked from last.
    pub(crate) from: String,
    /// When, in seconds since the epoch.
    pub(crate) asked: u64,
}

impl Network {
    /// A new one.
    pub(crate) fn make() -> Self {
        Self { name: format!("m-{:032x}", rand::random::<u128>()), port: 0, seeds: Vec::new() }
    }

    /// What it is told apart by: tells nothing of the name.
    pub(crate) fn id(&self) -> NetworkId {
        let hash = blake3::derive_key("atoll manager network id v1", self.name.as_bytes());
        let mut id = NetworkId::default();
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        id
    }

    /// The id as text.
    pub(crate) fn id_text(&self) -> String {
        self.id().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What peers did, those that have gone included.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Body bytes that peers sent to clients.
    pub(crate) by_peers: AtomicU64,
    /// Redirects.
    pub(crate) redirects: AtomicU64,
    /// Peers ejected.
    pub(crate) ejected: AtomicU64,
}

/// What survives a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kepts {
    pub(crate) network: Network,
    pub(crate) keys: Keys,
    #[serde(default)]
    pub(crate) ledger: Ledger,
    /// Managers beside this one, by their keys.
    #[serde(default)]
    pub(crate) beside: BTreeMap<String, Beside>,
}

/// The parts of an office that are made one by one.
pub(crate) struct Furniture {
    pub(crate) service: Service,
    pub(crate) node: Node,
    pub(crate) journal: Journal,
    pub(crate) login: Login,
    pub(crate) rules: Rules,
    pub(crate) own: Place,
    pub(crate) overlay_port: u16,
    pub(crate) door: Option<u16>,
    pub(crate) state: State,
    pub(crate) kept: Kepts,
    /// The own node's public key, and what places it in the network.
    pub(crate) member: (String, u64),
}

impl Office {
    pub(crate) fn new(furniture: Furniture) -> Self {
        let Furniture {
            service,
            node,
            journal,
            login,
            rules,
            own,
            overlay_port,
            door,
            state,
            kept: Kepts { network, keys, ledger, beside },
            member,
        } = furniture;
        Self {
            service,
            node: Mutex::new(Some(node)),
            journal,
            catalogue: Catalogue::default(),
            login,
            rules,
            own,
            network,
            overlay_port,
            door,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            alone: AtomicBool::new(true),
            leave: tokio::sync::Notify::new(),
            stop: tokio::sync::Notify::new(),
            totals: Totals::default(),
            warms: Warms::default(),
            metalinks: Metalinks::default(),
            state,
            roster: Mutex::default(),
            keys: Mutex::new(keys),
            ledger: Mutex::new(ledger),
            beside: Mutex::new(beside),
            member,
        }
    }

    /// Waits until the operator asks the node behind to leave, by its admin API.
    pub(crate) fn drain_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        or_never(lock(&self.node).as_ref().map(Node::drain_asked))
    }

    /// Waits until the operator asks the node behind to stop at once.
    pub(crate) fn stop_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        or_never(lock(&self.node).as_ref().map(Node::stop_asked))
    }

    /// Stops the node behind.
    pub(crate) async fn close(&self) {
        let node = lock(&self.node).take();
        if let Some(node) = node {
            node.stop().await;
        }
    }

    /// Whether a client came over TLS, here or at whatever stands before us.
    pub(crate) const fn is_secure(&self, client: Client) -> bool {
        client.secure || self.rules.secure
    }

    /// Where this client reaches this manager: by no worse a scheme than it came by.
    pub(crate) fn own_for(&self, client: Client) -> Place {
        if client.secure { self.own.secured() } else { self.own.clone() }
    }

    /// The peers. Held for no longer than a look.
    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.roster)
    }

    /// Who may join.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Writes what must survive. What cannot be written is said.
    pub(crate) fn save(&self) {
        let keys = lock(&self.keys).clone();
        let (ledger, beside) = (self.ledger().clone(), lock(&self.beside).clone());
        let kept = Kepts { network: self.network.clone(), keys, ledger, beside };
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = self.state.save(Kept::Manager, &bytes) {
            tracing::warn!(%error, "who may join could not be saved");
        }
    }

    /// A new token.
    pub(crate) fn make_token(&self, uses: u32, expires: u64) -> Token {
        let token = Token::make(self.network.id(), &self.own);
        self.ledger().grant(&token, uses, expires);
        self.save();
        token
    }

    /// Nobody is led to a peer any more, and it is let in no more.
    pub(crate) fn eject(&self, name: &str, why: &str) -> bool {
        let known = self.roster().eject(name, why);
        if known {
            let node = self.ledger().remove(name, why);
            self.save();
            if let Some(node) = node
                && let Err(error) = self.shut_out(name, &node)
            {
                tracing::warn!(peer = name, error, "its place in the network could not be taken back");
            }
            self.totals.ejected.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(peer = name, why, "ejected: nobody is led there any more, and it may not join again");
        }
        known
    }

    /// Takes a node's place in the network back.
    fn shut_out(&self, name: &str, node: &str) -> Result<(), String> {
        self.spread(name, |keys| keys.revoke(node))
    }

    /// Has every node told of a revocation.
    fn spread(&self, name: &str, revoke: impl FnOnce(&Keys) -> Result<String, String>) -> Result<(), String> {
        let revocation = revoke(&lock(&self.keys))?;
        membership::put_revocation(&self.node_directory(), name, &revocation)?;
        if let Some(node) = lock(&self.node).as_ref() {
            node.reread();
        }
        Ok(())
    }

    /// A certificate for the node of an admitted peer.
    pub(crate) fn certify(&self, name: &str, node: &str) -> Result<String, String> {
        let serial = self.ledger().serial(name, node, membership::fresh_serial()?);
        let (certificate, _) = lock(&self.keys).admit(node, serial)?;
        self.save();
        Ok(certificate)
    }

    /// Lets the manager with this key admit machines: the network, and the grant, as text.
    pub(crate) fn grant(&self, key: &str, from: SocketAddr) -> Result<(String, String), String> {
        let granted = lock(&self.keys).grant(key)?;
        let mut beside = lock(&self.beside);
        if beside.len() >= MANAGERS && !beside.contains_key(key) {
            return Err("there are as many managers beside this one as it can hold".to_owned());
        }
        beside.insert(key.to_owned(), Beside { from: from.to_string(), asked: unix_now() });
        drop(beside);
        self.save();
        Ok(granted)
    }

    /// The managers beside this one, by their keys.
    pub(crate) fn beside(&self) -> BTreeMap<String, Beside> {
        lock(&self.beside).clone()
    }

    /// Takes back a manager's place, and that of all machines it admitted. False if there is no such manager.
    pub(crate) fn part_from(&self, key: &str) -> bool {
        let known = lock(&self.beside).remove(key).is_some();
        if known {
            self.save();
            if let Err(error) = self.spread(key, |keys| keys.revoke_manager(key)) {
                tracing::warn!(key, error, "a manager's place in the network could not be taken back");
            }
            tracing::warn!(
                key,
                "a manager was removed: neither it nor any machine it admitted belongs to the network now"
            );
        }
        known
    }

    /// What the first manager has granted anew.
    pub(crate) fn take_keys(&self, keys: Keys) {
        *lock(&self.keys) = keys;
        self.save();
    }

    /// What the first manager is asked to grant again.
    pub(crate) fn keys(&self) -> Keys {
        lock(&self.keys).clone()
    }

    /// A further certificate for the own node, which takes it in by itself.
    pub(crate) fn renew(&self) -> Result<(), String> {
        let (node, serial) = &self.member;
        let (certificate, _) = lock(&self.keys).admit(node, *serial)?;
        self.save();
        membership::put_certificate(&self.node_directory(), &certificate)
    }

    fn node_directory(&self) -> std::path::PathBuf {
        self.state.directory().join("node")
    }

    /// Takes in what somebody served, a peer of this name or the manager itself.
    pub(crate) fn note(&self, mut records: Vec<Record<'_>>, peer: Option<&str>) {
        self.catalogue.note(&mut records, peer);
        if peer.is_some() {
            let bytes = records.iter().map(|record| record.data.bytes).fold(0, u64::saturating_add);
            self.totals.by_peers.fetch_add(bytes, Ordering::Relaxed);
        }
        self.journal.append(&records);
    }
}

/// Where a peer that comes from there and listens at a port is reached.
pub(crate) fn seen_at(client: SocketAddr, port: u16) -> Place {
    Place::of(SocketAddr::new(client.ip(), port))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Managers beside this one. `[guess]`
const MANAGERS: usize = 64;
