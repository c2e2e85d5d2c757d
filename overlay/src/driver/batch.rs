//! Wakes of those who use byte streams, held back while a bulk lane runs the connection that they wait for: it goes on for as long as
//! there is something to read or to send, and whoever were woken for each frame of 16 KiB would take its place for that one frame.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use futures::future::BoxFuture;

/// A connection's task on a bulk lane: whom it wakes wakes when it waits for something itself, or has moved much.
pub(super) struct Batched(pub(super) BoxFuture<'static, ()>);

impl Future for Batched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        HELD.set(Some(Held::default()));
        let _holding = Holding;
        self.0.as_mut().poll(cx)
    }
}

/// Ends with the poll, also with one that panics.
struct Holding;

impl Drop for Holding {
    fn drop(&mut self) {
        wake_all(HELD.take());
    }
}

/// What a task has held back and moved since it is polled.
#[derive(Default)]
struct Held {
    wakers: Vec<Waker>,
    bytes: usize,
}

/// The task that is polled has moved so many bytes.
pub(super) fn moved(bytes: usize) {
    let much = HELD.with_borrow_mut(|held| {
        let held = held.as_mut()?;
        held.bytes += bytes;
        (held.bytes >= BATCH).then(|| std::mem::take(held))
    });
    wake_all(much);
}

fn wake_all(held: Option<Held>) {
    held.into_iter().flat_map(|held| held.wakers).for_each(Waker::wake);
}

/// Who waits for one end of a byte stream.
#[derive(Debug)]
pub(super) struct Waiter(Option<(Waker, Waker)>);

impl Waiter {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// A waker that wakes this one, at once or when the task that wakes it is done.
    pub(super) fn patient(&mut self, waker: &Waker) -> Waker {
        let (_, patient) = match self.0.take() {
            Some(known) if known.0.will_wake(waker) => self.0.insert(known),
            _ => self.0.insert((waker.clone(), Arc::new(Patient(waker.clone())).into())),
        };
        patient.clone()
    }
}

struct Patient(Waker);

impl Wake for Patient {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let held = HELD.with_borrow_mut(|held| held.as_mut().map(|held| held.wakers.push(self.0.clone())).is_some());
        if !held {
            self.0.wake_by_ref();
        }
    }
}

thread_local! {
    /// None while no task of a bulk lane is polled.
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Bytes after which whoever waits is woken although there is more: the two work side by side then. `[guess]`
const BATCH: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, Ordering},
    };

    use futures::FutureExt as _;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_woken_when_the_task_waits_or_has_moved_much() {
        let count = Arc::new(Count::default());
        let woken = {
            let count = Arc::clone(&count);
            move || count.0.load(Ordering::Relaxed)
        };
        let (mut waiter, other) = (Waiter::new(), Waker::from(Arc::clone(&count)));
        let patient = waiter.patient(&other);
        patient.wake_by_ref();
        assert_eq!(woken(), 1, "on no bulk lane");
        let seen = woken.clone();
        let task = poll_fn(move |_| {
            patient.wake_by_ref();
            moved(BATCH - 1);
            assert_eq!(seen(), 1, "not while the task goes on");
            moved(1);
            assert_eq!(seen(), 2, "it moved much");
            patient.wake_by_ref();
            moved(BATCH - 1);
            assert_eq!(seen(), 2);
            Poll::Pending
        });
        let polled = Batched(task.boxed()).poll_unpin(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        assert_eq!(woken(), 3, "the task waits");
        moved(BATCH);
        assert_eq!(woken(), 3);
    }

    #[test]
    fn who_waits_for_a_task_that_panics_is_woken() {
        let count = Arc::new(Count::default());
        let (mut waiter, other) = (Waiter::new(), Waker::from(Arc::clone(&count)));
        let patient = waiter.patient(&other);
        let inside = patient.clone();
        let task = poll_fn(move |_| -> Poll<()> {
            inside.wake_by_ref();
            panic!("a task's fault")
        });
        let mut task = Batched(task.boxed());
        let poll = || task.poll_unpin(&mut Context::from_waker(Waker::noop()));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)).is_err());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        patient.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "nothing is held back any more");
    }

    #[test]
    fn a_waker_is_made_anew_for_another_waiter_alone() {
        let mut waiter = Waiter::new();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let patient = waiter.patient(&Waker::from(Arc::clone(&first)));
        assert!(patient.will_wake(&waiter.patient(&Waker::from(Arc::clone(&first)))));
        waiter.patient(&Waker::from(Arc::clone(&second))).wake();
        assert_eq!([first, second].map(|count| count.0.load(Ordering::Relaxed)), [0, 1]);
    }
}
