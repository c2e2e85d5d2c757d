//! One look at one proxy: a HEAD over a plain socket, whose answer says by its Server field whether it is one. Who is looked at is
//! `live.rs`'s; how often and what follows, `targets.rs`'s.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Asks a proxy whether it is there: any HTTP/1.1 answer of an Atoll proxy will do.
pub(crate) async fn is_there(target: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(target).await?;
    let request =
        format!("HEAD {PATH} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: atoll-dnssrv\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < HEAD {
        let length = stream.read(&mut chunk).await?;
        head.extend(chunk.get(..length).unwrap_or_default());
        if length == 0 || head.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    Ok(is_ours(&head))
}

fn is_ours(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let http = lines.next().is_some_and(|status| status.starts_with("HTTP/1.1 "));
    let server = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("server"));
    http && server.is_some_and(|(_, value)| {
        value.trim().split(['/', ' ']).next().is_some_and(|word| word.eq_ignore_ascii_case("atoll"))
    })
}

const PATH: &str = "/.well-known/atoll/health";
/// Bytes of a response's head that are read.
const HEAD: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_atoll_proxy_counts_as_one() {
        assert!(is_ours(b"HTTP/1.1 404 Not Found\r\nserver: Atoll/0.1\r\n\r\n"));
        assert!(is_ours(b"HTTP/1.1 200 OK\r\nDate: x\r\nServer:atoll\r\n\r\n"));
        assert!(!is_ours(b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n"));
        assert!(!is_ours(b"SSH-2.0 server: atoll\r\n\r\n"));
        assert!(!is_ours(b""));
    }
}
