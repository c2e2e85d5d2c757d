//! One request as the log knows it, in MiniCDN's shape with what it lacked: how many bytes, how long, from where.
//!
//! One JSON object a line: `{"data":{...},"peer":URL,"timestamp":UNIX}`. `data` holds MiniCDN's `action`, `header_data` (the
//! request's `X-Minicdn-Data`, parsed if `X-Minicdn-Type` is `json` and it is JSON), `header_type`, `key` (path and query),
//! `remote_addr`, `success`, `user_agent`; and ours: `status`, `bytes`, `total` (null if unknown), `milliseconds`, `source`
//! (`memory`, `disk`, `peer-l0` to `peer-l2`, `origin`), `rtt_us` (to the client at accept; null if unknown).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use atoll_proxy::PlainRequest;
use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};

/// One line of the log; its texts are lent by whoever makes it, or its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record<'r> {
    pub(crate) data: Data<'r>,
    /// Who served it, by its URL.
    pub(crate) peer: Cow<'r, str>,
    /// When it ended, in seconds since the epoch.
    pub(crate) timestamp: u64,
}

/// What was asked and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Data<'r> {
    pub(crate) action: Cow<'r, str>,
    pub(crate) header_data: Cow<'r, serde_json::Value>,
    pub(crate) header_type: Cow<'r, str>,
    pub(crate) key: Cow<'r, str>,
    pub(crate) remote_addr: Cow<'r, str>,
    pub(crate) success: bool,
    pub(crate) user_agent: Cow<'r, str>,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) total: Option<u64>,
    pub(crate) milliseconds: u64,
    pub(crate) source: Cow<'r, str>,
    pub(crate) rtt_us: Option<u64>,
}

impl Record<'_> {
    /// The same with texts of its own.
    pub(crate) fn owned(self) -> Record<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let Self { data, peer, timestamp } = self;
        let data = Data {
            action: own(data.action),
            header_data: Cow::Owned(data.header_data.into_owned()),
            header_type: own(data.header_type),
            key: own(data.key),
            remote_addr: own(data.remote_addr),
            user_agent: own(data.user_agent),
            source: own(data.source),
            success: data.success,
            status: data.status,
            bytes: data.bytes,
            total: data.total,
            milliseconds: data.milliseconds,
            rtt_us: data.rtt_us,
        };
        Record { data, peer: own(peer), timestamp }
    }
}

/// Who asked, and in which words: taken from the request before the answer is known.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) client: SocketAddr,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) key: String,
    user_agent: String,
    header_data: serde_json::Value,
    header_type: String,
}

impl Asker {
    /// Reads the fields that the log carries; each is cut at [`FIELD`] bytes.
    pub(crate) fn of(client: SocketAddr, rtt_us: Option<u64>, key: &str, fields: &HeaderMap) -> Self {
        let header_type = field(fields, &X_MINICDN_TYPE);
        let raw = field(fields, &X_MINICDN_DATA);
        let parsed = (header_type == "json").then(|| serde_json::from_str(&raw).ok()).flatten();
        Self {
            client,
            rtt_us,
            key: cut(key, KEY),
            user_agent: field(fields, &header::USER_AGENT),
            header_data: parsed.unwrap_or(serde_json::Value::String(raw)),
            header_type,
        }
    }

    /// Who asked by a plain request, which has no field for the log but one.
    pub(crate) fn plain(client: SocketAddr, rtt_us: Option<u64>, asked: PlainRequest<'_>) -> Self {
        Self {
            client,
            rtt_us,
            key: cut(asked.target, KEY),
            user_agent: cut(asked.agent.unwrap_or_default(), FIELD),
            header_data: serde_json::Value::String(String::new()),
            header_type: String::new(),
        }
    }

    /// The record of what came of it.
    pub(crate) fn record<'r>(&'r self, outcome: &'r Outcome, peer: &'r str, private: bool) -> Record<'r> {
        let remote = if private { truncated(self.client.ip()).to_string() } else { self.client.to_string() };
        Record {
            data: Data {
                action: "LOG".into(),
                header_data: Cow::Borrowed(&self.header_data),
                header_type: Cow::Borrowed(&self.header_type),
                key: Cow::Borrowed(&self.key),
                remote_addr: remote.into(),
                success: outcome.success,
                user_agent: Cow::Borrowed(&self.user_agent),
                status: outcome.status,
                bytes: outcome.bytes,
                total: outcome.total,
                milliseconds: outcome.milliseconds,
                source: Cow::Borrowed(&outcome.source),
                rtt_us: self.rtt_us,
            },
            peer: Cow::Borrowed(peer),
            timestamp: outcome.at,
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) total: Option<u64>,
    pub(crate) milliseconds: u64,
    pub(crate) source: Cow<'static, str>,
    /// When, in seconds since the epoch.
    pub(crate) at: u64,
}

