//! The heap, counted: what a thread holds of it and how often it asked for more. For tests that say that something allocates nothing,
//! or that it keeps nothing; a test program makes [`Counted`] its global allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// The system's allocator, with each thread's use counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted;

/// A thread's use of the heap since it began; all zero where [`Counted`] is not the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Bytes that it asked for, less those that it gave back. Below zero, if it gave back more of what others had asked for.
    pub bytes: i64,
    /// How often it asked.
    pub times: u64,
}

/// The calling thread's use until now.
#[must_use]
pub fn used() -> Used {
    USED.try_with(Cell::get).unwrap_or_default()
}

impl Used {
    /// What came to it since an earlier moment of the same thread.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self { bytes: self.bytes - before.bytes, times: self.times - before.times }
    }
}

thread_local! {
    // Without initialiser and destructor: to touch it asks for no memory.
    static USED: Cell<Used> = const { Cell::new(Used { bytes: 0, times: 0 }) };
}

fn count(more: usize, less: usize, times: u64) {
    let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    // A thread that is ending is not counted any more.
    let _ = USED.try_with(|used| {
        let Used { bytes, times: before } = used.get();
        used.set(Used { bytes: bytes + signed(more) - signed(less), times: before + times });
    });
}

#[expect(unsafe_code, reason = "the trait's own contract")]
// SAFETY: each call is the system allocator's with the same arguments; what is done besides touches a plain number.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0, 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0, 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size(), 1);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(0, layout.size(), 0);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static HEAP: Counted = Counted;

    #[test]
    fn what_is_held_and_how_often_more_was_asked_for_is_counted_by_thread() {
        let before = used();
        let held = vec![7_u8; 1000];
        assert_eq!(used().since(before), Used { bytes: 1000, times: 1 });
        let larger = std::hint::black_box([held, vec![7; 24]].concat());
        assert_eq!(used().since(before), Used { bytes: 1024, times: 3 });
        drop(larger);
        assert_eq!(used().since(before), Used { bytes: 0, times: 3 });
        std::thread::spawn(|| assert_eq!(used().since(used()), Used::default())).join().unwrap();
    }
}
