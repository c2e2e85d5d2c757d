//! A flight, as a peer follows it: its head once it is known, then its body with the words that vouch for it, signs of life while it
//! waits, and why it ends.

use std::{collections::VecDeque, sync::Arc};

use atoll_overlay::NodeId;
use atoll_store::Partial;
use bytes::Bytes;
use futures::stream;
use tokio::time::{Instant, sleep_until};

use crate::{
    cache::Cache,
    clock,
    flight::{Answer, Content, End, Flight, Progress, Waiter},
    frames::{Abort, Frame},
    ledger::{Next, Reach},
    reason::Failure,
    serve_peer::{Asked, Frames, PIECE},
    uploads::{Upload, Uploads, Wait},
    vouch::{self, Copied},
};

/// The frames for one peer.
pub(crate) fn following(cache: Arc<Cache>, peer: NodeId, waiter: Waiter, asked: Asked) -> Frames {
    let place = Uploads::wait(waiter.flight(), peer, cache.streams.distance(peer));
    let following = Following {
        cache,
        waiter,
        asked,
        beats: 0,
        ahead: None,
        at: At::Head,
        place: Some(place),
        upload: None,
        out: VecDeque::new(),
    };
    Box::pin(stream::try_unfold(following, |mut following| async move {
        Ok(following.next().await?.map(|bytes| (bytes, following)))
    }))
}

struct Following {
    cache: Arc<Cache>,
    waiter: Waiter,
    asked: Asked,
    /// Signs of life passed on.
    beats: u64,
    /// What there was, less than the peer has already, when that was last looked at.
    ahead: Option<u64>,
    at: At,
    /// Until the head is known.
    place: Option<Wait<Arc<Flight>>>,
    upload: Option<Upload<Arc<Flight>>>,
    /// What is to be sent before anything new.
    out: VecDeque<Bytes>,
}

enum At {
    Head,
    Body(Body),
    End,
}

