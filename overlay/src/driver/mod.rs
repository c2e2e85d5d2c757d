//! (see the core)
