//! Starting a node: settings are checked, addresses bound, the loop is set running. Whatever cannot work is said here, before anything
//! runs.

use std::{collections::BTreeMap, collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId, Swarm, core::upgrade::Version, swarm};
use rand::{SeedableRng as _, TryRng as _, rngs::SysRng};
use rand_pcg::Pcg64Mcg;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    address::{self, AddressError, Carrier, Seed},
    behaviour::Behaviour,
    book::{AddressBook, Name},
    clock::Clock,
    config::{Admission, Config, ConfigError},
    counters::Counters,
    gate::{self, Gate, MembershipError},
    identity::Identity,
    join::Join,
    lanes::{self, Lanes, Terms},
    overlay::{Overlay, Shared, Sizes},
    proof::Notary,
    protocol::Names,
    quic,
    roads::Roads,
    run::Driver,
    saved, transport,
    voice::Voice,
};
use crate::{
    NodeInfo,
    core::{Contact, Node, time::Instant, wire::Book as _},
    membership::{Limits, Membership, Revocation, Revocations},
};

/// Starts a node of the overlay on threads of its own, listening when this returns. It ends when it is stopped or the last handle is
/// dropped. `info.id` is ignored: the place follows from the identity, and from the membership where there is one.
///
/// # Errors
/// A setting that cannot work, a membership that is missing or of no use, or an address that cannot be listened on. Nothing runs then.
pub async fn start(
    config: Config,
    index: crate::Config,
    identity: &Identity,
    info: NodeInfo,
    saved: impl Into<Saved>,
) -> Result<Overlay, StartError> {
    config.check()?;
    let lanes = Lanes::new(Terms::of(&config));
    let (ready, started) = oneshot::channel();
    let (own, identity, saved) = (Arc::clone(&lanes), identity.clone(), saved.into());
    let body = move || async move {
        match prepare(config, index, &identity, info, saved, own).await {
            // If nobody waits for it any more, the loop sees the last handle gone.
            Ok((overlay, driver)) => {
                drop(ready.send(Ok(overlay)));
                Some(driver.run().await)
            }
            Err(error) => {
                drop(ready.send(Err(error)));
                None
            }
        }
    };
    lanes::start(lanes, body).map_err(|error| StartError::Transport(format!("no thread for links: {error}")))?;
    let ended = |_| Err(StartError::Transport("the thread of the links has ended".to_owned()));
    started.await.unwrap_or_else(ended)
}

/// A node that listens, and the loop that is to run it.
pub(super) async fn prepare(
    config: Config,
    index: crate::Config,
    identity: &Identity,
    info: NodeInfo,
    saved: Saved,
    lanes: Arc<Lanes>,
) -> Result<(Overlay, Driver), StartError> {
    config.check()?;
    let addresses = Addresses::read(&config)?;
    let names =
        Names::of(&config.network).ok_or(ConfigError { field: "network", reason: "it makes no protocol name" })?;
    let clock = Clock::start();
    let counters = Counters::default();
    let me = identity.peer_id();
    let membership = admitted(&config, me, &info, saved.membership, clock)?;
    let mut random = Pcg64Mcg::seed_from_u64(system_seed()?);
    let loopback = addresses.listen.iter().all(address::is_loopback);
    // A closed network's id is its key, an open one's its name.
    let (id, serial) = membership
        .as_ref()
        .map_or_else(|| (config.network.clone(), 0), |own| (own.network.to_string(), own.certificate.serial));
    let mut book = AddressBook::new(&id, Name { peer_id: me, serial }, config.known_peers, loopback);
    let info = NodeInfo { id: book.me().id, ..info };
    let seed = rand::Rng::next_u64(&mut random);
    let unmeasured = index.rto_unknown;
    let node = Node::new(index, AddressBook::ME, info.clone(), seed);
    let revocations = read_revocations(membership.as_ref(), saved.revocations, clock);
    let saved = read_saved(&config, &mut book, saved.peers);
    let settings = settings(&config, format!("atoll {id}"));
    let gate = Gate::new(me, &config.network, membership, revocations);
    let shared = Arc::new(Shared::new(node, book, loopback));
    let sizes = Sizes {
        commands: config.commands,
        accept_queue: config.accept_queue,
        saved_peers: config.saved_peers,
        open_timeout: config.open_timeout,
        unmeasured,
    };
    let voice = Voice::new(identity.clone(), &config.network, clock);
    let notary = Notary::new(identity.keypair().clone(), id, clock, Arc::clone(&shared));
    let (overlay, ends) = Overlay::new(info, (notary, voice), Arc::clone(&shared), counters.clone(), &sizes);
    let mut driver = Driver {
        me,
        swarm: build_swarm(identity, &settings, lanes, Behaviour::new(gate, names, &config, clock, counters.clone()))?,
        shared,
        clock,
        counters,
        random,
        advertised: addresses.advertise,
        join: Join::new(addresses.seeds, &config),
        saved,
        requests: ends.requests,
        described: ends.described,
        accepted: ends.accepted,
        roads: Roads::new(config.dials_apart()),
        members: BTreeMap::new(),
        dials: BTreeMap::new(),
        waiting: BTreeMap::new(),
        tellers: BTreeMap::new(),
        inputs: VecDeque::new(),
        rejoin_at: Instant::START,
        own_ops: 0,
        config,
    };
    driver.listen(&addresses.listen).await?;
    driver.recall_revocations();
    info!(node = %overlay.id(), peer = %me, at = ?overlay.listen_multiaddrs(), "the overlay listens");
    Ok((overlay, driver))
}

