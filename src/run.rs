//! The commands that run until somebody ends them: a node, a cache, and the demo. What the operator's signals mean to
//! each stands here.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use atoll_store::Store;
use tokio::time::timeout;

use crate::{
    cache::Cache,
    cli::{CacheArgs, DemoArgs},
    config::Config,
    demo::{Demo, DemoError, Options, Report},
    log::Log,
    node::{Node, STOP_LIMIT},
    out::{complain, say},
    signals::Signals,
};

/// Runs a node until SIGTERM or SIGINT. The first one lets it leave well (warm close), a second one stops it now (cold close).
/// SIGUSR1 reopens the log, SIGHUP looks for a renewed certificate and reads the zone's plain records from the file again.
pub async fn node(config: Config, file: &Path, log: Log) -> ExitCode {
    raise_open_files();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    let mut signals = match Signals::new().and_then(Signals::with_reread) {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("signals cannot be received: {error}"));
            return ExitCode::FAILURE;
        }
    };
    for listening in node.status().listen {
        tracing::info!(service = listening.service, address = listening.address, "listening");
    }
    if let Some(path) = node.token_path() {
        tracing::info!(token = %path.display(), "the admin API's token is in this file");
    }
    tokio::select! {
        () = signals.end(|| reopen(&log), || reread(&node, file)) => {}
        () = node.drain_asked() => {}
    }
    tokio::select! {
        () = node.drain() => tracing::info!("left well"),
        () = signals.end(|| reopen(&log), || reread(&node, file)) => {
            tracing::warn!("stopped at once, downloads under way are cut");
        }
        () = node.stop_asked() => tracing::warn!("asked to stop at once, downloads under way are cut"),
    }
    if timeout(STOP_LIMIT, node.stop()).await.is_err() {
        tracing::warn!(limit = ?STOP_LIMIT, "some part did not stop in time");
    }
    ExitCode::SUCCESS
}

/// What the flags of `atoll cache` say in place of the file.
pub fn apply(args: &CacheArgs, config: &mut Config) -> Result<(), String> {
    if !args.listen.is_empty() {
        config.cache.listen.clone_from(&args.listen);
    }
    if let Some(directory) = &args.directory {
        config.store.directory = Some(directory.clone()).filter(|directory| !directory.as_os_str().is_empty());
    }
    config.store.capacity = args.capacity.unwrap_or(config.store.capacity);
    config.store.memory = args.memory.unwrap_or(config.store.memory);
    config.cache.admission = args.admission.unwrap_or(config.cache.admission);
    config.cache.access_log = args.access_log.clone().or_else(|| config.cache.access_log.take());
    config.log.file = args.error_log.clone().or_else(|| config.log.file.take());
    config.store.check().map_err(|error| error.to_string())
}

/// Runs a cache until SIGTERM or SIGINT. The first one lets requests under way finish (warm close), a second one cuts them off.
/// SIGUSR1 reopens both logs.
pub async fn cache(config: Config, log: Log) -> ExitCode {
    raise_open_files();
    let mut signals = match Signals::new().and_then(Signals::with_reread) {
        Ok(signals) => signals,
        Err(error) => {
            complain(format_args!("signals cannot be received: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let store = match Store::open(config.store).await {
        Ok(store) => store,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    let mut cache = match Cache::start(config.cache, store.clone()) {
        Ok(cache) => cache,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    for address in cache.addresses() {
        tracing::info!(service = "cache", %address, "listening");
    }
    let both = || {
        cache.reopen_log();
        reopen(&log);
    };
    signals.end(both, || {}).await;
    tokio::select! {
        finished = cache.drain() => tracing::info!(finished, "left well"),
        () = signals.end(|| reopen(&log), || {}) => tracing::warn!("stopped at once, requests under way are cut"),
    }
    if timeout(STOP_LIMIT, async {
        cache.stop().await;
        store.close().await
    })
    .await
    .is_err()
    {
        tracing::warn!(limit = ?STOP_LIMIT, "some part did not stop in time");
    }
    ExitCode::SUCCESS
}

/// Runs the demo: the tour, then, unless told to exit, the world stays up until Ctrl-C. The exit code says whether every claim
/// held.
pub async fn demo(args: &DemoArgs) -> ExitCode {
    raise_open_files();
    let quiet = args.json;
    let narrate = |text: &str| {
        if !quiet {
            say(text);
        }
    };
    let state = match scratch(args.state.clone()) {
        Ok(state) => state,
        Err(error) => {
            complain(format_args!("no folder for the demo's nodes: {error}; name one with --state DIRECTORY"));
            return ExitCode::FAILURE;
        }
    };
    let code = tokio::select! {
        outcome = show(args, &state, &narrate) => match outcome {
            Ok(report) if report.held() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                complain(error);
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
    };
    if args.state.is_none() {
        // What is left behind is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&state);
    }
    code
}

async fn show(args: &DemoArgs, state: &Path, narrate: &dyn Fn(&str)) -> Result<Report, DemoError> {
    let options = Options { origin: args.origin.clone(), state: state.to_owned() };
    let mut demo = Demo::start(&options, narrate).await?;
    let report = demo.tour(narrate).await?;
    narrate(&report.summary());
    if args.json {
        say(serde_json::to_string(&report).unwrap_or_default());
    }
    if !args.exit {
        narrate(&format!("\n{}\nCtrl-C ends the demo.", demo.hints()));
        std::future::pending::<()>().await;
    }
    // Whatever does not stop in time ends with the process.
    let _ = timeout(Duration::from_secs(5), demo.stop()).await;
    Ok(report)
}

/// Every connection is a file: the limit that the system would grant anyway is asked for.
fn raise_open_files() {
    match atoll_sys::limits::raise_open_files() {
        Ok(limit) => tracing::debug!(?limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// The folder given, or a new one of our own among the system's temporary files.
fn scratch(given: Option<PathBuf>) -> std::io::Result<PathBuf> {
    if let Some(folder) = given {
        std::fs::create_dir_all(&folder)?;
        return Ok(folder);
    }
    let folder = std::env::temp_dir().join(format!("atoll-demo-{}-{:08x}", std::process::id(), rand::random::<u32>()));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// What may change while a node runs is read again; what cannot be used changes nothing.
fn reread(node: &Node, file: &Path) {
    node.reread();
    match Config::load(file) {
        Ok(config) => node.reload_records(&config.dns),
        Err(error) => tracing::warn!(%error, "the configuration cannot be used, the zone's records stay as they are"),
    }
}

/// The log is opened anew, if it can be.
fn reopen(log: &Log) {
    if let Err(error) = log.reopen() {
        tracing::warn!(%error, "the log was not reopened");
    }
}
