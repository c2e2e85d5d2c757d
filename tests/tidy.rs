//! The tree obeys its own rules: who may import whom, where the world may be touched, how long a file may get, and that the
//! documents name only what exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which of our own crates a crate may use. What is not here may use none.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "atoll",
        &["atoll-dnssrv", "atoll-overlay", "atoll-proxy", "atoll-store", "atoll-sys", "atoll-tls", "atoll-units"],
    ),
    ("atoll-overlay", &["atoll-sys", "atoll-units"]),
    ("atoll-proxy", &["atoll-overlay", "atoll-store", "atoll-sys", "atoll-tls", "atoll-units"]),
    ("atoll-dnssrv", &["atoll-overlay", "atoll-sys", "atoll-tls", "atoll-units"]),
    ("atoll-store", &["atoll-sys", "atoll-units"]),
    ("atoll-lab", &["atoll-overlay", "atoll-sys"]),
    ("xtask", &["atoll-overlay", "atoll-sys"]),
    ("atoll-bench", &["atoll-dnssrv", "atoll-overlay", "atoll-proxy", "atoll-store", "atoll-sys"]),
];

/// Libraries that have one home each: a word of code, and the path prefixes in which it may stand.
const HOMES: &[(&str, &[&str])] = &[
    ("libp2p", &["overlay/src/driver/"]),
    ("quinn", &["overlay/src/driver/quic/"]),
    ("hickory_server", &["bench/src/dns/hickory.rs"]),
    ("hickory_resolver", &["proxy/src/resolve"]),
    (
        "hyper",
        &[
            "proxy/",
            "src/accept.rs",
            "src/admin/",
            "src/manager/",
            "src/front/",
            "src/peer/",
            "src/cache",
            "src/demo/",
            "src/trace/",
            "src/warm/",
            "bench/",
            "dnssrv/src/doh.rs",
        ],
    ),
    ("clap", &["src/cli", "xtask/", "bench/", "tests/lab/"]),
    ("toml", &["src/config", "tests/lab/"]),
];

/// What Unix alone has.
const UNIX: &[&str] = &[
    "os::unix",
    "os::fd",
    "nix::",
    "libc::",
    "signal::unix",
    "UnixStream",
    "UnixListener",
    "cfg(unix)",
    "cfg(target_os",
];

/// Where it may be named: in the crate of fallbacks; where a signal or the operator's socket is waited for, each with what stands in
/// its place elsewhere; in programs that measure and test on Unix alone.
const OF_ONE_SYSTEM: &[&str] = &[
    "sys/",
    "src/signals.rs",
    "src/admin/",
    "src/cache/server.rs",
    "proxy/src/server.rs",
    "dnssrv/src/server.rs",
    "bench/",
    "xtask/",
    "tests/lab/",
];

/// What the overlay's core must never say.
const NOT_IN_CORE: &[&str] = &[
    "tokio::",
    "libp2p",
    "std::net::Tcp",
    "std::net::Udp",
    "std::time::Instant",
    "SystemTime",
    "std::fs",
    "HashMap",
    "HashSet",
];

#[test]
fn crates_import_only_what_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 11, "a crate came or went: say in MAY_IMPORT what it may use");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let may = allowed.get(name).copied().unwrap_or_default();
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let ours = used == "atoll" || used == "xtask" || used.starts_with("atoll-");
            assert!(!ours || may.contains(&used), "{name} may not use {used}");
        }
    }
}

#[test]
fn libraries_stay_in_their_homes() {
    for file in sources().iter().filter(|file| !is_test(file)) {
        let code = code_of(file);
        for (library, homes) in HOMES {
            let at_home = homes.iter().any(|home| file.to_str().unwrap().starts_with(home));
            let named = code.lines().any(|line| names(line, library));
            assert!(at_home || !named, "{} names {library}, which lives in {homes:?}", file.display());
        }
    }
}

#[test]
fn what_one_system_alone_has_stays_behind_a_fallback() {
    for file in sources().iter().filter(|file| !is_test(file)) {
        let code = code_of(file);
        let at_home = OF_ONE_SYSTEM.iter().any(|home| file.to_str().unwrap().starts_with(home));
        let word = UNIX.iter().find(|word| code.contains(**word));
        assert!(at_home || word.is_none(), "{} says {word:?}: put it into sys/ with a fallback", file.display());
    }
}

#[test]
fn the_core_touches_nothing() {
    let core: Vec<_> = sources().into_iter().filter(|file| file.starts_with("overlay/src/core")).collect();
    assert!(core.len() >= 10, "the core has moved: {core:?}");
    for file in core {
        let code = code_of(&file);
        for word in NOT_IN_CORE {
            assert!(!code.contains(word), "{} says {word}", file.display());
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_stays_readable() {
    for file in sources() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let shown = file.display();
        assert!(text.starts_with("//! "), "{shown} does not open with what it owns");
        let lines = code_of(&file).lines().count();
        assert!(lines <= 600 || is_test(&file), "{shown} has {lines} lines before its tests: find its second idea");
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(!["utils", "common", "types", "helpers", "misc"].contains(&name), "{shown} is named after nothing");
    }
}

#[test]
fn the_architecture_names_only_what_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let all: String = sources().iter().map(|file| fs::read_to_string(root().join(file)).unwrap()).collect();
    let mut seen = BTreeSet::new();
    for word in text.split('`').skip(1).step_by(2) {
        let is_path = word.contains('/') && !word.contains(' ') && !word.contains("://") && !word.starts_with('/');
        let is_type = word.chars().next().is_some_and(char::is_uppercase) && word.chars().all(char::is_alphanumeric);
        if is_path {
            assert!(root().join(word).exists(), "ARCHITECTURE.md names {word}, which is not there");
            seen.insert(word);
        } else if is_type {
            let declared = ["struct ", "enum ", "trait ", "type "].iter().any(|kind| declares(&all, kind, word));
            assert!(declared, "ARCHITECTURE.md names the type {word}, which is not there");
            seen.insert(word);
        }
    }
    assert!(seen.len() >= 20, "ARCHITECTURE.md names next to nothing: {seen:?}");
}

#[test]
fn the_readme_shows_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release -- demo", "cargo xtask test --install"] {
        assert!(readme.contains(command), "README.md does not show {command}");
    }
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("cargo xtask test --install"), "CI runs something else than the README says");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of ours, relative to the root.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = ["src", "tests", "overlay", "dnssrv", "proxy", "store", "sys", "tls", "xtask", "bench"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of a file before its tests, without comments.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a file holds nothing but tests.
fn is_test(file: &Path) -> bool {
    let in_tests = file.components().any(|part| part.as_os_str() == "tests") && !file.starts_with("tests/lab");
    in_tests || file.file_stem().is_some_and(|stem| stem == "tests" || stem == "properties")
}

/// Whether a line of code uses a library: its name as a whole word, followed by a path.
fn names(line: &str, library: &str) -> bool {
    line.match_indices(library).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let whole = before.is_none_or(|c| !c.is_alphanumeric() && !"_.\"-:/".contains(c));
        whole && line[at + library.len()..].starts_with("::")
    })
}

fn declares(code: &str, kind: &str, name: &str) -> bool {
    code.match_indices(&format!("{kind}{name}"))
        .any(|(at, found)| code[at + found.len()..].chars().next().is_none_or(|c| !c.is_alphanumeric() && c != '_'))
}
