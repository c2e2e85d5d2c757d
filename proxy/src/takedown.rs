//! What may not be served, by a list that the operator keeps in a file and that is read again when it changes: answered 451, with
//! who blocks it in Link (RFC 7725).
//!
//! A line is a host or the beginning of a URL, then, if wanted, the URL of who demanded or ordered it. `#` begins a comment.
//!
//! ```text
//! www.example.com                                   the whole host, any scheme and port
//! *.example.net                                     every host under it, and itself
//! example.org/leaked/ https://court.example/4711    all URLs of that host whose path begins so
//! http://example.org:8080/x                         this scheme and port only
//! ```
//!
//! Paths are compared as an origin may read them: percent-encodings decoded, dot segments and doubled slashes resolved, so that no
//! other spelling gets round the list.

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use http::{HeaderValue, Response, header};

use crate::{
    body::Body,
    deliver::refuse,
    reason::Failure,
    url::{Authority, OriginUrl, Scheme},
};

/// The list in force.
#[derive(Debug)]
pub(crate) struct Takedown {
    file: Option<PathBuf>,
    /// Who blocks where the list does not say.
    blocked_by: String,
    loaded: RwLock<Loaded>,
    /// Whether there is a line at all.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Loaded {
    list: Arc<List>,
    changed: Option<SystemTime>,
}

/// Its lines by host.
#[derive(Debug, Default, PartialEq, Eq)]
struct List {
    hosts: HashMap<String, Vec<Line>>,
    /// Those of every host under a domain.
    domains: HashMap<String, Vec<Line>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    scheme: Option<Scheme>,
    port: Option<u16>,
    /// Normal form; empty: every path.
    path: Vec<u8>,
    blocked_by: Option<String>,
}

/// What a line says that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} names no host or URL")]
pub(crate) struct BadLine(usize);

impl Takedown {
    /// Reads the file, which must be good if there is to be one.
    pub(crate) fn load(file: Option<&Path>, blocked_by: &str) -> std::io::Result<Self> {
        let loaded = file.map(read).transpose()?.unwrap_or_default();
        let any = AtomicBool::new(!loaded.list.is_empty());
        let (file, blocked_by) = (file.map(Path::to_owned), blocked_by.to_owned());
        Ok(Self { file, blocked_by, loaded: RwLock::new(loaded), any })
    }

    /// Reads the file again if it has changed; true if what it says is in force now. A bad one changes nothing.
    pub(crate) fn refresh(&self) -> bool {
        let Some(file) = &self.file else { return false };
        if changed(file) == self.loaded.read().unwrap_or_else(PoisonError::into_inner).changed {
            return false;
        }
        match read(file) {
            Ok(loaded) => {
                let any = !loaded.list.is_empty();
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                self.any.store(any, Ordering::Release);
                tracing::info!(file = %file.display(), "the takedown list was read again");
                true
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a changed takedown list cannot be used; the one before stays");
                false
            }
        }
    }

    /// Whether the file says what is in force.
    pub(crate) fn is_current(&self) -> bool {
        self.file
            .as_ref()
            .is_none_or(|file| changed(file) == self.loaded.read().unwrap_or_else(PoisonError::into_inner).changed)
    }

    /// Whether nothing is taken down.
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Whether a URL may not be served.
    pub(crate) fn blocks(&self, url: &OriginUrl) -> bool {
        !self.is_empty() && self.list().find(url).is_some()
    }

    /// The answer to a request for what may not be served.
    pub(crate) fn answer(&self, url: &OriginUrl) -> Option<Response<Body>> {
        if self.is_empty() {
            return None;
        }
        let list = self.list();
        let line = list.find(url)?;
        metrics::counter!("atoll_http_taken_down_total").increment(1);
        let mut response = refuse(Failure::TakenDown, "this may not be served here, for legal reasons", None);
        let by = line.blocked_by.as_deref().unwrap_or(&self.blocked_by);
        if !by.is_empty()
            && let Ok(link) = HeaderValue::try_from(format!("<{by}>; rel=\"blocked-by\""))
        {
            response.headers_mut().insert(header::LINK, link);
        }
        Some(response)
    }

    fn list(&self) -> Arc<List> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner).list)
    }
}

fn read(file: &Path) -> std::io::Result<Loaded> {
    let changed = changed(file);
    let size = std::fs::metadata(file)?.len();
    let invalid = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    if size > FILE {
        return Err(invalid(format!("it has {size} bytes, more than {FILE}")));
    }
    let list = List::parse(&std::fs::read_to_string(file)?).map_err(|error| invalid(error.to_string()))?;
    Ok(Loaded { list: Arc::new(list), changed })
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|about| about.modified()).ok()
}

