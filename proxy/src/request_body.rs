//! A request's body on its way from its client to an origin, and which of the two is waited for: the client until all of it is here,
//! the origin while it takes no more of it, and for its answer from the moment that all of it was sent. It is charged to the client's
//! shares like an answer, and waits where they have a rate.

use std::{
    error::Error as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::{
    fairness::Tab,
    patience::{Pace, Patience},
    reason::Failure,
};

/// A request's body: none, or the client's.
pub(crate) enum RequestBody {
    None,
    Client(Box<Sending>),
}

/// A client's body as it is sent on.
pub(crate) struct Sending {
    incoming: Incoming,
    client: Patience,
    stage: watch::Sender<Stage>,
    tab: Option<Tab>,
    /// What a rate has the next piece wait for.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Who is waited for, and until when; or that nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client, to send more.
    Client(Instant),
    /// The origin, to take more, since then.
    Origin(Instant),
    /// Neither: a share's rate does not let more through now.
    Paused,
    /// The origin, to answer, since then: all is sent.
    Sent(Instant),
    /// The client, who sends no more.
    Broken(Failure),
}

/// Watches a body being sent on.
#[derive(Debug)]
pub(crate) struct Watch(watch::Receiver<Stage>);

impl RequestBody {
    /// A client's body, and who watches it.
    pub(crate) fn sent_on(incoming: Incoming, pace: Pace, tab: Option<Tab>) -> (Self, Watch) {
        let (stage, watch) = watch::channel(Stage::Origin(Instant::now()));
        let sending = Sending { incoming, client: Patience::new(pace), stage, tab, pause: None };
        (Self::Client(Box::new(sending)), Watch(watch))
    }
}

impl Watch {
    /// Ready once one of the two is too slow: whose failure that is. `answer`: how long the origin may take to answer, `take`: to take
    /// more of the body.
    pub(crate) async fn late(&mut self, answer: Duration, take: Duration) -> Failure {
        loop {
            let stage = *self.0.borrow_and_update();
            let (due, failure) = match stage {
                Stage::Client(due) => (due, Failure::SlowBody),
                Stage::Paused => {
                    // Whoever pauses goes on by itself, or is dropped, which is said too.
                    let _ = self.0.changed().await;
                    continue;
                }
                Stage::Origin(since) => (since + take, Failure::ResponseTimeout),
                Stage::Sent(since) => (since + answer, Failure::ResponseTimeout),
                // The connection to the origin says so too, at once.
                Stage::Broken(failure) => return failure,
            };
            tokio::select! {
                biased;
                Ok(()) = self.0.changed() => {}
                () = sleep_until(due) => return failure,
            }
        }
    }

    /// Why the client sends no more, if it does not.
    pub(crate) fn broken(&self) -> Option<Failure> {
        match *self.0.borrow() {
            Stage::Broken(failure) => Some(failure),
            Stage::Client(_) | Stage::Origin(_) | Stage::Paused | Stage::Sent(_) => None,
        }
    }
}

impl Sending {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                self.set(Stage::Paused);
                return Poll::Pending;
            }
            self.pause = None;
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let now = Instant::now();
        let stage = match &polled {
            Poll::Pending => Stage::Client(self.client.wait(now, 1)),
            Poll::Ready(None) => Stage::Sent(now),
            Poll::Ready(Some(Err(error))) => Stage::Broken(why(error)),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.client.came(now, bytes, 1);
                let wait = self.tab.as_ref().map_or(Duration::ZERO, |tab| tab.charge(bytes));
                self.pause = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
                if self.incoming.is_end_stream() { Stage::Sent(now) } else { Stage::Origin(now) }
            }
        };
        self.set(stage);
        polled
    }

    fn set(&self, stage: Stage) {
        self.stage.send_if_modified(|before| std::mem::replace(before, stage) != stage);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Whoever sends it is done with it.
        self.stage.send_if_modified(|stage| match stage {
            Stage::Client(_) | Stage::Origin(_) | Stage::Paused => {
                *stage = Stage::Sent(Instant::now());
                true
            }
            Stage::Sent(_) | Stage::Broken(_) => false,
        });
    }
}

/// The gate cuts bodies that do not come.
fn why(error: &hyper::Error) -> Failure {
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Failure::SlowBody;
        }
        source = error.source();
    }
    Failure::Request
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::None => Poll::Ready(None),
            Self::Client(sending) => sending.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Client(sending) => sending.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Client(sending) => sending.incoming.size_hint(),
        }
    }
}
