//! A load generator: so many keep-alive HTTP/1.1 connections from one core, each asking for the next object as soon as the last has
//! come whole. Every answer is checked for its status and its length; what is not as expected is counted as failed.
//!
//! ```text
//!   Load { address, connections, requests, targets, zipf } --run on a core--> Outcome: rate, percentile, failed
//! ```
//!
//! Which object comes next is drawn from a seed, by Zipf's law if asked, so that contenders are asked for the same in the same
//! order of connections.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
    task::LocalSet,
    time::timeout,
};

use crate::process;

/// What is asked for, and the length it must have.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) path: String,
    pub(crate) length: u64,
}

/// What a server is put under.
#[derive(Debug, Clone)]
pub(crate) struct Load<'l> {
    pub(crate) address: SocketAddr,
    /// The Host field.
    pub(crate) host: &'l str,
    pub(crate) connections: usize,
    /// Of all connections together.
    pub(crate) requests: u64,
    /// The most popular first.
    pub(crate) targets: &'l [Target],
    /// The exponent of the popularity; 0 asks for all alike.
    pub(crate) zipf: f64,
    pub(crate) seed: u64,
    /// The core that the generator stays on.
    pub(crate) core: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Answers that were as expected.
    pub(crate) requests: u64,
    /// Answers that were not, and requests that got none.
    pub(crate) failed: u64,
    /// The first of these: its path, its status line, its length and what it says of proxies and caches on its way.
    pub(crate) first_failed: Option<String>,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Microseconds from a request's first byte to its answer's last, sorted.
    latencies: Vec<u32>,
}

impl Outcome {
    /// Every answer must be right.
    pub(crate) fn all_right(self) -> Result<Self, String> {
        match &self.first_failed {
            None => Ok(self),
            Some(first) => Err(format!("{} wrong answers, the first to {first}", self.failed)),
        }
    }

    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let requests = self.requests as f64;
        requests / self.seconds
    }

    /// The latency that this share of the requests stayed under, in microseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a list"
        )]
        let place = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
        self.latencies.get(place).copied().map_or(f64::NAN, f64::from)
    }
}

impl Load<'_> {
    /// Runs it to its end. An error if a connection could not be made, or nothing came for a long time.
    pub(crate) fn run(&self) -> Result<Outcome, String> {
        thread::scope(|scope| {
            scope.spawn(|| self.run_here()).join().map_err(|_| "the load generator failed".to_owned())?
        })
    }

    fn run_here(&self) -> Result<Outcome, String> {
        process::pin(0, &[self.core])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let shared = Rc::new(Shared::of(self));
        let started = Instant::now();
        let done = runtime.block_on(LocalSet::new().run_until(async {
            let connections: Vec<_> = (0..self.connections)
                .map(|_| tokio::task::spawn_local(Rc::clone(&shared).connection(self.address)))
                .collect();
            for connection in connections {
                connection.await.map_err(|error| error.to_string())??;
            }
            Ok::<_, String>(())
        }));
        done?;
        let mut outcome = shared.outcome.take();
        outcome.seconds = started.elapsed().as_secs_f64();
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }
}

/// What all connections share.
struct Shared {
    requests: Vec<Vec<u8>>,
    lengths: Vec<u64>,
    order: Vec<u32>,
    next: Cell<u64>,
    all: u64,
    outcome: RefCell<Outcome>,
}

impl Shared {
    fn of(load: &Load<'_>) -> Self {
        let request =
            |target: &Target| format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, load.host).into_bytes();
        Self {
            requests: load.targets.iter().map(request).collect(),
            lengths: load.targets.iter().map(|target| target.length).collect(),
            order: order(load.targets.len(), load.zipf, load.seed),
            next: Cell::new(0),
            all: load.requests,
            outcome: RefCell::default(),
        }
    }

    async fn connection(self: Rc<Self>, address: SocketAddr) -> Result<(), String> {
        let cannot = |error: std::io::Error| format!("{address}: {error}");
        let mut stream = TcpStream::connect(address).await.map_err(cannot)?;
        stream.set_nodelay(true).map_err(cannot)?;
        let mut buffer = vec![0; BUFFER];
        while let Some((request, length)) = self.draw() {
            let started = Instant::now();
            let answered = timeout(PATIENCE, exchange(&mut stream, request, length, &mut buffer)).await;
            let mut outcome = self.outcome.borrow_mut();
            match answered {
                Ok(Ok(None)) => {
                    outcome.requests += 1;
                    outcome.bytes += length;
                    outcome.latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                // The connection is as good as before.
                Ok(Ok(Some(wrong))) => {
                    outcome.failed += 1;
                    outcome.first_failed.get_or_insert(wrong);
                }
                Ok(Err(error)) => return Err(format!("{address}: {error}")),
                Err(_) => return Err(format!("{address}: no answer within {PATIENCE:?}")),
            }
        }
        Ok(())
    }

    /// The next request and the length of its answer's body; none when all were asked.
    fn draw(&self) -> Option<(&[u8], u64)> {
        let number = self.next.get();
        if number == self.all {
            return None;
        }
        self.next.set(number + 1);
        let place = usize::try_from(number).unwrap_or_default() % self.order.len();
        let target = usize::try_from(*self.order.get(place)?).ok()?;
        Some((self.requests.get(target)?, *self.lengths.get(target)?))
    }
}

