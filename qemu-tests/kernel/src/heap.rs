//! The heap of the healthy kernel. A dump only reads it out, as memory.

use core::alloc::{GlobalAlloc, Layout};

use dumpcore::PageClass;
use linked_list_allocator::Heap;
use spin::Mutex;

use crate::memory;

/// Bytes of heap.
const SIZE: usize = 4 << 20;

struct LockedHeap(Mutex<Heap>);

// SAFETY: linked_list_allocator fulfils the contract of an allocator; the lock serialises CPUs.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), |start| start.as_ptr())
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if let Some(start) = core::ptr::NonNull::new(start) {
            // SAFETY: the caller's promise: it came from alloc with this layout.
            unsafe { self.0.lock().deallocate(start, layout) }
        }
    }
}

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

/// Gives the heap its memory.
pub(crate) fn init() -> Result<(), &'static str> {
    let memory = memory::take_bytes(SIZE, 1, PageClass::Slab).ok_or("no memory for the heap")?;
    // SAFETY: the memory is ours for good, and this happens once.
    unsafe { HEAP.0.lock().init(memory.as_mut_ptr(), memory.len()) };
    Ok(())
}
