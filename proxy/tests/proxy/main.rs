//! The proxy from outside: real sockets on loopback, origins that do as told, networks of a few nodes in memory.

mod support;

mod cache;
mod heads;
mod network;
mod origin;
