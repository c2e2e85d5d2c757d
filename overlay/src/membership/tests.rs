//! Who is a member, and who is not.

use std::time::Duration;

use expect_test::expect;
use proptest::prelude::{any, proptest};

use super::{
    AdmissionKey, AdmissionRequest, Certificate, Grant, Limits, Membership, NetworkId, NetworkKey, NotMember,
    PublicKey, Refused, Revocation, Revocations, Revoked, Taken, Term, TextError, UnixTime, signing::Secret, text,
};
use crate::Roles;

const DAY: u64 = 86_400;
const NOW: UnixTime = UnixTime(1_795_330_800);
const NODE: PublicKey = PublicKey([7; 32]);

fn days(count: u64) -> Term {
    Term::from(NOW, Duration::from_secs(count * DAY))
}

fn later(days: u64) -> UnixTime {
    UnixTime(NOW.0 + days * DAY)
}

/// A network, an admission key for 90 days and a certificate for 30.
fn chain() -> (NetworkKey, AdmissionKey, Certificate) {
    let network = NetworkKey::generate().unwrap();
    let admission = network.admission(Roles::PROXY.with(Roles::DNSSRV), days(90)).unwrap();
    let certificate = admission.admit(NODE, 5, Roles::PROXY, days(30)).unwrap();
    (network, admission, certificate)
}

fn check(certificate: &Certificate, network: &NetworkKey, now: UnixTime) -> Result<(), NotMember> {
    certificate.verify(&network.network(), now, &Revocations::default())
}

#[test]
fn a_certificate_of_an_admission_key_of_the_network_makes_a_member() {
    let (network, _, certificate) = chain();
    assert_eq!(check(&certificate, &network, NOW), Ok(()));
    assert_eq!(certificate.roles(), Roles::PROXY);
    assert_eq!(check(&certificate, &network, later(30)), Ok(()));
}

#[test]
fn a_key_made_elsewhere_admits_once_it_is_granted_and_again_after_a_further_grant() {
    let (network, ..) = chain();
    let request = AdmissionRequest::generate().unwrap();
    let grant = network.grant(request.key(), Roles::PROXY, days(90)).unwrap();
    let grant = Grant::from_text(&grant.to_text()).unwrap();
    assert!(Grant::from_text(&grant.to_text()[2..]).is_err() && Grant::from_text("no grant").is_err());
    let stranger = NetworkKey::generate().unwrap();
    assert_eq!(request.clone().granted(stranger.network(), grant).unwrap_err(), NotMember::Foreign);
    let other = AdmissionRequest::generate().unwrap();
    assert_eq!(other.granted(network.network(), grant).unwrap_err(), NotMember::Foreign);
    let key = request.granted(network.network(), grant).unwrap();
    let certificate = key.admit(NODE, 5, Roles::PROXY, days(30)).unwrap();
    assert_eq!(check(&certificate, &network, NOW), Ok(()));
    // What it revokes after a further grant is what it admitted before.
    let further = network.grant(key.request().key(), Roles::PROXY, days(80)).unwrap();
    let again = key.request().granted(network.network(), further).unwrap();
    let mut known = Revocations::default();
    let revoked = again.revoke(Revoked::Node { key: NODE, serial: 0 }, NOW).unwrap();
    known.add(&network.network(), NOW, revoked).unwrap();
    assert_eq!(certificate.verify(&network.network(), NOW, &known), Err(NotMember::Revoked));
}

#[test]
fn an_expired_certificate_makes_nobody_a_member() {
    let (network, _, certificate) = chain();
    let late = UnixTime(later(30).0 + 1);
    let expired = NotMember::Expired { at: later(30), ago: Duration::from_secs(1) };
    assert_eq!(check(&certificate, &network, late), Err(expired));
}

#[test]
fn clocks_a_day_apart_do_not_keep_a_member_out() {
    let (network, _, certificate) = chain();
    assert_eq!(check(&certificate, &network, UnixTime(NOW.0 - DAY)), Ok(()));
    assert_eq!(check(&certificate, &network, later(1)), Ok(()));
    let early = UnixTime(NOW.0 - DAY - 1);
    assert_eq!(check(&certificate, &network, early), Err(NotMember::NotYet { from: NOW }));
}

#[test]
fn a_certificate_of_another_network_makes_nobody_a_member() {
    let (_, _, certificate) = chain();
    let (other, ..) = chain();
    assert_eq!(check(&certificate, &other, NOW), Err(NotMember::Foreign));
}

