//! Frames to messages. The bytes come from anyone: every length and count is checked, nothing is indexed.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    Book, DecodeError, RECORD_LIMIT,
    frame::{
        Frame, LIST_LIMIT, NAME_LIMIT, SITE_LIMIT, TAG_BYTES, VARY_LIMIT, VERSION_LIMIT, WireInfo, WirePointer, kind,
    },
};
use crate::{
    Certificate, Key, Lease, Level, Marker, NodeId, NodeInfo, Roles,
    core::{
        Age, Contact,
        message::{
            Acquisition, Beaten, ClusterTag, Header, Held, LeaseState, Pointer, Refusal, Reply, Request, Room, Seen,
            SpreadRecord, Verdict, Want,
        },
    },
};

impl Frame {
    pub(super) fn read_request(&self, book: &mut dyn Book) -> Result<Request, DecodeError> {
        Ok(match self.kind {
            kind::PING => Request::Ping,
            kind::NEIGHBOURS => Request::Neighbours { level: self.read_level()?, nearest: self.choice == 1 },
            kind::STEP => Request::Step {
                level: self.read_level()?,
                key: key(&self.key, "key")?,
                aim: key(&self.aim, "aim")?,
                want: match self.choice {
                    0 => Want::Nodes,
                    1 => Want::Values,
                    2 => Want::Room { ttl: self.read_ttl() },
                    _ => return Err(DecodeError::Unknown),
                },
            },
            kind::STORE => Request::Store {
                level: self.read_level()?,
                key: key(&self.key, "key")?,
                value: self.read_value()?,
                ttl: self.read_ttl(),
            },
            kind::SEEK => Request::Seek {
                level: self.read_level()?,
                widest: level(self.choice)?,
                key: key(&self.key, "key")?,
                seeker: ids(&self.ids)?.pop().ok_or(DecodeError::Field("seeker"))?,
                hops: u8::try_from(self.number).unwrap_or(u8::MAX).min(Request::HOPS),
            },
            kind::COPY => Request::Copy {
                level: self.read_level()?,
                key: key(&self.key, "key")?,
                values: self.read_values(book)?,
            },
            kind::WITHDRAW => Request::Withdraw { key: key(&self.key, "key")? },
            kind::ACQUIRE => Request::Acquire {
                key: key(&self.key, "key")?,
                reference: self.read_value()?,
                ttl: self.read_ttl(),
                failed: ids(&self.ids)?,
                unreached: ids(&self.more_ids)?,
            },
            kind::BEAT => Request::Beat {
                lease: self.read_lease()?,
                reference: self.read_value()?,
                ttl: self.read_ttl(),
                unreached: ids(&self.more_ids)?,
            },
            kind::PASS => Request::Pass { lease: self.read_lease()?, marker: self.read_marker()? },
            kind::HOLD_LEASE | kind::HOLD_MARK => Request::Hold {
                key: key(&self.key, "key")?,
                state: self.read_state(self.kind == kind::HOLD_LEASE, book)?,
            },
            kind::SPREAD_KEYS => Request::SpreadKeys { from: u32::try_from(self.number).unwrap_or(u32::MAX) },
            kind::SPREAD_GET => Request::SpreadGet { short: self.number },
            _ => return Err(DecodeError::Unknown),
        })
    }

