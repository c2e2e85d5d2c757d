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
    support::{PATIENCE, Process, eventually},
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
    let mut bytes = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in NAME.split('.') {
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
async fn under_a_flood_of_datagrams_the_admin_api_and_tcp_still_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (process, dns, _) = node(folder.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    // Nobody reads the replies, and nothing waits for them: each thread sends as fast as the system takes it.
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
                let bytes = question();
                while !stop.load(Ordering::Relaxed) {
                    for socket in &sockets {
                        sent.fetch_add(u64::from(socket.send_to(&bytes, dns).is_ok()), Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) || rounds < 10 {
        assert!(began.elapsed() < PATIENCE, "{rounds} rounds only");
        let before = sent.load(Ordering::Relaxed);
        assert!(process.status().await.is_some(), "the admin API answers");
        let mut stream = TcpStream::connect(dns).await.unwrap();
        let bytes = question();
        stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()).await.unwrap();
        let mut reply = [0; 14];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
        assert_eq!((reply[5] & 15, reply[9] > 0), (0, true), "an answer over TCP");
        eventually("the flood goes on", async || sent.load(Ordering::Relaxed) > before + 1_000).await;
        rounds += 1;
    }
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    let answered = process.status().await.unwrap()["dns"]["queries"].as_u64().unwrap();
    assert!(answered > 1_000, "{answered} of {} answered", sent.load(Ordering::Relaxed));
}
