//! The rest of an answer of which clients have a part already, from the origin, after the peer it came from was lost.
//!
//! What clients get is one answer of the origin's, or it breaks off: either exactly the bytes that follow, under the strong tag that
//! the part came with (RFC 9110 13.1.5), or all of it anew, if it begins with what was given out. An origin that breaks off in turn,
//! refuses, or cannot be reached, is asked again, a few times: of those who wait many are half way.

use std::time::Duration;

use atoll_overlay::NodeId;
use atoll_store::Partial;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::sleep;

use crate::{
    fetch::{Fetch, Filling, Outcome, wide},
    flight::{Content, End},
    freshness,
    ledger::Reach,
    meta::validator,
    origin::{OriginAnswer, OriginBody},
    part::Span,
    peer::PeerError,
    plan::Cut,
    reason::Failure,
    trace::short,
    vouch::Copied,
};

/// Why an origin's body did not bring all that it should.
enum Spilt {
    /// It broke off.
    Broken(Failure),
    /// It is not the body that is here in part, from this byte on.
    Differs(u64),
    /// It is not taken in.
    End(End),
}

impl Fetch {
    /// A peer that was sending sends no more.
    pub(crate) fn note_loss(&self, holder: NodeId, error: &PeerError) {
        self.wanted.trace.note("peer", || format!("{}: {error}", short(holder)));
        if *error == PeerError::Misbehaved {
            self.cache.counters.peer_fetch("hash_mismatch");
            self.cache.lied(holder, "its bytes are not those that their fetcher signed");
        } else if *error == PeerError::Contradicts {
            // One of two fetchers lied. Whoever passes its words on may be honest, and so may whoever sent what is here: the origin
            // will tell, if it is asked.
            self.cache.shunned.put(holder, (), self.cache.config.peers.shun);
            self.cache.counters.peer_fetch("refused");
        } else {
            // A copy that breaks off here may be whole elsewhere; one that crawls is elsewhere in time.
            if *error == PeerError::Slow {
                self.cache.shunned.put(holder, (), self.cache.config.peers.shun);
            }
            self.cache.counters.peer_fetch("timeout");
        }
    }

    /// Asks for what follows, where a strong tag makes it belong to what is there; else all of it is asked for and compared.
    pub(crate) fn ask_what_follows(&self, filling: &Filling, fields: &mut HeaderMap) {
        let tag = filling.answer.meta.fields.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
        let Some(tag) = tag.filter(|_| !self.all_anew) else { return };
        // One byte more than is missing: nothing may be missing but the word that it ends here.
        let at = filling.at.saturating_sub(1);
        let range = match &self.wanted.cut {
            Some(Cut::Slice(plan, number)) => plan.rest_of(*number, at).asked(),
            Some(Cut::First(_)) | None => {
                let Ok(range) = HeaderValue::try_from(format!("bytes={at}-")) else { return };
                range
            }
        };
        fields.insert(header::IF_RANGE, tag.clone());
        fields.insert(header::RANGE, range);
    }

    /// The origin answered that question.
    pub(crate) async fn follow_on(&mut self, answer: OriginAnswer) -> Outcome {
        let Some(filling) = &self.filling else { return Outcome::End(End::Failed(Failure::Internal)) };
        let at = filling.at;
        let Some(place) = self.place_in(filling, &answer) else {
            let trouble = freshness::is_server_error(answer.status) || answer.status == StatusCode::TOO_MANY_REQUESTS;
            let changed = answer.status == filling.answer.meta.status && answer.status != StatusCode::PARTIAL_CONTENT;
            // Where the question for the rest is answered with something of no use, the plain question may not be.
            let last = changed || !trouble && std::mem::replace(&mut self.all_anew, true);
            let failure = Failure::ResponseIncomplete;
            return if last { Outcome::End(End::Failed(failure)) } else { Outcome::Broken(failure) };
        };
        let meta = &filling.answer.meta;
        // Under a validator that stands for the origin's strong tag two bodies are no two versions.
        let proven = validator(&meta.url, &answer.fields, meta.length, rand::random()) == meta.validator;
        self.lead.ledger().take_over(at);
        match self.pour(answer.body, place).await {
            Ok(()) => Outcome::End(self.complete().await),
            Err(Spilt::Broken(failure)) => Outcome::Broken(failure),
            Err(Spilt::Differs(at)) => {
                if proven {
                    self.blame(at);
                }
                Outcome::End(End::Failed(Failure::ResponseIncomplete))
            }
            Err(Spilt::End(end)) => Outcome::End(end),
        }
    }

    /// Where in the body that is here an answer's body begins; `None`: it is not of it, or leaves a gap.
    fn place_in(&self, filling: &Filling, answer: &OriginAnswer) -> Option<u64> {
        let meta = &filling.answer.meta;
        if answer.status == meta.status && answer.status != StatusCode::PARTIAL_CONTENT {
            // Of two lengths that are stated one would be wrong; another tag says that this is another body (RFC 9110 13.1.5).
            let same = answer.length.zip(meta.length).is_none_or(|(new, old)| new == old);
            return (same && version(&answer.fields) == version(&meta.fields)).then_some(0);
        }
        let range = Span::of(&answer.fields).filter(|range| answer.length.is_none_or(|is| is == range.length()))?;
        let same = answer.status == StatusCode::PARTIAL_CONTENT
            && answer.fields.get(header::ETAG).is_some_and(|tag| meta.fields.get(header::ETAG) == Some(tag));
        let (begin, last, total) = match &self.wanted.cut {
            Some(Cut::Slice(plan, number)) => {
                let span = plan.span(*number);
                (span.first, span.last, span.total)
            }
            Some(Cut::First(_)) | None => {
                let total = meta.length.unwrap_or(range.total);
                (0, total.saturating_sub(1), total)
            }
        };
        let place = range.first.checked_sub(begin).filter(|place| *place <= filling.at)?;
        (same && range.last == last && range.total == total).then_some(place)
    }

