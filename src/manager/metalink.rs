//! Metalink [RFC 5854]: for a large file its size, its SHA-256, that of each piece, and every machine that has it, best first. A
//! download program fetches from several at once, checks each piece, and goes on elsewhere when one is gone.
//!
//! `PATH.meta4` answers it. The digests are of the manager's own copy, which came through the network's checks; they are computed
//! once for each version of a file, one file at a time.

use std::{collections::BTreeMap, fmt::Write as _, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::{
    explain::escaped,
    office::Office,
    roster::{Choice, Wish},
};
use crate::{
    front::{
        body::{FrontBody, text, typed},
        listen::Client,
    },
    percent::unescape_leniently,
};

/// Digests computed, by file.
#[derive(Debug, Default)]
pub(crate) struct Metalinks {
    known: Mutex<BTreeMap<String, Digests>>,
}

/// What is known of one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digests {
    /// ETag and Last-Modified of the version.
    version: [Option<HeaderValue>; 2],
    size: u64,
    whole: String,
    piece_length: u64,
    pieces: Vec<String>,
}

/// The Metalink of the file that a `.meta4` path stands for. None if it is not one of ours: the backend may have a file of that name.
pub(super) async fn answer(office: &Office, client: Client, target: &str) -> Option<Response<FrontBody>> {
    let file = target.strip_suffix(SUFFIX)?;
    if office.catalogue.size(file)? < LARGE {
        return None;
    }
    let Some(digests) = digests(office, file).await else {
        return Some(text(StatusCode::BAD_GATEWAY, "the file could not be read to its end"));
    };
    let secure = office.is_secure(client);
    let wish = Wish { file, client: client.address.ip(), not: &[], secure };
    let choices = office.roster().explain(Instant::now(), &wish);
    let page = digests.metalink(file, &choices, &format!("{}{file}", office.own_for(client)));
    Some(typed(StatusCode::OK, KIND, page))
}

/// `Link` to the Metalink of a file that is known to be large.
pub(super) fn described_by(office: &Office, client: Client, file: &str) -> Option<String> {
    let large = office.catalogue.size(file).is_some_and(|size| size >= LARGE) && !file.contains(['<', '>', '?']);
    large.then(|| format!("<{}{file}{SUFFIX}>; rel=describedby; type=\"{KIND}\"", office.own_for(client)))
}

async fn digests(office: &Office, file: &str) -> Option<Digests> {
    // One at a time: hashing a large file is work, and a crowd asks for the same one.
    let mut known = office.metalinks.known.lock().await;
    let (head, mut body) = office.service.proxy.answer(office.service.site.get(file)?).await.into_parts();
    if head.status != StatusCode::OK {
        return None;
    }
    let version = version_of(&head.headers);
    if let Some(digests) = known.get(file).filter(|digests| digests.version == version && version != [None, None]) {
        return Some(digests.clone());
    }
    let mut hashing = Hashing::new(office.catalogue.size(file)?);
    while let Some(frame) = body.frame().await {
        hashing.update(&frame.ok()?.into_data().unwrap_or_default());
    }
    let digests = hashing.finish(version);
    if known.len() >= KNOWN {
        known.clear();
    }
    known.insert(file.to_owned(), digests.clone());
    Some(digests)
}

fn version_of(fields: &HeaderMap) -> [Option<HeaderValue>; 2] {
    [header::ETAG, header::LAST_MODIFIED].map(|name| fields.get(name).cloned())
}

/// A file on its way through the hashes.
struct Hashing {
    whole: Sha256,
    piece: Sha256,
    piece_length: u64,
    in_piece: u64,
    pieces: Vec<String>,
    size: u64,
}

impl Hashing {
    /// For a file of about this size: pieces of a power of two, at most [`PIECES`] of them.
    fn new(size: u64) -> Self {
        let piece_length = size.div_ceil(PIECES).max(LEAST_PIECE).next_power_of_two();
        Self { whole: Sha256::new(), piece: Sha256::new(), piece_length, in_piece: 0, pieces: Vec::new(), size: 0 }
    }

