//! An ordinary user's lab, in a user namespace. Run as root it becomes one, with a /dev/net/tun that everybody may open.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    alone,
    bench::{MATRIX, SMALL, await_end},
    unique_name,
};

/// As `nobody`, in a /dev of its own: what a machine looks like on which users may make labs.
const AS_NOBODY: &str = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && \
                         exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \"$@\"";

/// The command that runs the rest as an ordinary user.
fn as_user() -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", AS_NOBODY, "sh"]);
        command
    } else {
        Command::new("env")
    }
}

/// Why an ordinary user cannot make a lab here, if so.
fn forbidden() -> Option<String> {
    let try_it = "exec 3<>/dev/net/tun && unshare --user --map-root-user --mount --net true";
    let tried = as_user().args(["sh", "-c", try_it]).output().unwrap();
    (!tried.status.success()).then(|| String::from_utf8_lossy(&tried.stderr).trim().to_owned())
}

/// A scenario in a folder that everybody can read, with the lab's program, as a build's folder need not be.
struct Home {
    folder: tempfile::TempDir,
    name: String,
}

impl Home {
    fn new() -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap(), name: unique_name() };
        let path = |name: &str| home.folder.path().join(name);
        fs::copy(env!("CARGO_BIN_EXE_atoll-lab"), path("atoll-lab")).unwrap();
        fs::copy(MATRIX, path("m.tri16")).unwrap();
        fs::write(path("x.toml"), format!("name = \"{}\"\n{SMALL}", home.name)).unwrap();
        for (file, mode) in [("", 0o755), ("atoll-lab", 0o755), ("m.tri16", 0o644), ("x.toml", 0o644)] {
            fs::set_permissions(path(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        home
    }

    /// The lab's command, as an ordinary user.
    fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = as_user();
        command.current_dir(self.folder.path()).args(["./atoll-lab", "--matrix", "m.tri16"]).args(arguments);
        command
    }

    /// A lab in the foreground, once it is up, and the hint that it gave.
    fn foreground(&self) -> (Child, String) {
        let mut command = self.lab(&["up", "--foreground", "x.toml"]);
        let mut owner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = [String::new(), String::new()];
        BufReader::new(owner.stderr.take().unwrap()).read_line(&mut said[0]).unwrap();
        BufReader::new(owner.stdout.take().unwrap()).read_line(&mut said[1]).unwrap();
        let [hint, up] = said;
        assert!(up.starts_with("up:"), "{hint}{up}");
        (owner, hint)
    }

    /// The lab's command inside the namespaces of a process, as the hint says.
    fn inside(&self, owner: &Child, arguments: &[&str]) -> Output {
        let mut command = as_user();
        let pid = owner.id().to_string();
        command.current_dir(self.folder.path()).args(["nsenter", "--preserve-credentials", "-U", "-m", "-t", &pid]);
        command.arg(format!("--wd={}", self.folder.path().display())).arg("./atoll-lab").args(arguments);
        command.output().unwrap()
    }

    /// Every process of a lab.
    fn pids(&self, owner: &Child) -> Vec<i32> {
        let status = self.inside(owner, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"));
        assert_eq!(status["lab"], self.name.as_str());
        let pids = status["hosts"].as_array().unwrap().iter().flat_map(|host| host["pids"].as_array().unwrap());
        let pids: Vec<i32> = pids.map(|pid| i32::try_from(pid.as_i64().unwrap()).unwrap()).collect();
        assert!(pids.len() >= 2, "{pids:?}");
        pids
    }
}

#[test]
fn an_ordinary_user_has_a_lab_where_the_kernel_allows_it() {
    if let Some(why) = forbidden() {
        eprintln!("skipped: no user namespace with a TUN device here ({why}); not shown: a lab without root");
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let detached = home.lab(&["up", "x.toml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&detached.stderr).contains("only `up --foreground`"), "{detached:?}");
    let (mut owner, hint) = home.foreground();
    let expected = format!("nsenter --preserve-credentials -U -m -t {} atoll-lab status", owner.id());
    assert!(hint.contains(&expected), "{hint}");
    let pids = home.pids(&owner);
    let page = ["exec", "user", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://198.18.2.1/a"];
    let page = home.inside(&owner, &page);
    assert_eq!(String::from_utf8_lossy(&page.stdout), "200", "{page:?}");
    kill(Pid::from_raw(i32::try_from(owner.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(owner.wait().unwrap().success());
    await_end(&pids);
    assert!(!Path::new("/run/atoll-lab").join(&home.name).exists());

    let ran = home.lab(&["run", "--json", "x.toml"]).output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!((&printed["scenario"], &printed["holds"]), (&home.name.as_str().into(), &true.into()), "{printed}");
}

#[test]
fn the_programs_of_an_ordinary_users_lab_end_with_it_also_when_it_is_killed() {
    if let Some(why) = forbidden() {
        eprintln!("skipped: no user namespace with a TUN device here ({why}); not shown: that a crash leaves nothing");
        return;
    }
    let _alone = alone();
    let home = Home::new();
    let (mut owner, _) = home.foreground();
    // Nobody outside could find them by their namespaces: these go with the lab.
    let pids = home.pids(&owner);
    owner.kill().unwrap();
    owner.wait().unwrap();
    await_end(&pids);
}
