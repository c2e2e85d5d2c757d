//! Many at once: a crowd that asks for one large file that nobody has yet, and clients that have asked and stay.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{
    Options,
    servers::{Contender, Folder, Kind},
};
use crate::{
    load::discard,
    process::Process,
    report::{Report, Row},
    rounds::median,
};

/// A cold file, many clients: what the origin is asked, what memory it takes, and how long after the first of them the last one
/// gets its first byte.
pub(super) fn flight(
    report: &mut Report,
    folder: &Folder,
    origin: SocketAddr,
    options: &Options,
) -> Result<(), String> {
    let (rounds, length) =
        if options.quick { (1, options.flight / 16) } else { (options.rounds.max(1), options.flight) };
    let mut found: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        // With little RAM for what is stored: what the flight itself takes is asked for, not how much of it is kept.
        let contender = Contender::start_with(Kind::Atoll, folder, origin, FLIGHT_MEMORY)?;
        ask_once(contender.address, "/1024/warm")?;
        let (idle, before) = (contender.process.resident()?, seen(origin)?);
        let cpu = contender.process.cpu_seconds()?;
        let (peak, firsts) = watched(&contender.process, || clients(contender.address, length, round))?;
        let used = contender.process.cpu_seconds()? - cpu;
        let leader = firsts.iter().copied().min().unwrap_or_default();
        let last = firsts.iter().copied().max().unwrap_or_default();
        found[0].push(seen(origin)? - before);
        found[1].push((peak - idle) / f64::from(1 << 20));
        found[2].push((last - leader).as_secs_f64() * 1e3);
        #[expect(clippy::cast_precision_loss, reason = "bytes of a file, far below 2^52")]
        let sent = length as f64 * CROWD as f64 / f64::from(1 << 20);
        found[3].push(used * 1e6 / sent);
    }
    for (at, (name, unit)) in
        [("origin_requests", ""), ("peak_over_idle", "MiB"), ("first_byte_spread", "ms"), ("cpu_per_mib", "us")]
            .into_iter()
            .enumerate()
    {
        report.add(Row::new(&format!("http_flight_{name}"), median(&mut found[at]), unit));
    }
    report.note(format!(
        "flight: {CROWD} clients, {} MiB, {FLIGHT_MEMORY} of RAM for what is stored, {rounds} rounds",
        length >> 20
    ));
    Ok(())
}

/// Memory of kept connections, of contenders in turn within each round; each is started anew for each round, since memory that was
/// in use once is not asked for again.
pub(super) fn idle(report: &mut Report, folder: &Folder, origin: SocketAddr, options: &Options) -> Result<(), String> {
    let (rounds, count) = if options.quick { (1, IDLE / 10) } else { (options.rounds.max(1), IDLE) };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| error.to_string())?;
    let mut found = [Kind::Atoll, Kind::Nginx, Kind::Bare].map(|kind| (kind, Vec::new()));
    for round in 0..rounds {
        for (kind, figures) in &mut found {
            let contender = match Contender::start(*kind, folder, origin) {
                Ok(contender) => contender,
                Err(error) if kind.is_ours() => return Err(error),
                Err(error) => {
                    if round == 0 {
                        report.note(format!("{kind} is left out: {error}"));
                    }
                    continue;
                }
            };
            // What one connection makes the server set up is not counted to the many.
            ask_once(contender.address, "/1024/idle")?;
            let before = contender.process.resident()?;
            let held = held(contender.address, count)?;
            figures.push((contender.process.resident()? - before) / f64::from(count) / 1024.0);
            drop(held);
        }
    }
    let mut medians = found.into_iter().filter(|(_, figures)| !figures.is_empty());
    let Some((_, mut ours)) = medians.next() else { return Err("nothing was measured".to_owned()) };
    let row = medians.fold(Row::new("http_idle_connection", median(&mut ours), "KiB"), |row, (kind, mut figures)| {
        row.against(&kind.to_string(), median(&mut figures))
    });
    report.note(format!("idle: {count} connections, each used once, {rounds} rounds"));
    report.add(row);
    Ok(())
}

