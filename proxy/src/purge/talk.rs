//! Two nodes compare what they have purged, over a stream of [`atoll_overlay::Streams`]:
//!
//! ```text
//! GET /purges HTTP/1.1
//! Atoll-Purges: ID:HEAD,ID:HEAD    by signer (40 hexadecimal digits), up to which number the asker has applied everything
//! Atoll-Purge: HEX                 a signed purge that the asker thinks the other lacks; again for more
//! ```
//!
//! The answer is 200 with protobuf: { 1: chains { 1: signer, 2: head }, 2: signed purges that the asker lacks, 3: whether there are
//! more, 4: floors }, as of after it took the asker's. A floor is what the answerer forgot before its time and the asker never knew:
//! the newest such purge of a signer, signed by it like any other.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{NodeId, Streams};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::time::timeout;

use super::ledger::{Heads, Ledger, id, id_bytes};
use crate::{body::Body, peer::Abandon};

/// What one side told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) heads: Heads,
    /// Signed purges that were forgotten before their time.
    pub(super) floors: Vec<Bytes>,
    /// Signed purges.
    pub(super) records: Vec<Bytes>,
    pub(super) more: bool,
}

/// Asks a peer, showing our heads and what it may lack. Never longer than `patience`.
pub(super) async fn ask(
    streams: Arc<dyn Streams>,
    peer: NodeId,
    heads: &Heads,
    pushed: &[Bytes],
    patience: Duration,
) -> Option<Told> {
    let mut request = Request::get(PATH).header(header::HOST, "peer").header(&ATOLL_PURGES, heads_text(heads));
    for record in pushed {
        request = request.header(&ATOLL_PURGE, hex(record));
    }
    let request = request.body(Empty::new()).ok()?;
    Told::decode(&get(streams, peer, request, patience).await?)
}

/// Asks a peer for something small.
pub(crate) async fn get(
    streams: Arc<dyn Streams>,
    peer: NodeId,
    request: Request<Empty<Bytes>>,
    patience: Duration,
) -> Option<Bytes> {
    let exchange = async {
        let stream = streams.open(peer).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let _connection = Abandon(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        Some(Limited::new(response.into_body(), ANSWER).collect().await.ok()?.to_bytes())
    };
    timeout(patience, exchange).await.ok().flatten()
}

/// The answer to somebody with these heads.
pub(super) fn answer(ledger: &Ledger, heads: &Heads) -> Response<Body> {
    let chain = |(signer, head): (&NodeId, &u64)| ChainWire { signer: id_bytes(*signer), head: *head };
    let mut wire = ToldWire { chains: ledger.heads().iter().map(chain).collect(), ..ToldWire::default() };
    let mut room = RECORDS;
    let mut fits = |signed: &Bytes| {
        let left = room.checked_sub(signed.len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    for floor in ledger.floors(heads) {
        if !fits(&floor.signed) {
            wire.more = true;
            break;
        }
        wire.floors.push(floor.signed.clone());
    }
    for entry in ledger.lacking(heads) {
        if !fits(&entry.signed) {
            wire.more = true;
            break;
        }
        wire.records.push(entry.signed.clone());
    }
    let mut response = Response::new(Body::Whole(wire.encode_to_vec().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/atoll-purges"));
    response
}

/// The heads that a head shows; none if it shows none, or what cannot be read.
pub(super) fn heads_in(fields: &HeaderMap) -> Heads {
    let text = fields.get(&ATOLL_PURGES).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let head = |pair: &str| {
        let (signer, head) = pair.split_once(':')?;
        Some((signer.parse::<atoll_overlay::Key>().ok()?.into(), head.parse().ok()?))
    };
    text.split(',').take(SIGNERS).map_while(head).collect()
}

/// The purges that a head brings, still signed.
pub(super) fn pushed(fields: &HeaderMap) -> Vec<Vec<u8>> {
    fields.get_all(&ATOLL_PURGE).iter().take(PUSHES).filter_map(|value| unhex(value.as_bytes())).collect()
}

/// As many of these as go with one request.
pub(super) fn fitting(records: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut room = PUSHED;
    let fits = |record: &Bytes| {
        let left = room.checked_sub(record.len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    records.take_while(fits).collect()
}

/// Heads as a field's value.
fn heads_text(heads: &Heads) -> HeaderValue {
    let pairs: Vec<String> = heads.iter().map(|(signer, head)| format!("{signer}:{head}")).collect();
    HeaderValue::try_from(pairs.join(",")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Told {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let wire = ToldWire::decode(bytes).ok()?;
        let mut told = Self { records: wire.records, floors: wire.floors, more: wire.more, ..Self::default() };
        for chain in wire.chains.iter().take(SIGNERS) {
            told.heads.insert(id(&chain.signer)?, chain.head);
        }
        Some(told)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().filter(|_| rest.is_empty())
}

#[derive(Clone, PartialEq, prost::Message)]
struct ToldWire {
    #[prost(message, repeated, tag = "1")]
    chains: Vec<ChainWire>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    floors: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChainWire {
    #[prost(bytes = "bytes", tag = "1")]
    signer: Bytes,
    #[prost(uint64, tag = "2")]
    head: u64,
}

/// Where peers ask for purges; no object's key looks so.
pub(crate) const PATH: &str = "/purges";

/// What a node has applied, beside a question.
pub(super) static ATOLL_PURGES: HeaderName = HeaderName::from_static("atoll-purges");

/// One signed purge.
static ATOLL_PURGE: HeaderName = HeaderName::from_static("atoll-purge");

/// Bytes of purges in one answer, floors among them.
const RECORDS: usize = 192 << 10;

/// Bytes of an answer: purges, and the chains of as many signers as anybody remembers.
const ANSWER: usize = 256 << 10;

/// Bytes of purges that go with one question; doubled as digits, well below any limit on heads.
const PUSHED: usize = 3 << 10;

/// Purges read from one question: each costs a signature's check.
const PUSHES: usize = 16;

/// Signers read from one side.
const SIGNERS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_as_a_field_and_foreign_ones_are_none() {
        let heads: Heads = [(3_u8, 7_u64), (1, u64::MAX)]
            .map(|(by, head)| (atoll_overlay::Key::from_bytes([by; 20]).into(), head))
            .into();
        let fields = HeaderMap::from_iter([(ATOLL_PURGES.clone(), heads_text(&heads))]);
        assert_eq!(heads_in(&fields), heads);
        assert_eq!(heads_in(&HeaderMap::new()), Heads::new());
        assert_eq!(unhex(hex(b"\x00\xffa").as_bytes()).unwrap(), b"\x00\xffa");
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            drop(Told::decode(bytes));
            drop(unhex(bytes));
            if let Ok(value) = HeaderValue::from_bytes(bytes) {
                heads_in(&HeaderMap::from_iter([(ATOLL_PURGES.clone(), value)]));
            }
        });
    }

    #[test]
    fn only_so_much_is_pushed_at_once() {
        let records = vec![Bytes::from(vec![0; 1_000]); 9];
        assert_eq!(fitting(records.into_iter()).len(), 3);
    }
}
