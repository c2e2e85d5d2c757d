//! The index: which node holds a copy of what, who may ask the origin, and which nodes are near.
//!
//! It is Coral's distributed sloppy hash table over three levels of clusters, with one addition, [`Index::acquire`], which
//! makes "find a copy or become its fetcher" one step. It holds pointers of at most 256 bytes and knows no objects.
//!
//! ```text
//!   proxy, dnssrv, node                     other nodes
//!        |  Index, Streams                       ^
//!        v                                       | messages, byte streams
//!   +---------+   commands    +--------+   sends  |
//!   | driver/ |-------------->| core/  |----------+   driver/ carries them over libp2p (feature `libp2p`),
//!   |  sim/   |<--------------|        |              sim/ in virtual time from a seed (feature `sim`)
//!   +---------+   outcomes    +--------+
//! ```
//!
//! Read [`Index`] first: it is all that the rest of the project knows. Then [`core::Node`], the state machine behind it.

mod error;
pub use error::{IndexError, StreamError};

mod index;
pub use index::{
    Acquire, Acquired, Beat, Found, Index, Lease, LevelInfo, Levels, Marker, NodesQuery, Put, Spread, Stored, Value,
};

mod alone;
pub use alone::Alone;

mod told;
pub use told::{Question, Teller};

mod streams;
pub use streams::{ByteStream, Duplex, Streams};

mod node_info;
pub use node_info::{Certificate, NodeInfo, Prefix, Roles};

mod config;
pub use config::{Config, Mode};

pub mod core;
pub use core::id::{Key, Level, NodeId};

pub mod membership;

#[cfg(feature = "libp2p")]
pub mod driver;

#[cfg(feature = "sim")]
pub mod sim;
