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
//! ```
//!
//! Plain records go before public names, and what lies below a plain name does not exist (a wildcard would not reach it
//! either). Every server of the network answers for all of it: which cut a resolver came through, nobody can tell it.

use std::{collections::BTreeMap, str::FromStr as _, time::Duration};

use atoll_overlay::{Key, Level, NodeId};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::SOA};

use crate::{
    Config, ServeError,
    site::{self, Public, Site},
};

/// The names we own.
#[derive(Debug)]
pub(crate) struct Zone {
    origin: Name,
    cuts: Vec<Name>,
    /// Plain records by owner: labels relative to the zone, the rightmost first, so that what lies below a name follows it.
    plain: BTreeMap<Vec<Vec<u8>>, Vec<Record>>,
    /// The configured servers of the apex, if any.
    servers: Vec<(Name, Vec<Record>)>,
    contact: Name,
    serial: u32,
    negative: Duration,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'z> {
    /// Not in the zone.
    Outside,
    /// The zone itself, with its plain records.
    Apex(&'z [Record]),
    /// A name with plain records.
    Plain(&'z [Record]),
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
            contact: relative(&config.contact, &origin).map_err(|reason| ServeError::config("contact", reason))?,
            origin,
            plain: BTreeMap::new(),
            servers: Vec::new(),
            serial: config.serial,
            negative: config.ttl.negative,
        };
        zone.add_plain(config)?;
        zone.add_servers(config)?;
        Ok(zone)
    }

    /// What a name is.
    pub(crate) fn locate(&self, name: &Name) -> Place<'_> {
        let lower = name.to_lowercase();
        if !self.origin.zone_of(&lower) {
            return Place::Outside;
        }
        let depth = usize::from(name.num_labels().saturating_sub(self.origin.num_labels()));
        let labels: Vec<&[u8]> = lower.iter().take(depth).collect();
        let reversed: Vec<&[u8]> = labels.iter().rev().copied().collect();
        let Some((first, inner)) = reversed.split_first() else {
            return Place::Apex(self.records(&reversed));
        };
        if *first == b"l0" {
            return self.in_levels(&reversed);
        }
        match self.in_plain(&reversed) {
            InPlain::Found(records) => return Place::Plain(records),
            InPlain::Above => return Place::Empty(None),
            InPlain::Below => return Place::Missing(None),
            InPlain::Elsewhere => {}
        }
        if *first == SERVERS {
            return server(inner, None);
        }
        if let Some(node) = first.strip_prefix(b"n-").and_then(node_id) {
            return match site::public(labels.split_last().map_or(&[], |(_, host)| host)) {
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
        let lower = name.to_lowercase();
        let depth = usize::from(name.num_labels().saturating_sub(self.origin.num_labels()));
        let labels: Vec<&[u8]> = lower.iter().take(depth).collect();
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

    /// The name of a site's addresses.
    pub(crate) fn target(&self, site: Site) -> Option<Name> {
        let labels = [site.label().into_bytes(), HTTP.to_vec()];
        Name::from_labels(labels).ok()?.append_domain(self.name_of(Some(self.innermost()))).ok()
    }

    /// The servers of the apex as configured, with the addresses that lie in the zone.
    pub(crate) fn servers(&self) -> &[(Name, Vec<Record>)] {
        &self.servers
    }

    /// The SOA of the zone, or of a level's, to be kept this long in a negative answer.
    pub(crate) fn soa(&self, closest: Closest, ttl: Duration) -> Record {
        let first = self.servers.first().map_or(&self.origin, |(name, _)| name);
        let negative = seconds(self.negative);
        let soa = SOA::new(first.clone(), self.contact.clone(), self.serial, 3600, 600, 604_800, negative);
        Record::from_rdata(self.name_of(closest).clone(), seconds(ttl), RData::SOA(soa))
    }

    fn in_levels(&self, reversed: &[&[u8]]) -> Place<'_> {
        let deep =
            reversed.iter().zip(0_usize..self.cuts.len()).take_while(|(label, level)| is_level(label, *level)).count();
        let level = Level(u8::try_from(deep.saturating_sub(1)).unwrap_or(u8::MAX));
        match reversed.get(deep..).unwrap_or_default() {
            [] => Place::Cut(level),
            [label, inner @ ..] if *label == SERVERS => server(inner, Some(level)),
            [label, inner @ ..] if *label == HTTP && level == self.innermost() => match inner {
                [] => Place::Empty(Some(level)),
                [label] => Site::from_label(label).map_or(Place::Missing(Some(level)), Place::Target),
                [..] => Place::Missing(Some(level)),
            },
            [..] => Place::Missing(Some(level)),
        }
    }

    fn in_plain(&self, reversed: &[&[u8]]) -> InPlain<'_> {
        let owned = |labels: &[&[u8]]| labels.iter().map(|label| label.to_vec()).collect::<Vec<_>>();
        let key = owned(reversed);
        if let Some(records) = self.plain.get(&key) {
            return InPlain::Found(records);
        }
        let exists =
            |key: &Vec<Vec<u8>>| self.plain.range(key.clone()..).next().is_some_and(|(k, _)| k.starts_with(key));
        if exists(&key) {
            return InPlain::Above;
        }
        let below = reversed.first().is_some_and(|first| exists(&owned(&[*first])));
        if below { InPlain::Below } else { InPlain::Elsewhere }
    }

