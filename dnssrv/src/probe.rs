//! Measuring the RTT to a resolver: a TCP connect to its port 53, whose refusal measures as well, and an ICMP echo where this
//! process may open a ping socket. Rate-limited per prefix and in all, jittered, never in the way of an answer.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use atoll_overlay::Prefix;
use rand::RngExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Source,
    hints::Pace,
    redirector::{Errand, Probe, Quest, Redirector},
};

/// Probes until nobody can ask any more.
pub(crate) async fn run(redirector: Arc<Redirector>, mut wishes: mpsc::Receiver<Probe>) {
    let config = redirector.config.probe.clone();
    let pace = Arc::new(Mutex::new(Pace::new(Instant::now(), config.per_second)));
    let mut recent = Recent::new(redirector.config.limits.prefixes.max(1));
    // At the given rate, and with the few looks that follow each first one, no more than this many can be under way at once.
    let mut probes = JoinSet::new();
    let under_way = Arc::new(UnderWay::default());
    while let Some(Probe { address, search }) = wishes.recv().await {
        let prefix = Prefix::of(address);
        while probes.try_join_next().is_some() {}
        let now = Instant::now();
        let jitter = rand::rng().random_range(0.0..0.5);
        if !recent.may(now, prefix, config.interval.mul_f64(1.0 + jitter)) {
            // It may have been measured for another server, which looks for itself alone.
            if search && !under_way.search_too(prefix) {
                redirector.send_scouts(now, Quest { address, resolver: prefix, first: true });
            }
            // Several questions, and other servers', may wait for the one that is under way, or for scouts.
            if !under_way.has(prefix) && !redirector.clients().is_scouted(prefix) {
                redirector.waiters().release(prefix);
            }
            continue;
        }
        under_way.begins(prefix, search);
        let turn = locked(&pace).next(now);
        if !turn.is_zero() {
            tokio::time::sleep(turn).await;
        }
        if search && redirector.config.probe.sends_scouts() && redirector.may_scout(address) {
            // Others look while this server does; without room for that it is found out a little later.
            redirector.errand(Errand::Ahead(address));
        }
        let (redirector, under_way, pace) = (Arc::clone(&redirector), Arc::clone(&under_way), Arc::clone(&pace));
        probes.spawn(async move { probe(&redirector, &under_way, &pace, Probe { address, search }).await });
    }
}

