//! What the tests run on: an index without a network, proxies that only say that they are there, a resolver that follows
//! referrals, and distance: a relay that holds datagrams back.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use atoll_dnssrv::{Config, Health, Probes, Server, Sources, serve};
use atoll_overlay::{
    Acquire, Acquired, Beat, Found, Index, IndexError, Key, Lease, Level, LevelInfo, Levels, Marker, NodeId, NodeInfo,
    NodesQuery, Prefix, Put, Roles, Spread, Stored, Value,
};
use bytes::Bytes;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::broadcast,
    task::JoinSet,
    time::timeout,
};

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// The port of every test's query source.
const ANY: u16 = 0;

/// An index whose nodes the test sets, and whose pointers all nodes of the test share.
pub(crate) struct Fake {
    me: NodeInfo,
    rings: Mutex<Vec<Vec<NodeInfo>>>,
    pointers: Arc<Mutex<BTreeMap<Key, Vec<Value>>>>,
    observed: Mutex<Vec<(Prefix, Duration)>>,
}

impl Fake {
    /// The index of one node; `rings` are the nodes of its cluster at each level, itself included.
    pub(crate) fn new(
        me: &NodeInfo,
        rings: &[&[&NodeInfo]],
        pointers: &Arc<Mutex<BTreeMap<Key, Vec<Value>>>>,
    ) -> Arc<Self> {
        let rings = rings.iter().map(|ring| ring.iter().map(|node| (*node).clone()).collect()).collect();
        let (rings, pointers) = (Mutex::new(rings), Arc::clone(pointers));
        Arc::new(Self { me: me.clone(), rings, pointers, observed: Mutex::default() })
    }

    /// Changes a node wherever it is known.
    pub(crate) fn change(&self, id: NodeId, change: impl Fn(&mut NodeInfo)) {
        self.rings.lock().unwrap().iter_mut().flatten().filter(|node| node.id == id).for_each(change);
    }

    /// What was observed of prefixes.
    pub(crate) fn observed(&self) -> Vec<(Prefix, Duration)> {
        self.observed.lock().unwrap().clone()
    }
}

#[async_trait]
impl Index for Fake {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        let value = Value { holder: self.me.id, level: Level(0), value: put.value, ttl: put.ttl };
        let mut pointers = self.pointers.lock().unwrap();
        let values = pointers.entry(put.key).or_default();
        values.retain(|known| known.holder != self.me.id);
        values.push(value);
        Ok(Stored { widest: Level(0), copies: 1 })
    }

    async fn get(&self, key: Key, _: Levels) -> Result<Found, IndexError> {
        Ok(match self.pointers.lock().unwrap().get(&key) {
            Some(values) => Found::Values { level: Level(0), values: values.clone() },
            None => Found::Nothing,
        })
    }

    async fn withdraw(&self, _: Key) -> Result<(), IndexError> {
        Ok(())
    }

    async fn acquire(&self, _: Acquire) -> Result<Acquired, IndexError> {
        Err(IndexError::Stopped)
    }

    async fn beat(&self, _: &Lease, _: Bytes) -> Result<Beat, IndexError> {
        Err(IndexError::Stopped)
    }

    async fn release(&self, _: Lease) -> Result<(), IndexError> {
        Err(IndexError::Stopped)
    }

    async fn pass(&self, _: Lease, _: Marker) -> Result<(), IndexError> {
        Err(IndexError::Stopped)
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        let rings = self.rings.lock().unwrap();
        let ring = rings.get(usize::from(query.level.0)).cloned().unwrap_or_default();
        ring.into_iter().filter(|node| node.roles.contain(query.services)).take(query.count).collect()
    }

    fn me(&self) -> NodeInfo {
        self.me.clone()
    }

    fn describe(&self, _: NodeInfo) {}

    fn levels(&self) -> Vec<LevelInfo> {
        Vec::new()
    }

    fn observe(&self, prefix: Prefix, rtt: Duration) {
        self.observed.lock().unwrap().push((prefix, rtt));
    }

    async fn spread(&self, _: Bytes) -> Result<(), IndexError> {
        Ok(())
    }

    fn spreads(&self) -> broadcast::Receiver<Spread> {
        broadcast::Sender::new(1).subscribe()
    }
}

/// A node of both roles at an address, its proxy on a port.
pub(crate) fn node(number: u8, address: Ipv4Addr, cluster: u8, http: u16) -> NodeInfo {
    NodeInfo {
        v4: vec![address],
        http_ports: vec![http],
        clusters: vec![Key::from_bytes([cluster; 20]); 2],
        ..NodeInfo::new(NodeId::from(Key::from_bytes([number; 20])), Roles::PROXY.with(Roles::DNSSRV))
    }
}