#[test]
fn a_self_made_chain_makes_nobody_a_member() {
    let (network, admission, _) = chain();
    let impostor = Secret::generate().unwrap();
    // A grant that an impostor signed itself, in this network's name.
    let grant = Grant::sign(&impostor, &network.network(), impostor.public(), Roles::PROXY, days(90)).unwrap();
    let made = Certificate::sign(&impostor, &network.network(), grant, (NODE, 1), Roles::PROXY, days(30));
    assert_eq!(check(&made, &network, NOW), Err(NotMember::Foreign));
    // A true grant under which somebody else signed.
    let borrowed = *admission.grant();
    let made = Certificate::sign(&impostor, &network.network(), borrowed, (NODE, 1), Roles::PROXY, days(30));
    assert_eq!(check(&made, &network, NOW), Err(NotMember::Foreign));
}

#[test]
fn a_certificate_says_no_more_than_its_admission_key_may() {
    let network = NetworkKey::generate().unwrap();
    let secret = Secret::generate().unwrap();
    let grant = network.grant(secret.public(), Roles::PROXY, days(10)).unwrap();
    let sign = |serial, roles, term| Certificate::sign(&secret, &network.network(), grant, (NODE, serial), roles, term);
    let beyond = Err(NotMember::BeyondGrant);
    assert_eq!(check(&sign(1, Roles::PROXY, days(10)), &network, NOW), Ok(()));
    assert_eq!(check(&sign(1, Roles::PROXY, days(11)), &network, NOW), beyond);
    assert_eq!(check(&sign(1, Roles::DNSSRV, days(10)), &network, NOW), beyond);
    assert_eq!(check(&sign(0, Roles::PROXY, days(10)), &network, NOW), beyond);
}

#[test]
fn an_admission_key_granted_for_longer_than_90_days_admits_nobody() {
    let (network, ..) = chain();
    let secret = Secret::generate().unwrap();
    // Only a program that breaks the rules makes one: the network key refuses.
    let refused = network.grant(secret.public(), Roles::PROXY, days(91));
    assert_eq!(refused, Err(Refused::TooLong { span: Duration::from_secs(91 * DAY) }));
    let network_secret = Secret::generate().unwrap();
    let id = NetworkId::of(network_secret.public());
    let mut grant = Grant::sign(&network_secret, &id, secret.public(), Roles::PROXY, days(90)).unwrap();
    grant.term.not_after = later(91);
    let certificate = Certificate::sign(&secret, &id, grant, (NODE, 1), Roles::PROXY, days(30));
    assert_eq!(certificate.verify(&id, NOW, &Revocations::default()), Err(NotMember::TooLong));
}

#[test]
fn what_nobody_would_believe_is_not_signed() {
    let (network, admission, certificate) = chain();
    let admit = |serial, roles, term| admission.admit(NODE, serial, roles, term);
    assert_eq!(admit(0, Roles::PROXY, days(1)), Err(Refused::Serial));
    assert_eq!(admit(1, Roles::MANAGER, days(1)), Err(Refused::Roles));
    let late = Term::from(later(80), Duration::from_secs(11 * DAY));
    assert_eq!(admit(1, Roles::PROXY, late), Err(Refused::Outlives { until: later(90) }));
    assert_eq!(admit(1, Roles::PROXY, days(0)), Err(Refused::Empty));
    let renewed = admission.renew(&certificate, Term::from(later(20), Duration::from_secs(30 * DAY))).unwrap();
    assert_eq!(renewed.place(&network.network()), certificate.place(&network.network()));
    assert_eq!(check(&renewed, &network, later(40)), Ok(()));
}

#[test]
fn a_bit_changed_anywhere_voids_a_certificate() {
    let (network, _, certificate) = chain();
    let bytes = certificate.to_bytes();
    assert_eq!(bytes.len(), Certificate::BYTES);
    assert_eq!(Certificate::from_bytes(&bytes), Ok(certificate));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let believed = Certificate::from_bytes(&changed).is_ok_and(|one| check(&one, &network, NOW).is_ok());
        assert!(!believed, "byte {at}");
    }
}

