//! Bodies that are charged to somebody's share as they go, and wait where it has a rate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use http::Response;
use http_body::Body as _;
use tokio::time::{Sleep, sleep};

use crate::{body::Body, fairness::Tab, reason::Failure};

/// Has a response's body charged. One without bytes costs nothing.
pub(crate) fn metered(response: Response<Body>, tab: Option<Tab>) -> Response<Body> {
    let Some(tab) = tab else { return response };
    response.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        let length = body.size_hint().exact();
        Body::Stream(Box::pin(Metered { body, tab, held: None, pause: None }), length)
    })
}

struct Metered {
    body: Body,
    tab: Tab,
    /// Bytes that wait for the rate.
    held: Option<Bytes>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Metered {
    type Item = Result<Bytes, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            if let Some(bytes) = this.held.take() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                None => return Poll::Ready(None),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            let wait = this.tab.charge(bytes.len());
            this.held = Some(bytes);
            this.pause = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::fairness::{Fairness, FairnessConfig, Share};

    #[tokio::test]
    async fn what_is_over_the_rate_waits_and_all_of_it_is_counted() {
        let site = Share { rate: 1_000, daily: 100_000, ..Share::default() };
        let fairness = Fairness::new(&FairnessConfig { site, ..FairnessConfig::default() });
        let tab = || fairness.open(("a.test", 80), None);
        let polled = |size: usize| {
            let response = metered(Response::new(Body::Whole(vec![0; size].into())), tab());
            assert_eq!(response.body().size_hint().exact(), Some(size as u64));
            let mut body = response.into_body();
            Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(polled(50), "within a burst nothing waits");
        assert!(!polled(30_000));
        let saved = String::from_utf8(fairness.save().unwrap().to_vec()).unwrap();
        assert!(saved.contains("\"of_day\":30050"), "{saved}");
        assert!(metered(Response::new(Body::empty()), tab()).body().is_end_stream());
    }
}
