//! One connection. Certificates first, on a substream of their own; until both are believed no other byte is read or written. Then each
//! side keeps one substream for its messages, and byte streams come and go.
//!
//! ```text
//!   dialler                        acceptor
//!     | auth: greeting ---------->  | behaviour checks: Welcome
//!     | <--------- auth: greeting   | admitted
//!     | behaviour checks: Welcome   |
//!     | admitted                    |
//!     | rpc: frames ------------->  |   one substream each way, opened with the first frame (V1Lazy: no round trip)
//!     | <------------- rpc: frames  |
//!     | http/1.1: bytes <-------->  |   any number, either side opens
//! ```

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::AsyncRead;
use libp2p::{
    Stream, StreamProtocol,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};

use super::{
    auth::{self, Auth, AuthError},
    certificate::Purpose,
    counters::Counters,
    frame::{FrameError, FrameReader, FrameWriter},
    lanes,
    protocol::{Names, Offer},
    renewal::{self, Renewal},
    stream::PeerStream,
};
use crate::core::message::Message;

/// What the behaviour tells a connection.
#[derive(Debug)]
pub(super) enum Order {
    /// The peer is believed; an acceptor shows this greeting first.
    Welcome {
        /// This side's greeting, if it has not been shown yet.
        reply: Option<Vec<u8>>,
        /// What the connection is for.
        purpose: Purpose,
    },
    /// Whether to stay open while idle.
    Keep(bool),
    /// This side has a later certificate: the peer is shown this greeting.
    Renew(Vec<u8>),
}

/// What a connection tells the behaviour.
#[derive(Debug)]
pub(super) enum Report {
    /// The peer's greeting, unchecked.
    Greeting(Bytes),
    /// A later greeting of an admitted peer, unchecked.
    Renewal(Bytes),
    /// A message, undecoded, from an admitted peer.
    Frame(Bytes),
    /// A byte stream that an admitted peer opened.
    Incoming(Stream),
    /// The peer broke the rules or a substream; the connection is of no more use.
    Broken(Broken),
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("its certificate: {0}")]
    Auth(#[from] AuthError),
    #[error("its messages: {0}")]
    Frames(#[from] FrameError),
    #[error("it refused a substream for messages: {0}")]
    Refused(String),
}

/// A wish for a byte stream, and where it goes.
pub(super) type Open = oneshot::Sender<Result<PeerStream, String>>;

/// The ends of a connection's queues that the handler holds.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) frames: mpsc::Receiver<Bytes>,
    pub(super) opens: mpsc::Receiver<Open>,
}

/// How long a connection waits for what, and how much it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) certificate: Duration,
    pub(super) idle: Duration,
    /// Byte streams that this side opens at a time.
    pub(super) streams: usize,
}

/// What an outgoing substream is for.
#[derive(Debug)]
pub(super) enum Want {
    Auth,
    Renewal(Vec<u8>),
    Messages,
    Bytes(Open, OwnedSemaphorePermit),
}

/// The state of one connection.
pub(super) struct LinkHandler {
    names: Names,
    auth: Auth,
    queues: Queues,
    reports: VecDeque<Report>,
    incoming: Option<(FrameReader, Stream)>,
    outgoing: Outgoing,
    writer: FrameWriter,
    /// Byte streams that came before the peer was admitted here; at most [`EARLY`].
    early: Vec<Stream>,
    /// One permit for each byte stream that this side may still open. Past what yamux allows it would end the connection.
    room: Arc<Semaphore>,
    counters: Counters,
    renewal: Renewal,
    kept: bool,
    /// Whether anything moved since the last tick, and in the span before it.
    moved: (bool, bool),
    tick: Interval,
}

/// This side's substream for messages.
enum Outgoing {
    None,
    Asked,
    Open(Stream),
}

type Event = ConnectionHandlerEvent<Offer, Want, Report>;

