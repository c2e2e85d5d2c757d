//! What role manager says besides where to go: the choice explained for this client, as a page and as JSON, and the `Link` field
//! that names two more proxies [RFC 6249 3].

use std::fmt::Write as _;

use atoll_proxy::{OriginUrl, Scheme, Zone};
use serde::Serialize;

use super::{explain::escaped, near::Near};

/// The choice for one client and one URL.
#[derive(Debug, Serialize)]
pub(super) struct Mirrors {
    /// What was asked for, at its origin.
    url: String,
    /// The client's network, as far as it matters.
    client: String,
    /// Where the client would be led, "" if no proxy is alive.
    led_to: String,
    /// Why, in a sentence.
    because: String,
    /// Proxies that may be chosen, best first.
    candidates: Vec<Mirror>,
}

/// One proxy.
#[derive(Debug, Serialize)]
struct Mirror {
    node: String,
    url: String,
    /// The level at which it is near, 0 to 2: anywhere, within 60 ms, within 20 ms.
    level: u8,
    /// How busy it says that it is, 0 to 100.
    load: u8,
    weight: f64,
    score: f64,
    /// Whether it is one of the few nearest, which share the site's requests.
    shares: bool,
    /// Whether it is busier than its share, and stands back.
    busy: bool,
}

impl Mirrors {
    /// All that is known of a choice. `names`: see [`at`].
    pub(super) fn new(url: &OriginUrl, client: String, order: &[Near], names: Option<&Zone>) -> Self {
        let mirror = |near: &Near| Mirror {
            node: near.id.to_string(),
            url: at(near, url, names),
            level: near.level.0,
            load: near.load,
            weight: near.weight,
            score: near.score,
            shares: near.shares,
            busy: !near.calm,
        };
        let because = match order.first() {
            None => "no proxy is alive, or this client refuses all".to_owned(),
            Some(first) => format!(
                "of the {} nearest proxies that take clients (level {}) it has the highest score for this site among those that \
                 are not too busy",
                order.iter().filter(|near| near.shares).count(),
                first.level
            ),
        };
        Self {
            url: url.to_string(),
            client,
            led_to: order.first().map_or_else(String::new, |first| at(first, url, names)),
            because,
            candidates: order.iter().map(mirror).collect(),
        }
    }

    /// As a page, without script.
    pub(super) fn page(&self) -> String {
        let mut rows = String::new();
        for mirror in &self.candidates {
            let _ = writeln!(
                rows,
                "<tr><td><a href=\"{0}\">{0}</a></td><td>{1}</td><td>{2}</td><td>{3}</td><td>{4:.2}</td><td>{5:.3}</td><td>{6}</td></tr>",
                escaped(&mirror.url),
                escaped(&mirror.node),
                mirror.level,
                mirror.load,
                mirror.weight,
                mirror.score,
                if mirror.shares { "shares the site" } else { "in reserve" },
            );
        }
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"><title>Mirrors of {url}</title></head><body>\n\
             <h1>Mirrors of {url}</h1>\n<p>A client of {client} is led to {to}: {because}.</p>\n\
             <table><tr><th>Where</th><th>Node</th><th>Level</th><th>Load</th><th>Weight</th><th>Score</th><th></th></tr>\n\
             {rows}</table>\n<p>If one of these fails, ask again with <code>?not=NODE</code>. The same as JSON: <code>?mirrorlist=json</code>.</p>\n</body></html>\n",
            url = escaped(&self.url),
            client = escaped(&self.client),
            to = if self.led_to.is_empty() { "nobody".to_owned() } else { escaped(&self.led_to) },
            because = escaped(&self.because),
        )
    }
}

/// A URL as a proxy serves it: by its address, or, given a zone that is delegated, by the name that the URL has at this one node. A URL
/// that has no such name goes by the address.
pub(super) fn at(near: &Near, url: &OriginUrl, names: Option<&Zone>) -> String {
    let Some(Ok(name)) = names.map(|zone| zone.at_node(url, near.id)) else {
        return format!("http://{}{}", near.address, url.manager_path());
    };
    let port = near.address.port();
    let port = if port == Scheme::Http.port() { String::new() } else { format!(":{port}") };
    format!("http://{name}{port}{}", url.path())
}

/// `Link` for the two proxies after the first.
pub(super) fn duplicates(url: &OriginUrl, order: &[Near], names: Option<&Zone>) -> Option<String> {
    let more = order.iter().skip(1).take(DUPLICATES).enumerate();
    // Angle brackets in a path would end the link.
    let link = |near: &Near| at(near, url, names).replace('<', "%3C").replace('>', "%3E");
    let links: Vec<String> =
        more.map(|(place, near)| format!("<{}>; rel=duplicate; pri={}", link(near), place + 1)).collect();
    (!links.is_empty()).then(|| links.join(", "))
}

/// Proxies named besides the one.
const DUPLICATES: usize = 2;
