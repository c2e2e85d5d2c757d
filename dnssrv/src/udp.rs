//! Datagrams: one thread for each socket, which waits, takes what is there in a batch, answers it and sends the replies in a
//! batch. A thread of its own, not a task, because under a flood the work is in the system's calls: the threads of TCP and of the
//! rest of the node then get their share from the scheduler. While questions come so close together that falling asleep and
//! being woken would take longer than the wait, it stays awake between two batches (`Alert`).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use atoll_sys::datagrams::Batch;
use tokio::runtime::Handle;

use crate::{
    Transport,
    hot::{Hit, Hot},
    later::answer_later,
    redirector::Redirector,
    respond::Outcome,
    waiters::Waited,
};

/// The threads of all sockets; they end when it is dropped.
#[derive(Default)]
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    sockets: Vec<Arc<UdpSocket>>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Answers what comes to a socket from now on.
    pub(crate) fn start(&mut self, redirector: &Arc<Redirector>, socket: UdpSocket) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        // On Linux who waits is woken; a time-out would cost a timer at each wait.
        socket.set_read_timeout(if cfg!(target_os = "linux") { None } else { Some(LOOK_UP) })?;
        let socket = Arc::new(socket);
        let listener = Listener {
            redirector: Arc::clone(redirector),
            socket: Arc::clone(&socket),
            stop: Arc::clone(&self.stop),
            runtime: Handle::current(),
        };
        let name = format!("dns-udp-{}", self.running.len());
        self.running.push(std::thread::Builder::new().name(name).spawn(move || listener.run())?);
        self.sockets.push(socket);
        Ok(())
    }

    /// Ends the threads and waits until their sockets are closed.
    pub(crate) async fn stop(mut self) {
        self.wake();
        let running = std::mem::take(&mut self.running);
        self.sockets.clear();
        // A thread that panicked has ended, too.
        let join = move || running.into_iter().for_each(|thread| _ = thread.join());
        let _ = tokio::task::spawn_blocking(join).await;
    }

    fn wake(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Linux says "not connected" and wakes whoever waits all the same; elsewhere the time-out does.
            let _ = socket2::SockRef::from(&**socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.wake();
    }
}

/// One socket's thread.
struct Listener {
    redirector: Arc<Redirector>,
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    runtime: Handle,
}

impl Listener {
    fn run(self) {
        while !self.stop.load(Ordering::Relaxed) {
            // A question that made us panic is a mistake of ours; the next one deserves its answer all the same.
            if catch_unwind(AssertUnwindSafe(|| self.listen())).is_err() {
                tracing::error!("answering a datagram panicked; going on");
            }
        }
    }

