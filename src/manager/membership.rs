//! The private network's keys. A manager holds the network's own key and the admission key that it signed; every machine that joins
//! gets a certificate for its node's key, and loses it for good when it is removed. A manager beside another holds an admission key
//! alone, which the other's network key granted: see `beside`.
//!
//! Certificates last [`TERM`]; a peer is given a new one whenever it joins, which it does again in good time.

use std::{fmt, path::Path, time::Duration};

use atoll_overlay::{
    Roles,
    driver::Identity,
    membership::{
        AdmissionKey, AdmissionRequest, Grant, Membership, NetworkId, NetworkKey, PublicKey, Refused, Revoked, Term,
        UnixTime,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    front::meter::unix_now,
    state::{Kept, State},
};

/// The keys as the state file has them. Secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// "" if another manager has it.
    #[serde(default)]
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

    /// Keys in another manager's network, by what that one granted.
    pub(crate) fn granted(request: AdmissionRequest, network: &str, grant: &str) -> Result<Self, String> {
        let network: NetworkId = network.parse().map_err(|_| "this names no network".to_owned())?;
        let grant = Grant::from_text(grant).map_err(|error| error.to_string())?;
        let admission = request.granted(network, grant).map_err(|error| error.to_string())?;
        Ok(Self { network: String::new(), admission: admission.to_text() })
    }

    /// A new key, for another manager to grant.
    pub(crate) fn fresh_request() -> Result<AdmissionRequest, String> {
        AdmissionRequest::generate().map_err(|error| error.to_string())
    }

    /// What another manager is asked to grant: the key that is here already, if it is one beside that manager.
    pub(crate) fn request(&self) -> Result<AdmissionRequest, String> {
        Ok(self.signer()?.request())
    }

    /// Whether the network is this manager's own.
    pub(crate) const fn is_own(&self) -> bool {
        !self.network.is_empty()
    }

    /// The network, and the grant of another manager's key in it, as text.
    pub(crate) fn grant(&self, key: &str) -> Result<(String, String), String> {
        let network = self.network()?.ok_or("this manager is itself beside another: ask that one")?;
        let key: PublicKey = key.parse().map_err(|_| "a manager's key is 64 hexadecimal digits".to_owned())?;
        let term = Term::from(UnixTime(unix_now()), Term::LONGEST);
        let grant = network.grant(key, Roles::PROXY, term).map_err(|error| error.to_string())?;
        Ok((network.network().to_string(), grant.to_text()))
    }

    /// A certificate for a node's public key, as text for its state directory. A peer that was here before keeps its serial, and so
    /// its place. Renews the admission key when that is due: true if the keys are to be saved.
    pub(crate) fn admit(&mut self, node: &str, serial: u64) -> Result<(String, bool), String> {
        let key: PublicKey = node.parse().map_err(|_| "a node's key is 64 hexadecimal digits".to_owned())?;
        let now = UnixTime(unix_now());
        let mut signer = self.signer()?;
        let network = self.network()?.filter(|_| signer.grant().term.wants_renewal(now));
        let due = network.is_some();
        if let Some(network) = network {
            signer = admission(&network).map_err(|error| error.to_string())?;
            self.admission = signer.to_text();
        }
        // What another manager granted may end sooner, if that one has been away for long.
        let mut term = Term::from(now, TERM);
        term.not_after = term.not_after.min(signer.grant().term.not_after);
        let certificate = signer.admit(key, serial, Roles::PROXY, term).map_err(|error| error.to_string())?;
        Ok((Membership { network: signer.network(), certificate }.to_text(), due))
    }

    /// The text that takes a node's place back, for the folder where its own node looks.
    pub(crate) fn revoke(&self, node: &str) -> Result<String, String> {
        let key: PublicKey = node.parse().map_err(|_| "a node's key is 64 hexadecimal digits".to_owned())?;
        // By the network's own key it counts whichever admission key signed; by an admission key for all that this one admitted.
        let (what, now) = (Revoked::Node { key, serial: 0 }, UnixTime(unix_now()));
        let revocation = match self.network()? {
            Some(network) => network.revoke(what, now),
            None => self.signer()?.revoke(what, now).map_err(|error| error.to_string())?,
        };
        Ok(revocation.to_text())
    }

    /// The text that takes a manager's place back, and that of all it admitted.
    pub(crate) fn revoke_manager(&self, key: &str) -> Result<String, String> {
        let key: PublicKey = key.parse().map_err(|_| "a manager's key is 64 hexadecimal digits".to_owned())?;
        let network = self.network()?.ok_or("this manager is itself beside another: ask that one")?;
        Ok(network.revoke(Revoked::Admission(key), UnixTime(unix_now())).to_text())
    }

    fn signer(&self) -> Result<AdmissionKey, String> {
        AdmissionKey::from_text(&self.admission).map_err(|error| format!("the admission key: {error}"))
    }

    /// None if another manager has it.
    fn network(&self) -> Result<Option<NetworkKey>, String> {
        let own = self.is_own().then(|| NetworkKey::from_text(&self.network));
        own.transpose().map_err(|error| format!("the network's key: {error}"))
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

    #[test]
    fn a_manager_beside_another_admits_until_it_is_removed_itself() {
        let first = Keys::make().unwrap();
        let request = AdmissionRequest::generate().unwrap();
        let key = request.key().to_string();
        let (network, grant) = first.grant(&key).unwrap();
        let mut second = Keys::granted(request, &network, &grant).unwrap();
        assert!(first.is_own() && !second.is_own());
        assert_eq!(second.request().unwrap().key().to_string(), key, "it asks again for the same key");
        assert!(second.grant(&key).is_err() && second.revoke_manager(&key).is_err(), "it makes no managers");
        let folder = tempfile::tempdir().unwrap();
        let node = node_key(folder.path()).unwrap();
        let (text, _) = second.admit(&node, fresh_serial().unwrap()).unwrap();
        let membership = Membership::from_text(&text).unwrap();
        assert_eq!(membership.network.to_string(), network);
        let now = UnixTime(unix_now());
        let stands = |text: &str| {
            let mut known = Revocations::new(Limits::default());
            known.add(&membership.network, now, Revocation::from_text(text).unwrap()).unwrap();
            membership.certificate.verify(&membership.network, now, &known).is_ok()
        };
        assert!(stands(&first.revoke(&key).unwrap()), "a node of that key there is none");
        assert!(!stands(&second.revoke(&node).unwrap()));
        assert!(!stands(&first.revoke(&node).unwrap()));
        assert!(!stands(&first.revoke_manager(&key).unwrap()));
    }
}
