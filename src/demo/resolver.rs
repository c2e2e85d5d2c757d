//! The demo's own resolver: it starts at the zone's servers, minimises names (RFC 9156), follows CNAMEs and referrals, keeps what
//! it learned for its TTL and prefers the server that answered soonest, as real resolvers do. One sits in every region.
//!
//! It trusts its few servers: no DNSSEC, no TCP, no bailiwick rules beyond "a referral must lead deeper".

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{net::UdpSocket, time::timeout};

/// A resolver in one place.
pub(super) struct Resolver {
    source: Ipv4Addr,
    port: u16,
    zone: Name,
    cuts: BTreeMap<Name, Cut>,
    /// Names on the way down that are no cuts.
    passed: BTreeMap<Name, Instant>,
    aliases: BTreeMap<Name, (Name, Instant)>,
    addresses: BTreeMap<Name, (Vec<IpAddr>, Instant)>,
    servers: BTreeMap<IpAddr, Duration>,
    queries: u64,
}

/// Where a delegated zone is served, until when.
struct Cut {
    servers: Vec<IpAddr>,
    until: Option<Instant>,
}

/// Why a name did not resolve.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text is no DNS name.
    #[error("{0} is not a DNS name")]
    Name(String),
    /// No server of the zone cut answered.
    #[error("no server of {0} answered: {1:?} were asked")]
    Silent(Name, Vec<IpAddr>),
    /// A server answered that there is no such address.
    #[error("{name}: {code} from {server}")]
    Refused {
        /// What was asked.
        name: Name,
        /// What the server said.
        code: ResponseCode,
        /// Which.
        server: IpAddr,
    },
    /// The chain of aliases and referrals does not end.
    #[error("{0} leads nowhere after {STEPS} steps")]
    Endless(Name),
}

impl Resolver {
    /// A resolver at this address that knows the servers of one zone, all on one port.
    pub(super) fn new(source: Ipv4Addr, port: u16, zone: &str, servers: Vec<IpAddr>) -> Result<Self, ResolveError> {
        let zone = name(zone)?;
        let cuts = BTreeMap::from([(zone.clone(), Cut { servers, until: None })]);
        let (passed, aliases, addresses, servers) = Default::default();
        Ok(Self { source, port, zone, cuts, passed, aliases, addresses, servers, queries: 0 })
    }

    /// The IPv4 addresses of a name.
    pub(super) async fn resolve(&mut self, text: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let asked = name(text)?;
        let mut current = asked.clone();
        for _ in 0..STEPS {
            self.forget_expired();
            if let Some((addresses, _)) = self.addresses.get(&current) {
                return Ok(addresses.clone());
            }
            if let Some((target, _)) = self.aliases.get(&current) {
                current = target.clone();
                continue;
            }
            self.step(&current).await?;
        }
        Err(ResolveError::Endless(asked))
    }

    /// Queries sent so far.
    pub(super) const fn queries(&self) -> u64 {
        self.queries
    }

    /// Drops the addresses (not the delegations), as if their TTL had run out.
    pub(super) fn expire_addresses(&mut self) {
        self.addresses.clear();
    }

    /// Asks the deepest known cut once, for one label more than is known to lie inside it, and keeps what it says.
    async fn step(&mut self, wanted: &Name) -> Result<(), ResolveError> {
        let (cut, mut servers) = self.deepest_cut(wanted);
        let below = (cut.num_labels() + 1..wanted.num_labels()).map(|depth| wanted.trim_to(depth.into()));
        let asked = below.into_iter().find(|name| !self.passed.contains_key(name)).unwrap_or_else(|| wanted.clone());
        let tried = servers.clone();
        while let Some(server) = self.best(&servers) {
            servers.retain(|other| *other != server);
            self.queries += 1;
            let sent = Instant::now();
            let answer = timeout(PATIENCE, ask(self.source, server, self.port, &asked)).await.ok().flatten();
            let took = if answer.is_some() { sent.elapsed() } else { PATIENCE };
            let kept = self.servers.entry(server).or_insert(took);
            *kept = (*kept * 7 + took * 3) / 10;
            match answer {
                Some(message) if asked == *wanted => return self.learn(wanted, &cut, server, &message),
                Some(message) => return self.pass(asked, &cut, server, &message),
                None => continue,
            }
        }
        Err(ResolveError::Silent(cut, tried))
    }

    /// Keeps a referral, or else that a name is no cut, whatever there is at it.
    fn pass(&mut self, asked: Name, cut: &Name, server: IpAddr, message: &Message) -> Result<(), ResolveError> {
        if self.refer(&asked, cut, message) {
            return Ok(());
        }
        let code = message.metadata.response_code;
        if code != ResponseCode::NoError {
            return Err(ResolveError::Refused { name: asked, code, server });
        }
        let ttl = message.all_sections().map(|record| record.ttl).min().unwrap_or_default();
        self.passed.insert(asked, until(ttl));
        Ok(())
    }

