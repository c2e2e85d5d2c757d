//! Where the answer to a request was found: what [`crate::lookup`] tells and [`crate::respond`] sends.

use std::sync::Arc;

use atoll_overlay::Key;
use atoll_store::Object;

use crate::{
    flight::{Answer, Waiter},
    meta::Meta,
    origin::OriginBody,
    part,
    reason::{Failure, Forwarded, Reason},
    slices::Sliced,
};

/// Where the answer is.
pub(crate) enum Found {
    /// In the store.
    Stored { object: Object, meta: Meta, ttl: i64, reason: Option<Reason> },
    /// In a flight.
    Flown { waiter: Waiter, answer: Arc<Answer>, collapsed: bool, forwarded: Forwarded },
    /// At the origin, for this client alone.
    Passed { meta: Meta, feed: OriginBody, reason: Reason },
    /// A repeated error of the origin.
    Repeated(Arc<Answer>),
    /// Nowhere.
    Failed(Failure, Option<Reason>),
    /// In the store, as a part of the whole that has what was asked for.
    Part(Box<part::Held>),
    /// In slices, stored or on their way.
    Sliced(Box<Sliced>),
    /// Nowhere, and a HEAD is cheaper than all of it; with the stale copy that may stand in for a failure.
    AskHead(Forwarded, Option<Box<OldCopy>>),
}

/// A stale copy, which may have to stand in.
pub(crate) struct OldCopy {
    pub(crate) object: Object,
    pub(crate) meta: Meta,
    pub(crate) key: Key,
    pub(crate) ttl: i64,
    pub(crate) if_error: bool,
}

impl OldCopy {
    pub(crate) fn found(self, reason: Reason) -> Found {
        Found::Stored { object: self.object, meta: self.meta, ttl: self.ttl, reason: Some(reason) }
    }
}
