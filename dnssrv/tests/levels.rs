//! From a public name to a near, live proxy, as resolvers go about it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use atoll_dnssrv::{Config, Mode, Server, serve};
use atoll_overlay::{NodeInfo, Prefix, Roles};
use hickory_proto::{op::Message, rr::RecordType};

use crate::support::*;

const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 20, 0, 53);
/// Beyond every threshold of the tests.
const FAR: Duration = Duration::from_millis(400);

/// Three servers: the apex's, far from the resolver, and two of a cluster near it, each with a proxy. A fourth is down.
struct Network {
    apex: Server,
    near: Vec<Server>,
    nodes: Vec<NodeInfo>,
    indexes: Vec<Arc<Fake>>,
    proxies: Vec<Proxy>,
    port: u16,
    resolver: Ipv4Addr,
    _distance: tokio::task::JoinSet<()>,
}

const APEX: Ipv4Addr = Ipv4Addr::new(127, 21, 0, 1);
const APEX_ITSELF: Ipv4Addr = Ipv4Addr::new(127, 21, 1, 1);
const DOWN: Ipv4Addr = Ipv4Addr::new(127, 23, 0, 1);
const NEAR: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 22, 0, 1), Ipv4Addr::new(127, 22, 0, 2)];

impl Network {
    /// One network per test, each in addresses of its own, so that all its servers can share a port: glue carries none.
    async fn start(test: u8) -> Self {
        let place = |address: Ipv4Addr| {
            let [a, b, c, d] = address.octets();
            Ipv4Addr::new(a, b, c + 10 * test, d)
        };
        let (apex, resolver) = (place(APEX), place(RESOLVER));
        let mut proxies = vec![Proxy::at((apex, 0).into()).await];
        let http = proxies[0].port();
        for address in NEAR {
            proxies.push(Proxy::at((place(address), http).into()).await);
        }
        let nodes = vec![node(1, apex, 1, http), node(2, place(NEAR[0]), 2, http), node(3, place(NEAR[1]), 2, http)];
        // A server of the network that is down.
        let down = NodeInfo { roles: Roles::DNSSRV, ..node(4, place(DOWN), 4, http) };
        let (far, near) = (&[&nodes[0]][..], &[&nodes[1], &nodes[2]][..]);
        let all = [far, near, &[&down]].concat();
        let pointers = Arc::default();
        let apex_index = Fake::new(&nodes[0], &[&all, far, far], &pointers);
        let itself = config((place(APEX_ITSELF), 0).into());
        let apex_server = serve(itself, Arc::clone(&apex_index) as _, None).await.expect("a free port");
        let port = apex_server.local_addrs()[0].port();
        let mut indexes = vec![apex_index];
        let mut servers = Vec::new();
        for node in near {
            let index = Fake::new(node, &[&all, near, near], &pointers);
            let config = config((node.v4[0], port).into());
            servers.push(serve(config, Arc::clone(&index) as _, None).await.expect("a free port"));
            indexes.push(index);
        }
        let relay = distance((apex, port).into(), resolver, apex_server.local_addrs()[0], FAR).await;
        let network =
            Self { apex: apex_server, near: servers, nodes, indexes, proxies, port, resolver, _distance: relay };
        until("every proxy was seen alive", async || {
            network.near.iter().all(|server| server.stats().live == [3, 2, 2]) && network.apex.stats().live == [3, 1, 1]
        })
        .await;
        network
    }

    fn resolver(&self, minimises: bool) -> Resolver {
        Resolver::new(self.resolver, minimises, self.nodes[0].v4[0].into(), self.port)
    }

    fn prefix(&self) -> Prefix {
        Prefix::of(self.resolver.into())
    }

    fn is_near(&self, addresses: &[IpAddr]) -> bool {
        !addresses.is_empty()
            && addresses.iter().all(|address| self.nodes[1..].iter().any(|node| *address == node.v4[0]))
    }

