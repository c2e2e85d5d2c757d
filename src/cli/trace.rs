//! `atoll trace`

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

/// `atoll trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The URL at its origin.
    #[arg(help = "The URL at its origin, such as http://www.example.com/a.jpg")]
    pub url: String,
    /// The node that is asked: an address, ADDRESS:PORT, or the first digits of an id; without it the one that DNS leads to, or
    /// the one on this machine
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// The client for whom DNS is asked
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub from: IpAddr,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Configuration file of the node on this machine, which signs the question and names its socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// That node's admin socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}
