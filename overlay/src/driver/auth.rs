//! The exchange of certificates on one connection, as the connection's handler drives it. The dialler shows its certificate first; the
//! acceptor reads it and shows its own only if that one is good, so a stranger who dials learns nothing. It costs no round trip more
//! than showing both at once: an acceptor's connection stands half a round trip after the dialler's, with the greeting right behind.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{AsyncWrite as _, future::BoxFuture};
use libp2p::Stream;
use tokio::time::Sleep;

use super::{
    certificate::GREETING_LIMIT,
    frame::{FrameError, FrameReader, FrameWriter},
};

/// How far the exchange is.
pub(super) struct Auth {
    stage: Stage,
    deadline: Pin<Box<Sleep>>,
}

enum Stage {
    /// Dialler: a substream is to be asked for, then this greeting shown.
    Start(Vec<u8>),
    /// Dialler: the substream was asked for.
    Asked(Vec<u8>),
    /// Acceptor: the dialler is to open a substream.
    Listening,
    /// Greetings are under way. Yields the peer's and, at the acceptor, the substream to reply on.
    Exchange(BoxFuture<'static, Result<(Bytes, Option<Stream>), FrameError>>),
    /// The peer's greeting is being checked.
    Checking(Option<Stream>),
    /// Acceptor: the own greeting is under way.
    Reply(BoxFuture<'static, Result<(), FrameError>>),
    /// Both are believed; to be told once.
    Welcomed,
    /// Both are believed.
    Admitted,
    /// Given up.
    Failed,
}

/// What the handler has to do for it.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask for a substream to the peer.
    Ask,
    /// Have this greeting of the peer's checked.
    Check(Bytes),
    /// Nothing any more: the peer may talk.
    Admitted,
    /// Give the connection up.
    Failed(AuthError),
}

impl Auth {
    /// Of a connection that this node dialled, with its greeting.
    pub(super) fn dial(greeting: Vec<u8>, patience: Duration) -> Self {
        Self { stage: Stage::Start(greeting), deadline: Box::pin(tokio::time::sleep(patience)) }
    }

    /// Of a connection that this node accepted.
    pub(super) fn accept(patience: Duration) -> Self {
        Self { stage: Stage::Listening, deadline: Box::pin(tokio::time::sleep(patience)) }
    }

    /// The peer opened a substream for it; of no use but to an acceptor, once.
    pub(super) fn on_inbound(&mut self, mut stream: Stream) {
        if matches!(self.stage, Stage::Listening) {
            self.stage = Stage::Exchange(Box::pin(async move {
                let greeting = FrameReader::new(GREETING_LIMIT).next(&mut stream).await?;
                Ok((greeting, Some(stream)))
            }));
        }
    }

    /// The substream asked for stands.
    pub(super) fn on_outbound(&mut self, mut stream: Stream) {
        if let Stage::Asked(greeting) = &mut self.stage {
            let greeting = std::mem::take(greeting);
            self.stage = Stage::Exchange(Box::pin(async move {
                FrameWriter::send(&mut stream, &greeting).await?;
                let reply = FrameReader::new(GREETING_LIMIT).next(&mut stream).await?;
                Ok((reply, None))
            }));
        }
    }

    /// The peer's greeting is good; an acceptor now shows its own.
    pub(super) fn on_checked(&mut self, reply: Option<Vec<u8>>) {
        let Stage::Checking(stream) = &mut self.stage else { return };
        self.stage = match (stream.take(), reply) {
            (Some(mut stream), Some(reply)) => Stage::Reply(Box::pin(async move {
                FrameWriter::send(&mut stream, &reply).await?;
                // Ended, not just dropped: a reset could overtake the reply.
                std::future::poll_fn(|cx| Pin::new(&mut stream).poll_close(cx)).await?;
                Ok(())
            })),
            (Some(_), None) | (None, _) => Stage::Welcomed,
        };
    }

    /// The connection is given up for another reason.
    pub(super) fn fail(&mut self) {
        self.stage = Stage::Failed;
    }

    /// Advances until it waits for something. After [`Step::Failed`] and [`Step::Admitted`] it says nothing more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if matches!(self.stage, Stage::Admitted | Stage::Failed) {
            return Poll::Pending;
        }
        let step = if self.deadline.as_mut().poll(cx).is_ready() {
            Step::Failed(AuthError::Late)
        } else {
            ready!(self.poll_stage(cx)).unwrap_or_else(|error| Step::Failed(error.into()))
        };
        match &step {
            Step::Ask | Step::Check(_) => {}
            Step::Admitted => self.stage = Stage::Admitted,
            Step::Failed(_) => self.stage = Stage::Failed,
        }
        Poll::Ready(step)
    }

    /// Whether the peer may talk.
    pub(super) const fn is_admitted(&self) -> bool {
        matches!(self.stage, Stage::Admitted)
    }

    /// Whether the connection was given up.
    pub(super) const fn is_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed)
    }

    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, FrameError>> {
        match &mut self.stage {
            Stage::Start(greeting) => {
                self.stage = Stage::Asked(std::mem::take(greeting));
                Poll::Ready(Ok(Step::Ask))
            }
            Stage::Exchange(exchange) => {
                let (greeting, stream) = ready!(exchange.as_mut().poll(cx))?;
                self.stage = Stage::Checking(stream);
                Poll::Ready(Ok(Step::Check(greeting)))
            }
            Stage::Reply(reply) => Poll::Ready(ready!(reply.as_mut().poll(cx)).map(|()| Step::Admitted)),
            Stage::Welcomed => Poll::Ready(Ok(Step::Admitted)),
            Stage::Asked(_) | Stage::Listening | Stage::Checking(_) | Stage::Admitted | Stage::Failed => Poll::Pending,
        }
    }
}

/// Why a peer's certificate was not even seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    #[error("no certificate in time")]
    Late,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the substream for certificates was refused: {0}")]
    Refused(String),
}
