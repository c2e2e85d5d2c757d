//! Members that do harm: admitted like all others, they answer probes, so that they stay in everybody's tables, and then drop
//! questions, name only their own kind, or return pointers to nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    Key, Level,
    core::{
        Contact,
        message::{Body, Header, Message, Pointer, Reply, Request, Seen, Verdict, Want},
    },
};

/// What such a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// Says nothing to questions about keys.
    Drops,
    /// Names only its own kind.
    Misleads,
    /// Has an answer to everything, and it is wrong: one that all of its kind give, and others.
    Forges,
}

/// A node that does harm.
#[derive(Debug)]
pub(super) struct Liar {
    harm: Harm,
    kind: Arc<[Contact]>,
    header: Arc<Header>,
    turn: usize,
}

impl Liar {
    pub(super) const fn new(harm: Harm, kind: Arc<[Contact]>, header: Arc<Header>) -> Self {
        Self { harm, kind, header, turn: 0 }
    }

    /// What it does with a message: nothing of its own (none), silence, or a false answer.
    pub(super) fn answer(&mut self, message: &Message) -> Option<Option<Message>> {
        let Body::Request { id, request } = &message.body else { return None };
        let about_a_key = matches!(
            request,
            Request::Step { .. } | Request::Seek { .. } | Request::Store { .. } | Request::Copy { .. }
        );
        if !about_a_key {
            return None;
        }
        let (level, key) = match request {
            Request::Step { level, key, .. } | Request::Seek { level, key, .. } => (*level, *key),
            _ => (Level::GLOBAL, Key::ZERO),
        };
        let reply = match (self.harm, request) {
            (Harm::Drops, _) => return Some(None),
            (_, Request::Store { .. }) => Reply::Stored(Verdict::Accepted),
            (_, Request::Copy { .. }) => Reply::Done,
            (Harm::Misleads, Request::Seek { .. }) => Reply::Sought { level, values: Vec::new() },
            (Harm::Forges, Request::Seek { .. }) => Reply::Sought { level, values: self.forged(&key) },
            (Harm::Forges, Request::Step { want: Want::Values, .. }) => {
                Reply::Step { seen: Seen::Values(self.forged(&key)), nodes: self.named() }
            }
            _ => Reply::Step { seen: Seen::Nothing, nodes: self.named() },
        };
        let body = Body::Reply { id: *id, spent: Duration::ZERO, reply };
        Some(Some(Message { header: Arc::clone(&self.header), body }))
    }

    fn named(&mut self) -> Vec<Contact> {
        self.turn += 1;
        self.kind.iter().cycle().skip(self.turn * 3 % self.kind.len().max(1)).take(Reply::NODES).copied().collect()
    }

    /// Pointers to liars: first to the one that all of them name for this key.
    fn forged(&mut self, key: &Key) -> Vec<Pointer> {
        let value = Bytes::from_static(b"nothing here");
        let ttl = Duration::from_secs(3_600);
        let place: usize = key.as_bytes().iter().copied().map(usize::from).sum();
        let agreed = self.kind.get(place % self.kind.len().max(1)).copied();
        agreed
            .into_iter()
            .chain(self.named())
            .take(Reply::VALUES)
            .map(|holder| Pointer { holder, clusters: Vec::new(), value: value.clone(), ttl })
            .collect()
    }
}
