//! [`Streams`], the other seam: byte streams between nodes, over which proxies talk HTTP to each other.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{NodeId, StreamError};

/// Opens and accepts byte streams to and from peers of the network. Both ends are authenticated.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Opens a stream to a peer: one that the index named lately, or a neighbour.
    async fn open(&self, to: NodeId) -> Result<ByteStream, StreamError>;

    /// The same for many bytes: where messages with the peer would have to wait behind them, it waits a few round trips for a
    /// connection that carries none.
    async fn open_bulk(&self, to: NodeId) -> Result<ByteStream, StreamError> {
        self.open(to).await
    }

    /// Waits for the next stream that a peer opened to this node. Fails once the node stops.
    async fn accept(&self) -> Result<(NodeId, ByteStream), StreamError>;

    /// The round trip to a node, where it was measured. Never blocks.
    fn distance(&self, to: NodeId) -> Option<Duration> {
        let _ = to;
        None
    }

    /// A proof that this node makes a statement, for those who get it second hand. At most 512 bytes. `None`: this node has no key
    /// to sign with.
    fn sign(&self, statement: &[u8]) -> Option<Bytes> {
        let _ = statement;
        None
    }

    /// The member that a proof shows to have made this statement; `None` if it shows no such thing.
    fn signer(&self, statement: &[u8], proof: &[u8]) -> Option<NodeId> {
        let _ = (statement, proof);
        None
    }
}

/// A stream of bytes both ways.
pub type ByteStream = Box<dyn Duplex>;

/// What a [`ByteStream`] can do. Implemented for everything that can.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
