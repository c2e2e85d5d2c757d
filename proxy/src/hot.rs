//! The common request answered at once: a plain GET of what lies fresh in RAM, from a head that was made when it was first asked
//! for. No parser, no task, no lock but the one shard's of the store; one read and one write to the system.
//!
//! ```text
//!   bytes --Plain--> host (remembered by the connection) + target --SHA-1--> Store::get_resident --> Object
//!                                                        Object::made: head, freshness --> head + Age + Cache-Status, pieces
//! ```
//!
//! What a head is made of is asked of the whole path (`receive`, `deliver`), so both say the same; a test holds them against each
//! other. Everything that is not as common falls to the whole path: `None` means no more than that. Whoever adds a rule that
//! stands between a stored answer and its client adds it to `receive` (a host's, asked again every second) or here.

use std::{
    fmt::Write as _,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use atoll_overlay::Key;
use atoll_store::Object;
use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, Request, StatusCode, header};

use crate::{
    admit,
    ahead::{Ahead, Early},
    cache::{Cache, store_key},
    clock,
    deliver::{CACHE_STATUS, Client, Given, Links, deliver},
    gate::HeadLimits,
    log::Entry,
    lookup::seconds,
    meta::Meta,
    plain::Plain,
    reason::{CacheStatus, Source},
    receive::{CODINGS, Origin, Received, coding_class, receive},
    reference::Reference,
    site::Own,
    step::HEALTH,
    tally::Outcome,
    url::{Authority, OriginUrl},
    variants::is_for_all,
    wanted::variant,
};

/// What one connection needs for it.
pub(crate) struct Hot {
    cache: Arc<Cache>,
    from: Origin,
    limits: HeadLimits,
    /// Who decides first, if this is no listener of ours.
    ahead: Option<Ahead>,
    host: Option<Host>,
    /// The URL of the request under way.
    url: Vec<u8>,
}

/// An answer that has begun.
pub(crate) struct Answered {
    /// Bytes of its request.
    pub(crate) length: usize,
    /// Its body's pieces; none if it has no body.
    pub(crate) object: Option<Object>,
    /// What is to be logged of it.
    pub(crate) entry: Option<Entry>,
    /// When it began, if it is one of those that are timed.
    pub(crate) began: Option<Instant>,
}

/// What the host named last stands for.
struct Host {
    text: String,
    meant: Option<Meant>,
    /// Rules may change; then it is asked again.
    until: Instant,
}

struct Meant {
    /// The URL up to the path.
    before: String,
    links: Links,
    site: Option<Arc<Own>>,
}

/// What an object's metadata was made into.
enum Made {
    Head(Box<Head>),
    /// The URL's answers vary by content coding alone: the keys of the variants that are there, by class.
    Codings([Option<Key>; CODINGS.len()]),
    /// Something for the whole path.
    Other,
}

/// An answer, all but what changes with the clock.
struct Head {
    url: Box<[u8]>,
    key: Key,
    /// For whom it was made.
    links: Links,
    site: Option<Arc<Own>>,
    /// The status line and the fields.
    bytes: Box<[u8]>,
    received: SystemTime,
    initial_age: Duration,
    fresh: Duration,
    /// What the announcer has not been told yet.
    hits: AtomicU32,
    /// The second in which it was told last.
    told: AtomicU64,
}

impl Hot {
    pub(crate) fn new(cache: Arc<Cache>, from: Origin, limits: HeadLimits) -> Self {
        Self { cache, from, limits, ahead: None, host: None, url: Vec::new() }
    }

