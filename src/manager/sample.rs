//! Whether peers serve what the backend has: a range of a file, asked of a peer as any client would, held against the manager's own
//! copy, which came through the network's checks. Bytes that differ under the same validators and length are a lie, once another
//! peer, if there is one, agrees with the manager.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use rand::seq::IndexedRandom as _;

use super::office::Office;
use crate::front::ask::{Bounds, Line, Place, Question};

/// One range of a file as somebody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// What must be equal for bytes to be comparable.
    validators: Vec<Option<HeaderValue>>,
    /// The range that it is.
    range: Option<HeaderValue>,
    digest: blake3::Hash,
}

/// Samples one live peer, if there is one and it has served anything.
pub(super) async fn one(office: Arc<Office>) {
    let live = office.roster().live(Instant::now());
    let chosen = {
        let mut random = rand::rng();
        live.choose(&mut random)
            .and_then(|peer| Some((peer, office.catalogue.served_by(&peer.0).choose(&mut random)?.clone())))
    };
    let Some((peer, (file, size))) = &chosen else { return };
    let name = &peer.0;
    let Some(from) = size.checked_sub(1).map(|last| rand::random_range(0..=last.saturating_sub(PART))) else { return };
    let range = format!("bytes={from}-{}", (from + PART - 1).min(size - 1));
    let Some(theirs) = of_peer(&office, peer, file, &range).await else { return };
    let Some(ours) = of_own(&office, file, &range).await else { return };
    if !is_lie(&ours, &theirs) {
        return;
    }
    // The manager itself may be the one who is wrong: a second peer decides.
    if let Some(second) = live.iter().find(|(other, _)| other != name)
        && of_peer(&office, second, file, &range).await.is_none_or(|second| is_lie(&ours, &second))
    {
        tracing::warn!(peer = name, file, range, "this copy differs from the manager's, and so does another peer's");
        return;
    }
    office.eject(name, &format!("it served wrong bytes of {file}, {range}"));
}

/// The same object by all that its head says, and other bytes.
fn is_lie(ours: &Part, theirs: &Part) -> bool {
    ours.validators == theirs.validators && ours.range == theirs.range && ours.digest != theirs.digest
}

async fn of_peer(office: &Office, (name, place): &(String, Place), file: &str, range: &str) -> Option<Part> {
    let question = Question::get(file).with(header::RANGE, range);
    let mut line = Line::to(place.clone());
    let reply = line.ask(question, SAMPLE).await;
    if let Some(from) = line.local() {
        office.catalogue.sampled(name, from, file);
    }
    let reply = reply.ok()?;
    (reply.status == StatusCode::PARTIAL_CONTENT).then(|| Part::of(&reply.fields, &reply.body))
}

async fn of_own(office: &Office, file: &str, range: &str) -> Option<Part> {
    let mut request = office.service.site.get(file)?;
    request.headers_mut().insert(header::RANGE, HeaderValue::from_str(range).ok()?);
    let exchange = async {
        let (head, body) = office.service.proxy.answer(request).await.into_parts();
        let body = Limited::new(body, SAMPLE.bytes).collect().await.ok()?.to_bytes();
        (head.status == StatusCode::PARTIAL_CONTENT).then(|| Part::of(&head.headers, &body))
    };
    // The own copy may first have to be fetched from peers.
    tokio::time::timeout(OWN, exchange).await.ok()?
}

impl Part {
    fn of(fields: &HeaderMap, body: &Bytes) -> Self {
        let field = |name| fields.get(name).cloned();
        Self {
            validators: [header::ETAG, header::LAST_MODIFIED, header::CONTENT_ENCODING].map(field).to_vec(),
            range: field(header::CONTENT_RANGE),
            digest: blake3::hash(body),
        }
    }
}

/// Bytes of a sample. `[guess]`
const PART: u64 = 64 << 10;

/// For a peer to send one, and what it may be.
const SAMPLE: Bounds = Bounds { time: Duration::from_secs(5), bytes: 128 << 10 };

/// For the own copy.
const OWN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_bytes_of_the_same_object_are_a_lie() {
        let part = |tag: &'static str, range: &'static str, body: &'static [u8]| {
            let fields = HeaderMap::from_iter([
                (header::ETAG, HeaderValue::from_static(tag)),
                (header::CONTENT_RANGE, HeaderValue::from_static(range)),
            ]);
            Part::of(&fields, &Bytes::from_static(body))
        };
        let ours = part("\"1\"", "bytes 0-3/9", b"true");
        assert!(is_lie(&ours, &part("\"1\"", "bytes 0-3/9", b"lies")));
        assert!(!is_lie(&ours, &part("\"1\"", "bytes 0-3/9", b"true")));
        // The file changed, or has another length: that is news, not a lie.
        assert!(!is_lie(&ours, &part("\"2\"", "bytes 0-3/9", b"news")));
        assert!(!is_lie(&ours, &part("\"1\"", "bytes 0-3/8", b"news")));
    }
}
