//! The command as an operator types it: what it prints, its exit code, and that nothing starts on a wrong configuration.

use std::{
    net::{TcpListener, UdpSocket},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Runs the binary to its end.
fn atoll(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atoll")).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints text")
}

/// A file `atoll.toml` in a folder, with its state beside it.
fn config(folder: &Path, text: &str) -> String {
    let file = folder.join("atoll.toml");
    let state = folder.join("state");
    let text = text.replace("STATE", state.to_str().expect("a path of text"));
    std::fs::write(&file, text).expect("the folder is ours");
    file.to_str().expect("a path of text").to_owned()
}

#[test]
fn a_typo_ends_node_and_check_with_code_2_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), "[node]\nroles = [\"manager\"]\nstate = \"STATE\"\nbotstrap = []\n");
    for arguments in [vec!["check", &file], vec!["node", "--config", &file]] {
        let output = atoll(&arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("atoll.toml:4:1: unknown key `botstrap`"), "{}", stderr(&output));
        assert!(stderr(&output).contains("did you mean `bootstrap`?"), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert!(!folder.path().join("state").exists());
    }
}

#[test]
fn check_says_what_a_good_file_means_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(folder.path(), "[node]\nroles = [\"manager\"]\nstate = \"STATE\"\nzone = \"nyud.example\"\n");
    let output = atoll(&["check", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = stdout(&output);
    assert!(told.starts_with("OK ") && told.contains("zone       nyud.example"), "{told}");
    assert!(told.contains("listens    0.0.0.0:8081 TCP (manager.listen)"), "{told}");
    assert!(!folder.path().join("state").exists());
}

#[test]
fn check_takes_the_example_file() {
    let output = atoll(&["check", concat!(env!("CARGO_MANIFEST_DIR"), "/atoll.example.toml")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_wrong_flag_is_told_with_the_nearest_one() {
    let output = atoll(&["node", "--confg", "a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--config"), "{}", stderr(&output));
}

#[test]
fn status_without_a_node_names_the_socket_it_asked() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let output = atoll(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("none.sock") && stderr(&output).contains("is it running?"), "{}", stderr(&output));
}

#[test]
fn url_prints_every_form() {
    let output = atoll(&["url", "http://www.example.com:8080/a", "--zone", "cdn.example"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for form in [
        "http://www.example.com.8080.cdn.example/a",
        "http://www-example-com-8080.cdn.example/a",
        "/~/http/www.example.com:8080/a",
    ] {
        assert!(stdout(&output).contains(form), "{form}: {}", stdout(&output));
    }
    let wrong = atoll(&["url", "gopher://a.test/"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("gopher"), "{}", stderr(&wrong));
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(["url", "http://www.example.com/"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

/// Runs the binary until it ends by itself; fails the test if it goes on for a minute.
fn ends(arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("it is our child").is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Of one that has ended this does nothing.
    let _ = child.kill();
    child.wait_with_output().expect("it is our child")
}

/// What is bound to the first free number from `first` on. Systems hand out others by themselves: a connection of another test that runs
/// meanwhile may have one of those, and would be named as the holder.
fn held_from<T>(first: u16, bind: fn((&'static str, u16)) -> std::io::Result<T>) -> (T, u16) {
    (first..first + 1_000).find_map(|port| Some((bind(("127.0.0.1", port)).ok()?, port))).unwrap()
}

#[test]
fn a_used_port_ends_the_node_and_names_port_protocol_and_holder() {
    let (_tcp, port) = held_from(20_000, TcpListener::bind);
    let (_udp, udp_port) = held_from(22_000, UdpSocket::bind);
    for (role, section, protocol, port) in [
        ("manager", format!("[manager]\nlisten = [\"127.0.0.1:{port}\"]"), "TCP", port),
        ("manager", format!("[admin]\nlisten = [\"127.0.0.1:{port}\"]\n[manager]\nlisten = []"), "TCP", port),
        ("proxy", format!("[proxy]\norigins = \"any\"\nlisten = [\"127.0.0.1:{port}\"]"), "TCP", port),
        ("dnssrv", format!("[dns]\nlisten = [\"127.0.0.1:{udp_port}\"]"), "UDP", udp_port),
        (
            "manager",
            format!("[manager]\nlisten = []\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/{port}\"]"),
            "TCP",
            port,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let overlay =
            if section.contains("[overlay]") { "" } else { "[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n" };
        let node =
            format!("[node]\nroles = [\"{role}\"]\nstate = \"STATE\"\nzone = \"nyud.example\"\n{overlay}{section}\n");
        let file = config(folder.path(), &node);
        let output = ends(&["node", "--config", &file]);
        assert_eq!(output.status.code(), Some(1), "{section}: {output:?}");
        let told = stderr(&output);
        assert!(told.contains(&format!("{protocol} port {port}")), "{section}: {told}");
        #[cfg(target_os = "linux")]
        assert!(told.contains(&format!("(process {})", std::process::id())), "{section}: {told}");
    }
}

#[test]
fn a_second_node_on_one_state_directory_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(
        folder.path(),
        "[node]\nroles = [\"manager\"]\nstate = \"STATE\"\n[manager]\nlisten = []\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n",
    );
    let _first = atoll::state::State::open(&folder.path().join("state")).unwrap();
    let output = ends(&["node", "--config", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("belongs to a node that is running"), "{}", stderr(&output));
}

#[test]
fn store_looks_into_a_store_checks_it_and_carries_it_elsewhere() {
    use atoll_store::{Config, Head, Key, PurgeNumber, Store, Tags};

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, second, file) = (path("first"), path("second"), path("exported"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let open = |directory: &str| {
        let config = Config { directory: Some(directory.into()), ..Config::default() };
        runtime.block_on(Store::open(config)).unwrap()
    };
    let store = open(&first);
    for (n, length) in [(1, 10), (2, 0), (3, 5 << 20)] {
        let (key, tags, born) = (Key::from_bytes([n; 20]), Tags::default(), PurgeNumber(0));
        let head = Head { key, directory: 1, tags, expires: None, metadata: "meta".into(), length: None, born };
        runtime.block_on(async {
            let mut writer = store.writer(head).unwrap();
            writer.append(vec![n; length].into()).await.unwrap();
            writer.commit(None).await.unwrap();
        });
    }
    let output = atoll(&["store", "stat", "--directory", &first]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("in use by another process: stop the node first"), "{}", stderr(&output));
    runtime.block_on(store.close());

    let told = |arguments: &[&str]| {
        let output = atoll(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stdout(&output)
    };
    assert!(told(&["store", "stat", "--directory", &first]).starts_with("objects   3\n"));
    assert!(told(&["store", "verify", "--directory", &first]).contains(" records, 3 objects"));
    assert_eq!(told(&["store", "get", "--directory", &first, &"01".repeat(20)]).as_bytes(), [1; 10]);
    assert!(told(&["store", "export", "--directory", &first, &file]).starts_with("OK 3 objects"));
    assert!(told(&["store", "import", "--directory", &second, &file]).starts_with("OK 3 objects"));
    let store = open(&second);
    let object = runtime.block_on(store.get(&Key::from_bytes([3; 20]))).unwrap();
    assert_eq!((object.len(), &object.head().metadata[..]), (5 << 20, &b"meta"[..]));
    drop(object);
    runtime.block_on(store.close());

    assert_eq!(atoll(&["store", "get", "--directory", &first, "xyz"]).status.code(), Some(2));
    assert_eq!(atoll(&["store", "stat", "--directory", &path("nowhere")]).status.code(), Some(1));
    assert!(!folder.path().join("nowhere").exists(), "looking makes no store");
    let segments = std::fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().path());
    for segment in segments.filter(|it| it.extension().is_some_and(|it| it == "segment")) {
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[400_000] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
    }
    let output = atoll(&["store", "verify", "--directory", &first]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("records are damaged"), "{}", stderr(&output));
}