impl LinkHandler {
    /// A connection that this node dialled if it has a greeting to show, else one that it accepted.
    pub(super) fn new(
        names: Names,
        greeting: Option<Vec<u8>>,
        queues: Queues,
        terms: Terms,
        counters: Counters,
    ) -> Self {
        let mut tick = tokio::time::interval(terms.idle / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            names,
            auth: match greeting {
                Some(greeting) => Auth::dial(greeting, terms.certificate),
                None => Auth::accept(terms.certificate),
            },
            queues,
            reports: VecDeque::new(),
            incoming: None,
            outgoing: Outgoing::None,
            writer: FrameWriter::default(),
            early: Vec::new(),
            room: Arc::new(Semaphore::new(terms.streams)),
            counters,
            renewal: Renewal::default(),
            kept: false,
            moved: (true, true),
            tick,
        }
    }

    fn ask(&self, offer: Offer, want: Want) -> Event {
        self.counters.substreams.add();
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: SubstreamProtocol::new(offer, want) }
    }

    fn fail(&mut self, why: Broken) {
        self.auth.fail();
        self.incoming = None;
        self.outgoing = Outgoing::None;
        self.early.clear();
        self.reports.push_back(Report::Broken(why));
    }

    /// Advances the exchange of certificates until it waits for something.
    fn poll_auth(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match ready!(self.auth.poll(cx)) {
            auth::Step::Ask => return Poll::Ready(self.ask(self.names.auth(), Want::Auth)),
            auth::Step::Check(greeting) => self.reports.push_back(Report::Greeting(greeting)),
            auth::Step::Admitted => self.reports.extend(self.early.drain(..).map(Report::Incoming)),
            auth::Step::Failed(error) => self.fail(error.into()),
        }
        Poll::Pending
    }

    /// What this side wants to open and say, then what the peer says: in this order a talkative peer cannot silence this side.
    fn poll_admitted(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while let Poll::Ready(Some(open)) = self.queues.opens.poll_recv(cx) {
            match Arc::clone(&self.room).try_acquire_owned() {
                Ok(_) if open.is_closed() => {}
                Ok(permit) => {
                    self.moved.0 = true;
                    return Poll::Ready(self.ask(self.names.bytes(), Want::Bytes(open, permit)));
                }
                Err(_) => drop(open.send(Err("too many streams to it are open".to_owned()))),
            }
        }
        if let Poll::Ready(event) = self.poll_outgoing(cx) {
            return Poll::Ready(event);
        }
        match self.renewal.poll(cx) {
            Poll::Ready(renewal::Step::Ask(greeting)) => {
                return Poll::Ready(self.ask(self.names.auth(), Want::Renewal(greeting)));
            }
            Poll::Ready(renewal::Step::Came(greeting)) => {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::Renewal(greeting)));
            }
            Poll::Pending => {}
        }
        let Some((reader, stream)) = &mut self.incoming else { return Poll::Pending };
        match ready!(reader.poll_next(stream, cx)) {
            Ok(Some(frame)) => {
                self.moved.0 = true;
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::Frame(frame)));
            }
            Ok(None) => self.incoming = None,
            Err(error) => self.fail(error.into()),
        }
        Poll::Pending
    }

    /// Writes what waits; asks for the substream with the first message.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            while self.writer.has_room() {
                let Poll::Ready(Some(frame)) = self.queues.frames.poll_recv(cx) else { break };
                self.moved.0 = true;
                self.writer.push(&frame);
            }
            match &mut self.outgoing {
                Outgoing::None if self.writer.is_empty() => return Poll::Pending,
                Outgoing::None => {
                    self.outgoing = Outgoing::Asked;
                    return Poll::Ready(self.ask(self.names.messages(), Want::Messages));
                }
                Outgoing::Asked => return Poll::Pending,
                Outgoing::Open(stream) => {
                    // Nothing ever comes back here: an end or an error means that the peer refuses our messages.
                    if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut [0]) {
                        let why =
                            read.map_or_else(|error| error.to_string(), |count| format!("{count} bytes came back"));
                        self.fail(Broken::Refused(why));
                        return Poll::Pending;
                    }
                    let full = !self.writer.has_room();
                    match self.writer.poll_write(stream, cx) {
                        Poll::Ready(Ok(())) if full => {}
                        Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(error)) => {
                            self.fail(Broken::Refused(error.to_string()));
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
    }

    fn on_inbound(&mut self, mut stream: Stream, name: &StreamProtocol) {
        if *name == self.names.auth && self.auth.is_admitted() {
            self.renewal.on_inbound(stream);
        } else if *name == self.names.auth {
            self.auth.on_inbound(stream);
        } else if *name == self.names.messages {
            // A second one takes the place of the first: the peer may have lost it.
            stream.ignore_for_keep_alive();
            self.incoming = Some((FrameReader::new(Message::LIMIT), stream));
        } else if self.auth.is_admitted() {
            self.moved.0 = true;
            self.reports.push_back(Report::Incoming(stream));
        } else if self.early.len() < EARLY {
            self.early.push(stream);
        }
    }

    fn on_outbound(&mut self, mut stream: Stream, want: Want) {
        match want {
            Want::Auth => self.auth.on_outbound(stream),
            Want::Renewal(greeting) => self.renewal.on_outbound(stream, greeting),
            Want::Messages => {
                stream.ignore_for_keep_alive();
                self.outgoing = Outgoing::Open(stream);
            }
            // The asker may have given up; the stream is then reset.
            Want::Bytes(open, permit) => drop(open.send(Ok(PeerStream::new(stream, Some(permit))))),
        }
    }

    fn on_refused(&mut self, want: Want, why: String) {
        match want {
            Want::Auth => self.fail(AuthError::Refused(why).into()),
            // A peer of an earlier version; the connection ends with the certificate it knows.
            Want::Renewal(_) => {}
            Want::Messages => self.fail(Broken::Refused(why)),
            Want::Bytes(open, _) => drop(open.send(Err(why))),
        }
    }
}

