//! Taking a place back. Revocations are small signed records that spread to every node and are pulled by those that were away; a
//! set of them only grows, so an old one replayed changes nothing.

use std::collections::BTreeMap;

use super::{
    Certificate, Grant, Malformed, NetworkId, NotMember, PublicKey, TextError, UnixTime,
    bytes::Reader,
    signing::{Purpose, Secret, SignatureBytes, verify},
    text::{self, Kind},
};

/// What is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// A node: every certificate for this key with this serial, whenever issued; with serial 0, whatever the serial.
    Node {
        /// Its public key.
        key: PublicKey,
        /// Its serial.
        serial: u64,
    },
    /// An admission key: every certificate that it signed.
    Admission(PublicKey),
}

/// A signed revocation.
/// Layout: magic `arv1` 4; signer 1 (0 network key, 1 admission key, then its grant 113); what 1 (0 node: key 32, serial 8;
/// 1 admission key: key 32); issued 8 (Unix seconds); signature 64 over the bytes from `what` to `issued`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// What is revoked.
    pub what: Revoked,
    /// When, by the signer's clock.
    pub issued: UnixTime,
    /// The grant of the admission key that signed it; none if the network key did. It counts for what that key admitted only.
    grant: Option<Grant>,
    signature: SignatureBytes,
}

impl Revocation {
    /// Bytes of a revocation at most.
    pub const LIMIT: usize = 231;

    pub(super) fn by_network(by: &Secret, network: &NetworkId, what: Revoked, issued: UnixTime) -> Self {
        let signature = by.sign(Purpose::Revocation, network, &signed_bytes(what, issued));
        Self { what, issued, grant: None, signature }
    }

    pub(super) fn by_admission(
        by: &Secret,
        network: &NetworkId,
        grant: Grant,
        what: Revoked,
        issued: UnixTime,
    ) -> Self {
        Self { grant: Some(grant), ..Self::by_network(by, network, what, issued) }
    }

    /// Whether a spread record is a revocation, by its magic.
    #[must_use]
    pub fn is_one(record: &[u8]) -> bool {
        record.starts_with(&MAGIC)
    }

    /// Reads the layout above; believes nothing yet.
    ///
    /// # Errors
    /// The bytes are no revocation of a version known here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes.strip_prefix(&MAGIC).ok_or(Malformed)?);
        let grant = match reader.byte()? {
            0 => None,
            1 => Some(Grant::read(&mut reader)?),
            _ => return Err(Malformed),
        };
        let what = match reader.byte()? {
            0 => Revoked::Node { key: PublicKey(reader.take()?), serial: reader.number()? },
            1 => Revoked::Admission(PublicKey(reader.take()?)),
            _ => return Err(Malformed),
        };
        let revocation = Self { what, issued: UnixTime(reader.number()?), grant, signature: reader.take()? };
        reader.end()?;
        Ok(revocation)
    }

    /// The revocation kept as this text.
    ///
    /// # Errors
    /// The text is something else, or damaged.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        text::read(text, Kind::Revocation, Self::from_bytes)
    }

    /// The layout above.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        match &self.grant {
            None => bytes.push(0),
            Some(grant) => {
                bytes.push(1);
                grant.write(&mut bytes);
            }
        }
        bytes.extend_from_slice(&signed_bytes(self.what, self.issued));
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// The revocation as text for a file. No secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let what = match self.what {
            Revoked::Node { key, serial: 0 } => format!("the node with key {key}, whatever its serial"),
            Revoked::Node { key, serial } => format!("the node with key {key} and serial {serial}"),
            Revoked::Admission(key) => format!("the admission key {key}"),
        };
        text::write(Kind::Revocation, &self.to_bytes(), &[("revokes", what), ("issued", self.issued.to_string())])
    }

    /// Whether somebody who may revoke this signed it. The time does not matter: what is revoked stays so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, network: &NetworkId) -> Result<(), NotMember> {
        let signer = match (&self.grant, self.what) {
            (None, Revoked::Node { .. } | Revoked::Admission(_)) => network.key(),
            (Some(grant), Revoked::Node { .. }) => {
                grant.verify_signature(network)?;
                &grant.key
            }
            (Some(_), Revoked::Admission(_)) => return Err(NotMember::BeyondGrant),
        };
        let bytes = signed_bytes(self.what, self.issued);
        let signed = verify(signer, Purpose::Revocation, network, &bytes, &self.signature);
        if signed { Ok(()) } else { Err(NotMember::Foreign) }
    }

    /// Whose word it is.
    fn by(&self) -> By {
        self.grant.map_or(By::Network, |grant| By::Admission(grant.key))
    }
}

/// Every revocation that a node knows, each verified.
#[derive(Debug, Clone)]
pub struct Revocations {
    known: BTreeMap<(By, Revoked), Revocation>,
    limits: Limits,
}

/// How many revocations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All together, about 400 bytes each.
    pub all: usize,
    /// Of one admission key.
    pub per_admission_key: usize,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It says what was known.
    Known,
    /// There is no room for it: the limits are reached.
    NoRoom,
}

/// Whose word a revocation is. The network key's goes first: it counts whoever admitted the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Network,
    Admission(PublicKey),
}

impl Revocations {
    /// None so far.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { known: BTreeMap::new(), limits }
    }

    /// Takes one in, if it is good.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, network: &NetworkId, now: UnixTime, revocation: Revocation) -> Result<Taken, NotMember> {
        let name = (revocation.by(), revocation.what);
        if self.known.contains_key(&name) {
            return Ok(Taken::Known);
        }
        revocation.verify(network)?;
        // What an admission key revokes is void with the key's own end, as is all that it admitted.
        self.known.retain(|_, known| !known.grant.is_some_and(|grant| grant.term.is_over(now)));
        if !self.has_room(name.0) {
            return Ok(Taken::NoRoom);
        }
        self.known.insert(name, revocation);
        Ok(Taken::New)
    }

    /// Whether any of them takes this certificate's place back.
    #[must_use]
    pub fn revoke(&self, certificate: &Certificate) -> bool {
        let key = certificate.node;
        let whole = Revoked::Node { key, serial: 0 };
        let exact = Revoked::Node { key, serial: certificate.serial };
        let admission = certificate.grant.key;
        [By::Network, By::Admission(admission)]
            .into_iter()
            .flat_map(|by| [(by, whole), (by, exact)])
            .chain([(By::Network, Revoked::Admission(admission))])
            .any(|name| self.known.contains_key(&name))
    }

    /// All of them, the network key's first.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.known.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn has_room(&self, by: By) -> bool {
        let theirs = match by {
            By::Network => 0,
            By::Admission(_) => self.known.keys().filter(|(other, _)| *other == by).count(),
        };
        self.known.len() < self.limits.all && theirs < self.limits.per_admission_key
    }
}

impl Default for Limits {
    /// 65,536, of which 4,096 of one admission key. `[guess]`
    fn default() -> Self {
        Self { all: 65_536, per_admission_key: 4_096 }
    }
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

fn signed_bytes(what: Revoked, issued: UnixTime) -> Vec<u8> {
    let mut bytes = Vec::new();
    match what {
        Revoked::Node { key, serial } => {
            bytes.push(0);
            bytes.extend_from_slice(&key.0);
            bytes.extend_from_slice(&serial.to_be_bytes());
        }
        Revoked::Admission(key) => {
            bytes.push(1);
            bytes.extend_from_slice(&key.0);
        }
    }
    bytes.extend_from_slice(&issued.0.to_be_bytes());
    bytes
}

/// What a revocation begins with, among spread records.
const MAGIC: [u8; 4] = *b"arv1";
