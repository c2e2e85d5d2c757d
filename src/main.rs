//! The command: parse the line, do what it says, return the exit code: 0 done, 1 failed, 2 asked wrongly (a flag or the
//! configuration; nothing was started).

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use atoll::{
    admin::{self, ClientError},
    cli::{
        CacheArgs, CheckArgs, Cli, Command, DemoArgs, ExplainArgs, KeyArgs, NodeArgs, PurgeArgs, SimArgs, StatusArgs,
        StoreArgs, TraceArgs, UrlArgs, WarmArgs,
    },
    config::{Config, LogConfig, NodeConfig},
    key,
    log::Log,
    manager,
    out::{complain, say},
    peer, purging, run, sim_command, store_command, url_command,
};

/// A fill asks for and gives back some dozens of pieces, a few of them as large as the body, on one thread and another: the
/// system's allocator spends a fifth of a miss on that [measured].
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// So long what was freed is kept: a second, which the allocator takes by itself, has each burst of misses begin with fresh memory, up to
/// four faults a miss [measured].
const FREED_IS_KEPT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    atoll_sys::allocator::keep_freed(FREED_IS_KEPT);
    match Cli::from_command_line().command {
        Command::Url(args) => url(&args),
        Command::Node(args) => node(&args),
        Command::Cache(args) => cache(&args),
        Command::Demo(args) => demo(&args),
        Command::Manager(args) => with_runtime(manager::run(args)),
        Command::Peer(args) => with_runtime(peer::run(args)),
        Command::Warm(args) => warm(args),
        Command::Drain(args) => with_runtime(manager::drain(args)),
        Command::Check(args) => check(&args),
        Command::Status(args) => status(&args),
        Command::Key(args) => key(&args),
        Command::Store(args) => store(&args),
        Command::Explain(args) => explain(&args),
        Command::Purge(args) => purge(&args),
        Command::Sim(args) => sim(&args),
        Command::Trace(args) => trace(&args),
    }
}

/// `atoll node`
fn node(args: &NodeArgs) -> ExitCode {
    let mut config = match load(&args.config) {
        Ok(config) if config.node.roles.is_empty() => {
            complain("this node has no role; a file with [cache] alone is for `atoll cache`");
            return ExitCode::from(2);
        }
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
    with_runtime(run::node(config, &args.config, log))
}

/// `atoll cache`
fn cache(args: &CacheArgs) -> ExitCode {
    let loaded = match &args.config {
        Some(file) => load(file),
        None => Config::parse("[cache]", Path::new("(no file)")).map_err(|error| {
            complain(error);
            ExitCode::from(2)
        }),
    };
    let mut config = match loaded {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(error) = run::apply(args, &mut config) {
        complain(error);
        return ExitCode::from(2);
    }
    match Log::start(&config.log) {
        Ok(log) => with_runtime(run::cache(config, log)),
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
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
    ask_node(args.socket.as_deref(), args.config.as_deref(), async |socket| {
        let status = admin::fetch_status(&socket).await?;
        Ok(if args.json { serde_json::to_string(&status).unwrap_or_default() } else { status.to_string() })
    })
}

/// `atoll explain NAME --from PREFIX`
fn explain(args: &ExplainArgs) -> ExitCode {
    ask_node(args.socket.as_deref(), args.config.as_deref(), async |socket| {
        atoll::explain::explain(&socket, &args.name, args.from).await
    })
}

/// `atoll purge`
fn purge(args: &PurgeArgs) -> ExitCode {
    let mut done = true;
    let asked = ask_node(args.socket.as_deref(), args.config.as_deref(), async |socket| {
        let outcome = purging::purge(&socket, args).await?;
        done = outcome.done;
        Ok(outcome.told)
    });
    if done { asked } else { ExitCode::FAILURE }
}

/// `atoll warm`
fn warm(args: WarmArgs) -> ExitCode {
    if args.manager.is_some() {
        return with_runtime(manager::warm_up(args));
    }
    match socket_of(args.socket.as_deref(), args.config.as_deref()) {
        Ok(socket) => with_runtime(atoll::warm::run(socket, args)),
        Err(code) => code,
    }
}

/// `atoll trace URL`
fn trace(args: &TraceArgs) -> ExitCode {
    ask_node(args.socket.as_deref(), args.config.as_deref(), async |socket| atoll::trace::trace(&socket, args).await)
}

/// Asks the node behind a socket, or the one that a configuration names, and prints what it says.
fn ask_node(
    socket: Option<&Path>,
    config: Option<&Path>,
    ask: impl AsyncFnOnce(PathBuf) -> Result<String, ClientError>,
) -> ExitCode {
    let socket = match socket_of(socket, config) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(ask(socket)) {
        Ok(text) => say(text),
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The socket given, or the one that a configuration names, or the usual one.
fn socket_of(socket: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, ExitCode> {
    let socket = match (socket, config) {
        (Some(socket), _) => Some(socket.to_owned()),
        (None, Some(file)) => load(file)?.admin_socket(),
        (None, None) => Some(default_socket()),
    };
    socket.ok_or_else(|| {
        complain("this configuration switches the admin socket off (socket = \"\" in [admin])");
        ExitCode::FAILURE
    })
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

/// `atoll key`
fn key(args: &KeyArgs) -> ExitCode {
    match key::run(args) {
        Ok(told) => {
            say(told);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// `atoll store`
fn store(args: &StoreArgs) -> ExitCode {
    with_runtime(async {
        match store_command::run(&args.action).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                if error.asked_wrongly() { ExitCode::from(2) } else { ExitCode::FAILURE }
            }
        }
    })
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
