//! The redirector over sockets: bytes in, bytes out.
//!
//! - `protocol.rs`: what every authoritative server owes its clients (the DNS rows of bad inputs).
//! - `conformance.rs`: what checkers of delegations and of EDNS ask.
//! - `abuse.rs`: forged sources, floods and clients that never finish.
//! - `levels.rs`: resolvers of the network's own making follow the chain from a public name to a near, live proxy.
//! - `sources.rs`: what else places those who ask.
//! - `differential.rs`: one zone of plain records on this server and on NSD, Knot and BIND (`real.rs`), answer by answer.
//! - `dnssec.rs`: what a signed zone says, believed by real validators.
//! - `encrypted.rs`: the same answers over TLS and HTTPS.

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod dnssec;
#[cfg(test)]
mod encrypted;
#[cfg(test)]
mod levels;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod real;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod support;
