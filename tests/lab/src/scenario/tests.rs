//! Scenario files, good and bad.

use std::{path::Path, time::Duration};

use super::*;

fn read(text: &str) -> Result<Scenario, Error> {
    Scenario::parse(text, Path::new("x.toml"), None, Scale::Short)
}

fn refused(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

const TWO: &str = "name = \"t\"\n[[host]]\nname = \"a\"\nrole = \"plain\"\nat = 0\n[[host]]\nname = \"b\"\nrole = \"plain\"\nat = 1\n";

#[test]
fn distances_are_half_the_matrix_each_way_plus_half_of_both_accesses() {
    let plain = read(TWO).unwrap();
    let slower = read(&TWO.replace("at = 1", "at = 1\naccess = \"10ms\"")).unwrap();
    let (a, b) = (plain.hosts[0].id, plain.hosts[1].id);
    assert_eq!(plain.one_way(a, b), plain.one_way(b, a));
    assert_eq!(slower.rtt(a, b), plain.rtt(a, b) + Duration::from_millis(10));
    let one_way = read(&format!("{TWO}[[link]]\nfrom = \"a\"\nto = \"b\"\ndelay = \"77ms\"\n")).unwrap();
    assert_eq!(one_way.one_way(a, b), Duration::from_millis(77));
    assert_eq!(one_way.one_way(b, a), plain.one_way(b, a));
}

#[test]
fn a_drawn_group_is_near_itself_and_far_from_the_others() {
    let text = "name = \"t\"\nseed = 5\n[[host]]\nname = \"n\"\nrole = \"plain\"\ncount = 14\nat = { draw = \"groups\", groups = 4, size = 3 }\n\
                [[host]]\nname = \"r\"\nrole = \"plain\"\ncount = 6\nat = { draw = \"apart\" }\n\
                [[host]]\nname = \"c\"\nrole = \"plain\"\ncount = 6\nat = { beside = \"r*\" }\n";
    let scenario = read(text).unwrap();
    let near = |a: &Host, b: &Host| a.id != b.id && scenario.rtt(a.id, b.id) < Duration::from_millis(20);
    for host in &scenario.hosts[..14] {
        assert!(scenario.hosts[..14].iter().filter(|other| near(host, other)).count() >= 2);
    }
    assert_eq!(
        (scenario.host("c3").unwrap().row, scenario.host("c3").unwrap().name.as_str()),
        (scenario.host("r3").unwrap().row, "c3")
    );
    assert!(scenario.hosts[14..20].iter().all(|r| scenario.hosts[..14].iter().all(|n| n.row != r.row)));
    let again = read(text).unwrap();
    assert_eq!(
        again.hosts.iter().map(|host| host.row).collect::<Vec<_>>(),
        scenario.hosts.iter().map(|host| host.row).collect::<Vec<_>>()
    );
}

#[test]
fn patterns_choose_hosts() {
    let scenario = read(TWO).unwrap();
    assert_eq!(scenario.select("*").unwrap().len(), 2);
    assert_eq!(scenario.select("b,a,b").unwrap().len(), 2);
    assert!(scenario.select("a,x").is_err());
}

#[test]
fn a_wrong_file_is_one_line_with_file_line_and_key() {
    let cases = [
        (TWO.replace("at = 1", "att = 1"), "x.toml:9: unknown field `att`"),
        (TWO.replace("\"b\"", "\"a\""), "x.toml:7: `name`: a host `a` exists already"),
        (
            TWO.replace("at = 1", "at = 490"),
            "x.toml:9: `at` of `b`: row 490 is beyond the matrix, which is too small: 490 places",
        ),
        (TWO.replace("at = 1", "at = \"Oslo\""), "x.toml:9: `at` of `b`: the matrix knows no city `Oslo`"),
        (TWO.replace("at = 1", "at = 1\nup = \"fast\""), "x.toml:10: `fast` is not a rate"),
        (TWO.replace("at = 1", "at = 1\necs = true"), "x.toml:10: `ecs`: unknown for role = \"plain\""),
        (
            TWO.replace("\"plain\"\nat = 1", "\"client\"\nprogram = \"lynx\"\nat = 1"),
            "x.toml:9: `program`: `lynx` is no browser; chromium is",
        ),
        (
            TWO.replace("at = 1", "at = 1\nresolver = \"a\""),
            "x.toml:10: `resolver`: no host `a` with role = \"resolver\"",
        ),
        (TWO.replace("\"plain\"\nat = 1", "\"resolver\"\nat = 1"), "x.toml:8: `program`: missing"),
        (TWO.replace("\"plain\"\nat = 1", "\"wizard\"\nat = 1"), "x.toml:8: unknown variant `wizard`"),
        (
            TWO.replace("at = 1", "at = { draw = \"groups\", groups = 2 }"),
            "x.toml:9: `at` of `b`: 2 groups of 3 need 6 hosts",
        ),
        (TWO.replace("at = 1", "at = { near = 3 }"), "x.toml:9: `at`: a table is"),
        (TWO.replace("\"b\"", "\"B b\""), "x.toml:7: `name`: `B b` is not 1 to 24 of"),
        ("name = \"t\"\n".into(), "x.toml:1: `host`: a scenario needs at least one"),
        (format!("{TWO}[weather]\nloss = 3.0\n"), "x.toml:11: `loss`: must be from 0.0 to 1.0"),
        ("name = \"t\"\nx".into(), "x.toml:2: key with no value"),
        (TWO.replace("at = 1", "at = 1\ncount = 600"), "x.toml:1: `host`: 601 hosts, at most 510 fit"),
    ];
    for (text, expected) in cases {
        let said = refused(&text);
        assert!(said.starts_with(expected), "{said}\nexpected {expected}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn a_missing_matrix_is_named() {
    let said =
        Scenario::parse(TWO, Path::new("x.toml"), Some(Path::new("/nowhere/m")), Scale::Short).unwrap_err().to_string();
    assert!(said.starts_with("/nowhere/m: cannot be read"), "{said}");
}

#[test]
fn no_text_makes_the_checks_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = read(text);
            let _ = read(&TWO.replace("at = 1", text));
        }
    });
}
