//! `atoll store`: the words and flags that work on a store nobody else has open.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `atoll store`
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: StoreAction,
}

/// What `atoll store` can do.
#[derive(Debug, Subcommand)]
pub enum StoreAction {
    /// Say how much is in a store
    Stat(StorePlace),
    /// Read every record and hold it against its checksums; exit code 1 if one is damaged
    Verify(StorePlace),
    /// Write the body of one object to standard output, or to a file
    Get {
        /// The store.
        #[command(flatten)]
        place: StorePlace,
        /// The object's key, 40 hexadecimal digits
        key: String,
        /// Write here
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write every object into one file
    Export {
        /// The store.
        #[command(flatten)]
        place: StorePlace,
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Take in every object of an exported file
    Import {
        /// The store.
        #[command(flatten)]
        place: StorePlace,
        /// The file
        file: PathBuf,
    },
}

/// Where a store is.
#[derive(Debug, Args)]
pub struct StorePlace {
    /// The store's directory
    #[arg(long, value_name = "DIRECTORY", required_unless_present = "config", conflicts_with = "config")]
    pub directory: Option<PathBuf>,
    /// Configuration file of the node, which names its store
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
