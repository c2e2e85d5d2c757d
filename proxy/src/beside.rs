//! What vouches for a copy, where it is too much to stand with it: in an object beside it, which goes, stays and is purged with it.

use std::time::SystemTime;

use atoll_overlay::Key;
use atoll_store::{Head, Tags};
use bytes::Bytes;

use crate::{
    cache::store_key,
    clock,
    fetch::{Fetch, wide},
    meta::Meta,
    vouch::Vouched,
};

impl Fetch {
    /// Keeps a body's groups in an object of their own. Without them the copy serves this node's clients alone.
    pub(crate) async fn keep_beside(&self, meta: &Meta) {
        let groups = self.lead.ledger().encoded();
        let head = Head {
            key: store_key(groups_key(self.wanted.key)),
            // They are purged with the copy, by the same words. Without a digest they are given to nobody as a copy.
            metadata: Meta { digest: None, undigested: false, vouched: Vouched::default(), ..meta.clone() }
                .encode(clock::now()),
            length: Some(wide(groups.len())),
            ..self.head(self.wanted.key, meta, self.expires(meta))
        };
        let kept = async {
            let mut writer = self.cache.store.writer(head)?;
            writer.append(groups).await?;
            writer.commit(None).await.map(drop)
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, url = %self.wanted.url, "what vouches for a copy could not be kept: peers will not get it");
        }
    }

    /// What vouches for a copy that was confirmed is kept as long as the copy, and purged by its tags; what vouches for another, that
    /// took its place meanwhile, stays as it is.
    pub(crate) async fn freshen_groups(&self, copy: Key, (old, meta): (Meta, &Meta), expires: SystemTime, tags: Tags) {
        let key = store_key(groups_key(copy));
        let written =
            Meta { digest: None, undigested: false, vouched: Vouched::default(), ..meta.clone() }.encode(meta.received);
        if let Err(error) =
            self.cache.store.freshen_tagged(&key, written, Some(expires), self.born, Some(tags), of_answer(old)).await
        {
            tracing::warn!(%error, "what vouches for a copy could not be renewed");
        }
    }
}

/// Where the groups of what stands under a key stand, if they are many.
pub(crate) fn groups_key(whole: Key) -> Key {
    Key::of(&[whole.as_bytes(), &b"groups"[..]].concat())
}

/// Whether what stands beside a body is this answer's, and not of one that took its place. It is written a moment before the copy, and
/// a HEAD confirms the copy alone.
fn of_answer(answer: Meta) -> impl Fn(&Bytes) -> bool + Send + 'static {
    move |now| {
        Meta::decode_stored(now).is_some_and(|now| now.received <= answer.received && now.validator == answer.validator)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use atoll_store::{Config, PurgeNumber, Store};
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(second: u64, validator: u8) -> Meta {
        Meta {
            url: "http://a.test/".to_owned(),
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            received: UNIX_EPOCH + Duration::from_secs(second),
            initial_age: Duration::ZERO,
            validator: [validator; 16],
            length: Some(9),
            digest: None,
            undigested: false,
            varies_by: Vec::new(),
            variants: Vec::new(),
            vouched: Vouched::default(),
        }
    }

    async fn put(store: &Store, of: &Meta) {
        let (key, metadata) = (store_key(groups_key(Key::of(b"copy"))), of.encode(of.received));
        let (tags, expires, born) = (Tags::default(), None, PurgeNumber(0));
        let head = Head { key, directory: 0, tags, expires, metadata, length: None, born };
        store.writer(head).unwrap().commit(None).await.unwrap();
    }

    /// Renews what vouches for this answer.
    async fn renewed(store: &Store, answer: &Meta) -> bool {
        let (key, fresh) = (store_key(groups_key(Key::of(b"copy"))), answer.encode(answer.received));
        let tags = Some(Tags::default());
        let renewed = store.freshen_tagged(&key, fresh, None, PurgeNumber(0), tags, of_answer(answer.clone())).await;
        renewed.unwrap().is_some()
    }

    #[tokio::test]
    async fn what_vouches_for_a_copy_that_came_meanwhile_is_not_taken_for_the_confirmed_one_s() {
        let store = Store::open(Config::default()).await.unwrap();
        let old = answer(1_000, 1);
        for written in [answer(999, 1), answer(1_000, 1)] {
            put(&store, &written).await;
            assert!(renewed(&store, &old).await);
        }
        for newer in [answer(1_001, 1), answer(1_000, 2)] {
            put(&store, &newer).await;
            assert!(!renewed(&store, &old).await);
            assert!(renewed(&store, &newer).await);
        }
    }
}
