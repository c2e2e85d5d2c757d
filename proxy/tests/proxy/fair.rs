//! Who gets how much, who is left alone, and who is not served at all: shares, circuit breakers, opting out, takedown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use atoll_overlay::Level;
use atoll_proxy::{Proxy, Share, Site, SiteOrigin, Standing};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    task::JoinSet,
};

use crate::support::{
    Do, Net, Origin, Response, alone, config, config_for, config_site, exchange, get, get_with, noise, ok, raw,
    refusing, soon, until,
};

async fn landed(proxy: &Proxy) {
    until(|| proxy.stats().flights == 0).await;
}

fn wait_of(response: &Response) -> u64 {
    response.field("retry-after").expect("Retry-After").parse().unwrap()
}

// Design 4: what is stored, then nothing; and it outlives a restart.
#[tokio::test]
async fn a_site_over_its_share_is_told_to_wait_also_by_the_next_run() {
    let origin = Origin::with_body(noise(600)).await;
    let mut config = config_for(&origin);
    config.fairness.site = Share { hourly: 1_000, ..Share::default() };
    let proxy = alone(config.clone()).await;
    for _ in 0..2 {
        assert_eq!(get(&proxy, &origin.host(), "/").await.status, 200);
    }
    let again = alone(config).await;
    assert!(again.restore_use(&proxy.save_use().unwrap()));
    for proxy in [&proxy, &again] {
        let refused = get(proxy, &origin.host(), "/").await;
        assert_eq!(refused.status, 503);
        assert!((1..=3_600).contains(&wait_of(&refused)));
        assert_eq!(refused.field("proxy-status").as_deref(), Some("atoll; error=http_request_denied"));
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_site_that_asked_for_it_has_its_clients_sent_home_and_they_do_not_come_back() {
    let origin = Origin::start(|_, head| match head.split(' ').nth(1) {
        Some("/back") => {
            raw("HTTP/1.1 302 Found\r\nLocation: http://site.test/x?atoll-no-serve\r\nContent-Length: 0\r\n\r\n")
        }
        _ => ok("Cache-Control: max-age=60\r\nAtoll-Control: redirect-home\r\n", &noise(600)),
    })
    .await;
    let mut config = config_for(&origin);
    config.fairness.site = Share { daily: 600, ..Share::default() };
    let proxy = alone(config).await;
    let back = get(&proxy, &origin.host(), "/back").await;
    assert_eq!(back.field("location").as_deref(), Some("http://site.test/x?atoll-no-serve"), "never Coralized again");
    assert_eq!(get(&proxy, &origin.host(), "/x?y").await.status, 200);
    let home = get(&proxy, &origin.host(), "/x?y").await;
    let target = format!("http://site.test:{}/x?y&atoll-no-serve", origin.address.port());
    assert_eq!((home.status, home.field("location")), (302, Some(target)));
    let looped = get(&proxy, &origin.host(), "/x?y&atoll-no-serve").await;
    assert_eq!(looped.status, 508);
}

#[tokio::test]
async fn what_clients_send_counts_like_what_they_are_sent() {
    let sink = crate::sites::Sink::start().await;
    let mut config = sink.config();
    config.fairness.node = Share { monthly: 10_000, rate: 4_000, ..Share::default() };
    let proxy = alone(config).await;
    let body = format!("{}END", "x".repeat(4_997));
    let request = format!(
        "POST / HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(proxy.local_addrs()[0], request.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer));
    // The answer itself is two bytes.
    assert_eq!(proxy.standing().quota_left, Some(10_000 - 5_000 - 2));
}

#[tokio::test]
async fn a_node_near_its_cap_leaves_dns_and_serves_only_what_it_has() {
    let origin = Origin::start(|_, head| {
        let size = if head.starts_with("GET /large ") { 9_500 } else { 5 };
        ok("Cache-Control: max-age=60\r\n", &noise(size))
    })
    .await;
    let mut config = config_for(&origin);
    config.fairness.node = Share { monthly: 10_000, ..Share::default() };
    let proxy = alone(config).await;
    assert_eq!(proxy.standing(), Standing { weight: 100, quota_left: Some(10_000) });
    for path in ["/small", "/large"] {
        assert_eq!(get(&proxy, &origin.host(), path).await.status, 200);
        landed(&proxy).await;
    }
    assert_eq!(proxy.standing(), Standing { weight: 0, quota_left: Some(0) });
    assert_eq!(get(&proxy, &origin.host(), "/small").await.status, 200);
    let cold = get(&proxy, &origin.host(), "/other").await;
    assert_eq!((cold.status, origin.count()), (503, 2));
    assert!(wait_of(&cold) > 0);
    assert_eq!(get(&proxy, &origin.host(), "/large").await.status, 200);
    assert_eq!(get(&proxy, &origin.host(), "/small").await.status, 503);
}

#[tokio::test]
async fn a_client_s_network_has_its_own_rate_of_requests() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let mut config = config_site(&origin);
    config.fairness.client = Share { requests: 1, ..Share::default() };
    let proxy = alone(config).await;
    let mut clients = JoinSet::new();
    let proxy = Arc::new(proxy);
    for _ in 0..40 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move { get(&proxy, "any.test", "/").await.status });
    }
    let mut served = 0;
    while let Some(status) = soon(clients.join_next()).await {
        served += u32::from(status.unwrap() == 200);
    }
    assert!((1..20).contains(&served), "{served} of 40 at once");
}

