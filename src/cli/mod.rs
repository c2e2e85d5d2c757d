//! The command line: subcommands and flags, and nothing else.

use std::path::PathBuf;

mod manager;
pub use manager::{DrainArgs, ManagerArgs};
mod peer;
pub use peer::PeerArgs;

use clap::{Args, Parser, Subcommand};

mod cache;
pub use cache::CacheArgs;
mod key;
pub use key::{
    AdmissionArgs, AdmitArgs, KeyArgs, KeyCommand, NetworkArgs, NodeKeyArgs, RevokeArgs, RoleWord, ZoneKeyArgs,
};
mod store;
pub use store::{StoreAction, StoreArgs, StorePlace};
mod purge;
pub use purge::PurgeArgs;
mod explain;
pub use explain::ExplainArgs;
mod trace;
pub use trace::TraceArgs;
mod warm;
pub use warm::WarmArgs;
mod sim;
pub use sim::{SimArgs, SimMode};

/// A CDN that your own machines form: DNS leads each client to a near copy, the origin is asked once.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What this process was asked. A wrong line, `--help` and `--version` are answered here and end the process, a wrong line
    /// with exit code 2.
    #[must_use]
    pub fn from_command_line() -> Self {
        Self::parse()
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: any of dnssrv, proxy and manager, as its configuration says
    Node(NodeArgs),
    /// Run a cache that is filled by PUT and purged by tag: Hornet's API
    Cache(CacheArgs),
    /// Run a whole CDN on this machine, without root, and show what it does
    Demo(DemoArgs),
    /// Stand before a backend and lead its downloads to machines that others lend
    Manager(ManagerArgs),
    /// Lend this machine to a manager
    Peer(PeerArgs),
    /// Put files into the caches of a network's nodes, or on a manager's machines, before a storm
    Warm(WarmArgs),
    /// Let a node, a peer or a manager finish what runs and leave
    Drain(DrainArgs),
    /// Check a configuration file and say what it means; starts nothing
    Check(CheckArgs),
    /// Ask the node on this machine how it is
    Status(StatusArgs),
    /// Say why DNS answers a name as it does for a client
    Explain(ExplainArgs),
    /// Purge what the network holds: URLs, a directory, a host, a tag, or everything
    Purge(PurgeArgs),
    /// Follow one request from the DNS answer to its last byte, each step with its time
    Trace(TraceArgs),
    /// Print every form under which a URL is served by the CDN
    Url(UrlArgs),
    /// Make the keys of a closed network, and admit nodes to it
    Key(KeyArgs),
    /// Look into a store that no node has open: stat, verify, get, export, import
    Store(StoreArgs),
    /// Simulate a network of many nodes, from a seed, and show the papers' figures and ours
    Sim(SimArgs),
}

/// `atoll node`
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Configuration file; atoll.example.toml is one to start from
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A node to ask first, beside those of the file; may be given again
    #[arg(long, value_name = "HOST:PORT|MULTIADDR")]
    pub bootstrap: Vec<String>,
}

/// `atoll demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Put this origin in place of the built-in one
    #[arg(long, value_name = "URL")]
    pub origin: Option<String>,
    /// Run the tour once and end; exit code 0 only if every claim held
    #[arg(long)]
    pub exit: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where the demo's nodes write; a temporary directory if not given
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}

/// `atoll check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    pub file: PathBuf,
}

/// `atoll status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Configuration file of the node, which names its socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// The node's admin socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `atoll url`
#[derive(Debug, Args)]
pub struct UrlArgs {
    /// The URL at its origin.
    #[arg(help = "The URL at its origin, such as https://www.example.com/a.jpg")]
    pub url: String,
    /// The zone of the CDN
    #[arg(long, default_value = "nyud.example")]
    pub zone: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bootstrap_may_be_given_again() {
        let line = ["atoll", "node", "--config", "a.toml", "--bootstrap", "a:1", "--bootstrap", "/ip4/127.0.0.1/tcp/2"];
        let Command::Node(args) = Cli::parse_from(line).command else { panic!("not node") };
        assert_eq!(args.bootstrap, ["a:1", "/ip4/127.0.0.1/tcp/2"]);
    }
}
