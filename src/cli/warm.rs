//! `atoll warm`

use std::path::PathBuf;

use clap::Args;

/// `atoll warm`
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// The files: URLs at their origins; for a manager also paths of its backend
    #[arg(value_name = "URL", required_unless_present_any = ["sitemap", "list"])]
    pub files: Vec<String>,
    /// Also the URLs that this sitemap names; may be given again
    #[arg(long, value_name = "URL", conflicts_with = "manager")]
    pub sitemap: Vec<String>,
    /// Also the URLs in this file, one a line
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// Warm a manager's machines instead of a network of nodes
    #[arg(long, value_name = "URL")]
    pub manager: Option<String>,
    /// How many machines of each cluster, or of the manager, are to have each file
    #[arg(long, value_name = "K", default_value_t = 2)]
    pub copies: usize,
    /// Read no more than this from the nodes, over all files and copies, such as 50mbit or 6MB, and begin no file before the one before is
    /// read: a node fetches each by itself as fast as its source sends. Copies that are there are checked at full speed. Without it, all
    /// that comes
    #[arg(long, value_name = "RATE", conflicts_with = "manager")]
    pub rate: Option<String>,
    /// Where it is noted what is done, so that a run that was ended goes on; without it a file among the user's state
    #[arg(long, value_name = "FILE", conflicts_with = "manager")]
    pub state: Option<PathBuf>,
    /// The login of the manager's page; without it the one of a manager among this user's state
    #[arg(long, value_name = "TOKEN", requires = "manager")]
    pub login: Option<String>,
    /// Configuration file of a node on this machine, which names its socket; the node knows the others
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "manager"])]
    pub config: Option<PathBuf>,
    /// That node's admin socket
    #[arg(long, value_name = "PATH", conflicts_with = "manager")]
    pub socket: Option<PathBuf>,
}
