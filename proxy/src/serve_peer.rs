//! Answering peers: the copy in the store, or the flight under way as it grows; never a fetch on their behalf.

use std::{pin::Pin, sync::Arc};

use atoll_overlay::{Key, NodeId};
use atoll_store::Object;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    beside::groups_key,
    body::Body,
    cache::{Cache, store_key},
    clock, copies,
    deliver::text,
    digest,
    fairness::Leave,
    fetch::fresh_for,
    following::following,
    frames::{Abort, Frame, data_head},
    meta::{self, Meta},
    metered::metered,
    peer::{ATOLL_FROM, ATOLL_TO, ATOLL_URL, ATOLL_VALIDATOR, ATOLL_VERSION, unhex},
    purge,
    reason::Failure,
    url::OriginUrl,
    variants::is_listed,
    vouch::{self, CHUNK, CHUNKS_MOST, Chunk, Copied, Entry, Group, Groups},
};

/// Answers one request of a peer.
pub(crate) async fn handle<B>(cache: Arc<Cache>, peer: NodeId, request: Request<B>) -> Response<Body> {
    if request.uri().path() == purge::PATH {
        return cache.purges.answer(request.headers()).await;
    }
    if request.uri().path() == copies::PATH {
        return copies::answer(&cache, request.headers()).await;
    }
    // To whom a head of ours is noise it would be a lie.
    if !reads_our_heads(request.headers()) {
        return text(StatusCode::NOT_FOUND, "no head of this version\n");
    }
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
        Some(copy) => match Arc::clone(&cache.parts).try_acquire_owned() {
            // Who asks for a part may ask others for it; who asks for all knows of nobody else.
            Err(_) if asked.to.is_some() => {
                cache.counters.upload_refused("parts");
                busy()
            }
            place => stored(Arc::clone(&cache), copy, asked, place.ok()),
        },
        None => match cache.flights.find(asked.key) {
            Some(waiter) => following(Arc::clone(&cache), peer, waiter, asked),
            None => {
                // The index may name this node for what it has no more.
                cache.announces.withdraw(asked.key);
                return text(StatusCode::NOT_FOUND, "neither a copy nor a fetch under way\n");
            }
        },
    };
    cache.counters.peer_served();
    let mut response = Response::new(Body::Stream(frames, None));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/atoll-frames"));
    metered(response, tab)
}

fn reads_our_heads(fields: &HeaderMap) -> bool {
    let version = fields.get(ATOLL_VERSION).and_then(|value| value.to_str().ok());
    version.and_then(|version| version.parse().ok()) == Some(meta::VERSION)
}

/// What a peer asked for.
pub(crate) struct Asked {
    pub(crate) key: Key,
    url: String,
    /// Bytes it has, and of which copy.
    pub(crate) from: Option<(u64, [u8; 16])>,
    /// Where the part ends that it needs, if that is not all.
    to: Option<u64>,
}

