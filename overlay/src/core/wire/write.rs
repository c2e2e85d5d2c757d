//! Messages to frames. What is over a cap is cut here, so that what we send is what we would accept.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::{
    Book,
    frame::{Frame, LIST_LIMIT, NAME_LIMIT, SITE_LIMIT, TAG_BYTES, VERSION_LIMIT, WireInfo, WirePointer, kind},
};
use crate::{
    Key, Lease, Marker, NodeId, NodeInfo,
    core::{
        Contact,
        message::{
            Acquisition, Beaten, ClusterTag, Header, Held, LeaseState, Pointer, Refusal, Reply, Request, Seen,
            SpreadRecord, Verdict, Want,
        },
    },
};

impl Frame {
    pub(super) fn request(&mut self, request: &Request, book: &dyn Book) {
        match request {
            Request::Ping => self.kind = kind::PING,
            Request::Neighbours { level, nearest } => {
                self.kind = kind::NEIGHBOURS;
                self.level = u32::from(level.0);
                self.choice = u32::from(*nearest);
            }
            Request::Step { level, key, aim, want } => {
                self.kind = kind::STEP;
                self.level = u32::from(level.0);
                self.key = key_bytes(key);
                self.aim = key_bytes(aim);
                (self.choice, self.ttl_ms) = match want {
                    Want::Nodes => (0, 0),
                    Want::Values => (1, 0),
                    Want::Room { ttl } => (2, milliseconds(*ttl)),
                };
            }
            Request::Store { level, key, value, ttl } => {
                self.kind = kind::STORE;
                self.level = u32::from(level.0);
                self.key = key_bytes(key);
                self.value = value.clone();
                self.ttl_ms = milliseconds(*ttl);
            }
            Request::Seek { .. } => self.seek(request),
            Request::Copy { level, key, values } => {
                self.values(kind::COPY, values, book);
                (self.level, self.key) = (u32::from(level.0), key_bytes(key));
            }
            Request::Withdraw { key } => {
                self.kind = kind::WITHDRAW;
                self.key = key_bytes(key);
            }
            Request::Acquire { key, reference, ttl, failed, unreached } => {
                self.kind = kind::ACQUIRE;
                self.key = key_bytes(key);
                self.value = reference.clone();
                self.ttl_ms = milliseconds(*ttl);
                self.ids = ids_bytes(failed);
                self.more_ids = ids_bytes(unreached);
            }
            Request::Beat { lease, reference, ttl, unreached } => {
                self.kind = kind::BEAT;
                self.lease(lease);
                self.value = reference.clone();
                self.ttl_ms = milliseconds(*ttl);
                self.more_ids = ids_bytes(unreached);
            }
            Request::Pass { lease, marker } => {
                self.kind = kind::PASS;
                self.lease(lease);
                self.marker(marker);
            }
            Request::Hold { key, state } => {
                self.key = key_bytes(key);
                self.state(state, [kind::HOLD_LEASE, kind::HOLD_MARK], book);
            }
            Request::SpreadKeys { from } => {
                self.kind = kind::SPREAD_KEYS;
                self.number = u64::from(*from);
            }
            Request::SpreadGet { short } => {
                self.kind = kind::SPREAD_GET;
                self.number = *short;
            }
        }
    }

    fn seek(&mut self, request: &Request) {
        let Request::Seek { level, widest, key, seeker, hops } = request else { return };
        self.kind = kind::SEEK;
        self.level = u32::from(level.0);
        self.choice = u32::from(widest.0);
        self.key = key_bytes(key);
        self.ids = ids_bytes(std::slice::from_ref(seeker));
        self.number = u64::from(*hops);
    }

    pub(super) fn reply(&mut self, reply: &Reply, book: &dyn Book) {
        match reply {
            Reply::Pong => self.kind = kind::PONG,
            Reply::Wait => self.kind = kind::WAIT,
            Reply::Nodes(nodes) => self.nodes(kind::NODES, nodes, book),
            Reply::Step { seen, nodes } => {
                self.nodes(kind::STEP_NODES, nodes, book);
                match seen {
                    Seen::Nothing => {}
                    Seen::Values(values) => self.values(kind::STEP_VALUES, values, book),
                    Seen::Room(room) => {
                        self.kind = kind::STEP_ROOM;
                        self.choice = u32::from(room.loaded);
                        self.number = u64::from(room.count);
                        self.ttl_ms = milliseconds(room.soonest);
                    }
                }
            }
            Reply::Sought { level, values } => {
                self.values(kind::SOUGHT, values, book);
                self.level = u32::from(level.0);
            }
            Reply::Stored(verdict) => {
                self.kind = kind::STORED;
                self.choice = match verdict {
                    Verdict::Accepted => 0,
                    Verdict::Full => 1,
                };
            }
            Reply::Done => self.kind = kind::DONE,
            Reply::Acquired(acquisition) => self.acquisition(acquisition, book),
            Reply::Beaten(Beaten::Kept) => self.kind = kind::BEAT_KEPT,
            Reply::Beaten(Beaten::Superseded(by)) => {
                self.values(kind::BEAT_SUPERSEDED, std::slice::from_ref(by), book);
            }
            Reply::Beaten(Beaten::Elsewhere(nodes)) => self.nodes(kind::BEAT_ELSEWHERE, nodes, book),
            Reply::Held(Held::Yes(values)) => self.values(kind::HELD, values, book),
            Reply::Held(Held::Other(state)) => {
                self.state(state, [kind::HELD_OTHER_LEASE, kind::HELD_OTHER_MARK], book);
            }
            Reply::SpreadKeys { shorts, more } => {
                self.kind = kind::SHORT_KEYS;
                self.choice = u32::from(*more);
                self.ids = shorts.iter().flat_map(|short| short.to_be_bytes()).collect();
            }
            Reply::Spread(record) => {
                self.kind = kind::SPREAD_REPLY;
                self.spread(record);
            }
            Reply::Refused(refusal) => {
                self.kind = kind::REFUSED;
                self.choice = match refusal {
                    Refusal::NotInCluster => 1,
                    Refusal::Keys => 2,
                    Refusal::Bytes => 3,
                    Refusal::Sender => 4,
                    Refusal::TooLong => 5,
                    Refusal::Busy => 6,
                };
            }
        }
    }

