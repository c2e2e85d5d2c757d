//! The demo's origin: 12 files of 41 KB behind an uplink of 384 kbit/s, as in the CoralCDN paper (NSDI'04 6.1). It counts the
//! requests it gets itself, so that no proxy can talk the number down.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// How many files there are.
pub(super) const FILES: usize = 12;

/// A running origin; dropping it stops it.
pub(super) struct Origin {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Origin {
    /// Listens on a free port in the range that proxies accept in names (8000-8999).
    pub(super) async fn start() -> io::Result<Self> {
        let listener = listen().await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&requests)));
        Ok(Self { address, requests, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests it has got so far.
    #[must_use]
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// The path of a file.
#[must_use]
pub(super) fn path(file: usize) -> String {
    format!("/files/{file:02}.bin")
}

/// What a file holds: bytes that differ from file to file, from a fixed rule.
#[must_use]
pub(super) fn content(file: usize) -> Vec<u8> {
    let mut state = u64::try_from(file).unwrap_or(0).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..FILE_BYTES.div_ceil(8)).flat_map(|_| next()).take(FILE_BYTES).collect()
}

async fn listen() -> io::Result<TcpListener> {
    for _ in 0..TRIES {
        let port = rand::random_range(ORIGIN_PORTS);
        if let Ok(listener) = TcpListener::bind((ADDRESS, port)).await {
            return Ok(listener);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port from 8000 to 8999 is free for the demo's origin"))
}

async fn serve(listener: TcpListener, requests: Arc<AtomicU64>) {
    let uplink = Arc::new(Uplink::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (uplink, requests) = (Arc::clone(&uplink), Arc::clone(&requests));
        connections.spawn(async move {
            // A broken connection is the client's business.
            let _ = converse(stream, &uplink, &requests).await;
        });
    }
}

/// Answers requests on one connection until the client closes it or stays silent.
async fn converse(mut stream: TcpStream, uplink: &Uplink, requests: &AtomicU64) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            let mut buffer = [0; 4096];
            let count = timeout(IDLE, stream.read(&mut buffer)).await??;
            if count == 0 || head.len() > HEAD_BYTES {
                return Ok(());
            }
            head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        };
        let request: Vec<u8> = head.drain(..end).collect();
        requests.fetch_add(1, Ordering::Relaxed);
        let (response, body) = answer(&String::from_utf8_lossy(&request));
        stream.write_all(response.as_bytes()).await?;
        for piece in body.chunks(PACKET) {
            uplink.wait_for(piece.len()).await;
            stream.write_all(piece).await?;
        }
    }
}

fn answer(request: &str) -> (String, Vec<u8>) {
    let mut words = request.split_ascii_whitespace();
    let method = words.next().unwrap_or_default();
    let asked = words.next().unwrap_or_default();
    let Some(file) = (0..FILES).find(|file| path(*file) == asked) else {
        return ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), Vec::new());
    };
    let body = if method == "HEAD" { Vec::new() } else { content(file) };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {FILE_BYTES}\r\n\
         Cache-Control: public, max-age=3600\r\nETag: \"demo-{file}\"\r\n\r\n"
    );
    (head, body)
}

/// The shaped line: whoever sends reserves the next free span of it.
#[derive(Default)]
struct Uplink {
    free_at: Mutex<Option<Instant>>,
}

impl Uplink {
    async fn wait_for(&self, bytes: usize) {
        let span = Duration::from_secs_f64(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / BYTES_PER_SECOND);
        let done = {
            let mut free_at = self.free_at.lock().await;
            let now = Instant::now();
            let start = free_at.map_or(now, |at| at.max(now));
            *free_at = Some(start + span);
            start + span
        };
        sleep_until(done).await;
    }
}

/// Where the origin stands; the relay does not hold its packets back, its own line is slow enough.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 90, 0, 1);

/// Ports a Coralized name may carry.
const ORIGIN_PORTS: std::ops::Range<u16> = 8_000..9_000;

/// Ports tried before giving up.
const TRIES: usize = 64;

/// Bytes of a file. [Coral 6.1]
const FILE_BYTES: usize = 41 * 1024;

/// 384 kbit/s. [Coral 6.1]
const BYTES_PER_SECOND: f64 = 384_000.0 / 8.0;

/// Bytes that leave at once.
const PACKET: usize = 1_400;

/// Bytes a request head may have.
const HEAD_BYTES: usize = 16 * 1024;

/// How long a connection may stay silent.
const IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_and_have_the_papers_size() {
        let files: Vec<_> = (0..FILES).map(content).collect();
        assert!(files.iter().all(|file| file.len() == FILE_BYTES));
        for (i, file) in files.iter().enumerate() {
            assert!(files.iter().skip(i + 1).all(|other| other != file), "file {i} has a twin");
        }
    }

    #[test]
    fn only_the_files_exist() {
        assert!(answer("GET /files/00.bin HTTP/1.1\r\n").0.starts_with("HTTP/1.1 200"));
        assert!(answer("GET /files/12.bin HTTP/1.1\r\n").0.starts_with("HTTP/1.1 404"));
        assert!(answer("GET / HTTP/1.1\r\n").0.starts_with("HTTP/1.1 404"));
    }
}
