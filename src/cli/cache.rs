//! `atoll cache`: what its command line says.

use std::{net::SocketAddr, path::PathBuf};

use atoll_store::ByteSize;
use clap::Args;
use serde::{Deserialize as _, de::IntoDeserializer as _};

/// `atoll cache`. A flag outweighs the file's key of the same meaning.
#[derive(Debug, Default, Args)]
pub struct CacheArgs {
    /// Configuration file; its sections cache, store and log are obeyed
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen, in place of the file's addresses; may be given again. Whoever reaches it may store and delete
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Where objects are stored; "" keeps them in RAM alone
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Bytes on disk at most, such as 100GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub capacity: Option<ByteSize>,
    /// Bytes of objects in RAM, such as 4GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<ByteSize>,
    /// PUTs until an object is kept
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=250))]
    pub admission: Option<u8>,
    /// A file for one line a request
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// A file for errors and events; standard error if not given
    #[arg(long, value_name = "FILE")]
    pub error_log: Option<PathBuf>,
}

/// A size as the configuration writes it.
fn size(text: &str) -> Result<ByteSize, String> {
    ByteSize::deserialize(text.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_in_the_configuration() {
        assert_eq!(size("8MiB"), Ok(ByteSize::mib(8)));
        assert!(size("8 mib").unwrap_err().contains("is no size"));
    }
}
