//! The private network's keys. A manager holds the network's own key and the admission key that it signed; every machine that joins
//! gets a certificate for its node's key, and loses it for good when it is removed.
//!
//! Certificates last [`TERM`]; a peer is given a new one whenever it joins, which it does again in good time.

use std::{fmt, path::Path, time::Duration};

use atoll_overlay::{
    Roles,
    driver::Identity,
    membership::{AdmissionKey, Membership, NetworkKey, PublicKey, Refused, Revoked, Term, UnixTime},
};
use serde::{Deserialize, Serialize};

use crate::{
    front::meter::unix_now,
    state::{Kept, State},
};

/// The keys as the state file has them. Secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Keys {
    network: String,
    admission: String,
}

impl Keys {
    /// Keys for a new network.
    pub(crate) fn make() -> Result<Self, String> {
        let network = NetworkKey::generate().map_err(|error| error.to_string())?;
        let admission = admission(&network).map_err(|error| error.to_string())?;
        Ok(Self { network: network.to_text(), admission: admission.to_text() })
    }

    /// A certificate for a node's public key, as text for its state directory. A peer that was here before keeps its serial, and so
    /// its place. Renews the admission key when that is due: true if the keys are to be saved.
    pub(crate) fn admit(&mut self, node: &str, serial: u64) -> Result<(String, bool), String> {
        let key: PublicKey = node.parse().map_err(|_| "a node's key is 64 hexadecimal digits".to_owned())?;
        let now = UnixTime(unix_now());
        let mut signer = AdmissionKey::from_text(&self.admission).map_err(|error| error.to_string())?;
        let due = signer.grant().term.wants_renewal(now);
        if due {
            signer = admission(&self.network()?).map_err(|error| error.to_string())?;
            self.admission = signer.to_text();
        }
        let certificate =
            signer.admit(key, serial, Roles::PROXY, Term::from(now, TERM)).map_err(|error| error.to_string())?;
        Ok((Membership { network: signer.network(), certificate }.to_text(), due))
    }

    /// The text that takes a node's place back, for the folder where its own node looks.
    pub(crate) fn revoke(&self, node: &str) -> Result<String, String> {
        let key: PublicKey = node.parse().map_err(|_| "a node's key is 64 hexadecimal digits".to_owned())?;
        // By the network's own key: it counts whichever admission key signed, and whatever the serial.
        let what = Revoked::Node { key, serial: 0 };
        Ok(self.network()?.revoke(what, UnixTime(unix_now())).to_text())
    }

    fn network(&self) -> Result<NetworkKey, String> {
        NetworkKey::from_text(&self.network).map_err(|error| format!("the network's key: {error}"))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// A serial for a new member.
pub(crate) fn fresh_serial() -> Result<u64, String> {
    AdmissionKey::fresh_serial().map_err(|error| error.to_string())
}

/// The public key of the node in this directory, which is made if it is not there. The directory must not be in use.
pub(crate) fn node_key(directory: &Path) -> Result<String, String> {
    let state = State::open(directory).map_err(|error| error.to_string())?;
    let known = state.load(Kept::Identity).map_err(|error| error.to_string())?;
    let identity = match known {
        Some(bytes) => Identity::from_bytes(&bytes).map_err(|error| format!("the node's key is damaged: {error}"))?,
        None => {
            let identity = Identity::generate();
            let bytes = identity.to_bytes().map_err(|error| error.to_string())?;
            state.save(Kept::Identity, &bytes).map_err(|error| error.to_string())?;
            identity
        }
    };
    Ok(identity.public_key().to_string())
}

/// Puts a certificate where the node finds it, at its start or, if it runs, within seconds.
pub(crate) fn put_certificate(directory: &Path, certificate: &str) -> Result<(), String> {
    let path = directory.join(Kept::Certificate.file_name());
    crate::state::write_whole(&path, certificate.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))
}

/// Puts a revocation where the running node finds it and tells every other.
pub(crate) fn put_revocation(directory: &Path, name: &str, revocation: &str) -> Result<(), String> {
    let folder = directory.join("revoke");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join(name);
    crate::state::write_whole(&path, revocation.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))
}

fn admission(network: &NetworkKey) -> Result<AdmissionKey, Refused> {
    network.admission(Roles::PROXY, Term::from(UnixTime(unix_now()), Term::LONGEST))
}

/// How long a certificate lasts, and so how long a peer without a manager stays in the network. An admission key of 90 days that is
/// renewed at two thirds of its term outlasts it. `[guess]`
const TERM: Duration = Duration::from_secs(29 * 86_400);

/// After how long a peer asks for another.
pub(crate) const RENEWED: Duration = Duration::from_secs(10 * 86_400);

#[cfg(test)]
mod tests {
    use atoll_overlay::membership::{Limits, Revocation, Revocations};

    use super::*;

    #[test]
    fn a_certificate_is_believed_until_its_node_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let node = node_key(folder.path()).unwrap();
        assert_eq!(node_key(folder.path()).unwrap(), node);
        let mut keys: Keys = serde_json::from_str(&serde_json::to_string(&Keys::make().unwrap()).unwrap()).unwrap();
        let (text, renewed) = keys.admit(&node, fresh_serial().unwrap()).unwrap();
        assert!(!renewed);
        let membership = Membership::from_text(&text).unwrap();
        let now = UnixTime(unix_now());
        let mut known = Revocations::new(Limits::default());
        membership.certificate.verify(&membership.network, now, &known).unwrap();
        let revocation = Revocation::from_text(&keys.revoke(&node).unwrap()).unwrap();
        known.add(&membership.network, now, revocation).unwrap();
        assert!(membership.certificate.verify(&membership.network, now, &known).is_err());
        assert!(keys.admit("no key", 1).is_err() && keys.revoke("").is_err());
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
