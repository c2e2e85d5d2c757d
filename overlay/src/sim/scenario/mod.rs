//! The papers' experiments and ours, each a function of a [`Setup`] that gives a [`Report`]: numbers with the bounds they are held
//! to, and figures to draw. One file a group of scenarios.

mod crowd;
mod drill;
mod form;
mod harm;
mod hot;
mod quiet;
mod report;
mod search;
mod setup;

pub use self::{
    report::{Bound, Figure, Metric, Report, Series},
    setup::Setup,
};

/// Called now and then with the part of the work that is done, 0 to 1, and the events simulated so far.
pub type Progress<'a> = &'a mut dyn FnMut(f64, u64);

/// What can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// How long gets take by the level that answers them.
    Lookup,
    /// The load on the nodes around one key that all put and get.
    HotKey,
    /// How clusters form.
    Clusters,
    /// Many want a few new files at once.
    FlashCrowd,
    /// Nodes come and go.
    Churn,
    /// Half of the nodes die at once.
    Kill,
    /// The network falls into two halves, and heals.
    Partition,
    /// A fifth of the members do harm.
    Adversary,
    /// What a quiet network costs.
    Idle,
    /// Gets by levels against gets in one level while packets are lost.
    Loss,
    /// `Lookup` among a hundred thousand nodes: memory and speed of the simulator itself.
    Cost,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Lookup,
        Self::HotKey,
        Self::Clusters,
        Self::FlashCrowd,
        Self::Churn,
        Self::Kill,
        Self::Partition,
        Self::Adversary,
        Self::Idle,
        Self::Loss,
        Self::Cost,
    ];

    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::HotKey => "hot-key",
            Self::Clusters => "clusters",
            Self::FlashCrowd => "flash-crowd",
            Self::Churn => "churn",
            Self::Kill => "kill",
            Self::Partition => "partition",
            Self::Adversary => "adversary",
            Self::Idle => "idle",
            Self::Loss => "loss",
            Self::Cost => "cost",
        }
    }

    /// The scenario of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// How many nodes it has unless said otherwise.
    #[must_use]
    pub const fn nodes(self) -> usize {
        match self {
            Self::Lookup | Self::Kill => 10_000,
            Self::HotKey => 494,
            Self::Clusters | Self::Idle => 490,
            Self::FlashCrowd => 166,
            Self::Churn | Self::Partition | Self::Adversary | Self::Loss => 1_000,
            Self::Cost => 100_000,
        }
    }

    /// How many virtual minutes its main part lasts unless said otherwise.
    #[must_use]
    pub const fn minutes(self) -> u64 {
        match self {
            Self::Lookup | Self::HotKey | Self::Kill | Self::Adversary | Self::Loss => 2,
            Self::Clusters => 65,
            Self::FlashCrowd => 30,
            Self::Churn | Self::Partition | Self::Idle | Self::Cost => 10,
        }
    }

    /// Runs it.
    pub fn run(self, setup: &Setup, progress: Progress<'_>) -> Report {
        match self {
            Self::Lookup | Self::Cost => search::lookup(self, setup, progress),
            Self::Loss => search::loss(setup, progress),
            Self::HotKey => hot::hot_key(setup, progress),
            Self::Clusters => form::clusters(setup, progress),
            Self::FlashCrowd => crowd::flash_crowd(setup, progress),
            Self::Churn => drill::churn(setup, progress),
            Self::Kill => drill::kill(setup, progress),
            Self::Partition => drill::partition(setup, progress),
            Self::Adversary => harm::adversary(setup, progress),
            Self::Idle => quiet::idle(setup, progress),
        }
    }
}
