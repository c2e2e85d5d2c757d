//! Answers that come while a newer copy takes the place of the one they are about.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::support::{Do, Origin, Response, alone, config_site, exchange, get, ok, soon, until};

// RFC 9111 4.3.5: the copy that a HEAD confirms or refutes is the one that was there when it was asked.
#[tokio::test]
async fn what_a_head_says_neither_renews_nor_removes_a_copy_that_came_meanwhile() {
    for said in ["ETag: \"1\"", "ETag: \"3\""] {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let origin = Origin::start(move |_, head| {
            if head.starts_with("HEAD ") {
                let fields = format!("{said}\r\nCache-Control: max-age=7200\r\nContent-Length: 3");
                let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
                return vec![Do::Wait(Arc::clone(&held)), Do::Send(answer.into())];
            }
            if head.to_ascii_lowercase().contains("if-none-match") {
                return ok("ETag: \"2\"\r\nCache-Control: max-age=3600\r\n", &Bytes::from_static(b"new"));
            }
            ok("ETag: \"1\"\r\nCache-Control: max-age=0\r\n", &Bytes::from_static(b"old"))
        })
        .await;
        let proxy = alone(config_site(&origin)).await;
        let host = origin.address.to_string();
        assert_eq!(get(&proxy, &host, "/x").await.body, b"old");
        until(|| proxy.stats().flights == 0).await;
        let (to, request) =
            (proxy.local_addrs()[0], format!("HEAD /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        let head = tokio::spawn(async move { Response::read(&exchange(to, request.as_bytes()).await, true) });
        until(|| origin.count() == 2).await;
        assert_eq!(get(&proxy, &host, "/x").await.body, b"new");
        until(|| proxy.stats().flights == 0).await;
        gate.add_permits(1);
        assert_eq!(soon(head).await.unwrap().status, 200);
        let now = get(&proxy, &host, "/x").await;
        assert_eq!((&now.body[..], origin.count()), (&b"new"[..], 3), "{said}: {}", now.cache_status());
        let field = |name| now.field(name).unwrap_or_default();
        assert_eq!((field("etag"), field("cache-control")), ("\"2\"".to_owned(), "max-age=3600".to_owned()));
    }
}
