//! Where a running lab can be found: one folder per lab with its lock, its description, its control socket, and one
//! folder per host. The lock tells a living owner from a crashed one; what a crashed one left is swept.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
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

impl State {
    /// Claims the name; what a crashed owner left is swept first.
    pub(crate) fn claim(config: &Config, lab: &str) -> Result<Self, Error> {
        let path = config.state.join(lab);
        for _ in 0..100 {
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
            let Some(lock) = lock(&path)? else {
                let pid = description(config, lab).map_or(0, |known| known.pid);
                return Err(Error::AlreadyUp { name: lab.into(), pid });
            };
            // A dying owner removes the folder under our feet: what we hold must still be what the path names.
            let held = lock.metadata().map(|held| held.ino()).ok();
            if held.is_some() && held == fs::metadata(path.join(LOCK)).map(|named| named.ino()).ok() {
                sweep(lab);
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
        let _ = fs::remove_dir_all(&self.path);
        // Succeeds only for the last lab, which is the point.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// The folder of one host of a running lab of another process.
pub(crate) fn host_folder(config: &Config, lab: &str, host: &str) -> PathBuf {
    config.state.join(lab).join(host)
}

/// The control socket of a lab of another process.
pub(crate) fn socket(config: &Config, lab: &str) -> PathBuf {
    config.state.join(lab).join(SOCKET)
}

/// The labs whose owners live.
pub(crate) fn living(config: &Config) -> Vec<String> {
    known(config).into_iter().filter(|lab| matches!(lock(&config.state.join(lab)), Ok(None))).collect()
}

/// Removes what crashed owners left; returns the names of their labs.
pub(crate) fn sweep_stale(config: &Config) -> Result<Vec<String>, Error> {
    let mut swept = Vec::new();
    let mut labs = known(config);
    labs.extend(netns::labs());
    labs.sort();
    labs.dedup();
    for lab in labs {
        match State::claim(config, &lab) {
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
pub(crate) fn description(config: &Config, lab: &str) -> Option<Description> {
    let text = fs::read_to_string(config.state.join(lab).join(DESCRIPTION)).ok()?;
    serde_json::from_str(&text).ok()
}

fn known(config: &Config) -> Vec<String> {
    let entries = fs::read_dir(&config.state).into_iter().flatten().flatten();
    let labs = entries.filter(|entry| entry.path().join(LOCK).exists());
    labs.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// `None` if somebody else holds it.
fn lock(folder: &Path) -> Result<Option<Flock<File>>, Error> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.doing(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).doing(|| format!("lock {}", path.display())),
    }
}

fn sweep(lab: &str) {
    let namespaces = Namespace::of_lab(lab);
    netns::empty(&namespaces);
    namespaces.iter().for_each(Namespace::remove);
}

const LOCK: &str = "lock";
const DESCRIPTION: &str = "lab.json";
const SOCKET: &str = "control.sock";
