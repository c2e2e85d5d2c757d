//! A manager with nobody to lead to, beside the proxy's own listener: files out of RAM, requests per CPU-second of the server. The
//! manager writes a line of its log for each; so does the second of the two proxies.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use super::{free_port, wait_for};
use crate::{
    cache::atoll,
    load::{Load, Outcome, Target},
    process::{self, Process},
    report::{Report, Row},
    rounds::median,
};

/// Adds its rows.
pub(super) fn rows(report: &mut Report, folder: &Path) -> Result<(), String> {
    // What is started inherits the cores of who starts it.
    process::pin(0, &[1])?;
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    let backend = free_port()?;
    let _backend = started(command.args(["http-serve", "origin", &backend.to_string()]), 1, backend)?;
    let servers = [manager(folder, backend)?, proxy(folder, backend, false)?, proxy(folder, backend, true)?];
    for (name, length, requests) in SIZES {
        let targets: Vec<Target> =
            (0..FILES).map(|number| Target { path: format!("/{length}/{number}"), length }).collect();
        let ask = |address: SocketAddr, requests, seed| {
            let connections = CONNECTIONS;
            let load = Load {
                address,
                host: "bench.test",
                connections,
                requests,
                targets: &targets,
                zipf: 0.0,
                seed,
                core: 1,
            };
            let outcome = load.run().and_then(Outcome::all_right);
            outcome.map(|outcome| outcome.requests).map_err(|error| format!("{address}: {error}"))
        };
        for (_, address) in &servers {
            ask(*address, 4 * FILES, 1)?;
        }
        let mut figures = [const { Vec::new() }; 3];
        for round in 0..ROUNDS {
            for ((server, address), figures) in servers.iter().zip(&mut figures) {
                let before = server.cpu_seconds()?;
                #[expect(clippy::cast_precision_loss, reason = "some thousands")]
                let done = ask(*address, requests, round + 2)? as f64;
                figures.push(done / (server.cpu_seconds()? - before));
            }
        }
        let [alone, proxy, logging] = figures.each_mut().map(|figures| median(figures));
        report.add(Row::new(name, alone, "/cpu-s").against("proxy", proxy).against("proxy_with_log", logging));
    }
    Ok(())
}

fn manager(folder: &Path, backend: SocketAddr) -> Result<(Process, SocketAddr), String> {
    let address = free_port()?;
    let mut command = Command::new(atoll()?);
    command.args(["manager", "--origin", &format!("http://{backend}"), "--listen", &address.to_string(), "--state"]);
    Ok((started(command.arg(folder.join("alone")), 0, address)?, address))
}

fn proxy(folder: &Path, backend: SocketAddr, log: bool) -> Result<(Process, SocketAddr), String> {
    let address = free_port()?;
    let place = folder.join(if log { "logging" } else { "proxy" });
    fs::create_dir(&place).map_err(|error| error.to_string())?;
    let (shown, config) = (place.display(), place.join("atoll.toml"));
    let access = if log { format!("[proxy.access_log]\nfile = \"{shown}/access\"\n") } else { String::new() };
    let text = format!(
        "[node]\nroles = [\"proxy\"]\nstate = \"{shown}/state\"\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         [log]\nfile = \"{shown}/log\"\n[proxy]\nlisten = [\"{address}\"]\n[proxy.sites.\"*\"]\norigin = \"http://{backend}\"\n{access}"
    );
    fs::write(&config, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(atoll()?);
    Ok((started(command.arg("node").arg("--config").arg(config), 0, address)?, address))
}

/// Starts a server on a core and waits until it accepts.
fn started(command: &mut Command, core: usize, address: SocketAddr) -> Result<Process, String> {
    process::pin(0, &[core])?;
    let started = Process::spawn(command, &[core]);
    process::pin(0, &[1])?;
    let process = started?;
    wait_for(address)?;
    Ok(process)
}

/// A row, the size of its files, and how many are asked for in a round.
const SIZES: [(&str, u64, u64); 2] = [("alone_1k", 1 << 10, 100_000), ("alone_4m", 4 << 20, 500)];

/// Files of each size.
const FILES: u64 = 8;

const CONNECTIONS: usize = 64;
const ROUNDS: u64 = 5;
