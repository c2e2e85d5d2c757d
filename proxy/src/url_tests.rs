//! Names there and back, and what is refused on the way.

use atoll_overlay::NodeId;
use proptest::prelude::*;

use super::*;
use crate::zone::{Coralized, Zone};

fn zone() -> Zone {
    Zone::new("Nyud.Example.").unwrap()
}

fn url(text: &str) -> OriginUrl {
    OriginUrl::parse(text).unwrap()
}

fn decoded(host: &str) -> Result<(String, Option<u16>), UrlError> {
    zone().decode(host).expect("under the zone").map(|it| (it.host, it.port))
}

#[test]
fn every_form_stands_for_its_origin() {
    let check = |host: &str, origin: &str, port: Option<u16>| {
        assert_eq!(decoded(host), Ok((origin.to_owned(), port)), "{host}");
    };
    check("www.example.com.nyud.example", "www.example.com", None);
    check("a.b.c.d.e.example.com.nyud.example", "a.b.c.d.e.example.com", None);
    check("www.example.com.8080.nyud.example", "www.example.com", Some(8080));
    check("www-example-com.nyud.example", "www.example.com", None);
    check("my--shop-example-com-8080.nyud.example", "my-shop.example.com", Some(8080));
    check("localhost.nyud.example", "localhost", None);
}

#[test]
fn a_node_label_names_the_node_and_leaves_the_rest() {
    let id = NodeId::from(Key::of(b"node"));
    for inner in ["www.example.com", "www-example-com"] {
        let found = zone().decode(&format!("{inner}.n-{id}.nyud.example")).unwrap().unwrap();
        assert_eq!(found, Coralized { host: "www.example.com".to_owned(), port: None, node: Some(id) });
    }
    assert!(matches!(decoded("www.example.com.n-xyz.nyud.example"), Err(UrlError::Node(_))));
}

#[test]
fn hosts_outside_the_zone_are_not_coralized() {
    for host in ["nyud.example", "www.example.com", "xnyud.example", "nyud.example.com"] {
        assert_eq!(zone().decode(host), None, "{host}");
    }
}

// O03: refused before any resolution.
#[test]
fn addresses_in_any_notation_are_no_origin_names() {
    for inner in [
        "127.0.0.1",
        "127.0.0.1.80",
        "2130706433",
        "0x7f.1",
        "0177.1",
        "0x7f000001",
        "1.2.3",
        "127-0-0-1",
        "10.0.0.1.8080",
    ] {
        assert!(decoded(&format!("{inner}.nyud.example")).is_err(), "{inner}");
    }
    for text in ["http://127.0.0.1/", "http://[::1]/", "http://2130706433/", "https://0x7f.0x1/"] {
        assert!(matches!(OriginUrl::parse(text), Err(UrlError::Literal(_))), "{text}");
    }
}

// O04: what is no port at all; ports that policy refuses are refused by the origins' rule.
#[test]
fn impossible_ports_are_refused() {
    for port in ["0", "65536", "99999999999999999999"] {
        assert!(matches!(decoded(&format!("www.example.com.{port}.nyud.example")), Err(UrlError::Port(_))), "{port}");
    }
    for text in ["a:0", "a:65536", "a:-1", "a:+80", "a:8o", "a:80:80", "[::1]80"] {
        assert!(Authority::parse(text).is_err(), "{text}");
    }
}

// O05
#[test]
fn a_name_coralized_twice_is_refused() {
    for inner in ["www.example.com.nyud.example", "nyud.example", "a.nyud.example.8080", "www-example-com.nyud.example"]
    {
        assert!(matches!(decoded(&format!("{inner}.nyud.example")), Err(UrlError::Nested(_))), "{inner}");
    }
    assert!(matches!(zone().host(&url("http://x.nyud.example/")), Err(UrlError::Nested(_))));
}

