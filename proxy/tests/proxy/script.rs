//! Conversations as tables: what a client asks in turn, what the origin would answer to each, and whose answer must come.
//!
//! Every request carries its number to the origin, which answers by it and writes it into the answer: so each response says for
//! which request it was made. Staleness is made by Age and Date, never by waiting.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use atoll_proxy::{Config, Proxy};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Do, Origin, Response, SOON, alone, config_site, exchange, soon, until};

/// One request.
#[derive(Clone)]
pub(crate) struct Ask {
    method: &'static str,
    path: &'static str,
    version: &'static str,
    fields: String,
    answer: String,
    body: &'static str,
    cut: bool,
    chunked: bool,
    unframed: bool,
    short: bool,
    expect: Expect,
    code: Option<u16>,
    aged: Option<u64>,
    has: Vec<(&'static str, &'static str)>,
    lacks: Vec<&'static str>,
    saw: Vec<&'static str>,
    unseen: Vec<&'static str>,
    given: Option<&'static str>,
    told: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The origin's answer to this very request.
    Own,
    /// A stored one: the answer to the request of this number.
    Stored(usize),
    /// This status, whoever made it.
    Status(u16),
    /// An error, or a body that breaks off.
    Broken,
}

/// A request whose answer has these fields, lines without their ends; `{host}` in them is the host that the origin was asked for.
pub(crate) fn get(answer: &[&str]) -> Ask {
    Ask {
        method: "GET",
        path: "/x",
        version: "HTTP/1.1",
        fields: String::new(),
        answer: format!("HTTP/1.1 200 OK\r\n{}", lines(answer)),
        body: "0123456789",
        cut: false,
        chunked: false,
        unframed: false,
        short: false,
        expect: Expect::Own,
        code: None,
        aged: None,
        has: Vec::new(),
        lacks: Vec::new(),
        saw: Vec::new(),
        unseen: Vec::new(),
        given: None,
        told: None,
    }
}

fn lines(fields: &[&str]) -> String {
    fields.iter().fold(String::new(), |mut text, line| {
        write!(text, "{line}\r\n").unwrap();
        text
    })
}

impl Ask {
    pub(crate) fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    pub(crate) fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// The request's fields.
    pub(crate) fn with(self, fields: &[&str]) -> Self {
        Self { fields: lines(fields), ..self }
    }

    /// The answer's status, with reason.
    pub(crate) fn status(self, status: &str) -> Self {
        let rest = self.answer.split_once("\r\n").unwrap().1.to_owned();
        Self { answer: format!("HTTP/1.1 {status}\r\n{rest}"), ..self }
    }

    /// The protocol of the answer.
    pub(crate) fn version(self, version: &str) -> Self {
        let rest = self.answer.split_once(' ').unwrap().1.to_owned();
        Self { answer: format!("{version} {rest}"), ..self }
    }

