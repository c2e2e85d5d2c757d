//! `atoll peer`: this machine lent to a manager. It joins with a token, serves the manager's backend out of the network's copies,
//! and says twice a second how it is.
//!
//! ```text
//!   run --join--> Welcome --> node (private network) --+--> desk: clients
//!    |                                                  |
//!    +--beat loop--> manager --Orders: checks, warms, drain
//! ```
//!
//! When the manager is gone it goes on serving, and joins again when the manager is back. Read `lender::Lender` first.

mod beat;
mod errands;
mod join;
mod kept;
mod lender;

mod run;
pub use run::run;
