//! The peers a manager knows, and which of them clients may be led to. Pure: told the time and what was heard.
//!
//! A peer takes clients while it beats, its address was dialled back from here, and, if another peer takes clients, from one of
//! those too; while it neither leaves nor is full; and as long as nothing speaks against it. Every standing has its reason, for the
//! page and for `?mirrorlist`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    choose::{self, Candidate, Lent, Ranked},
    distances::Distances,
    eligible::{Eligible, is_meant},
    token::{Secret, nonce},
    wire::{Beat, Check, Checked, Warmed, hello_proves},
};
use crate::front::{ask::Place, meter::Download, record::Record};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    peers: BTreeMap<String, Peer>,
    distances: Distances,
    eligible: Eligible,
}

/// What a beat brought besides how the peer is.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) records: Vec<Record<'static>>,
    pub(crate) checked: Vec<Checked>,
    pub(crate) warmed: Vec<Warmed>,
}

/// One peer.
#[derive(Debug)]
struct Peer {
    url: Place,
    /// Where it came from.
    from: IpAddr,
    session: Secret,
    seed: u64,
    joined: Instant,
    beaten: Option<Instant>,
    beat: Beat,
    /// Clients led to it since its last beat, and between that and the one before: they may not show in its count yet.
    led: [u64; 2],
    /// The dial from here.
    own: Verified,
    /// The dial from another peer.
    other: Verified,
    /// A dial that another peer was asked for: the nonce, who, when.
    asked: Option<(String, String, Instant)>,
    /// It was found to be where it says once, by all who had to find it.
    through: bool,
    rtt: Option<Duration>,
    drain: bool,
    stop: bool,
    /// Records below this number have arrived.
    collected: u64,
    ejected: Option<String>,
}

/// What dialling a peer brought.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verified {
    Never,
    Passed(Instant),
    Failed { at: Instant, why: String, times: u32 },
}

/// How a peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes clients.
    Live,
    /// Not yet, or not now, and why.
    Waits(String),
    /// Never again, and why.
    Ejected(String),
}

/// A peer as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) live: bool,
    pub(crate) standing: String,
    pub(crate) in_flight: u64,
    pub(crate) sent: u64,
    pub(crate) origin_bytes: u64,
    pub(crate) copies: u64,
    pub(crate) rate: Option<u64>,
    pub(crate) quota_left: Option<u64>,
    pub(crate) weight: u16,
    pub(crate) version: String,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) seconds: u64,
    pub(crate) dropped_records: u64,
    pub(crate) downloads: Vec<Download>,
}

/// What a choice is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'w> {
    /// Path and query.
    pub(crate) file: &'w str,
    pub(crate) client: IpAddr,
    /// Names or authorities of peers that failed this client.
    pub(crate) not: &'w [String],
    /// Only peers that are reached over TLS.
    pub(crate) secure: bool,
}

/// A peer that was chosen, or would be next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) url: Place,
    pub(crate) ranked: Ranked,
    pub(crate) load: u64,
    pub(crate) rtt_us: Option<u64>,
}

impl Roster {
    /// A peer was admitted and says that it is here. The one of that name before it is gone. False if there is no room.
    pub(crate) fn join(&mut self, now: Instant, name: &str, (url, from): (Place, IpAddr), session: Secret) -> bool {
        if self.peers.len() >= PEERS && !self.peers.contains_key(name) {
            return false;
        }
        let peer = Peer {
            seed: choose::seed(name),
            url,
            from,
            session,
            joined: now,
            beaten: None,
            beat: Beat::default(),
            led: [0; 2],
            own: Verified::Never,
            other: Verified::Never,
            asked: None,
            through: false,
            rtt: None,
            drain: false,
            stop: false,
            collected: 0,
            ejected: None,
        };
        self.peers.insert(name.to_owned(), peer);
        self.eligible.spoil();
        true
    }

    /// Whether any peer has been heard lately.
    pub(crate) fn hears(&self, now: Instant) -> bool {
        self.peers.values().any(|peer| peer.is_heard(now))
    }

