//! The access log: one line for each answer to a client, written when its last byte is out or it is given up. A thread of its own
//! writes; when it cannot keep up, lines are dropped and counted, and no client waits. SIGUSR1 opens the file anew.
//!
//! | format | a line |
//! |---|---|
//! | `json` | an object: `time`, `client`, `method`, `host`, `target`, `version`, `status`, `bytes`, `seconds`, `complete`, `cache`, `agent`, `referer`, `trace`, `data` |
//! | `clf` | the combined format of Apache and nginx |
//! | `w3c` | W3C's extended format, its `#Fields` at the head of each file |
//!
//! `data` is what a client sent as `X-Minicdn-Data`, parsed where `X-Minicdn-Type` is `json`.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use serde_json::{Map, Value};

use crate::{
    clock,
    config::{AccessFormat, AccessLogConfig},
    deliver::CACHE_STATUS,
    plain::Plain,
    receive::TRACEPARENT,
};

/// Where lines go.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessFormat,
    to: SyncSender<Message>,
    dropped: AtomicU64,
}

enum Message {
    Line(String),
    Reopen,
}

impl AccessLog {
    /// Opens the file and starts the thread that writes to it. `None`: no log is wanted.
    pub(crate) fn open(config: &AccessLogConfig) -> io::Result<Option<Arc<Self>>> {
        let Some(path) = config.file.clone() else { return Ok(None) };
        let format = config.format;
        let file = begin(&path, format)?;
        let (to, lines) = sync_channel(config.waiting.max(1));
        std::thread::Builder::new().name("access log".to_owned()).spawn(move || write(file, &path, format, &lines))?;
        Ok(Some(Arc::new(Self { format, to, dropped: AtomicU64::new(0) })))
    }

    /// Has the file opened anew, after the lines before.
    pub(crate) fn reopen(&self) {
        // A thread that is this far behind opens it at the next signal.
        let _ = self.to.try_send(Message::Reopen);
    }

    fn send(&self, line: String) {
        if self.to.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("atoll_access_log_dropped_total").increment(1);
        }
    }
}

fn begin(path: &PathBuf, format: AccessFormat) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if format == AccessFormat::W3c && file.metadata()?.len() == 0 {
        file.write_all(W3C_HEAD.as_bytes())?;
    }
    Ok(file)
}

/// Writes until nobody is left to send.
fn write(mut file: File, path: &PathBuf, format: AccessFormat, lines: &Receiver<Message>) {
    let mut batch = String::new();
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        let mut reopen = false;
        loop {
            match next {
                Ok(Message::Line(line)) => batch.push_str(&line),
                Ok(Message::Reopen) => {
                    reopen = true;
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            if batch.len() > BATCH {
                break;
            }
            next = lines.try_recv();
        }
        if let Err(error) = file.write_all(batch.as_bytes()) {
            tracing::warn!(%error, file = %path.display(), "lines of the access log are lost");
        }
        batch.clear();
        if reopen {
            match begin(path, format) {
                Ok(opened) => file = opened,
                Err(error) => tracing::warn!(%error, file = %path.display(), "the access log could not be opened anew"),
            }
        }
    }
}

/// One request and what became of it.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<AccessLog>,
    began: Instant,
    client: Option<IpAddr>,
    method: Method,
    host: String,
    target: String,
    version: Version,
    fields: HeaderMap,
    status: StatusCode,
    cache: String,
    bytes: u64,
    complete: bool,
}

