//! What a running node says of itself to its operator: its parts' own counts, put together.

use std::{collections::BTreeMap, net::IpAddr, pin::Pin};

use atoll_overlay::Index as _;
use atoll_store::DiskState;

use super::{gauges, parts::Parts};
use crate::{
    purging::Purger,
    status::{
        Admitted, AnswersTo, DnsStatus, LevelStatus, ProxyStatus, Served, Share, Status, StatusSource, StoreStatus,
        role_words,
    },
    trace::{self, Here, Report, Wanted},
    warm::{Nodes, Warmed, Warmth},
};

impl StatusSource for Parts {
    fn status(&self) -> Status {
        let node = &self.config.node;
        Status {
            id: self.overlay.id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: role_words(node.role_set()),
            uptime: self.started.elapsed().as_secs(),
            draining: *self.drain.borrow(),
            network: node.network.clone(),
            admission: Admitted::of(self.overlay.membership().as_ref()),
            zone: node.zone.clone(),
            site: node.site.clone(),
            listen: self.listening().clone(),
            levels: self.overlay.levels().iter().map(LevelStatus::of).collect(),
            store: self.store_status(),
            proxy: self.proxy_status(),
            dns: self.dns_status(),
        }
    }

    fn gauge(&self) {
        gauges::set(&self.store, self.proxy.as_deref(), &self.overlay.levels());
    }

    fn purger(&self) -> Option<&dyn Purger> {
        self.proxy.is_some().then_some(self)
    }

    fn nodes(&self) -> Nodes {
        Nodes::of(&self.config.node.zone, self.config.proxy.sites.keys().cloned().collect(), self.known())
    }

    fn warmed(&self) -> Vec<Warmed> {
        self.warmed.all()
    }

    fn note_warm(&self, one: Warmth) {
        self.warmed.note(one);
    }

    fn trace(&self, wanted: Wanted) -> Pin<Box<dyn Future<Output = Result<Report, String>> + Send + '_>> {
        let from = wanted.from;
        let dns = move |name: &str| self.dns.with(|dns| Some((dns.why(name, from)?, dns.chosen(name, from)))).flatten();
        let here = Here {
            zone: &self.config.node.zone,
            sites: self.config.proxy.sites.keys().cloned().collect(),
            nodes: self.known(),
            dns,
            pass: atoll_proxy::trace_pass(&self.overlay),
        };
        Box::pin(trace::ask(here, wanted))
    }

    fn explain(&self, name: &str, from: IpAddr) -> Option<Vec<String>> {
        self.dns.with(|dns| dns.why(name, from)).flatten()
    }

    fn drain(&self) {
        self.drain.send_replace(true);
        self.describe();
        self.dns.with(atoll_dnssrv::Server::leave);
    }

    fn stop_now(&self) {
        StatusSource::drain(self);
        self.stop.send_replace(true);
    }
}

impl Parts {
    fn proxy_status(&self) -> ProxyStatus {
        let Some(proxy) = &self.proxy else { return ProxyStatus::default() };
        let (stats, shares) = (proxy.stats(), proxy.shares().into_iter());
        ProxyStatus {
            requests: stats.requests,
            served: Served {
                local: stats.served.local,
                peers: stats.served.peers,
                origin: stats.served.origin,
                error: stats.served.error,
            },
            collapsed: stats.collapsed,
            stale: stats.stale,
            refused: stats.refused,
            origin_requests: stats.origin_requests,
            origin_ungranted: stats.origin_ungranted,
            origin_bytes: stats.origin_bytes,
            peer_bytes: stats.peer_bytes,
            near_lookups: stats.near_lookups,
            near_found: stats.near_found,
            peer_fetches: stats.peer_fetches.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
            hedged: stats.hedged,
            hedged_by_peers: stats.hedged_by_peers,
            peer_served: stats.peer_served,
            peer_streams: stats.peer_streams,
            shares: shares.map(|(period, used, limit)| Share { period: period.to_owned(), used, limit }).collect(),
            peer_lies: stats.peer_lies,
            liars: proxy.liars().iter().map(ToString::to_string).collect(),
            peer_contradictions: stats.peer_contradictions,
            doubted: proxy.doubted().iter().map(|(peer, host)| format!("{peer} {host}")).collect(),
            flights: stats.flights,
            connections: stats.connections,
        }
    }

    fn dns_status(&self) -> DnsStatus {
        let Some(stats) = self.dns.with(atoll_dnssrv::Server::stats) else { return DnsStatus::default() };
        let mut codes = BTreeMap::new();
        for ((_, code, _), count) in &stats.queries {
            *codes.entry((*code).to_owned()).or_default() += count;
        }
        DnsStatus {
            queries: stats.queries.values().sum(),
            codes,
            levels: stats.levels,
            dropped: stats.dropped,
            limited: stats.limited.iter().map(|(action, count)| ((*action).to_owned(), *count)).collect(),
            live: stats.live.iter().map(|count| u64::try_from(*count).unwrap_or(u64::MAX)).collect(),
            measured: stats.measured,
            map: stats.map.iter().map(AnswersTo::of).collect(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let stats = self.store.stats();
        let disk = match stats.disk {
            DiskState::Absent => "none",
            DiskState::Working => "ok",
            DiskState::Failed => "failed: nothing is written until the next try",
            DiskState::Bad => "given up: empty its directory once it is well",
        };
        StoreStatus {
            objects: stats.objects,
            memory_bytes: stats.memory_bytes,
            disk_bytes: stats.disk_bytes,
            disk: disk.to_owned(),
        }
    }
}
