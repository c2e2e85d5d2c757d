//! Records for every node: flooded with a memory of what was seen, kept in a bounded log, and pulled on Hello by who was away.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    IndexError, Key, Spread,
    core::{
        Contact, Node, Output,
        message::{Body, Reply, Request, SpreadRecord},
        search::Purpose,
        time::Instant,
    },
};

/// The records a node has, oldest first.
#[derive(Debug)]
pub(in crate::core) struct SpreadLog {
    records: VecDeque<(u64, SpreadRecord)>,
    /// Records that were here, the log's and older ones, so that none is heard twice.
    seen: BTreeSet<u64>,
    seen_order: VecDeque<u64>,
    digest: u64,
    limit: usize,
    /// Records passed on since this moment.
    passed: (Instant, u32),
}

impl SpreadLog {
    pub(in crate::core) const fn new(limit: usize) -> Self {
        Self {
            records: VecDeque::new(),
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
            digest: 0,
            limit,
            passed: (Instant::START, 0),
        }
    }

    /// XOR of the short keys of all records in the log.
    pub(in crate::core) const fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes a record in. Whether it is new.
    pub(in crate::core) fn add(&mut self, record: SpreadRecord) -> bool {
        let short = short(&record.key());
        if !self.seen.insert(short) {
            return false;
        }
        self.seen_order.push_back(short);
        if self.seen_order.len() > self.limit.saturating_mul(SEEN_FACTOR) {
            self.seen_order.pop_front().inspect(|old| _ = self.seen.remove(old));
        }
        self.digest ^= short;
        self.records.push_back((short, record));
        if self.records.len() > self.limit
            && let Some((old, _)) = self.records.pop_front()
        {
            self.digest ^= old;
        }
        true
    }

    /// The short keys from a position on, and whether there are more.
    pub(in crate::core) fn page(&self, from: u32) -> (Vec<u64>, bool) {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let page: Vec<u64> = self.records.iter().skip(from).take(Reply::SPREAD_KEYS).map(|(short, _)| *short).collect();
        let more = from.saturating_add(page.len()) < self.records.len();
        (page, more)
    }

    pub(in crate::core) fn get(&self, short: u64) -> Option<&SpreadRecord> {
        self.records.iter().find(|(one, _)| *one == short).map(|(_, record)| record)
    }

    pub(in crate::core) fn has_seen(&self, short: u64) -> bool {
        self.seen.contains(&short)
    }

    /// Whether one more may be passed on now.
    fn may_pass(&mut self, now: Instant, per_second: u32) -> bool {
        if now.since(self.passed.0) >= Duration::from_secs(1) {
            self.passed = (now, 0);
        }
        self.passed.1 += 1;
        self.passed.1 <= per_second
    }
}

impl Node {
    /// Sends a record of this node's own.
    pub(in crate::core) fn spread(&mut self, now: Instant, record: Bytes) -> Result<(), IndexError> {
        if record.len() > SpreadRecord::LIMIT {
            return Err(IndexError::ValueTooLong { length: record.len(), limit: SpreadRecord::LIMIT });
        }
        let signer = self.contact.id;
        self.on_spread(now, self.contact, SpreadRecord { signer, record });
        Ok(())
    }

    /// A record came: if it is new, it is heard here and passed on.
    pub(in crate::core) fn on_spread(&mut self, now: Instant, from: Contact, record: SpreadRecord) {
        if record.record.len() > SpreadRecord::LIMIT || !self.spread_log.add(record.clone()) {
            return;
        }
        self.outbox.push_back(Output::Heard(Spread { signer: record.signer, record: record.record.clone() }));
        if !self.spread_log.may_pass(now, self.config.spread_per_second) {
            return;
        }
        // The neighbours in the id space carry it to everyone; a random few carry it far at once.
        let fanout = self.config.spread_fanout;
        let me = self.contact.id.key();
        let mut to = self.peers.closest(crate::Level::GLOBAL, &me, fanout / 2);
        let mut others: Vec<Contact> =
            self.peers.iter().filter(|known| known.tables != 0).map(|known| known.contact()).collect();
        self.rng.shuffle(&mut others);
        for other in others {
            if to.len() >= fanout {
                break;
            }
            if !to.contains(&other) {
                to.push(other);
            }
        }
        for node in to.into_iter().filter(|node| *node != from) {
            self.send(node, Body::Spread(record.clone()));
        }
    }

    /// A peer says which records it has: if they differ, its list is asked for.
    pub(in crate::core) fn on_spread_digest(&mut self, now: Instant, from: Contact, digest: u64) {
        let purpose = Purpose::SpreadKeys(0);
        if digest != self.spread_log.digest() && !self.exchanges.is_asked(from.peer, purpose) {
            self.ask(now, from, Request::SpreadKeys { from: 0 }, purpose);
        }
    }

    /// A page of a peer's list.
    pub(in crate::core) fn on_spread_keys(&mut self, now: Instant, from: Contact, page: (u32, Vec<u64>, bool)) {
        let (start, shorts, more) = page;
        for short in &shorts {
            if !self.spread_log.has_seen(*short) {
                self.ask(now, from, Request::SpreadGet { short: *short }, Purpose::SpreadGet);
            }
        }
        let next = start.saturating_add(u32::try_from(shorts.len()).unwrap_or(u32::MAX));
        let within = usize::try_from(next).is_ok_and(|next| next < self.config.spread_log);
        if more && !shorts.is_empty() && within {
            self.ask(now, from, Request::SpreadKeys { from: next }, Purpose::SpreadKeys(next));
        }
    }
}

/// The first eight bytes of a record's key.
fn short(key: &Key) -> u64 {
    key.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// How many times the log's length of short keys are remembered.
const SEEN_FACTOR: usize = 8;