impl ConnectionHandler for LinkHandler {
    type FromBehaviour = Order;
    type ToBehaviour = Report;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Want;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        SubstreamProtocol::new(self.names.all(), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.kept || self.moved.0 || self.moved.1
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        while self.tick.poll_tick(cx).is_ready() {
            self.moved = (false, self.moved.0);
        }
        if !self.auth.is_admitted()
            && let Poll::Ready(event) = self.poll_auth(cx)
        {
            return Poll::Ready(event);
        }
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.auth.is_admitted() {
            lanes::admitted();
            if let Poll::Ready(event) = self.poll_admitted(cx) {
                return Poll::Ready(event);
            }
        }
        // What just failed is still to be told.
        self.reports
            .pop_front()
            .map_or(Poll::Pending, |report| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Report>> {
        // What still waits, a farewell above all, goes out if it goes at once: nobody reads acknowledgements any more.
        if let Outgoing::Open(stream) = &mut self.outgoing {
            while let Ok(frame) = self.queues.frames.try_recv() {
                self.writer.push(&frame);
            }
            let _ = self.writer.poll_write(stream, cx);
            self.outgoing = Outgoing::None;
        }
        Poll::Ready(None)
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Keep(kept) => self.kept = kept,
            Order::Renew(greeting) => self.renewal.show(greeting),
            Order::Welcome { reply, purpose } => {
                if purpose == Purpose::Bulk {
                    lanes::leave_links();
                }
                self.auth.on_checked(reply);
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Want>) {
        if self.auth.is_failed() {
            return;
        }
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), info: () }) => {
                self.on_inbound(stream, &name);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                self.on_outbound(stream, info);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_refused(info, error.to_string());
            }
            // Addresses and protocol lists are no business of a link.
            _ => {}
        }
    }
}

/// Byte streams kept for a peer that opens them just before its certificate is believed. `[guess]`
const EARLY: usize = 8;
