//! What a scenario measured: numbers with their bounds, figures, and what was broken meanwhile.

/// Everything a run gives.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order they are shown.
    pub metrics: Vec<Metric>,
    /// What there is to draw.
    pub figures: Vec<Figure>,
    /// Invariants that did not hold, with the virtual time; empty when all is well.
    pub violations: Vec<String>,
    /// Events simulated.
    pub events: u64,
    /// Hash over all that happened: the same for the same setup.
    pub trace: u64,
}

/// A number and what it is held to.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Its name, stable once published; the unit is its last part.
    pub name: String,
    /// The number; not a number where nothing was measured.
    pub value: f64,
    /// What it must be; none if it is only printed.
    pub bound: Option<Bound>,
}

/// What a number must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
    /// Exactly this.
    Exactly(f64),
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its file's name, without the ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// What the axes show.
    pub axes: [String; 2],
    /// Lines, or points if `points`.
    pub series: Vec<Series>,
    /// Points instead of lines.
    pub points: bool,
}

/// One line, or one group of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

impl Bound {
    /// Whether a number is as it must be.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
            Self::Exactly(wanted) => (value - wanted).abs() < 1e-9,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
        }
    }
}

impl Report {
    /// Adds a number that is only printed.
    pub(super) fn print(&mut self, name: impl Into<String>, value: f64) {
        self.metrics.push(Metric { name: name.into(), value, bound: None });
    }

    /// Adds a number that is held to something.
    pub(super) fn hold(&mut self, name: impl Into<String>, value: f64, bound: Bound) {
        self.metrics.push(Metric { name: name.into(), value, bound: Some(bound) });
    }

    /// Notes what a simulation says of itself at its end.
    pub(super) fn close(&mut self, sim: &crate::sim::Sim) {
        self.violations.extend_from_slice(sim.violations());
        self.events += sim.events();
        self.trace = self.trace.rotate_left(1) ^ sim.trace_hash();
    }

    /// The number of this name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|one| one.name == name).map(|one| one.value)
    }

    /// Whether every number that is held to something is as it must be, and nothing was broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let held = |one: &Metric| one.bound.is_none_or(|bound| bound.holds(one.value));
        self.violations.is_empty() && self.metrics.iter().all(held)
    }
}

/// Measured values, to take percentiles of.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    values: Vec<f64>,
}

impl Sample {
    pub(super) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value below which this share of all lies, in thousandths; not a number if there are none.
    pub(super) fn at(&self, permille: usize) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * permille / 1_000).min(last)).copied().unwrap_or(f64::NAN)
    }

    /// The share of values up to each, at a hundred places.
    pub(super) fn curve(&self, name: &str) -> Series {
        let points =
            (0..=100).map(|percent| (self.at(percent * 10), f64::from(u32::try_from(percent).unwrap_or(0)) / 100.0));
        Series { name: name.to_owned(), points: points.filter(|(value, _)| value.is_finite()).collect() }
    }
}

/// A count as a number to calculate with.
pub(super) fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The same for a 64-bit count; exact below 2^32, which is enough for what is shown.
pub(super) fn wide(number: u64) -> f64 {
    f64::from(u32::try_from(number >> 16).unwrap_or(u32::MAX)) * 65_536.0
        + f64::from(u32::try_from(number & 0xffff).unwrap_or(0))
}
