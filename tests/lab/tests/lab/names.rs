//! Real resolvers, a real delegation chain, a real origin behind a thin wire.

use std::{net::SocketAddr, time::Duration};

use atoll_lab::{
    Lab, Recursor, Role, Scale, Scenario, Size,
    measure::{Recursion, ask, fetch},
    origin_content,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{alone, scenario_file, skipped, unique_name, up_scenario};

fn names() -> Lab {
    let file = scenario_file("names.toml");
    let mut scenario = Scenario::read(&file, None, Scale::Short).unwrap();
    scenario.name = unique_name();
    up_scenario(scenario)
}

#[test]
fn four_resolver_programs_follow_root_and_tld_and_origins_are_as_slow_as_their_wire() {
    if skipped(
        "unbound, BIND, Knot Resolver and PowerDNS Recursor resolve root -> TLD -> zone; nginx behind 384 kbit/s",
    ) {
        return;
    }
    let _alone = alone();
    let lab = names();
    resolve(&lab);
    fetch_slowly(&lab);
}

fn resolve(lab: &Lab) {
    let scenario = lab.scenario();
    let resolvers: Vec<_> = scenario.with_role(|role| matches!(role, Role::Resolver { .. })).collect();
    let programs = resolvers.iter().map(|host| match host.role {
        Role::Resolver { program, .. } => program,
        _ => unreachable!("chosen by role"),
    });
    assert_eq!(programs.collect::<Vec<_>>(), Recursor::ALL);
    for resolver in resolvers {
        for server in [SocketAddr::from((resolver.id.v4(), 53)), SocketAddr::from((resolver.id.v6(), 53))] {
            let look_up = |name: &str, kind| {
                let asked =
                    lab.within("client", || ask(server, name, kind, Recursion::Wanted, Duration::from_secs(10)));
                asked.unwrap().unwrap_or_else(|error| panic!("{} about {name}: {error}", resolver.name))
            };
            let www = look_up("www.static.test.", RecordType::A);
            assert_eq!(
                www.addresses.first().unwrap().0,
                "192.0.2.7".parse::<std::net::IpAddr>().unwrap(),
                "{}",
                resolver.name
            );
            let deep = look_up("deep.er.static.test.", RecordType::A);
            assert_eq!(deep.addresses.len(), 1, "{}", resolver.name);
            let nothing = look_up("nothing.static.test.", RecordType::A);
            assert_eq!(nothing.code, ResponseCode::NXDomain, "{}", resolver.name);
            let site = look_up("www.site.test.", RecordType::AAAA);
            assert_eq!(
                site.addresses.first().unwrap().0,
                scenario.host("origin").unwrap().id.v6(),
                "{}",
                resolver.name
            );
        }
    }
}

fn fetch_slowly(lab: &Lab) {
    let origin = lab.scenario().host("origin").unwrap();
    let server = SocketAddr::from((origin.id.v4(), 80));
    let get = || fetch(server, "www.site.test", "/file3.bin", Duration::from_secs(30), 1 << 20);
    let fetched = lab.within("client", get).unwrap().unwrap();
    assert_eq!((fetched.status, fetched.body.len()), (200, 41_000));
    assert!(fetched.body == origin_content("/file3.bin", Size(41_000)));
    // The body alone needs 854 ms on the wire, and the connection two round trips before it.
    let rtt = lab.scenario().rtt(origin.id, lab.scenario().host("client").unwrap().id);
    let least = Duration::from_micros(41_000 * 8 * 1_000_000 / 384_000) + 2 * rtt;
    assert!(fetched.took >= least, "{:?} is faster than {least:?}", fetched.took);
    assert!(fetched.took < least + 4 * rtt, "{:?} for {least:?}", fetched.took);
    let log = std::fs::read_to_string(lab.folder("origin").unwrap().join("access.log")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("/file3.bin")).count(), 1);
}
