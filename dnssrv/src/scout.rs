//! Scouts: servers of other clusters that are asked to measure a prefix which is not near this one, so that it is handed to the
//! nearest cluster. Whoever finds itself near says so in the index, too, and looks on among its own neighbours.
//!
//! ```text
//!   this server                      a few servers of different clusters
//!      |-- NONCE.ADDRESS.scout.ns.ZONE TXT -->|   probes the address, 60 ms at most
//!      |                                        |   NONCE ends in `x`: if near, asks its neighbours, too, 150 ms at most
//!      |<------- RTT, its own id, the cluster it is near with --------|
//! ```
//!
//! Whom to ask: a server B can be near a prefix only if the RTT to B is about that to the prefix (the triangle's sides: their
//! difference is at most the third), so those are asked first. Questions go over UDP from the addresses the index knows, and
//! are taken from these alone: what a stranger could provoke by a false address is one probe per prefix and interval. Replies
//! must carry 64 random bits; they are the TXT strings of one record:
//! ```text
//!   0      version, 1
//!   1..5   RTT in microseconds, big-endian; all ones: not measured, or too far to tell
//!   5..    a pointer as in `near.rs`, if a cluster near the address is known
//! ```

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_overlay::{Key, Level, NodeId, NodeInfo, NodesQuery, Prefix, Roles};
use bytes::{BufMut as _, BytesMut};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType, rdata::TXT},
};
use rand::RngExt as _;
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

use crate::{
    near::{Near, Reader},
    redirector::{Quest, Redirector},
    roster::Roster,
    search::Scouts,
    zone::Zone,
};

/// What a scout found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Its own RTT to the address, if it could measure it in time.
    pub(crate) rtt: Option<Duration>,
    /// A cluster near the address.
    pub(crate) near: Option<Near>,
}

/// Finds the cluster nearest to an address, and how far the nodes asked are from it. The servers that the resolver is referred to
/// are asked whatever their distance: they are asked next, and then know it.
pub(crate) async fn search(redirector: Arc<Redirector>, quest: Quest) {
    let Quest { address, resolver, first: looks_on } = quest;
    let prefix = Prefix::of(address);
    let (own, rtt) = redirector.own(Instant::now(), prefix);
    let me = redirector.index.me();
    let innermost = redirector.zone().innermost();
    let (thresholds, most_beside) = (&redirector.config.thresholds, redirector.config.probe.beside);
    let (chosen, beside) = match own == innermost {
        true => (fellows(&me, servers_within(&redirector, own), redirector.config.fellows()), Vec::new()),
        false => abroad(&me, known_within(&redirector, own), (own, rtt), thresholds, most_beside),
    };
    let servers = redirector.servers_of(resolver);
    let told = known_of(&redirector, &servers, &chosen);
    let at_once = [servers, beside].concat();
    let mut asked: Vec<NodeId> = Vec::new();
    let mut search = Search { redirector, address, looks_on, near: None, refused: BTreeSet::new() };
    for round in rounds(&search.redirector.zone(), &at_once, [told, chosen].concat(), search.scouts()) {
        asked.extend(round.iter().map(|node| node.id));
        let again = search.send(round).await;
        search.redirector.scouts_found(prefix, search.nearer(), Scouts::Heard);
        // By then those that are near have asked their own neighbours, and the others have measured.
        tokio::time::sleep(LOOKS_ON).await;
        search.send(again).await;
        if search.near.as_ref().is_some_and(|near| near.level > own && near.level == innermost) {
            break;
        }
    }
    let Search { ref redirector, .. } = search;
    tracing::debug!(%prefix, ?rtt, near = ?search.near.as_ref().map(|near| (near.cluster, near.level)), "scouts are back");
    redirector.scouts_found(prefix, search.nearer(), Scouts::Back);
    // Where the resolver is referred to now, others may stand.
    let mut last = known_of(redirector, &redirector.servers_of(resolver), &[]);
    last.retain(|node| !asked.contains(&node.id));
    search.send(last).await;
    if !search.refused.is_empty() {
        search.redirector.clients().scouts_refused(prefix);
    }
}