// C9 of the design: nobody waits for the time-outs of an origin that is not there; stale stands in; it is found when it is back.
#[tokio::test]
async fn an_origin_that_is_gone_is_left_alone_and_found_again() {
    let gone = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&gone);
    let origin = Origin::start(move |_, _| {
        if state.load(Ordering::SeqCst) {
            return vec![Do::Hang];
        }
        ok("Cache-Control: max-age=1, stale-if-error=600\r\nAge: 5\r\n", &Bytes::from_static(b"x"))
    })
    .await;
    let mut config = config_for(&origin);
    config.timeouts.first_byte = Duration::from_secs(1);
    config.breaker.failures = 2;
    config.breaker.successes = 1;
    config.breaker.pause_first = Duration::from_secs(3_600);
    config.breaker.pause_most = Duration::from_secs(3_600);
    let (proxy, host) = (alone(config.clone()).await, origin.host());
    assert_eq!(get(&proxy, &host, "/stale").await.status, 200);
    landed(&proxy).await;
    gone.store(true, Ordering::SeqCst);
    let (one, two) = tokio::join!(get(&proxy, &host, "/1"), get(&proxy, &host, "/2"));
    assert_eq!((one.status, two.status), (504, 504));
    let before = origin.count();
    let refused = get(&proxy, &origin.host(), "/3").await;
    assert_eq!(
        (refused.status, refused.field("proxy-status").unwrap().as_str()),
        (503, "atoll; error=destination_unavailable")
    );
    assert_eq!(wait_of(&refused), 1);
    let stale = get(&proxy, &origin.host(), "/stale").await;
    assert_eq!(
        (stale.status, stale.cache_status().contains("stale-if-error")),
        (200, true),
        "{}",
        stale.cache_status()
    );
    assert_eq!(origin.count(), before);

    config.breaker.pause_first = Duration::from_millis(100);
    let proxy = alone(config).await;
    let (one, two) = tokio::join!(get(&proxy, &host, "/1"), get(&proxy, &host, "/2"));
    assert_eq!((one.status, two.status), (504, 504));
    gone.store(false, Ordering::SeqCst);
    soon(async { while get(&proxy, &origin.host(), "/3").await.status != 200 {} }).await;
    assert_eq!(get(&proxy, &origin.host(), "/4").await.status, 200);
}

// One URL that an origin closes on takes nothing else away from anybody.
#[tokio::test]
async fn an_origin_that_closes_instead_of_answering_is_not_left_alone() {
    let origin = Origin::start(|_, head| match head.starts_with("GET /closes") {
        true => vec![Do::Close],
        false => ok("Cache-Control: max-age=60\r\n", &Bytes::from_static(b"x")),
    })
    .await;
    let mut config = config_site(&origin);
    config.breaker.failures = 2;
    let proxy = alone(config).await;
    for path in ["/closes?1", "/closes?2", "/closes?3"] {
        assert_eq!(get(&proxy, "any.test", path).await.status, 502);
    }
    assert_eq!(get(&proxy, "any.test", "/good").await.status, 200);
    assert_eq!(proxy.stats().circuits_open, 0);
}

#[tokio::test]
async fn an_origin_that_is_sent_uploads_only_is_found_again() {
    let (address, taken) = refusing();
    let mut config = config();
    let origin = SiteOrigin::One(format!("http://{address}"));
    config.sites.insert("own.test".to_owned(), Site { origin, ..Site::default() });
    (config.breaker.failures, config.breaker.successes) = (1, 2);
    (config.breaker.pause_first, config.breaker.pause_most) = (Duration::from_millis(1), Duration::from_millis(1));
    let proxy = alone(config).await;
    let post = async || {
        let request = b"POST / HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let answer = exchange(proxy.local_addrs()[0], request).await;
        Response::read(&answer, false).status
    };
    assert_eq!((post().await, proxy.stats().circuits_open), (502, 1));
    let listener = taken.listen(64).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut got = Vec::new();
            while !got.ends_with(b"hi") && matches!(stream.read_buf(&mut got).await, Ok(1..)) {}
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    soon(async { while post().await != 200 {} }).await;
    assert_eq!(post().await, 200);
    assert_eq!(proxy.stats().circuits_open, 0);
}

