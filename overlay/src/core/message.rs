//! What nodes say to each other, byte by byte; refuses the oversized and the malformed.

/// One message between two nodes.
#[derive(Debug, Clone)]
pub enum Message {}
