//! A crowd: clients everywhere ask at a steady rate, each request a DNS question to the client's own resolver and then a GET from the
//! answered proxy. Open loop: a request's time runs from the moment it was due.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use crate::{
    address::HostId,
    error::Error,
    lab::Lab,
    measure::{connect_first, fetch_over, stub},
    programs::origin_content,
    scenario::{Host, OriginFile},
};

use super::stage::{clients, http};

/// What to ask, how often, how long.
pub(crate) struct Crowd<'c> {
    /// The name, without a final dot.
    pub(crate) name: &'c str,
    /// What it holds.
    pub(crate) files: &'c [OriginFile],
    /// Requests a second, all clients together.
    pub(crate) rate: usize,
    pub(crate) duration: Duration,
    /// Where to connect without asking: the baseline.
    pub(crate) direct: Option<IpAddr>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Since the crowd began.
    pub(crate) due: Duration,
    /// DNS and HTTP together, and the wait for a free hand before.
    pub(crate) took: Duration,
    /// Of that: the wait for a free hand.
    pub(crate) late: Duration,
    /// Of that: DNS.
    pub(crate) dns: Duration,
    /// Of that: HTTP, failed addresses included.
    pub(crate) http: Duration,
    pub(crate) failure: Option<String>,
    /// Whether another address than the first served it: that one was slower to connect, or failed.
    pub(crate) by_another_address: bool,
    /// Where it might go; none if its name was not resolved.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long these were to be used from then on, as the client's resolver said.
    pub(crate) ttl: Duration,
    /// Who asked.
    pub(crate) client: HostId,
    pub(crate) file: usize,
}

impl Request {
    /// When it began, since the crowd did.
    pub(crate) fn begun(&self) -> Duration {
        self.due + self.late
    }

    /// When it was over.
    pub(crate) fn ended(&self) -> Duration {
        self.due + self.took
    }
}

/// Runs the crowd; `meanwhile` runs beside it, and its error ends it.
pub(crate) fn run(
    lab: &Lab,
    crowd: &Crowd<'_>,
    meanwhile: impl FnOnce(Instant) -> Result<(), Error>,
) -> Result<Vec<Request>, Error> {
    let clients = clients(lab);
    let total = crowd.rate * usize::try_from(crowd.duration.as_secs()).unwrap_or(0);
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(total));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for client in &clients {
            let (next, over, done) = (&next, &over, &done);
            // Threads begun inside a host stay inside it.
            scope.spawn(move || {
                lab.within(&client.name, || {
                    std::thread::scope(|hands| {
                        for _ in 0..HANDS {
                            hands.spawn(|| work(lab, crowd, client, total, (next, over, done), start));
                        }
                    });
                })
            });
        }
        let result = meanwhile(start);
        if result.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        result
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|request: &Request| request.due);
    Ok(done)
}

type Shared<'s> = (&'s AtomicUsize, &'s AtomicBool, &'s Mutex<Vec<Request>>);

fn work(lab: &Lab, crowd: &Crowd<'_>, client: &Host, total: usize, (next, over, done): Shared<'_>, start: Instant) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let stopped = over.load(Ordering::Relaxed) || lab.stopping().load(Ordering::Relaxed);
        if number >= total || stopped {
            return;
        }
        let due = Duration::from_secs_f64(number as f64 / crowd.rate as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        // Every client asks for every file: a fixed order that mixes both.
        let file = (number * 7 + number / crowd.files.len()) % crowd.files.len();
        let late = start.elapsed().saturating_sub(due);
        let begun = Instant::now();
        let resolved = match crowd.direct {
            Some(address) => Ok((vec![address], Duration::ZERO)),
            None => resolve(lab, crowd, client),
        };
        let dns = begun.elapsed();
        let (outcome, by_another_address) = match &resolved {
            Ok((addresses, _)) => get(crowd, addresses, &crowd.files[file]),
            Err(error) => (Err(error.clone()), false),
        };
        let (addresses, ttl) = resolved.unwrap_or_default();
        let (took, http) = (start.elapsed().saturating_sub(due), begun.elapsed().saturating_sub(dns));
        let (failure, client) = (outcome.err(), client.id);
        let request = Request { due, took, late, dns, http, failure, by_another_address, addresses, ttl, client, file };
        done.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }
}

/// As clients that follow RFC 8305 do it: the first address that takes a connection, tried in their order a moment apart; then those not tried
/// or not waited for. Says also whether another than the first one served.
fn get(crowd: &Crowd<'_>, addresses: &[IpAddr], file: &OriginFile) -> (Result<(), String>, bool) {
    let (mut failures, mut left) = (Vec::new(), addresses.to_vec());
    while !left.is_empty() {
        let start = Instant::now();
        let servers: Vec<SocketAddr> = left.iter().map(|address| http(*address)).collect();
        let (at, stream) = match connect_first(&servers, PATIENCE) {
            Ok(taken) => taken,
            Err(refused) => {
                failures.extend(refused);
                break;
            }
        };
        let address = left.remove(at);
        failures.push(match fetch_over(stream, (crowd.name, &file.path), start, PATIENCE, LONGEST) {
            Ok(fetched) if fetched.status != 200 => {
                let why =
                    fetched.header("proxy-status").or_else(|| fetched.header("cache-status")).unwrap_or("no word");
                format!("{address}: status {}, {why}", fetched.status)
            }
            Ok(fetched) if fetched.body != origin_content(&file.path, file.size) => {
                format!("{address}: {} wrong bytes", fetched.body.len())
            }
            Ok(_) => return (Ok(()), addresses.first() != Some(&address)),
            Err(error) => format!("{address}: {error}"),
        });
    }
    (Err(if failures.is_empty() { "no address".to_owned() } else { failures.join("; ") }), false)
}

/// The addresses a client's resolver gives it, and for how long.
fn resolve(lab: &Lab, crowd: &Crowd<'_>, client: &Host) -> Result<(Vec<IpAddr>, Duration), String> {
    let resolver = client.resolver.map(|id| lab.scenario().hosts[id.index()].id.v4()).ok_or("no resolver")?;
    let server = SocketAddr::from((resolver, 53));
    let answer = stub(server, &format!("{}.", crowd.name), RecordType::A);
    let answer = answer.map_err(|error| format!("{resolver}: {error}"))?;
    let addresses: Vec<IpAddr> = answer.addresses.iter().map(|(address, _)| *address).collect();
    if addresses.is_empty() {
        let said: Vec<String> = answer.message.all_sections().map(ToString::to_string).collect();
        return Err(format!("{resolver}: {} without an address: {}", answer.code, said.join("; ")));
    }
    let ttl = answer.addresses.iter().map(|(_, seconds)| *seconds).max().unwrap_or(0);
    Ok((addresses, Duration::from_secs(ttl.into())))
}

/// Requests one client has under way at most.
const HANDS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(40);
const LONGEST: usize = 1 << 20;

#[cfg(test)]
impl Request {
    /// A client's request for the first file that was due at this second, took one, and failed; its answer had this TTL in seconds.
    pub(crate) fn example(client: usize, due: u32, ttl: u64) -> Self {
        let second = Duration::from_secs(1);
        Self {
            due: due * second,
            took: second,
            late: Duration::ZERO,
            dns: Duration::ZERO,
            http: second,
            failure: Some("dead".into()),
            by_another_address: false,
            addresses: Vec::new(),
            ttl: Duration::from_secs(ttl),
            client: HostId::new(client).unwrap_or_else(|| unreachable!("a small number")),
            file: 0,
        }
    }
}
