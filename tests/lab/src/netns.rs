//! Hosts as network namespaces: made, entered, emptied and removed. Leaves what runs in them to [`crate::lab`], and whether anything
//! leads out of them to [`crate::escape`].
//!
//! A namespace is named `atoll.LAB.HOST` and bound in /run/netns, so that `ip netns` knows it too. It holds `lo` and
//! one TUN device, `wan0`, with routes to the lab's two ranges and to nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    address::HostId,
    error::{Doing, Error},
    escape::{self, DEVICE},
    family::Family,
};

/// A network namespace that the lab has made.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace of a host.
    pub(crate) fn create(lab: &str, host: &str) -> Result<Self, Error> {
        let name = format!("{}{host}", prefix(lab));
        run_ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// The namespaces of a lab that exist, whoever made them.
    pub(crate) fn of_lab(lab: &str) -> Vec<Self> {
        all().into_iter().filter(|name| name.starts_with(&prefix(lab))).map(|name| Self { name }).collect()
    }

    /// The namespace of a host of a running lab.
    pub(crate) fn existing(lab: &str, host: &str) -> Self {
        Self { name: format!("{}{host}", prefix(lab)) }
    }

    /// As `ip netns` knows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the device `wan0`, gives it the host's addresses and routes, and returns its other end.
    pub(crate) fn connect(&self, host: HostId) -> Result<File, Error> {
        self.within(|| {
            let device = open_device()?;
            let (v4, v6) = (host.v4(), host.v6());
            run_ip_batch(&format!(
                "link set lo up\n\
                 link set wan0 mtu 1500 txqueuelen 2000 up\n\
                 addr add {v4}/32 dev wan0\n\
                 addr add {v6}/128 dev wan0 nodad\n\
                 route add 198.18.0.0/15 dev wan0 src {v4}\n\
                 route add 2001:db8::/32 dev wan0 src {v6}\n"
            ))?;
            // As a machine under systemd has it: unprivileged ICMP echo sockets; in a user namespace for its one group.
            let open = |groups: &str| fs::write("/proc/sys/net/ipv4/ping_group_range", groups);
            open("0 2147483647").or_else(|_| open("0 0")).doing(|| "open ping sockets".into())?;
            // Whatever the machine itself prefers, so that a scenario's figures are alike everywhere; a kernel without it, or a user
            // namespace that may not choose it, keeps its own.
            drop(fs::write("/proc/sys/net/ipv4/tcp_congestion_control", CONGESTION_CONTROL));
            Ok(device)
        })?
    }

    /// Runs `work` on a thread inside the namespace; sockets it makes stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace for good.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        let enter = || -> io::Result<()> { Ok(setns(File::open(self.path())?, CloneFlags::CLONE_NEWNET)?) };
        enter().doing(|| format!("enter the namespace {}", self.name))
    }

    /// Starts a program inside, of this family, with `resolv_conf` in place of the machine's.
    pub(crate) fn spawn(&self, command: &mut Command, resolv_conf: &Path, family: &Family) -> Result<Child, Error> {
        self.within(|| {
            hide_resolvers(resolv_conf)?;
            family.adopt()?;
            command.spawn().doing(|| format!("start {}", command.get_program().display()))
        })?
    }

    /// Refuses if the host can reach anything outside the lab.
    pub(crate) fn check_closed(&self, host: &str) -> Result<(), Error> {
        match self.within(escape::way_out)?? {
            Some(way) => Err(Error::Escape { host: host.into(), way }),
            None => Ok(()),
        }
    }

    /// Takes the name away; the namespace ends with its last process and device.
    pub(crate) fn remove(&self) {
        // Either may have been done by a crashed or racing `down` before.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        let _ = fs::remove_file(self.path());
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMED).join(&self.name)
    }
}

