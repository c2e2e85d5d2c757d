//! Who may have how much: bytes and requests of this node, of one site and of one client's prefix, by the second, the hour, the day
//! and the month [Coral C.6].
//!
//! | share used | what becomes of it |
//! |---|---|
//! | under `lean` | nothing |
//! | up to `hibernate` | of the node's own: DNS names it less, in proportion |
//! | up to all | what is stored is served, nothing is fetched; a node leaves DNS, so that it is idle before its cap |
//! | all | 503 with Retry-After, or a redirect to the origin where it allows that |
//!
//! What was used survives a restart. Where no limit is set nothing is counted.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use atoll_units::size;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    quota::{Caps, Quota, Used},
    rate::Bucket,
};

/// Shares of what the node may give.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FairnessConfig {
    /// What the node gives in all, to clients and peers.
    pub node: Share,
    /// What one site's visitors get in all.
    pub site: Share,
    /// What one client's network gets: an IPv4 /24 or an IPv6 /48.
    pub client: Share,
    /// Percent of the node's share from which on DNS names it less. Less: traffic moves away early, more: late and at once. \[guess\]
    pub lean: u8,
    /// Percent of a share from which on nothing is fetched that is not stored, and a node leaves DNS: what is left serves those who
    /// still have its address. Less: more of the share stays unused, more: the cap is met with clients. \[guess\]
    pub hibernate: u8,
    /// Sites, and prefixes, whose use is known; of more those that used least are forgotten. \[guess\]
    pub tracked: usize,
    /// Bytes an hour that origins may be asked for on account of one client's network beyond what it takes itself: a byte out of a
    /// slice costs a whole one. Past it ranges that are not stored are refused. Zero: no limit. Less: players that seek much are
    /// turned away, more: who means harm has others' origins send more for nothing. \[bad-inputs G01\] \[guess\]
    #[serde(deserialize_with = "size::deserialize")]
    pub unearned: u64,
}

impl Default for FairnessConfig {
    fn default() -> Self {
        Self {
            node: Share::default(),
            site: Share::default(),
            client: Share::default(),
            lean: 80,
            hibernate: 95,
            tracked: 16_384,
            unearned: 4 << 30,
        }
    }
}

/// Limits of one node, site or prefix; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    /// Bytes of bodies a second; what is over waits. Less: slower downloads. \[design 4\]
    #[serde(with = "size")]
    pub rate: u64,
    /// Requests a second, with a burst of two seconds' worth; what is over gets 503. \[design 4\]
    pub requests: u64,
    /// Bytes an hour. \[Coral C.6\]
    #[serde(with = "size")]
    pub hourly: u64,
    /// Bytes a day. \[Coral C.6\]
    #[serde(with = "size")]
    pub daily: u64,
    /// Bytes a month. \[users U6\]
    #[serde(with = "size")]
    pub monthly: u64,
    /// Requests an hour. \[design 4\]
    pub hourly_requests: u64,
    /// Requests a day. \[design 4\]
    pub daily_requests: u64,
    /// Requests a month. \[design 4\]
    pub monthly_requests: u64,
}

impl Share {
    fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// How a node stands to its own share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Percent of its weight at which it wants to be named in DNS: 100 until much is used, 0 when it hibernates.
    pub weight: u8,
    /// Bytes it may still send before its nearest cap; 0 when it hibernates; none without a limit.
    pub quota_left: Option<u64>,
}

/// What may be done for somebody now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leave {
    /// Everything.
    All,
    /// What is stored may be sent.
    Stored(Duration),
    /// Nothing for so long.
    Nothing(Duration),
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Fairness {
    config: FairnessConfig,
    node: Option<Arc<Account>>,
    sites: Option<Ledger<String>>,
    clients: Option<Ledger<IpAddr>>,
    /// What was fetched for clients and not taken by them.
    unearned: Option<Ledger<IpAddr>>,
}

impl Fairness {
    pub(crate) fn new(config: &FairnessConfig) -> Self {
        Self {
            config: config.clone(),
            node: (!config.node.is_unlimited()).then(|| Arc::new(Account::new(&config.node, Kept::default()))),
            sites: Ledger::of(config.site, config.tracked),
            clients: Ledger::of(config.client, config.tracked),
            unearned: Ledger::of(Share { hourly: config.unearned, ..Share::default() }, config.tracked),
        }
    }

    /// Whether anything is limited at all.
    pub(crate) const fn is_limited(&self) -> bool {
        self.node.is_some() || self.sites.is_some() || self.clients.is_some()
    }

