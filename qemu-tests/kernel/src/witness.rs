//! Witnesses: data that a debugger must find intact in the core.
//!
//! - `WITNESS`, a variable;
//! - `WITNESS_LIST`, a linked list on the heap;
//! - `WITNESS_PAGES`, physical pages all over RAM, whose content is derived from their number;
//! - on each CPU, the calls `witness_outer` → `witness_middle` → `witness_inner` with their arguments.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};

use dumpcore::PageClass;

use crate::arch::{cpu, paging};
use crate::memory;

/// A variable with a recognisable value.
#[repr(C)]
pub(crate) struct Witness {
    /// [`MAGIC`].
    pub magic: u64,
    /// Number of list nodes and pages together.
    pub count: u64,
    /// A text.
    pub name: &'static str,
}

/// The value in every witness.
const MAGIC: u64 = 0x5749_544e_4553_5321;
/// Number of nodes in the list.
const NODES: u64 = 32;
/// Number of pages all over RAM.
const PAGES: usize = 64;

/// A node of the list.
#[repr(C)]
pub(crate) struct WitnessNode {
    /// The next one, null at the end.
    pub next: *const WitnessNode,
    /// Counted from 0.
    pub index: u64,
    /// The square of the index.
    pub value: u64,
}

#[unsafe(no_mangle)]
static mut WITNESS: Witness = Witness { magic: 0, count: 0, name: "" };
#[unsafe(no_mangle)]
static mut WITNESS_LIST: *const WitnessNode = core::ptr::null();
/// Frame numbers of the pages.
#[unsafe(no_mangle)]
static mut WITNESS_PAGES: [u64; PAGES] = [0; PAGES];

/// A pseudo-random number derived from its seed (SplitMix64, Steele, Lea and Flood, 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills the page at this physical address with `mix(512 * pfn + index)` in its word `index`.
///
/// # Safety
/// The frame belongs to the caller.
pub(crate) unsafe fn fill_page(physical: u64) {
    let words = paging::direct(physical).cast::<u64>();
    let seed = physical / memory::FRAME * 512;
    for index in 0..512 {
        // SAFETY: within the page, which belongs to the caller and is in the direct map.
        unsafe { words.add(index).write(mix(seed + index as u64)) };
    }
}

/// The function that waiting CPUs run.
static THEN: spin::Once<fn(usize) -> !> = spin::Once::new();

/// Creates the witnesses. CPUs then run `then` with their numbers.
pub(crate) fn build(then: fn(usize) -> !) {
    THEN.call_once(|| then);
    let mut list = core::ptr::null();
    for index in (0..NODES).rev() {
        list = Box::into_raw(Box::new(WitnessNode { next: list, index, value: index * index }));
        // The memory between the nodes is kept, so that they are on different pages.
        Vec::leak(alloc::vec![0x5a_u8; 5000]);
    }
    let mut pages = [0; PAGES];
    for (part, slot) in pages.iter_mut().enumerate() {
        if let Some(frame) = memory::take_scattered(part as u64, PAGES as u64, PageClass::KernelData) {
            // SAFETY: the frame was just taken.
            unsafe { fill_page(frame) };
            // The page is marked at its beginning, over the pattern.
            // SAFETY: as above.
            unsafe { paging::direct(frame).cast::<[u64; 2]>().write([MAGIC, frame / memory::FRAME]) };
            *slot = frame / memory::FRAME;
        }
    }
    let witness = Witness { magic: MAGIC, count: NODES + PAGES as u64, name: "the kernel remembers" };
    // SAFETY: only the boot CPU writes them, once; only a debugger reads them.
    unsafe {
        (&raw mut WITNESS).write_volatile(witness);
        (&raw mut WITNESS_LIST).write_volatile(list);
        (&raw mut WITNESS_PAGES).write_volatile(pages);
    }
}

/// Number of CPUs in `witness_inner`.
static STANDING: AtomicUsize = AtomicUsize::new(0);

/// Number of CPUs waiting where a crash is to find them.
pub(crate) fn standing() -> usize {
    STANDING.load(Ordering::Acquire)
}

/// Where every CPU ends up: three calls deep, for a debugger.
#[inline(always)]
pub(crate) fn stand(cpu: usize) -> ! {
    witness_outer(cpu as u32, 0x1000 + cpu as u64)
}

// The arguments go through black_box, so that they are in the frames, where a debugger finds them whatever
// the optimiser does.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn witness_outer(cpu: u32, token: u64) -> ! {
    black_box((&cpu, &token));
    // SAFETY: written by build(), before any CPU comes here.
    let list = unsafe { (&raw const WITNESS_LIST).read_volatile() };
    witness_middle(cpu, token * 2, list)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn witness_middle(cpu: u32, doubled: u64, list: *const WitnessNode) -> ! {
    black_box((&cpu, &doubled, &list));
    witness_inner(cpu, doubled + 1, MAGIC)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn witness_inner(cpu: u32, depth: u64, magic: u64) -> ! {
    black_box((&cpu, &depth, &magic));
    STANDING.fetch_add(1, Ordering::AcqRel);
    match THEN.get() {
        Some(then) => then(cpu as usize),
        // No CPU comes here before build().
        None => cpu::halt(),
    }
}
