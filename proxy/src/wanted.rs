//! What a request wants: all that a fetch must know, and which variant of a URL it selects (RFC 9111 4.1).

use std::sync::Arc;

use atoll_overlay::Key;
use http::{HeaderMap, StatusCode, header};

use crate::{
    absence::Absence, interim::Interim, origin::Upstream, peer::PeerRequest, plan::Cut, site::Own, trace::Tracer,
    url::OriginUrl,
};

/// One thing wanted: all that a fetch must know, and nothing of the client.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: OriginUrl,
    pub(crate) upstream: Upstream,
    /// What it is looked up under: the URL's key or a variant's.
    pub(crate) key: Key,
    /// The fields sent to the origin.
    pub(crate) fields: Arc<HeaderMap>,
    /// The own site it is of.
    pub(crate) site: Option<Arc<Own>>,
    /// Who wants interim answers.
    pub(crate) interim: Option<Interim>,
    /// What of it is wanted, if not all.
    pub(crate) cut: Option<Cut>,
    /// Who wants to know what is done.
    pub(crate) trace: Tracer,
}

impl Wanted {
    /// What peers are asked for it.
    pub(crate) fn of_peers(&self) -> PeerRequest {
        PeerRequest {
            key: self.key,
            url: self.url.clone(),
            site: self.site.clone(),
            fields: Arc::clone(&self.fields),
            from: None,
            to: None,
            absence: Absence::default(),
        }
    }

    /// The key of the variant that this request selects.
    pub(crate) fn variant(&self, names: &[String]) -> Key {
        variant(&self.url, &self.fields, names)
    }

    /// Whether an answer only sends the same URL to https.
    pub(crate) fn is_sent_to_https(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let Some(upgraded) = self.url.upgraded() else { return false };
        let target = fields.get(header::LOCATION).and_then(|value| value.to_str().ok());
        matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
            && target.and_then(|target| OriginUrl::parse(target).ok()).is_some_and(|target| target == upgraded)
    }
}

/// The key of the variant that these request fields select.
pub(crate) fn variant(url: &OriginUrl, fields: &HeaderMap, names: &[String]) -> Key {
    let mut text = url.to_string().into_bytes();
    for name in names {
        text.push(b'\n');
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(&normal(name, fields));
    }
    Key::of(&text)
}

/// A request field's value as variants tell it apart: several fields are one list, spaces around commas do not count, and of
/// languages and media types without parameters only their weights do, not how these are written nor in what order [RFC 9111 4.1,
/// RFC 9110 12.5.1, 12.5.4]. No field at all is told apart from an empty one.
fn normal(name: &str, fields: &HeaderMap) -> Vec<u8> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    for value in fields.get_all(name) {
        members.extend(value.as_bytes().split(|byte| *byte == b',').map(|member| member.trim_ascii().to_vec()));
    }
    if members.is_empty() {
        return b"-".to_vec();
    }
    if !matches!(name, "accept" | "accept-language") {
        return [b"=", members.join(&b","[..]).as_slice()].concat();
    }
    // What is written anew must not be mistaken for what was sent so.
    let (mark, members) = by_weight(&members).map_or((b'~', members), |ranges| (b'=', ranges));
    [&[mark], members.join(&b","[..]).as_slice()].concat()
}

