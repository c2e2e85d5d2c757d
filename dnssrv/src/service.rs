//! HTTPS records (RFC 9460): where a name is served over TLS, and by which protocols. Browsers take one as an order to use
//! https, so a name has one only while every proxy that is answered for it holds a valid certificate for it.
//!
//! A node with certificates names the port of its TLS listener last among its ports. What certificate covers what follows RFC
//! 9525 6.3: a `*` stands for one label, the leftmost.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_overlay::NodeInfo;
use hickory_proto::rr::{
    Name, RData,
    rdata::{
        HTTPS,
        svcb::{Alpn, SVCB, SvcParamKey, SvcParamValue},
    },
};

/// What a proxy offers over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secure {
    port: u16,
    names: Vec<String>,
}

/// Where proxies are reached, and what each offers over TLS.
pub(crate) type Offers = BTreeMap<IpAddr, Secure>;

impl Secure {
    /// What a node offers, if anything: its certificates that are valid for a while yet.
    pub(crate) fn of(node: &NodeInfo, now: SystemTime) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let [_, .., port] = *node.http_ports.as_slice() else { return None };
        let valid = node.certificates.iter().filter(|one| one.expires > now.saturating_add(MARGIN));
        let names: Vec<String> = valid.map(|one| one.name.to_ascii_lowercase()).collect();
        (!names.is_empty()).then_some(Self { port, names })
    }

    fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| name == host || name.strip_prefix("*.").is_some_and(|rest| Some(rest) == parent))
    }
}

/// The data of a host's HTTPS record if it is served by proxies at these addresses. None unless all of them hold a certificate
/// for it and listen on one port.
pub(crate) fn data(host: &str, addresses: &[IpAddr], offers: &Offers) -> Option<RData> {
    let mut port = None;
    for address in addresses {
        let secure = offers.get(address).filter(|secure| secure.covers(host))?;
        if *port.get_or_insert(secure.port) != secure.port {
            return None;
        }
    }
    // http/1.1 is understood unless it is denied (RFC 9460 7.1.2).
    let alpn = SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]));
    let mut parameters = vec![(SvcParamKey::Alpn, alpn)];
    parameters
        .extend(port.filter(|port| *port != HTTPS_PORT).map(|port| (SvcParamKey::Port, SvcParamValue::Port(port))));
    port.map(|_| RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters))))
}

/// A certificate counts as invalid so many seconds before its end: answers live on in caches. \[guess\]
const MARGIN: u64 = 3600;
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    fn secure(port: u16, names: &[&str]) -> Secure {
        Secure { port, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn check(host: &str, offers: &[Secure], expected: Option<&str>) {
        let addresses: Vec<IpAddr> = (1..).map(|last| IpAddr::from([192, 0, 2, last])).take(offers.len()).collect();
        let offers: Offers = addresses.iter().copied().zip(offers.iter().cloned()).collect();
        let text = data(host, &addresses, &offers).map(|data| data.to_string());
        assert_eq!(text.as_deref(), expected, "{host}");
    }

    #[test]
    fn a_certificate_covers_its_name_and_its_star_one_label() {
        let offers = [secure(443, &["*.nyud.example", "www.example.com.nyud.example"])];
        let record = Some("1 . alpn=h2,");
        check("www-example-com.nyud.example", &offers, record);
        check("www.example.com.nyud.example", &offers, record);
        for host in ["a.www.example.com.nyud.example", "example.com.nyud.example", "nyud.example", "xnyud.example"] {
            check(host, &offers, None);
        }
    }

    #[test]
    fn all_proxies_must_hold_one_and_listen_on_one_port() {
        let good = secure(8443, &["*.z"]);
        check("a.z", &[good.clone(), good.clone()], Some("1 . alpn=h2, port=8443"));
        check("a.z", &[good.clone(), secure(443, &["*.z"])], None);
        check("a.z", &[good, secure(8443, &["*.y"])], None);
        check("a.z", &[], None);
    }

    #[test]
    fn an_expired_certificate_and_a_node_without_a_port_for_tls_offer_nothing() {
        let certificate = |expires| atoll_overlay::Certificate { name: "*.Z".to_owned(), expires };
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let node = |ports: &[u16], expires| NodeInfo {
            http_ports: ports.to_vec(),
            certificates: vec![certificate(expires)],
            ..crate::foreign_bytes::lone_node()
        };
        assert_eq!(Secure::of(&node(&[80, 443], 1_100_000), now), Some(secure(443, &["*.z"])));
        assert_eq!(Secure::of(&node(&[80, 443], 1_000_000 + MARGIN), now), None);
        assert_eq!(Secure::of(&node(&[80], 1_100_000), now), None);
    }
}
