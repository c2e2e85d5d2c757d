//! `atoll cache` as a client of Hornet meets it: the program itself, raw bytes over sockets, and what it says to each.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::PATIENCE;

/// A running cache, ended with the test.
struct Cache {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Cache {
    /// Starts it on a folder, with these lines in `[cache]`.
    fn start(folder: &Path, settings: &str) -> Self {
        Self::start_with(folder, settings, "8MiB")
    }

    /// As `start`, with a RAM tier of this size.
    fn start_with(folder: &Path, settings: &str, memory: &str) -> Self {
        let shown = folder.display();
        let config = format!(
            "[cache]\nlisten = [\"127.0.0.1:0\"]\nhost = \"box.test\"\naccess_log = \"{shown}/access\"\n{settings}\n\
             [log]\nfile = \"{shown}/errors\"\n\
             [store]\ndirectory = \"{shown}/store\"\nsegment = \"1MiB\"\nslice = \"256KiB\"\ncapacity = \"64MiB\"\nmemory = \"{memory}\"\n"
        );
        let file = folder.join("cache.toml");
        std::fs::write(&file, config).unwrap();
        let _ = std::fs::remove_file(folder.join("errors"));
        let child = Command::new(env!("CARGO_BIN_EXE_atoll"))
            .args(["cache", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut cache = Self { child, folder: folder.to_owned(), address: ([127, 0, 0, 1], 0).into() };
        let listening = || cache.log("errors").split("address=").nth(1)?.split_whitespace().next()?.parse().ok();
        cache.address = until("it listens", listening, || cache.log("stderr") + &cache.log("errors"));
        cache
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    fn ask(&self, line: &str, fields: &str, body: &[u8]) -> Answer {
        self.connect().ask(line, fields, body)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ends it as a power cut would.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The access log, once a line of it holds this.
    fn accessed(&self, text: &str) -> String {
        let line = || self.log("access").lines().find(|line| line.contains(text)).map(str::to_owned);
        until(text, line, || self.log("access"))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something; fails the test with what was seen instead.
fn until<T>(what: &str, look: impl Fn() -> Option<T>, seen: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", seen());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One connection.
struct Client {
    reader: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a request, with a Content-Length if there is a body, and reads the answer.
    fn ask(&mut self, line: &str, fields: &str, body: &[u8]) -> Answer {
        let puts = line.starts_with('P');
        let length = if puts { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        self.send(format!("{line} HTTP/1.1\r\nHost: box\r\n{length}{fields}\r\n").as_bytes());
        self.send(body);
        self.answer(line.starts_with("HEAD"))
    }

    fn answer(&mut self, head_only: bool) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.reader.read_line(&mut head).unwrap() > 0, "the connection ended after {head:?}");
        }
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if !head_only && let Some(length) = answer.field("Content-Length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    /// Everything until the other side ends.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let line =
            self.head.lines().find(|line| line.split(':').next().is_some_and(|it| it.eq_ignore_ascii_case(name)))?;
        line.split_once(": ").map(|(_, value)| value)
    }

    fn line(&self) -> String {
        let text = String::from_utf8(self.body.clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "not one line: {text:?}");
        text.trim_end().to_owned()
    }

    fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{} {:?}", self.head, String::from_utf8_lossy(&self.body));
        self
    }
}

#[test]
fn what_was_put_is_got_with_its_headers_tier_and_age_whole_in_part_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    let mut client = cache.connect();
    let body: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let put = client.ask(
        "PUT /12345/654123?tag1=1&expire=60",
        "Content-Type: image/jpeg\r\nClient-Ext: http://a/x\r\n",
        &body,
    );
    put.is(201);
    assert_eq!(put.line(), "stored 700000 bytes");
    let got = client.ask("GET /12345/654123", "", b"");
    got.is(200);
    assert_eq!(got.body, body);
    assert_eq!((got.field("Content-Type"), got.field("Client-Ext")), (Some("image/jpeg"), None));
    assert!(got.field("Age").unwrap().parse::<u64>().unwrap() < 60);
    let status = got.field("Cache-Status").unwrap();
    assert!(status.starts_with("\"box.test\"; hit; detail=") && status.contains("; ttl="), "{status}");
    let told = got.field("Atoll-Cache").unwrap();
    assert!(told.starts_with("box.test; tier=") && told.contains("; age="), "{told}");
    assert_eq!(put.field("ETag"), got.field("ETag"));

    let head = client.ask("HEAD /12345/654123", "", b"");
    assert_eq!((head.is(200).field("Content-Length"), head.body.len()), (Some("700000"), 0));
    let part = client.ask("GET /12345/654123", "Range: bytes=262140-262149\r\n", b"");
    assert_eq!(part.is(206).body, body[262_140..262_150]);
    assert_eq!(part.field("Content-Range"), Some("bytes 262140-262149/700000"));
    let beyond = client.ask("GET /12345/654123", "Range: bytes=700000-\r\n", b"");
    assert_eq!(beyond.is(416).field("Content-Range"), Some("bytes */700000"));
    let etag = got.field("ETag").unwrap();
    let same = client.ask("GET /12345/654123", &format!("If-None-Match: {etag}\r\n"), b"");
    assert_eq!((same.is(304).field("ETag"), same.field("Content-Type")), (Some(etag), None));
    let other = client.ask("GET /12345/654123", "If-Match: \"other\"\r\n", b"");
    assert_eq!(other.is(412).line(), "the object is another than the one that is meant");
    // It may be replaced, by POST too, and expires.
    let replaced = client.ask("POST /12345/654123?expire=0", "", b"short");
    assert_eq!(replaced.is(204).body, b"");
    assert_eq!(client.ask("GET /12345/654123", "", b"").is(404).line(), "no such object here");
    assert_eq!(client.ask("GET /12345/18446744073709551615", "", b"").is(404).field("Age"), None);
}

#[test]
fn deletions_take_what_the_documented_wildcards_say_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    let mut client = cache.connect();
    let objects =
        ["/7/1?tag1=1", "/7/2?tag1=1&tag4=9", "/7/3?tag1=2", "/7/18446744073709551615", "/8/1?tag1=1", "/9/1?tag2=5"];
    for (deletion, gone) in [
        ("DELETE /7/1", &["/7/1"][..]),
        ("DEL /7/1?tag1=1", &["/7/1"]),
        ("DEL /7/1?tag1=2", &[]),
        ("DEL /7/1?tag1=65535", &["/7/1"]),
        ("DEL /7/0?tag1=1", &["/7/1", "/7/2"]),
        ("DEL /7/0?tag1=1&tag4=9", &["/7/2"]),
        ("DEL /7/0?tag4=0&tag1=1", &["/7/1"]),
        ("DELETE /7/0?tag1=65535&tag4=9", &["/7/2"]),
        ("DEL /7/0?tag1=0", &["/7/18446744073709551615"]),
        ("DELETE /7/0", &["/7/1", "/7/2", "/7/3", "/7/18446744073709551615"]),
        ("DEL /7/0?tag1=65535", &["/7/1", "/7/2", "/7/3", "/7/18446744073709551615"]),
        ("DELETE /0/0?tag1=1", &["/7/1", "/7/2", "/8/1"]),
        ("DELETE /0/0?tag1=0&tag2=5", &["/9/1"]),
        ("DEL /0/0?tag1=65535", &["/7/1", "/7/2", "/7/3", "/7/18446744073709551615", "/8/1", "/9/1"]),
        ("DELETE /11/0", &[]),
    ] {
        for object in objects {
            client.ask(&format!("PUT {object}"), "", b"x");
        }
        let told = client.ask(deletion, "", b"");
        told.is(200);
        for object in objects {
            let name = object.split('?').next().unwrap();
            let expected = if gone.contains(&name) { 404 } else { 200 };
            assert_eq!(client.ask(&format!("GET {name}"), "", b"").status, expected, "{name} after {deletion}");
        }
        let told: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
        if let Some(progress) = told["progress"].as_str() {
            let progress = client.ask(&format!("GET {progress}"), "", b"");
            let progress: serde_json::Value = serde_json::from_slice(&progress.is(200).body).unwrap();
            assert_eq!(progress["purge"], told["purge"]);
            assert!(progress["examined"].is_u64() && progress["removed"].is_u64() && progress["done"].is_boolean());
        } else {
            assert_eq!(deletion, "DEL /7/1?tag1=2", "only what met other tags has no number: {told}");
        }
    }
    client.ask("GET /purge/999999999", "", b"").is(404);
}

#[test]
fn a_put_that_is_under_way_when_it_is_deleted_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    for (id, deletion) in [(1, "DELETE /7/1"), (2, "DELETE /7/0?tag1=3"), (3, "DELETE /0/0")] {
        let mut client = cache.connect();
        let line = format!("PUT /7/{id}?tag1=3");
        client.send(
            format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").as_bytes(),
        );
        // The interim answer says that it has begun.
        client.answer(true).is(100);
        cache.ask(deletion, "", b"").is(200);
        client.send(b"body");
        client.answer(false).is(201);
        cache.ask(&format!("GET /7/{id}"), "", b"").is(404);
    }
}

#[test]
fn a_bad_request_is_told_what_is_wrong_and_the_connection_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "object_limit = \"100KiB\"\nskip_limit = \"1MiB\"");
    let mut client = cache.connect();
    client.ask("PUT /1/1", "", b"here").is(201);
    let large = vec![7; 200_000];
    for (line, fields, body, status, told) in [
        ("PUT /1/2?tag1=abc", "", &b"xyz"[..], 400, "tag1=\"abc\" is not a number"),
        ("PUT /1/2?tag1=70000", "", b"xyz", 400, "tag1=\"70000\" is not a number"),
        ("PUT /1/2?tag1=65535", "", b"xyz", 400, "stands for any tag"),
        ("PUT /1/2?tag1=1&tag1=1", "", b"xyz", 400, "came twice"),
        ("PUT /1/2?colour=1", "", b"xyz", 400, "unknown argument \"colour\""),
        ("PUT /0/2", "", b"xyz", 400, "name no object"),
        ("PUT /1/0", "", b"xyz", 400, "name no object"),
        ("PUT /1/2", "", &large, 413, "over the limit of 102400"),
        ("PUT /1/2", "Expect: patience\r\n", b"xyz", 417, "100-continue"),
        ("DELETE /0/2", "", b"", 400, "goes with id 0 only"),
        ("DELETE /1/2?expire=5", "", b"", 400, "takes no expire"),
        ("GET /1/123456789012345678901", "", b"", 400, "the id \"123456789012345678901\" is not a number"),
        ("GET /x/1", "", b"", 400, "the directory \"x\""),
        ("GET /", "", b"", 400, "is not /DIR/ID"),
        ("GET /1/1?tag1=1", "", b"", 400, "GET takes none"),
        ("PATCH /1/1", "", b"GET /1/1 HTTP/1.1\r\n\r\n", 405, "\"PATCH\" is not served here"),
        ("GET /1/1", "Host: b\r\n", b"", 400, "one Host"),
        ("GET /1/1", "Content-Length: 3\r\n", b"xyz", 200, "here"),
    ] {
        let answer = client.ask(line, fields, body);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == status && text.contains(told), "{line}: {} {text}", answer.status);
        assert!(status == 200 || text.matches('\n').count() == 1, "{line}: {text}");
        assert_eq!(client.ask("GET /1/1", "", b"").body, b"here", "after {line}");
    }
    // No length at all.
    client.send(b"PUT /1/2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(false).is(411).line(), "a PUT needs a Content-Length");
    assert!(client.ask("HEAD /1/2?x", "", b"").is(400).field("Content-Length").is_some());
    assert_eq!(client.ask("PATCH /1/1", "", b"").is(405).field("Allow"), Some("GET, HEAD, PUT, POST, DELETE, DEL"));
    // Several at once are answered in turn.
    client.send(b"GET /1/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /1/9 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /1/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    for status in [200, 404, 200] {
        client.answer(false).is(status);
    }
}

#[test]
fn what_leaves_the_next_requests_begin_uncertain_is_answered_and_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "object_limit = \"1KiB\"\nskip_limit = \"2KiB\"\nhead_limit = \"1KiB\"");
    let long = format!("GET /1/1 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2_000));
    let long_target = format!("GET /1/1?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2_000));
    for (bytes, status) in [
        (
            "PUT /1/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nxGET /1/1 HTTP/1.1\r\n\r\n",
            400,
        ),
        ("PUT /1/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("PUT /1/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        ("PUT /1/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413),
        ("PUT /1/1?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", 400),
        ("GET /1/1 HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("GET /1/1 HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (&long, 431),
        (&long_target, 414),
        ("GET /1/1 HTTP/1.0\r\n\r\n", 404),
    ] {
        let mut client = cache.connect();
        client.send(bytes.as_bytes());
        let answer = client.answer(false);
        assert_eq!(answer.is(status).field("Connection"), Some("close"), "{bytes}");
        answer.line();
        assert_eq!(client.rest(), b"", "{bytes}");
    }
    cache.ask("GET /1/1", "", b"").is(404);
}

#[test]
fn a_put_for_which_there_is_no_room_is_told_so_and_the_connection_lives_on() {
    const SLICE: usize = 256 << 10;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    // Fills under way may have half the capacity, 32 MiB. One takes 94 slices, the last of which opens a segment, and waits.
    let (mut slow, sent) = (cache.connect(), vec![5; 95 * SLICE]);
    slow.send(format!("PUT /1/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len() + 1).as_bytes());
    slow.send(&sent);
    let segments = || {
        let names = std::fs::read_dir(folder.path().join("store")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".segment")).count()
    };
    until("94 slices are written, three to a segment", || (segments() >= 32).then_some(()), || segments().to_string());
    let mut other = cache.connect();
    let told = other.ask("PUT /1/2", "", &vec![6; 16 << 20]);
    assert!(told.is(507).line().starts_with("not stored: "), "{}", told.line());
    other.ask("GET /1/2", "", b"").is(404);
    // Who was there first is served to the end, and what the other one held is free again.
    slow.send(b"!");
    slow.answer(false).is(201);
    assert_eq!(slow.ask("HEAD /1/1", "", b"").is(200).field("Content-Length"), Some("24903681"));
    other.ask("PUT /1/3", "", &vec![7; 16 << 20]).is(201);
    // What no room would do for is refused for its size.
    let told = other.ask("PUT /1/4", "", &vec![8; 33 << 20]);
    assert!(told.is(413).line().starts_with("not stored: "), "{}", told.line());
    other.ask("GET /1/3", "", b"").is(200);
}

#[test]
fn on_a_disk_that_fails_a_put_is_kept_in_ram_or_told_507_and_the_cache_serves_on() {
    for (memory, small, large) in [("8MiB", 201, 507), ("0", 507, 507)] {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::start_with(folder.path(), "", memory);
        let mut client = cache.connect();
        client.ask("PUT /1/1", "", b"before").is(201);
        std::fs::remove_dir_all(folder.path().join("store")).unwrap();
        // The segment that is open takes a little more; the next cannot be made.
        let full = (2..64).map(|id| client.ask(&format!("PUT /1/{id}"), "", &[1; 60_000]).status);
        let last = full.last().unwrap();
        assert_eq!(last, small, "of 60 KB, with {memory} of RAM");
        let told = client.ask("PUT /2/1", "", &vec![2; 6 << 20]);
        assert!(told.is(large).line().starts_with("not stored: "), "{}", told.line());
        client.ask("GET /2/1", "", b"").is(404);
        client.ask("GET /1/63", "", b"").is(if small == 201 { 200 } else { 404 });
        assert!(cache.accessed("PUT /2/1").contains(" no-room "));
    }
}

#[test]
fn the_names_of_the_logged_header_and_of_those_left_out_are_settings() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "log_header = \"X-Url\"\nignore_headers = [\"X-Secret\"]");
    let mut client = cache.connect();
    let fields = "X-Url: http://a.test/y\r\nClient-Ext: kept\r\nX-Secret: s\r\nX-Other: o\r\n";
    client.ask("PUT /1/2", fields, b"body").is(201);
    assert!(cache.accessed("PUT /1/2").ends_with(" http://a.test/y"));
    let got = client.ask("GET /1/2", "", b"");
    let kept = ["X-Url", "X-Secret", "Client-Ext", "X-Other"].map(|name| got.field(name));
    assert_eq!(kept, [None, None, Some("kept"), Some("o")]);
}

#[test]
fn with_admission_only_the_nth_put_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "admission = 3");
    let mut client = cache.connect();
    for count in 1..=2 {
        let told = client.ask("PUT /5/6", "", b"again");
        assert_eq!(told.is(202).line(), format!("PUT {count} of 3: not kept yet"));
        client.ask("GET /5/6", "", b"").is(404);
    }
    client.ask("PUT /5/7", "", b"another").is(202);
    client.ask("PUT /5/6", "", b"again").is(201);
    assert_eq!(client.ask("GET /5/6", "", b"").is(200).body, b"again");
    client.ask("PUT /5/6", "", b"newer").is(204);
    client.ask("DELETE /5/6", "", b"").is(200);
    client.ask("PUT /5/6", "", b"again").is(202);
    client.ask("GET /5/6", "", b"").is(404);
}

#[test]
fn objects_and_deletions_outlive_a_stop_and_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    let mut client = cache.connect();
    let body = vec![3; 60_000];
    for id in 1..=60 {
        client.ask(&format!("PUT /4/{id}?tag1={}", id % 2), "Content-Type: a/b\r\n", &body).is(201);
    }
    client.ask("DELETE /4/0?tag1=1", "", b"").is(200);
    cache.kill();
    let look = |cache: &Cache, after: &str| {
        let mut client = cache.connect();
        let kept = (1..=60).filter(|id| {
            let got = client.ask(&format!("GET /4/{id}"), "", b"");
            assert!(
                got.status == 404 || (id % 2 == 0 && got.body == body && got.field("Content-Type") == Some("a/b")),
                "{id}"
            );
            got.status == 200
        });
        // What stood in the last segment, which was never synced, may be lost; the sealed ones may not.
        let kept = kept.count();
        assert!(kept >= 20, "{kept} of 30 after {after}");
    };
    let cache = Cache::start(folder.path(), "");
    look(&cache, "kill -9");
    cache.signal("-TERM");
    let mut cache = cache;
    assert!(cache.child.wait().unwrap().success());
    let cache = Cache::start(folder.path(), "");
    look(&cache, "SIGTERM");
}

