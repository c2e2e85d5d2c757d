//! The common request answered beside the parser: it says what the whole path says, and stops when the store does.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use atoll_proxy::Proxy;
use atoll_store::{PurgeKind, Selector};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Do, Origin, Response, alone, alone_with, config_for, config_site, get_with, noise, ok, soon, store, until,
};

/// A client that keeps its connection.
struct Client {
    stream: TcpStream,
    seen: Vec<u8>,
}

/// A response and the line that its head ends with: of a hot one it is ours.
struct Answer {
    response: Response,
    hot: bool,
}

impl Client {
    async fn of(proxy: &Proxy) -> Self {
        Self::at(proxy.local_addrs()[0]).await
    }

    async fn at(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), seen: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next response; `bodiless` is to HEAD.
    async fn answer(&mut self, bodiless: bool) -> Answer {
        soon(async {
            loop {
                if let Some(at) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head = String::from_utf8(self.seen[..at].to_vec()).unwrap();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length =
                        length.filter(|_| !bodiless && !head.contains(" 304 ")).map_or(0, |it| it.parse().unwrap());
                    if self.seen.len() >= at + 4 + length {
                        let bytes: Vec<u8> = self.seen.drain(..at + 4 + length).collect();
                        let hot = head.lines().last().unwrap().starts_with("cache-status: atoll; hit; ttl=");
                        return Answer { response: Response::read(&bytes, bodiless), hot };
                    }
                }
                assert!(
                    self.stream.read_buf(&mut self.seen).await.unwrap() > 0,
                    "closed: {}",
                    self.seen.escape_ascii()
                );
            }
        })
        .await
    }

    async fn get(&mut self, host: &str, path: &str, fields: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.answer(false).await
    }

    /// Whether the proxy closes the connection now.
    async fn ends(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = soon(self.stream.read_to_end(&mut rest)).await;
    }
}

