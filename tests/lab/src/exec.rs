//! `lab exec`: a command with the network, the resolver and the family of a host of a running lab. It ends with the lab, however that ends,
//! and so does whatever it leaves behind, wherever that moves. It has a `/proc` of the family's own: the pids that it sees, those in
//! the pid files of the lab's programs among them, are of the lab, and a careless `pkill` ends nothing else.
//!
//! A process cannot change its own PID namespace. So there are two: the one that was asked for stays outside as the parent, hands signals
//! on, and ends as the command does; this program again, as `atoll-lab become`, goes inside and becomes the command.

use std::{
    convert::Infallible,
    io::{self, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, ExitStatus},
};

use nix::{
    errno::Errno,
    libc::SI_KERNEL,
    mount::{MsFlags, mount},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};

use crate::{
    control::{self, Request},
    error::{Doing, Error},
    family,
    netns::{self, Namespace},
    state,
};

/// Runs a command in a host; returns as the command ended, 128 and the number of the signal if one ended it.
pub(crate) fn run(lab: &str, host: &str, command: &[String]) -> Result<ExitCode, Error> {
    let status = control::ask(&state::socket(lab), &Request::Status)?.status;
    let status = status.filter(|status| status.hosts.iter().any(|known| known.name == host));
    family::join(status.ok_or_else(|| Error::NoHost { name: host.into() })?.init)?;
    // What comes before the child is there waits for it.
    let heard: SigSet = HANDED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
    heard.thread_block().doing(|| "hold signals back".into())?;
    let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC).doing(|| "wait for signals".into())?;
    let mut own = Command::new("/proc/self/exe");
    let child = own.args(["--lab", lab, BECOME, host, "--"]).args(command).spawn();
    follow(child.doing(|| "start a process in the lab".into())?, &signals)
}

/// What `atoll-lab become` does: it goes into a host and becomes the command; returns only if it cannot.
pub(crate) fn become_it(lab: &str, host: &str, command: &[String]) -> Result<Infallible, Error> {
    // Nobody would wait for it, or could tell it to end, once its parent is gone.
    prctl::set_pdeathsig(Signal::SIGKILL).doing(|| "end with the parent".into())?;
    Namespace::existing(lab, host).enter()?;
    netns::hide_resolvers(&state::host_folder(lab, host).join("resolv.conf"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(error) = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
        // Some containers refuse it to user namespaces.
        let _ =
            writeln!(io::stderr(), "lab: {error} to mount a /proc of the lab's own: the pids in it are the machine's");
    }
    SigSet::empty().thread_set_mask().doing(|| "let signals through".into())?;
    let (program, arguments) = command.split_first().ok_or_else(|| Error::Refused { message: "no command".into() })?;
    Err(Command::new(program).args(arguments).exec()).doing(|| format!("run {program}"))
}

/// Waits for the child, and hands it the signals that this process alone was sent: those of the terminal go to both.
fn follow(mut child: Child, signals: &SignalFd) -> Result<ExitCode, Error> {
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    loop {
        if let Some(status) = child.try_wait().doing(|| "wait for the command".into())? {
            return Ok(code_of(status));
        }
        let heard = match signals.read_signal() {
            Ok(Some(heard)) => heard,
            // Stopped and gone on meanwhile.
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).doing(|| "wait for signals".into()),
        };
        let signal = i32::try_from(heard.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        if let (Some(signal), Ok(pid)) = (signal, pid)
            && signal != Signal::SIGCHLD
            && heard.ssi_code != SI_KERNEL
        {
            // Not waited for yet, so the pid is still its own.
            let _ = kill(pid, signal);
        }
    }
}

fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// The hidden subcommand.
const BECOME: &str = "become";
const HANDED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
