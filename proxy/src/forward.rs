//! Requests that no stored answer can serve, passed to an own site's origin with their bodies: unsafe methods, which make what is
//! stored of their URL invalid (RFC 9111 4.4), and HEAD where there is no fresh copy, which may confirm or refute a stale one
//! (RFC 9111 4.3.5).

use std::{sync::Arc, time::SystemTime};

use atoll_overlay::Key;
use atoll_store::{Object, PurgeNumber};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Body as _;

use crate::{
    body::Body,
    cache::{Cache, store_key},
    clock,
    deliver::{Given, deliver, refuse, text},
    found::{OldCopy, Vain},
    freshness::{self, Asker},
    from_origin::{came_by, dated},
    meta::{Meta, strip_hop_by_hop, validator},
    origin::{OriginAnswer, OriginBody, OriginRequest},
    part,
    plan::Plan,
    posted::{Kept, Posted},
    purge::{self, Heads},
    reason::{CacheStatus, Forwarded, Reason, Source},
    receive::{Asked, CONDITIONS},
    respond::{bypass, respond},
    stated::Stated,
    step::Told,
    url::OriginUrl,
    variants::Listed,
    vouch::Vouched,
};

/// Passes a request on, for this reason, and its answer back; of a failure the stale copy that may stand in.
pub(crate) async fn forward(
    cache: &Arc<Cache>,
    mut asked: Asked,
    forwarded: Forwarded,
    stale: Option<Box<OldCopy>>,
) -> (Response<Body>, Option<Told>) {
    let Some(fields) = fields_sent(&asked) else { return (text(StatusCode::NO_CONTENT, ""), Some(Told::default())) };
    let body = asked.body.take().filter(|body| !asked.client.head && !body.is_end_stream());
    let (began, applied) = (clock::now(), cache.purges.heads());
    let born = cache.store.purge_number();
    let confirms = asked.client.head && !asked.wish.no_store;
    let stored = if confirms { stored(cache, &asked).await } else { None };
    let request = OriginRequest {
        method: &asked.method,
        target: asked.url.path(),
        fields: &fields,
        body,
        tab: asked.tab.clone(),
        interim: asked.interim.clone(),
    };
    let mut answer = match cache.origin.ask(&asked.upstream, request).await {
        Ok(answer) => answer,
        Err(failure) => {
            if failure.is_origins()
                && let Some(stale) = stale
            {
                return respond(cache, Box::new(asked), stale.instead(Vain::unanswered(forwarded, failure))).await;
            }
            let why = format!("{} could not be asked: {failure}", asked.url.host());
            let status = CacheStatus { forwarded: Some(forwarded), ..bypass(None, None, Reason::Method) };
            return (refuse(failure, &why, Some(&status)), Some(Told::default()));
        }
    };
    if freshness::is_failure(answer.status)
        && let Some(stale) = stale
    {
        let vain = Vain::answered(forwarded, answer.status);
        return respond(cache, Box::new(asked), stale.instead(vain)).await;
    }
    let received = clock::now();
    strip_hop_by_hop(&mut answer.fields);
    dated(&mut answer.fields, received);
    came_by(answer.version, &mut answer.fields);
    if confirms {
        if let Some(stored) = stored {
            confirm(cache, &asked, stored, &answer, (began, received), (applied.clone(), born)).await;
        }
    } else if !is_safe(&asked.method) && (answer.status.is_success() || answer.status.is_redirection()) {
        invalidate_all(cache, &asked, &answer.fields).await;
    }
    let url = asked.url.to_string();
    let meta = Meta {
        status: answer.status,
        initial_age: freshness::initial_age(&answer.fields, began, received),
        validator: validator(&url, &answer.fields, answer.length, rand::random()),
        url,
        fields: answer.fields,
        received,
        length: answer.length,
        digest: None,
        undigested: false,
        varies_by: Vec::new(),
        variants: Vec::new(),
        vouched: Vouched::from_origin(applied),
    };
    passed_back(cache, Relay { asked, meta, body: answer.body, born, forwarded }).await
}

