//! One TOML file to one checked [`Config`], made of the crates' own. Unknown keys are refused; what is wrong is told by file,
//! line and column, with the nearest key, what is allowed and an example; nothing is started then (exit code 2).
//!
//! ```text
//!   file --size, UTF-8--> text --parse--> sections --crates' Configs--> Config --check--> Config, or every problem found
//! ```

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

mod error;
pub use error::{ConfigError, Place, Problem};

mod node;
pub use node::{LogConfig, ManagerConfig, NodeConfig, Role};

pub use crate::{admin::AdminConfig, cache::CacheConfig};

mod scenario;
pub use scenario::{ScenarioFile, ScenarioFileError};

mod manual;
pub use manual::EXAMPLE;

mod check;
mod parse;

/// Everything one node is told. Each section is the `Config` of the crate or module that obeys it.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[overlay]`: how nodes reach each other.
    pub overlay: atoll_overlay::driver::Config,
    /// `[index]`: how the index behaves; the same on every node of a network.
    pub index: atoll_overlay::Config,
    /// `[dns]`
    pub dns: atoll_dnssrv::Config,
    /// `[proxy]`
    pub proxy: atoll_proxy::Config,
    /// `[store]`
    pub store: atoll_store::Config,
    /// `[manager]`
    pub manager: ManagerConfig,
    /// `[cache]`: what `atoll cache` runs on, beside `[store]` and `[log]`.
    pub cache: CacheConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[log]`
    pub log: LogConfig,
}

impl Config {
    /// Bytes a configuration file may have. Ten thousand origins fit; a file larger than this was made by mistake.
    pub const SIZE_LIMIT: usize = 256 * 1024;

    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read(file).map_err(|problem| ConfigError { file: file.to_owned(), problems: vec![problem] })?;
        Self::parse(&text, file)
    }

    /// Checks a file's text. The file's name stands in errors only.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let refuse = |problems| ConfigError { file: file.to_owned(), problems };
        let mut sections = parse::Sections::parse(text, &SECTIONS).map_err(refuse)?;
        let mut config = Self::read(&mut sections);
        config.complete(&mut sections);
        check::check(&config, &mut sections);
        let problems = sections.finish();
        if problems.is_empty() { Ok(config) } else { Err(refuse(problems)) }
    }

    /// Reads each section; what cannot be read is noted there.
    fn read(sections: &mut parse::Sections<'_>) -> Self {
        Self {
            node: sections.read("node"),
            overlay: sections.read("overlay"),
            index: sections.read("index"),
            dns: sections.read("dns"),
            proxy: sections.read("proxy"),
            store: sections.read("store"),
            manager: sections.read("manager"),
            cache: sections.read("cache"),
            admin: sections.read("admin"),
            log: sections.read("log"),
        }
    }

    /// Fills in what follows from other keys; what several crates need is set once.
    fn complete(&mut self, sections: &mut parse::Sections<'_>) {
        for (path, home) in SET_ONCE {
            if sections.has(path) {
                let message = format!("`{path}` follows from `{home}`");
                sections.object(path, message, format!("set {home} instead, for the whole node"));
            }
        }
        self.node.zone = self.node.zone.trim_end_matches('.').to_ascii_lowercase();
        self.overlay.network.clone_from(&self.node.network);
        self.overlay.bootstrap.clone_from(&self.node.bootstrap);
        self.proxy.network.clone_from(&self.node.network);
        if !self.node.zone.is_empty() {
            self.dns.zone.clone_from(&self.node.zone);
            self.proxy.zone.clone_from(&self.node.zone);
        }
        self.proxy.network.clone_from(&self.node.network);
        self.dns.thresholds.clone_from(&self.index.thresholds);
        if !sections.has("store.directory") {
            self.store.directory = Some(self.node.state.join("cache"));
        } else if self.store.directory.as_ref().is_some_and(|directory| directory.as_os_str().is_empty()) {
            self.store.directory = None;
        }
        if !sections.has("admin.socket") {
            self.admin.socket = self.node.state.join("admin.sock");
        }
    }

    /// Adds nodes to ask first, as given on the command line. Tells what is wrong with the first that names none.
    pub fn add_bootstrap(&mut self, peers: &[String]) -> Result<(), String> {
        if let Some(wrong) = peers.iter().find(|peer| !check::is_peer(peer)) {
            return Err(format!("--bootstrap {wrong:?} names no node: {}", check::PEER_HINT));
        }
        self.node.bootstrap.extend_from_slice(peers);
        self.overlay.bootstrap.clone_from(&self.node.bootstrap);
        Ok(())
    }

    /// Where the admin API's Unix socket is, if any.
    #[must_use]
    pub fn admin_socket(&self) -> Option<PathBuf> {
        (!self.admin.socket.as_os_str().is_empty()).then(|| self.admin.socket.clone())
    }
}

impl Config {
    /// What the configuration means, for `atoll check`: a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let NodeConfig { state, network, zone, bootstrap, .. } = &self.node;
        let roles: Vec<&str> = self.node.roles.iter().map(|role| role.word()).collect();
        let zone = if zone.is_empty() { "none" } else { zone };
        let peers = if bootstrap.is_empty() {
            "none: it starts alone, or with peers it knows".to_owned()
        } else {
            bootstrap.join(", ")
        };
        let mut lines = vec![
            format!("roles      {}", roles.join(", ")),
            format!("network    {network}"),
            format!("zone       {zone}"),
            format!("bootstrap  {peers}"),
            format!("state      {}", state.display()),
        ];
        lines.extend(check::listens(self).map(|listen| format!("listens    {listen}")));
        if let Some(socket) = self.admin_socket() {
            lines.push(format!("admin      {}", socket.display()));
        }
        lines.join("\n")
    }
}

/// Reads at most [`Config::SIZE_LIMIT`] bytes of UTF-8.
fn read(file: &Path) -> Result<String, Problem> {
    let problem = |message: String, help: &str| Problem { message, help: vec![help.to_owned()], place: None };
    let cannot = |error: std::io::Error| {
        problem(format!("cannot be read: {error}"), "a commented file to start from: atoll.example.toml")
    };
    let mut bytes = Vec::new();
    // One byte more than is allowed tells a file that is too long, whatever its size claims (a pipe has none).
    let limit = u64::try_from(Config::SIZE_LIMIT).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > Config::SIZE_LIMIT {
        let message = format!("has more than {} KiB, the most a configuration may have", Config::SIZE_LIMIT / 1024);
        return Err(problem(message, "is it the right file? one node needs a few dozen lines"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Problem {
            place: Some(Place::of(&text, valid..valid + 1)),
            message: "this byte is not UTF-8 text".to_owned(),
            help: vec!["save the file as UTF-8".to_owned()],
        }
    })
}

/// The sections there are, in the order of the example file.
const SECTIONS: [&str; 10] = ["node", "overlay", "index", "dns", "proxy", "store", "manager", "cache", "admin", "log"];

/// Keys of the crates' own that a node sets for all of them at once, and where.
const SET_ONCE: [(&str, &str); 6] = [
    ("overlay.network", "node.network"),
    ("overlay.bootstrap", "node.bootstrap"),
    ("dns.zone", "node.zone"),
    ("dns.thresholds", "index.thresholds"),
    ("proxy.zone", "node.zone"),
    ("proxy.network", "node.network"),
];

#[cfg(test)]
mod tests;
