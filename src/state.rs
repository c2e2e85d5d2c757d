//! The state directory: the few files a node must find again after a restart. Each is written whole or not at all (a new file,
//! synced, renamed over the old one), none is readable by others, and one process owns the directory at a time.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// One node's state directory, owned by this process until it is left or dropped.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    /// Holds the lock of the directory; none once it was left. Whoever writes holds this.
    owned: Mutex<Option<File>>,
}

/// What is kept. Each is one file of bytes, whose form belongs to whoever hands them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The key of this node's identity.
    Identity,
    /// Peers it knew last.
    Peers,
    /// The last good set of DNS answers.
    DnsSet,
    /// The admin API's token.
    Token,
    /// A manager's network, tokens, peers it admitted or removed.
    Manager,
    /// What a lent machine is to its managers: its name, its quota used.
    Peer,
    /// Its certificate in a closed network, put there by the operator.
    Certificate,
    /// The revocations it knows of.
    Revocations,
    /// The purges it knows of.
    Purges,
    /// What its proxy has sent to whom, where shares are limited.
    Shares,
}

impl State {
    /// Bytes a state file may have; a larger one was not written by us and is refused.
    pub const FILE_LIMIT: u64 = 16 * 1024 * 1024;

    /// Takes the directory over, creating it (readable by its owner only) if it is not there.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let failed = |doing| move |error| StateError::Io { doing, path: directory.to_owned(), error };
        create_private(directory).map_err(failed("create state directory"))?;
        let lock_file = directory.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_file);
        let lock = lock.map_err(|error| StateError::Io { doing: "write", path: lock_file.clone(), error })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), owned: Mutex::new(Some(lock)) }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => Err(StateError::Io { doing: "lock", path: lock_file, error }),
        }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where something is kept.
    #[must_use]
    pub fn path(&self, kept: Kept) -> PathBuf {
        self.directory.join(kept.file_name())
    }

    /// What was kept, or none if nothing was yet.
    pub fn load(&self, kept: Kept) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(kept);
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::Io { doing: "read", path, error }),
        }
    }

    /// Keeps these bytes in place of the last ones. After an error or a crash the last ones are still there.
    pub fn save(&self, kept: Kept, bytes: &[u8]) -> Result<(), StateError> {
        self.save_made(kept, || bytes)
    }

    /// Keeps what `make` makes, which is called when it is this one's turn: of two at once, the later state stays.
    pub fn save_made<B: AsRef<[u8]>>(&self, kept: Kept, make: impl FnOnce() -> B) -> Result<(), StateError> {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.is_none() {
            return Err(StateError::Left(self.directory.clone()));
        }
        let path = self.path(kept);
        write_whole(&path, make().as_ref()).map_err(|error| StateError::Io { doing: "write", path, error })
    }

    /// Gives the directory up once what is being written is: another process may own it from then on, and nothing more is
    /// written to it here.
    pub fn leave(&self) {
        *self.owned.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was kept, or else what `make` makes, which is then kept.
    pub fn load_or_make(&self, kept: Kept, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, StateError> {
        if let Some(bytes) = self.load(kept)? {
            return Ok(bytes);
        }
        let bytes = make();
        self.save(kept, &bytes)?;
        Ok(bytes)
    }
}

impl Kept {
    pub(crate) const fn file_name(self) -> &'static str {
        match self {
            Self::Identity => "identity.key",
            Self::Peers => "peers",
            Self::DnsSet => "dns-set",
            Self::Token => "admin.token",
            Self::Manager => "manager.json",
            Self::Peer => "peer.json",
            Self::Certificate => "certificate",
            Self::Revocations => "revocations",
            Self::Purges => "purges",
            Self::Shares => "shares",
        }
    }
}

/// Why state could not be had or kept.
#[derive(Debug)]
pub enum StateError {
    /// Another process owns the directory.
    InUse(PathBuf),
    /// This process has left the directory: the node has stopped.
    Left(PathBuf),
    /// The system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(directory) => write!(
                f,
                "state directory {} belongs to a node that is running; stop it, or give this one its own directory \
                 (state in [node])",
                directory.display()
            ),
            Self::Left(directory) => {
                write!(f, "state directory {} was left when the node stopped; start it again", directory.display())
            }
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    write!(f, "; run as a user who may write there, or name another directory (state in [node])")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::InUse(_) | Self::Left(_) => None,
            Self::Io { error, .. } => Some(error),
        }
    }
}