    /// The node's use and caps of bytes, by span: for the exporter.
    pub(crate) fn node_spans(&self) -> Vec<(&'static str, u64, u64)> {
        self.node.as_ref().map(|node| node.used().bytes.capped(unix_now())).unwrap_or_default()
    }

    /// The accounts that an answer of this site to this client is charged to; none where nothing is limited.
    pub(crate) fn open(&self, site: (&str, u16), client: Option<IpAddr>) -> Option<Tab> {
        let site = self.sites.as_ref().map(|sites| sites.account(&format!("{}:{}", site.0, site.1)));
        let client = self.clients.as_ref().zip(client).map(|(clients, client)| clients.account(&prefix(client)));
        self.tab([self.node.clone(), site, client])
    }

    /// The account of what is fetched for this client and not taken by it.
    pub(crate) fn open_unearned(&self, client: Option<IpAddr>) -> Option<Tab> {
        let account = self.unearned.as_ref().zip(client).map(|(all, client)| all.account(&prefix(client)));
        self.tab([account, None, None])
    }

    /// The account that a copy for a peer is charged to.
    pub(crate) fn open_peer(&self) -> Option<Tab> {
        self.tab([self.node.clone(), None, None])
    }

    fn tab(&self, accounts: [Option<Arc<Account>>; 3]) -> Option<Tab> {
        let accounts: Vec<_> = accounts.into_iter().flatten().collect();
        let hibernate = u64::from(self.config.hibernate);
        (!accounts.is_empty()).then(|| Tab { accounts: accounts.into(), hibernate })
    }

    /// How the node stands to its share.
    pub(crate) fn standing(&self) -> Standing {
        let Some(node) = &self.node else { return Standing { weight: 100, quota_left: None } };
        let now = unix_now();
        let (percent, left) = {
            let mut used = node.used();
            (used.bytes.percent(now).max(used.requests.percent(now)), used.bytes.left(now))
        };
        let (lean, hibernate) = (u64::from(self.config.lean), u64::from(self.config.hibernate));
        if percent >= hibernate {
            return Standing { weight: 0, quota_left: Some(0) };
        }
        let weight =
            if percent < lean { 100 } else { (100 * (hibernate - percent) / (hibernate - lean).max(1)).max(1) };
        Standing { weight: u8::try_from(weight).unwrap_or(100), quota_left: left }
    }

    /// What was used, as bytes for the next start; none where nothing is limited.
    pub(crate) fn save(&self) -> Option<Bytes> {
        let saved = Saved {
            node: self.node.as_ref().map(|node| node.kept()),
            sites: self.sites.as_ref().map(Ledger::kept).unwrap_or_default(),
            clients: self.clients.as_ref().map(Ledger::kept).unwrap_or_default(),
        };
        self.is_limited().then(|| serde_json::to_vec(&saved).unwrap_or_default().into())
    }

    /// Goes on from what was used in an earlier run; false if the bytes are none of ours.
    pub(crate) fn restore(&self, bytes: &[u8]) -> bool {
        let Ok(saved) = serde_json::from_slice::<Saved>(bytes) else { return false };
        if let Some((node, kept)) = self.node.as_ref().zip(saved.node) {
            *node.used() = node.quotas(kept);
        }
        if let Some(sites) = &self.sites {
            sites.restore(saved.sites);
        }
        if let Some(clients) = &self.clients {
            clients.restore(saved.clients);
        }
        true
    }
}

/// What one answer is charged to.
#[derive(Debug, Clone)]
pub(crate) struct Tab {
    accounts: Arc<[Arc<Account>]>,
    hibernate: u64,
}

impl Tab {
    /// Counts a request and says what may be done for it.
    pub(crate) fn admit(&self) -> Leave {
        let (now, unix) = (Instant::now(), unix_now());
        let leaves = self.accounts.iter().map(|account| account.admit(now, unix, self.hibernate));
        leaves.max().unwrap_or(Leave::All)
    }

    /// What may be done without a request of its own, as for a peer.
    pub(crate) fn leave(&self) -> Leave {
        let unix = unix_now();
        self.accounts.iter().map(|account| account.leave(unix, self.hibernate)).max().unwrap_or(Leave::All)
    }

    /// Counts bytes that are about to be sent; how long to wait before they are.
    pub(crate) fn charge(&self, bytes: usize) -> Duration {
        let (now, unix) = (Instant::now(), unix_now());
        self.accounts.iter().map(|account| account.charge(now, unix, bytes)).max().unwrap_or_default()
    }
}