#[test]
fn a_node_is_revoked_by_the_network_key_or_by_the_key_that_admitted_it() {
    let (network, admission, certificate) = chain();
    let id = network.network();
    let what = Revoked::Node { key: NODE, serial: 5 };
    let stranger = network.admission(Roles::PROXY, days(90)).unwrap();
    let renewed = admission.renew(&certificate, days(60)).unwrap();
    let again = admission.admit(NODE, 6, Roles::PROXY, days(30)).unwrap();
    let cases = [
        (network.revoke(what, NOW), true, false),
        (admission.revoke(what, NOW).unwrap(), true, false),
        (stranger.revoke(what, NOW).unwrap(), false, false),
        (network.revoke(Revoked::Node { key: NODE, serial: 0 }, NOW), true, true),
        (network.revoke(Revoked::Admission(admission.grant().key), NOW), true, true),
        (network.revoke(Revoked::Admission(stranger.grant().key), NOW), false, false),
    ];
    for (revocation, revoked, newly_admitted_too) in cases {
        let mut revocations = Revocations::default();
        assert_eq!(revocations.add(&id, NOW, revocation), Ok(Taken::New));
        assert_eq!(revocations.add(&id, NOW, revocation), Ok(Taken::Known));
        let is_revoked = |one: &Certificate| one.verify(&id, NOW, &revocations) == Err(NotMember::Revoked);
        assert_eq!(is_revoked(&certificate), revoked, "{revocation:?}");
        assert_eq!(is_revoked(&renewed), revoked, "renewal does not undo it: {revocation:?}");
        assert_eq!(is_revoked(&again), newly_admitted_too, "{revocation:?}");
    }
    assert_eq!(admission.revoke(Revoked::Admission(stranger.grant().key), NOW), Err(Refused::NotTheirs));
}

#[test]
fn a_revocation_that_nobody_of_the_network_signed_is_refused() {
    let (network, admission, _) = chain();
    let (other, other_admission, _) = chain();
    let id = network.network();
    let what = Revoked::Node { key: NODE, serial: 5 };
    let mut revocations = Revocations::default();
    let self_revoking = {
        // An admission key that names another one.
        let mut bytes = admission.revoke(what, NOW).unwrap().to_bytes();
        bytes[4 + 1 + Grant::BYTES] = 1;
        bytes.drain(bytes.len() - 8 - 64 - 8..bytes.len() - 64 - 8);
        Revocation::from_bytes(&bytes).unwrap()
    };
    for foreign in [other.revoke(what, NOW), other_admission.revoke(what, NOW).unwrap(), self_revoking] {
        assert!(revocations.add(&id, NOW, foreign).is_err());
    }
    assert!(revocations.is_empty());
}

#[test]
fn revocations_are_bounded_and_those_of_dead_admission_keys_make_room() {
    let (network, admission, _) = chain();
    let id = network.network();
    let mut revocations = Revocations::new(Limits { all: 3, per_admission_key: 2 });
    let node = |number| Revoked::Node { key: PublicKey([number; 32]), serial: 1 };
    let mut add = |revocation, now| revocations.add(&id, now, revocation).unwrap();
    assert_eq!(add(admission.revoke(node(1), NOW).unwrap(), NOW), Taken::New);
    assert_eq!(add(admission.revoke(node(2), NOW).unwrap(), NOW), Taken::New);
    assert_eq!(add(admission.revoke(node(3), NOW).unwrap(), NOW), Taken::NoRoom);
    assert_eq!(add(network.revoke(node(4), NOW), NOW), Taken::New);
    assert_eq!(add(network.revoke(node(5), NOW), NOW), Taken::NoRoom);
    let dead = UnixTime(later(90).0 + 1);
    assert_eq!(add(network.revoke(node(5), NOW), dead), Taken::New);
    assert_eq!(revocations.len(), 2);
}

#[test]
fn files_say_what_they_are_and_are_read_as_nothing_else() {
    let (network, admission, certificate) = chain();
    let membership = Membership { network: network.network(), certificate };
    let revocation = network.revoke(Revoked::Admission(admission.grant().key), NOW);
    assert_eq!(NetworkKey::from_text(&network.to_text()).unwrap().network(), network.network());
    assert_eq!(AdmissionKey::from_text(&admission.to_text()).unwrap().grant(), admission.grant());
    assert_eq!(Membership::from_text(&membership.to_text()), Ok(membership));
    assert_eq!(Revocation::from_text(&revocation.to_text()), Ok(revocation));
    let wrong = Membership::from_text(&network.to_text()).unwrap_err();
    assert_eq!(wrong.to_string(), "this is a network key, not a node's certificate");
    let newer = membership.to_text().replace("certificate 1 ", "certificate 2 ");
    assert!(matches!(Membership::from_text(&newer), Err(TextError::Version { .. })));
    for damaged in ["", "# only a note\n", "atoll-certificate 1 zz", "atoll-certificate 1 00", "two\nlines", "ä"] {
        assert!(matches!(Membership::from_text(damaged), Err(TextError::Damaged { .. })), "{damaged:?}");
    }
    assert!(!format!("{network:?} {admission:?}").contains(&text::hex(&[0; 4])));
}

/// Bytes as lines of digits.
fn lines(bytes: &[u8]) -> String {
    bytes.chunks(48).map(|chunk| text::hex(chunk) + "\n").collect()
}