/// An address that names a network, not a person: /24, /48.
pub(crate) fn truncated(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
        }
    }
}

/// Where a proxy had an answer from, by its own `Cache-Status` (the last member is the nearest cache's); "" if it does not say.
pub(crate) fn source_of(fields: &HeaderMap) -> String {
    let last =
        fields.get_all("cache-status").iter().next_back().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let member = last.rsplit(',').next().unwrap_or_default();
    member.split(';').find_map(|parameter| parameter.trim().strip_prefix("detail=")).unwrap_or_default().to_owned()
}

fn field(fields: &HeaderMap, name: &HeaderName) -> String {
    let value = fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    cut(&value.unwrap_or_default(), FIELD)
}

/// At most so many bytes, whole characters.
fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// Bytes kept of a header field.
const FIELD: usize = 2_048;

/// Bytes kept of path and query.
const KEY: usize = 16_384;

const X_MINICDN_DATA: HeaderName = HeaderName::from_static("x-minicdn-data");

const X_MINICDN_TYPE: HeaderName = HeaderName::from_static("x-minicdn-type");

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fields: &[(&'static str, &'static str)]) -> Asker {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Asker::of("10.242.189.222:55932".parse().unwrap(), None, "/apks/a.apk?v=1", &fields.collect())
    }

    fn outcome() -> Outcome {
        let source = "disk".into();
        Outcome { success: true, status: 200, bytes: 5, total: Some(5), milliseconds: 7, source, at: 1_436_945_573 }
    }

    #[test]
    fn a_line_has_the_shape_that_minicdn_wrote() {
        let line = asked(&[("user-agent", "AndroidDownloadManager/4.4.2")]);
        let (outcome, peer) = (outcome(), "http://10.246.14.51:19231");
        let record = line.record(&outcome, peer, false);
        assert_eq!(record.clone().owned(), record);
        let line = serde_json::to_value(record).unwrap();
        // What was asked plainly is told in the same words.
        let asked = PlainRequest { target: "/apks/a.apk?v=1", agent: Some("AndroidDownloadManager/4.4.2") };
        let plain = Asker::plain("10.242.189.222:55932".parse().unwrap(), None, asked);
        assert_eq!(serde_json::to_value(plain.record(&outcome, peer, false)).unwrap(), line);
        assert_eq!(line["peer"], "http://10.246.14.51:19231");
        assert_eq!(line["timestamp"], 1_436_945_573);
        for (name, value) in [
            ("action", serde_json::json!("LOG")),
            ("header_data", serde_json::json!("")),
            ("key", serde_json::json!("/apks/a.apk?v=1")),
            ("remote_addr", serde_json::json!("10.242.189.222:55932")),
            ("success", serde_json::json!(true)),
            ("user_agent", serde_json::json!("AndroidDownloadManager/4.4.2")),
        ] {
            assert_eq!(line["data"][name], value, "{name}");
        }
    }

    #[test]
    fn header_data_is_parsed_only_if_it_says_json_and_is() {
        let data = |fields| asked(fields).record(&outcome(), "", false).data.header_data.into_owned();
        assert_eq!(data(&[("x-minicdn-data", "{\"a\":1}"), ("x-minicdn-type", "json")]), serde_json::json!({"a": 1}));
        assert_eq!(data(&[("x-minicdn-data", "{\"a\":1}")]), serde_json::json!("{\"a\":1}"));
        assert_eq!(data(&[("x-minicdn-data", "{broken"), ("x-minicdn-type", "json")]), serde_json::json!("{broken"));
    }

    #[test]
    fn the_privacy_switch_leaves_the_network_and_no_port() {
        assert_eq!(asked(&[]).record(&outcome(), "", true).data.remote_addr, "10.242.189.0");
        assert_eq!(truncated("2001:db8:1:2::3".parse().unwrap()).to_string(), "2001:db8:1::");
        assert_eq!(truncated("::ffff:192.0.2.9".parse().unwrap()).to_string(), "192.0.2.0");
    }

    #[test]
    fn the_source_is_what_the_nearest_cache_says() {
        let fields = HeaderMap::from_iter([
            (HeaderName::from_static("cache-status"), "other; hit".parse().unwrap()),
            (HeaderName::from_static("cache-status"), "atoll; fwd=uri-miss; stored; detail=peer-l1".parse().unwrap()),
        ]);
        assert_eq!(source_of(&fields), "peer-l1");
        assert_eq!(source_of(&HeaderMap::new()), "");
    }
}
