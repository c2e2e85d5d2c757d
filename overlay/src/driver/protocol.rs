//! The names under which substreams are opened. Those of the overlay carry the network's name and a version; byte streams between
//! proxies carry HTTP/1.1 and are called so.

use std::{convert::Infallible, future::Ready};

use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
};

/// The names of one network.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Certificates.
    pub(super) auth: StreamProtocol,
    /// Messages of the core.
    pub(super) messages: StreamProtocol,
}

impl Names {
    /// The names of this network. None if it cannot be part of one.
    pub(super) fn of(network: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        let fits = (1..=64).contains(&network.len()) && network.chars().all(allowed);
        let name = |what| StreamProtocol::try_from_owned(format!("/atoll/{network}/{what}/1")).ok();
        fits.then(|| Some(Self { auth: name("auth")?, messages: name("rpc")? })).flatten()
    }

    /// All, for what the other side opens.
    pub(super) fn all(&self) -> Offer {
        Offer(vec![self.auth.clone(), self.messages.clone(), BYTES])
    }

    // One name each: only a lone name is offered without waiting for the answer.

    /// To open a substream for certificates.
    pub(super) fn auth(&self) -> Offer {
        Offer(vec![self.auth.clone()])
    }

    /// To open a substream for messages.
    pub(super) fn messages(&self) -> Offer {
        Offer(vec![self.messages.clone()])
    }

    /// To open a byte stream.
    #[expect(clippy::unused_self, reason = "reads as its siblings do")]
    pub(super) fn bytes(&self) -> Offer {
        Offer(vec![BYTES])
    }
}

/// Names offered or accepted; yields the bare substream and the name agreed on.
#[derive(Debug, Clone)]
pub(super) struct Offer(Vec<StreamProtocol>);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((stream, name)))
    }
}

/// HTTP/1.1 between proxies.
const BYTES: StreamProtocol = StreamProtocol::new("/http/1.1");

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn a_networks_name_is_short_and_plain() {
        assert_eq!(Names::of("nyud.example").unwrap().messages.as_ref(), "/atoll/nyud.example/rpc/1");
        for bad in ["", "A", "a/b", "a b", &"a".repeat(65)] {
            assert!(Names::of(bad).is_none(), "{bad:?}");
        }
    }
}