/// The processes inside each of these namespaces, by position; never this process.
pub(crate) fn processes(namespaces: &[Namespace]) -> Vec<Vec<Pid>> {
    let mut found = vec![Vec::new(); namespaces.len()];
    let place = |(at, namespace): (usize, &Namespace)| Some((fs::metadata(namespace.path()).ok()?.ino(), at));
    let places: BTreeMap<u64, usize> = namespaces.iter().enumerate().filter_map(place).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
        let inside = fs::metadata(entry.path().join("ns/net")).ok().and_then(|at| places.get(&at.ino()));
        if let (Some(at), Ok(pid)) = (inside, i32::try_from(pid)) {
            found[*at].push(Pid::from_raw(pid));
        }
    }
    found
}

/// Kills whatever is inside these namespaces until nothing is; returns who would not end. On a busy machine the killed take
/// seconds to go.
pub(crate) fn empty(namespaces: &[Namespace]) -> Vec<Pid> {
    let deadline = Instant::now() + KILLED;
    loop {
        let pids = processes(namespaces).concat();
        if pids.is_empty() || Instant::now() > deadline {
            return pids;
        }
        for pid in pids {
            // It may be gone already.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The names of all labs that have namespaces.
pub(crate) fn labs() -> Vec<String> {
    let lab = |name: &String| Some(name.strip_prefix(OURS)?.split_once('.')?.0.to_owned());
    let mut labs: Vec<String> = all().iter().filter_map(lab).collect();
    labs.dedup();
    labs
}

/// Fails early, before anything is made, if this process may not make namespaces.
pub(crate) fn check_privilege() -> Result<(), Error> {
    // A thread of its own, which ends with the namespaces it may have made.
    let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let tried = std::thread::spawn(move || unshare(all)).join();
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Privilege { why: format!("unshare: {}", error.desc()) }),
        Err(_) => Err(Error::Privilege { why: "unshare could not be tried".into() }),
    }
}

/// Fails early if TUN devices cannot be made, before a scenario is blamed for it. Tried in a namespace of its own, which ends with the
/// attempt.
pub(crate) fn check_devices() -> Result<(), Error> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).doing(|| "make a network namespace".into())?;
        open_device().map(drop)
    };
    let died = |_| Err(Error::Tun { why: "it could not be tried".into() });
    std::thread::spawn(attempt).join().unwrap_or_else(died)
}

fn open_device() -> Result<File, Error> {
    crate::sys::open_tun(DEVICE).map_err(|error| Error::Tun { why: error.to_string() })
}

/// Puts `resolv_conf` over the machine's, for the calling thread and what it starts.
pub(crate) fn hide_resolvers(resolv_conf: &Path) -> Result<(), Error> {
    let hide = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
        mount(Some(resolv_conf), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    hide().doing(|| "put the host's own /etc/resolv.conf in place".into())
}

fn prefix(lab: &str) -> String {
    format!("{OURS}{lab}.")
}

fn all() -> Vec<String> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(OURS));
    names.sort();
    names
}

pub(crate) fn run_ip(arguments: &[&str]) -> Result<(), Error> {
    finish(Command::new("ip").args(arguments).stdin(Stdio::null()), None)
}

fn run_ip_batch(lines: &str) -> Result<(), Error> {
    finish(Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()), Some(lines))
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<(), Error> {
    let mut run = || -> io::Result<()> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
    };
    run().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::MissingProgram { host: "every".into(), program: "ip".into(), package: "iproute2".into() }
        }
        _ => Error::Io { doing: "set up a network namespace with `ip`".into(), source: error },
    })
}

const OURS: &str = "atoll.";
const NAMED: &str = "/run/netns";
/// How long a process may take to end after SIGKILL.
const KILLED: Duration = Duration::from_secs(30);

/// How the hosts' TCP shares narrow wires: as most systems do unless told otherwise (RFC 9438). BBR's first version fills a short queue
/// before a narrow wire however much of it is dropped, the acknowledgements of what comes the other way included.
const CONGESTION_CONTROL: &str = "cubic";
