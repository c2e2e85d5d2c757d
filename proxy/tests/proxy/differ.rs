//! Everyday behaviour beside nginx, Varnish and Squid: the same conversations with the same origin, what clients see compared. Each
//! difference stands in [`DIFFERENCES`] with its reason; one that goes, or comes, fails the test.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use atoll_proxy::Proxy;
use tokio::net::TcpStream;

use crate::support::{Origin, Response, alone, config_site, exchange, raw, soon, until};

/// A conversation: requests with their fields, and what the origin answers to the first, the second and so on.
struct Case {
    name: &'static str,
    asks: &'static [(&'static str, &'static str)],
    answers: &'static [&'static str],
}

const BODY: &str = "Content-Length: 10\r\n\r\n0123456789";

const CASES: &[Case] = &[
    Case { name: "hit", asks: &[("GET", ""), ("GET", "")], answers: &["200 OK\r\nCache-Control: max-age=600\r\n"] },
    Case {
        name: "head-from-get",
        asks: &[("GET", ""), ("HEAD", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case { name: "no-store", asks: &[("GET", ""), ("GET", "")], answers: &["200 OK\r\nCache-Control: no-store\r\n"] },
    Case {
        name: "private",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: private, max-age=600\r\n"],
    },
    Case {
        name: "s-maxage",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: s-maxage=600, max-age=0\r\n"],
    },
    Case {
        name: "expires-past",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nExpires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"],
    },
    Case {
        name: "not-found",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["404 Not Found\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "age-of-upstream",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nAge: 100\r\n"],
    },
    Case {
        name: "if-none-match",
        asks: &[("GET", ""), ("GET", "If-None-Match: \"a\"\r\n"), ("GET", "If-None-Match: \"b\"\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nETag: \"a\"\r\n"],
    },
    Case {
        name: "if-modified-since",
        asks: &[("GET", ""), ("GET", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"],
    },
    Case {
        name: "range",
        asks: &[
            ("GET", ""),
            ("GET", "Range: bytes=2-4\r\n"),
            ("GET", "Range: bytes=-3\r\n"),
            ("GET", "Range: bytes=20-\r\n"),
        ],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n"],
    },
    Case {
        name: "if-range",
        asks: &[("GET", ""), ("GET", "Range: bytes=2-4\r\nIf-Range: \"a\"\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n"],
    },
    Case {
        name: "vary",
        asks: &[
            ("GET", "Accept-Language: de\r\n"),
            ("GET", "Accept-Language: en\r\n"),
            ("GET", "Accept-Language: de\r\n"),
            ("GET", "Accept-Language: en\r\n"),
        ],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nVary: Accept-Language\r\n"],
    },
    Case {
        name: "vary-star",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nVary: *\r\n"],
    },
    Case {
        name: "revalidated",
        asks: &[("GET", ""), ("GET", "")],
        answers: &[
            "200 OK\r\nCache-Control: max-age=100\r\nAge: 500\r\nETag: \"a\"\r\n",
            "304 Not Modified\r\nETag: \"a\"\r\n",
        ],
    },
    Case {
        name: "stale-while-revalidate",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=100, stale-while-revalidate=6000\r\nAge: 500\r\nETag: \"a\"\r\n"],
    },
    Case {
        name: "must-revalidate",
        asks: &[("GET", ""), ("GET", "")],
        answers: &[
            "200 OK\r\nCache-Control: max-age=100, must-revalidate\r\nAge: 500\r\nETag: \"a\"\r\n",
            "503 Service Unavailable\r\n",
        ],
    },
    Case {
        name: "stale-if-error",
        asks: &[("GET", ""), ("GET", "")],
        answers: &[
            "200 OK\r\nCache-Control: max-age=100, stale-if-error=6000\r\nAge: 500\r\nETag: \"a\"\r\n",
            "503 Service Unavailable\r\n",
        ],
    },
    Case {
        name: "set-cookie",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nSet-Cookie: a=b\r\n"],
    },
    Case {
        name: "cookie",
        asks: &[("GET", "Cookie: a=b\r\n"), ("GET", "Cookie: a=b\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "authorization",
        asks: &[("GET", "Authorization: Basic eDp5\r\n"), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "client-no-cache",
        asks: &[("GET", ""), ("GET", "Cache-Control: no-cache\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "post-invalidates",
        asks: &[("GET", ""), ("POST", "Content-Length: 0\r\n"), ("GET", "")],
        answers: &[
            "200 OK\r\nCache-Control: max-age=600\r\n",
            "200 OK\r\n",
            "200 OK\r\nCache-Control: max-age=600\r\n",
        ],
    },
    Case {
        name: "cdn-cache-control",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: no-store\r\nCDN-Cache-Control: max-age=600\r\n"],
    },
    Case {
        name: "expires-future",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["200 OK\r\nExpires: Thu, 18 Aug 2050 02:01:18 GMT\r\n"],
    },
    Case { name: "nothing-said", asks: &[("GET", ""), ("GET", "")], answers: &["200 OK\r\n"] },
    Case {
        name: "permanent-redirect",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["301 Moved Permanently\r\nLocation: http://else.test/\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "found-redirect",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["302 Found\r\nLocation: http://else.test/\r\n"],
    },
    Case { name: "gone", asks: &[("GET", ""), ("GET", "")], answers: &["410 Gone\r\nCache-Control: max-age=600\r\n"] },
    Case {
        name: "server-error",
        asks: &[("GET", ""), ("GET", "")],
        answers: &["500 Broken\r\n", "200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "head-then-get",
        asks: &[("HEAD", ""), ("GET", "")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "weak-tag",
        asks: &[("GET", ""), ("GET", "If-None-Match: W/\"a\"\r\n"), ("GET", "If-None-Match: *\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nETag: \"a\"\r\n"],
    },
    Case {
        name: "delete-invalidates",
        asks: &[("GET", ""), ("DELETE", ""), ("GET", "")],
        answers: &[
            "200 OK\r\nCache-Control: max-age=600\r\n",
            "200 OK\r\n",
            "200 OK\r\nCache-Control: max-age=600\r\n",
        ],
    },
    Case {
        name: "client-max-age",
        asks: &[("GET", ""), ("GET", "Cache-Control: max-age=0\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\n"],
    },
    Case {
        name: "accept-encoding",
        asks: &[("GET", "Accept-Encoding: gzip\r\n"), ("GET", ""), ("GET", "Accept-Encoding: gzip\r\n")],
        answers: &["200 OK\r\nCache-Control: max-age=600\r\nVary: Accept-Encoding\r\n"],
    },
];

/// Where we differ, from whom, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("revalidated", "nginx", "it does not count the Age that an answer arrives with: to it the copy is fresh"),
    ("must-revalidate", "nginx", "the same"),
    (
        "set-cookie",
        "nginx",
        "it stores nothing that sets cookies; we do where the origin states how long (RFC 9111 7.3)",
    ),
    ("authorization", "nginx", "it shares answers to authorised requests, which RFC 9111 3.5 forbids"),
    ("client-no-cache", "nginx", "it does not heed a client's directives; here that is a switch, `client_directives`"),
    ("post-invalidates", "nginx", "it does not invalidate, which RFC 9111 4.4 requires"),
    ("cdn-cache-control", "nginx", "it does not know RFC 9213"),
    (
        "head-then-get",
        "nginx",
        "it asks for all to answer a HEAD; here a HEAD of what is not stored is passed on as it is",
    ),
    ("delete-invalidates", "nginx", "it does not invalidate, which RFC 9111 4.4 requires"),
    ("client-max-age", "nginx", "it does not heed a client's directives; here that is a switch, `client_directives`"),
    ("expires-past", "varnish", "its default grace of 10 s serves what is stale without being told that it may"),
    ("revalidated", "varnish", "it does not store what arrives stale, so that nothing is there to be confirmed"),
    ("stale-while-revalidate", "varnish", "the same"),
    ("stale-if-error", "varnish", "the same"),
    (
        "set-cookie",
        "varnish",
        "it stores nothing that sets cookies; we do where the origin states how long (RFC 9111 7.3)",
    ),
    ("cookie", "varnish", "it passes whatever has a cookie; we share what the origin states to be fresh for everybody"),
    (
        "client-no-cache",
        "varnish",
        "it does not heed a client's directives; here that is a switch, `client_directives`",
    ),
    ("post-invalidates", "varnish", "it does not invalidate, which RFC 9111 4.4 requires"),
    ("cdn-cache-control", "varnish", "it does not know RFC 9213"),
    ("nothing-said", "varnish", "its default freshness is 120 s; here it is none, unless the operator sets one"),
    (
        "head-then-get",
        "varnish",
        "it asks for all to answer a HEAD; here a HEAD of what is not stored is passed on as it is",
    ),
    ("weak-tag", "varnish", "it does not know `If-None-Match: *` (RFC 9110 13.1.2)"),
    ("delete-invalidates", "varnish", "it does not invalidate, which RFC 9111 4.4 requires"),
    ("client-max-age", "varnish", "it does not heed a client's directives; here that is a switch, `client_directives`"),
    ("accept-encoding", "varnish", "it asks its origin for gzip whoever asks, and unpacks it itself"),
    ("not-found", "squid", "it stores errors by its own `negative_ttl` only, which is 0"),
    ("range", "squid", "it answers a range beyond the end with the whole; RFC 9110 15.5.17 has 416 for it"),
    ("revalidated", "squid", "after a 304 it goes on counting the Age of the answer before"),
    ("stale-while-revalidate", "squid", "it does not know stale-while-revalidate"),
    ("stale-if-error", "squid", "it passes the 503 on; RFC 5861 4 lets the stale answer stand in"),
    ("cdn-cache-control", "squid", "it does not know RFC 9213"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    Varnish,
    Squid,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Varnish => "varnish",
            Self::Squid => "squid",
        }
    }

    fn program(self) -> PathBuf {
        let name = match self {
            Self::Nginx => "nginx",
            Self::Varnish => "varnishd",
            Self::Squid => "squid",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
        let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
        found.unwrap_or_else(|| panic!("{name} is not installed; cargo xtask test --install brings it"))
    }

    /// As its makers ship it, but that it caches for this one origin and keeps to its folder.
    fn start(self, folder: &Path, at: SocketAddr, origin: SocketAddr) -> Child {
        let mut command = Command::new(self.program());
        let written = |text: String| {
            let file = folder.join("config");
            std::fs::write(&file, text).unwrap();
            file
        };
        let here = folder.display();
        match self {
            Self::Nginx => {
                let config = written(format!(
                    "daemon off; master_process off; pid {here}/pid; error_log stderr; worker_processes 1; events {{}}\n\
                     http {{ access_log off; client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;\n\
                     uwsgi_temp_path {here}/u; scgi_temp_path {here}/s; proxy_cache_path {here}/cache keys_zone=c:1m;\n\
                     server {{ listen {at}; location / {{ proxy_pass http://{origin}; proxy_cache c; proxy_cache_revalidate on;\n\
                     proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_cache_background_update on;\n\
                     proxy_cache_use_stale updating; }} }} }}\n"
                ));
                command.arg("-p").arg(folder).arg("-c").arg(config);
            }
            Self::Varnish => {
                command
                    .args(["-F", "-a", &at.to_string(), "-b", &origin.to_string(), "-s", "malloc,16m", "-n"])
                    .arg(folder);
            }
            Self::Squid => {
                let config = written(format!(
                    "http_port {at} accel defaultsite={origin} no-vhost\n\
                     cache_peer {} parent {} 0 no-query originserver no-digest\nhttp_access allow all\n\
                     cache_mem 16 MB\ncache_log stdio:/dev/stderr\naccess_log none\ncache_store_log none\npid_filename none\n\
                     netdb_filename none\nicon_directory {here}\nshutdown_lifetime 0 seconds\nvisible_hostname squid.test\n\
                     coredump_dir {here}\nlogfile_rotate 0\n",
                    origin.ip(),
                    origin.port()
                ));
                command.arg("-N").arg("-f").arg(config);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// One of them, running.
struct Real {
    child: Child,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Real {
    async fn start(kind: Kind, origin: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = kind.start(folder.path(), at, origin);
        let mut real = Self { child, at, _folder: folder };
        soon(async {
            while TcpStream::connect(at).await.is_err() {
                assert!(real.child.try_wait().unwrap().is_none(), "{kind:?} has ended");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        real
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An origin that answers by the case in the path and by how often it was asked for it.
async fn origin() -> Origin {
    let asked: std::sync::Mutex<std::collections::HashMap<String, usize>> = std::sync::Mutex::default();
    Origin::start(move |_, head| {
        let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let Some(case) = CASES.iter().find(|case| path.starts_with(case.name) && path.len() == case.name.len()) else {
            return raw("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        };
        let mut asked = asked.lock().unwrap();
        let count = asked.entry(path).or_default();
        let mut answer = case.answers[(*count).min(case.answers.len() - 1)];
        if answer.starts_with("304") && !head.to_ascii_lowercase().contains("\r\nif-none-match:") {
            answer = case.answers[0];
        }
        *count += 1;
        let rest = match answer {
            answer if answer.starts_with("304") => "\r\n",
            _ if head.starts_with("HEAD ") => "Content-Length: 10\r\n\r\n",
            _ => BODY,
        };
        let date = httpdate_now();
        raw_kept(&format!("HTTP/1.1 {answer}Date: {date}\r\nServed: {count}\r\n{rest}"))
    })
    .await
}

fn httpdate_now() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}

fn raw_kept(text: &str) -> Vec<crate::support::Do> {
    vec![crate::support::Do::Send(bytes::Bytes::copy_from_slice(text.as_bytes()))]
}

/// What a client sees that matters: the status, which answer of the origin's it was, the bytes, and the fields of caching.
fn seen(response: &Response) -> String {
    let age = response.field("age").and_then(|age| age.parse::<u64>().ok());
    // Ages of a second or two are the machine's; no Age and zero are the same to a client.
    let age = age.filter(|age| *age >= 5).map_or("", |_| " old");
    let range = response.field("content-range").unwrap_or_default();
    let body = String::from_utf8_lossy(&response.body);
    let status = response.status;
    // An error of a proxy's own has a page of its own.
    let served = response.field("served").filter(|_| !matches!(status, 304 | 416));
    let body = if served.is_some() { &*body } else { "" };
    format!("{status} #{}{age} {range} {body}", served.unwrap_or_else(|| "-".to_owned()))
}

async fn talk(at: SocketAddr, origin: &Origin, case: &Case, settled: impl Fn() -> bool) -> Vec<String> {
    let mut told = Vec::new();
    for (method, fields) in case.asks {
        let host = origin.address;
        let request = format!("{method} /{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n", case.name);
        let response = Response::read(&exchange(at, request.as_bytes()).await, *method == "HEAD");
        told.push(seen(&response));
        until(&settled).await;
    }
    told
}

async fn ours(proxy: &Proxy, origin: &Origin, case: &Case) -> Vec<String> {
    talk(proxy.local_addrs()[0], origin, case, || proxy.stats().flights == 0).await
}

#[tokio::test]
async fn everyday_answers_are_those_of_nginx_varnish_and_squid_but_where_it_is_said_why() {
    let mut found = Vec::new();
    let own = origin().await;
    let proxy = alone(config_site(&own)).await;
    let mut answers = Vec::new();
    for case in CASES {
        answers.push(ours(&proxy, &own, case).await);
    }
    for kind in [Kind::Nginx, Kind::Varnish, Kind::Squid] {
        let origin = origin().await;
        let real = Real::start(kind, origin.address).await;
        for (case, ours) in CASES.iter().zip(&answers) {
            let theirs = talk(real.at, &origin, case, || true).await;
            if *ours != theirs {
                found.push((case.name, kind.name(), format!("\n  ours   {ours:?}\n  theirs {theirs:?}")));
            }
        }
    }
    let expected = |case: &str, peer: &str| DIFFERENCES.iter().any(|(name, who, _)| *name == case && *who == peer);
    let unexplained: Vec<_> = found.iter().filter(|(case, peer, _)| !expected(case, peer)).collect();
    let text: String = unexplained.iter().map(|(case, peer, how)| format!("\n{case} beside {peer}:{how}")).collect();
    assert!(unexplained.is_empty(), "{} differences without a reason:{text}", unexplained.len());
    for (case, peer, why) in DIFFERENCES {
        assert!(
            found.iter().any(|(name, who, _)| name == case && who == peer),
            "{case} no longer differs from {peer}: {why}"
        );
    }
}
