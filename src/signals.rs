//! What an operator may send to a running program: the signals that end it, SIGUSR1, by which logs are opened anew, and, for whom has
//! a configuration to read again, SIGHUP. Where there are no signals there is Ctrl-C.

use std::io;

/// The signals, waited for.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
    /// Not taken over unless asked for: a program on a terminal ends with it.
    reread: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Those that end, and SIGUSR1.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            reread: None,
        })
    }

    /// SIGHUP as well.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn with_reread(self) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { reread: Some(signal(SignalKind::hangup())?), ..self })
    }

    /// Waits for one that ends; meanwhile does what the others ask for.
    pub(crate) async fn end(&mut self, reopen: impl Fn(), reread: impl Fn()) {
        loop {
            let hangup = or_never(self.reread.as_mut().map(tokio::signal::unix::Signal::recv));
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => reopen(),
                _ = hangup => reread(),
            }
        }
    }
}

/// Ctrl-C alone.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn with_reread(self) -> io::Result<Self> {
        Ok(self)
    }

    pub(crate) async fn end(&mut self, _reopen: impl Fn(), _reread: impl Fn()) {
        // If it cannot be waited for, the program ends by other means.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What comes of a future, if there is one; else never.
pub(crate) async fn or_never<T>(asked: Option<impl Future<Output = T>>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}
