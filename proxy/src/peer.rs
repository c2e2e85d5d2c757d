//! Asking a peer: HTTP/1.1 over a stream that [`atoll_overlay::Streams`] opened, one request each.
//!
//! ```text
//! GET /KEY HTTP/1.1          KEY: the object's, 40 hexadecimal digits
//! Host: www.example.com      the origin's authority
//! Atoll-Version: 2           of heads that the asker reads; whoever says another, or none, gets 404
//! Atoll-Url: http://...      the URL; a copy of another URL under the same key is not sent
//! Atoll-From: 65536          bytes the asker has already (left out: none)
//! Atoll-Validator: HEX       of which copy
//! Atoll-To: 2097152          where the part ends that is asked for (left out: the body does); what follows may come too
//! Traceparent, Tracestate    the client's, if it sent them [W3C Trace Context]
//! ```
//!
//! The answer is 200 with frames ([`crate::frames`]), or 404: neither a copy nor a fetch under way. A peer answers for what it has and
//! never asks anybody on the asker's behalf. Its head and its bytes count only in the words of whoever has them from the origin
//! ([`crate::vouch`]), whom it may be itself. A copy that was purged, or a whole one that is no longer fresh, is none.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use atoll_overlay::{Key, Level, Value};
use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Fuse},
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::{
    absence::Absence,
    cache::Cache,
    checked::{Checked, Good, NotSigned},
    clock,
    fetch::fresh_for,
    frames::{Abort, Frame, Frames},
    meta::{self, Meta},
    receive::{TRACEPARENT, TRACESTATE},
    reference::Reference,
    site::Own,
    url::OriginUrl,
    vouch::{Copied, Group, age_at_least, head_signer},
};

/// One holder to try.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Who and at what level.
    pub(crate) value: Value,
    /// What it said of its copy.
    pub(crate) reference: Reference,
}

impl Candidate {
    /// A value of the index that is a reference of ours.
    pub(crate) fn of(value: Value) -> Option<Self> {
        let reference = Reference::decode_value(&value.value)?;
        Some(Self { value, reference })
    }
}

/// What is asked of a peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerRequest {
    pub(crate) key: Key,
    pub(crate) url: OriginUrl,
    /// The own site it is of, whose rules say how long it is fresh.
    pub(crate) site: Option<Arc<Own>>,
    /// What the origin would be told, of which the trace's context goes along.
    pub(crate) fields: Arc<HeaderMap>,
    /// What the asker has already: so many bytes of the copy with this validator.
    pub(crate) from: Option<(u64, [u8; 16])>,
    /// No more is needed than up to this byte; unset: all of it.
    pub(crate) to: Option<u64>,
    /// When nobody looks at what comes.
    pub(crate) absence: Absence,
}

/// When something last came from any peer: tells a slow fill from a dead peer.
#[derive(Debug, Clone)]
pub(crate) struct Life(Arc<Mutex<Instant>>);

impl Life {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(crate) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a peer gave nothing, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It has no copy, or not the one asked for.
    #[error("it has no such copy")]
    Absent,
    /// It has one that was purged or is no longer fresh.
    #[error("its copy was purged, or is not fresh any more")]
    Stale,
    /// What it sends contradicts what another source sent and signed: one of the two fetchers lied, and it may be neither.
    #[error("its copy is not what another source sent before")]
    Contradicts,
    /// It could not be reached, broke off, or fell silent.
    #[error("it cannot be reached, or fell silent")]
    Lost,
    /// It has a whole copy, and sends it too slowly to be waited for.
    #[error("it sends too slowly")]
    Slow,
    /// It broke the protocol.
    #[error("it broke the protocol, or lied")]
    Misbehaved,
    /// It said why it gives up.
    #[error("it gives up: {0:?}")]
    Aborted(Abort),
}

impl From<NotSigned> for PeerError {
    fn from(_: NotSigned) -> Self {
        Self::Misbehaved
    }
}

