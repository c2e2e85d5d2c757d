//! How a front ends. The first signal closes warm: nobody new, what runs finishes, with its progress printed, for as long as the
//! grace lasts. The second closes cold.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{amount::shown, listen::Front, meter::Meter};
use crate::out::say;

/// The signals by which an operator ends a program, and the one that reopens logs.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for one that ends, doing `reopen` for each that asks for it.
    pub(crate) async fn end(&mut self, reopen: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => reopen(),
            }
        }
    }
}

/// Elsewhere there is Ctrl-C.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn end(&mut self, _reopen: impl Fn()) {
        // If it cannot be waited for, the program ends by other means.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes nobody new and lets what runs finish for so long, saying how far it is. True if all finished.
pub(crate) async fn warm_close(front: Front, meter: &Meter, grace: Duration) -> bool {
    front.close();
    let begun = Instant::now();
    let mut told = None;
    let finished = loop {
        let running = meter.in_flight();
        if running == 0 {
            break true;
        }
        let passed = begun.elapsed();
        if passed >= grace {
            break false;
        }
        if told != Some(passed.as_secs()) {
            told = Some(passed.as_secs());
            let left = (grace - passed).as_secs();
            say(format_args!("leaving: {running} downloads run, {} to go, at most {left} s", shown(meter.left())));
        }
        sleep(LOOK).await;
    };
    // What is not a download (a page, an idle connection) gets a moment.
    front.finish(if finished { LAST } else { Duration::ZERO }).await;
    say(if finished { "all downloads finished" } else { "the deadline is over: what still ran was cut" });
    finished
}

/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(50);

/// For connections without a download to end by themselves.
const LAST: Duration = Duration::from_millis(500);
