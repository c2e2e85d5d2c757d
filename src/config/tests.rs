//! What a configuration says, what is refused, and how the refusal reads.

use std::path::Path;

use expect_test::{Expect, expect};

use super::{manual::entries, *};

/// Parses a file's text and compares what is told: the problems, or the summary.
#[expect(clippy::needless_pass_by_value, reason = "an inline snapshot is written where it is used")]
fn check(text: &str, told: Expect) {
    match Config::parse(text, Path::new("atoll.toml")) {
        Ok(config) => told.assert_eq(&config.summary()),
        Err(error) => told.assert_eq(&error.to_string()),
    }
}

/// The problems' first lines only.
fn messages(text: &str) -> Vec<String> {
    let error = Config::parse(text, Path::new("a")).unwrap_err();
    error.problems.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn a_typo_names_file_line_column_and_the_nearest_key() {
    check(
        "[node]\nroles = [\"proxy\"]\n  zome = \"nyud.example\"\n",
        expect![[r#"
        atoll.toml:3:3: unknown key `zome` in [node]
          3 |   zome = "nyud.example"
            |   ^^^^
          did you mean `zone`?
          [node] knows: roles, state, network, zone, site, weight, addresses, http_ports, bootstrap, drain_wait, drain_grace"#]],
    );
}

#[test]
fn a_wrong_type_is_told_with_what_is_allowed_and_an_example() {
    check(
        "[node]\nroles = [\"proxy\"]\nweight = \"much\"\n",
        expect![[r#"
        atoll.toml:3:10: `weight` in [node]: invalid type: string "much", expected u16
          3 | weight = "much"
            |          ^^^^^^
          weight: Share of the traffic it wants against others: 0 is none, 100 the norm. Range: 0 to 1000.
          for example: weight = 100"#]],
    );
}

#[test]
fn a_value_out_of_range_is_told_with_the_range() {
    check(
        "[node]\nroles = [\"proxy\"]\nweight = 1001\ndrain_wait = \"2h\"\n",
        expect![[r#"
        atoll.toml:3:10: `weight` in [node] is out of range
          3 | weight = 1001
            |          ^^^^
          allowed: 0 to 1000
          weight: Share of the traffic it wants against others: 0 is none, 100 the norm. Range: 0 to 1000.
          for example: weight = 100
        atoll.toml:4:14: `drain_wait` in [node] is out of range
          4 | drain_wait = "2h"
            |              ^^^^
          allowed: 0s to 1h
          drain_wait: How long a node that stops goes on serving after it has left DNS: the longest TTL of an answer that names it. Shorter cuts off clients that still hold an answer, longer makes stopping slow. Range: 0s to 1h.
          for example: drain_wait = "60s""#]],
    );
}

#[test]
fn a_wrong_word_names_the_nearest_one() {
    check(
        "[node]\nroles = [\"prxy\"]\n",
        expect![[r#"
        atoll.toml:2:10: `roles` in [node]: unknown variant `prxy`, expected one of `dnssrv`, `proxy`, `manager`
          2 | roles = ["prxy"]
            |          ^^^^^^
          did you mean "proxy"?
          roles: What this node runs, any of: "dnssrv" answers DNS for the zone, "proxy" serves HTTP from its cache, "manager" redirects clients to a near proxy over HTTP, where no DNS delegation can be had. Needed. Range: 1 to 3 entries.
          for example: roles = ["proxy"]"#]],
    );
}

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_the_file() {
    check(
        "zone = \"a.example\"\n[nod]\nx = 1\n[node]\nroles = 3\nstat = \"/tmp\"\n[admin]\nlisten = [\"localhost\"]\nhead_timeout = 5\n",
        expect![[r#"
            atoll.toml:1:1: key `zone` stands in no section
              1 | zone = "a.example"
                | ^^^^
              `zone` belongs in [node]
              sections: node, overlay, index, dns, proxy, store, manager, cache, admin, log
            atoll.toml:2:2: unknown section [nod]
              2 | [nod]
                |  ^^^
              did you mean [node]?
              sections: node, overlay, index, dns, proxy, store, manager, cache, admin, log
            atoll.toml:5:9: `roles` in [node]: invalid type: integer `3`, expected a sequence
              5 | roles = 3
                |         ^
              roles: What this node runs, any of: "dnssrv" answers DNS for the zone, "proxy" serves HTTP from its cache, "manager" redirects clients to a near proxy over HTTP, where no DNS delegation can be had. Needed. Range: 1 to 3 entries.
              for example: roles = ["proxy"]
            atoll.toml:6:1: unknown key `stat` in [node]
              6 | stat = "/tmp"
                | ^^^^
              did you mean `state`?
              [node] knows: roles, state, network, zone, site, weight, addresses, http_ports, bootstrap, drain_wait, drain_grace
            atoll.toml:8:11: `listen` in [admin]: invalid socket address syntax
              8 | listen = ["localhost"]
                |           ^^^^^^^^^^^
              listen: TCP addresses of the admin API and the dashboard; every request there needs the token. Port 0 takes any free one. Range: 0 to 16 entries.
              for example: listen = []
            atoll.toml:9:16: `head_timeout` in [admin]: invalid type: integer `5`, expected a duration such as "300ms", "20s" or "1h"
              9 | head_timeout = 5
                |                ^
              head_timeout: How long a client may take to send a request. Shorter drops slow clients, longer lets idle ones hold a connection. Range: 100ms to 60s.
              for example: head_timeout = "5s""#]],
    );
}

#[test]
fn a_syntax_error_names_its_place() {
    check(
        "[node]\nroles = [\"proxy\"\nzone = \"a.example\"\n",
        expect![[r#"
            atoll.toml:3:1: this is not TOML: missing comma between array elements, expected `,`
              3 | zone = "a.example"
                | ^"#]],
    );
}

#[test]
fn a_key_given_twice_is_refused() {
    check(
        "[node]\nroles = [\"proxy\"]\nroles = [\"manager\"]\n",
        expect![[r#"
        atoll.toml:3:1: this is not TOML: duplicate key
          3 | roles = ["manager"]
            | ^^^^^"#]],
    );
}

#[test]
fn an_empty_file_says_what_to_add() {
    check(
        "",
        expect![[r#"
        atoll.toml: this node has no role: there is nothing for it to do
          say what it runs: roles = ["dnssrv", "proxy", "manager"], or some of them"#]],
    );
}

#[test]
fn a_dnssrv_without_a_zone_is_told_what_to_do() {
    check(
        "[node]\nroles = [\"dnssrv\"]\n",
        expect![[r#"
        atoll.toml:2:9: role "dnssrv" needs a zone to answer for
          2 | roles = ["dnssrv"]
            |         ^^^^^^^^^^
          add zone = "cdn.example.org" to [node], a name that is delegated to this node by NS records; without a domain of your own leave the role out and use "manager""#]],
    );
}

#[test]
fn a_proxy_without_origins_is_told_that_it_would_serve_nothing() {
    check(
        "[node]\nroles = [\"proxy\"]\n",
        expect![[r#"
        atoll.toml: role "proxy" has no origin it may fetch from: every request would be refused
          add origins = ["www.example.com"] to [proxy]; "any" makes it an open proxy to every public host"#]],
    );
    assert!(Config::parse("[node]\nroles = [\"proxy\"]\n[proxy]\norigins = \"any\"\n", Path::new("a")).is_ok());
    let site = "[node]\nroles = [\"proxy\"]\n[proxy.sites.\"a.test\"]\norigin = \"http://10.0.0.5:8080\"\n";
    assert!(Config::parse(site, Path::new("a")).is_ok());
}

#[test]
fn what_several_crates_need_is_set_once() {
    let text = "[node]\nroles = [\"dnssrv\"]\nzone = \"a.example\"\nnetwork = \"n\"\nbootstrap = [\"h:1\"]\n[index]\nthresholds = [\"50ms\"]\n";
    let config = Config::parse(text, Path::new("a")).unwrap();
    assert_eq!((&*config.dns.zone, &*config.proxy.zone), ("a.example", "a.example"));
    assert_eq!((&*config.overlay.network, &*config.proxy.network), ("n", "n"));
    assert_eq!(config.overlay.bootstrap, ["h:1"]);
    assert_eq!(config.dns.thresholds, config.index.thresholds);
    check(
        &format!("{text}[dns]\nzone = \"b.example\"\n"),
        expect![[r#"
        atoll.toml:9:8: `dns.zone` follows from `node.zone`
          9 | zone = "b.example"
            |        ^^^^^^^^^^^
          set node.zone instead, for the whole node"#]],
    );
}

#[test]
fn the_cache_is_in_the_state_directory_unless_it_is_elsewhere_or_nowhere() {
    let directory = |line: &str| {
        let text = format!("[node]\nroles = [\"manager\"]\nstate = \"/s\"\n[store]\n{line}\n");
        Config::parse(&text, Path::new("a")).unwrap().store.directory
    };
    assert_eq!(directory(""), Some("/s/cache".into()));
    assert_eq!(directory("directory = \"/d\""), Some("/d".into()));
    assert_eq!(directory("directory = \"\""), None);
}

#[test]
fn an_admin_api_open_to_the_network_must_be_asked_for() {
    let text = "[node]\nroles = [\"manager\"]\n[admin]\nlisten = [\"0.0.0.0:7000\"]\n";
    assert_eq!(messages(text), ["the admin API would be reachable from other machines, in clear text"]);
    assert!(Config::parse(&format!("{text}remote = true\n"), Path::new("a")).is_ok());
}

#[test]
fn two_listeners_on_one_port_are_refused_unless_their_addresses_differ() {
    let text = |admin: &str| format!("[node]\nroles = [\"manager\"]\n[admin]\nlisten = [\"{admin}\"]\n");
    assert_eq!(
        messages(&text("127.0.0.1:8081")),
        ["127.0.0.1:8081 is already taken by manager.listen, which listens on 0.0.0.0:8081"]
    );
    assert!(Config::parse(&text("[::1]:8081"), Path::new("a")).is_ok());
    assert!(Config::parse(&text("127.0.0.1:8082"), Path::new("a")).is_ok());
}

#[test]
fn words_that_are_no_names_are_refused() {
    for line in [
        "zone = \"example\"",
        "zone = \"-a.example\"",
        "zone = \"a..example\"",
        "zone = \"a b.example\"",
        "network = \"\"",
        "network = \"A\"",
        "site = \"line\\nbreak\"",
        "state = \"\"",
        "bootstrap = [\"host\"]",
        "bootstrap = [\"host:0\"]",
        "bootstrap = [\"/ip4\"]",
        "addresses = [\"0.0.0.0\"]",
        "http_ports = [0]",
    ] {
        let text = format!("[node]\nroles = [\"manager\"]\n{line}\n");
        assert_eq!(messages(&text).len(), 1, "{line}");
    }
}

#[test]
fn a_zone_is_kept_in_lower_case_without_its_last_dot() {
    let text = "[node]\nroles = [\"dnssrv\"]\nzone = \"Nyud.Example.\"\nbootstrap = [\"[::1]:7400\", \"/ip4/192.0.2.1/tcp/7400\"]\n";
    assert_eq!(Config::parse(text, Path::new("a")).unwrap().node.zone, "nyud.example");
}

#[test]
fn a_file_of_a_million_lines_or_100_mb_is_refused_by_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("atoll.toml");
    std::fs::write(&file, "#\n".repeat(1_000_000)).unwrap();
    let told = Config::load(&file).unwrap_err().to_string();
    assert!(told.contains("more than 256 KiB"), "{told}");
    File::create(&file).unwrap().set_len(100_000_000).unwrap();
    let told = Config::load(&file).unwrap_err().to_string();
    assert!(told.contains("more than 256 KiB"), "{told}");
}

#[test]
fn a_file_that_is_absent_or_no_text_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let absent = Config::load(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(absent.contains("none.toml: cannot be read"), "{absent}");
    let file = folder.path().join("atoll.toml");
    std::fs::write(&file, b"[node]\n# caf\xe9\n").unwrap();
    let latin = Config::load(&file).unwrap_err().to_string();
    assert!(latin.contains("atoll.toml:2:6: this byte is not UTF-8"), "{latin}");
}

#[test]
fn no_more_mistakes_are_told_than_can_be_read() {
    use std::fmt::Write as _;
    let mut text = "[node]\n".to_owned();
    (0..200).for_each(|n| writeln!(text, "k{n} = 1").unwrap());
    assert_eq!(messages(&text).len(), ConfigError::SHOWN);
}

#[test]
fn the_example_file_is_a_configuration() {
    let config = Config::parse(EXAMPLE, Path::new("atoll.example.toml")).map_err(|error| error.to_string()).unwrap();
    assert!(config.node.runs(Role::Proxy));
}

#[test]
fn the_defaults_in_the_example_file_are_the_defaults() {
    let mut text = String::new();
    let mut section = "";
    for entry in entries(EXAMPLE).iter().filter(|entry| entry.is_default) {
        if entry.section != section {
            section = entry.section;
            text.push_str(&format!("[{section}]\n"));
        }
        text.push_str(&format!("{} = {}\n", entry.key, entry.value));
    }
    // Read without the check, which asks for a role.
    let mut sections = parse::Sections::parse(&text, &SECTIONS).map_err(|problems| format!("{problems:?}")).unwrap();
    let read = Config::read(&mut sections);
    assert_eq!(sections.finish(), []);
    let (read, default) = (format!("{read:#?}"), format!("{:#?}", Config::default()));
    let differing = read.lines().zip(default.lines()).find(|(read, default)| read != default);
    assert_eq!(differing, None, "the example says the first, the default is the second");
    assert_eq!(read.lines().count(), default.lines().count());
}

#[test]
fn the_example_file_has_every_key_with_a_comment() {
    let written = entries(EXAMPLE);
    for entry in &written {
        assert!(!entry.comment.is_empty(), "[{}] {} has no comment", entry.section, entry.key);
        let has_range = entry.comment.contains("Range: ");
        let is_quantity = entry.value.trim_start_matches('"').starts_with(|c: char| c.is_ascii_digit());
        assert!(has_range || !is_quantity || !entry.is_default, "[{}] {} has no range", entry.section, entry.key);
        assert_eq!(
            entry.range().is_some(),
            has_range,
            "[{}] {} has a range that cannot be read",
            entry.section,
            entry.key
        );
    }
    for section in all_sections(&written) {
        for key in keys_of(section) {
            let is_section = written.iter().any(|entry| entry.section == format!("{section}.{key}"));
            let is_told = written.iter().any(|entry| entry.section == section && entry.key == key);
            let elsewhere = SET_ONCE.iter().any(|(path, _)| *path == format!("{section}.{key}"));
            assert!(is_section || is_told || elsewhere, "atoll.example.toml lacks `{key}` in [{section}]");
        }
    }
}

/// The sections and sub-sections of the example file.
fn all_sections<'a>(written: &[manual::Entry<'a>]) -> Vec<&'a str> {
    let mut sections: Vec<&str> = written.iter().map(|entry| entry.section).collect();
    sections.extend(SECTIONS);
    sections.sort_unstable();
    sections.dedup();
    sections
}

/// The keys a section knows, as it tells them when it is given one it does not know.
fn keys_of(section: &str) -> Vec<String> {
    let error = Config::parse(&format!("[{section}]\nno_such_key = 1\n"), Path::new("a")).unwrap_err();
    let knows = error.problems.iter().flat_map(|problem| &problem.help).find_map(|line| line.split_once("knows: "));
    let (_, keys) = knows.unwrap_or_else(|| panic!("[{section}] takes any key: {error}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn no_bytes_make_the_reader_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Err(error) = Config::parse(&String::from_utf8_lossy(bytes), Path::new("a")) {
            let _ = error.to_string();
        }
    });
}

#[test]
fn no_mangled_example_makes_the_reader_panic() {
    let active: String = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .filter(|line| !line.starts_with(' '))
        .fold(String::new(), |text, line| text + line + "\n");
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|changes: &Vec<(u16, u8)>| {
        let mut bytes = active.clone().into_bytes();
        for (at, byte) in changes {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *byte;
        }
        if let Err(error) = Config::parse(&String::from_utf8_lossy(&bytes), Path::new("a")) {
            let _ = error.to_string();
        }
    });
}

#[test]
fn a_file_nested_too_deep_is_refused_not_followed() {
    for text in [
        format!("[{}a]\nx = 1\n", "a.".repeat(100_000)),
        format!("[proxy]\n{}a = 1\n", "a.".repeat(100_000)),
        format!("[proxy.sites]\n{}a = 1\n", "a.".repeat(100_000)),
        format!("[proxy]\nsites = {}1{}\n", "{a=".repeat(50_000), "}".repeat(50_000)),
        format!("[proxy]\nlisten = {}\n", "[".repeat(200_000)),
    ] {
        let told = Config::parse(&text, Path::new("a")).unwrap_err().to_string();
        assert!(told.len() < 4_096, "{} bytes", told.len());
    }
}

#[test]
fn what_a_crate_could_not_start_with_is_told_before_anything_starts() {
    let told = |roles: &str, rest: &str| {
        let text = format!("[node]\nroles = [\"{roles}\"]\nzone = \"nyud.example\"\n{rest}\n");
        let error = Config::parse(&text, Path::new("a")).unwrap_err();
        let line = error.problems[0].place.as_ref().map_or(0, |place| place.line);
        (error.problems.len(), line, error.problems[0].message.clone())
    };
    let (count, line, message) = told("manager", "[store]\ncapacity = \"8MiB\"");
    assert_eq!((count, line), (1, 5), "{message}");
    let (count, line, message) = told("manager", "[overlay]\nlisten = [\"0.0.0.0:7400\"]");
    assert_eq!((count, line), (1, 5), "{message}");
    let (count, line, message) =
        told("dnssrv", "[dns]\nrecords = [{ name = \"@\", type = \"AXFR\", data = \"a.example.\" }]");
    assert_eq!((count, line), (1, 5), "{message}");
    let (count, line, message) = told("dnssrv", "[index]\nthresholds = [\"20ms\", \"60ms\"]");
    assert_eq!((count, line), (1, 0), "{message}");
    let (count, line, message) = told("proxy", "[proxy]\norigins = [\"a b\"]");
    assert_eq!((count, line), (1, 5), "{message}");
    let (count, line, message) = told("proxy", "[proxy.sites.\"a.test\"]\norigin = \"ftp://b.test\"");
    assert_eq!((count, line), (1, 4), "{message}");
}
