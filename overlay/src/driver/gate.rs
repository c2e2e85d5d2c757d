//! Who is let in: what this node shows on connect, what it believes of others, and until when. In an open network everybody who
//! speaks its name; in a closed one whoever shows a certificate that the network's key stands behind ([`crate::membership`]). What
//! was believed once is looked at again: certificates end, and are revoked, while a connection stands.

use std::collections::BTreeMap;

use libp2p::{PeerId, swarm::ConnectionId};

use super::certificate::{CertError, NodeCert, Papers, Rules};
use crate::{
    Key, Roles,
    membership::{Certificate, Membership, NotMember, PublicKey, Revocation, Revocations, Taken, UnixTime},
};

/// The rules of one network, and what they rest on.
#[derive(Debug)]
pub(super) struct Gate {
    me: PeerId,
    network: String,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Open,
    Closed(Box<Closed>),
}

#[derive(Debug)]
struct Closed {
    own: Membership,
    /// How often it was renewed.
    renewals: u32,
    revocations: Revocations,
    /// What the peer of each connection showed, checked.
    shown: BTreeMap<ConnectionId, (PeerId, Certificate)>,
}

/// What a peer's papers make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) serial: u64,
    pub(super) roles: Roles,
    /// Who admitted it: a name made of the admission key. None in an open network.
    pub(super) operator: Option<Key>,
}

impl Gate {
    /// The gate of a node with this peer id in a network of this name: closed if it has a membership.
    pub(super) fn new(me: PeerId, network: &str, membership: Option<Membership>, revocations: Revocations) -> Self {
        let closed = |own| Mode::Closed(Box::new(Closed { own, renewals: 0, revocations, shown: BTreeMap::new() }));
        Self { me, network: network.to_owned(), mode: membership.map_or(Mode::Open, closed) }
    }

    /// What this node shows of itself.
    pub(super) fn papers(&self, now: UnixTime) -> Papers {
        match &self.mode {
            Mode::Open => Papers::SelfMade(NodeCert::self_made(&self.network, &self.me, now.0)),
            Mode::Closed(closed) => Papers::Signed(closed.own.certificate),
        }
    }

    /// What these papers make the peer that the handshake has named.
    pub(super) fn check(&self, peer: &PeerId, papers: &Papers, now: UnixTime) -> Result<Believed, CertError> {
        match (&self.mode, papers) {
            (Mode::Open, Papers::SelfMade(cert)) => {
                cert.check(&Rules { network: &self.network, now_unix: now.0 }, peer)?;
                Ok(Believed { serial: cert.serial, roles: cert.roles, operator: None })
            }
            (Mode::Open, Papers::Signed(_)) => Err(CertError::ForClosed),
            (Mode::Closed(_), Papers::SelfMade(_)) => Err(CertError::SelfMade),
            (Mode::Closed(closed), Papers::Signed(certificate)) => {
                if PublicKey::of_peer_id(&peer.to_bytes()) != Some(certificate.node) {
                    return Err(CertError::Peer);
                }
                certificate.verify(&closed.own.network, now, &closed.revocations)?;
                let operator = Some(Key::of(&certificate.grant.key.0));
                Ok(Believed { serial: certificate.serial, roles: certificate.roles(), operator })
            }
        }
    }

    /// Remembers what the peer of a connection showed, to look at it again. Checked before.
    pub(super) fn admit(&mut self, connection: ConnectionId, peer: PeerId, papers: &Papers) {
        if let (Mode::Closed(closed), Papers::Signed(certificate)) = (&mut self.mode, papers) {
            closed.shown.insert(connection, (peer, *certificate));
        }
    }

