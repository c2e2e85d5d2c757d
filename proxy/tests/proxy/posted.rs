//! RFC 9110 9.3.3 as conversations: answers to POST that are for GET as well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::{
    script::{check, get},
    support::{Do, Origin, Response, SOON, alone, config_site, get as get_from, noise, ok, soon, until},
};

const HOUR: &str = "Cache-Control: max-age=3600";

// RFC 9110 9.3.3
#[tokio::test]
async fn answers_to_post_are_stored_for_get_only_where_they_say_that_they_are_what_get_would_bring() {
    let post = |fields: &[&str]| get(fields).method("POST").with(&["Content-Length: 0", "If-None-Match: *"]);
    let said = "Content-Location: /x";
    let mut cases = Vec::new();
    for named in ["/x", "x", "./x"] {
        let said = format!("Content-Location: {named}");
        cases
            .push(("said", vec![post(&[HOUR, &said]).given("0123456789"), get(&[HOUR]).stored(0).given("0123456789")]));
    }
    let spelled = "/a/../x";
    let posted = post(&[HOUR, "Content-Location: /a/../x"]).path(spelled);
    cases.push(("with dots, as asked for", vec![posted, get(&[HOUR]).path(spelled).stored(0).given("0123456789")]));
    cases.push(("in chunks", vec![post(&[HOUR, said]).chunked(), get(&[HOUR]).stored(0).given("0123456789")]));
    for (name, fields) in [
        ("unsaid", ["X: 1", HOUR]),
        ("another URL", ["Content-Location: /y", HOUR]),
        ("another's URL", ["Content-Location: http://other.test/x", HOUR]),
        ("no freshness", [said, "Last-Modified: Wed, 18 Aug 2010 02:01:18 GMT"]),
        ("private", [said, "Cache-Control: max-age=60, private"]),
        ("varies", [said, "Cache-Control: max-age=60\r\nVary: Foo"]),
    ] {
        cases.push((name, vec![post(&fields), get(&[HOUR])]));
    }
    cases.push(("an error", vec![post(&[HOUR, said]).status("404 X"), get(&[HOUR])]));
    cases.push(("invalid by the next", vec![post(&[HOUR, said]), get(&[]).method("DELETE"), get(&[HOUR])]));
    check(cases).await;
}

// Its client gets all of it, however slow or long it turns out to be, and nobody who asks meanwhile waits for that.
#[tokio::test]
async fn an_answer_to_post_that_is_slow_or_long_holds_nobody_up_and_loses_no_byte() {
    for (first, posted) in [(200_000, Duration::from_millis(50)), (1_200_000, SOON)] {
        let body = noise(1_300_000);
        let gate = Arc::new(Semaphore::new(0));
        let (sent, held) = (body.clone(), Arc::clone(&gate));
        let origin = Origin::start(move |_, head| {
            if head.starts_with("GET ") {
                return ok("Cache-Control: no-store\r\n", &Bytes::from_static(b"got"));
            }
            let chunk = |bytes: &[u8]| {
                let size = format!("{:x}\r\n", bytes.len());
                Do::Send([size.as_bytes(), bytes, b"\r\n"].concat().into())
            };
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Location: /x\r\nTransfer-Encoding: chunked\r\n\r\n";
            let wait = Do::Wait(Arc::clone(&held));
            vec![Do::Send(head.into()), chunk(&sent[..first]), wait, chunk(&sent[first..]), Do::Send("0\r\n\r\n".into())]
        })
        .await;
        let mut config = config_site(&origin);
        config.timeouts.posted = posted;
        let proxy = alone(config).await;
        let (host, begun) = (origin.address.to_string(), Arc::new(AtomicBool::new(false)));
        let mut stream = TcpStream::connect(proxy.local_addrs()[0]).await.unwrap();
        let request = format!("POST /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let seen = Arc::clone(&begun);
        let client = tokio::spawn(async move {
            let mut answer = vec![0; 1];
            stream.read_exact(&mut answer).await.unwrap();
            seen.store(true, Ordering::SeqCst);
            stream.read_to_end(&mut answer).await.unwrap();
            Response::read(&answer, false)
        });
        // It is being read, or was.
        until(|| proxy.stats().flights == 1 || begun.load(Ordering::SeqCst)).await;
        assert_eq!(get_from(&proxy, &host, "/x").await.body, b"got");
        gate.add_permits(1);
        let response = soon(client).await.unwrap();
        assert!(response.complete && response.body == body, "{} bytes", response.body.len());
        assert_eq!(get_from(&proxy, &host, "/x").await.body, b"got", "what was passed on is not stored");
    }
}