/// One node's, site's or prefix's use.
#[derive(Debug)]
struct Account {
    share: Share,
    rate: Option<Bucket>,
    requests: Option<Bucket>,
    used: Mutex<Quotas>,
}

#[derive(Debug)]
struct Quotas {
    bytes: Quota,
    requests: Quota,
}

/// What survives a restart of one account.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    bytes: Used,
    requests: Used,
}

impl Account {
    fn new(share: &Share, kept: Kept) -> Self {
        let now = Instant::now();
        let quotas = Quotas {
            bytes: Quota::new(Caps::default(), kept.bytes),
            requests: Quota::new(Caps::default(), kept.requests),
        };
        let account = Self {
            share: *share,
            rate: (share.rate > 0).then(|| Bucket::new(share.rate, now)),
            requests: (share.requests > 0).then(|| Bucket::with_burst(share.requests, BURST, now)),
            used: Mutex::new(quotas),
        };
        *account.used() = account.quotas(kept);
        account
    }

    fn quotas(&self, kept: Kept) -> Quotas {
        let cap = |limit: u64| (limit > 0).then_some(limit);
        let share = &self.share;
        let bytes = Caps { hourly: cap(share.hourly), daily: cap(share.daily), monthly: cap(share.monthly) };
        let requests = Caps {
            hourly: cap(share.hourly_requests),
            daily: cap(share.daily_requests),
            monthly: cap(share.monthly_requests),
        };
        Quotas { bytes: Quota::new(bytes, kept.bytes), requests: Quota::new(requests, kept.requests) }
    }

    fn admit(&self, now: Instant, unix: u64, hibernate: u64) -> Leave {
        let leave = self.leave(unix, hibernate);
        if matches!(leave, Leave::Nothing(_)) {
            return leave;
        }
        if self.requests.as_ref().is_some_and(|bucket| !bucket.try_take(now)) {
            return Leave::Nothing(Duration::from_secs(1));
        }
        self.used().requests.count(unix, 1);
        leave
    }

    fn leave(&self, unix: u64, hibernate: u64) -> Leave {
        let mut used = self.used();
        let percent = used.bytes.percent(unix).max(used.requests.percent(unix));
        if percent >= 100 {
            return Leave::Nothing(Duration::from_secs(used.bytes.again_in(unix).max(used.requests.again_in(unix))));
        }
        // What is fetched again in an hour is asked for again in an hour: nobody knows when a share is used less.
        if percent >= hibernate { Leave::Stored(Duration::from_secs(AGAIN)) } else { Leave::All }
    }

    fn charge(&self, now: Instant, unix: u64, bytes: usize) -> Duration {
        self.used().bytes.count(unix, u64::try_from(bytes).unwrap_or(u64::MAX));
        self.rate.as_ref().map_or(Duration::ZERO, |bucket| bucket.take(now, bytes))
    }

    fn used(&self) -> MutexGuard<'_, Quotas> {
        lock(&self.used)
    }

    fn kept(&self) -> Kept {
        let used = self.used();
        Kept { bytes: used.bytes.used(), requests: used.requests.used() }
    }
}

/// The accounts of all sites, or of all prefixes.
#[derive(Debug)]
struct Ledger<K> {
    share: Share,
    most: usize,
    accounts: Mutex<HashMap<K, Arc<Account>>>,
}

impl<K: Hash + Eq + Clone> Ledger<K> {
    fn of(share: Share, most: usize) -> Option<Self> {
        (!share.is_unlimited()).then(|| Self { share, most: most.max(2), accounts: Mutex::default() })
    }

    fn account(&self, key: &K) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(key) {
            return Arc::clone(account);
        }
        if accounts.len() >= self.most {
            Self::forget_half(&mut accounts);
        }
        let account = Arc::new(Account::new(&self.share, Kept::default()));
        accounts.insert(key.clone(), Arc::clone(&account));
        account
    }

    /// Makes room: those that used least are let go, so that nobody is forgotten by being named among many.
    fn forget_half(accounts: &mut HashMap<K, Arc<Account>>) {
        let unix = unix_now();
        let percent = |account: &Account| {
            let mut used = account.used();
            used.bytes.percent(unix).max(used.requests.percent(unix))
        };
        let mut all: Vec<_> = accounts.iter().map(|(key, account)| (percent(account), key.clone())).collect();
        let half = all.len() / 2;
        all.select_nth_unstable_by_key(half, |(percent, _)| *percent);
        all.truncate(half.max(1));
        for (_, key) in all {
            accounts.remove(&key);
        }
    }

    fn kept(&self) -> Vec<(K, Kept)> {
        lock(&self.accounts).iter().map(|(key, account)| (key.clone(), account.kept())).collect()
    }

    fn restore(&self, kept: Vec<(K, Kept)>) {
        let mut accounts = lock(&self.accounts);
        for (key, kept) in kept.into_iter().take(self.most) {
            accounts.insert(key, Arc::new(Account::new(&self.share, kept)));
        }
    }
}

