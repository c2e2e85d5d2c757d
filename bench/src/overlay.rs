//! What the index costs on this machine: the simulator's events a second and bytes a node, messages to bytes and back, and RPCs of
//! the driver between two nodes over loopback, by TCP and by QUIC. An RPC is one lookup step: a question and its answer on a warm link.
//! At the end many drivers are held against the simulator (`swarms`).

use std::{
    io,
    time::{Duration, Instant},
};

use atoll_overlay::{
    Index as _, Key, Level, Levels, NodeId, NodeInfo, Roles,
    core::{
        Contact, Peer,
        message::{Body, Header, Message, Reply},
        wire::Book,
    },
    driver::{self, Config, Identity, Overlay},
    sim::{Matrix, Network, Sim},
};
use clap::{Args, ValueEnum};
use nix::sys::resource::{UsageWho, getrusage};

use crate::{process, report, rounds, swarms};

/// What is measured, and how large.
#[derive(Args)]
pub(crate) struct Options {
    /// Measure only this; may be given again
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Drivers that are held against the simulator
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=490))]
    swarms: u16,
}

/// The parts of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Sim,
    Wire,
    Rpc,
    Swarms,
}

/// All of it, or what `--only` names.
pub(crate) fn run(options: &Options) -> Result<report::Report, String> {
    let mut report = report::Report::new("overlay: the index over loopback");
    report.note(
        "medians of 5 interleaved rounds; CPU is of both ends together; a node of each pair is in this process"
            .to_owned(),
    );
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Sim) {
        simulator(&mut report)?;
    }
    if wanted(Part::Wire) {
        codec(&mut report)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        if wanted(Part::Rpc) {
            rpc(&mut report).await?;
        }
        if wanted(Part::Swarms) {
            swarms::measure(&mut report, usize::from(options.swarms)).await?;
        }
        Ok::<_, String>(())
    })?;
    Ok(report)
}

/// A warm network that looks after itself: what one more simulated node costs in memory, and how fast time passes.
fn simulator(report: &mut report::Report) -> Result<(), String> {
    let before = process::resident(std::process::id())?;
    let matrix = Matrix::planetlab();
    let sites = matrix.sites();
    let mut sim = Sim::new(atoll_overlay::Config::default(), Network::Matrix(matrix), 1);
    for node in 0..SIMULATED {
        sim.add(node % sites, Duration::from_micros(500));
    }
    sim.warm();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (started, events) = (Instant::now(), sim.events());
        sim.run_for(SIMULATED_TIME);
        let events = f64::from(u32::try_from(sim.events() - events).unwrap_or(u32::MAX));
        rates.push(events / started.elapsed().as_secs_f64());
    }
    let grown = process::resident(std::process::id())? - before;
    report.add(report::Row::new("sim_events", rounds::median(&mut rates), "/s"));
    report.add(report::Row::new("sim_bytes_per_node", grown / size(SIMULATED), "B"));
    Ok(())
}

/// An answer with eight nodes, the longest that lookups see, there and back.
fn codec(report: &mut report::Report) -> Result<(), String> {
    let nodes = (0..8).map(|number| Records.contact(number)).collect();
    let body = Body::Reply { id: 7, spent: Duration::from_micros(50), reply: Reply::Nodes(nodes) };
    let message = Message { header: Header::default().into(), body };
    let bytes = message.encode(&Records);
    let each = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        (0..CODED).for_each(|_| work());
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CODED)
    };
    let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        encoded.push(each(&mut || drop(std::hint::black_box(message.encode(&Records)))));
        decoded.push(each(&mut || drop(std::hint::black_box(Message::decode(&bytes, &mut Records)))));
    }
    report.add(report::Row::new("wire_bytes_of_8_nodes", size(bytes.len()), "B"));
    report.add(report::Row::new("wire_encode", rounds::median(&mut encoded), "ns"));
    report.add(report::Row::new("wire_decode", rounds::median(&mut decoded), "ns"));
    Ok(())
}

/// What is measured of one carrier in a round.
#[derive(Default)]
struct Figures {
    alone_us: Vec<f64>,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
}

