//! From an answer to a client's response: conditions, ranges, Age, Via, Cache-Status, and the fields that must not pass.
//!
//! On Coralized names all sites share one zone: cookies and what else would reach beyond one site are taken out, and redirects
//! are turned into Coralized ones.

use std::sync::Arc;

use atoll_store::Object;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use crate::{
    body::{Body, Part},
    clock,
    conditions::{Ranged, Verdict, conditions, range},
    flight::{Answer, Content, Waiter},
    home,
    meta::Meta,
    origin::OriginBody,
    reason::{CacheStatus, Failure, Source},
    slices::Sliced,
    stated::CONTENT_DIGEST,
    url::{OriginUrl, Scheme},
    zone::Zone,
};

/// What of a client's request shapes its response.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// HEAD.
    pub(crate) head: bool,
    pub(crate) fields: HeaderMap,
    pub(crate) links: Links,
}

/// How the client names what it asked for, and so how redirects must name things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Links {
    /// By an own host name: redirects pass.
    Site,
    /// By a Coralized name, in clear or over TLS, at this port of ours if it is not the scheme's own.
    Coralized(Scheme, Option<u16>),
    /// By `/~/SCHEME/HOST/PATH` on a node's address.
    Manager,
}

/// Where the body comes from.
pub(crate) enum Given {
    /// The store.
    Object(Object),
    /// A flight.
    Flight(Waiter, Arc<Answer>),
    /// Slices of a large object.
    Slices(Box<Sliced>),
    /// A few bytes.
    Bytes(Bytes),
    /// A source, passed on.
    Feed(OriginBody),
    /// The origin's own answer to what the client sent it: nothing is left to judge.
    Relayed(OriginBody),
}

/// The response to a client.
pub(crate) async fn deliver(
    zone: &Zone,
    url: &OriginUrl,
    client: &Client,
    meta: &Meta,
    mut given: Given,
    status: &CacheStatus,
) -> Result<Response<Body>, Failure> {
    let mut fields = meta.fields.clone();
    shape(zone, url, client, &mut fields);
    // Age says that the origin was not asked for this very answer; what it said itself stays [RFC 9111 5.1].
    let direct = status.forwarded.is_some() && !status.collapsed && status.source == Some(Source::Origin);
    if !direct {
        fields.insert(header::AGE, HeaderValue::from(meta.age(clock::now()).as_secs()));
    }
    append_via(&mut fields);
    fields.append(CACHE_STATUS, status.value());
    let length = match &given {
        Given::Object(object) => Some(object.len()),
        Given::Bytes(bytes) => Some(bytes.len() as u64),
        Given::Flight(..) | Given::Slices(_) | Given::Feed(_) | Given::Relayed(_) => meta.length,
    };
    let relayed = matches!(given, Given::Relayed(_));
    let ok = meta.status == StatusCode::OK && !relayed;
    // Of errors and redirects they say nothing [RFC 9110 13.2.1].
    let judged = meta.status.is_success() && meta.status != StatusCode::PARTIAL_CONTENT && !relayed;
    match if judged { conditions(&client.fields, meta) } else { Verdict::Send } {
        Verdict::Send => {}
        Verdict::NotModified => {
            for name in DESCRIBES_BODY {
                fields.remove(name);
            }
            return Ok(respond(StatusCode::NOT_MODIFIED, fields, Body::empty()));
        }
    }
    // Range is defined for GET alone [RFC 9110 14.2].
    let ranged = if ok && !client.head { range(&client.fields, &meta.fields, length) } else { Ranged::Whole };
    let (code, part) = match ranged {
        Ranged::Parts(parts) => match given.in_parts() {
            Several::Of(parted) => return Ok(several(parted, &parts, fields)),
            Several::Not(whole) => {
                given = whole;
                (meta.status, Part::all(length))
            }
        },
        Ranged::Part(_) | Ranged::Unsatisfiable if matches!(given, Given::Feed(_)) => (meta.status, Part::all(length)),
        Ranged::Whole => (meta.status, Part::all(length)),
        Ranged::Part(part) => {
            fields.insert(header::CONTENT_RANGE, content_range(part, length)?);
            fields.remove(CONTENT_DIGEST);
            (StatusCode::PARTIAL_CONTENT, part)
        }
        Ranged::Unsatisfiable => {
            let text = format!("bytes */{}", length.unwrap_or_default());
            fields.insert(header::CONTENT_RANGE, text.try_into().map_err(|_| Failure::Internal)?);
            return Ok(bodiless(StatusCode::RANGE_NOT_SATISFIABLE, fields));
        }
    };
    // A HEAD's, and a 304's, is of the body that is not there [RFC 9110 8.6].
    let stated = client.head && matches!(given, Given::Relayed(_)) || code == StatusCode::NOT_MODIFIED;
    if !stated {
        fields.remove(header::CONTENT_LENGTH);
    }
    if let Some(to) = part.to.filter(|_| !stated)
        && code != StatusCode::NO_CONTENT
    {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(to - part.from));
    }
    if client.head || code == StatusCode::NOT_MODIFIED {
        return Ok(respond(code, fields, Body::empty()));
    }
    let body = match given {
        Given::Object(object) => Body::object(object, part).await?,
        Given::Flight(waiter, answer) => Body::flight(waiter, answer, part).await?,
        Given::Slices(sliced) => sliced.body(part),
        Given::Bytes(bytes) => Body::Whole(bytes),
        Given::Feed(feed) | Given::Relayed(feed) => Body::feed(feed, length),
    };
    Ok(respond(code, fields, body))
}

