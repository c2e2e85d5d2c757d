//! The one backend that a manager and its peers stand before, and how a client's request becomes one of the proxy's: the proxy knows
//! the backend as an own site under a name that follows from its URL, so that all nodes of the network mean the same object by
//! the same key, whatever address the client used.

use atoll_overlay::Key;
use atoll_proxy::{Ahead, Authority, Front, Ranges, Site as ProxySite, SiteOrigin};
use http::{HeaderMap, HeaderValue, Request, Uri, header};

/// A backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// `http://host:port`, lower case, no slash.
    origin: String,
    /// What stands before every path: "" or `/dir`.
    base: String,
    /// Host and port as a Host field says them.
    host: String,
    /// The proxy's own name for it.
    name: String,
    /// The machine on which alone its URL means it, "" if it means the same everywhere.
    place: String,
    /// What is dialled in its place.
    via: Option<String>,
}

impl Site {
    /// The backend of a URL such as `http://10.0.0.5:8080` or `https://files.example.org/pub`. Says what is wrong with others.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{url:?} is no origin: {why}, such as http://127.0.0.1:8000");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("write it with its scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(wrong("only http and https are spoken"));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let base = path.trim_end_matches('/');
        if !base.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !b"?#".contains(&byte)) {
            return Err(wrong("its path may hold no query and only printable characters"));
        }
        let authority = Authority::parse(authority).map_err(|error| wrong(&error.to_string()))?;
        let port = authority.port().map_or_else(String::new, |port| format!(":{port}"));
        let host = format!("{}{port}", authority.host());
        let origin = format!("{scheme}://{host}");
        // The same backend under another base is another site: their paths differ in meaning.
        let name = named(&format!("{origin}{base}"));
        Ok(Self { origin, base: base.to_owned(), host, name, place: String::new(), via: None })
    }

    /// The same, whose URL means something else on every machine, as `http://127.0.0.1:8000` does: the one on this machine. Managers
    /// on two machines may share one network. "" is everywhere.
    pub(crate) fn on(mut self, place: &str) -> Self {
        let url = self.url();
        self.name = if place.is_empty() { named(&url) } else { named(&format!("{url} {place}")) };
        place.clone_into(&mut self.place);
        self
    }

    /// See [`Self::on`].
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The URL it was made of, in its one form.
    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.origin, self.base)
    }

    /// The same, dialled at another `HOST:PORT`, which carries bytes to it. Only for http: a certificate is for its host.
    pub(crate) fn via(mut self, place: &str) -> Self {
        let http = self.origin.starts_with("http:") && !place.is_empty();
        self.via = http.then(|| format!("http://{place}"));
        self
    }

    /// Host and port to connect to.
    pub(crate) fn dialled(&self) -> String {
        let has_port =
            self.host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let scheme = if self.origin.starts_with("https:") { 443 } else { 80 };
        if has_port { self.host.clone() } else { format!("{}:{scheme}", self.host) }
    }

    /// The proxy's name for it, and what the proxy is told.
    pub(crate) fn configured(&self) -> (String, ProxySite) {
        let origin = SiteOrigin::One(self.via.as_ref().unwrap_or(&self.origin).clone());
        (
            self.name.clone(),
            ProxySite { origin, host: Some(self.host.clone()), ranges: Ranges::Whole, ..ProxySite::default() },
        )
    }

    /// A front that stands before it.
    pub(crate) fn ahead(&self, front: Box<dyn Front>) -> Ahead {
        Ahead { host: self.name.clone(), base: self.base.clone(), front }
    }

    /// The proxy's request for a path and query of this site. None if these cannot be handed on.
    pub(crate) fn request(&self, target: &str, client: &Request<impl Sized>) -> Option<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = client.method().clone();
        *request.uri_mut() = format!("{}{target}", self.base).parse::<Uri>().ok()?;
        *request.headers_mut() = client.headers().clone();
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&self.name).ok()?);
        Some(request)
    }

    /// A GET of a path and query of this site, by nobody.
    pub(crate) fn get(&self, target: &str) -> Option<Request<()>> {
        self.request(target, &Request::new(()))
    }

    /// Turns redirects of the backend to itself into ones to whoever was asked: a client that follows stays with the CDN.
    pub(crate) fn turn(&self, fields: &mut HeaderMap) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(target) = fields.get(&name).and_then(|value| value.to_str().ok()) else { continue };
            let path =
                if target.starts_with('/') && !target.starts_with("//") { Some(target) } else { self.inside(target) };
            let turned = path.and_then(|path| {
                let rest = path.strip_prefix(self.base.as_str())?;
                let rooted = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
                (self.base.is_empty() || rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rooted)
            });
            if let Some(turned) = turned.and_then(|turned| HeaderValue::try_from(turned).ok()) {
                fields.insert(name, turned);
            }
        }
    }

    /// The path of an absolute URL of this backend.
    fn inside<'t>(&self, target: &'t str) -> Option<&'t str> {
        let head = target.get(..self.origin.len())?;
        let rest = target.get(self.origin.len()..)?;
        (head.eq_ignore_ascii_case(&self.origin) && (rest.is_empty() || rest.starts_with(['/', '?']))).then_some(rest)
    }
}

