//! A scenario: which hosts exist, where, what each runs, and how far apart they are. Valid because it exists.
//!
//! ```text
//! scenario.toml --file--> keys --check + placement--> Scenario { hosts, distances } --> Lab
//! ```
//!
//! `file` has the keys, `check` says what they may say together (with file and line), `placement` draws rows.

mod check;
mod file;
mod placement;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    address::HostId,
    error::Error,
    router::Weather,
    units::{Rate, Size},
};

/// A checked internet.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the lab is called.
    pub name: String,
    /// The scenario whose claims are made of it, if its file says so.
    pub claims: Option<String>,
    /// The zone of the Atoll network, without a final dot.
    pub zone: String,
    /// Seeds everything drawn.
    pub seed: u64,
    /// How the nodes' dnssrv answers.
    pub dns_mode: DnsMode,
    /// How much of it is built; at short scale TTLs are short too.
    pub scale: Scale,
    /// What may happen to any packet; its bound on packets under way is the lab's to set.
    pub weather: Weather,
    /// The hosts in the order of the file; a host's place in it is its [`HostId`].
    pub hosts: Vec<Host>,
    /// One-way delays, row by row.
    one_way: Vec<Duration>,
}

/// One host of the scenario.
#[derive(Clone, Debug)]
pub struct Host {
    /// Unique in the scenario.
    pub name: String,
    /// Its number, and through it its addresses.
    pub id: HostId,
    /// The matrix row.
    pub row: usize,
    /// Where that is, for people.
    pub place: String,
    /// Speed of the way out; `None` is unlimited.
    pub up: Option<Rate>,
    /// Speed of the way in.
    pub down: Option<Rate>,
    /// Bytes that may wait before either; `None` is the lab's default.
    pub queue: Option<Size>,
    /// Who resolves names for it.
    pub resolver: Option<HostId>,
    /// What it is for, and what only that role knows.
    pub role: Role,
}

/// What a host is for.
#[derive(Clone, Debug)]
pub enum Role {
    /// Serves the root zone, in which every host also has the name `HOST.lab`.
    Root(Authority),
    /// Serves these zones, and delegates what lies in them.
    Tld(Authority, Vec<String>),
    /// Serves one zone with these further records.
    Nameserver(Authority, String, Vec<String>),
    /// Resolves from the lab's root.
    Resolver {
        /// Which program.
        program: Recursor,
        /// Sends EDNS Client Subnet to everybody.
        ecs: bool,
    },
    /// Serves files over HTTP, port 80.
    Origin {
        /// Its host names.
        names: Vec<String>,
        /// Its files.
        files: Vec<OriginFile>,
    },
    /// Runs Atoll.
    Node {
        /// Serves DNS for the zone.
        dns: bool,
        /// The TLD names it as a nameserver of the zone.
        apex: bool,
        /// The others start from it.
        seed: bool,
        /// Its configuration's template; `None` is the lab's own.
        template: Option<PathBuf>,
    },
    /// Asks; runs nothing by itself.
    Client {
        /// Chromium is there, to load pages as people do.
        browser: bool,
    },
    /// Runs nothing, is nobody.
    Plain,
}

/// How dnssrv answers public names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMode {
    /// By a CNAME and referrals to near servers.
    #[default]
    Levels,
    /// By addresses at once.
    Direct,
}

impl DnsMode {
    /// As a configuration says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Levels => "levels",
            Self::Direct => "direct",
        }
    }
}

/// How much of a scenario is built: what CI has time for, or what its figures are quoted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// `count = { short, .. }`.
    #[default]
    Short,
    /// `count = { .., long }`.
    Long,
}

/// Programs that serve zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// NSD.
    Nsd,
    /// Knot DNS.
    Knot,
}

/// Programs that resolve names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursor {
    /// Unbound.
    Unbound,
    /// BIND 9.
    Bind9,
    /// Knot Resolver.
    KnotResolver,
    /// PowerDNS Recursor.
    PdnsRecursor,
}

/// A file of an origin; its bytes follow from its path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginFile {
    /// Absolute, without a query.
    pub path: String,
    /// How long it is.
    pub size: Size,
}

impl Scenario {
    /// Reads and checks a scenario file; `matrix` goes ahead of the file's own.
    pub fn read(path: &Path, matrix: Option<&Path>, scale: Scale) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::File { file: path.into(), message: format!("cannot be read: {error}") })?;
        Self::parse(&text, path, matrix, scale)
    }

    /// Checks the text of a scenario; `path` names it in errors, and other files are relative to it.
    pub fn parse(text: &str, path: &Path, matrix: Option<&Path>, scale: Scale) -> Result<Self, Error> {
        check::Check::new(text, path, scale).scenario(matrix)
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| Error::NoHost { name: name.into() })
    }

    /// The hosts a pattern names: `a`, `a,b`, `node*`, `*`.
    pub fn select(&self, pattern: &str) -> Result<Vec<HostId>, Error> {
        let mut chosen = Vec::new();
        for part in pattern.split(',').map(str::trim) {
            let before = chosen.len();
            let matching = self.hosts.iter().filter(|host| match part.strip_suffix('*') {
                Some(start) => host.name.starts_with(start),
                None => host.name == part,
            });
            chosen.extend(matching.map(|host| host.id));
            if chosen.len() == before {
                return Err(Error::NoHost { name: part.into() });
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }

    /// How long a packet takes from one host to another.
    pub fn one_way(&self, from: HostId, to: HostId) -> Duration {
        self.one_way[from.index() * self.hosts.len() + to.index()]
    }

    /// The true round trip between two hosts.
    pub fn rtt(&self, from: HostId, to: HostId) -> Duration {
        self.one_way(from, to) + self.one_way(to, from)
    }

    /// The hosts of a role, in order.
    pub fn with_role(&self, is: impl Fn(&Role) -> bool) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| is(&host.role))
    }
}

impl Host {
    /// The role in one word.
    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Root(_) => "root",
            Role::Tld(..) => "tld",
            Role::Nameserver(..) => "nameserver",
            Role::Resolver { .. } => "resolver",
            Role::Origin { .. } => "origin",
            Role::Node { .. } => "node",
            Role::Client { .. } => "client",
            Role::Plain => "plain",
        }
    }
}

#[cfg(test)]
mod tests;
