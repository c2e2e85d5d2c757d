//! Chromium without a window: it loads a page as people's browsers do, keeps a picture of it, and prints the page as it then is.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::installed;
use crate::{error::Error, scenario::Host};

/// The browser, under one of the names that distributions give it.
pub(super) fn find(host: &Host) -> Result<PathBuf, Error> {
    let [first, others @ ..] = NAMES;
    let found = others.iter().find_map(|name| installed(host, name, PACKAGE).ok());
    installed(host, first, PACKAGE).or_else(|missing| found.ok_or(missing))
}

/// Loads `url`; the page as it is after its load event goes to stdout, a picture of it into the file `picture`. What Chromium
/// remembers stays in `folder`: a second load there is one of a returning visitor.
pub(crate) fn command(host: &Host, folder: &Path, url: &str, picture: &Path) -> Result<Command, Error> {
    let mut command = Command::new(find(host)?);
    command.args(ARGUMENTS).arg(format!("--user-data-dir={}", folder.join("chromium").display()));
    command.arg(format!("--screenshot={}", picture.display())).arg(url);
    Ok(command)
}

/// No sandbox, which refuses to start as root; nothing that would talk to Chromium's makers, whom nobody here can reach.
const ARGUMENTS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=800,600",
    "--dump-dom",
];
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const PACKAGE: &str = "chromium";
