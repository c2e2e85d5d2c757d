//! One proxy as a cache: what is stored, shared, ranged, conditional, stale and drained.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{
    Do, Origin, alone, alone_with, config, config_for, config_site, get, get_with, noise, ok, raw, site_of, soon, until,
};

#[tokio::test]
async fn the_origin_is_asked_once_and_the_second_answer_comes_from_the_store() {
    let body = noise(41_000);
    let origin = Origin::with_body(body.clone()).await;
    let proxy = alone(config_for(&origin)).await;
    let first = get_with(
        &proxy,
        "GET",
        &origin.host(),
        "/a?b=%2F",
        "Cookie: a=b\r\nAuthorization: x\r\nX-Forwarded-Host: evil\r\n",
    )
    .await;
    assert_eq!((first.status, &first.body[..]), (200, &body[..]));
    let status = first.cache_status().replace("ttl=3600", "ttl=3599");
    assert_eq!(status, "atoll; fwd=uri-miss; fwd-status=200; ttl=3599; stored; detail=origin");
    until(|| proxy.stats().flights == 0).await;
    let second = get(&proxy, &origin.host(), "/a?b=%2F").await;
    assert!(second.cache_status().starts_with("atoll; hit; ttl="), "{}", second.cache_status());
    assert!(second.cache_status().ends_with("; detail=memory"));
    assert_eq!((&second.body[..], second.field("age").is_some()), (&body[..], true));
    assert_eq!(second.field("via").as_deref(), Some("1.1 atoll"));
    let head = origin.heads().join("").to_ascii_lowercase();
    assert!(head.starts_with("get /a?b=%2f http/1.1\r\n"));
    assert!(head.contains("cdn-loop: atoll-default\r\n") && head.contains("via: 1.1 atoll\r\n"));
    assert!(!head.contains("cookie") && !head.contains("authorization") && !head.contains("evil"), "{head}");
    let stats = proxy.stats();
    assert_eq!((stats.requests, stats.served.local, stats.served.origin, stats.origin_requests), (2, 1, 1, 1));
}

