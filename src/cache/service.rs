//! What the connections share: the store, admission, deletions, and what is said of the cache in each answer.

use std::time::{Duration, SystemTime};

use atoll_store::{Object, PurgeKind, PurgeNumber, Selector, Store, StoreError, Tier};

use super::{
    admission::Admission,
    answer::{Out, Status, Told},
    config::CacheConfig,
    target::{Deletion, Name},
};

/// See the file's head.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) config: CacheConfig,
    pub(super) store: Store,
    pub(super) admission: Admission,
    /// Names of PUT fields that do not go out, in lower case.
    pub(super) dropped: Vec<String>,
    /// The name of the field that is logged, in lower case.
    pub(super) log_header: String,
    /// `Cache-Status: HOST; hit`, as far as it is the same for every hit.
    status_hit: String,
    /// ... and with no hit.
    status_miss: String,
    /// `Atoll-Cache: HOST; tier=`
    host: String,
}

impl Service {
    pub(super) fn new(config: CacheConfig, store: Store, host: &str) -> Self {
        let log_header = config.log_header.to_ascii_lowercase();
        let mut dropped: Vec<String> = config.ignore_headers.iter().map(|name| name.to_ascii_lowercase()).collect();
        dropped.push(log_header.clone());
        Self {
            admission: Admission::new(config.admission, config.admission_memory.0),
            config,
            store,
            dropped,
            log_header,
            status_hit: format!("Cache-Status: \"{host}\"; hit; detail="),
            status_miss: format!("Cache-Status: \"{host}\"; detail=absent\r\n"),
            host: format!("Atoll-Cache: {host}; tier="),
        }
    }

    /// What is told of a hit: `Age` [RFC 9111 5.1], `Cache-Status` [RFC 9211], and host, tier and age in one field.
    pub(super) fn tell_hit(&self, out: &mut Out, object: &Object, now: SystemTime) -> &'static str {
        let tier = match object.tier() {
            Tier::Memory => "memory",
            Tier::Disk => "disk",
        };
        let age = now.duration_since(object.stored()).unwrap_or_default().as_secs();
        out.field("Age", age).text(&self.status_hit).text(tier);
        if let Some(left) = object.head().expires.and_then(|expires| expires.duration_since(now).ok()) {
            out.text("; ttl=").number(left.as_secs());
        }
        out.text("\r\n").text(&self.host).text(tier).text("; age=").number(age).text("\r\n");
        tier
    }

    /// The answer to a GET of what is not here.
    pub(super) fn absent(&self) -> Told {
        let mut told = Told::new(Status::NOT_FOUND, "no such object here");
        told.fields.push_str(&self.status_miss);
        told
    }

    /// When an object stored now expires; `None` is never, which is also what a hundred years are taken for.
    pub(super) fn expires(&self, now: SystemTime, asked: Option<Duration>) -> Option<SystemTime> {
        let span = asked.unwrap_or(self.config.default_expire);
        if span > NEVER { None } else { now.checked_add(span) }
    }

    /// Whether a PUT is kept: it has come often enough, or replaces what is here.
    pub(super) async fn admits(&self, name: Name) -> bool {
        let key = name.key();
        self.admission.needed() <= 1
            || self.admission.count(&key) + 1 >= self.admission.needed()
            || self.holds(name).await
    }

    /// Whether the object is here.
    pub(super) async fn holds(&self, name: Name) -> bool {
        let key = name.key();
        // The index answers without the disk that it is not, and may be wrong that it is.
        self.store.contains(&key).await && self.store.get(&key).await.is_some()
    }

    /// Deletes. The deletion is in force, also for a PUT that is under way, before this returns; the room is given back later.
    pub(super) async fn delete(&self, deletion: Deletion) -> (Told, Option<u64>) {
        let Deletion { dir, id, mask, value } = deletion;
        let directory = (dir != 0).then_some(dir);
        let selector = match (directory, id, mask) {
            (None, _, 0) => Selector::All,
            (Some(dir), 0, 0) => Selector::Directory(dir),
            (directory, 0, mask) => Selector::Tags { directory, mask, value, filter: None },
            (None, _, mask) => Selector::Tags { directory: None, mask, value, filter: None },
            (Some(dir), id, mask) => {
                let key = Name { dir, id }.key();
                let differs = |object: Object| object.head().tags.bits() & mask != value;
                // Looked at now: a PUT with other tags that ends later comes after this deletion.
                if mask != 0 && self.store.get(&key).await.is_some_and(differs) {
                    let line = "{\"purge\":null,\"told\":\"the object has other tags and stays\"}";
                    return (Told::new(Status::OK, line), None);
                }
                Selector::Key(key)
            }
        };
        match self.store.purge(selector, PurgeKind::Hard).await {
            Ok(PurgeNumber(number)) => {
                let line = format!("{{\"purge\":{number},\"progress\":\"/purge/{number}\"}}");
                (Told::new(Status::OK, line).with("Atoll-Purge", number), Some(number))
            }
            Err(error) => {
                tracing::error!(%error, ?deletion, "a deletion was not written down");
                let line = format!("the deletion is in force but may not outlive a restart: {error}");
                (Told::new(Status::INSUFFICIENT_STORAGE, line), None)
            }
        }
    }

    /// How far a deletion is.
    pub(super) fn progress(&self, number: PurgeNumber) -> Told {
        let Some(progress) = self.store.purge_progress(number) else {
            return Told::new(Status::NOT_FOUND, "no such deletion since this cache started");
        };
        let line = format!(
            "{{\"purge\":{},\"examined\":{},\"removed\":{},\"bytes\":{},\"done\":{}}}",
            number.0, progress.examined, progress.removed, progress.bytes, progress.done
        );
        Told::new(Status::OK, line)
    }
}

/// What a refusal of the store means to a client.
pub(super) fn refusal(error: &StoreError) -> Told {
    let status = match error {
        StoreError::MetadataTooLong { .. } | StoreError::FilterTooLong { .. } => Status::FIELDS_TOO_LARGE,
        StoreError::TooLarge { .. } => Status::TOO_LARGE,
        StoreError::NoRoom { .. } | StoreError::Disk(_) | StoreError::Broken | StoreError::Length { .. } => {
            Status::INSUFFICIENT_STORAGE
        }
    };
    Told::new(status, format!("not stored: {error}"))
}

/// Longer than this is for ever.
const NEVER: Duration = Duration::from_secs(100 * 366 * 86_400);
