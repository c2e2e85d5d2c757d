//! The simulator: many nodes of the same core in virtual time, one event queue, one seed, one thread. The same seed, network and
//! commands give the same trace hash; time-outs, losses and deaths cost no real time.
//!
//! ```text
//!   commands, kills, delays --> Sim --run_until--> outcomes, counters, trace hash
//!                               | ^
//!                        inputs v | outputs
//!                              Node, Node, Node, ...
//!
//!   Setup (nodes, matrix, seed, mode) --> Scenario::run --> Report (metrics, bounds, figures)
//! ```
//!
//! Read [`Sim`], then [`Network`] and [`Faults`]; [`Scenario`] for the papers' experiments and ours.

mod counters;
pub use counters::Counters;

mod link;
pub use link::{Carrier, Faults, Network};

mod matrix;
pub use matrix::{Matrix, MatrixError};

mod queue;

mod world;
pub use world::{Death, Sim};

mod ahead;
mod book;
mod invariants;
mod liar;
mod views;
mod warm;

mod scenario;
pub use scenario::{Bound, Figure, Metric, Progress, Report, Scenario, Series, Setup};
