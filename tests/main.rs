//! The whole-node tests, one binary. In reading order: what they stand on, then what must hold.

mod namespace;
mod support;

mod cli;
mod demo;
mod flash_crowd;
mod manager;
mod redirect;
mod tidy;