/// Begins to find that cluster while this server still measures how far the address is, since both take about as long and a question
/// may be waiting: asks servers of clusters far apart, and those of the apex, who are asked next. What they find counts at once; who
/// else is to be asked follows from the distance.
pub(crate) async fn ahead(redirector: Arc<Redirector>, address: IpAddr) {
    let (me, own) = (redirector.index.me(), Level::GLOBAL);
    let (chosen, _) = abroad(&me, servers_within(&redirector, own), (own, None), &redirector.config.thresholds, 0);
    let told = redirector.servers_of(Prefix::of(address));
    let first = rounds(&redirector.zone(), &told, chosen, redirector.config.probe.scouts).into_iter().next();
    let mut search = Search { redirector, address, looks_on: true, near: None, refused: BTreeSet::new() };
    search.send(first.unwrap_or_default()).await;
}

/// A search under way.
struct Search {
    redirector: Arc<Redirector>,
    address: IpAddr,
    /// Whether scouts that are near are to ask their neighbours before they answer.
    looks_on: bool,
    /// The nearest cluster found so far.
    near: Option<Near>,
    /// Servers that do not know this one yet.
    refused: BTreeSet<NodeId>,
}

impl Search {
    /// Asks servers at the same time and takes up what each says as it comes. Returns those that will know more in a moment.
    async fn send(&mut self, nodes: Vec<NodeInfo>) -> Vec<NodeInfo> {
        let mut asked = JoinSet::new();
        for node in nodes {
            let (redirector, address, looks_on) = (Arc::clone(&self.redirector), self.address, self.looks_on);
            asked.spawn(async move { (ask(&redirector, &node, address, looks_on).await, node) });
        }
        let prefix = Prefix::of(self.address);
        let mut again = Vec::new();
        while let Some(Ok((report, node))) = asked.join_next().await {
            let report = match report {
                Ok(report) => report,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    self.refused.insert(node.id);
                    again.push(node);
                    continue;
                }
                Err(_) => continue,
            };
            self.refused.remove(&node.id);
            self.redirector.scout_came(prefix, &node, report.rtt);
            if report.near.is_some() || report.rtt.is_none() {
                again.push(node);
            }
            self.near = better(&self.redirector.roster(), self.near.take(), report.near);
            self.redirector.scouts_found(prefix, self.nearer(), Scouts::Out);
        }
        again
    }

    /// The nearest cluster found, if it is nearer than this server's by what is known of its distance now.
    fn nearer(&self) -> Option<Near> {
        let (own, rtt) = self.redirector.own(Instant::now(), Prefix::of(self.address));
        self.near.clone().filter(|near| self.redirector.clients().is_nearer(near, own, rtt))
    }

    fn scouts(&self) -> usize {
        self.redirector.config.probe.scouts
    }
}

/// Servers of this one's cluster at a level.
fn servers_within(redirector: &Redirector, level: Level) -> Vec<NodeInfo> {
    redirector.index.nodes(&NodesQuery { level, count: VIEW, target: None, services: Roles::DNSSRV })
}

/// The same, and everybody else who is known: what is near a prefix beside this server may be in another cluster than it, if it
/// lies beyond the prefix, or if the clusters have not found each other.
fn known_within(redirector: &Redirector, level: Level) -> Vec<NodeInfo> {
    let mut nodes = servers_within(redirector, level);
    let seen: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    nodes.extend(servers_within(redirector, Level::GLOBAL).into_iter().filter(|node| !seen.contains(&node.id)));
    nodes
}

/// Those of these servers that the index knows and that are not among others.
fn known_of(redirector: &Redirector, servers: &[NodeId], others: &[NodeInfo]) -> Vec<NodeInfo> {
    let (me, mut nodes) = (redirector.index.me(), servers_within(redirector, Level::GLOBAL));
    nodes.retain(|node| {
        servers.contains(&node.id) && node.id != me.id && others.iter().all(|other| other.id != node.id)
    });
    nodes
}

async fn ask(redirector: &Redirector, node: &NodeInfo, address: IpAddr, looks_on: bool) -> io::Result<Report> {
    let to = node.v4.first().copied().map(IpAddr::V4).or_else(|| node.v6.first().copied().map(IpAddr::V6));
    let to = SocketAddr::new(to.ok_or(io::ErrorKind::AddrNotAvailable)?, redirector.config.probe.scout_port);
    let nonce: u64 = rand::rng().random();
    let name = question(redirector.zone().origin(), nonce, address, looks_on).ok_or(io::ErrorKind::InvalidInput)?;
    let mut message = Message::query();
    message.add_query(Query::query(name, RecordType::TXT));
    let bytes = message.to_vec().map_err(io::Error::other)?;
    // From where this server answers: that is where others know it.
    let mut own = redirector.config.listen.iter().map(SocketAddr::ip).filter(|own| own.is_ipv4() == to.is_ipv4());
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((own.next().unwrap_or(any), 0)).await?;
    socket.connect(to).await?;
    let mut buffer = [0; 1500];
    let answer = async {
        socket.send(&bytes).await?;
        loop {
            let length = socket.recv(&mut buffer).await?;
            let reply = Message::from_vec(buffer.get(..length).unwrap_or_default());
            let Ok(reply) = reply else { continue };
            // The name carries the random bits.
            if reply.metadata.id == message.metadata.id && reply.queries == message.queries {
                return read(&reply);
            }
        }
    };
    timeout(redirector.config.probe.timeout, answer).await?
}