    fn records(&self, reversed: &[&[u8]]) -> &[Record] {
        let key: Vec<Vec<u8>> = reversed.iter().map(|label| label.to_vec()).collect();
        self.plain.get(&key).map_or(&[], Vec::as_slice)
    }

    fn add_plain(&mut self, config: &Config) -> Result<(), ServeError> {
        for (at, record) in config.records.iter().enumerate() {
            let wrong = |reason: String| ServeError::config(format!("records[{at}]"), reason);
            let name = relative(&record.name, &self.origin).map_err(wrong)?;
            let kind = RecordType::from_str(&record.kind.to_ascii_uppercase())
                .map_err(|_| wrong(format!("{:?} is no record type", record.kind)))?;
            if matches!(kind, RecordType::NS | RecordType::SOA | RecordType::ANY | RecordType::AXFR | RecordType::IXFR)
            {
                return Err(wrong(format!(
                    "a plain record cannot be {kind}: the zone's own are made, and it delegates nothing else"
                )));
            }
            let data = RData::try_from_str(kind, &record.data)
                .map_err(|error| wrong(format!("{:?}: {error}", record.data)))?;
            self.add(Record::from_rdata(name, seconds(record.ttl), data)).map_err(wrong)?;
        }
        let alone =
            |records: &Vec<Record>| records.len() > 1 && records.iter().any(|r| r.record_type() == RecordType::CNAME);
        match self.plain.iter().find(|(key, records)| alone(records) || (key.is_empty() && holds_alias(records))) {
            Some((_, records)) => {
                let name = records.first().map(|record| record.name.to_string()).unwrap_or_default();
                Err(ServeError::config("records", format!("{name} has a CNAME beside other records")))
            }
            None => Ok(()),
        }
    }

    fn add_servers(&mut self, config: &Config) -> Result<(), ServeError> {
        for (at, server) in config.nameservers.iter().enumerate() {
            let wrong = |reason: String| ServeError::config(format!("nameservers[{at}]"), reason);
            let name = relative(&server.name, &self.origin).map_err(wrong)?;
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
        Ok(())
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        let name = record.name.to_lowercase();
        if !self.origin.zone_of(&name) {
            return Err(format!("{name} does not lie in {}", self.origin));
        }
        let depth = usize::from(name.num_labels().saturating_sub(self.origin.num_labels()));
        let mut key: Vec<Vec<u8>> = name.iter().take(depth).map(<[u8]>::to_vec).collect();
        key.reverse();
        if key.iter().any(|label| label == b"*") || key.first().is_some_and(|label| label == b"l0") {
            return Err(format!("{name}: wildcards and names under l0 are the server's own"));
        }
        let records = self.plain.entry(key).or_default();
        if !records.iter().any(|known| known.data == record.data) {
            // The records of a set share one TTL (RFC 2181 5.2): the first one's.
            let kind = record.record_type();
            let ttl = records.iter().find(|known| known.record_type() == kind).map_or(record.ttl, |known| known.ttl);
            records.push(Record::from_rdata(record.name, ttl, record.data));
        }
        Ok(())
    }
}

enum InPlain<'z> {
    Found(&'z [Record]),
    /// Plain names lie below it.
    Above,
    /// It lies below a plain name.
    Below,
    Elsewhere,
}

fn server(inner: &[&[u8]], closest: Closest) -> Place<'static> {
    match inner {
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

fn holds_alias(records: &[Record]) -> bool {
    records.iter().any(|record| record.record_type() == RecordType::CNAME)
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

fn absolute(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no domain name: {error}"))?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

fn relative(text: &str, origin: &Name) -> Result<Name, String> {
    if text == "@" {
        return Ok(origin.clone());
    }
    if text.ends_with('.') {
        return absolute(text);
    }
    let name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no domain name: {error}"))?;
    name.to_lowercase().append_domain(origin).map_err(|error| error.to_string())
}

/// A TTL as records carry it.
pub(crate) fn seconds(span: Duration) -> u32 {
    // RFC 2181 8: at most 2^31 - 1.
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX).min(0x7fff_ffff)
}

const SERVERS: &[u8] = b"ns";
const HTTP: &[u8] = b"http";
