//! Sending away clients for whom there is no room, also when there is no descriptor left to take them in with [bad-inputs H16].

use std::{io, time::Duration};

use futures::FutureExt as _;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};

/// A descriptor in reserve: given up for a moment, it lets whoever waits be taken in, told so and let go, instead of leaving them to
/// wait for what may not come.
pub(crate) struct Reserve {
    held: Option<TcpSocket>,
    /// When it was last said that descriptors have run out.
    said: Option<Instant>,
}

impl Reserve {
    pub(crate) fn new() -> Self {
        Self { held: TcpSocket::new_v4().ok(), said: None }
    }

    /// Sends one client away that waits where an accept failed so. False: there was none, or nothing to do it with.
    pub(crate) fn shed(&mut self, listener: &TcpListener, error: &io::Error, secure: bool) -> bool {
        if !error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) {
            return false;
        }
        if self.said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(%error, "no descriptors are left: new clients are sent away until there are some again");
        }
        drop(self.held.take());
        let accepted = listener.accept().now_or_never().and_then(Result::ok);
        let shed = accepted.map(|(stream, _)| turn_away(&stream, secure)).is_some();
        self.held = TcpSocket::new_v4().ok();
        shed
    }
}

/// Says that there is no room, as far as that can be said at once.
pub(crate) fn turn_away(stream: &TcpStream, secure: bool) {
    if secure {
        return;
    }
    // One try, never waited for; the kernel's buffer has room for it.
    let _ = stream.try_write(BUSY);
    // What is left unread when a connection is closed resets it, and the answer may be lost with that.
    let mut piece = [0; 4_096];
    for _ in 0..READS {
        if !matches!(stream.try_read(&mut piece), Ok(1..)) {
            break;
        }
    }
}

/// To those who find no place.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: atoll\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Pieces of a request that are read before its client is sent away.
const READS: usize = 8;

/// Too many open files, of the process or of the machine, on Unix; too many sockets, on Windows.
const EXHAUSTED: [i32; 3] = [24, 23, 10_024];

/// It is said no more often that descriptors have run out.
const SAY_AGAIN: Duration = Duration::from_secs(10);
