//! Sampled re-fetch: a fetcher may lie about what the origin said, and sign it. Of the copies that came from peers a few are asked of
//! the origin again, a while later, and compared byte by byte. Who signed a chunk that differs is a liar, as far as
//! this origin can say ([`crate::liars`]).
//!
//! The while keeps these requests out of the crowd that a peer's copy was meant to spare the origin. What says nothing of its version
//! (no strong ETag, no Last-Modified that is one), or has another one by now, proves nothing. Nor does a head of one and bytes of
//! another: either may have lied about what the other said.

use std::{sync::Arc, time::Duration};

use atoll_store::Object;
use http::HeaderMap;
use tokio::time::sleep;

use crate::{
    cache::{Cache, store_key},
    conditions::strong_validator,
    meta::Meta,
    origin::{OriginAnswer, OriginRequest},
    serve_peer::groups_of,
    vouch::{Copied, Entry, head_signer},
    wanted::Wanted,
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
    let signer = signed.and_then(|(_, entry, _)| copied.signer(cache.streams.as_ref(), &entry.group));
    // This node has had the head confirmed by the origin since, or somebody signed it.
    let head = (!meta.vouched.head.is_empty()).then(|| head_signer(cache.streams.as_ref(), wanted.key, &meta));
    let me = cache.index.me().id;
    if let Some(signer) = signer.filter(|signer| *signer != me && head.is_none_or(|head| head == Some(*signer))) {
        cache.contradicted(signer, wanted);
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

/// Whether both say that they are of one version: by a strong tag, else by a time of the last change within whose second nothing can
/// have changed twice.
fn same_version(one: &HeaderMap, other: &HeaderMap) -> bool {
    strong_validator(one).is_some_and(|validator| strong_validator(other) == Some(validator))
}

/// Copies that wait to be looked at again, or are.
pub(crate) const RECHECKS: usize = 16;

#[cfg(test)]
mod tests {
    use http::{HeaderName, header};

    use super::*;

    // RFC 9110 8.8.2.2: within one second a file may change and be fetched in between, and two nodes have two versions of one date.
    #[test]
    fn only_a_strong_validator_tells_that_two_answers_are_of_one_version() {
        let (tag, changed, date) = (header::ETAG, header::LAST_MODIFIED, header::DATE);
        let fields = |lines: &[(&HeaderName, &'static str)]| {
            HeaderMap::from_iter(lines.iter().map(|(name, value)| ((*name).clone(), value.parse().unwrap())))
        };
        let (then, soon, late) =
            ("Mon, 23 Nov 2026 03:00:00 GMT", "Mon, 23 Nov 2026 03:00:01 GMT", "Mon, 23 Nov 2026 03:02:00 GMT");
        for (lines, same) in [
            (&[(&tag, "\"1\"")][..], true),
            (&[(&tag, "W/\"1\"")], false),
            (&[(&changed, then), (&date, late)], true),
            (&[(&changed, then), (&date, soon)], false),
            (&[(&changed, then)], false),
            (&[(&tag, "W/\"1\""), (&changed, then), (&date, late)], false),
            (&[], false),
        ] {
            assert_eq!(same_version(&fields(lines), &fields(lines)), same, "{lines:?}");
        }
        let other = fields(&[(&changed, soon), (&date, late)]);
        assert!(!same_version(&fields(&[(&changed, then), (&date, late)]), &other));
    }
}
