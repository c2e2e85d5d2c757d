//! What must hold of every request and every answer, whatever bytes they are made of: properties, on real sockets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use atoll_proxy::Proxy;
use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{Config as Cases, TestRunner},
};
use tokio::runtime::Runtime;

use crate::support::{Do, Origin, Response, alone, config_for, get, get_with, site_of, until};

/// So many cases each; what fails is shrunk, and nothing is written down.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Cases { cases, failure_persistence: None, ..Cases::default() })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A path and query of any bytes that a target may have.
fn target() -> impl Strategy<Value = String> {
    let any = "[!\"$-~]{0,40}";
    let nasty = prop::sample::select(vec![
        "/%2f..%2f",
        "/..",
        "/./",
        "//",
        "/%00",
        "/\\",
        "/;a=b",
        "/%23",
        "/%3f",
        "?",
        "??",
        "?a=1;b=2",
        "&",
        "%",
        "%zz",
        "/%E9",
        "/a/../b",
        "/a.css",
        "/%2e%2e/",
        "+",
        "%20",
        "/{}",
        "|",
        "^",
        "`",
        "\"",
        "<>",
        "?&=&",
        "/*",
    ]);
    prop::collection::vec(prop_oneof![any.prop_map(String::from), nasty.prop_map(str::to_owned)], 0..6)
        .prop_map(|parts| format!("/{}", parts.concat()))
        // The paths that are ours on every name.
        .prop_filter("no target", |path| http::uri::PathAndQuery::try_from(path.as_str()).is_ok())
        .prop_filter("answered by the proxy itself", |path| {
            !["/robots.txt", "/.well-known/atoll/health"].contains(&path.as_str())
        })
}

// C04: what is keyed is what is forwarded, byte for byte, on Coralized names and own sites alike.
#[test]
fn the_bytes_of_a_target_are_those_forwarded_and_those_of_the_key() {
    runtime().block_on(async {
        let origin = Origin::start(|_, head| {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            crate::support::ok("Cache-Control: max-age=600\r\n", &Bytes::from(target))
        })
        .await;
        let mut config = config_for(&origin);
        config.sites.insert("own.test".to_owned(), site_of(&origin));
        let proxy = alone(config).await;
        tokio::task::block_in_place(|| {
            runner(96)
                .run(&(target(), any::<bool>()), |(target, own)| {
                    let host = if own { "own.test".to_owned() } else { origin.host() };
                    let (first, again) = tokio::runtime::Handle::current().block_on(async {
                        let first = get(&proxy, &host, &target).await;
                        until(|| proxy.stats().flights == 0).await;
                        (first, get(&proxy, &host, &target).await)
                    });
                    prop_assert_eq!(String::from_utf8_lossy(&first.body), target.as_str());
                    prop_assert_eq!(&again.body, &first.body);
                    prop_assert!(again.cache_status().contains("hit"), "{}", again.cache_status());
                    Ok(())
                })
                .unwrap();
        });
    });
}

/// An answer of an origin's.
#[derive(Debug, Clone)]
struct Sent {
    status: u16,
    fields: Vec<(String, String)>,
    body: Bytes,
    /// Where it is cut into chunks; as a whole with its length if there are none.
    cuts: Vec<usize>,
}

