//! The runtime of quinn's tasks: tokio's, but the task of a connection follows the one that libp2p has for it. It is begun before
//! anybody knows what the connection is for, and has most of the work: it enciphers, sends and acknowledges.

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Instant,
};

use futures::task::AtomicWaker;
use quinn::{AsyncTimer, AsyncUdpSocket, TokioRuntime};
use tokio::{
    runtime::Handle,
    time::{Sleep, sleep_until},
};

use crate::driver::{batch::Batched, lanes::in_bulk};

/// The runtime that calls it, and those to which tasks move.
#[derive(Debug)]
pub(super) struct Runtime;

/// Where a connection's task runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat(Arc<Place>);

#[derive(Debug, Default)]
struct Place {
    /// The runtime to move to.
    other: OnceLock<Handle>,
    task: AtomicWaker,
}

impl Seat {
    /// Moves the task to the runtime of this call, if it was not moved before.
    pub(super) fn come_here(&self) {
        if self.0.other.set(Handle::current()).is_ok() {
            self.0.task.wake();
        }
    }

    /// The seat of the task that is begun by this.
    pub(super) fn offer<T>(begin: impl FnOnce() -> T) -> (T, Self) {
        let seat = Self::default();
        OFFERED.set(Some(seat.clone()));
        let begun = begin();
        OFFERED.set(None);
        (begun, seat)
    }
}

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer { sleep: Box::pin(sleep_until(at.into())), in_bulk: in_bulk() })
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        match OFFERED.take() {
            Some(seat) => drop(tokio::spawn(Seated { task: Some(task), seat })),
            None => drop(tokio::spawn(task)),
        }
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        quinn::Runtime::wrap_udp_socket(&TokioRuntime, socket)
    }

    fn now(&self) -> Instant {
        quinn::Runtime::now(&TokioRuntime)
    }
}

/// A connection's task before it moves.
struct Seated {
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    seat: Seat,
}

impl Future for Seated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.seat.0.task.register(cx.waker());
        if let Some(other) = self.seat.0.other.get().cloned() {
            // It is polled there once in any case: what wakes it from now on wakes the new task.
            if let Some(task) = self.task.take() {
                other.spawn(Batched(task));
            }
            return Poll::Ready(());
        }
        self.task.as_mut().map_or(Poll::Ready(()), |task| task.as_mut().poll(cx))
    }
}

/// A timer that is kept by the runtime on which it is used: else it would wake the links' thread.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    in_bulk: bool,
}

impl Timer {
    fn here(&mut self) -> Pin<&mut Sleep> {
        if in_bulk() && !self.in_bulk {
            self.in_bulk = true;
            self.sleep = Box::pin(sleep_until(self.sleep.deadline()));
        }
        self.sleep.as_mut()
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.here().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.here(), cx)
    }
}

thread_local! {
    /// For the task that is begun next.
    static OFFERED: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc::sync_channel, thread, time::Duration};

    use quinn::Runtime as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::driver::{
        Config,
        lanes::{Lanes, Terms},
    };

    fn name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    /// Begins a task that says where it is polled first, and where when it is woken later.
    async fn begun<T>(
        offer: impl FnOnce(Box<dyn FnOnce()>) -> T,
    ) -> (T, oneshot::Sender<()>, oneshot::Receiver<[String; 2]>) {
        let (began, begun) = oneshot::channel();
        let (wake, woken) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let task = async move {
            let first = name();
            began.send(()).unwrap();
            woken.await.unwrap();
            say.send([first, name()]).unwrap();
        };
        let offered = offer(Box::new(|| Runtime.spawn(Box::pin(task))));
        begun.await.unwrap();
        (offered, wake, said)
    }

    #[tokio::test]
    async fn a_task_goes_where_its_seat_is_called_and_others_stay() {
        let lanes = Lanes::new(Terms::of(&Config::default()));
        let bulk = lanes.bulk().unwrap();
        let (((), seat), wake, moved) = begun(Seat::offer).await;
        let ((), wake_other, stayed) = begun(|begin| begin()).await;
        bulk.spawn(async move { seat.come_here() }).await.unwrap();
        wake.send(()).unwrap();
        wake_other.send(()).unwrap();
        assert_eq!(moved.await.unwrap(), [name(), "atoll-bulk".to_owned()]);
        assert_eq!(stayed.await.unwrap(), [name(), name()]);
    }

    #[test]
    fn a_timer_is_kept_where_it_is_used() {
        let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Nobody runs the first runtime from here on.
        let mut timer = first.block_on(async { Runtime.new_timer(Runtime.now() + Duration::from_millis(20)) });
        let (say, said) = sync_channel(1);
        let lanes = Lanes::new(Terms::of(&Config::default()));
        lanes.bulk().unwrap().spawn(async move {
            poll_fn(|cx| timer.as_mut().poll(cx)).await;
            timer.as_mut().reset(Runtime.now() + Duration::from_millis(20));
            poll_fn(|cx| timer.as_mut().poll(cx)).await;
            say.send(()).unwrap();
        });
        said.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
