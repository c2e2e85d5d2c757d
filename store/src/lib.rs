//! Objects under keys: in RAM while hot, in segment files that outlive any stop, deleted by tag at once.
//!
//! ```text
//!   Store::writer --> Writer: append, append, commit --> segment file ---+--> Store::get --> Object: read(range)
//!                        |                                               |
//!                        +--> Partial: read what is there already        +--> RAM tier before disk
//! ```
//!
//! The store knows bytes and keys, no HTTP. Read [`Store`] first, then [`Writer`].
