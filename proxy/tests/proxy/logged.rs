//! What goes along with a request from hop to hop, and what is written down of it: W3C trace context (issue 7).

use std::sync::{Arc, Mutex};

use atoll_overlay::{Level, Streams as _};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    support::{Net, Origin, alone, config_for, config_site, get, get_with, noise, until},
    vouched::key,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn context() -> String {
    format!("Traceparent: {PARENT}\r\nTracestate: {STATE}\r\n")
}

/// Whether a head bears the context, each field once and as it was sent.
fn bears(head: &str) -> bool {
    let head = head.to_ascii_lowercase();
    let once = |line: String| head.matches(&line).count() == 1;
    once(format!("\r\ntraceparent: {PARENT}\r\n"))
        && once(format!("\r\ntracestate: {}\r\n", STATE.to_ascii_lowercase()))
}

#[tokio::test]
async fn origins_are_told_a_client_s_trace_context_and_none_where_it_sent_none() {
    let origin = Origin::with_body(noise(10)).await;
    let mut config = config_site(&origin);
    config.origins = config_for(&origin).origins;
    let proxy = alone(config).await;
    for (number, host) in [origin.host(), "own.test".to_owned()].iter().enumerate() {
        assert_eq!(get_with(&proxy, "GET", host, "/with", &context()).await.status, 200);
        let heads = origin.heads();
        assert!(bears(&heads[number * 2]), "{host}: {}", heads[number * 2]);
        assert_eq!(get(&proxy, host, "/without").await.status, 200);
        let heads = origin.heads();
        assert!(!heads[number * 2 + 1].contains("trace"), "{host}: {}", heads[number * 2 + 1]);
    }
    assert_eq!(origin.count(), 4);
}

#[tokio::test]
async fn the_access_log_names_the_trace() {
    let origin = Origin::with_body(noise(10)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let mut config = config_site(&origin);
    config.access_log.file = Some(file.clone());
    let proxy = alone(config).await;
    // A miss, and a hit, which is answered without the parser where nothing of it is unusual.
    for _ in 0..2 {
        assert_eq!(get_with(&proxy, "GET", "own.test", "/", &context()).await.status, 200);
    }
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    until(|| lines().lines().count() == 2).await;
    for line in lines().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["trace"], PARENT, "{line}");
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn peers_are_told_it_as_well() {
    let origin = Origin::with_body(noise(10)).await;
    let net = Net::new(Level(1));
    let proxy = net.proxy(1, config_for(&origin)).await;
    let peer = net.node(9);
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((_, mut stream)) = peer.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut head).await, Ok(1..)) {}
            kept.lock().unwrap().push(String::from_utf8(head).unwrap());
            let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    for (path, fields) in [("/with", context()), ("/without", String::new())] {
        net.plant(key(&origin, path), 9, Bytes::from_static(&[8, 1]));
        assert_eq!(get_with(&proxy, "GET", &origin.host(), path, &fields).await.status, 200);
        let heads = heads.lock().unwrap();
        let of_it = heads.iter().find(|head| head.to_ascii_lowercase().contains(&format!("{path}\r\n")));
        assert_eq!(of_it.map(|head| bears(head)), Some(!fields.is_empty()), "{heads:?}");
    }
}
