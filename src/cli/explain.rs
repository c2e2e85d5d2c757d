//! `atoll explain`

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

/// `atoll explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The name, such as www.example.com.nyud.example
    pub name: String,
    /// An address of the client, or its prefix
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = address)]
    pub from: IpAddr,
    /// Configuration file of the node, which names its socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// The node's admin socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// The address of a prefix: how many bits are told apart is the node's to say.
fn address(text: &str) -> Result<IpAddr, String> {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    address.parse().map_err(|_| format!("{text:?} is no address or prefix, such as 192.0.2.0/24"))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_prefix_or_an_address_says_who_asks() {
        assert_eq!(address("192.0.2.7").unwrap().to_string(), "192.0.2.7");
        assert_eq!(address("2001:db8::/48").unwrap().to_string(), "2001:db8::");
        assert!(address("berlin").is_err());
    }
}