/// Says that an answer passed here, and by which protocol it came, unless it says that already.
pub(crate) fn append_via(fields: &mut HeaderMap) {
    if !fields.get_all(header::VIA).iter().any(|value| *value == BY_HTTP_10) {
        fields.append(header::VIA, BY_HTTP_11);
    }
}

fn content_range(part: Part, length: Option<u64>) -> Result<HeaderValue, Failure> {
    let last = part.to.unwrap_or_default().saturating_sub(1);
    let text = format!("bytes {}-{last}/{}", part.from, length.unwrap_or_default());
    text.try_into().map_err(|_| Failure::Internal)
}

/// Several ranges, as a message of parts [RFC 9110 14.6].
fn several(parted: Parted, parts: &[Part], mut fields: HeaderMap) -> Response<Body> {
    let total = match &parted {
        Parted::Object(object) => object.len(),
        Parted::Slices(sliced) => sliced.meta.length.unwrap_or_default(),
    };
    let boundary = format!("{:032x}", rand::random::<u128>());
    let kind = fields.remove(header::CONTENT_TYPE);
    // Each part has its own [RFC 9110 14.4].
    fields.remove(header::CONTENT_RANGE);
    let mut with_heads = Vec::with_capacity(parts.len());
    for part in parts {
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(kind) = &kind {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(kind.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if let Ok(range) = content_range(*part, Some(total)) {
            head.extend_from_slice(b"Content-Range: ");
            head.extend_from_slice(range.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        with_heads.push((Bytes::from(head), *part));
    }
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let body = match parted {
        Parted::Object(object) => Body::parts(object, with_heads, end),
        Parted::Slices(sliced) => sliced.parts(with_heads, end),
    };
    if let Body::Stream(_, Some(length)) = &body {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(*length));
    }
    fields.remove(CONTENT_DIGEST);
    if let Ok(kind) = format!("multipart/byteranges; boundary={boundary}").try_into() {
        fields.insert(header::CONTENT_TYPE, kind);
    }
    respond(StatusCode::PARTIAL_CONTENT, fields, body)
}

/// What several ranges can be sent of.
enum Parted {
    Object(Object),
    Slices(Box<Sliced>),
}

/// Whether several ranges can be sent of something.
enum Several {
    Of(Parted),
    /// It is still on its way, and sent from its beginning on.
    Not(Given),
}

impl Given {
    /// As what several ranges can be sent of.
    fn in_parts(self) -> Several {
        match self {
            Self::Object(object) => Several::Of(Parted::Object(object)),
            Self::Slices(sliced) => Several::Of(Parted::Slices(sliced)),
            Self::Flight(waiter, answer) => match &answer.content {
                Content::Stored(object) => Several::Of(Parted::Object(object.clone())),
                Content::Filling(_) | Content::Bytes(_) | Content::Direct(_) => {
                    Several::Not(Self::Flight(waiter, answer))
                }
            },
            other @ (Self::Bytes(_) | Self::Feed(_) | Self::Relayed(_)) => Several::Not(other),
        }
    }
}

/// Takes out what must not reach the client, and turns redirects round.
fn shape(zone: &Zone, url: &OriginUrl, client: &Client, fields: &mut HeaderMap) {
    // A loop within the network stays visible to clients as Via; this one is for caches between.
    fields.entry(header::SERVER).or_insert(HeaderValue::from_static("atoll"));
    if matches!(client.links, Links::Site) {
        return;
    }
    for name in BEYOND_ONE_SITE {
        fields.remove(name);
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let Some(target) = fields.get(&name).and_then(|value| value.to_str().ok()) else { continue };
        if let Some(turned) = coralize(zone, url, &client.links, target).and_then(|turned| turned.try_into().ok()) {
            fields.insert(name, turned);
        }
    }
}

/// A redirect's target as the client should follow it; `None`: as it stands.
fn coralize(zone: &Zone, url: &OriginUrl, links: &Links, target: &str) -> Option<String> {
    if home::is_marked(target) {
        return None;
    }
    let absolute = if target.contains("://") {
        OriginUrl::parse(target).ok()
    } else if let Some(rest) = target.strip_prefix("//") {
        OriginUrl::parse(&format!("{}://{rest}", url.scheme().name())).ok()
    } else {
        None
    };
    match links {
        Links::Site => None,
        Links::Coralized(here, port) => {
            let absolute = absolute?;
            let host = zone.host(&absolute).ok()?;
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            Some(format!("{}://{host}{port}{}", here.name(), absolute.path()))
        }
        Links::Manager => match absolute {
            Some(absolute) => Some(absolute.manager_path()),
            // A path from the root would leave the form; relative ones stay inside it.
            None if target.starts_with('/') => url.with_path(target).ok().map(|url| url.manager_path()),
            None => None,
        },
    }
}

/// A response that is only its status.
fn bodiless(code: StatusCode, mut fields: HeaderMap) -> Response<Body> {
    for name in DESCRIBES_BODY.iter().filter(|name| **name != header::CONTENT_RANGE) {
        fields.remove(name);
    }
    respond(code, fields, Body::empty())
}

fn respond(code: StatusCode, fields: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = fields;
    if code.canonical_reason().is_none() {
        // Nothing, where the parser would name a status that nobody knows by a word of its own.
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
    response
}

/// An answer of our own: an error in words, for people, and in Proxy-Status, for programs.
pub(crate) fn refuse(failure: Failure, why: &str, status: Option<&CacheStatus>) -> Response<Body> {
    let mut response = text(failure.status(), format!("{why}\n"));
    let fields = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(format!("atoll; error={failure}")) {
        fields.insert(PROXY_STATUS, value);
    }
    if let Some(status) = status {
        fields.insert(CACHE_STATUS, status.value());
    }
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(failure, Failure::Busy | Failure::CircuitOpen | Failure::OriginBusy) {
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A short text of our own.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Whole(body.into()));
    *response.status_mut() = code;
    let fields = response.headers_mut();
    fields.insert(header::SERVER, HeaderValue::from_static("atoll"));
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// How answers came.
const BY_HTTP_11: HeaderValue = HeaderValue::from_static("1.1 atoll");
pub(crate) const BY_HTTP_10: HeaderValue = HeaderValue::from_static("1.0 atoll");

/// RFC 9211.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What would reach beyond one site under a shared zone.
const BEYOND_ONE_SITE: [HeaderName; 11] = [
    header::SET_COOKIE,
    HeaderName::from_static("set-cookie2"),
    // No password is ever to be typed for a name that all sites share, nor sent there.
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("reporting-endpoints"),
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
];

/// What has no place beside an absent body.
const DESCRIBES_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::CONTENT_LANGUAGE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(links: &Links, target: &str) -> Option<String> {
        let zone = Zone::new("nyud.example").unwrap();
        coralize(&zone, &OriginUrl::parse("http://a.test/dir/page").unwrap(), links, target)
    }

    #[test]
    fn redirects_stay_inside_the_form_they_were_asked_in() {
        let dotted = Links::Coralized(Scheme::Http, Some(8080));
        assert_eq!(check(&dotted, "http://b.test/x?y").as_deref(), Some("http://b.test.nyud.example:8080/x?y"));
        assert_eq!(check(&dotted, "https://b.test/x").as_deref(), Some("http://b.test.443.nyud.example:8080/x"));
        assert_eq!(check(&dotted, "//b.test/").as_deref(), Some("http://b.test.nyud.example:8080/"));
        assert_eq!(check(&dotted, "http://b.test/x?atoll-no-serve"), None);
        assert_eq!(check(&dotted, "/root"), None);
        assert_eq!(check(&dotted, "ftp://b.test/"), None);
        assert_eq!(check(&dotted, "http://10.0.0.1/"), None);
        assert_eq!(check(&Links::Manager, "/root?q").as_deref(), Some("/~/http/a.test/root?q"));
        assert_eq!(check(&Links::Manager, "https://b.test:8443/").as_deref(), Some("/~/https/b.test:8443/"));
        assert_eq!(check(&Links::Manager, "page2"), None);
        assert_eq!(check(&Links::Site, "http://b.test/"), None);
    }
}
