//! A question that was put off, asked again on its client's behalf: by whatever way it came (`udp.rs`, `connection.rs`), its answer
//! is made here once what it waits for is known (`waiters.rs`) or has taken too long.

use std::{net::SocketAddr, time::Instant};

use tokio::time::timeout;

use crate::{
    Transport,
    redirector::Redirector,
    respond::Outcome,
    waiters::{Patience, Waited},
};

/// The answer to a question that was put off: once what it waits for is known, or has taken too long. What is known then may be
/// worth a further wait: first it is measured how far the resolver is, then who is near it.
pub(crate) async fn answer_later(
    redirector: &Redirector,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
    mut patience: Patience,
) -> Option<Vec<u8>> {
    let began = Instant::now();
    let mut times = 0;
    loop {
        // Known, given up, or too late: the answer is made from what there is.
        let _ = timeout(patience.most, patience.known).await;
        times += 1;
        let waited = (times < MOST_WAITS).then(|| Waited { times, time: began.elapsed() });
        match redirector.respond(Instant::now(), query, from, transport, waited) {
            Outcome::Reply(reply) => return Some(reply),
            Outcome::Silence => return None,
            Outcome::Wait(more) => patience = more,
        }
    }
}

/// Times a question waits at most: for a measurement, and for scouts.
const MOST_WAITS: u32 = 2;