/// Where in a body a follower is.
struct Body {
    partial: Partial,
    copied: Copied,
    at: u64,
    /// Where the words stand that were sent last.
    told: Option<usize>,
    /// What is sent next, where that is before `at`: the whole chunk that `at` lies in.
    again: u64,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                return Ok(Some(bytes));
            }
            let now = self.waiter.now();
            let ahead = matches!(&self.at, At::Body(body) if body.at > now.visible).then_some(now.visible);
            let wait = match std::mem::replace(&mut self.at, At::End) {
                At::End => return Ok(None),
                At::Head => self.head(&now),
                At::Body(body) => self.body(body, &now).await?,
            };
            if !self.out.is_empty() {
                continue;
            }
            // The source gave a sign of life since the last one that was passed on, or comes nearer to where the peer is already.
            let (beats, nearer) =
                (std::mem::replace(&mut self.beats, now.beats), std::mem::replace(&mut self.ahead, ahead));
            if beats != now.beats || ahead.is_some() && nearer != ahead {
                return Ok(Some(Frame::Wait.head()));
            }
            match wait {
                Some(until) => tokio::select! {
                    () = self.waiter.changed() => {}
                    () = sleep_until(until) => {}
                },
                None => self.waiter.changed().await,
            }
        }
    }

    /// The head, once there is one.
    fn head(&mut self, now: &Progress) -> Option<Instant> {
        match (&now.answer, now.end) {
            _ if now.lost => self.give_up(Abort::Broken),
            (Some(answer), _) => self.begin(&Arc::clone(answer), now.visible),
            (None, Some(end)) => self.give_up(abort(end)),
            (None, None) => self.at = At::Head,
        }
        None
    }

    fn begin(&mut self, answer: &Arc<Answer>, visible: u64) {
        let Content::Filling(partial) = &answer.content else {
            // A renewed copy is in the store: asked again, it is found there.
            let stored = matches!(answer.content, Content::Stored(_));
            return self.give_up(if stored { Abort::Broken } else { Abort::NotShared });
        };
        if answer.key != self.asked.key || !self.asked.fits(&answer.meta) {
            return self.give_up(Abort::Broken);
        }
        if self.cache.purges.took(self.waiter.born(), &answer.meta) {
            self.cache.flights.give_up(&self.waiter);
            return self.give_up(Abort::Broken);
        }
        let most = self.cache.config.peers.uploads;
        match self.place.take().map(|place| place.enter(most, (answer.meta.length, visible))) {
            Some(Ok(upload)) => self.upload = Some(upload),
            Some(Err(others)) => {
                self.cache.counters.upload_refused("growing");
                return self.give_up(Abort::Busy(others));
            }
            None => return self.give_up(Abort::Broken),
        }
        let mut meta = answer.meta.clone();
        meta.withhold_private();
        if meta.vouched.head.is_empty() {
            let signed = vouch::sign_head(self.cache.streams.as_ref(), self.asked.key, &mut meta);
            if signed.is_none() {
                return self.give_up(Abort::NotShared);
            }
        }
        self.out.push_back(Frame::Head(meta.encode(clock::now())).head());
        let copied = Copied { key: self.asked.key, validator: meta.validator };
        let at = self.asked.from.map_or(0, |(from, _)| from);
        self.at = At::Body(Body { partial: partial.clone(), copied, at, told: None, again: at });
    }

    /// More of the body, if there is more.
    async fn body(&mut self, mut body: Body, now: &Progress) -> Result<Option<Instant>, Failure> {
        // What there is goes out first.
        let failed = match now.end {
            // Whatever became of it in the store.
            _ if now.landed => None,
            Some(End::Failed(_) | End::Again) => now.end.map(abort),
            Some(End::Whole) => None,
            None => now.lost.then_some(Abort::Broken),
        };
        if let Some(why) = failed.filter(|_| body.at >= now.visible) {
            self.give_up(why);
            return Ok(None);
        }
        let whole = now.landed || now.end == Some(End::Whole);
        let reach = Reach { partial: &body.partial, visible: now.visible, whole };
        let flight = self.waiter.flight();
        let next = flight.ledger.next((self.cache.streams.as_ref(), body.copied), reach, body.at).await?;
        let (group, place, until) = match next {
            Next::Group(group, place, until) => (group, place, until),
            // Nobody vouches for the rest, and nobody will.
            Next::Wait(None) if reach.whole => {
                self.give_up(Abort::Broken);
                return Ok(None);
            }
            Next::Wait(wait) => {
                self.at = At::Body(body);
                return Ok(wait);
            }
        };
        if body.told.is_none_or(|told| told < place) {
            self.out.push_back(Frame::Signed(group.encode()).head());
            body.told = Some(place);
            body.again = group.chunks_from(body.at).next().map_or(body.at, |(start, _)| start);
        }
        let shown = now.visible.min(until);
        if body.at < shown {
            self.send(&mut body, shown).await?;
        } else if group.last && body.at == group.end() {
            self.out.push_back(Frame::End(body.at).head());
            return Ok(None);
        }
        self.at = At::Body(body);
        Ok(None)
    }

    /// One piece, and before it what its chunk begins with, if the peer was sent that in other words.
    async fn send(&mut self, body: &mut Body, shown: u64) -> Result<(), Failure> {
        let from = body.again.min(body.at);
        let room = usize::try_from(shown - from).unwrap_or(PIECE).min(PIECE);
        let data = body.partial.read(from, room).await.map_err(|_| Failure::ResponseIncomplete)?;
        if data.is_empty() {
            return Err(Failure::ResponseIncomplete);
        }
        self.out.push_back(Frame::Data(data.clone()).head());
        let end = from + u64::try_from(data.len()).unwrap_or(0);
        (body.again, body.at) = (end, body.at.max(end));
        self.out.push_back(data);
        if let Some(upload) = &self.upload {
            upload.at(body.at);
        }
        Ok(())
    }

    fn give_up(&mut self, why: Abort) {
        // However long it takes until the peer has read that.
        self.place = None;
        self.out.push_back(Frame::Abort(why).head());
    }
}

/// What a flight's end means to a peer.
const fn abort(end: End) -> Abort {
    match end {
        End::Failed(failure) if failure.is_origins() => Abort::Origin(failure),
        End::Failed(_) | End::Whole => Abort::Broken,
        End::Again => Abort::NotShared,
    }
}
