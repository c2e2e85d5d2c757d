//! The tour: wait until clusters stand still, let every region's resolver find its way, then send the clients of one region
//! after the other for every object, in an order of their own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use atoll_overlay::{Index, Key, Level};
use rand::seq::SliceRandom as _;

use super::{
    DemoError, Site, client,
    report::{Tally, Visit},
    resolver::Resolver,
    world::{NODES_PER_REGION, REGION_NAMES, REGIONS, client_address, region_of},
};

/// A node's cluster at each level, widest first.
type Clusters = Vec<Key>;

/// Waits until no node has changed its clusters for a while and none is still on its own at the nearest level.
pub(super) async fn settle(indexes: &[std::sync::Arc<dyn Index>]) -> Result<Vec<Clusters>, DemoError> {
    let start = Instant::now();
    let mut last: Vec<Clusters> = Vec::new();
    let mut since = Instant::now();
    while start.elapsed() < SETTLE {
        let now: Vec<Clusters> =
            indexes.iter().map(|index| index.levels().into_iter().map(|level| level.cluster).collect()).collect();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let alone = indexes.iter().any(|index| index.levels().iter().any(|level| level.size < 2));
        if !alone && since.elapsed() >= STILL {
            return Ok(last);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(DemoError::Unsettled(SETTLE))
}

/// The clusters that formed, in words: which nodes of which region share one.
pub(super) fn describe(clusters: &[Clusters], level: Level) -> String {
    let mut groups: BTreeMap<Key, Vec<String>> = BTreeMap::new();
    for (number, levels) in clusters.iter().enumerate() {
        let Some(cluster) = levels.get(usize::from(level.0)) else { continue };
        let (region, node) = (number / NODES_PER_REGION, number % NODES_PER_REGION + 1);
        let name = REGION_NAMES.get(region).copied().unwrap_or_default();
        groups.entry(*cluster).or_default().push(format!("{name} {node}"));
    }
    let mut groups: Vec<_> = groups.into_values().map(|names| names.join(", ")).collect();
    groups.sort();
    groups.join(" | ")
}

/// A few look-ups in each region, so that its resolver meets every server of the zone once and keeps to the nearest. Returns the
/// proxies each was sent to.
pub(super) async fn find_the_way(resolvers: &mut [Resolver], host: &str) -> Result<Vec<Vec<IpAddr>>, DemoError> {
    let mut sent_to = Vec::new();
    for _ in 0..WARM_UPS {
        sent_to.clear();
        for resolver in &mut *resolvers {
            sent_to.push(resolver.resolve(host).await?);
            resolver.expire_addresses();
        }
        // Until what each server told the others of its resolver is known to all.
        tokio::time::sleep(TOLD).await;
    }
    Ok(sent_to)
}

/// Sends the clients of one region for every object.
pub(super) async fn visit_region(
    region: usize,
    resolver: &mut Resolver,
    site: &Site,
    tally: &mut Tally,
) -> Result<(), DemoError> {
    for number in 0..CLIENTS {
        let mut objects: Vec<usize> = (0..site.paths.len()).collect();
        objects.shuffle(&mut rand::rng());
        for object in objects {
            tally.add(visit(region, number, object, resolver, site).await?);
        }
    }
    Ok(())
}

async fn visit(
    region: usize,
    client: usize,
    object: usize,
    resolver: &mut Resolver,
    site: &Site,
) -> Result<Visit, DemoError> {
    let start = Instant::now();
    let path = site.paths.get(object).map_or("/", String::as_str);
    let proxy = proxy_for(client, resolver.resolve(&site.host).await?);
    let from: Ipv4Addr = client_address(region);
    let fetched = client::fetch(from, proxy, site.http_port, &site.host, path).await.map_err(DemoError::Fetch)?;
    let digest = blake3::hash(&fetched.body);
    let right = fetched.status == 200 && site.expects(object, digest);
    let nearest = region_of(proxy) == Some(region);
    Ok(Visit { region, object, nearest, source: fetched.source, right, took: start.elapsed() })
}

/// Each client of a region takes another of the answered proxies, as a crowd would.
fn proxy_for(client: usize, mut answered: Vec<IpAddr>) -> IpAddr {
    answered.sort_unstable();
    let choice = client.checked_rem(answered.len()).and_then(|index| answered.get(index));
    choice.copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Clients a region has.
const CLIENTS: usize = 3;

/// Look-ups before the tour counts: one for each server of the zone, and one that goes to the nearest.
const WARM_UPS: usize = REGIONS + 1;

/// How long servers take to tell each other of a resolver.
const TOLD: Duration = Duration::from_millis(1_200);

/// How long clusters may take to form.
const SETTLE: Duration = Duration::from_secs(60);

/// How long they must stay as they are.
const STILL: Duration = Duration::from_secs(10);

/// How often to look.
const LOOK: Duration = Duration::from_millis(200);
