//! Answering peers: the copy in the store, or the flight under way as it grows; never a fetch on their behalf.

use std::{pin::Pin, sync::Arc};

use atoll_overlay::Key;
use atoll_store::{Object, Partial};
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};

use crate::{
    body::Body,
    cache::{Cache, store_key},
    clock, copies,
    deliver::text,
    fairness::Leave,
    fetch::fresh_for,
    flight::{Answer, Content, End, Waiter},
    frames::{Abort, Frame},
    meta::Meta,
    metered::metered,
    peer::{ATOLL_FROM, ATOLL_URL, ATOLL_VALIDATOR, unhex},
    purge,
    reason::Failure,
    url::OriginUrl,
};

/// Answers one request of a peer.
pub(crate) async fn handle<B>(cache: Arc<Cache>, request: Request<B>) -> Response<Body> {
    if request.uri().path() == purge::PATH {
        return cache.purges.answer(request.headers()).await;
    }
    if request.uri().path() == copies::PATH {
        return copies::answer(&cache, request.headers()).await;
    }
    // As of before the copy is looked at: what is applied from here on, the asker does not take for applied.
    let heads = cache.purges.heads();
    let Some(asked) = Asked::read(request.uri().path(), request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "no request of a peer\n");
    };
    // A share that is used up, and what may not be served, hold for peers too.
    let tab = cache.fairness.open_peer();
    let spent = tab.as_ref().is_some_and(|tab| matches!(tab.leave(), Leave::Nothing(_)));
    if spent || OriginUrl::parse(&asked.url).is_ok_and(|url| cache.takedown.blocks(&url)) {
        return text(StatusCode::NOT_FOUND, "not from here\n");
    }
    let frames = match whole(&cache, &asked).await {
        Some((object, meta)) => stored(object, meta, asked.from.map_or(0, |(from, _)| from)),
        None => match cache.flights.find(asked.key) {
            Some(waiter) => flying(Arc::clone(&cache), waiter, asked),
            None => return text(StatusCode::NOT_FOUND, "neither a copy nor a fetch under way\n"),
        },
    };
    cache.counters.peer_served();
    let mut response = Response::new(Body::Stream(frames, None));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/atoll-frames"));
    response.headers_mut().insert(&purge::ATOLL_PURGES, purge::heads_text(&heads));
    metered(response, tab)
}

/// What a peer asked for.
struct Asked {
    key: Key,
    url: String,
    from: Option<(u64, [u8; 16])>,
}

impl Asked {
    fn read(path: &str, fields: &HeaderMap) -> Option<Self> {
        let field = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
        let from = match (field(ATOLL_FROM), field(ATOLL_VALIDATOR)) {
            (None, None) => None,
            (Some(from), Some(validator)) => Some((from.parse().ok()?, unhex(validator)?)),
            (Some(_), None) | (None, Some(_)) => return None,
        };
        Some(Self { key: path.strip_prefix('/')?.parse().ok()?, url: field(ATOLL_URL)?.to_owned(), from })
    }

    /// Whether a copy is the one meant.
    fn fits(&self, meta: &Meta) -> bool {
        meta.url == self.url
            && meta.varies_by.is_empty()
            && self.from.is_none_or(|(from, validator)| {
                validator == meta.validator && meta.length.is_none_or(|length| from <= length)
            })
    }
}

/// A whole, fresh copy.
async fn whole(cache: &Cache, asked: &Asked) -> Option<(Object, Meta)> {
    let object = cache.store.get(&store_key(asked.key)).await?;
    let meta = Meta::decode_stored(&object.head().metadata)?;
    let good =
        asked.fits(&meta) && !object.soft_purged() && !cache.purges.doubts(meta.received) && meta.digest.is_some();
    (good && !fresh_for(cache, None, &meta).is_zero()).then_some((object, meta))
}

type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

fn stored(object: Object, meta: Meta, from: u64) -> Frames {
    enum At {
        Head(Box<Meta>),
        Body(u64),
        Data(u64, Bytes),
        End,
    }
    let digest = meta.digest;
    Box::pin(stream::try_unfold((object, At::Head(Box::new(meta))), move |(object, at)| async move {
        match at {
            At::Head(meta) => {
                let head = Frame::Head(meta.encode(clock::now())).head();
                Ok(Some((head, (object, At::Body(from)))))
            }
            At::Body(at) if at < object.len() => {
                let data = object.read(at, PIECE).await.map_err(|_| Failure::ResponseIncomplete)?;
                if data.is_empty() {
                    return Err(Failure::ResponseIncomplete);
                }
                let head = Frame::Data(data.clone()).head();
                Ok(Some((head, (object, At::Data(at + data.len() as u64, data)))))
            }
            At::Body(_) => {
                let Some(digest) = digest else { return Err(Failure::Internal) };
                Ok(Some((Frame::End { length: object.len(), digest }.head(), (object, At::End))))
            }
            At::Data(next, data) => Ok(Some((data, (object, At::Body(next))))),
            At::End => Ok(None),
        }
    }))
}

