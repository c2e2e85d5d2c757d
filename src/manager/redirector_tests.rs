//! Whom the manager sends where.

use std::time::Duration;

use async_trait::async_trait;
use atoll_overlay::{
    Acquire, Acquired, Alone, Beat, Found, IndexError, Lease, Level, LevelInfo, Levels, Marker, Prefix, Put, Spread,
    Stored,
};
use http::request::Builder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::broadcast,
};

use super::*;

/// A proxy that everybody may be sent to.
fn proxy(name: &str, v4: [u8; 4]) -> NodeInfo {
    NodeInfo {
        v4: vec![v4.into()],
        http_ports: vec![8080, 8443],
        ..NodeInfo::new(Key::of(name.as_bytes()).into(), Roles::PROXY)
    }
}

/// An index that knows these nodes at levels 0, 1, ... and is otherwise alone.
struct Knows(Alone, Vec<Vec<NodeInfo>>);

fn knows(levels: Vec<Vec<NodeInfo>>) -> Arc<dyn Index> {
    Arc::new(Knows(Alone::new(NodeInfo { roles: Roles::MANAGER, ..proxy("me", [127, 0, 0, 1]) }), levels))
}

#[async_trait]
impl Index for Knows {
    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        let serves = |node: &&NodeInfo| node.roles.contain(query.services);
        self.1[usize::from(query.level.0)].iter().filter(serves).take(query.count).cloned().collect()
    }
    fn levels(&self) -> Vec<LevelInfo> {
        let level = |at: usize| LevelInfo {
            level: Level(u8::try_from(at).unwrap()),
            threshold: None,
            cluster: Key::ZERO,
            size: 1,
            neighbours: Vec::new(),
        };
        (0..self.1.len()).map(level).collect()
    }
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        self.0.put(put).await
    }
    async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError> {
        self.0.get(key, levels).await
    }
    async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
        self.0.withdraw(key).await
    }
    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        self.0.acquire(acquire).await
    }
    async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError> {
        self.0.beat(lease, reference).await
    }
    async fn release(&self, lease: Lease) -> Result<(), IndexError> {
        self.0.release(lease).await
    }
    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        self.0.pass(lease, marker).await
    }
    fn me(&self) -> NodeInfo {
        self.0.me()
    }
    fn describe(&self, info: NodeInfo) {
        self.0.describe(info);
    }
    fn observe(&self, prefix: Prefix, rtt: Duration) {
        self.0.observe(prefix, rtt);
    }
    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        self.0.spread(record).await
    }
    fn spreads(&self) -> broadcast::Receiver<Spread> {
        self.0.spreads()
    }
}

/// What a manager of zone nyud.example answers a client at 127.0.0.9: status and Location.
fn ask(index: Arc<dyn Index>, request: Builder) -> (u16, String) {
    let zone = Arc::new(Some(Zone::new("nyud.example").unwrap()));
    let redirector = Redirector { index, zone, config: Arc::new(ManagerConfig::default()), guide: None };
    let (head, ()) = request.body(()).unwrap().into_parts();
    let answer = redirector.redirect(([127, 0, 0, 9], 1).into(), &head);
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let location = answer.headers().get(header::LOCATION).map_or("", |location| location.to_str().unwrap());
    (answer.status().as_u16(), location.to_owned())
}

/// The whole answer.
fn answer(index: Arc<dyn Index>, path: &str, accept: &str) -> Response<Full<Bytes>> {
    let zone = Arc::new(Some(Zone::new("nyud.example").unwrap()));
    let redirector = Redirector { index, zone, config: Arc::new(ManagerConfig::default()), guide: None };
    let request = Request::get(path).header("host", "a.test.nyud.example").header("accept", accept);
    let (head, ()) = request.body(()).unwrap().into_parts();
    redirector.redirect(([127, 0, 0, 9], 1).into(), &head)
}

/// The same with one proxy alive, by host and path.
fn led(host: &str, path: &str) -> (u16, String) {
    ask(knows(vec![vec![proxy("p", [127, 0, 0, 2])]]), Request::get(path).header("host", host))
}

