//! What the operator sees of DNS answers: the answer map on the dashboard, in a real browser; and that he sees anything at all, and
//! clients over TCP are served, while far more datagrams come in than can be answered.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    browser::Browser,
    support::{PATIENCE, Process, eventually, listening},
};

const NAME: &str = "www.site.test.nyud.example";

async fn node(folder: &Path) -> (Process, SocketAddr, SocketAddr) {
    let config = format!(
        "[node]\nroles = [\"dnssrv\", \"proxy\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n[dns]\nlisten = [\"127.0.0.1:0\"]\nmode = \"direct\"\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\norigins = [\"www.site.test\"]\n\n[admin]\nlisten = [\"127.0.0.1:0\"]\n",
        folder.display()
    );
    let process = Process::start(folder, &config).await;
    let status = process.status().await.unwrap();
    let address = |service: &str| {
        let all = status["listen"].as_array().unwrap();
        let of = |one: &&Value| one["service"] == service && one["address"].as_str().unwrap().starts_with("127.");
        let found = all.iter().find(of).unwrap_or_else(|| panic!("no {service} in {all:?}"));
        found["address"].as_str().unwrap().parse().unwrap()
    };
    let (dns, admin) = (address("dns"), address("admin"));
    (process, dns, admin)
}

fn question() -> Vec<u8> {
    question_of(NAME)
}

fn question_of(name: &str) -> Vec<u8> {
    let mut bytes = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_where_answers_went() {
    let folder = tempfile::tempdir().unwrap();
    let (process, dns, admin) = node(folder.path()).await;
    let token = std::fs::read_to_string(folder.path().join("state/admin.token")).unwrap().trim().to_owned();
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let asked = async || {
        asker.send_to(&question(), dns).unwrap();
        let status = process.status().await.unwrap();
        status["dns"]["map"][0]["prefix"] == "127.0.0.0/24" && status["dns"]["map"][0]["source"] != "unknown"
    };
    eventually("the loopback's prefix is on the map, and measured", asked).await;
    let status = process.status().await.unwrap();
    let (level, source) = (status["dns"]["map"][0]["level"].to_string(), status["dns"]["map"][0]["source"].clone());
    let source = source.as_str().unwrap().to_owned();
    let at = folder.path().join("browser");
    std::fs::create_dir(&at).unwrap();
    let looked = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start(&at) else { return false };
        browser.screen(360, 740);
        browser.open(&format!("http://{admin}/#token={token}"));
        let cell = |place: usize| format!("document.querySelector('#map tbody tr').children[{place}].textContent");
        browser.until(
            "!document.getElementById('board').hidden && document.querySelector('#map tbody tr').children.length === 6",
        );
        browser.until(&format!("{} === '127.0.0.0/24'", cell(0)));
        assert_eq!(browser.eval(&cell(1)), level);
        assert_eq!(browser.eval(&cell(3)), source);
        browser.until(&format!("Number({}) > 0", cell(4)));
        assert_eq!(browser.eval("document.documentElement.scrollWidth <= 360"), true, "a phone must scroll sideways");
        true
    });
    if !looked.await.unwrap() {
        println!("skipped: no Chromium is installed; run `cargo xtask test --install`");
    }
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_flood_of_three_times_what_it_can_answer_the_admin_api_and_tcp_still_do() {
    let folder = tempfile::tempdir().unwrap();
    let (mut process, dns, _) = node(folder.path()).await;
    let span = Duration::from_secs(10);
    let answered = async || process.status().await.unwrap()["dns"]["queries"].as_u64().unwrap();
    let before = answered().await;
    let flood = Flood::start(dns);
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < span || rounds < 10 {
        assert!(began.elapsed() < PATIENCE, "{rounds} rounds only");
        let before = flood.sent();
        assert!(process.status().await.is_some(), "the admin API answers");
        let reply = over_tcp(dns).await;
        assert_eq!((reply[5] & 15, reply[9] > 0), (0, true), "an answer over TCP");
        eventually("the flood goes on", async || flood.sent() > before + 1_000).await;
        rounds += 1;
    }
    let (sent, answered) = (flood.sent(), answered().await - before);
    assert!(answered > 1_000 && sent > 3 * answered, "{answered} of {sent} answered");
    // Killed in the midst of it, the next start answers its first question as ever (D13): the set of live proxies is on disk long
    // before it is written with all else.
    let set = folder.path().join("state/dns-set");
    let holds_one = async || std::fs::read(&set).is_ok_and(|bytes| bytes.windows(4).any(|four| four == [127, 0, 0, 1]));
    eventually("the proxy seen alive is on disk", holds_one).await;
    process.kill();
    drop((process, flood));
    let (_process, dns, _) = node(folder.path()).await;
    let reply = over_tcp(dns).await;
    assert_eq!((reply[5] & 15, reply[9] > 0), (0, true), "the first answer after a kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zones_records_are_read_again_on_sighup_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (process, dns, _) = node(folder.path()).await;
    let file = folder.path().join("atoll.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let write = |data: &str| {
        let records =
            format!("mode = \"direct\"\nrecords = [{{ name = \"host\", type = \"A\", data = \"{data}\" }}]\n");
        std::fs::write(&file, config.replace("mode = \"direct\"\n", &records)).unwrap();
    };
    let answers = async || over_tcp_of(dns, "host.nyud.example").await[9];
    assert_eq!(answers().await, 0);
    // Until it takes signals, this one would end it.
    eventually("the node says where it listens", async || process.log().contains("listening")).await;
    write("192.0.2.7");
    process.signal("-HUP");
    eventually("the new record is there", async || answers().await == 1).await;
    write("nothing");
    process.signal("-HUP");
    eventually("the bad one is told", async || process.log().contains("records stay as they are")).await;
    assert_eq!(answers().await, 1);
    // Each of the two above left the serial as it was; the first only had other records.
    let log = process.log();
    assert_eq!(log.matches("its serial did not").count(), 1, "{log}");
    assert_eq!(log.matches("no `nameservers` are set").count(), 1, "{log}");
}

// D13: whoever was named before a crash is named at once after it, although the proxy has died meanwhile and nobody is there to say so.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_server_names_the_last_good_proxies_at_once_though_they_are_dead() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let head = |roles: &str, folder: &Path, address: &str, seed: &str| {
        format!(
            "[node]\nroles = [\"{roles}\"]\nstate = \"{}/state\"\nnetwork = \"test\"\nzone = \"nyud.example\"\n\
             addresses = [\"{address}\"]\ndrain_wait = \"0s\"\n{seed}\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n\
             [admin]\nlisten = []\n\n",
            folder.display()
        )
    };
    let listen = "[dns]\nlisten = [\"127.0.0.1:0\"]\nmode = \"direct\"\n";
    let config = head("dnssrv", here.path(), "127.0.0.1", "") + listen;
    let mut server = Process::start(here.path(), &config).await;
    let status = server.status().await.unwrap();
    let (dns, seed) = (listening(&status, "dns").parse().unwrap(), listening(&status, "overlay"));
    let seed = format!("bootstrap = [\"{seed}\"]\n");
    let listen = "[proxy]\nlisten = [\"127.0.0.2:0\"]\norigins = [\"www.site.test\"]\n";
    let config_there = head("proxy", there.path(), "127.0.0.2", &seed) + listen;
    let mut proxy = Process::start(there.path(), &config_there).await;
    let named = |reply: &[u8]| reply.windows(4).any(|four| four == [127, 0, 0, 2]);
    let is_named = async || named(&whole_over_tcp(dns, &with_edns()).await);
    eventually("the proxy is seen alive and named", is_named).await;
    let set = here.path().join("state/dns-set");
    eventually("it is on disk", async || std::fs::read(&set).is_ok_and(|bytes| named(&bytes))).await;
    server.kill();
    proxy.kill();
    let server = Process::start(here.path(), &config).await;
    let dns = listening(&server.status().await.unwrap(), "dns").parse().unwrap();
    let reply = whole_over_tcp(dns, &with_edns()).await;
    assert!(named(&reply), "the first answer: {reply:02x?}\n{}", server.log());
    let stale = [&[0, 3][..], b"no proxy is seen alive"].concat();
    assert!(reply.windows(stale.len()).any(|part| part == stale), "extended error 3: {reply:02x?}");
}

