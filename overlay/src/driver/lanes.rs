//! Which threads run what, so that messages do not wait behind byte streams: the loop, the swarm and the links have a thread of their
//! own, which the scheduler lets run as soon as it wakes; connections that carry bulk are moved to threads that are nicer.
//!
//! ```text
//!   link lane: one thread   Driver::run, Swarm, link connections --a connection that is for bulk--> bulk lanes: threads of their own
//! ```
//!
//! A connection begins on the link lane, since nobody knows what it is for until its certificates are read. Its handler then says
//! so ([`leave_links`]), and its task goes on where a bulk lane runs it; its socket follows (`homed.rs`), or quinn's task for it
//! (`quic/runtime.rs`). So does a TCP link that carries much. Handshakes of strangers run on the link lane, too: `knocks` of [`Config`]
//! bounds how many at a time.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, warn};

use super::{batch::Batched, config::Config};

/// What the threads are to be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How many threads run bulk at most; 0: one for every two processors.
    threads: usize,
    /// How much nicer they are than the rest of the process.
    nicer: u8,
    /// A TCP link that carries more in a second goes to them, too.
    link_bytes: u64,
    /// Bytes of the stack of each.
    stack: usize,
}

/// The lanes of one node, but for that of its links.
#[derive(Debug)]
pub(super) struct Lanes {
    terms: Terms,
    /// Made as connections come; none after their end.
    bulk: Mutex<Option<Vec<Lane>>>,
}

/// A thread that runs tasks until this is dropped.
#[derive(Debug)]
struct Lane {
    tasks: Handle,
    /// Dropped, it ends the thread.
    _open: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// How a driver ended: who is to be told, and until when its connections may say farewell.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) tell: Option<oneshot::Sender<()>>,
    pub(super) farewell: Instant,
}

impl Terms {
    pub(super) const fn of(config: &Config) -> Self {
        Self { threads: config.bulk_threads, nicer: config.bulk_nicer, link_bytes: config.link_bytes.0, stack: STACK }
    }

    fn threads(self) -> usize {
        let default = || thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2));
        if self.threads > 0 { self.threads } else { default() }
    }
}

impl Lanes {
    pub(super) fn new(terms: Terms) -> Arc<Self> {
        Arc::new(Self { terms, bulk: Mutex::new(Some(Vec::new())) })
    }

    /// Runs a connection's task, here until it asks to leave.
    pub(super) fn run(self: &Arc<Self>, task: BoxFuture<'static, ()>) {
        tokio::spawn(Traveller { task: Some(task), lanes: Arc::clone(self) });
    }

    /// A bulk lane without tasks, or of all that may be the one with the fewest; none if bulk has to stay where it is.
    pub(super) fn bulk(&self) -> Option<Handle> {
        let Terms { nicer, stack, .. } = self.terms;
        let mut bulk = self.lock();
        let lanes = bulk.as_mut()?;
        let load = |lane: &Lane| lane.tasks.metrics().num_alive_tasks();
        if lanes.len() < self.terms.threads() && lanes.iter().all(|lane| load(lane) > 0) {
            match Lane::open(stack, move || begin_bulk(nicer)) {
                Ok(lane) => lanes.push(lane),
                Err(error) => warn!(%error, "the system refuses a thread for bulk: messages may wait behind it"),
            }
        }
        lanes.iter().min_by_key(|lane| load(lane)).map(|lane| lane.tasks.clone())
    }

    /// Bytes a second that a link may carry on its lane.
    pub(super) const fn link_bytes(&self) -> u64 {
        self.terms.link_bytes
    }