    /// Has a front decide first.
    pub(crate) fn behind(mut self, ahead: Ahead) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// So many bytes of a body have left.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.cache.counters.flow(Outcome::Hit).sent(bytes);
        if let Some(ahead) = &mut self.ahead {
            ahead.front.sent(bytes);
        }
    }

    /// An answer that is timed has left.
    pub(crate) fn ended(&self, began: Instant) {
        self.cache.counters.flow(Outcome::Hit).ended(began.elapsed());
    }

    /// A head was refused: what was read of it, and the answer's status and length.
    pub(crate) fn refused(&self, head: &[u8], answer: (StatusCode, usize)) {
        if let Some(log) = &self.cache.log {
            drop(Entry::of_refused(log, head, self.from.client.ip(), answer));
        }
    }

    /// Answers the request that these bytes begin with: writes the head into `head`.
    pub(crate) fn answer(&mut self, bytes: &[u8], head: &mut Vec<u8>) -> Option<Answered> {
        // What a rule may refuse takes the whole path.
        if !admit::is_free(&self.cache) {
            return None;
        }
        let plain = Plain::read(bytes, self.limits)?;
        let now = Instant::now();
        if self.host.as_ref().is_none_or(|host| host.text != plain.host || host.until <= now) {
            let meant = self.meaning(&plain);
            self.host = Some(Host { text: plain.host.to_owned(), meant, until: now + HOST_KEPT });
        }
        let meant = self.host.as_ref()?.meant.as_ref()?;
        if let Some(ahead) = &mut self.ahead {
            head.clear();
            match ahead.front.decide(plain.for_front(), head) {
                Early::Stored => {}
                Early::Told => {
                    return Some(Answered { length: plain.length, object: None, entry: None, began: None });
                }
                Early::Later => return None,
            }
        }
        if plain.target == HEALTH || plain.target == "/robots.txt" {
            return None;
        }
        self.url.clear();
        self.url.extend_from_slice(meant.before.as_bytes());
        self.url.extend_from_slice(plain.target.as_bytes());
        let mut key = Key::of(&self.url);
        let mut object = self.cache.store.get_resident(&store_key(key))?;
        if let Made::Codings(keys) = self.made(&plain, meant, key, &object)? {
            key = (*keys.get(coding_class(std::iter::once(plain.codings)))?)?;
            object = self.cache.store.get_resident(&store_key(key))?;
        }
        let Made::Head(made) = self.made(&plain, meant, key, &object)? else { return None };
        let same_site = match (&made.site, &meant.site) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if *made.url != *self.url
            || made.links != meant.links
            || !same_site
            || object.soft_purged()
            || self.cache.purges.doubts(made.received)
        {
            return None;
        }
        let clock = clock::at(now);
        let age = made.initial_age + clock::resident(made.received, clock);
        let left = made.fresh.checked_sub(age).filter(|left| !left.is_zero())?;
        let status = made.write(age, head);
        let entry = self.cache.log.as_ref().map(|log| {
            let cache = String::from_utf8_lossy(head.get(status).unwrap_or_default()).into_owned();
            Entry::of_plain(log, &plain, self.from.client.ip(), cache)
        });
        made.tell(&self.cache, &object, left, clock);
        let began = self.cache.counters.hit(meant.site.as_deref(), now).then_some(now);
        if let Some(ahead) = &mut self.ahead {
            ahead.front.begins(plain.for_front(), object.len());
        }
        Some(Answered { length: plain.length, object: Some(object), entry, began })
    }

    /// What the host of a request stands for, as the whole path has it; `None` where a path may mean more than itself.
    fn meaning(&self, plain: &Plain<'_>) -> Option<Meant> {
        // A front's clients name any host, but a host.
        Authority::parse(plain.host).ok()?;
        let Ok(Received::Asked(asked)) = receive(&self.cache, self.request(plain)?) else { return None };
        if matches!(asked.client.links, Links::Manager) || !asked.site.as_ref().is_none_or(|site| site.keeps_targets())
        {
            return None;
        }
        let url = asked.url.to_string();
        let before = url.strip_suffix(plain.target)?.to_owned();
        Some(Meant { before, links: asked.client.links.clone(), site: asked.site.clone() })
    }

    fn request<T>(&self, plain: &Plain<'_>) -> Option<Request<Option<T>>> {
        if let Some(Ahead { host, base, .. }) = &self.ahead {
            // As the front's other requests come: from nobody in particular.
            return Request::get(format!("{base}{}", plain.target)).header(header::HOST, host).body(None).ok();
        }
        let mut request = Request::get(plain.target).header(header::HOST, plain.host).body(None).ok()?;
        request.extensions_mut().insert(self.from.clone());
        Some(request)
    }

    /// What the object's metadata comes to, made now if it is the first to ask.
    fn made<'o>(&self, plain: &Plain<'_>, meant: &Meant, key: Key, object: &'o Object) -> Option<&'o Made> {
        if object.made::<Made>().is_none() {
            object.make(self.make(plain, meant, key, object).unwrap_or(Made::Other));
        }
        object.made()
    }

    fn make(&self, plain: &Plain<'_>, meant: &Meant, key: Key, object: &Object) -> Option<Made> {
        let mut meta = Meta::decode_stored(&object.head().metadata)?;
        let Ok(Received::Asked(asked)) = receive(&self.cache, self.request(plain)?) else { return None };
        if meta.url.as_bytes() != self.url || asked.url.to_string().as_bytes() != self.url {
            return None;
        }
        if !meta.varies_by.is_empty() {
            let alone =
                meta.varies_by.len() == 1 && meta.varies_by.first().is_some_and(|name| name == "accept-encoding");
            return alone.then(|| Made::Codings(variants(&asked.url, &meta)));
        }
        let misplaced = key == asked.url.key() && !is_for_all(&meta);
        if misplaced || meta.status != StatusCode::OK || !meta.fields.contains_key(header::DATE) {
            return None;
        }
        let fresh = self.cache.lifetime(meant.site.as_deref(), &meta).fresh;
        meta.withhold();
        let bytes = self.head(&asked.url, &asked.client, &meta, object)?;
        let bounded = bytes.len() <= object.head().metadata.len() + ROOM;
        bounded.then(|| {
            Made::Head(Box::new(Head {
                url: self.url.clone().into(),
                key,
                links: meant.links.clone(),
                site: meant.site.clone(),
                bytes: bytes.into(),
                received: meta.received,
                initial_age: meta.initial_age,
                fresh,
                hits: AtomicU32::new(0),
                told: AtomicU64::new(0),
            }))
        })
    }

    /// The head that the whole path would send, without Age and our Cache-Status.
    fn head(&self, url: &OriginUrl, client: &Client, meta: &Meta, object: &Object) -> Option<Vec<u8>> {
        let status = CacheStatus::hit(Source::Memory, 0, None);
        let given = Given::Object(object.clone());
        // Nothing is waited for where the body is in RAM.
        let response = deliver(&self.cache.zone, url, client, meta, given, &status).now_or_never()?.ok()?;
        // A front has these name itself.
        let leads =
            [header::LOCATION, header::CONTENT_LOCATION].iter().any(|name| response.headers().contains_key(name));
        if response.status() != StatusCode::OK || self.ahead.is_some() && leads {
            return None;
        }
        let ours = status.value();
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        for (name, value) in response.headers() {
            if name == header::AGE || name == CACHE_STATUS && *value == ours {
                continue;
            }
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        Some(bytes)
    }
}

