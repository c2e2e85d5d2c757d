//! The files that are served: how large they are, how much was sent of them, and which peers served them lately. Samples are taken
//! of what a peer has served itself, so that they move no file to where nobody asked for it, and are counted as nobody's download.
//!
//! ```text
//!   records of peers and the manager --note--> what clients did --> journal
//!                                        |--> sizes, popularity, who served what
//!                                        '--> a sample's own record: left out
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use crate::front::record::{Data, Record, truncated};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sizes: BTreeMap<String, u64>,
    popular: BTreeMap<String, Popular>,
    /// The last files of each peer, by its name.
    served: BTreeMap<String, VecDeque<String>>,
    /// The last samples whose records have not come.
    samples: VecDeque<Sample>,
}

/// How often a file was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Popular {
    pub(crate) downloads: u64,
    pub(crate) bytes: u64,
}

/// A request of the manager's own at a peer, as the peer's record will name it.
#[derive(Debug)]
struct Sample {
    peer: String,
    from: SocketAddr,
    file: String,
}

impl Catalogue {
    /// Takes in what somebody served, a peer of this name or the manager itself; what of it clients asked for.
    pub(crate) fn note(&self, records: &[Record], peer: Option<&str>) -> Vec<Record> {
        let mut known = self.known();
        let mut clients = Vec::with_capacity(records.len());
        for record in records {
            if !peer.is_some_and(|peer| known.is_sample(peer, &record.data)) {
                known.add(&record.data, peer);
                clients.push(record.clone());
            }
        }
        clients
    }

    /// A sample of a file was taken at a peer from this address: the peer's record of it is no client's.
    pub(crate) fn sampled(&self, peer: &str, from: SocketAddr, file: &str) {
        let mut known = self.known();
        if known.samples.len() >= SAMPLES {
            known.samples.pop_front();
        }
        known.samples.push_back(Sample { peer: peer.to_owned(), from, file: file.to_owned() });
    }

    /// The size of a file that somebody served.
    pub(crate) fn size(&self, file: &str) -> Option<u64> {
        self.known().sizes.get(file).copied()
    }

    /// The files that most bytes were sent of.
    pub(crate) fn top(&self, most: usize) -> Vec<(String, Popular)> {
        let known = self.known();
        let mut files: Vec<_> = known.popular.iter().map(|(file, popular)| (file.clone(), *popular)).collect();
        files.sort_by_key(|(_, popular)| std::cmp::Reverse(popular.bytes));
        files.truncate(most);
        files
    }

    /// Files of known size that a peer served lately.
    pub(crate) fn served_by(&self, peer: &str) -> Vec<(String, u64)> {
        let known = self.known();
        let files = known.served.get(peer).into_iter().flatten();
        files.filter_map(|file| Some((file.clone(), *known.sizes.get(file)?))).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether a record of a peer is of a sample, which is then done with: ports are used again, by clients too.
    fn is_sample(&mut self, peer: &str, data: &Data) -> bool {
        let is_of = |sample: &Sample| {
            let from = || [sample.from.to_string(), truncated(sample.from.ip()).to_string()];
            sample.peer == peer && sample.file == data.key && from().contains(&data.remote_addr)
        };
        self.samples.iter().position(is_of).is_some_and(|at| self.samples.remove(at).is_some())
    }

    fn add(&mut self, data: &Data, peer: Option<&str>) {
        if let (200, Some(total)) = (data.status, data.total) {
            if self.sizes.len() >= FILES {
                self.sizes.clear();
            }
            self.sizes.insert(data.key.clone(), total);
        }
        if let Some(peer) = peer
            && matches!(data.status, 200 | 206)
        {
            if self.served.len() >= PEERS && !self.served.contains_key(peer) {
                self.served.pop_first();
            }
            let files = self.served.entry(peer.to_owned()).or_default();
            if !files.contains(&data.key) {
                files.push_back(data.key.clone());
            }
            if files.len() > SERVED {
                files.pop_front();
            }
        }
        if self.popular.len() >= FILES && !self.popular.contains_key(&data.key) {
            // The long tail is forgotten, what is asked for often stays.
            self.popular.retain(|_, popular| popular.downloads > 1);
            if self.popular.len() >= FILES {
                return;
            }
        }
        let popular = self.popular.entry(data.key.clone()).or_default();
        popular.downloads += 1;
        popular.bytes = popular.bytes.saturating_add(data.bytes);
    }
}

/// Files remembered with their size, and with their downloads. `[guess]`
const FILES: usize = 65_536;

/// Peers whose last files are remembered, and how many of each. `[guess]`
const PEERS: usize = 4_096;
const SERVED: usize = 16;

/// Samples remembered until their records arrive. `[guess]`
const SAMPLES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::record::{Asker, Outcome};

    const CLIENT: &str = "10.0.0.9:40000";

    fn record(file: &str, status: u16, private: bool) -> Record {
        let asker = Asker::of(CLIENT.parse().unwrap(), None, file, &http::HeaderMap::new());
        let source = String::new();
        let outcome = Outcome { success: true, status, bytes: 1, total: Some(7), milliseconds: 1, source };
        asker.record(&outcome, "http://p:1", 0, private)
    }

    #[test]
    fn a_sample_hides_its_own_record_once_and_no_clients() {
        for private in [false, true] {
            let catalogue = Catalogue::default();
            let counted = |file, peer| catalogue.note(&[record(file, 206, private)], Some(peer)).len();
            catalogue.sampled("p", CLIENT.parse().unwrap(), "/a");
            assert_eq!(
                (counted("/a", "q"), counted("/b", "p")),
                (1, 1),
                "the port is a client's at others and for others"
            );
            assert_eq!((counted("/a", "p"), counted("/a", "p")), (0, 1), "the next one is a client's");
            assert_eq!(catalogue.top(9), [("/a", 2), ("/b", 1)].map(|(file, n)| (file.to_owned(), popular(n))));
        }
    }

    fn popular(downloads: u64) -> Popular {
        Popular { downloads, bytes: downloads }
    }

    #[test]
    fn samples_are_drawn_from_what_a_peer_served_itself() {
        let catalogue = Catalogue::default();
        catalogue.note(&[record("/own", 200, false)], None);
        catalogue.note(&[record("/a", 200, false), record("/none", 404, false)], Some("p"));
        catalogue.note(&[record("/part", 206, false)], Some("q"));
        assert_eq!(catalogue.served_by("p"), [("/a".to_owned(), 7)]);
        assert!(catalogue.served_by("q").is_empty(), "the size of it is not known");
        catalogue.note(&[record("/part", 200, false)], None);
        assert_eq!(catalogue.served_by("q"), [("/part".to_owned(), 7)]);
        for n in 0..100 {
            catalogue.note(&[record(&format!("/{n}"), 200, false)], Some("p"));
        }
        assert_eq!(catalogue.served_by("p").len(), SERVED);
    }
}