fn locked(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prefixes whose first measurement is not there yet, and whether scouts are to go there once it is.
#[derive(Debug, Default)]
struct UnderWay(Mutex<BTreeMap<Prefix, bool>>);

impl UnderWay {
    fn begins(&self, prefix: Prefix, search: bool) {
        self.prefixes().insert(prefix, search);
    }

    /// Scouts are to go there, whoever wished for the measurement first. False if it is not under way.
    fn search_too(&self, prefix: Prefix) -> bool {
        self.prefixes().get_mut(&prefix).map(|search| *search = true).is_some()
    }

    /// Whether scouts are to go there.
    fn ends(&self, prefix: Prefix) -> bool {
        self.prefixes().remove(&prefix).unwrap_or(false)
    }

    fn has(&self, prefix: Prefix) -> bool {
        self.prefixes().contains_key(&prefix)
    }

    fn prefixes(&self) -> MutexGuard<'_, BTreeMap<Prefix, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures an address, and again a few times, as far as the rate allows.
async fn probe(redirector: &Redirector, under_way: &UnderWay, pace: &Mutex<Pace>, wish: Probe) {
    let Probe { address, search } = wish;
    let sources = &redirector.config.sources;
    let limit = redirector.config.probe.timeout;
    let port = SocketAddr::new(address, redirector.config.probe.port);
    let connected = measure(sources.tcp_connect, limit, connect(port));
    let echoed = measure(sources.icmp, limit, async { echo(address).await.ok() });
    tokio::pin!(connected, echoed);
    // The first to come back is enough to go on; the other may take until the time-out.
    let first = tokio::select! {
        rtt = &mut connected => (Source::TcpConnect, rtt),
        rtt = &mut echoed => (Source::Icmp, rtt),
    };
    let second = async {
        match first.0 {
            Source::TcpConnect => (Source::Icmp, echoed.await),
            _ => (Source::TcpConnect, connected.await),
        }
    };
    let prefix = Prefix::of(address);
    let note = |(source, rtt): (Source, Option<Duration>)| {
        if let Some(rtt) = rtt {
            redirector.measured(Instant::now(), prefix, source, rtt);
        }
    };
    note(first);
    let mut second = std::pin::pin!(second);
    // What is off, or not permitted, is back at once with nothing: then it is the other that measures.
    let mut measuring = first.0;
    if first.1.is_none() {
        let other = second.as_mut().await;
        measuring = other.0;
        note(other);
    }
    let search = under_way.ends(prefix) || search;
    redirector.probed(address, search);
    if first.1.is_some() {
        note(second.await);
    }
    let again = async || {
        if !locked(pace).spare(Instant::now()) {
            return;
        }
        let rtt = match measuring {
            Source::TcpConnect => measure(sources.tcp_connect, limit, connect(port)).await,
            _ => measure(sources.icmp, limit, async { echo(address).await.ok() }).await,
        };
        note((measuring, rtt));
    };
    let level = || redirector.own(Instant::now(), prefix);
    // One that a busy moment held up says too much: the least of a few counts, of some more where little decides the level.
    for time in 1..MOST_TIMES {
        if time >= TIMES && !level().1.is_some_and(|rtt| is_just_over(rtt, &redirector.config.thresholds)) {
            break;
        }
        tokio::time::sleep(about(APART)).await;
        again().await;
    }
    // The moment at which a prefix turns up may be busy for seconds: all who are to know of it measure it then.
    for pause in &redirector.config.probe.later {
        let (before, rtt) = level();
        if before == redirector.zone().innermost() || rtt.is_none_or(|rtt| rtt > FAR) {
            break;
        }
        tokio::time::sleep(about(*pause)).await;
        again().await;
        if level().0 > before {
            redirector.came_nearer(prefix);
        }
    }
}

/// Half as long to half as long again.
fn about(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.5..1.5))
}

/// Whether an RTT is over a level's threshold by so little that a quieter moment might bring it under.
fn is_just_over(rtt: Duration, thresholds: &[Duration]) -> bool {
    thresholds.iter().any(|threshold| (*threshold..threshold.mul_f64(JUST_OVER)).contains(&rtt))
}

/// What a measurement yields in time, if it is switched on.
async fn measure(on: bool, limit: Duration, rtt: impl Future<Output = Option<Duration>>) -> Option<Duration> {
    if on { timeout(limit, rtt).await.ok().flatten() } else { None }
}

/// The time until a connect is taken or refused. None if it is neither. Of one that is taken the system knows the handshake's
/// own time, to which no busy moment of this process adds.
async fn connect(to: SocketAddr) -> Option<Duration> {
    let began = Instant::now();
    match TcpStream::connect(to).await {
        Ok(stream) => {
            let (seen, measured) = (began.elapsed(), atoll_sys::tcp::round_trip(&stream));
            Some(measured.ok().flatten().map_or(seen, |handshake| handshake.smoothed.min(seen)))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(began.elapsed()),
        Err(_) => None,
    }
}

/// The time until an ICMP echo is back, over an unprivileged ping socket.
async fn echo(to: IpAddr) -> io::Result<Duration> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(SocketAddr::new(to, 0)).await?;
    // Type, code, checksum and id (both the kernel's to fill), sequence, and a word to know the answer by.
    let word: [u8; 8] = rand::rng().random();
    let message = [&[request, 0, 0, 0, 0, 0, 0, 1][..], &word].concat();
    let began = Instant::now();
    socket.send(&message).await?;
    let mut buffer = [0; 64];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let got = buffer.get(..length).unwrap_or_default();
        if got.first() == Some(&reply) && got.ends_with(&word) {
            return Ok(began.elapsed());
        }
    }
}

