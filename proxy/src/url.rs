//! URLs and names of origins, in their one normal form: what is fetched, and what is refused.

use std::{fmt, sync::Arc};

use atoll_overlay::Key;

/// How an origin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// In clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The port meant where none is named.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As written in a URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.name()))
    }
}

/// A host name with an optional port, normalised: lower case, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Reads `host`, `host:port`, `1.2.3.4:port` or `[v6]:port` (RFC 9112 3.2). Userinfo, lists, port 0, labels over 63 bytes,
    /// names over 253 bytes and bytes outside letters, digits, `-`, `_` and `.` are refused.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let malformed = || UrlError::Malformed(text.chars().take(64).collect());
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or_else(malformed)?;
            let (host, rest) = text.split_at_checked(end + 1).ok_or_else(malformed)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(malformed)?) })
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            // "host:" is allowed by RFC 3986 3.2.3 and means the default port.
            None | Some("") => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        let host = if host.starts_with('[') { literal(host).ok_or_else(malformed)? } else { normal_host(host)? };
        Ok(Self { host, port })
    }

    /// The name, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was written.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

/// A `[v6]` literal in its one normal text.
fn literal(host: &str) -> Option<String> {
    let inside = host.strip_prefix('[')?.strip_suffix(']')?;
    let address: std::net::Ipv6Addr = inside.parse().ok()?;
    Some(format!("[{address}]"))
}

/// A port: 1 to 65535, digits only.
pub(crate) fn parse_port(digits: &str) -> Result<u16, UrlError> {
    let port = if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse::<u16>().ok() } else { None };
    port.filter(|port| *port != 0).ok_or_else(|| UrlError::Port(digits.chars().take(16).collect()))
}

/// A host name in its normal form.
pub(crate) fn normal_host(host: &str) -> Result<String, UrlError> {
    let malformed = || UrlError::Malformed(host.chars().take(64).collect());
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(malformed());
    }
    if host.len() > HOST_LIMIT {
        return Err(UrlError::TooLong { length: host.len(), limit: HOST_LIMIT });
    }
    for label in host.split('.') {
        if label.is_empty() || !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(malformed());
        }
        if label.len() > LABEL_LIMIT {
            return Err(UrlError::TooLong { length: label.len(), limit: LABEL_LIMIT });
        }
    }
    Ok(host.to_ascii_lowercase())
}

/// A path, with its query if it has one, as origins are asked for it.
fn normal_path(path: &str) -> Result<String, UrlError> {
    let path = if path.is_empty() {
        "/".to_owned()
    } else if path.starts_with('?') {
        format!("/{path}")
    } else {
        path.to_owned()
    };
    if !path.starts_with('/') || !path.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        return Err(UrlError::Malformed(path.chars().take(64).collect()));
    }
    Ok(path)
}

/// What an origin is asked for: scheme, host, port, and path with query exactly as the client wrote them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginUrl(Arc<Parts>);

/// What a URL is made of. It is asked for its text and its key many times on the way of one request, and is copied as often.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
    /// The one form.
    text: String,
    key: Key,
}

impl OriginUrl {
    fn of(scheme: Scheme, host: String, port: u16, path: String) -> Self {
        let text = if port == scheme.port() {
            [scheme.name(), "://", &host, &path].concat()
        } else {
            format!("{}://{host}:{port}{path}", scheme.name())
        };
        let key = Key::of(text.as_bytes());
        Self(Arc::new(Parts { scheme, host, port, path, text, key }))
    }