/// The configuration's addresses, read.
struct Addresses {
    listen: Vec<Multiaddr>,
    advertise: Vec<Multiaddr>,
    seeds: Vec<Seed>,
}

impl Addresses {
    fn read(config: &Config) -> Result<Self, AddressError> {
        let read = |texts: &[String], parse: fn(&str) -> Result<Multiaddr, AddressError>| {
            texts.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            listen: read(&config.listen, address::parse_listen)?,
            advertise: read(&config.advertise, address::parse_advertised)?,
            seeds: config.bootstrap.iter().map(|text| Seed::parse(text)).collect::<Result<_, _>>()?,
        })
    }
}

/// What a node has from an earlier life, or from its operator.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// What [`Overlay::save_peers`] gave.
    pub peers: Option<Bytes>,
    /// What [`Overlay::save_revocations`] gave.
    pub revocations: Option<Bytes>,
    /// The node's place in a closed network; of no use in an open one.
    pub membership: Option<Membership>,
}

/// Peers alone, as in an open network.
impl From<Option<Bytes>> for Saved {
    fn from(peers: Option<Bytes>) -> Self {
        Self { peers, ..Self::default() }
    }
}

/// The membership that the node runs by: none in an open network, of which it is loudly warned.
fn admitted(
    config: &Config,
    me: PeerId,
    info: &NodeInfo,
    membership: Option<Membership>,
    clock: Clock,
) -> Result<Option<Membership>, MembershipError> {
    match config.admission {
        Admission::Open => {
            warn!(
                network = config.network,
                "THIS NETWORK IS OPEN: anybody who knows its name can join it, read the index and choose a place in it; for experiments only"
            );
            Ok(None)
        }
        Admission::Closed => {
            let membership = membership.ok_or(MembershipError::Missing)?;
            gate::check_own(&me, &membership, clock.unix())?;
            if !membership.certificate.roles().contain(info.roles) {
                return Err(MembershipError::Roles);
            }
            info!(network = %membership.network, until = %membership.certificate.term.not_after, "a member of a closed network");
            Ok(Some(membership))
        }
    }
}

fn read_revocations(membership: Option<&Membership>, bytes: Option<Bytes>, clock: Clock) -> Revocations {
    let mut known = Revocations::default();
    let (Some(membership), Some(bytes)) = (membership, bytes) else { return known };
    let Some(records) = saved::read(&bytes, Limits::default().all) else {
        warn!("the saved revocations cannot be read; they are heard from the network again");
        return known;
    };
    for record in records {
        let revocation = Revocation::from_bytes(&record).ok();
        // One that is not believed was of another network that this node was a member of.
        revocation.map(|revocation| known.add(&membership.network, clock.unix(), revocation));
    }
    known
}

