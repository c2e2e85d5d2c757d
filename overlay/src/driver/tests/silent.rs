//! What becomes of the question that closes a silent link, and of links whose peer makes another. By a driver that does not run,
//! step by step.

use std::time::Duration;

use bytes::Bytes;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{Identity, config, info};
use crate::{
    Roles,
    core::{
        Input, Output, Peer,
        message::{Body, Header, Message, Request},
    },
    driver::{
        behaviour::{Admitted, Event, Way},
        book::Name,
        budget::Budget,
        certificate::Purpose,
        roads::{Change, Member},
        run::Driver,
        start::{Saved, prepare},
    },
};

/// A peer with a link, what is handed to that, and since when it owes an answer: longer than it may.
fn link_silent(driver: &mut Driver) -> (Peer, mpsc::Receiver<Bytes>) {
    driver.config.silence = Duration::ZERO;
    let name = Name { peer_id: Identity::generate().peer_id(), serial: 0 };
    let contact = driver.shared.book().meet(name, vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()]);
    let (frames, handed) = mpsc::channel(4);
    let (connection, opens) = (ConnectionId::new_unchecked(1_000_000), mpsc::channel(1).0);
    let since = driver.clock.now();
    let way = Way { connection, purpose: Purpose::Link, dialled: true, since, frames, opens };
    assert_eq!(driver.roads.admit(contact.peer, way), Change::Linked);
    let now = driver.clock.now();
    let member = Member {
        contact,
        peer_id: name.peer_id,
        roles: Roles::PROXY,
        operator: None,
        told: true,
        checks: 0,
        budget: Budget::full(now, 100),
        unanswered: Some(now),
    };
    driver.members.insert(contact.peer, member);
    driver.shared.book().hold(contact.peer);
    (contact.peer, handed)
}

fn ask(driver: &mut Driver, to: Peer) {
    let message = Message { header: Header::default().into(), body: Body::Request { id: 1, request: Request::Ping } };
    driver.perform(Output::Send { to, message: Box::new(message) });
}

#[tokio::test]
async fn a_question_whose_answer_would_mean_nothing_is_not_handed_over() {
    let identity = Identity::generate();
    let prepared = prepare(config(&[]), crate::Config::default(), &identity, info(), Saved::default()).await;
    let (_overlay, mut driver) = prepared.unwrap();
    let (peer, mut handed) = link_silent(&mut driver);
    ask(&mut driver, peer);
    // Of the same outputs: it is lost as well.
    ask(&mut driver, peer);
    assert!(matches!(driver.inputs.make_contiguous(), [Input::Disconnected(gone)] if *gone == peer));
    assert!(driver.dials.is_empty() && matches!(handed.try_recv(), Err(TryRecvError::Disconnected)));
    // Once the core has heard of it, what it asks is dialled for.
    driver.inputs.clear();
    ask(&mut driver, peer);
    assert_eq!(driver.dials.len(), 1);
}

#[tokio::test]
async fn a_link_that_stood_for_long_gives_way_to_one_that_its_peer_makes() {
    // Two that dial each other at once keep both until they agree on one.
    for (stood_longer, kept) in [(Duration::ZERO, 2), (Duration::from_millis(1), 1)] {
        let identity = Identity::generate();
        let prepared = prepare(config(&[]), crate::Config::default(), &identity, info(), Saved::default()).await;
        let (_overlay, mut driver) = prepared.unwrap();
        let (peer, handed) = link_silent(&mut driver);
        driver.config.silence = Duration::from_secs(3_600);
        let old = driver.members[&peer];
        let (frames, _frames) = mpsc::channel(4);
        let (connection, opens) = (ConnectionId::new_unchecked(2_000_000), mpsc::channel(1).0);
        let since = driver.roads.linked_since(peer).unwrap() + driver.config.handshake_timeout + stood_longer;
        let way = Way { connection, purpose: Purpose::Link, dialled: false, since, frames, opens };
        let name = Name { peer_id: old.peer_id, serial: 0 };
        let addresses = vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()];
        let admitted = Admitted { connection, name, roles: Roles::PROXY, operator: None, at: None, addresses, way };
        driver.on_swarm_event(SwarmEvent::Behaviour(Event::Admitted(Box::new(admitted))));
        assert_eq!(driver.roads.connections_to(peer).len(), kept);
        assert_eq!(handed.is_closed(), kept == 1);
    }
}
