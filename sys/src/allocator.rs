//! How long mimalloc keeps what was given back to it before it gives it back to the system. By itself it is a second, for all that is free
//! then, however lately it was used; what is wanted again afterwards comes page by page, a fault each. Who is asked in bursts keeps it
//! for longer.

use std::{
    ffi::{c_int, c_long},
    time::Duration,
};

// It names these calls only together with all that it has.
use libmimalloc_sys as _;

/// Has mimalloc keep freed memory for so long, a day at most, unless the environment (`MIMALLOC_PURGE_DELAY`) says how long. Without
/// effect in a program that has another allocator. To be called before other threads start: they read the number without a lock.
pub fn keep_freed(span: Duration) {
    let span = span.min(LONGEST).as_millis();
    mi_option_set_default(PURGE_DELAY, c_long::try_from(span).unwrap_or(c_long::MAX));
}

#[expect(unsafe_code, reason = "mimalloc's own interface, which is linked above")]
// SAFETY: both take and return numbers, and look whether the option's is one of theirs. The value is neither atomic nor locked:
// `keep_freed` is to be called before other threads start.
unsafe extern "C" {
    safe fn mi_option_set_default(option: c_int, value: c_long);
    #[cfg(test)]
    safe fn mi_option_get(option: c_int) -> c_long;
}

/// `mi_option_purge_delay`, in milliseconds.
const PURGE_DELAY: c_int = 15;

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    #[test]
    fn what_is_freed_is_kept_for_as_long_as_is_said() {
        if let Some(said) = env::var_os(VARIABLE) {
            keep_freed(Duration::from_secs(10));
            let number = said.to_str().and_then(|said| said.parse::<c_long>().ok());
            assert!(number.is_none_or(|number| mi_option_get(PURGE_DELAY) == number), "{said:?}");
            return;
        }
        // No other option is so by itself: were they numbered anew, this would tell.
        assert_eq!(mi_option_get(PURGE_DELAY), 1000);
        keep_freed(Duration::from_secs(10));
        assert_eq!(mi_option_get(PURGE_DELAY), 10_000);
        keep_freed(Duration::MAX);
        assert_eq!(mi_option_get(PURGE_DELAY), 24 * 60 * 60 * 1000);
    }

    #[test]
    fn the_environment_says_how_long_before_the_program_does() {
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", "allocator::tests::what_is_freed_is_kept_for_as_long_as_is_said"]).env(VARIABLE, "77");
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "it was run");
    }

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";
}
