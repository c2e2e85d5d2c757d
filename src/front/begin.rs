//! How `atoll manager` and `atoll peer` begin: the command line understood, the log, the limit of open files, and then the program
//! itself, whose outcome is the exit code.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use atoll_units::span;
use tokio::net::TcpListener;

use super::listen::Front;
use crate::{
    config::LogConfig,
    log::Log,
    out::complain,
    port_holder::{Protocol, bind_error},
};

/// Runs `start` with what was asked for. What was asked wrongly ends with code 2, as every wrong command line does.
pub(crate) async fn begin<A>(
    asked: Result<A, String>,
    start: impl AsyncFnOnce(A) -> Result<ExitCode, Failed>,
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

/// Why one of them did not start, in words.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same of an error.
pub(crate) fn failed(error: impl Display) -> Failed {
    Failed(error.to_string())
}

/// A time of the command line.
pub(crate) fn time(name: &str, text: &str) -> Result<Duration, String> {
    span::parse(text).ok_or_else(|| format!("--{name} {text:?} is no time such as 30s, 10m or 7d"))
}

/// A listener of the command line.
pub(crate) fn listen(who: &str, address: SocketAddr) -> Result<TcpListener, Failed> {
    let bound = Front::bind(address);
    bound.map_err(|error| Failed(format!("the {who} cannot listen: {}", bind_error(&error, address, Protocol::Tcp))))
}

/// What is logged: the program's own words; of the node inside, what went wrong.
const LEVEL: &str = "info,atoll_overlay=warn,atoll_proxy=warn,libp2p=warn";
