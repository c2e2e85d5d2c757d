//! The whole-node tests, one binary.

mod cli;
