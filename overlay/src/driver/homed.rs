//! A TCP stream that goes where its connection goes: the runtime on which it is used watches it, else the link lane would be woken for
//! each piece of bulk. A peer that cannot be dialled has its byte streams on its link: if they carry much, that leaves the link lane.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp;
use tokio::{net::TcpStream, time::Instant};

use super::{
    batch::moved,
    lanes::{in_bulk, leave_links},
};

/// The stream.
#[derive(Debug)]
pub(super) struct Homed {
    /// None after it could not be moved.
    stream: Option<tcp::tokio::TcpStream>,
    in_bulk: bool,
    load: Load,
}

impl Homed {
    /// A stream that is watched by the runtime of this call; past `most` bytes a second, both ways, it asks to leave the links.
    pub(super) fn new(stream: tcp::tokio::TcpStream, most: u64) -> Self {
        Self { stream: Some(stream), in_bulk: in_bulk(), load: Load { most, bytes: 0, since: Instant::now() } }
    }

    /// So many bytes went through. Whoever polls this polls the connection.
    fn carry(&mut self, bytes: usize) {
        if self.in_bulk {
            moved(bytes);
        } else if self.load.is_too_much(bytes, Instant::now) {
            leave_links();
        }
    }

    /// The stream, watched by the runtime that this is called on.
    fn here(&mut self) -> io::Result<Pin<&mut tcp::tokio::TcpStream>> {
        if in_bulk() && !self.in_bulk {
            self.in_bulk = true;
            if let Some(tcp::tokio::TcpStream(stream)) = self.stream.take() {
                let moved = TcpStream::from_std(stream.into_std()?)?;
                self.stream = Some(tcp::tokio::TcpStream(moved));
            }
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// What a link carries.
#[derive(Debug)]
struct Load {
    /// Bytes that it may carry in a second, both ways.
    most: u64,
    /// What it carried since then.
    bytes: u64,
    since: Instant,
}

impl Load {
    /// Whether with these bytes it has carried more than it may within a second.
    fn is_too_much(&mut self, bytes: usize, now: impl FnOnce() -> Instant) -> bool {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes <= self.most {
            return false;
        }
        let (since, now) = (self.since, now());
        self.bytes = 0;
        self.since = now;
        now.duration_since(since) < Duration::from_secs(1)
    }
}

impl AsyncRead for Homed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(self.here()?.poll_read(cx, buffer)?);
        self.carry(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Homed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(self.here()?.poll_write(cx, bytes)?);
        self.carry(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.here()?.poll_write_vectored(cx, slices)?);
        self.carry(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::sync_channel, task::Waker, thread};

    use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
    use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};

    use super::{
        super::{
            Config,
            lanes::{Lanes, Terms},
        },
        *,
    };

    async fn pair(most: u64) -> [Homed; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        [near, far].map(|stream| Homed::new(tcp::tokio::TcpStream(stream), most))
    }

    #[test]
    fn a_socket_is_watched_where_it_is_used() {
        let first = Builder::new_current_thread().enable_all().build().unwrap();
        let [mut near, mut far] = first.block_on(pair(u64::MAX));
        // Waited for on the first runtime once, which nobody runs from here on.
        assert!(near.read(&mut [0]).poll_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
        let lanes = Lanes::new(Terms::of(&Config::default()));
        let bulk = lanes.bulk().unwrap();
        let (say, said) = sync_channel(1);
        bulk.spawn(async move {
            let mut word = [0; 5];
            near.read_exact(&mut word).await.unwrap();
            say.send(word).unwrap();
        });
        bulk.spawn(async move { far.write_all(b"bytes").await.unwrap() });
        assert_eq!(said.recv_timeout(Duration::from_secs(30)).unwrap(), *b"bytes");
    }

    #[test]
    fn a_link_that_carries_more_than_it_may_in_a_second_carries_too_much() {
        let start = Instant::now();
        let mut load = Load { most: 1_000, bytes: 0, since: start };
        let mut after = |bytes, span: Duration| load.is_too_much(bytes, || start + span);
        assert!(!after(1_000, Duration::ZERO));
        // One more, but a second later; and again.
        assert!(!after(1, Duration::from_secs(1)));
        assert!(!after(1_001, Duration::from_secs(2)));
        assert!(after(1_001, Duration::from_millis(2_999)));
    }

    #[tokio::test]
    async fn a_link_that_carries_too_much_leaves() {
        let [mut near, mut far] = pair(0).await;
        // However late this is read.
        near.load.since += Duration::from_secs(3_600);
        let (done, told) = oneshot::channel();
        let (read, was_read) = oneshot::channel();
        let task = async move {
            near.read_exact(&mut [0]).await.unwrap();
            read.send(()).unwrap();
            near.read_exact(&mut [0]).await.unwrap();
            done.send(thread::current().name().map(str::to_owned)).unwrap();
        };
        let lanes = Lanes::new(Terms::of(&Config::default()));
        lanes.run(task.boxed());
        far.write_all(b"x").await.unwrap();
        was_read.await.unwrap();
        far.write_all(b"y").await.unwrap();
        assert_eq!(told.await.unwrap().as_deref(), Some("atoll-bulk"));
    }
}
