//! Several labs at once. In a mount namespace with a /run of its own, where no lab of anybody else's is seen, or ended.

use std::{fs, process::Command};

use crate::{
    alone,
    bench::{MATRIX, SMALL},
    skipped, unique_name,
};

/// Prints the exit code of each command and what it said, one line each.
const SCRIPT: &str = r#"
mount -t tmpfs lab /run || exit 9
# Whatever goes wrong: nobody else sees these labs. A lock that is held says that the PID is still its owner's.
end() {
    for lab in /run/atoll-lab/*/; do
        [ ! -e "$lab/lab.json" ] || flock -n "$lab/lock" true || kill -9 "$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$lab/lab.json")"
    done
}
trap end EXIT
trap 'exit 8' HUP INT TERM
lab() { said=$("$LAB" --matrix "$MATRIX" "$@" 2>&1); code=$?; echo "$code|$(echo "$said" | head -1)"; }
lab up one.toml
lab up two.toml
lab status
lab exec user -- true
lab cut user web
lab down
lab --lab "$ONE" exec user -- true
lab --lab "$TWO" status
lab down --all
lab status
ls -A /run/atoll-lab /run/netns 2>/dev/null | grep -F -e "$ONE" -e "$TWO"
true
"#;

#[test]
fn of_several_labs_one_must_be_named_and_down_all_ends_them_all() {
    if skipped("two labs at once, lab down --all") {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut names = [unique_name(), unique_name()];
    names.sort();
    for (file, name) in ["one.toml", "two.toml"].into_iter().zip(&names) {
        fs::write(folder.path().join(file), format!("name = \"{name}\"\n{SMALL}")).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT]).current_dir(folder.path());
    command.envs([
        ("LAB", env!("CARGO_BIN_EXE_atoll-lab")),
        ("MATRIX", MATRIX),
        ("ONE", &names[0]),
        ("TWO", &names[1]),
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let [one, two] = &names;
    let several = format!("1|lab: several labs are up ({one}, {two}); name one with --lab");
    let expected = [
        format!("0|up: {one} (3 hosts) in "),
        format!("0|up: {two} (3 hosts) in "),
        several.clone(),
        several.clone(),
        several.clone(),
        several,
        "0|".into(),
        format!("0|lab {two} (pid "),
        format!("0|lab {one}: down"),
        "1|lab: no lab is up".into(),
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected.as_str()), "{line}\nexpected {expected}\n{said}");
    }
}