impl Entry {
    /// Begins with a request.
    pub(crate) fn of<B>(log: &Arc<AccessLog>, request: &Request<B>, client: Option<IpAddr>) -> Self {
        let mut fields = HeaderMap::new();
        for name in &LOGGED {
            if let Some(value) = request.headers().get(name) {
                fields.insert(name, value.clone());
            }
        }
        let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
        let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned));
        Self {
            log: Arc::clone(log),
            began: Instant::now(),
            client,
            method: request.method().clone(),
            host: host.unwrap_or_default(),
            target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            version: request.version(),
            fields,
            status: StatusCode::OK,
            cache: String::new(),
            bytes: 0,
            complete: false,
        }
    }

    /// Begins with a plain request that is answered out of RAM, with this said of the cache.
    pub(crate) fn of_plain(log: &Arc<AccessLog>, plain: &Plain<'_>, client: IpAddr, cache: String) -> Self {
        let mut fields = HeaderMap::new();
        for (name, value) in [(header::USER_AGENT, plain.agent), (header::REFERER, plain.referer)] {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                fields.insert(name, value);
            }
        }
        Self {
            log: Arc::clone(log),
            began: Instant::now(),
            client: Some(client),
            method: Method::GET,
            host: plain.host.to_owned(),
            target: plain.target.to_owned(),
            version: Version::HTTP_11,
            fields,
            status: StatusCode::OK,
            cache,
            bytes: 0,
            complete: false,
        }
    }

    /// A request that was refused before it was understood: what was read of its head, and the answer with so many bytes. What is
    /// no request line stands in the place of the target, as it came.
    pub(crate) fn of_refused(
        log: &Arc<AccessLog>,
        head: &[u8],
        client: IpAddr,
        (status, bytes): (StatusCode, usize),
    ) -> Self {
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let first = shown(lines.next().unwrap_or_default());
        let mut parts = first.split(' ');
        let line = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(method), Some(target), Some(_), None) => Method::from_bytes(method.as_bytes()).ok().zip(Some(target)),
            _ => None,
        };
        let (method, target) = line.map_or_else(
            || (Method::from_bytes(b"-").unwrap_or_default(), first.clone()),
            |(method, target)| (method, target.to_owned()),
        );
        let (mut fields, mut host) = (HeaderMap::new(), String::new());
        for line in lines.take(FIELDS_SHOWN) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"host") {
                host = shown(value);
            } else if let Some(name) = LOGGED.iter().find(|it| name.eq_ignore_ascii_case(it.as_str().as_bytes()))
                && let Ok(value) = http::HeaderValue::from_bytes(value)
            {
                fields.insert(name, value);
            }
        }
        Self {
            log: Arc::clone(log),
            began: Instant::now(),
            client: Some(client),
            method,
            host,
            target,
            version: Version::HTTP_11,
            fields,
            status,
            cache: String::new(),
            bytes: bytes as u64,
            complete: true,
        }
    }

    /// The head of the answer is known.
    pub(crate) fn answered(&mut self, status: StatusCode, fields: &HeaderMap) {
        self.status = status;
        let ours = fields.get_all(CACHE_STATUS).iter().next_back();
        self.cache = ours.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    }

    /// So much more of the body is on its way.
    pub(crate) fn sent(&mut self, count: usize) {
        self.bytes += count as u64;
    }

    /// All of the body is.
    pub(crate) fn completed(&mut self) {
        self.complete = true;
    }

    fn field(&self, name: &http::HeaderName) -> Option<&str> {
        self.fields.get(name).and_then(|value| value.to_str().ok())
    }

    fn line(&self) -> String {
        let now = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.log.format {
            AccessFormat::Json => self.json(now),
            AccessFormat::Clf => self.clf(now),
            AccessFormat::W3c => self.w3c(now),
        }
    }

    fn json(&self, now: Duration) -> String {
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| {
            line.insert(name.to_owned(), value);
        };
        put("time", humantime(now).into());
        put("client", self.client.map(|client| client.to_string()).into());
        put("method", self.method.as_str().into());
        put("host", self.host.as_str().into());
        put("target", self.target.as_str().into());
        put("version", format!("{:?}", self.version).into());
        put("status", self.status.as_u16().into());
        put("bytes", self.bytes.into());
        put("seconds", self.began.elapsed().as_secs_f64().into());
        put("complete", self.complete.into());
        put("cache", self.cache.as_str().into());
        for (name, field) in [("agent", header::USER_AGENT), ("referer", header::REFERER), ("trace", TRACEPARENT)] {
            if let Some(value) = self.field(&field) {
                put(name, value.into());
            }
        }
        if let Some(data) = self.field(&MINICDN_DATA) {
            let json = self.field(&MINICDN_TYPE).is_some_and(|kind| kind.eq_ignore_ascii_case("json"));
            // What does not parse is dropped, as MiniCDN did.
            match if json { serde_json::from_str(data).ok() } else { Some(data.into()) } {
                Some(value) => put("data", value),
                None => tracing::debug!("X-Minicdn-Data is not the JSON it says it is"),
            }
        }
        format!("{}\n", Value::Object(line))
    }

    fn clf(&self, now: Duration) -> String {
        let client = self.client.map_or_else(|| "-".to_owned(), |client| client.to_string());
        let quoted = |name| escaped(self.field(name).unwrap_or("-"));
        let (day, clock) = when(now);
        let [year, month, date] = day;
        let month = MONTHS.get(usize::try_from(month - 1).unwrap_or(0)).unwrap_or(&"Jan");
        format!(
            "{client} - - [{date:02}/{month}/{year}:{clock} +0000] \"{} {} {:?}\" {} {} \"{}\" \"{}\"\n",
            self.method,
            escaped(&self.target),
            self.version,
            self.status.as_u16(),
            self.bytes,
            quoted(&header::REFERER),
            quoted(&header::USER_AGENT)
        )
    }

    fn w3c(&self, now: Duration) -> String {
        let ([year, month, date], clock) = when(now);
        let word = |text: &str| if text.is_empty() { "-".to_owned() } else { escaped(text).replace(' ', "+") };
        format!(
            "{year}-{month:02}-{date:02} {clock} {} {} {} {} {} {} {:.3} {} {} {} {}\n",
            self.client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
            self.method,
            word(&self.host),
            word(&self.target),
            self.status.as_u16(),
            self.bytes,
            self.began.elapsed().as_secs_f64(),
            word(&self.cache),
            word(self.field(&header::USER_AGENT).unwrap_or_default()),
            word(self.field(&MINICDN_DATA).unwrap_or_default()),
            word(self.field(&MINICDN_TYPE).unwrap_or_default())
        )
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.send(self.line());
    }
}

