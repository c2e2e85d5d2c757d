//! Clients that say nothing, or far too much: row H13 on both versions, and row H17 frame by frame.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    support::{Origin, alone, config, config_site, exchange, get, noise, ok, soon, until},
    two::{GET, block, flood, frame, goaways},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// H13: the deadline runs from accept, also where it is not clear yet what will be spoken.
#[tokio::test]
async fn whoever_says_nothing_or_begins_and_stops_is_let_go() {
    let mut config = config();
    config.timeouts.head = Duration::from_millis(200);
    // Were these waited for, the test would end here.
    config.timeouts.keep_alive = Duration::from_secs(3_600);
    config.timeouts.send = Duration::from_secs(3_600);
    let proxy = alone(config).await;
    let settings = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let begun = [&settings[..], &frame(1, 0, 1, &block(&GET))].concat();
    for said in [
        &b""[..],
        b"\r\n",
        b"P",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        PREFACE,
        &settings[..],
        &begun[..],
        b"GET / HTTP/1.1\r\nHost: x.test\r\n",
        b"POST / HTTP/1.1\r\n",
    ] {
        let answer = exchange(proxy.local_addrs()[0], said).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("HTTP/1.1 2"), "{:?} got {text}", String::from_utf8_lossy(said));
    }
    until(|| proxy.stats().connections == 0).await;
}

#[tokio::test]
async fn a_head_that_drips_in_does_not_outlive_its_deadline() {
    let mut config = config();
    config.timeouts.head = Duration::from_millis(200);
    let proxy = alone(config).await;
    for begin in [&b"GET / HTTP/1.1\r\nX: "[..], b"PRI * HTTP/2.0\r\nX: "] {
        let (mut from, mut to) = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap().into_split();
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = from.read_to_end(&mut all).await;
            all
        });
        soon(async {
            to.write_all(begin).await.unwrap();
            // Always in time for one that counts from the last byte.
            while !read.is_finished() && to.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let answer = soon(read).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 505 "), "{answer}");
    }
}

// At the limits as they are by default.
#[tokio::test]
async fn ten_thousand_that_say_nothing_or_nothing_more_hinder_nobody() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    config.timeouts.head = Duration::from_secs(3_600);
    config.timeouts.keep_alive = Duration::from_secs(3_600);
    let proxy = alone(config).await;
    let request = b"GET /kept HTTP/1.1\r\nHost: any.test\r\n\r\n";
    // Each takes a descriptor on either side.
    let room = atoll_sys::limits::raise_open_files().ok().flatten().and_then(|limit| usize::try_from(limit).ok());
    let room = room.unwrap_or(1_024);
    let count = (room.saturating_sub(256) / 2).min(10_000);
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
        let said = if number % 2 == 0 { &request[..] } else { &PREFACE[..number / 2 % 4] };
        stream.write_all(said).await.unwrap();
        held.push(stream);
    }
    until(|| proxy.stats().connections == count as u64).await;
    for stream in held.iter_mut().step_by(2) {
        let mut status = [0; 13];
        soon(stream.read_exact(&mut status)).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 ");
    }
    for path in ["/a", "/a", "/b"] {
        assert_eq!(get(&proxy, "any.test", path).await.status, 200);
    }
    assert_eq!(proxy.stats().connections, count as u64, "none was cut off before its time");
    drop(held);
    until(|| proxy.stats().connections == 0).await;
}

/// A request of its own path on the stream of this number.
fn request(number: u32, flags: u8, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/{number}");
    let mut fields = vec![(":method", method), (":scheme", "http"), (":authority", "own.test"), (":path", &path)];
    fields.extend(more);
    frame(1, flags, number, &block(&fields))
}

/// The numbers of a client's streams.
fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|number| number * 2 + 1)
}

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;
/// END_HEADERS.
const OPEN: u8 = 4;

