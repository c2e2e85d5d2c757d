//! What an operator types, in order and out of order.

use std::path::{Path, PathBuf};

use clap::Parser as _;

use super::{KeyError, run};
use crate::cli::{Cli, Command};

/// Runs `atoll key WORDS` in a folder: words that begin with `@` are files in it.
fn key(folder: &Path, words: &str) -> Result<String, KeyError> {
    let words = words.split(' ').map(|word| match word.strip_prefix('@') {
        Some(file) => folder.join(file).display().to_string(),
        None => word.to_owned(),
    });
    let line = ["atoll".to_owned(), "key".to_owned()].into_iter().chain(words);
    let Command::Key(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not key") };
    run(&args)
}

fn refused(folder: &Path, words: &str) -> String {
    key(folder, words).unwrap_err().to_string()
}

fn made() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    key(at, "network --output @network.key").unwrap();
    key(at, "admission --network-key @network.key --output @admission.key").unwrap();
    let node = key(at, "node --state @state").unwrap();
    (folder, node)
}

#[test]
fn each_step_says_what_comes_next_and_its_files_are_the_owners_alone() {
    let (folder, node) = made();
    let at = folder.path();
    assert_eq!(key(at, "node --state @state").unwrap(), node, "the key is made once");
    let told = key(at, &format!("admit {node} --admission-key @admission.key --output @certificate")).unwrap();
    assert!(told.contains("STATE/certificate") && told.contains("admission = \"closed\""), "{told}");
    let told =
        key(at, "admit --renew @certificate --admission-key @admission.key --output @renewed --days 60").unwrap();
    assert!(told.contains("--renew"), "{told}");
    for (by, output) in [("admission.key", "a"), ("network.key", "b")] {
        let told = key(at, &format!("revoke @certificate --key @{by} --output @{output}")).unwrap();
        assert!(told.contains("STATE/revoke"), "{told}");
    }
    key(at, &format!("revoke {node} --key @network.key --output @c")).unwrap();
    #[cfg(unix)]
    for file in ["network.key", "admission.key", "certificate", "renewed", "a", "state/identity.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(at.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn nothing_is_overwritten() {
    let (folder, node) = made();
    let at = folder.path();
    let before = std::fs::read(at.join("network.key")).unwrap();
    for words in [
        "network --output @network.key".to_owned(),
        "admission --network-key @network.key --output @network.key".to_owned(),
        format!("admit {node} --admission-key @admission.key --output @network.key"),
        format!("revoke {node} --key @admission.key --output @network.key"),
    ] {
        let error = refused(at, &words);
        assert!(error.contains("network.key exists and is not overwritten"), "{error}");
    }
    assert_eq!(std::fs::read(at.join("network.key")).unwrap(), before);
}

#[test]
fn what_is_missing_or_taken_for_another_is_named_with_what_to_do() {
    let (folder, node) = made();
    let at = folder.path();
    let cases = [
        ("admission --network-key @none --output @a", "make it with `atoll key network`"),
        ("admission --network-key @admission.key --output @a", "this is an admission key, not a network key"),
        (&*format!("admit {node} --admission-key @none --output @a"), "make it with `atoll key admission`"),
        (&*format!("admit {node} --admission-key @network.key --output @a"), "this is a network key, not"),
        ("revoke @network.key --key @admission.key --output @a", "this is a network key, not a node's certificate"),
        (&*format!("revoke --admission {node} --key @admission.key --output @a"), "only the network key revokes"),
        (&*format!("admit {node} --admission-key @admission.key --days 90 --output @none/a"), "cannot write into"),
    ];
    for (words, says) in cases {
        let error = refused(at, words);
        assert!(error.contains(says), "{words}: {error}");
    }
    key(at, "admission --network-key @network.key --output @week.key --days 7 --roles proxy").unwrap();
    let error = refused(at, &format!("admit {node} --admission-key @week.key --output @a"));
    assert!(error.contains("is valid until"), "{error}");
    let error = refused(at, &format!("admit {node} --admission-key @week.key --days 7 --output @a"));
    assert!(error.contains("roles"), "{error}");
    let words = format!("admit {node} --admission-key @week.key --days 6 --roles proxy --output @a");
    assert!(key(at, &words).is_ok());
    assert!(!PathBuf::from("a").exists());
}

#[test]
fn a_zones_key_is_made_once_and_its_ds_shown_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let told = key(at, "zone Nyud.Example --output @zone.key").unwrap();
    let (ds, rest) = told.split_once('\n').unwrap();
    assert!(
        ds.starts_with("nyud.example. 3600 IN DS ") && rest.starts_with("nyud.example. 3600 IN DNSKEY 257 3 13 "),
        "{told}"
    );
    let shown = key(at, "zone nyud.example --show @zone.key").unwrap();
    assert_eq!(shown.lines().next(), Some(ds));
    assert!(refused(at, "zone nyud.example --output @zone.key").contains("is not overwritten"));
    assert!(refused(at, "zone nyud.example --show @nothing").contains("atoll key zone"));
    std::fs::write(at.join("other"), "no key").unwrap();
    assert!(refused(at, "zone nyud.example --show @other").contains("PKCS #8"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(at.join("zone.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the owner's alone");
    }
}
