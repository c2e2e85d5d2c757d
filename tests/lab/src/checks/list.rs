//! The list of scenarios, and which of them may run at the same time.

use std::path::{Path, PathBuf};

use super::{
    bad_peers, cities, cold_start, death, distances, far_resolver, flash_crowd, large_file, locked_in, names,
    partition, purge, right_place, stage::Stage, visit,
};
use crate::{error::Error, scenario::Scale};

/// One scenario.
pub(super) struct Definition {
    /// Its name.
    pub(super) name: &'static str,
    /// The name of the file with its hosts.
    pub(super) file: &'static str,
    /// What it is about, for the table.
    pub(super) about: &'static str,
    /// What may run at the same time.
    pub(super) beside: Beside,
    /// Whether, at short scale, it goes on in the network that the one before it has left: what it claims does not hang on what was
    /// done there.
    pub(super) goes_on: bool,
    /// Makes its claims; an error is the claim `ran` failing.
    pub(super) show: fn(&mut Stage<'_>) -> Result<(), Error>,
}

/// What may run beside a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing: it claims speed, distance, or that nothing at all fails in a crowd.
    Nothing,
    /// At short scale one that mostly waits: its claims there are what a busy machine keeps.
    OneAtShortScale,
    /// At short scale others that mostly wait, as if it did.
    OthersAtShortScale,
    /// Others: it mostly waits.
    Others,
}

/// In the order of the table.
pub(super) const ALL: [Definition; 13] = [
    Definition {
        name: "distances",
        file: "distances",
        beside: Beside::Nothing,
        goes_on: false,
        about: "the lab's own distances under load",
        show: distances::show,
    },
    Definition {
        name: "names",
        file: "names",
        beside: Beside::Nothing,
        goes_on: false,
        about: "four resolvers, a delegation chain, a thin origin",
        show: names::show,
    },
    Definition {
        name: "cities",
        file: "cities",
        beside: Beside::OthersAtShortScale,
        goes_on: false,
        about: "a first look: curl finds its city's node",
        show: cities::show,
    },
    Definition {
        name: "right-place",
        file: "right-place",
        beside: Beside::OneAtShortScale,
        goes_on: false,
        about: "clients are sent to near proxies",
        show: right_place::show,
    },
    Definition {
        name: "locked-in",
        file: "right-place",
        beside: Beside::OneAtShortScale,
        goes_on: true,
        about: "refreshes stay with the near cluster",
        show: locked_in::show,
    },
    Definition {
        name: "flash-crowd",
        file: "flash-crowd",
        beside: Beside::Nothing,
        goes_on: false,
        about: "a crowd, one origin fetch per object",
        show: flash_crowd::show,
    },
    Definition {
        name: "death",
        file: "flash-crowd",
        beside: Beside::Nothing,
        goes_on: true,
        about: "a third of the nodes die in a crowd",
        show: death::show,
    },
    Definition {
        name: "partition",
        file: "flash-crowd",
        beside: Beside::Others,
        goes_on: false,
        about: "the world in two, and whole again",
        show: partition::show,
    },
    Definition {
        name: "far-resolver",
        file: "far-resolver",
        beside: Beside::OneAtShortScale,
        goes_on: false,
        about: "ECS finds the client, not its resolver",
        show: far_resolver::show,
    },
    Definition {
        name: "cold-start",
        file: "flash-crowd",
        beside: Beside::Others,
        goes_on: true,
        about: "no seed reachable, and a restart of all",
        show: cold_start::show,
    },
    Definition {
        name: "purge",
        file: "purge",
        beside: Beside::Others,
        goes_on: true,
        about: "a tag is purged while a node is away",
        show: purge::show,
    },
    Definition {
        name: "bad-peers",
        file: "bad-peers",
        beside: Beside::OthersAtShortScale,
        goes_on: false,
        about: "a peer with copies is slow, cut off, dead",
        show: bad_peers::show,
    },
    Definition {
        name: "large-file",
        file: "large-file",
        beside: Beside::OneAtShortScale,
        goes_on: false,
        about: "a large file for nodes behind thin lines",
        show: large_file::show,
    },
];

