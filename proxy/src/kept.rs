//! What becomes of an answer once all of it is here, or its fetch has ended: others are told of it, or it is counted why it is not kept.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use atoll_store::Object;
use http::{HeaderMap, StatusCode};

use crate::{
    fetch::{Fetch, Stale},
    flight::End,
    meta::Meta,
    reason::Reason,
    reference::Reference,
    stated::Stated,
};

impl Fetch {
    /// Tells the index of what was just stored, if others may have it.
    pub(crate) fn tell_of(&mut self, meta: &Meta, stored: &Object) {
        let is_purged = self.cache.purges.took(self.born, meta);
        // After a soft purge it is here, to be confirmed.
        if is_purged && self.cache.purges.gave_up(self.born, meta) {
            self.unkept.get_or_insert(Reason::Purged);
        }
        // A slice is a copy that others can use; a part as one client asked for it is none, nor is what a purge took meanwhile.
        if meta.status == StatusCode::PARTIAL_CONTENT && self.wanted.cut.is_none() {
            return;
        }
        if self.lead.is_overtaken() {
            self.wanted.trace.note("kept", || "not kept: a method that may change it came meanwhile".to_owned());
            return;
        }
        if is_purged {
            self.wanted.trace.note("kept", || "not for others: it was purged meanwhile".to_owned());
            return;
        }
        self.wanted.trace.note("kept", || format!("stored whole, {} bytes, and announced", meta.length.unwrap_or(0)));
        let reference = match self.cache.announcer() {
            Some(_) => Reference::of_copy(meta, stored),
            None => Reference::whole_of(meta),
        };
        self.keeper.whole(self.wanted.key, reference, || self.fresh_for(meta));
    }

    /// An answer that was to be stored and is not counts once; those that were never to be are counted where that is found.
    pub(crate) fn count_unkept(&self, end: End) {
        let broken = match end {
            End::Failed(failure) if self.filling.is_some() => Some(Reason::of_broken(failure)),
            _ => None,
        };
        if let Some(reason) = self.unkept.or(broken) {
            self.cache.counters.not_stored(reason);
        }
    }

    /// All of it came: whether it is what the origin says it is, if that says anything.
    pub(crate) fn is_as_stated(&mut self, stated: Option<Box<Stated>>) -> bool {
        let holds = stated.is_none_or(|stated| stated.holds());
        if !holds {
            self.wanted.trace.note("kept", || "not stored: it is not what its digest says".to_owned());
            self.unkept = Some(Reason::DigestMismatch);
            warn_of_mismatch(&self.wanted.url.to_string());
        }
        holds
    }
}

/// Whether a 304 may be about a stale copy, as far as both state a digest: with another one it is about something else [RFC 9530 3,
/// RFC 9111 4.3.4]. The copy's bytes are not read for it: those who wait have nothing meanwhile.
pub(crate) fn may_be_of(confirmed: &HeaderMap, stale: &Stale) -> bool {
    stale.meta.status != StatusCode::OK || Stated::agree(&stale.meta.fields, confirmed)
}

/// Once in a while: of an origin whose front changes bodies every answer may be such.
fn warn_of_mismatch(url: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= WARN) {
        *last = Some(Instant::now());
        tracing::warn!(
            url,
            "an answer is not what its Repr-Digest or Content-Digest says, and is passed on without being stored: \
             look for what changes bodies between the origin and here, or take the field away"
        );
    }
}

/// At most one warning in this time.
const WARN: Duration = Duration::from_secs(60);