    /// The protocol of the request.
    pub(crate) fn speaks(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    pub(crate) fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    /// The origin closes instead of answering.
    pub(crate) fn cut(self) -> Self {
        Self { cut: true, ..self }
    }

    /// The origin does not say before how long its answer is.
    pub(crate) fn chunked(self) -> Self {
        Self { chunked: true, ..self }
    }

    /// The origin's answer is as long as its connection lasts.
    pub(crate) fn unframed(self) -> Self {
        Self { unframed: true, ..self }
    }

    /// The origin closes before its answer is as long as it says, or before its last chunk, and the client must see that.
    pub(crate) fn short(self) -> Self {
        Self { short: true, expect: Expect::Broken, ..self }
    }

    /// Whose it ever is, the response must have this status.
    pub(crate) fn code(self, status: u16) -> Self {
        Self { code: Some(status), ..self }
    }

    /// The response's Age must be this, or what it has become meanwhile.
    pub(crate) fn aged(self, seconds: u64) -> Self {
        Self { aged: Some(seconds), ..self }
    }

    /// The answer to an earlier request must come.
    pub(crate) fn stored(self, number: usize) -> Self {
        Self { expect: Expect::Stored(number), ..self }
    }

    /// This status must come, whoever makes it.
    pub(crate) fn gets(self, status: u16) -> Self {
        Self { expect: Expect::Status(status), ..self }
    }

    /// The response must have this field.
    pub(crate) fn has(mut self, name: &'static str, value: &'static str) -> Self {
        self.has.push((name, value));
        self
    }

    pub(crate) fn lacks(mut self, name: &'static str) -> Self {
        self.lacks.push(name);
        self
    }

    /// The response must have this body.
    pub(crate) fn given(self, body: &'static str) -> Self {
        Self { given: Some(body), ..self }
    }

    /// The response's Cache-Status must have this.
    pub(crate) fn told(self, parameters: &'static str) -> Self {
        Self { told: Some(parameters), ..self }
    }

    /// The origin must have been asked with this line.
    pub(crate) fn saw(mut self, line: &'static str) -> Self {
        self.saw.push(line);
        self
    }

    /// The origin must have been asked without this.
    pub(crate) fn unseen(mut self, text: &'static str) -> Self {
        self.unseen.push(text);
        self
    }
}

/// Plays each conversation against a proxy of its own.
pub(crate) async fn check(cases: Vec<(&str, Vec<Ask>)>) {
    check_with(cases, |_| {}).await;
}

/// The same where every host is one site, and where a site has a name to itself; and all of them at once.
pub(crate) async fn check_sites(cases: Vec<(&str, Vec<Ask>)>) {
    check(cases.clone()).await;
    check_with(cases.clone(), |config| {
        let site = config.sites.remove("*").unwrap();
        config.sites.insert(OWN.to_owned(), site);
    })
    .await;
    check_at_once(cases).await;
}

/// Pairs of requests, by the fields of their answers: the second gets the first's answer, or its own.
pub(crate) async fn check_rows(rows: &[(&[&str], bool)]) {
    let names: Vec<_> = rows.iter().map(|(answer, _)| answer.join(" | ")).collect();
    let cases = rows.iter().zip(&names).map(|((answer, stored), name)| {
        let second = get(answer);
        (name.as_str(), vec![get(answer), if *stored { second.stored(0) } else { second }])
    });
    check_sites(cases.collect()).await;
}

pub(crate) async fn check_with(cases: Vec<(&str, Vec<Ask>)>, settings: impl Fn(&mut Config)) {
    let mut wrong = Vec::new();
    for (name, asks) in cases {
        let script = asks.clone();
        let origin = Origin::start(move |_, head| answer(&script, head)).await;
        let mut config = config_site(&origin);
        config.timeouts.posted = SOON;
        settings(&mut config);
        let host = if config.sites.contains_key(OWN) { OWN.to_owned() } else { origin.address.to_string() };
        let proxy = alone(config).await;
        for (number, ask) in asks.iter().enumerate() {
            let response = play(Err(&proxy), &host, number, ask).await;
            wrong.extend(judged((name, number, ask), &response, &origin, &host));
            until(|| proxy.stats().flights == 0).await;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Plays all conversations at once against one proxy with one origin, each on a connection and about a host of its own, each request
/// as soon as the answer to the last one is there. Those that have to wait for what is renewed beside an answer are left out.
async fn check_at_once(cases: Vec<(&str, Vec<Ask>)>) {
    let waits = |ask: &Ask| ask.answer.to_ascii_lowercase().contains("stale-while-revalidate");
    let cases = cases.into_iter().filter(|(_, asks)| !asks.iter().any(waits));
    let cases: Vec<_> = cases.map(|(name, asks)| (name.to_owned(), asks)).collect();
    let scripts: Vec<_> = cases.iter().map(|(_, asks)| asks.clone()).collect();
    let script = move |head: &str| host(head).strip_prefix("case")?.split('.').next()?.parse::<usize>().ok();
    let origin =
        Arc::new(Origin::start(move |_, head| answer(script(head).map_or(&[], |at| &scripts[at]), head)).await);
    let mut config = config_site(&origin);
    config.timeouts.posted = SOON;
    let proxy = alone(config).await;
    let mut talks = JoinSet::new();
    for (at, (name, asks)) in cases.into_iter().enumerate() {
        let (origin, mut kept) = (Arc::clone(&origin), Kept::new(proxy.local_addrs()[0]));
        talks.spawn(async move {
            let (host, mut wrong) = (format!("case{at}.test"), Vec::new());
            for (number, ask) in asks.iter().enumerate() {
                let response = play(Ok(&mut kept), &host, number, ask).await;
                wrong.extend(judged((&name, number, ask), &response, &origin, &host));
            }
            wrong
        });
    }
    let wrong = talks.join_all().await.concat();
    assert!(wrong.is_empty(), "{} wrong at once:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with a response, if anything is.
fn judged((name, number, ask): (&str, usize, &Ask), response: &Response, origin: &Origin, of: &str) -> Option<String> {
    let heads = origin.heads();
    let head = heads.iter().rev().find(|head| asked(head) == Some(number) && host(head) == of);
    let why = judge(number, ask, response, head.map(String::as_str)).err()?;
    Some(format!("{name}: request {number}: {why}: {} {:?}", response.status, response.fields))
}

/// The host that the origin was asked for.
fn host(head: &str) -> String {
    head.to_ascii_lowercase().split("\r\nhost: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned()
}

fn asked(head: &str) -> Option<usize> {
    head.to_ascii_lowercase().split("\r\nnumber: ").nth(1)?.split("\r\n").next()?.parse().ok()
}

fn answer(script: &[Ask], head: &str) -> Vec<Do> {
    let number = asked(head).unwrap();
    let Some(ask) = script.get(number).filter(|ask| !ask.cut) else { return vec![Do::Close] };
    let bodiless = ask.answer.contains(" 304 ") || ask.answer.contains(" 204 ");
    let length = match ask.chunked {
        _ if bodiless || ask.unframed => String::new(),
        true => "Transfer-Encoding: chunked\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n", ask.body.len() + if ask.short { 1 } else { 0 }),
    };
    let body = match ask.chunked {
        _ if bodiless || head.starts_with("HEAD ") => String::new(),
        true => format!("{:x}\r\n{}\r\n{}", ask.body.len(), ask.body, if ask.short { "" } else { "0\r\n\r\n" }),
        false => ask.body.to_owned(),
    };
    let answer = format!("{}Served: {number}\r\n{length}\r\n{body}", ask.answer).replace("{host}", &host(head));
    let all = Do::Send(Bytes::from(answer));
    if ask.short || ask.unframed { vec![all, Do::Close] } else { vec![all] }
}

async fn play(to: Result<&mut Kept, &Proxy>, host: &str, number: usize, ask: &Ask) -> Response {
    let Ask { method, path, version, fields, .. } = ask;
    let closes = if to.is_err() { "Connection: close\r\n" } else { "" };
    let request = format!("{method} {path} {version}\r\nHost: {host}\r\n{closes}Number: {number}\r\n{fields}\r\n");
    let answer = match to {
        Ok(kept) => kept.exchange(request.as_bytes(), *method == "HEAD").await,
        Err(proxy) => exchange(proxy.local_addrs()[0], request.as_bytes()).await,
    };
    Response::read(&answer, *method == "HEAD")
}

/// A connection that is used as long as it lasts.
struct Kept {
    to: SocketAddr,
    stream: Option<TcpStream>,
}

impl Kept {
    const fn new(to: SocketAddr) -> Self {
        Self { to, stream: None }
    }

    /// Sends a request and reads until its answer is whole, or the other side closes.
    async fn exchange(&mut self, request: &[u8], head_only: bool) -> Vec<u8> {
        let asked = async {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => TcpStream::connect(self.to).await.unwrap(),
            };
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            loop {
                let read = stream.read_buf(&mut answer).await.unwrap_or(0);
                if read == 0 {
                    return (answer, None);
                }
                if answer.windows(4).any(|four| four == b"\r\n\r\n") {
                    let response = Response::read(&answer, head_only);
                    if response.complete {
                        let stays = response.field("connection").is_none_or(|it| !it.eq_ignore_ascii_case("close"));
                        return (answer, stays.then_some(stream));
                    }
                }
            }
        };
        let (answer, stream) = soon(asked).await;
        self.stream = stream;
        answer
    }
}

fn judge(number: usize, ask: &Ask, response: &Response, head: Option<&str>) -> Result<(), String> {
    let served = response.field("served");
    match ask.expect {
        Expect::Own if served != Some(number.to_string()) => return Err(format!("served {served:?}, not its own")),
        Expect::Stored(from) if served != Some(from.to_string()) => {
            return Err(format!("served {served:?}, not stored {from}"));
        }
        Expect::Status(status) if response.status != status => return Err(format!("not {status}")),
        Expect::Broken if response.complete && response.status < 500 => return Err("it is whole".to_owned()),
        Expect::Stored(_) if response.field("age").is_none() && head.is_none() => return Err("no Age".to_owned()),
        Expect::Own | Expect::Stored(_) | Expect::Status(_) | Expect::Broken => {}
    }
    if ask.code.is_some_and(|code| code != response.status) {
        return Err(format!("not {:?}", ask.code));
    }
    if let Some(least) = ask.aged {
        let age = response.field("age").and_then(|age| age.parse::<u64>().ok());
        if age.is_none_or(|age| age < least || age > least + SOON.as_secs()) {
            return Err(format!("the age is {age:?}, not {least}"));
        }
    }
    for (name, value) in &ask.has {
        if response.field(name).as_deref() != Some(value) {
            return Err(format!("{name} is not {value}"));
        }
    }
    for name in &ask.lacks {
        if response.field(name).is_some() {
            return Err(format!("{name} is there"));
        }
    }
    if let Some(body) = ask.given
        && response.body != body.as_bytes()
    {
        return Err(format!("the body is {:?}", String::from_utf8_lossy(&response.body)));
    }
    if let Some(parameters) = ask.told
        && !response.cache_status().contains(parameters)
    {
        return Err(format!("Cache-Status does not say {parameters}"));
    }
    let head = head.unwrap_or_default().to_ascii_lowercase();
    for line in &ask.saw {
        if !head.contains(&format!("\r\n{}\r\n", line.to_ascii_lowercase()))
            && !head.starts_with(&line.to_ascii_lowercase())
        {
            return Err(format!("the origin did not see {line}: {head}"));
        }
    }
    for text in &ask.unseen {
        if head.contains(&text.to_ascii_lowercase()) {
            return Err(format!("the origin saw {text}: {head}"));
        }
    }
    Ok(())
}

/// A site with a name to itself.
const OWN: &str = "own.test";
