//! For the operator: health, metrics, status, explain, drain, and the dashboard, over a Unix socket and, if configured, TCP.
//!
//! ```text
//!   Unix socket  -- same user or root -------------------+
//!   TCP -- Host, Origin -- token (but for the page `/`) -+--> routes --> StatusSource (the node), metrics
//! ```
//!
//! Who may ask is decided in `gate`, what is answered in `routes`; `server` only carries bytes. Nothing here knows the
//! overlay, the proxy or the store: what it asks of them are `StatusSource` and `Purger`.

mod config;
pub use config::AdminConfig;

mod server;
pub use server::{Admin, AdminError};

mod gate;
mod routes;

mod token;

mod metrics;
pub use metrics::start as start_counting;

mod client;
pub use client::{ClientError, ask_drain, ask_stop, fetch_lines, fetch_slowly, fetch_status, post};

#[cfg(test)]
mod tests;
