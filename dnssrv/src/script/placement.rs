//! What a site's names lead to, by who asks and who is there.

use expect_test::expect;

use super::*;

#[test]
fn a_resolver_of_level_2_is_delegated_all_the_way_by_servers_of_level_2_and_one_wider() {
    check(
        &scene(2),
        "l0 A",
        expect![[r#"
        NoError
        au l0.Z 3600 NS #1.ns.l0.Z
        au l0.Z 3600 NS #2.ns.l0.Z
        au l0.Z 3600 NS #3.ns.l0.Z
        au l0.Z 3600 NS #4.ns.l0.Z
        ad #1.ns.l0.Z 3600 A 198.51.100.1
        ad #2.ns.l0.Z 3600 A 198.51.100.2
        ad #3.ns.l0.Z 3600 A 198.51.100.3
        ad #4.ns.l0.Z 3600 A 198.51.100.4
    "#]],
    );
    check(
        &scene(2),
        "l1.l0 NS",
        expect![[r#"
            NoError
            au l1.l0.Z 3600 NS #1.ns.l1.l0.Z
            au l1.l0.Z 3600 NS #2.ns.l1.l0.Z
            au l1.l0.Z 3600 NS #3.ns.l1.l0.Z
            au l1.l0.Z 3600 NS #4.ns.l1.l0.Z
            ad #1.ns.l1.l0.Z 3600 A 198.51.100.1
            ad #2.ns.l1.l0.Z 3600 A 198.51.100.2
            ad #3.ns.l1.l0.Z 3600 A 198.51.100.3
            ad #4.ns.l1.l0.Z 3600 A 198.51.100.4
        "#]],
    );
    check(
        &scene(2),
        "l2.l1.l0 A",
        expect![[r#"
        NoError
        au l2.l1.l0.Z 3600 NS #1.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #2.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #3.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #4.ns.l2.l1.l0.Z
        ad #1.ns.l2.l1.l0.Z 3600 A 198.51.100.1
        ad #2.ns.l2.l1.l0.Z 3600 A 198.51.100.2
        ad #3.ns.l2.l1.l0.Z 3600 A 198.51.100.3
        ad #4.ns.l2.l1.l0.Z 3600 A 198.51.100.4
    "#]],
    );
    check(
        &scene(2),
        "http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            au l2.l1.l0.Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(2),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.3
        "#]],
    );
}

#[test]
fn a_cluster_of_one_server_is_filled_up_with_wider_ones() {
    let mut scene = scene(2);
    scene.roster.rings[2].servers.clear();
    check(
        &scene,
        "l2.l1.l0 A",
        expect![[r#"
        NoError
        au l2.l1.l0.Z 3600 NS #1.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #2.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #4.ns.l2.l1.l0.Z
        au l2.l1.l0.Z 3600 NS #3.ns.l2.l1.l0.Z
        ad #1.ns.l2.l1.l0.Z 3600 A 198.51.100.1
        ad #2.ns.l2.l1.l0.Z 3600 A 198.51.100.2
        ad #4.ns.l2.l1.l0.Z 3600 A 198.51.100.4
        ad #3.ns.l2.l1.l0.Z 3600 A 198.51.100.3
    "#]],
    );
}

#[test]
fn below_a_resolvers_level_the_labels_are_empty_and_the_full_name_is_answered() {
    check(
        &scene(1),
        "l1.l0 A",
        expect![[r#"
        NoError
        au l1.l0.Z 3600 NS #1.ns.l1.l0.Z
        au l1.l0.Z 3600 NS #2.ns.l1.l0.Z
        au l1.l0.Z 3600 NS #4.ns.l1.l0.Z
        au l1.l0.Z 3600 NS #6.ns.l1.l0.Z
        ad #1.ns.l1.l0.Z 3600 A 198.51.100.1
        ad #2.ns.l1.l0.Z 3600 A 198.51.100.2
        ad #4.ns.l1.l0.Z 3600 A 198.51.100.4
        ad #6.ns.l1.l0.Z 3600 A 198.51.100.6
    "#]],
    );
    check(
        &scene(1),
        "l2.l1.l0 A",
        expect![[r#"
            NoError aa
            au l1.l0.Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
    check(
        &scene(1),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.3
        "#]],
    );
    check(
        &scene(0),
        "l1.l0 A",
        expect![[r#"
            NoError aa
            au l0.Z 30 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600
        "#]],
    );
}

#[test]
fn a_far_resolver_is_referred_to_servers_of_other_clusters() {
    check(
        &scene(0),
        "l0 A",
        expect![[r#"
        NoError
        au l0.Z 300 NS #6.ns.l0.Z
        au l0.Z 300 NS #5.ns.l0.Z
        au l0.Z 300 NS #2.ns.l0.Z
        au l0.Z 300 NS #4.ns.l0.Z
        ad #6.ns.l0.Z 300 A 198.51.100.6
        ad #5.ns.l0.Z 300 A 198.51.100.5
        ad #2.ns.l0.Z 300 A 198.51.100.2
        ad #4.ns.l0.Z 300 A 198.51.100.4
    "#]],
    );
    check(
        &scene(0),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 60 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 60 A 192.0.2.3
        "#]],
    );
}

#[test]
fn an_unknown_resolver_gets_short_answers() {
    check(
        &unknown(),
        "l0 A",
        expect![[r#"
        NoError
        au l0.Z 30 NS #1.ns.l0.Z
        au l0.Z 30 NS #6.ns.l0.Z
        au l0.Z 30 NS #5.ns.l0.Z
        au l0.Z 30 NS #2.ns.l0.Z
        ad #1.ns.l0.Z 30 A 198.51.100.1
        ad #6.ns.l0.Z 30 A 198.51.100.6
        ad #5.ns.l0.Z 30 A 198.51.100.5
        ad #2.ns.l0.Z 30 A 198.51.100.2
    "#]],
    );
    check(
        &unknown(),
        "l1.l0 A",
        expect![[r#"
            NoError
            au l1.l0.Z 5 NS #1.ns.l1.l0.Z
            ad #1.ns.l1.l0.Z 5 A 198.51.100.1
        "#]],
    );
    check(
        &unknown(),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.3
        "#]],
    );
}

#[test]
fn a_server_that_is_not_near_applies_the_cluster_the_delegation_was_made_for() {
    check(
        &handed_over(),
        "l0 A",
        expect![[r#"
        NoError
        au l0.Z 3600 NS #5.ns.l0.Z
        au l0.Z 3600 NS #6.ns.l0.Z
        au l0.Z 3600 NS #2.ns.l0.Z
        au l0.Z 3600 NS #4.ns.l0.Z
        ad #5.ns.l0.Z 3600 A 198.51.100.5
        ad #6.ns.l0.Z 3600 A 198.51.100.6
        ad #2.ns.l0.Z 3600 A 198.51.100.2
        ad #4.ns.l0.Z 3600 A 198.51.100.4
    "#]],
    );
    check(
        &handed_over(),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.50
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.51
        "#]],
    );
}

#[test]
fn a_foreign_clusters_fourth_server_is_of_the_region_it_is_in() {
    let mut scene = handed_over();
    scene.roster.rings[0].servers[2] = server(4, 5);
    let named = |scene: &Scene| {
        let referral = ask(scene, "l0 NS");
        let servers = referral.lines().filter_map(|line| line.split_once(" NS #").map(|(_, server)| server.to_owned()));
        servers.map(|server| server.chars().take(1).collect::<String>()).collect::<Vec<_>>().concat()
    };
    assert_eq!(named(&scene), "5462");
    let near = scene.placement.near.as_mut().map(Arc::make_mut).expect("it is handed over");
    near.level = Level(1);
    assert_eq!(named(&scene), "5624", "around a region is the world");
}

#[test]
fn a_full_name_is_never_referred_to_a_level_it_may_come_from_below() {
    check(
        &handed_over(),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.50
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.51
        "#]],
    );
    check(
        &scene(2),
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.3
        "#]],
    );
}

#[test]
fn what_is_doubted_is_kept_for_the_lesser_time_also_while_the_placement_is_not_settled() {
    let mut scene = scene(2);
    scene.config.ttl.doubtful = Duration::from_secs(2);
    scene.roster.doubtful = vec![true; 3];
    scene.placement.settled = false;
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 2 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 2 A 192.0.2.3
        "#]],
    );
    scene.config.ttl.doubtful = Duration::from_secs(9);
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.3
        "#]],
    );
}

#[test]
fn of_a_foreign_cluster_those_that_drain_raise_no_doubt() {
    let mut scene = handed_over();
    let near = scene.placement.near.as_mut().map(Arc::make_mut).expect("it is handed over");
    near.proxies = (50..=54).map(proxy).collect();
    let gone = |last: std::ops::RangeInclusive<u8>| last.map(|last| [192, 0, 2, last].into()).collect::<Vec<_>>();
    scene.roster.dead = gone(50..=52);
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.54
            an SITE.http.l2.l1.l0.Z 5 A 192.0.2.53
        "#]],
    );
    scene.roster.unwilling = gone(50..=51);
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.54
            an SITE.http.l2.l1.l0.Z 30 A 192.0.2.53
        "#]],
    );
}

#[test]
fn an_answer_is_never_empty_while_a_proxy_is_known() {
    let mut scene = scene(2);
    scene.roster.rings[2].live.clear();
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
            NoError aa
            an SITE.http.l2.l1.l0.Z 10 A 192.0.2.2
            an SITE.http.l2.l1.l0.Z 10 A 192.0.2.3
        "#]],
    );
    scene.roster.rings.iter_mut().for_each(|ring| ring.live.clear());
    scene.roster.last_good = vec![vec![proxy(9)]];
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
        NoError aa
        EDE 3 no proxy is seen alive, these were last
        an SITE.http.l2.l1.l0.Z 5 A 192.0.2.9
    "#]],
    );
    scene.roster.last_good.clear();
    scene.roster.rings[0].unseen = vec![proxy(8)];
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
        NoError aa
        EDE 0 no proxy has been seen alive yet
        an SITE.http.l2.l1.l0.Z 5 A 192.0.2.8
    "#]],
    );
    scene.roster.rings[0].unseen.clear();
    check(
        &scene,
        "SITE.http.l2.l1.l0 A",
        expect![[r#"
        ServFail
        EDE 22 no proxy is known
    "#]],
    );
}

#[test]
fn the_ns_of_a_cut_are_a_referral_above_it_and_the_answer_below() {
    check(
        &Scene { below: true, ..scene(2) },
        "l1.l0 NS",
        expect![[r#"
        NoError aa
        an l1.l0.Z 3600 NS #1.ns.l1.l0.Z
        an l1.l0.Z 3600 NS #2.ns.l1.l0.Z
        an l1.l0.Z 3600 NS #3.ns.l1.l0.Z
        an l1.l0.Z 3600 NS #4.ns.l1.l0.Z
        ad #1.ns.l1.l0.Z 3600 A 198.51.100.1
        ad #2.ns.l1.l0.Z 3600 A 198.51.100.2
        ad #3.ns.l1.l0.Z 3600 A 198.51.100.3
        ad #4.ns.l1.l0.Z 3600 A 198.51.100.4
    "#]],
    );
    let above = ask(&scene(2), "l1.l0 NS");
    assert!(above.starts_with("NoError\nau l1.l0.Z 3600 NS "), "{above}");
    // Who is no server of the apex is never above the first cut.
    let mut inside = scene(2);
    assert!(ask(&inside, "l0 NS").starts_with("NoError\nau l0.Z "));
    inside.config.nameservers[0].addresses = vec![[198, 51, 100, 6].into()];
    assert!(ask(&inside, "l0 NS").starts_with("NoError aa\nan l0.Z "));
}

#[test]
fn a_cut_answers_what_nobody_asks_on_the_way_down_as_the_authority_it_is() {
    let none = |closest: &str, ttl| {
        format!("NoError aa\nau {closest} {ttl} SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600\n")
    };
    for kind in ["MX", "TXT", "HTTPS", "CAA", "DNSKEY", "CDS", "CDNSKEY", "NSEC", "CNAME"] {
        assert_eq!(ask(&scene(2), &format!("l1.l0 {kind}")), none("l1.l0.Z", 3600), "{kind}");
    }
    assert_eq!(ask(&scene(2), "l1.l0 DS"), none("l0.Z", 3600), "RFC 4035 3.1.4.1: the outer side's");
    assert_eq!(ask(&scene(2), "l0 DS"), none("Z", 3600));
    let soa = ask(&scene(2), "l1.l0 SOA");
    assert_eq!(soa, "NoError aa\nan l1.l0.Z 3600 SOA ns1.Z hostmaster.Z 1 14400 3600 1209600 3600\n");
    assert!(ask(&scene(2), "l1.l0 ANY").starts_with("NoError aa\nan l1.l0.Z 3600 HINFO "));
    // Who was just referred to it asks for the name itself: another referral would be lame.
    let inside = Scene { below: true, ..scene(2) };
    assert_eq!([ask(&inside, "l1.l0 A"), ask(&inside, "l1.l0 AAAA")], [none("l1.l0.Z", 5), none("l1.l0.Z", 5)]);
}