impl Head {
    /// The whole head at this age; where in it our Cache-Status stands.
    fn write(&self, age: Duration, head: &mut Vec<u8>) -> Range<usize> {
        head.clear();
        head.extend_from_slice(&self.bytes);
        let ttl = seconds(self.fresh) - seconds(age);
        // Writing to memory cannot fail.
        let _ = write!(Text(head), "age: {}\r\ncache-status: ", age.as_secs());
        let from = head.len();
        let _ = write!(Text(head), "atoll; hit; ttl={ttl}; detail=memory");
        let to = head.len();
        head.extend_from_slice(b"\r\n\r\n");
        from..to
    }

    /// Has the announcer know of hits, once a second at most: its table is all cores'.
    fn tell(&self, cache: &Cache, object: &Object, left: Duration, now: SystemTime) {
        let hits = self.hits.fetch_add(1, Ordering::Relaxed) + 1;
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs());
        if self.told.load(Ordering::Relaxed) != second {
            self.told.store(second, Ordering::Relaxed);
            self.hits.fetch_sub(hits, Ordering::Relaxed);
            let Some(announcer) = cache.announcer() else { return };
            announcer.hits(self.key, hits, left, || {
                Meta::decode_stored(&object.head().metadata)
                    .map_or_else(Reference::fetching, |meta| Reference::of_copy(&meta, object))
            });
        }
    }
}

/// Bytes to which text is written.
struct Text<'v>(&'v mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The keys of a URL's variants by class of content codings, as far as they are listed.
fn variants(url: &OriginUrl, list: &Meta) -> [Option<Key>; CODINGS.len()] {
    CODINGS.map(|class| {
        let value = (!class.is_empty()).then(|| (header::ACCEPT_ENCODING, http::HeaderValue::from_static(class)));
        let key = variant(url, &HeaderMap::from_iter(value), &list.varies_by);
        list.variants.contains(&key).then_some(key)
    })
}

/// The body's pieces.
pub(crate) fn pieces(object: &Object) -> &[Bytes] {
    object.resident().unwrap_or_default()
}

/// What a host stands for is believed so long.
const HOST_KEPT: Duration = Duration::from_secs(1);

/// Bytes that a head may be longer than the metadata it is made of: what we add ourselves.
const ROOM: usize = 256;
