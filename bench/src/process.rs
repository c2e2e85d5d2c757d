//! A server under measurement: started on cores of its own, asked what it has used, ended by its pid, also if the bench itself is
//! told to end: what it left behind would go on using the machine, and hold the locks that it inherited.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// A child process that ends when this is dropped, and its own children with it.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a command as the leader of a process group, on these cores only; its output goes nowhere.
    pub(crate) fn spawn(command: &mut Command, cores: &[usize]) -> Result<Self, String> {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let process = Self { child };
        running().push(process.id());
        pin(process.id(), cores)?;
        Ok(process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and system time of it and of all its descendants that live, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, String> {
        family(self.id()).iter().map(|id| cpu_seconds(*id)).sum()
    }

    /// Resident memory of it and of all its descendants, in bytes. Pages that they share count once each.
    pub(crate) fn resident(&self) -> Result<f64, String> {
        family(self.id()).iter().map(|id| resident(*id)).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(self.id());
        let _ = self.child.wait();
        running().retain(|id| *id != self.id());
    }
}

/// Ends everything that was started, then this process, when that is told to end.
pub(crate) fn end_with_us() -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let entered = runtime.enter();
    let signals =
        signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = signals.map_err(|error| error.to_string())?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        running().iter().for_each(|id| end(*id));
        std::process::exit(ENDED);
    });
    Ok(())
}

/// The ids of the processes that live.
fn running() -> std::sync::MutexGuard<'static, Vec<u32>> {
    static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a process of ours and its group.
fn end(process: u32) {
    if let Ok(id) = i32::try_from(process) {
        let _ = nix::sys::signal::killpg(Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
    }
}

/// The exit code of one that was told to end.
const ENDED: i32 = 143;

/// Keeps a process, and what it starts from now on, on these cores.
pub(crate) fn pin(process: u32, cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).map_err(|error| format!("core {core}: {error}"))?;
    }
    let id = i32::try_from(process).map_err(|error| error.to_string())?;
    sched_setaffinity(Pid::from_raw(id), &set).map_err(|error| format!("cannot pin {process}: {error}"))
}

/// The cores that this thread may run on.
pub(crate) fn cores() -> Result<Vec<usize>, String> {
    let set =
        sched_getaffinity(Pid::from_raw(0)).map_err(|error| format!("no word of this thread's cores: {error}"))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect())
}

/// A process and its living descendants.
fn family(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(id) = found.get(next).copied() {
        next += 1;
        for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    found
}

/// Nanoseconds on a core, summed over the living threads.
fn cpu_seconds(process: u32) -> Result<f64, String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).map_err(|error| format!("process {process}: {error}"))?;
    let mut nanoseconds = 0.0;
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e9)
}

pub(crate) fn resident(process: u32) -> Result<f64, String> {
    let text =
        fs::read_to_string(format!("/proc/{process}/status")).map_err(|error| format!("process {process}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok());
    Ok(kibibytes.unwrap_or(0.0) * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_use_its_core() {
        let process = Process::spawn(Command::new("sh").args(["-c", "while :; do :; done"]), &[0]).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while process.cpu_seconds().unwrap() < 0.05 {
            assert!(std::time::Instant::now() < deadline, "a loop that used no time");
            std::thread::yield_now();
        }
        assert!(process.resident().unwrap() > 0.0);
    }

    #[test]
    fn the_cores_of_a_thread_are_those_it_was_pinned_to() {
        let all = cores().unwrap();
        let last = *all.last().unwrap();
        let pinned = std::thread::spawn(move || pin(0, &[last]).and_then(|()| cores())).join().unwrap();
        assert_eq!(pinned, Ok(vec![last]));
        assert_eq!(cores().unwrap(), all);
    }

    #[test]
    fn what_it_started_ends_with_it() {
        let process = Process::spawn(Command::new("sh").args(["-c", "sleep 60 & wait"]), &[0]).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while family(process.id()).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "the child was never seen");
            std::thread::yield_now();
        }
        let child = family(process.id())[1];
        drop(process);
        while fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(std::time::Instant::now() < deadline, "the child lives on");
            std::thread::yield_now();
        }
    }
}