fn system_seed() -> Result<u64, StartError> {
    SysRng.try_next_u64().map_err(|error| StartError::Transport(format!("the system has no randomness: {error}")))
}

fn read_saved(config: &Config, book: &mut AddressBook, bytes: Option<Bytes>) -> Vec<Contact> {
    let Some(bytes) = bytes else { return Vec::new() };
    let Some(records) = saved::read(&bytes, config.saved_peers) else {
        warn!("the saved peers cannot be read and are ignored");
        return Vec::new();
    };
    let saved = records.iter().filter_map(|record| book.intern(record));
    let saved: Vec<Contact> = saved.filter(|contact| contact.peer != AddressBook::ME).collect();
    saved.iter().for_each(|contact| book.keep_saved(contact.peer));
    saved
}

/// What the transport needs to know of the configuration.
fn settings(config: &Config, prologue: String) -> transport::Settings {
    transport::Settings {
        prologue,
        source: config.bind_source,
        streams: config.streams,
        knocks: config.knocks,
        knocks_per_prefix: config.knocks_per_prefix,
        timeout: config.handshake_timeout,
        windows: quic::Windows::of(config),
        keep_alive: config.ping_interval,
    }
}

fn build_swarm(
    identity: &Identity,
    settings: &transport::Settings,
    lanes: Arc<Lanes>,
    behaviour: Behaviour,
) -> Result<Swarm<Behaviour>, StartError> {
    let transport = transport::build(identity, settings, &lanes).map_err(StartError::Transport)?;
    // The handlers say when a connection is idle; libp2p's own time-out only has to be short after that. V1Lazy: with one name
    // offered, a substream costs no round trip.
    let swarm = swarm::Config::with_executor(move |task| lanes.run(task))
        .with_idle_connection_timeout(IDLE_GRACE)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Ok(Swarm::new(transport, behaviour, identity.peer_id(), swarm))
}

impl Driver {
    /// Binds every address and waits until each says where it ended up.
    async fn listen(&mut self, addresses: &[Multiaddr]) -> Result<(), StartError> {
        let failed = |at: &Multiaddr, source| StartError::Listen { address: at.to_string(), source };
        // All are tried before any is taken: an IPv6 address that is unspecified collides with the IPv4 one of the same port.
        for at in addresses {
            if let Some(socket) = address::socket(at).filter(|socket| socket.port() != 0) {
                free(address::carrier(at), socket).map_err(|error| failed(at, error))?;
            }
        }
        for at in addresses {
            self.swarm.listen_on(at.clone()).map_err(|error| match error {
                libp2p::TransportError::Other(error) => failed(at, error),
                libp2p::TransportError::MultiaddrNotSupported(_) => failed(at, io::ErrorKind::Unsupported.into()),
            })?;
        }
        // An unspecified address of a family that no interface has never reports: it is not waited for beyond a moment.
        let all = async {
            while self.shared.listeners() < addresses.len() {
                let event = futures::StreamExt::select_next_some(&mut self.swarm).await;
                self.on_swarm_event(event);
            }
        };
        let _ = tokio::time::timeout(LISTEN_WAIT, all).await;
        self.advertise();
        Ok(())
    }
}

/// Whether the port can be had for oneself. libp2p listens with SO_REUSEPORT, which lets two nodes of one user share a port unawares.
fn free(carrier: Carrier, socket: SocketAddr) -> io::Result<()> {
    if carrier == Carrier::Quic {
        return std::net::UdpSocket::bind(socket).map(drop);
    }
    let probe = if socket.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    probe.set_reuseaddr(true)?;
    probe.bind(socket)
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that no driver can run with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address in the configuration that cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// An address that cannot be listened on: its port is used, or it is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The node is no member of its network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The machine lacks what the transport needs.
    #[error("the transport cannot be built: {0}")]
    Transport(String),
}

/// How long a connection stays once its handler has no use for it.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How long a start waits for listeners to say where they are.
const LISTEN_WAIT: Duration = Duration::from_secs(2);
