//! One fetch per object: whoever comes while it is under way joins it and streams from what it has so far.
//!
//! A flight belongs to no client. Its leader is a task of its own, so that a client hanging up changes nothing; a leader that
//! ends without a word (a panic of ours) ends the flight as failed. Bodies live in the store's `Partial`; a flight itself holds
//! a head and a few numbers, whatever the object's size and however many wait.
//!
//! ```text
//!   joined or led --bytes--> landed: all is there for those who wait --the store has it--> ended: looked for in the store
//!   |<-- counts in `limits.flights` -->|<------ bounded by what may wait to be written ----->|
//! ```

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use atoll_overlay::Key;
use atoll_store::{Object, Partial, PurgeNumber, ReadError, Writer};
use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    ledger::Ledger,
    meta::Meta,
    origin::OriginBody,
    reason::{Failure, Reason, Source},
    reference::Reference,
    uploads::Uploads,
};

/// The flights under way, by the keys they can be joined under.
#[derive(Debug)]
pub(crate) struct Flights {
    open: Mutex<Open>,
    /// All that fetch something of a URL, by its key: those that can be joined, its variants and slices, and those for one client.
    of_url: Mutex<HashMap<Key, Vec<Arc<Flight>>>>,
    limit: usize,
    waiters: usize,
}

/// Those that can be joined.
#[derive(Debug, Default)]
struct Open {
    by_key: HashMap<Key, Arc<Flight>>,
    /// Keys of those that have not landed.
    under_way: usize,
}

/// One fetch.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    progress: watch::Sender<Progress>,
    /// What vouches for its body.
    pub(crate) ledger: Ledger,
    /// The peers it feeds.
    uploads: Uploads,
    waiters: AtomicUsize,
    /// Changed while those that can be joined are locked.
    landed: AtomicBool,
    /// More than one waited for it at the same time.
    in_demand: AtomicBool,
    overtaken: AtomicBool,
    given_up: AtomicBool,
    /// The store's purge number when its request began.
    born: AtomicU64,
    /// A body that is whole and not stored, until the last of those who wait has read it.
    withheld: Mutex<Option<Writer>>,
}

/// How far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The head, once known.
    pub(crate) answer: Option<Arc<Answer>>,
    /// Bytes of the body that may be shown.
    pub(crate) visible: u64,
    /// These are all that there are.
    pub(crate) landed: bool,
    /// Set once: nothing changes after it.
    pub(crate) end: Option<End>,
    /// The source is gone and another is sought: this flight is no source for others meanwhile.
    pub(crate) lost: bool,
    /// Counts signs of life from the origin's fetcher.
    pub(crate) beats: u64,
}

/// How a flight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer is whole.
    Whole,
    /// It failed; what was shown of the body must not be taken for all of it.
    Failed(Failure),
    /// The answer stands under another key, which is known now: look again.
    Again,
}

impl End {
    /// For a trace.
    pub(crate) fn in_words(self) -> String {
        match self {
            Self::Whole => "the answer is whole".to_owned(),
            Self::Failed(failure) => format!("failed, {failure}"),
            Self::Again => "the answer stands elsewhere: looked for again".to_owned(),
        }
    }
}

/// The head of an answer, and where its body is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) meta: Meta,
    /// The key the answer stands under: the variant's, if it varies.
    pub(crate) key: Key,
    /// The request fields it varies by.
    pub(crate) varies_by: Vec<String>,
    pub(crate) source: Source,
    /// Why it is not stored, if it is not.
    pub(crate) reason: Option<Reason>,
    pub(crate) content: Content,
}

/// Where a body is.
#[derive(Debug)]
pub(crate) enum Content {
    /// Being filled; stays readable when whole.
    Filling(Partial),
    /// Whole in the store.
    Stored(Object),
    /// Small and not stored.
    Bytes(Bytes),
    /// Still with its source, for the one waiter who takes it.
    Direct(Mutex<Option<OriginBody>>),
}

/// What came of asking for a flight.
pub(crate) enum Joined {
    /// There was none: lead it.
    Lead(Lead),
    /// There is one.
    Follow(Waiter),
    /// No more flights, or no more waiters on this one, are allowed.
    Full,
}

