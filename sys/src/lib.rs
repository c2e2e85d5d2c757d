//! The few calls to the system that need `unsafe` or exist on some systems only, each safe, each with a portable fallback.
//!
//! ```text
//!   store --> file: preallocate, lock, read_at, write_at        dnssrv, proxy --> tcp: round_trip
//!                                                             dnssrv        --> datagrams: Batch
//!   overlay --> turns: set_slice, be_nicer
//!   src   --> limits: raise_open_files, open_files            tests         --> heap: Counted, used
//!   src   --> memory: join_pages, allocator: keep_freed
//! ```
//!
//! A caller never asks which system it is on: what a system cannot tell is `None`. Read [`mod@file`] first.

pub mod allocator;
pub mod datagrams;
pub mod file;
pub mod heap;
pub mod limits;
pub mod memory;
pub mod tcp;
pub mod turns;