    /// The connection is gone.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        if let Mode::Closed(closed) = &mut self.mode {
            closed.shown.remove(&connection);
        }
    }

    /// The connections whose peers showed certificates.
    pub(super) fn admitted(&self) -> Vec<(ConnectionId, PeerId)> {
        match &self.mode {
            Mode::Open => Vec::new(),
            Mode::Closed(closed) => closed.shown.iter().map(|(connection, (peer, _))| (*connection, *peer)).collect(),
        }
    }

    /// How often this node's certificate was renewed.
    pub(super) fn renewals(&self) -> u32 {
        match &self.mode {
            Mode::Open => 0,
            Mode::Closed(closed) => closed.renewals,
        }
    }

    /// Whether any connection of this peer showed a certificate that has not been found void.
    pub(super) fn believes(&self, peer: &PeerId) -> bool {
        match &self.mode {
            Mode::Open => true,
            Mode::Closed(closed) => closed.shown.values().any(|(shown_by, _)| shown_by == peer),
        }
    }

    /// The connections whose peers are members no longer, and why.
    pub(super) fn void(&self, now: UnixTime) -> Vec<(ConnectionId, PeerId, NotMember)> {
        let Mode::Closed(closed) = &self.mode else { return Vec::new() };
        let void = closed.shown.iter().filter_map(|(connection, (peer, certificate))| {
            let why = certificate.stands(now, &closed.revocations).err()?;
            Some((*connection, *peer, why))
        });
        void.collect()
    }

    /// A later certificate for the same node: shown from now on.
    pub(super) fn renew(&mut self, membership: Membership, now: UnixTime) -> Result<(), MembershipError> {
        check_own(&self.me, &membership, now)?;
        let Mode::Closed(closed) = &mut self.mode else { return Err(MembershipError::Open) };
        if membership.node_id() != closed.own.node_id() {
            return Err(MembershipError::Place);
        }
        closed.own = membership;
        closed.renewals = closed.renewals.wrapping_add(1);
        Ok(())
    }

    /// Takes a revocation in. None in an open network, where it means nothing.
    pub(super) fn revoke(&mut self, revocation: Revocation, now: UnixTime) -> Option<Result<Taken, NotMember>> {
        let Mode::Closed(closed) = &mut self.mode else { return None };
        Some(closed.revocations.add(&closed.own.network, now, revocation))
    }

    /// What it knows as revoked.
    pub(super) fn revocations(&self) -> Revocations {
        match &self.mode {
            Mode::Open => Revocations::default(),
            Mode::Closed(closed) => closed.revocations.clone(),
        }
    }

    /// This node's membership; none in an open network.
    pub(super) fn membership(&self) -> Option<&Membership> {
        match &self.mode {
            Mode::Open => None,
            Mode::Closed(closed) => Some(&closed.own),
        }
    }

    /// Why others refuse this node now, as far as it can know.
    pub(super) fn own_fault(&self, now: UnixTime) -> Option<NotMember> {
        let Mode::Closed(closed) = &self.mode else { return None };
        closed.own.certificate.verify(&closed.own.network, now, &closed.revocations).err()
    }
}

/// Whether a membership is for the node with this peer id, and was good when it was made. One that has ended meanwhile is no reason
/// not to start: the node serves alone and waits for its renewal.
pub(super) fn check_own(me: &PeerId, membership: &Membership, now: UnixTime) -> Result<(), MembershipError> {
    let Membership { network, certificate } = membership;
    if PublicKey::of_peer_id(&me.to_bytes()) != Some(certificate.node) {
        return Err(MembershipError::OtherNode { node: certificate.node });
    }
    match certificate.verify(network, now, &Revocations::default()) {
        Ok(()) | Err(NotMember::Expired { .. } | NotMember::AdmissionExpired { .. } | NotMember::Revoked) => Ok(()),
        Err(why) => Err(MembershipError::Void(why)),
    }
}

