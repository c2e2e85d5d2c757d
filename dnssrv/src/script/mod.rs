//! Answers as scripts: a scene, a question, and the whole answer as text. What is asserted is the text; run with
//! `UPDATE_EXPECT=1` to write it anew, and read the difference.

mod names;
mod placement;

use std::{collections::BTreeSet, fmt::Write as _, str::FromStr as _, sync::Arc, time::Duration};

use atoll_overlay::{Key, Level, NodeId, Prefix};
use expect_test::Expect;
use hickory_proto::rr::{Name, Record, RecordType};

use crate::{
    Config, Mode, StaticRecord,
    answer::{View, answer},
    config::ApexServer,
    distances::Distances,
    near::Near,
    placement::Placement,
    roster::{Proxy, Ring, Roster, Server},
    service::Offers,
    zone::Zone,
};

/// All an answer is made from.
struct Scene {
    config: Config,
    placement: Placement,
    roster: Roster,
    below: bool,
}

fn proxy(last: u8) -> Proxy {
    Proxy { v4: Some([192, 0, 2, last].into()), v6: None, load: 0, weight: 100, port: 0 }
}

fn server(number: u8, cluster: u8) -> Server {
    let id = NodeId::from(Key::from_bytes([number; 20]));
    Server { id, v4: Some([198, 51, 100, number].into()), v6: None, cluster: Some(Key::from_bytes([cluster; 20])) }
}

fn ring(live: &[u8], servers: &[Server]) -> Ring {
    let live = live.iter().map(|last| proxy(*last)).collect();
    Ring { cluster: Key::ZERO, members: BTreeSet::new(), live, unseen: Vec::new(), servers: servers.to_vec() }
}

/// This server is number 1 in cluster 1; it shares level 2 with 2 and 3, level 1 with 4, and 5 and 6 are far away. Every server
/// is a proxy, too. The zone has an address, a name server and mail.
fn scene(level: u8) -> Scene {
    let near = [server(2, 1), server(3, 1)];
    let region = [&near[..], &[server(4, 1)]].concat();
    let all = [&region[..], &[server(5, 5), server(6, 6)]].concat();
    let record = |name: &str, kind: &str, data: &str| StaticRecord {
        name: name.to_owned(),
        kind: kind.to_owned(),
        data: data.to_owned(),
        ttl: Duration::from_secs(300),
    };
    let ns1 = ApexServer { name: "ns1".to_owned(), addresses: vec![[198, 51, 100, 1].into()] };
    Scene {
        config: Config {
            nameservers: vec![ns1],
            records: vec![
                record("@", "A", "192.0.2.80"),
                record("@", "MX", "10 mail.nyud.example."),
                record("mail", "A", "192.0.2.25"),
                record("_acme.status", "TXT", "token"),
                record("docs", "CNAME", "docs.example.org."),
            ],
            ..Config::default()
        },
        placement: Placement {
            level: Level(level),
            rtt: Some(Duration::from_millis(1)),
            near: None,
            settled: true,
            distances: Distances::default(),
            placed: false,
        },
        roster: Roster {
            company: 0,
            epoch: 0,
            me: Some(server(1, 1)),
            rings: vec![ring(&[1, 2, 3, 4, 5, 6], &all), ring(&[1, 2, 3, 4], &region), ring(&[1, 2, 3], &near)],
            last_good: Vec::new(),
            dead: Vec::new(),
            unwilling: Vec::new(),
            absent: Vec::new(),
            mute: BTreeSet::new(),
            doubt: 50,
            doubtful: Vec::new(),
            secure: Offers::new(),
            addresses: (1..=6).map(|n| (server(n, 1).id, (vec![[198, 51, 100, n].into()], Vec::new()))).collect(),
        },
        below: false,
    }
}

fn unknown() -> Scene {
    let placement = Placement {
        level: Level(0),
        rtt: None,
        near: None,
        settled: false,
        distances: Distances::default(),
        placed: false,
    };
    Scene { placement, ..scene(0) }
}

/// A resolver handed to a cluster of servers 5 and proxies 50 and 51 by what that one put into the index.
fn handed_over() -> Scene {
    let near = Near {
        level: Level(2),
        rtt: Duration::from_millis(4),
        cluster: Key::from_bytes([5; 20]),
        servers: vec![server(5, 5)],
        proxies: vec![proxy(50), proxy(51)],
        epoch: 0,
    };
    let placement = Placement {
        level: Level(2),
        rtt: None,
        near: Some(Arc::new(near)),
        settled: true,
        distances: Distances::default(),
        placed: false,
    };
    Scene { placement, ..scene(0) }
}

fn ask(scene: &Scene, question: &str) -> String {
    let zone = Zone::new(&scene.config).expect("the scene's zone is good");
    let (name, kind) = question.split_once(' ').expect("a name and a type");
    let site = crate::site::Site::of("www.example.com", 80).label();
    let name = name.replace("SITE", &site);
    let name = Name::from_ascii(format!("{name}{}nyud.example.", if name.is_empty() { "" } else { "." })).unwrap();
    let view = View {
        placement: &scene.placement,
        roster: &scene.roster,
        prefix: Prefix::of([203, 0, 113, 53].into()),
        below: scene.below,
        width: 1,
    };
    let kind = RecordType::from_str(kind).unwrap();
    let answer = answer(&zone, &scene.config, zone.locate(&name), &name, kind, view);
    let mut text = format!("{:?}{}\n", answer.code, if answer.authoritative { " aa" } else { "" });
    if let Some(error) = answer.error {
        writeln!(text, "EDE {} {}", error.0, error.1).unwrap();
    }
    for (section, records) in [("an", &answer.answers), ("au", &answer.authority), ("ad", &answer.additional)] {
        for record in records {
            writeln!(text, "{section} {}", shorten(record, &site)).unwrap();
        }
    }
    text
}

fn shorten(record: &Record, site: &str) -> String {
    let mut text = record.to_string().replace(" IN ", " ").replace(site, "SITE").replace(".nyud.example.", ".Z");
    for number in 1_u8..=6 {
        text = text.replace(&server(number, 0).id.to_string(), &format!("#{number}"));
    }
    text.replace("nyud.example.", "Z")
}

#[expect(clippy::needless_pass_by_value, reason = "as expect_test has it: an Expect is written where it is used")]
fn check(scene: &Scene, question: &str, expected: Expect) {
    expected.assert_eq(&ask(scene, question));
}
