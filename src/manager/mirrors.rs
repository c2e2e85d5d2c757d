//! What role manager says besides where to go: the choice explained for this client, as a page and as JSON, and the `Link` field
//! that names two more proxies [RFC 6249 3].

use std::fmt::Write as _;

use atoll_proxy::{OriginUrl, Scheme, Zone};
use serde::Serialize;

use super::{
    explain::{Page, escaped, links},
    near::Near,
};

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
    /// Whether it is one of the few that share the site's requests.
    shares: bool,
    /// Whether it is busier than its share, and stands back.
    busy: bool,
}

impl Mirrors {
    /// All that is known of a choice. `names`: see [`at`].
    pub(super) fn new(url: &OriginUrl, client: String, order: &[Near], names: Option<&Zone>) -> Self {
        let mirror = |near: &Near| Mirror {
            node: near.id.map_or_else(String::new, |id| id.to_string()),
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
            Some(first) if first.named => format!(
                "it is the first of the {} that DNS answers name to this network for this site (level {}); `atoll explain` says why",
                order.iter().filter(|near| near.named).count(),
                first.level
            ),
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
        Page {
            of: &self.url,
            client: &self.client,
            to: if self.led_to.is_empty() { "nobody" } else { &self.led_to },
            because: &self.because,
            columns: &["Where", "Node", "Level", "Load", "Weight", "Score", ""],
            rows,
        }
        .text()
    }
}

/// A URL as a proxy serves it: by its address, or, given a zone that is delegated, by the name that the URL has at this one node. A URL
/// that has no such name goes by the address.
pub(super) fn at(near: &Near, url: &OriginUrl, names: Option<&Zone>) -> String {
    let Some(Ok(name)) = names.zip(near.id).map(|(zone, id)| zone.at_node(url, id)) else {
        return format!("http://{}{}", near.address, url.manager_path());
    };
    let port = near.address.port();
    let port = if port == Scheme::Http.port() { String::new() } else { format!(":{port}") };
    format!("http://{name}{port}{}", url.path())
}

/// `Link` for the two proxies after the first.
pub(super) fn duplicates(url: &OriginUrl, order: &[Near], names: Option<&Zone>) -> Option<String> {
    links(order.iter().skip(1).take(DUPLICATES).map(|near| at(near, url, names)))
}

/// Proxies named besides the one.
const DUPLICATES: usize = 2;
