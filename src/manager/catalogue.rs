//! The files that are served: how large they are, how much was sent of them, and which peers served them lately. Samples are taken
//! of what a peer has served itself, so that they move no file to where nobody asked for it, and are counted as nobody's download.
//!
//! ```text
//!   records of peers and the manager --note--> what clients did --> journal
//!                                        |--> sizes, popularity, who served what
//!                                        '--> a sample's own record: left out
//! ```

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
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
    files: HashMap<String, File>,
    /// The last files of each peer, by its name.
    served: BTreeMap<String, VecDeque<String>>,
    /// The last samples whose records have not come.
    samples: VecDeque<Sample>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct File {
    /// Once somebody had it whole.
    size: Option<u64>,
    popular: Popular,
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
    /// Takes in what somebody served, a peer of this name or the manager itself; leaves what of it clients asked for.
    pub(crate) fn note(&self, records: &mut Vec<Record<'_>>, peer: Option<&str>) {
        let mut known = self.known();
        records.retain(|record| {
            let sample = peer.is_some_and(|peer| known.is_sample(peer, &record.data));
            if !sample {
                known.add(&record.data, peer);
            }
            !sample
        });
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
        self.known().files.get(file)?.size
    }

    /// The files that most bytes were sent of.
    pub(crate) fn top(&self, most: usize) -> Vec<(String, Popular)> {
        let known = self.known();
        let mut files: Vec<(&String, Popular)> =
            known.files.iter().map(|(file, known)| (file, known.popular)).collect();
        files.sort_by_key(|(file, popular)| (std::cmp::Reverse(popular.bytes), *file));
        files.into_iter().take(most).map(|(file, popular)| (file.clone(), popular)).collect()
    }

    /// Files of known size that a peer served lately.
    pub(crate) fn served_by(&self, peer: &str) -> Vec<(String, u64)> {
        let known = self.known();
        let files = known.served.get(peer).into_iter().flatten();
        files.filter_map(|file| Some((file.clone(), known.files.get(file)?.size?))).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether a record of a peer is of a sample, which is then done with: ports are used again, by clients too.
    fn is_sample(&mut self, peer: &str, data: &Data<'_>) -> bool {
        let is_of = |sample: &Sample| {
            let from = || [sample.from.to_string(), truncated(sample.from.ip()).to_string()];
            sample.peer == peer && sample.file == data.key && from().iter().any(|from| *from == data.remote_addr)
        };
        self.samples.iter().position(is_of).is_some_and(|at| self.samples.remove(at).is_some())
    }

    fn add(&mut self, data: &Data<'_>, peer: Option<&str>) {
        if let Some(peer) = peer
            && matches!(data.status, 200 | 206)
        {
            self.served_by(peer, &data.key);
        }
        let file = match self.files.get_mut(&*data.key) {
            Some(file) => file,
            None => {
                self.make_room();
                self.files.entry(data.key.clone().into_owned()).or_default()
            }
        };
        if data.status == 200 {
            file.size = data.total.or(file.size);
        }
        file.popular.downloads += 1;
        file.popular.bytes = file.popular.bytes.saturating_add(data.bytes);
    }

    fn served_by(&mut self, peer: &str, file: &str) {
        if self.served.len() >= PEERS && !self.served.contains_key(peer) {
            self.served.pop_first();
        }
        let files = self.served.entry(peer.to_owned()).or_default();
        if !files.iter().any(|known| known == file) {
            files.push_back(file.to_owned());
        }
        if files.len() > SERVED {
            files.pop_front();
        }
    }

    /// Once there are too many, the half that was asked for least is forgotten.
    fn make_room(&mut self) {
        if self.files.len() < FILES {
            return;
        }
        let mut counts: Vec<u64> = self.files.values().map(|file| file.popular.downloads).collect();
        let (_, middle, _) = counts.select_nth_unstable(FILES / 2);
        let middle = *middle;
        self.files.retain(|_, file| file.popular.downloads > middle);
    }
}

/// Files remembered. `[guess]`
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

    fn record(file: &str, status: u16, private: bool) -> Record<'static> {
        let asker = Asker::of(CLIENT.parse().unwrap(), None, file, &http::HeaderMap::new());
        let source = "".into();
        let outcome = Outcome { success: true, status, bytes: 1, total: Some(7), milliseconds: 1, source, at: 0 };
        asker.record(&outcome, "http://p:1", private).owned()
    }

    /// How many of these are clients'.
    fn note(catalogue: &Catalogue, mut records: Vec<Record<'static>>, peer: Option<&str>) -> usize {
        catalogue.note(&mut records, peer);
        records.len()
    }

    #[test]
    fn a_sample_hides_its_own_record_once_and_no_clients() {
        for private in [false, true] {
            let catalogue = Catalogue::default();
            let counted = |file, peer| note(&catalogue, vec![record(file, 206, private)], Some(peer));
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
        note(&catalogue, vec![record("/own", 200, false)], None);
        note(&catalogue, vec![record("/a", 200, false), record("/none", 404, false)], Some("p"));
        note(&catalogue, vec![record("/part", 206, false)], Some("q"));
        assert_eq!(catalogue.served_by("p"), [("/a".to_owned(), 7)]);
        assert!(catalogue.served_by("q").is_empty(), "the size of it is not known");
        note(&catalogue, vec![record("/part", 200, false)], None);
        assert_eq!(catalogue.served_by("q"), [("/part".to_owned(), 7)]);
        for n in 0..100 {
            note(&catalogue, vec![record(&format!("/{n}"), 200, false)], Some("p"));
        }
        assert_eq!(catalogue.served_by("p").len(), SERVED);
    }
    #[test]
    fn what_is_asked_for_often_outlasts_what_was_asked_for_once() {
        let catalogue = Catalogue::default();
        for _ in 0..2 {
            note(&catalogue, (0..9).map(|n| record(&format!("/often/{n}"), 200, false)).collect(), None);
        }
        note(&catalogue, (0..FILES + 9).map(|n| record(&format!("/{n}"), 200, false)).collect(), None);
        assert!(catalogue.known().files.len() <= FILES);
        assert_eq!(catalogue.size("/often/0"), Some(7));
        assert_eq!(catalogue.size(&format!("/{}", FILES + 8)), Some(7), "the newest are known too");
        assert_eq!(catalogue.top(9).iter().filter(|(_, popular)| popular.downloads == 2).count(), 9);
    }
}
