//! What makes a peer one that clients are led to.
