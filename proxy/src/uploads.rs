//! How many peers one flight feeds at a time. A copy that is still growing is given to a further peer only while those it is given to
//! keep up; others are told whom to ask instead. So a large file spreads as a chain or a tree whose width is what the machine can
//! send, and the first fetcher's line is not shared out until nobody gets anywhere.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use atoll_overlay::NodeId;

/// The peers that one flight feeds.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    fed: Mutex<Vec<Fed>>,
}

#[derive(Debug, Clone)]
struct Fed {
    peer: NodeId,
    /// Bytes of the body handed to its stream.
    at: Arc<AtomicU64>,
}

/// One peer's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Upload<F: AsRef<Uploads>> {
    flight: F,
    fed: Fed,
}

impl Uploads {
    /// A place for one more of `most` (0: of any number), or those to ask instead: half of the places are for whoever comes, the others
    /// are given only while those before keep up. `length`: of the whole body, if known; `visible`: bytes there are.
    pub(crate) fn enter<F: AsRef<Self>>(
        flight: F,
        peer: NodeId,
        most: usize,
        (length, visible): (Option<u64>, u64),
    ) -> Result<Upload<F>, Vec<NodeId>> {
        let fed = Fed { peer, at: Arc::default() };
        {
            let mut all = flight.as_ref().lock();
            let free = most == 0 || length.is_some_and(|length| length <= SMALL);
            let keeps_up = |one: &Fed| {
                let at = one.at.load(Ordering::Relaxed);
                at >= SMALL && visible.saturating_sub(at) <= BEHIND
            };
            let room = free || all.len() < (most / 2).max(1) || (all.len() < most && all.iter().all(keeps_up));
            if !room {
                return Err(all.iter().rev().map(|one| one.peer).filter(|one| *one != peer).take(TOLD).collect());
            }
            all.push(fed.clone());
        }
        Ok(Upload { flight, fed })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fed>> {
        self.fed.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.flight.as_ref().lock().retain(|one| !Arc::ptr_eq(&one.at, &self.fed.at));
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
        let enter = |number, visible| Uploads::enter(Arc::clone(&flight), node(number), 3, (None, visible));
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

    // P13: what is hot loads no node more than this, whatever its operator forgot to say.
    #[test]
    fn by_default_a_large_copy_is_given_to_so_many_at_a_time() {
        let flight = Arc::new(Flight(Uploads::default()));
        let most = crate::config::Peers::default().uploads;
        let enter = |number| Uploads::enter(Arc::clone(&flight), node(number), most, (Some(1 << 30), 0));
        let fed: Vec<_> = (0..=255).filter_map(|number| enter(number).ok()).collect();
        assert_eq!((most, fed.len()), (32, 16));
        fed.iter().for_each(|one| one.at(SMALL));
        let more: Vec<_> = (0..=255).filter_map(|number| enter(number).ok().inspect(|one| one.at(SMALL))).collect();
        assert_eq!(more.len(), 16);
    }

    #[test]
    fn small_bodies_are_given_to_everybody() {
        let flight = Arc::new(Flight(Uploads::default()));
        let all: Vec<_> =
            (0..50).map(|n| Uploads::enter(Arc::clone(&flight), node(n), 2, (Some(SMALL), 0)).unwrap()).collect();
        assert_eq!(flight.0.lock().len(), 50);
        drop(all);
        assert!(flight.0.lock().is_empty());
        let unbounded = |n| Uploads::enter(Arc::clone(&flight), node(n), 0, (None, 0));
        assert!(unbounded(1).is_ok_and(|_first| unbounded(2).is_ok()), "no bound was set");
    }
}
