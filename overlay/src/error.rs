//! What can go wrong in the index, grouped by who must act.

use std::time::Duration;

use crate::NodeId;

/// Why an operation on the index gave no answer. A key nobody holds is no error: see [`crate::Found`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The caller asked wrongly: the value is longer than an index value may be.
    #[error("the value has {length} bytes, an index value at most {limit}")]
    ValueTooLong {
        /// Bytes of the refused value.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The network did not answer in time; the caller goes on without it.
    #[error("no answer from the index within {0:?}")]
    Timeout(Duration),
    /// A cap of the node that should store was reached; nothing was stored anywhere.
    #[error("no node accepted the value: {0}")]
    Refused(String),
    /// This node has stopped; its index takes no more commands.
    #[error("the index has stopped")]
    Stopped,
}

/// Why no byte stream to a peer could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// No address is known for this node; look the key up again.
    #[error("no address is known for node {0}")]
    Unknown(NodeId),
    /// The node is known and could not be reached, or refused the stream.
    #[error("node {0} could not be reached: {1}")]
    Unreachable(NodeId, String),
    /// This node keeps no streams: it runs without peers, or has stopped.
    #[error("this node has no peers")]
    NoPeers,
}