/// Reads a file of bounded size.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(State::FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > State::FILE_LIMIT {
        let limit = State::FILE_LIMIT;
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Writes a file so that at any moment either the old or the new content is there, whole, and only its owner can read it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // A leftover of a crash may have other rights; it is of no use.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_folder(folder)
}

/// Writes a file that must not exist yet, and that only its owner can read.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = atoll_sys::file::private(&mut options).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the rename itself survive a power cut. Only Unix has a way to ask for it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    atoll_sys::file::private_folder(&mut builder).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/state");
        let state = State::open(&directory).unwrap();
        assert_eq!(state.load(Kept::Peers).unwrap(), None);
        state.save(Kept::Peers, b"one").unwrap();
        state.save(Kept::Peers, b"two").unwrap();
        assert_eq!(state.load_or_make(Kept::Peers, || b"three".to_vec()).unwrap(), b"two");
        assert_eq!(state.load_or_make(Kept::Identity, || b"key".to_vec()).unwrap(), b"key");
        drop(state);
        let state = State::open(&directory).unwrap();
        assert_eq!(state.load(Kept::Identity).unwrap().as_deref(), Some(&b"key"[..]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&state.path(Kept::Identity)), 0o600);
            assert_eq!(mode(&directory), 0o700);
        }
    }

    #[test]
    fn a_second_process_is_told_that_the_directory_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let held = State::open(folder.path()).unwrap();
        let error = State::open(folder.path()).unwrap_err();
        assert!(matches!(error, StateError::InUse(_)), "{error}");
        drop(held);
        State::open(folder.path()).unwrap();
    }

    #[test]
    fn who_has_left_the_directory_writes_no_more_and_the_next_may_own_it() {
        let folder = tempfile::tempdir().unwrap();
        let stopped = State::open(folder.path()).unwrap();
        stopped.leave();
        let next = State::open(folder.path()).unwrap();
        next.save(Kept::Peers, b"next").unwrap();
        let error = stopped.save(Kept::Peers, b"late").unwrap_err();
        assert!(error.to_string().contains("was left when the node stopped"), "{error}");
        assert_eq!(next.load(Kept::Peers).unwrap().as_deref(), Some(&b"next"[..]));
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_content_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        state.save(Kept::DnsSet, b"old").unwrap();
        // The temporary's place is taken by a directory that cannot be removed as a file.
        fs::create_dir(folder.path().join("dns-set.new")).unwrap();
        let error = state.save(Kept::DnsSet, b"new").unwrap_err();
        assert!(error.to_string().contains("dns-set"), "{error}");
        assert_eq!(state.load(Kept::DnsSet).unwrap().as_deref(), Some(&b"old"[..]));
    }

    #[test]
    fn a_temporary_left_by_a_crash_is_no_obstacle_and_its_rights_do_not_last() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        fs::write(folder.path().join("identity.key.new"), b"half").unwrap();
        state.save(Kept::Identity, b"whole").unwrap();
        assert_eq!(state.load(Kept::Identity).unwrap().as_deref(), Some(&b"whole"[..]));
        assert!(!folder.path().join("identity.key.new").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let rights = fs::metadata(state.path(Kept::Identity)).unwrap().permissions();
            assert_eq!(rights.mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_state_file_beyond_the_limit_is_refused_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        File::create(state.path(Kept::Peers)).unwrap().set_len(State::FILE_LIMIT).unwrap();
        assert!(state.load(Kept::Peers).is_ok());
        File::create(state.path(Kept::Peers)).unwrap().set_len(State::FILE_LIMIT + 1).unwrap();
        assert!(state.load(Kept::Peers).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = State::open(&file.join("state")).unwrap_err().to_string();
        assert!(error.contains("file/state") && error.contains("create state directory"), "{error}");
    }
}
