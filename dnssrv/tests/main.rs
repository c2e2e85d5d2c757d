//! The redirector over sockets: bytes in, bytes out.
//!
//! - `protocol.rs`: what every authoritative server owes its clients (the DNS rows of bad inputs).
//! - `levels.rs`: resolvers of the network's own making follow the chain from a public name to a near, live proxy.

#[cfg(test)]
mod levels;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod support;
