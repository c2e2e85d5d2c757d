//! A closed network on real sockets: who is let in, and that nobody else gets or gives a byte, by TCP and by QUIC, in and out.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};

use super::{Config, Identity, Overlay, StartError, Stranger, config, info, open, soon, start, until};
use crate::{
    Roles, Streams as _,
    driver::{Admission, Carrier, MembershipError, RevokeError, Saved, certificate::Papers, clock::Clock},
    membership::{AdmissionKey, Membership, NetworkKey, Revoked, Term, UnixTime},
};

const HOUR: Duration = Duration::from_secs(3_600);
const BOTH: [Carrier; 2] = [Carrier::Tcp, Carrier::Quic];

/// A network's keys.
struct Keys {
    network: NetworkKey,
    admission: AdmissionKey,
}

impl Keys {
    fn new() -> Self {
        let network = NetworkKey::generate().unwrap();
        let admission = network.admission(Roles::PROXY, Term::from(now(), 24 * HOUR)).unwrap();
        Self { network, admission }
    }

    fn member(&self, identity: &Identity, term: Term) -> Membership {
        let certificate = self.admission.admit(identity.public_key(), 7, Roles::PROXY, term).unwrap();
        Membership { network: self.network.network(), certificate }
    }

    fn prologue(&self) -> String {
        format!("atoll {}", self.network.network())
    }

    /// A node of this network, a member for an hour.
    async fn node(&self, carrier: Carrier, seeds: &[String]) -> Overlay {
        let identity = Identity::generate();
        let membership = self.member(&identity, Term::from(now(), HOUR));
        start_with(&identity, membership, carrier, seeds, Saved::default()).await.unwrap()
    }
}

fn now() -> UnixTime {
    Clock::start().unix()
}

