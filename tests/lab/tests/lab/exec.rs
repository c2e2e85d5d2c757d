//! `lab exec`: commands are of the lab's family. They end with it, and know its processes by the pids that its programs write down.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    alone,
    bench::{Bench, SMALL, await_end},
    skipped,
};

/// A command in `user`, and its process as the machine knows it.
fn begin(bench: &Bench, command: &[&str], marker: &str) -> (Child, i32) {
    let mut asked = bench.lab();
    asked.args(["exec", "user", "--"]).args(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = asked.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let pid = loop {
        if let Some(pid) = pid_of(marker) {
            break pid;
        }
        assert!(Instant::now() < deadline, "{command:?} never ran");
        std::thread::sleep(Duration::from_millis(5));
    };
    (child, pid)
}

/// The process that is `sleep MARKER` by now.
fn pid_of(marker: &str) -> Option<i32> {
    let wanted = format!("sleep\0{marker}\0").into_bytes();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found = pids.filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted));
    found.next()
}

/// What `sleep` is told, which nobody else's is: seconds that never pass.
fn marker(number: u32) -> String {
    format!("{}{number:02}", 100_000 + std::process::id())
}

fn send(to: i32, signal: Signal) {
    kill(Pid::from_raw(to), signal).unwrap();
}

#[test]
fn commands_in_hosts_end_with_their_lab_however_it_ends() {
    if skipped("that what `lab exec` started ends with `lab down`, with Ctrl-C and with kill -9 of the lab") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    for how in ["down", "Ctrl-C", "kill -9"] {
        let mut owner = bench.foreground();
        let first = marker(1);
        let (mut plain, pid) = begin(&bench, &["sleep", &first], &first);
        let mut pids = vec![pid];
        // Nobody finds this one by the host's namespace: it has left for one of its own, and its parent is gone.
        let second = marker(2);
        let script = format!("unshare -n sleep {second} & exit");
        let (mut left, pid) = begin(&bench, &["sh", "-c", &script], &second);
        assert!(left.wait().unwrap().success());
        pids.push(pid);
        assert!(pids.iter().all(|pid| fs::metadata(format!("/proc/{pid}")).is_ok()), "{how}: they ended too early");
        match how {
            "down" => drop(bench.say(&["down"])),
            "Ctrl-C" => send(i32::try_from(owner.id()).unwrap(), Signal::SIGINT),
            _ => owner.kill().unwrap(),
        }
        owner.wait().unwrap();
        await_end(&pids);
        assert_eq!(plain.wait().unwrap().code(), Some(137), "{how}");
        if how == "kill -9" {
            bench.say(&["down"]);
        }
        bench.assert_nothing_left(&pids);
    }
}

#[test]
fn a_command_that_was_stopped_in_its_terminal_ends_with_its_lab_too() {
    if skipped("that a stopped `lab exec` ends with the lab") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    let marker = marker(6);
    let (mut asked, pid) = begin(&bench, &["sleep", &marker], &marker);
    send(i32::try_from(asked.id()).unwrap(), Signal::SIGSTOP);
    bench.say(&["down"]);
    await_end(&[pid]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(ended) = asked.try_wait().unwrap() {
            break ended;
        }
        if Instant::now() > deadline {
            asked.kill().unwrap();
            panic!("it is stopped still");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(ended.code(), Some(137));
    bench.assert_nothing_left(&[pid]);
}

#[test]
fn a_command_in_a_host_sees_the_pids_that_its_programs_write_down_and_nobody_elses() {
    if skipped("the pids inside `lab exec`") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    let file = bench.state().join("web/nginx.pid");
    let named = format!("cat /proc/$(cat {})/comm", file.display());
    assert_eq!(bench.say(&["exec", "web", "--", "sh", "-c", &named]), "nginx\n");
    // Of all processes it sees this machine's first is none: theirs is the family's.
    let first = bench.say(&["exec", "user", "--", "cat", "/proc/1/cmdline"]);
    assert!(first.ends_with("init\0"), "{first:?}");
    let all = "for one in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $one; done";
    let seen = bench.say(&["exec", "user", "--", "sh", "-c", all]);
    let test = std::env::args().next().unwrap();
    assert!(seen.contains("nginx") && !seen.contains(&test), "{seen}");
    // A signal by that pid reaches that program.
    let ended = format!("kill -TERM $(cat {})", file.display());
    bench.say(&["exec", "web", "--", "sh", "-c", &ended]);
    assert!(bench.gets_no_page());
}

#[test]
fn exec_ends_as_its_command_does_and_hands_on_what_it_is_told() {
    if skipped("exit codes and signals of `lab exec`") {
        return;
    }
    let _alone = alone();
    let bench = Bench::up(SMALL);
    let code = |script: &str| bench.run(&["exec", "user", "--", "sh", "-c", script]).status.code();
    assert_eq!([code("exit 7"), code("kill -TERM $$")], [Some(7), Some(143)]);
    let refused = bench.run(&["exec", "user", "--", "/nowhere/program"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("cannot run /nowhere/program"), "{said}");
    for (number, signal, code) in
        [(3, Signal::SIGTERM, Some(143)), (4, Signal::SIGINT, Some(130)), (5, Signal::SIGKILL, None)]
    {
        let marker = marker(number);
        // What runs in the background of a script may have been told to ignore SIGINT.
        let (mut asked, pid) = begin(&bench, &["env", "--default-signal=INT", "sleep", &marker], &marker);
        send(i32::try_from(asked.id()).unwrap(), signal);
        let ended = asked.wait().unwrap();
        assert_eq!((ended.code(), ended.signal().is_some()), (code, code.is_none()), "{signal}");
        await_end(&[pid]);
    }
}
