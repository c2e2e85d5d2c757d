//! What can go wrong, grouped by who must act. Each message is one line and names the thing to change.

use std::{io, path::PathBuf};

/// Everything the lab can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // ---- the scenario's author ----
    /// The scenario file is wrong.
    #[error("{}:{line}: {message}", file.display())]
    Scenario {
        /// The file as given.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with which key.
        message: String,
    },
    /// A file that the scenario needs cannot be read or makes no sense.
    #[error("{}: {message}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        message: String,
    },
    /// No scenario of this name in the folder of scenarios, and no such file.
    #[error("no scenario `{name}`; there are: {known}")]
    NoScenario {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },

    // ---- whoever runs the command ----
    /// Namespaces need a privilege this process lacks.
    #[error("the lab needs root (or a kernel that allows user namespaces) to make network namespaces: {why}")]
    Privilege {
        /// What failed.
        why: String,
    },
    /// TUN devices cannot be made.
    #[error("the lab needs /dev/net/tun: {why} (modprobe tun; in a container pass --device /dev/net/tun)")]
    Tun {
        /// What failed.
        why: String,
    },
    /// A server program is not installed.
    #[error("host `{host}` needs the program `{program}`, which is not installed: apt-get install {package}")]
    MissingProgram {
        /// Who needs it.
        host: String,
        /// What was looked for.
        program: String,
        /// The Debian package that has it.
        package: String,
    },
    /// A lab of this name runs already.
    #[error("the lab `{name}` is already up (pid {pid}); end it with `lab down --lab {name}`")]
    AlreadyUp {
        /// The lab.
        name: String,
        /// The process that owns it.
        pid: u32,
    },
    /// No lab of this name runs.
    #[error("no lab `{name}` is up")]
    NotUp {
        /// The lab.
        name: String,
    },
    /// No lab runs.
    #[error("no lab is up; bring one up with `lab up FILE`")]
    NoneUp,
    /// Several labs run and none was named.
    #[error("several labs are up ({names}); name one with --lab")]
    WhichLab {
        /// Their names.
        names: String,
    },
    /// No host of this name, or a pattern that matches none.
    #[error("no host `{name}` in this lab")]
    NoHost {
        /// The name or pattern.
        name: String,
    },
    /// The running lab refused a request.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },

    // ---- this machine ----
    /// Processes of a lab that crashed do not end.
    #[error(
        "processes of the lab `{lab}` did not end after SIGKILL (pids {pids}); run `lab down` again when they have"
    )]
    Undead {
        /// The lab.
        lab: String,
        /// Their pids.
        pids: String,
    },
    /// Something leads out of a host to outside the lab.
    #[error("host `{host}` has {way}, which leads out of the lab; nothing was started")]
    Escape {
        /// The host.
        host: String,
        /// The device or route that should not be there.
        way: String,
    },
    /// A host's program ended or did not answer in time.
    #[error("host `{host}`: {program} {what}{}", log.as_ref().map(|log| format!("; it said: {log}")).unwrap_or_default())]
    Program {
        /// The host.
        host: String,
        /// The program.
        program: String,
        /// What it did.
        what: String,
        /// The last line of its log.
        log: Option<String>,
    },
    /// The operating system refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Its answer.
        source: io::Error,
    },
    /// The lab was interrupted and has been taken down.
    #[error("interrupted; everything the lab started has ended")]
    Interrupted,
}

/// Adds what was tried to an error of the operating system.
pub(crate) trait Doing<T> {
    /// `doing` completes the sentence "cannot ...".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io { doing: doing(), source: error.into() })
    }
}
