//! [`Streams`], the other seam: byte streams between nodes, over which proxies talk HTTP to each other.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{NodeId, StreamError};

/// Opens and accepts byte streams to and from peers of the network. Both ends are authenticated.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Opens a stream to a peer: one that the index named lately, or a neighbour.
    async fn open(&self, to: NodeId) -> Result<ByteStream, StreamError>;

    /// Waits for the next stream that a peer opened to this node. Fails once the node stops.
    async fn accept(&self) -> Result<(NodeId, ByteStream), StreamError>;
}

/// A stream of bytes both ways.
pub type ByteStream = Box<dyn Duplex>;

/// What a [`ByteStream`] can do. Implemented for everything that can.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
