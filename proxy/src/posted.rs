//! Answers to POST that are what a GET of the same URL would bring: a Content-Location that names this URL says so, and where the
//! origin also says how long, they are stored for GET (RFC 9110 9.3.3). Small and quick ones only: the body is read before the client
//! has it, and who asks meanwhile waits.

use atoll_store::{Head, PurgeNumber};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::{Instant, timeout_at};

use crate::{
    cache::{Cache, directory, store_key},
    clock,
    fetch::{fresh_for, wide},
    flight::{End, Joined, Lead},
    forward::named as named_of,
    freshness::{self, Asker, Vary},
    meta::Meta,
    origin::OriginBody,
    purge,
    reason::Failure,
    site::Own,
    url::OriginUrl,
};

/// What was posted, and when.
pub(crate) struct Posted<'a> {
    pub(crate) url: &'a OriginUrl,
    /// The host that its client named.
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) fields: &'a HeaderMap,
    pub(crate) site: Option<&'a Own>,
    pub(crate) born: PurgeNumber,
}

/// What became of a body.
pub(crate) enum Kept {
    /// It is not for GET.
    Not(OriginBody),
    /// It was read, and is stored unless the store refused it.
    Read(Bytes),
}

impl Posted<'_> {
    /// Stores an answer that says that it is for GET as well.
    pub(crate) async fn keep(&self, cache: &Cache, meta: &Meta, mut body: OriginBody) -> Result<Kept, Failure> {
        if meta.length.is_some_and(|length| length > LONGEST) || !self.is_for_get(meta) {
            return Ok(Kept::Not(body));
        }
        // Whoever asks meanwhile waits for it; a method that changes the URL overtakes it.
        let Joined::Lead(lead) = cache.flights.join(self.url.key()) else { return Ok(Kept::Not(body)) };
        let lead = Waited(Some(lead));
        let mut bytes = BytesMut::new();
        let until = Instant::now() + cache.config.timeouts.posted;
        loop {
            let read = timeout_at(until, body.next()).await;
            let late = read.is_err();
            match read {
                Ok(Ok(Some(data))) => bytes.extend_from_slice(&data),
                Ok(Ok(None)) => break,
                Ok(Err(failure)) => return Err(failure),
                Err(_) => {}
            }
            if late || wide(bytes.len()) > LONGEST {
                // Longer than could be known, in bytes or in time: the client gets what was read, and the rest as it comes.
                body.put_back(bytes.freeze());
                return Ok(Kept::Not(body));
            }
        }
        if meta.length.is_some_and(|length| length != wide(bytes.len())) {
            return Err(Failure::ResponseIncomplete);
        }
        let bytes = bytes.freeze();
        if lead.0.as_ref().is_some_and(|lead| !lead.is_overtaken()) {
            self.store(cache, meta, bytes.clone()).await;
        }
        Ok(Kept::Read(bytes))
    }

    fn is_for_get(&self, meta: &Meta) -> bool {
        let named = meta.fields.get(header::CONTENT_LOCATION).and_then(|value| value.to_str().ok());
        let asker = Asker::of(self.fields, self.site);
        meta.status == StatusCode::OK
            && named.is_some_and(|named| self.is_named(named))
            && freshness::is_timed(&meta.fields)
            && freshness::storable(meta.status, &meta.fields, asker).is_ok()
            && Vary::of(&meta.fields) == Vary::Nothing
    }

    /// Whether a reference means this URL: with its dots led away, or spelled with the dots that the client spelled it with.
    fn is_named(&self, reference: &str) -> bool {
        let meant = [OriginUrl::joined, OriginUrl::joined_as_spelled];
        meant.into_iter().any(|joined| named_of(self.url, self.host, reference, joined).as_ref() == Some(self.url))
    }

    async fn store(&self, cache: &Cache, meta: &Meta, bytes: Bytes) {
        let (digest, length) = (Some(blake3::hash(&bytes)), Some(wide(bytes.len())));
        let mut meta = Meta { digest, length, ..meta.clone() };
        meta.withhold_private();
        let now = clock::now();
        let head = Head {
            key: store_key(self.url.key()),
            directory: directory(self.url),
            tags: purge::bits(purge::place_of(&meta.url), &meta.fields),
            expires: Some(now + fresh_for(cache, self.site, &meta) + cache.config.freshness.keep),
            metadata: meta.encode(now),
            length: meta.length,
            born: self.born,
        };
        let stored = async {
            let mut writer = cache.store.writer(head)?;
            writer.append(bytes).await?;
            writer.commit(None).await.map(drop)
        };
        if let Err(error) = stored.await {
            tracing::debug!(%error, url = %self.url, "an answer to POST could not be stored");
        }
    }
}

/// Whoever waited looks again, whatever came of it, also if the client that posted hangs up.
struct Waited(Option<Lead>);

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(lead) = self.0.take() {
            lead.finish(End::Again);
        }
    }
}

/// Bytes of such an answer: what is read before the client has any of it.
const LONGEST: u64 = 1 << 20;
