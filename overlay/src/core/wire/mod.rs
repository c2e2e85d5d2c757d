//! The byte layout of [`Message`]: protobuf by hand-derived structs, so that unknown fields are skipped and versions can roll.
//! A message over its cap is refused before anything is allocated; repeated fields are opaque byte strings whose number is
//! checked before any is looked into, so that 4 KiB of input never grow to more than 64 KiB.
//!
//! Other nodes travel as contact records: bytes that the driver or the simulator writes and reads through [`Book`].

mod frame;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;

use self::frame::{Frame, kind};
use super::{
    Contact, Peer,
    message::{Body, Header, Hello, Message},
};

/// Who knows how other nodes are written: the driver (peer id, serial, addresses), the simulator (a number).
pub trait Book {
    /// The contact record of this node, at most [`RECORD_LIMIT`] bytes; none if it is not known (any more), or has no address.
    fn record(&self, peer: Peer) -> Option<Bytes>;

    /// The node a record names, made known if it was not. None if the record is malformed. Called at most eight times a message.
    fn intern(&mut self, record: &[u8]) -> Option<Contact>;
}

/// Bytes of a contact record at most.
pub const RECORD_LIMIT: usize = 256;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any message may be.
    #[error("{length} bytes, a message has at most {}", Message::LIMIT)]
    TooLong {
        /// Bytes offered.
        length: usize,
    },
    /// Not protobuf.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A field that must be there is missing, or has a size or value it cannot have.
    #[error("{0} is missing or out of bounds")]
    Field(&'static str),
    /// A kind of message from a later version.
    #[error("an unknown kind of message")]
    Unknown,
}

impl Message {
    /// The message as bytes, at most [`Message::LIMIT`]. Nodes and values of nodes the book has no record of are left out, and so
    /// are nodes beyond what fits [`Message::AIM`].
    #[must_use]
    pub fn encode(&self, book: &dyn Book) -> Bytes {
        let mut frame = Frame { clusters: self.header.clusters.iter().map(write::tag).collect(), ..Frame::default() };
        match &self.body {
            Body::Hello(hello) => {
                frame.kind = kind::HELLO;
                frame.number = hello.spreads;
                frame.value = write::info(&hello.info);
            }
            Body::Goodbye => frame.kind = kind::GOODBYE,
            Body::Spread(spread) => {
                frame.kind = kind::SPREAD;
                frame.spread(spread);
            }
            Body::Request { id, request } => {
                frame.id = *id;
                frame.request(request, book);
            }
            Body::Reply { id, spent, reply } => {
                frame.id = *id;
                frame.spent_us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
                frame.reply(reply, book);
            }
        }
        while frame.encoded_len() > Self::AIM && frame.nodes.pop().is_some() {}
        while frame.encoded_len() > Self::LIMIT && frame.values.pop().is_some() {}
        frame.encode_to_vec().into()
    }

    /// The message these bytes are. Nodes whose record the book refuses are left out of lists.
    ///
    /// # Errors
    /// What is wrong with them; the input is not trusted.
    pub fn decode(bytes: &[u8], book: &mut dyn Book) -> Result<Self, DecodeError> {
        if bytes.len() > Self::LIMIT {
            return Err(DecodeError::TooLong { length: bytes.len() });
        }
        let frame =
            Frame::decode(Bytes::copy_from_slice(bytes)).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if frame.clusters.len() > Header::LEVELS {
            return Err(DecodeError::Field("clusters"));
        }
        let clusters = frame.clusters.iter().map(read::tag).collect::<Result<_, _>>()?;
        let body = match frame.kind {
            kind::HELLO => {
                Body::Hello(Box::new(Hello { info: Arc::new(read::info(frame.value.clone())?), spreads: frame.number }))
            }
            kind::GOODBYE => Body::Goodbye,
            kind::SPREAD => Body::Spread(frame.read_spread()?),
            kind::PING..kind::PONG => Body::Request { id: frame.id, request: frame.read_request(book)? },
            _ => {
                let spent = Duration::from_micros(frame.spent_us);
                Body::Reply { id: frame.id, spent, reply: frame.read_reply(book)? }
            }
        };
        Ok(Self { header: Arc::new(Header { clusters, ..Header::default() }), body })
    }
}
