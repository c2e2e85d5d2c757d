//! The control socket of a running lab: one JSON object a line, one answer a line. Both ends are here.
//!
//! Requests: `{"do":"status"}`, `{"do":"cut","from":"a,b","to":"c","one_way":false}`, `{"do":"heal","from":"a","to":"b"}`
//! (both patterns absent: everything), `{"do":"slow","host":"a","extra":"20ms"}`, `{"do":"kill","host":"a","signal":"KILL"}`,
//! `{"do":"start","host":"a"}`, `{"do":"down"}`. Answers: `{"ok":true}`, `{"ok":true,"status":{...}}` or
//! `{"ok":false,"message":"..."}`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing, Error},
    lab::Lab,
    router::Change,
    status::Status,
    units,
};

/// What may be asked of a running lab. Hosts are patterns as [`crate::scenario::Scenario::select`] reads them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How is it all?
    Status,
    /// Cut one set from another.
    Cut {
        /// The one side.
        from: String,
        /// The other.
        to: String,
        /// Only from the first to the second.
        #[serde(default)]
        one_way: bool,
    },
    /// Take back cuts between two sets, or everything.
    Heal {
        /// The one side.
        from: Option<String>,
        /// The other.
        to: Option<String>,
    },
    /// Delay all packets of hosts.
    Slow {
        /// Whose.
        host: String,
        /// How much, each way; "0ms" takes it back.
        extra: String,
    },
    /// End the programs of hosts.
    Kill {
        /// Whose.
        host: String,
        /// TERM, KILL, STOP and so on, with or without SIG.
        signal: String,
    },
    /// Start them again.
    Start {
        /// Whose.
        host: String,
    },
    /// Take the lab down.
    Down,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// The control socket of a lab; connections wait from the moment it exists.
pub struct Server<'l> {
    lab: &'l Lab,
    listener: UnixListener,
}

impl<'l> Server<'l> {
    /// Opens the socket.
    pub fn bind(lab: &'l Lab) -> Result<Self, Error> {
        let path = lab.socket();
        let listener = UnixListener::bind(&path).doing(|| format!("listen on {}", path.display()))?;
        listener.set_nonblocking(true).doing(|| format!("listen on {}", path.display()))?;
        Ok(Self { lab, listener })
    }

    /// Serves requests until the lab should end.
    pub fn serve(&self) {
        let (lab, busy) = (self.lab, AtomicUsize::new(0));
        std::thread::scope(|scope| {
            while !lab.stopping().load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
                // Interrupted or not: accept says what there is.
                let _ = poll(&mut fds, 100u8);
                let Ok((stream, _)) = self.listener.accept() else { continue };
                if busy.fetch_add(1, Ordering::Relaxed) >= lab.config().most_control {
                    busy.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let busy = &busy;
                scope.spawn(move || {
                    // A client that goes away is its own business.
                    let _ = converse(lab, &stream);
                    busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
}

/// Asks the lab that listens on `socket`.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Reply, Error> {
    let talk = || -> io::Result<Reply> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        writeln!(stream, "{}", serde_json::to_string(request)?)?;
        let mut line = String::new();
        BufReader::new(stream).take(LONGEST_REPLY).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    let reply = talk().doing(|| format!("ask the lab at {}", socket.display()))?;
    match reply.ok {
        true => Ok(reply),
        false => Err(Error::Refused { message: reply.message.unwrap_or_else(|| "refused".into()) }),
    }
}

fn converse(lab: &Lab, mut stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(stream).take(lab.config().longest_control as u64).read_line(&mut line)?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => handle(lab, request),
        Err(error) => Err(Error::Refused { message: format!("not a request: {error}") }),
    };
    let reply = reply.unwrap_or_else(|error| Reply { ok: false, message: Some(error.to_string()), status: None });
    writeln!(stream, "{}", serde_json::to_string(&reply)?)
}

fn handle(lab: &Lab, request: Request) -> Result<Reply, Error> {
    let scenario = lab.scenario();
    let mut status = None;
    match request {
        Request::Status => status = Some(lab.status()),
        Request::Cut { from, to, one_way } => {
            lab.change(Change::Cut { from: scenario.select(&from)?, to: scenario.select(&to)?, one_way });
        }
        Request::Heal { from: None, to: None } => lab.change(Change::HealAll),
        Request::Heal { from, to } => {
            let side = |pattern: Option<String>| scenario.select(pattern.as_deref().unwrap_or("*"));
            lab.change(Change::Heal { from: side(from)?, to: side(to)? });
        }
        Request::Slow { host, extra } => {
            let extra = units::duration(&extra).map_err(|message| Error::Refused { message })?;
            for host in scenario.select(&host)? {
                lab.change(Change::Slow { host, extra });
            }
        }
        Request::Kill { host, signal } => {
            let signal = signal_named(&signal)?;
            for host in scenario.select(&host)? {
                lab.kill(&scenario.hosts[host.index()].name, signal)?;
            }
        }
        Request::Start { host } => {
            for host in scenario.select(&host)? {
                lab.start(&scenario.hosts[host.index()].name)?;
            }
        }
        Request::Down => lab.stopping().store(true, Ordering::Relaxed),
    }
    Ok(Reply { ok: true, message: None, status })
}

/// `TERM`, `SIGTERM`, `term`.
fn signal_named(name: &str) -> Result<Signal, Error> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&full)
        .map_err(|_| Error::Refused { message: format!("`{name}` is not a signal such as KILL or TERM") })
}

/// A status of 510 hosts is some 200 kB.
const LONGEST_REPLY: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_documented_and_others_refused() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert!(matches!(read(r#"{"do":"cut","from":"a,b","to":"c"}"#), Ok(Request::Cut { one_way: false, .. })));
        assert!(matches!(read(r#"{"do":"heal"}"#), Ok(Request::Heal { from: None, to: None })));
        assert!(read(r#"{"do":"explode"}"#).is_err());
        assert!(read(r#"{"do":"cut","from":"a","to":"b","oneway":true}"#).is_err());
        assert_eq!(signal_named("kill").unwrap(), Signal::SIGKILL);
        assert!(signal_named("SIGWHAT").is_err());
    }

    #[test]
    fn no_line_makes_the_reader_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = serde_json::from_slice::<Request>(bytes);
        });
    }
}
