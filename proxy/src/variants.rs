//! The variants of one URL (RFC 9111 4.1): under the URL's own key stands a list of the request fields that its answers vary by and of
//! the variants there are, each of which stands under a key of its own ([`crate::wanted::variant`]).
//!
//! What is not listed is not there: a variant that its list has lost, by an unsafe method or because the list itself was evicted, is
//! never served again, and is removed before its key is listed anew. So giving up the list gives up all variants, also those that
//! nobody remembers (RFC 9111 4.4). The list lives as long as what it lists. Of too many variants the one least used goes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use atoll_overlay::Key;
use atoll_store::Keep;
use http::{HeaderMap, StatusCode};

use crate::{
    cache::{Cache, store_key},
    clock,
    fetch::Fetch,
    freshness::Vary,
    meta::Meta,
    vouch::Vouched,
};

/// What is listed of a URL.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) names: Vec<String>,
    pub(crate) keys: Vec<Key>,
    until: Option<SystemTime>,
}

impl Listed {
    /// The list under a URL's key, if one is there.
    pub(crate) async fn of(cache: &Cache, place: Key) -> Option<Self> {
        let object = cache.store.get(&store_key(place)).await?;
        let meta = Meta::decode_stored(&object.head().metadata).filter(|meta| !meta.varies_by.is_empty())?;
        Some(Self { names: meta.varies_by, keys: meta.variants, until: object.head().expires })
    }
}

/// Whether what stands under this key may be used: parts and slices, what stands under its URL's key, and listed variants.
pub(crate) async fn is_listed(cache: &Cache, key: Key, meta: &Meta) -> bool {
    let place = Key::of(meta.url.as_bytes());
    if key == place || meta.status == StatusCode::PARTIAL_CONTENT {
        return true;
    }
    Listed::of(cache, place).await.is_some_and(|listed| listed.keys.contains(&key))
}

/// Whether an answer may stand under its URL's own key: it is for every request. One that says otherwise got there by a 304, or was
/// stored before what it says counted.
pub(crate) fn is_for_all(meta: &Meta) -> bool {
    Vary::of(&meta.fields) == Vary::Nothing
}

impl Fetch {
    /// Finds the place of an answer that is about to come in: a variant's, which is listed then, or the URL's own.
    pub(crate) async fn placed(&mut self, meta: &Meta) {
        let place = self.wanted.url.key();
        match Vary::of(&meta.fields) {
            Vary::Names(names) => {
                let key = self.wanted.variant(&names);
                self.remember_vary(&names, Some((key, self.expires(meta)))).await;
                if key != self.wanted.key {
                    self.lead.also(key);
                    self.wanted.key = key;
                    self.keeper.vary(names, key);
                }
            }
            Vary::Nothing | Vary::Star if self.wanted.key != place => {
                // An answer that does not say what the others vary by is for who asked as this one did.
                match Listed::of(&self.cache, place).await {
                    Some(Listed { names, .. }) if self.wanted.variant(&names) == self.wanted.key => {
                        self.remember_vary(&names, Some((self.wanted.key, self.expires(meta)))).await;
                    }
                    Some(_) | None => {
                        self.lead.also(place);
                        self.wanted.key = place;
                    }
                }
            }
            Vary::Nothing | Vary::Star => {}
        }
    }

    /// Lists a peer's copy, which stays under the key it was asked for under.
    pub(crate) async fn list_copy(&self, meta: &Meta) {
        let is_ours = |names: &Vec<String>| self.wanted.variant(names) == self.wanted.key;
        let names = match Vary::of(&meta.fields) {
            Vary::Names(names) if is_ours(&names) => Some(names),
            Vary::Names(_) | Vary::Nothing | Vary::Star => {
                Listed::of(&self.cache, self.wanted.url.key()).await.map(|listed| listed.names).filter(is_ours)
            }
        };
        if let Some(names) = names {
            self.remember_vary(&names, Some((self.wanted.key, self.expires(meta)))).await;
        }
    }

    /// Keeps the list of fields that a URL's answers vary by, with this variant and until when it is of use.
    pub(crate) async fn remember_vary(&self, names: &[String], variant: Option<(Key, SystemTime)>) {
        if self.lead.is_overtaken() {
            return;
        }
        let place = self.wanted.url.key();
        let cache = Arc::clone(&self.cache);
        let _turn = cache.turn_to_list(place).lock().await;
        let known = Listed::of(&cache, place).await;
        let (known, others) = match known {
            Some(known) if known.names == names => (Some(known), Vec::new()),
            Some(other) => (None, other.keys),
            None => (None, Vec::new()),
        };
        for key in others {
            self.forget(key).await;
        }
        let now = clock::now();
        let wanted = variant.map_or(now, |(_, until)| until);
        let kept = known.as_ref().and_then(|known| known.until).unwrap_or(now);
        let is_known = known.is_some();
        let mut keys = known.map(|known| known.keys).unwrap_or_default();
        let listed = variant.is_none_or(|(key, _)| keys.contains(&key));
        if is_known && listed && kept >= wanted {
            return;
        }
        if let Some((key, _)) = variant.filter(|_| !listed) {
            // Whatever stands there is of a time that the list does not know of.
            self.forget(key).await;
            while !keys.is_empty() && keys.len() >= self.cache.config.limits.variants {
                let least = keys.iter().enumerate().min_by_key(|(at, key)| (self.cache.chosen.get(key), *at));
                let Some(at) = least.map(|(at, _)| at) else { break };
                self.forget(keys.remove(at)).await;
            }
            keys.push(key);
        }
        let until = kept.max(wanted) + SLACK;
        self.store_list(place, names, keys, until).await;
    }

    async fn store_list(&self, place: Key, names: &[String], variants: Vec<Key>, until: SystemTime) {
        let meta = Meta {
            url: self.wanted.url.to_string(),
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            received: clock::now(),
            initial_age: Duration::ZERO,
            validator: [0; 16],
            length: Some(0),
            digest: None,
            undigested: false,
            varies_by: names.to_vec(),
            variants,
            vouched: Vouched::default(),
        };
        let stored = match self.cache.store.writer(self.head(place, &meta, until)) {
            Ok(writer) => writer.commit_or_hold(None, Keep::InRam).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            tracing::debug!(%error, "a list of varying fields could not be kept");
        }
        if self.lead.is_overtaken() {
            // An unsafe method came in between: what it gave up is not to be back.
            self.forget(place).await;
        }
    }

    async fn forget(&self, key: Key) {
        let key = store_key(key);
        if self.cache.store.contains(&key).await
            && let Err(error) = self.cache.store.remove(&key).await
        {
            tracing::debug!(%error, "a variant could not be removed");
        }
    }
}

/// A list is kept longer than what it lists by so much, so that it need not be written with each renewal of a variant.
const SLACK: Duration = Duration::from_secs(86_400);