    /// A URL of parts. The path begins with `/` and may carry a query; an empty one means `/`.
    pub fn new(scheme: Scheme, authority: &Authority, path: &str) -> Result<Self, UrlError> {
        let host = authority.host();
        let port = authority.port().unwrap_or_else(|| scheme.port());
        if is_literal(host) {
            return Err(UrlError::Literal(host.to_owned()));
        }
        if host.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
            return Err(UrlError::Malformed(host.to_owned()));
        }
        Ok(Self::of(scheme, host.to_owned(), port, normal_path(path)?))
    }

    /// An own site's URL: any host that clients may name, addresses too. `named`: the host alone says which site it is.
    pub(crate) fn of_site(scheme: Scheme, authority: &Authority, named: bool, path: &str) -> Result<Self, UrlError> {
        let port = authority.port().filter(|_| !named).unwrap_or_else(|| scheme.port());
        Ok(Self::of(scheme, authority.host().to_owned(), port, normal_path(path)?))
    }

    /// Reads `http://host:port/path?query`. A fragment is dropped: it is never sent.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let malformed = || UrlError::Malformed(text.chars().take(64).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        let scheme = Scheme::parse(scheme).ok_or_else(|| UrlError::Scheme(scheme.chars().take(16).collect()))?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or_else(malformed)?;
        Self::new(scheme, &Authority::parse(authority)?, path)
    }

    /// How it is spoken to.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// The host, lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The port, the scheme's own where none was written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Path and query, byte for byte as asked.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Host and port as a Host field says them: the port only where it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.0.port == self.0.scheme.port() {
            self.0.host.clone()
        } else {
            format!("{}:{}", self.0.host, self.0.port)
        }
    }

    /// The key of the object: SHA-1 of the URL in its one form.
    #[must_use]
    pub fn key(&self) -> Key {
        self.0.key
    }

    /// The same under https and its port, if this one is http on port 80.
    #[must_use]
    pub fn upgraded(&self) -> Option<Self> {
        (self.0.scheme == Scheme::Http && self.0.port == Scheme::Http.port())
            .then(|| Self::of(Scheme::Https, self.0.host.clone(), Scheme::Https.port(), self.0.path.clone()))
    }

    /// The same under the other scheme, where the port is the scheme's own.
    pub(crate) fn under_other_scheme(&self) -> Option<Self> {
        let scheme = if self.0.scheme == Scheme::Http { Scheme::Https } else { Scheme::Http };
        (self.0.port == self.0.scheme.port())
            .then(|| Self::of(scheme, self.0.host.clone(), scheme.port(), self.0.path.clone()))
    }

    /// This host with another path.
    pub(crate) fn with_path(&self, path: &str) -> Result<Self, UrlError> {
        Self::new(self.0.scheme, &Authority { host: self.0.host.clone(), port: Some(self.0.port) }, path)
    }

    /// What a reference in an answer of this URL means, if it lies on the same host, port and scheme \[RFC 3986 5.2.2\].
    pub(crate) fn joined(&self, reference: &str) -> Option<Self> {
        let path = self.path_of(reference)?;
        let path = if reference.starts_with('?') { path } else { without_dots(&path) };
        self.at(&path)
    }

    /// The same with the dots that it is spelled with: what clients ask for is known by their spelling.
    pub(crate) fn joined_as_spelled(&self, reference: &str) -> Option<Self> {
        self.at(&self.path_of(reference)?)
    }

    fn at(&self, path: &str) -> Option<Self> {
        Some(Self::of(self.0.scheme, self.0.host.clone(), self.0.port, normal_path(path).ok()?))
    }

    /// The path and query that a reference names, dots and all.
    fn path_of(&self, reference: &str) -> Option<String> {
        let reference = reference.split_once('#').map_or(reference, |(before, _)| before);
        let rest = reference.strip_prefix("//").or_else(|| {
            let (scheme, rest) = reference.split_once("://")?;
            scheme.eq_ignore_ascii_case(self.0.scheme.name()).then_some(rest)
        });
        Some(match rest {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at_checked(end)?;
                let authority = Authority::parse(authority).ok()?;
                let here = authority.host == self.0.host
                    && authority.port.unwrap_or_else(|| self.0.scheme.port()) == self.0.port;
                if !here {
                    return None;
                }
                path.to_owned()
            }
            None if reference.contains("://") || reference.is_empty() => return None,
            None if reference.starts_with('/') => reference.to_owned(),
            None => {
                let before = self.0.path.split('?').next().unwrap_or_default();
                let folder = before.rsplit_once('/').map_or("", |(folder, _)| folder);
                if reference.starts_with('?') {
                    format!("{before}{reference}")
                } else {
                    format!("{folder}/{reference}")
                }
            }
        })
    }

    /// The path form that every node and manager serves on its own address.
    #[must_use]
    pub fn manager_path(&self) -> String {
        format!("/~/{}/{}{}", self.0.scheme.name(), self.authority(), self.0.path)
    }

    /// The page in the manager form that a link was followed from, as `/~/SCHEME/HOST`: links relative to the root mean a path
    /// below it. None if `referer` is no such page of this authority.
    #[must_use]
    pub fn page_linking(referer: &str, here: &Authority) -> Option<String> {
        let referer: http::Uri = referer.parse().ok()?;
        if Authority::parse(referer.authority()?.as_str()).ok()? != *here {
            return None;
        }
        let url = Self::from_manager_path(referer.path())?.ok()?;
        Some(format!("/~/{}/{}", url.scheme().name(), url.authority()))
    }

    /// Reads what follows a node's address in the manager form, `/~/SCHEME/HOST[:PORT]/PATH?QUERY`.
    pub fn from_manager_path(path: &str) -> Option<Result<Self, UrlError>> {
        let rest = path.strip_prefix("/~/")?;
        let (scheme, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let Some(scheme) = Scheme::parse(scheme) else {
            return Some(Err(UrlError::Scheme(scheme.chars().take(16).collect())));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        Some(Authority::parse(authority).and_then(|authority| Self::new(scheme, &authority, path)))
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.text, f)
    }
}

/// A path as a client asks for it that was led there by a reference: dots in it lead up and away [RFC 3986 5.2.4].
fn without_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if parts.peek().is_none() {
                    kept.push("");
                }
            }
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

pub(crate) fn is_digits(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether clients or libraries would read the host as an address: brackets, or a last label that is a number in any base they
/// know. Public names never end so.
pub(crate) fn is_literal(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    host.starts_with('[')
        || is_digits(last)
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// What is wrong with a name or URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a name or URL at all.
    #[error("\"{0}\" is no valid name or URL")]
    Malformed(String),
    /// Neither http nor https.
    #[error("\"{0}\" is neither http nor https")]
    Scheme(String),
    /// Not a port.
    #[error("\"{0}\" is no port between 1 and 65535")]
    Port(String),
    /// The node part of a name is not `n-` and 40 hexadecimal digits.
    #[error("\"{0}\" names no node")]
    Node(String),
    /// An address in place of a name.
    #[error("{0} is an address or reads as one; origins are named")]
    Literal(String),
    /// The origin lies in our own zone.
    #[error("{0} is Coralized already")]
    Nested(String),
    /// A name or label does not fit DNS.
    #[error("{length} bytes where DNS allows {limit}; use the manager form")]
    TooLong {
        /// Bytes it would have.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The one-label form would be taken for punycode.
    #[error("the label {label} would be taken for punycode; use {dotted}")]
    FalsePunycode {
        /// The label.
        label: String,
        /// What to use instead.
        dotted: String,
    },
    /// Scheme and port that no name can say.
    #[error("no name can say this scheme and port; use {0}")]
    OnlyManager(String),
}

/// Bytes of a host name [RFC 1035 2.3.4], without the trailing dot.
const HOST_LIMIT: usize = 253;

/// Bytes of a label [RFC 1035 2.3.4].
pub(crate) const LABEL_LIMIT: usize = 63;

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
