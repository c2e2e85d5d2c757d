//! `/metrics` in the Prometheus text format: what the status says of this node, then what the crates counted in this process.
//! Labels come from closed lists of ours, never from a client: their number does not grow with traffic.

use std::{fmt::Write as _, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::status::{LevelStatus, ProxyStatus, Status};

/// Makes this process count. Once is enough, before anything is counted: what a part finds uncounted it may not look for again. A
/// further call changes nothing.
pub fn start() {
    recorder();
}

/// Folds histograms now and then, so that they stay small while nobody asks. Never returns.
pub(super) async fn keep_up() {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder().run_upkeep();
    }
}

/// The whole page.
pub(super) fn render(status: &Status) -> String {
    let mut page = of_status(status);
    page.push_str(&recorder().render());
    page
}

fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // Fails only for an empty list of buckets.
        let builder = builder
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder counts in this process: /metrics shows the node's status only");
        }
        handle
    })
}

/// The status as metrics.
fn of_status(status: &Status) -> String {
    let Status { proxy, dns, .. } = status;
    let mut page = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
        // Writing to a String does not fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(page, "{name}{labels} {value}");
        }
    };
    let build = format!("{{version=\"{}\"}}", label(&status.version));
    family("atoll_build_info", "gauge", "Program version.", &[(&build, 1.0)]);
    family("atoll_uptime_seconds", "gauge", "Time since the node started.", &[("", count(status.uptime))]);
    family("atoll_draining", "gauge", "1 while the node is leaving.", &[("", f64::from(u8::from(status.draining)))]);
    let levels: Vec<(String, &LevelStatus)> =
        status.levels.iter().map(|level| (format!("{{level=\"{}\"}}", level.level), level)).collect();
    let sizes: Vec<(&str, f64)> = levels.iter().map(|(label, level)| (&**label, f64::from(level.size))).collect();
    family("atoll_cluster_nodes", "gauge", "Nodes thought to be in this node's cluster.", &sizes);
    let known: Vec<(&str, f64)> =
        levels.iter().map(|(label, level)| (&**label, count(level.neighbours.len() as u64))).collect();
    family("atoll_cluster_neighbours", "gauge", "Neighbours listed in the status.", &known);
    family("atoll_proxy_requests_total", "counter", "Requests answered.", &[("", count(proxy.requests))]);
    family("atoll_proxy_collapsed_total", "counter", "Requests that shared a fetch.", &[("", count(proxy.collapsed))]);
    family("atoll_proxy_stale_total", "counter", "Answers that were stale.", &[("", count(proxy.stale))]);
    family("atoll_proxy_refused_total", "counter", "Requests refused.", &[("", count(proxy.refused))]);
    family("atoll_proxy_flights", "gauge", "Fetches under way.", &[("", count(proxy.flights))]);
    family("atoll_proxy_connections", "gauge", "Client connections open.", &[("", count(proxy.connections))]);
    let origin = [("{granted=\"no\"}", count(proxy.origin_ungranted)), ("{granted=\"yes\"}", count(granted(proxy)))];
    family("atoll_proxy_origin_requests_total", "counter", "Requests to origins.", &origin);
    let received = [("{from=\"origin\"}", count(proxy.origin_bytes)), ("{from=\"peer\"}", count(proxy.peer_bytes))];
    family("atoll_proxy_received_bytes_total", "counter", "Bytes of bodies received.", &received);
    let served = &proxy.served;
    let mut sources = vec![
        ("{source=\"local\"}".to_owned(), served.local),
        ("{source=\"origin\"}".to_owned(), served.origin),
        ("{source=\"error\"}".to_owned(), served.error),
    ];
    sources.extend(served.peers.iter().map(|(level, served)| (format!("{{source=\"peer_l{level}\"}}"), *served)));
    family("atoll_proxy_served_total", "counter", "Requests by where the body came from.", &samples(&sources));
    family("atoll_dnssrv_queries_total", "counter", "DNS queries answered.", &[("", count(dns.queries))]);
    family("atoll_dnssrv_dropped_total", "counter", "Datagrams not answered.", &[("", count(dns.dropped))]);
    family("atoll_dnssrv_led_total", "counter", "Answers by the level they lead to.", &samples(&by_level(&dns.levels)));
    family("atoll_dnssrv_live_proxies", "gauge", "Proxies seen alive.", &samples(&by_level(&dns.live)));
    page
}

const fn granted(proxy: &ProxyStatus) -> u64 {
    proxy.origin_requests.saturating_sub(proxy.origin_ungranted)
}

fn by_level(counts: &[u64]) -> Vec<(String, u64)> {
    counts.iter().enumerate().map(|(level, count)| (format!("{{level=\"{level}\"}}"), *count)).collect()
}

fn samples(counts: &[(String, u64)]) -> Vec<(&str, f64)> {
    counts.iter().map(|(labels, value)| (&**labels, count(*value))).collect()
}

/// A counter as the format's number; beyond 2^53 its last digits are rounded.
#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floating point")]
fn count(value: u64) -> f64 {
    value as f64
}

/// A label's value, escaped by the format's three rules.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How often histograms are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// Upper bounds of latency histograms, in seconds: from a RAM hit to an origin's time-out.
const SECONDS: [f64; 14] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.02, 0.06, 0.1, 0.25, 0.6, 1.0, 2.5, 10.0, 60.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let status = Status { version: "1\"\n\\x".to_owned(), uptime: 7, ..Status::default() };
        let page = of_status(&status);
        assert!(page.contains("atoll_build_info{version=\"1\\\"\\n\\\\x\"} 1\n"), "{page}");
        assert!(page.contains("\natoll_uptime_seconds 7\n"), "{page}");
        for line in page.lines().filter(|line| !line.starts_with("# ")) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
        }
    }

    #[test]
    fn what_the_crates_count_is_on_the_page() {
        start();
        metrics::counter!("atoll_admin_test_total", "kind" => "a\"b\n").increment(3);
        let page = render(&Status::default());
        assert!(page.contains("atoll_admin_test_total{kind=\"a\\\"b\\n\"} 3"), "{page}");
    }
}
