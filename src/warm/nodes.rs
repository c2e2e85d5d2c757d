//! Which nodes there are, as one of them knows them, and which of them are to have a file.

use std::{collections::BTreeMap, net::SocketAddr};

use atoll_overlay::{NodeInfo, Roles};
use atoll_proxy::{OriginUrl, Scheme, Zone};
use serde::{Deserialize, Serialize};

/// The network as a node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Nodes {
    /// The zone under which names are Coralized.
    pub zone: String,
    /// Hosts that are served under their own names; `*` is all.
    pub sites: Vec<String>,
    /// The nodes that serve HTTP.
    pub nodes: Vec<Place>,
}

/// One node that serves HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its id, 40 hexadecimal digits.
    pub id: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// The nearest cluster it is in; "" if it is in none but that of everybody.
    pub cluster: String,
}

impl Nodes {
    /// As the index tells of this node and those it knows, each once.
    pub(crate) fn of(zone: &str, sites: Vec<String>, infos: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        for info in infos.into_iter().filter(|info| info.roles.contain(Roles::PROXY) && !info.draining) {
            let v4 = info.v4.first().map(|address| (*address).into());
            let address = v4.or_else(|| info.v6.first().map(|address| (*address).into()));
            if let Some((address, port)) = address.zip(info.http_ports.first()) {
                let cluster = info.clusters.last().map(ToString::to_string).unwrap_or_default();
                let id = info.id.to_string();
                places.insert(id.clone(), Place { id, address: SocketAddr::new(address, *port), cluster });
            }
        }
        Self { zone: zone.to_owned(), sites, nodes: places.into_values().collect() }
    }

    /// Those that are to have a URL: so many of each cluster, by rendezvous hash of its host, so that a site's files meet.
    pub(super) fn homes(&self, url: &OriginUrl, copies: usize) -> Vec<&Place> {
        let mut clusters: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
        for node in &self.nodes {
            clusters.entry(&node.cluster).or_default().push(node);
        }
        let score = |node: &Place| *blake3::hash(format!("{} {}", url.host(), node.id).as_bytes()).as_bytes();
        let chosen = clusters.into_values().flat_map(|mut nodes| {
            nodes.sort_by_key(|node| score(node));
            nodes.truncate(copies);
            nodes
        });
        chosen.collect()
    }

    /// Why a URL cannot be asked for as its clients do, if it cannot.
    pub(super) fn unasked(&self, url: &OriginUrl) -> Option<String> {
        secure_own(&self.sites, url)
    }

    /// What a node is asked for a URL: Host and target.
    pub(super) fn form(&self, url: &OriginUrl, node: &Place) -> (String, String) {
        let own = is_own(&self.sites, url);
        let name = if own { Ok(url.authority()) } else { Zone::new(&self.zone).and_then(|zone| zone.host(url)) };
        match name {
            Ok(name) => (name, url.path().to_owned()),
            Err(_) => (node.address.to_string(), url.manager_path()),
        }
    }
}

/// Whether a URL is of one of these sites, which are served under their own names; `*` is every host.
pub(crate) fn is_own(sites: &[String], url: &OriginUrl) -> bool {
    sites.iter().any(|site| site == url.host() || site == "*")
}

/// Why a URL of an own site under https is not asked for: what a node answers in clear is another object [RFC 9110 4.3.3].
pub(crate) fn secure_own(sites: &[String], url: &OriginUrl) -> Option<String> {
    (is_own(sites, url) && url.scheme() == Scheme::Https).then(|| {
        format!(
            "{url}: this site is served under its own name, where https and http are two things, and they are asked in clear: \
             ask for it by https with a client, or name its http URL here"
        )
    })
}

/// The content codings that browsers take of a URL: what is put into caches for them is to be what they ask for.
pub(crate) fn browsers_codings(url: &OriginUrl) -> &'static str {
    match url.scheme() {
        Scheme::Http => "gzip, deflate",
        Scheme::Https => "gzip, deflate, br, zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        let place = |number: usize| Place {
            id: format!("{number:040}"),
            address: ([198, 18, 0, u8::try_from(number).unwrap()], 80).into(),
            cluster: if number < 4 { "a".to_owned() } else { "b".to_owned() },
        };
        let sites = vec!["own.test".to_owned()];
        Nodes { zone: "nyud.example".to_owned(), sites, nodes: (0..7).map(place).collect() }
    }

    #[test]
    fn each_cluster_gets_so_many_copies_and_a_site_s_files_meet() {
        let nodes = nodes();
        let at = |url: &str, copies| -> Vec<String> {
            let url = OriginUrl::parse(url).unwrap();
            nodes.homes(&url, copies).iter().map(|node| node.id.clone()).collect()
        };
        let one = at("http://www.example.com/a", 2);
        assert_eq!(one.len(), 4);
        assert_eq!(one.iter().filter(|id| id.as_str() < "0000000000000000000000000000000000000004").count(), 2);
        assert_eq!(one, at("http://www.example.com/b", 2));
        assert_eq!(at("http://www.example.com/a", 100).len(), 7);
    }

    #[test]
    fn what_an_own_site_serves_over_tls_is_not_asked_for_in_clear() {
        let unasked = |url: &str| nodes().unasked(&OriginUrl::parse(url).unwrap());
        assert!(unasked("https://own.test/x").is_some_and(|why| why.starts_with("https://own.test/x: ")));
        assert_eq!((unasked("http://own.test/x"), unasked("https://a.test/x")), (None, None));
        let all = Nodes { sites: vec!["*".to_owned()], ..nodes() };
        assert!(all.unasked(&OriginUrl::parse("https://a.test/").unwrap()).is_some());
    }

    #[test]
    fn a_url_is_asked_for_by_the_name_that_says_it() {
        let nodes = nodes();
        let form = |url: &str| nodes.form(&OriginUrl::parse(url).unwrap(), &nodes.nodes[0]);
        let pair = |host: &str, target: &str| (host.to_owned(), target.to_owned());
        assert_eq!(form("http://a.test/x?y"), pair("a.test.nyud.example", "/x?y"));
        assert_eq!(form("http://own.test/x"), pair("own.test", "/x"));
        assert_eq!(form("https://a.test:8443/x"), pair("198.18.0.0:80", "/~/https/a.test:8443/x"));
    }
}
