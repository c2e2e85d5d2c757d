//! Names: the Coralized forms of an origin's URL and the way back.
//!
//! With the zone `nyud.example`:
//!
//! | form | example | stands for |
//! |---|---|---|
//! | dotted | `www.example.com.nyud.example` | `http://www.example.com/` |
//! | with port | `www.example.com.8080.nyud.example` | `http://www.example.com:8080/`; 443 stands for https |
//! | one label | `www-example-com.nyud.example` | the dotted form with `.` as `-` and `-` as `--` |
//! | one node | `FORM.n-ID.nyud.example` | the same, asked of one node |
//! | manager | `/~/https/www.example.com:8443/x` | any scheme, host and port |
//!
//! A port is a last label of digits, which no public name ends in. A run of hyphens in a one-label name is one dot (length 1) or
//! half as many hyphens (even length); other lengths mean labels that begin or end in a hyphen and are refused. A host of one
//! label has only the one-label form.

use atoll_overlay::{Key, NodeId};

use crate::url::{LABEL_LIMIT, OriginUrl, Scheme, UrlError, is_digits, is_literal, normal_host, parse_port};

/// A zone: the suffix that makes a name Coralized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    suffix: String,
}

/// What a host name under the zone stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coralized {
    /// The origin's host.
    pub host: String,
    /// The port label, if there was one.
    pub port: Option<u16>,
    /// The node that was meant, if the name says one.
    pub node: Option<NodeId>,
}

/// All the ways to write one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forms {
    /// Labels kept: any depth, no wildcard certificate covers it.
    pub dotted: Result<String, UrlError>,
    /// One label: what a wildcard certificate covers.
    pub one_label: Result<String, UrlError>,
    /// The path that any node serves on its own address.
    pub manager: String,
}

impl Zone {
    /// The zone of this name.
    pub fn new(name: &str) -> Result<Self, UrlError> {
        Ok(Self { suffix: normal_host(name)? })
    }

    /// Its name, lower case, without dots around it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.suffix
    }

    /// What a host under the zone stands for. `None`: the host is the zone itself or lies elsewhere.
    pub fn decode(&self, host: &str) -> Option<Result<Coralized, UrlError>> {
        let inner = host.strip_suffix(self.suffix.as_str())?.strip_suffix('.')?;
        Some(self.decode_inner(inner))
    }

    fn decode_inner(&self, inner: &str) -> Result<Coralized, UrlError> {
        let (inner, node) = match inner.rsplit_once('.') {
            Some((rest, last)) if last.starts_with(NODE_MARK) => {
                let id = last.strip_prefix(NODE_MARK).and_then(|id| id.parse::<Key>().ok());
                (rest, Some(NodeId::from(id.ok_or_else(|| UrlError::Node(last.to_owned()))?)))
            }
            Some(_) | None => (inner, None),
        };
        let name = if inner.contains('.') { inner.to_owned() } else { from_label(inner)? };
        let (host, port) = match name.rsplit_once('.') {
            Some((host, last)) if is_digits(last) => (host.to_owned(), Some(parse_port(last)?)),
            Some(_) | None => (name, None),
        };
        let host = normal_host(&host)?;
        if self.covers(&host) {
            return Err(UrlError::Nested(host));
        }
        if is_literal(&host) {
            return Err(UrlError::Literal(host));
        }
        if inner.contains('.') && !host.contains('.') && host.contains('-') {
            return Err(UrlError::Malformed(host));
        }
        Ok(Coralized { host, port, node })
    }

    /// Whether a host is the zone or lies under it.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        host.strip_suffix(self.suffix.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name that stands for a URL's host: dotted, or one label where the host has but one.
    pub fn host(&self, url: &OriginUrl) -> Result<String, UrlError> {
        let inner = self.inner(url)?;
        self.under(&if url.host().contains('.') { inner } else { to_label(&inner) })
    }

    /// The name in its one-label form.
    pub fn one_label(&self, url: &OriginUrl) -> Result<String, UrlError> {
        let label = to_label(&self.inner(url)?);
        // A label "xn--..." is read as punycode by every client; only a host that is punycode itself may look like it.
        if label.starts_with("xn--") && !url.host().starts_with("xn--") {
            return Err(UrlError::FalsePunycode { label, dotted: self.host(url)? });
        }
        if label.len() > LABEL_LIMIT {
            return Err(UrlError::TooLong { length: label.len(), limit: LABEL_LIMIT });
        }
        self.under(&label)
    }

    /// A URL's name at one node alone.
    pub fn at_node(&self, url: &OriginUrl, node: NodeId) -> Result<String, UrlError> {
        let inner = self.inner(url)?;
        let inner = if url.host().contains('.') { inner } else { to_label(&inner) };
        self.under(&format!("{inner}.{NODE_MARK}{node}"))
    }

    /// Every form of a URL, whole.
    #[must_use]
    pub fn forms(&self, url: &OriginUrl) -> Forms {
        let whole = |host: String| format!("http://{host}{}", url.path());
        Forms {
            dotted: self.host(url).map(whole),
            one_label: self.one_label(url).map(whole),
            manager: url.manager_path(),
        }
    }

    /// The origin host with its port label.
    fn inner(&self, url: &OriginUrl) -> Result<String, UrlError> {
        if self.covers(url.host()) {
            return Err(UrlError::Nested(url.host().to_owned()));
        }
        match (url.scheme(), url.port()) {
            (Scheme::Http, 80) => Ok(url.host().to_owned()),
            // The label 443 means https, so plain http there has no name.
            (Scheme::Https, 443) => Ok(format!("{}.443", url.host())),
            (Scheme::Http, port) if port != 443 => Ok(format!("{}.{port}", url.host())),
            (Scheme::Http | Scheme::Https, _) => Err(UrlError::OnlyManager(url.manager_path())),
        }
    }

    fn under(&self, inner: &str) -> Result<String, UrlError> {
        normal_host(&format!("{inner}.{}", self.suffix))
    }
}

/// `.` as `-` and `-` as `--`.
fn to_label(name: &str) -> String {
    name.replace('-', "--").replace('.', "-")
}

/// The way back from one label.
fn from_label(label: &str) -> Result<String, UrlError> {
    let mut name = String::with_capacity(label.len());
    let mut rest = label;
    while let Some(start) = rest.find('-') {
        let (before, from) = rest.split_at(start);
        let run = from.len() - from.trim_start_matches('-').len();
        name.push_str(before);
        match run {
            1 => name.push('.'),
            even if even % 2 == 0 => name.extend(std::iter::repeat_n('-', even / 2)),
            _ => return Err(UrlError::Malformed(label.to_owned())),
        }
        rest = from.trim_start_matches('-');
    }
    name.push_str(rest);
    Ok(name)
}

/// Begins the label that names a node.
const NODE_MARK: &str = "n-";