#[test]
fn the_access_log_has_hornets_columns_and_both_logs_are_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "");
    let mut client = cache.connect();
    client.ask("PUT /1/2?tag1=7", "Client-Ext: http://www.a.test/x y\r\n", b"12345").is(201);
    let line = cache.accessed("/1/2?tag1=7");
    let columns: Vec<&str> = line.split(' ').collect();
    assert_eq!((columns.len(), columns[0], columns[3], columns[5]), (11, "10000", "PUT", "201"), "{line}");
    assert_eq!((columns[8], columns[9], columns[10]), ("-", "-", "http://www.a.test/x%20y"), "{line}");
    client.ask("GET /1/2", "", b"").is(200);
    assert_eq!(cache.accessed("GET /1/2").split(' ').nth(9), Some("memory"));
    client.ask("DEL /1/0", "", b"").is(200);
    assert!(cache.accessed("DEL /1/0").contains(" purge="));

    for name in ["access", "errors"] {
        std::fs::rename(folder.path().join(name), folder.path().join(format!("{name}.1"))).unwrap();
    }
    cache.signal("-USR1");
    until(
        "both are there again",
        || Some(()).filter(|()| ["access", "errors"].iter().all(|name| folder.path().join(name).exists())),
        String::new,
    );
    client.ask("GET /1/3", "", b"").is(404);
    cache.accessed("GET /1/3");
    assert!(!cache.log("access.1").contains("/1/3"));
}

