//! `atoll key`: the keys of a closed network, and of a signed zone, made and used by hand. What they mean is in
//! `atoll_overlay::membership` and `atoll_dnssrv::ZoneKey`; here stand the files, and what the operator is told to do next.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_dnssrv::{ZoneKey, ZoneKeyError};
use atoll_overlay::{
    Roles,
    driver::{Identity, IdentityError},
    membership::{
        AdmissionKey, Membership, NetworkKey, NoRandomness, PublicKey, Refused, Revoked, Term, TextError, UnixTime,
    },
};

use crate::{
    cli::{AdmissionArgs, AdmitArgs, KeyArgs, KeyCommand, NetworkArgs, NodeKeyArgs, RevokeArgs, RoleWord, ZoneKeyArgs},
    config::Role,
    state::{self, Kept, State, StateError},
    status::role_words,
};

/// Does what was asked, and returns what to tell.
pub fn run(args: &KeyArgs) -> Result<String, KeyError> {
    match &args.command {
        KeyCommand::Network(args) => network(args),
        KeyCommand::Admission(args) => admission(args),
        KeyCommand::Node(args) => node(args),
        KeyCommand::Admit(args) => admit(args),
        KeyCommand::Revoke(args) => revoke(args),
        KeyCommand::Zone(args) => zone(args),
    }
}

fn network(args: &NetworkArgs) -> Result<String, KeyError> {
    let key = NetworkKey::generate()?;
    write(&args.output, &key.to_text())?;
    Ok(format!(
        "network {}\nwrote {}: SECRET. Keep it offline, and a copy in another safe place: whoever has it decides who is a \
         member, and without it nobody can be admitted in 90 days.\nnext: atoll key admission --network-key {}",
        key.network(),
        args.output.display(),
        args.output.display(),
    ))
}

fn admission(args: &AdmissionArgs) -> Result<String, KeyError> {
    let network = read(&args.network_key, NetworkKey::from_text, "atoll key network")?;
    let key = network.admission(roles(&args.roles), term(args.days))?;
    write(&args.output, &key.to_text())?;
    Ok(format!(
        "admission key {}\nnetwork {}\nadmits to {} until {}\nwrote {}: SECRET. Move it to where nodes are admitted.\n\
         next: on each node, atoll key node --state DIRECTORY; then atoll key admit NODE-KEY --admission-key {}",
        key.grant().key,
        key.network(),
        role_words(key.grant().roles()).join(", "),
        key.grant().term.not_after,
        args.output.display(),
        args.output.display(),
    ))
}

fn node(args: &NodeKeyArgs) -> Result<String, KeyError> {
    let path = args.state.join(Kept::Identity.file_name());
    let damaged = |source| KeyError::Identity { path: path.clone(), source };
    // A running node holds the directory's lock; its key can be read all the same.
    let identity = match state::read(&path) {
        Ok(bytes) => Identity::from_bytes(&bytes).map_err(damaged)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity::generate();
            State::open(&args.state)?.save(Kept::Identity, &identity.to_bytes().map_err(damaged)?)?;
            identity
        }
        Err(error) => return Err(KeyError::File { doing: "read", path, error }),
    };
    Ok(identity.public_key().to_string())
}

fn admit(args: &AdmitArgs) -> Result<String, KeyError> {
    let key = read(&args.admission_key, AdmissionKey::from_text, "atoll key admission")?;
    let term = term(args.days);
    let (certificate, next) = match (&args.renew, args.node) {
        (Some(old), _) => {
            let old_one = read(old, Membership::from_text, "atoll key admit NODE-KEY")?;
            if old_one.network != key.network() {
                return Err(KeyError::OtherNetwork { file: old.clone() });
            }
            (key.renew(&old_one.certificate, term)?, "replace the node's own: it is noticed within seconds")
        }
        (None, Some(node)) => {
            let certificate = key.admit(node, AdmissionKey::fresh_serial()?, roles(&args.roles), term)?;
            (certificate, "set admission = \"closed\" in the node's [overlay] and start it")
        }
        (None, None) => unreachable!("the command line asks for one of them"),
    };
    let membership = Membership { network: key.network(), certificate };
    write(&args.output, &membership.to_text())?;
    Ok(format!(
        "node {}\nnetwork {}\nmay run {} until {}\nwrote {}\nnext: copy it to the node as STATE/certificate (STATE is state in its \
         [node]); {next}. Renew it in good time: atoll key admit --renew {}",
        membership.node_id(),
        membership.network,
        role_words(certificate.roles()).join(", "),
        certificate.term.not_after,
        args.output.display(),
        args.output.display(),
    ))
}

fn revoke(args: &RevokeArgs) -> Result<String, KeyError> {
    let what = match (&args.node, args.admission) {
        (_, Some(key)) => Revoked::Admission(key),
        (Some(node), None) => named_node(node)?,
        (None, None) => unreachable!("the command line asks for one of them"),
    };
    let text = read_text(&args.key, "atoll key admission")?;
    let revocation = match AdmissionKey::from_text(&text) {
        Ok(key) => key.revoke(what, now())?,
        Err(admission) => match NetworkKey::from_text(&text) {
            Ok(key) => key.revoke(what, now()),
            // What it says of itself as an admission key tells more: "this is a certificate, not ...".
            Err(_) => return Err(KeyError::Text { path: args.key.clone(), source: admission }),
        },
    };
    write(&args.output, &revocation.to_text())?;
    let mut told = format!("wrote {}\n", args.output.display());
    let _ = write!(
        told,
        "next: copy it into the folder STATE/revoke of any running member (STATE is state in its [node]): it is taken from there \
         within seconds, and spread to all; nodes that are away hear of it when they return"
    );
    Ok(told)
}

