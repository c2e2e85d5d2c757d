//! Memory in large pages: who reads all over gigabytes waits as long for the table that says where a page lies as for the page.

/// Has the system put what this process has in memory by now into large pages (Linux 6.1 and later), whatever it was told before; in
/// bytes, how much of it lies in them then. `None` where the system cannot. It copies all that memory once, and pages of which a part
/// was never used take their full size: worth it for a process that reads much of it many times.
pub fn join_pages() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_thp_disable(false).ok()?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let pages = maps.lines().filter_map(own).flat_map(|(from, to)| (from..to).step_by(LARGE));
        let joined = pages.filter(|page| join(*page)).count() as u64;
        (joined > 0).then_some(joined * LARGE as u64)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Where the large pages of a mapping begin and end, if it is this process's own, can be written, and is of no file.
#[cfg(target_os = "linux")]
fn own(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, _, _, file) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let (from, to) = range.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    (rights == "rw-p" && file == "0").then(|| (from.next_multiple_of(LARGE), to / LARGE * LARGE))
}

/// Joins what lies in one large page. False if nothing does, or there is no room.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "nix knows no such advice")]
fn join(page: usize) -> bool {
    let page = std::ptr::without_provenance_mut(page);
    // SAFETY: the advice changes where the pages lie, not what they hold; for addresses that are mapped no more it fails.
    unsafe { nix::libc::madvise(page, LARGE, COLLAPSE) == 0 }
}

/// `MADV_COLLAPSE` of Linux, which not every C library names.
#[cfg(target_os = "linux")]
const COLLAPSE: i32 = 25;

/// A large page in bytes, on most machines. Where it is another the system refuses, or joins more.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_the_same_afterwards() {
        let numbers: Vec<u64> = (0..1 << 20).collect();
        let joined = join_pages();
        assert!(numbers.iter().copied().eq(0..1 << 20));
        assert!(joined.is_none_or(|bytes| bytes >= 2 << 20));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_private_memory_that_can_be_written_and_is_of_no_file_is_joined() {
        let own_of = |line| own(line).map(|(from, to)| (from >> 20, to >> 20));
        assert_eq!(own_of("7f0000100000-7f0000900000 rw-p 00000000 00:00 0 "), Some((0x7f0_0002, 0x7f0_0008)));
        assert_eq!(own_of("7f0000100000-7f0000900000 rw-p 00000000 08:01 42 /lib/libc.so"), None);
        assert_eq!(own_of("7f0000100000-7f0000900000 r--p 00000000 00:00 0 "), None);
        assert_eq!(own_of("7f0000100000-7f0000900000 rw-s 00000000 00:00 0 "), None);
        assert_eq!(own_of(""), None);
    }
}