    fn update(&mut self, data: &Bytes) {
        self.whole.update(data);
        let mut rest: &[u8] = data;
        while !rest.is_empty() {
            let room = usize::try_from(self.piece_length - self.in_piece).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.piece.update(now);
            self.in_piece += u64::try_from(now.len()).unwrap_or(0);
            self.size += u64::try_from(now.len()).unwrap_or(0);
            if self.in_piece == self.piece_length {
                self.end_piece();
            }
            rest = later;
        }
    }

    fn end_piece(&mut self) {
        self.pieces.push(hex(&std::mem::take(&mut self.piece).finalize()));
        self.in_piece = 0;
    }

    fn finish(mut self, version: [Option<HeaderValue>; 2]) -> Digests {
        if self.in_piece > 0 {
            self.end_piece();
        }
        let Self { whole, piece_length, pieces, size, .. } = self;
        Digests { version, size, whole: hex(&whole.finalize()), piece_length, pieces }
    }
}

impl Digests {
    fn metalink(&self, file: &str, choices: &[Choice], own: &str) -> String {
        let path = file.split('?').next().unwrap_or_default();
        // A name without a path, so that no program writes elsewhere than where it was told [RFC 5854 4.1.2.1].
        let name = unescape_leniently(path.rsplit('/').next().unwrap_or_default()).replace(['/', '\\'], "_");
        let name = if matches!(name.as_str(), "" | "." | "..") { "download".to_owned() } else { name };
        let mut page = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\n\
             <generator>atoll/{}</generator>\n<file name=\"{}\">\n<size>{}</size>\n<hash type=\"sha-256\">{}</hash>\n\
             <pieces type=\"sha-256\" length=\"{}\">\n",
            env!("CARGO_PKG_VERSION"),
            escaped(&name),
            self.size,
            self.whole,
            self.piece_length
        );
        for piece in &self.pieces {
            let _ = writeln!(page, "<hash>{piece}</hash>");
        }
        page.push_str("</pieces>\n");
        let peers = choices.iter().take(URLS).map(|choice| format!("{}{file}", choice.url));
        for (place, url) in peers.chain(std::iter::once(own.to_owned())).enumerate() {
            let _ = writeln!(page, "<url priority=\"{}\">{}</url>", place + 1, escaped(&url));
        }
        page.push_str("</file>\n</metalink>\n");
        page
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a path of a Metalink ends in.
pub(super) const SUFFIX: &str = ".meta4";

const KIND: &str = "application/metalink4+xml";

/// Files under this need no Metalink. `[guess]`
const LARGE: u64 = 1 << 20;

/// Pieces of a file at most.
const PIECES: u64 = 2_048;

const LEAST_PIECE: u64 = 256 << 10;

/// Machines named for a file.
const URLS: usize = 16;

/// Files whose digests are remembered.
const KNOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_whole_and_in_one_piece() {
        let data: Vec<u8> = (0..700_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut hashing = Hashing::new(700_000);
        for piece in data.chunks(64 * 1024 + 7) {
            hashing.update(&Bytes::copy_from_slice(piece));
        }
        let digests = hashing.finish([None, None]);
        assert_eq!((digests.size, digests.piece_length), (700_000, 262_144));
        assert_eq!(digests.whole, hex(&Sha256::digest(&data)));
        let pieces: Vec<String> = data.chunks(262_144).map(|piece| hex(&Sha256::digest(piece))).collect();
        assert_eq!(digests.pieces, pieces);
        assert_eq!(Hashing::new(10 << 30).piece_length, 8 << 20);
    }

    #[test]
    fn a_name_leads_nowhere_else_and_is_no_markup() {
        let digests = Hashing::new(1).finish([None, None]);
        let page = |file: &str| digests.metalink(file, &[], "http://m:1/x");
        assert!(page("/a/..%2F..%2Fetc%2Fpasswd").contains("<file name=\".._.._etc_passwd\">"));
        assert!(page("/..").contains("<file name=\"download\">"));
        assert!(page("/%3Cb%3E%22?q").contains("<file name=\"&lt;b&gt;&quot;\">"));
        assert!(page("/a").contains("<url priority=\"1\">http://m:1/x</url>"));
    }
}
