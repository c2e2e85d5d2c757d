//! Real nodes on loopback.
