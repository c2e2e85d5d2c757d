//! Bodies that the front sends: a few bytes of its own, lines as they come, or the proxy's.

use std::{convert::Infallible, io};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

/// Any body; one that breaks ends in an error, and the connection is cut.
pub(crate) type FrontBody = UnsyncBoxBody<Bytes, io::Error>;

/// A whole body.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> FrontBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body that is sent as pieces come, until the sender is dropped.
pub(crate) fn pieces(receiver: mpsc::Receiver<Bytes>) -> FrontBody {
    Pieces(receiver).boxed_unsync()
}

/// A short text for people.
pub(crate) fn text(status: StatusCode, text: &str) -> Response<FrontBody> {
    let mut answer = typed(status, "text/plain; charset=utf-8", format!("{text}\n"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

/// JSON for programs.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<FrontBody> {
    // Our own types: strings, numbers and lists of them, which always serialise.
    typed(status, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// A body of a kind. Nobody may keep it or guess another kind.
pub(crate) fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<FrontBody> {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
