//! An allocator that counts: how often a thread asks for memory, and how much the process holds.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicIsize, Ordering},
};

/// The system's allocator, which counts. A benchmark that counts makes it its `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    /// Without a destructor, so that it can be counted to the end of a thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

static HELD: AtomicIsize = AtomicIsize::new(0);

/// How often this thread has asked for memory, growing included.
pub fn of_this_thread() -> u64 {
    ALLOCATIONS.get()
}

/// Bytes that the process holds.
pub fn held() -> isize {
    HELD.load(Ordering::Relaxed)
}

fn count(grown: usize, shrunk: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + u64::from(grown > 0));
    let change = grown.cast_signed() - shrunk.cast_signed();
    HELD.fetch_add(change, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is told nothing else; each call goes on to the system's as it is")]
// SAFETY: every method hands its arguments on to `System` unchanged and gives back what that gives.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
