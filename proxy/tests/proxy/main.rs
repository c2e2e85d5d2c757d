//! The proxy from outside: real sockets on loopback, origins that do as told, networks of a few nodes in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail a test by panicking")]

mod counted;
mod crowds;
mod hot;
mod invalid;
mod lost;
mod net;
mod parts;
mod posted;
mod reuse;
mod script;
mod sites;
mod slices;
mod slow;
mod support;
mod swarm;
mod told;
mod trace;
mod variants;

mod cache;
mod clauses;
mod differ;
mod fair;
mod faults;
mod floods;
mod fresh;
mod heads;
mod laws;
mod leases;
mod lies;
mod logged;
mod network;
mod origin;
mod purge;
mod races;
mod refused;
mod rows;
mod two;
mod unkept;
mod vouched;
