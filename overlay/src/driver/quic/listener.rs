//! One address that is listened on, and where others reach it: if it is none of this machine's in particular, all of that family,
//! as they come and go.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use futures::{FutureExt as _, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::core::transport::{ListenerId, TransportEvent};
use quinn::Endpoint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Error,
    connection::{Handshake, shake_hands},
    runtime::Seat,
    window::Growth,
};
use crate::driver::address::{Carrier, of_socket};

/// What a listener has to say.
pub(super) type Event = TransportEvent<Handshake, Error>;

/// An endpoint that takes connections.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) endpoint: Endpoint,
    pub(super) local: SocketAddr,
    unproven: Unproven,
    growth: Growth,
    /// Says which addresses it is reached at; none if there is just one.
    watcher: Option<IfWatcher>,
    next: BoxFuture<'static, Option<quinn::Incoming>>,
    /// Said before anything else.
    pending: Option<Event>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        endpoint: Endpoint,
        local: SocketAddr,
        unproven: Unproven,
        growth: Growth,
    ) -> io::Result<Self> {
        let (mut pending, mut watcher) = (None, None);
        if local.ip().is_unspecified() {
            watcher = Some(IfWatcher::new()?);
        } else {
            pending = Some(Event::NewAddress { listener_id: id, listen_addr: of_socket(Carrier::Quic, local) });
        }
        let next = accept(&endpoint);
        Ok(Self { id, endpoint, local, unproven, growth, watcher, next, pending, is_closed: false, waker: None })
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

    /// Whether it is of every address of its family.
    pub(super) const fn is_wild(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// Whether a dial to that address may leave from here: the system lets none leave loopback, and none from elsewhere is answered there.
    pub(super) const fn leads_to(&self, to: IpAddr) -> bool {
        let from = self.local.ip();
        let reaches = self.is_wild() || from.is_loopback() == to.is_loopback();
        !self.is_closed && from.is_ipv4() == to.is_ipv4() && reaches
    }

    /// The next address that came or went.
    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Self { id: listener_id, local, watcher: Some(watcher), .. } = self else { return Poll::Pending };
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
                Event::NewAddress { listener_id, listen_addr }
            } else {
                Event::AddressExpired { listener_id, listen_addr }
            });
        }
    }

    /// A handshake that somebody began. It costs little before it is polled: whoever finds it one too many drops it, which refuses it.
    /// None if the address is to prove itself first.
    fn incoming(&self, knock: quinn::Incoming) -> Option<Event> {
        let mut place = None;
        if !knock.remote_address_validated() {
            place = self.unproven.place();
            if place.is_none() {
                drop(knock.retry());
                return None;
            }
        }
        let growth = self.growth.clone();
        Some(Event::Incoming {
            listener_id: self.id,
            local_addr: of_socket(Carrier::Quic, self.local),
            send_back_addr: of_socket(Carrier::Quic, knock.remote_address()),
            upgrade: async move {
                let _place = place;
                let (begun, seat) = Seat::offer(|| knock.accept());
                shake_hands(begun?, seat, growth).await
            }
            .boxed(),
        })
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
                    let Some(event) = self.incoming(knock) else {
                        // Others get their turn between.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    };
                    return Poll::Ready(Some(event));
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

/// The handshakes under way from addresses that have answered nothing yet, and may be made up: past a bound, an address must send back a
/// token [RFC 9000 8.1.2] before its handshake takes a place.
#[derive(Debug, Clone)]
pub(super) struct Unproven(Arc<Semaphore>);

impl Unproven {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// A place for one more, if there is one, until it is dropped.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}