/// Neighbours in this server's innermost cluster, which tell how far each of them is.
fn fellows(me: &NodeInfo, nodes: Vec<NodeInfo>, most: usize) -> Vec<NodeInfo> {
    nodes.into_iter().filter(|node| node.id != me.id && !node.draining).take(most).collect()
}

/// Servers of different clusters one level further in than `own`, those first that may be near a prefix at this RTT. Which of them
/// are to be asked at once comes second: neighbours of this server's own cluster there. They are the quickest to answer, and where
/// this server is near, one of them may be nearer.
fn abroad(
    me: &NodeInfo,
    mut nodes: Vec<NodeInfo>,
    (own, rtt): (Level, Option<Duration>),
    thresholds: &[Duration],
    most_beside: usize,
) -> (Vec<NodeInfo>, Vec<NodeId>) {
    let gap = |node: &NodeInfo| match (node.rtt, rtt) {
        (Some(there), Some(rtt)) => there.abs_diff(rtt),
        (_, _) => UNKNOWN_GAP,
    };
    let further_in = usize::from(own.0);
    let cluster = |node: &NodeInfo| node.clusters.get(further_in).copied().unwrap_or(Key::ZERO);
    nodes.retain(|node| node.id != me.id && !node.draining);
    nodes.sort_by_key(|node| (gap(node), node.id));
    let mine = Some(cluster(me)).filter(|mine| own > Level::GLOBAL && *mine != Key::ZERO);
    let threshold = thresholds.get(further_in).copied().unwrap_or_default();
    let may_be_near = |node: &&NodeInfo| Some(cluster(node)) == mine && gap(node) < threshold;
    let beside = nodes.iter().filter(may_be_near).take(most_beside).map(|node| node.id).collect();
    let (mut seen, mut others) = (Vec::new(), Vec::new());
    nodes.retain(|node| {
        let new = !seen.contains(&cluster(node));
        if new {
            seen.push(cluster(node));
        } else {
            others.push(node.clone());
        }
        new
    });
    // One of each cluster; then, as far as rounds go, more of those that may be near.
    nodes.extend(others);
    (nodes, beside)
}

/// Whom to ask together, and whom next. Certain servers and those of the apex are told of the prefix in the first round whatever
/// their distance: whoever asks here for the first time may ask one of them next.
fn rounds(zone: &Zone, servers: &[NodeId], mut chosen: Vec<NodeInfo>, scouts: usize) -> Vec<Vec<NodeInfo>> {
    let named: Vec<IpAddr> =
        zone.servers().iter().flat_map(|(_, records)| records).filter_map(|r| r.data.ip_addr()).collect();
    let is_told = |node: &NodeInfo| {
        let addresses = node.v4.iter().copied().map(IpAddr::V4).chain(node.v6.iter().copied().map(IpAddr::V6));
        servers.contains(&node.id) || addresses.into_iter().any(|address| named.contains(&address))
    };
    let told: Vec<NodeInfo> = chosen.extract_if(.., |node| is_told(node)).collect();
    let mut rounds: Vec<Vec<NodeInfo>> = chosen.chunks(scouts.max(1)).take(ROUNDS).map(<[_]>::to_vec).collect();
    match rounds.first_mut() {
        Some(first) => first.extend(told),
        None => rounds.push(told),
    }
    rounds
}

fn better(roster: &Roster, one: Option<Near>, other: Option<Near>) -> Option<Near> {
    one.into_iter().chain(other).max_by_key(|near| (roster.lives(near), near.level, std::cmp::Reverse(near.rtt)))
}

