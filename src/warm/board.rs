//! What was warmed by way of this node lately, for its dashboard: each copy as `atoll warm` found it at the end, told at the admin
//! socket. In RAM alone, and bounded.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use atoll_overlay::{Key, NodeId};
use atoll_proxy::OriginUrl;
use serde::Serialize;

use crate::purging::escape;

/// One copy as `atoll warm` found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmth {
    /// The file.
    pub url: String,
    /// Who was to have it.
    pub node: String,
    /// Bytes that were read there.
    pub bytes: u64,
    /// Their BLAKE3, hexadecimal; "" if it could not be read.
    pub blake3: String,
    /// Whether it is in the cache there, and like the others.
    pub verified: bool,
}

/// A file, and the copies of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warmed {
    /// The file.
    pub url: String,
    /// Seconds since something was told of it.
    pub age: u64,
    /// How many copies are verified.
    pub verified: usize,
    /// One for each node.
    pub copies: Vec<WarmedCopy>,
}

/// A file at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WarmedCopy {
    /// Its id.
    pub node: String,
    /// See [`Warmth::bytes`].
    pub bytes: u64,
    /// See [`Warmth::blake3`].
    pub blake3: String,
    /// See [`Warmth::verified`].
    pub verified: bool,
}

/// The latest files, the last one first.
#[derive(Debug, Default)]
pub(crate) struct Board {
    files: Mutex<VecDeque<(String, Instant, Vec<WarmedCopy>)>>,
}

impl Warmth {
    /// What comes after `/warmed?`.
    #[must_use]
    pub fn query(&self) -> String {
        let Self { url, node, bytes, blake3, verified } = self;
        format!("url={}&node={node}&bytes={bytes}&blake3={blake3}&verified={verified}", escape(url))
    }

    /// The way back, from the values by name; none if it is not what `query` makes.
    pub(crate) fn parse(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let one = Self {
            url: OriginUrl::parse(&value("url")?).ok()?.to_string(),
            node: NodeId::from(value("node")?.parse::<Key>().ok()?).to_string(),
            bytes: value("bytes")?.parse().ok()?,
            blake3: value("blake3")?,
            verified: value("verified")?.parse().ok()?,
        };
        let digest = one.blake3.is_empty() || blake3::Hash::from_hex(&one.blake3).is_ok();
        (digest && one.url.len() <= URL_LIMIT).then_some(one)
    }
}

impl Board {
    /// Puts a copy on the board, in place of what was known of it.
    pub(crate) fn note(&self, one: Warmth) {
        let Warmth { url, node, bytes, blake3, verified } = one;
        let mut files = self.files();
        let place = files.iter().position(|(known, ..)| *known == url);
        let mut copies = place.and_then(|place| files.remove(place)).map(|(_, _, copies)| copies).unwrap_or_default();
        copies.retain(|copy| copy.node != node);
        if copies.len() < COPIES {
            copies.push(WarmedCopy { node, bytes, blake3, verified });
        }
        files.push_front((url, Instant::now(), copies));
        files.truncate(FILES);
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<Warmed> {
        let told = |(url, at, copies): &(String, Instant, Vec<WarmedCopy>)| Warmed {
            url: url.clone(),
            age: at.elapsed().as_secs(),
            verified: copies.iter().filter(|copy| copy.verified).count(),
            copies: copies.clone(),
        };
        self.files().iter().map(told).collect()
    }

    fn files(&self) -> MutexGuard<'_, VecDeque<(String, Instant, Vec<WarmedCopy>)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files on the board, and copies of each. \[guess\]
const FILES: usize = 128;
const COPIES: usize = 128;

/// Bytes of a URL on it.
const URL_LIMIT: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    fn warmth(number: usize, node: &[u8]) -> Warmth {
        let url = format!("http://www.site.test/{number}?a=1&b=%20");
        let blake3 = blake3::hash(b"x").to_string();
        Warmth { url, node: NodeId::from(Key::of(&[node[0]])).to_string(), bytes: 1, blake3, verified: true }
    }

    fn read(query: &str) -> Option<Warmth> {
        let value = |name: &str| {
            let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
            crate::purging::unescape(value)
        };
        Warmth::parse(value)
    }

    #[test]
    fn what_is_told_is_read_as_it_was_told_and_nothing_else_is() {
        let one = warmth(1, b"n");
        assert_eq!(read(&one.query()), Some(one.clone()));
        for wrong in
            ["", "url=x", &one.query().replace("bytes=1", "bytes=-1"), &one.query().replace("blake3=", "blake3=zz")]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_latest_files_are_kept_each_with_the_last_word_of_each_node() {
        let board = Board::default();
        for number in 0..=FILES {
            board.note(warmth(number, b"a"));
        }
        board.note(Warmth { verified: false, ..warmth(7, b"a") });
        board.note(warmth(7, b"b"));
        let all = board.all();
        assert_eq!((all.len(), all[0].url.ends_with("/7?a=1&b=%20")), (FILES, true));
        assert_eq!((all[0].copies.len(), all[0].verified), (2, 1));
        assert!(!all.iter().any(|file| file.url.ends_with("/0?a=1&b=%20")), "the oldest makes room");
    }
}
