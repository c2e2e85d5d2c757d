//! An ordinary user's lab, in a user namespace. Run as root it becomes one, with a /dev/net/tun that everybody may open.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{alone, command::SMALL, unique_name};

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

#[test]
fn an_ordinary_user_has_a_lab_where_the_kernel_allows_it() {
    if let Some(why) = forbidden() {
        eprintln!("skipped: no user namespace with a TUN device here ({why}); not shown: a lab without root");
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Where everybody can read: a build's folder need not be.
    fs::copy(env!("CARGO_BIN_EXE_atoll-lab"), path("atoll-lab")).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/latency/planetlab490.tri16"), path("m.tri16"))
        .unwrap();
    let name = unique_name();
    fs::write(path("x.toml"), format!("name = \"{name}\"\n{SMALL}")).unwrap();
    for (file, mode) in [("", 0o755), ("atoll-lab", 0o755), ("m.tri16", 0o644), ("x.toml", 0o644)] {
        fs::set_permissions(path(file), fs::Permissions::from_mode(mode)).unwrap();
    }

    let detached = as_user().current_dir(folder.path()).args(["./atoll-lab", "up", "x.toml"]).output().unwrap();
    assert!(String::from_utf8_lossy(&detached.stderr).contains("only `up --foreground`"), "{detached:?}");
    let mut owner = as_user()
        .current_dir(folder.path())
        .args(["./atoll-lab", "--matrix", "m.tri16", "up", "--foreground", "x.toml"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = owner.id().to_string();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let hint = lines.next().unwrap().unwrap();
    assert!(hint.contains(&format!("nsenter --preserve-credentials -U -m -t {pid} atoll-lab status")), "{hint}");
    assert!(lines.next().unwrap().unwrap().starts_with("up:"));

    // As the hint says.
    let inside = |arguments: &[&str]| {
        let mut command = as_user();
        command.current_dir(folder.path()).args(["nsenter", "--preserve-credentials", "-U", "-m", "-t", &pid]);
        command.arg(format!("--wd={}", folder.path().display())).arg("./atoll-lab").args(arguments).output().unwrap()
    };
    let status = inside(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"));
    assert_eq!(status["lab"], name.as_str());
    let page = ["exec", "user", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://198.18.2.1/a"];
    let page = inside(&page);
    assert_eq!(String::from_utf8_lossy(&page.stdout), "200", "{page:?}");

    kill(Pid::from_raw(i32::try_from(owner.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(owner.wait().unwrap().success());
    let pids = status["hosts"].as_array().unwrap().iter().flat_map(|host| host["pids"].as_array().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    for pid in pids.map(|pid| pid.as_i64().unwrap()) {
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(Instant::now() < deadline, "process {pid} still runs");
            std::thread::yield_now();
        }
    }
    assert!(!Path::new("/run/atoll-lab").join(&name).exists());
}