/// Settings for tests: gaps measure and nothing else does, everything is quick.
pub(crate) fn config(listen: SocketAddr) -> Config {
    Config {
        listen: vec![listen],
        // Far above what a busy machine adds to the loopback.
        thresholds: vec![Duration::from_millis(300), Duration::from_millis(250)],
        sources: Sources { tcp_connect: false, icmp: false, tcp_info: false, ..Sources::default() },
        health: Health {
            interval: Duration::from_millis(20),
            refresh: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
            ..Health::default()
        },
        probe: Probes { ask_again: Duration::from_millis(5), scouts: 0, ..Probes::default() },
        ..Config::default()
    }
}

/// One lone server on 127.0.0.1 whose only proxy is itself, with changes to its settings.
pub(crate) async fn alone(change: impl FnOnce(&mut Config)) -> (Server, SocketAddr) {
    let me = node(1, Ipv4Addr::LOCALHOST, 1, 1);
    let index = Fake::new(&me, &[&[&me], &[&me], &[&me]], &Arc::default());
    let mut config = config(([127, 0, 0, 1], ANY).into());
    change(&mut config);
    let server = serve(config, index, None).await.expect("a free port");
    let address = server.local_addrs()[0];
    (server, address)
}

/// What a proxy says when asked whether it is there, until it is dropped.
pub(crate) struct Proxy {
    port: u16,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// A proxy at an address.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nServer: atoll\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        Self { port, tasks }
    }

    /// The port it took.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Holds datagrams back by half a round trip each way, between a resolver's address and a server.
pub(crate) async fn distance(at: SocketAddr, resolver: Ipv4Addr, server: SocketAddr, rtt: Duration) -> JoinSet<()> {
    let front = Arc::new(UdpSocket::bind(at).await.expect("the address is free"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut flights = JoinSet::new();
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, from)) = front.recv_from(&mut buffer).await else { return };
            let (query, front) = (buffer[..length].to_vec(), Arc::clone(&front));
            flights.spawn(async move {
                // The delay is the distance itself, not a wait for something to happen.
                tokio::time::sleep(rtt / 2).await;
                let back = UdpSocket::bind((resolver, ANY)).await.unwrap();
                back.send_to(&query, server).await.unwrap();
                let mut buffer = [0; 4096];
                let Ok(Ok(length)) = timeout(DEADLINE, back.recv(&mut buffer)).await else { return };
                tokio::time::sleep(rtt / 2).await;
                let _ = front.send_to(&buffer[..length], from).await;
            });
        }
    });
    tasks
}

/// Awaits a condition under the deadline.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < DEADLINE, "it never came to be that {what}");
        tokio::task::yield_now().await;
    }
}

/// The bytes of a query of a name and type, without EDNS.
pub(crate) fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(u16::from(kind).to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// A query with an OPT record of a version, a payload size and options.
pub(crate) fn with_opt(mut query: Vec<u8>, version: u8, payload: u16, options: &[u8]) -> Vec<u8> {
    query[11] += 1;
    query.extend([0, 0, 41]);
    query.extend(payload.to_be_bytes());
    query.extend([0, version, 0, 0]);
    query.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    query.extend(options);
    query
}

/// The reply to a datagram sent from an address; none if nobody is there.
pub(crate) async fn try_exchange(source: Ipv4Addr, server: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((source, ANY)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    // A datagram may be lost on a busy machine: it is sent again, as every resolver does.
    for _ in 0..4 {
        socket.send(bytes).await.unwrap();
        if let Ok(received) = timeout(DEADLINE / 4, socket.recv(&mut buffer)).await {
            buffer.truncate(received.ok()?);
            return Some(buffer);
        }
    }
    panic!("no reply in time")
}

/// The reply to a datagram sent from an address.
pub(crate) async fn exchange_from(source: Ipv4Addr, server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    try_exchange(source, server, bytes).await.expect("a server is there")
}

/// The reply to a datagram.
pub(crate) async fn exchange(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    exchange_from(Ipv4Addr::LOCALHOST, server, bytes).await
}

/// The reply over a connection.
pub(crate) async fn exchange_tcp(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut length = [0; 2];
    timeout(DEADLINE, stream.read_exact(&mut length)).await.expect("a reply in time").expect("a reply");
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).await.unwrap();
    reply
}

/// A reply's message.
pub(crate) fn message(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).expect("a reply is well formed")
}