/// The beginning of what may be no text.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..SHOWN).unwrap_or(bytes)).into_owned()
}

/// No quote, backslash or control byte of a client's ends a field of the line, or the line.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c == '"' || c == '\\' || c.is_control() || !c.is_ascii() {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
        out
    })
}

/// `2026-11-22T08:00:00.123Z`.
fn humantime(now: Duration) -> String {
    let ([year, month, day], clock) = when(now);
    format!("{year}-{month:02}-{day:02}T{clock}.{:03}Z", now.subsec_millis())
}

/// Year, month and day, and the time of day.
fn when(now: Duration) -> ([i64; 3], String) {
    let seconds = now.as_secs();
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * part + 2) / 5 + 1, if part < 10 { part + 3 } else { part - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let of_day = seconds % 86_400;
    ([year, month, day], format!("{:02}:{:02}:{:02}", of_day / 3_600, of_day / 60 % 60, of_day % 60))
}

const MINICDN_DATA: http::HeaderName = http::HeaderName::from_static("x-minicdn-data");
const MINICDN_TYPE: http::HeaderName = http::HeaderName::from_static("x-minicdn-type");

/// Of a request's fields, what a line may show.
static LOGGED: [http::HeaderName; 5] = [header::USER_AGENT, header::REFERER, TRACEPARENT, MINICDN_DATA, MINICDN_TYPE];

const W3C_HEAD: &str = "#Version: 1.0\n#Software: atoll\n#Fields: date time c-ip cs-method cs-host cs-uri sc-status sc-bytes time-taken x-cache cs(User-Agent) cs(X-Minicdn-Data) cs(X-Minicdn-Type)\n";

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Bytes of a refused request's line and host that a line shows.
const SHOWN: usize = 512;

/// Lines of it that are looked through.
const FIELDS_SHOWN: usize = 256;

/// Bytes written at a time, about.
const BATCH: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_dates() {
        assert_eq!(humantime(Duration::from_millis(784_111_777_042)), "1994-11-06T08:49:37.042Z");
        assert_eq!(humantime(Duration::from_secs(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(humantime(Duration::ZERO), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn no_client_writes_a_line_of_its_own() {
        assert_eq!(escaped("a\"b\\c\nd\u{e9}"), "a\\x22b\\x5Cc\\x0Ad\\xE9");
    }
}