/// The fields that the origin is asked with; none where this node is the last that the client wants to hear from.
fn fields_sent(asked: &Asked) -> Option<HeaderMap> {
    let mut fields = HeaderMap::clone(&asked.fields);
    if asked.client.head {
        for name in CONDITIONS.iter().chain([&header::RANGE]) {
            for value in asked.client.fields.get_all(name) {
                fields.append(name, value.clone());
            }
        }
    }
    if asked.method == Method::OPTIONS
        && let Some(left) = asked.client.fields.get(header::MAX_FORWARDS)
    {
        // This is the last one that the client wants to hear from, or one less is left for those behind [RFC 9110 7.6.2].
        match left.to_str().ok().and_then(|left| left.trim().parse::<u32>().ok()) {
            Some(0) => return None,
            Some(left) => drop(fields.insert(header::MAX_FORWARDS, HeaderValue::from(left - 1))),
            None => {}
        }
    }
    Some(fields)
}

/// An answer on its way back.
struct Relay {
    asked: Asked,
    meta: Meta,
    body: OriginBody,
    born: PurgeNumber,
    forwarded: Forwarded,
}

/// The answer for the client, stored on the way if it is for GET as well.
async fn passed_back(cache: &Cache, relay: Relay) -> (Response<Body>, Option<Told>) {
    let Relay { asked, meta, body, born, forwarded } = relay;
    let mut status =
        CacheStatus { forwarded: Some(forwarded), ..bypass(Some(meta.status), Some(Source::Origin), Reason::Method) };
    let told = Told { source: Some(Source::Origin), passed: true, ..Told::default() };
    let mut client = asked.client;
    let kept = if asked.method == Method::POST && !asked.wish.no_store {
        let host = client.fields.get(header::HOST);
        let posted = Posted { url: &asked.url, host, fields: &asked.fields, site: asked.site.as_deref(), born };
        posted.keep(cache, &meta, body).await
    } else {
        Ok(Kept::Not(body))
    };
    let given = match kept {
        Ok(Kept::Not(body)) => Given::Relayed(body),
        Ok(Kept::Read(bytes)) => {
            status = CacheStatus { stored: true, reason: None, ..status };
            // What a client says of GET, conditions and ranges, is not about this.
            client.fields.clear();
            Given::Bytes(bytes)
        }
        Err(failure) => return (refuse(failure, "the answer broke off", Some(&status)), Some(told)),
    };
    if !status.stored {
        cache.counters.not_stored(Reason::Method);
    }
    match deliver(&cache.zone, &asked.url, &client, &meta, given, &status).await {
        Ok(response) => (response, Some(told)),
        Err(failure) => (refuse(failure, "the answer could not be passed on", Some(&status)), Some(told)),
    }
}

/// RFC 9110 9.2.1, and the safe ones of other RFCs. A method that is not known may change anything.
fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PROPFIND" | "REPORT" | "SEARCH")
}

/// What the URL and those that the answer names have in store is no longer good. Others' URLs are not ours to touch.
async fn invalidate_all(cache: &Cache, asked: &Asked, answer: &HeaderMap) {
    invalidate(cache, &asked.url).await;
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let reference = answer.get(&name).and_then(|value| value.to_str().ok());
        let named = |joined| {
            named(&asked.url, asked.client.fields.get(header::HOST), reference?, joined)
                .filter(|named| *named != asked.url)
        };
        // What clients ask for is stored as they spell it.
        let (plain, spelled) = (named(OriginUrl::joined), named(OriginUrl::joined_as_spelled));
        for url in plain.iter().chain(spelled.iter().filter(|spelled| plain.as_ref() != Some(spelled))) {
            invalidate(cache, url).await;
        }
    }
}

/// The URL of the same site that an answer names: by the port of ours that its client named too, which a site with a name to itself
/// does not tell apart.
pub(crate) fn named(
    url: &OriginUrl,
    host: Option<&HeaderValue>,
    reference: &str,
    joined: fn(&OriginUrl, &str) -> Option<OriginUrl>,
) -> Option<OriginUrl> {
    joined(url, reference).or_else(|| {
        let (scheme, rest) = reference.split_once("//")?;
        let same = scheme.is_empty() || scheme.strip_suffix(':')?.eq_ignore_ascii_case(url.scheme().name());
        let host = host?.to_str().ok()?;
        let (authority, path) = rest.split_at_checked(host.len())?;
        let same = same && authority.eq_ignore_ascii_case(host);
        match path.bytes().next() {
            _ if !same => None,
            None => joined(url, "/"),
            Some(b'/' | b'?' | b'#') => joined(url, path),
            Some(_) => None,
        }
    })
}

