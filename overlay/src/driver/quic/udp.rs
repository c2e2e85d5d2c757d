//! quinn's UDP socket, but for the memory that is held ready for it to read into: quinn would take room for 64 datagrams of the
//! greatest length, 32 times; the system gives 64 KiB at a time at most, however many datagrams these are.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::transport::DATAGRAM;

/// A socket that this runtime watches.
#[derive(Debug)]
pub(super) struct Udp(Arc<dyn AsyncUdpSocket>);

impl Udp {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(TokioRuntime.wrap_udp_socket(socket)?)))
    }
}

impl AsyncUdpSocket for Udp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        came: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, buffers, came)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments().min(READ.div_ceil(usize::from(DATAGRAM)))
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

/// Bytes that one read brings at most.
const READ: usize = u16::MAX as usize;
