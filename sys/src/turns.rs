//! The turns that a thread gets on the processors, set and read by the thread itself [Linux sched_setattr(2), sched(7)].
//!
//! Linux gives each thread a share by its niceness and deals it out in slices. A thread that wakes with a slice shorter than that of
//! the thread which runs takes its place at once, as long as it has not used up its share; with equal slices it waits until the
//! other's has ended, milliseconds later. A short slice gives no larger share, and needs no privilege.

use std::{io, time::Duration};

/// How a thread takes its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// -20 to 19: each step more leaves a thread about a fifth less beside others.
    pub nice: i32,
    /// How long a turn is.
    pub slice: Duration,
}

/// The calling thread's turns; `None` where the system does not tell, or the thread is none that shares by niceness.
///
/// # Errors
/// The system's.
pub fn turns() -> io::Result<Option<Turns>> {
    imp::turns()
}

/// Asks for turns of this length for the calling thread, of zero for the system's own; whether the system heeds it. Linux does from
/// 6.12 on, between 0.1 and 100 ms: what is shorter or longer is taken for these. Threads that this one begins have its turns.
///
/// # Errors
/// The system's refusal; the thread goes on as before.
pub fn set_slice(slice: Duration) -> io::Result<bool> {
    imp::set(0, Some(slice))
}

/// Makes the calling thread nicer by so much, to 19 at most; whether the system knows of that. So are threads that it begins.
///
/// # Errors
/// The system's refusal; the thread goes on as before.
pub fn be_nicer(by: u8) -> io::Result<bool> {
    imp::set(i32::from(by), None)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{io, time::Duration};

    use nix::libc;

    use super::Turns;

    pub(super) fn turns() -> io::Result<Option<Turns>> {
        let known = attributes()?;
        Ok(known.map(|known| Turns { nice: known.sched_nice, slice: Duration::from_nanos(known.sched_runtime) }))
    }

    pub(super) fn set(nicer: i32, slice: Option<Duration>) -> io::Result<bool> {
        let Some(mut wanted) = attributes()? else { return Ok(false) };
        // What is read has flags that are not for setting.
        wanted.sched_flags = 0;
        wanted.sched_nice = wanted.sched_nice.saturating_add(nicer).min(NICEST);
        let slice = slice.map(|slice| if slice.is_zero() { slice } else { slice.clamp(SHORTEST, LONGEST) });
        if let Some(slice) = slice {
            wanted.sched_runtime = u64::try_from(slice.as_nanos()).map_err(io::Error::other)?;
        }
        #[expect(
            unsafe_code,
            reason = "neither std nor nix wraps the call; the kernel reads as many bytes as `size` says"
        )]
        // SAFETY: `wanted` is a whole `sched_attr` that says its own size and outlives the call; 0 is the calling thread.
        let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let now = attributes()?;
        Ok(now.is_some_and(|now| {
            let heeded = slice.is_none_or(|slice| slice.is_zero() || now.sched_runtime == wanted.sched_runtime);
            heeded && now.sched_nice == wanted.sched_nice
        }))
    }

    /// What the kernel knows of the calling thread; none if it does not know the call, or the thread does not share by niceness.
    fn attributes() -> io::Result<Option<libc::sched_attr>> {
        #[expect(unsafe_code, reason = "sched_attr has no constructor")]
        // SAFETY: it is numbers, which may be zero.
        let mut known: libc::sched_attr = unsafe { std::mem::zeroed() };
        known.size = u32::try_from(size_of_val(&known)).map_err(io::Error::other)?;
        #[expect(
            unsafe_code,
            reason = "neither std nor nix wraps the call; the kernel writes as many bytes as it is told"
        )]
        // SAFETY: `known` is writable for `size` bytes and outlives the call; 0 is the calling thread.
        let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut known, known.size, 0) };
        if answer == 0 {
            return Ok(Some(known).filter(|known| known.sched_policy == NORMAL || known.sched_policy == BATCH));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOSYS) { Ok(None) } else { Err(error) }
    }

    const NORMAL: u32 = 0;
    const BATCH: u32 = 3;
    const NICEST: i32 = 19;

    /// Slices that the kernel takes [sched_setattr(2)].
    const SHORTEST: Duration = Duration::from_micros(100);
    const LONGEST: Duration = Duration::from_millis(100);
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::{io, time::Duration};

    use super::Turns;

    pub(super) fn turns() -> io::Result<Option<Turns>> {
        Ok(None)
    }

    pub(super) fn set(_: i32, _: Option<Duration>) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: what was made nicer is not made less nice again.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_slice_is_asked_for_and_changes_nothing_else() {
        apart(|| {
            let Some(before) = turns().unwrap() else { return };
            let slice = Duration::from_micros(300);
            // A kernel before 6.12 takes no notice.
            if set_slice(slice).unwrap() {
                assert_eq!(turns().unwrap(), Some(Turns { slice, ..before }));
            }
        });
    }

    #[test]
    fn slices_that_the_system_does_not_give_become_those_that_it_does() {
        for (asked, given) in [(1, Duration::from_micros(100)), (1_000_000, Duration::from_millis(100))] {
            apart(move || {
                if set_slice(Duration::from_micros(asked)).unwrap() {
                    assert_eq!(turns().unwrap().map(|turns| turns.slice), Some(given));
                }
            });
        }
    }

    #[test]
    fn the_systems_own_slice_can_be_had_again() {
        apart(|| {
            let Some(before) = turns().unwrap() else { return };
            let own = apart(|| set_slice(Duration::ZERO).and_then(|_| turns())).unwrap();
            set_slice(Duration::from_millis(50)).unwrap();
            assert!(set_slice(Duration::ZERO).unwrap());
            assert_eq!(turns().unwrap(), own);
            assert_eq!(own.map(|own| own.nice), Some(before.nice));
        });
    }

    #[test]
    fn a_thread_is_nicer_by_so_much_and_its_slice_as_before() {
        apart(|| {
            let Some(before) = turns().unwrap() else { return };
            assert!(be_nicer(3).unwrap());
            assert_eq!(turns().unwrap(), Some(Turns { nice: (before.nice + 3).min(19), ..before }));
            assert!(be_nicer(255).unwrap());
            assert_eq!(turns().unwrap().map(|turns| turns.nice), Some(19));
        });
    }

    #[test]
    fn what_one_thread_asks_for_is_its_own() {
        let mine = turns().unwrap();
        apart(|| be_nicer(5).and_then(|_| set_slice(Duration::from_millis(50))).unwrap());
        assert_eq!(turns().unwrap(), mine);
    }
}