// C04, C14: the bytes of the target are the bytes forwarded, and different bytes are different objects.
#[tokio::test]
async fn targets_reach_the_origin_byte_for_byte_and_are_objects_of_their_own() {
    let origin = Origin::start(|_, head| {
        let target = head.split(' ').nth(1).unwrap().to_owned();
        ok("Cache-Control: max-age=60\r\n", &target.into())
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    let paths = [
        "/account/x.css",
        "/account;x.css",
        "/a/%2f..%2f",
        "/%00",
        "/a\\b",
        "//",
        "//x",
        "/./",
        "/a/../b",
        "/%23",
        "/?",
        "/",
        "/?a=1&b=2",
        "/?b=2&a=1",
        "/;a=1",
        "/%7e",
        "/~",
        "/a%20b",
        "/{}|\"",
        "/'()*!$&+,=:@",
    ];
    for path in paths {
        let response = get(&proxy, &origin.host(), path).await;
        assert_eq!(String::from_utf8(response.body).unwrap(), path);
        let again = get(&proxy, &origin.host(), path).await;
        assert!(again.cache_status().contains("hit"), "{path}");
    }
    assert_eq!(origin.count(), paths.len());
}

// C01
#[tokio::test]
async fn answers_for_one_user_are_not_stored_nor_shared_and_cookies_do_not_pass() {
    for (fields, reason) in [
        ("Set-Cookie: a=b\r\nCache-Control: max-age=60\r\n", "set-cookie"),
        ("Cache-Control: private, max-age=60\r\n", "private"),
        ("Cache-Control: no-store\r\n", "no-store"),
        ("Vary: *\r\nCache-Control: max-age=60\r\n", "vary-star"),
    ] {
        let number = AtomicUsize::new(0);
        let origin =
            Origin::start(move |_, _| ok(fields, &format!("{}", number.fetch_add(1, Ordering::SeqCst)).into())).await;
        let proxy = alone(config_for(&origin)).await;
        for turn in 0..3 {
            let response = get(&proxy, &origin.host(), "/").await;
            assert_eq!(response.body, format!("{turn}").as_bytes(), "{fields}");
            assert!(response.field("set-cookie").is_none());
            let status = response.cache_status();
            assert!(status.contains("fwd=bypass") && status.ends_with(&format!("detail=origin.{reason}")), "{status}");
        }
        assert_eq!(origin.count(), 3);
    }
}

/// A 5 MB body that the origin sends in as many pieces as it gets permits.
fn slow(body: &Bytes, gate: &Arc<Semaphore>) -> Vec<Do> {
    let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut steps = vec![Do::Send(head.into())];
    for start in (0..body.len()).step_by(64 << 10) {
        steps.push(Do::Wait(Arc::clone(gate)));
        steps.push(Do::Send(body.slice(start..body.len().min(start + (64 << 10)))));
    }
    steps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_clients_of_one_slow_file_are_one_origin_request() {
    let body = noise(5_000_000);
    let gate = Arc::new(Semaphore::new(0));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_, _| slow(&served, &held)).await;
    let proxy = Arc::new(alone(config_for(&origin)).await);
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let (proxy, host) = (Arc::clone(&proxy), origin.host());
        clients.spawn(async move { get(&proxy, &host, "/big").await });
    }
    until(|| proxy.stats().connections == 200).await;
    gate.add_permits(1_000);
    let mut collapsed = 0;
    while let Some(response) = soon(clients.join_next()).await {
        let response = response.unwrap();
        assert!(response.body == body, "wrong bytes");
        collapsed += usize::from(response.cache_status().contains("collapsed"));
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(collapsed, 199);
    assert_eq!(proxy.stats().origin_bytes, 5_000_000, "the body came in once and is held once");
}

#[tokio::test]
async fn the_first_client_hanging_up_changes_nothing() {
    let body = noise(1_000_000);
    let gate = Arc::new(Semaphore::new(1));
    let (served, held) = (body.clone(), Arc::clone(&gate));
    let origin = Origin::start(move |_, _| slow(&served, &held)).await;
    let proxy = alone(config_for(&origin)).await;
    let mut first = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    first.write_all(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host()).as_bytes()).await.unwrap();
    until(|| proxy.stats().origin_bytes > 0).await;
    drop(first);
    until(|| proxy.stats().flights == 1).await;
    gate.add_permits(100);
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, body);
    assert_eq!(origin.count(), 1);
}