/// Times an address is measured. \[guess\]
const TIMES: u32 = 3;
/// Times it is measured while it is just over a threshold. \[guess\]
const MOST_TIMES: u32 = 8;
/// What counts as just over a threshold: less than so many times it. \[guess\]
const JUST_OVER: f64 = 1.25;
/// The time between two of them, jittered. \[guess\]
const APART: Duration = Duration::from_millis(100);
/// Past this no quieter moment makes a prefix near. \[guess\]
const FAR: Duration = Duration::from_millis(120);

/// Prefixes probed lately.
struct Recent {
    until: BTreeMap<Prefix, Instant>,
    order: VecDeque<Prefix>,
    limit: usize,
}

impl Recent {
    const fn new(limit: usize) -> Self {
        Self { until: BTreeMap::new(), order: VecDeque::new(), limit }
    }

    /// Whether a prefix may be probed now; if so it may not for a while.
    fn may(&mut self, now: Instant, prefix: Prefix, pause: Duration) -> bool {
        if self.until.get(&prefix).is_some_and(|until| now < *until) {
            return false;
        }
        if self.until.insert(prefix, now + pause).is_none() {
            self.order.push_back(prefix);
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use atoll_overlay::{Alone, Key, NodeId, NodeInfo, Roles};

    use super::*;
    use crate::{Config, Probes, Sources, waiters::Until};

    #[test]
    fn a_prefix_is_probed_once_in_a_while_and_the_memory_of_it_is_bounded() {
        let now = Instant::now();
        let pause = Duration::from_secs(10);
        let prefix = |third: u8| Prefix::of([192, 0, third, 1].into());
        let mut recent = Recent::new(2);
        assert!(recent.may(now, prefix(1), pause));
        assert!(!recent.may(now, prefix(1), pause));
        assert!(recent.may(now + pause, prefix(1), pause));
        assert!(recent.may(now, prefix(2), pause) && recent.may(now, prefix(3), pause));
        assert_eq!((recent.until.len(), recent.order.len()), (2, 2));
    }

    #[test]
    fn what_is_just_over_a_threshold_is_measured_again() {
        let thresholds = [60, 20].map(Duration::from_millis);
        let over: Vec<u64> = [5, 19, 20, 24, 25, 59, 60, 74, 75, 200]
            .into_iter()
            .filter(|ms| is_just_over(Duration::from_millis(*ms), &thresholds))
            .collect();
        assert_eq!(over, [20, 24, 60, 74]);
    }

    /// How often an address is measured that is neither near nor far, at this rate and with so many late repeats.
    async fn looks(per_second: u32, later: usize) -> usize {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (timeout, later) = (Duration::from_secs(60), vec![Duration::from_millis(1); later]);
        let probe = Probes { port, per_second, timeout, later, ..Probes::default() };
        // Whatever it measures is of level 1, and not just over anything.
        let thresholds = vec![Duration::from_secs(60), Duration::from_nanos(1)];
        let sources = Sources { icmp: false, ..Sources::default() };
        let config = Config { probe, thresholds, sources, ..Config::default() };
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
        let (redirector, ..) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        // No time passes for this one, however slow the machine is.
        let frozen = Instant::now() + Duration::from_secs(3_600);
        let mut first = Pace::new(frozen, per_second);
        assert!(first.next(frozen).is_zero());
        let wish = Probe { address: [127, 0, 0, 1].into(), search: false };
        super::probe(&redirector, &UnderWay::default(), &Mutex::new(first), wish).await;
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[tokio::test]
    async fn a_prefix_is_measured_as_often_as_the_settings_say_and_no_repeat_passes_the_rate() {
        assert_eq!(looks(10_000, 4).await, 1 + 2 + 4);
        assert_eq!(looks(1, 4).await, 1, "what a second allows is used up");
    }

    /// A resolver that is asked after by another server and asks by itself in the same moment was answered as if nobody could
    /// measure it.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_second_wish_for_a_prefix_ends_nobodys_wait_for_the_first() {
        // The queue of this listener has room for one connection, which is here: further ones stay unanswered.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener: std::net::TcpListener = socket.into();
        let port = listener.local_addr().unwrap().port();
        let _first = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let probe = Probes { port, scouts: 0, ..Probes::default() };
        let config = Config { probe, sources: Sources { icmp: false, ..Sources::default() }, ..Config::default() };
        let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
        let (redirector, probes, _errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
        let redirector = Arc::new(redirector);
        let prober = tokio::spawn(run(Arc::clone(&redirector), probes));
        let [silent, refusing] = [[127, 0, 0, 1], [127, 0, 9, 1]].map(IpAddr::from);
        let wait = |address| redirector.waiters().wait(Prefix::of(address), Until::Found);
        let [mut waiting, marker] = [silent, refusing].map(wait);
        for address in [silent, silent, refusing] {
            redirector.probes().send(Probe { address, search: false }).await.unwrap();
        }
        marker.await.expect("the third wish came true, so the second was seen");
        assert!(waiting.try_recv().is_err(), "the first is under way");
        waiting.await.expect("it ends at the time-out");
        prober.abort();
    }

    /// What was measured for another server alone had nobody look who is near it, and was not settled at the second question either.
    #[tokio::test]
    async fn who_asks_after_it_was_measured_for_another_server_has_scouts_sent_at_once() {
        // Bound and not listening: it refuses, which measures.
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        refusing.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = refusing.local_addr().unwrap().as_socket().unwrap().port();
        for is_late in [false, true] {
            let config = Config {
                listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
                // Whatever it measures is far.
                thresholds: [2, 1].map(Duration::from_nanos).to_vec(),
                sources: Sources { icmp: false, ..Sources::default() },
                probe: Probes { port, ..Probes::default() },
                ..Config::default()
            };
            let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
            let (redirector, probes, mut errands) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
            let redirector = Arc::new(redirector);
            let prober = tokio::spawn(run(Arc::clone(&redirector), probes));
            let address = IpAddr::from([127, 0, 0, 1]);
            let wish = async |search| redirector.probes().send(Probe { address, search }).await.unwrap();
            let measured = redirector.waiters().wait(Prefix::of(address), Until::Measured);
            wish(false).await;
            if is_late {
                measured.await.expect("it was measured");
            }
            wish(true).await;
            let sent = timeout(Duration::from_secs(60), errands.recv()).await.expect("an errand");
            assert!(matches!(sent, Some(Errand::Search(_))), "{sent:?}");
            prober.abort();
        }
    }

    /// Whether this process may open a ping socket; if not, says so.
    async fn may_echo() -> bool {
        match timeout(Duration::from_secs(60), echo([127, 0, 0, 1].into())).await.expect("the loopback answers") {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: no ping socket ({error}); net.ipv4.ping_group_range names no group of this process");
                false
            }
            Err(error) => panic!("an echo to the loopback failed: {error}"),
        }
    }

    #[tokio::test]
    async fn each_kind_of_probe_measures_unless_switched_off() {
        let may_echo = may_echo().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for (tcp_connect, icmp) in [(true, true), (true, false), (false, true), (false, false)] {
            let timeout = Duration::from_secs(60);
            let probe = Probes { port, timeout, later: Vec::new(), ..Probes::default() };
            let sources = Sources { tcp_connect, icmp, ..Sources::default() };
            let config = Config { probe, sources, ..Config::default() };
            let me = NodeInfo::new(NodeId::from(Key::ZERO), Roles::DNSSRV);
            let (redirector, ..) = Redirector::new(config, Arc::new(Alone::new(me))).unwrap();
            let wish = Probe { address: [127, 0, 0, 1].into(), search: false };
            let pace = Mutex::new(Pace::new(Instant::now(), 100));
            super::probe(&redirector, &UnderWay::default(), &pace, wish).await;
            let measured = redirector.explain(Instant::now(), Prefix::of([127, 0, 0, 1].into())).measured;
            let measured: Vec<Source> = measured.into_iter().map(|(source, _)| source).collect();
            let mut expected = Vec::new();
            expected.extend(tcp_connect.then_some(Source::TcpConnect));
            expected.extend((icmp && may_echo).then_some(Source::Icmp));
            assert_eq!(measured, expected);
        }
    }

    #[tokio::test]
    async fn a_taken_and_a_refused_connect_both_measure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(connect(address).await.is_some());
        drop(listener);
        assert!(connect(address).await.is_some());
    }
}
