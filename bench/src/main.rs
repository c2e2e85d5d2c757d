//! What Atoll costs, side by side with the peers it is measured against: `cargo xtask bench WHAT`.
//!
//! ```text
//!   store | http | dns | ...  --contenders--> rounds: interleaved, pinned, medians --rows--> report: table, JSON, plot
//! ```
//!
//! One file or folder a bench. Read [`report::Report`] first, then [`process::Process`]. A peer that is not installed is named
//! in the notes and left out, never guessed.

mod cache;
mod dns;
mod http;
mod load;
mod manager;
mod network;
mod overlay;
mod process;
mod report;
mod rounds;
mod store;
mod swarms;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// As the programs that are measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = process::end_with_us() {
        report::print(&format!("bench: {error}"));
        return ExitCode::FAILURE;
    }
    let measured = match arguments.what {
        What::Anchor => anchor(),
        What::Store(options) => store::run(&options),
        What::StoreChild(task) => return ended(store::run_task(task)),
        What::Cache => cache::bench(),
        What::Manager(options) => manager::run(&options),
        What::Dns(options) => dns::run(&options),
        What::DnsServe(serve) => match dns::serve(&serve) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => Err(error),
        },
        What::Overlay(options) => overlay::run(&options),
        What::Http(options) => http::run(&options),
        What::HttpServe(serve) => match http::serve(&serve) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => Err(error),
        },
        What::Network(options) => network::run(&options),
        What::NetworkGiver(giver) => match network::give(&giver) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => Err(error),
        },
    };
    ended(measured.and_then(|report| report.deliver(&arguments.output)))
}

fn ended(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::print(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures Atoll and its peers in one run.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    output: Output,
}

/// Where results go besides the terminal.
#[derive(Args)]
struct Output {
    /// Also write the rows as a JSON list of {"name","value","unit","against":{PEER:VALUE}}
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Also write the rows as a Markdown table, a column a peer
    #[arg(long, value_name = "FILE", global = true)]
    table: Option<PathBuf>,
    /// Also draw the rows as an SVG bar chart
    #[arg(long, value_name = "FILE", global = true)]
    plot: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// How fast this machine is at two things everybody knows, to compare runs on different machines
    Anchor,
    /// The store's engine: RAM, disk, index, purge, restart and hit ratios, beside foyer and the bare device
    Store(store::Options),
    /// One measurement of `store`, in a process of its own
    #[command(subcommand, hide = true)]
    StoreChild(store::Task),
    /// `atoll cache` beside nginx: hits from RAM, and from a set larger than RAM
    Cache,
    /// A manager: redirects beside nginx, files it serves alone beside the proxy, and memory
    Manager(manager::Options),
    /// The redirector beside NSD, Knot and a bare loop
    Dns(dns::Options),
    #[command(hide = true)]
    DnsServe(dns::Serve),
    /// The proxy beside nginx, HAProxy, Varnish, Traffic Server and two bare servers: CPU per answer, a crowd on one cold file, kept connections
    Http(http::Options),
    #[command(hide = true)]
    HttpServe(http::Serve),
    /// The proxies as one: peer fetches, lookups beside bulk, a flash crowd, bad peers, copies in a cluster
    Network(network::Options),
    #[command(hide = true)]
    NetworkGiver(network::Giver),
    /// The index: messages to bytes and back, RPCs over loopback by TCP and QUIC, a hundred drivers beside the simulator
    Overlay(overlay::Options),
}

/// The machine itself: one core hashing with the standard hasher, and one round trip through a pipe to a child.
fn anchor() -> Result<report::Report, String> {
    use std::{hash::Hasher as _, time::Instant};

    let mut report = report::Report::new("anchor: this machine");
    let block = vec![7_u8; 1 << 20];
    let nanoseconds = rounds::median(&mut rounds::rounds(5, || {
        let started = Instant::now();
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&block);
        std::hint::black_box(hasher.finish());
        started.elapsed().as_secs_f64() * 1e9
    }));
    let mut copy = vec![0_u8; block.len()];
    let copied = rounds::median(&mut rounds::rounds(5, || {
        let started = Instant::now();
        copy.copy_from_slice(std::hint::black_box(&block));
        started.elapsed().as_secs_f64() * 1e9
    }));
    report.add(report::Row::new("siphash_1mib", nanoseconds / 1e3, "us").against("copy", copied / 1e3));
    let mut command = std::process::Command::new("sleep");
    let child = process::Process::spawn(command.arg("60"), &[0])?;
    report
        .note("medians of 5 rounds; ratios are ours to theirs, so less is better where the unit is a cost".to_owned());
    report.add(report::Row::new("idle_child_resident", child.resident()? / 1024.0, "KiB"));
    report.add(report::Row::new("idle_child_cpu", child.cpu_seconds()? * 1e3, "ms"));
    Ok(report)
}