fn to(location: &str) -> (u16, String) {
    (302, location.to_owned())
}

#[test]
fn a_manager_path_leads_to_a_proxy_byte_for_byte() {
    let odd = "/~/https/www.example.com:8443/%7ea//b/../c;d?x=%20&y='[]{}|^`+";
    assert_eq!(led("m.test", odd), to(&format!("http://127.0.0.2:8080{odd}")));
    assert_eq!(led("m.test", "/~/https/www.example.com"), to("http://127.0.0.2:8080/~/https/www.example.com/"));
    assert_eq!(led("m.test", "/~/http/a.test?q"), to("http://127.0.0.2:8080/~/http/a.test/?q"));
}

#[test]
fn a_coralized_host_leads_to_its_origin_at_a_proxy() {
    assert_eq!(led("www.example.com.nyud.example", "/a?b"), to("http://127.0.0.2:8080/~/http/www.example.com/a?b"));
    assert_eq!(
        led("www.example.com.8080.nyud.example:80", "/"),
        to("http://127.0.0.2:8080/~/http/www.example.com:8080/")
    );
    assert_eq!(led("www-example-com.NYUD.example", "/"), to("http://127.0.0.2:8080/~/http/www.example.com/"));
    assert_eq!(led("a.test.443.nyud.example", "/"), to("http://127.0.0.2:8080/~/https/a.test/"));
    let absolute = Request::get("http://a.test.nyud.example/x").header("host", "m.test");
    assert_eq!(
        ask(knows(vec![vec![proxy("p", [127, 0, 0, 2])]]), absolute),
        to("http://127.0.0.2:8080/~/http/a.test/x")
    );
}

#[test]
fn a_root_relative_link_is_led_by_its_referer_to_the_page_it_stands_on() {
    let link = |referer: &str| {
        let request = Request::get("/style.css?v=1").header("host", "m.test:8081").header("referer", referer);
        ask(knows(vec![Vec::new()]), request)
    };
    assert_eq!(
        link("http://m.test:8081/~/https/www.example.com:8443/deep/page?x"),
        to("/~/https/www.example.com:8443/style.css?v=1")
    );
    for foreign in [
        "http://other.test/~/https/www.example.com/",
        "http://m.test:8081/page",
        "http://m.test:8081/~/ftp/a.test/",
        "/~/http/a.test/",
        "\u{e9}",
    ] {
        assert_eq!(link(foreign).0, 404, "{foreign}");
    }
}

#[test]
fn the_nearest_level_with_a_live_proxy_is_taken() {
    let draining = NodeInfo { draining: true, ..proxy("leaving", [127, 0, 0, 3]) };
    let spent = NodeInfo { quota_left: Some(0), ..proxy("spent", [127, 0, 0, 4]) };
    let unwanted = NodeInfo { weight: 0, ..proxy("unwanted", [127, 0, 0, 5]) };
    let homeless = NodeInfo { v4: Vec::new(), ..proxy("homeless", [127, 0, 0, 6]) };
    let far = proxy("far", [127, 0, 0, 7]);
    let mut levels =
        vec![vec![far.clone()], vec![proxy("near", [127, 0, 0, 8])], vec![draining, spent, unwanted, homeless]];
    let request = || Request::get("/~/http/a.test/").header("host", "m.test");
    assert_eq!(ask(knows(levels.clone()), request()), to("http://127.0.0.8:8080/~/http/a.test/"));
    levels[1].clear();
    assert_eq!(ask(knows(levels.clone()), request()), to("http://127.0.0.7:8080/~/http/a.test/"));
    levels[0].clear();
    assert_eq!(ask(knows(levels), request()), (503, String::new()));
}

#[test]
fn a_site_stays_with_one_of_the_nearest_proxies_and_sites_spread_over_them() {
    let nodes: Vec<NodeInfo> = (2..10).map(|n| proxy(&format!("p{n}"), [127, 0, 0, n])).collect();
    let mut used = std::collections::BTreeSet::new();
    for site in 0..64 {
        let request = || Request::get(format!("/~/http/s{site}.test/")).header("host", "m.test");
        let (status, location) = ask(knows(vec![nodes.clone()]), request());
        assert_eq!((status, location.clone()), ask(knows(vec![nodes.clone()]), request()));
        used.insert(location.split('/').nth(2).unwrap().to_owned());
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["127.0.0.2:8080", "127.0.0.3:8080"]);
}

