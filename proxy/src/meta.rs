//! What is kept beside a body: status, fields, times, validators. One protobuf message, in the store and between peers.
//!
//! Times between peers are spans (an age): their clocks may differ. The one moment among them bounds what a peer may say of an age
//! ([`crate::vouch`]).

#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_overlay::Key;
use atoll_store::Object;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use crate::{
    clock,
    config::FreshnessConfig,
    freshness::{self, Lifetime},
    vouch::{AsOf, Groups, Vouched, decode_heads, encode_heads},
};

/// One answer without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The URL it answers, in its one form.
    pub(crate) url: String,
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its fields, hop-by-hop ones removed.
    pub(crate) fields: HeaderMap,
    /// When it arrived at this node.
    pub(crate) received: SystemTime,
    /// How old it was then.
    pub(crate) initial_age: Duration,
    /// What must be equal for two copies' bytes to be mixed.
    pub(crate) validator: [u8; 16],
    /// Bytes of the body, if known.
    pub(crate) length: Option<u64>,
    /// BLAKE3 of the body, once it is whole.
    pub(crate) digest: Option<blake3::Hash>,
    /// It is whole, and its digest is yet to be made: there was nobody to be told of it.
    pub(crate) undigested: bool,
    /// Not an answer but the list of request fields that answers to this URL vary by.
    pub(crate) varies_by: Vec<String>,
    /// The keys of the variants that are stored, oldest first.
    pub(crate) variants: Vec<Key>,
    /// Who vouches for it.
    pub(crate) vouched: Vouched,
}

impl Meta {
    /// How old the answer is now.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        self.initial_age + clock::resident(self.received, now)
    }

    /// BLAKE3 of the body of a copy that is whole; made now if it was not when the body came, which takes a copy that is in RAM, as short
    /// ones are once they are found.
    pub(crate) fn digest_of(&self, copy: &Object) -> Option<blake3::Hash> {
        if !self.undigested {
            return self.digest;
        }
        let mut hasher = blake3::Hasher::new();
        for piece in copy.resident()? {
            hasher.update(piece);
        }
        Some(hasher.finalize())
    }

    /// How long it may be used; a refusal that says nothing for so long.
    pub(crate) fn lifetime(&self, config: &FreshnessConfig, refusal: Duration) -> Lifetime {
        // Directives are counted from the origin's moment; a Date in the fields is the origin's own.
        Lifetime::of(self.status, &self.fields, self.received, (config, refusal))
    }

    /// Takes out what may not be sent on without asking the origin [RFC 9111 5.2.2.4].
    pub(crate) fn withhold(&mut self) {
        let (unasked, private) = freshness::withheld(&self.fields);
        for name in unasked.iter().chain(&private) {
            self.fields.remove(name);
        }
    }

    /// Takes out what may not be stored by a shared cache [RFC 9111 5.2.2.7].
    pub(crate) fn withhold_private(&mut self) {
        for name in freshness::withheld(&self.fields).1 {
            self.fields.remove(name);
        }
    }

    /// Whether what is written of it is plainly less than the least that a store may be told to take: 1 KiB.
    pub(crate) fn is_short(&self) -> bool {
        let of_fields = self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + BESIDE);
        let vouched = &self.vouched;
        vouched.head.is_empty()
            && vouched.as_of.heads.is_empty()
            && self.variants.is_empty()
            && self.varies_by.is_empty()
            && of_fields.sum::<usize>() + self.url.len() <= SHORT
    }

    /// As bytes, its age as of now: a [`Written`], from what is borrowed here.
    pub(crate) fn encode(&self, now: SystemTime) -> Bytes {
        let of_fields: usize = self.fields.iter().map(|(name, value)| name.as_str().len() + value.len() + BESIDE).sum();
        let mut to = Message(Vec::with_capacity(self.url.len() + of_fields + USUAL));
        to.number(1, VERSION.into());
        to.bytes(2, self.url.as_bytes());
        to.number(3, self.status.as_u16().into());
        for (name, value) in &self.fields {
            to.field(4, name.as_str().as_bytes(), value.as_bytes());
        }
        to.number(5, millis(now.duration_since(UNIX_EPOCH).unwrap_or_default()));
        to.number(6, millis(self.age(now)));
        to.bytes(7, &self.validator);
        if let Some(length) = self.length {
            to.given_number(8, length);
        }
        to.bytes(9, self.digest.as_ref().map_or(&[], |digest| digest.as_bytes()));
        for name in &self.varies_by {
            to.given_bytes(10, name.as_bytes());
        }
        for key in &self.variants {
            to.given_bytes(11, key.as_bytes());
        }
        to.bytes(12, &self.vouched.head);
        if let Groups::Inline(groups) = &self.vouched.body {
            to.bytes(13, groups);
        }
        to.number(14, (self.vouched.body == Groups::Beside).into());
        to.number(15, self.vouched.as_of.made);
        to.bytes(16, &encode_heads(&self.vouched.as_of.heads));
        to.number(17, self.undigested.into());
        to.0.into()
    }

    /// What this node wrote earlier.
    pub(crate) fn decode_stored(bytes: &Bytes) -> Option<Self> {
        Self::decode(bytes, None)
    }

    /// What a peer sent just now.
    pub(crate) fn decode_received(bytes: &Bytes, now: SystemTime) -> Option<Self> {
        Self::decode(bytes, Some(now))
    }

    fn decode(bytes: &Bytes, received: Option<SystemTime>) -> Option<Self> {
        let written = Written::decode(bytes.clone()).ok()?;
        if written.version != VERSION || written.fields.len() > FIELDS {
            return None;
        }
        let mut fields = HeaderMap::with_capacity(written.fields.len());
        for field in written.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            if !HOP_BY_HOP.contains(&name) {
                fields.append(name, HeaderValue::from_maybe_shared(field.value).ok()?);
            }
        }
        let status = u16::try_from(written.status).ok().and_then(|status| StatusCode::from_u16(status).ok())?;
        Some(Self {
            url: written.url,
            status,
            fields,
            received: received.or_else(|| UNIX_EPOCH.checked_add(Duration::from_millis(written.written)))?,
            initial_age: Duration::from_millis(written.age.min(AGE_LIMIT)),
            validator: written.validator.as_ref().try_into().ok()?,
            length: written.length,
            digest: written.digest.as_ref().try_into().ok().map(blake3::Hash::from_bytes),
            undigested: received.is_none() && written.undigested,
            varies_by: written.varies_by,
            variants: written
                .variants
                .iter()
                .map(|key| key.as_ref().try_into().ok().map(Key::from_bytes))
                .collect::<Option<_>>()?,
            vouched: Vouched {
                head: written.head_proof,
                as_of: AsOf { made: written.made, heads: decode_heads(written.heads)? },
                body: match (written.beside, written.groups.is_empty()) {
                    (true, _) => Groups::Beside,
                    (false, true) => Groups::Own,
                    (false, false) => Groups::Inline(written.groups),
                },
            },
        })
    }
}

