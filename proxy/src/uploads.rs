//! How many peers one flight feeds at a time. A copy that is still growing is given to a further peer only while those it is given to
//! keep up; others are told whom to ask instead. So a large file spreads as a chain or a tree whose width is what the machine can
//! send, and the first fetcher's line is not shared out until nobody gets anywhere.
//!
//! Of those who wait for the first byte together the nearest are given places, and name the farther ones theirs: a chain goes through
//! all who are near each other before it crosses to others, since each long way in it costs what one connection loses there.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_overlay::NodeId;

/// The peers that one flight feeds, and those that wait for a place.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    fed: Vec<Fed>,
    waiting: Vec<Waiting>,
}

#[derive(Debug, Clone)]
struct Fed {
    peer: NodeId,
    /// Bytes of the body handed to its stream.
    at: Arc<AtomicU64>,
}

/// One that asked before there was anything to give.
#[derive(Debug)]
struct Waiting {
    peer: NodeId,
    /// The round trip; the longest if nobody measured it.
    distance: Duration,
    /// Tells it from another question of the same peer.
    name: Arc<()>,
}

/// One peer's wait for a place; over when dropped.
#[derive(Debug)]
pub(crate) struct Wait<F: AsRef<Uploads>> {
    flight: F,
    peer: NodeId,
    distance: Duration,
    name: Arc<()>,
}

/// One peer's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Upload<F: AsRef<Uploads>> {
    flight: F,
    fed: Fed,
}