/// A flight, followed by a peer.
struct Following {
    cache: Arc<Cache>,
    waiter: Waiter,
    asked: Asked,
    /// Signs of life passed on.
    beats: u64,
    at: At,
    /// Counts along, since the end states the digest; from the body's first byte, whatever the peer has.
    hasher: blake3::Hasher,
    hashed: u64,
}

enum At {
    Head,
    Body(Partial, u64),
    Data(Partial, u64, Bytes),
    End,
}

fn flying(cache: Arc<Cache>, waiter: Waiter, asked: Asked) -> Frames {
    let following =
        Following { cache, waiter, asked, beats: 0, at: At::Head, hasher: blake3::Hasher::new(), hashed: 0 };
    Box::pin(stream::try_unfold(following, |mut following| async move {
        Ok(following.next().await?.map(|bytes| (bytes, following)))
    }))
}

impl Following {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match std::mem::replace(&mut self.at, At::End) {
                At::End => return Ok(None),
                At::Data(partial, next, data) => {
                    self.at = At::Body(partial, next);
                    return Ok(Some(data));
                }
                At::Head => {
                    let now = self.waiter.now();
                    if now.lost {
                        return Ok(Some(Frame::Abort(Abort::Broken).head()));
                    }
                    match (&now.answer, now.end) {
                        (Some(answer), _) => return Ok(Some(self.head(answer))),
                        (None, Some(end)) => return Ok(Some(Frame::Abort(abort(end)).head())),
                        (None, None) => {}
                    }
                    self.at = At::Head;
                    if self.life(now.beats) {
                        return Ok(Some(Frame::Wait.head()));
                    }
                    self.waiter.changed().await;
                }
                At::Body(partial, at) => {
                    let now = self.waiter.now();
                    if at < now.visible {
                        let room = usize::try_from(now.visible - at).unwrap_or(PIECE).min(PIECE);
                        let data = partial.read(at, room).await.map_err(|_| Failure::ResponseIncomplete)?;
                        self.hash(&partial, at, &data).await?;
                        let head = Frame::Data(data.clone()).head();
                        self.at = At::Data(partial, at + data.len() as u64, data);
                        return Ok(Some(head));
                    }
                    match now.end {
                        Some(End::Whole) => {
                            self.hash(&partial, at, &Bytes::new()).await?;
                            let end = Frame::End { length: at, digest: self.hasher.finalize() };
                            return Ok(Some(end.head()));
                        }
                        Some(end) => return Ok(Some(Frame::Abort(abort(end)).head())),
                        None if now.lost => return Ok(Some(Frame::Abort(Abort::Broken).head())),
                        None => {}
                    }
                    self.at = At::Body(partial, at);
                    if self.life(now.beats) {
                        return Ok(Some(Frame::Wait.head()));
                    }
                    self.waiter.changed().await;
                }
            }
        }
    }

    /// The head frame, if this flight is what was asked for.
    fn head(&mut self, answer: &Arc<Answer>) -> Bytes {
        let from = self.asked.from.map_or(0, |(from, _)| from);
        if self.cache.purges.took(self.waiter.born(), &answer.meta) {
            self.cache.flights.give_up(&self.waiter);
            return Frame::Abort(Abort::Broken).head();
        }
        match &answer.content {
            Content::Filling(partial) if answer.key == self.asked.key && self.asked.fits(&answer.meta) => {
                self.at = At::Body(partial.clone(), from);
                let mut meta = answer.meta.clone();
                meta.withhold_private();
                Frame::Head(meta.encode(clock::now())).head()
            }
            // A renewed copy is in the store: asked again, it is found there.
            Content::Stored(_) | Content::Filling(_) => Frame::Abort(Abort::Broken).head(),
            Content::Bytes(_) | Content::Direct(_) => Frame::Abort(Abort::NotShared).head(),
        }
    }

    /// Whether the source gave a sign of life since the last one passed on.
    fn life(&mut self, beats: u64) -> bool {
        std::mem::replace(&mut self.beats, beats) != beats
    }

    /// Takes bytes into the digest; what the peer had before is read for it too.
    async fn hash(&mut self, partial: &Partial, at: u64, data: &Bytes) -> Result<(), Failure> {
        while self.hashed < at {
            let room = usize::try_from(at - self.hashed).unwrap_or(PIECE).min(PIECE);
            let before = partial.read(self.hashed, room).await.map_err(|_| Failure::ResponseIncomplete)?;
            if before.is_empty() {
                return Err(Failure::ResponseIncomplete);
            }
            self.hasher.update(&before);
            self.hashed += before.len() as u64;
        }
        self.hasher.update(data);
        self.hashed += data.len() as u64;
        Ok(())
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

/// Bytes of one data frame.
const PIECE: usize = 128 << 10;