/// Runs something, and the most memory that a process had meanwhile.
fn watched<T: Send>(process: &Process, run: impl FnOnce() -> Result<T, String> + Send) -> Result<(f64, T), String> {
    let done = Arc::new(AtomicBool::new(false));
    let mut peak = process.resident()?;
    let outcome = thread::scope(|scope| {
        let told = Arc::clone(&done);
        let running = scope.spawn(move || {
            let outcome = run();
            told.store(true, Ordering::SeqCst);
            outcome
        });
        while !done.load(Ordering::SeqCst) && !running.is_finished() {
            peak = peak.max(process.resident().unwrap_or(0.0));
            thread::sleep(Duration::from_millis(10));
        }
        running.join().map_err(|_| "the clients failed".to_owned())?
    })?;
    Ok((peak, outcome))
}

/// All clients' times to their first byte; each takes the whole file.
fn clients(address: SocketAddr, length: u64, round: u64) -> Result<Vec<Duration>, String> {
    runtime()?.block_on(async {
        let mut crowd = JoinSet::new();
        let mut streams = Vec::new();
        for _ in 0..CROWD {
            streams.push(TcpStream::connect(address).await.map_err(|error| error.to_string())?);
        }
        let began = Instant::now();
        for mut stream in streams {
            crowd.spawn(async move {
                let request = format!("GET /{length}/flight-{round} HTTP/1.1\r\nHost: bench.test\r\n\r\n");
                stream.write_all(request.as_bytes()).await?;
                stream.readable().await?;
                let first = began.elapsed();
                let mut buffer = vec![0; 64 << 10];
                let mut filled = 0;
                let head = loop {
                    let count = stream.read(&mut buffer[filled..]).await?;
                    filled += count;
                    if let Some(at) = buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                        break at + 4;
                    }
                    if count == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                };
                let mut left = length.saturating_sub((filled - head) as u64);
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    left -= discard(&stream, &mut buffer[..most]).await? as u64;
                }
                Ok::<_, std::io::Error>(first)
            });
        }
        let mut firsts = Vec::new();
        while let Some(client) = crowd.join_next().await {
            firsts.push(client.map_err(|error| error.to_string())?.map_err(|error| format!("{address}: {error}"))?);
        }
        Ok(firsts)
    })
}

/// Connections that have been used once, with the runtime that they live in.
fn held(address: SocketAddr, count: u32) -> Result<(tokio::runtime::Runtime, Vec<TcpStream>), String> {
    let runtime = runtime()?;
    let streams = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            exchange(&mut stream, "/1024/idle").await?;
            streams.push(stream);
        }
        Ok::<_, String>(streams)
    })?;
    Ok((runtime, streams))
}

/// What one small answer says.
async fn exchange(stream: &mut TcpStream, path: &str) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n");
    let exchanged = timeout(Duration::from_secs(30), async {
        stream.write_all(request.as_bytes()).await?;
        let mut told = Vec::new();
        loop {
            if stream.read_buf(&mut told).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = String::from_utf8_lossy(&told).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if head.starts_with("http/1.1 200 ") && length.is_some_and(|length: usize| body.len() >= length) {
                return Ok::<_, std::io::Error>(body.to_owned());
            }
        }
    });
    exchanged.await.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
}

fn ask_once(address: SocketAddr, path: &str) -> Result<String, String> {
    runtime()?.block_on(async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        exchange(&mut stream, path).await
    })
}

/// How many requests the origin has seen.
fn seen(origin: SocketAddr) -> Result<f64, String> {
    ask_once(origin, "/seen")?.parse().map_err(|_| "the origin says no number".to_owned())
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// Clients of the flight.
const CROWD: usize = 200;

/// RAM for what is stored during the flight.
const FLIGHT_MEMORY: &str = "16MiB";

/// Connections that are kept.
const IDLE: u32 = 10_000;
