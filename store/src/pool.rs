//! Where blocking file calls run: tokio's blocking threads, so many at a time, reads and writes apart so that neither
//! waits behind a queue of the other. Small objects that come in are `group`'s, one thread a disk; so is what is due after
//! writing.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::tiers::Tiers;

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
        run(begin(&self.reads).await?, work).await
    }

    /// Runs what writes the disk, likewise.
    pub(crate) async fn write<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        run(self.begin_write().await?, work).await
    }

    /// Waits for the right to one call that writes the disk.
    pub(crate) async fn begin_write(&self) -> io::Result<OwnedSemaphorePermit> {
        begin(&self.writes).await
    }
}

impl Tiers {
    /// Runs what writes the disk on a blocking thread, and leaves what is due after it to another.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.write_with(self.pool.begin_write().await?, work).await
    }

    /// The same for who has the right to it.
    pub(crate) async fn write_with<T: Send + 'static>(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> io::Result<T> {
        let tiers = Arc::clone(self);
        let work = move || {
            let answer = work(&tiers);
            tiers.tidy();
            answer
        };
        run(permit, work).await
    }

    /// Leaves what is due after writing to a thread of its own; if that is much, it is waited for. Blocks then.
    pub(crate) fn tidy(self: &Arc<Self>) {
        for engine in self.disks.iter() {
            if engine.chores.are_many() {
                engine.finish_chores();
            }
            let Some(turn) = engine.chores.begin() else { continue };
            // Weak, so that the store is let go of before its chores are said to be done.
            let (tiers, number) = (Arc::downgrade(self), engine.number);
            let work = move |chore| {
                let tiers = tiers.upgrade();
                let engine = tiers.as_ref().and_then(|tiers| tiers.disks.at(number));
                engine.inspect(|engine| engine.do_chore(chore)).is_some()
            };
            drop(spawn_blocking(move || turn.run(work)));
        }
    }
}

async fn begin(permits: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)
}

async fn run<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let done = spawn_blocking(move || {
        let answer = work();
        drop(permit);
        answer
    });
    // A failed join is a panic in `work` or a runtime that shuts down.
    done.await.map_err(io::Error::other)
}
