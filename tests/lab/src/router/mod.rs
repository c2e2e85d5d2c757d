//! The WAN router: one thread that moves packets between the hosts' TUN devices, each held back by [`wan::Wan`].
//!
//! ```text
//!  host a  -- wan0 --> read --> Wan: uplink, distance, downlink --> due --> write -- wan0 -->  host b
//!                                 ^ changes (cut, heal, slow) from the control socket
//! ```
//!
//! Read [`wan::Wan`] for what happens to a packet; this file owns the thread, its clock and the devices. The thread asks for a
//! real-time scheduler, so that busy hosts on the same cores do not add to the distances; without one it still runs.

mod link;
mod wan;
mod watch;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{prctl, time::TimeSpec},
};
use serde::{Deserialize, Serialize};

pub(crate) use self::link::Link;
pub(crate) use self::wan::{Access, Wan};
pub use self::wan::{Counters, Weather};
pub(crate) use self::watch::Watch;
use crate::address::HostId;

/// A change to the wide area while it runs.
#[derive(Clone, Debug)]
pub enum Change {
    /// Drops everything between two sets, both ways or only from the first to the second.
    Cut {
        /// The one side.
        from: Vec<HostId>,
        /// The other side.
        to: Vec<HostId>,
        /// Whether the way back stays open.
        one_way: bool,
    },
    /// Takes back the cuts between two sets, both ways.
    Heal {
        /// The one side.
        from: Vec<HostId>,
        /// The other side.
        to: Vec<HostId>,
    },
    /// Takes back every cut and every slowness.
    HealAll,
    /// Adds a delay to each packet from and to a host.
    Slow {
        /// Whose packets.
        host: HostId,
        /// How much later, each way; zero takes it back.
        extra: Duration,
    },
}

/// What the router has done so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// By host, in scenario order.
    pub counters: Vec<Counters>,
    /// Ordered pairs cut at present.
    pub cuts: usize,
    /// Packets under way at present.
    pub under_way: usize,
    /// 95 of 100 packets were handed over at most this late, in microseconds (rounded up to a power of two).
    pub late_p95_us: u64,
    /// The latest hand-over of all, in microseconds.
    pub late_worst_us: u64,
    /// Whether the thread runs under the real-time scheduler.
    pub realtime: bool,
}

/// A handle to the running router; dropping it stops the thread and thereby removes the devices.
pub struct Router {
    orders: SyncSender<Order>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Change(Change, SyncSender<()>),
    Report(SyncSender<Report>),
    Watch(SyncSender<Watch>),
    Stop,
}

impl Router {
    /// Starts the thread over one device per host, in scenario order.
    pub(crate) fn start(devices: Vec<File>, wan: Wan, realtime: bool) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let (orders, inbox) = sync_channel(64);
        let thread = std::thread::Builder::new().name("wan-router".into()).spawn(move || {
            // A timer is rounded by its slack, 50 us unless told otherwise; failing that we are merely later.
            let _ = prctl::set_timerslack(1);
            let realtime = realtime && crate::sys::run_first().is_ok();
            let report = Report { realtime, ..Report::default() };
            let devices = devices.into_iter().map(Some).collect();
            Loop {
                devices,
                wan,
                inbox,
                woken,
                start: Instant::now(),
                late: [0; 32],
                late_worst: Duration::ZERO,
                report,
            }
            .run();
        })?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Applies a change; when this returns it is in force.
    pub fn change(&self, change: Change) {
        let (done, applied) = sync_channel(1);
        self.order(Order::Change(change, done));
        // An error means that the thread has ended, and with it the wide area.
        let _ = applied.recv();
    }

    /// What has happened so far; empty once the router has stopped.
    pub fn report(&self) -> Report {
        let (sender, receiver) = sync_channel(1);
        self.order(Order::Report(sender));
        receiver.recv().unwrap_or_default()
    }