/// What survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    node: Option<Kept>,
    sites: Vec<(String, Kept)>,
    clients: Vec<(IpAddr, Kept)>,
}

/// The network that a client is counted with: /24, /48.
fn prefix(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4([a, b, c, 0].into())
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6([a, b, c, 0, 0, 0, 0, 0].into())
        }
    }
}

fn unix_now() -> u64 {
    seconds_of(clock::now())
}

fn seconds_of(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds' worth of requests that may come at once: a page with its pictures.
const BURST: f64 = 2.0;

/// Seconds after which a client is told to come again for what is not stored.
const AGAIN: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(share: Share) -> Fairness {
        Fairness::new(&FairnessConfig { node: share, ..FairnessConfig::default() })
    }

    #[test]
    fn a_node_stands_back_sleeps_and_stops_as_its_share_is_used() {
        let fairness = node(Share { monthly: 1_000, ..Share::default() });
        let tab = fairness.open(("a.test", 80), None).unwrap();
        let mut seen = Vec::new();
        for bytes in [700, 100, 90, 70, 50] {
            tab.charge(bytes);
            seen.push((
                fairness.standing(),
                matches!(tab.admit(), Leave::All),
                matches!(tab.admit(), Leave::Nothing(_)),
            ));
        }
        let standing = |weight, left| Standing { weight, quota_left: Some(left) };
        assert_eq!(
            seen,
            [
                (standing(100, 300), true, false),
                (standing(100, 200), true, false),
                (standing(40, 110), true, false),
                (standing(0, 0), false, false),
                (standing(0, 0), false, true),
            ]
        );
    }

    #[test]
    fn what_is_not_limited_is_not_counted() {
        let fairness = Fairness::new(&FairnessConfig::default());
        assert!(fairness.open(("a.test", 80), Some([192, 0, 2, 1].into())).is_none());
        assert_eq!(fairness.standing(), Standing { weight: 100, quota_left: None });
        assert!(fairness.save().is_none());
    }

    #[test]
    fn a_prefix_and_a_site_have_shares_of_their_own_that_outlive_a_restart() {
        let share = Share { hourly: 100, requests: 1, ..Share::default() };
        let config =
            FairnessConfig { client: share, site: Share { daily: 1_000, ..share }, ..FairnessConfig::default() };
        let open =
            |fairness: &Fairness, site: &str, client: [u8; 4]| fairness.open((site, 80), Some(client.into())).unwrap();
        let fairness = Fairness::new(&config);
        open(&fairness, "a.test", [192, 0, 2, 1]).charge(100);
        let again = Fairness::new(&config);
        assert!(again.restore(&fairness.save().unwrap()));
        assert!(!again.restore(b"nonsense"));
        for fairness in [&fairness, &again] {
            assert!(
                matches!(open(fairness, "b.test", [192, 0, 2, 250]).leave(), Leave::Nothing(wait) if wait.as_secs() <= 3_600)
            );
            assert!(matches!(open(fairness, "a.test", [198, 51, 100, 1]).leave(), Leave::Nothing(_)));
            let other = open(fairness, "b.test", [198, 51, 100, 1]);
            let admitted: Vec<_> = (0..3).map(|_| other.admit()).collect();
            assert_eq!(admitted, [Leave::All, Leave::All, Leave::Nothing(Duration::from_secs(1))]);
        }
    }

    #[test]
    fn of_too_many_those_that_used_least_are_forgotten() {
        let config =
            FairnessConfig { site: Share { daily: 100, ..Share::default() }, tracked: 8, ..FairnessConfig::default() };
        let fairness = Fairness::new(&config);
        fairness.open(("heavy.test", 80), None).unwrap().charge(99);
        for number in 0..1_000 {
            fairness.open((&format!("{number}.test"), 80), None).unwrap().charge(1);
        }
        assert!(lock(&fairness.sites.as_ref().unwrap().accounts).len() <= 8);
        assert!(matches!(fairness.open(("heavy.test", 80), None).unwrap().leave(), Leave::Stored(_)));
    }
}
