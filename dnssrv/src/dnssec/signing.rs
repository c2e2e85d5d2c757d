//! One question on its way through a redirector whose zone is signed.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Asked, Occasion, Signer};
use crate::{Transport, answer::Answer, question::Query, redirector::Redirector, respond, zone::Zone};

/// A question, and what signs its answer.
pub(crate) struct Signing<'a> {
    signer: &'a Signer,
    asked: Asked<'a>,
    /// Whether signatures are wanted.
    wanted: bool,
}

impl Signing<'_> {
    /// See [`Signer::own_answer`].
    pub(crate) fn own_answer(&self) -> Option<Answer> {
        self.signer.own_answer(&self.asked)
    }

    /// The answer as it is sent.
    pub(crate) fn signed(&self, answer: Answer) -> Answer {
        if self.wanted { self.signer.signed(&self.asked, answer) } else { answer }
    }
}

impl Redirector {
    /// Whether the zone is signed.
    pub(crate) const fn signs(&self) -> bool {
        self.signer.is_some()
    }

    /// How the answer to a question is signed, if the zone is.
    pub(crate) fn signing<'a>(
        &'a self,
        zone: &'a Zone,
        asked: &respond::Asked<'_>,
        query: &'a Query,
    ) -> Option<Signing<'a>> {
        let signer = self.signer.as_ref()?;
        let connected = asked.transport != Transport::Udp;
        // The system's own clock, unlike cookies': resolvers judge by theirs, and a clock that was wrong at the start is set right.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let occasion = Occasion { now: asked.now, wall: u32::try_from(wall).unwrap_or(u32::MAX), connected };
        let edns = query.edns.filter(|edns| edns.dnssec_ok && edns.version == 0);
        let compact_ok = edns.is_some_and(|edns| edns.compact);
        let name = &query.name;
        Some(Signing {
            signer,
            asked: Asked { zone, name, kind: query.kind, compact_ok, occasion },
            wanted: edns.is_some(),
        })
    }
}