    pub(super) fn read_reply(&self, book: &mut dyn Book) -> Result<Reply, DecodeError> {
        Ok(match self.kind {
            kind::PONG => Reply::Pong,
            kind::WAIT => Reply::Wait,
            kind::NODES => Reply::Nodes(self.read_nodes(book)?),
            kind::STEP_NODES => Reply::Step { seen: Seen::Nothing, nodes: self.read_nodes(book)? },
            kind::STEP_VALUES => {
                Reply::Step { seen: Seen::Values(self.read_values(book)?), nodes: self.read_nodes(book)? }
            }
            kind::STEP_ROOM => {
                let count = u32::try_from(self.number).unwrap_or(u32::MAX);
                let room = Room { loaded: self.choice == 1, count, soonest: self.read_ttl() };
                Reply::Step { seen: Seen::Room(room), nodes: self.read_nodes(book)? }
            }
            kind::SOUGHT => Reply::Sought { level: self.read_level()?, values: self.read_values(book)? },
            kind::STORED => Reply::Stored(if self.choice == 0 { Verdict::Accepted } else { Verdict::Full }),
            kind::DONE => Reply::Done,
            kind::REFERENCES => Reply::Acquired(Acquisition::References(self.read_values(book)?)),
            kind::GRANTED => Reply::Acquired(Acquisition::Granted(self.read_lease()?)),
            kind::MARKED => Reply::Acquired(Acquisition::Marked(self.read_marker()?)),
            kind::ACQUIRE_ELSEWHERE => Reply::Acquired(Acquisition::Elsewhere(self.read_nodes(book)?)),
            kind::BEAT_KEPT => Reply::Beaten(Beaten::Kept),
            kind::BEAT_SUPERSEDED => Reply::Beaten(Beaten::Superseded(self.read_holder(book)?)),
            kind::BEAT_ELSEWHERE => Reply::Beaten(Beaten::Elsewhere(self.read_nodes(book)?)),
            kind::HELD => Reply::Held(Held::Yes(self.read_values(book)?)),
            kind::HELD_OTHER_LEASE => Reply::Held(Held::Other(self.read_state(true, book)?)),
            kind::HELD_OTHER_MARK => Reply::Held(Held::Other(self.read_state(false, book)?)),
            kind::SHORT_KEYS => Reply::SpreadKeys { shorts: shorts(&self.ids)?, more: self.choice == 1 },
            kind::SPREAD_REPLY => Reply::Spread(self.read_spread()?),
            kind::REFUSED => Reply::Refused(match self.choice {
                1 => Refusal::NotInCluster,
                2 => Refusal::Keys,
                3 => Refusal::Bytes,
                4 => Refusal::Sender,
                5 => Refusal::TooLong,
                // A later version's reason: the sender wants us to go away, whatever for.
                _ => Refusal::Busy,
            }),
            _ => return Err(DecodeError::Unknown),
        })
    }

    pub(super) fn read_spread(&self) -> Result<SpreadRecord, DecodeError> {
        if self.value.len() > SpreadRecord::LIMIT {
            return Err(DecodeError::Field("record"));
        }
        Ok(SpreadRecord { signer: key(&self.key, "signer")?.into(), record: self.value.clone() })
    }

    fn read_level(&self) -> Result<Level, DecodeError> {
        level(self.level)
    }

    const fn read_ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    fn read_value(&self) -> Result<Bytes, DecodeError> {
        if self.value.len() > Pointer::LIMIT { Err(DecodeError::Field("value")) } else { Ok(self.value.clone()) }
    }

    fn read_lease(&self) -> Result<Lease, DecodeError> {
        Ok(Lease { epoch: self.epoch, counter: self.counter, key: key(&self.key, "key")? })
    }

    fn read_marker(&self) -> Result<Marker, DecodeError> {
        if self.pass_ms > 0 {
            return Ok(Marker::Pass(Duration::from_millis(self.pass_ms)));
        }
        if self.names.is_empty() || self.names.len() > VARY_LIMIT {
            return Err(DecodeError::Field("names"));
        }
        Ok(Marker::Vary(self.names.iter().map(|name| text(name, NAME_LIMIT, "names")).collect::<Result<_, _>>()?))
    }

    fn read_state(&self, leased: bool, book: &mut dyn Book) -> Result<LeaseState, DecodeError> {
        Ok(if leased {
            LeaseState::Leased { lease: self.read_lease()?, holder: self.read_holder(book)? }
        } else {
            LeaseState::Marked { marker: self.read_marker()?, ttl: self.read_ttl() }
        })
    }

    fn read_nodes(&self, book: &mut dyn Book) -> Result<Vec<Contact>, DecodeError> {
        if self.nodes.len() > Reply::NODES || self.nodes.iter().any(|record| record.len() > RECORD_LIMIT) {
            return Err(DecodeError::Field("nodes"));
        }
        Ok(self.nodes.iter().filter_map(|record| book.intern(record)).collect())
    }

    fn read_values(&self, book: &mut dyn Book) -> Result<Vec<Pointer>, DecodeError> {
        if self.values.len() > Reply::VALUES {
            return Err(DecodeError::Field("values"));
        }
        let mut pointers = Vec::with_capacity(self.values.len());
        for bytes in &self.values {
            pointers.extend(pointer(bytes, book)?);
        }
        Ok(pointers)
    }

    fn read_holder(&self, book: &mut dyn Book) -> Result<Pointer, DecodeError> {
        self.read_values(book)?.pop().ok_or(DecodeError::Field("holder"))
    }
}

/// A cluster tag from its 28 bytes.
pub(super) fn tag(bytes: &Bytes) -> Result<ClusterTag, DecodeError> {
    let wrong = DecodeError::Field("cluster");
    let tag: &[u8; TAG_BYTES] = bytes.as_ref().try_into().map_err(|_| wrong.clone())?;
    let (id, rest) = tag.split_first_chunk::<{ Key::BYTES }>().ok_or_else(|| wrong.clone())?;
    let (age, rest) = rest.split_first_chunk::<4>().ok_or_else(|| wrong.clone())?;
    let size: &[u8; 4] = rest.try_into().map_err(|_| wrong)?;
    Ok(ClusterTag {
        id: Key::from_bytes(*id),
        age: Age::of_seconds(u32::from_be_bytes(*age)),
        size: u32::from_be_bytes(*size),
    })
}

