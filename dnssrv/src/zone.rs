//! The zone: which names exist in it, and what each is (RFC 1034 4.3.2, RFC 4592 2.2). It answers nothing.
//!
//! ```text
//!   nyud.example                     apex: SOA, NS, plain records
//!     www.example.com                public names, of any depth: CNAME to SITE.http.l2.l1.l0
//!     com                            above public names: exists, without records
//!     HOST.n-ID                      one node alone
//!     ID.ns                          name servers
//!     l0                             a cut; ID.ns.l0
//!       l1                           a cut; ID.ns.l1.l0
//!         l2                         a cut; ID.ns.l2.l1.l0
//!           SITE.http                addresses of the proxies for a site
//!           SITE.https               the same, for public names of one label: a certificate for *.ZONE covers these
//! ```
//!
//! Public names are the zone's one wildcard: plain records go before them, and what lies below a plain name is never one
//! (RFC 4592 3.3.1: its closest encloser is that name). In mode `plain` there are none. Every server of the network answers for
//! all of it: which cut a resolver came through, nobody can tell it.

use std::time::Duration;

use atoll_overlay::{Key, Level, NodeId};
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{NS, SOA},
};

use crate::{
    Config, Mode, ServeError, master,
    plain::{Found, Plain, Relative, holds},
    rdata,
    site::{self, Public, Site},
    words,
};

