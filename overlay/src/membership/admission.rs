//! Admission keys: they admit nodes in the network key's stead, for a while.

use std::fmt;

use super::{
    Certificate, Malformed, NetworkId, NotMember, PublicKey, Refused, Revocation, Revoked, Term, TextError, UnixTime,
    bytes::Reader,
    signing::{Purpose, Secret, SignatureBytes, verify},
    text::{self, Kind},
};
use crate::Roles;

/// What the network key signed: this key may admit nodes to these roles, for this term.
/// Layout, 113 bytes: key 32, roles 1, issued 8, not after 8 (Unix seconds), signature 64 over the 49 bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The admission key's public half.
    pub key: PublicKey,
    /// When it may be used.
    pub term: Term,
    /// As they travel: bits unknown here are signed as well.
    roles: u8,
    signature: SignatureBytes,
}

impl Grant {
    /// Bytes of a grant.
    pub const BYTES: usize = 113;

    pub(super) fn sign(
        by: &Secret,
        network: &NetworkId,
        key: PublicKey,
        roles: Roles,
        term: Term,
    ) -> Result<Self, Refused> {
        check_term(&term)?;
        let mut grant = Self { key, term, roles: roles.bits(), signature: [0; 64] };
        grant.signature = by.sign(Purpose::Grant, network, &grant.signed_bytes());
        Ok(grant)
    }

    /// Whether this network's key granted this, and for a term that covers now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, network: &NetworkId, now: UnixTime) -> Result<(), NotMember> {
        self.verify_signature(network)?;
        if self.term.is_to_come(now) {
            return Err(NotMember::NotYet { from: self.term.issued });
        }
        if self.term.is_over(now) {
            return Err(NotMember::AdmissionExpired { at: self.term.not_after });
        }
        Ok(())
    }

    /// The same whatever the time.
    pub(super) fn verify_signature(&self, network: &NetworkId) -> Result<(), NotMember> {
        if self.term.span() > Term::LONGEST {
            return Err(NotMember::TooLong);
        }
        let signed = verify(network.key(), Purpose::Grant, network, &self.signed_bytes(), &self.signature);
        if signed { Ok(()) } else { Err(NotMember::Foreign) }
    }

    /// The grant as text: the layout above in hexadecimal digits. No secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        self.write(&mut bytes);
        text::hex(&bytes)
    }

    /// Reads [`Grant::to_text`]; believes nothing yet.
    ///
    /// # Errors
    /// The text is something else.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        let bytes = text::unhex(text).ok_or(Malformed)?;
        let mut reader = Reader::new(&bytes);
        let grant = Self::read(&mut reader)?;
        reader.end()?;
        Ok(grant)
    }

    /// What it may admit nodes to.
    #[must_use]
    pub const fn roles(&self) -> Roles {
        Roles::from_bits(self.roles)
    }

    /// Whether all roles in these bits, those unknown here too, were granted.
    pub(super) const fn covers(&self, bits: u8) -> bool {
        self.roles & bits == bits
    }

    /// The layout above.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.signed_bytes());
        to.extend_from_slice(&self.signature);
    }

    /// Reads the layout above; believes nothing yet.
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (key, roles) = (PublicKey(from.take()?), from.byte()?);
        let term = Term { issued: UnixTime(from.number()?), not_after: UnixTime(from.number()?) };
        Ok(Self { key, term, roles, signature: from.take()? })
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let Term { issued, not_after } = self.term;
        [&self.key.0[..], &[self.roles], &issued.0.to_be_bytes(), &not_after.0.to_be_bytes()].concat()
    }
}

/// A key that asks for a grant: its secret stays where it was made.
#[derive(Clone)]
pub struct AdmissionRequest(Secret);

impl AdmissionRequest {
    /// A new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, Refused> {
        Ok(Self(Secret::generate()?))
    }

    /// What is to be granted, by [`NetworkKey::grant`](super::NetworkKey::grant).
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.0.public()
    }

    /// The admission key that a grant makes of it.
    ///
    /// # Errors
    /// The grant is for another key, or not of this network.
    pub fn granted(self, network: NetworkId, grant: Grant) -> Result<AdmissionKey, NotMember> {
        if grant.key != self.key() {
            return Err(NotMember::Foreign);
        }
        grant.verify_signature(&network)?;
        Ok(AdmissionKey::new(self.0, network, grant))
    }
}