async fn start_with(
    identity: &Identity,
    membership: Membership,
    carrier: Carrier,
    seeds: &[String],
    saved: Saved,
) -> Result<Overlay, StartError> {
    let listen = match carrier {
        Carrier::Tcp => "/ip4/127.0.0.1/tcp/0",
        Carrier::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    let settings = Config {
        admission: Admission::Closed,
        listen: vec![listen.to_owned()],
        bootstrap: seeds.to_vec(),
        ..config(&[])
    };
    let saved = Saved { membership: Some(membership), ..saved };
    start(settings, crate::Config::default(), identity, info(), saved).await
}

fn at(node: &Overlay) -> String {
    node.listen_multiaddrs().swap_remove(0)
}

fn links(node: &Overlay) -> u64 {
    node.counts().connections_admitted - node.counts().connections_closed
}

fn known(node: &Overlay, other: &Overlay) -> bool {
    let id = other.id();
    crate::Index::levels(node).first().is_some_and(|global| global.neighbours.iter().any(|info| info.id == id))
}

#[tokio::test]
async fn members_find_each_other_and_stream_over_both_carriers() {
    for carrier in BOTH {
        let keys = Keys::new();
        let seed = keys.node(carrier, &[]).await;
        let other = keys.node(carrier, &[at(&seed)]).await;
        let third = keys.node(carrier, &[at(&seed)]).await;
        until("all known to all", || known(&third, &other) && known(&other, &third)).await;
        let mut to = open(&other, &third).await;
        to.write_all(b"bytes").await.unwrap();
        to.shutdown().await.unwrap();
        let (from, mut stream) = soon("an incoming stream", third.accept()).await.unwrap();
        let mut got = Vec::new();
        soon("its end", stream.read_to_end(&mut got)).await.unwrap();
        assert_eq!((from, got.as_slice()), (other.id(), &b"bytes"[..]));
    }
}

#[tokio::test]
async fn nodes_of_either_carrier_are_dialled_by_what_they_have() {
    let keys = Keys::new();
    let both = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"].map(str::to_owned);
    let identity = Identity::generate();
    let membership = Some(keys.member(&identity, Term::from(now(), HOUR)));
    let settings = Config { admission: Admission::Closed, listen: both.to_vec(), ..config(&[]) };
    let saved = Saved { membership, ..Saved::default() };
    let bridge = start(settings, crate::Config::default(), &identity, info(), saved).await.unwrap();
    let (tcp, quic) = (bridge.listen_multiaddrs().swap_remove(0), bridge.listen_multiaddrs().swap_remove(1));
    let a = keys.node(Carrier::Tcp, &[tcp]).await;
    let b = keys.node(Carrier::Quic, &[quic]).await;
    until("each known to the other by the bridge", || known(&a, &b) && known(&b, &a)).await;
    drop(open(&a, &b).await);
    drop(open(&b, &a).await);
}

/// Everybody who is no member: what is wrong with them, their key, and what they show.
fn outsiders(keys: &Keys) -> Vec<(&'static str, Identity, Option<Papers>)> {
    let hour = Term::from(now(), HOUR);
    let signed = |keys: &Keys, identity: &Identity, term| Some(Papers::Signed(keys.member(identity, term).certificate));
    let of = |what, make: &dyn Fn(&Identity) -> Option<Papers>| {
        let identity = Identity::generate();
        let papers = make(&identity);
        (what, identity, papers)
    };
    let foreign = Keys::new();
    let yesterday = Term { issued: UnixTime(now().0 - 7_200), not_after: UnixTime(now().0 - 3_600) };
    vec![
        of("shows nothing", &|_| None),
        of("is self-made", &|me| {
            let peer: PeerId = me.peer_id();
            Some(Papers::SelfMade(crate::driver::NodeCert::self_made("test", &peer, now().0)))
        }),
        of("is of a foreign network", &|me| signed(&foreign, me, hour)),
        of("is expired", &|me| signed(keys, me, yesterday)),
        of("is somebody else's", &|_| signed(keys, &Identity::generate(), hour)),
    ]
}

#[tokio::test]
async fn an_outsider_that_dials_gets_no_byte_and_is_cut() {
    for carrier in BOTH {
        let keys = Keys::new();
        let member = keys.node(carrier, &[]).await;
        let to: Multiaddr = at(&member).parse().unwrap();
        let mut crowd = outsiders(&keys);
        let revoked = Identity::generate();
        let papers = Papers::Signed(keys.member(&revoked, Term::from(now(), HOUR)).certificate);
        let what = Revoked::Node { key: revoked.public_key(), serial: 7 };
        member.revoke(keys.network.revoke(what, now())).await.unwrap();
        crowd.push(("is revoked", revoked, Some(papers)));
        for (what, identity, papers) in crowd {
            let mut outsider = Stranger::connect_as(&identity, &keys.prologue(), to.clone()).await;
            assert!(!outsider.is_refused(), "{what}: the handshake is not what keeps it out");
            match papers {
                Some(papers) => assert_eq!(soon("an end", outsider.show(papers)).await, None, "{what}"),
                None => assert_eq!(soon("an end", outsider.say("/http/1.1", b"GET / HTTP/1.1")).await, b"", "{what}"),
            }
            soon("being cut", outsider.closed()).await;
        }
        let counts = member.counts();
        assert_eq!((counts.strangers, counts.broken, counts.connections_admitted), (5, 1, 0), "{counts:?}");
        assert_eq!((counts.messages_sent, counts.messages_received, counts.streams_accepted), (0, 0, 0), "{counts:?}");
    }
}

#[tokio::test]
async fn an_outsider_that_is_dialled_gets_no_byte_and_is_cut() {
    for carrier in BOTH {
        let keys = Keys::new();
        let (taken_back, crowd) = (Identity::generate(), outsiders(&keys));
        let papers = Papers::Signed(keys.member(&taken_back, Term::from(now(), HOUR)).certificate);
        let what = Revoked::Node { key: taken_back.public_key(), serial: 7 };
        let witness = keys.node(carrier, &[]).await;
        witness.revoke(keys.network.revoke(what, now())).await.unwrap();
        let revocations = witness.save_revocations();
        for (what, identity, papers) in crowd.into_iter().chain([("is revoked", taken_back, Some(papers))]) {
            let (told, place) = oneshot::channel();
            let prologue = keys.prologue();
            let posing = Stranger::pose(&identity, &prologue, carrier, papers, told);
            let dialling = async {
                let own = Identity::generate();
                let (membership, seeds) =
                    (keys.member(&own, Term::from(now(), HOUR)), [place.await.unwrap().to_string()]);
                let saved = Saved { revocations: revocations.clone(), ..Saved::default() };
                let member = start_with(&own, membership, carrier, &seeds, saved).await.unwrap();
                until("an end of the dial", || member.counts().dials_failed > 0).await;
                member
            };
            let (leaked, member) = soon("an end", async { tokio::join!(posing, dialling) }).await;
            assert_eq!(leaked, b"", "{what}");
            let counts = member.counts();
            assert_eq!((counts.connections_admitted, counts.messages_sent), (0, 0), "{what}: {counts:?}");
        }
    }
}

#[tokio::test]
async fn a_node_of_an_open_network_of_the_same_name_stays_outside() {
    let keys = Keys::new();
    let member = keys.node(Carrier::Quic, &[]).await;
    let settings = Config { bootstrap: vec![at(&member)], ..config(&[]) };
    let open = start(settings, crate::Config::default(), &Identity::generate(), info(), None).await.unwrap();
    until("a stranger cut", || member.counts().strangers > 0).await;
    assert_eq!((links(&member), links(&open)), (0, 0));
}

#[tokio::test]
async fn a_certificate_that_ends_ends_its_connections_and_one_renewed_keeps_them() {
    for carrier in BOTH {
        let keys = Keys::new();
        let seed = keys.node(carrier, &[]).await;
        let (lapsing, renewing) = (Identity::generate(), Identity::generate());
        let short = Term::from(now(), Duration::from_secs(8));
        let seeds = [at(&seed)];
        let join = |identity, membership| start_with(identity, membership, carrier, &seeds, Saved::default());
        let lapses = join(&lapsing, keys.member(&lapsing, short)).await.unwrap();
        let renews = join(&renewing, keys.member(&renewing, short)).await.unwrap();
        until("both linked", || known(&seed, &lapses) && known(&seed, &renews)).await;
        renews.renew(keys.member(&renewing, Term::from(now(), HOUR))).await.unwrap();
        until("the lapsed one cut", || seed.counts().expelled > 0 && !known(&seed, &lapses)).await;
        until("and refused", || seed.counts().strangers > 0).await;
        assert!(
            known(&seed, &renews) && links(&renews) >= 1,
            "{:?} {:?} {}",
            seed.counts(),
            renews.counts(),
            known(&seed, &renews)
        );
        assert_eq!(renews.membership().unwrap().certificate.term.span(), HOUR);
        drop(open(&seed, &renews).await);
    }
}

#[tokio::test]
async fn a_revocation_cuts_live_links_and_reaches_those_who_were_away() {
    for carrier in BOTH {
        let keys = Keys::new();
        let seed = keys.node(carrier, &[]).await;
        let other = keys.node(carrier, &[at(&seed)]).await;
        let identity = Identity::generate();
        let bad = keys.member(&identity, Term::from(now(), HOUR));
        let seeds = [at(&seed)];
        let rogue = start_with(&identity, bad, carrier, &seeds, Saved::default()).await.unwrap();
        until("all linked", || known(&seed, &rogue) && known(&other, &rogue)).await;
        let what = Revoked::Node { key: identity.public_key(), serial: 7 };
        other.revoke(keys.admission.revoke(what, now()).unwrap()).await.unwrap();
        let forgot = |node: &Overlay| node.counts().expelled > 0 && !known(node, &rogue);
        until("the rogue cut everywhere", || forgot(&seed) && forgot(&other)).await;
        let away = keys.node(carrier, &seeds).await;
        let heard = |node: &Overlay| crate::driver::saved::read(&node.save_revocations().unwrap(), 9).unwrap().len();
        until("the revocation pulled", || heard(&away) == 1).await;
        // And by who was away with all others gone: it is kept, and told to the next.
        let (saved, next) = (away.save_revocations(), Identity::generate());
        let membership = keys.member(&next, Term::from(now(), HOUR));
        let saved = Saved { revocations: saved, ..Saved::default() };
        let kept = start_with(&next, membership, carrier, &[], saved).await.unwrap();
        let last = keys.node(carrier, &[at(&kept)]).await;
        until("the revocation told on", || heard(&last) == 1).await;
        // Nobody lets the rogue in again.
        let before = last.counts().strangers;
        let seeds = [at(&last)];
        let again = start_with(&identity, bad, carrier, &seeds, Saved::default()).await.unwrap();
        until("the rogue refused", || last.counts().strangers > before).await;
        assert_eq!(links(&again), 0);
    }
}

#[tokio::test]
async fn a_revocation_that_nobody_of_the_network_signed_changes_nothing() {
    let keys = Keys::new();
    let seed = keys.node(Carrier::Tcp, &[]).await;
    let other = keys.node(Carrier::Tcp, &[at(&seed)]).await;
    until("linked", || known(&seed, &other)).await;
    let key = other.membership().unwrap().certificate.node;
    let forged = Keys::new().network.revoke(Revoked::Node { key, serial: 0 }, now());
    assert!(matches!(seed.revoke(forged).await, Err(RevokeError::NotBelieved(_))));
    // Spread by a member that does not check, it is heard and not believed.
    crate::Index::spread(&other, forged.to_bytes().into()).await.unwrap();
    crate::Index::spread(&other, bytes::Bytes::from_static(b"a purge")).await.unwrap();
    let mut heard = crate::Index::spreads(&seed);
    crate::Index::spread(&other, bytes::Bytes::from_static(b"another")).await.unwrap();
    while soon("a record", heard.recv()).await.unwrap().record != "another" {}
    assert!(known(&seed, &other) && seed.counts().expelled == 0);
}

#[tokio::test]
async fn a_node_does_not_start_with_a_membership_that_is_of_no_use() {
    let (keys, identity) = (Keys::new(), Identity::generate());
    let refused = async |membership, info| {
        let settings = Config { admission: Admission::Closed, ..config(&[]) };
        let saved = Saved { membership, ..Saved::default() };
        match start(settings, crate::Config::default(), &identity, info, saved).await.err() {
            Some(StartError::Membership(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let hour = Term::from(now(), HOUR);
    assert_eq!(refused(None, info()).await, MembershipError::Missing);
    let other = keys.member(&Identity::generate(), hour);
    assert!(matches!(refused(Some(other), info()).await, MembershipError::OtherNode { .. }));
    let mut forged = keys.member(&identity, hour);
    forged.network = Keys::new().network.network();
    assert!(matches!(refused(Some(forged), info()).await, MembershipError::Void(_)));
    let dnssrv = crate::NodeInfo { roles: Roles::DNSSRV, ..info() };
    assert_eq!(refused(Some(keys.member(&identity, hour)), dnssrv).await, MembershipError::Roles);
}

#[tokio::test]
async fn a_statement_is_known_second_hand_by_who_made_it_and_only_members_make_any() {
    let keys = Keys::new();
    let seed = keys.node(Carrier::Tcp, &[]).await;
    let other = keys.node(Carrier::Tcp, &[at(&seed)]).await;
    let proof = seed.sign(b"so it is").unwrap();
    assert!(proof.len() <= 512);
    for _ in 0..2 {
        assert_eq!(other.signer(b"so it is", &proof), Some(seed.id()));
        assert_eq!(other.signer(b"so it was", &proof), None);
    }
    for place in [0, 1, 40, 100, 240, proof.len() - 1] {
        let mut forged = proof.to_vec();
        forged[place] ^= 1;
        assert_eq!(other.signer(b"so it is", &forged), None, "byte {place}");
    }
    for short in 0..proof.len() {
        assert_eq!(other.signer(b"so it is", &proof[..short]), None);
    }
    // Of another network, of an open one, and of one whose place was taken back.
    let stranger = Keys::new().node(Carrier::Tcp, &[]).await;
    assert_eq!(other.signer(b"so it is", &stranger.sign(b"so it is").unwrap()), None);
    let open = start(config(&[]), crate::Config::default(), &Identity::generate(), info(), None).await.unwrap();
    let said = open.sign(b"so it is").unwrap();
    assert_eq!((open.signer(b"so it is", &said), other.signer(b"so it is", &said)), (Some(open.id()), None));
    let revocation =
        keys.network.revoke(Revoked::Node { key: seed.membership().unwrap().certificate.node, serial: 7 }, now());
    other.revoke(revocation).await.unwrap();
    assert_eq!(other.signer(b"so it is", &proof), None);
}