/// The names we own.
#[derive(Debug)]
pub(crate) struct Zone {
    origin: Name,
    cuts: Vec<Name>,
    plain: Plain,
    /// Whether nothing but plain records is answered.
    only_plain: bool,
    /// The configured servers of the apex, if any.
    servers: Vec<(Name, Vec<Record>)>,
    soa: Record,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'z> {
    /// Not in the zone.
    Outside,
    /// The zone itself, with its plain records.
    Apex(&'z [Record]),
    /// Among the plain records.
    Plain(Found<'z>),
    /// Exists, has no records and never will.
    Empty(Closest),
    /// Does not exist.
    Missing(Closest),
    /// A public name.
    Public(Site),
    /// A public name at one node alone.
    Node(NodeId, Site),
    /// Where a level begins.
    Cut(Level),
    /// The addresses of a site.
    Target(Site),
    /// A name server of the apex (none) or of a level.
    Server(Closest, NodeId),
}

/// The innermost zone around a name: the apex's (none) or that of a level. Its name is owner of the SOA in a negative answer:
/// so it is in bailiwick for whoever asks, whichever cut they came through.
pub(crate) type Closest = Option<Level>;

impl Zone {
    pub(crate) fn new(config: &Config) -> Result<Self, ServeError> {
        let origin = absolute(&config.zone).map_err(|reason| ServeError::config("zone", reason))?;
        if origin.is_root() {
            return Err(ServeError::config("zone", "the root is no zone to serve"));
        }
        let mut zone = Self {
            cuts: cuts(&origin, config.thresholds.len() + 1).map_err(|reason| ServeError::config("zone", reason))?,
            soa: soa(config, &origin).map_err(|reason| ServeError::config("contact", reason))?,
            plain: Plain::new(origin.clone()),
            only_plain: config.mode == Mode::Plain,
            origin,
            servers: Vec::new(),
        };
        zone.add_plain(config)?;
        zone.add_servers(config)?;
        let longest = zone.plain.longest_ttl().max(zone.soa.ttl);
        if config.dnssec.key.is_some() && config.dnssec.validity < 4 * Duration::from_secs(longest.into()) {
            let reason = format!(
                "four times the longest TTL of a record at least, which is {longest} s, or it outlives its signature"
            );
            return Err(ServeError::config("dnssec.validity", reason));
        }
        Ok(zone)
    }

    /// Holds the key that a signer has for the zone, so that it is found like any other record, by way of an alias, too.
    pub(crate) fn hold_key(&mut self, key: Record) {
        // It is the zone's own name, where no CNAME can be.
        let _ = self.plain.add(key);
    }

    /// What a name is.
    pub(crate) fn locate(&self, name: &Name) -> Place<'_> {
        if !self.origin.zone_of(name) {
            return Place::Outside;
        }
        let relative = Relative::new(name, &self.origin);
        let labels: Vec<&[u8]> = relative.labels().collect();
        let Some((first, outer)) = labels.split_last() else {
            return Place::Apex(self.plain.at(&self.origin));
        };
        if !self.only_plain && *first == b"l0" {
            let reversed: Vec<&[u8]> = labels.iter().rev().copied().collect();
            return self.in_levels(&reversed);
        }
        match self.plain.find(&relative) {
            Found::Unsaid if self.only_plain => return Place::Missing(None),
            Found::Unsaid => {}
            found => return Place::Plain(found),
        }
        if *first == SERVERS {
            return server(outer, None);
        }
        if let Some(node) = first.strip_prefix(b"n-").and_then(node_id) {
            return match site::public(outer) {
                Public::Site(site) => Place::Node(node, site),
                Public::Above => Place::Empty(None),
                Public::Impossible => Place::Missing(None),
            };
        }
        match site::public(&labels) {
            Public::Site(site) => Place::Public(site),
            Public::Above => Place::Empty(None),
            Public::Impossible => Place::Missing(None),
        }
    }

    /// The sites of the names between the zone and a public name: `example.com` for `www.example.com`.
    pub(crate) fn sites_above(&self, name: &Name) -> Vec<Site> {
        let relative = Relative::new(name, &self.origin);
        let labels: Vec<&[u8]> = relative.labels().collect();
        let above = (1..labels.len()).filter_map(|from| labels.get(from..));
        above
            .filter_map(|labels| if let Public::Site(site) = site::public(labels) { Some(site) } else { None })
            .collect()
    }

    /// The zone's name.
    pub(crate) const fn origin(&self) -> &Name {
        &self.origin
    }

    /// The level farthest in.
    pub(crate) fn innermost(&self) -> Level {
        Level(u8::try_from(self.cuts.len().saturating_sub(1)).unwrap_or(u8::MAX))
    }

    /// The name where a level begins; that of the zone for none.
    pub(crate) fn name_of(&self, closest: Closest) -> &Name {
        closest.and_then(|level| self.cuts.get(usize::from(level.0))).unwrap_or(&self.origin)
    }

    /// The name of a server in the apex's zone or that of a level.
    pub(crate) fn server_name(&self, closest: Closest, id: NodeId) -> Option<Name> {
        let labels = [id.to_string().into_bytes(), SERVERS.to_vec()];
        Name::from_labels(labels).ok()?.append_domain(self.name_of(closest)).ok()
    }

    /// The name of a site's addresses; `covered`: for public names of one label, which a certificate for the zone's `*` covers.
    pub(crate) fn target(&self, site: Site, covered: bool) -> Option<Name> {
        let labels = [site.label().into_bytes(), if covered { HTTPS } else { HTTP }.to_vec()];
        Name::from_labels(labels).ok()?.append_domain(self.name_of(Some(self.innermost()))).ok()
    }

    /// The servers of the apex as configured, with the addresses that lie in the zone.
    pub(crate) fn servers(&self) -> &[(Name, Vec<Record>)] {
        &self.servers
    }

    /// The addresses of a host in the zone, glue below a delegation among them.
    pub(crate) fn addresses(&self, host: &Name) -> impl Iterator<Item = &Record> {
        self.plain.at(host).iter().filter(|record| record.data.ip_addr().is_some())
    }

    /// The plain records at a name as it is, however occluded.
    pub(crate) fn at(&self, name: &Name) -> &[Record] {
        self.plain.at(name)
    }

    /// The SOA of the zone, or of a level's, to be kept this long in a negative answer, or as long as it itself says if that is
    /// shorter (RFC 2308 3).
    pub(crate) fn soa(&self, closest: Closest, ttl: Duration) -> Record {
        let minimum = if let RData::SOA(soa) = &self.soa.data { soa.minimum } else { u32::MAX };
        let ttl = seconds(ttl).min(minimum).min(self.soa.ttl);
        Record::from_rdata(self.name_of(closest).clone(), ttl, self.soa.data.clone())
    }

    /// The zone's name and the two ends of targets relative to it, in the bytes of a question.
    pub(crate) fn wire_names(&self) -> (Vec<u8>, [Vec<u8>; 2]) {
        let inner = Relative::new(self.name_of(Some(self.innermost())), &self.origin);
        let end = |label: &[u8]| [&[u8::try_from(label.len()).unwrap_or(u8::MAX)], label, inner.wire()].concat();
        (rdata::wire(&self.origin), [end(HTTP), end(HTTPS)])
    }

    /// Whether a target's name is one that stands for public names of one label.
    pub(crate) fn is_covered(target: &Name) -> bool {
        target.iter().nth(1).is_some_and(|label| label.eq_ignore_ascii_case(HTTPS))
    }

    /// Whether names under a label right below the zone are public ones and nothing else: the label is given after its length,
    /// in lower case.
    pub(crate) fn is_common(&self, label: &[u8]) -> bool {
        let [_, text @ ..] = label else { return false };
        let own = text == SERVERS || text == b"l0" || text.starts_with(b"n-");
        !own && !text.iter().all(u8::is_ascii_digit) && self.plain.leaves_open(label)
    }

    /// The zone's SOA as an answer.
    pub(crate) fn own_soa(&self) -> Record {
        self.soa.clone()
    }

    /// All plain records.
    pub(crate) const fn plain(&self) -> &Plain {
        &self.plain
    }

    fn in_levels(&self, reversed: &[&[u8]]) -> Place<'_> {
        let deep =
            reversed.iter().zip(0_usize..self.cuts.len()).take_while(|(label, level)| is_level(label, *level)).count();
        let level = Level(u8::try_from(deep.saturating_sub(1)).unwrap_or(u8::MAX));
        match reversed.get(deep..).unwrap_or_default() {
            [] => Place::Cut(level),
            [label, inner @ ..] if *label == SERVERS => server(inner, Some(level)),
            [label, inner @ ..] if (*label == HTTP || *label == HTTPS) && level == self.innermost() => match inner {
                [] => Place::Empty(Some(level)),
                [label] => Site::from_label(label).map_or(Place::Missing(Some(level)), Place::Target),
                [..] => Place::Missing(Some(level)),
            },
            [..] => Place::Missing(Some(level)),
        }
    }