/// The name a scout is asked by.
pub(crate) fn question(origin: &Name, nonce: u64, address: IpAddr, looks_on: bool) -> Option<Name> {
    let address = match address {
        IpAddr::V4(v4) => format!("{:08x}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
    };
    let looks_on = if looks_on { "x" } else { "" };
    let labels = [format!("{nonce:016x}{looks_on}"), address, SCOUT.to_owned(), "ns".to_owned()];
    Name::from_labels(labels.iter().map(String::as_bytes)).ok()?.append_domain(origin).ok()
}

/// The address a name asks to measure, and whether its neighbours are to be asked, too; none if it is no such name.
pub(crate) fn asked(origin: &Name, name: &Name) -> Option<(IpAddr, bool)> {
    let depth = usize::from(name.num_labels().checked_sub(origin.num_labels())?);
    let labels: Vec<&[u8]> = name.iter().take(depth).collect();
    let [nonce, address, scout, ns] = labels.as_slice() else { return None };
    let looks_on = nonce.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'x'));
    if !scout.eq_ignore_ascii_case(SCOUT.as_bytes()) || !ns.eq_ignore_ascii_case(b"ns") {
        return None;
    }
    let address = std::str::from_utf8(address).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    let address = match address.len() {
        8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).into(),
        32 => Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?).into(),
        _ => return None,
    };
    Some((address, looks_on))
}

/// A report as a record's data.
pub(crate) fn write(report: &Report) -> RData {
    let mut to = BytesMut::new();
    to.put_u8(VERSION);
    to.put_u32(report.rtt.map_or(NOT_MEASURED, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(NOT_MEASURED)));
    to.put(report.near.as_ref().map(Near::encode).unwrap_or_default());
    let strings: Vec<&[u8]> = to.chunks(STRING).collect();
    RData::TXT(TXT::from_bytes(strings))
}

/// The report in an answer as it is given.
#[cfg(test)]
pub(crate) fn read_answer(answer: &crate::answer::Answer) -> Option<Report> {
    let RData::TXT(txt) = &answer.answers.first()?.data else { return None };
    read_bytes(&txt.txt_data.concat())
}