#[tokio::test]
async fn so_many_wait_for_one_origin_and_no_more() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::behind(&gate, "Cache-Control: max-age=60\r\n", b"x").await;
    let mut config = config_for(&origin);
    (config.limits.origin_connections, config.limits.origin_queue) = (1, 1);
    let proxy = Arc::new(alone(config).await);
    let mut clients = JoinSet::new();
    for path in 0..3 {
        let (proxy, host) = (Arc::clone(&proxy), origin.host());
        clients.spawn(async move { get(&proxy, &host, &format!("/{path}")).await });
    }
    let refused = soon(clients.join_next()).await.unwrap().unwrap();
    assert_eq!(
        (refused.status, refused.field("proxy-status").unwrap().as_str()),
        (503, "atoll; error=connection_limit_reached")
    );
    gate.add_permits(2);
    while let Some(served) = soon(clients.join_next()).await {
        assert_eq!(served.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_host_that_opts_out_is_served_no_more() {
    let out = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&out);
    let origin = Origin::start(move |_, _| {
        let control = if state.load(Ordering::SeqCst) { "Atoll-Control: opt-out\r\n" } else { "" };
        ok(&format!("Cache-Control: max-age=3600\r\n{control}"), &Bytes::from_static(b"mine"))
    })
    .await;
    let proxy = alone(config_for(&origin)).await;
    assert_eq!(get(&proxy, &origin.host(), "/a").await.status, 200);
    landed(&proxy).await;
    out.store(true, Ordering::SeqCst);
    for path in ["/b", "/a", "/c?d"] {
        let home = get(&proxy, &origin.host(), path).await;
        let mark = if path.contains('?') { '&' } else { '?' };
        let target = format!("http://site.test:{}{path}{mark}atoll-no-serve", origin.address.port());
        assert_eq!((home.status, home.field("location"), &home.body[..]), (302, Some(target), &b""[..]), "{path}");
    }
    assert_eq!(origin.count(), 2, "it was asked again after it had opted out");
    assert!(proxy.stats().refused == 0);
}

// RFC 7725
#[tokio::test]
async fn what_is_taken_down_is_answered_451_here_and_not_given_to_peers() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("takedown");
    std::fs::write(&file, "nothing.test\n").unwrap();
    let mut config = config_for(&origin);
    config.takedown = Some(file.clone());
    config.blocked_by = "https://cdn.test/blocked".to_owned();
    let net = Net::new(Level(1));
    let one = net.proxy(1, config).await;
    assert_eq!(get(&one, &origin.host(), "/x/1").await.status, 200);
    landed(&one).await;
    std::fs::write(&file, "site.test/x/ https://court.test/4711\nsite.test/y\n").unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    assert!(one.reload_takedown());
    for (path, by) in
        [("/x/1", "https://court.test/4711"), ("/%78/1", "https://court.test/4711"), ("/y", "https://cdn.test/blocked")]
    {
        let blocked = get(&one, &origin.host(), path).await;
        let link = format!("<{by}>; rel=\"blocked-by\"");
        assert_eq!((blocked.status, blocked.field("link")), (451, Some(link)), "{path}");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(get(&one, &origin.host(), "/z").await.status, 200);
    let two = net.proxy(2, config_for(&origin)).await;
    let other = get(&two, &origin.host(), "/x/1").await;
    assert_eq!((other.status, other.cache_status().contains("detail=origin")), (200, true), "{}", other.cache_status());
}

#[tokio::test]
async fn origins_see_whose_cache_asks_and_robots_are_kept_out() {
    let origin = Origin::with_body(Bytes::from_static(b"x")).await;
    let mut config = config_for(&origin);
    config.contact = "https://cdn.test/about".to_owned();
    let proxy = alone(config).await;
    get_with(&proxy, "GET", &origin.host(), "/", "User-Agent: browser\r\n").await;
    let agent =
        origin.heads()[0].lines().find_map(|line| line.strip_prefix("user-agent: ").map(str::to_owned)).unwrap();
    assert!(agent.starts_with("atoll/") && agent.ends_with(" (default; +https://cdn.test/about)"), "{agent}");
    for host in [origin.host(), proxy.local_addrs()[0].to_string()] {
        assert_eq!(get(&proxy, &host, "/robots.txt").await.body, b"User-agent: *\nDisallow: /\n", "{host}");
    }
}