/// All fields but what the clock moves.
fn steady(response: &Response) -> BTreeMap<String, Vec<String>> {
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in &response.fields {
        let value = match (name.as_str(), value.split_once("ttl=")) {
            ("age", _) => {
                assert!((0..60).contains(&value.parse::<i32>().unwrap()));
                continue;
            }
            ("cache-status", Some((before, after))) => {
                format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            _ => value.clone(),
        };
        fields.entry(name.clone()).or_default().push(value);
    }
    fields
}

/// Answers by path: `/LENGTH?FIELDS`, the fields parted by `;`, `_` for a space.
async fn origin() -> Origin {
    Origin::start(|_, head| {
        let target = head.split(' ').nth(1).unwrap();
        let (length, fields) = target[1..].split_once('?').unwrap_or_else(|| (&target[1..], ""));
        let fields: String =
            fields.split(';').filter(|it| !it.is_empty()).map(|it| it.replace('_', " ") + "\r\n").collect();
        ok(&format!("Cache-Control: max-age=3600\r\n{fields}"), &noise(length.parse().unwrap()))
    })
    .await
}

#[tokio::test]
async fn a_plain_request_is_answered_as_the_whole_path_answers_it() {
    let origin = origin().await;
    let own = alone(config_site(&origin)).await;
    let coral = alone(config_for(&origin)).await;
    let sites = [(&own, origin.address.to_string()), (&coral, origin.host())];
    for (path, codings) in [
        ("/0", ""),
        ("/1", ""),
        ("/24576?Content-Type:text/html;ETag:a", ""),
        ("/65536", ""),
        ("/65537", ""),
        ("/1048576", ""),
        ("/9?Server:x;X-A:1;X-A:2;Set-Cookie:a=b;Link:/a", ""),
    ] {
        for (proxy, host) in &sites {
            // What sets cookies is kept of own sites only.
            if path.contains("Set-Cookie") && *host == origin.host() {
                continue;
            }
            let mut client = Client::of(proxy).await;
            let first = client.get(host, path, codings).await;
            assert!(!first.hot);
            until(|| proxy.stats().flights == 0).await;
            let asked = origin.count();
            let plain = [client.get(host, path, codings).await, client.get(host, path, codings).await];
            let whole = client.get(host, path, &format!("{codings}X-Not-Plain: 1\r\n")).await;
            assert!(!whole.hot && whole.response.cache_status().contains("atoll; hit"), "{path}");
            for plain in plain {
                assert!(plain.hot, "{path} {host} {:?}", plain.response.fields);
                assert_eq!(steady(&plain.response), steady(&whole.response), "{path} {host}");
                assert_eq!((plain.response.status, plain.response.complete), (200, true));
                assert!(plain.response.body == whole.response.body, "{path}");
            }
            assert_eq!(origin.count(), asked);
        }
    }
    assert_eq!(own.stats().requests, own.stats().served.local + own.stats().served.origin);
}

#[tokio::test]
async fn variants_are_told_apart_by_the_class_of_their_codings() {
    let origin = Origin::start(|number, _| {
        ok("Cache-Control: max-age=3600\r\nVary: Accept-Encoding\r\n", &number.to_string().into())
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    let mut client = Client::of(&proxy).await;
    let host = origin.address.to_string();
    for round in 0..3 {
        for (number, codings) in
            ["", "Accept-Encoding: gzip\r\n", "Accept-Encoding: gzip, br\r\n"].into_iter().enumerate()
        {
            let answer = client.get(&host, "/", codings).await;
            assert_eq!(answer.response.body, number.to_string().as_bytes());
            assert_eq!(answer.hot, round > 0);
            until(|| proxy.stats().flights == 0).await;
        }
    }
}

#[tokio::test]
async fn what_is_no_longer_good_is_not_answered_from_memory() {
    let origin =
        Origin::start(|number, _| ok("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &number.to_string().into()))
            .await;
    let (kept, host) = (store().await, origin.address.to_string());
    let proxy = alone_with(config_site(&origin), kept.clone());
    let mut client = Client::of(&proxy).await;
    for change in ["post", "purge", "soft purge", "remove"] {
        client.get(&host, "/x", "").await;
        until(|| proxy.stats().flights == 0).await;
        assert!(client.get(&host, "/x", "").await.hot, "{change}");
        let asked = origin.count();
        match change {
            "post" => assert_eq!(get_with(&proxy, "POST", &host, "/x", "").await.status, 200),
            "purge" => drop(kept.purge(Selector::All, PurgeKind::Hard).await.unwrap()),
            "soft purge" => drop(kept.purge(Selector::All, PurgeKind::Soft).await.unwrap()),
            _ => {
                // What is another's URL is another's object, also on this connection.
                let other = client.get("other.test", "/x", "").await;
                assert!(!other.hot);
                continue;
            }
        }
        let answer = client.get(&host, "/x", "").await;
        assert!(!answer.hot && origin.count() > asked, "{change}: {:?}", answer.response.fields);
        until(|| proxy.stats().flights == 0).await;
    }
}

#[tokio::test]
async fn it_is_a_line_in_the_access_log_as_any_other() {
    let origin = Origin::with_body(noise(100_000)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut config = config_site(&origin);
    config.access_log.file = Some(file.clone());
    let proxy = alone(config).await;
    let mut client = Client::of(&proxy).await;
    let fields = "User-Agent: a \"b\r\nReferer: http://c/\r\n";
    client.get("a", "/x?y", fields).await;
    until(|| proxy.stats().flights == 0).await;
    assert!(client.get("a", "/x?y", fields).await.hot);
    assert!(!client.get("a", "/x?y", &format!("{fields}X-Not-Plain: 1\r\n")).await.hot);
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    until(|| lines().len() == 3).await;
    let lines: Vec<serde_json::Value> = lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["client", "method", "host", "target", "version", "status", "bytes", "complete", "agent", "referer"] {
        assert_eq!(lines[1][name], lines[2][name], "{name}");
    }
    assert_eq!((&lines[1]["bytes"], &lines[1]["complete"]), (&100_000.into(), &true.into()));
    assert!(lines[1]["cache"].as_str().unwrap().starts_with("atoll; hit; ttl=3"), "{}", lines[1]);
}

#[tokio::test]
async fn freshness_ends_for_it_too() {
    let origin =
        Origin::start(|number, _| ok("Cache-Control: max-age=60\r\nAge: 58\r\n", &number.to_string().into())).await;
    let proxy = alone(config_site(&origin)).await;
    let mut client = Client::of(&proxy).await;
    let host = origin.address.to_string();
    soon(async {
        while client.get(&host, "/", "").await.response.body == b"0" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(origin.count() > 1);
}

#[tokio::test]
async fn requests_of_all_kinds_on_one_connection_are_answered_in_their_order() {
    let origin = Origin::start(|_, head| match head.starts_with("POST") {
        true => ok("", &Bytes::from_static(b"posted")),
        false => ok("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &noise(100_000)),
    })
    .await;
    let proxy = alone(config_site(&origin)).await;
    let mut client = Client::of(&proxy).await;
    let host = origin.address.to_string();
    client.get(&host, "/a", "").await;
    until(|| proxy.stats().flights == 0).await;
    let get = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n");
    let post = format!("POST /b HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nbody");
    let head = get.replace("GET", "HEAD");
    let several = [
        &get[..],
        "\r\n",
        &get,
        "\r\n",
        &get,
        "If-None-Match: \"a\"\r\n\r\n",
        &get,
        "\r\n",
        &head,
        "\r\n",
        &post,
        &get,
        "Range: bytes=0-1\r\n\r\n",
        &get,
        "\r\n",
    ];
    client.send(&several.concat()).await;
    for (status, length) in
        [(200, 100_000), (200, 100_000), (304, 0), (200, 100_000), (200, 0), (200, 6), (206, 2), (200, 100_000)]
    {
        let answer = client.answer(length == 0).await;
        assert_eq!((answer.response.status, answer.response.body.len()), (status, length));
    }
    // A head in pieces, and one with a line before it.
    for piece in ["\r\n", "GET /a HT", "TP/1.1\r\nHos", &format!("t: {host}\r\n"), "\r\n"] {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer(false).await.response.status, 200);
    client.send("GET /a HTTP/1.1\r\nHost: a b\r\n\r\n").await;
    assert_eq!(client.answer(false).await.response.status, 400);
    client.ends().await;
}

#[tokio::test]
async fn a_connection_that_waits_ends_with_its_deadline_or_the_proxy() {
    let origin = Origin::with_body(noise(2 << 20)).await;
    let host = origin.address.to_string();
    let mut config = config_site(&origin);
    // A busy machine has to ask twice before this is over.
    config.timeouts.keep_alive = Duration::from_secs(2);
    config.timeouts.send = Duration::from_secs(1);
    let proxy = alone(config).await;
    let mut client = Client::of(&proxy).await;
    client.get(&host, "/a", "").await;
    until(|| proxy.stats().flights == 0).await;
    assert!(client.get(&host, "/a", "").await.hot);
    client.ends().await;
    // One that asks and takes nothing.
    let mut client = Client::of(&proxy).await;
    client.send(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").repeat(20)).await;
    until(|| proxy.stats().connections == 0).await;
    drop(client);
    let proxy = alone(config_site(&origin)).await;
    let mut client = Client::of(&proxy).await;
    client.get(&host, "/a", "").await;
    until(|| proxy.stats().flights == 0).await;
    assert!(client.get(&host, "/a", "").await.hot);
    let (drained, ()) = tokio::join!(proxy.drain(Duration::from_secs(20)), client.ends());
    assert!(drained);
}

// RFC 9112 6.3: a coding that nobody speaks makes the end of the connection the body's; one that would have to be decoded is refused.
#[tokio::test]
async fn an_origins_unknown_transfer_coding_is_not_stored_and_its_body_ends_with_the_connection() {
    for (coding, good) in [
        ("abcd", true),
        ("identity", true),
        ("gzip", false),
        ("xchunked", false),
        ("chunked, abcd", false),
        ("a b", false),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: {coding}\r\nContent-Length: 2\r\n\r\n"
        );
        let origin = Origin::start(move |_, _| vec![Do::Send((head.clone() + "body").into()), Do::Close]).await;
        let proxy = alone(config_site(&origin)).await;
        let host = origin.address.to_string();
        let first = get_with(&proxy, "GET", &host, "/", "").await;
        assert_eq!(first.status, if good { 200 } else { 502 }, "{coding}");
        if good {
            until(|| proxy.stats().flights == 0).await;
            let second = Client::of(&proxy).await.get(&host, "/", "").await.response;
            assert_eq!((&first.body[..], &second.body[..]), (&b"body"[..], &b"body"[..]));
            assert_eq!((second.field("transfer-encoding"), origin.count()), (None, 1), "{coding}");
        }
    }
}
