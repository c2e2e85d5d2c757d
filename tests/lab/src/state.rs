//! Where a running lab can be found: one folder per lab with its lock, its description, its control socket, and one
//! folder per host. The lock tells a living owner from a crashed one; what a crashed one left is swept. The place is the same for
//! everybody: whoever looked elsewhere would take living labs for ruins.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::kill,
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing, Error},
    netns::{self, Namespace},
};

/// The folder of a lab this process owns; dropping it removes the folder.
pub(crate) struct State {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What other processes may know of a running lab, kept as `lab.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl Description {
    fn is_dead(&self) -> bool {
        i32::try_from(self.pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
    }
}

impl State {
    /// Claims the name; what a crashed owner left is swept first.
    pub(crate) fn claim(lab: &str) -> Result<Self, Error> {
        let path = Path::new(LABS).join(lab);
        for _ in 0..100 {
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
            let Some(lock) = lock(&path, true)? else {
                let owner = description(lab);
                if owner.as_ref().is_some_and(Description::is_dead) {
                    // A program that it was just starting holds the lock until it is on its way.
                    std::thread::sleep(HELD_ON);
                    continue;
                }
                return Err(Error::AlreadyUp { name: lab.into(), pid: owner.map_or(0, |known| known.pid) });
            };
            // A dying owner removes the folder under our feet: what we hold must still be what the path names.
            let held = lock.metadata().map(|held| held.ino()).ok();
            if held.is_some() && held == fs::metadata(path.join(LOCK)).map(|named| named.ino()).ok() {
                sweep(lab)?;
                let state = Self { path, _lock: lock };
                state.forget_all_but_the_lock()?;
                return Ok(state);
            }
        }
        Err(Error::Refused { message: format!("the lab `{lab}` is being taken up and down by somebody else") })
    }

    /// Writes `lab.json`.
    pub(crate) fn describe(&self, lab: &str) -> Result<(), Error> {
        let description = Description { name: lab.into(), pid: std::process::id() };
        let text = serde_json::to_string(&description).doing(|| "describe the lab".into())?;
        fs::write(self.path.join(DESCRIPTION), text).doing(|| format!("write in {}", self.path.display()))
    }

    /// The folder of one host, made if need be.
    pub(crate) fn host(&self, host: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(host);
        fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Where the control socket listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    fn forget_all_but_the_lock(&self) -> Result<(), Error> {
        let forget = || -> std::io::Result<()> {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false if entry.file_name() == LOCK => {}
                    false => fs::remove_file(entry.path())?,
                }
            }
            Ok(())
        };
        forget().doing(|| format!("clear {}", self.path.display()))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The lock last: as long as it is there, others see a lab that is being taken down, not a ruin.
        let _ = self.forget_all_but_the_lock();
        let _ = fs::remove_dir_all(&self.path);
        // Succeeds only for the last lab, which is the point.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// The folder of one host of a running lab of another process.
pub(crate) fn host_folder(lab: &str, host: &str) -> PathBuf {
    Path::new(LABS).join(lab).join(host)
}

/// The control socket of a lab of another process.
pub(crate) fn socket(lab: &str) -> PathBuf {
    Path::new(LABS).join(lab).join(SOCKET)
}

/// The labs whose owners live.
pub(crate) fn living() -> Vec<String> {
    known().into_iter().filter(|lab| matches!(lock(&Path::new(LABS).join(lab), false), Ok(None))).collect()
}

/// Whether a lab's owner lives or is just leaving; false for a ruin, which is for [`sweep_stale`].
pub(crate) fn is_held(lab: &str) -> bool {
    let folder = Path::new(LABS).join(lab);
    match lock(&folder, false) {
        Ok(lock) => lock.is_none(),
        Err(_) => folder.exists(),
    }
}

/// Removes what crashed owners left; returns the names of their labs.
pub(crate) fn sweep_stale() -> Result<Vec<String>, Error> {
    let mut swept = Vec::new();
    let mut labs = known();
    labs.extend(netns::labs());
    labs.sort();
    labs.dedup();
    for lab in labs {
        match State::claim(&lab) {
            Ok(state) => {
                drop(state);
                swept.push(lab);
            }
            Err(Error::AlreadyUp { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(swept)
}

/// Who runs this lab.
pub(crate) fn description(lab: &str) -> Option<Description> {
    let text = fs::read_to_string(Path::new(LABS).join(lab).join(DESCRIPTION)).ok()?;
    serde_json::from_str(&text).ok()
}

fn known() -> Vec<String> {
    let entries = fs::read_dir(LABS).into_iter().flatten().flatten();
    let labs = entries.filter(|entry| entry.path().join(LOCK).exists());
    let mut names: Vec<String> = labs.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `None` if somebody else holds it. Only a claim makes the file: whoever merely asks must not put it back into a folder that
/// its owner is removing.
fn lock(folder: &Path, make: bool) -> Result<Option<Flock<File>>, Error> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(make).truncate(false).write(true).open(&path);
    let file = file.doing(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).doing(|| format!("lock {}", path.display())),
    }
}

/// Ends what runs in a lab's namespaces and takes their names away, which is all that processes in them can be found by.
fn sweep(lab: &str) -> Result<(), Error> {
    let namespaces = Namespace::of_lab(lab);
    let left = netns::empty(&namespaces);
    if !left.is_empty() {
        let pids: Vec<String> = left.iter().map(ToString::to_string).collect();
        return Err(Error::Undead { lab: lab.into(), pids: pids.join(", ") });
    }
    namespaces.iter().for_each(Namespace::remove);
    Ok(())
}

/// Short enough for the path of a Unix socket, and gone after a restart as the namespaces are.
const LABS: &str = "/run/atoll-lab";
const LOCK: &str = "lock";
/// Pause between looks at a lock that outlives its owner; a hundred of them are waited.
const HELD_ON: Duration = Duration::from_millis(100);
const DESCRIPTION: &str = "lab.json";
const SOCKET: &str = "control.sock";