    fn listen(&self) {
        let mut batch = Batch::new(BATCH, LONGEST_DATAGRAM);
        let mut hot = Hot::new(Arc::clone(&self.redirector));
        let mut alert = Alert::new(self.redirector.config.limits.udp_awake);
        while !self.stop.load(Ordering::Relaxed) {
            let idle = Instant::now();
            match batch.receive(&self.socket, alert.awake()) {
                Ok(_) => {
                    let now = Instant::now();
                    alert.waited(now.saturating_duration_since(idle));
                    batch.answer(&self.socket, |query, from, reply| self.answer(&mut hot, now, query, from, reply));
                    hot.flush(now);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => {
                    // An unreachable client shows up here on some systems. It is not ours to mourn, but must not spin.
                    tracing::debug!(%error, "receiving datagrams failed");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn answer(&self, hot: &mut Hot, now: Instant, query: &[u8], from: SocketAddr, reply: &mut Vec<u8>) {
        // Hardly a port is so low.
        if from.port() < 64 && NO_CLIENT.contains(&from.port()) {
            self.redirector.counters.dropped();
            return;
        }
        match hot.answer(now, query, from, reply) {
            Hit::Done => return,
            Hit::Passed => reply.clear(),
        }
        let slot = Arc::clone(&self.redirector.waiting).try_acquire_owned().ok();
        let waited = slot.as_ref().map(|_| Waited::default());
        match self.redirector.respond(now, query, from, Transport::Udp, waited) {
            Outcome::Silence => {}
            Outcome::Reply(bytes) => *reply = bytes,
            Outcome::Wait(known) => {
                let (redirector, socket, query) =
                    (Arc::clone(&self.redirector), Arc::clone(&self.socket), query.to_vec());
                self.runtime.spawn(async move {
                    let reply = answer_later(&redirector, &query, from, Transport::Udp, known).await;
                    if let Some(reply) = reply
                        && let Err(error) = socket.send_to(&reply, from)
                    {
                        tracing::debug!(%from, %error, "sending a reply failed");
                    }
                    drop(slot);
                });
            }
        }
    }
}

/// Whether to stay awake for the next datagram: while most waits are short.
struct Alert {
    longest: Duration,
    /// How many of the last waits were short, a long one taking back two.
    short: u8,
}

impl Alert {
    const fn new(longest: Duration) -> Self {
        Self { longest, short: 0 }
    }

    /// How long to stay awake now.
    const fn awake(&self) -> Duration {
        if self.short < CONVINCED { Duration::ZERO } else { self.longest }
    }

    /// So long was the wait for the last datagram, awake or asleep.
    fn waited(&mut self, wait: Duration) {
        let is_short = wait <= self.longest;
        self.short = if is_short { (self.short + 1).min(2 * CONVINCED) } else { self.short.saturating_sub(2) };
    }
}

/// Short waits in a row after which a thread stays awake. \[guess\]
const CONVINCED: u8 = 8;
/// Ports no resolver asks from: nobody's, and those of services that answer whatever comes (echo, daytime, quote, chargen, time),
/// with which a forged source would have us talk for ever.
const NO_CLIENT: [u16; 6] = [0, 7, 13, 17, 19, 37];
/// Datagrams taken by one call. More gain nothing. \[measured\]
const BATCH: usize = 16;
/// Bytes of a datagram that are looked at. No query is longer.
const LONGEST_DATAGRAM: usize = 4096;
/// How often a thread that hears nothing looks whether it is to stop, where it cannot be woken.
const LOOK_UP: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn d08_ports_that_answer_whatever_comes_are_never_answered() {
        let redirector = Arc::new(crate::foreign_bytes::redirector());
        let listener = Listener {
            redirector: Arc::clone(&redirector),
            socket: Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()),
            stop: Arc::default(),
            runtime: Handle::current(),
        };
        let mut hot = Hot::new(Arc::clone(&redirector));
        let mut is_answered = |port: u16| {
            let (mut reply, from) = (Vec::new(), SocketAddr::from(([203, 0, 113, 53], port)));
            let query = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x04nyud\x07example\0\0\x06\0\x01";
            listener.answer(&mut hot, Instant::now(), query, from, &mut reply);
            !reply.is_empty()
        };
        assert!(!NO_CLIENT.into_iter().any(&mut is_answered));
        assert_eq!(redirector.stats().dropped, 6);
        assert!([53, 1024, 5353].into_iter().all(is_answered));
    }

    #[test]
    fn a_thread_stays_awake_while_most_waits_are_short_and_never_if_it_is_not_to() {
        let (short, long) = (Duration::from_micros(5), Duration::from_micros(6));
        let mut alert = Alert::new(short);
        assert_eq!(alert.awake(), Duration::ZERO);
        (0..100).for_each(|_| alert.waited(short));
        assert_eq!(alert.awake(), short);
        // One pause in a stream of questions does not put it to sleep, questions that are far apart do.
        alert.waited(long);
        assert_eq!(alert.awake(), short);
        (0..4).for_each(|_| alert.waited(long));
        assert_eq!(alert.awake(), Duration::ZERO);
        for wait in [short, long].repeat(50) {
            alert.waited(wait);
            assert_eq!(alert.awake(), Duration::ZERO, "every second wait is long");
        }
        let mut never = Alert::new(Duration::ZERO);
        (0..100).for_each(|_| never.waited(Duration::from_nanos(1)));
        assert_eq!(never.awake(), Duration::ZERO);
    }
}
