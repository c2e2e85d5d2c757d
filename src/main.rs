//! The command: parse the line, do what it says, return the exit code: 0 done, 1 failed, 2 asked wrongly (a flag or the
//! configuration; nothing was started).

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use atoll::{
    admin,
    cli::{CheckArgs, Cli, Command, DemoArgs, NodeArgs, SimArgs, StatusArgs, UrlArgs},
    config::{Config, LogConfig, NodeConfig},
    log::Log,
    out::{complain, say},
    run, sim_command, url_command,
};

fn main() -> ExitCode {
    match Cli::from_command_line().command {
        Command::Url(args) => url(&args),
        Command::Node(args) => node(&args),
        Command::Demo(args) => demo(&args),
        Command::Check(args) => check(&args),
        Command::Status(args) => status(&args),
        Command::Sim(args) => sim(&args),
    }
}

/// `atoll node`
fn node(args: &NodeArgs) -> ExitCode {
    let mut config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(error) = config.add_bootstrap(&args.bootstrap) {
        complain(error);
        return ExitCode::from(2);
    }
    let log = match Log::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    with_runtime(run::node(config, log))
}

/// `atoll demo`
fn demo(args: &DemoArgs) -> ExitCode {
    let log = LogConfig { level: "error".to_owned(), ..LogConfig::default() };
    if let Err(error) = Log::start(&log) {
        complain(error);
        return ExitCode::FAILURE;
    }
    with_runtime(run::demo(args))
}

/// Runs a long command on all cores.
fn with_runtime(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// `atoll check FILE`
fn check(args: &CheckArgs) -> ExitCode {
    match load(&args.file) {
        Ok(config) => {
            say(format_args!("OK {}\n{}", args.file.display(), config.summary()));
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

/// `atoll status`
fn status(args: &StatusArgs) -> ExitCode {
    let socket = match (&args.socket, &args.config) {
        (Some(socket), _) => Some(socket.clone()),
        (None, Some(file)) => match load(file) {
            Ok(config) => config.admin_socket(),
            Err(code) => return code,
        },
        (None, None) => Some(default_socket()),
    };
    let Some(socket) = socket else {
        complain("this configuration switches the admin socket off (socket = \"\" in [admin])");
        return ExitCode::FAILURE;
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(admin::fetch_status(&socket)) {
        Ok(status) if args.json => say(serde_json::to_string(&status).unwrap_or_default()),
        Ok(status) => say(status),
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// `atoll sim SCENARIO`
fn sim(args: &SimArgs) -> ExitCode {
    match sim_command::run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

/// `atoll url URL`
fn url(args: &UrlArgs) -> ExitCode {
    match url_command::forms(&args.url, &args.zone) {
        Ok(forms) => {
            say(forms);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::from(2)
        }
    }
}

/// The configuration, or its mistakes told and exit code 2.
fn load(file: &Path) -> Result<Config, ExitCode> {
    Config::load(file).map_err(|error| {
        complain(error);
        ExitCode::from(2)
    })
}

fn default_socket() -> PathBuf {
    NodeConfig::default().state.join("admin.sock")
}
