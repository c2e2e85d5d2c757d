//! How a running lab is, as `lab status` prints it and as it travels over the control socket.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::router::{Counters, Report};

/// A whole lab at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub lab: String,
    /// The process that owns it.
    pub pid: u32,
    /// The first process of the PID namespace that its programs share.
    pub init: u32,
    /// Its hosts in scenario order.
    pub hosts: Vec<HostStatus>,
    /// What the router has done.
    pub wan: Report,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: String,
    /// Its matrix row or city.
    pub place: String,
    /// Its own IPv4 address.
    pub v4: Ipv4Addr,
    /// Its own IPv6 address.
    pub v6: Ipv6Addr,
    /// As `ip netns` knows it.
    pub namespace: String,
    /// Whether its program runs; `None` if it has none.
    pub alive: Option<bool>,
    /// All processes in it.
    pub pids: Vec<i32>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lab {} (pid {})", self.lab, self.pid)?;
        writeln!(
            f,
            "{:<16} {:<10} {:<12} {:<15} {:<18} {:<5} {:>9} {:>9} {:>6}  pids",
            "host", "role", "place", "IPv4", "IPv6", "runs", "sent", "received", "lost"
        )?;
        for (at, host) in self.hosts.iter().enumerate() {
            let counters = self.wan.counters.get(at).cloned().unwrap_or_default();
            let runs = match host.alive {
                None => "-",
                Some(true) => "yes",
                Some(false) => "DEAD",
            };
            let pids = host.pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
            let (v4, v6) = (host.v4.to_string(), host.v6.to_string());
            writeln!(
                f,
                "{:<16} {:<10} {:<12} {v4:<15} {v6:<18} {runs:<5} {:>9} {:>9} {:>6}  {pids}",
                host.name,
                host.role,
                host.place,
                counters.sent,
                counters.received,
                lost(&counters)
            )?;
        }
        let wan = &self.wan;
        let realtime =
            if wan.realtime { "real-time" } else { "ordinary scheduling: distances grow when cores are busy" };
        writeln!(
            f,
            "router: {} packets under way, {} one-way cuts, 95 % handed over within {} us, worst {} us late ({realtime})",
            wan.under_way, wan.cuts, wan.late_p95_us, wan.late_worst_us
        )
    }
}

/// Everything dropped on purpose or for want of room; not what was addressed to nobody.
fn lost(counters: &Counters) -> u64 {
    counters.lost + counters.cut + counters.queue_full + counters.no_room + counters.refused
}
