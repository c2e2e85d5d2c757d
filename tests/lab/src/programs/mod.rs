//! What each host runs: real servers, each with a configuration written into the host's folder and run in the foreground.
//!
//! `authority` (nsd, knot), `resolver` (unbound, BIND, Knot Resolver, PowerDNS Recursor), `origin` (nginx) and `node`
//! (Atoll) each turn a host of the scenario into a [`Program`]; [`crate::lab`] starts it. `browser` (Chromium) is run page by page. Servers run without changing user:
//! the namespace is their only home, and it ends with the lab.

mod authority;
mod browser;
pub(crate) mod node;
mod origin;
mod resolver;

pub(crate) use self::browser::command as browser_command;
pub use self::origin::content as origin_content;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    config::Config,
    error::{Doing, Error},
    scenario::{Host, Role, Scenario},
};

/// A server to start: which program, from which package, with which files.
pub(crate) struct Program {
    /// For people.
    pub(crate) name: &'static str,
    pub(crate) command: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Written into the host's folder before the start; paths relative to it.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) ready: Ready,
    /// Later stages start when earlier ones are ready.
    pub(crate) stage: u8,
}

/// How a program shows that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Any answer to a DNS question.
    Dns,
    /// TCP port 80 is open.
    Http,
}

/// The program of a host, or `None` if it runs nothing. Fails if it is not installed.
pub(crate) fn of(scenario: &Scenario, host: &Host, folder: &Path, config: &Config) -> Result<Option<Program>, Error> {
    match &host.role {
        Role::Root(authority) | Role::Tld(authority, _) | Role::Nameserver(authority, ..) => {
            authority::program(*authority, scenario, host, folder).map(Some)
        }
        Role::Resolver { program, ecs } => resolver::program(*program, *ecs, scenario, host, folder).map(Some),
        Role::Origin { files, .. } => origin::program(host, files, folder).map(Some),
        Role::Node { .. } => node::program(scenario, host, folder, config).map(Some),
        Role::Client { browser: true } => browser::find(host).map(|_| None),
        Role::Client { browser: false } | Role::Plain => Ok(None),
    }
}

impl Program {
    /// Writes its files; the bound on their size is the scenario's.
    pub(crate) fn write_files(&self, folder: &Path) -> Result<(), Error> {
        for (name, content) in &self.files {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            let write = fs::create_dir_all(parent).and_then(|()| fs::write(&path, content));
            write.doing(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// The command, with its output appended to the folder's `log`.
    pub(crate) fn command(&self, folder: &Path) -> Result<Command, Error> {
        use std::os::unix::process::CommandExt;
        let path = folder.join(LOG);
        let log = fs::OpenOptions::new().create(true).append(true).open(&path);
        let log = log.doing(|| format!("write {}", path.display()))?;
        let again = log.try_clone().doing(|| format!("write {}", path.display()))?;
        let mut command = Command::new(&self.command);
        command.args(&self.arguments).current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(again);
        // Its own group: Ctrl-C is for the lab, which then ends its programs in order.
        command.process_group(0);
        Ok(command)
    }
}

/// Where a program is installed, also where an ordinary user's PATH does not look.
fn installed(host: &Host, program: &str, package: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| Error::MissingProgram {
        host: host.name.clone(),
        program: program.into(),
        package: package.into(),
    })
}

/// The file in each host's folder that holds what its program prints.
pub(crate) const LOG: &str = "log";
