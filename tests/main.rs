//! The whole-node tests, one binary. In reading order: what they stand on, then what must hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed; helpers count as tests here")]
#![expect(clippy::print_stdout, reason = "what was skipped, and why, is said where the runner shows it")]

mod browser;
mod namespace;
mod support;

mod answers;
mod cache;
mod cli;
mod demo;
mod faults;
mod flash_crowd;
mod logs;
mod manager;
mod manager_inputs;
mod manager_page;
mod manager_shared;
mod manager_storm;
mod membership;
mod metrics;
mod objects;
mod peers_page;
mod purge;
mod redirect;
mod tidy;
mod trace;
mod warm;