    /// Whether a peer that was not ejected came from there.
    pub(crate) fn is_from(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.peers.values().any(|peer| peer.ejected.is_none() && peer.from.to_canonical() == address)
    }

    /// The key of a peer's session.
    pub(crate) fn session(&self, name: &str) -> Option<Secret> {
        self.peers.get(name).map(|peer| peer.session)
    }

    /// A peer says how it is. None if this was said before.
    pub(crate) fn beat(&mut self, now: Instant, beat: Beat) -> Option<Said> {
        let peer = self.peers.get_mut(&beat.peer)?;
        if peer.beaten.is_some() && beat.number <= peer.beat.number {
            return None;
        }
        for record in &beat.records {
            // A private peer names the network alone, which is all that is wanted.
            let said = &record.data.remote_addr;
            let client = said.parse::<SocketAddr>().map(|client| client.ip()).or_else(|_| said.parse());
            if let (Some(rtt), Ok(client)) = (record.data.rtt_us, client) {
                self.distances.note(client, &beat.peer, rtt);
            }
        }
        let was = peer.is_live(now);
        peer.led = [0, peer.led[0]];
        peer.beaten = Some(now);
        let Beat { records, checked, warmed, .. } = beat;
        peer.beat = Beat { records: Vec::new(), checked: Vec::new(), warmed: Vec::new(), ..beat };
        let (is, candidate) = (peer.is_live(now), peer.candidate());
        if was != is || is && !self.eligible.update(&peer.beat.peer, candidate) {
            self.eligible.spoil();
        }
        Some(Said { records, checked, warmed })
    }

    /// Of records that begin with this number, how many have arrived before: what is said again after a lost answer counts once.
    pub(crate) fn arrived(&mut self, name: &str, first: u64, count: usize) -> usize {
        let Some(peer) = self.peers.get_mut(name) else { return 0 };
        let before = peer.collected.saturating_sub(first);
        peer.collected = peer.collected.max(first.saturating_add(u64::try_from(count).unwrap_or(u64::MAX)));
        usize::try_from(before).unwrap_or(usize::MAX).min(count)
    }

    /// Forgets peers that have been silent for long; they join anew.
    pub(crate) fn forget(&mut self, now: Instant) {
        let before = self.peers.len();
        self.peers.retain(|_, peer| {
            let heard = peer.beaten.unwrap_or(peer.joined);
            now.saturating_duration_since(heard) < FORGOTTEN
        });
        if self.peers.len() < before {
            self.eligible.spoil();
        }
    }

    /// Peers to be dialled from here now: name, place and session.
    pub(crate) fn to_dial(&self, now: Instant) -> Vec<(String, Place, Secret)> {
        let due = |peer: &&Peer| match &peer.own {
            Verified::Never => true,
            Verified::Passed(at) => now.saturating_duration_since(*at) >= AGAIN,
            Verified::Failed { at, times, .. } => now.saturating_duration_since(*at) >= pause(*times),
        };
        let due = self.peers.iter().filter(|(_, peer)| peer.ejected.is_none() && peer.is_heard(now) && due(peer));
        due.map(|(name, peer)| (name.clone(), peer.url.clone(), peer.session)).collect()
    }

    /// What dialling a peer from here brought: the round trip, or what went wrong. True if it had stood better before.
    pub(crate) fn dialled(&mut self, now: Instant, name: &str, came: Result<Duration, String>) -> bool {
        let another = self.has_other(now, name);
        let Some(peer) = self.peers.get_mut(name) else { return false };
        self.eligible.spoil();
        let was = peer.through;
        match came {
            Ok(rtt) => {
                peer.own = Verified::Passed(now);
                peer.rtt = Some(peer.rtt.map_or(rtt, |least| least.min(rtt)));
                let found = matches!(peer.other, Verified::Passed(_));
                let refused = matches!(peer.other, Verified::Failed { .. });
                peer.through = peer.through || found || (!another && !refused);
            }
            Err(why) => {
                peer.own = peer.own.failed(now, why);
                // Once may be a hiccup of a peer that beats; never at the first dial.
                peer.through = peer.through && peer.own.times() < 2;
            }
        }
        was && !peer.through
    }