/// A report, `PermissionDenied` of a server that does not know who asks: to it there is no such name.
fn read(reply: &Message) -> io::Result<Report> {
    if reply.metadata.response_code == ResponseCode::NXDomain {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    read_noted(reply).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn read_noted(reply: &Message) -> Option<Report> {
    let data =
        reply.answers.iter().find_map(|record| if let RData::TXT(txt) = &record.data { Some(txt) } else { None });
    let data = data.filter(|_| reply.metadata.response_code == ResponseCode::NoError)?;
    read_bytes(&data.txt_data.concat())
}

fn read_bytes(bytes: &[u8]) -> Option<Report> {
    let mut from = Reader(bytes);
    if from.array()? != [VERSION] {
        return None;
    }
    let micros = u32::from_be_bytes(from.array()?);
    let rtt = (micros != NOT_MEASURED).then(|| Duration::from_micros(micros.into()));
    Some(Report { rtt, near: Near::decode(from.0) })
}

const SCOUT: &str = "scout";
const VERSION: u8 = 1;
const NOT_MEASURED: u32 = u32::MAX;
/// Bytes of a TXT string. \[RFC 1035 3.3\]
const STRING: usize = 255;
/// Servers looked at when some are chosen, and from which such questions are answered. \[guess\]
pub(crate) const VIEW: usize = 1024;
/// Rounds of questions to servers abroad, while none finds itself near. \[guess\]
const ROUNDS: usize = 3;
/// What a server whose distance is unknown is taken to be off by: behind those that fit, before those that cannot. \[guess\]
const UNKNOWN_GAP: Duration = Duration::from_millis(30);
/// How long a server that finds itself near gets to ask its own neighbours. \[guess\]
const LOOKS_ON: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8, rtt: Option<u64>, clusters: [u8; 2]) -> NodeInfo {
        NodeInfo {
            v4: vec![[192, 0, 2, last].into()],
            http_ports: vec![80],
            rtt: rtt.map(Duration::from_millis),
            clusters: clusters.map(|cluster| Key::from_bytes([cluster; 20])).to_vec(),
            ..NodeInfo::new(NodeId::from(Key::from_bytes([last; 20])), Roles::DNSSRV)
        }
    }

    fn numbers(nodes: &[NodeInfo]) -> Vec<u8> {
        nodes.iter().map(|node| node.v4[0].octets()[3]).collect()
    }

    #[test]
    fn servers_as_far_as_the_prefix_are_asked_first_and_one_of_each_cluster() {
        let me = node(9, None, [9, 9]);
        let nodes = vec![
            node(1, Some(10), [9, 1]),
            node(2, Some(95), [1, 2]),
            node(3, Some(99), [1, 3]),
            node(4, Some(140), [2, 4]),
            node(5, None, [3, 5]),
            me.clone(),
        ];
        let rtt = Some(Duration::from_millis(100));
        let check = |own, rtt, expected: [u8; 5]| {
            let (chosen, beside) = abroad(&me, nodes.clone(), (Level(own), rtt), &THRESHOLDS, 6);
            assert_eq!((numbers(&chosen), beside), (expected.to_vec(), Vec::new()));
        };
        check(0, rtt, [3, 5, 4, 1, 2]);
        check(1, rtt, [3, 2, 5, 4, 1]);
        check(0, None, [1, 2, 4, 5, 3]);
    }

    #[test]
    fn a_server_that_is_near_asks_those_neighbours_at_once_that_may_be_nearer() {
        let me = node(9, None, [9, 9]);
        // 24 ms from here: node 5, at 14 ms from here, may be at 10 ms from there; node 6, at 50 ms, cannot be under 26.
        let nodes = vec![
            node(1, Some(24), [9, 1]),
            node(5, Some(14), [9, 9]),
            node(6, Some(50), [9, 9]),
            node(7, Some(4), [9, 9]),
        ];
        let beside =
            |most| abroad(&me, nodes.clone(), (Level(1), Some(Duration::from_millis(24))), &THRESHOLDS, most).1;
        assert_eq!((beside(6), beside(0)), (vec![nodes[1].id], Vec::new()));
        let (_, far) = abroad(&me, nodes.clone(), (Level(0), Some(Duration::from_millis(100))), &THRESHOLDS, 6);
        assert!(far.is_empty(), "in a region of this server's own nobody need be nearer than it");
    }

    #[test]
    fn as_many_neighbours_are_asked_as_the_settings_say_and_none_that_drains() {
        let me = node(9, None, [9, 9]);
        let mut nodes: Vec<NodeInfo> = (1..=9).map(|last| node(last, None, [9, 9])).collect();
        nodes[0].draining = true;
        assert_eq!(numbers(&fellows(&me, nodes.clone(), 4)), [2, 3, 4, 5]);
        assert_eq!(numbers(&fellows(&me, nodes, 64)), [2, 3, 4, 5, 6, 7, 8]);
    }

    const THRESHOLDS: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(20)];

    #[test]
    fn a_question_names_the_address_and_nothing_else_is_one() {
        let origin = Name::from_ascii("nyud.example.").unwrap();
        for address in ["192.0.2.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().unwrap()) {
            for looks_on in [false, true] {
                let name = question(&origin, 7, address, looks_on).unwrap();
                assert_eq!(asked(&origin, &name), Some((address, looks_on)));
            }
        }
        for wrong in ["scout.ns", "x.c0000207.scout.ns.ns", "x.c000020.scout.ns", "c0000207.scout.ns"] {
            let name = Name::from_ascii(format!("{wrong}.nyud.example.")).unwrap();
            assert_eq!(asked(&origin, &name), None, "{wrong}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_who_asks_refuses_and_one_that_may_not_measure_reports_nothing() {
        let kind = |code| {
            let mut reply = Message::query();
            reply.metadata.response_code = code;
            read(&reply).unwrap_err().kind()
        };
        assert_eq!(kind(ResponseCode::NXDomain), io::ErrorKind::PermissionDenied);
        assert_eq!([ResponseCode::Refused, ResponseCode::NoError].map(kind), [io::ErrorKind::InvalidData; 2]);
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
        let index = Arc::new(atoll_overlay::Alone::new(me));
        let (redirector, _probes, _errands) = Redirector::new(crate::Config::default(), index).unwrap();
        let name = question(redirector.zone().origin(), 7, [192, 0, 2, 7].into(), false).unwrap();
        assert!(matches!(redirector.zone().locate(&name), crate::zone::Place::Missing(_)), "so the name is none");
    }

    #[test]
    fn any_bytes_of_a_report_are_read_or_passed_over() {
        bolero::check!().for_each(|bytes| {
            if let Some(report) = read_bytes(bytes) {
                let RData::TXT(txt) = write(&report) else { unreachable!("it is written as TXT") };
                let again = read_bytes(&txt.txt_data.concat()).expect("what was written is read");
                assert_eq!(again.rtt, report.rtt);
            }
        });
    }
}
