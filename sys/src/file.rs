//! Files: room taken in advance, locks between processes, reads and writes at a place.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::Path;

/// A lock that no other process holds; given up when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Parts that Linux takes in one call.
#[cfg(target_os = "linux")]
const PARTS: usize = 1024;

/// Has what these options create be its owner's alone. Elsewhere than on Unix the folder's rules hold.
pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// The same for folders.
pub fn private_folder(builder: &mut DirBuilder) -> &mut DirBuilder {
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700);
    builder
}

/// Whether nobody but its owner may read or write a file or folder; true where the system does not tell.
///
/// # Errors
/// The file's.
pub fn is_private(path: &Path) -> io::Result<bool> {
    let permissions = std::fs::metadata(path)?.permissions();
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o077 == 0);
    #[cfg(not(unix))]
    {
        let _ = permissions;
        Ok(true)
    }
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

/// Has the system begin to write `length` bytes from `offset` on to the device, and does not wait until they are there.
/// Nothing is promised by it: [`File::sync_data`] later finds less to do. Does nothing where the system has no such call.
///
/// # Errors
/// The disk's.
pub fn begin_writing(file: &File, offset: u64, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        let (offset, length) = (i64::try_from(offset), i64::try_from(length));
        let (offset, length) = (offset.map_err(io::Error::other)?, length.map_err(io::Error::other)?);
        let flags = nix::libc::SYNC_FILE_RANGE_WRITE;
        #[expect(unsafe_code, reason = "nix does not wrap it; it takes a descriptor that is open and plain numbers")]
        // SAFETY: no memory of this process is handed over.
        let answer = unsafe { nix::libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
        match nix::errno::Errno::result(answer) {
            // A file system or a sandbox without the call loses a hint.
            Ok(_) | Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::ESPIPE | nix::errno::Errno::EINVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, offset, length);
        Ok(())
    }
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

/// As [`read_at`], if the system has all of it in memory: false if the disk would have to be waited for, or if the system
/// cannot tell. What is in `buffer` is then of no use.
///
/// # Errors
/// The disk's.
pub fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        use nix::libc;
        use std::os::fd::AsRawFd as _;
        let place = i64::try_from(offset).map_err(io::Error::other)?;
        let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        #[expect(unsafe_code, reason = "nix does not wrap preadv2 with its flags")]
        // SAFETY: the one part is `buffer`, borrowed for the call, and the kernel writes at most its length.
        let answer = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, place, libc::RWF_NOWAIT) };
        match Errno::result(answer) {
            Ok(read) => Ok(usize::try_from(read).is_ok_and(|read| read == buffer.len())),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, buffer, offset);
        Ok(false)
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

/// Writes all of `parts`, one behind the other, from `offset` on, on Linux in one call if the system takes them in one. They
/// are used up.
///
/// # Errors
/// The disk's; some of the bytes may be written then.
pub fn write_parts_at(file: &File, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    // What is empty does not stand in front, so that a call that writes nothing is an error.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let written = write_some_at(file, parts, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut parts, written);
        offset += written as u64;
    }
    Ok(())
}

/// Writes the beginning of `parts`; how many bytes.
fn write_some_at(file: &File, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        let place = i64::try_from(offset).map_err(io::Error::other)?;
        loop {
            match nix::sys::uio::pwritev(file, &parts[..parts.len().min(PARTS)], place) {
                Ok(written) => return Ok(written),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let Some(part) = parts.first() else { return Ok(0) };
        write_at(file, part, offset)?;
        Ok(part.len())
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
    fn what_is_read_from_memory_is_what_was_written_and_never_half_of_it() {
        let file = tempfile::tempfile().unwrap();
        write_at(&file, b"just written", 0).unwrap();
        let mut buffer = [0; 12];
        // Some file systems never tell: then there is nothing to hold against.
        if read_cached(&file, &mut buffer, 0).unwrap() {
            assert_eq!(&buffer, b"just written");
        }
        assert!(!read_cached(&file, &mut [0; 13], 0).unwrap());
    }

    #[test]
    fn what_begins_to_be_written_reads_as_it_was_written() {
        let file = tempfile::tempfile().unwrap();
        write_at(&file, &[7; 8192], 0).unwrap();
        begin_writing(&file, 0, 8192).unwrap();
        let mut buffer = [0; 8192];
        read_at(&file, &mut buffer, 0).unwrap();
        assert_eq!(buffer, [7; 8192]);
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
    #[test]
    fn parts_are_written_one_behind_the_other_however_many() {
        let file = tempfile::tempfile().unwrap();
        let words: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
        let mut parts: Vec<_> =
            words.iter().flat_map(|word| ["", word]).map(|part| IoSlice::new(part.as_bytes())).collect();
        parts.push(IoSlice::new(&[]));
        write_parts_at(&file, &mut parts, 5).unwrap();
        write_parts_at(&file, &mut [IoSlice::new(&[])], 0).unwrap();
        let whole = words.concat();
        let mut buffer = vec![0; whole.len()];
        read_at(&file, &mut buffer, 5).unwrap();
        assert_eq!(buffer, whole.as_bytes());
        assert_eq!(file.metadata().unwrap().len(), whole.len() as u64 + 5);
    }
}
