//! One connection: request after request, each answered whole before the next is read.
//!
//! ```text
//!   Link --bytes--> Head --> Asked --+--> get: store -> head and first bytes in one write, then the rest
//!                                    +--> put: body -> store (or counted and dropped)
//!                                    +--> delete, progress, or a line that says what is wrong
//! ```
//!
//! A request that is understood but wrong is answered, its body read and dropped, and the connection goes on. Only what leaves
//! the next request's begin uncertain ends it: a malformed head, a chunked body (which is answered 411), a body too long to
//! drop, a client past its deadline.

use std::{
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};

use atoll_store::{Head as ObjectHead, Object, Tags};
use bytes::Bytes;
use tokio::net::TcpStream;

use super::{
    access_log::{Gathered, Line},
    answer::{Out, Status, Told},
    conditions::{Part, part},
    head::{Expect, Head, HeadLimits, Malformed},
    link::{Link, Watches},
    meta::{Draft, Meta},
    service::{Service, refusal},
    target::{Asked, Name, Refused},
};

/// See the file's head.
pub(super) struct Connection {
    link: Link,
    head: Head,
    out: Out,
    service: Arc<Service>,
    log: Option<Arc<Gathered>>,
    said: Said,
}

/// What the access log repeats of a request.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    uri: usize,
    client_ext: usize,
}

/// How a request ended.
struct Done {
    status: u16,
    error: &'static str,
    tier: &'static str,
    purge: Option<u64>,
    next: Next,
}

/// What follows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    /// The end, once the client has read the answer.
    Close,
    /// Nothing: the client is gone, or was cut off.
    Gone,
}

impl Connection {
    /// Takes a stream that was just accepted.
    pub(super) fn new(
        stream: TcpStream,
        service: Arc<Service>,
        watches: &Arc<Watches>,
        log: Option<Arc<Gathered>>,
    ) -> Self {
        let link = Link::new(stream, watches);
        Self { link, head: Head::default(), out: Out::default(), service, log, said: Said::default() }
    }

