//! QUIC as libp2p speaks it: version 1, streams both ways and nothing else, certificates that name the peer [libp2p specs, quic and tls].
//!
//! ```text
//!   Transport --dial------> Endpoint, a UDP socket -----> Handshake --> (PeerId, Connection: StreamMuxer) --> Stream
//!             --listen_on-> Listener: an Endpoint and its addresses --^
//! ```
//!
//! It is on the wire what libp2p-quic is, and takes its place for two things that that crate keeps to itself: which cipher is
//! preferred, and how long a datagram may be. Both decide what a byte costs. Holes are not punched here.

mod transport;
pub(super) use transport::{Error, Transport};

mod listener;

mod connection;

mod runtime;

mod tls;

mod udp;

mod window;
pub(super) use window::Windows;

#[cfg(test)]
mod tests;
