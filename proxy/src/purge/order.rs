//! What an operator orders, and what is told of it: which nodes have applied a purge.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{NodeId, membership::Unsaid};
use atoll_store::StoreError;
use serde::{Deserialize, Serialize};

use super::{
    ledger::Entry,
    purges::{Purges, unix_millis},
    selector::{Selector, place_of},
};
use crate::{
    cache::Cache,
    clock,
    server::Proxy,
    url::{Authority, OriginUrl, Scheme, UrlError},
};

/// What is to be purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeTarget {
    /// One URL with all its variants, under http and https: the origin's, or a Coralized one.
    Url(String),
    /// The URL of a directory, and all below it.
    Prefix(String),
    /// A host; with a port, of that port alone.
    Host(String),
    /// A tag, byte for byte, of all hosts or of one.
    Tag {
        /// The tag.
        tag: String,
        /// The host, if of one.
        host: Option<String>,
    },
    /// Everything.
    All,
}

/// One purge as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeReport {
    /// Its name: the signer's id, a dash and its number.
    pub purge: String,
    /// What it means, in words.
    pub what: String,
    /// Whether what is meant is gone; else it is confirmed by the origin before it is used again.
    pub hard: bool,
    /// Seconds since it was made, by this node's clock.
    pub age: u64,
    /// How many nodes are to apply it, as far as this node knows, itself included.
    pub known: usize,
    /// How many of these have said that they have.
    pub applied: usize,
    /// These nodes, the missing ones first; of very many only some.
    pub nodes: Vec<NodeAck>,
}

/// One node's word on a purge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAck {
    /// Its id.
    pub node: String,
    /// Whether it has said that it applied the purge.
    pub applied: bool,
    /// Seconds since it last said what it has applied; none if it never did.
    pub heard: Option<u64>,
}

impl PurgeReport {
    /// How many nodes have not said that they applied it.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.known.saturating_sub(self.applied)
    }
}