impl Sent {
    fn steps(&self) -> Vec<Do> {
        let mut head = format!("HTTP/1.1 {} Said\r\nCache-Control: max-age=600\r\n", self.status);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.cuts.is_empty() {
            let head = format!("{head}Content-Length: {}\r\n\r\n", self.body.len());
            return vec![Do::Send(head.into()), Do::Send(self.body.clone())];
        }
        let mut steps = vec![Do::Send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").into())];
        let (mut from, mut cuts) = (0, self.cuts.clone());
        cuts.sort_unstable();
        for to in cuts.into_iter().chain([self.body.len()]).filter(|to| *to <= self.body.len()) {
            if to > from {
                let piece = [format!("{:x}\r\n", to - from).as_bytes(), &self.body[from..to], b"\r\n"].concat();
                steps.push(Do::Send(piece.into()));
                from = to;
            }
        }
        steps.push(Do::Send(Bytes::from_static(b"0\r\n\r\n")));
        steps
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let fields = prop::collection::vec(("x-[a-z]{1,6}", "[!-~]([ -~]{0,30}[!-~])?"), 0..8);
    let known = prop::collection::vec(
        prop::sample::select(vec![
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Language", "de, en"),
            ("ETag", "\"a\""),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Link", "<https://a.test/>; rel=\"next\""),
            ("Content-Encoding", "br"),
            ("Content-Disposition", "attachment; filename=\"a b\""),
        ]),
        0..4,
    );
    let body = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..3_000),
        1 => (60_000..200_000usize, any::<u8>()).prop_map(|(length, byte)| (0..length).map(|at| byte.wrapping_add(u8::try_from(at % 251).unwrap())).collect()),
    ];
    let status = prop::sample::select(vec![200, 200, 200, 203, 404, 410]);
    (status, fields, known, body, prop::collection::vec(0..200_000usize, 0..5)).prop_map(
        |(status, fields, known, body, cuts)| {
            let mut all: Vec<(String, String)> = fields;
            let mut seen = Vec::new();
            for (name, value) in known {
                if !seen.contains(&name) {
                    seen.push(name);
                    all.push((name.to_ascii_lowercase(), value.to_owned()));
                }
            }
            Sent { status, fields: all, body: body.into(), cuts }
        },
    )
}

/// The fields that the origin sent, with all their values in turn.
fn own(fields: &[(String, String)]) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, value) in fields.iter().filter(|(name, _)| !OURS.contains(&name.as_str())) {
        found.entry(name.as_str()).or_default().push(value.as_str());
    }
    found
}

/// Fields that each hop or this cache writes.
const OURS: [&str; 10] = [
    "server",
    "age",
    "via",
    "cache-status",
    "date",
    "content-length",
    "transfer-encoding",
    "connection",
    "cache-control",
    "accept-ranges",
];

// What is stored is what the origin sent: status, fields and every byte, the first time, out of RAM, and in part.
#[test]
fn what_is_stored_is_what_the_origin_sent() {
    let runtime = runtime();
    let script: Arc<Mutex<Option<Sent>>> = Arc::default();
    let told = Arc::clone(&script);
    let (origin, proxy): (Origin, Proxy) = runtime.block_on(async {
        let origin = Origin::start(move |_, _| told.lock().unwrap().as_ref().unwrap().steps()).await;
        let proxy = alone(config_for(&origin)).await;
        (origin, proxy)
    });
    let number = std::cell::Cell::new(0);
    runner(64)
        .run(&(sent(), any::<(u16, u16)>()), |(sent, (from, length))| {
            *script.lock().unwrap() = Some(sent.clone());
            number.set(number.get() + 1);
            let path = format!("/{}", number.get());
            let (first, again, part): (Response, Response, Option<Response>) = runtime.block_on(async {
                let first = get(&proxy, &origin.host(), &path).await;
                until(|| proxy.stats().flights == 0).await;
                let again = get(&proxy, &origin.host(), &path).await;
                let last = usize::from(from) + usize::from(length);
                let within = sent.status == 200 && usize::from(from) < sent.body.len();
                let part = match within {
                    true => {
                        let range = format!("Range: bytes={from}-{last}\r\n");
                        Some(get_with(&proxy, "GET", &origin.host(), &path, &range).await)
                    }
                    false => None,
                };
                (first, again, part)
            });
            for response in [&first, &again] {
                prop_assert_eq!((response.status, response.complete), (sent.status, true));
                prop_assert!(response.body == sent.body, "other bytes");
                prop_assert_eq!(own(&response.fields), own(&sent.fields));
            }
            prop_assert!(again.cache_status().contains("hit"), "{}", again.cache_status());
            if let Some(part) = part {
                let to = (usize::from(from) + usize::from(length) + 1).min(sent.body.len());
                prop_assert_eq!((part.status, part.complete), (206, true));
                prop_assert!(part.body == sent.body[usize::from(from)..to], "other bytes in the part");
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(runtime.block_on(async { origin.count() }), number.get());
}