// H08
#[test]
fn authorities_are_normal_or_refused() {
    for (text, host, port) in [
        ("WWW.Example.COM", "www.example.com", None),
        ("www.example.com.", "www.example.com", None),
        ("www.example.com:", "www.example.com", None),
        ("www.example.com:80", "www.example.com", Some(80)),
        ("[::0001]:80", "[::1]", Some(80)),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
    ] {
        let found = Authority::parse(text).unwrap();
        assert_eq!((found.host(), found.port()), (host, port), "{text}");
    }
    let long = format!("{}.example", "a.".repeat(130));
    let label = format!("{}.example", "a".repeat(64));
    for wrong in [
        "",
        ".",
        "a..b",
        "a,b",
        "a, b",
        "user@a",
        "a b",
        "b\u{fc}cher.example",
        "a/b",
        "a%2eb",
        "[::1",
        long.as_str(),
        label.as_str(),
    ] {
        assert!(Authority::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn equal_authorities_give_equal_keys_and_only_they() {
    let key = |text: &str| url(text).key();
    assert_eq!(key("http://WWW.example.com:80/a"), key("http://www.example.com./a"));
    assert_eq!(key("https://a.test:443/"), key("https://a.test"));
    let distinct = [
        "http://a.test/",
        "https://a.test/",
        "http://a.test:8080/",
        "http://a.test:443/",
        "http://a.test/?",
        "http://b.test/",
    ];
    for (at, one) in distinct.iter().enumerate() {
        for other in distinct.iter().skip(at + 1) {
            assert_ne!(key(one), key(other), "{one} {other}");
        }
    }
}

#[test]
fn https_is_the_label_443_and_other_https_ports_need_the_manager() {
    let forms = zone().forms(&url("https://www.example.com/x?y"));
    assert_eq!(forms.dotted.as_deref(), Ok("http://www.example.com.443.nyud.example/x?y"));
    assert_eq!(forms.one_label.as_deref(), Ok("http://www-example-com-443.nyud.example/x?y"));
    assert_eq!(forms.manager, "/~/https/www.example.com/x?y");
    let forms = zone().forms(&url("https://www.example.com:8443/"));
    assert_eq!(forms.dotted, Err(UrlError::OnlyManager("/~/https/www.example.com:8443/".to_owned())));
    assert!(zone().forms(&url("http://www.example.com:443/")).dotted.is_err());
}

#[test]
fn a_label_that_looks_like_punycode_names_the_dotted_form() {
    assert_eq!(
        zone().one_label(&url("http://xn-a.example.com/")),
        Err(UrlError::FalsePunycode {
            label: "xn--a-example-com".to_owned(),
            dotted: "xn-a.example.com.nyud.example".to_owned()
        })
    );
    assert!(zone().one_label(&url("http://xn--bcher-kva.example/")).is_ok());
}

#[test]
fn manager_paths_lead_back() {
    for text in ["https://www.example.com:8443/x/y?z=%20", "http://a.test/", "http://a.test:8080/?"] {
        assert_eq!(OriginUrl::from_manager_path(&url(text).manager_path()), Some(Ok(url(text))), "{text}");
    }
    assert_eq!(OriginUrl::from_manager_path("/~/http/a.test"), Some(Ok(url("http://a.test/"))));
    assert!(matches!(OriginUrl::from_manager_path("/~/gopher/a.test/"), Some(Err(UrlError::Scheme(_)))));
    assert!(matches!(OriginUrl::from_manager_path("/~/http//x"), Some(Err(_))));
    assert_eq!(OriginUrl::from_manager_path("/x"), None);
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn host() -> impl Strategy<Value = String> {
    (prop::collection::vec(label(), 1..4), "[a-m][a-z]{1,4}")
        .prop_map(|(labels, top)| format!("{}.{top}", labels.join(".")))
}

proptest! {
    #[test]
    fn names_round_trip_in_every_form(host in host(), port in 1u16.., path in "/[!-\"$-~]{0,20}") {
        let scheme = if port == 443 { Scheme::Https } else { Scheme::Http };
        let authority = Authority { host: host.clone(), port: Some(port) };
        let url = OriginUrl::new(scheme, &authority, &path).unwrap();
        let zone = zone();
        let back = |name: &str| zone.decode(name).unwrap().unwrap();
        let expected = (host.clone(), (port != 80).then_some(port));
        let found = back(&zone.host(&url).unwrap());
        prop_assert_eq!((found.host, found.port), expected.clone());
        if let Ok(name) = zone.one_label(&url) {
            prop_assert_eq!(name.split('.').count(), 3);
            let found = back(&name);
            prop_assert_eq!((found.host, found.port), expected.clone());
        }
        let found = back(&zone.at_node(&url, NodeId::from(Key::of(b"n"))).unwrap());
        prop_assert_eq!((found.host, found.port), expected);
        // Key bytes are the forwarded bytes.
        prop_assert_eq!(url.path(), path.as_str());
        prop_assert_eq!(OriginUrl::parse(&url.to_string()).unwrap(), url);
    }
}

/// A name, however it is written.
#[derive(Debug, Clone)]
struct Written {
    secure: bool,
    host: String,
    port: Option<u16>,
    path: String,
    /// Which letters are upper case, and whether a dot ends the host.
    upper: u32,
    dot: bool,
}

impl Written {
    fn text(&self) -> String {
        let host = self
            .host
            .chars()
            .zip(0..)
            .map(|(c, at)| if self.upper >> (at % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c });
        let (scheme, dot) = (if self.secure { "HTTPS" } else { "http" }, if self.dot { "." } else { "" });
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{scheme}://{}{dot}{port}{}", host.collect::<String>(), self.path)
    }

    /// What it means.
    fn meaning(&self) -> (bool, &str, u16, &str) {
        let port = self.port.unwrap_or(if self.secure { 443 } else { 80 });
        (self.secure, &self.host, port, if self.path.is_empty() { "/" } else { &self.path })
    }
}

fn written() -> impl Strategy<Value = Written> {
    // Of few hosts, ports and paths, so that many are equal and many nearly so.
    let host = prop::sample::select(vec!["a.test", "b.a.test", "a-test.test", "a.test.test"]);
    let port = prop::option::of(prop::sample::select(vec![80, 443, 8080]));
    let path = prop::sample::select(vec!["", "/", "/?", "//", "/a", "/A", "/%61", "/a?b", "/a?"]);
    (any::<bool>(), host, port, path, any::<u32>(), any::<bool>()).prop_map(|(secure, host, port, path, upper, dot)| {
        Written { secure, host: host.to_owned(), port, path: path.to_owned(), upper, dot }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    // H08, C14: one key for each scheme, host, port and path with query; and for a site's names, which its own host tells apart.
    #[test]
    fn keys_are_equal_if_and_only_if_what_is_meant_is(one in written(), other in written()) {
        let same = one.meaning() == other.meaning();
        prop_assert_eq!(url(&one.text()).key() == url(&other.text()).key(), same);
        let site = |written: &Written, named| {
            let scheme = if written.secure { Scheme::Https } else { Scheme::Http };
            let text = written.text();
            let authority = text.split("://").nth(1).unwrap().split(['/', '?']).next().unwrap().to_owned();
            OriginUrl::of_site(scheme, &Authority::parse(&authority).unwrap(), named, &written.path).unwrap().key()
        };
        prop_assert_eq!(site(&one, false) == site(&other, false), same);
        // A site with the name to itself is one on every port.
        let alike = |written: &Written| (written.secure, written.host.clone(), written.meaning().3.to_owned());
        prop_assert_eq!(site(&one, true) == site(&other, true), alike(&one) == alike(&other));
        let authority = |written: &Written| Authority::parse(&url(&written.text()).authority()).unwrap();
        let means = |written: &Written| (written.host.clone(), Some(written.meaning().2).filter(|port| *port != if written.secure { 443 } else { 80 }));
        prop_assert_eq!(authority(&one) == authority(&other), means(&one) == means(&other));
    }
}

#[test]
fn no_bytes_make_the_parsers_panic() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let _ = zone().decode(&text);
        let _ = zone().decode(&format!("{text}.nyud.example"));
        let _ = OriginUrl::from_manager_path(&text);
        if let Ok(url) = OriginUrl::parse(&text) {
            assert_eq!(OriginUrl::parse(&url.to_string()), Ok(url));
        }
        if let Ok(authority) = Authority::parse(&text) {
            assert_eq!(
                Authority::parse(authority.host()).map(|it| it.host().to_owned()),
                Ok(authority.host().to_owned())
            );
        }
    });
}
