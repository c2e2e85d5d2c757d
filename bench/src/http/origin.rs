//! The origin of the caches under measurement: `/LENGTH/NAME` is so many bytes that may be kept for a day, and `/seen` says how
//! many requests came, itself not counted.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use super::length_of;

/// Serves until it is killed.
pub(super) fn serve(address: SocketAddr) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let served: std::io::Result<()> = runtime.block_on(LocalSet::new().run_until(async {
        let listener = TcpListener::bind(address).await?;
        let seen = Rc::new(Cell::new(0));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(connection(stream, Rc::clone(&seen)));
        }
    }));
    served.map_err(|error| format!("{address}: {error}"))
}

/// Ends in an error when the other side has gone, which is how connections end.
async fn connection(mut stream: TcpStream, seen: Rc<Cell<u64>>) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(BODY_PIECE);
    let body = vec![b'x'; BODY_PIECE];
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let path = buffer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if path == b"/seen" {
            let told = seen.get().to_string();
            let head = format!("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n", told.len());
            stream.write_all((head + &told).as_bytes()).await?;
        } else {
            seen.set(seen.get() + 1);
            let length = length_of(path).unwrap_or(0);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age=86400\r\n\
                 ETag: \"{length}\"\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            let mut left = length;
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(body.len());
                stream.write_all(&body[..count]).await?;
                left -= count as u64;
            }
        }
        buffer.drain(..end);
    }
}

/// Bytes written at a time.
const BODY_PIECE: usize = 256 << 10;
