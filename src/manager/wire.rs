//! What managers and peers say to each other: JSON over HTTP, on the manager's own listener.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /_atoll/knock` | | [`Challenge`]: a nonce, good once and for 30 s |
//! | `POST /_atoll/join` | [`Join`], proved by the token or by what an earlier join gave | [`Welcome`], proved in turn |
//! | `POST /_atoll/beat`, `Atoll-Proof` | [`Beat`], twice a second | [`Orders`] |
//! | `GET /_atoll/hello?nonce=N` to a peer | | [`Hello`]: proof that this peer is at this address |
//!
//! Nothing secret crosses the network: both sides derive the session's key from the token and both nonces. A beat's number only
//! grows, so a repeated one is refused. Every list is bounded where it is read.

use serde::{Deserialize, Serialize};

use super::token::Secret;
use crate::front::{meter::Download, record::Record};

/// What a knock is answered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Challenge {
    /// To be proved with.
    pub(crate) nonce: String,
    /// The network's id, 16 hexadecimal digits.
    pub(crate) network: String,
    /// The manager's version.
    pub(crate) version: String,
}

/// A machine asks to be admitted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Join {
    /// The id of the token, or "" if this is a peer that was admitted before.
    pub(crate) token: String,
    /// The peer's name for itself, 16 hexadecimal digits, kept through restarts.
    pub(crate) peer: String,
    /// The challenge's nonce.
    pub(crate) nonce: String,
    /// The peer's own nonce.
    pub(crate) own_nonce: String,
    /// Where clients shall be led; "" leaves it to the manager: the address it sees, and `port`.
    pub(crate) advertise: String,
    /// Where it listens.
    pub(crate) port: u16,
    /// The public key of its node in the network.
    pub(crate) node: String,
    /// Its version.
    pub(crate) version: String,
    /// See [`Join::prove`].
    pub(crate) proof: String,
}

impl Join {
    /// Everything that is proved.
    fn parts<'j>(&'j self, port: &'j [u8]) -> [&'j [u8]; 9] {
        let texts = [&self.token, &self.peer, &self.nonce, &self.own_nonce, &self.advertise, &self.node, &self.version];
        let [a, b, c, d, e, f, g] = texts.map(|text| text.as_bytes());
        [b"join", a, b, c, d, e, f, g, port]
    }

    /// Adds the proof.
    pub(crate) fn prove(mut self, secret: &Secret) -> Self {
        self.proof = secret.proof(&self.parts(&self.port.to_be_bytes()));
        self
    }

    /// Whether it was made by somebody who knows the secret.
    pub(crate) fn is_proved(&self, secret: &Secret) -> bool {
        secret.proves(&self.proof, &self.parts(&self.port.to_be_bytes()))
    }

    /// The key of the session that it opens.
    pub(crate) fn session(&self, secret: &Secret) -> Secret {
        secret.derived("atoll peer session v1", [&self.nonce, &self.own_nonce])
    }

    /// What the peer proves by when it comes again.
    pub(crate) fn credential(&self, secret: &Secret) -> Secret {
        secret.derived("atoll peer credential v1", [&self.nonce, &self.own_nonce])
    }
}

/// An admitted peer learns what it serves and whom it knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Welcome {
    /// The URL clients are led to.
    pub(crate) url: String,
    /// The backend.
    pub(crate) origin: String,
    /// `HOST:PORT` to dial for it, "" for its own.
    pub(crate) via: String,
    /// The machine on which alone the backend's name means it; "" if it means the same everywhere.
    pub(crate) place: String,
    /// The name of the private network.
    pub(crate) network: String,
    /// The network's id, 16 hexadecimal digits.
    pub(crate) network_id: String,
    /// The certificate of the peer's node there.
    pub(crate) certificate: String,
    /// Nodes of it to ask first, `HOST:PORT`.
    pub(crate) bootstrap: Vec<String>,
    /// Whether addresses are to be truncated before they leave the peer.
    pub(crate) private: bool,
    /// Proof that the manager, too, knows the token: of all the above.
    pub(crate) proof: String,
}

impl Welcome {
    /// Adds the proof.
    pub(crate) fn prove(mut self, session: &Secret) -> Self {
        self.proof = session.proof(&[&self.said()]);
        self
    }

    /// Whether the manager knows the token.
    pub(crate) fn is_proved(&self, session: &Secret) -> bool {
        session.proves(&self.proof, &[&self.said()])
    }

