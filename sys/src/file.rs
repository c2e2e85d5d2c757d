//! Files: room taken in advance, locks between processes, reads and writes at a place.

use std::fs::File;
use std::io;

/// A lock that no other process holds; given up when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Makes `file` `length` bytes long, on Linux with the room for them taken, so that later writes within it meet no full
/// disk. Elsewhere, and on file systems that cannot, the length alone is set.
///
/// # Errors
/// No room, or the disk's error.
pub fn preallocate(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        let size = i64::try_from(length).map_err(io::Error::other)?;
        loop {
            match fallocate(file, FallocateFlags::empty(), 0, size) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    file.set_len(length)
}

/// Locks `file` for this process alone; `None` if another holds it.
///
/// # Errors
/// The disk's, or a file system without locks.
pub fn lock(file: File) -> io::Result<Option<Lock>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Fills `buffer` from `offset` on, leaving the file's own position aside.
///
/// # Errors
/// `UnexpectedEof` if the file ends before; else the disk's.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes` from `offset` on, leaving the file's own position aside.
///
/// # Errors
/// The disk's; some of the bytes may be written then.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preallocated_file_has_its_length_and_its_room() {
        let file = tempfile::tempfile().unwrap();
        preallocate(&file, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        #[cfg(target_os = "linux")]
        assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) >= 2048);
        assert!(preallocate(&file, u64::MAX).is_err());
    }

    #[test]
    fn a_lock_is_held_by_one_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::create(directory.path().join("lock")).unwrap();
        let held = lock(open()).unwrap();
        assert!(held.is_some());
        assert!(lock(open()).unwrap().is_none());
        drop(held);
        assert!(lock(open()).unwrap().is_some());
    }

    #[test]
    fn bytes_are_written_and_read_at_their_place() {
        let file = tempfile::tempfile().unwrap();
        write_at(&file, b"there", 7).unwrap();
        write_at(&file, b"here", 0).unwrap();
        let mut buffer = [0; 5];
        read_at(&file, &mut buffer, 7).unwrap();
        assert_eq!(&buffer, b"there");
        assert_eq!(read_at(&file, &mut buffer, 8).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
