//! hickory-server's own path from a datagram to its reply, on one socket, with the least of a handler behind it: what a
//! redirector that is built on it could not go below.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{Ipv4Addr, SocketAddr},
};

use async_trait::async_trait;
use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Edns, Header, HeaderCounts, LowerQuery, Metadata},
        rr::{RData, Record},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::UdpSocket;

/// Serves until it is killed.
pub(super) async fn serve(address: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind(address).await.map_err(|error| error.to_string())?;
    let mut server = Server::new(TwoAddresses);
    server.register_socket(socket);
    server.block_until_done().await.map_err(|error| error.to_string())
}

/// Answers with two addresses that depend on the name.
struct TwoAddresses;

#[async_trait]
impl RequestHandler for TwoAddresses {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut reply: R) -> ResponseInfo {
        let answers = request.request_info().map(|asked| addresses(asked.query)).unwrap_or_default();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        builder.edns(&edns);
        let sent = reply.send_response(builder.build(metadata, &answers, [], [], [])).await;
        sent.unwrap_or_else(|_| Header { metadata, counts: HeaderCounts::default() }.into())
    }
}

fn addresses(query: &LowerQuery) -> Vec<Record> {
    let mut hash = DefaultHasher::new();
    query.name().hash(&mut hash);
    let [a, b, ..] = hash.finish().to_be_bytes();
    let record = |last| Record::from_rdata(query.name().into(), 30, RData::A(Ipv4Addr::new(192, 0, 2, last).into()));
    vec![record(a), record(b)]
}