/// A flood, what its client is told in the end if that is certain, and its frames.
type Flood = (&'static str, Option<u32>, Box<dyn Iterator<Item = Vec<u8>> + Send>);

const CALM: Option<u32> = Some(11);

fn floods() -> Vec<Flood> {
    let opened = || std::iter::once(request(1, OPEN, "POST", &[]));
    let unended = || std::iter::once(frame(1, 1, 1, &block(&GET)));
    vec![
        ("PING", CALM, Box::new(std::iter::repeat_with(|| frame(6, 0, 0, &[7; 8])))),
        ("SETTINGS", CALM, Box::new(std::iter::repeat_with(|| frame(4, 0, 0, &[])))),
        ("SETTINGS of tables", CALM, Box::new((0u32..).map(|size| frame(4, 0, 0, &table_size(size % 4_096))))),
        ("PRIORITY", CALM, Box::new(std::iter::repeat_with(|| frame(2, 0, 1, &[0, 0, 0, 0, 9])))),
        ("unknown frames", CALM, Box::new(std::iter::repeat_with(|| frame(0x50, 0xff, 3, &[])))),
        ("DATA without bytes", CALM, Box::new(opened().chain(std::iter::repeat_with(|| frame(0, 0, 1, &[]))))),
        ("windows", CALM, Box::new(std::iter::repeat_with(|| frame(8, 0, 0, &[0, 0, 0, 1])))),
        (
            "endless header blocks",
            None,
            Box::new(unended().chain(std::iter::repeat_with(|| frame(9, 0, 1, &block(&[("x", "y")]))))),
        ),
        ("empty CONTINUATION", CALM, Box::new(unended().chain(std::iter::repeat_with(|| frame(9, 0, 1, &[]))))),
        (
            "requests given up at once",
            CALM,
            Box::new(
                streams()
                    .map(|stream| [request(stream, WHOLE, "GET", &[]), frame(3, 0, stream, &[0, 0, 0, 8])].concat()),
            ),
        ),
    ]
}

/// SETTINGS_HEADER_TABLE_SIZE.
fn table_size(size: u32) -> Vec<u8> {
    [&[0, 1][..], &size.to_be_bytes()].concat()
}

/// Floods in which this side resets every stream, because of what the client does to it (known as MadeYouReset).
fn provoked() -> Vec<Flood> {
    type Fields = &'static [(&'static str, &'static str)];
    type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;
    let after = |flags: u8, method: &'static str, more: Fields, then: fn(u32) -> Vec<u8>| -> Frames {
        Box::new(streams().map(move |stream| [request(stream, flags, method, more), then(stream)].concat()))
    };
    vec![
        (
            "a stream's window over its end",
            CALM,
            after(WHOLE, "GET", &[], |stream| frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes())),
        ),
        (
            "more than Content-Length",
            CALM,
            after(OPEN, "POST", &[("content-length", "3")], |it| frame(0, 0, it, b"hello")),
        ),
        (
            "less than Content-Length",
            CALM,
            after(OPEN, "POST", &[("content-length", "9")], |it| frame(0, 1, it, b"hello")),
        ),
        ("fields of one hop", CALM, after(WHOLE, "GET", &[("connection", "close")], |_| Vec::new())),
        ("upper-case names", None, after(WHOLE, "GET", &[("X", "y")], |_| Vec::new())),
        ("trailers that do not end", None, after(OPEN, "POST", &[], |it| frame(1, OPEN, it, &block(&[("x", "y")])))),
        ("a window opened by nothing", None, after(WHOLE, "GET", &[], |it| frame(8, 0, it, &[0; 4]))),
        ("DATA after the end", None, after(WHOLE, "GET", &[], |it| frame(0, 1, it, b"late"))),
        (
            "a stream that depends on itself",
            None,
            after(WHOLE, "GET", &[], |it| frame(2, 0, it, &[&it.to_be_bytes()[..], &[9]].concat())),
        ),
    ]
}

/// A header block of 16 KB that stands for 48 MB: one long field that is put into the table, and then named 12,000 times.
fn bomb(stream: u32) -> Vec<u8> {
    let mut block = block(&GET);
    // A literal that is indexed, of 4,000 bytes: 127 + 33 + 30 * 128 [RFC 7541 5.1, 6.2.1].
    block.extend([0x40, 1, b'x', 127, 0x80 | 33, 30]);
    block.extend([b'y'; 4_000]);
    block.extend([0x80 | 62; 12_000]);
    frame(1, WHOLE, stream, &block)
}

/// Frames of one kind among these bytes.
fn count(mut bytes: &[u8], kind: u8) -> usize {
    let mut found = 0;
    while let [a, b, c, this, ..] = *bytes {
        found += usize::from(this == kind);
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    found
}

// H17: in a process of its own, so that its memory is that of the floods.
#[test]
fn floods_of_frames_end_in_a_word_of_calm_and_take_no_memory() {
    if std::env::var_os(FLOODED).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(flooded());
    }
    let name = "floods::floods_of_frames_end_in_a_word_of_calm_and_take_no_memory";
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).args(["--exact", name, "--nocapture"]).env(FLOODED, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

async fn flooded() {
    let mut most = 0;
    for round in 0..4 {
        for (name, word, frames) in floods().into_iter().chain(provoked()) {
            let origin = Origin::with_body(noise(10)).await;
            let mut config = config_site(&origin);
            config.limits.idle_frames = 200;
            let proxy = alone(config).await;
            let began = Instant::now();
            let errors = goaways(&flood(&proxy, frames).await);
            assert!(
                errors.iter().any(|error| word.is_none_or(|word| *error == word) && *error != 0),
                "{name}: {errors:?}"
            );
            until(|| proxy.stats().connections == 0).await;
            // What was begun before the flood was seen for one: time allows more frames, ten a second.
            let most = 256 + began.elapsed().as_millis() / 100;
            assert!(origin.count() as u128 <= most, "{name}: {} requests, {most} allowed", origin.count());
            assert_eq!(get(&proxy, "own.test", "/after").await.status, 200, "{name}");
        }
        bombed().await;
        match round {
            0 => most = resident() + (24 << 20),
            _ => assert!(resident() <= most, "{} bytes in round {round}, {most} allowed", resident()),
        }
    }
}

async fn bombed() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    config.limits.idle_frames = 10;
    let proxy = alone(config).await;
    let before = resident();
    // One is enough, and more are no more.
    let said = flood(&proxy, std::iter::once(bomb(1))).await;
    assert_eq!((goaways(&said), count(&said, 1)), (vec![11], 0));
    assert_eq!(goaways(&flood(&proxy, streams().take(100).map(bomb)).await), [11]);
    assert_eq!(origin.count(), 0);
    assert!(resident() <= before + (24 << 20), "a bomb went off");
}

