//! One HTTP/1.1 GET on a connection of its own, with its times; and the way to the first of several servers that lets itself be
//! reached (RFC 8305).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

/// What came back.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status code.
    pub status: u16,
    /// The head after the status line, as received.
    pub head: String,
    /// The body, de-chunked if need be.
    pub body: Vec<u8>,
    /// From the connect to the last byte.
    pub took: Duration,
}

/// Fetches `path` of `host` from `server`, all within `patience`, at most `longest` bytes.
pub fn fetch(server: SocketAddr, host: &str, path: &str, patience: Duration, longest: usize) -> io::Result<Fetched> {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&server, patience)?;
    fetch_over(stream, (host, path), start, patience, longest)
}

/// The same over a connection that stands, with times that run from `start`.
pub(crate) fn fetch_over(
    mut stream: TcpStream,
    (host, path): (&str, &str),
    start: Instant,
    patience: Duration,
    longest: usize,
) -> io::Result<Fetched> {
    let left = || patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut);
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut wanted = None;
    loop {
        if wanted.is_none() {
            wanted = length_of(&bytes);
        }
        if wanted.is_some_and(|wanted| bytes.len() >= wanted) {
            break;
        }
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read if bytes.len() + read > longest => return Err(io::Error::other("longer than allowed")),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    let took = start.elapsed();
    parse(&bytes, took).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no whole response"))
}

/// A connection to the first of these servers that takes one, and its place in the list: the next is tried beside those before it after
/// [`APART`], or as soon as one of these has failed (RFC 8305 5). If none takes one, what became of each.
pub(crate) fn connect_first(servers: &[SocketAddr], patience: Duration) -> Result<(usize, TcpStream), Vec<String>> {
    let (done, outcomes) = mpsc::sync_channel(servers.len());
    let (start, mut failures) = (Instant::now(), Vec::new());
    let mut next = servers.iter().copied().enumerate();
    let mut begin = || {
        let Some((at, server)) = next.next() else { return false };
        let (done, left) = (done.clone(), patience.saturating_sub(start.elapsed()).max(LEAST));
        // Threads begun inside a host stay inside it. A connection that comes too late is closed with the channel.
        std::thread::spawn(move || {
            let outcome = TcpStream::connect_timeout(&server, left);
            let _ = done.send((at, outcome.map_err(|error| format!("{}: {error}", server.ip()))));
        });
        true
    };
    let mut is_more = begin();
    while failures.len() < servers.len() {
        let wait = if is_more { APART } else { patience.saturating_sub(start.elapsed()).max(LEAST) * 2 };
        match outcomes.recv_timeout(wait) {
            Ok((at, Ok(stream))) => return Ok((at, stream)),
            Ok((_, Err(error))) => failures.push(error),
            Err(_) if is_more => {}
            Err(_) => break,
        }
        is_more = begin();
    }
    Err(failures)
}

/// How long a connection is waited for before the next is begun beside it. [RFC 8305 8]
const APART: Duration = Duration::from_millis(250);
const LEAST: Duration = Duration::from_millis(1);

/// Fetches over a Unix socket; each wait for bytes takes `patience` at most.
pub(crate) fn fetch_locally(socket: &Path, path: &str, patience: Duration, longest: usize) -> io::Result<Fetched> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(longest as u64).read_to_end(&mut bytes)?;
    parse(&bytes, start.elapsed()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no whole response"))
}

/// Where the response ends, once its head is whole and says so.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let body = body_at(bytes)?;
    let head = std::str::from_utf8(bytes.get(..body)?).ok()?;
    Some(body + header(head, "content-length")?.parse::<usize>().ok()?)
}

fn parse(bytes: &[u8], took: Duration) -> Option<Fetched> {
    let body_at = body_at(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..body_at]).into_owned();
    let (line, head) = text.split_once("\r\n")?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let rest = &bytes[body_at..];
    let body = match (header(head, "transfer-encoding"), header(head, "content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => dechunk(rest)?,
        (_, Some(length)) => rest.get(..length.parse().ok()?)?.to_vec(),
        _ => rest.to_vec(),
    };
    Some(Fetched { status, head: head.to_owned(), body, took })
}

impl Fetched {
    /// The value of a header, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

fn body_at(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(rest.get(..line)?).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_a_connection_serves_though_others_before_it_refuse_or_say_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _inside = runtime.enter();
        let bound = || {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
            (socket.local_addr().unwrap(), socket)
        };
        let (dead, _held) = bound();
        let ((living, listens), (full, also)) = (bound(), bound());
        let (_listens, _also) = (listens.listen(16).unwrap(), also.listen(1).unwrap());
        // Once its queue is full it takes no notice of who else comes.
        let brief = Duration::from_millis(100);
        let (mut queued, mut unheard) = (Vec::new(), 0);
        // One that was given up may have been the machine's to wait for; so many in a row are not.
        while unheard < 4 && queued.len() < 64 {
            match TcpStream::connect_timeout(&full, brief) {
                Ok(taken) => {
                    queued.push(taken);
                    unheard = 0;
                }
                Err(_) => unheard += 1,
            }
        }
        assert!(unheard == 4 && !queued.is_empty(), "{} fit, {unheard} did not", queued.len());
        let patience = Duration::from_secs(20);
        let place = |servers: &[SocketAddr]| connect_first(servers, patience).map(|(at, _)| at);
        assert_eq!(place(&[living, dead]), Ok(0));
        assert_eq!(place(&[dead, living]), Ok(1));
        assert_eq!(place(&[full, dead, living]), Ok(2));
        assert_eq!(place(&[dead]).map_err(|failures| failures.len()), Err(1));
        assert_eq!(place(&[]), Err(Vec::new()));
    }

    #[test]
    fn a_response_is_whole_or_nothing() {
        let whole = |bytes: &[u8]| parse(bytes, Duration::ZERO).map(|fetched| (fetched.status, fetched.body));
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Some((200, b"ok".to_vec())));
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"), None);
        let chunked = b"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;x\r\n!\r\n0\r\n\r\n";
        assert_eq!(whole(chunked), Some((206, b"ok!".to_vec())));
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok"), None);
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = parse(bytes, Duration::ZERO);
            let _ = length_of(bytes);
            let _ = dechunk(bytes);
        });
    }
}