/// A copy as it comes from a peer, its head read and vouched for.
pub(crate) struct PeerFill {
    pub(crate) holder: Candidate,
    pub(crate) meta: Meta,
    /// Of the URL.
    host: String,
    cache: Arc<Cache>,
    copied: Copied,
    checked: Checked,
    body: Answering,
    frames: Frames,
    stall: Duration,
    /// Of a copy that the peer has whole: how it comes.
    pace: Option<Pace>,
    pub(crate) absence: Absence,
}

/// What comes of a copy after its head.
pub(crate) enum Came {
    /// A sign of life.
    Wait,
    /// What is to come, in the words of a fetcher.
    Promise(Arc<Group>),
    /// Bytes that are what was promised; may be none yet.
    Good(Vec<Good>),
}

/// Ends a task when dropped.
#[derive(Debug)]
pub(crate) struct Abandon(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body and the connection it comes over, which moves only while somebody waits for the body: what comes crosses no tasks, and
/// what nobody has read holds the peer back.
struct Answering {
    body: Incoming,
    connection: Connection,
}

type Connection = Fuse<BoxFuture<'static, ()>>;

impl Answering {
    /// The next bytes; `None` at the end, proper or not.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = driven(&mut self.connection, self.body.frame()).await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }
}

/// Moves a connection until what is waited for is there.
async fn driven<T>(connection: &mut Connection, wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    poll_fn(|cx| {
        if let Poll::Ready(come) = wait.as_mut().poll(cx) {
            return Poll::Ready(come);
        }
        // Once it has ended it says so to those who wait.
        let _ = connection.poll_unpin(cx);
        wait.as_mut().poll(cx)
    })
    .await
}

/// Opens a stream to the holder, asks, and waits for the head; signs of life of a copy that grows touch `life` on the way. Silence
/// ends it after `stall`.
pub(crate) async fn ask(
    cache: Arc<Cache>,
    holder: Candidate,
    request: PeerRequest,
    life: Life,
    stall: Duration,
) -> Result<PeerFill, PeerError> {
    let absence = request.absence.clone();
    let response = absence.within(stall, send(&cache, &holder, &request));
    let mut body = response.await.map_err(|_| PeerError::Lost)??;
    // Who has the whole copy has nothing to wait for: its words without bytes are no progress.
    let whole = holder.reference.whole().is_some();
    let lives = || {
        if !whole {
            life.touch()
        }
    };
    lives();
    let mut frames = Frames::default();
    loop {
        match next(&mut body, &mut frames, (stall, &absence)).await? {
            Frame::Wait => lives(),
            Frame::Head(bytes) => {
                // While the network is upgraded there are peers that write others.
                if meta::is_of_another_version(&bytes) {
                    return Err(PeerError::Absent);
                }
                let mut meta = Meta::decode_received(&bytes, clock::now()).ok_or(PeerError::Misbehaved)?;
                let same = meta.url == request.url.to_string() && meta.varies_by.is_empty();
                if !same || request.from.is_some_and(|(_, validator)| validator != meta.validator) {
                    return Err(PeerError::Misbehaved);
                }
                let signer = head_signer(cache.streams.as_ref(), request.key, &meta).ok_or(PeerError::Misbehaved)?;
                if !cache.liars.believes(signer, request.url.host()) {
                    return Err(PeerError::Absent);
                }
                meta.initial_age = meta.initial_age.max(age_at_least(&meta, meta.received));
                if !is_current(&cache, &request, &meta, whole) {
                    return Err(PeerError::Stale);
                }
                let copied = Copied { key: request.key, validator: meta.validator };
                let checked = Checked::from(request.from.map_or(0, |(from, _)| from));
                let pace = whole.then(|| Pace::of(&cache, &holder));
                let stall = cache.config.peers.stall;
                let host = request.url.host().to_owned();
                return Ok(PeerFill { holder, meta, host, cache, copied, checked, body, frames, stall, pace, absence });
            }
            Frame::Abort(abort) => return Err(PeerError::Aborted(abort)),
            Frame::Signed(_) | Frame::Data(_) | Frame::End(_) => return Err(PeerError::Misbehaved),
        }
    }
}

/// Whether a copy may be used: no purge has taken it, and a whole one is fresh. What still grows was asked of the origin just now,
/// however long it may be kept; that it does is its sender's word, which its fetcher's on the moment must not contradict. And of what
/// clients have a part already they are to have the rest.
fn is_current(cache: &Cache, request: &PeerRequest, meta: &Meta, whole: bool) -> bool {
    let fresh = || !fresh_for(cache, request.site.as_deref(), meta).is_zero();
    let grows = !whole && meta.digest.is_none() && age_at_least(meta, meta.received).is_zero();
    !cache.purges.outdates(meta) && (grows || request.from.is_some() || fresh())
}

async fn send(cache: &Cache, holder: &Candidate, request: &PeerRequest) -> Result<Answering, PeerError> {
    let to = holder.value.holder;
    let large = holder.reference.length.is_some_and(|length| length > cache.config.slices.over);
    let opening = if large { cache.streams.open_bulk(to) } else { cache.streams.open(to) };
    let stream = opening.await.map_err(|error| {
        tracing::debug!(%to, %error, "no stream to a peer");
        PeerError::Lost
    })?;
    let handshake = http1::Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| PeerError::Lost)?;
    let connection = connection.map(|ended| {
        if let Err(error) = ended {
            tracing::trace!(%error, "stream to a peer ended");
        }
    });
    let mut connection = connection.boxed().fuse();
    let response = driven(&mut connection, sender.send_request(head(request)?)).await.map_err(|_| PeerError::Lost)?;
    match response.status() {
        StatusCode::OK => Ok(Answering { body: response.into_body(), connection }),
        // Whoever refuses a question, or cannot answer it, has said nothing of a copy that could be a lie.
        status if status.is_client_error() || status.is_server_error() => Err(PeerError::Absent),
        _ => Err(PeerError::Misbehaved),
    }
}