    /// Peers that this one is to dial, at most [`CHECKS`].
    pub(crate) fn ask_checks(&mut self, now: Instant, by: &str) -> Vec<Check> {
        if !self.peers.get(by).is_some_and(|peer| peer.standing(now) == Standing::Live) {
            return Vec::new();
        }
        let mut checks = Vec::new();
        for (name, peer) in self.peers.iter_mut().filter(|(name, _)| *name != by) {
            let asked = peer.asked.as_ref().is_some_and(|(_, _, at)| now.saturating_duration_since(*at) < ASKED);
            let due = match &peer.other {
                Verified::Never => true,
                Verified::Passed(at) => now.saturating_duration_since(*at) >= AGAIN_OTHER,
                Verified::Failed { at, times, .. } => now.saturating_duration_since(*at) >= pause(*times),
            };
            if asked || !due || peer.ejected.is_some() || !matches!(peer.own, Verified::Passed(_)) {
                continue;
            }
            let nonce = nonce();
            peer.asked = Some((nonce.clone(), by.to_owned(), now));
            checks.push(Check { peer: name.clone(), url: peer.url.to_string(), nonce });
            if checks.len() >= CHECKS {
                break;
            }
        }
        checks
    }

    /// What another peer found. Why the peer stands worse than before, if it does.
    pub(crate) fn checked(&mut self, now: Instant, by: &str, came: &Checked) -> Option<String> {
        let peer = self.peers.get_mut(&came.peer)?;
        let (nonce, asked, _) = peer.asked.as_ref()?;
        if *nonce != came.nonce || asked != by {
            return None;
        }
        let proved = hello_proves(&peer.session, &came.proof, nonce, &peer.url.to_string());
        peer.asked = None;
        self.eligible.spoil();
        if proved {
            peer.other = Verified::Passed(now);
            peer.through = peer.through || matches!(peer.own, Verified::Passed(_));
            return None;
        }
        let error: String = came.error.chars().take(200).collect();
        let why = if error.is_empty() { "another machine answers there".to_owned() } else { crate::out::plain(&error) };
        peer.other = peer.other.failed(now, format!("peer {by} does not find it: {why}"));
        // One peer's word against a peer that was found before: it takes a second time.
        let worse = peer.through && peer.other.times() >= 2;
        peer.through = peer.through && !worse;
        worse.then_some(why)
    }

    /// A client says that a peer failed it: it is dialled at once.
    pub(crate) fn complain(&mut self, said: &str) {
        for (_, peer) in self.peers.iter_mut().filter(|(name, peer)| is_meant(name, &peer.url, said)) {
            if let Verified::Passed(_) = peer.own {
                peer.own = Verified::Never;
            }
        }
    }

    /// Whether a text names a peer here, by its name or by host and port.
    pub(crate) fn names(&self, said: &str) -> bool {
        self.peers.iter().any(|(name, peer)| is_meant(name, &peer.url, said))
    }

    /// The best three for a wish, and counts the client as led to the first. Empty: nobody may be led to.
    pub(crate) fn lead(&mut self, now: Instant, wish: &Wish<'_>) -> Vec<Choice> {
        let choices = self.pick(now, wish, choose::best);
        if let Some(peer) = choices.first().and_then(|first| self.peers.get_mut(&first.name)) {
            peer.led[0] += 1;
            self.eligible.update(&peer.beat.peer, peer.candidate());
        }
        choices
    }

    /// All for a wish, best first.
    pub(crate) fn explain(&mut self, now: Instant, wish: &Wish<'_>) -> Vec<Choice> {
        self.pick(now, wish, choose::rank)
    }