async fn rpc(report: &mut report::Report) -> Result<(), String> {
    let pairs = [("tcp", pair("/ip4/127.0.0.1/tcp/0").await?), ("quic", pair("/ip4/127.0.0.1/udp/0/quic-v1").await?)];
    let mut figures: [Figures; 2] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, (asker, asked)), figures) in pairs.iter().zip(&mut figures) {
            let started = Instant::now();
            gets(asker, SINGLE, 1).await;
            figures.alone_us.push(started.elapsed().as_secs_f64() * 1e6 / size(SINGLE));
            let (started, cpu, before) = (Instant::now(), cpu_seconds()?, asked.counts().messages_received);
            gets(asker, BURST, AT_ONCE).await;
            let rpcs = asked.counts().messages_received.saturating_sub(before);
            let rpcs = f64::from(u32::try_from(rpcs).unwrap_or(u32::MAX));
            figures.per_second.push(rpcs / started.elapsed().as_secs_f64());
            figures.cpu_us.push((cpu_seconds()? - cpu) * 1e6 / rpcs);
        }
    }
    for ((carrier, (asker, asked)), mut figures) in pairs.into_iter().zip(figures) {
        let mut add = |what: &str, mut values: Vec<f64>, unit| {
            report.add(report::Row::new(&format!("rpc_{carrier}_{what}"), rounds::median(&mut values), unit));
        };
        add("alone", std::mem::take(&mut figures.alone_us), "us");
        add("rate", figures.per_second, "RPC/s");
        add("cpu", figures.cpu_us, "us");
        asker.stop().await;
        asked.stop().await;
    }
    Ok(())
}

/// Two nodes with a warm link.
async fn pair(listen: &str) -> Result<(Overlay, Overlay), String> {
    let asked = node(listen, Vec::new()).await?;
    let asker = node(listen, asked.listen_multiaddrs()).await?;
    let linked = |node: &Overlay| node.levels().first().is_some_and(|global| !global.neighbours.is_empty());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(linked(&asker) && linked(&asked)) {
        if Instant::now() > deadline {
            return Err(format!("two nodes on {listen} did not find each other"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gets(&asker, SINGLE, AT_ONCE).await;
    Ok((asker, asked))
}

async fn node(listen: &str, bootstrap: Vec<String>) -> Result<Overlay, String> {
    let config = Config {
        network: "bench".to_owned(),
        listen: vec![listen.to_owned()],
        bootstrap,
        // The bound is what one peer may ask in earnest; here one peer asks all it can.
        messages_per_peer: 1_000_000,
        link_queue: 4_096,
        ..Config::default()
    };
    let index = atoll_overlay::Config::default();
    let started = driver::start(config, index, &Identity::generate(), info(), None).await;
    started.map_err(|error| error.to_string())
}

/// So many gets of keys that nobody has, so many at a time, at level 0 only: each asks the one neighbour once.
async fn gets(asker: &Overlay, count: usize, at_once: usize) {
    let tasks = (0..at_once).map(|task| {
        let asker = asker.clone();
        tokio::spawn(async move {
            for number in (task..count).step_by(at_once) {
                // What it finds does not matter; a time-out shows in the rate.
                let _ = asker.get(Key::of(&number.to_be_bytes()), Levels::Only(Level::GLOBAL)).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        // A task ends by itself or with the process.
        let _ = task.await;
    }
}

/// This process's CPU time so far.
fn cpu_seconds() -> Result<f64, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| io::Error::from(error).to_string())?;
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0)).as_secs_f64()
            + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0)).as_secs_f64()
    };
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn size(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn info() -> NodeInfo {
    NodeInfo { http_ports: vec![80], ..NodeInfo::new(Key::ZERO.into(), Roles::PROXY) }
}

/// A book whose records are as long as real ones: peer id, serial and one address.
struct Records;

impl Records {
    fn contact(&self, number: u32) -> Contact {
        Contact { peer: Peer(number), id: NodeId::of("bench", 0, &number.to_be_bytes()) }
    }
}

impl Book for Records {
    fn record(&self, peer: Peer) -> Option<bytes::Bytes> {
        let mut record = [0; 64];
        record[..4].copy_from_slice(&peer.0.to_be_bytes());
        Some(bytes::Bytes::copy_from_slice(&record))
    }

    fn intern(&mut self, record: &[u8]) -> Option<Contact> {
        Some(self.contact(u32::from_be_bytes(*record.first_chunk()?)))
    }
}

/// Rounds of each figure.
const ROUNDS: usize = 5;

/// Nodes simulated, and the virtual time of a round.
const SIMULATED: usize = 10_000;
const SIMULATED_TIME: Duration = Duration::from_secs(20);

/// Messages coded a round.
const CODED: u32 = 20_000;

/// Gets one after the other a round.
const SINGLE: usize = 500;

/// Gets a round at full speed, and at a time.
const BURST: usize = 10_000;
const AT_ONCE: usize = 32;