impl List {
    fn parse(text: &str) -> Result<Self, BadLine> {
        let mut list = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                list.add(line).ok_or(BadLine(number))?;
            }
        }
        Ok(list)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let (prefix, by, None) = (words.next()?, words.next(), words.next()) else { return None };
        // It stands between < and > in a field.
        if by.is_some_and(|by| !by.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'>')) {
            return None;
        }
        let (scheme, rest) = match prefix.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return None,
            None => (None, prefix),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (authority, domain) = authority.strip_prefix("*.").map_or((authority, false), |rest| (rest, true));
        let authority = Authority::parse(authority).ok()?;
        let port = authority.port().or_else(|| scheme.map(Scheme::port));
        let path = if path.is_empty() { Vec::new() } else { normal(path.as_bytes()) };
        let line = Line { scheme, port, path, blocked_by: by.map(str::to_owned) };
        let place = if domain { &mut self.domains } else { &mut self.hosts };
        place.entry(authority.host().to_owned()).or_default().push(line);
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.domains.is_empty()
    }

    fn find(&self, url: &OriginUrl) -> Option<&Line> {
        let path = normal(url.path().as_bytes());
        let fits = |line: &&Line| {
            line.scheme.is_none_or(|scheme| scheme == url.scheme())
                && line.port.is_none_or(|port| port == url.port())
                && path.starts_with(&line.path)
        };
        let among = |lines: Option<&'_ Vec<Line>>| lines.and_then(|lines| lines.iter().position(|line| fits(&line)));
        if let Some(at) = among(self.hosts.get(url.host())) {
            return self.hosts.get(url.host())?.get(at);
        }
        let mut domain = url.host();
        loop {
            if let Some(at) = among(self.domains.get(domain)) {
                return self.domains.get(domain)?.get(at);
            }
            domain = domain.split_once('.')?.1;
        }
    }
}

/// A path with its query as an origin may read it.
fn normal(target: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(target.len());
    let mut rest = target;
    while let Some((first, after)) = rest.split_first() {
        let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = match (first, after) {
            (b'%', [high, low, more @ ..]) => hex(high).zip(hex(low)).map(|(high, low)| (high << 4 | low, more)),
            _ => None,
        };
        let (byte, after) = byte.unwrap_or((*first, after));
        decoded.push(if byte == b'\\' { b'/' } else { byte });
        rest = after;
    }
    let query = decoded.iter().position(|byte| *byte == b'?').unwrap_or(decoded.len());
    let (path, query) = decoded.split_at(query);
    let mut segments: Vec<&[u8]> = Vec::new();
    let folder = path.ends_with(b"/") || path.ends_with(b"/.") || path.ends_with(b"/..");
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut normal = Vec::with_capacity(decoded.len());
    for segment in &segments {
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if folder || segments.is_empty() {
        normal.push(b'/');
    }
    normal.extend_from_slice(query);
    normal
}

/// Bytes of the file: a hundred thousand lines and more.
const FILE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(list: &str, url: &str) -> bool {
        List::parse(list).unwrap().find(&OriginUrl::parse(url).unwrap()).is_some()
    }

    #[test]
    fn hosts_and_beginnings_of_urls_are_blocked_and_nothing_beside_them() {
        let list = "www.example.com\n*.example.net # all\nexample.org/leaked/ https://court.example/4711\nhttp://example.org:8080/x\n";
        for url in [
            "http://www.example.com/",
            "https://www.example.com:8443/a",
            "http://example.net/",
            "http://a.b.example.net/x",
            "http://example.org/leaked/",
            "https://example.org/leaked/a?b",
            "http://example.org:8080/xyz",
        ] {
            assert!(blocked(list, url), "{url}");
        }
        for url in [
            "http://example.com/",
            "http://notexample.net/",
            "http://example.org/leaked",
            "http://example.org/",
            "https://example.org:8080/x",
            "http://example.org/x",
        ] {
            assert!(!blocked(list, url), "{url}");
        }
    }

    #[test]
    fn no_other_spelling_of_a_path_gets_round_the_list() {
        for path in [
            "/leaked/a",
            "/%6ceaked/a",
            "//leaked/a",
            "/./leaked/a",
            "/x/../leaked/a",
            "/x/%2e%2E/leaked/a",
            "/leaked%2fa",
            "/x\\..\\leaked/a",
        ] {
            if let Ok(url) = OriginUrl::parse(&format!("http://example.org{path}")) {
                assert!(List::parse("example.org/leaked/").unwrap().find(&url).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn what_names_nothing_refuses_the_list_by_its_line() {
        for bad in ["a b c", "ftp://a.test/", "http://", "a.test <x>", "u@a.test"] {
            assert_eq!(List::parse(&format!("# fine\nb.test\n{bad}\n")), Err(BadLine(3)), "{bad}");
        }
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            normal(bytes);
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = List::parse(text);
            }
        });
    }

    #[test]
    fn a_changed_file_counts_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("takedown");
        std::fs::write(&file, "a.test\n").unwrap();
        let list = Takedown::load(Some(&file), "").unwrap();
        let blocks = |host: &str| list.blocks(&OriginUrl::parse(&format!("http://{host}/")).unwrap());
        let write = |text: &str, seconds: u64| {
            std::fs::write(&file, text).unwrap();
            let at = SystemTime::now() + std::time::Duration::from_secs(seconds);
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
        };
        assert!(blocks("a.test") && !blocks("b.test") && !list.refresh());
        write("b.test\n", 5);
        assert!(list.refresh() && blocks("b.test") && !blocks("a.test"));
        write("c d e\n", 10);
        assert!(!list.refresh() && blocks("b.test"));
    }
}