#[test]
fn a_client_whose_proxy_failed_is_led_to_another_and_told_of_two_more() {
    let nodes: Vec<NodeInfo> = (2..6).map(|n| proxy(&format!("p{n}"), [127, 0, 0, n])).collect();
    let field = |answer: &Response<Full<Bytes>>, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    for path in ["/~/http/a.test/x?y=1", "/x?y=1"] {
        let mut not = Vec::new();
        let mut servers = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let led = answer(knows(vec![nodes.clone()]), &format!("{path}{}", not.concat()), "");
            let to = field(&led, "location");
            assert!(to.ends_with(":8080/~/http/a.test/x?y=1"), "only the origin's query goes on: {to}");
            if not.len() < 2 {
                let links = field(&led, "link");
                assert_eq!(links.matches("/~/http/a.test/x?y=1>; rel=duplicate").count(), 2, "{links}");
                assert!(!links.contains(to.as_str()), "{links}");
            }
            // By its id and by its address in turn.
            let name =
                if not.len() % 2 == 0 { field(&led, "atoll-node") } else { to.split('/').nth(2).unwrap().to_owned() };
            not.push(format!("&not={name}"));
            servers.insert(to);
        }
        assert_eq!(servers.len(), 4);
        assert_eq!(answer(knows(vec![nodes.clone()]), &format!("{path}{}", not.concat()), "").status(), 503);
    }
    // What names no node is the origin's.
    let led = answer(knows(vec![nodes]), "/x?not=me&not=127.0.0.99:8080", "");
    assert!(field(&led, "location").ends_with("/x?not=me&not=127.0.0.99:8080"));
}

#[test]
fn where_the_zone_is_delegated_a_proxy_goes_by_the_urls_name_there() {
    let node = proxy("p", [127, 0, 0, 2]);
    let id = node.id;
    let led = |path: &str| {
        let config = Arc::new(ManagerConfig { names: true, ..ManagerConfig::default() });
        let zone = Arc::new(Some(Zone::new("nyud.example").unwrap()));
        let redirector = Redirector { index: knows(vec![vec![node.clone()]]), zone, config, guide: None };
        let (head, ()) = Request::get(path).header("host", "m.test").body(()).unwrap().into_parts();
        let answer = redirector.redirect(([127, 0, 0, 9], 1).into(), &head);
        answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
    };
    assert_eq!(led("/~/http/a.test/x?y"), format!("http://a.test.n-{id}.nyud.example:8080/x?y"));
    assert_eq!(led("/~/https/a.test/"), format!("http://a.test.443.n-{id}.nyud.example:8080/"));
    // What has no name keeps the address.
    assert_eq!(led("/~/https/a.test:8443/"), "http://127.0.0.2:8080/~/https/a.test:8443/");
}