fn head(request: &PeerRequest) -> Result<Request<Empty<Bytes>>, PeerError> {
    let mut head = Request::get(format!("/{}", request.key))
        .header(header::HOST, request.url.authority())
        .header(ATOLL_VERSION, meta::VERSION)
        .header(ATOLL_URL, request.url.to_string());
    if let Some((from, validator)) = request.from {
        head = head.header(ATOLL_FROM, HeaderValue::from(from)).header(ATOLL_VALIDATOR, hex(&validator));
    }
    if let Some(to) = request.to {
        head = head.header(ATOLL_TO, HeaderValue::from(to));
    }
    for name in [TRACEPARENT, TRACESTATE] {
        if let Some(value) = request.fields.get(&name) {
            head = head.header(name, value);
        }
    }
    head.body(Empty::new()).map_err(|_| PeerError::Misbehaved)
}

impl PeerFill {
    /// What comes next, until [`Self::is_whole`]. After an error nothing more comes; all before it was good.
    pub(crate) async fn next(&mut self) -> Result<Came, PeerError> {
        match self.frame().await? {
            Frame::Wait => Ok(Came::Wait),
            Frame::Signed(bytes) => {
                let group = Group::decode(bytes).ok_or(PeerError::Misbehaved)?;
                let streams = self.cache.streams.as_ref();
                let signer = self.copied.signer(streams, &group).ok_or(PeerError::Misbehaved)?;
                if !self.cache.liars.believes(signer, &self.host) {
                    return Err(PeerError::Absent);
                }
                self.checked.promised(&group)?;
                Ok(Came::Promise(Arc::new(group)))
            }
            Frame::Data(data) => Ok(Came::Good(self.checked.take(data)?)),
            Frame::Abort(abort) => Err(PeerError::Aborted(abort)),
            // All of it came before, or not all of it was signed.
            Frame::Head(_) | Frame::End(_) => Err(PeerError::Misbehaved),
        }
    }

