//! One DNS question over UDP, with the time its answer took. A truncated answer is taken as it is.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// From question to answer.
    pub took: Duration,
    /// NOERROR, NXDOMAIN and so on.
    pub code: ResponseCode,
    /// The addresses in the answer section, with their TTLs in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
    /// The whole message.
    pub message: Message,
}

/// Whether the server is asked to find the answer (RD) or only for what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// As a client asks its resolver.
    Wanted,
    /// As a resolver asks an authority.
    NotWanted,
}

/// Asks as a program's stub resolver does, with the patience that hosts' /etc/resolv.conf gives it: resolvers answer late
/// questions only when they are asked again (Unbound from 1.9 s on). The time counts from the first attempt.
pub fn stub(server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Answer> {
    let start = Instant::now();
    let mut last = io::ErrorKind::TimedOut.into();
    for _ in 0..STUB_ATTEMPTS {
        match ask(server, name, kind, Recursion::Wanted, STUB_TIMEOUT) {
            Ok(answer) => return Ok(Answer { took: start.elapsed(), ..answer }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a stub resolver waits for an answer before it asks again.
pub(crate) const STUB_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it asks.
pub(crate) const STUB_ATTEMPTS: u32 = 3;

/// Asks `server` once; `ErrorKind::WouldBlock` or `TimedOut` if nothing came in `patience`.
pub fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    recursion: Recursion,
    patience: Duration,
) -> io::Result<Answer> {
    let question = Query::query(Name::from_ascii(name).map_err(io::Error::other)?, kind);
    let mut query = Message::query();
    query.metadata.recursion_desired = recursion == Recursion::Wanted;
    query.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    let start = Instant::now();
    socket.send(&query.to_vec().map_err(io::Error::other)?)?;
    let mut buffer = [0; 4096];
    loop {
        let left = patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero());
        socket.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let length = socket.recv(&mut buffer)?;
        let took = start.elapsed();
        let Ok(message) = Message::from_vec(&buffer[..length]) else { continue };
        if message.metadata.id == query.metadata.id && message.queries.first() == Some(&question) {
            let address = |data: &RData| match data {
                RData::A(v4) => Some(IpAddr::V4(v4.0)),
                RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
                _ => None,
            };
            let addresses = message.answers.iter().filter_map(|record| Some((address(&record.data)?, record.ttl)));
            return Ok(Answer { took, code: message.metadata.response_code, addresses: addresses.collect(), message });
        }
    }
}