#[tokio::test]
async fn the_choice_among_proxies_is_explained_as_a_page_and_as_json() {
    use http_body_util::BodyExt as _;
    let levels = vec![
        vec![proxy("far", [127, 0, 0, 7])],
        vec![proxy("near", [127, 0, 0, 8]), NodeInfo { load: 95, ..proxy("busy", [127, 0, 0, 6]) }],
    ];
    let text = async |path: &str, accept: &str| {
        let answer = answer(knows(levels.clone()), path, accept);
        assert_eq!(answer.status(), 200);
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    for (path, accept) in [("/x?mirrorlist=json", ""), ("/~/http/a.test/x?mirrorlist", "application/json")] {
        let (kind, json) = text(path, accept).await;
        assert_eq!(kind, "application/json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["url"], "http://a.test/x");
        assert_eq!(json["client"], "127.0.0.0");
        assert_eq!(json["led_to"], "http://127.0.0.8:8080/~/http/a.test/x");
        let facts: Vec<_> = json["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["level"].as_u64().unwrap(), one["busy"] == true, one["shares"] == true))
            .collect();
        assert_eq!(facts, [(1, false, true), (1, true, true), (0, false, false)]);
    }
    let (kind, page) = text("/~/http/a.test/\"x?mirrorlist", "text/html").await;
    assert!(kind.starts_with("text/html") && page.contains("127.0.0.8:8080") && page.contains("/&quot;x"), "{page}");
    assert_eq!(answer(knows(vec![Vec::new()]), "/x?mirrorlist", "").status(), 200, "also when nobody is there");
}

#[test]
fn a_client_is_sent_to_an_address_of_its_own_family_if_there_is_one() {
    let both = NodeInfo { v6: vec!["2001:db8::1".parse().unwrap()], ..proxy("p", [192, 0, 2, 1]) };
    let v4: SocketAddr = "198.51.100.1:5".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::9]:5".parse().unwrap();
    assert_eq!(address_for(v4, &both).unwrap().to_string(), "192.0.2.1:8080");
    assert_eq!(address_for("[::ffff:198.51.100.1]:5".parse().unwrap(), &both).unwrap().to_string(), "192.0.2.1:8080");
    assert_eq!(address_for(v6, &both).unwrap().to_string(), "[2001:db8::1]:8080");
    assert_eq!(address_for(v6, &proxy("p", [192, 0, 2, 1])).unwrap().to_string(), "192.0.2.1:8080");
}

#[test]
fn what_is_no_name_of_an_origin_is_refused() {
    for path in [
        "/~/ftp/a.test/",
        "/~/http/127.0.0.1/",
        "/~/http/[::1]/",
        "/~/http/2130706433/",
        "/~/http/a.test:0/",
        "/~/http/u@a.test/",
        "/~/http//x",
    ] {
        assert_eq!(led("m.test", path).0, 400, "{path}");
    }
    assert_eq!(led("127.0.0.1.nyud.example", "/").0, 400);
    assert_eq!(led("nyud.example", "/").0, 404);
    assert_eq!(led("m.test", "/").0, 404);
    assert_eq!(led("a, b", "/").0, 400);
    let two = Request::get("/").header("host", "a.test").header("host", "b.test");
    assert_eq!(ask(knows(vec![Vec::new()]), two).0, 400);
}

#[tokio::test]
async fn only_get_and_head_are_led_on_and_a_lone_manager_says_when_to_come_back() {
    let config = ManagerConfig { listen: vec![([127, 0, 0, 1], 0).into()], ..ManagerConfig::default() };
    let manager = Manager::start(&config, "", knows(vec![Vec::new()]), None).await.unwrap();
    let exchange = async |request: &str| {
        let mut stream = TcpStream::connect(manager.addresses()[0]).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap().to_ascii_lowercase()
    };
    let head = exchange("HEAD /~/http/a.test/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("\r\nretry-after: 5\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post =
        exchange("POST /~/http/a.test/ HTTP/1.1\r\nHost: m\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n")
            .await;
    assert!(post.starts_with("http/1.1 405") && post.contains("\r\nallow: get, head\r\n"), "{post}");
    let connect = exchange("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nConnection: close\r\n\r\n").await;
    assert!(connect.starts_with("http/1.1 405"), "{connect}");
    manager.stop().await;
}

/// A dnssrv beside the manager, on the same index; and the file it places networks by.
async fn beside(levels: &[Vec<NodeInfo>], overrides: &str) -> (atoll_dnssrv::Server, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), overrides).unwrap();
    let config = atoll_dnssrv::Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        mode: atoll_dnssrv::Mode::Direct,
        overrides: Some(file.path().to_owned()),
        sources: atoll_dnssrv::Sources { tcp_connect: false, icmp: false, ..atoll_dnssrv::Sources::default() },
        ..atoll_dnssrv::Config::default()
    };
    (atoll_dnssrv::serve(config, knows(levels.to_vec()), None).await.unwrap(), file)
}

