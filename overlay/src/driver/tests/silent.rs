//! What becomes of the question that closes a silent link, of links whose peer makes another, and of a stream for much that is not
//! answered. By a driver that does not run, step by step.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use libp2p::{
    Multiaddr,
    swarm::{ConnectionId, DialError, SwarmEvent},
};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{Config, DEADLINE, Identity, Overlay, config, info, lanes, soon};
use crate::{
    NodeId, Roles, StreamError, Streams as _,
    core::{
        Input, Output, Peer,
        message::{Body, Header, Message, Request},
    },
    driver::{
        address::Seed,
        behaviour::{Admitted, Event, Way},
        book::Name,
        budget::Budget,
        certificate::Purpose,
        handler::Open,
        overlay,
        roads::{Change, Member},
        run::{Dial, Driver, Target},
        start::{Saved, prepare},
    },
};

/// A driver that does not run, with these seeds.
async fn stopped(seeds: &[SocketAddr]) -> (Overlay, Driver) {
    let identity = Identity::generate();
    prepare(config(seeds), crate::Config::default(), &identity, info(), Saved::default(), lanes()).await.unwrap()
}

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
    let (_overlay, mut driver) = stopped(&[]).await;
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

/// A connection to a peer that has a link, admitted so long after that one.
fn join_later(
    driver: &mut Driver,
    peer: Peer,
    number: usize,
    purpose: Purpose,
    after: Duration,
) -> (mpsc::Receiver<Bytes>, mpsc::Receiver<Open>) {
    let name = Name { peer_id: driver.members[&peer].peer_id, serial: 0 };
    let ((frames, on_frames), (opens, on_opens)) = (mpsc::channel(4), mpsc::channel(1));
    let connection = ConnectionId::new_unchecked(number);
    let way = Way { connection, purpose, dialled: false, since: driver.clock.now() + after, frames, opens };
    let addresses = vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()];
    let admitted = Admitted { connection, name, roles: Roles::PROXY, operator: None, at: None, addresses, way };
    driver.on_swarm_event(SwarmEvent::Behaviour(Event::Admitted(Box::new(admitted))));
    (on_frames, on_opens)
}

#[tokio::test]
async fn a_link_that_a_peer_makes_takes_the_messages_of_one_that_stood_for_long_and_ends_nothing() {
    let (_overlay, mut driver) = stopped(&[]).await;
    let (peer, mut on_old) = link_silent(&mut driver);
    driver.config.silence = Duration::from_secs(3_600);
    let (_frames, on_bulk) = join_later(&mut driver, peer, 2_000_000, Purpose::Bulk, Duration::ZERO);
    let after = driver.config.dials_apart() + Duration::from_secs(60);
    let (mut on_new, _opens) = join_later(&mut driver, peer, 3_000_000, Purpose::Link, after);
    assert_eq!(driver.roads.connections_to(peer).len(), 3);
    assert!(!on_old.is_closed() && !on_bulk.is_closed());
    ask(&mut driver, peer);
    assert!(on_new.try_recv().is_ok() && on_old.try_recv().is_err());
}

#[tokio::test]
async fn a_seed_that_is_linked_is_not_dialled_whoever_made_the_link() {
    let at: Multiaddr = "/ip4/127.0.0.1/tcp/9".parse().unwrap();
    let (_overlay, mut driver) = stopped(&[SocketAddr::from(([127, 0, 0, 1], 9)); 2]).await;
    let (peer, _handed) = link_silent(&mut driver);
    // Found where it says.
    driver.shared.book().reached(peer, &at);
    driver.rejoin(driver.clock.now());
    assert_eq!(driver.counters.read().dials, 0);
    // Named.
    let peer_id = driver.members[&peer].peer_id;
    for known in &mut driver.join.seeds {
        known.seed = Seed { address: "/ip4/127.0.0.2/tcp/9".parse().unwrap(), peer: Some(peer_id) };
    }
    driver.rejoin(driver.clock.now());
    assert_eq!(driver.counters.read().dials, 0);
}

#[tokio::test]
async fn a_peer_that_only_says_it_is_where_a_seed_is_does_not_keep_that_from_being_dialled() {
    let (_overlay, mut driver) = stopped(&[SocketAddr::from(([127, 0, 0, 1], 9))]).await;
    link_silent(&mut driver);
    driver.rejoin(driver.clock.now());
    assert_eq!(driver.counters.read().dials, 1);
}

#[tokio::test]
async fn a_peer_that_linked_itself_is_not_dialled_by_the_second_carrier_once_the_core_was_told() {
    for told in [true, false] {
        let (_overlay, mut driver) = stopped(&[]).await;
        let (peer, _handed) = link_silent(&mut driver);
        driver.members.get_mut(&peer).unwrap().told = told;
        let peer_id = driver.members[&peer].peer_id;
        let first = ConnectionId::new_unchecked(2_000_000);
        let second = vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()];
        let other = Some((Purpose::Link, peer_id, second));
        driver.dials.insert(first, Dial { target: Target::Peer(peer), other });
        driver.roads.dialling(peer, first, Purpose::Link);
        driver.on_swarm_event(SwarmEvent::OutgoingConnectionError {
            connection_id: first,
            peer_id: Some(peer_id),
            error: DialError::Aborted,
        });
        assert_eq!(driver.dials.is_empty(), told, "what waits for a dial-back waits for a dial as well");
    }
}

/// A driver with a linked peer, to which nothing was measured: its round trip is taken for this one.
async fn unmeasured(rtt: Duration, open_timeout: Duration) -> (Overlay, Driver, NodeId) {
    let (core, identity) = (crate::Config { rto_unknown: rtt, ..crate::Config::default() }, Identity::generate());
    let config = Config { open_timeout, ..config(&[]) };
    let (overlay, mut driver) = prepare(config, core, &identity, info(), Saved::default(), lanes()).await.unwrap();
    let (peer, _) = link_silent(&mut driver);
    let to = driver.members[&peer].contact.id;
    (overlay, driver, to)
}

#[tokio::test]
async fn a_stream_for_much_that_no_bulk_connection_takes_in_time_is_taken_back_and_asked_for_anyhow() {
    let (node, mut driver, to) = unmeasured(Duration::from_millis(1), DEADLINE).await;
    let answer = async {
        let Some(overlay::Request::Open { open: first, by: Purpose::Bulk, .. }) = driver.requests.recv().await else {
            panic!()
        };
        let Some(overlay::Request::Open { open: second, by: Purpose::Link, .. }) = driver.requests.recv().await else {
            panic!()
        };
        assert!(first.is_closed() && !second.is_closed());
        second.send(Err("as the second was told".to_owned())).unwrap();
    };
    let (opened, ()) = soon("two wishes", async { tokio::join!(node.open_bulk(to), answer) }).await;
    assert!(opened.err().unwrap().to_string().contains("as the second was told"));
}

#[tokio::test]
async fn a_stream_for_much_has_one_bound_with_the_wait_for_its_connection() {
    let hour = Duration::from_secs(3_600);
    let (node, mut driver, to) = unmeasured(hour, Duration::from_millis(100)).await;
    let opened = soon("an end", node.open_bulk(to)).await;
    assert!(matches!(opened.err(), Some(StreamError::Unreachable(..))));
    let Ok(overlay::Request::Open { open, by: Purpose::Bulk, .. }) = driver.requests.try_recv() else { panic!() };
    assert!(open.is_closed() && driver.requests.try_recv().is_err());
}
