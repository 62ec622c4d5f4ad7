//! Counts what is allocated: libFuzzer's own limits see only the process as a whole.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grow(bytes: usize) {
    PEAK.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; only sums are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Begins a run; gives back what is held before it.
pub fn begin() -> usize {
    let held = HELD.load(Relaxed);
    PEAK.store(held, Relaxed);
    held
}

/// The most that was held at once since then.
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// The most that a run of a target may hold at once. Inputs are small: a length that was believed would
/// show.
pub fn most(target: &str, input: usize) -> usize {
    let (always, for_each) = match target {
        // Numbers and small elements take many times more room as JSON and XML.
        "dicom_json" => (2 << 20, 512),
        // A list of the standard's attributes may be asked for with few bytes each.
        "qido" => (256 << 10, 512),
        // The window in which the scan looks for the next record.
        "log" => (4 << 20, 64),
        _ => (512 << 10, 64),
    };
    always + for_each * input
}