/// The addresses that DNS names for a host under the zone to clients of a /24.
async fn named(server: SocketAddr, host: &str, [a, b, c]: [u8; 3]) -> Vec<std::net::Ipv4Addr> {
    let mut query = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in host.split('.').chain(["nyud", "example"]) {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let question = query.len();
    // EDNS with a client subnet.
    query.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, a, b, c]);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&query).await.unwrap();
    let mut reply = [0; 1232];
    tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut reply)).await.expect("a reply in time").unwrap();
    let records = reply[question..].chunks_exact(16).take(reply[7].into());
    records.map(|record| <[u8; 4]>::try_from(&record[12..]).unwrap().into()).collect()
}

#[tokio::test]
async fn beside_a_dnssrv_a_redirect_leads_to_the_proxies_that_dns_names_to_the_same_network() {
    // Bound and not listening: whoever looks whether proxies are there is refused.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    let some = |numbers: std::ops::Range<u8>| -> Vec<NodeInfo> {
        numbers.map(|n| NodeInfo { http_ports: vec![port], ..proxy(&format!("p{n}"), [127, 0, 0, n]) }).collect()
    };
    let levels = vec![some(2..12), some(4..9), some(5..8)];
    let overrides = "203.0.113.0/24 level 2\n198.51.100.0/24 level 1\n192.0.2.0/24 level 0\n";
    let (server, _file) = beside(&levels, overrides).await;
    let zone = Arc::new(Some(Zone::new("nyud.example").unwrap()));
    let config = Arc::new(ManagerConfig::default());
    let redirector = Redirector { index: knows(levels), zone, config, guide: Some(server.guide()) };
    let lead = |path: &str, [a, b, c]: [u8; 3]| {
        let (head, ()) = Request::get(path).header("host", "m.test").body(()).unwrap().into_parts();
        redirector.redirect(([a, b, c, 77], 1).into(), &head)
    };
    let field = |answer: &Response<Full<Bytes>>, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let mut used = std::collections::BTreeMap::new();
    for network in [[203, 0, 113], [198, 51, 100], [192, 0, 2]] {
        for site in 0..24 {
            let host = format!("s{site}.test");
            let names = named(server.local_addrs()[0], &host, network).await;
            assert_eq!(names.len(), 2);
            let led = lead(&format!("/~/http/{host}/x"), network);
            assert_eq!(field(&led, "location"), format!("http://{}:{port}/~/http/{host}/x", names[0]));
            let links = field(&led, "link");
            assert!(links.starts_with(&format!("<http://{}:{port}/", names[1])), "{links}");
            // Whoever failed this client is left out, by its name as by its address; then comes the next.
            for failed in [field(&led, "atoll-node"), format!("{}:{port}", names[0])] {
                let again = lead(&format!("/~/http/{host}/x?not={failed}"), network);
                assert_eq!(field(&again, "location"), format!("http://{}:{port}/~/http/{host}/x", names[1]));
            }
            used.entry(network).or_insert_with(std::collections::BTreeSet::new).extend(names);
        }
    }
    // Each network has the proxies of its level, and all of them are used.
    assert_eq!(used.values().map(std::collections::BTreeSet::len).collect::<Vec<_>>(), [10, 5, 3]);
    server.stop().await;
}

#[tokio::test]
async fn a_clients_handshake_with_the_manager_measures_its_network_for_the_dnssrv_beside_it() {
    let levels = vec![vec![proxy("p", [127, 0, 0, 2])]; 3];
    let (server, _file) = beside(&levels, "").await;
    let config = ManagerConfig { listen: vec![([127, 0, 0, 1], 0).into()], ..ManagerConfig::default() };
    let manager = Manager::start(&config, "", knows(levels), Some(server.guide())).await.unwrap();
    let mut stream = TcpStream::connect(manager.addresses()[0]).await.unwrap();
    stream.write_all(b"GET /~/http/a.test/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 302"), "{}", String::from_utf8_lossy(&answer));
    let measured = server.explain(Prefix::of([127, 0, 0, 1].into())).measured;
    assert!(measured.iter().any(|(source, _)| *source == atoll_dnssrv::Source::TcpInfo), "{measured:?}");
    manager.stop().await;
    server.stop().await;
}

