//! The shape of a scenario file: which keys exist and what each means. What they may say together is checked in `check`.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::DnsMode;
use crate::units::{Rate, Size, Span};

/// A scenario file, read but not yet checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// What the lab is called; part of the namespaces' names. Lower case, digits, `-`, at most 24 characters.
    pub(super) name: Spanned<String>,
    /// The scenario whose claims `lab run` makes of these hosts; default: that of this file's name, else `visit`.
    pub(super) claims: Option<Spanned<String>>,
    /// An RTT matrix (.tri16) or a CSV of cities, relative to this file; default: the project's measured matrix.
    pub(super) matrix: Option<Spanned<PathBuf>>,
    /// Seeds placement, jitter, loss and reordering.
    #[serde(default = "one")]
    pub(super) seed: u64,
    /// The zone of the Atoll network, delegated to the nodes with `dns = true`.
    #[serde(default = "zone")]
    pub(super) zone: String,
    /// How the nodes' dnssrv answers.
    #[serde(default)]
    pub(super) dns_mode: DnsMode,
    /// What may happen to any packet.
    #[serde(default)]
    pub(super) weather: WeatherKeys,
    /// The hosts.
    #[serde(default)]
    pub(super) host: Vec<Spanned<HostKeys>>,
    /// Exceptions from the matrix.
    #[serde(default)]
    pub(super) link: Vec<LinkKeys>,
}

/// `[weather]`: see [`crate::router::Weather`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WeatherKeys {
    pub(super) jitter: Span,
    pub(super) loss: Option<Spanned<f64>>,
    pub(super) reorder: Option<Spanned<f64>>,
    pub(super) reorder_by: Option<Span>,
}

/// `[[link]]`: the one-way delay from one host to another, whatever the matrix says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkKeys {
    pub(super) from: Spanned<String>,
    pub(super) to: Spanned<String>,
    pub(super) delay: Span,
}

/// `[[host]]`: one host, or `count` of them called NAME1, NAME2, ...
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostKeys {
    pub(super) name: Spanned<String>,
    pub(super) role: Spanned<RoleName>,
    /// 1 if absent; if given, the names carry numbers. `{ short = 8, long = 20 }` differs by scale.
    pub(super) count: Option<Spanned<Count>>,
    /// A matrix row, a city, a list of these, `{ beside = "HOST" }`, `{ draw = "groups", groups, size, under }` or
    /// `{ draw = "apart" }`, which may have `under` too: near some host placed before.
    pub(super) at: Spanned<toml::Value>,
    /// Added to each RTT of this host: what lies between it and its site.
    #[serde(default)]
    pub(super) access: Span,
    /// Speed of the way out and in; unlimited if absent.
    pub(super) up: Option<Rate>,
    pub(super) down: Option<Rate>,
    /// Bytes that may wait before either.
    pub(super) queue: Option<Size>,

    /// Root, TLD, nameserver: `nsd` or `knot`. Resolver: `unbound`, `bind9`, `knot-resolver` or `pdns-recursor`.
    /// Client: `chromium`, to load pages; absent: it has what this machine has (curl, dig).
    pub(super) program: Option<Spanned<String>>,
    /// TLD: the zones it serves.
    pub(super) tlds: Option<Spanned<Vec<String>>>,
    /// Nameserver: its zone, and more records of it in zone-file form.
    pub(super) zone: Option<Spanned<String>>,
    pub(super) records: Option<Spanned<Vec<String>>>,
    /// Resolver: send EDNS Client Subnet to everybody.
    pub(super) ecs: Option<Spanned<bool>>,
    /// Origin: its host names, and its files.
    pub(super) names: Option<Spanned<Vec<String>>>,
    pub(super) files: Option<Spanned<Vec<FileKeys>>>,
    /// Client, node, origin, plain: who resolves names for it; `NAME*` pairs numbered hosts by their number.
    pub(super) resolver: Option<Spanned<String>>,
    /// Node: its configuration, relative to the scenario file; default: the lab's own template.
    pub(super) template: Option<Spanned<PathBuf>>,
    /// Node: serves DNS for the zone; the first so many (13 at most, all by default) are named by the TLD, and the first so many
    /// (1 by default) are seeds of the network.
    pub(super) dns: Option<Spanned<bool>>,
    pub(super) apex: Option<Spanned<usize>>,
    pub(super) seeds: Option<Spanned<usize>>,
}

/// A number, or one per scale.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "a count is a number or { short = 8, long = 20 }")]
pub(super) enum Count {
    Same(u16),
    ByScale { short: u16, long: u16 },
}

/// Files that an origin serves: `count` of them, `{n}` in the path being the number from 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    pub(super) path: String,
    pub(super) size: Size,
    #[serde(default = "one_file")]
    pub(super) count: u16,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    Root,
    Tld,
    Nameserver,
    Resolver,
    Origin,
    Node,
    Client,
    Plain,
}

fn one() -> u64 {
    1
}

fn one_file() -> u16 {
    1
}

fn zone() -> String {
    "nyud.example".into()
}
