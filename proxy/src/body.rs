//! Response bodies: a few bytes, a stored object's range, a flight's, or what an origin sends on. A body that breaks ends in an
//! error, so that the connection is cut: no client takes a part for the whole.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use atoll_store::Object;
use bytes::Bytes;
use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use http_body::{Frame, SizeHint};

use crate::{
    flight::{Answer, Content, Waiter},
    origin::OriginBody,
    reason::Failure,
    tally::Tally,
};

/// What hyper sends.
pub(crate) enum Body {
    /// Nothing more to wait for.
    Whole(Bytes),
    /// As it comes, with its length if known.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>, Option<u64>),
    /// Either, counted as it goes.
    Tallied(Box<(Self, Tally)>),
}

/// Which part of a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first byte.
    pub(crate) from: u64,
    /// One past the last, if known.
    pub(crate) to: Option<u64>,
}

impl Part {
    /// All of a body.
    pub(crate) const fn all(length: Option<u64>) -> Self {
        Self { from: 0, to: length }
    }

    pub(crate) fn length(self) -> Option<u64> {
        self.to.map(|to| to - self.from)
    }
}

impl Body {
    /// Nothing.
    pub(crate) const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// A part of a stored object. A small one is read at once, so that it goes out with its head.
    pub(crate) async fn object(object: Object, part: Part) -> Result<Self, Failure> {
        let to = part.to.unwrap_or_else(|| object.len());
        let length = to - part.from;
        if length <= SMALL {
            let bytes = object.read(part.from, SMALL_READ.min(usize::try_from(length).unwrap_or(SMALL_READ))).await;
            let bytes = bytes.map_err(|_| Failure::Internal)?;
            if u64::try_from(bytes.len()) == Ok(length) {
                return Ok(Self::Whole(bytes));
            }
        }
        let pieces = stream::try_unfold((object, part.from), move |(object, at)| async move {
            if at >= to {
                return Ok(None);
            }
            let max = PIECE.min(usize::try_from(to - at).unwrap_or(PIECE));
            let bytes = object.read(at, max).await.map_err(|_| Failure::ResponseIncomplete)?;
            if bytes.is_empty() {
                return Err(Failure::ResponseIncomplete);
            }
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (object, next))))
        });
        Ok(Self::Stream(Box::pin(pieces), Some(length)))
    }

    /// What stored objects have together, in this order.
    pub(crate) async fn joined(mut pieces: Vec<(Object, Part)>) -> Result<Self, Failure> {
        if pieces.len() <= 1
            && let Some((object, part)) = pieces.pop()
        {
            return Self::object(object, part).await;
        }
        let length = pieces.iter().filter_map(|(_, part)| part.length()).sum();
        let bodies = stream::iter(pieces).then(|(object, part)| Self::opened(object, part));
        Ok(Self::Stream(bodies.flatten().boxed(), Some(length)))
    }

    /// A part of a stored object as it is read; an error if it cannot be.
    async fn opened(object: Object, part: Part) -> BoxStream<'static, Result<Bytes, Failure>> {
        match Self::object(object, part).await {
            Ok(Self::Whole(bytes)) => stream::iter([Ok(bytes)]).boxed(),
            Ok(Self::Stream(pieces, _)) => pieces,
            // Not made of objects.
            Ok(Self::Tallied(_)) => stream::empty().boxed(),
            Err(failure) => stream::iter([Err(failure)]).boxed(),
        }
    }

    /// Several parts of a stored object, each after its head, and what ends them.
    pub(crate) fn parts(object: Object, parts: Vec<(Bytes, Part)>, end: Bytes) -> Self {
        let length = parts.iter().filter_map(|(head, part)| Some(head.len() as u64 + part.length()?)).sum::<u64>();
        let length = length + end.len() as u64;
        let parts = stream::iter(parts).then(move |(head, part)| {
            let object = object.clone();
            async move { stream::iter([Ok(head)]).chain(Self::opened(object, part).await) }
        });
        Self::Stream(parts.flatten().chain(stream::iter([Ok(end)])).boxed(), Some(length))
    }

    /// A part of what a flight brings.
    pub(crate) async fn flight(waiter: Waiter, answer: Arc<Answer>, part: Part) -> Result<Self, Failure> {
        let partial = match &answer.content {
            Content::Stored(object) => return Self::object(object.clone(), part).await,
            Content::Bytes(bytes) => {
                let from = usize::try_from(part.from).unwrap_or(usize::MAX).min(bytes.len());
                let to =
                    part.to.and_then(|to| usize::try_from(to).ok()).unwrap_or(bytes.len()).clamp(from, bytes.len());
                return Ok(Self::Whole(bytes.slice(from..to)));
            }
            Content::Direct(feed) => {
                let feed = feed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                return feed.map(|feed| Self::feed(feed, answer.meta.length)).ok_or(Failure::Internal);
            }
            Content::Filling(partial) => partial.clone(),
        };
        let pieces = stream::try_unfold((waiter, partial, part.from), move |(mut waiter, partial, at)| async move {
            let left = part.to.map_or(u64::MAX, |to| to.saturating_sub(at));
            if left == 0 {
                // A part may be sent before the whole is there, but all of it only once it was found whole.
                return if part.from == 0 { waiter.read(&partial, at, PIECE).await.map(|_| None) } else { Ok(None) };
            }
            // A crowd wakes at once: each gets a little of what is much before anybody gets more.
            let in_crowd = waiter.is_in_company();
            if in_crowd && at == part.from + FIRST as u64 {
                tokio::task::yield_now().await;
            }
            let takes_turns = in_crowd && at == part.from && left > SMALL;
            let max = if takes_turns { FIRST } else { PIECE }.min(usize::try_from(left).unwrap_or(PIECE));
            let Some(bytes) = waiter.read(&partial, at, max).await? else {
                return if part.to.is_none() { Ok(None) } else { Err(Failure::ResponseIncomplete) };
            };
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (waiter, partial, next))))
        });
        Ok(Self::Stream(Box::pin(pieces), part.length()))
    }

    /// What a source sends, passed on and not kept.
    pub(crate) fn feed(feed: OriginBody, length: Option<u64>) -> Self {
        let pieces =
            stream::try_unfold(feed, |mut feed| async move { Ok(feed.next().await?.map(|bytes| (bytes, feed))) });
        Self::Stream(Box::pin(pieces), length)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream, _) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|piece| piece.map(Frame::data)))
            }
            Self::Tallied(tallied) => {
                let (body, tally) = &mut **tallied;
                let polled = Pin::new(&mut *body).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => tally.sent(frame.data_ref().map_or(0, Bytes::len)),
                    Poll::Ready(None) => tally.completed(),
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                // A body of known length is not asked for its end once all of it is out.
                if body.is_end_stream() || matches!(body, Self::Stream(_, Some(length)) if tally.is_at(*length)) {
                    tally.completed();
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(..) => false,
            Self::Tallied(tallied) => tallied.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_, Some(length)) => SizeHint::with_exact(*length),
            Self::Stream(_, None) => SizeHint::default(),
            Self::Tallied(tallied) => tallied.0.size_hint(),
        }
    }
}

/// Bytes handed over at a time: enough to keep a socket busy, little for a slow client to hold.
pub(crate) const PIECE: usize = 64 << 10;
/// Bytes of a flight, of which more than [`SMALL`] are left, that a waiter gets before all others have had their turn. No setting, as
/// [`PIECE`] is none: it bounds nothing, and says only in which order those are served who are all served anyway. \[guess\]
const FIRST: usize = 16 << 10;

/// Bodies up to this go out in one piece.
pub(crate) const SMALL: u64 = 64 << 10;

const SMALL_READ: usize = 64 << 10;
