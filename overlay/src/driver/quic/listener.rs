//! One address that is listened on, and where others reach it: if it is none of this machine's in particular, all of that family,
//! as they come and go.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use futures::{FutureExt as _, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::core::transport::{ListenerId, TransportEvent};
use quinn::Endpoint;

use super::{
    Error,
    connection::{Handshake, shake_hands},
    runtime::Seat,
};
use crate::driver::address::{Carrier, of_socket};

/// What a listener has to say.
pub(super) type Event = TransportEvent<Handshake, Error>;

/// An endpoint that takes connections.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) endpoint: Endpoint,
    local: SocketAddr,
    /// The addresses that it is reached at.
    addresses: BTreeSet<IpAddr>,
    /// Says which of these the machine has; none if there is just one.
    watcher: Option<IfWatcher>,
    next: BoxFuture<'static, Option<quinn::Incoming>>,
    /// Said before anything else.
    pending: Option<Event>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(id: ListenerId, endpoint: Endpoint) -> io::Result<Self> {
        let local = endpoint.local_addr()?;
        let (mut addresses, mut pending, mut watcher) = (BTreeSet::new(), None, None);
        if local.ip().is_unspecified() {
            watcher = Some(IfWatcher::new()?);
        } else {
            addresses.insert(local.ip());
            pending = Some(Event::NewAddress { listener_id: id, listen_addr: of_socket(Carrier::Quic, local) });
        }
        let next = accept(&endpoint);
        Ok(Self { id, endpoint, local, addresses, watcher, next, pending, is_closed: false, waker: None })
    }

    /// Ends it, and all its connections.
    pub(super) fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.endpoint.close(0_u32.into(), &[]);
        self.pending = Some(Event::ListenerClosed { listener_id: self.id, reason: Ok(()) });
        self.is_closed = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether a dial to that address may leave from here.
    pub(super) fn leads_to(&self, to: IpAddr) -> bool {
        let reaches = !to.is_loopback() || self.addresses.iter().any(IpAddr::is_loopback);
        !self.is_closed && self.local.is_ipv4() == to.is_ipv4() && reaches
    }

    /// The next address that came or went.
    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Self { id: listener_id, local, watcher: Some(watcher), addresses, .. } = self else { return Poll::Pending };
        let listener_id = *listener_id;
        loop {
            let (net, is_up) = match ready!(watcher.poll_if_event(cx)) {
                Ok(IfEvent::Up(net)) => (net, true),
                Ok(IfEvent::Down(net)) => (net, false),
                Err(error) => return Poll::Ready(Event::ListenerError { listener_id, error: error.into() }),
            };
            let ip = net.addr();
            if ip.is_ipv4() != local.is_ipv4() {
                continue;
            }
            let listen_addr = of_socket(Carrier::Quic, SocketAddr::new(ip, local.port()));
            return Poll::Ready(if is_up {
                addresses.insert(ip);
                Event::NewAddress { listener_id, listen_addr }
            } else {
                addresses.remove(&ip);
                Event::AddressExpired { listener_id, listen_addr }
            });
        }
    }

    /// A handshake that somebody began.
    fn incoming(&self, knock: quinn::Incoming) -> Event {
        let listener_id = self.id;
        let (begun, seat) = Seat::offer(|| knock.accept());
        match begun {
            Ok(begun) => Event::Incoming {
                listener_id,
                local_addr: of_socket(Carrier::Quic, self.local),
                send_back_addr: of_socket(Carrier::Quic, begun.remote_address()),
                upgrade: shake_hands(begun, seat).boxed(),
            },
            Err(error) => Event::ListenerError { listener_id, error: error.into() },
        }
    }
}

impl futures::Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.pending.take() {
                return Poll::Ready(Some(event));
            }
            if self.is_closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_addresses(cx) {
                return Poll::Ready(Some(event));
            }
            match self.next.poll_unpin(cx) {
                Poll::Ready(Some(knock)) => {
                    self.next = accept(&self.endpoint);
                    return Poll::Ready(Some(self.incoming(knock)));
                }
                Poll::Ready(None) => self.close(),
                Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

fn accept(endpoint: &Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}