/// A node's description; its id, RTT and clusters are the receiver's to fill in.
pub(super) fn info(bytes: Bytes) -> Result<NodeInfo, DecodeError> {
    let wire = WireInfo::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let within = wire.v4.len() <= 4 * LIST_LIMIT
        && wire.v6.len() <= 16 * LIST_LIMIT
        && wire.ports.len() <= 2 * LIST_LIMIT
        && wire.names.len() <= LIST_LIMIT
        && wire.expiries.len() == 8 * wire.names.len();
    if !within {
        return Err(DecodeError::Field("info"));
    }
    let expiries = wire.expiries.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
    let certificates = wire
        .names
        .iter()
        .zip(expiries)
        .map(|(name, expires)| text(name, NAME_LIMIT, "certificate").map(|name| Certificate { name, expires }));
    Ok(NodeInfo {
        id: Key::ZERO.into(),
        v4: wire.v4.as_chunks::<4>().0.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect(),
        v6: wire.v6.as_chunks::<16>().0.iter().map(|bytes| Ipv6Addr::from(*bytes)).collect(),
        http_ports: wire.ports.as_chunks::<2>().0.iter().map(|bytes| u16::from_be_bytes(*bytes)).collect(),
        roles: Roles::from_bits(u8::try_from(wire.roles & 0xff).unwrap_or(0)),
        load: u8::try_from(wire.load).unwrap_or(u8::MAX).min(100),
        weight: u16::try_from(wire.weight).unwrap_or(u16::MAX),
        quota_left: wire.quota_left,
        draining: wire.draining,
        rtt: None,
        clusters: Vec::new(),
        site: text(&wire.site, SITE_LIMIT, "site")?,
        certificates: certificates.collect::<Result<_, _>>()?,
        version: text(&wire.version, VERSION_LIMIT, "version")?,
    })
}

/// A pointer; none if the book refuses its holder.
fn pointer(bytes: &Bytes, book: &mut dyn Book) -> Result<Option<Pointer>, DecodeError> {
    let wire = WirePointer::decode(bytes.clone()).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let (clusters, rest) = wire.clusters.as_chunks::<{ Key::BYTES }>();
    let within = wire.holder.len() <= RECORD_LIMIT
        && wire.value.len() <= Pointer::LIMIT
        && clusters.len() <= Header::LEVELS
        && rest.is_empty();
    if !within {
        return Err(DecodeError::Field("value"));
    }
    Ok(book.intern(&wire.holder).map(|holder| Pointer {
        holder,
        clusters: clusters.iter().map(|id| Key::from_bytes(*id)).collect(),
        value: wire.value.clone(),
        ttl: Duration::from_millis(wire.ttl_ms),
    }))
}

fn level(number: u32) -> Result<Level, DecodeError> {
    match u8::try_from(number) {
        Ok(level) if usize::from(level) <= Header::LEVELS => Ok(Level(level)),
        Ok(_) | Err(_) => Err(DecodeError::Field("level")),
    }
}

fn key(bytes: &Bytes, field: &'static str) -> Result<Key, DecodeError> {
    bytes.as_ref().try_into().map(Key::from_bytes).map_err(|_| DecodeError::Field(field))
}

fn ids(bytes: &Bytes) -> Result<Vec<NodeId>, DecodeError> {
    let (ids, rest) = bytes.as_chunks::<{ Key::BYTES }>();
    if ids.len() > Request::FAILED_LIMIT || !rest.is_empty() {
        return Err(DecodeError::Field("ids"));
    }
    Ok(ids.iter().map(|id| Key::from_bytes(*id).into()).collect())
}

fn shorts(bytes: &Bytes) -> Result<Vec<u64>, DecodeError> {
    let (shorts, rest) = bytes.as_chunks::<8>();
    if shorts.len() > Reply::SPREAD_KEYS || !rest.is_empty() {
        return Err(DecodeError::Field("short keys"));
    }
    Ok(shorts.iter().map(|short| u64::from_be_bytes(*short)).collect())
}

fn text(bytes: &Bytes, limit: usize, field: &'static str) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Field(field))?;
    if text.len() > limit { Err(DecodeError::Field(field)) } else { Ok(text.to_owned()) }
}