impl Flights {
    /// At most `limit` flights that have not landed, with `waiters` waiters each.
    pub(crate) fn new(limit: usize, waiters: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), of_url: Mutex::default(), limit, waiters })
    }

    /// Joins the flight under a key, or begins one.
    pub(crate) fn join(self: &Arc<Self>, key: Key) -> Joined {
        let mut open = self.open();
        if let Some(flight) = open.by_key.get(&key) {
            return Waiter::of(flight, self.waiters).map_or(Joined::Full, Joined::Follow);
        }
        if open.under_way >= self.limit {
            return Joined::Full;
        }
        let flight = Arc::new(Flight::default());
        open.add(key, &flight);
        Joined::Lead(Lead { flight, flights: Arc::clone(self), keys: vec![key], url: None })
    }

    /// A flight that nobody else can join.
    pub(crate) fn solo(self: &Arc<Self>) -> Lead {
        let flight = Arc::new(Flight::default());
        Lead { flight, flights: Arc::clone(self), keys: Vec::new(), url: None }
    }

    /// What is fetched under this key, or of the URL whose key it is, may be out of date before it is stored: it goes to those who wait,
    /// and no further.
    pub(crate) fn overtake(&self, key: Key) {
        let of_url = self.of_url().get(&key).cloned().unwrap_or_default();
        let mut open = self.open();
        let joined = open.by_key.get(&key).cloned();
        for flight in of_url.iter().chain(&joined) {
            flight.overtaken.store(true, Ordering::SeqCst);
        }
        if let Some(flight) = &joined {
            open.remove(&key, flight);
        }
        if !of_url.is_empty() {
            open.retain(|flight| !of_url.iter().any(|other| Arc::ptr_eq(other, flight)));
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_url(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Flight>>>> {
        self.of_url.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A purge has taken what this flight brings: nobody joins it any more. The store knows what to do with what comes.
    pub(crate) fn give_up(&self, waiter: &Waiter) {
        waiter.flight.given_up.store(true, Ordering::SeqCst);
        self.open().retain(|flight| !Arc::ptr_eq(flight, &waiter.flight));
    }

    /// Joins the flight under a key, if there is one.
    pub(crate) fn find(&self, key: Key) -> Option<Waiter> {
        Waiter::of(self.open().by_key.get(&key)?, self.waiters)
    }

    /// Flights that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.open().by_key.len()
    }
}

impl Open {
    fn add(&mut self, key: Key, flight: &Arc<Flight>) {
        self.by_key.insert(key, Arc::clone(flight));
        self.under_way += usize::from(!flight.has_landed());
    }

    /// Keeps those that are to stay.
    fn retain(&mut self, stays: impl Fn(&Arc<Flight>) -> bool) {
        let under_way = &mut self.under_way;
        self.by_key.retain(|_, flight| {
            let stays = stays(flight);
            *under_way -= usize::from(!stays && !flight.has_landed());
            stays
        });
    }

    /// Takes a flight's key out, unless another flight has it by now.
    fn remove(&mut self, key: &Key, flight: &Arc<Flight>) {
        if let Entry::Occupied(entry) = self.by_key.entry(*key)
            && Arc::ptr_eq(entry.get(), flight)
        {
            entry.remove();
            self.under_way -= usize::from(!flight.has_landed());
        }
    }

    fn has(&self, key: &Key, flight: &Arc<Flight>) -> bool {
        self.by_key.get(key).is_some_and(|other| Arc::ptr_eq(other, flight))
    }
}

/// The leader's hold on a flight.
pub(crate) struct Lead {
    flight: Arc<Flight>,
    flights: Arc<Flights>,
    keys: Vec<Key>,
    /// The key of the URL it is of.
    url: Option<Key>,
}

impl Lead {
    /// A waiter on the flight that is led.
    pub(crate) fn follow(&self) -> Option<Waiter> {
        Waiter::of(&self.flight, self.flights.waiters)
    }

    /// It fetches something of the URL with this key, and is overtaken with it.
    pub(crate) fn is_of(&mut self, url: Key) {
        if self.url.replace(url).is_none() {
            self.flights.of_url().entry(url).or_default().push(Arc::clone(&self.flight));
        }
    }

    /// What vouches for its body.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.flight.ledger
    }

    /// What others can be told of the copy so far.
    pub(crate) fn reference(&self) -> Reference {
        self.flight.reference()
    }

    /// The flight, for tasks that report on it.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Lets the flight be joined under another key too: the variant's. False if another flight has it.
    pub(crate) fn also(&mut self, key: Key) -> bool {
        let mut open = self.flights.open();
        match open.by_key.get(&key) {
            Some(other) => Arc::ptr_eq(other, &self.flight),
            None => {
                open.add(key, &self.flight);
                self.keys.push(key);
                true
            }
        }
    }

    /// Its request begins now, at this purge number.
    pub(crate) fn began(&self, born: PurgeNumber) {
        self.flight.born.store(born.0, Ordering::SeqCst);
    }

    /// The source lives.
    pub(crate) fn beat(&self) {
        self.flight.progress.send_modify(|progress| progress.beats += 1);
    }

    /// The source is gone, or there is one again.
    pub(crate) fn lost(&self, lost: bool) {
        self.flight.progress.send_if_modified(|progress| std::mem::replace(&mut progress.lost, lost) != lost);
    }

    /// The head is known.
    pub(crate) fn head(&self, answer: Arc<Answer>) {
        self.flight.progress.send_modify(|progress| progress.answer = Some(answer));
    }

    /// So many bytes of the body may be shown.
    pub(crate) fn show(&self, visible: u64) {
        self.flight.progress.send_modify(|progress| progress.visible = visible);
    }

    /// All of the body is there and shown: those who wait need nothing more, and others may be fetched in its place. What the store has to
    /// do still is bounded by the store.
    pub(crate) fn land(&self) {
        {
            let mut open = self.flights.open();
            if !self.flight.has_landed() {
                open.under_way -= self.keys.iter().filter(|key| open.has(key, &self.flight)).count();
                self.flight.landed.store(true, Ordering::SeqCst);
            }
        }
        self.flight.progress.send_if_modified(|progress| !std::mem::replace(&mut progress.landed, true));
    }

    /// Whether more than one waited for it at the same time.
    pub(crate) fn is_in_demand(&self) -> bool {
        self.flight.in_demand.load(Ordering::Relaxed)
    }

    /// Whether waiters have been shown a head.
    pub(crate) fn has_head(&self) -> bool {
        self.flight.progress.borrow().answer.is_some()
    }

    /// Whether the answer may no longer be stored.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.flight.overtaken.load(Ordering::SeqCst)
    }

    /// The body is whole, and for those alone who wait for it now.
    pub(crate) fn withhold(&self, body: Writer) {
        *self.flight.withheld.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// Ends the flight: new requests look in the store again.
    pub(crate) fn finish(self, end: End) {
        self.end(end);
    }

    fn end(&self, end: End) {
        {
            let mut open = self.flights.open();
            for key in &self.keys {
                // One that was overtaken has made room for another.
                open.remove(key, &self.flight);
            }
        }
        if let Some(url) = self.url
            && let Entry::Occupied(mut flights) = self.flights.of_url().entry(url)
        {
            flights.get_mut().retain(|other| !Arc::ptr_eq(other, &self.flight));
            if flights.get().is_empty() {
                flights.remove();
            }
        }
        self.flight.progress.send_if_modified(|progress| {
            let first = progress.end.is_none();
            progress.end.get_or_insert(end);
            first
        });
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(End::Failed(Failure::Internal));
    }
}

impl Flight {
    /// Whether nobody else may have what it brings.
    pub(crate) fn is_for_few(&self) -> bool {
        self.overtaken.load(Ordering::SeqCst) || self.given_up.load(Ordering::SeqCst)
    }

    fn has_landed(&self) -> bool {
        self.landed.load(Ordering::SeqCst)
    }

    /// What others can be told of the copy so far.
    pub(crate) fn reference(&self) -> Reference {
        let progress = self.progress.borrow();
        let mut reference = Reference::fetching();
        if let Some(answer) = &progress.answer {
            reference.length = answer.meta.length;
            reference.validator = Bytes::copy_from_slice(&answer.meta.validator);
            reference.held = progress.visible;
        }
        reference
    }
}

impl AsRef<Uploads> for Arc<Flight> {
    fn as_ref(&self) -> &Uploads {
        &self.uploads
    }
}

/// One who waits: a client's request or a peer's.
#[derive(Debug)]
pub(crate) struct Waiter {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
}

impl Waiter {
    fn of(flight: &Arc<Flight>, limit: usize) -> Option<Self> {
        let before = flight.waiters.fetch_add(1, Ordering::Relaxed);
        if before > 0 {
            flight.in_demand.store(true, Ordering::Relaxed);
        }
        let waiter = Self { flight: Arc::clone(flight), progress: flight.progress.subscribe() };
        (before < limit).then_some(waiter)
    }

    /// The store's purge number when the flight's request began.
    pub(crate) fn born(&self) -> PurgeNumber {
        PurgeNumber(self.flight.born.load(Ordering::SeqCst))
    }

    /// The flight itself.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Whether somebody else waits too.
    pub(crate) fn is_in_company(&self) -> bool {
        self.flight.waiters.load(Ordering::Relaxed) > 1
    }

    /// Waits for the head, or for the end if there is none.
    pub(crate) async fn answer(&mut self) -> Result<Arc<Answer>, End> {
        let found = self.progress.wait_for(|progress| progress.answer.is_some() || progress.end.is_some()).await;
        let Ok(progress) = found else { return Err(End::Failed(Failure::Internal)) };
        match (&progress.answer, progress.end) {
            (Some(answer), _) => Ok(Arc::clone(answer)),
            (None, Some(End::Whole)) | (None, None) => Err(End::Failed(Failure::Internal)),
            (None, Some(end)) => Err(end),
        }
    }

    /// Whether all of the answer has been shown, and only the end not said.
    pub(crate) fn has_landed(&mut self) -> bool {
        let progress = self.progress.borrow();
        progress.answer.as_ref().is_some_and(|answer| match answer.content {
            Content::Filling(_) if progress.landed => true,
            Content::Filling(_) => answer.meta.length.is_some_and(|length| progress.visible >= length),
            Content::Stored(_) | Content::Bytes(_) | Content::Direct(_) => true,
        })
    }

    /// Waits until there is some of the body to show, or will never be.
    pub(crate) async fn begun(&mut self) -> Result<(), Failure> {
        let found = self.progress.wait_for(|progress| progress.visible > 0 || progress.end.is_some()).await;
        match found.map(|progress| (progress.visible, progress.end)) {
            Ok((0, Some(End::Failed(failure)))) => Err(failure),
            // An error means that the leader is gone, which the body finds out too.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) {
        // An error means that the leader is gone, which is an end too.
        let _ = self.progress.wait_for(|progress| progress.end.is_some()).await;
    }

    /// How far it is now; the next [`Self::changed`] waits for what comes after.
    pub(crate) fn now(&mut self) -> Progress {
        self.progress.borrow_and_update().clone()
    }

    /// Waits for anything to change.
    pub(crate) async fn changed(&mut self) {
        // The sender lives as long as the flight, which this waiter holds.
        let _ = self.progress.changed().await;
    }

    /// Body bytes at `offset`, at least one; `None` at the proper end.
    pub(crate) async fn read(&mut self, partial: &Partial, offset: u64, max: usize) -> Result<Option<Bytes>, Failure> {
        loop {
            let (visible, landed, end) = {
                let progress = self.progress.borrow_and_update();
                (progress.visible, progress.landed, progress.end)
            };
            if offset < visible {
                let room = usize::try_from(visible - offset).unwrap_or(usize::MAX);
                return match partial.read(offset, max.min(room)).await {
                    Ok(bytes) if bytes.is_empty() => Err(Failure::Internal),
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(ReadError::Aborted | ReadError::Lost | ReadError::Corrupt | ReadError::Io(_)) => {
                        Err(Failure::ResponseIncomplete)
                    }
                };
            }
            // Whatever becomes of it in the store.
            if landed {
                return Ok(None);
            }
            match end {
                Some(End::Whole) => return Ok(None),
                Some(End::Failed(failure)) => return Err(failure),
                Some(End::Again) => return Err(Failure::Internal),
                None => self.changed().await,
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.flight.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use atoll_store::{Config, Store};

    use super::*;

    fn lead(flights: &Arc<Flights>, key: Key) -> Lead {
        let Joined::Lead(lead) = flights.join(key) else { panic!("a flight was there") };
        lead
    }

    #[tokio::test]
    async fn a_leader_that_vanishes_fails_its_waiters_and_frees_the_key() {
        let flights = Flights::new(8, 8);
        let key = Key::of(b"k");
        let leader = lead(&flights, key);
        let Joined::Follow(mut waiter) = flights.join(key) else { panic!("no flight") };
        drop(leader);
        assert_eq!(waiter.answer().await.unwrap_err(), End::Failed(Failure::Internal));
        assert_eq!(flights.len(), 0);
        lead(&flights, key).finish(End::Whole);
    }

    #[tokio::test]
    async fn flights_and_waiters_are_bounded() {
        let flights = Flights::new(1, 2);
        let leader = lead(&flights, Key::of(b"a"));
        assert!(matches!(flights.join(Key::of(b"b")), Joined::Full));
        let one = flights.join(Key::of(b"a"));
        let two = leader.follow();
        assert!(matches!(flights.join(Key::of(b"a")), Joined::Full));
        drop((one, two));
        assert!(matches!(flights.join(Key::of(b"a")), Joined::Follow(_)));
    }

    #[test]
    fn a_flight_is_in_demand_from_the_second_on_who_came_for_it() {
        let flights = Flights::new(8, 8);
        let leader = lead(&flights, Key::of(b"a"));
        let _first = leader.follow();
        assert!(!leader.is_in_demand());
        drop(flights.join(Key::of(b"a")));
        assert!(leader.is_in_demand(), "whoever came and went is one who came");
    }

    #[tokio::test]
    async fn a_fetch_that_has_landed_makes_room_for_others_whatever_the_store_still_does() {
        let flights = Flights::new(1, 8);
        let (a, b) = (Key::of(b"a"), Key::of(b"b"));
        let (mut first, store) = (lead(&flights, a), Store::open(Config::default()).await.unwrap());
        assert!(first.also(Key::of(b"variant")));
        assert!(matches!(flights.join(b), Joined::Full));
        let (tags, born) = (atoll_store::Tags::default(), store.purge_number());
        let (key, expires, metadata) = (crate::cache::store_key(a), None, Bytes::new());
        let head = atoll_store::Head { key, directory: 0, tags, expires, metadata, length: None, born };
        let (writer, mut waiter) = (store.writer(head).unwrap(), first.follow().unwrap());
        first.land();
        // Of a body of unknown length the end is known too.
        assert_eq!(waiter.read(&writer.partial(), 0, 1).await, Ok(None));
        let second = lead(&flights, b);
        assert!(matches!(flights.join(a), Joined::Follow(_)), "who comes now finds it until the store has it");
        assert!(matches!(flights.join(Key::of(b"c")), Joined::Full));
        flights.overtake(a);
        first.finish(End::Failed(Failure::Internal));
        assert!(matches!(flights.join(Key::of(b"c")), Joined::Full), "its room was given back already");
        second.finish(End::Whole);
        assert_eq!((flights.len(), flights.open().under_way), (0, 0));
    }

    #[test]
    fn a_variant_s_key_leads_to_the_same_flight_until_it_ends() {
        let flights = Flights::new(8, 8);
        let mut leader = lead(&flights, Key::of(b"a"));
        assert!(leader.also(Key::of(b"variant")));
        assert!(flights.find(Key::of(b"variant")).is_some());
        let mut other = lead(&flights, Key::of(b"b"));
        assert!(!other.also(Key::of(b"variant")));
        leader.finish(End::Whole);
        assert!(flights.find(Key::of(b"variant")).is_none());
    }
}
