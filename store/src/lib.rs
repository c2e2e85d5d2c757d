//! Objects under keys: in RAM while hot, in segment files that outlive any stop, deleted by tag at once.
//!
//! ```text
//!   Store::writer --> Writer: append, append, commit --> segment file ---+--> Store::get --> Object: read(range)
//!                        |                                               |
//!                        +--> Partial: read what is there already        +--> RAM tier before disk
//! ```
//!
//! The store knows bytes and keys, no HTTP. Read [`Store`] first, then [`Writer`].

mod store;
pub use store::Store;

mod key;
pub use key::{Head, Key, PurgeNumber, Tags};

mod writer;
pub use writer::{Keep, Partial, Writer};
mod behind;
mod budget;
mod fill;
mod group;

mod object;
pub use object::{Object, Tier};

mod purge;
pub use purge::{Filter, PurgeKind, PurgeProgress, Selector};
mod purge_frame;
mod purge_log;
mod sweep;

mod scan;
pub use scan::{Batch, Damage, Depth, Scan};
mod walk;

mod reads;
mod tiers;

mod admission;
mod memory;
mod mix;
mod rooms;
mod table;

mod append;
mod chores;
mod dead;
mod disks;
mod engine;
mod evict;
mod footer;
mod index;
mod load;
mod record;
mod recover;
mod segment;
mod torn;

mod config;
pub use atoll_units::ByteSize;
pub use config::{Config, Eviction};

mod stats;
pub use stats::{DiskState, Stats};

mod error;
pub use error::{OpenError, ReadError, StoreError};

mod disk;
mod pool;

#[cfg(test)]
mod behind_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod double;
#[cfg(test)]
mod hollow;
#[cfg(test)]
mod large_tests;