/// The proxy's own name for what this text stands for.
fn named(text: &str) -> String {
    let mut name = Key::of(text.as_bytes()).to_string();
    name.truncate(20);
    format!("o{name}.origin.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_the_sites_own_byte_for_byte() {
        let site = Site::parse("HTTP://Files.test:8000/pub/").unwrap();
        assert_eq!(site.url(), "http://files.test:8000/pub");
        let client =
            Request::get("/ignored").header("host", "manager:5000").header("range", "bytes=0-1").body(()).unwrap();
        let request = site.request("/a%2Fb/..//c;d?x=%20&y", &client).unwrap();
        assert_eq!(request.uri(), "/pub/a%2Fb/..//c;d?x=%20&y");
        assert_eq!(request.headers()[header::HOST], site.configured().0);
        assert_eq!(request.headers()["range"], "bytes=0-1");
        assert_eq!(site.configured().1.host.as_deref(), Some("files.test:8000"));
    }

    #[test]
    fn two_backends_never_share_a_name() {
        let name = |url: &str| Site::parse(url).unwrap().name;
        let all = ["http://a.test", "https://a.test", "http://a.test:8000", "http://a.test/b", "http://127.0.0.1:1"];
        let names: std::collections::BTreeSet<String> = all.iter().map(|url| name(url)).collect();
        assert_eq!(names.len(), all.len());
        let on = |place: &str| Site::parse("http://127.0.0.1:8000").unwrap().on(place).name;
        assert!(on("10.0.0.1") != on("10.0.0.2") && on("") == name("http://127.0.0.1:8000"));
        assert_eq!(name("http://a.test/"), name("http://A.test"));
        for wrong in ["a.test", "ftp://a.test", "http://", "http://u@a.test", "http://a.test/?q", "http://a.test:0"] {
            assert!(Site::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_of_the_backend_to_itself_stays_with_the_cdn() {
        let turned = |origin: &str, target: &str| {
            let mut fields = HeaderMap::from_iter([(header::LOCATION, target.parse().unwrap())]);
            Site::parse(origin).unwrap().turn(&mut fields);
            fields[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(turned("http://a.test:8000", "http://a.test:8000/x?y"), "/x?y");
        assert_eq!(turned("http://a.test:8000", "http://A.TEST:8000"), "/");
        assert_eq!(turned("http://a.test:8000", "http://a.test:80001/x"), "http://a.test:80001/x");
        assert_eq!(turned("http://a.test:8000", "https://a.test:8000/x"), "https://a.test:8000/x");
        assert_eq!(turned("http://a.test/pub", "/pub/x"), "/x");
        assert_eq!(turned("http://a.test/pub", "/public/x"), "/public/x");
        assert_eq!(turned("http://a.test/pub", "/other"), "/other");
        assert_eq!(turned("http://a.test", "relative"), "relative");
        assert_eq!(turned("http://a.test", "//b.test/x"), "//b.test/x");
    }
}