/// What is shown of hosts for which nobody says what to show.
pub(super) const VISIT: Definition = Definition {
    name: "visit",
    file: "cities",
    beside: Beside::Nothing,
    goes_on: false,
    about: "clients find and get what origins have",
    show: visit::show,
};

/// The names of all, for a file to choose from.
pub(crate) fn scenario_names() -> Vec<&'static str> {
    ALL.iter().chain([&VISIT]).map(|definition| definition.name).collect()
}

/// Scenarios that follow each other.
pub(super) type Sequence = Vec<&'static Definition>;

/// What runs when: sequences that run side by side, one group after the other. At short scale those that mostly wait follow each other
/// beside those that bear one of them; at full scale they run all at once, when all else is over.
pub(super) fn schedule(chosen: impl Iterator<Item = &'static Definition>, scale: Scale) -> Vec<Vec<Sequence>> {
    let (mut alone, mut paired, mut patient) = (Sequence::new(), Sequence::new(), Sequence::new());
    for definition in chosen {
        let sequence = match (definition.beside, scale) {
            (Beside::Others, _) | (Beside::OthersAtShortScale, Scale::Short) => &mut patient,
            (Beside::OneAtShortScale, Scale::Short) => &mut paired,
            (Beside::Nothing, _) | (Beside::OneAtShortScale | Beside::OthersAtShortScale, Scale::Long) => &mut alone,
        };
        sequence.push(definition);
    }
    match scale {
        Scale::Short => vec![vec![alone], vec![paired, patient]],
        Scale::Long => vec![vec![alone], patient.into_iter().map(|definition| vec![definition]).collect()],
    }
}

pub(super) fn find(name: &str) -> Result<&'static Definition, Error> {
    let known = || ALL.iter().chain([&VISIT]);
    known()
        .find(|definition| definition.name == name)
        .ok_or_else(|| Error::NoScenario { name: name.into(), known: ALL.map(|definition| definition.name).join(", ") })
}

impl Definition {
    /// The file with its hosts.
    pub(super) fn path(&self) -> PathBuf {
        let here = Path::new("tests/lab/scenarios");
        let folder = if here.exists() { here.into() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios") };
        folder.join(format!("{}.toml", self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_runs_once_and_what_must_not_be_disturbed_runs_alone() {
        for scale in [Scale::Short, Scale::Long] {
            let schedule = schedule(ALL.iter(), scale);
            let mut names: Vec<&str> = schedule.iter().flatten().flatten().map(|definition| definition.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), ALL.len());
            let together: Vec<&Vec<Sequence>> = schedule.iter().filter(|group| group.len() > 1).collect();
            let beside = |kind: fn(&Definition) -> bool| {
                together
                    .iter()
                    .flat_map(|group| group.iter())
                    .filter(|sequence| sequence.iter().any(|one| kind(one)))
                    .count()
            };
            assert_eq!(beside(|one| one.beside == Beside::Nothing), 0);
            // Those that bear one other follow each other.
            assert!(beside(|one| one.beside == Beside::OneAtShortScale) <= 1);
        }
    }

    #[test]
    fn who_goes_on_in_a_network_comes_right_after_one_that_leaves_it() {
        let schedule = schedule(ALL.iter(), Scale::Short);
        let sequences = schedule.iter().flatten();
        let mut pairs: Vec<[&str; 2]> = sequences
            .flat_map(|sequence| sequence.windows(2))
            .filter(|pair| pair[1].goes_on)
            .map(|pair| [pair[0].name, pair[1].name])
            .collect();
        pairs.sort_unstable();
        let expected = [
            ["cold-start", "purge"],
            ["flash-crowd", "death"],
            ["partition", "cold-start"],
            ["right-place", "locked-in"],
        ];
        assert_eq!(pairs, expected);
    }
}