    fn add_plain(&mut self, config: &Config) -> Result<(), ServeError> {
        for (at, record) in config.records.iter().enumerate() {
            let read = || {
                let name = words::name(&record.name, Some(&self.origin))?;
                let kind = rdata::kind(&record.kind)?;
                let data = rdata::data(kind, &record.data, None);
                let data = data.map_err(|error| format!("{:?}: {error}", record.data))?;
                Ok(Record::from_rdata(name, seconds(record.ttl), data))
            };
            let record = read();
            record
                .and_then(|record| self.add(record))
                .map_err(|reason| ServeError::config(format!("records[{at}]"), reason))?;
        }
        if let Some(path) = &config.zone_file {
            let wrong = |reason: String| ServeError::config("zone_file", format!("{}: {reason}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            let origin = self.origin.clone();
            master::read(&text, &origin, 3600, &mut |record| self.add(record)).map_err(wrong)?;
        }
        Ok(())
    }

    fn add_servers(&mut self, config: &Config) -> Result<(), ServeError> {
        for (at, server) in config.nameservers.iter().enumerate() {
            let wrong = |reason: String| ServeError::config(format!("nameservers[{at}]"), reason);
            let name = words::name(&server.name, Some(&self.origin)).map_err(wrong)?;
            let ttl = seconds(config.ttl.delegation);
            let data = server.addresses.iter().map(|address| RData::from(*address));
            let addresses: Vec<Record> = data.map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
            if self.origin.zone_of(&name) {
                if addresses.is_empty() {
                    return Err(wrong(format!("{name} lies in the zone and needs addresses")));
                }
                for record in &addresses {
                    self.add(record.clone()).map_err(wrong)?;
                }
            }
            self.servers.push((name, addresses));
        }
        // The zone file's go before them.
        if !holds(self.plain.at(&self.origin), RecordType::NS) {
            let ttl = seconds(config.ttl.delegation);
            let names: Vec<Name> = self.servers.iter().map(|(name, _)| name.clone()).collect();
            for name in names {
                let record = Record::from_rdata(self.origin.clone(), ttl, RData::NS(NS(name)));
                self.plain.add(record).map_err(|reason| ServeError::config("nameservers", reason))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        rdata::check(&record.data)?;
        let at_apex = record.name == self.origin;
        if let RData::SOA(_) = record.data {
            if !at_apex {
                return Err(format!("{}: a SOA belongs at {}", record.name, self.origin));
            }
            self.soa = record;
            return Ok(());
        }
        if at_apex && record.record_type() == RecordType::CNAME {
            return Err(format!("{}: a zone has a SOA, and a CNAME may stand beside nothing", record.name));
        }
        if self.only_plain {
            return self.plain.add(record);
        }
        let relative = Relative::new(&record.name, &self.origin);
        let labels: Vec<&[u8]> = relative.labels().collect();
        if labels.last() == Some(&&b"l0"[..]) {
            return Err(format!("{}: names under l0 are the levels' own", record.name));
        }
        if labels == [b"*"] {
            return Err(format!("{}: public names are the zone's wildcard, unless mode is \"plain\"", record.name));
        }
        if at_apex && record.record_type() == rdata::DNAME {
            return Err(format!("{}: a DNAME here would rename every public name", record.name));
        }
        self.plain.add(record)
    }
}

/// What lies under `ns.`: the names of servers, one label each.
fn server(labels: &[&[u8]], closest: Closest) -> Place<'static> {
    match labels {
        [] => Place::Empty(closest),
        [label] => node_id(label).map_or(Place::Missing(closest), |id| Place::Server(closest, id)),
        [..] => Place::Missing(closest),
    }
}

fn node_id(label: &[u8]) -> Option<NodeId> {
    Some(std::str::from_utf8(label).ok()?.parse::<Key>().ok()?.into())
}

fn is_level(label: &[u8], level: usize) -> bool {
    label.split_first().is_some_and(|(letter, digits)| *letter == b'l' && digits == level.to_string().as_bytes())
}

fn cuts(origin: &Name, levels: usize) -> Result<Vec<Name>, String> {
    let mut cuts: Vec<Name> = Vec::new();
    for level in 0..levels {
        let outer = cuts.last().unwrap_or(origin);
        cuts.push(outer.prepend_label(format!("l{level}")).map_err(|error| error.to_string())?);
    }
    // The longest name we make ourselves must fit: ID.ns.l2.l1.l0.ZONE.
    match cuts.last() {
        Some(last) if last.len() + 44 <= 255 => Ok(cuts),
        Some(_) | None => Err("the zone's name is too long for names below it".to_owned()),
    }
}

/// A zone's name as configured, in lower case.
pub(crate) fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no domain name: {error}"))?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

/// The SOA as the settings have it. The numbers are those RIPE-203 and zone checkers ask for; nobody transfers this zone.
fn soa(config: &Config, origin: &Name) -> Result<Record, String> {
    let first = match config.nameservers.first() {
        Some(server) => words::name(&server.name, Some(origin))?,
        None => origin.clone(),
    };
    let contact = words::name(&config.contact, Some(origin))?.to_lowercase();
    let negative = seconds(config.ttl.negative);
    let soa = SOA::new(first, contact, config.serial, 14_400, 3600, 1_209_600, negative);
    Ok(Record::from_rdata(origin.clone(), negative, RData::SOA(soa)))
}

/// A TTL as records carry it.
pub(crate) fn seconds(span: Duration) -> u32 {
    // RFC 2181 8: at most 2^31 - 1.
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX).min(0x7fff_ffff)
}

const SERVERS: &[u8] = b"ns";
const HTTP: &[u8] = b"http";
const HTTPS: &[u8] = b"https";
