//! One request told step by step, for a member of the network who asks so with a signed field: `atoll trace`.
//!
//! `Atoll-Trace: PASS` on a request has its steps noted; the answer itself is the same as ever. `GET /.well-known/atoll/trace` with the
//! same field then gives the steps as JSON, also while the request runs. A pass is `1-TIME-NONCE-PROOF`: Unix seconds, 32 and any
//! number of hexadecimal digits; the proof ([`Streams::sign`]) covers [`WORD`], the time (u64, big endian) and the nonce. It is good
//! for five minutes of the clock. Without a good one the field means nothing, and there is nothing to see.
//!
//! A request that is not traced pays for one test of an `Option` a step; the words are not even made.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use atoll_overlay::{Acquired, Found, IndexError, Marker, NodeId, Question, Streams, Teller};
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The steps of one request, as `GET /.well-known/atoll/trace` gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traced {
    /// The node that answered the request, 40 hexadecimal digits.
    pub node: String,
    /// Whether anything may come still: a fetch goes on after its head was answered.
    pub running: bool,
    /// What was done, in order.
    pub steps: Vec<TracedStep>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TracedStep {
    /// Microseconds since the request's head was read.
    pub at: u64,
    /// What it is about: `request`, `store`, `flight`, `index`, `peer`, `origin`, `kept` or `answer`.
    pub stage: String,
    /// What was done or found.
    pub what: String,
}

/// Notes the steps of a request, if they are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracer(Option<Arc<Trace>>);

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Trace {
    begun: Instant,
    steps: Mutex<Vec<TracedStep>>,
}

impl Tracer {
    /// One that notes.
    pub(crate) fn begin() -> (Self, Arc<Trace>) {
        let trace = Arc::new(Trace { begun: Instant::now(), steps: Mutex::default() });
        (Self(Some(Arc::clone(&trace))), trace)
    }

    /// Notes a step, which is put into words only if somebody wants it.
    pub(crate) fn note(&self, stage: &'static str, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.0 {
            trace.note(stage, what());
        }
    }

    /// Whether steps are noted.
    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what an operation on the index asks.
    pub(crate) fn teller(&self, operation: &'static str) -> Teller {
        let tracer = self.clone();
        Teller::new(move |Question { to, level, handed_on }| {
            let how = if handed_on { ", which hands it on" } else { "" };
            tracer.note("index", || format!("{operation}, level {level}: asks {}{how}", short(to)));
        })
    }
}

impl Trace {
    fn note(&self, stage: &'static str, what: String) {
        let at = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < STEPS {
            steps.push(TracedStep { at, stage: stage.to_owned(), what });
        }
    }

    /// What is known so far. Only the cache itself holds on to a trace whose request has come to its end.
    pub(crate) fn read(self: &Arc<Self>, node: NodeId) -> Traced {
        // One for the memory of traces, one for the caller.
        let running = Arc::strong_count(self) > 2;
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Traced { node: node.to_string(), running, steps }
    }
}

/// The value of an `Atoll-Trace` field, good for five minutes; `None` if this node cannot sign.
#[must_use]
pub fn trace_pass(streams: &dyn Streams) -> Option<String> {
    let (time, nonce): (u64, [u8; 16]) = (unix(), rand::random());
    let proof = streams.sign(&statement(time, &nonce))?;
    Some(format!("1-{time}-{}-{}", hex(&nonce), hex(&proof)))
}

/// The nonce of a request's pass, if it has a good one.
pub(crate) fn passed(streams: &dyn Streams, fields: &HeaderMap) -> Option<[u8; 16]> {
    let text = fields.get(&ATOLL_TRACE)?.to_str().ok()?;
    let mut parts = text.split('-');
    let (Some("1"), Some(time), Some(nonce), Some(proof), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let time: u64 = time.parse().ok()?;
    let nonce: [u8; 16] = unhex(nonce)?.try_into().ok()?;
    let fresh = time.abs_diff(unix()) <= GOOD_FOR.as_secs();
    let signer = fresh.then(|| streams.signer(&statement(time, &nonce), &unhex(proof)?)).flatten()?;
    tracing::debug!(%signer, "a request is traced");
    Some(nonce)
}

fn statement(time: u64, nonce: &[u8; 16]) -> Vec<u8> {
    [WORD, &time.to_be_bytes(), nonce].concat()
}

fn unix() -> u64 {
    crate::clock::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The first digits of a node's id, enough to tell nodes apart by eye.
pub(crate) fn short(id: NodeId) -> String {
    id.to_string().chars().take(8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let good = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = text.as_bytes().chunks_exact(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
    if good { pairs.collect() } else { None }
}

/// The field that asks for a trace. Never sent on to an origin.
pub(crate) static ATOLL_TRACE: HeaderName = HeaderName::from_static("atoll-trace");

/// Where traces are read.
pub(crate) const TRACES: &str = "/.well-known/atoll/trace";

/// What sets a pass apart from all else that nodes sign.
const WORD: &[u8] = b"atoll trace 1\0";

/// How far the clocks of the asker and the asked, and the asking, may lie apart.
const GOOD_FOR: Duration = Duration::from_secs(300);

/// Steps noted of one request; what comes after is left out.
const STEPS: usize = 512;

/// Traces that can be read, the oldest forgotten first.
pub(crate) const TRACES_KEPT: usize = 64;

/// How long one can be read after its request began.
pub(crate) const READABLE: Duration = GOOD_FOR;

/// What a lookup brought, for a trace.
pub(crate) fn found_in_words(found: &Result<Found, IndexError>) -> String {
    match found {
        Ok(Found::Values { level, values }) => format!("{} references at level {level}", values.len()),
        Ok(Found::Nothing) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// What the root said, for a trace.
pub(crate) fn acquired_in_words(acquired: &Result<Acquired, IndexError>) -> String {
    match acquired {
        Ok(Acquired::References(values)) => format!("{} references", values.len()),
        Ok(Acquired::Granted(lease)) => format!("granted, lease {}.{}", lease.epoch, lease.counter),
        Ok(Acquired::Marked(Marker::Pass(span))) => format!("marked: not shared, for {} s", span.as_secs()),
        Ok(Acquired::Marked(Marker::Vary(names))) => format!("marked: varies by {}", names.join(", ")),
        Err(error) => format!("no word of the root: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_made_only_for_those_who_want_them() {
        Tracer::default().note("store", || panic!("nobody asked"));
        let (tracer, trace) = Tracer::begin();
        for _ in 0..2 * STEPS {
            tracer.note("store", || "nothing".to_owned());
        }
        assert_eq!(trace.steps.lock().unwrap().len(), STEPS);
    }

    #[test]
    fn no_field_makes_it_panic() {
        let nobody = atoll_overlay::Alone::new(crate::announce::test_info());
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            if let Ok(value) = http::HeaderValue::from_bytes(bytes) {
                let fields = HeaderMap::from_iter([(ATOLL_TRACE.clone(), value)]);
                assert_eq!(passed(&nobody, &fields), None);
            }
        });
        assert_eq!(unhex("0aff"), Some(vec![10, 255]));
        assert_eq!(unhex("+a"), None);
        assert_eq!(unhex("abc"), None);
    }
}