/// The question with EDNS.
fn with_edns() -> Vec<u8> {
    let mut bytes = question();
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The whole reply over a connection of its own.
async fn whole_over_tcp(dns: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(dns).await.unwrap();
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()).await.unwrap();
    let mut length = [0; 2];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut length)).await.unwrap().unwrap();
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
    reply
}

/// The first bytes of a reply over a connection of its own, its length in front.
async fn over_tcp(dns: SocketAddr) -> [u8; 14] {
    over_tcp_of(dns, NAME).await
}

/// The same for another name.
async fn over_tcp_of(dns: SocketAddr, name: &str) -> [u8; 14] {
    let mut stream = TcpStream::connect(dns).await.unwrap();
    let bytes = question_of(name);
    stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
    let mut reply = [0; 14];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
    reply
}

/// Datagrams as fast as the system takes them, each asking for a name of its own; nobody reads the replies.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |number: u64| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
                let mut bytes = question_of(&format!("{:08x}.test.nyud.example", 0));
                // Bounded in number, too, whatever becomes of the test.
                for (at, socket) in (number..MOST).step_by(THREADS).zip(sockets.iter().cycle()) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    bytes[13..21].copy_from_slice(format!("{at:08x}").as_bytes());
                    sent.fetch_add(u64::from(socket.send_to(&bytes, to).is_ok()), Ordering::Relaxed);
                }
            })
        };
        let threads = (0..).take(THREADS).map(one).collect();
        Self { stop, sent, threads }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// More than the server has for datagrams, so that theirs is the greater part of the machine: to send costs half of what an answer does.
const THREADS: usize = 8;
/// Datagrams a flood sends at most.
const MOST: u64 = 100_000_000;