/// What copies must agree in for their bytes to be mixed: a strong entity tag with the length, else the one fetch they stem
/// from.
pub(crate) fn validator(url: &str, fields: &HeaderMap, length: Option<u64>, fetch: [u8; 16]) -> [u8; 16] {
    let strong = fields.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    let (Some(tag), Some(length)) = (strong, length) else { return fetch };
    let mut hash = blake3::Hasher::new();
    let coding = fields.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    for part in [url.as_bytes(), tag.as_bytes(), coding, &length.to_be_bytes()] {
        hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut short = [0; 16];
    hash.finalize_xof().fill(&mut short);
    short
}

/// Removes what concerns one connection only [RFC 9110 7.6.1].
pub(crate) fn strip_hop_by_hop(fields: &mut HeaderMap) {
    // Each look into the map is a hash: the fields, which are few, are gone through instead.
    let mut gone: Vec<_> = fields.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned().collect();
    for value in fields.iter().filter_map(|(name, value)| (name == header::CONNECTION).then_some(value)) {
        let names = value.to_str().unwrap_or_default().split(',');
        gone.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok()));
    }
    for name in gone {
        fields.remove(name);
    }
}

/// Whether a peer wrote this as another version says; what cannot be read at all is of none.
pub(crate) fn is_of_another_version(bytes: &Bytes) -> bool {
    Versioned::decode(bytes.clone()).is_ok_and(|it| it.version != 0 && it.version != VERSION)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A message on its way to bytes, field by field in the order of their tags.
struct Message(Vec<u8>);

impl Message {
    /// A number; none, if it is 0.
    fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.given_number(tag, number);
        }
    }

    fn given_number(&mut self, tag: u32, number: u64) {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(number, &mut self.0);
    }

    /// Bytes; none, if there are none.
    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.given_bytes(tag, bytes);
        }
    }

    fn given_bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.begin(tag, bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// A message of two fields.
    fn field(&mut self, tag: u32, name: &[u8], value: &[u8]) {
        let length =
            |bytes: &[u8]| if bytes.is_empty() { 0 } else { 1 + encoded_len_varint(long(bytes.len())) + bytes.len() };
        self.begin(tag, length(name) + length(value));
        self.bytes(1, name);
        self.bytes(2, value);
    }

    fn begin(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(long(length), &mut self.0);
    }
}

fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    url: String,
    #[prost(uint32, tag = "3")]
    status: u32,
    #[prost(message, repeated, tag = "4")]
    fields: Vec<Field>,
    /// Milliseconds since the Unix epoch by the writer's clock; peers ignore it.
    #[prost(uint64, tag = "5")]
    written: u64,
    /// Milliseconds old when written.
    #[prost(uint64, tag = "6")]
    age: u64,
    #[prost(bytes = "bytes", tag = "7")]
    validator: Bytes,
    #[prost(uint64, optional, tag = "8")]
    length: Option<u64>,
    #[prost(bytes = "bytes", tag = "9")]
    digest: Bytes,
    #[prost(string, repeated, tag = "10")]
    varies_by: Vec<String>,
    /// 20 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    variants: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "12")]
    head_proof: Bytes,
    /// Between peers always empty: there the groups come with the body.
    #[prost(bytes = "bytes", tag = "13")]
    groups: Bytes,
    #[prost(bool, tag = "14")]
    beside: bool,
    /// Milliseconds since the Unix epoch by the clock of whoever signed the head.
    #[prost(uint64, tag = "15")]
    made: u64,
    /// The purges that it had applied, 28 bytes for each signer.
    #[prost(bytes = "bytes", tag = "16")]
    heads: Bytes,
    /// In the store only.
    #[prost(bool, tag = "17")]
    undigested: bool,
}

/// What all versions have in common.
#[derive(Clone, PartialEq, prost::Message)]
struct Versioned {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Bytes of a URL and of fields that leave enough of 1 KiB for all else.
const SHORT: usize = 768;
/// Bytes that a field takes beside its name and value, at most: tags and lengths.
const BESIDE: usize = 12;

/// Bytes beside URL and fields that what is written of an answer seldom needs more of.
const USUAL: usize = 192;

/// Never kept, never passed on.
static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The version written and read. 2: heads say as of when they are.
pub(crate) const VERSION: u32 = 2;

/// Fields of one answer; the same limit as heads have on arrival, and some room.
const FIELDS: usize = 1_000;

/// The largest age in milliseconds: 2^31 seconds.
const AGE_LIMIT: u64 = 1_000 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freshness::State;