/// Why nothing was purged, or nobody else told.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The URL or host is none.
    #[error("what is to be purged is no URL or host: {0}")]
    Url(#[from] UrlError),
    /// A text is empty or too long.
    #[error("{what} is to have 1 to {} bytes", Selector::TEXT)]
    Length {
        /// What text.
        what: &'static str,
    },
    /// This node may not purge.
    #[error("{0}; have this node admitted with `--roles ...,purge` (docs/network.md), or purge at a node that was")]
    Unsaid(#[from] Unsaid),
    /// The clock is so late that the purge would count as too old.
    #[error("this node's clock is so far behind that the purge would count as too old everywhere; set it")]
    Clock,
    /// There are too many signers.
    #[error("purges of {0} signers are known here, as many as `signers` in [proxy.purges] allows")]
    Signers(usize),
    /// The store failed.
    #[error("the store failed, nobody else was told: {0}")]
    Store(#[from] StoreError),
}

impl Proxy {
    /// Purges here and in the whole network: softly, copies are confirmed by the origin before they are used again; hard, they
    /// are gone. In force here when this returns; other nodes are told beside, and waited for at most this long.
    ///
    /// # Errors
    /// What is to be purged is not clear, this node may not purge, or the store failed.
    pub async fn purge(&self, target: PurgeTarget, hard: bool, wait: Duration) -> Result<PurgeReport, PurgeError> {
        order(&self.cache, target, hard, wait).await
    }

    /// The purges known, newest first, at most this many.
    #[must_use]
    pub fn purges(&self, most: usize) -> Vec<PurgeReport> {
        let purges = &self.cache.purges;
        let entries: Vec<Entry> = purges.ledger().iter().rev().take(most).cloned().collect();
        let audience = purges.audience();
        entries.iter().map(|entry| purges.report(entry, &audience, LISTED_EACH)).collect()
    }

    /// What is known of purges, as bytes for the next start.
    #[must_use]
    pub fn save_purges(&self) -> bytes::Bytes {
        self.cache.purges.save()
    }

    /// Counts what changes in [`Self::save_purges`].
    #[must_use]
    pub fn purge_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.cache.purges.changes()
    }
}

/// See [`Proxy::purge`].
pub(super) async fn order(
    cache: &Arc<Cache>,
    target: PurgeTarget,
    hard: bool,
    wait: Duration,
) -> Result<PurgeReport, PurgeError> {
    let selector = selector(cache, &target)?;
    if let PurgeTarget::Url(url) = &target {
        // A failure that is remembered of it is forgotten too.
        cache.recovered(origin_url(cache, url)?.key());
    }
    let purges = &cache.purges;
    let (signer, number) = purges.order(selector, hard).await?;
    if !wait.is_zero() {
        purges.tell_all(signer, number, wait).await;
    }
    let entry =
        purges.ledger().iter().rev().find(|entry| (entry.purge.number, entry.signer) == (number, signer)).cloned();
    Ok(entry.map(|entry| purges.report(&entry, &purges.audience(), LISTED)).unwrap_or_default())
}

impl Purges {
    /// What is known of a purge among these others; at most so many nodes are listed, those without it first.
    fn report(&self, entry: &Entry, audience: &[NodeId], listed: usize) -> PurgeReport {
        let (signer, number) = (entry.signer, entry.purge.number);
        let others = self.step.others();
        let ack = |node: &NodeId| {
            let heard = others.get(node);
            NodeAck {
                node: node.to_string(),
                applied: heard.is_some_and(|heard| heard.heads.get(&signer).is_some_and(|head| *head >= number)),
                heard: heard.map(|heard| heard.at.elapsed().as_secs()),
            }
        };
        // An entry is applied here before it is added.
        let own = NodeAck { node: self.index.me().id.to_string(), applied: true, heard: Some(0) };
        let mut nodes: Vec<NodeAck> = std::iter::once(own).chain(audience.iter().map(ack)).collect();
        let (known, applied) = (nodes.len(), nodes.iter().filter(|node| node.applied).count());
        nodes.sort_by_key(|node| node.applied);
        nodes.truncate(listed);
        PurgeReport {
            purge: format!("{signer}-{number}"),
            what: entry.purge.selector.to_string(),
            hard: entry.purge.hard,
            age: unix_millis(clock::now()).saturating_sub(number) / 1_000,
            known,
            applied,
            nodes,
        }
    }
}

fn selector(cache: &Cache, target: &PurgeTarget) -> Result<Selector, PurgeError> {
    let fits = |what, text: &str| {
        let good = (1..=Selector::TEXT).contains(&text.len());
        if good { Ok(text.to_owned()) } else { Err(PurgeError::Length { what }) }
    };
    let host = |text: &str| host_meant(cache, text);
    Ok(match target {
        PurgeTarget::All => Selector::All,
        PurgeTarget::Host(text) => Selector::Host(fits("a host", &host(text)?)?),
        PurgeTarget::Tag { tag, host: None } => Selector::Tag { tag: fits("a tag", tag)?, host: None },
        PurgeTarget::Tag { tag, host: Some(of) } => {
            Selector::Tag { tag: fits("a tag", tag)?, host: Some(fits("a host", &host(of)?)?) }
        }
        PurgeTarget::Url(url) => Selector::url(place_of(&origin_url(cache, url)?.to_string())),
        PurgeTarget::Prefix(url) => Selector::Prefix(fits("a prefix", place_of(&origin_url(cache, url)?.to_string()))?),
    })
}

/// The host that a text means, with its port if it names one: of a Coralized name its origin's.
fn host_meant(cache: &Cache, text: &str) -> Result<String, UrlError> {
    let authority = Authority::parse(text)?;
    let of = |host: &str, port: Option<u16>| match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let coralized = cache.zone.decode(authority.host()).filter(|_| cache.sites.find(&authority).is_none());
    match coralized {
        // A port beside such a name is one of ours.
        Some(coralized) => coralized.map(|coralized| of(&coralized.host, coralized.port)),
        None => Ok(of(authority.host(), authority.port())),
    }
}

/// What a URL means here: a Coralized name its origin's, an own site's as it is keyed.
pub(crate) fn origin_url(cache: &Cache, text: &str) -> Result<OriginUrl, UrlError> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let malformed = || UrlError::Malformed(text.chars().take(64).collect());
    let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
    let scheme = Scheme::parse(scheme).ok_or_else(malformed)?;
    let (authority, path) = rest.split_at_checked(rest.find(['/', '?']).unwrap_or(rest.len())).ok_or_else(malformed)?;
    let authority = Authority::parse(authority)?;
    if let Some((site, named)) = cache.sites.find(&authority) {
        return OriginUrl::of_site(scheme, &authority, named, &site.target(path));
    }
    match cache.zone.decode(authority.host()) {
        Some(coralized) => {
            let coralized = coralized?;
            let port = coralized.port.map_or_else(String::new, |port| format!(":{port}"));
            OriginUrl::new(scheme, &Authority::parse(&format!("{}{port}", coralized.host))?, path)
        }
        None => OriginUrl::parse(&text),
    }
}

/// Nodes listed in the report on one purge.
const LISTED: usize = 4_096;

/// The same where many purges are listed.
const LISTED_EACH: usize = 64;
