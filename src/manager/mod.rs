//! Managers: they lead clients to machines that serve, by HTTP, where no zone can be delegated.
//!
//! There are two. `Redirector` is the role of a node for Coralized names. `atoll manager` stands before one backend and leads
//! each download to a machine that somebody lent with `atoll peer`; alone, it serves by itself.
//!
//! ```text
//!   peer --join (token proved)--> ledger        client --> desk --> choose --302--> peer
//!        --beat twice a second--> roster --live-->  ^         \--none live--> own proxy
//!        <--drain, checks, warm--    ^
//!                                 watch: dials back, samples bytes
//! ```
//!
//! Read `roster::Roster` first, then `choose`, then `desk`.

mod mirrors;
mod near;
mod redirector;
pub use redirector::{Manager, ManagerError};

pub(crate) mod token;
pub(crate) mod wire;

mod beside;
mod catalogue;
mod ledger;

mod choose;
mod distances;
mod eligible;
mod roster;

mod explain;
mod journal;
mod login;

mod control;
mod desk;
mod door;
mod metalink;
mod office;
mod page;
mod sample;
mod warm;
mod watch;

mod remote;
pub use remote::{drain, warm as warm_up};

pub(crate) mod membership;

mod run;
pub use run::run;

pub(crate) use desk::HEALTH;
