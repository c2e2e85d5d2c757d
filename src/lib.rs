//! Atoll: a CDN that an organisation's or a community's own machines form. A [`config::Config`] goes in, a running node comes
//! out; the parts it is made of live in the crates beside this one and know nothing of it.
//!
//! ```text
//!   atoll.toml --config--> Config --node--> store, overlay, proxy, dnssrv, manager
//!                                     |
//!                                     +---> state (one directory), log, admin (socket, /metrics, dashboard) <-- status
//! ```
//!
//! Read [`config::Config`] first, then [`node::Node`], then [`status::Status`], which is all that an operator is told.

pub mod cli;

pub mod node;
pub use node::Node;

pub mod config;

pub mod state;

pub mod status;
pub mod trace;
pub mod warm;
pub use status::{Status, StatusSource};

pub mod admin;

mod front;

pub mod manager;

pub mod cache;
pub mod explain;
pub mod peer;
pub mod store_command;

mod percent;
pub mod purging;

pub mod url_command;

pub mod key;
pub mod sim_command;

pub mod log;

mod accept;
mod signals;

pub mod port_holder;

pub mod out;

pub mod demo;

pub mod run;
