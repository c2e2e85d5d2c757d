//! What a peer keeps: its name, what each manager knows it by, and how much of its quota is used.

use atoll_proxy::Used;
use serde::{Deserialize, Serialize};

use crate::{
    manager::{token::Secret, wire::Welcome},
    state::{Kept as What, State, StateError},
};

/// See the file's head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// 16 hexadecimal digits.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) used: Used,
    /// What it proves by when it comes again, in hexadecimal digits, and for which network.
    #[serde(default)]
    credential: String,
    #[serde(default)]
    pub(crate) network: String,
    /// The port it listened on last.
    #[serde(default)]
    pub(crate) port: u16,
    /// What the manager said last: with it a peer serves although the manager is gone.
    #[serde(default)]
    pub(crate) welcome: Option<Welcome>,
}

impl Kept {
    /// What was kept, or a new name. A damaged file is as none: the peer then is another one.
    pub(crate) fn load(state: &State) -> Result<Self, StateError> {
        let kept = state.load(What::Peer)?.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        Ok(kept.unwrap_or_else(|| Self {
            name: format!("{:016x}", rand::random::<u64>()),
            used: Used::default(),
            credential: String::new(),
            network: String::new(),
            port: 0,
            welcome: None,
        }))
    }

    /// Writes it; what cannot be written is said.
    pub(crate) fn save(&self, state: &State) {
        if let Err(error) = state.save(What::Peer, &serde_json::to_vec(self).unwrap_or_default()) {
            tracing::warn!(%error, "what this peer is could not be saved");
        }
    }

    /// What it proves by in a network.
    pub(crate) fn credential(&self, network: &str) -> Option<Secret> {
        (self.network == network).then(|| Secret::from_hex(&self.credential))?
    }

    /// It was admitted to a network.
    pub(crate) fn admitted(&mut self, network: &str, credential: &Secret) {
        network.clone_into(&mut self.network);
        self.credential = credential.to_hex();
    }
}