/// Bytes that this process has in RAM; nothing where the system does not say.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0) << 10
}

// H17: each is taken up before it is given up, so that no queue of the parser's ever fills.
#[tokio::test]
async fn requests_that_are_given_up_one_by_one_come_to_an_end_too() {
    let origin = Origin::start(|_, _| vec![crate::support::Do::Hang]).await;
    let mut config = config_site(&origin);
    config.limits.idle_frames = 50;
    config.http2.resets = 1_000;
    let proxy = alone(config).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    let (mut said, mut rounds, mut numbers) = (Vec::new(), 0, streams());
    // Twenty are no flood; of sixty the last are too many, however long each round takes.
    for size in std::iter::once(20).chain(std::iter::repeat_n(60, 100)) {
        let group: Vec<u32> = numbers.by_ref().take(size).collect();
        let last = group[size - 1];
        let mut asked: Vec<u8> = group.iter().flat_map(|number| frame(1, WHOLE, *number, &block(&GET))).collect();
        asked.extend(frame(6, 0, 0, &u64::from(last).to_be_bytes()));
        if !soon(exchanged(&mut stream, &mut said, &asked, last)).await {
            break;
        }
        until(|| origin.count() == 1).await;
        rounds += 1;
        let given_up: Vec<u8> = group.iter().flat_map(|number| frame(3, 0, *number, &[0, 0, 0, 8])).collect();
        if stream.write_all(&given_up).await.is_err() {
            break;
        }
    }
    let _ = soon(stream.read_to_end(&mut said)).await;
    assert!(goaways(&said).contains(&11), "{:?} after {rounds} rounds", goaways(&said));
    assert!(rounds >= 2, "{rounds}");
    assert_eq!(origin.count(), 1, "all of them wait for one");
}

/// Sends frames that end with a PING of this number and reads until it comes back; false if the connection ends first.
async fn exchanged(stream: &mut TcpStream, said: &mut Vec<u8>, frames: &[u8], number: u32) -> bool {
    let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &u64::from(number).to_be_bytes()].concat();
    if stream.write_all(frames).await.is_err() {
        return false;
    }
    while !said.windows(pong.len()).any(|it| it == pong) {
        if !matches!(stream.read_buf(said).await, Ok(1..)) {
            return false;
        }
    }
    true
}

// Who downloads much opens windows often and gives up some: that is no flood.
#[tokio::test]
async fn a_busy_client_s_frames_are_no_flood() {
    let body = noise(600_000);
    let served = body.clone();
    let origin = Origin::start(move |_, _| ok("Cache-Control: max-age=60\r\n", &served)).await;
    let mut config = config_site(&origin);
    config.limits.idle_frames = 64;
    let proxy = alone(config).await;
    let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    let mut said = Vec::new();
    for number in streams().take(10) {
        stream.write_all(&frame(1, WHOLE, number, &block(&GET))).await.unwrap();
        let from = said.len();
        // Two windows opened for each frame that came, however short.
        let (mut at, mut left) = (from, body.len());
        soon(async {
            while left > 0 {
                stream.read_buf(&mut said).await.unwrap();
                while let Some([a, b, c, kind, ..]) = said.get(at..at + 9) {
                    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                    if said.len() < at + 9 + length {
                        break;
                    }
                    assert_ne!(*kind, 7, "{:?}", goaways(&said));
                    let data = *kind == 0 && length > 0;
                    at += 9 + length;
                    if data {
                        left -= length;
                        let size = u32::try_from(length).unwrap().to_be_bytes();
                        stream.write_all(&[frame(8, 0, 0, &size), frame(8, 0, number, &size)].concat()).await.unwrap();
                    }
                }
            }
        })
        .await;
        // Nothing that was read is a frame's half.
        said.drain(..at);
    }
    assert_eq!(origin.count(), 1);
}

/// Set in the process that is flooded.
const FLOODED: &str = "ATOLL_TEST_FLOODED";
