//! How many files and sockets this process may have open, and how many it has.

use std::io;

/// Raises the limit on open files as far as the system lets an ordinary process; the limit then in force, `None` where
/// there is none to raise.
///
/// # Errors
/// The system's.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // macOS reports no hard limit but refuses more than OPEN_MAX.
        let most = if cfg!(target_vendor = "apple") { hard.min(10_240) } else { hard };
        if most <= soft {
            return Ok(Some(soft));
        }
        setrlimit(Resource::RLIMIT_NOFILE, most, hard)?;
        Ok(Some(most))
    }
    #[cfg(not(unix))]
    Ok(None)
}

/// Files and sockets this process has open; `None` where the system does not tell.
pub fn open_files() -> Option<u64> {
    let listed = std::fs::read_dir(if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" }).ok()?;
    // The listing itself is open while it is counted.
    Some((listed.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_only_rises_and_holds() {
        let first = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), first);
        assert!(first.is_none_or(|limit| limit >= 64));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_are_counted() {
        // Other tests open files beside this one: more than they can is enough to tell.
        let before = open_files().unwrap();
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_files().unwrap() >= before.saturating_sub(50) + 200);
        drop(held);
        assert!(open_files().unwrap() < before + 100);
    }
}
