//! How `atoll manager` and `atoll peer` begin: the command line understood, the log, the limit of open files, and then the program
//! itself, whose outcome is the exit code.

use std::{fmt::Display, process::ExitCode};

use crate::{config::LogConfig, log::Log, out::complain};

/// Runs `start` with what was asked for. What was asked wrongly ends with code 2, as every wrong command line does.
pub(crate) async fn begin<A, E: Display>(
    asked: Result<A, String>,
    start: impl AsyncFnOnce(A) -> Result<ExitCode, E>,
) -> ExitCode {
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => {
            complain(error);
            return ExitCode::from(2);
        }
    };
    if let Err(error) = Log::start(&LogConfig { level: LEVEL.to_owned(), file: None }) {
        complain(error);
        return ExitCode::FAILURE;
    }
    // Every connection is a file; what the system refuses, it refuses.
    let _ = atoll_sys::limits::raise_open_files();
    match start(asked).await {
        Ok(code) => code,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// What is logged: the program's own words; of the node inside, what went wrong.
const LEVEL: &str = "info,atoll_overlay=warn,atoll_proxy=warn,libp2p=warn";
