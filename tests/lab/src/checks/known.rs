//! The list of known failures: claims that a part of Atoll cannot meet yet, each with the part that owns it. It may only shrink: a
//! claim that holds again is named by every run until it is taken off, and a new entry needs a new count in the test below.

use serde::Deserialize;

/// One entry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    /// The scenario.
    pub(crate) scenario: String,
    /// The claim, or `ran`; `NAME*` stands for all that begin so.
    pub(crate) claim: String,
    /// Who owns it.
    pub(crate) part: Part,
    /// What was measured when it was entered.
    pub(crate) figure: String,
}

/// The parts of Atoll that can own a failure.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Overlay,
    Dnssrv,
    Store,
    ProxyNetwork,
}

impl Part {
    /// As the list writes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Dnssrv => "dnssrv",
            Self::Store => "store",
            Self::ProxyNetwork => "proxy-network",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    failure: Vec<Known>,
}

/// The list as it was when the lab was built.
pub(crate) fn list() -> Vec<Known> {
    toml::from_str::<List>(TEXT).map(|list| list.failure).unwrap_or_default()
}

impl Known {
    /// Whether it stands for this claim.
    pub(crate) fn covers(&self, scenario: &str, claim: &str) -> bool {
        self.scenario == scenario
            && match self.claim.strip_suffix('*') {
                Some(start) => claim.starts_with(start),
                None => self.claim == claim,
            }
    }
}

const TEXT: &str = include_str!("../../known-failures.toml");

#[cfg(test)]
mod tests {
    use super::*;

    /// Lower this with the list, never raise it: it was set by the first runs at full scale.
    const ENTRIES: usize = 0;

    #[test]
    fn the_list_is_sound_and_only_shrinks() {
        let list = toml::from_str::<List>(TEXT).unwrap().failure;
        assert_eq!(list.len(), ENTRIES);
        for known in list {
            assert!(super::super::scenario_names().contains(&known.scenario.as_str()), "{known:?}: no such scenario");
            assert!(!known.figure.is_empty() && !known.claim.is_empty());
        }
    }
}