    fn pick(&mut self, now: Instant, wish: &Wish<'_>, by: fn(u64, &[Candidate]) -> Vec<Ranked>) -> Vec<Choice> {
        if !self.eligible.is_good(now) {
            let until = self.peers.values().filter_map(|peer| peer.changes(now)).min();
            let live = self.peers.iter().filter(|(_, peer)| peer.is_live(now));
            let live = live.map(|(name, peer)| (name, &peer.url, peer.candidate()));
            self.eligible.draw_up(live, until.unwrap_or(now + LATE));
        }
        self.eligible.pick(wish, &self.distances, by)
    }

    /// The best peers for a file whatever their load, at most so many: where it is to be put before a storm.
    pub(crate) fn homes(&mut self, now: Instant, file: &str, most: usize) -> Vec<(String, Place)> {
        let nobody = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let wish = Wish { file, client: nobody, not: &[], secure: false };
        let mut all = self.explain(now, &wish);
        all.sort_by(|a, b| b.ranked.score.total_cmp(&a.ranked.score));
        all.into_iter().take(most).map(|choice| (choice.name, choice.url)).collect()
    }

    /// Asks a peer to leave well. False if it is not here.
    pub(crate) fn drain(&mut self, name: &str) -> bool {
        self.eligible.spoil();
        self.peers.get_mut(name).map(|peer| peer.drain = true).is_some()
    }

    /// Asks a peer to stop at once. False if it is not here.
    pub(crate) fn stop(&mut self, name: &str) -> bool {
        self.eligible.spoil();
        self.peers.get_mut(name).map(|peer| (peer.drain, peer.stop) = (true, true)).is_some()
    }

    /// Whether a peer is to leave, and whether at once.
    pub(crate) fn is_to_leave(&self, name: &str) -> (bool, bool) {
        self.peers.get(name).map_or((false, false), |peer| (peer.drain, peer.stop))
    }

    /// Nobody is led to this peer any more. False if it is not here.
    pub(crate) fn eject(&mut self, name: &str, why: &str) -> bool {
        self.eligible.spoil();
        self.peers.get_mut(name).map(|peer| peer.ejected = Some(why.to_owned())).is_some()
    }

    /// How a peer stands, in words.
    pub(crate) fn standing(&self, now: Instant, name: &str) -> Option<Standing> {
        self.peers.get(name).map(|peer| peer.standing(now))
    }

    /// Peers that take clients now: names and places.
    pub(crate) fn live(&self, now: Instant) -> Vec<(String, Place)> {
        let live = self.peers.iter().filter(|(_, peer)| peer.is_live(now));
        live.map(|(name, peer)| (name.clone(), peer.url.clone())).collect()
    }

    /// All peers as the page shows them.
    pub(crate) fn views(&self, now: Instant) -> Vec<View> {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let view = |(name, peer): (&String, &Peer)| View {
            name: name.clone(),
            url: peer.url.to_string(),
            live: peer.is_live(now),
            standing: peer.standing(now).to_string(),
            in_flight: peer.beat.in_flight,
            sent: peer.beat.sent,
            origin_bytes: peer.beat.origin_bytes,
            copies: peer.beat.copies,
            rate: peer.beat.rate,
            quota_left: peer.beat.quota_left,
            weight: peer.wish(),
            version: peer.beat.version.clone(),
            rtt_us: peer.rtt.map(micros),
            seconds: now.saturating_duration_since(peer.joined).as_secs(),
            dropped_records: peer.beat.dropped_records,
            downloads: peer.beat.downloads.clone(),
        };
        self.peers.iter().map(view).collect()
    }

    fn has_other(&self, now: Instant, name: &str) -> bool {
        self.peers.iter().any(|(other, peer)| other != name && peer.is_live(now))
    }
}