    /// The origin did not bring the rest: a pause before it is sought again, longer each time, or the end. Meanwhile those who
    /// follow wait.
    pub(crate) async fn pause(&self, broken: u32, failure: Failure) -> Result<(), End> {
        if broken > self.cache.config.peers.resumes {
            return Err(End::Failed(failure));
        }
        self.wanted.trace.note("origin", || format!("broke off: {failure}; the rest is sought again"));
        self.settle().await.map_err(End::Failed)?;
        let pause = PAUSE * (1 << broken.saturating_sub(1).min(DOUBLED));
        self.keeper.beating(&self.lead, sleep(pause)).await;
        Ok(())
    }

    /// The rest is to come from somebody else: what this node had from the origin so far is signed, all of it, since they will not
    /// vouch for that.
    async fn settle(&self) -> Result<(), Failure> {
        let Some((filling, partial)) = self.filling.as_ref().and_then(|it| Some((it, partial_of(it)?))) else {
            return Ok(());
        };
        let copied = Copied { key: self.wanted.key, validator: filling.answer.meta.validator };
        let reach = Reach { partial, visible: filling.at, whole: false };
        self.lead.ledger().settle((self.cache.streams.as_ref(), copied), reach).await
    }

    /// Reads an origin's body, which begins at this place, to its end, and keeps it.
    pub(crate) async fn pump(&mut self, body: OriginBody, place: u64) -> End {
        match self.pour(body, place).await {
            Ok(()) => self.complete().await,
            Err(Spilt::Broken(failure)) => End::Failed(failure),
            Err(Spilt::Differs(_)) => End::Failed(Failure::ResponseIncomplete),
            Err(Spilt::End(end)) => end,
        }
    }

    /// Takes in an origin's body, which begins at this place. What is there already must be the same.
    async fn pour(&mut self, mut body: OriginBody, place: u64) -> Result<(), Spilt> {
        let known = self.filling.as_ref().map_or(0, |filling| filling.at);
        let mut compared = place;
        while let Some(mut data) = self.keeper.beating(&self.lead, body.next()).await.map_err(Spilt::Broken)? {
            let again = usize::try_from(known.saturating_sub(compared)).unwrap_or(usize::MAX).min(data.len());
            let again = data.split_to(again);
            if let Some(at) = self.differs(compared, &again).await {
                return Err(Spilt::Differs(at));
            }
            compared += wide(again.len());
            if !again.is_empty() {
                // Nothing new is shown, for as long as the origin takes to come this far again: those who follow must know why.
                self.lead.beat();
            }
            if !data.is_empty() {
                self.take(data).await.map_err(Spilt::End)?;
            }
        }
        let Some(filling) = &self.filling else { return Err(Spilt::Broken(Failure::Internal)) };
        if compared < known {
            return Err(Spilt::Differs(compared));
        }
        let short = filling.answer.meta.length.is_some_and(|length| length != filling.at);
        if short { Err(Spilt::Broken(Failure::ResponseIncomplete)) } else { Ok(()) }
    }

    /// Whoever signed what is here at this place lied, or the origin answers each asker differently. This node had its own part from the
    /// origin: then that said both.
    fn blame(&self, at: u64) {
        let Some(filling) = &self.filling else { return };
        let copied = Copied { key: self.wanted.key, validator: filling.answer.meta.validator };
        let group = self.lead.ledger().group_at(at);
        let signer = group.and_then(|group| copied.signer(self.cache.streams.as_ref(), &group));
        let me = self.cache.index.me().id;
        if let Some(signer) = signer.filter(|signer| *signer != me) {
            self.cache.contradicted(signer, &self.wanted);
        }
    }

    /// From where on these bytes are not those that are there at this place, if they are not.
    pub(crate) async fn differs(&self, mut at: u64, bytes: &[u8]) -> Option<u64> {
        let Some(partial) = self.filling.as_ref().and_then(partial_of) else { return Some(at) };
        let mut left = bytes;
        while !left.is_empty() {
            let Ok(there) = partial.read(at, left.len()).await else { return Some(at) };
            let alike = there.iter().zip(left).take_while(|(one, other)| one == other).count();
            at += wide(alike);
            if alike < there.len() || there.is_empty() {
                return Some(at);
            }
            left = left.get(alike..).unwrap_or_default();
        }
        None
    }
}

/// What tells one version from another, as far as the origin says: the tag, else when it changed last.
fn version(fields: &HeaderMap) -> Option<&HeaderValue> {
    fields.get(header::ETAG).or_else(|| fields.get(header::LAST_MODIFIED))
}

/// A body that is being filled.
fn partial_of(filling: &Filling) -> Option<&Partial> {
    match &filling.answer.content {
        Content::Filling(partial) => Some(partial),
        Content::Stored(_) | Content::Bytes(_) | Content::Direct(_) => None,
    }
}

/// The first pause; doubled so often at most.
const PAUSE: Duration = Duration::from_millis(250);
const DOUBLED: u32 = 5;