    fn said(&self) -> Vec<u8> {
        let bare = Self { proof: String::new(), ..self.clone() };
        serde_json::to_vec(&bare).unwrap_or_default()
    }
}

/// How a peer is, and what it has done since.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Beat {
    pub(crate) peer: String,
    /// Grows with every beat of a session.
    pub(crate) number: u64,
    /// It is leaving: nobody new.
    pub(crate) draining: bool,
    /// Downloads under way.
    pub(crate) in_flight: u64,
    /// The longest running of them, at most [`DOWNLOADS`].
    pub(crate) downloads: Vec<Download>,
    /// Body bytes sent to clients since it started.
    pub(crate) sent: u64,
    /// Body bytes received from the origin since it started.
    pub(crate) origin_bytes: u64,
    /// Objects in its store.
    pub(crate) copies: u64,
    /// Bytes a second it was lent with.
    pub(crate) rate: Option<u64>,
    /// Bytes of its quota left.
    pub(crate) quota_left: Option<u64>,
    /// How much it wants against others; 100 is the norm, and meant where nothing is said.
    pub(crate) weight: Option<u16>,
    /// Nodes of the network it knows.
    pub(crate) neighbours: u64,
    /// How long its connect to the manager took, in microseconds.
    pub(crate) rtt_us: Option<u64>,
    pub(crate) version: String,
    /// The number of the first record.
    pub(crate) first_record: u64,
    /// Records, oldest first, at most [`RECORDS`].
    pub(crate) records: Vec<Record<'static>>,
    /// Records that found its queue full.
    pub(crate) dropped_records: u64,
    /// What came of checks it was asked for.
    pub(crate) checked: Vec<Checked>,
    /// How far it is with files it was asked to warm.
    pub(crate) warmed: Vec<Warmed>,
}

/// What a peer is told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Orders {
    /// How the manager sees it, for its operator.
    pub(crate) standing: String,
    /// Records below this number have arrived.
    pub(crate) collected: u64,
    /// Leave well.
    pub(crate) drain: bool,
    /// Stop at once.
    pub(crate) stop: bool,
    /// Dial these and say whether they are who they say.
    pub(crate) check: Vec<Check>,
    /// Fetch these paths of the backend.
    pub(crate) warm: Vec<String>,
}

/// A peer to be dialled by another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Check {
    pub(crate) peer: String,
    pub(crate) url: String,
    pub(crate) nonce: String,
}

/// What the dial brought: the peer's [`Hello`] proof, or why there is none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Checked {
    pub(crate) peer: String,
    pub(crate) nonce: String,
    pub(crate) proof: String,
    pub(crate) error: String,
}

/// How far a file is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Warmed {
    pub(crate) path: String,
    pub(crate) got: u64,
    pub(crate) total: Option<u64>,
    /// Whole and in its cache.
    pub(crate) done: bool,
    /// Why not, if it failed.
    pub(crate) error: String,
}

/// What a peer answers who dials it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    pub(crate) peer: String,
    /// Of the nonce and the URL it is known by.
    pub(crate) proof: String,
}

/// The proof of a [`Hello`].
pub(crate) fn hello_proof(session: &Secret, nonce: &str, url: &str) -> String {
    session.proof(&[b"hello", nonce.as_bytes(), url.as_bytes()])
}

/// Whether that proof is right.
pub(crate) fn hello_proves(session: &Secret, proof: &str, nonce: &str, url: &str) -> bool {
    session.proves(proof, &[b"hello", nonce.as_bytes(), url.as_bytes()])
}

/// The proof of a beat, sent as `Atoll-Proof`.
pub(crate) fn beat_proof(session: &Secret, body: &[u8]) -> String {
    session.proof(&[b"beat", body])
}

/// Whether that proof is right.
pub(crate) fn beat_proves(session: &Secret, proof: &str, body: &[u8]) -> bool {
    session.proves(proof, &[b"beat", body])
}

/// The field that carries a beat's proof.
pub(crate) const PROOF: http::HeaderName = http::HeaderName::from_static("atoll-proof");

/// Downloads in a beat.
pub(crate) const DOWNLOADS: usize = 16;

/// Records in a beat.
pub(crate) const RECORDS: usize = 500;

/// Bytes of a beat.
pub(crate) const BEAT_BYTES: usize = 8 << 20;

/// Whether a text is a peer's name: 16 hexadecimal digits.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
