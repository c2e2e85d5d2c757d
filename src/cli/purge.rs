//! `atoll purge`

use std::{path::PathBuf, time::Duration};

use atoll_proxy::PurgeTarget;
use atoll_units::span;
use clap::Args;

use crate::purging::{Order, WAIT_LIMIT};

/// `atoll purge`
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PurgeArgs {
    /// The URLs, at their origins or Coralized; every variant, under http and https
    #[arg(value_name = "URL", required_unless_present_any = ["prefix", "host", "tag", "all"], conflicts_with_all = ["prefix", "tag", "all", "host"])]
    pub urls: Vec<String>,
    /// A directory's URL and everything below it
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "tag", "all"])]
    pub prefix: Option<String>,
    /// Everything of a host; with --tag only what carries the tag
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "all")]
    pub host: Option<String>,
    /// Everything that carries a tag: of Cache-Groups, Surrogate-Key, Cache-Tag or xkey, byte for byte
    #[arg(long, value_name = "TAG", conflicts_with = "all")]
    pub tag: Option<String>,
    /// Everything
    #[arg(long)]
    pub all: bool,
    /// Give the copies up at once; without it they are kept, and asked for again before they are used
    #[arg(long)]
    pub hard: bool,
    /// Yes, everything is to be given up
    #[arg(long, requires = "all")]
    pub yes: bool,
    /// Wait until every node known has applied it, at most this long; exit code 1 if some have not
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "10s", value_parser = wait)]
    pub wait: Option<Duration>,
    /// Print the reports as JSON, one a line
    #[arg(long)]
    pub json: bool,
    /// Configuration file of the node, which names its socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub config: Option<PathBuf>,
    /// The node's admin socket
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl PurgeArgs {
    /// What is ordered, one after the other.
    ///
    /// # Errors
    /// Everything would go, and nobody said that this is meant.
    pub fn orders(&self) -> Result<Vec<Order>, String> {
        let targets = match (&self.prefix, &self.host, &self.tag) {
            _ if self.all => vec![PurgeTarget::All],
            (Some(prefix), _, _) => vec![PurgeTarget::Prefix(prefix.clone())],
            (None, host, Some(tag)) => vec![PurgeTarget::Tag { tag: tag.clone(), host: host.clone() }],
            (None, Some(host), None) => vec![PurgeTarget::Host(host.clone())],
            (None, None, None) => self.urls.iter().cloned().map(PurgeTarget::Url).collect(),
        };
        if self.all && self.hard && !self.yes {
            return Err("everything would have to be fetched again: say --yes as well, or leave --hard out".to_owned());
        }
        let wait = self.wait.unwrap_or_default();
        Ok(targets.into_iter().map(|target| Order { target, hard: self.hard, wait }).collect())
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = span::parse(text).filter(|wait| *wait <= WAIT_LIMIT);
    wait.ok_or_else(|| format!("{text:?} is no duration up to {WAIT_LIMIT:?}, such as 5s"))
}

const AFTER_HELP: &str = "A purge is in force at this node when the command returns, reaches the others within a second or two, and is kept for 30 days \
for those that are away. docs/network.md says what is promised.";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn orders(line: &str) -> Result<Vec<String>, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind().to_string())?;
        let Command::Purge(args) = cli.command else { panic!("not purge") };
        Ok(args.orders()?.iter().map(Order::query).collect())
    }

    #[test]
    fn the_line_says_one_thing_to_purge_or_several_urls() {
        for (line, expect) in [
            ("atoll purge http://a.test/x http://a.test/y", vec!["url=http://a.test/x", "url=http://a.test/y"]),
            ("atoll purge --prefix http://a.test/d/ --hard", vec!["prefix=http://a.test/d/&hard=yes"]),
            ("atoll purge --host a.test", vec!["host=a.test"]),
            ("atoll purge --tag t --host a.test --wait", vec!["tag=t&host=a.test&wait=10000ms"]),
            ("atoll purge --tag t --wait 2s", vec!["tag=t&wait=2000ms"]),
            ("atoll purge --all", vec!["all=yes"]),
            ("atoll purge --all --hard --yes", vec!["all=yes&hard=yes&sure=yes"]),
        ] {
            assert_eq!(orders(line).unwrap(), expect, "{line}");
        }
        for line in [
            "atoll purge",
            "atoll purge --all --hard",
            "atoll purge http://a.test/ --all",
            "atoll purge --tag t --prefix http://a.test/",
            "atoll purge --tag t --wait 2h",
        ] {
            assert!(orders(line).is_err(), "{line}");
        }
    }
}
