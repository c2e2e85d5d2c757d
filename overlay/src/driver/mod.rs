//! The libp2p driver: sockets to messages and back, and the overlay's only clock. It carries what the core says and decides nothing.
//!
//! ```text
//!   Overlay (Index, Streams) --requests--> run: the loop <--events-- Swarm: Behaviour, one LinkHandler per connection
//!        |                                   |      |                      ^
//!        +--reads--> Shared: core::Node <----+      +--frames, wishes------+   (two bounded queues per connection)
//! ```
//!
//! Read [`fn@start`] first, then `run`.

mod start;
pub use start::{Saved, StartError, start};

mod config;
pub use config::{Admission, Config, ConfigError};

mod overlay;
pub use overlay::{Overlay, RevokeError};

mod run;

mod lanes;

mod homed;

mod batch;

mod roads;

mod join;

mod expulsion;

mod voice;

mod dialback;

mod silence;

mod behaviour;

mod handler;

mod auth;

mod budget;

mod renewal;

mod door;

mod gate;
pub use gate::MembershipError;

mod proof;

mod certificate;
pub use certificate::NodeCert;

mod book;

mod address;
pub use address::{AddressError, Carrier};

mod saved;

mod identity;
pub use identity::{Identity, IdentityError};

mod transport;

mod quic;

mod protocol;

mod frame;

mod stream;

mod clock;

mod counters;
pub use counters::Counts;

#[cfg(test)]
mod tests;
