//! The peers that clients may be led to now, side by side for the choice: drawn up when somebody's standing changes or may change by
//! time alone, and not for each request, which looks at every one of them.

use std::{borrow::Cow, collections::HashMap, time::Instant};

use super::{
    choose::{self, Candidate, Ranked},
    distances::Distances,
    roster::{Choice, Wish},
};
use crate::front::ask::Place;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Eligible {
    /// Each one's `index` is its place here and in `rows`.
    candidates: Vec<Candidate>,
    rows: Vec<Row>,
    places: HashMap<String, usize>,
    /// When somebody's standing changes by time alone; none: it has changed.
    until: Option<Instant>,
}

/// What is said of a peer that was chosen.
#[derive(Debug)]
struct Row {
    name: String,
    url: Place,
}

impl Eligible {
    /// Somebody's standing has changed.
    pub(super) fn spoil(&mut self) {
        self.until = None;
    }

    /// Whether it still is as it was drawn up.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Draws it up anew, good until then.
    pub(super) fn draw_up<'p>(
        &mut self,
        peers: impl Iterator<Item = (&'p String, &'p Place, Candidate)>,
        until: Instant,
    ) {
        self.candidates.clear();
        self.rows.clear();
        self.places.clear();
        for (index, (name, url, candidate)) in peers.enumerate() {
            self.candidates.push(Candidate { index, ..candidate });
            self.rows.push(Row { name: name.clone(), url: url.clone() });
            self.places.insert(name.clone(), index);
        }
        self.until = Some(until);
    }

    /// A peer stands as it did, but has other numbers. False if it is not here.
    pub(super) fn update(&mut self, name: &str, candidate: Candidate) -> bool {
        let place = self.places.get(name).and_then(|index| self.candidates.get_mut(*index));
        place.map(|place| *place = Candidate { index: place.index, ..candidate }).is_some()
    }

    /// Those that fit a wish, ordered by `by`.
    pub(super) fn pick(
        &self,
        wish: &Wish<'_>,
        distances: &Distances,
        by: fn(u64, &[Candidate]) -> Vec<Ranked>,
    ) -> Vec<Choice> {
        let mut candidates = Cow::Borrowed(self.candidates.as_slice());
        let near = distances.of(wish.client);
        for (name, rtt) in near.into_iter().flatten() {
            if let Some(index) = self.places.get(name)
                && let Some(candidate) = candidates.to_mut().get_mut(*index)
            {
                candidate.rtt_us = Some(*rtt);
            }
        }
        if wish.secure || !wish.not.is_empty() {
            let fits = |row: &Row| {
                (!wish.secure || row.url.is_secure()) && !wish.not.iter().any(|not| is_meant(&row.name, &row.url, not))
            };
            candidates.to_mut().retain(|candidate| self.rows.get(candidate.index).is_some_and(fits));
        }
        let choice = |ranked: Ranked| {
            let (row, candidate) = (self.rows.get(ranked.index)?, self.candidates.get(ranked.index)?);
            let rtt_us = near.and_then(|near| near.get(&row.name).copied());
            Some(Choice { name: row.name.clone(), url: row.url.clone(), ranked, load: candidate.load, rtt_us })
        };
        by(choose::seed(wish.file), &candidates).into_iter().filter_map(choice).collect()
    }
}

/// Whether a text names a peer: by its name, or by host and port.
pub(super) fn is_meant(name: &str, url: &Place, said: &str) -> bool {
    said == name || said.split_once("://").map_or(said, |(_, rest)| rest) == url.authority()
}
