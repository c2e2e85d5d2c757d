//! What a manager and a peer serve alike: copies of one site, counted as they leave.

use std::sync::Arc;

use atoll_proxy::Proxy;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Incoming};

use super::{
    body::{FrontBody, text},
    listen::Client,
    meter::Meter,
    record::Asker,
    site::Site,
};

/// See the file's head.
pub(crate) struct Service {
    /// Who has the gate, and the copies.
    pub(crate) proxy: Arc<Proxy>,
    /// What they are of.
    pub(crate) site: Site,
    /// What counts what leaves.
    pub(crate) meter: Arc<Meter>,
}

impl Service {
    /// Answers with a file of the site, by its path and query.
    pub(crate) async fn answer(&self, client: Client, file: &str, request: &Request<()>) -> Response<FrontBody> {
        let Some(inner) = self.site.request(file, request) else {
            return text(StatusCode::BAD_REQUEST, "the path cannot be handed on");
        };
        let mut answer = self.proxy.answer(inner).await;
        self.site.turn(answer.headers_mut());
        let asker = Asker::of(client.address, client.rtt_us, file, request.headers());
        self.meter.metered(asker, answer)
    }
}

/// What a request gets that asks for anything but a file.
pub(crate) fn refused(request: &Request<Incoming>) -> Option<Response<FrontBody>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served"));
    }
    if request.body().is_end_stream() {
        return None;
    }
    let mut answer = text(StatusCode::BAD_REQUEST, "requests with a body are not served");
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(answer)
}
