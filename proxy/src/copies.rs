//! Who holds which copies of a URL: this node looks into its store, and asks those that the index names and the proxies it knows, since
//! under a URL's own key the index names nobody who holds its variants or slices only.
//!
//! ```text
//! GET /copies HTTP/1.1
//! Atoll-Url: http://...      the answer is JSON, one list of copies
//! ```

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_overlay::{Found, Key, Levels, NodeId};
use atoll_store::Tier;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    body::Body,
    cache::{Cache, store_key},
    clock,
    deliver::text,
    lookup::seconds,
    meta::Meta,
    part,
    peer::ATOLL_URL,
    plan::Plan,
    purge::{self, PurgeError},
    server::Proxy,
    url::OriginUrl,
};

/// The copies of one URL, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CopiesOf {
    /// The URL in its one form.
    pub url: String,
    /// Its key in the index.
    pub key: String,
    /// This node first, then those that the index names.
    pub nodes: Vec<NodeCopies>,
}

/// What one node holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeCopies {
    /// Its id.
    pub node: String,
    /// Whether it has answered.
    pub answered: bool,
    /// What it has, variants and parts each.
    pub copies: Vec<StoredCopy>,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredCopy {
    /// The URL, if another than was asked about: the same under https.
    pub url: String,
    /// What it is stored under: the URL's key, or its variant's.
    pub key: String,
    /// The answer's status.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// Seconds since the origin made or confirmed it.
    pub age: i64,
    /// Seconds for which it may still be used; below zero it is stale.
    pub fresh: i64,
    /// Whether a soft purge has marked it.
    pub purged: bool,
    /// What it varies by, content coding, language and type, as its fields say.
    pub variant: String,
    /// Its entity tag.
    pub etag: String,
    /// What it can be purged by.
    pub tags: Vec<String>,
    /// `ram` or `disk`; `slices` where there are these.
    pub tier: String,
    /// Whether it is a stretch of the whole, or as many slices as are there.
    pub part: bool,
}

impl Proxy {
    /// The copies of a URL, its origin's or Coralized, here and at those that the index names.
    ///
    /// # Errors
    /// That is no URL.
    pub async fn copies(&self, url: &str) -> Result<CopiesOf, PurgeError> {
        let cache = &self.cache;
        let url = purge::origin_url(cache, url)?;
        let (own, keys) = held_under_all(cache, &url).await;
        let me = cache.index.me().id;
        let here = NodeCopies { node: me.to_string(), answered: true, copies: own };
        let mut holders = BTreeSet::new();
        for key in keys.into_iter().take(KEYS_ASKED) {
            if let Ok(Found::Values { values, .. }) = cache.index.get(key, Levels::All).await {
                holders.extend(values.into_iter().map(|value| value.holder).filter(|holder| *holder != me));
            }
        }
        // Those that the index names first.
        let known = cache.purges.peers().into_iter().filter(|peer| !holders.contains(peer)).collect::<Vec<_>>();
        let asked = holders.iter().copied().chain(known).take(HOLDERS).map(|holder| ask(cache, holder, &url));
        let mut others: Vec<NodeCopies> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        // Of those that nobody names only what they have is of interest.
        let named = |node: &NodeCopies| holders.iter().any(|holder| holder.to_string() == node.node);
        others.retain(|node| !node.copies.is_empty() || named(node));
        let nodes = std::iter::once(here).chain(others).collect();
        Ok(CopiesOf { url: url.to_string(), key: url.key().to_string(), nodes })
    }
}