#[test]
fn a_proxy_that_only_dns_knows_of_is_led_to_by_its_address_and_left_out_by_it() {
    let levels = vec![(Level(0), vec![(proxy("p", [127, 0, 0, 2]), "127.0.0.2:8080".parse().unwrap())])];
    let lead = |last, port| atoll_dnssrv::Lead { address: [192, 0, 2, last].into(), port, level: Level(2) };
    let order = |leads: &[atoll_dnssrv::Lead], not: &[&str]| {
        let not: Vec<String> = not.iter().map(|not| (*not).to_owned()).collect();
        let order = near::led(&levels, leads, Wanted { site: "a.test", spread: 2, not: &not });
        order.iter().map(|near| (near.address.to_string(), near.id.is_some(), near.shares)).collect::<Vec<_>>()
    };
    let (far, own) = (("192.0.2.7:81".to_owned(), false, true), |shares| ("127.0.0.2:8080".to_owned(), true, shares));
    assert_eq!(order(&[lead(7, Some(81))], &[]), [far, own(false)]);
    assert_eq!(order(&[lead(7, Some(81))], &["192.0.2.7:81"]), [own(true)]);
    assert_eq!(order(&[lead(7, None)], &[]), [own(true)], "nobody says at which port it is");
    assert_eq!(order(&[lead(7, Some(81))], &["127.0.0.2:8080"]).len(), 1);
}

#[test]
fn a_lead_is_a_known_node_by_any_address_and_its_port_and_another_at_another_port() {
    let both = NodeInfo { v6: vec!["2001:db8::1".parse().unwrap()], ..proxy("p", [192, 0, 2, 1]) };
    let levels = vec![(Level(1), vec![(both, "[2001:db8::1]:8080".parse().unwrap())])];
    let lead = |address: &str, port| atoll_dnssrv::Lead { address: address.parse().unwrap(), port, level: Level(1) };
    let order = |leads: &[atoll_dnssrv::Lead], not: &[&str]| {
        let not: Vec<String> = not.iter().map(|not| (*not).to_owned()).collect();
        let order = near::led(&levels, leads, Wanted { site: "a.test", spread: 2, not: &not });
        order.iter().map(|near| (near.address.to_string(), near.id.is_some(), near.named)).collect::<Vec<_>>()
    };
    let one = |address: &str, known, named| (address.to_owned(), known, named);
    let (v4, v6) = ("192.0.2.1:8080", "[2001:db8::1]:8080");
    // A client of IPv6 that answers lead over IPv4: the same node, once.
    assert_eq!(order(&[lead("192.0.2.1", Some(8080))], &[]), [one(v4, true, true)]);
    assert_eq!(order(&[lead("192.0.2.1", None)], &[]), [one(v4, true, true)]);
    assert_eq!(order(&[lead("2001:db8::1", Some(8080)), lead("192.0.2.1", Some(8080))], &[]), [one(v6, true, true)]);
    assert_eq!(order(&[lead("192.0.2.1", Some(8080))], &[v4]), [], "it failed by whichever address");
    assert_eq!(order(&[lead("192.0.2.1", Some(81))], &[]), [one("192.0.2.1:81", false, true), one(v6, true, false)]);
    assert_eq!(order(&[lead("192.0.2.1", Some(81))], &["192.0.2.1:81"]), [one(v6, true, false)]);
}

#[test]
fn the_page_says_that_dns_answers_name_a_proxy_only_where_they_do() {
    let url = OriginUrl::from_manager_path("/~/http/a.test/x").unwrap().unwrap();
    let levels = vec![(Level(0), vec![(proxy("p", [127, 0, 0, 2]), "127.0.0.2:8080".parse().unwrap())])];
    let lead = atoll_dnssrv::Lead { address: [127, 0, 0, 2].into(), port: Some(8080), level: Level(0) };
    let page = |leads: &[atoll_dnssrv::Lead]| {
        let order = near::led(&levels, leads, Wanted { site: "a.test", spread: 2, not: &[] });
        Mirrors::new(&url, "127.0.0.0".to_owned(), &order, None).page()
    };
    assert!(page(&[lead]).contains("the first of the 1 that DNS answers name"));
    assert!(!page(&[]).contains("DNS answers"));
}
