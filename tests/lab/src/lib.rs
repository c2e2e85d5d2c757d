//! The lab: a small internet on one machine, on which Atoll's claims about distance are tested with real software.
//!
//! A scenario file names hosts and places; each host becomes a network namespace with one device, a router in user space holds
//! every packet back by the measured distance of its pair, and real servers run in the hosts. See docs/lab.md.
//!
//! ```text
//!  scenario.toml -> Scenario -> Lab: namespaces, Router, programs <- control socket <- `lab cut`, `lab kill`, ...
//!                                      |
//!                                   checks: what each scenario must show -> figures, a table
//! ```
//!
//! Read [`Scenario`] and [`Lab`] first.

mod address;
mod checks;
mod config;
mod control;
mod draw;
mod error;
mod escape;
mod exec;
mod family;
mod lab;
mod matrix;
pub mod measure;
mod netns;
mod programs;
mod router;
mod scenario;
mod state;
mod status;
mod sys;
mod units;
mod userns;
mod zones;

pub mod command;

pub use address::HostId;
pub use config::Config;
pub use control::{Reply, Request, Server};
pub use draw::draw;
pub use error::Error;
pub use lab::{Lab, Stop};
pub use matrix::Matrix;
pub use programs::origin_content;
pub use router::{Change, Counters, Report, Router, Weather};
pub use scenario::{Authority, DnsMode, Host, OriginFile, Recursor, Role, Scale, Scenario};
pub use status::{HostStatus, Status};
pub use units::{Rate, Size};