impl Peer {
    fn standing(&self, now: Instant) -> Standing {
        let waits = |why: &str| Standing::Waits(why.to_owned());
        if let Some(why) = &self.ejected {
            return Standing::Ejected(why.clone());
        }
        let Some(beaten) = self.beaten else { return waits("it has not said yet how it is") };
        if now.saturating_duration_since(beaten) >= LATE {
            let silent = now.saturating_duration_since(beaten).as_millis();
            return Standing::Waits(format!("it has said nothing for {silent} ms"));
        }
        if self.beat.draining || self.drain {
            return waits("it is leaving");
        }
        if self.beat.quota_left == Some(0) {
            return waits("its quota is spent");
        }
        if !self.through {
            return match (&self.own, &self.other) {
                (Verified::Failed { why, .. }, _) => Standing::Waits(format!("it is not at its address: {why}")),
                (_, Verified::Failed { why, .. }) => Standing::Waits(why.clone()),
                (Verified::Never, _) => waits("its address is being dialled from here"),
                (Verified::Passed(_), _) => waits("its address is being dialled from another peer"),
            };
        }
        if self.beat.neighbours == 0 && now.saturating_duration_since(self.joined) < ALONE {
            return waits("it has not found the others' network yet");
        }
        Standing::Live
    }

    /// Whether it has said something lately.
    fn is_heard(&self, now: Instant) -> bool {
        self.beaten.is_some_and(|beaten| now.saturating_duration_since(beaten) < LATE)
    }

    /// When it will stand otherwise if nothing is heard of it, the ejected and the silent excepted.
    fn changes(&self, now: Instant) -> Option<Instant> {
        let late = self.beaten.filter(|_| self.is_heard(now))? + LATE;
        let alone = self.joined + ALONE;
        Some(if self.beat.neighbours == 0 && now < alone { late.min(alone) } else { late })
    }

    /// The same as [`Self::standing`] says, without words.
    fn is_live(&self, now: Instant) -> bool {
        self.ejected.is_none()
            && self.through
            && !self.beat.draining
            && !self.drain
            && self.beat.quota_left != Some(0)
            && self.is_heard(now)
            && (self.beat.neighbours > 0 || now.saturating_duration_since(self.joined) >= ALONE)
    }

    fn wish(&self) -> u16 {
        self.beat.weight.unwrap_or(100)
    }

    fn load(&self) -> u64 {
        self.beat.in_flight + self.led.iter().sum::<u64>()
    }

    /// Its place in the caller's list is the caller's to say.
    fn candidate(&self) -> Candidate {
        let lent = Lent { rate: self.beat.rate, wish: self.wish(), quota_left: self.beat.quota_left };
        Candidate { index: 0, seed: self.seed, weight: lent.weight(), load: self.load(), rtt_us: None }
    }
}

impl Verified {
    fn failed(&self, at: Instant, why: String) -> Self {
        Self::Failed { at, why, times: self.times() + 1 }
    }

    const fn times(&self) -> u32 {
        match self {
            Self::Never | Self::Passed(_) => 0,
            Self::Failed { times, .. } => *times,
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Live => f.write_str("takes clients"),
            Self::Waits(why) => f.write_str(why),
            Self::Ejected(why) => write!(f, "ejected: {why}"),
        }
    }
}

/// Pause before a peer that was not found is dialled again.
fn pause(times: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(times.min(8).saturating_sub(1))).min(LONGEST_PAUSE)
}

/// Without a beat for this long a peer gets nobody: three beats. Shorter loses peers to a busy machine, longer leads clients to
/// the hung; 2 s are promised. `[issue]`
const LATE: Duration = Duration::from_millis(1_500);

/// Without a beat for this long a peer is forgotten and joins anew. `[guess]`
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Between two dials from here of a peer that was found. `[guess]`
const AGAIN: Duration = Duration::from_secs(5);

/// Between two dials from other peers. `[guess]`
const AGAIN_OTHER: Duration = Duration::from_secs(60);

/// An answer to a check is waited for so long; then somebody else is asked.
const ASKED: Duration = Duration::from_secs(5);

/// After a first failed dial; doubled with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A peer that finds none of the network is used all the same after so long: it serves, though it asks the origin itself. `[guess]`
const ALONE: Duration = Duration::from_secs(20);

/// Peers at once. `[guess]`
const PEERS: usize = 16_384;

/// Checks asked of one peer at a time.
const CHECKS: usize = 4;

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