    /// Serves it to its end.
    pub(super) async fn serve(mut self) {
        self.link.settle().await;
        // One handle a connection: a count that all cores share is not touched for each request.
        let service = Arc::clone(&self.service);
        let mut wait = service.config.head_timeout;
        loop {
            self.link.within(wait);
            match self.read_head().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(malformed) => return self.give_up(malformed).await,
            }
            self.link.at_work();
            match self.request(&service).await {
                Next::Request => wait = service.config.idle_timeout,
                Next::Close => return self.link.linger().await,
                Next::Gone => return,
            }
        }
    }

    /// Reads the next head; false if there is none.
    async fn read_head(&mut self) -> Result<bool, Malformed> {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let config = &self.service.config;
        let limits = HeadLimits { bytes: size(config.head_limit.0), fields: config.field_limit };
        let head_timeout = config.head_timeout;
        (self.link.received, self.link.sent) = (self.link.unused().len() as u64, 0);
        if self.link.unused().starts_with(b"\r\n") {
            self.link.use_up(2);
        }
        let mut seen = 0;
        loop {
            if !self.link.unused().is_empty() {
                if self.head.read(self.link.unused(), seen, limits)? {
                    self.link.set_idle(false);
                    return Ok(true);
                }
                if seen == 0 {
                    self.link.set_idle(false);
                    self.link.within(head_timeout);
                }
                seen = self.link.unused().len();
            } else {
                self.link.set_idle(true);
            }
            match self.link.read_more(limits.bytes).await {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut && seen > 0 => {
                    return Err(Malformed { status: Status::TIMEOUT, line: "the request head took too long" });
                }
                Ok(0) | Err(_) => return Ok(false),
            }
        }
    }

    /// Answers what cannot be understood, and ends.
    async fn give_up(mut self, Malformed { status, line }: Malformed) {
        self.link.within(self.service.config.body_timeout);
        let now = SystemTime::now();
        Told::new(status, line).write(&mut self.out, now, false, false, false);
        let written = self.link.write(self.out.bytes(), &[]).await;
        let error = line;
        self.said = Said::default();
        self.log_line(
            now,
            Instant::now(),
            &Done { status: status.code, error, tier: "", purge: None, next: Next::Close },
        );
        if written.is_ok() {
            self.link.linger().await;
        }
    }

    /// Answers the request whose head was read.
    async fn request(&mut self, service: &Service) -> Next {
        let (started, now) = (Instant::now(), SystemTime::now());
        let asked = self.asked();
        if self.log.is_some() {
            self.keep_for_log();
        }
        let done = match asked {
            Ok(Asked::Get { name, head_only }) => self.get(service, name, head_only, now).await,
            Ok(Asked::Put { name, tags, expire }) => {
                let expires = service.expires(now, expire);
                self.put(service, name, tags, expires, now).await
            }
            Ok(Asked::Delete(deletion)) => {
                let (told, purge) = service.delete(deletion).await;
                Done { purge, ..self.tell(&told, now).await }
            }
            Ok(Asked::Progress { number, .. }) => {
                let told = service.progress(number);
                self.tell(&told, now).await
            }
            Err(told) => self.tell(&told, now).await,
        };
        self.log_line(now, started, &done);
        self.out.shrink();
        done.next
    }

    /// What the request asks, or what is wrong with it.
    fn asked(&self) -> Result<Asked, Told> {
        let bytes = self.link.unused();
        if self.head.hosts != 1 && !self.head.old {
            return Err(Told::new(Status::BAD_REQUEST, "one Host header is needed"));
        }
        if self.head.expect == Expect::Unknown && !self.head.old {
            return Err(Told::new(Status::EXPECTATION_FAILED, "only 100-continue can be expected here"));
        }
        let asked = Asked::read(&bytes[self.head.method.clone()], &bytes[self.head.target.clone()]);
        let asked = asked.map_err(|Refused { status, line }| Told::new(status, line))?;
        if matches!(asked, Asked::Put { .. }) {
            let limit = self.service.config.object_limit.0;
            match self.head.body {
                None => return Err(Told::new(Status::LENGTH_REQUIRED, "a PUT needs a Content-Length")),
                Some(length) if length > limit => {
                    let line = format!("an object of {length} bytes is over the limit of {limit}");
                    return Err(Told::new(Status::TOO_LARGE, line));
                }
                Some(_) => {}
            }
        }
        Ok(asked)
    }

    async fn get(&mut self, service: &Service, name: Name, head_only: bool, now: SystemTime) -> Done {
        let found = service.store.get(&name.key()).await;
        let Some((object, meta)) = found.as_ref().and_then(|it| Some((it, Meta::read(&it.head().metadata)?))) else {
            return self.tell(&service.absent(), now).await;
        };
        let whole = object.len();
        let part = part(&self.head, self.link.unused(), head_only, &meta, whole);
        let (status, from, length) = match part {
            Part::Whole => (Status::OK, 0, whole),
            Part::Range { first, last } => (Status::PARTIAL, first, last - first + 1),
            Part::NotModified => (Status::NOT_MODIFIED, 0, 0),
            Part::Failed => {
                let told = Told::new(Status::PRECONDITION_FAILED, "the object is another than the one that is meant");
                return self.tell(&told, now).await;
            }
            Part::Unsatisfiable => {
                let told = Told::new(Status::RANGE, format!("the object has {whole} bytes"));
                let told = told.with("Content-Range", format!("bytes */{whole}"));
                return self.tell(&told, now).await;
            }
        };
        let first = if head_only || length == 0 { Ok(Bytes::new()) } else { object.read(from, most(length)).await };
        let first = match first {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!(%error, ?name, "an object could not be read");
                return self.tell(&service.absent(), now).await;
            }
        };
        let keep = self.goes_on();
        self.out.begin(status, now).raw(meta.validators);
        if status != Status::NOT_MODIFIED {
            self.out.raw(meta.others).field("Content-Length", length).text("Accept-Ranges: bytes\r\n");
        }
        if status == Status::PARTIAL {
            self.out.text("Content-Range: bytes ").number(from).text("-").number(from + length - 1);
            self.out.text("/").number(whole).text("\r\n");
        }
        let tier = service.tell_hit(&mut self.out, object, now);
        self.out.end(self.head.old, keep);
        self.link.within(service.config.body_span(length));
        let sent = self.send(object, first, from, if head_only { 0 } else { length }).await;
        let next = match sent {
            Ok(()) => self.after(keep, 0).await,
            Err(_) => Next::Gone,
        };
        Done { status: status.code, error: sent.err().unwrap_or_default(), tier, purge: None, next }
    }

    /// Sends the head and `length` bytes of an object, of which `first` are read already. The error is for the log.
    async fn send(&mut self, object: &Object, first: Bytes, from: u64, length: u64) -> Result<(), &'static str> {
        self.link.write(self.out.bytes(), &first).await.map_err(|error| blame(&error))?;
        let mut sent = first.len() as u64;
        drop(first);
        while sent < length {
            let chunk = match object.read(from + sent, most(length - sent)).await {
                Ok(chunk) if !chunk.is_empty() => chunk,
                // The client sees a body that is too short, never a wrong byte.
                Ok(_) => return Err("object-lost"),
                Err(error) => {
                    tracing::warn!(%error, "an object could not be read to its end");
                    return Err("object-lost");
                }
            };
            self.link.write(&[], &chunk).await.map_err(|error| blame(&error))?;
            sent += chunk.len() as u64;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        service: &Service,
        name: Name,
        tags: Tags,
        expires: Option<SystemTime>,
        now: SystemTime,
    ) -> Done {
        let length = self.head.body.unwrap_or_default();
        // What is deleted from here on deletes also this.
        let born = service.store.purge_number();
        let draft = Draft::of(&self.head, self.link.unused(), &service.dropped, now);
        let admitted = service.admits(name).await;
        self.link.within(service.config.body_span(length));
        if let Err(error) = self.ask_for_body(length).await {
            return gone(&error);
        }
        if !admitted {
            if let Err(error) = self.link.skip_body(length).await {
                return gone(&error);
            }
            service.admission.note(&name.key());
            let (count, needed) = (service.admission.count(&name.key()), service.admission.needed());
            let told = Told::new(Status::ACCEPTED, format!("PUT {count} of {needed}: not kept yet"));
            return self.answered(&told, now, 0).await;
        }
        let metadata = Bytes::new();
        let head =
            ObjectHead { key: name.key(), directory: name.dir, tags, expires, metadata, length: Some(length), born };
        let mut writer = match service.store.writer(head) {
            Ok(writer) => writer,
            Err(error) => return self.answered(&refusal(&error), now, length).await,
        };
        let mut hasher = draft.needs_etag().then(blake3::Hasher::new);
        let mut left = length;
        while left > 0 {
            let chunk = match self.link.read_body(most(left).min(CHUNK)).await {
                Ok(chunk) => chunk,
                Err(error) => return gone(&error),
            };
            left -= chunk.len() as u64;
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            if let Err(error) = writer.append(chunk).await {
                return self.answered(&refusal(&error), now, left).await;
            }
        }
        let digest = hasher.map(|hasher| hasher.finalize().to_hex()).unwrap_or_else(|| blake3::hash(&[]).to_hex());
        let metadata = draft.finish(&digest[..ETAG_DIGITS]);
        let replaced = service.holds(name).await;
        let told = match writer.commit(Some(metadata.clone())).await {
            Ok(_) if replaced => Told::new(Status::NO_CONTENT, ""),
            Ok(_) => Told::new(Status::CREATED, format!("stored {length} bytes")),
            Err(error) => return self.answered(&refusal(&error), now, 0).await,
        };
        service.admission.forget(&name.key());
        let etag = Meta::read(&metadata).map(|meta| String::from_utf8_lossy(meta.etag).into_owned());
        self.answered(&told.with("ETag", etag.unwrap_or_default()), now, 0).await
    }

    /// Tells a client that waits for it to send its body; the head is used up.
    async fn ask_for_body(&mut self, length: u64) -> io::Result<()> {
        self.link.use_up(self.head.length);
        let waits = self.head.expect == Expect::Continue && !self.head.old;
        if waits && length > 0 && self.link.unused().is_empty() {
            self.out.go_on();
            self.link.write(self.out.bytes(), &[]).await?;
        }
        Ok(())
    }

    /// Answers a request whose body, if it has one, was not read.
    async fn tell(&mut self, told: &Told, now: SystemTime) -> Done {
        let bytes = self.link.unused();
        let head_only = &bytes[self.head.method.clone()] == b"HEAD";
        let keep = self.goes_on();
        told.write(&mut self.out, now, self.head.old, keep, head_only);
        self.link.within(self.service.config.body_timeout);
        let written = self.link.write(self.out.bytes(), &[]).await;
        let next = match written {
            Ok(()) => self.after(keep, 0).await,
            Err(_) => Next::Gone,
        };
        Done { status: told.status.code, error: error_of(told), tier: "", purge: None, next }
    }

    /// Answers a PUT whose head is used up and of whose body so many bytes were not read.
    async fn answered(&mut self, told: &Told, now: SystemTime, left: u64) -> Done {
        let keep = self.head.keep_alive && !self.link.draining() && left <= self.service.config.skip_limit.0;
        told.write(&mut self.out, now, self.head.old, keep, false);
        let written = self.link.write(self.out.bytes(), &[]).await;
        let next = match written {
            Ok(()) if keep => self.skip(left).await,
            Ok(()) => Next::Close,
            Err(_) => Next::Gone,
        };
        Done { status: told.status.code, error: error_of(told), tier: "", purge: None, next }
    }

    /// Whether another request can follow one whose body is not wanted.
    fn goes_on(&self) -> bool {
        let length = self.head.body.unwrap_or_default();
        // Told at once, a client that asked first may send its body or not: nobody knows what its next byte is.
        let unsure = self.head.expect == Expect::Continue && self.link.unused().len() == self.head.length;
        let skippable = length <= self.service.config.skip_limit.0 && !self.head.chunked && (length == 0 || !unsure);
        self.head.keep_alive && !self.link.draining() && skippable
    }

    /// Uses the head up and drops the body that is not wanted.
    async fn after(&mut self, keep: bool, used: u64) -> Next {
        self.link.use_up(self.head.length);
        if !keep {
            return Next::Close;
        }
        self.skip(self.head.body.unwrap_or_default().saturating_sub(used)).await
    }

    async fn skip(&mut self, length: u64) -> Next {
        if length == 0 {
            return Next::Request;
        }
        self.link.within(self.service.config.body_span(length));
        match self.link.skip_body(length).await {
            Ok(()) => Next::Request,
            Err(_) => Next::Gone,
        }
    }

    fn keep_for_log(&mut self) {
        let bytes = self.link.unused();
        let said = &mut self.said;
        said.bytes.clear();
        said.bytes.extend_from_slice(&bytes[self.head.method.clone()]);
        said.uri = said.bytes.len();
        said.bytes.extend_from_slice(&bytes[self.head.target.clone()]);
        said.client_ext = said.bytes.len();
        let name = &self.service.log_header;
        if let Some(value) = self.head.value(bytes, name).filter(|_| !name.is_empty()) {
            said.bytes.extend_from_slice(value);
        }
    }

    fn log_line(&self, now: SystemTime, started: Instant, done: &Done) {
        let Some(log) = &self.log else { return };
        let (method, rest) = self.said.bytes.split_at(self.said.uri);
        let (uri, client_ext) = rest.split_at(self.said.client_ext - self.said.uri);
        log.add(&Line {
            time: super::answer::unix_seconds(now),
            cost_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            method,
            uri,
            status: done.status,
            received: self.link.received,
            sent: self.link.sent,
            error: done.error,
            server_ext: done.tier,
            purge: done.purge,
            client_ext,
        });
    }
}

/// A request that ended with its client.
fn gone(error: &io::Error) -> Done {
    Done { status: CLIENT_GONE, error: blame(error), tier: "", purge: None, next: Next::Gone }
}

/// Why a client's stream failed, in a word for the log.
fn blame(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::TimedOut { "too-slow" } else { "client-gone" }
}

/// What the log says of an answer beside its status.
fn error_of(told: &Told) -> &'static str {
    match told.status {
        Status::OK | Status::CREATED | Status::ACCEPTED | Status::NO_CONTENT | Status::NOT_FOUND => "",
        Status::INSUFFICIENT_STORAGE => "no-room",
        _ => "refused",
    }
}

fn most(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Bytes of a body that are read at once: what the store keeps in one piece.
const CHUNK: usize = 64 << 10;

/// Digits of an entity tag that is made of the body.
const ETAG_DIGITS: usize = 32;

/// In the log: no status was sent.
const CLIENT_GONE: u16 = 499;