/// One step of a lookup: whom it asked, for what, and what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) server: IpAddr,
    pub(crate) asked: String,
    pub(crate) got: String,
    pub(crate) ttl: u32,
}

/// An iterative resolver, minimising names or not (RFC 9156), with a cache of delegations that never lapses.
pub(crate) struct Resolver {
    pub(crate) source: Ipv4Addr,
    pub(crate) minimises: bool,
    port: u16,
    delegations: BTreeMap<Name, Vec<IpAddr>>,
    pub(crate) steps: Vec<Step>,
}

impl Resolver {
    /// A resolver at an address that knows the apex's server.
    pub(crate) fn new(source: Ipv4Addr, minimises: bool, apex: IpAddr, port: u16) -> Self {
        let zone = Name::from_ascii("nyud.example.").unwrap();
        Self { source, minimises, port, delegations: BTreeMap::from([(zone, vec![apex])]), steps: Vec::new() }
    }

    /// The addresses of a name.
    pub(crate) async fn addresses(&mut self, name: &str) -> Vec<IpAddr> {
        self.steps.clear();
        let mut name = Name::from_ascii(name).unwrap();
        for _ in 0..8 {
            let records = self.resolve(&name).await;
            match records.first().map(|record| &record.data) {
                Some(RData::CNAME(target)) => name = target.0.clone(),
                Some(_) => return records.iter().filter_map(|record| record.data.ip_addr()).collect(),
                None => return Vec::new(),
            }
        }
        panic!("an endless chain of aliases");
    }

    async fn resolve(&mut self, name: &Name) -> Vec<Record> {
        let mut known = 0;
        for _ in 0..32 {
            let (cut, servers) = self.nearest(name);
            let depth = name.num_labels() - cut.num_labels().max(known);
            let asked = if self.minimises && depth > 1 {
                name.trim_to(usize::from(cut.num_labels().max(known)) + 1)
            } else {
                name.clone()
            };
            let (server, reply) = self.ask(&servers, &asked).await;
            let referral = self.learn(&cut, &asked, &reply);
            self.note(server, &asked, &reply, referral);
            match (reply.metadata.response_code, referral) {
                (ResponseCode::NoError, true) => {}
                (ResponseCode::NoError, false) if asked == *name => return reply.answers.clone(),
                (ResponseCode::NoError, false) => known = asked.num_labels(),
                (code, _) => panic!("{asked}: {code}"),
            }
        }
        panic!("no end of referrals for {name}");
    }

    /// The first server that is there, and its reply.
    async fn ask(&self, servers: &[IpAddr], name: &Name) -> (IpAddr, Message) {
        let bytes = query(&name.to_ascii(), RecordType::A);
        for server in servers {
            if let Some(reply) = try_exchange(self.source, (*server, self.port).into(), &bytes).await {
                return (*server, message(&reply));
            }
        }
        panic!("none of {servers:?} is there");
    }

    fn nearest(&self, name: &Name) -> (Name, Vec<IpAddr>) {
        let (cut, servers) = self
            .delegations
            .iter()
            .filter(|(cut, _)| cut.zone_of(name))
            .max_by_key(|(cut, _)| cut.num_labels())
            .unwrap();
        (cut.clone(), servers.clone())
    }

    /// Takes up a referral, which must lead down and name servers with addresses.
    fn learn(&mut self, cut: &Name, asked: &Name, reply: &Message) -> bool {
        let Some(ns) = reply.authorities.iter().find(|record| record.record_type() == RecordType::NS) else {
            return false;
        };
        assert!(!reply.metadata.authoritative, "a referral is not authoritative");
        assert!(
            cut.zone_of(&ns.name) && *cut != ns.name && ns.name.zone_of(asked),
            "lame: {cut} refers {asked} to {}, after {:#?}",
            ns.name,
            self.steps
        );
        let addresses = reply.additionals.iter().filter_map(|record| record.data.ip_addr()).collect();
        self.delegations.insert(ns.name.clone(), addresses);
        true
    }

    fn note(&mut self, server: IpAddr, asked: &Name, reply: &Message, referral: bool) {
        let first = if referral {
            reply.authorities.first()
        } else {
            reply.answers.first().or_else(|| reply.authorities.first())
        };
        let got = match first {
            Some(record) if referral => format!("referral to {}", record.name),
            Some(record) => record.record_type().to_string(),
            None => "nothing".to_owned(),
        };
        let ttl = first.map_or(0, |record| record.ttl);
        self.steps.push(Step { server, asked: asked.to_ascii(), got, ttl });
    }
}
