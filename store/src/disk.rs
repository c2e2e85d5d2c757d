//! The only file that touches the world: the clock, and the few file calls the store uses.

use std::time::SystemTime;

/// The time.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
