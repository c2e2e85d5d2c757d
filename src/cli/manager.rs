//! `atoll manager`, and what is asked of one from elsewhere: `atoll drain`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// `atoll manager`
#[derive(Debug, Args)]
pub struct ManagerArgs {
    /// The backend that downloads are to be kept off
    #[arg(long, value_name = "URL", alias = "mirror")]
    pub origin: String,
    /// Where clients and peers come in
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:5000")]
    pub listen: SocketAddr,
    /// The token peers join with, 16 characters or more; without it one is made and printed
    #[arg(long, value_name = "T")]
    pub token: Option<String>,
    /// How many machines the token admits
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub uses: u32,
    /// How long the token admits machines
    #[arg(long, value_name = "TIME", default_value = "7d")]
    pub expires: String,
    /// The URL under which others reach this manager, if it is not the address it listens on
    #[arg(long, value_name = "URL")]
    pub public: Option<String>,
    /// Serve over TLS as well, on the same port: the certificate's chain in a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The certificate's key in a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Share the network of this manager, so that the machines of both find each other's copies
    #[arg(long, value_name = "URL")]
    pub beside: Option<String>,
    /// That manager's login; without it the one of a manager among this user's state
    #[arg(long, value_name = "TOKEN", requires = "beside")]
    pub beside_login: Option<String>,
    /// Files up to this size are served here instead of by a peer
    #[arg(long, value_name = "SIZE")]
    pub redirect_above: Option<String>,
    /// The status of a redirect
    #[arg(long, value_name = "STATUS", default_value_t = 302, value_parser = clap::value_parser!(u16).range(302..=307))]
    pub redirect_status: u16,
    /// Where requests are logged; `-` for standard output, `none` for memory alone; without it a file among the manager's state
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Truncate clients' addresses in the log to their networks
    #[arg(long)]
    pub private: bool,
    /// How long running downloads may take to end when the manager stops
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub grace: String,
    /// The directory it writes to; without it one among the user's state
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}

/// `atoll drain`
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Ask this manager instead of a process on this machine
    #[arg(long, value_name = "URL")]
    pub manager: Option<String>,
    /// Stop at once: downloads that run are cut
    #[arg(long)]
    pub now: bool,
    /// The peer that is to leave, by the name that the manager's page shows; without it the manager itself
    #[arg(long, value_name = "NODE", requires = "manager")]
    pub node: Option<String>,
    /// The login of the manager's page; without it the one of a manager among this user's state
    #[arg(long, value_name = "TOKEN", requires = "manager")]
    pub login: Option<String>,
    /// The state directory of the manager or peer on this machine
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["manager", "socket", "config"])]
    pub state: Option<PathBuf>,
    /// The admin socket of the process on this machine
    #[arg(long, value_name = "PATH", conflicts_with_all = ["manager", "config"])]
    pub socket: Option<PathBuf>,
    /// The configuration file of the node on this machine, which names its socket
    #[arg(long, value_name = "FILE", conflicts_with = "manager")]
    pub config: Option<PathBuf>,
}
