//! Why an answer is as it is: for the operator (`atoll explain`) and, if allowed, as TXT records of `why.NAME`.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use atoll_overlay::Prefix;
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::TXT};

use crate::{
    Mode,
    answer::{Answer, View},
    redirector::Redirector,
    roster::{Choice, Family, Standing},
    site::Site,
    zone::Place,
};

impl Redirector {
    /// What is known of a name for a client at an address, a fact a line, each short enough for a TXT record's string.
    pub(crate) fn why(&self, now: Instant, name: &Name, from: IpAddr) -> Vec<String> {
        let prefix = Prefix::of(from.to_canonical());
        let mut lines = vec![format!("name {name}")];
        let site = self.place_in_words(name, &mut lines);
        let told = self.explain(now, prefix);
        let settled = if told.settled { "settled" } else { "not settled yet" };
        lines.push(format!("prefix {prefix}: level {}, {settled}", told.level.0));
        lines.push(self.what_placed(now, prefix));
        if told.measured.is_empty() {
            lines.push("rtt unknown".to_owned());
        }
        lines.extend(told.measured.iter().map(|(source, rtt)| format!("rtt {rtt:?} by {source}")));
        if let Some((cluster, rtt)) = told.near {
            lines.push(format!("handed to cluster {cluster}, {rtt:?} from it"));
        }
        if let Some(site) = site {
            self.candidates(now, (site, prefix), &told.nodes, &mut lines);
        }
        // A TXT record's string has 255 bytes at most; only a name is as long.
        lines.iter_mut().for_each(|line| line.truncate(line.floor_char_boundary(255)));
        lines
    }

    /// The addresses that a public name is answered with for a client at an address, IPv4 first.
    pub(crate) fn chosen(&self, now: Instant, name: &Name, from: IpAddr) -> Vec<IpAddr> {
        let (Place::Public(site) | Place::Target(site)) = self.zone().locate(name) else { return Vec::new() };
        let prefix = Prefix::of(from.to_canonical());
        let choices = [Family::V4, Family::V6].into_iter().filter_map(|family| self.choice(now, site, prefix, family));
        choices.flat_map(|choice| choice.addresses).collect()
    }

    /// What an answer chooses for a client in a prefix, and from what.
    fn choice(&self, now: Instant, site: Site, prefix: Prefix, family: Family) -> Option<Choice> {
        let placement = self.clients().placement(now, prefix, self.config.sources.hints);
        let (roster, width) = (self.roster(), self.heat.width(now, site));
        let view = View { placement: &placement, roster: &roster, prefix, width, below: false };
        view.choose(&self.zone(), &self.config, site, family)
    }

    /// The answer to `why.NAME`, for who may ask.
    pub(crate) fn why_answer(&self, now: Instant, name: &Name, kind: RecordType, from: IpAddr) -> Option<Answer> {
        let from = from.to_canonical();
        let asks = kind == RecordType::TXT && self.config.why.iter().any(|network| network.contains(from));
        let first = name.iter().next().filter(|_| asks)?;
        let about = name.base_name();
        if !first.eq_ignore_ascii_case(b"why") || !self.zone().origin().zone_of(&about) {
            return None;
        }
        let lines = self.why(now, &about, from);
        let record = |line| Record::from_rdata(name.clone(), 0, RData::TXT(TXT::new(vec![line])));
        Some(Answer::with(lines.into_iter().map(record).collect()))
    }

    /// What decided where a prefix is served.
    fn what_placed(&self, now: Instant, prefix: Prefix) -> String {
        let placement = self.clients().placement(now, prefix, self.config.sources.hints);
        let what = match self.placed_by(now, prefix, &placement) {
            "override" => "the file of overrides",
            "hint" if self.clients().is_found_by_scouts(prefix) => "scouts: servers of other clusters that measured it",
            "hint" => "a hint: what another server said in the index",
            "unknown" => "nothing yet: no source has measured it",
            source => source,
        };
        format!("placed by {what}")
    }