    pub(super) fn spread(&mut self, spread: &SpreadRecord) {
        self.key = key_bytes(&spread.signer.key());
        self.value = spread.record.clone();
    }

    fn acquisition(&mut self, acquisition: &Acquisition, book: &dyn Book) {
        match acquisition {
            Acquisition::References(values) => self.values(kind::REFERENCES, values, book),
            Acquisition::Granted(lease) => {
                self.kind = kind::GRANTED;
                self.lease(lease);
            }
            Acquisition::Marked(marker) => {
                self.kind = kind::MARKED;
                self.marker(marker);
            }
            Acquisition::Elsewhere(nodes) => self.nodes(kind::ACQUIRE_ELSEWHERE, nodes, book),
        }
    }

    fn nodes(&mut self, kind: u32, nodes: &[Contact], book: &dyn Book) {
        self.kind = kind;
        self.nodes = nodes.iter().take(Reply::NODES).filter_map(|node| book.record(node.peer)).collect();
    }

    fn values(&mut self, kind: u32, values: &[Pointer], book: &dyn Book) {
        self.kind = kind;
        self.values = values.iter().take(Reply::VALUES).filter_map(|value| pointer_bytes(value, book)).collect();
    }

    fn lease(&mut self, lease: &Lease) {
        self.key = key_bytes(&lease.key);
        self.epoch = lease.epoch;
        self.counter = lease.counter;
    }

    fn marker(&mut self, marker: &Marker) {
        match marker {
            Marker::Pass(ttl) => self.pass_ms = milliseconds(*ttl).max(1),
            Marker::Vary(names) => self.names = names.iter().map(|name| name.clone().into_bytes().into()).collect(),
        }
    }

    fn state(&mut self, state: &LeaseState, [leased, marked]: [u32; 2], book: &dyn Book) {
        match state {
            LeaseState::Leased { lease, holder } => {
                self.values(leased, std::slice::from_ref(holder), book);
                self.lease(lease);
            }
            LeaseState::Marked { marker, ttl } => {
                self.kind = marked;
                self.marker(marker);
                self.ttl_ms = milliseconds(*ttl);
            }
        }
    }
}

/// A cluster tag as its 28 bytes.
pub(super) fn tag(tag: &ClusterTag) -> Bytes {
    let mut bytes = Vec::with_capacity(TAG_BYTES);
    bytes.extend_from_slice(tag.id.as_bytes());
    bytes.extend_from_slice(&tag.age.seconds().to_be_bytes());
    bytes.extend_from_slice(&tag.size.to_be_bytes());
    bytes.into()
}

/// A node's description as bytes; what is beyond its caps is left out.
pub(super) fn info(info: &NodeInfo) -> Bytes {
    let certificates = info.certificates.iter().take(LIST_LIMIT).filter(|one| one.name.len() <= NAME_LIMIT);
    WireInfo {
        v4: info.v4.iter().take(LIST_LIMIT).flat_map(|address| address.octets()).collect(),
        v6: info.v6.iter().take(LIST_LIMIT).flat_map(|address| address.octets()).collect(),
        ports: info.http_ports.iter().take(LIST_LIMIT).flat_map(|port| port.to_be_bytes()).collect(),
        roles: u32::from(info.roles.bits()),
        load: u32::from(info.load),
        weight: u32::from(info.weight),
        quota_left: info.quota_left,
        draining: info.draining,
        site: cut(&info.site, SITE_LIMIT),
        names: certificates.clone().map(|one| Bytes::copy_from_slice(one.name.as_bytes())).collect(),
        expiries: certificates.flat_map(|one| one.expires.to_be_bytes()).collect(),
        version: cut(&info.version, VERSION_LIMIT),
    }
    .encode_to_vec()
    .into()
}

fn pointer_bytes(pointer: &Pointer, book: &dyn Book) -> Option<Bytes> {
    let wire = WirePointer {
        holder: book.record(pointer.holder.peer)?,
        clusters: pointer.clusters.iter().take(Header::LEVELS).flat_map(|id| *id.as_bytes()).collect(),
        value: pointer.value.clone(),
        ttl_ms: milliseconds(pointer.ttl),
    };
    Some(wire.encode_to_vec().into())
}

fn key_bytes(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn ids_bytes(ids: &[NodeId]) -> Bytes {
    ids.iter().take(Request::FAILED_LIMIT).flat_map(|id| *id.key().as_bytes()).collect()
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// At most this many bytes of the text, cut at a character.
fn cut(text: &str, limit: usize) -> Bytes {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Bytes::copy_from_slice(text.as_bytes().get(..end).unwrap_or_default())
}
