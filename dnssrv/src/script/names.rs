//! What each name of the zone is, whoever asks.

use expect_test::expect;

use super::*;

#[test]
fn a_public_name_of_any_form_is_an_alias_of_its_site_for_every_type() {
    check(
        &scene(2),
        "www.example.com A",
        expect![[r#"
        NoError aa
        an www.example.com.Z 3600 CNAME SITE.http.l2.l1.l0.Z
    "#]],
    );
    let (dotted, one_label) = ("http", "https");
    let aliases = [
        ("www-example-com AAAA", one_label),
        ("www-example-com.80 AAAA", dotted),
        ("www.example.com.80 HTTPS", dotted),
        ("www.example.com ANY", dotted),
        ("WWW.Example.COM TXT", dotted),
    ];
    for (question, label) in aliases {
        let text = ask(&scene(0), question);
        assert!(
            text.starts_with("NoError aa\n") && text.ends_with(&format!(" 3600 CNAME SITE.{label}.l2.l1.l0.Z\n")),
            "{question}: {text}"
        );
    }
}

#[test]
fn a_name_has_an_https_record_while_every_proxy_answered_has_a_certificate_for_it() {
    let offers = |names: &[&str], proxies: &[u8]| {
        let certificate = |name: &&str| atoll_overlay::Certificate { name: (*name).to_owned(), expires: u64::MAX };
        let node = atoll_overlay::NodeInfo {
            http_ports: vec![80, 8443],
            certificates: names.iter().map(certificate).collect(),
            ..crate::foreign_bytes::lone_node()
        };
        let secure = crate::service::Secure::of(&node, std::time::SystemTime::UNIX_EPOCH).unwrap();
        proxies.iter().map(|last| ([192, 0, 2, *last].into(), secure.clone())).collect::<Offers>()
    };
    let mut levels = scene(2);
    levels.roster.secure = offers(&["*.nyud.example"], &[1, 2, 3]);
    check(
        &levels,
        "SITE.https.l2.l1.l0 HTTPS",
        expect![[r#"
            NoError aa
            an SITE.https.l2.l1.l0.Z 30 HTTPS 1 . alpn=h2, port=8443
        "#]],
    );
    let none = |text: String| text.contains("\nau ") && text.contains(" 30 SOA ") && !text.contains("\nan ");
    assert!(none(ask(&levels, "SITE.http.l2.l1.l0 HTTPS")), "a name of several labels");
    levels.roster.secure = offers(&["*.nyud.example"], &[1, 2]);
    levels.config.answers = 3;
    assert!(none(ask(&levels, "SITE.https.l2.l1.l0 HTTPS")), "one of the three has none");
    let mut direct = scene(2);
    direct.config.mode = Mode::Direct;
    direct.roster.secure = offers(&["*.nyud.example", "www.example.com.nyud.example"], &[1, 2, 3]);
    for (name, has) in [("www.example.com", true), ("www-example-com", true), ("other.example.com", false)] {
        assert_eq!(!none(ask(&direct, &format!("{name} HTTPS"))), has, "{name}");
    }
}

#[test]
fn proxies_without_ipv6_have_no_aaaa_and_no_https() {
    check(
        &scene(2),
        "SITE.http.l2.l1.l0 AAAA",
        expect![[r#"
            NoError aa
            au l2.l1.l0.Z 30 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(2),
        "SITE.http.l2.l1.l0 HTTPS",
        expect![[r#"
            NoError aa
            au l2.l1.l0.Z 30 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(2),
        "SITE.http.l2.l1.l0 ANY",
        expect![[r#"
        NoError aa
        an SITE.http.l2.l1.l0.Z 3600 HINFO RFC8482 
    "#]],
    );
}

#[test]
fn the_names_of_servers_have_addresses_everywhere() {
    let one = server(5, 0).id;
    check(
        &scene(2),
        &format!("{one}.ns.l2.l1.l0 A"),
        expect![[r#"
        NoError aa
        an #5.ns.l2.l1.l0.Z 3600 A 198.51.100.5
    "#]],
    );
    check(
        &scene(2),
        &format!("{one}.ns AAAA"),
        expect![[r#"
            NoError aa
            au Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    let stranger = server(99, 0).id;
    check(
        &scene(2),
        &format!("{stranger}.ns.l0 A"),
        expect![[r#"
        ServFail
        EDE 0 this node is not known here
    "#]],
    );
}

#[test]
fn a_name_at_one_node_gives_that_node_alone() {
    let one = server(5, 0).id;
    check(
        &scene(2),
        &format!("www.example.com.n-{one} A"),
        expect![[r#"
        NoError aa
        an www.example.com.n-#5.Z 30 A 198.51.100.5
    "#]],
    );
    let stranger = server(99, 0).id;
    check(
        &scene(2),
        &format!("www.example.com.n-{stranger} A"),
        expect![[r#"
        NoError aa
        an www.example.com.n-6363636363636363636363636363636363636363.Z 5 CNAME SITE.http.l2.l1.l0.Z
    "#]],
    );
}

#[test]
fn the_apex_has_its_own_and_its_plain_records() {
    check(
        &scene(2),
        " SOA",
        expect![[r#"
            NoError aa
            an Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(2),
        " NS",
        expect![[r#"
        NoError aa
        an Z 3600 NS ns1.Z
        ad ns1.Z 3600 A 198.51.100.1
    "#]],
    );
    check(
        &scene(2),
        " MX",
        expect![[r#"
            NoError aa
            an Z 300 MX 10 mail.Z
            ad mail.Z 300 A 192.0.2.25
        "#]],
    );
    check(
        &scene(2),
        " AAAA",
        expect![[r#"
            NoError aa
            au Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(2),
        " ANY",
        expect![[r#"
        NoError aa
        an Z 3600 HINFO RFC8482 
    "#]],
    );
    check(
        &scene(2),
        "docs A",
        expect![[r#"
        NoError aa
        an docs.Z 300 CNAME docs.example.org.
    "#]],
    );
}

#[test]
fn an_alias_of_the_zone_itself_leads_to_all_that_is_there() {
    let mut scene = scene(2);
    let alias = StaticRecord { name: "home".to_owned(), kind: "CNAME".to_owned(), ..scene.config.records[0].clone() };
    scene.config.records.push(StaticRecord { data: "nyud.example.".to_owned(), ..alias });
    check(
        &scene,
        "home NS",
        expect![[r#"
            NoError aa
            an home.Z 300 CNAME Z
            an Z 3600 NS ns1.Z
            ad ns1.Z 3600 A 198.51.100.1
        "#]],
    );
    scene.config.nameservers.clear();
    check(
        &scene,
        "home NS",
        expect![[r#"
            NoError aa
            an home.Z 300 CNAME Z
        "#]],
    );
}

#[test]
fn no_such_plain_record_holds_as_long_as_the_operators_soa_says() {
    let mut scene = scene(2);
    let day = Duration::from_secs(86_400);
    let data = "ns1.nyud.example. hostmaster.nyud.example. 7 14400 3600 1209600 86400".to_owned();
    scene.config.records.push(StaticRecord { name: "@".to_owned(), kind: "SOA".to_owned(), data, ttl: day });
    for (name, mode, seconds) in [
        ("mail TXT", Mode::Levels, 86_400),
        ("x.mail A", Mode::Levels, 86_400),
        ("com A", Mode::Levels, 3_600),
        ("com A", Mode::Plain, 86_400),
    ] {
        scene.config.mode = mode;
        let text = ask(&scene, name);
        assert!(text.contains(&format!("au Z {seconds} SOA")), "{name} {mode:?}: {text}");
    }
}

#[test]
fn what_stands_at_a_wildcard_is_had_by_the_names_it_covers_and_stops_no_start() {
    let mut scene = scene(2);
    scene.config.mode = Mode::Plain;
    for (name, kind, data) in [
        ("*.renamed", "DNAME", "target.nyud.example."),
        ("*.cut", "NS", "ns.elsewhere.example."),
        ("a.target", "A", "192.0.2.9"),
    ] {
        let record = StaticRecord { name: name.to_owned(), kind: kind.to_owned(), ..scene.config.records[0].clone() };
        scene.config.records.push(StaticRecord { data: data.to_owned(), ..record });
    }
    check(
        &scene,
        "x.cut NS",
        expect![[r#"
            NoError aa
            an x.cut.Z 300 NS ns.elsewhere.example.
        "#]],
    );
    check(
        &scene,
        "a.*.renamed A",
        expect![[r#"
            NoError aa
            an *.renamed.Z 300 DNAME BnRhcmdldARueXVkB2V4YW1wbGUA
            an a.*.renamed.Z 300 CNAME a.target.Z
            an a.target.Z 300 A 192.0.2.9
        "#]],
    );
    for question in ["x.renamed A", "y.x.renamed A", "x.cut A"] {
        let text = ask(&scene, question);
        assert!(text.starts_with("NoError aa\nau Z 3600 SOA "), "{question}: {text}");
    }
    check(
        &scene,
        "y.*.cut A",
        expect![[r#"
            NoError
            au *.cut.Z 300 NS ns.elsewhere.example.
        "#]],
    );
}

#[test]
fn without_configured_servers_the_apex_names_those_it_knows() {
    let mut scene = scene(2);
    scene.config.nameservers.clear();
    check(
        &scene,
        " NS",
        expect![[r#"
        NoError aa
        an Z 3600 NS #1.ns.Z
        an Z 3600 NS #6.ns.Z
        an Z 3600 NS #5.ns.Z
        an Z 3600 NS #2.ns.Z
        ad #1.ns.Z 3600 A 198.51.100.1
        ad #6.ns.Z 3600 A 198.51.100.6
        ad #5.ns.Z 3600 A 198.51.100.5
        ad #2.ns.Z 3600 A 198.51.100.2
    "#]],
    );
}

#[test]
fn empty_non_terminals_exist_and_what_lies_below_plain_names_does_not() {
    for empty in ["com", "8080", "com.8080", "ns", "status", "ns.l0", "http.l2.l1.l0"] {
        let text = ask(&scene(2), &format!("{empty} A"));
        assert!(text.starts_with("NoError aa\nau ") && text.contains(" 3600 SOA "), "{empty}: {text}");
    }
    for missing in
        ["www.mail", "x.status", "*.example.com", "x.ns", "x.l0", "l2.l0", "x.http.l2.l1.l0", "x.SITE.http.l2.l1.l0"]
    {
        let text = ask(&scene(2), &format!("{missing} A"));
        assert!(text.starts_with("NXDomain aa\nau ") && text.contains(" SOA "), "{missing}: {text}");
    }
}

#[test]
fn a_wildcard_reaches_names_of_two_to_six_labels() {
    for name in ["b.a", "c.b.a", "d.c.b.a", "e.d.c.b.a", "f.e.d.c.b.a"] {
        let text = ask(&scene(2), &format!("{name} A"));
        assert!(text.starts_with("NoError aa\nan ") && text.contains(" 3600 CNAME "), "{name}: {text}");
    }
}

#[test]
fn in_direct_mode_a_public_name_has_addresses_at_once() {
    let mut scene = scene(2);
    scene.config.mode = Mode::Direct;
    check(
        &scene,
        "www.example.com A",
        expect![[r#"
            NoError aa
            an www.example.com.Z 30 A 192.0.2.2
            an www.example.com.Z 30 A 192.0.2.3
        "#]],
    );
    check(
        &scene,
        "www.example.com HTTPS",
        expect![[r#"
            NoError aa
            au Z 30 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.3
        "#]],
    );
}

#[test]
fn the_soa_of_a_negative_answer_is_in_bailiwick_for_whoever_asks() {
    for (name, soa) in [("com", "au Z "), ("ns.l0", "au l0.Z "), ("http.l2.l1.l0", "au l2.l1.l0.Z ")] {
        let text = ask(&scene(2), &format!("{name} A"));
        assert!(text.contains(soa), "{name}: {text}");
    }
}
