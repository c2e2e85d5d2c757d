//! Where blocking file calls run: tokio's blocking threads, so many at a time, reads and writes apart so that neither
//! waits behind a queue of the other.

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Permits for file calls.
#[derive(Debug)]
pub(crate) struct Pool {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Pool {
    pub(crate) fn new(depth: u16) -> Self {
        let permits = || Arc::new(Semaphore::new(usize::from(depth)));
        Self { reads: permits(), writes: permits() }
    }

    /// Runs what reads the disk. Once begun it ends, also if nobody waits for it any more.
    pub(crate) async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        run(&self.reads, work).await
    }

    /// Runs what writes the disk, likewise.
    pub(crate) async fn write<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        run(&self.writes, work).await
    }
}

async fn run<T: Send + 'static>(permits: &Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let done = spawn_blocking(move || {
        let answer = work();
        drop(permit);
        answer
    });
    // A failed join is a panic in `work` or a runtime that shuts down.
    done.await.map_err(io::Error::other)
}