    fn learn(&mut self, asked: &Name, cut: &Name, server: IpAddr, message: &Message) -> Result<(), ResolveError> {
        let mut useful = false;
        for record in &message.answers {
            useful = true;
            match &record.data {
                RData::CNAME(target) => {
                    self.aliases.insert(record.name.to_lowercase(), (target.0.to_lowercase(), until(record.ttl)));
                }
                RData::A(address) => {
                    let entry = self.addresses.entry(record.name.to_lowercase());
                    let (addresses, _) = entry.or_insert_with(|| (Vec::new(), until(record.ttl)));
                    addresses.push(IpAddr::V4(address.0));
                }
                _ => {}
            }
        }
        if self.refer(asked, cut, message) || useful {
            return Ok(());
        }
        Err(ResolveError::Refused { name: asked.clone(), code: message.metadata.response_code, server })
    }

    /// Keeps the cuts a message refers to that lead deeper, with their servers; says whether there are any.
    fn refer(&mut self, asked: &Name, cut: &Name, message: &Message) -> bool {
        let mut useful = false;
        let deeper = |zone: &Name| cut.zone_of(zone) && zone != cut && zone.zone_of(asked);
        for record in message.authorities.iter().filter(|record| deeper(&record.name.to_lowercase())) {
            let RData::NS(target) = &record.data else { continue };
            let glue = message.additionals.iter().filter(|glue| glue.name.to_lowercase() == target.0.to_lowercase());
            let addresses = glue.filter_map(|glue| match &glue.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                _ => None,
            });
            let entry = self.cuts.entry(record.name.to_lowercase());
            let known = entry.or_insert_with(|| Cut { servers: Vec::new(), until: Some(until(record.ttl)) });
            known.servers.extend(addresses);
            useful |= !known.servers.is_empty();
        }
        useful
    }

    fn deepest_cut(&self, asked: &Name) -> (Name, Vec<IpAddr>) {
        let enclosing = self.cuts.iter().filter(|(zone, cut)| zone.zone_of(asked) && !cut.servers.is_empty());
        let deepest = enclosing.max_by_key(|(zone, _)| zone.num_labels());
        deepest.map_or_else(|| (self.zone.clone(), Vec::new()), |(zone, cut)| (zone.clone(), cut.servers.clone()))
    }

    /// The server that answered soonest; one never asked goes first, a random one of these.
    fn best(&self, servers: &[IpAddr]) -> Option<IpAddr> {
        let order = |server: &IpAddr| (self.servers.get(server).copied().unwrap_or_default(), rand::random::<u32>());
        servers.iter().copied().min_by_key(order)
    }

    fn forget_expired(&mut self) {
        let now = Instant::now();
        self.cuts.retain(|_, cut| cut.until.is_none_or(|until| until > now));
        self.passed.retain(|_, until| *until > now);
        self.aliases.retain(|_, (_, until)| *until > now);
        self.addresses.retain(|_, (_, until)| *until > now);
    }
}

/// When what may be kept this many seconds is to be forgotten.
fn until(ttl: u32) -> Instant {
    Instant::now() + Duration::from_secs(u64::from(ttl)).max(SHORTEST)
}

async fn ask(source: Ipv4Addr, server: IpAddr, port: u16, asked: &Name) -> Option<Message> {
    let mut message = Message::query();
    let id = message.metadata.id;
    message.add_query(Query::query(asked.clone(), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    let socket = UdpSocket::bind((source, 0)).await.ok()?;
    socket.connect((server, port)).await.ok()?;
    socket.send(&message.to_vec().ok()?).await.ok()?;
    let mut buffer = vec![0; usize::from(PAYLOAD)];
    loop {
        let count = socket.recv(&mut buffer).await.ok()?;
        match Message::from_vec(buffer.get(..count)?) {
            Ok(answer) if answer.metadata.id == id => return Some(answer),
            _ => {}
        }
    }
}

fn name(text: &str) -> Result<Name, ResolveError> {
    let mut name = Name::from_ascii(text).map_err(|_| ResolveError::Name(text.to_owned()))?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

/// Aliases and referrals followed for one name.
const STEPS: usize = 32;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Records are kept at least this long, or a TTL of 0 would never lead anywhere.
const SHORTEST: Duration = Duration::from_millis(500);

/// Bytes of the largest answer over UDP. [RFC 9715]
const PAYLOAD: u16 = 1_232;