    /// The next frame of a body.
    async fn frame(&mut self) -> Result<Frame, PeerError> {
        let Some(pace) = &mut self.pace else {
            return next(&mut self.body, &mut self.frames, (self.stall, &self.absence)).await;
        };
        loop {
            if let Some(frame) = self.frames.next().map_err(|_| PeerError::Misbehaved)? {
                return Ok(frame);
            }
            let (began, absent, left) = (Instant::now(), self.absence.total(), pace.left());
            let came = self.absence.within(left.min(self.stall), self.body.next()).await;
            pace.waited += began.elapsed().saturating_sub(self.absence.total().saturating_sub(absent));
            match came {
                Err(_) if left > self.stall => return Err(PeerError::Lost),
                Err(_) => {}
                Ok(None) => return Err(PeerError::Lost),
                Ok(Some(data)) => {
                    pace.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
                    self.frames.feed(data);
                }
            }
            if !pace.keeps() {
                return Err(PeerError::Slow);
            }
        }
    }

    /// Whether all of it came: nothing more is waited for.
    pub(crate) fn is_whole(&self) -> bool {
        self.checked.is_whole()
    }
}

/// How a whole copy comes: so many bytes a second it must, or it is sought elsewhere. Only time that is spent waiting for the peer
/// counts.
struct Pace {
    window: Duration,
    /// Bytes that must come within it.
    least: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// As long as the first byte may take.
    fn of(cache: &Cache, holder: &Candidate) -> Self {
        let peers = &cache.config.peers;
        let far = if holder.value.level == Level::GLOBAL { peers.far } else { Duration::ZERO };
        let window = peers.hedge + far;
        let least = u128::from(peers.slowest) * window.as_millis() / 1_000;
        Self { window, least: u64::try_from(least).unwrap_or(u64::MAX), waited: Duration::ZERO, bytes: 0 }
    }

    fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Whether it keeps its pace; begins a new window when one is over.
    fn keeps(&mut self) -> bool {
        if self.waited < self.window {
            return true;
        }
        self.waited = Duration::ZERO;
        std::mem::take(&mut self.bytes) >= self.least
    }
}

async fn next(
    body: &mut Answering,
    frames: &mut Frames,
    (stall, absence): (Duration, &Absence),
) -> Result<Frame, PeerError> {
    loop {
        if let Some(frame) = frames.next().map_err(|_| PeerError::Misbehaved)? {
            return Ok(frame);
        }
        // An end without `E` is no end.
        let Ok(Some(data)) = absence.within(stall, body.next()).await else { return Err(PeerError::Lost) };
        frames.feed(data);
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8; 16]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// The way back.
pub(crate) fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// The version of heads that the asker reads.
pub(crate) const ATOLL_VERSION: &str = "atoll-version";

/// The URL asked for.
pub(crate) const ATOLL_URL: &str = "atoll-url";

/// Bytes the asker has.
pub(crate) const ATOLL_FROM: &str = "atoll-from";

/// The copy they are of.
pub(crate) const ATOLL_VALIDATOR: &str = "atoll-validator";

/// Where the part ends that is asked for.
pub(crate) const ATOLL_TO: &str = "atoll-to";

/// Bytes read from a peer at a time, at most.
const READ_BUFFER: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_are_written_and_read_as_hexadecimal() {
        let validator = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(unhex(&hex(&validator)), Some(validator));
        for wrong in ["", "00", "+0112233445566778899aabbccddeeff", "zz112233445566778899aabbccddeeff"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_peer_s_pace_is_what_came_in_the_time_that_it_was_waited_for() {
        let window = Duration::from_millis(250);
        let mut pace = Pace { window, least: 1_000, waited: Duration::ZERO, bytes: 0 };
        assert!(pace.keeps() && pace.left() == window, "time in which nobody waited is none");
        for (waited, bytes, left, keeps) in
            [(100, 0, 150, true), (149, 0, 1, true), (1, 1_000, 250, true), (250, 999, 250, false), (249, 0, 1, true)]
        {
            pace.waited += Duration::from_millis(waited);
            pace.bytes += bytes;
            assert_eq!((pace.keeps(), pace.left()), (keeps, Duration::from_millis(left)), "{waited} ms, {bytes} bytes");
        }
    }
}
