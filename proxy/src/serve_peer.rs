//! Answering peers: the copy in the store, or the flight under way as it grows; never a fetch on their behalf.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use atoll_overlay::{Key, NodeId};
use atoll_store::Object;
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};

use crate::{
    body::Body,
    cache::{Cache, store_key},
    clock, copies,
    deliver::text,
    fairness::Leave,
    fetch::{fresh_for, groups_key},
    following::following,
    frames::Frame,
    meta::Meta,
    metered::metered,
    peer::{ATOLL_FROM, ATOLL_URL, ATOLL_VALIDATOR, unhex},
    purge,
    reason::Failure,
    url::OriginUrl,
    vouch::{self, CHUNK, CHUNKS_MOST, Chunk, Copied, Entry, Groups},
};

/// Answers one request of a peer.
pub(crate) async fn handle<B>(cache: Arc<Cache>, peer: NodeId, request: Request<B>) -> Response<Body> {
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
        Some(copy) => stored(Arc::clone(&cache), copy, asked),
        None => match cache.flights.find(asked.key) {
            Some(waiter) => following(Arc::clone(&cache), peer, waiter, asked),
            None => {
                // The index may name this node for what it has no more.
                cache.announcer.withdraw(asked.key);
                return text(StatusCode::NOT_FOUND, "neither a copy nor a fetch under way\n");
            }
        },
    };
    cache.counters.peer_served();
    let mut response = Response::new(Body::Stream(frames, None));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/atoll-frames"));
    response.headers_mut().insert(&purge::ATOLL_PURGES, purge::heads_text(&heads));
    metered(response, tab)
}

/// What a peer asked for.
pub(crate) struct Asked {
    pub(crate) key: Key,
    url: String,
    /// Bytes it has, and of which copy.
    pub(crate) from: Option<(u64, [u8; 16])>,
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
    pub(crate) fn fits(&self, meta: &Meta) -> bool {
        meta.url == self.url
            && meta.varies_by.is_empty()
            && self.from.is_none_or(|(from, validator)| {
                validator == meta.validator && meta.length.is_none_or(|length| from <= length)
            })
    }
}

/// A whole copy, and what vouches for it.
struct Copy {
    object: Object,
    meta: Meta,
    /// `None`: this node itself does.
    groups: Option<Vec<Entry>>,
}

/// A whole, fresh copy that somebody vouches for.
async fn whole(cache: &Cache, asked: &Asked) -> Option<Copy> {
    if cache.config.peers.upstream_only {
        return None;
    }
    let object = cache.store.get(&store_key(asked.key)).await?;
    let mut meta = Meta::decode_stored(&object.head().metadata)?;
    let clean = !object.soft_purged() && !cache.purges.doubts(meta.received);
    let good = asked.fits(&meta) && clean && meta.digest.is_some();
    if !good || fresh_for(cache, None, &meta).is_zero() {
        return None;
    }
    let groups = match meta.vouched.body {
        Groups::Own => None,
        Groups::Inline(_) | Groups::Beside => Some(groups_of(cache, asked.key, &meta).await?),
    };
    // Between peers they come with the body.
    meta.vouched.body = Groups::Own;
    if meta.vouched.head.is_empty() {
        meta.vouched.head = vouch::sign_head(cache.streams.as_ref(), asked.key, &meta)?;
    }
    Some(Copy { object, meta, groups })
}

/// The groups that a copy is kept with; `None` where there are none, or they are lost.
pub(crate) async fn groups_of(cache: &Cache, key: Key, meta: &Meta) -> Option<Vec<Entry>> {
    match &meta.vouched.body {
        Groups::Own => None,
        Groups::Inline(bytes) => Entry::decode_all(bytes.clone()),
        Groups::Beside => beside(cache, key, meta).await,
    }
}

/// The groups that stand in an object of their own; none if that went before the copy, or is of another.
async fn beside(cache: &Cache, key: Key, meta: &Meta) -> Option<Vec<Entry>> {
    let object = cache.store.get(&store_key(groups_key(key))).await?;
    if object.head().metadata != meta.validator.as_slice() || object.len() > GROUPS_LIMIT {
        return None;
    }
    let mut all = Vec::new();
    let mut at = 0;
    while at < object.len() {
        let bytes = object.read(at, PIECE).await.ok().filter(|bytes| !bytes.is_empty())?;
        at += wide(bytes.len());
        all.extend_from_slice(&bytes);
    }
    Entry::decode_all(all.into())
}

pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// A copy on its way to a peer.
struct Sending {
    cache: Arc<Cache>,
    copy: Copy,
    copied: Copied,
    at: u64,
    ended: bool,
    out: VecDeque<Bytes>,
}

fn stored(cache: Arc<Cache>, copy: Copy, asked: Asked) -> Frames {
    let copied = Copied { key: asked.key, validator: copy.meta.validator };
    let at = asked.from.map_or(0, |(from, _)| from);
    let out = VecDeque::from([Frame::Head(copy.meta.encode(clock::now())).head()]);
    let sending = Sending { cache, copy, copied, at, ended: false, out };
    Box::pin(stream::try_unfold(sending, |mut sending| async move {
        while sending.out.is_empty() && !sending.ended {
            sending.more().await?;
        }
        Ok(sending.out.pop_front().map(|bytes| (bytes, sending)))
    }))
}

impl Sending {
    /// One group and its bytes.
    async fn more(&mut self) -> Result<(), Failure> {
        if self.copy.groups.is_none() {
            return self.own().await;
        }
        let entries = self.copy.groups.as_deref().unwrap_or_default();
        let Some((_, entry, until)) = Entry::find(entries, self.at) else { return Err(Failure::ResponseIncomplete) };
        let group = Arc::clone(&entry.group);
        self.out.push_back(Frame::Signed(group.encode()).head());
        let mut at = group.chunks_from(self.at).next().map_or(self.at, |(start, _)| start);
        while at < until {
            let data = self.read(at, until - at).await?;
            at += wide(data.len());
        }
        self.at = at;
        self.ends(group.last && at == group.end())
    }

    /// Half a MiB of a copy that this node has from the origin, signed as it goes.
    async fn own(&mut self) -> Result<(), Failure> {
        let (start, length) = (self.at, self.copy.object.len());
        let end = length.min(start + u64::from(CHUNK) * wide(CHUNKS_MOST));
        let mut chunks = Vec::with_capacity(CHUNKS_MOST);
        let mut at = start;
        while at < end {
            let stop = end.min(at + u64::from(CHUNK));
            let (mut hasher, began) = (blake3::Hasher::new(), at);
            while at < stop {
                let data = self.read(at, stop - at).await?;
                hasher.update(&data);
                at += wide(data.len());
            }
            let length = u32::try_from(at - began).map_err(|_| Failure::Internal)?;
            chunks.push(Chunk { length, digest: hasher.finalize() });
        }
        let last = end == length;
        let group = self.copied.sign(self.cache.streams.as_ref(), start, last, chunks).ok_or(Failure::Internal)?;
        // The words go before the bytes that were just queued.
        self.out.push_front(Frame::Signed(group.encode()).head());
        self.at = end;
        self.ends(last)
    }

    /// Queues bytes at a place, at most so many; the bytes.
    async fn read(&mut self, at: u64, room: u64) -> Result<Bytes, Failure> {
        let room = usize::try_from(room).unwrap_or(PIECE).min(PIECE);
        let data = self.copy.object.read(at, room).await.map_err(|_| Failure::ResponseIncomplete)?;
        if data.is_empty() {
            return Err(Failure::ResponseIncomplete);
        }
        self.out.push_back(Frame::Data(data.clone()).head());
        self.out.push_back(data.clone());
        Ok(data)
    }

    fn ends(&mut self, last: bool) -> Result<(), Failure> {
        if last {
            self.out.push_back(Frame::End(self.at).head());
            self.ended = true;
        } else if self.at >= self.copy.object.len() {
            // Words that end before the body does, or never say that it ends.
            return Err(Failure::ResponseIncomplete);
        }
        Ok(())
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Bytes of one data frame.
pub(crate) const PIECE: usize = 128 << 10;

/// Bytes of groups that are read into memory for one peer: those of a body of 20 GB.
const GROUPS_LIMIT: u64 = 32 << 20;
