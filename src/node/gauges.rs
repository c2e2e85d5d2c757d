//! What is so at this moment, as metrics: set when somebody asks for them. What has happened is counted where it happens; what the
//! store counted itself is handed on here.

use atoll_overlay::LevelInfo;
use atoll_proxy::Proxy;
use atoll_store::{DiskState, Store};
use metrics::{counter, gauge};

/// Sets all of them.
pub(super) fn set(store: &Store, proxy: Option<&Proxy>, levels: &[LevelInfo]) {
    stored(store);
    if let Some(proxy) = proxy {
        served(proxy);
    }
    for level in levels {
        gauge!("atoll_dht_peers", "level" => level.level.to_string()).set(real(wide(level.neighbours.len())));
    }
}

fn stored(store: &Store) {
    let stats = store.stats();
    for (tier, objects, bytes) in [
        ("ram", stats.memory_objects, stats.memory_bytes + stats.fill_bytes),
        ("disk", stats.index_objects, stats.disk_bytes),
    ] {
        gauge!("atoll_cache_objects", "tier" => tier).set(real(objects));
        gauge!("atoll_cache_bytes", "tier" => tier).set(real(bytes));
    }
    for (reason, count) in
        [("ram-full", stats.memory_evictions), ("disk-full", stats.disk_evictions), ("purged", stats.purged)]
    {
        counter!("atoll_cache_evictions_total", "reason" => reason).absolute(count);
    }
    counter!("atoll_cache_checksum_failures_total").absolute(stats.checksum_failures);
    for (directory, state) in store.disks() {
        let state = match state {
            DiskState::Working => 1.0,
            DiskState::Absent | DiskState::Failed => 0.0,
            DiskState::Bad => -1.0,
        };
        gauge!("atoll_cache_disk_state", "disk" => directory.display().to_string()).set(state);
    }
}

fn served(proxy: &Proxy) {
    let stats = proxy.stats();
    gauge!("atoll_cache_fill_inflight").set(real(stats.flights));
    gauge!("atoll_origin_circuit_open").set(real(stats.circuits_open));
    let new = stats.connections.saturating_sub(stats.connections_h1 + stats.connections_h2);
    for (state, proto, count) in
        [("new", "none", new), ("open", "h1", stats.connections_h1), ("open", "h2", stats.connections_h2)]
    {
        gauge!("atoll_http_connections", "state" => state, "proto" => proto).set(real(count));
    }
    for (period, used, limit) in proxy.shares() {
        gauge!("atoll_quota_bytes", "period" => period, "kind" => "used").set(real(used));
        gauge!("atoll_quota_bytes", "period" => period, "kind" => "limit").set(real(limit));
    }
    // What it started with is the first.
    gauge!("atoll_config_epoch").set(real(stats.reloads + 1));
    gauge!("atoll_config_last_reload_success").set(if proxy.files_in_force() { 1.0 } else { 0.0 });
    for covered in proxy.covered_names() {
        gauge!("atoll_tls_cert_not_after_seconds", "name" => covered.name).set(real(covered.expires));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge's number is floating point")]
const fn real(value: u64) -> f64 {
    value as f64
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