impl fmt::Debug for AdmissionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdmissionRequest({})", self.key())
    }
}

/// The secret half of an admission key, with what makes it one. Kept where nodes are admitted.
#[derive(Clone)]
pub struct AdmissionKey {
    secret: Secret,
    network: NetworkId,
    grant: Grant,
}

impl AdmissionKey {
    pub(super) const fn new(secret: Secret, network: NetworkId, grant: Grant) -> Self {
        Self { secret, network, grant }
    }

    /// The key kept as this text.
    ///
    /// # Errors
    /// The text is something else, or damaged.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        text::read(text, Kind::AdmissionKey, |bytes| {
            let mut reader = Reader::new(bytes);
            let network = NetworkId::of(PublicKey(reader.take()?));
            let secret = Secret::from_bytes(&reader.take()?);
            let grant = Grant::read(&mut reader)?;
            reader.end()?;
            if grant.key == secret.public() { Ok(Self { secret, network, grant }) } else { Err(Malformed) }
        })
    }

    /// Makes a node with this public key a member. The serial is to be picked now, when its key is known (see
    /// [`AdmissionKey::fresh_serial`]); a node that is renewed keeps its own, and so its place.
    ///
    /// # Errors
    /// Nobody would believe the certificate: see [`Refused`].
    pub fn admit(&self, node: PublicKey, serial: u64, roles: Roles, term: Term) -> Result<Certificate, Refused> {
        check_term(&term)?;
        if serial == 0 {
            return Err(Refused::Serial);
        }
        if term.not_after > self.grant.term.not_after {
            return Err(Refused::Outlives { until: self.grant.term.not_after });
        }
        if !self.grant.covers(roles.bits()) {
            return Err(Refused::Roles);
        }
        Ok(Certificate::sign(&self.secret, &self.network, self.grant, (node, serial), roles, term))
    }

    /// The same certificate for a later term: same node, place and roles.
    ///
    /// # Errors
    /// As for [`AdmissionKey::admit`].
    pub fn renew(&self, certificate: &Certificate, term: Term) -> Result<Certificate, Refused> {
        self.admit(certificate.node, certificate.serial, certificate.roles(), term)
    }

    /// A serial for a new member, from the system's randomness.
    ///
    /// # Errors
    /// The system has none.
    pub fn fresh_serial() -> Result<u64, Refused> {
        let secret = Secret::generate()?;
        let bytes = secret.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        Ok(u64::from_be_bytes(bytes).max(1))
    }

    /// Takes back the place of a node that this key admitted.
    ///
    /// # Errors
    /// An admission key was named: only the network key revokes those.
    pub fn revoke(&self, what: Revoked, now: UnixTime) -> Result<Revocation, Refused> {
        match what {
            Revoked::Node { .. } => Ok(Revocation::by_admission(&self.secret, &self.network, self.grant, what, now)),
            Revoked::Admission(_) => Err(Refused::NotTheirs),
        }
    }

    /// The same key, to be granted a further term: what it admitted and what it revoked stays its own.
    #[must_use]
    pub fn request(&self) -> AdmissionRequest {
        AdmissionRequest(self.secret.clone())
    }

    /// The network it admits to.
    #[must_use]
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// What the network key granted it.
    #[must_use]
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The key as text for a file that nobody else can read. Secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = [self.network.key().0, *self.secret.as_bytes()].concat();
        self.grant.write(&mut bytes);
        let notes = [
            ("network", self.network.to_string()),
            ("key", self.grant.key.to_string()),
            ("valid until", self.grant.term.not_after.to_string()),
        ];
        text::write(Kind::AdmissionKey, &bytes, &notes)
    }
}

impl fmt::Debug for AdmissionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdmissionKey({})", self.grant.key)
    }
}

fn check_term(term: &Term) -> Result<(), Refused> {
    if term.not_after <= term.issued {
        return Err(Refused::Empty);
    }
    if term.span() > Term::LONGEST {
        return Err(Refused::TooLong { span: term.span() });
    }
    Ok(())
}