    fn place_in_words(&self, name: &Name, lines: &mut Vec<String>) -> Option<Site> {
        let (words, site) = match self.zone().locate(name) {
            Place::Outside => ("of another zone".to_owned(), None),
            Place::Apex(_) => ("the zone itself".to_owned(), None),
            Place::Plain(_) => ("among the plain records".to_owned(), None),
            Place::Empty(_) => ("exists, without records".to_owned(), None),
            Place::Missing(_) => ("does not exist".to_owned(), None),
            Place::Public(site) => (format!("public name of site {}", site.label()), Some(site)),
            Place::Node(id, site) => (format!("site {} at node {id} alone", site.label()), None),
            Place::Cut(level) => (format!("where level {} begins", level.0), None),
            Place::Target(site) => (format!("addresses of site {}", site.label()), Some(site)),
            Place::Server(_, id) => (format!("name server {id}"), None),
        };
        lines.push(words);
        site
    }

    fn candidates(
        &self,
        now: Instant,
        (site, prefix): (Site, Prefix),
        distances: &[(IpAddr, Duration)],
        lines: &mut Vec<String>,
    ) {
        for family in [Family::V4, Family::V6] {
            let Some(choice) = self.choice(now, site, prefix, family) else { continue };
            let standing = match choice.standing {
                Standing::Live => "live",
                Standing::LastGood => "last good, none is live",
                Standing::Unseen => "not seen yet",
            };
            let (chosen, level) = (&choice.addresses, choice.level.0);
            // Those chosen first, however many there are.
            let (first, rest): (Vec<_>, Vec<_>) =
                choice.deck.cards().partition(|(address, ..)| chosen.contains(address));
            for (address, load, weight) in first.into_iter().chain(rest).take(CANDIDATES) {
                let mark = if chosen.contains(&address) { ", chosen" } else { "" };
                let distance = distances.iter().find(|(node, _)| *node == address);
                let distance = distance.map(|(_, rtt)| format!(", {rtt:?} from the client")).unwrap_or_default();
                lines.push(format!(
                    "candidate {address}: level {level}, {standing}, load {load}, weight {weight}{distance}{mark}"
                ));
            }
        }
        if self.config.mode == Mode::Plain {
            lines.push("mode plain: public names are not answered".to_owned());
        }
    }
}

/// Candidates told per family.
const CANDIDATES: usize = 16;

#[cfg(test)]
mod tests {
    use atoll_overlay::{Key, Level};

    use super::*;
    use crate::{Source, near::Near, search::Scouts};

    #[test]
    fn what_decided_where_a_client_is_served_and_how_far_candidates_are_is_told() {
        let redirector = crate::foreign_bytes::redirector();
        let (now, client) = (Instant::now(), IpAddr::from([203, 0, 113, 7]));
        let (prefix, name) = (Prefix::of(client), Name::from_ascii("www.example.com.nyud.example.").unwrap());
        let lines = || redirector.why(now, &name, client);
        let placed = || lines().into_iter().filter(|line| line.starts_with("placed by ")).collect::<Vec<_>>();
        assert_eq!(placed(), ["placed by nothing yet: no source has measured it"]);
        let candidate = || lines().into_iter().find(|line| line.starts_with("candidate 192.0.2.1: ")).unwrap();
        assert!(!candidate().contains("from the client"), "{}", candidate());
        redirector.measured(now, prefix, Source::Icmp, Duration::from_millis(100));
        assert_eq!(placed(), ["placed by icmp"]);
        redirector.clients().heard(now, prefix, [([192, 0, 2, 1].into(), Duration::from_millis(9))]);
        assert!(candidate().contains(", 9ms from the client"), "{}", candidate());
        let near = |cluster| Near {
            level: Level(2),
            rtt: Duration::from_millis(5),
            cluster: Key::from_bytes([cluster; 20]),
            servers: Vec::new(),
            proxies: Vec::new(),
            epoch: 0,
        };
        let hour = Duration::from_secs(3600);
        redirector.clients().asked(now, prefix, Some((near(7), hour)));
        assert_eq!(placed(), ["placed by a hint: what another server said in the index"]);
        let later = Instant::now() + hour;
        redirector.clients().scouted(later, prefix, Some((near(8), hour)), Scouts::Back);
        let told = redirector.why(later, &name, client);
        assert!(told.contains(&"placed by scouts: servers of other clusters that measured it".to_owned()), "{told:?}");
    }
}
