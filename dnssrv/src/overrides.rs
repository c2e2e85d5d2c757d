//! Where an operator says that a prefix belongs, against all measurements: lines of a file, read again when it changes. The
//! longest prefix that an address lies in decides.
//!
//! ```text
//!   # comment
//!   192.0.2.0/24       level 2
//!   2001:db8::/32      at 198.51.100.7 2001:db8:7::1
//! ```
//!
//! `level N`: this server's own cluster of that level. `at ADDRESS...`: the proxies at these addresses, 16 at most, and this
//! server's among the others if none of them is seen alive.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use atoll_overlay::{Key, Level, Prefix};

use crate::{ServeError, distances::Distances, near::Near, placement::Placement, roster::Proxy};

/// The overrides in force.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    file: Option<PathBuf>,
    levels: usize,
    most: usize,
    read: RwLock<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// By the number of bits kept, the longest last; the bits of IPv4 addresses are told apart by the first part of the key.
    by_length: BTreeMap<u8, HashMap<(bool, u128), Word>>,
    changed: Option<SystemTime>,
}

/// What is said of a prefix.
#[derive(Debug, Clone)]
enum Word {
    Level(Level),
    At(Arc<Near>),
}

impl Overrides {
    /// Those of a file, if one is named: so many lines at most, levels from 0 to `levels` - 1.
    pub(crate) fn new(file: Option<PathBuf>, levels: usize, most: usize) -> Result<Self, ServeError> {
        let mut overrides = Self { file, levels, most, read: RwLock::default() };
        if let Some(file) = &overrides.file {
            let wrong = |reason| ServeError::config("overrides", format!("{}: {reason}", file.display()));
            let read = overrides.read(file).map_err(wrong)?;
            overrides.read = RwLock::new(read);
        }
        Ok(overrides)
    }

    /// Reads the file again if it has changed; true if it is in force. A bad one changes nothing.
    pub(crate) fn refresh(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let changed = fs::metadata(file).and_then(|about| about.modified()).ok();
        if changed == self.read.read().unwrap_or_else(PoisonError::into_inner).changed {
            return false;
        }
        match self.read(file) {
            Ok(read) => {
                *self.read.write().unwrap_or_else(PoisonError::into_inner) = read;
                tracing::info!(file = %file.display(), "overrides were read again");
                true
            }
            Err(reason) => {
                tracing::warn!(file = %file.display(), reason, "changed overrides cannot be used; those before stay in force");
                false
            }
        }
    }

    /// Where a prefix belongs, if anything is said of it.
    pub(crate) fn placement(&self, prefix: Prefix) -> Option<Placement> {
        self.file.as_ref()?;
        let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
        let address = prefix.address();
        let word = read.by_length.iter().rev().find_map(|(length, words)| words.get(&masked(address, *length)?))?;
        let (level, distances) = (Level::GLOBAL, Distances::default());
        let known = Placement { level, rtt: None, near: None, settled: true, distances, placed: true };
        Some(match word {
            Word::Level(level) => Placement { level: *level, ..known },
            Word::At(near) => Placement { level: near.level, near: Some(Arc::clone(near)), ..known },
        })
    }

    fn read(&self, file: &Path) -> Result<Read, String> {
        let changed = fs::metadata(file).and_then(|about| about.modified()).ok();
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        let mut read = Read { changed, ..Read::default() };
        let mut count = 0;
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let Some((prefix, said)) = words.split_first() else { continue };
            count += 1;
            let told = self::prefix(prefix).and_then(|(length, key)| Ok((length, key, self.word(said)?)));
            let (length, key, word) = told.map_err(|reason| format!("line {}: {reason}", at + 1))?;
            if count > self.most {
                return Err(format!("line {}: more than {} prefixes", at + 1, self.most));
            }
            read.by_length.entry(length).or_default().insert(key, word);
        }
        Ok(read)
    }

    fn word(&self, said: &[&str]) -> Result<Word, String> {
        match said {
            ["level", level] => {
                let level = level.parse::<u8>().ok().filter(|level| usize::from(*level) < self.levels);
                level
                    .map(|level| Word::Level(Level(level)))
                    .ok_or_else(|| format!("levels are 0 to {}", self.levels - 1))
            }
            ["at", addresses @ ..] if (1..=MOST_ADDRESSES).contains(&addresses.len()) => {
                let proxies = addresses.iter().map(|address| proxy(address)).collect::<Result<Vec<_>, _>>()?;
                let level = Level(u8::try_from(self.levels - 1).unwrap_or(u8::MAX));
                let near =
                    Near { level, rtt: Duration::ZERO, cluster: Key::ZERO, servers: Vec::new(), proxies, epoch: 0 };
                Ok(Word::At(Arc::new(near)))
            }
            _ => Err("say `level N`, or `at` and 1 to 16 addresses".to_owned()),
        }
    }
}

