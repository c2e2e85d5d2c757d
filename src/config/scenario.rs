//! A scenario in a file: the name of the experiment, and what it is run with where that is not the experiment's own.

use std::{fs, path::Path};

use atoll_overlay::sim::Setup;
use serde::Deserialize;

/// What `atoll sim FILE` runs.
#[derive(Debug, Deserialize)]
pub struct ScenarioFile {
    /// The experiment: lookup, hot-key, clusters, ...
    pub scenario: String,
    /// What it is run with.
    #[serde(default)]
    pub setup: Setup,
}

impl ScenarioFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no scenario.
    pub fn load(file: &Path) -> Result<Self, ScenarioFileError> {
        let shown = || file.display().to_string();
        let text = fs::read_to_string(file).map_err(|error| ScenarioFileError::Unreadable(shown(), error))?;
        toml::from_str(&text).map_err(|error| ScenarioFileError::Malformed(shown(), Box::new(error)))
    }
}

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioFileError {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    /// It is not TOML, or says what no scenario says.
    #[error("{0}: {1}")]
    Malformed(String, Box<dyn std::error::Error + Send + Sync>),
}