/// Gives up every variant and part of a URL, under either scheme of an own host, and what is being fetched of it. Variants that are
/// listed nowhere are given up with their list ([`crate::variants`]).
pub(crate) async fn invalidate(cache: &Cache, url: &OriginUrl) {
    for url in std::iter::once(url.clone()).chain(url.under_other_scheme()) {
        give_up(cache, url.key()).await;
    }
    if let Err(error) = cache.index.withdraw(url.key()).await {
        tracing::debug!(%error, "a reference could not be withdrawn; it ends by itself");
    }
}

async fn give_up(cache: &Cache, key: Key) {
    // First of all: what is fetched from here on is asked for after the method.
    cache.flights.overtake(key);
    let variants = Listed::of(cache, key).await.map(|listed| listed.keys).unwrap_or_default();
    let derived = variants.iter().flat_map(|variant| [*variant, Plan::key(*variant)]);
    let keys: Vec<_> = [key, Plan::key(key)].into_iter().chain(part::keys(key)).chain(derived).collect();
    for key in keys {
        cache.flights.overtake(key);
        cache.recovered(key);
        if cache.store.contains(&store_key(key)).await
            && let Err(error) = cache.store.remove(&store_key(key)).await
        {
            tracing::warn!(%error, "an answer that is no longer good could not be removed");
        }
    }
    for key in variants.into_iter().chain([key]) {
        cache.announces.withdraw(key);
    }
}

/// A copy as it was before the origin was asked.
struct Seen {
    key: Key,
    object: Object,
    meta: Meta,
}

/// The copy that a HEAD's answer may be about.
async fn stored(cache: &Cache, Asked { url, fields: sent, .. }: &Asked) -> Option<Seen> {
    let seen = async |key: Key| {
        let object = cache.store.get(&store_key(key)).await?;
        let meta = Meta::decode_stored(&object.head().metadata)?;
        Some(Seen { key, object, meta })
    };
    let first = seen(url.key()).await?;
    if first.meta.varies_by.is_empty() {
        return Some(first);
    }
    let key = crate::wanted::variant(url, sent, &first.meta.varies_by);
    if first.meta.variants.contains(&key) { seen(key).await } else { None }
}

/// What a HEAD says of the copy that was stored when it was asked: renewed if they agree, given up if not. What took its place
/// meanwhile is not what it is about.
async fn confirm(
    cache: &Cache,
    Asked { fields: sent, site, .. }: &Asked,
    Seen { key, object, meta }: Seen,
    answer: &OriginAnswer,
    (began, received): (SystemTime, SystemTime),
    (applied, born): (Heads, PurgeNumber),
) {
    if answer.status != StatusCode::OK || meta.status != StatusCode::OK {
        return;
    }
    let length = answer.fields.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let agrees = [header::ETAG, header::LAST_MODIFIED]
        .iter()
        .all(|name| answer.fields.get(name).is_none_or(|new| meta.fields.get(name) == Some(new)))
        && length.is_none_or(|length| length == object.len().to_string())
        && Stated::agree(&meta.fields, &answer.fields);
    let fields = freshness::freshened(&meta.fields, &answer.fields);
    let asker = Asker::of(sent, site.as_deref());
    let said = if agrees { &fields } else { &answer.fields };
    let is_shared = freshness::storable(meta.status, said, asker).is_ok();
    if (asker.authorised || asker.cookies) && !is_shared {
        // It was said to one client alone: others' copy is as good as before.
        return;
    }
    let changed = if agrees && is_shared {
        let initial_age = freshness::initial_age(&answer.fields, began, received);
        let vouched = meta.vouched.confirmed(applied);
        let mut renewed = Meta { fields, received, initial_age, vouched, ..meta };
        renewed.withhold_private();
        let expires = received + cache.lifetime(site.as_deref(), &renewed).fresh + cache.config.freshness.keep;
        let tags = purge::bits(purge::place_of(&renewed.url), &renewed.fields);
        let (key, written) = (store_key(key), renewed.encode(received));
        let compared = object.head().metadata.clone();
        let still = move |now: &Bytes| *now == compared;
        cache.store.freshen_tagged(&key, written, Some(expires), born, Some(tags), still).await.map(|_| ())
    } else {
        let now = cache.store.get(&store_key(key)).await;
        if now.is_none_or(|now| now.head().metadata != object.head().metadata) {
            return;
        }
        cache.store.remove(&store_key(key)).await.map(|_| ())
    };
    if let Err(error) = changed {
        tracing::warn!(%error, "what a HEAD said of a copy could not be noted");
    }
}
