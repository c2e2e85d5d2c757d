//! Small clients with a clock, used inside hosts: one DNS question, one HTTP request. They measure; they judge nothing.

mod dns;
mod http;

pub use self::dns::{Answer, Recursion, ask, stub};
pub(crate) use self::dns::{STUB_ATTEMPTS, STUB_TIMEOUT};
pub use self::http::{Fetched, fetch};
pub(crate) use self::http::{connect_first, fetch_locally, fetch_over};
