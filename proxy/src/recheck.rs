//! Sampled re-fetch: a fetcher may lie about what the origin said, and sign it. Of the copies that came from peers a few are asked of
//! the origin again, a while later, and compared byte by byte. Who signed a chunk that differs is a liar.
//!
//! The while keeps these requests out of the crowd that a peer's copy was meant to spare the origin. What says nothing of its version
//! (no ETag, no Last-Modified), or has another one by now, proves nothing.

use std::{sync::Arc, time::Duration};

use atoll_store::Object;
use http::{HeaderMap, HeaderName, header};
use tokio::time::sleep;

use crate::{
    cache::{Cache, Wanted, store_key},
    meta::Meta,
    origin::{OriginAnswer, OriginRequest},
    serve_peer::groups_of,
    vouch::{Copied, Entry},
};

/// A copy came whole from a peer: perhaps it is to be looked at again.
pub(crate) fn consider(cache: &Arc<Cache>, wanted: &Wanted) {
    let peers = &cache.config.peers;
    if peers.recheck_one_in == 0 || rand::random_range(0..peers.recheck_one_in) != 0 {
        return;
    }
    let Ok(place) = Arc::clone(&cache.rechecks).try_acquire_owned() else { return };
    let after = peers.recheck_after.mul_f64(rand::random_range(1.0..2.0));
    let (cache, wanted) = (Arc::clone(cache), wanted.clone());
    tokio::spawn(async move {
        let mut stop = cache.stop.subscribe();
        tokio::select! {
            () = recheck(&cache, &wanted, after) => {}
            // The sender lives in the cache that this task holds.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        drop(place);
    });
}

async fn recheck(cache: &Cache, wanted: &Wanted, after: Duration) {
    sleep(after).await;
    let Some(object) = cache.store.get(&store_key(wanted.key)).await else { return };
    let Some(meta) = Meta::decode_stored(&object.head().metadata) else { return };
    let request = OriginRequest::get(wanted.url.path(), &wanted.fields);
    let compared = match cache.origin.ask(&wanted.upstream, request).await {
        Ok(answer) if answer.status == meta.status && same_version(&answer.fields, &meta.fields) => {
            compare(answer, &object).await
        }
        Ok(_) => Compared::Changed,
        Err(_) => Compared::Failed,
    };
    metrics::counter!("atoll_recheck_total", "result" => compared.word()).increment(1);
    let Compared::Differs(at) = compared else { return };
    let copied = Copied { key: wanted.key, validator: meta.validator };
    let entries = groups_of(cache, wanted.key, &meta).await.unwrap_or_default();
    let signed = Entry::find(&entries, at.min(object.len()));
    if let Some(signer) = signed.and_then(|(_, entry, _)| copied.signer(cache.streams.as_ref(), &entry.group)) {
        cache.lied(signer, "it signed what the origin did not say");
    }
    if let Err(error) = cache.store.remove(&store_key(wanted.key)).await {
        tracing::warn!(%error, url = %wanted.url, "a copy that is not the origin's could not be removed");
    }
    cache.announces.withdraw(wanted.key);
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Same,
    /// From this byte on.
    Differs(u64),
    Changed,
    Failed,
}

impl Compared {
    const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }
}

async fn compare(answer: OriginAnswer, object: &Object) -> Compared {
    let mut body = answer.body;
    let mut at = 0;
    loop {
        let data = match body.next().await {
            Ok(Some(data)) => data,
            Ok(None) if at == object.len() => return Compared::Same,
            Ok(None) => return Compared::Differs(at),
            Err(_) => return Compared::Failed,
        };
        let mut left = &data[..];
        while !left.is_empty() {
            let Ok(there) = object.read(at, left.len()).await else { return Compared::Failed };
            if there.is_empty() {
                return Compared::Differs(at);
            }
            let alike = there.iter().zip(left).take_while(|(ours, theirs)| ours == theirs).count();
            at += u64::try_from(alike).unwrap_or(u64::MAX);
            if alike < there.len() {
                return Compared::Differs(at);
            }
            left = left.get(alike..).unwrap_or_default();
        }
    }
}

/// Whether both say that they are of one version: by a strong tag, else by the time of the last change.
fn same_version(one: &HeaderMap, other: &HeaderMap) -> bool {
    let both = |name: &HeaderName| one.get(name).zip(other.get(name));
    match both(&header::ETAG) {
        Some((one, other)) => one == other && one.as_bytes().starts_with(b"\""),
        None => both(&header::LAST_MODIFIED).is_some_and(|(one, other)| one == other),
    }
}

/// Copies that wait to be looked at again, or are.
pub(crate) const RECHECKS: usize = 16;