impl Uploads {
    /// A peer begins to wait: it is so far, if that is known.
    pub(crate) fn wait<F: AsRef<Self>>(flight: F, peer: NodeId, distance: Option<Duration>) -> Wait<F> {
        let (distance, name) = (distance.unwrap_or(Duration::MAX), Arc::default());
        flight.as_ref().lock().waiting.push(Waiting { peer, distance, name: Arc::clone(&name) });
        Wait { flight, peer, distance, name }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: AsRef<Uploads> + Clone> Wait<F> {
    /// A place for this one of `most` (0: of any number), or those to ask instead: half of the places are for whoever comes, the others
    /// are given only while those before keep up; a place that one who waits nearer can have is kept for it. `length`: of the whole
    /// body, if known; `visible`: bytes there are.
    pub(crate) fn enter(self, most: usize, (length, visible): (Option<u64>, u64)) -> Result<Upload<F>, Vec<NodeId>> {
        let fed = Fed { peer: self.peer, at: Arc::default() };
        let mut places = self.flight.as_ref().lock();
        // It is never seen in both.
        places.leave(&self.name);
        let free = most == 0 || length.is_some_and(|length| length <= SMALL);
        let nearer = || places.waiting.iter().filter(|one| one.distance < self.distance && one.peer != self.peer);
        if !free && places.open(most, visible) <= nearer().count() {
            let mut next: Vec<_> = nearer().collect();
            next.sort_by_key(|one| one.distance);
            let fed = places.fed.iter().rev().map(|one| one.peer);
            let all = fed.chain(next.into_iter().map(|one| one.peer));
            return Err(all.filter(|one| *one != self.peer).take(TOLD).collect());
        }
        places.fed.push(fed.clone());
        drop(places);
        Ok(Upload { flight: self.flight.clone(), fed })
    }
}

impl<F: AsRef<Uploads>> Drop for Wait<F> {
    fn drop(&mut self) {
        self.flight.as_ref().lock().leave(&self.name);
    }
}

impl Places {
    /// It waits no longer.
    fn leave(&mut self, name: &Arc<()>) {
        self.waiting.retain(|one| !Arc::ptr_eq(&one.name, name));
    }

    /// How many more of `most` are to be had now.
    fn open(&self, most: usize, visible: u64) -> usize {
        let keeps_up = |one: &Fed| {
            let at = one.at.load(Ordering::Relaxed);
            at >= SMALL && visible.saturating_sub(at) <= BEHIND
        };
        let (fed, half) = (self.fed.len(), (most / 2).max(1));
        if fed < half { half - fed } else { usize::from(fed < most && self.fed.iter().all(keeps_up)) }
    }
}

impl<F: AsRef<Uploads>> Upload<F> {
    /// So far is this peer.
    pub(crate) fn at(&self, at: u64) {
        self.fed.at.store(at, Ordering::Relaxed);
    }
}

impl<F: AsRef<Uploads>> Drop for Upload<F> {
    fn drop(&mut self) {
        self.flight.as_ref().lock().fed.retain(|one| !Arc::ptr_eq(&one.at, &self.fed.at));
    }
}

/// Bodies up to this size are given to everybody; of a larger one a peer is to have so much before it is said to keep up.
const SMALL: u64 = 1 << 20;

/// Bytes that a peer may be behind and still keep up: what a stream's buffers hold. \[guess\]
const BEHIND: u64 = 2 << 20;

/// Peers named to one that finds no place.
pub(crate) const TOLD: usize = 8;

#[cfg(test)]
mod tests {
    use atoll_overlay::Key;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from(Key::of(&[number]))
    }

    struct Flight(Uploads);

    impl AsRef<Uploads> for Arc<Flight> {
        fn as_ref(&self) -> &Uploads {
            &self.0
        }
    }

    #[test]
    fn a_further_peer_is_fed_only_while_those_before_keep_up() {
        let flight = Arc::new(Flight(Uploads::default()));
        let enter = |number, visible| Uploads::wait(Arc::clone(&flight), node(number), None).enter(3, (None, visible));
        let first = enter(1, 0).unwrap();
        assert_eq!(enter(2, 0).map(drop), Err(vec![node(1)]), "it has shown nothing yet");
        first.at(5 << 20);
        assert_eq!(enter(2, 20 << 20).map(drop), Err(vec![node(1)]), "it is behind");
        let second = enter(2, 6 << 20).unwrap();
        second.at(6 << 20);
        first.at(6 << 20);
        let third = enter(3, 7 << 20).unwrap();
        third.at(7 << 20);
        assert_eq!(enter(4, 7 << 20).map(drop), Err(vec![node(3), node(2), node(1)]), "there is a ceiling");
        drop((first, second, third));
        assert!(enter(4, 7 << 20).is_ok());
    }

    #[test]
    fn of_those_that_wait_together_the_nearest_have_the_places_and_the_others_are_led_to_them() {
        let flight = Arc::new(Flight(Uploads::default()));
        let far = |millis| Some(Duration::from_millis(millis));
        let wait = |number, distance| Uploads::wait(Arc::clone(&flight), node(number), distance);
        let [farthest, unknown, farther] = [wait(1, far(140)), wait(2, None), wait(3, far(20))];
        let (nearest, gone) = (wait(4, far(8)), wait(5, far(2)));
        drop(gone);
        let all = (Some(1 << 30), 0);
        assert_eq!(farthest.enter(2, all).map(drop), Err(vec![node(4), node(3)]), "nobody has come yet");
        let place = nearest.enter(2, all).unwrap();
        assert_eq!(farther.enter(2, all).map(drop), Err(vec![node(4)]));
        assert_eq!(unknown.enter(2, all).map(drop), Err(vec![node(4)]));
        drop(place);
        assert!(wait(1, far(140)).enter(2, all).is_ok(), "whoever is there alone waits for nobody");
        let two = [wait(6, far(5)), wait(7, far(6))];
        assert_eq!(
            wait(8, far(7)).enter(4, all).map(drop),
            Err(vec![node(6), node(7)]),
            "two places, and two are nearer"
        );
        drop(two);
        assert!(flight.0.lock().fed.is_empty() && flight.0.lock().waiting.is_empty());
    }

    /// A flight that is looked at as soon as a place was given.
    struct Watched(Arc<Flight>);

    impl AsRef<Uploads> for Watched {
        fn as_ref(&self) -> &Uploads {
            &self.0.0
        }
    }

    impl Clone for Watched {
        fn clone(&self) -> Self {
            let places = self.as_ref().lock();
            assert_eq!((places.fed.len(), places.waiting.len()), (1, 1));
            Self(Arc::clone(&self.0))
        }
    }

    #[test]
    fn whoever_is_given_a_place_waits_for_none_from_the_same_moment() {
        let flight = Arc::new(Flight(Uploads::default()));
        let _waits = Uploads::wait(Arc::clone(&flight), node(1), None);
        let place = Uploads::wait(Watched(Arc::clone(&flight)), node(2), None).enter(2, (None, 0));
        assert!(place.is_ok());
    }

    // P13: what is hot loads no node more than this, whatever its operator forgot to say.
    #[test]
    fn by_default_a_large_copy_is_given_to_so_many_at_a_time() {
        let flight = Arc::new(Flight(Uploads::default()));
        let most = crate::config::Peers::default().uploads;
        let enter = |number| Uploads::wait(Arc::clone(&flight), node(number), None).enter(most, (Some(1 << 30), 0));
        let fed: Vec<_> = (0..=255).filter_map(|number| enter(number).ok()).collect();
        assert_eq!((most, fed.len()), (32, 16));
        fed.iter().for_each(|one| one.at(SMALL));
        let more: Vec<_> = (0..=255).filter_map(|number| enter(number).ok().inspect(|one| one.at(SMALL))).collect();
        assert_eq!(more.len(), 16);
    }

    #[test]
    fn small_bodies_are_given_to_everybody() {
        let flight = Arc::new(Flight(Uploads::default()));
        let wait = |number| Uploads::wait(Arc::clone(&flight), node(number), None);
        let all: Vec<_> = (0..50).map(|n| wait(n).enter(2, (Some(SMALL), 0)).unwrap()).collect();
        assert_eq!(flight.0.lock().fed.len(), 50);
        drop(all);
        assert!(flight.0.lock().fed.is_empty() && flight.0.lock().waiting.is_empty());
        let unbounded = |n| wait(n).enter(0, (None, 0));
        assert!(unbounded(1).is_ok_and(|_first| unbounded(2).is_ok()), "no bound was set");
    }
}