/// Ranges by weight, the most wanted first, if nothing but a weight stands beside any of them; parameters may tell cases apart.
fn by_weight(members: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let weighed = members.iter().map(|member| {
        let member = member.to_ascii_lowercase();
        let mut parts = member.splitn(2, |byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().filter(|range| !range.contains(&b' ') && !range.contains(&b'\t'))?;
        let weight = parts.next().map_or(Some(1_000), |part| weight(part.strip_prefix(b"q=")?))?;
        Some((std::cmp::Reverse(weight), range.to_vec()))
    });
    let mut weighed = weighed.collect::<Option<Vec<_>>>()?;
    weighed.sort_unstable();
    let again = weighed.into_iter().map(|(weight, range)| match weight.0 {
        1_000 => range,
        weight => [range, format!(";q={weight}").into_bytes()].concat(),
    });
    Some(again.collect())
}

/// A weight in thousandths [RFC 9110 12.4.2].
pub(crate) fn weight(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = text.split_first()?;
    let digits = match fraction {
        [] => fraction,
        [b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => digits,
        _ => return None,
    };
    let thousandths = [100, 10, 1].iter().zip(digits).map(|(place, digit)| place * u16::from(digit - b'0')).sum();
    match (whole, thousandths) {
        (b'0', thousandths) => Some(thousandths),
        (b'1', 0) => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 9111 4.1: what means the same selects the same variant.
    #[test]
    fn request_fields_are_compared_in_their_normal_form() {
        let of = |name: &str, values: &[&str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            normal(name, &fields)
        };
        assert_eq!(of("x", &["1, 2"]), of("x", &["1", " 2"]));
        assert_eq!(of("x", &["1,2"]), of("x", &["1 , 2 "]));
        assert_ne!(of("x", &["1, 2"]), of("x", &["2, 1"]));
        assert_ne!(of("x", &["a"]), of("x", &["A"]));
        assert_ne!(of("x", &[]), of("x", &[""]));
        assert_eq!(of("accept-language", &["de, EN"]), of("accept-language", &["en,de"]));
        for same in ["en;q=0.5, de", "DE , en; q=0.50", "de;q=1, en;Q=.5", "de;q=1.0,en;q=0.500"] {
            let equal = of("accept-language", &["de, en;q=0.5"]) == of("accept-language", &[same]);
            assert_eq!(equal, !same.contains("=."), "{same}");
        }
        for same in ["a/b;q=0.5, c/d", "C/D , a/b; q=0.50"] {
            assert_eq!(of("accept", &["c/d, a/b;q=0.5"]), of("accept", &[same]), "{same}");
        }
        for (one, other) in [
            ("c/d, a/b;q=0.5", "c/d, a/b"),
            ("a/b;x=C", "a/b;x=c"),
            ("a/b;x=1, c/d", "c/d, a/b;x=1"),
            ("a/b;q=0.5;x=C", "a/b;q=0.5;x=c"),
            ("*/*", "a/*"),
            ("c/d, a/b;q=500", "c/d, a/b;q=0.5"),
            ("te xt/html", "text/html"),
            ("te\txt/html", "text/html"),
        ] {
            assert_ne!(of("accept", &[one]), of("accept", &[other]), "{one}");
        }
        for other in ["de, en;q=0.6", "de;q=0.5, en", "de, en", "de, en;q=2", "de, en;q=0.5000", "de, en;x=0.5"] {
            assert_ne!(of("accept-language", &["de, en;q=0.5"]), of("accept-language", &[other]), "{other}");
        }
    }

    // O06: nothing but the same URL under https is followed.
    #[test]
    fn only_the_same_url_under_https_is_followed() {
        let check = |url: &str, status: u16, target: &str| {
            let url = OriginUrl::parse(url).unwrap();
            let upstream = Upstream::of(&url, false);
            let wanted = Wanted {
                key: url.key(),
                url,
                upstream,
                fields: Arc::default(),
                site: None,
                interim: None,
                cut: None,
                trace: Tracer::default(),
            };
            let fields = HeaderMap::from_iter([(header::LOCATION, target.parse().unwrap())]);
            wanted.is_sent_to_https(StatusCode::from_u16(status).unwrap(), &fields)
        };
        assert!(check("http://a.test/x?y", 301, "https://a.test/x?y"));
        assert!(check("http://a.test/x?y", 308, "HTTPS://A.test:443/x?y"));
        for other in [
            "https://a.test/x",
            "https://b.test/x?y",
            "http://a.test/x?y",
            "https://a.test:8443/x?y",
            "/x?y",
            "https://10.0.0.1/x?y",
            "file:///etc/passwd",
            "gopher://a.test/x?y",
            "",
        ] {
            assert!(!check("http://a.test/x?y", 301, other), "{other}");
        }
        assert!(!check("http://a.test/x?y", 200, "https://a.test/x?y"));
        assert!(!check("https://a.test/x?y", 301, "https://a.test/x?y"));
        assert!(!check("http://a.test:8080/x?y", 301, "https://a.test/x?y"));
    }
}
