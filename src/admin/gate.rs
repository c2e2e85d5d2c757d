//! Who may ask. Over TCP three things are checked: the name the client reached us by (a page of another site can make a
//! browser call us under a name it controls: DNS rebinding), where the request comes from (a page of another site can make a
//! browser call us under our own name: CSRF), and the token. Over the Unix socket the system has said who the client is.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderMap, Uri, header};

use super::token::Token;

/// The way a request came in.
#[derive(Debug)]
pub(super) enum Door {
    /// The Unix socket; the peer's user was checked at accept.
    Socket,
    /// TCP: the names under which it may be reached beside addresses and `localhost`, and the token.
    Tcp(Names, Arc<Token>),
}

/// Host names, lower case.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<String>);

/// Why a request was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The Host is missing, doubled, or no name of ours: 403.
    ForeignHost,
    /// A page of another origin asks: 403.
    ForeignPage,
    /// No token, or a wrong one: 401.
    NoToken,
}

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect())
    }

    /// Addresses cannot be rebound; a name must be one we were told of.
    fn contain(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(v6) = v6 {
            return v6.parse::<Ipv6Addr>().is_ok();
        }
        let host = host.to_ascii_lowercase();
        host.parse::<Ipv4Addr>().is_ok() || host == "localhost" || self.0.contains(&host)
    }
}

impl Door {
    /// Whether the client reached us by a name of ours. This much even the page without secrets asks for.
    pub(super) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let Self::Tcp(names, _) = self else { return Ok(()) };
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::ForeignHost) };
        let of_target = uri.authority().is_none_or(|authority| names.contain(authority.as_str()));
        let of_host = host.to_str().is_ok_and(|host| names.contain(host));
        if of_host && of_target { Ok(()) } else { Err(Refusal::ForeignHost) }
    }

    /// Whether the asker may know or change anything.
    pub(super) fn check_asker(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Self::Tcp(_, token) = self else { return Ok(()) };
        let site = headers.get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin" && site != "none") || !is_own_origin(headers) {
            return Err(Refusal::ForeignPage);
        }
        let offered = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        match offered.and_then(bearer) {
            Some(offered) if token.is(offered) => Ok(()),
            Some(_) | None => Err(Refusal::NoToken),
        }
    }
}

/// The token of `Bearer TOKEN`; the scheme is matched without case [RFC 9110 11.1].
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// No Origin at all (not a page's request), or exactly the origin we were reached under.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (Some(origin), more) = (origins.next(), origins.next()) else { return true };
    let host = headers.get(header::HOST).map(http::HeaderValue::as_bytes);
    more.is_none() && host.is_some_and(|host| origin.as_bytes().strip_prefix(b"http://") == Some(host))
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::state::State;

    /// Judges a request with these headers; TOKEN in a value stands for the token.
    fn judge(target: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let folder = tempfile::tempdir().unwrap();
        let token = Arc::new(Token::load(None, &State::open(folder.path()).unwrap()).unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = value.replace("TOKEN", token.reveal());
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap());
        }
        let door = Door::Tcp(Names::new(&["Atoll.Example.org".to_owned()]), token);
        door.check_host(&target.parse().unwrap(), &map)?;
        door.check_asker(&map)
    }

    #[test]
    fn the_token_opens_under_an_address_localhost_or_a_configured_name() {
        for host in ["127.0.0.1:7000", "[::1]:7000", "[::1]", "localhost", "LOCALHOST:1", "atoll.example.org:7000"] {
            assert_eq!(judge("/status", &[("host", host), ("authorization", "Bearer TOKEN")]), Ok(()), "{host}");
            let origin = format!("http://{host}");
            let page = [("host", host), ("origin", &*origin), ("authorization", "bearer TOKEN")];
            assert_eq!(judge("/status", &page), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused_even_with_the_token() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:7000",
            "",
            "atoll.example.org.evil",
            "[evil]",
        ] {
            let refused = judge("/status", &[("host", host), ("authorization", "Bearer TOKEN")]);
            assert_eq!(refused, Err(Refusal::ForeignHost), "{host}");
        }
        assert_eq!(judge("/status", &[("authorization", "Bearer TOKEN")]), Err(Refusal::ForeignHost));
        assert_eq!(judge("/status", &[("host", "localhost"), ("host", "evil.example")]), Err(Refusal::ForeignHost));
        assert_eq!(judge("http://evil.example/status", &[("host", "localhost")]), Err(Refusal::ForeignHost));
    }

    #[test]
    fn a_page_of_another_origin_is_refused_even_with_the_token() {
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "https://localhost"),
            ("origin", "http://localhost.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let headers = [("host", "localhost"), ("authorization", "Bearer TOKEN"), (name, value)];
            assert_eq!(judge("/drain", &headers), Err(Refusal::ForeignPage), "{name}: {value}");
        }
    }

    #[test]
    fn without_the_token_nothing_opens() {
        for value in ["", "Bearer", "Bearer ", "Bearer wrong", "Basic TOKEN", "TOKEN", "Bearer TOKENx"] {
            assert_eq!(
                judge("/status", &[("host", "localhost"), ("authorization", value)]),
                Err(Refusal::NoToken),
                "{value}"
            );
        }
        assert_eq!(judge("/status?token=TOKEN", &[("host", "localhost")]), Err(Refusal::NoToken));
    }
}
