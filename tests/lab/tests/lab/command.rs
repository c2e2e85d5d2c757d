//! The command line: what it starts it ends, however it ends; what it refuses it refuses in one line.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use atoll_lab::{Config, Scale, Scenario, draw};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    alone,
    bench::{Bench, MATRIX, SMALL, assert_nothing_left_of, assert_refused, await_end, state_of},
    namespaces_of, skipped,
};

#[test]
fn a_lab_comes_up_obeys_and_leaves_nothing() {
    if skipped("lab up, status, exec, cut, heal, kill, start, down") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    assert!(bench.say(&["up", "x.toml"]).starts_with("up:"));
    let again = bench.run(&["up", "x.toml"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is already up (pid"), "{again:?}");
    let pids = bench.pids();
    assert!(pids.len() >= 2, "{pids:?}");

    let tcp = |what: &str| bench.say(&["exec", "user", "--", "cat", &format!("/proc/sys/net/ipv4/tcp_{what}")]);
    if tcp("allowed_congestion_control").contains("cubic") {
        assert_eq!(tcp("congestion_control").trim(), "cubic", "hosts do as the machine does");
    }

    assert!(bench.gets_the_page());
    bench.say(&["cut", "user", "we*"]);
    assert!(bench.gets_no_page());
    bench.say(&["heal"]);
    assert!(bench.gets_the_page());
    bench.say(&["kill", "web"]);
    assert!(bench.say(&["status"]).contains("DEAD") || bench.say(&["status"]).contains(" - "));
    assert!(bench.gets_no_page());
    bench.say(&["start", "web"]);
    assert!(bench.gets_the_page());
    assert!(!bench.run(&["exec", "user", "--", "sh", "-c", "exit 7"]).status.success());
    assert!(!bench.run(&["exec", "nobody", "--", "true"]).status.success());
    assert!(!bench.run(&["cut", "user", "nobody"]).status.success());

    its_control_socket_is_bounded(&bench);
    let pids = [pids, bench.pids()].concat();
    bench.say(&["down"]);
    bench.assert_nothing_left(&pids);
    assert!(bench.say(&["down"]).contains("nothing was up"));
}

fn its_control_socket_is_bounded(bench: &Bench) {
    let connect = || UnixStream::connect(bench.state().join("control.sock")).unwrap();
    let answer = |mut stream: UnixStream| {
        let mut text = String::new();
        // A refused connection may be reset rather than closed.
        let _ = stream.read_to_string(&mut text);
        text
    };
    let mut long = connect();
    let _ = long.write_all(&vec![b'x'; Config::default().longest_control + 1]);
    assert!(answer(long).contains("not a request"));
    let idle: Vec<UnixStream> = (0..Config::default().most_control).map(|_| connect()).collect();
    assert_eq!(answer(connect()), "");
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bench.run(&["status"]).status.success() {
        assert!(Instant::now() < deadline, "it never took connections again");
    }
}

#[test]
fn the_programs_of_a_killed_lab_end_with_it_and_the_rest_is_removed_by_down_or_by_the_next_up() {
    if skipped("lab down after kill -9") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    for how in ["down", "up"] {
        let mut owner = bench.foreground();
        let pids = bench.pids();
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert!(pids.len() >= 2, "{pids:?}");
        await_end(&pids);
        if how == "up" {
            bench.say(&["up", "x.toml"]);
        }
        bench.say(&["down"]);
        bench.assert_nothing_left(&pids);
    }
}

#[test]
fn ctrl_c_ends_everything_also_on_the_way_up() {
    if skipped("Ctrl-C leaves nothing") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    let mut owner = bench.foreground();
    let pids = bench.pids();
    interrupt(&owner);
    assert!(end_of(&mut owner));
    bench.assert_nothing_left(&pids);

    // On the way up: as soon as the first namespace is there.
    let mut owner = bench.lab().args(["up", "--foreground", "x.toml"]).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while namespaces_of(bench.name()).is_empty() {
        assert!(Instant::now() < deadline, "it never came up");
    }
    interrupt(&owner);
    end_of(&mut owner);
    bench.assert_nothing_left(&[]);
}

#[test]
fn scenarios_that_are_interrupted_or_killed_leave_nothing() {
    if skipped("lab test after Ctrl-C and after kill -9") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    for (command, how) in [("test", Signal::SIGINT), ("run", Signal::SIGKILL)] {
        let mut owner =
            bench.lab().args([command, "distances"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lab = format!("distances-{}", owner.id());
        let deadline = Instant::now() + Duration::from_secs(60);
        // In its middle: all five hosts are there, and one pings.
        let pids = loop {
            let namespaces = namespaces_of(&lab);
            let pids: Vec<i32> = namespaces.iter().flat_map(|namespace| pids_of(namespace)).collect();
            if namespaces.len() == 5 && !pids.is_empty() {
                break pids;
            }
            assert!(Instant::now() < deadline, "{lab} never ran");
        };
        kill(Pid::from_raw(i32::try_from(owner.id()).unwrap()), how).unwrap();
        let mut said = String::new();
        owner.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!end_of(&mut owner));
        if how == Signal::SIGKILL {
            await_end(&pids);
            assert!(state_of(&lab).exists());
            bench.say(&["down"]);
        } else {
            assert!(said.contains("interrupted"), "{said}");
        }
        assert_nothing_left_of(&lab, &pids);
    }
}

fn pids_of(namespace: &str) -> Vec<i32> {
    let listed = Command::new("ip").args(["netns", "pids", namespace]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().filter_map(|line| line.parse().ok()).collect()
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
}

fn end_of(child: &mut Child) -> bool {
    child.wait().unwrap().success()
}

#[test]
fn what_cannot_be_is_refused_in_one_line_and_leaves_nothing() {
    let _alone = alone();
    let cases = [
        (SMALL.replace("at = 1 }", "at = 1, colour = 3 }"), "x.toml:5: unknown field `colour`"),
        (SMALL.replace("at = 2", "at = 490"), "the matrix, which is too small: 490 places"),
        (SMALL.replace("\"user\"", "\"web\""), "x.toml:6: `name`: a host `web` exists already"),
        (format!("claims = \"it-works\"\n{SMALL}"), "x.toml:2: `claims`: `it-works` is none of distances, names"),
        (SMALL.replace("at = 2", "at = 2, template = \"t\""), "x.toml:6: `template`: unknown for role = \"client\""),
    ];
    // What is wrong is said before anything is looked for that only root has.
    for (hosts, expected) in cases {
        let bench = Bench::new(&hosts);
        let up: &[&[&str]] =
            if skipped("that `up` refuses wrong files as `draw` and `run` do") { &[] } else { &[&["up"]] };
        for command in [&["draw"][..], &["run", "--json"]].iter().chain(up) {
            let output = bench.run(&[command, &["x.toml"][..]].concat());
            assert_refused(&output, 2, expected);
            assert_eq!(namespaces_of(bench.name()), Vec::<String>::new());
            assert!(!bench.state().exists());
        }
    }
    let bench = Bench::new(SMALL);
    let wrongs = [
        &["draw", "nowhere.toml"][..],
        &["run", "nowhere.toml"],
        &["run", "nowhere"],
        &["up"],
        &["heal", "a"],
        &["frobnicate"],
    ];
    for wrong in wrongs {
        assert_eq!(bench.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(bench.run(&["status"]).status.code(), Some(1));
}

#[test]
fn a_machine_that_cannot_says_what_it_lacks() {
    if skipped("the messages for no privilege, no /dev/net/tun and a missing program, which root can provoke") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SMALL);
    let run = |prefix: &[&str], arguments: &[&str]| {
        let (program, first) = prefix.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(first).arg(env!("CARGO_BIN_EXE_atoll-lab")).args(["--matrix", MATRIX]).args(arguments);
        command.current_dir(bench.folder()).output().unwrap()
    };
    let refused = |prefix: &[&str], commands: &[&[&str]], expected: &str| {
        for command in commands {
            assert_refused(&run(prefix, command), 1, expected);
            bench.assert_nothing_left(&[]);
        }
    };
    let (up, all): (&[&str], &[&[&str]]) =
        (&["up", "x.toml"], &[&["up", "x.toml"], &["run", "--json", "x.toml"], &["test"]]);
    let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    refused(&powerless, all, "needs root");
    let without_devices = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"];
    refused(&without_devices, all, "needs /dev/net/tun");
    for cannot in [&powerless[..], &without_devices] {
        let output = run(cannot, &["test", "--or-skip"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && said.starts_with("lab: every scenario is skipped: the lab needs "),
            "{said}"
        );
        assert!(said.contains("lab test result: ok. 0 passed; 0 failed; "), "{said}");
    }
    // The tool that makes hosts adds a route to everywhere.
    let real = ["/usr/sbin/ip", "/usr/bin/ip", "/sbin/ip"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    let false_ip = format!(
        "#!/bin/sh\n[ \"$1\" = -batch ] || exec {real} \"$@\"\n{{ cat; echo route add default dev wan0; }} | exec {real} -batch -\n"
    );
    let bin = bench.folder().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("ip"), false_ip).unwrap();
    fs::set_permissions(bin.join("ip"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", bin.display(), std::env::var("PATH").unwrap());
    refused(
        &["env", &path],
        &[up],
        "host `root` has a route to 0.0.0.0/0 by `wan0`, which leads out of the lab; nothing was started",
    );
    let nginx = Path::new("/usr/sbin/nginx");
    if nginx.exists() {
        let hide = "mount -t tmpfs none /usr/sbin && exec \"$@\"";
        refused(&["unshare", "-m", "sh", "-c", hide, "sh"], &[up], "which is not installed: apt-get install n");
    }
}

#[test]
fn every_scenario_file_is_sound_and_the_picture_in_the_docs_is_drawn_by_the_tool() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in fs::read_dir(root.join("scenarios")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        for scale in [Scale::Short, Scale::Long] {
            let scenario = Scenario::read(&path, None, scale).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        }
        files += 1;
    }
    assert!(files >= 6, "{files}");
    let cities = Scenario::read(&root.join("scenarios/cities.toml"), None, Scale::Short).unwrap();
    let docs = fs::read_to_string(root.join("../../docs/lab.md")).unwrap();
    assert!(docs.contains(draw(&cities).trim_end()), "docs/lab.md shows another picture than:\n{}", draw(&cities));
}