    /// Waits until the apex's server knows who is near the resolver.
    async fn until_handed_over(&self) {
        until("the apex heard who is near the resolver", async || {
            // A question is what makes a server ask the index.
            let other = query("www.example.org.nyud.example", RecordType::A);
            exchange_from(self.resolver, (self.nodes[0].v4[0], self.port).into(), &other).await;
            self.apex.explain(self.prefix()).near.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn a_proxy_whose_weight_is_0_is_named_to_nobody() {
    let [mine, other] = [1, 2].map(|last| Ipv4Addr::new(127, 24, 0, last));
    let proxy = Proxy::at((mine, 0).into()).await;
    let _other = Proxy::at((other, proxy.port()).into()).await;
    let (me, idle) = (node(1, mine, 1, proxy.port()), NodeInfo { weight: 0, ..node(2, other, 1, proxy.port()) });
    let all = &[&me, &idle][..];
    let index = Fake::new(&me, &[all, all, all], &Arc::default());
    let config = Config { mode: Mode::Direct, ..config((mine, 0).into()) };
    let server = serve(config, Arc::clone(&index) as _, None).await.expect("a free port");
    let named = async |number: u8| {
        let name = format!("www{number}.example.com.nyud.example");
        let reply = message(&exchange(server.local_addrs()[0], &query(&name, RecordType::A)).await);
        reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
    };
    until("this node's proxy was seen", async || server.stats().live == [1, 1, 1]).await;
    for number in 0..20 {
        assert_eq!(named(number).await, [IpAddr::V4(mine)]);
    }
    index.change(idle.id, |node| node.weight = 100);
    until("the other wants some again", async || named(0).await.len() == 2).await;
    // Where nobody wants any, the zone still has a proxy.
    index.change(idle.id, |node| node.weight = 0);
    index.change(me.id, |node| node.weight = 0);
    until("the other wants none again", async || named(0).await == [IpAddr::V4(mine)]).await;
}

const NAME: &str = "www.example.com.nyud.example.";
/// What it is an alias of.
const TARGET: &str = "eo7uvoilv2uwg.http.l2.l1.l0.nyud.example";
/// The asked name, what came back and its TTL, of every step whose server is not the apex's, and of all.
fn told(steps: &[Step]) -> Vec<String> {
    let site = |asked: &str| if asked.contains(".http.") { "SITE.http.l2.l1.l0".to_owned() } else { asked.to_owned() };
    let short = |text: String| text.replace(".nyud.example.", "");
    steps.iter().map(|step| short(format!("{}: {} {}", site(&step.asked), step.got, step.ttl))).collect()
}

#[tokio::test]
async fn a_minimising_resolver_is_led_from_a_far_apex_to_near_proxies_at_its_first_lookup() {
    let network = Network::start(0).await;
    let mut resolver = network.resolver(true);
    let addresses = resolver.addresses(NAME).await;
    assert!(network.is_near(&addresses), "{addresses:?}");
    let expected = [
        "com: SOA 3600",
        // The name of another site, met on the way down.
        "example.com: CNAME 3600",
        "www.example.com: CNAME 3600",
        // The gap between the CNAME and this query told the apex's server that it is far.
        "l0: referral to l0 30",
        // Near, but not measured yet; coming back here measures.
        "l1.l0: referral to l1.l0 5",
        "l2.l1.l0: referral to l2.l1.l0 3600",
        "http.l2.l1.l0: SOA 3600",
        "SITE.http.l2.l1.l0: A 30",
    ];
    let told = told(&resolver.steps);
    assert_eq!(told.iter().map(|step| step.replace("com.nyud.example.", "com")).collect::<Vec<_>>(), expected);
    // Both ends of the measurement are hints for the rest of the network.
    let far = network.indexes[0].observed();
    assert!(far.iter().all(|(prefix, rtt)| *prefix == network.prefix() && *rtt >= FAR) && !far.is_empty(), "{far:?}");
    assert!(network.indexes[1..].iter().any(|index| index.observed().iter().any(|(_, rtt)| *rtt < FAR)));
}

#[tokio::test]
async fn measured_gaps_lock_the_level_in_by_the_second_lookup() {
    let network = Network::start(1).await;
    network.resolver(true).addresses(NAME).await;
    network.until_handed_over().await;
    let mut again = network.resolver(true);
    let addresses = again.addresses(NAME).await;
    assert!(network.is_near(&addresses), "{addresses:?}");
    let delegation = again.steps.iter().find(|step| step.asked.starts_with("l0.")).expect("it asked for l0");
    assert_eq!((delegation.got.as_str(), delegation.ttl), ("referral to l0.nyud.example.", 3600));
}

#[tokio::test]
async fn a_resolver_that_does_not_minimise_is_answered_for_its_cluster_by_a_far_server() {
    let network = Network::start(2).await;
    network.resolver(true).addresses(NAME).await;
    network.until_handed_over().await;
    let mut resolver = network.resolver(false);
    let addresses = resolver.addresses(NAME).await;
    assert!(network.is_near(&addresses), "{addresses:?}");
    let expected = ["www.example.com: CNAME 3600", "SITE.http.l2.l1.l0: A 30"];
    assert_eq!(told(&resolver.steps), expected);
}

#[tokio::test]
async fn a_server_that_is_not_near_answers_for_the_cluster_the_delegation_was_made_for() {
    let network = Network::start(3).await;
    let apex = (network.nodes[0].v4[0], network.port).into();
    // It knows nothing of the resolver yet: it answers for a short while.
    let unknown = message(&exchange_from(network.resolver, apex, &query(TARGET, RecordType::A)).await);
    assert_eq!(unknown.answers[0].ttl, 5);
    network.resolver(true).addresses(NAME).await;
    network.until_handed_over().await;
    let handed_over = message(&exchange_from(network.resolver, apex, &query(TARGET, RecordType::A)).await);
    assert!(handed_over.metadata.authoritative && network.is_near(&addresses(&handed_over)));
    assert_eq!(handed_over.answers[0].ttl, 30);
}

#[tokio::test]
async fn when_all_proxies_die_the_last_good_ones_are_named_and_a_restart_remembers_them() {
    let mut network = Network::start(4).await;
    let near = (network.nodes[1].v4[0], network.port).into();
    let target = with_opt(query(TARGET, RecordType::A), 0, 1232, &[]);
    for proxy in std::mem::take(&mut network.proxies) {
        proxy.kill().await;
    }
    until("all proxies were found dead", async || network.near[0].stats().live == [0, 0, 0]).await;
    let answer = message(&exchange(near, &target).await);
    assert_eq!((answers_of(&answer), answer.answers[0].ttl), (2, 5));
    assert!(has_extended_error(&answer, 3));
    // An answer survives a restart although nobody is alive.
    let saved = network.near[0].save();
    network.near.remove(0).stop().await;
    let index = Arc::clone(&network.indexes[1]);
    let again = serve(config(near), index as _, Some(saved)).await.expect("the address is free again");
    let answer = message(&exchange(near, &target).await);
    assert_eq!(answers_of(&answer), 2);
    assert!(has_extended_error(&answer, 3));
    again.stop().await;
}

#[tokio::test]
async fn a_node_that_leaves_or_drains_is_named_no_more() {
    let network = Network::start(5).await;
    let near = (network.nodes[1].v4[0], network.port).into();
    let resolver = network.resolver;
    let named = async |address: Ipv4Addr| {
        let answer = message(&exchange_from(resolver, near, &query(TARGET, RecordType::A)).await);
        let referral = message(&exchange_from(resolver, near, &query("l0.nyud.example", RecordType::NS)).await);
        let glue = referral.additionals.iter().filter_map(|record| record.data.ip_addr()).any(|known| known == address);
        addresses(&answer).contains(&address.into()) || glue
    };
    network.near[0].leave();
    until("the leaving node is not named", async || !named(network.nodes[1].v4[0]).await).await;
    network.indexes[1].change(network.nodes[2].id, |node| node.draining = true);
    until("the draining node is not named", async || !named(network.nodes[2].v4[0]).await).await;
}

#[tokio::test]
async fn a_prefix_is_handed_to_the_cluster_whose_scout_is_near_it() {
    // Far from everybody, for all it knows: it measures nothing itself.
    let (_apex, scout) = handed_over(Ipv4Addr::new(127, 24, 0, 1), false, |_| {}).await;
    // A stranger's question is one for a name that does not exist.
    let scouting = query("0000000000000001.7f140035.scout.ns.nyud.example", RecordType::TXT);
    let stranger = message(&exchange_from(RESOLVER, scout.local_addrs()[0], &scouting).await);
    assert_eq!(stranger.metadata.response_code, hickory_proto::op::ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_prefix_within_a_servers_region_is_handed_to_a_nearer_server_of_another_region() {
    handed_over(Ipv4Addr::new(127, 24, 0, 2), false, within_its_region).await;
}

#[tokio::test]
async fn a_scout_that_does_not_know_who_asks_yet_is_asked_again_before_long() {
    handed_over(Ipv4Addr::new(127, 24, 0, 3), true, within_its_region).await;
}

/// Whatever a server with these settings measures is of level 1.
fn within_its_region(config: &mut Config) {
    config.thresholds = vec![DEADLINE, Duration::from_nanos(1)];
    config.sources.tcp_connect = true;
    config.probe.port = 1;
}

/// An apex server with these settings, and one that is near the resolver and shares nothing with it but level 0, once the one names
/// the proxy of the other. That one knows it `late`, if so: once it has searched in vain.
async fn handed_over(near: Ipv4Addr, late: bool, change: impl FnOnce(&mut Config)) -> (Server, Server) {
    let far = Ipv4Addr::LOCALHOST;
    let proxy = Proxy::at((near, 0).into()).await;
    let nodes = [node(1, far, 1, proxy.port()), node(2, near, 2, proxy.port())];
    // Others that are down, so that a referral's one server of the next wider cluster is not the near one by chance.
    let others = [3, 4, 5, 6].map(|number| {
        let down = node(number, Ipv4Addr::new(127, 24, 1, number), number, proxy.port());
        NodeInfo { roles: Roles::DNSSRV, ..down }
    });
    let all: Vec<&NodeInfo> = nodes.iter().chain(&others).collect();
    let pointers = Arc::default();
    // However few it looks at, it knows who may ask it.
    let backwards: Vec<&NodeInfo> = all.iter().rev().copied().collect();
    let near_index = Fake::new(&nodes[1], &[&backwards, &all[1..2], &all[1..2]], &pointers);
    if late {
        near_index.change(nodes[0].id, |node| node.v4 = vec![Ipv4Addr::new(127, 24, 1, 1)]);
    }
    let mut near_config = config((near, 0).into());
    near_config.health.candidates = 1;
    // The resolver refuses, which measures.
    near_config.sources.tcp_connect = true;
    near_config.probe.port = 1;
    near_config.probe.wait = DEADLINE;
    let scout = serve(near_config, near_index.clone(), None).await.expect("a free port");
    let far_index = Fake::new(&nodes[0], &[&all, &all[..1], &all[..1]], &pointers);
    let mut far_config = config((far, 0).into());
    far_config.sources.hints = false;
    far_config.probe.scouts = 2;
    far_config.probe.scout_port = scout.local_addrs()[0].port();
    far_config.probe.timeout = DEADLINE;
    change(&mut far_config);
    let apex = serve(far_config, far_index, None).await.expect("a free port");
    until("the scout saw its proxy", async || scout.stats().live == [1, 1, 1]).await;
    if late {
        until("a search is over", async || {
            exchange_from(RESOLVER, apex.local_addrs()[0], &query(TARGET, RecordType::A)).await;
            apex.explain(Prefix::of(RESOLVER.into())).settled
        })
        .await;
        assert_eq!(apex.explain(Prefix::of(RESOLVER.into())).level.0, 1);
        near_index.change(nodes[0].id, |node| node.v4 = vec![far]);
    }
    until("the prefix is handed over", async || {
        let reply = exchange_from(RESOLVER, apex.local_addrs()[0], &query(TARGET, RecordType::A)).await;
        addresses(&message(&reply)) == [IpAddr::from(near)] && message(&reply).answers[0].ttl > 5
    })
    .await;
    assert_eq!(apex.explain(Prefix::of(RESOLVER.into())).level.0, 2);
    (apex, scout)
}

#[tokio::test]
async fn with_wait_on_the_first_answer_already_knows_the_distance() {
    // Whatever answers, or refuses, at the port counts as the resolver's own.
    let (server, address) = alone(|config| {
        config.wait = true;
        config.sources.tcp_connect = true;
        config.probe.wait = DEADLINE;
        config.probe.answer_within = DEADLINE * 2;
        config.probe.port = 1;
    })
    .await;
    let answer = message(&exchange(address, &query("l2.l1.l0.nyud.example", RecordType::A)).await);
    assert_eq!(answer.authorities[0].record_type(), RecordType::NS);
    assert_eq!(answer.authorities[0].ttl, 3600);
    assert_eq!(server.stats().measured.keys().collect::<Vec<_>>(), ["tcp_connect"]);
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn answers_of(answer: &Message) -> usize {
    addresses(answer).len()
}

fn has_extended_error(answer: &Message, code: u16) -> bool {
    let edns = answer.edns.as_ref().expect("EDNS in the reply");
    edns.options().as_ref().iter().any(|(_, option)| {
        let bytes: Vec<u8> = option.try_into().unwrap_or_default();
        bytes.starts_with(&code.to_be_bytes())
    })
}
