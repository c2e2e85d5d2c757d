//! What the system knows of a TCP connection.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// The system's own estimate of a connection's round trip [RFC 6298].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The smoothed round-trip time; right after the handshake, the handshake's.
    pub smoothed: Duration,
    /// The smoothed deviation from it.
    pub variation: Duration,
}

/// The round trip of a connected TCP socket (`TcpStream` of std or tokio, or any other); `None` where the system has
/// measured none or does not tell.
///
/// # Errors
/// The system's: the socket is closed or is no TCP socket.
pub fn round_trip<'s, S>(socket: &'s S) -> io::Result<Option<RoundTrip>>
where
    SockRef<'s>: From<&'s S>,
{
    ask(&SockRef::from(socket))
}

#[cfg(target_os = "linux")]
fn ask(socket: &SockRef<'_>) -> io::Result<Option<RoundTrip>> {
    use std::os::fd::AsRawFd;

    use nix::libc;

    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "neither std, socket2 nor nix wraps TCP_INFO; the kernel writes at most `length`")]
    // SAFETY: `info` is writable for `length` bytes and outlives the call; the descriptor is open while `socket` lives.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "what an older kernel leaves unwritten was zeroed above")]
    // SAFETY: `tcp_info` is plain integers, valid for any bytes, and every byte was initialised by `zeroed`.
    let info = unsafe { info.assume_init() };
    let micros = |count: u32| Duration::from_micros(u64::from(count));
    let measured = RoundTrip { smoothed: micros(info.tcpi_rtt), variation: micros(info.tcpi_rttvar) };
    Ok(Some(measured).filter(|measured| !measured.smoothed.is_zero()))
}

#[cfg(not(target_os = "linux"))]
fn ask(_socket: &SockRef<'_>) -> io::Result<Option<RoundTrip>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connected_stream_has_a_round_trip_on_either_side() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            let measured = round_trip(stream).unwrap();
            assert_eq!(measured.is_some(), cfg!(target_os = "linux"));
            assert!(measured.is_none_or(|it| it.smoothed < Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_tokio_stream_is_asked_the_same_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            round_trip(&stream).unwrap();
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_that_is_not_tcp_is_an_error() {
        assert!(round_trip(&UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }
}
