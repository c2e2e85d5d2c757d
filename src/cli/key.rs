//! `atoll key` as typed.

use std::path::PathBuf;

use atoll_overlay::membership::PublicKey;
use clap::{Args, Subcommand, ValueEnum};

/// `atoll key`
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct KeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make the key that names a new network; keep it offline
    Network(NetworkArgs),
    /// Make an admission key, which admits nodes for a while
    Admission(AdmissionArgs),
    /// Print a node's public key, by which it is admitted; makes the key if there is none yet
    Node(NodeKeyArgs),
    /// Make a node a member: sign its certificate, or a later one
    Admit(AdmitArgs),
    /// Take back the place of a node or of an admission key
    Revoke(RevokeArgs),
    /// Make the key that signs a DNS zone (DNSSEC), or show again what its parent is given
    Zone(ZoneKeyArgs),
}

/// `atoll key network`
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// Where to write the key; never an existing file
    #[arg(long, value_name = "FILE", default_value = "network.key")]
    pub output: PathBuf,
}

/// `atoll key admission`
#[derive(Debug, Args)]
pub struct AdmissionArgs {
    /// The network's key
    #[arg(long, value_name = "FILE", default_value = "network.key")]
    pub network_key: PathBuf,
    /// Where to write the admission key; never an existing file
    #[arg(long, value_name = "FILE", default_value = "admission.key")]
    pub output: PathBuf,
    /// How many days it may be used, 90 at most
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=90))]
    pub days: u16,
    /// What the nodes that it admits may run, and whether some may purge
    #[arg(long, value_name = "ROLE,...", value_delimiter = ',', default_value = "proxy,dnssrv,manager,purge")]
    pub roles: Vec<RoleWord>,
}

/// `atoll key node`
#[derive(Debug, Args)]
pub struct NodeKeyArgs {
    /// The node's state directory, as `state` of the node names it
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/atoll")]
    pub state: PathBuf,
}

/// `atoll key admit`
#[derive(Debug, Args)]
pub struct AdmitArgs {
    /// The node's public key, as `atoll key node` prints it
    #[arg(value_name = "NODE-KEY", required_unless_present = "renew", conflicts_with = "renew")]
    pub node: Option<PublicKey>,
    /// Sign a later certificate for the node, place and roles of this one instead
    #[arg(long, value_name = "CERTIFICATE", conflicts_with = "roles")]
    pub renew: Option<PathBuf>,
    /// The admission key
    #[arg(long, value_name = "FILE", default_value = "admission.key")]
    pub admission_key: PathBuf,
    /// Where to write the certificate; never an existing file
    #[arg(long, value_name = "FILE", default_value = "certificate")]
    pub output: PathBuf,
    /// How many days it is valid; not longer than the admission key
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=90))]
    pub days: u16,
    /// What the node may run; with `purge` added, every node believes what is purged there
    #[arg(long, value_name = "ROLE,...", value_delimiter = ',', default_value = "proxy,dnssrv,manager")]
    pub roles: Vec<RoleWord>,
}

/// `atoll key revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The node's certificate, or its public key: then it is shut out whatever its certificate
    #[arg(value_name = "CERTIFICATE|NODE-KEY", required_unless_present = "admission", conflicts_with = "admission")]
    pub node: Option<String>,
    /// An admission key (its public key) instead: every node that it admitted is shut out
    #[arg(long, value_name = "KEY")]
    pub admission: Option<PublicKey>,
    /// The network's key, or the admission key that admitted the node
    #[arg(long, value_name = "FILE", default_value = "admission.key")]
    pub key: PathBuf,
    /// Where to write the revocation; never an existing file. Into the folder `revoke` of any member's state directory, and it is
    /// taken from there and spread
    #[arg(long, value_name = "FILE", default_value = "revocation")]
    pub output: PathBuf,
}

/// `atoll key zone`
#[derive(Debug, Args)]
pub struct ZoneKeyArgs {
    /// The zone, such as nyud.example
    #[arg(value_name = "ZONE")]
    pub zone: String,
    /// Where to write the key; never an existing file
    #[arg(long, value_name = "FILE", default_value = "zone.key", conflicts_with = "show")]
    pub output: PathBuf,
    /// Make none: print the DS of the key in this file
    #[arg(long, value_name = "FILE")]
    pub show: Option<PathBuf>,
}

/// A role as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// Serves HTTP from its cache
    Proxy,
    /// Answers DNS for the zone
    Dnssrv,
    /// Redirects clients to a near proxy
    Manager,
    /// Purges what the network holds: a right, beside what it runs
    Purge,
}

const AFTER_HELP: &str = "A closed network in five steps (docs/membership.md walks through them):
  1. atoll key network                          once, on a machine that stays offline
  2. atoll key admission                        there, every 90 days at least
  3. atoll key node --state DIRECTORY           on each node: prints its public key
  4. atoll key admit NODE-KEY                   where the admission key is: writes `certificate`
  5. copy it to DIRECTORY/certificate, set admission = \"closed\" in [overlay], start the node";