#[test]
fn a_stop_lets_a_request_under_way_finish_and_takes_nobody_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut cache = Cache::start(folder.path(), "drain_grace = \"100s\"");
    let (mut idle, mut busy) = (cache.connect(), cache.connect());
    idle.ask("GET /1/1", "", b"").is(404);
    busy.send(b"PUT /1/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    busy.answer(true).is(100);
    cache.signal("-TERM");
    assert_eq!(idle.rest(), b"", "an idle connection is ended");
    until("nobody new is taken", || TcpStream::connect(cache.address).err(), String::new);
    busy.send(b"body");
    assert_eq!(busy.answer(false).is(201).field("Connection"), Some("close"));
    assert!(cache.child.wait().unwrap().success());
    assert!(cache.log("errors").contains("left well"), "{}", cache.log("errors"));
}

#[test]
fn the_slow_are_cut_off_and_one_too_many_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let limits = "connections = 4\nhead_timeout = \"300ms\"\nidle_timeout = \"400ms\"\nbody_timeout = \"500ms\"\nmin_rate = \"1GiB\"";
    let cache = Cache::start(folder.path(), limits);
    let mut client = cache.connect();
    let body = vec![1; 8 << 20];
    client.ask("PUT /1/1", "", &body).is(201);
    // Sends nothing; half a head; half a body; takes nothing of what it asked for.
    let (mut silent, mut half, mut stalled, mut deaf) = (client, cache.connect(), cache.connect(), cache.connect());
    half.send(b"GET /1/1 HTTP/1.1\r\nHost:");
    stalled.send(b"PUT /1/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    for _ in 0..8 {
        deaf.send(b"GET /1/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_eq!(half.answer(false).is(408).field("Connection"), Some("close"));
    assert_eq!((silent.rest().len(), stalled.rest().len()), (0, 0));
    let line = cache.accessed("/1/2");
    assert!(line.contains(" 499 ") && line.contains(" too-slow "), "{line}");
    let line = cache.accessed("GET /1/1");
    assert!(line.contains(" too-slow "), "{line}");
    assert!(deaf.rest().len() < 8 * body.len(), "what was never taken was never sent");
    cache.ask("GET /1/2", "", b"").is(404);

    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::start(folder.path(), "connections = 2");
    let (mut first, mut second) = (cache.connect(), cache.connect());
    first.ask("GET /1/1", "", b"").is(404);
    second.ask("GET /1/1", "", b"").is(404);
    let mut third = cache.connect();
    assert_eq!(third.answer(false).is(503).line(), "too many connections");
    drop((first, third));
    until(
        "a place is free",
        || {
            let mut client = cache.connect();
            client.send(b"GET /1/1 HTTP/1.1\r\nHost: a\r\n\r\n");
            Some(()).filter(|()| client.answer(false).status == 404)
        },
        String::new,
    );
}

#[test]
fn a_wrong_flag_or_setting_starts_nothing_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, "[cache]\nadmision = 2\n").unwrap();
    let told = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_atoll")).arg("cache").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(told(&["-c", file.to_str().unwrap()]).contains("did you mean `admission`?"));
    assert!(told(&["--memory", "8 apples"]).contains("is no size"));
    assert!(told(&["--capacity", "1KiB"]).contains("`capacity`: is under four segments"));
    std::fs::write(&file, "[cache]\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_atoll")).arg("node").arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("is for `atoll cache`"));
}
