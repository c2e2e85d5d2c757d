//! What the demo saw, as one object for machines and as a summary for people, and the claims it stands for.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{client::Source, world::REGION_NAMES};

/// Every request of the tour and what it brought.
#[derive(Debug, Default)]
pub(super) struct Tally {
    visits: Vec<Visit>,
}

/// One client's request for one object.
#[derive(Debug)]
pub(super) struct Visit {
    /// Where the client sits.
    pub(super) region: usize,
    /// Which object it asked for.
    pub(super) object: usize,
    /// Whether the proxy it was sent to is of its own region.
    pub(super) nearest: bool,
    /// Where that proxy had it from; none if it did not say.
    pub(super) source: Option<Source>,
    /// Whether status and bytes were right.
    pub(super) right: bool,
    /// DNS and HTTP together.
    pub(super) took: Duration,
}

/// What the world itself counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) nodes: usize,
    pub(super) regions: usize,
    pub(super) objects: usize,
    pub(super) origin_requests: u64,
    pub(super) dns_queries: u64,
}

/// The result of one tour. Its JSON shape is stable.
#[derive(Debug, Serialize)]
pub struct Report {
    nodes: usize,
    regions: usize,
    objects: usize,
    client_requests: usize,
    origin_requests: u64,
    served: Served,
    dns: Dns,
    latency_ms: Latency,
    #[serde(skip)]
    claims: Vec<Claim>,
}

/// Where the copies came from, in requests.
#[derive(Debug, Default, Serialize)]
struct Served {
    local: usize,
    peer_l2: usize,
    peer_l1: usize,
    peer_l0: usize,
    origin: usize,
}

#[derive(Debug, Serialize)]
struct Dns {
    queries: u64,
    nearest_region_share: f64,
}

/// Of DNS and HTTP together, in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p96: f64,
}

/// Something the demo asserts about what it saw.
#[derive(Debug, Clone)]
pub struct Claim {
    /// In words, with the figures.
    pub text: String,
    /// Whether it was so.
    pub held: bool,
}

impl Tally {
    pub(super) fn add(&mut self, visit: Visit) {
        self.visits.push(visit);
    }

    /// A line an object: where each region's clients got it from, in their order.
    pub(super) fn table(&self, names: &[String]) -> String {
        let mut cells: BTreeMap<(usize, usize), String> = BTreeMap::new();
        for visit in &self.visits {
            let cell = cells.entry((visit.object, visit.region)).or_default();
            let _ = write!(cell, "{:>7}", visit.source.map_or("?", Source::word));
        }
        let mut table = format!("{:<20}", "");
        for name in REGION_NAMES {
            let _ = write!(table, "{name:>23}");
        }
        for (object, name) in names.iter().enumerate() {
            let _ = write!(table, "\n{name:<20}");
            for region in 0..REGION_NAMES.len() {
                let _ = write!(table, "{:>23}", cells.get(&(object, region)).map_or("", String::as_str));
            }
        }
        table
    }

    pub(super) fn report(&self, counts: Counts) -> Report {
        let by = |source: Source| self.visits.iter().filter(|visit| visit.source == Some(source)).count();
        let served = Served {
            local: by(Source::Local),
            peer_l2: by(Source::Peer(2)),
            peer_l1: by(Source::Peer(1)),
            peer_l0: by(Source::Peer(0)),
            origin: by(Source::Origin),
        };
        let nearest = self.visits.iter().filter(|visit| visit.nearest).count();
        let dns = Dns { queries: counts.dns_queries, nearest_region_share: share(nearest, self.visits.len()) };
        let latency_ms = Latency { p50: self.quantile_ms(50), p96: self.quantile_ms(96) };
        let claims = self.claims(counts, &served, dns.nearest_region_share);
        Report {
            nodes: counts.nodes,
            regions: counts.regions,
            objects: counts.objects,
            client_requests: self.visits.len(),
            origin_requests: counts.origin_requests,
            served,
            dns,
            latency_ms,
            claims,
        }
    }

