//! Own host names: which origin each is fetched from, and by what rules. Their origins are the operator's own word, so the guard
//! lets them pass; every method and body reaches them, and the answers are cached as the standards say.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, header};

use crate::{
    config::{Config, Query, SetCookie, Site},
    freshness::Lifetime,
    origin::Upstream,
    url::{Authority, Scheme, UrlError},
    zone::Zone,
};

/// One site, checked.
pub(crate) struct Own {
    /// Where it is fetched; one leads to the next.
    pub(crate) upstream: Upstream,
    /// What the origin is told the host is, instead of what the client said.
    pub(crate) host: Option<String>,
    pub(crate) rules: Site,
    /// Its name in the configuration, which is what metrics call it.
    pub(crate) tenant: Arc<str>,
    /// The metric of its plain hits, looked up once.
    pub(crate) hits: OnceLock<metrics::Counter>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    named: BTreeMap<String, Arc<Own>>,
    /// For every other host.
    any: Option<Arc<Own>>,
    zone: Option<Zone>,
}

impl Sites {
    /// The sites of a configuration; the error names the setting.
    pub(crate) fn new(config: &Config) -> Result<Self, (String, UrlError)> {
        let mut sites = Self { zone: Zone::new(&config.zone).ok(), ..Self::default() };
        for (host, site) in &config.sites {
            let setting = |error| (format!("sites.\"{host}\""), error);
            let own = Arc::new(own(host, site).map_err(setting)?);
            if host == ANY {
                sites.any = Some(own);
            } else {
                let name = Authority::parse(host).map_err(setting)?;
                sites.named.insert(name.host().to_owned(), own);
            }
        }
        Ok(sites)
    }

    /// The site that a host is, and whether it has the name to itself.
    pub(crate) fn find(&self, authority: &Authority) -> Option<(&Arc<Own>, bool)> {
        if let Some(own) = self.named.get(authority.host()) {
            return Some((own, true));
        }
        let coralized = self.zone.as_ref().is_some_and(|zone| zone.covers(authority.host()));
        self.any.as_ref().filter(|_| !coralized).map(|own| (own, false))
    }
}

fn own(name: &str, site: &Site) -> Result<Own, UrlError> {
    let mut upstream = None;
    for origin in site.origin.list().iter().rev() {
        let (scheme, rest) = origin.split_once("://").ok_or_else(|| UrlError::Malformed(origin.clone()))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let authority = Authority::parse(rest.trim_end_matches('/'))?;
        let port = authority.port().unwrap_or_else(|| scheme.port());
        let next = upstream.map(Arc::new);
        upstream = Some(Upstream { scheme, host: authority.host().to_owned(), port, exempt: true, next });
    }
    let host = site.host.as_deref().map(|host| Authority::parse(host).map(|_| host.to_owned())).transpose()?;
    let upstream = upstream.ok_or_else(|| UrlError::Malformed(String::new()))?;
    Ok(Own { upstream, host, rules: site.clone(), tenant: name.into(), hits: OnceLock::new() })
}

impl Own {
    /// Whether answers that set cookies may be stored where the origin says how long.
    pub(crate) fn stores_cookies(&self) -> bool {
        self.rules.set_cookie == SetCookie::Obey
    }

    /// Whether every path and query is keyed and sent as the client wrote it.
    pub(crate) fn keeps_targets(&self) -> bool {
        self.rules.query == Query::Keep && self.rules.ignore_query.is_empty()
    }