fn zone(args: &ZoneKeyArgs) -> Result<String, KeyError> {
    let (text, path) = match &args.show {
        Some(path) => (read_text(path, "atoll key zone ZONE")?, path),
        None => (ZoneKey::generate().map_err(|source| zone_key(&args.output, source))?, &args.output),
    };
    let wrong = |source| zone_key(path, source);
    let key = ZoneKey::from_pem(&text).map_err(wrong)?;
    let (ds, dnskey) = (key.ds(&args.zone).map_err(wrong)?, key.dnskey(&args.zone).map_err(wrong)?);
    let records = format!("{ds}\n{dnskey}");
    if args.show.is_some() {
        return Ok(records);
    }
    write(path, &text)?;
    Ok(format!(
        "{records}\nwrote {}: SECRET. Whoever has it signs for the zone.\nnext: copy it to every server of the zone, set key in \
         [dns.dnssec] and restart them; once all answer with signatures, give the DS record to the parent zone. The DNSKEY is \
         shown for resolvers that are to trust the zone without its parent",
        path.display()
    ))
}

fn zone_key(path: &Path, source: ZoneKeyError) -> KeyError {
    KeyError::Zone { path: path.to_owned(), source }
}

/// A node as an operator names it: by a certificate's file, else by its public key.
fn named_node(node: &str) -> Result<Revoked, KeyError> {
    if let Ok(key) = node.parse::<PublicKey>() {
        return Ok(Revoked::Node { key, serial: 0 });
    }
    let membership = read(Path::new(node), Membership::from_text, "atoll key node")?;
    Ok(Revoked::Node { key: membership.certificate.node, serial: membership.certificate.serial })
}

fn roles(words: &[RoleWord]) -> Roles {
    let bit = |word: &RoleWord| match word {
        RoleWord::Proxy => Role::Proxy.bit(),
        RoleWord::Dnssrv => Role::Dnssrv.bit(),
        RoleWord::Manager => Role::Manager.bit(),
        RoleWord::Purge => Roles::PURGE,
    };
    words.iter().map(bit).fold(Roles::NONE, Roles::with)
}

fn term(days: u16) -> Term {
    Term::from(now(), Duration::from_secs(u64::from(days) * 86_400))
}

/// The calendar; zero if the system's is before the Unix epoch.
pub(crate) fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

fn read<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, TextError>,
    made_by: &'static str,
) -> Result<T, KeyError> {
    parse(&read_text(path, made_by)?).map_err(|source| KeyError::Text { path: path.to_owned(), source })
}

fn read_text(path: &Path, made_by: &'static str) -> Result<String, KeyError> {
    match state::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(KeyError::Missing { path: path.to_owned(), made_by })
        }
        Err(error) => Err(KeyError::File { doing: "read", path: path.to_owned(), error }),
    }
}

/// Writes a new file that only its owner can read; an existing one is never touched.
fn write(path: &Path, text: &str) -> Result<(), KeyError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        let error = io::Error::from(io::ErrorKind::NotFound);
        return Err(KeyError::File { doing: "write into", path: folder.to_owned(), error });
    }
    match state::write_new(path, text.as_bytes()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(KeyError::Exists(path.to_owned())),
        Err(error) => {
            // Half a key is worse than none; it is ours, since it did not exist before.
            let _ = fs::remove_file(path);
            Err(KeyError::File { doing: "write", path: path.to_owned(), error })
        }
    }
}

/// Why nothing was made. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file is in the way.
    #[error("{} exists and is not overwritten: what it holds may be the only copy; move it away, or name another with --output", .0.display())]
    Exists(PathBuf),
    /// A file that is needed is not there.
    #[error("there is no {}: make it with `{made_by}`, or name another file (see --help)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What makes it.
        made_by: &'static str,
    },
    /// The system refused.
    #[error("cannot {doing} {}: {error}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What it is.
        source: TextError,
    },
    /// The certificate to renew is of another network than the admission key.
    #[error("{} is of another network than the admission key: use the key that admitted it, or one of the same network", file.display())]
    OtherNetwork {
        /// The certificate's file.
        file: PathBuf,
    },
    /// The node's key is damaged.
    #[error("the node's key in {} cannot be read: {source}; move the file away to become a new node", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// There is no key for a zone.
    #[error("{}: {source}", path.display())]
    Zone {
        /// The key's file.
        path: PathBuf,
        /// What is wrong.
        source: ZoneKeyError,
    },
    /// The state directory cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// What was asked would be believed by nobody.
    #[error("not signed: {0}; ask for less, or make another key with `atoll key admission`")]
    Refused(#[from] Refused),
    /// The system has no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

#[cfg(test)]
mod tests;
