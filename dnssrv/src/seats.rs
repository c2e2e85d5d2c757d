//! Who may connect: the places that connections take, in all and of one prefix, and whom a newcomer displaces once all are taken (RFC
//! 7766 6.2.3, RFC 9210 4).

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use atoll_overlay::Prefix;
use tokio::sync::Notify;

/// The places of connections under way, by number.
#[derive(Default)]
pub(crate) struct Seats {
    open: Mutex<Places>,
    /// How many there have been.
    count: AtomicU64,
}

/// Who has a place, and who lost it.
#[derive(Default)]
struct Places {
    taken: BTreeMap<u64, Taken>,
    /// Those whose place was given to another and that have not ended yet, and what ends each at once. The first first.
    leaving: VecDeque<(u64, Arc<Notify>)>,
}

/// One of them, as the others see it.
struct Taken {
    prefix: Prefix,
    /// Since when it has nothing to be answered.
    idle: Option<Instant>,
    /// Questions over HTTP that are being answered.
    under_way: usize,
    leave: Arc<Notify>,
    end: Arc<Notify>,
}

/// One connection's place among them.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: Arc<Notify>,
    end: Arc<Notify>,
}

impl Seats {
    /// A place for one more, if the bounds allow, or if one that idles can make room: the one that has for longest (RFC 7766 6.2.3).
    /// That one may linger to say goodbye; of more than [`LINGERING`] the first is cut, so that what is open stays bounded.
    pub(crate) fn seat(self: &Arc<Self>, from: SocketAddr, most: usize, most_per_prefix: usize) -> Option<Seat> {
        let prefix = Prefix::of(from.ip().to_canonical());
        let mut places = self.open();
        let Places { taken: open, leaving } = &mut *places;
        let is_here = |taken: &Taken| taken.prefix == prefix;
        let crowded_here = open.values().filter(|taken| is_here(taken)).count() >= most_per_prefix;
        if crowded_here || open.len() >= most {
            let candidates = open.iter().filter(|(_, taken)| !crowded_here || is_here(taken));
            let longest = candidates.filter_map(|(number, taken)| Some((taken.idle?, *number))).min();
            let (number, gone) = longest.and_then(|(_, number)| open.remove_entry(&number))?;
            gone.leave.notify_one();
            leaving.push_back((number, gone.end));
            if leaving.len() > LINGERING
                && let Some((_, first)) = leaving.pop_front()
            {
                first.notify_one();
            }
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (leave, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (idle, seen) = (Some(Instant::now()), (Arc::clone(&leave), Arc::clone(&end)));
        open.insert(number, Taken { prefix, idle, under_way: 0, leave: seen.0, end: seen.1 });
        Some(Seat { seats: Arc::clone(self), number, leave, end })
    }

    fn open(&self) -> MutexGuard<'_, Places> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It has questions to be answered from now on, or none any more.
    pub(crate) fn is_busy(&self, busy: bool) {
        if let Some(taken) = self.seats.open().taken.get_mut(&self.number) {
            taken.idle = Some(Instant::now()).filter(|_| !busy);
        }
    }

    /// A question over HTTP is being answered, beside others or alone, until this is dropped.
    pub(crate) fn answers(self: &Arc<Self>) -> Answering {
        self.count(|under_way| under_way + 1);
        Answering(Arc::clone(self))
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        if let Some(taken) = self.seats.open().taken.get_mut(&self.number) {
            taken.under_way = change(taken.under_way);
            taken.idle = Some(Instant::now()).filter(|_| taken.under_way == 0);
        }
    }

    /// Once its place is given to another.
    pub(crate) async fn lost(&self) {
        self.leave.notified().await;
        metrics::counter!("atoll_dns_connections_evicted_total").increment(1);
    }

    /// Once it has lost its place and too many others have since: it may not even say goodbye.
    pub(crate) async fn ended(&self) {
        self.end.notified().await;
    }
}

/// One of a connection's questions that is being answered.
pub(crate) struct Answering(Arc<Seat>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.count(|under_way| under_way.saturating_sub(1));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.seats.open();
        places.taken.remove(&self.number);
        places.leaving.retain(|(number, _)| *number != self.number);
    }
}

/// Connections beyond the bounds that may take a moment to end. \[guess\]
const LINGERING: usize = 32;

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    #[test]
    fn of_those_whose_place_was_given_away_no_more_linger_than_the_bound() {
        let seats = Arc::new(Seats::default());
        let seat = |_| seats.seat(([192, 0, 2, 1], 1).into(), 1, 1).expect("the one before idles");
        let mut taken: Vec<Seat> = (0..LINGERING + 2).map(seat).collect();
        let is_cut = |seat: &Seat| pin!(seat.ended()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert_eq!(taken.iter().map(is_cut).filter(|cut| *cut).count(), 1, "the last sits, as many linger");
        assert_eq!(seats.open().leaving.len(), LINGERING);
        // One that has ended makes room for another to linger.
        taken.remove(1);
        taken.push(seat(0));
        assert!(!taken.iter().any(is_cut));
        drop(taken);
        let places = seats.open();
        assert!(places.taken.is_empty() && places.leaving.is_empty());
    }
}