    /// Path and query as they are keyed and sent: the two are always the same bytes.
    pub(crate) fn target(&self, target: &str) -> String {
        let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
        let kept = query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !self.rules.ignore_query.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
        });
        match self.rules.query {
            Query::Keep if self.rules.ignore_query.is_empty() => target.to_owned(),
            Query::Drop => path.to_owned(),
            Query::Keep | Query::Sort => {
                let mut kept: Vec<_> = kept.collect();
                if self.rules.query == Query::Sort {
                    kept.sort_unstable();
                }
                if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
            }
        }
    }

    /// Takes out of a request the cookies that are to count for nothing.
    pub(crate) fn strip_cookies(&self, fields: &mut HeaderMap) {
        if self.rules.ignore_cookies.is_empty() || !fields.contains_key(header::COOKIE) {
            return;
        }
        let mut kept = BytesMut::new();
        for pair in fields.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        {
            let pair = pair.trim_ascii();
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end();
            let ignored = self.rules.ignore_cookies.iter().any(|pattern| matches(pattern.as_bytes(), name));
            if !ignored && !pair.is_empty() {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(pair);
            }
        }
        fields.remove(header::COOKIE);
        if !kept.is_empty()
            && let Ok(cookies) = HeaderValue::from_maybe_shared(kept.freeze())
        {
            fields.insert(header::COOKIE, cookies);
        }
    }

    /// A lifetime within what the operator allows, whatever the origin says.
    pub(crate) fn bounded(&self, mut lifetime: Lifetime) -> Lifetime {
        if let Some(most) = self.rules.ttl_most {
            lifetime.fresh = lifetime.fresh.min(most);
        }
        if lifetime.fresh > Duration::ZERO
            && let Some(least) = self.rules.ttl_least
        {
            lifetime.fresh = lifetime.fresh.max(least);
        }
        lifetime
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("tenant", &self.tenant).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// `utm_*` is every name that begins so; anything else is itself.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    pattern.strip_suffix(b"*").map_or(pattern == name, |start| name.starts_with(start))
}

/// The host that stands for every other.
const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SiteOrigin;

    fn site(rules: Site) -> Own {
        own("own.test", &Site { origin: SiteOrigin::One("http://10.0.0.5:8080".to_owned()), ..rules }).unwrap()
    }

    #[test]
    fn queries_are_kept_dropped_or_sorted_by_the_rules() {
        let all = "/a?b=2&utm_x=1&a=1&b=1&c";
        assert_eq!(site(Site::default()).target(all), all);
        assert_eq!(site(Site { query: Query::Drop, ..Site::default() }).target(all), "/a");
        assert_eq!(site(Site { query: Query::Sort, ..Site::default() }).target(all), "/a?a=1&b=1&b=2&c&utm_x=1");
        let ignore = Site { ignore_query: vec!["utm_*".to_owned(), "c".to_owned()], ..Site::default() };
        assert_eq!(site(ignore.clone()).target(all), "/a?b=2&a=1&b=1");
        assert_eq!(site(ignore).target("/a?utm_y=1"), "/a");
    }

    #[test]
    fn cookies_are_taken_out_by_name_or_beginning_and_the_others_stay_in_their_order() {
        let left = |rules: &[&str], sent: &[&str]| {
            let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
            let mut fields = HeaderMap::new();
            for value in sent {
                fields.append(header::COOKIE, value.parse().unwrap());
            }
            site(Site { ignore_cookies: rules, ..Site::default() }).strip_cookies(&mut fields);
            let left: Vec<_> =
                fields.get_all(header::COOKIE).iter().map(|it| it.to_str().unwrap().to_owned()).collect();
            left
        };
        let sent = ["_ga=1; session=a=b;c", "_gat_x=2;id =3"];
        assert_eq!(left(&[], &sent), sent);
        assert_eq!(left(&["_ga*"], &sent), ["session=a=b; c; id =3"]);
        assert_eq!(left(&["_ga", "id"], &sent), ["session=a=b; c; _gat_x=2"]);
        assert_eq!(left(&["*"], &sent), [""; 0]);
        assert_eq!(left(&["Session"], &["session=1"]), ["session=1"], "names have a case");
        assert_eq!(left(&["x"], &["x=1;; "]), [""; 0]);
    }

    #[test]
    fn origins_follow_each_other_and_the_star_is_everyone_else() {
        let origins = SiteOrigin::Many(vec!["https://a.test".to_owned(), "http://b.test:81".to_owned()]);
        let found = own("*", &Site { origin: origins, ..Site::default() }).unwrap().upstream;
        assert_eq!((found.host.as_str(), found.port), ("a.test", 443));
        assert_eq!(found.next.map(|next| (next.host.clone(), next.port)), Some(("b.test".to_owned(), 81)));
        let mut config = Config::default();
        let rules = Site { origin: SiteOrigin::One("http://c.test".to_owned()), ..Site::default() };
        config.sites.insert("*".to_owned(), rules.clone());
        config.sites.insert("Own.test".to_owned(), rules);
        let sites = Sites::new(&config).unwrap();
        let find = |host: &str| sites.find(&Authority::parse(host).unwrap()).map(|(_, named)| named);
        assert_eq!(find("own.test:8080"), Some(true));
        assert_eq!(find("127.0.0.1:8080"), Some(false));
        assert_eq!(find("a.test.nyud.example"), None);
        assert!(own("*", &Site::default()).is_err());
    }
}
