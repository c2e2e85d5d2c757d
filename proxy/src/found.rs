//! Where the answer to a request was found: what [`crate::lookup`] tells and [`crate::respond`] sends.

use std::sync::Arc;

use atoll_overlay::Key;
use atoll_store::Object;
use http::StatusCode;

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
    /// In the store, and what the origin said first, if it was asked.
    Stored { object: Object, meta: Meta, ttl: i64, reason: Option<Reason>, asked: Option<Vain> },
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

/// A question to the origin that brought nothing.
pub(crate) struct Vain {
    pub(crate) forwarded: Forwarded,
    /// What it answered, if it did.
    pub(crate) status: Option<StatusCode>,
    /// Whether it was another's.
    pub(crate) collapsed: bool,
}

impl Vain {
    /// That there was no answer; `None` where the origin was left alone.
    pub(crate) fn unanswered(forwarded: Forwarded, failure: Failure) -> Option<Self> {
        (failure != Failure::CircuitOpen).then_some(Self { forwarded, status: None, collapsed: false })
    }

    pub(crate) const fn answered(forwarded: Forwarded, status: StatusCode) -> Option<Self> {
        Some(Self { forwarded, status: Some(status), collapsed: false })
    }

    /// Asked by this request, or by another that it waited for.
    pub(crate) const fn by_another(self, collapsed: bool) -> Self {
        Self { collapsed, ..self }
    }
}

impl OldCopy {
    pub(crate) fn found(self, reason: Reason) -> Found {
        Found::Stored { object: self.object, meta: self.meta, ttl: self.ttl, reason: Some(reason), asked: None }
    }

    /// In place of an origin that fails.
    pub(crate) fn instead(self, asked: Option<Vain>) -> Found {
        let (object, meta, ttl) = (self.object, self.meta, self.ttl);
        Found::Stored { object, meta, ttl, reason: Some(Reason::StaleIfError), asked }
    }
}
