//! A lab's programs as one family: a PID namespace whose first process is ours and ends with the lab, however that ends. The kernel
//! then kills all the others in it, so that not even kill -9 of the lab leaves a program running.
//!
//! The first process is this program again, as `atoll-lab init`. It takes in orphans, and waits until its stdin, a pipe of which the
//! lab alone has the other end, is closed. `/proc` stays the machine's for the lab's own programs: there each has the pid by which the lab
//! knows it. Commands of `lab exec` are of the family too, and see its pids (`exec`).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::error::{Doing, Error};

/// A PID namespace; dropping it kills all that is in it.
pub(crate) struct Family {
    first: Child,
    namespace: File,
}

impl Family {
    /// Makes the namespace and its first process. `program` is `atoll-lab`; `None`: this process's own.
    pub(crate) fn create(program: Option<&Path>) -> Result<Self, Error> {
        let mut command = Command::new(program.unwrap_or_else(|| Path::new("/proc/self/exe")));
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        // A thread of its own: once its children live elsewhere it may make no more threads.
        let spawned = std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> io::Result<Child> {
                unshare(CloneFlags::CLONE_NEWPID)?;
                command.spawn()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread died")))
        });
        let mut first = spawned.doing(|| "start the first process of the lab's PID namespace".into())?;
        let mut line = String::new();
        if let Some(pipe) = first.stdout.take() {
            // Whatever it is, another line than ours says that this is another program.
            let _ = BufReader::new(pipe).take(READY.len() as u64).read_line(&mut line);
        }
        let namespace = File::open(format!("/proc/{}/ns/pid", first.id()));
        match namespace {
            Ok(namespace) if line == READY => Ok(Self { first, namespace }),
            opened => {
                let _ = first.kill();
                let _ = first.wait();
                opened.doing(|| "open the lab's PID namespace".into())?;
                let program = format!("{}", command.get_program().display());
                Err(Error::Refused { message: format!("`{program}` is not the lab's own program") })
            }
        }
    }

    /// From here on the calling thread's children are of this family. It can make no more threads.
    pub(crate) fn adopt(&self) -> Result<(), Error> {
        enter(&self.namespace)
    }

    /// Processes outside of the family, other than this one, with children in it: those of `lab exec`.
    fn parents(&self) -> Vec<Pid> {
        let Ok(family) = self.namespace.metadata().map(|namespace| namespace.ino()) else { return Vec::new() };
        let is_in = |pid: Pid| fs::metadata(format!("/proc/{pid}/ns/pid")).is_ok_and(|its| its.ino() == family);
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        let parents = all.filter(|pid| is_in(*pid)).filter_map(|pid| stat_of(pid).map(|(_, parent)| parent));
        let outside: BTreeSet<Pid> =
            parents.filter(|pid| pid.as_raw() > 1 && *pid != Pid::this() && !is_in(*pid)).collect();
        outside.into_iter().collect()
    }

    /// The pid of the first process, by which processes that the lab did not start can [`join`].
    pub(crate) fn first(&self) -> u32 {
        self.first.id()
    }
}

/// From here on the calling thread's children are of the family of a running lab; `first` is the pid of its first process. It can make
/// no more threads.
pub(crate) fn join(first: u32) -> Result<(), Error> {
    let path = format!("/proc/{first}/ns/pid");
    enter(&File::open(&path).doing(|| format!("open {path}"))?)
}

fn enter(namespace: &File) -> Result<(), Error> {
    setns(namespace, CloneFlags::CLONE_NEWPID).doing(|| "enter the lab's PID namespace".into())
}

impl Drop for Family {
    fn drop(&mut self) {
        let parents = self.parents();
        let _ = self.first.kill();
        // It is gone when all others are, and have been waited for: by this process, and by those outside that started some.
        let deadline = Instant::now() + GONE;
        while matches!(self.first.try_wait(), Ok(None)) && Instant::now() < deadline {
            for parent in parents.iter().filter(|parent| stat_of(**parent).is_some_and(|(state, _)| state == 'T')) {
                // Stopped in a terminal, it would wait for nobody.
                let _ = kill(*parent, Signal::SIGCONT);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A process's state, one letter, and its parent.
fn stat_of(pid: Pid) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name stands in brackets, and may have any in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, Pid::from_raw(fields.next()?.parse().ok()?)))
}

/// What `atoll-lab init` does, as the first process of a namespace.
pub(crate) fn first_process() {
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    if stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        return;
    }
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        // Nothing is ever written to the pipe: what there is to read is its end.
        if poll(&mut fds, REAPED).is_ok_and(|ready| ready > 0) {
            return;
        }
        while waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
    }
}

/// The hidden subcommand, and what it says once it is there.
const COMMAND: &str = "init";
const READY: &str = "atoll-lab init\n";
/// How often orphans that ended are taken in, in milliseconds.
const REAPED: u16 = 500;
/// How long it may take until the killed are gone, on a busy machine.
const GONE: Duration = Duration::from_secs(20);