    fn claims(&self, counts: Counts, served: &Served, nearest: f64) -> Vec<Claim> {
        let claim = |text: String, held: bool| Claim { text, held };
        let wrong = self.visits.iter().filter(|visit| !visit.right).count();
        let everywhere = (0..counts.regions).all(|region| {
            let got = |object| self.visits.iter().any(|v| v.region == region && v.object == object && v.right);
            (0..counts.objects).all(got)
        });
        let objects = u64::try_from(counts.objects).unwrap_or(u64::MAX);
        vec![
            claim(
                format!(
                    "the origin was asked once for each of {} objects ({} requests for {} of clients)",
                    counts.objects,
                    counts.origin_requests,
                    self.visits.len()
                ),
                counts.origin_requests == objects,
            ),
            claim(format!("every client got the right bytes ({wrong} did not)"), wrong == 0),
            claim("every region has served every object".to_owned(), everywhere),
            claim(format!("copies came from peers at level 2 ({})", served.peer_l2), served.peer_l2 > 0),
            claim(format!("copies came from peers at level 1 ({})", served.peer_l1), served.peer_l1 > 0),
            claim(format!("copies came from peers at level 0 ({})", served.peer_l0), served.peer_l0 > 0),
            claim(
                format!("DNS led clients to a proxy of their own region ({:.1} %)", nearest * 100.0),
                nearest >= NEAREST_SHARE,
            ),
        ]
    }

    fn quantile_ms(&self, percent: usize) -> f64 {
        let mut times: Vec<Duration> = self.visits.iter().map(|visit| visit.took).collect();
        times.sort_unstable();
        let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(rank).map_or(0.0, |time| (time.as_secs_f64() * 10_000.0).round() / 10.0)
    }
}

impl Report {
    /// Whether every claim held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.claims.iter().all(|claim| claim.held)
    }

    /// What was claimed.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The summary in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let Served { local, peer_l2, peer_l1, peer_l0, origin } = self.served;
        let mut text = format!(
            "{} client requests: {local} from the proxy's own cache, {peer_l2} from a level-2 peer, {peer_l1} from a level-1 \
             peer, {peer_l0} from a level-0 peer, {origin} from the origin\n\
             {} requests at the origin, {} DNS queries; DNS and HTTP together took {} ms (median), {} ms (96 %)",
            self.client_requests, self.origin_requests, self.dns.queries, self.latency_ms.p50, self.latency_ms.p96,
        );
        for claim in &self.claims {
            let _ = write!(text, "\n  [{}] {}", if claim.held { "ok" } else { "NOT SO" }, claim.text);
        }
        text
    }
}

impl Source {
    const fn word(self) -> &'static str {
        match self {
            Self::Local => "own",
            Self::Peer(2) => "L2",
            Self::Peer(1) => "L1",
            Self::Peer(_) => "L0",
            Self::Origin => "ORIGIN",
        }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if whole == 0 { 0.0 } else { number(part) / number(whole) }
}

/// The share of requests that must reach a proxy of the client's region.
const NEAREST_SHARE: f64 = 0.95;

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(region: usize, object: usize, source: Source) -> Visit {
        let took = Duration::from_millis(10);
        Visit { region, object, nearest: true, source: Some(source), right: true, took }
    }

    fn counts(origin_requests: u64) -> Counts {
        Counts { nodes: 9, regions: 3, objects: 1, origin_requests, dns_queries: 9 }
    }

    fn good() -> Tally {
        let visits = vec![
            visit(0, 0, Source::Origin),
            visit(0, 0, Source::Peer(2)),
            visit(1, 0, Source::Peer(1)),
            visit(2, 0, Source::Peer(0)),
        ];
        Tally { visits }
    }

    #[test]
    fn a_good_tour_holds_every_claim() {
        let report = good().report(counts(1));
        assert!(report.held(), "{}", report.summary());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["served"]["peer_l1"], 1);
        assert_eq!(json["latency_ms"]["p50"], 10.0);
        assert!(json.get("claims").is_none());
    }

    #[test]
    fn each_broken_claim_is_seen() {
        assert!(!good().report(counts(2)).held(), "a second origin request");
        let broken: [fn(&mut Tally); 4] = [
            |tally| tally.visits[0].right = false,
            |tally| tally.visits[0].nearest = false,
            |tally| tally.visits.retain(|visit| visit.source != Some(Source::Peer(2))),
            |tally| tally.visits.retain(|visit| visit.source != Some(Source::Peer(0))),
        ];
        for breakage in broken {
            let mut tally = good();
            breakage(&mut tally);
            assert!(!tally.report(counts(1)).held());
        }
    }
}
