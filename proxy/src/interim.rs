//! Interim answers (1xx, RFC 9110 15.2) on their way from an origin to the client whose request they belong to. The server library
//! cannot send them, so they are written beside it, between two of its answers: while a request is being answered nothing else is
//! written to its connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use crate::meta::strip_hop_by_hop;

/// What is to be written to one connection before its next final answer. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interim(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    bytes: BytesMut,
    waker: Option<Waker>,
}

impl Interim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is being answered: what comes now is its.
    pub(crate) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        state.bytes.clear();
    }

    /// The final answer begins: what comes now is too late.
    pub(crate) fn close(&self) {
        self.state().open = false;
    }

    /// Takes an interim answer in, unless it is one hop's own, too late, or too much.
    pub(crate) fn push(&self, status: StatusCode, fields: &HeaderMap) {
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let mut fields = fields.clone();
        strip_hop_by_hop(&mut fields);
        let mut text =
            format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("Interim")).into_bytes();
        for (name, value) in &fields {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        let mut state = self.state();
        if state.open && state.bytes.len() + text.len() <= LIMIT {
            state.bytes.extend_from_slice(&text);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    /// What is to be written now; asks to be woken when there is more.
    pub(crate) fn take(&self, cx: &Context<'_>) -> BytesMut {
        let mut state = self.state();
        if state.open {
            state.waker = Some(cx.waker().clone());
        }
        state.bytes.split()
    }
}

/// Bytes that wait for one client; an origin that sends more is not passed on [bad-inputs C12: 1xx storms].
const LIMIT: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_an_open_request_waits_and_not_for_ever_more() {
        let interim = Interim::default();
        let fields = HeaderMap::from_iter([(http::header::LINK, "</a>".parse().unwrap())]);
        let cx = Context::from_waker(Waker::noop());
        interim.push(StatusCode::EARLY_HINTS, &fields);
        assert!(interim.take(&cx).is_empty());
        interim.open();
        interim.push(StatusCode::CONTINUE, &fields);
        interim.push(StatusCode::EARLY_HINTS, &fields);
        assert_eq!(&interim.take(&cx)[..], b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        for _ in 0..1_000 {
            interim.push(StatusCode::PROCESSING, &fields);
        }
        assert!(interim.take(&cx).len() <= LIMIT);
        interim.close();
        interim.push(StatusCode::PROCESSING, &fields);
        assert!(interim.take(&cx).is_empty());
    }
}
