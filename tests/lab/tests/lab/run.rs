//! `lab run FILE`: the file's own hosts, and what they are to show.

use std::{fs, process::Output};

use crate::{
    alone,
    bench::{Bench, SMALL},
    skipped,
};

/// A name that a client's resolver finds through root and TLD, at a web server.
const SITE: &str = r#"
host = [
    { name = "root", role = "root", at = 0 },
    { name = "web", role = "origin", names = ["www.site.test", "site.test"], files = [{ path = "/f{n}", size = "2KB", count = 3 }], at = 1 },
    { name = "tld", role = "tld", tlds = ["test"], at = 3 },
    { name = "resolver", role = "resolver", program = "unbound", at = 2 },
    { name = "user", role = "client", count = 2, resolver = "resolver", at = { beside = "resolver" } },
]
"#;

/// The one JSON object that is all of stdout.
fn json(output: &Output) -> serde_json::Value {
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.lines().count(), 1, "{printed}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&printed).unwrap()
}

/// The value of a claim.
fn claim(outcome: &serde_json::Value, name: &str) -> f64 {
    let claims = outcome["claims"].as_array().unwrap();
    let found = claims.iter().find(|claim| claim["name"] == name).unwrap_or_else(|| panic!("no {name} in {outcome}"));
    found["value"].as_f64().unwrap_or(f64::NAN)
}

/// Nothing whose name begins with that of the file is there.
fn assert_nothing_left(bench: &Bench) {
    for folder in ["/run/netns", "/run/atoll-lab"] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let left: Vec<String> = names.filter(|name| name.contains(bench.name())).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[test]
fn a_file_is_run_with_its_own_hosts_and_all_of_stdout_is_one_json_object() {
    if skipped("lab run FILE --json") {
        return;
    }
    let _alone = alone();
    let bench = Bench::new(SITE);
    let output = bench.run(&["run", "x.toml", "--json"]);
    let outcome = json(&output);
    assert!(output.status.success(), "{outcome}");
    assert_eq!((&outcome["scenario"], &outcome["holds"]), (&bench.name().into(), &true.into()), "{outcome}");
    assert_eq!(["hosts_up", "answered", "served_whole"].map(|name| claim(&outcome, name)), [6.0, 100.0, 100.0]);
    // Two clients, two names, three files.
    assert_eq!(claim(&outcome, "requests/web"), 12.0);
    assert_nothing_left(&bench);
}

#[test]
fn a_file_shows_what_it_says_it_does_or_what_the_scenario_of_its_name_does() {
    if skipped("lab run FILE with `claims`") {
        return;
    }
    let _alone = alone();
    // These hosts have no nodes whose clients could be sent anywhere.
    let bench = Bench::new(&format!("claims = \"distances\"\n{SMALL}"));
    let output = bench.run(&["run", "--json", "x.toml"]);
    let outcome = json(&output);
    assert_eq!((output.status.code(), &outcome["holds"]), (Some(1), &false.into()), "{outcome}");
    assert!(outcome["error"].as_str().unwrap().contains("no host `"), "{outcome}");
    fs::write(bench.folder().join("copy.toml"), format!("name = \"names\"\n{SMALL}")).unwrap();
    let outcome = json(&bench.run(&["run", "copy.toml", "--json"]));
    assert!(outcome["error"].as_str().unwrap().contains("no host `client` in this lab"), "{outcome}");
    assert_nothing_left(&bench);
}