    /// What was noted of DNS so far.
    pub(crate) fn watch(&self) -> Watch {
        let (sender, receiver) = sync_channel(1);
        self.order(Order::Watch(sender));
        receiver.recv().unwrap_or_default()
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            // A full pipe means that a wake-up is already waiting.
            let _ = (&self.wake).write(&[1]);
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    /// `None` once a device has failed: its namespace was taken away from outside.
    devices: Vec<Option<File>>,
    wan: Wan,
    inbox: Receiver<Order>,
    woken: UnixStream,
    start: Instant,
    /// How many deliveries were late by less than 2^i microseconds (and by 2^(i-1) or more).
    late: [u64; 32],
    late_worst: Duration,
    report: Report,
}

impl Loop {
    fn run(mut self) {
        let mut readable = Vec::with_capacity(self.devices.len());
        loop {
            self.deliver();
            if self.wait(&mut readable).is_err() {
                return;
            }
            for at in readable.drain(..) {
                self.read(at);
            }
            while let Ok(order) = self.inbox.try_recv() {
                match order {
                    Order::Change(change, done) => {
                        apply(&mut self.wan, change);
                        let _ = done.send(());
                    }
                    Order::Report(sender) => drop(sender.send(self.summary())),
                    Order::Watch(sender) => drop(sender.send(self.wan.watch(self.start.elapsed()))),
                    Order::Stop => return,
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(delivery) = self.wan.poll_delivery(self.start.elapsed()) {
            let late = self.start.elapsed().saturating_sub(delivery.due);
            self.late_worst = self.late_worst.max(late);
            let bucket = (128 - late.as_micros().leading_zeros()).min(31);
            self.late[bucket as usize] += 1;
            let taken = match &mut self.devices[delivery.to.index()] {
                Some(device) => device.write(&delivery.packet).is_ok(),
                None => false,
            };
            if !taken {
                self.wan.handle_refusal(delivery.to);
            }
        }
    }

    /// Sleeps until a device or an order has something, or the next delivery is due.
    fn wait(&self, readable: &mut Vec<usize>) -> nix::Result<()> {
        let timeout = self.wan.poll_timeout().map(|due| TimeSpec::from(due.saturating_sub(self.start.elapsed())));
        // A lost device is watched through the wake-up pipe, where it finds nothing; so positions stay.
        let woken = self.woken.as_fd();
        let watched = self.devices.iter().map(|device| device.as_ref().map_or(woken, File::as_fd));
        let watched = watched.chain([woken]);
        let mut fds: Vec<PollFd<'_>> = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let ready = fds.iter().enumerate().filter(|(_, fd)| fd.any() == Some(true)).map(|(at, _)| at);
        readable.extend(ready);
        Ok(())
    }

    /// Reads what one device holds, at most [`BATCH`] packets so that the others and the deliveries get their turn.
    fn read(&mut self, at: usize) {
        if at == self.devices.len() {
            let mut wakes = [0; 64];
            while (&self.woken).read(&mut wakes).is_ok_and(|read| read > 0) {}
            return;
        }
        let Some(from) = HostId::new(at) else { return };
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let Some(device) = &mut self.devices[at] else { return };
            let length = match device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.devices[at] = None;
                    break;
                }
            };
            self.wan.handle_packet(self.start.elapsed(), from, buffer[..length].to_vec());
        }
        self.deliver();
    }

    fn summary(&self) -> Report {
        let all: u64 = self.late.iter().sum();
        let mut seen = 0;
        let p95 = self.late.iter().position(|count| {
            seen += count;
            seen * 100 >= all * 95
        });
        Report {
            counters: self.wan.counters().cloned().collect(),
            cuts: self.wan.cuts(),
            under_way: self.wan.under_way(),
            late_p95_us: if all == 0 { 0 } else { 1 << p95.unwrap_or(0) },
            late_worst_us: u64::try_from(self.late_worst.as_micros()).unwrap_or(u64::MAX),
            realtime: self.report.realtime,
        }
    }
}

fn apply(wan: &mut Wan, change: Change) {
    let mut set = |from: &[HostId], to: &[HostId], cut| {
        from.iter().for_each(|from| to.iter().for_each(|to| wan.set_cut(*from, *to, cut)));
    };
    match change {
        Change::Cut { from, to, one_way } => {
            set(&from, &to, true);
            if !one_way {
                set(&to, &from, true);
            }
        }
        Change::Heal { from, to } => {
            set(&from, &to, false);
            set(&to, &from, false);
        }
        Change::HealAll => wan.heal(),
        Change::Slow { host, extra } => wan.set_slow(host, extra),
    }
}

/// Packets read from one device before the deliveries are looked at again.
const BATCH: usize = 16;
/// The devices' MTU is 1500; a longer packet would be cut short by the read, which the kernel never sends.
const LONGEST: usize = 2048;
