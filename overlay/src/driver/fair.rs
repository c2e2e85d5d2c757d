//! Connections take turns. One that always has bytes to move is polled until tokio's budget of operations is used up, which are
//! megabytes that are decrypted and sorted meanwhile; a lookup on another connection waits for that milliseconds, several times over.
//! So after some bytes a connection lets the others go first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// A connection that moves [`TURN`] bytes at a time.
#[derive(Debug)]
pub(super) struct Fair<S> {
    inner: S,
    /// Bytes moved since its turn began.
    moved: usize,
}

impl<S> Fair<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner, moved: 0 }
    }

    /// Whether the turn is over; if so the next begins as soon as the others have had theirs.
    fn is_over(&mut self, cx: &Context<'_>) -> bool {
        let over = self.moved >= TURN;
        if over {
            self.moved = 0;
            cx.waker().wake_by_ref();
        }
        over
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return Poll::Pending;
        }
        let count = ready!(Pin::new(&mut self.inner).poll_read(cx, to))?;
        self.moved += count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return Poll::Pending;
        }
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, from))?;
        self.moved += count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Bytes of a turn: a fifth of a millisecond's work. \[guess\]
const TURN: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
    };

    use futures::{AsyncReadExt as _, FutureExt as _, io::Cursor};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_connection_with_much_to_move_lets_others_go_first_and_goes_on() {
        let (bytes, woken) = (vec![7; 3 * TURN + 5], Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut connection = Fair::new(Cursor::new(bytes.clone()));
        let mut read = Vec::new();
        let mut reading = connection.read_to_end(&mut read).boxed_local();
        let mut polls = 1;
        while reading.poll_unpin(&mut cx).is_pending() {
            assert_eq!(woken.0.load(Ordering::Relaxed), polls, "it is polled again without anybody's doing");
            polls += 1;
        }
        drop(reading);
        assert_eq!((read, polls), (bytes, 4));
        let mut written = Fair::new(Cursor::new(vec![0; 2 * TURN]));
        let part = vec![1; TURN];
        assert!(Pin::new(&mut written).poll_write(&mut cx, &part).is_ready());
        assert!(Pin::new(&mut written).poll_write(&mut cx, &part).is_pending());
        assert!(Pin::new(&mut written).poll_write(&mut cx, &part).is_ready());
    }
}