// C12
#[tokio::test]
async fn a_body_cut_short_is_never_stored_nor_ended_for_its_client() {
    for (head, short) in [
        ("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nonly this", true),
        ("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true),
        (
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let origin = Origin::start(move |_, _| raw(head)).await;
        let mut config = config_for(&origin);
        config.freshness.negative_first = Duration::ZERO;
        let proxy = alone(config).await;
        for turn in 1..=2 {
            let response = get(&proxy, &origin.host(), "/").await;
            assert_eq!(response.complete, !short, "{head}");
            until(|| proxy.stats().flights == 0).await;
            assert_eq!(origin.count(), if short { turn } else { 1 }, "{head}");
        }
    }
}

#[tokio::test]
async fn what_never_answers_a_plain_get_is_a_bad_gateway() {
    for head in [
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nab",
        "nonsense\r\n\r\n",
    ] {
        let origin = Origin::start(move |_, _| raw(head)).await;
        let proxy = alone(config_for(&origin)).await;
        let response = get(&proxy, &origin.host(), "/").await;
        assert_eq!(response.status, 502, "{head}");
        assert!(response.field("proxy-status").unwrap().starts_with("atoll; error=http_"), "{head}");
    }
}

// H01, the response half: the chunks count, the length does not, and the connection is not used again.
#[tokio::test]
async fn a_response_with_both_framings_is_read_by_its_chunks_and_its_connection_left() {
    let origin = Origin::start(|_, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        vec![Do::Send(head.into())]
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    for path in ["/a", "/b"] {
        let response = get(&proxy, &origin.host(), path).await;
        assert_eq!((response.body, response.complete), (b"hello".to_vec(), true));
        until(|| proxy.stats().flights == 0).await;
        assert_eq!(get(&proxy, &origin.host(), path).await.field("content-length").as_deref(), Some("5"));
    }
    assert_eq!(origin.connections.load(Ordering::SeqCst), 2);
}

// C12: what follows the stated length is no answer to the next request.
#[tokio::test]
async fn bytes_beyond_a_body_end_its_connection() {
    let origin = Origin::start(|_, head| {
        let path = head.split(' ').nth(1).unwrap();
        let answer =
            |body: &str| format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\n{body}");
        vec![Do::Send(format!("{}{}", answer(path), answer("!!")).into())]
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    for path in ["/a", "/b", "/c"] {
        let response = get(&proxy, &origin.host(), path).await;
        assert_eq!((&response.body[..], response.complete), (path.as_bytes(), true));
        until(|| proxy.stats().flights == 0).await;
    }
}

#[tokio::test]
async fn kept_connections_are_used_again_and_a_dead_one_costs_no_answer() {
    let closing = Arc::new(AtomicBool::new(false));
    let close = Arc::clone(&closing);
    let origin = Origin::start(move |_, _| {
        let mut steps = ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"x"));
        if close.load(Ordering::SeqCst) {
            steps.push(Do::Close);
        }
        steps
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    assert_eq!(get(&proxy, &origin.host(), "/1").await.status, 200);
    until(|| proxy.stats().flights == 0).await;
    closing.store(true, Ordering::SeqCst);
    for path in ["/2", "/3", "/4"] {
        assert_eq!(get(&proxy, &origin.host(), path).await.status, 200, "{path}");
        until(|| proxy.stats().flights == 0).await;
    }
    assert!(origin.connections.load(Ordering::SeqCst) < 4, "the first connection was used twice");
}

#[tokio::test]
async fn head_ranges_and_conditions_are_answered_out_of_one_copy() {
    let origin = Origin::start(|_, _| {
        ok("Cache-Control: max-age=60\r\nETag: \"v1\"\r\nContent-Type: a/b\r\n", &Bytes::from_static(b"0123456789"))
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    let ask = async |method: &str, fields: &str| get_with(&proxy, method, &origin.host(), "/", fields).await;
    let head = ask("HEAD", "").await;
    assert_eq!((head.status, head.field("content-length").as_deref(), head.complete), (200, Some("10"), true));
    let part = ask("GET", "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(part.field("content-range").as_deref(), Some("bytes 2-4/10"));
    let beyond = ask("GET", "Range: bytes=10-\r\n").await;
    assert_eq!((beyond.status, beyond.field("content-range").as_deref()), (416, Some("bytes */10")));
    assert_eq!(ask("GET", "Range: bytes=2-4\r\nIf-Range: \"v0\"\r\n").await.status, 200);
    let same = ask("GET", "If-None-Match: W/\"v1\"\r\n").await;
    assert_eq!((same.status, same.field("etag").as_deref(), same.field("content-type")), (304, Some("\"v1\""), None));
    // Of others' names nobody makes the network ask anew, and this is no cache's to judge [RFC 9110 13.1.1, RFC 9111 4.3.2].
    assert_eq!(ask("GET", "If-Match: \"v0\"\r\n").await.status, 200);
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_stale_copy_is_confirmed_and_its_body_not_sent_again() {
    let origin = Origin::start(|_, head| {
        if head.to_ascii_lowercase().contains("if-none-match: \"v1\"") {
            vec![Do::Send("HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n".into())]
        } else {
            ok("Cache-Control: max-age=0\r\nETag: \"v1\"\r\n", &Bytes::from_static(b"body"))
        }
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, b"body");
    until(|| proxy.stats().flights == 0).await;
    let renewed = get(&proxy, &origin.host(), "/").await;
    assert_eq!((renewed.status, &renewed.body[..], renewed.field("x-new").as_deref()), (200, &b"body"[..], Some("1")));
    assert!(renewed.cache_status().contains("fwd=stale"), "{}", renewed.cache_status());
    until(|| proxy.stats().flights == 0).await;
    assert!(get(&proxy, &origin.host(), "/").await.cache_status().contains("hit"));
    assert_eq!(origin.count(), 2);
}

// users C4: a failing origin sees one request per pause, and never costs a good copy.
#[tokio::test]
async fn errors_never_replace_a_copy_and_stale_stands_in_unless_forbidden() {
    for (control, stands_in) in [("max-age=0", true), ("max-age=0, must-revalidate", false)] {
        for failure in ["HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let fields = format!("Cache-Control: {control}\r\n");
            let origin =
                Origin::start(
                    move |number, _| {
                        if number == 0 { ok(&fields, &Bytes::from_static(b"good")) } else { raw(failure) }
                    },
                )
                .await;
            let proxy = alone(config_for(&origin)).await;
            assert_eq!(get(&proxy, &origin.host(), "/").await.body, b"good");
            until(|| proxy.stats().flights == 0).await;
            for _ in 0..5 {
                let response = get(&proxy, &origin.host(), "/").await;
                if stands_in {
                    assert_eq!((response.status, &response.body[..]), (200, &b"good"[..]), "{control} {failure}");
                    assert!(response.cache_status().ends_with(".stale-if-error"), "{}", response.cache_status());
                } else {
                    assert!(response.status >= 502, "{control} {failure} {}", response.status);
                }
            }
            // A dead kept connection is tried once more on a new one.
            assert!(origin.count() <= 3, "{control} {failure} {}", origin.count());
        }
    }
}

#[tokio::test]
async fn who_waits_for_another_to_renew_a_copy_is_counted_whatever_comes_of_it() {
    const CLIENTS: usize = 20;
    for answer in ["304 Not Modified\r\nETag: \"a\"", "503 No\r\nContent-Length: 0"] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |number, _| match number {
            0 => ok("Cache-Control: max-age=0, stale-if-error=60\r\nETag: \"a\"\r\n", &Bytes::from_static(b"x")),
            _ => {
                let mut steps = raw(&format!("HTTP/1.1 {answer}\r\n\r\n"));
                steps.insert(0, Do::Wait(Arc::clone(&held)));
                steps
            }
        })
        .await;
        let proxy = Arc::new(alone(config_site(&origin)).await);
        assert_eq!(get(&proxy, "own.test", "/").await.body, b"x");
        until(|| proxy.stats().flights == 0 && proxy.stats().connections == 0).await;
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let proxy = Arc::clone(&proxy);
            clients.spawn(async move { get(&proxy, "own.test", "/").await });
        }
        until(|| proxy.stats().connections == CLIENTS as u64).await;
        gate.add_permits(1_000);
        let mut collapsed = 0;
        while let Some(response) = soon(clients.join_next()).await {
            let response = response.unwrap();
            assert_eq!((response.status, &response.body[..]), (200, &b"x"[..]));
            collapsed += u64::from(response.cache_status().contains("; collapsed"));
        }
        assert!(collapsed > 0, "{answer}");
        assert_eq!(proxy.stats().collapsed, collapsed, "{answer}");
    }
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_renews_beside() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |number, _| {
        let fields = if number == 0 { "max-age=0, stale-while-revalidate=60" } else { "max-age=60" };
        let body = Bytes::from(format!("{number}"));
        let mut steps = ok(&format!("Cache-Control: {fields}\r\n"), &body);
        if number > 0 {
            steps.insert(0, Do::Wait(Arc::clone(&held)));
        }
        steps
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, b"0");
    until(|| proxy.stats().flights == 0).await;
    for _ in 0..3 {
        let stale = get(&proxy, &origin.host(), "/").await;
        assert_eq!(stale.body, b"0");
        assert!(stale.cache_status().ends_with(".stale-while-revalidate"), "{}", stale.cache_status());
    }
    until(|| origin.count() == 2).await;
    gate.add_permits(10);
    until(|| proxy.stats().flights == 0).await;
    assert_eq!(get(&proxy, &origin.host(), "/").await.body, b"1");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn variants_are_objects_of_their_own() {
    let origin = Origin::start(|_, head| {
        let head = head.to_ascii_lowercase();
        let language = head.split("accept-language: ").nth(1).map_or("none", |rest| rest.split("\r\n").next().unwrap());
        ok("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", &Bytes::from(language.to_owned()))
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    for turn in 0..2 {
        for language in ["de", "en", "none"] {
            let fields = if language == "none" { String::new() } else { format!("Accept-Language: {language}\r\n") };
            let response = get_with(&proxy, "GET", &origin.host(), "/", &fields).await;
            assert_eq!(response.body, language.as_bytes());
            assert_eq!(response.cache_status().contains("hit"), turn == 1, "{}", response.cache_status());
            until(|| proxy.stats().flights == 0).await;
        }
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn an_object_over_the_cap_is_stopped_while_it_streams() {
    let origin = Origin::start(|_, _| {
        let mut steps =
            vec![Do::Send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n".into())];
        for _ in 0..64 {
            steps.push(Do::Send(Bytes::from([b"10000\r\n".as_slice(), &noise(65_536), b"\r\n"].concat())));
        }
        steps
    })
    .await;
    let mut config = config_for(&origin);
    config.limits.object = 1 << 20;
    let proxy = alone(config).await;
    let response = get(&proxy, &origin.host(), "/").await;
    assert!(!response.complete && response.body.len() <= 1 << 20);
    assert!(proxy.stats().origin_bytes < 3 << 20, "the origin was read on");
}

// Far larger than anything that may stay in RAM: it streams through the disk, whoever reads how fast.
#[tokio::test]
async fn an_object_larger_than_the_memory_for_fills_streams_to_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = atoll_store::Config { directory: Some(directory.path().to_owned()), ..Default::default() };
    settings.capacity = atoll_store::ByteSize::mib(256);
    settings.segment = atoll_store::ByteSize::mib(16);
    settings.memory = atoll_store::ByteSize::mib(4);
    settings.fill_memory = atoll_store::ByteSize::mib(8);
    let store = atoll_store::Store::open(settings).await.unwrap();
    let body = noise(40 << 20);
    let origin = Origin::with_body(body.clone()).await;
    let proxy = Arc::new(alone_with(config_for(&origin), store.clone()));
    let mut lagging = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", origin.host());
    lagging.write_all(request.as_bytes()).await.unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (proxy, host) = (Arc::clone(&proxy), origin.host());
        clients.spawn(async move { get(&proxy, &host, "/").await });
    }
    let mut most = 0;
    while let Some(response) = soon(clients.join_next()).await {
        most = most.max(store.stats().fill_bytes);
        assert!(response.unwrap().body == body, "wrong bytes");
    }
    assert!(most <= 8 << 20, "{most} bytes in RAM");
    let mut late = Vec::new();
    soon(lagging.read_to_end(&mut late)).await.unwrap();
    assert!(late.ends_with(&body), "the one that lagged got it all too");
    assert_eq!(origin.count(), 1);
    let again = get(&proxy, &origin.host(), "/").await;
    assert!(again.body == body && again.cache_status().ends_with("detail=disk"), "{}", again.cache_status());
}

#[tokio::test]
async fn requests_and_flights_have_ceilings_that_answer_503() {
    for flights in [true, false] {
        let gate = Arc::new(Semaphore::new(0));
        let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\n", b"x").await;
        let mut config = config_for(&origin);
        if flights {
            config.limits.flights = 1
        } else {
            config.limits.requests = 1
        }
        let proxy = Arc::new(alone(config).await);
        let (asking, host) = (Arc::clone(&proxy), origin.host());
        let first = tokio::spawn(async move { get(&asking, &host, "/1").await });
        until(|| origin.count() == 1).await;
        let refused = get(&proxy, &origin.host(), "/2").await;
        assert_eq!((refused.status, refused.field("retry-after").as_deref()), (503, Some("1")));
        gate.add_permits(10);
        assert_eq!(soon(first).await.unwrap().status, 200);
        until(|| proxy.stats().flights == 0).await;
        assert_eq!(get(&proxy, &origin.host(), "/2").await.status, 200);
    }
}

#[tokio::test]
async fn own_sites_and_manager_paths_are_served_and_other_hosts_are_not() {
    let origin = Origin::with_body(Bytes::from_static(b"hello")).await;
    let mut config = config_for(&origin);
    let site = site_of(&origin);
    config.sites.insert("www.own.test".to_owned(), site);
    let proxy = alone(config).await;
    assert_eq!(get(&proxy, "www.own.test", "/x").await.body, b"hello");
    assert!(origin.heads()[0].contains("host: www.own.test\r\n"));
    let port = origin.address.port();
    let address = proxy.local_addrs()[0].to_string();
    let managed = get(&proxy, &address, &format!("/~/http/site.test:{port}/y?z")).await;
    assert_eq!((managed.status, &managed.body[..]), (200, &b"hello"[..]));
    assert!(origin.heads()[1].starts_with("GET /y?z "));
    until(|| proxy.stats().flights == 0).await;
    assert!(get(&proxy, &origin.host(), "/y?z").await.cache_status().contains("hit"), "one object under both names");
    let page = format!("Referer: http://{address}/~/http/site.test:{port}/y?z\r\n");
    let linked = get_with(&proxy, "GET", &address, "/style.css?v=1", &page).await;
    let location = format!("/~/http/site.test:{port}/style.css?v=1");
    assert_eq!((linked.status, linked.field("location")), (302, Some(location)), "a link relative to the root");
    let foreign = "Referer: http://elsewhere.test/~/http/site.test/\r\n";
    assert_eq!(get_with(&proxy, "GET", &address, "/style.css", foreign).await.status, 421);
    // O10
    for host in ["victim.test", "nyud.example", "other.example"] {
        assert_eq!(get(&proxy, host, "/").await.status, 421, "{host}");
    }
    assert_eq!(get(&proxy, "a.test.nyud.example", "/robots.txt").await.body, b"User-agent: *\nDisallow: /\n");
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn redirects_stay_coralized() {
    let origin = Origin::start(|_, _| {
        vec![Do::Send("HTTP/1.1 302 Found\r\nLocation: http://other.test/x\r\nContent-Length: 0\r\n\r\n".into())]
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    let port = proxy.local_addrs()[0].port();
    let response = get(&proxy, &format!("{}:{port}", origin.host()), "/").await;
    assert_eq!(response.field("location"), Some(format!("http://other.test.nyud.example:{port}/x")));
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nobody_new() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let body = noise(300_000);
    let served = body.clone();
    let origin = Origin::start(move |_, _| slow(&served, &held)).await;
    let mut config = config_for(&origin);
    // Were idle connections waited for, the test would end here.
    config.timeouts.head = Duration::from_secs(3_600);
    config.timeouts.keep_alive = Duration::from_secs(3_600);
    let proxy = Arc::new(alone(config).await);
    let mut kept = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    kept.write_all(b"GET /.well-known/atoll/health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    kept.read_u8().await.unwrap();
    let (asking, host) = (Arc::clone(&proxy), origin.host());
    let client = tokio::spawn(async move { get(&asking, &host, "/").await });
    until(|| proxy.stats().flights == 1).await;
    let idle = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
    let draining = Arc::clone(&proxy);
    let drained = tokio::spawn(async move { draining.drain(Duration::from_secs(20)).await });
    soon(async { while TcpStream::connect(proxy.local_addrs()[0]).await.is_ok() {} }).await;
    gate.add_permits(100);
    assert_eq!(soon(client).await.unwrap().body, body);
    assert!(soon(drained).await.unwrap(), "all finished");
    drop((idle, kept));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let alone = Arc::new(atoll_overlay::Alone::new(crate::support::info(0)));
    let config = atoll_proxy::Config { listen: vec![address], ..config() };
    let store = crate::support::store().await;
    let error = atoll_proxy::Proxy::start(config, alone.clone(), alone, store).err().expect("the address is taken");
    assert!(matches!(error, atoll_proxy::StartError::Bind { address: named, .. } if named == address), "{error}");
}

// Design 4: names that all sites share are none to type a password for.
#[tokio::test]
async fn a_coralized_refusal_asks_for_no_password_and_an_own_site_s_does() {
    let refusal = "HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::start(move |_, _| vec![Do::Send(refusal.into())]).await;
    let mut config = config_for(&origin);
    config.sites.insert("own.test".to_owned(), site_of(&origin));
    let proxy = alone(config).await;
    let (coralized, own) = (get(&proxy, &origin.host(), "/").await, get(&proxy, "own.test", "/").await);
    assert_eq!((coralized.status, coralized.field("www-authenticate")), (401, None));
    assert_eq!((own.status, own.field("www-authenticate").as_deref()), (401, Some("Basic realm=\"x\"")));
}
