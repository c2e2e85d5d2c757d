//! `atoll peer`: lends this machine to a manager.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// `atoll peer`
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// The manager; without it, the one that the token names
    #[arg(long, value_name = "URL")]
    pub manager: Option<String>,
    /// The token that the manager's operator gave; not needed once admitted
    #[arg(long, value_name = "T")]
    pub token: Option<String>,
    /// Where clients come in; without it the first free port from 5001
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The URL clients are led to, if it is not the address that the manager sees
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,
    /// Serve over TLS as well, on the same port: the certificate's chain in a PEM file. Clients are then led to https://NAME:PORT,
    /// NAME being its first, unless --advertise says otherwise
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The certificate's key in a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// What clients may take together, such as 50mbit or 6MB/s
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// What may be sent in a day (UTC), such as 15GB
    #[arg(long, value_name = "SIZE")]
    pub daily: Option<String>,
    /// What may be sent in a month (UTC), such as 300GB
    #[arg(long, value_name = "SIZE")]
    pub monthly: Option<String>,
    /// How much it wants of the downloads against other machines of its rate; 100 is the norm
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub weight: u16,
    /// How long running downloads may take to end when the peer leaves
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub grace: String,
    /// The directory it writes to; without it one among the user's state
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}