fn proxy(address: &str) -> Result<Proxy, String> {
    let proxy = Proxy { v4: None, v6: None, load: 0, weight: 100, port: 0 };
    match address.parse() {
        Ok(IpAddr::V4(v4)) => Ok(Proxy { v4: Some(v4), ..proxy }),
        Ok(IpAddr::V6(v6)) => Ok(Proxy { v6: Some(v6), ..proxy }),
        Err(_) => Err(format!("{address:?} is no address")),
    }
}

fn prefix(text: &str) -> Result<(u8, (bool, u128)), String> {
    let wrong = || format!("{text:?} is no prefix such as 192.0.2.0/24");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length: u8 = length.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 24 } else { 48 };
    if length > most {
        return Err(format!("{text}: clients are told apart by their first {most} bits"));
    }
    Ok((length, masked(address, length).ok_or_else(wrong)?))
}

/// An address's first bits; none if it has not as many.
fn masked(address: IpAddr, length: u8) -> Option<(bool, u128)> {
    let (v4, bits, width) = match address {
        IpAddr::V4(v4) => (true, u128::from(v4.to_bits()), 32_u8),
        IpAddr::V6(v6) => (false, v6.to_bits(), 128),
    };
    let dropped = u32::from(width.checked_sub(length)?);
    Some((v4, bits.checked_shr(dropped).unwrap_or(0)))
}

/// How often the file is looked at. \[guess\]
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// Proxies named for one prefix.
const MOST_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(tempfile::TempDir, Overrides), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("overrides");
        fs::write(&file, text).unwrap();
        Overrides::new(Some(file), 3, 3).map(|read| (folder, read)).map_err(|error| error.to_string())
    }

    fn level(overrides: &Overrides, address: &str) -> Option<u8> {
        overrides.placement(Prefix::of(address.parse().unwrap())).map(|placement| placement.level.0)
    }

    #[test]
    fn the_longest_prefix_decides_and_a_changed_file_is_taken_up_unless_it_is_bad() {
        let text = "# mine\n192.0.0.0/16 level 1 # wide\n\n192.0.2.0/24 level 2\n2001:db8::/32 at 198.51.100.7 2001:db8:7::1\n";
        let (folder, overrides) = read(text).unwrap();
        for (address, expected) in [
            ("192.0.2.9", Some(2)),
            ("192.0.3.9", Some(1)),
            ("192.1.2.9", None),
            ("2001:db8:9::1", Some(2)),
            ("::c000:209", None),
        ] {
            assert_eq!(level(&overrides, address), expected, "{address}");
        }
        let near = overrides.placement(Prefix::of("2001:db8::1".parse().unwrap())).unwrap().near.unwrap();
        assert_eq!(near.proxies.len(), 2);
        assert!(!overrides.refresh(), "nothing has changed");
        let change = |text: &str, seconds| {
            let file = folder.path().join("overrides");
            fs::write(&file, text).unwrap();
            let later = SystemTime::now() + Duration::from_secs(seconds);
            fs::File::options().append(true).open(file).unwrap().set_modified(later).unwrap();
        };
        change("nonsense\n", 10);
        assert!(!overrides.refresh() && level(&overrides, "192.0.2.9") == Some(2));
        change("0.0.0.0/0 level 1\n", 20);
        assert!(overrides.refresh() && level(&overrides, "192.0.2.9") == Some(1));
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_no_more_are_read_than_may_be() {
        for (text, reason) in [
            ("192.0.2.0/24 level 3", "line 1: levels are 0 to 2"),
            ("\n192.0.2.0/25 level 1", "line 2: 192.0.2.0/25: clients are told apart"),
            ("192.0.2.0 level 1", "line 1: \"192.0.2.0\" is no prefix"),
            ("192.0.2.0/24 at", "line 1: say"),
            ("192.0.2.0/24 at nowhere", "line 1: \"nowhere\" is no address"),
            ("1.0.0.0/8 level 0\n2.0.0.0/8 level 0\n3.0.0.0/8 level 0\n4.0.0.0/8 level 0", "line 4: more than 3"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
