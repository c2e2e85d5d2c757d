//! `atoll-lab`, which `cargo xtask lab` runs: hands the command line to the library and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    atoll_lab::command::main()
}