    fn meta(now: SystemTime) -> Meta {
        let mut fields = HeaderMap::new();
        fields.append("x", HeaderValue::from_static("1"));
        fields.append("x", HeaderValue::from_bytes(b"\xe9").unwrap());
        Meta {
            url: "http://a.test/".to_owned(),
            status: StatusCode::OK,
            fields,
            received: now,
            initial_age: Duration::from_secs(5),
            validator: [3; 16],
            length: Some(9),
            digest: Some(blake3::hash(b"body")),
            undigested: false,
            varies_by: vec!["accept".to_owned()],
            variants: vec![Key::of(b"one")],
            vouched: Vouched {
                head: Bytes::from_static(b"proof"),
                as_of: AsOf { made: 7, heads: [(Key::of(b"signer").into(), 8)].into() },
                body: Groups::Inline(Bytes::from_static(b"groups")),
            },
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    #[test]
    fn what_is_written_is_the_message_that_is_read() {
        let full = meta(now());
        let mut bare = full.clone();
        (bare.url, bare.length, bare.digest, bare.initial_age) = (String::new(), Some(0), None, Duration::ZERO);
        (bare.varies_by, bare.variants, bare.vouched) = (vec![String::new()], Vec::new(), Vouched::default());
        bare.fields.append("empty", HeaderValue::from_static(""));
        bare.fields.append("long", HeaderValue::from_bytes(&[b'a'; 20_000]).unwrap());
        let mut none = full.clone();
        (none.length, none.fields, none.vouched.body) = (None, HeaderMap::new(), Groups::Beside);
        (none.digest, none.undigested) = (None, true);
        for meta in [full, bare, none] {
            let bytes = meta.encode(now());
            assert_eq!(Written::decode(bytes.clone()).unwrap().encode_to_vec(), bytes, "{meta:?}");
            assert_eq!(Meta::decode_stored(&bytes), Some(meta));
        }
    }

    #[test]
    fn it_reads_back_and_ages_by_spans_alone() {
        let stored = meta(now());
        assert_eq!(Meta::decode_stored(&stored.encode(now())), Some(stored.clone()));
        let sent = stored.encode(now() + Duration::from_secs(10));
        // A peer whose clock is a day behind still knows the age.
        let there = now() - Duration::from_secs(86_400);
        assert_eq!(Meta::decode_received(&sent, there).unwrap().age(there), Duration::from_secs(15));
        assert_eq!(stored.age(now() - Duration::from_secs(60)), Duration::from_secs(65));
    }

    #[test]
    fn what_is_short_has_room_in_the_least_that_a_store_may_be_told_to_take() {
        let mut short =
            Meta { varies_by: Vec::new(), variants: Vec::new(), vouched: Vouched::default(), ..meta(now()) };
        assert!(!meta(now()).is_short() && short.is_short());
        let mut longest = 0;
        for length in 1..1_000 {
            short.fields.append("a", HeaderValue::from_bytes(&vec![b'v'; length % 7]).unwrap());
            let written = short.encode(now()).len();
            longest = if short.is_short() { written } else { longest };
            assert!(written <= 1 << 10 || !short.is_short(), "{written}");
        }
        assert!(longest > 512, "{longest}");
    }

    // C08: the clock at a start may be another than the one by which things were stored before it.
    #[test]
    fn a_jump_of_the_clock_between_two_runs_makes_nothing_immortal_and_deletes_nothing() {
        let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
        let year = day * 365;
        let real = UNIX_EPOCH + year * 56;
        let stored = Meta { initial_age: Duration::ZERO, ..meta(real) };
        for fresh in [hour / 60, hour, day, day * 30] {
            let lifetime = Lifetime { fresh, if_error: day, ..Lifetime::default() };
            let state = |clock: SystemTime| lifetime.state(stored.age(clock));
            for jump in [Duration::ZERO, hour / 6, hour, day, year, year * 50] {
                // Set back: what was used as fresh at the start, and on from there.
                let (step, around) = (fresh / 100, jump.saturating_sub(fresh * 2));
                let begin = if around > fresh * 4 { vec![Duration::ZERO, around] } else { vec![Duration::ZERO] };
                let moments = begin.into_iter().flat_map(|from| {
                    (0..if around > fresh * 4 { 400u32 } else { 1_000 }).map(move |at| from + step * at)
                });
                let used = moments.filter(|after| matches!(state(real - jump + *after), State::Fresh(_))).count();
                assert!(used <= 200, "{fresh:?} set back by {jump:?}: fresh for {used} hundredths of that");
                // Set forward: asked about before it is used, and standing in for an origin that fails as ever.
                let stale = matches!(state(real + jump), State::Fresh(_) | State::Stale { .. });
                assert!(stale, "{fresh:?} set forward by {jump:?}");
                assert!(jump >= fresh || matches!(state(real + jump), State::Fresh(_)));
            }
        }
    }

    // C13: what is stored is held to its limits when it is read again.
    #[test]
    fn a_head_of_too_many_fields_is_not_read_back() {
        for (count, good) in [(FIELDS, true), (FIELDS + 1, false)] {
            let name = |number: usize| HeaderName::try_from(format!("x-{number}")).unwrap();
            let fields = (0..count).map(|number| (name(number), HeaderValue::from_static("y"))).collect();
            let stored = Meta { fields, ..meta(now()) };
            assert_eq!(Meta::decode_stored(&stored.encode(now())).is_some(), good, "{count}");
        }
    }

    #[test]
    fn validators_join_only_equal_bytes() {
        let tagged = |tag: &'static str| HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static(tag))]);
        let of = |tag, length, fetch| validator("u", &tagged(tag), length, [fetch; 16]);
        assert_eq!(of("\"a\"", Some(1), 1), of("\"a\"", Some(1), 2));
        assert_ne!(of("\"a\"", Some(1), 1), of("\"a\"", Some(2), 1));
        assert_ne!(of("W/\"a\"", Some(1), 1), of("W/\"a\"", Some(1), 2));
        assert_ne!(of("\"a\"", None, 1), of("\"a\"", None, 2));
    }

    #[test]
    fn foreign_bytes_never_panic_nor_bring_framing() {
        let mut bad = meta(now());
        bad.fields.append(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        assert!(!Meta::decode_stored(&bad.encode(now())).unwrap().fields.contains_key(header::TRANSFER_ENCODING));
        bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
            let _ = Meta::decode_received(&Bytes::copy_from_slice(bytes), now());
        });
    }
}