/// Why a membership is of no use to this node. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The network is closed, and the node has no certificate.
    #[error("the network is closed (admission = \"closed\") and this node has no certificate in it")]
    Missing,
    /// The certificate is for another key.
    #[error("the certificate is for the node with key {node}, not for this one; have this node's own key admitted")]
    OtherNode {
        /// Whom it is for.
        node: PublicKey,
    },
    /// The certificate would be believed by nobody.
    #[error("nobody would believe the certificate: {0}; have the node admitted again")]
    Void(NotMember),
    /// The certificate gives the node another place than it has.
    #[error("the certificate is for another network or serial: the node takes its new place when it is started again")]
    Place,
    /// The node runs in an open network.
    #[error("the network is open (admission = \"open\"): certificates mean nothing in it")]
    Open,
    /// The driver has ended.
    #[error("the node has stopped")]
    Stopped,
    /// The node is to run what its certificate does not allow.
    #[error(
        "the certificate does not allow what this node is to run; have it admitted to these roles, or leave them out"
    )]
    Roles,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libp2p::swarm::ConnectionId;

    use super::{Believed, CertError, Gate, MembershipError, NotMember, Papers, PeerId, Revocations, UnixTime};
    use crate::{
        Key, Roles,
        driver::Identity,
        membership::{Membership, NetworkKey, Revoked, Term},
    };

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const LATER: UnixTime = UnixTime(NOW.0 + 3_601);

    struct Network {
        key: NetworkKey,
    }

    impl Network {
        fn new() -> Self {
            Self { key: NetworkKey::generate().unwrap() }
        }

        fn member(&self, identity: &Identity, span: Duration) -> Membership {
            let term = Term::from(NOW, Duration::from_secs(7_200));
            let admission = self.key.admission(Roles::PROXY, term).unwrap();
            let certificate = admission.admit(identity.public_key(), 9, Roles::PROXY, Term::from(NOW, span)).unwrap();
            Membership { network: self.key.network(), certificate }
        }
    }

    fn closed(identity: &Identity, membership: Membership) -> Gate {
        Gate::new(identity.peer_id(), "test", Some(membership), Revocations::default())
    }

    #[test]
    fn a_closed_network_believes_only_signed_papers_of_the_peer_itself() {
        let (network, a, b) = (Network::new(), Identity::generate(), Identity::generate());
        let hour = Duration::from_secs(3_600);
        let (gate, other) = (closed(&a, network.member(&a, hour)), closed(&b, network.member(&b, hour)));
        let open = Gate::new(b.peer_id(), "test", None, Revocations::default());
        let check = |papers: &Papers, peer: PeerId, now| gate.check(&peer, papers, now);
        let Papers::Signed(certificate) = other.papers(NOW) else { panic!("signed papers in a closed network") };
        let operator = Some(Key::of(&certificate.grant.key.0));
        let good = Believed { serial: 9, roles: Roles::PROXY, operator };
        assert_eq!(check(&other.papers(NOW), b.peer_id(), NOW), Ok(good));
        assert_eq!(check(&other.papers(NOW), PeerId::random(), NOW), Err(CertError::Peer));
        assert_eq!(check(&open.papers(NOW), b.peer_id(), NOW), Err(CertError::SelfMade));
        let expired = check(&other.papers(NOW), b.peer_id(), LATER);
        assert!(matches!(expired, Err(CertError::NotMember(NotMember::Expired { .. }))));
        assert_eq!(open.check(&a.peer_id(), &gate.papers(NOW), NOW), Err(CertError::ForClosed));
        let foreign = closed(&b, Network::new().member(&b, hour));
        let foreign = check(&foreign.papers(NOW), b.peer_id(), NOW);
        assert_eq!(foreign, Err(CertError::NotMember(NotMember::Foreign)));
    }

    #[test]
    fn what_was_believed_ends_with_the_certificate_or_its_revocation() {
        let (network, a, b) = (Network::new(), Identity::generate(), Identity::generate());
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(3_600));
        let mut gate = closed(&a, network.member(&a, long));
        let connection = ConnectionId::new_unchecked(1);
        gate.admit(connection, b.peer_id(), &Papers::Signed(network.member(&b, short).certificate));
        assert_eq!(gate.void(NOW), []);
        assert_eq!(gate.void(UnixTime(NOW.0 + 61)).len(), 1);
        // A renewal, shown on the same connection, takes the place of the first.
        gate.admit(connection, b.peer_id(), &Papers::Signed(network.member(&b, long).certificate));
        assert_eq!(gate.void(UnixTime(NOW.0 + 61)), []);
        let revocation = network.key.revoke(Revoked::Node { key: b.public_key(), serial: 9 }, NOW);
        assert!(gate.revoke(revocation, NOW).unwrap().is_ok());
        assert_eq!(gate.void(NOW), [(connection, b.peer_id(), NotMember::Revoked)]);
        gate.leave(connection);
        assert_eq!(gate.void(NOW), []);
    }

    #[test]
    fn a_renewal_is_for_the_same_place() {
        let (network, a, b) = (Network::new(), Identity::generate(), Identity::generate());
        let long = Duration::from_secs(3_600);
        let mut gate = closed(&a, network.member(&a, Duration::from_secs(60)));
        assert!(matches!(gate.own_fault(UnixTime(NOW.0 + 61)), Some(NotMember::Expired { .. })));
        assert_eq!(gate.renew(network.member(&a, long), NOW), Ok(()));
        assert_eq!(gate.own_fault(UnixTime(NOW.0 + 61)), None);
        let other = MembershipError::OtherNode { node: b.public_key() };
        assert_eq!(gate.renew(network.member(&b, long), NOW), Err(other));
        assert_eq!(gate.renew(Network::new().member(&a, long), NOW), Err(MembershipError::Place));
        let mut open = Gate::new(a.peer_id(), "test", None, Revocations::default());
        assert_eq!(open.renew(network.member(&a, long), NOW), Err(MembershipError::Open));
    }
}