/// The bytes that nodes of this version exchange: a change here is a new version of the layout.
#[test]
fn the_layouts_are_these_bytes() {
    let network = Secret::from_bytes(&[1; 32]);
    let id = NetworkId::of(network.public());
    let admission = Secret::from_bytes(&[2; 32]);
    let node = Secret::from_bytes(&[3; 32]).public();
    let grant = Grant::sign(&network, &id, admission.public(), Roles::PROXY, days(90)).unwrap();
    let certificate = Certificate::sign(&admission, &id, grant, (node, 0x0102), Roles::PROXY, days(30));
    let what = Revoked::Node { key: node, serial: 0x0102 };
    let by_network = Revocation::by_network(&network, &id, what, NOW);
    let by_admission = Revocation::by_admission(&admission, &id, grant, Revoked::Node { key: node, serial: 0 }, NOW);
    assert!(by_network.verify(&id).is_ok() && by_admission.verify(&id).is_ok());
    assert_eq!(by_admission.to_bytes().len(), Revocation::LIMIT);
    expect![[r#"
        018139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39401000000006b0292f0000000006b79
        39f0f372be08675bb9bf3e6ccde4ae68687aeb80e9aa7ddc7509d33f99a0b4789049b4c08b9a579208a9219226325eee
        d3136ee0c05ae0d8850c4c5ea678a50a2e01ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac87
        37d1000000000000010201000000006b0292f0000000006b2a1ff03a9396892033396218dbcff044aaa35f6ba0f7e89f
        f0183f9bbb5968cbcbb7f5195d7254a7d31dc74d4e8667b0db43619a5ec846b73b26be1f031e49bc4fb20b
    "#]]
    .assert_eq(&lines(&certificate.to_bytes()));
    expect![[r#"
        617276310000ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d100000000000001020000
        00006b0292f0c08f4121265c894023f3ff9222be9d1d066e39f9dc8b0488ff4680a6f4488322e49b2d50ce08ab0190b4
        3312b2de496eeb1ed20ba3efd876296faae85965390a
    "#]]
    .assert_eq(&lines(&by_network.to_bytes()));
    expect![[r#"
        61727631018139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39401000000006b0292f00000
        00006b7939f0f372be08675bb9bf3e6ccde4ae68687aeb80e9aa7ddc7509d33f99a0b4789049b4c08b9a579208a92192
        26325eeed3136ee0c05ae0d8850c4c5ea678a50a2e0100ed4928c628d1c2c6eae90338905995612959273a5c63f93636
        c14614ac8737d10000000000000000000000006b0292f0fc7be544bec995839e37f3d444442c1b2ffe33b03be325d960
        7299a1055a78d96a7b525d3ed93001010e2d3a9335424173abbaffee827373c6284cfd0c280f02
    "#]]
    .assert_eq(&lines(&by_admission.to_bytes()));
    expect!["fa4c69a912d447bde457f854afe4550b943fd5ec"].assert_eq(&certificate.place(&id).to_string());
}

#[test]
fn foreign_bytes_are_a_certificate_or_none_and_come_out_as_they_went_in() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(certificate) = Certificate::from_bytes(bytes) {
            assert_eq!(certificate.to_bytes(), bytes);
            let id = NetworkId::of(certificate.node);
            assert!(certificate.verify(&id, NOW, &Revocations::default()).is_err());
        }
    });
}

#[test]
fn foreign_bytes_are_a_revocation_or_none_and_come_out_as_they_went_in() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut framed = b"arv1".to_vec();
        framed.extend_from_slice(bytes);
        if let Ok(revocation) = Revocation::from_bytes(&framed) {
            assert_eq!(revocation.to_bytes(), framed);
            assert!(revocation.verify(&NetworkId::of(NODE)).is_err());
        }
    });
}

#[test]
fn foreign_text_is_a_file_of_ours_or_none() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let _ = NetworkKey::from_text(&text);
        let _ = AdmissionKey::from_text(&text);
        let _ = Membership::from_text(&text);
        let _ = Revocation::from_text(&text);
    });
}

proptest! {
    #[test]
    fn hexadecimal_digits_are_read_back(bytes: Vec<u8>, key: [u8; 32], cut in any::<proptest::sample::Index>()) {
        let written = text::hex(&bytes);
        assert_eq!(text::unhex(&written), Some(bytes.clone()));
        assert_eq!(text::unhex(&written.to_uppercase()), Some(bytes));
        let key = PublicKey(key);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!(key.to_string()[..cut.index(64)].parse::<PublicKey>().is_err());
        assert_eq!(PublicKey::of_peer_id(&key.peer_id()), Some(key));
    }
}