/// Answers a peer that wants to know what this node holds.
pub(crate) async fn answer(cache: &Cache, fields: &HeaderMap) -> Response<Body> {
    let url =
        fields.get(ATOLL_URL).and_then(|value| value.to_str().ok()).and_then(|url| purge::origin_url(cache, url).ok());
    let Some(url) = url else { return text(StatusCode::BAD_REQUEST, "no request of a peer\n") };
    let (copies, _) = held_under_all(cache, &url).await;
    let mut answer = text(StatusCode::OK, serde_json::to_vec(&copies).unwrap_or_default());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// What the store has of a URL, and of the same under https, which its host may have been upgraded to.
async fn held_under_all(cache: &Cache, url: &OriginUrl) -> (Vec<StoredCopy>, Vec<Key>) {
    let (mut copies, mut keys) = held(cache, url).await;
    if let Some(upgraded) = url.upgraded() {
        let (mut more, under) = held(cache, &upgraded).await;
        more.iter_mut().for_each(|copy| copy.url = upgraded.to_string());
        copies.extend(more);
        keys.extend(under);
    }
    (copies, keys)
}

/// What the store has of a URL, and the keys that it may stand under.
async fn held(cache: &Cache, url: &OriginUrl) -> (Vec<StoredCopy>, Vec<Key>) {
    let mut keys = vec![url.key()];
    if let Some(object) = cache.store.get(&store_key(url.key())).await
        && let Some(meta) = Meta::decode_stored(&object.head().metadata)
    {
        keys.extend(meta.variants);
    }
    let mut copies = Vec::new();
    for key in &keys {
        let whole = std::iter::once((*key, false));
        for (place, part) in whole.chain(part::keys(*key).map(|place| (place, true))) {
            let Some(object) = cache.store.get(&store_key(place)).await else { continue };
            let Some(meta) = Meta::decode_stored(&object.head().metadata) else { continue };
            if meta.varies_by.is_empty() && meta.url == url.to_string() {
                let tier = match object.tier() {
                    Tier::Memory => "ram",
                    Tier::Disk => "disk",
                };
                copies.push(describe(cache, &meta, (key, part), (object.len(), object.soft_purged(), tier)));
            }
        }
        copies.extend(slices(cache, *key, url).await);
    }
    (copies, keys)
}

/// The slices that are there of what stands under a key, as one copy.
async fn slices(cache: &Cache, whole: Key, url: &OriginUrl) -> Option<StoredCopy> {
    let object = cache.store.get(&store_key(Plan::key(whole))).await?;
    let record = Meta::decode_stored(&object.head().metadata).filter(|record| record.url == url.to_string())?;
    let plan = Plan::of(whole, &record, &cache.config.slices)?;
    let mut bytes = 0;
    for number in 0..plan.total.div_ceil(plan.size).min(SLICES) {
        if cache.store.contains(&store_key(plan.slice_key(number))).await {
            bytes += plan.span(number).length();
        }
    }
    Some(describe(cache, &record, (&whole, true), (bytes, object.soft_purged(), "slices")))
}

fn describe(
    cache: &Cache,
    meta: &Meta,
    (key, part): (&Key, bool),
    (length, purged, tier): (u64, bool, &str),
) -> StoredCopy {
    let field =
        |name: &http::HeaderName| meta.fields.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let variant = [header::VARY, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_TYPE];
    let age = meta.age(clock::now());
    StoredCopy {
        url: String::new(),
        key: key.to_string(),
        status: meta.status.as_u16(),
        length,
        age: seconds(age),
        fresh: seconds(cache.lifetime(cache.site_of(&meta.url).as_deref(), meta).fresh) - seconds(age),
        purged: purged || cache.purges.doubts(meta.received),
        variant: variant.iter().filter_map(field).collect::<Vec<_>>().join("; "),
        etag: field(&header::ETAG).unwrap_or_default(),
        tags: purge::tags_of(&meta.fields),
        tier: tier.to_owned(),
        part,
    }
}

async fn ask(cache: &Cache, holder: NodeId, url: &OriginUrl) -> NodeCopies {
    let node = holder.to_string();
    let request = Request::get(PATH).header(header::HOST, "peer").header(ATOLL_URL, url.to_string());
    let Ok(request) = request.body(http_body_util::Empty::new()) else {
        return NodeCopies { node, ..NodeCopies::default() };
    };
    let body = purge::get(Arc::clone(&cache.streams), holder, request, PATIENCE).await;
    let copies = body.and_then(|body| serde_json::from_slice::<Vec<StoredCopy>>(&body).ok());
    NodeCopies { node, answered: copies.is_some(), copies: copies.unwrap_or_default() }
}

/// Where peers ask; no object's key looks so.
pub(crate) const PATH: &str = "/copies";

/// How long a holder may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keys of one URL that the index is asked about: its own, and variants'.
const KEYS_ASKED: usize = 9;

/// Slices of one object that are looked for.
const SLICES: u64 = 16_384;

/// Holders asked.
const HOLDERS: usize = 64;

/// Of these at a time.
const AT_ONCE: usize = 16;