/// Sends a request and reads its answer; if that was no 200 of the right length, what it was.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    length: u64,
    buffer: &mut [u8],
) -> std::io::Result<Option<String>> {
    stream.write_all(request).await?;
    let mut filled = 0;
    let (head, good) = loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
        if let Some(end) = buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (end + 4, buffer.starts_with(b"HTTP/1.1 200 "));
        }
        if filled == buffer.len() {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    };
    let announced = content_length(&buffer[..head]).ok_or(std::io::ErrorKind::InvalidData)?;
    let wrong = (!good || announced != length).then(|| told(request, &buffer[..head], length));
    let mut left = announced.saturating_sub((filled - head) as u64);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        left -= discard(stream, &mut buffer[..most]).await? as u64;
    }
    Ok(wrong)
}

/// A wrong answer, in the words of its head.
fn told(request: &[u8], head: &[u8], length: u64) -> String {
    let (asked, head) = (String::from_utf8_lossy(request), String::from_utf8_lossy(head));
    let path = asked.split(' ').nth(1).unwrap_or_default();
    let telling = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        ["content-length", "proxy-status", "cache-status"].iter().any(|it| name.eq_ignore_ascii_case(it))
    };
    let lines: Vec<&str> = head.lines().take(1).chain(head.lines().skip(1).filter(telling)).collect();
    format!("{path}, for {length} bytes: {}", lines.join("; "))
}

/// Takes at most so many bytes without copying them, at least one: a generator that copies is slower than what it measures.
pub(crate) async fn discard(stream: &TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let take = || recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC).map_err(std::io::Error::from);
    match stream.async_io(Interest::READABLE, take).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

fn content_length(head: &[u8]) -> Option<u64> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length:")))?;
    std::str::from_utf8(line.get(15..)?).ok()?.trim().parse().ok()
}

/// Which object each request asks for, the same for the same seed: by Zipf's law, or all in turn if the exponent is 0.
fn order(count: usize, zipf: f64, seed: u64) -> Vec<u32> {
    if zipf == 0.0 {
        return (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
    }
    let mut sums = Vec::with_capacity(count);
    let mut sum = 0.0;
    for rank in 1..=u32::try_from(count).unwrap_or(u32::MAX) {
        sum += f64::from(rank).powf(-zipf);
        sums.push(sum);
    }
    let mut state = seed | 1;
    (0..DRAWN)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = f64::from(u32::try_from(state >> 32).unwrap_or_default()) / f64::from(u32::MAX);
            let place = sums.partition_point(|below| *below < share * sum).min(count.saturating_sub(1));
            u32::try_from(place).unwrap_or_default()
        })
        .collect()
}

/// Draws before they repeat.
const DRAWN: usize = 1 << 18;

/// Bytes a connection reads at once, and the longest head of an answer.
const BUFFER: usize = 256 << 10;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    #[test]
    fn popularity_follows_zipf_and_the_seed() {
        let drawn = order(1_000, 1.0, 7);
        assert_eq!(drawn, order(1_000, 1.0, 7));
        assert_ne!(drawn, order(1_000, 1.0, 8));
        let share = |object| drawn.iter().filter(|drawn| **drawn == object).count() * 1_000 / drawn.len();
        // 1 / H(1000) = 0.1336.
        assert!((125..142).contains(&share(0)) && (60..73).contains(&share(1)), "{} {}", share(0), share(1));
        assert_eq!(order(4, 0.0, 7), [0, 1, 2, 3], "each once, so that what nobody asked for is new each time");
    }

    #[test]
    fn an_answer_of_another_length_or_status_is_counted_as_failed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut line = String::new();
            for answer in ["200 OK", "200 OK", "404 Not Found", "200 OK"] {
                line.clear();
                while !line.ends_with("\r\n\r\n") {
                    stream.read_line(&mut line).unwrap();
                }
                let body = if line.starts_with("GET /short") { "ab" } else { "abc" };
                let fields = format!("content-length: {}\r\nProxy-Status: atoll; error=x", body.len());
                let text = format!("HTTP/1.1 {answer}\r\nServer: a\r\n{fields}\r\n\r\n{body}");
                stream.get_mut().write_all(text.as_bytes()).unwrap();
            }
        });
        let targets = [Target { path: "/long".to_owned(), length: 3 }];
        let load =
            Load { address, host: "a", connections: 1, requests: 4, targets: &targets, zipf: 0.0, seed: 1, core: 0 };
        let outcome = load.run().unwrap();
        assert_eq!((outcome.requests, outcome.failed, outcome.bytes), (3, 1, 9));
        let told = "/long, for 3 bytes: HTTP/1.1 404 Not Found; content-length: 3; Proxy-Status: atoll; error=x";
        assert_eq!(outcome.first_failed.as_deref(), Some(told));
        assert!(outcome.percentile(0.5) <= outcome.percentile(1.0) && outcome.rate() > 0.0);
        server.join().unwrap();
    }
}