impl Asked {
    fn read(path: &str, fields: &HeaderMap) -> Option<Self> {
        let field = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
        let from = match (field(ATOLL_FROM), field(ATOLL_VALIDATOR)) {
            (None, None) => None,
            (Some(from), Some(validator)) => Some((from.parse().ok()?, unhex(validator)?)),
            (Some(_), None) | (None, Some(_)) => return None,
        };
        let to = match field(ATOLL_TO) {
            Some(to) => Some(to.parse().ok()?),
            None => None,
        };
        Some(Self { key: path.strip_prefix('/')?.parse().ok()?, url: field(ATOLL_URL)?.to_owned(), from, to })
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
    (meta.digest, meta.undigested) = (meta.digest_of(&object), false);
    let clean = !object.soft_purged() && !cache.purges.doubts(meta.received);
    let good = asked.fits(&meta) && clean && meta.digest.is_some();
    // Whether it came under a site's name nobody says: the asker knows, and judges by the same rules.
    let site = cache.site_of(&meta.url);
    let is_fresh = !fresh_for(cache, None, &meta).max(fresh_for(cache, site.as_deref(), &meta)).is_zero();
    if !good || !is_fresh || !is_listed(cache, asked.key, &meta).await {
        return None;
    }
    let groups = match meta.vouched.body {
        Groups::Own => None,
        Groups::Inline(_) | Groups::Beside => Some(groups_of(cache, asked.key, &meta).await?),
    };
    // Between peers they come with the body.
    meta.vouched.body = Groups::Own;
    if meta.vouched.head.is_empty() {
        vouch::sign_head(cache.streams.as_ref(), asked.key, &mut meta)?;
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
    let of = Meta::decode_stored(&object.head().metadata)?;
    if of.validator != meta.validator || object.len() > GROUPS_LIMIT {
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
    /// Where the part ends that is asked for.
    to: u64,
    ended: bool,
    /// Given back when all is sent, or nobody takes it.
    _place: Option<OwnedSemaphorePermit>,
}

/// Nothing but the word that there is no place.
fn busy() -> Frames {
    Box::pin(stream::iter([Ok(Frame::Abort(Abort::Busy(Vec::new())).head())]))
}

/// The next group is read, and signed if it must be, while one goes out; no more are ahead.
fn stored(cache: Arc<Cache>, copy: Copy, asked: Asked, place: Option<OwnedSemaphorePermit>) -> Frames {
    let copied = Copied { key: asked.key, validator: copy.meta.validator };
    let at = asked.from.map_or(0, |(from, _)| from);
    let head = Frame::Head(copy.meta.encode(clock::now())).head();
    let to = asked.to.unwrap_or(u64::MAX);
    let mut sending = Sending { cache, copy, copied, at, to, ended: false, _place: place };
    let (made, mut ready) = mpsc::channel(1);
    tokio::spawn(async move {
        while !sending.ended {
            let group = sending.more().await;
            let failed = group.is_err();
            if made.send(group).await.is_err() || failed {
                return;
            }
        }
    });
    let groups = stream::poll_fn(move |cx| ready.poll_recv(cx));
    let pieces = groups.map_ok(|group| stream::iter(group.into_iter().map(Ok))).try_flatten();
    Box::pin(stream::iter([Ok(head)]).chain(pieces))
}

impl Sending {
    /// One group and its bytes, and the end after the last.
    async fn more(&mut self) -> Result<Vec<Bytes>, Failure> {
        let (group, end, data) = match self.copy.groups.as_deref() {
            Some(entries) => {
                let (_, entry, until) = Entry::find(entries, self.at).ok_or(Failure::ResponseIncomplete)?;
                let group = Arc::clone(&entry.group);
                let mut chunks = group.chunks_from(self.at);
                let start = chunks.next().map_or(self.at, |(start, _)| start);
                // Whole chunks, up to the one that holds the last byte asked for.
                let until = chunks.map(|(next, _)| next).find(|next| *next >= self.to).unwrap_or(until).min(until);
                let data = self.read(start, until).await?;
                (group, until.max(start), data)
            }
            None => self.own().await?,
        };
        let count = data.iter().map(Bytes::len).sum();
        let mut out = vec![Frame::Signed(group.encode()).head()];
        out.extend((count > 0).then(|| data_head(count)));
        out.extend(data);
        self.at = end;
        if group.last && end == group.end() {
            out.push(Frame::End(end).head());
            self.ended = true;
        } else if end >= self.to && self.to < self.copy.object.len() {
            self.ended = true;
        } else if end >= self.copy.object.len() {
            // Words that end before the body does, or never say that it ends.
            return Err(Failure::ResponseIncomplete);
        }
        Ok(out)
    }

    /// Half a MiB of a copy that this node has from the origin, signed as it goes; and where it ends.
    async fn own(&self) -> Result<(Arc<Group>, u64, Vec<Bytes>), Failure> {
        let (start, length) = (self.at, self.copy.object.len());
        let full = u64::from(CHUNK);
        let end = length.min(start - start % full + full * wide(CHUNKS_MOST));
        let (mut chunks, mut data, mut at) = (Vec::with_capacity(CHUNKS_MOST), Vec::with_capacity(CHUNKS_MOST), start);
        while at < end {
            let stop = end.min(at - at % full + full);
            let pieces = self.read(at, stop).await?;
            let digest = match &pieces[..] {
                [piece] => digest::of_chunk(at, piece),
                _ => digest::of_chunk(at, &pieces.concat()),
            };
            chunks.push(Chunk { length: u32::try_from(stop - at).map_err(|_| Failure::Internal)?, digest });
            data.extend(pieces);
            at = stop;
        }
        let signed = self.copied.sign(self.cache.streams.as_ref(), start, end == length, chunks);
        Ok((Arc::new(signed.ok_or(Failure::Internal)?), end, data))
    }

    /// The bytes between two places.
    async fn read(&self, mut at: u64, end: u64) -> Result<Vec<Bytes>, Failure> {
        let mut pieces = Vec::with_capacity(CHUNKS_MOST);
        while at < end {
            let room = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = self.copy.object.read(at, room).await.map_err(|_| Failure::ResponseIncomplete)?;
            if piece.is_empty() {
                return Err(Failure::ResponseIncomplete);
            }
            at += wide(piece.len());
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Bytes read at a time.
pub(crate) const PIECE: usize = 128 << 10;

/// Bytes of groups that are read into memory for one peer: those of a body of 20 GB.
const GROUPS_LIMIT: u64 = 32 << 20;