    /// Waits until nothing runs any more, on the lane of this call neither: the last word of a QUIC connection is sent by a task that
    /// outlives what is told of it.
    async fn rest(&self) {
        let mut lanes = vec![Handle::current()];
        lanes.extend(self.lock().iter().flatten().map(|lane| lane.tasks.clone()));
        while lanes.iter().any(|tasks| tasks.metrics().num_alive_tasks() > 0) {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends what runs on bulk lanes, and returns when nothing does.
    fn close(&self) {
        let lanes = self.lock().take();
        // What keeps a lane open goes here, of all of them before the first is waited for.
        let threads: Vec<_> = lanes.into_iter().flatten().map(|Lane { thread, .. }| thread).collect();
        for thread in threads {
            // It has been told so if a task panicked; nothing else can be wrong with it.
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Lane>>> {
        self.bulk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks on the threads of bulk.
    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.lock().iter().flatten().map(|lane| lane.tasks.metrics().num_alive_tasks()).sum()
    }
}

impl Lane {
    fn open(stack: usize, begin: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (open, closed) = oneshot::channel::<()>();
        let (tasks, thread) = thread_of("atoll-bulk", stack, begin, move |runtime| {
            // An error, since nothing is ever sent.
            let _ = runtime.block_on(closed);
        })?;
        Ok(Self { tasks, _open: open, thread })
    }
}

/// A thread for the link lane; `body` runs on it, and ends with what is to be done then.
pub(super) fn start<F: Future<Output = Option<Ended>>>(
    lanes: Arc<Lanes>,
    body: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    let stack = lanes.terms.stack;
    let run = move |runtime: Runtime| {
        let ended = runtime.block_on(async {
            let ended = body().await;
            if let Some(ended) = &ended {
                // What is left then ends without a word.
                let _ = timeout_at(ended.farewell, lanes.rest()).await;
            }
            ended
        });
        // Before the runtime on which the timers of their connections are.
        lanes.close();
        drop(runtime);
        if let Some(tell) = ended.and_then(|ended| ended.tell) {
            // Whoever wanted to know may have gone meanwhile.
            let _ = tell.send(());
        }
    };
    thread_of("atoll-links", stack, || take_turns(LINK_TURNS), run).map(drop)
}

/// A thread with a runtime of its own, which is made there: if there is no thread, a runtime cannot be dropped where tasks run.
fn thread_of(
    name: &str,
    stack: usize,
    begin: impl FnOnce() + Send + 'static,
    run: impl FnOnce(Runtime) + Send + 'static,
) -> io::Result<(Handle, JoinHandle<()>)> {
    let (say, said) = sync_channel(1);
    let body = move || {
        let mut builder = Builder::new_current_thread();
        // What comes in is looked for often: a task of bulk runs for dozens of microseconds at a time.
        builder.event_interval(LOOK_EVERY).global_queue_interval(LOOK_EVERY);
        // Threads for what blocks take turns as the system gives them.
        let made = builder.on_thread_start(|| take_turns(Duration::ZERO)).enable_all().build();
        // It is waited for below.
        let _ = say.send(made.as_ref().map(|runtime| runtime.handle().clone()).map_err(|error| error.kind()));
        if let Ok(runtime) = made {
            // Not sooner: who opened a thread of bulk waits for its runtime, and does not become as nice.
            begin();
            run(runtime);
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(body)?;
    let handle = said.recv().map_err(io::Error::other)??;
    Ok((handle, thread))
}

/// How the thread of a bulk lane begins.
fn begin_bulk(nicer: u8) {
    IN_BULK.set(true);
    match atoll_sys::turns::be_nicer(nicer) {
        Ok(true) => {}
        Ok(false) => debug!("the system knows no niceness of a thread: bulk is as important as the rest"),
        Err(error) => debug!(%error, "a thread for bulk is as important as the others"),
    }
    take_turns(BULK_TURNS);
}

/// Asks for the calling thread's turns.
fn take_turns(slice: Duration) {
    match atoll_sys::turns::set_slice(slice) {
        Ok(true) => {}
        Ok(false) => debug!("the system knows no turns of a thread: messages may wait for those of others"),
        Err(error) => debug!(%error, "a thread has turns as others have"),
    }
}

/// The task that asks this, a connection's, is for bulk and goes on in a bulk lane.
pub(super) fn leave_links() {
    LEAVES.set(true);
}

/// The task that says this, a connection's, is a member's. It says so each time it is polled.
pub(super) fn admitted() {
    ADMITTED.set(true);
}

/// Whether the task that asks this, a connection's, has said that it is a member's. Only members' come to bulk lanes.
pub(super) fn is_admitted() -> bool {
    in_bulk() || ADMITTED.get()
}

/// Whether this thread is a bulk lane's.
pub(super) fn in_bulk() -> bool {
    IN_BULK.get()
}

/// A connection's task on the link lane.
struct Traveller {
    task: Option<BoxFuture<'static, ()>>,
    lanes: Arc<Lanes>,
}

impl Future for Traveller {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        LEAVES.set(false);
        ADMITTED.set(false);
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        let polled = task.as_mut().poll(cx);
        if LEAVES.replace(false)
            && polled.is_pending()
            && let Some(bulk) = self.lanes.bulk()
            && let Some(task) = self.task.take()
        {
            // It is polled there once in any case: what wakes it from now on wakes the new task.
            bulk.spawn(Batched(task));
            return Poll::Ready(());
        }
        polled
    }
}

thread_local! {
    /// Whether the connection being polled wants to leave the link lane.
    static LEAVES: Cell<bool> = const { Cell::new(false) };
    /// Whether the connection being polled, or the last one that was, is a member's.
    static ADMITTED: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is a bulk lane's.
    static IN_BULK: Cell<bool> = const { Cell::new(false) };
}

/// The shortest turns that Linux gives: who wakes with them takes the place of who has longer ones. [Linux sched_setattr(2)]
const LINK_TURNS: Duration = Duration::from_micros(100);

/// Longer than the system's own, 1 to 4 ms, so that the threads that ask and answer go first, too. `[measured]`
const BULK_TURNS: Duration = Duration::from_millis(10);

/// Tasks that a lane runs before it looks for what came in. `[guess]`
const LOOK_EVERY: u32 = 4;

/// How often the end of a node looks whether all is said.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What tokio's own threads have.
const STACK: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt as _;

    use super::*;

    fn lanes() -> Arc<Lanes> {
        Lanes::new(Terms { threads: 1, nicer: 2, ..Terms::of(&Config::default()) })
    }

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    /// Runs a task that is polled twice and says where; in between it asks to leave, or not.
    async fn twice(lanes: &Arc<Lanes>, leaves: bool) -> [String; 2] {
        let (done, names) = oneshot::channel();
        let mut first = None;
        let task = async move {
            let last = poll_fn(|cx| match &first {
                Some(_) => Poll::Ready(thread_name()),
                None => {
                    first = Some(thread_name());
                    if leaves {
                        leave_links();
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            });
            let last = last.await;
            done.send([first.unwrap_or_default(), last]).unwrap();
        };
        lanes.run(task.boxed());
        names.await.unwrap()
    }

    #[tokio::test]
    async fn a_task_leaves_for_threads_of_bulk_when_it_asks_to() {
        let (lanes, here) = (lanes(), thread_name());
        assert_eq!(twice(&lanes, false).await, [here.clone(), here.clone()]);
        assert!(lanes.lock().as_ref().is_some_and(Vec::is_empty), "nobody has asked yet");
        assert_eq!(twice(&lanes, true).await, [here.clone(), "atoll-bulk".to_owned()]);
        // What one asked for holds for that one.
        assert_eq!(twice(&lanes, false).await, [here.clone(), here]);
    }

    #[tokio::test]
    async fn after_the_end_of_bulk_a_task_goes_on_where_it_is() {
        let (lanes, here) = (lanes(), thread_name());
        assert_eq!(twice(&lanes, true).await, [here.clone(), "atoll-bulk".to_owned()]);
        lanes.close();
        assert_eq!(twice(&lanes, true).await, [here.clone(), here]);
    }

    #[tokio::test]
    async fn where_the_system_refuses_threads_a_task_goes_on_where_it_is() {
        // No machine has room for such a stack.
        let (lanes, here) = (Lanes::new(Terms { stack: 1 << 48, ..lanes().terms }), thread_name());
        assert_eq!(twice(&lanes, true).await, [here.clone(), here]);
        start(lanes, || async { unreachable!("it has no thread") }).unwrap_err();
    }

    #[tokio::test]
    async fn bulk_lanes_are_made_as_tasks_come_and_the_one_with_fewest_is_taken() {
        let lanes = Lanes::new(Terms { threads: 2, ..lanes().terms });
        let first = lanes.bulk().unwrap();
        assert_eq!(lanes.bulk().unwrap().id(), first.id(), "it has no tasks yet");
        let (_stays, ended) = oneshot::channel::<()>();
        first.spawn(ended);
        let second = lanes.bulk().unwrap();
        assert_ne!(second.id(), first.id());
        second.spawn(std::future::pending::<()>());
        second.spawn(std::future::pending::<()>());
        assert_eq!(lanes.bulk().unwrap().id(), first.id(), "there may be two");
    }

    /// What a body on the link lane says, and the turns that such a slice comes to here.
    fn on_links<T: Send + 'static, F: Future<Output = T>>(
        lanes: Arc<Lanes>,
        body: impl FnOnce(Arc<Lanes>) -> F + Send + 'static,
    ) -> T {
        let (say, said) = sync_channel(1);
        let own = Arc::clone(&lanes);
        let body = move || async move {
            say.send(body(own).await).unwrap();
            None
        };
        start(lanes, body).unwrap();
        let answer = said.recv().unwrap();
        // The thread's sender is gone when its body has ended.
        assert!(said.recv().is_err());
        answer
    }

    fn turns() -> Option<atoll_sys::turns::Turns> {
        atoll_sys::turns::turns().unwrap()
    }

    /// What a thread has that asks for such turns.
    fn asked_for(slice: Duration) -> Option<atoll_sys::turns::Turns> {
        thread::spawn(move || atoll_sys::turns::set_slice(slice).map(|_| turns()).unwrap()).join().unwrap()
    }

    #[test]
    fn each_lane_has_turns_of_its_own_whichever_thread_made_it() {
        let Some(mine) = turns() else { return };
        let [links, bulk, blocking] = on_links(lanes(), |lanes| async move {
            assert_eq!(thread_name(), "atoll-links");
            let bulk = lanes.bulk().unwrap().spawn(async { turns() }).await.unwrap();
            [turns(), bulk, tokio::task::spawn_blocking(turns).await.unwrap()]
        });
        assert_eq!(links, asked_for(LINK_TURNS));
        assert_eq!(bulk.map(|bulk| bulk.slice), asked_for(BULK_TURNS).map(|asked| asked.slice));
        assert_eq!(bulk.map(|bulk| bulk.nice), Some((mine.nice + 2).min(19)));
        assert_eq!(blocking, asked_for(Duration::ZERO));
    }

    #[test]
    fn the_end_waits_for_what_still_runs_and_is_told_of_when_all_is_closed() {
        let lanes = lanes();
        let (tell, mut told) = oneshot::channel();
        let (say, said) = sync_channel(1);
        let bulk = lanes.bulk().unwrap();
        let body = move || async move {
            // It goes on after the body.
            bulk.spawn(async move {
                sleep(Duration::from_millis(20)).await;
                say.send(told.try_recv().is_err()).unwrap();
                told.await
            });
            Some(Ended { tell: Some(tell), farewell: Instant::now() + Duration::from_secs(3) })
        };
        start(Arc::clone(&lanes), body).unwrap();
        assert!(said.recv().unwrap(), "it was told of its end while a task ran");
        // The task waits for the end that waits for it: its time runs out, and it ends with its lane.
        assert!(said.recv().is_err());
    }
}
