//! What the tests of the command line stand on: a scenario in a folder of its own, the commands run there, and the search for what they
//! may have left behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::{namespaces_of, unique_name};

/// The project's measured matrix.
pub(crate) const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/latency/planetlab490.tri16");

/// Three hosts that start within a second: a root zone, a web server, somebody who asks it by its address.
pub(crate) const SMALL: &str = r#"
host = [
    { name = "root", role = "root", at = 0 },
    { name = "web", role = "origin", names = ["www.site.test"], files = [{ path = "/a", size = "1KB" }], at = 1 },
    { name = "user", role = "client", at = 2 },
]
"#;

/// A scenario on disk, with a name of its own.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    name: String,
}

impl Bench {
    pub(crate) fn new(hosts: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = unique_name();
        fs::write(folder.path().join("x.toml"), format!("name = \"{name}\"\n{hosts}")).unwrap();
        Self { folder, name }
    }

    /// With its lab up.
    pub(crate) fn up(hosts: &str) -> Self {
        let bench = Self::new(hosts);
        bench.say(&["up", "x.toml"]);
        bench
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The lab's command, in this scenario's folder.
    pub(crate) fn lab(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll-lab"));
        command.current_dir(self.folder.path()).arg("--lab").arg(&self.name);
        command.args(["--matrix", MATRIX]);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.lab().args(arguments).output().unwrap()
    }

    pub(crate) fn say(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    /// In the foreground, once it is up.
    pub(crate) fn foreground(&self) -> Child {
        let mut child = self.lab().args(["up", "--foreground", "x.toml"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("up:"), "{line}");
        child
    }

    pub(crate) fn state(&self) -> std::path::PathBuf {
        state_of(&self.name)
    }

    /// Every process of this lab, found by its namespaces.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let status: serde_json::Value = serde_json::from_str(&self.say(&["status", "--json"])).unwrap();
        let hosts = status["hosts"].as_array().unwrap();
        let pids = hosts.iter().flat_map(|host| host["pids"].as_array().unwrap());
        pids.map(|pid| i32::try_from(pid.as_i64().unwrap()).unwrap()).collect()
    }

    /// Whether `user` gets a page from `web`, which should come on any machine, however long it takes.
    pub(crate) fn gets_the_page(&self) -> bool {
        self.page_within("60")
    }

    /// Whether it does not: nobody waits long for what should not come.
    pub(crate) fn gets_no_page(&self) -> bool {
        !self.page_within("2")
    }

    fn page_within(&self, seconds: &str) -> bool {
        let page = ["exec", "user", "--", "curl", "-s", "-f", "-m", seconds, "-o", "/dev/null", "http://198.18.2.1/a"];
        self.run(&page).status.success()
    }

    pub(crate) fn assert_nothing_left(&self, pids: &[i32]) {
        assert_nothing_left_of(&self.name, pids);
    }
}

pub(crate) fn assert_nothing_left_of(lab: &str, pids: &[i32]) {
    assert_eq!(namespaces_of(lab), Vec::<String>::new());
    let state = state_of(lab);
    assert!(!state.exists(), "{} is still there", state.display());
    for pid in pids {
        assert!(has_ended(*pid), "process {pid} still runs");
    }
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!devices.contains("wan0"), "{devices}");
}

/// Whether a process has ended; one that its new parent has not noticed yet is a Z.
pub(crate) fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

/// Waits until these have ended by themselves.
pub(crate) fn await_end(pids: &[i32]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Some(pid) = pids.iter().find(|pid| !has_ended(**pid)) {
        assert!(Instant::now() < deadline, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One line on stderr that says this, nothing on stdout, and this exit code.
pub(crate) fn assert_refused(output: &Output, code: i32, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), said.lines().count(), printed.as_ref()), (Some(code), 1, ""), "{said}");
    assert!(said.contains(expected), "{said}\nexpected {expected}");
}

pub(crate) fn state_of(lab: &str) -> std::path::PathBuf {
    Path::new("/run/atoll-lab").join(lab)
}

impl Drop for Bench {
    fn drop(&mut self) {
        if nix::unistd::geteuid().is_root() {
            drop(self.run(&["down"]));
        }
    }
}
