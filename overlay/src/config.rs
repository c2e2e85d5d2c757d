//! The overlay's settings.

use serde::{Deserialize, Serialize};

/// How the index behaves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}
