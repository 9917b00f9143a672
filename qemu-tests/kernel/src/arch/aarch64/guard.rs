//! Reading memory that may not be readable: a fault in guard.s ends there, and is told as a result.
//!
//! This is what Linux calls an exception table, with two entries. It holds no state, so all CPUs can use it at once.

use core::ptr::NonNull;

use dumpcore::format::Block;

use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("guard.s"));

unsafe extern "C" {
    fn guarded_copy(to: *mut u8, from: *const u8) -> u32;
    fn guarded_probe(unused: u64, from: *const u8) -> u32;
    fn stumble(address: u64);
}

/// What a fault in guard.s means.
pub(crate) enum Known {
    /// Memory could not be read: go on at this address, where the result is 1.
    Unreadable {
        /// See there.
        fixup: u64,
    },
    /// The bug of `scenario=oops`: go on after it.
    Stumbled {
        /// The next instruction.
        behind: u64,
    },
}

/// Whether a data abort at `pc` is one that guard.s knows of.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn known(pc: u64) -> Option<Known> {
    if (linker_symbol!(guarded_begin)..linker_symbol!(guarded_end)).contains(&pc) {
        return Some(Known::Unreadable { fixup: linker_symbol!(guarded_fault) });
    }
    if (linker_symbol!(stumble_begin)..linker_symbol!(stumble_end)).contains(&pc) {
        return Some(Known::Stumbled { behind: linker_symbol!(stumble_end) });
    }
    None
}

/// Copies a page, word by aligned word; false if reading it faulted.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn copy(from: NonNull<u8>, to: &mut Block) -> bool {
    // SAFETY: `to` has room for a page, and reading may fault. A block is 4096 bytes; memory has no alignment to keep.
    unsafe { guarded_copy(to.as_mut_ptr(), from.as_ptr()) == 0 }
}

/// Reads a word in each cache line of a page; false if that faulted.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn probe(page: NonNull<u8>) -> bool {
    // SAFETY: it only reads, and reading may fault.
    unsafe { guarded_probe(0, page.as_ptr()) == 0 }
}

/// Writes to an address where nothing is; the fault is dumped, and then this returns.
pub(crate) fn oops(nowhere: u64) {
    // SAFETY: nothing is mapped there, so nothing is written; the handler knows the instruction and goes on after it.
    unsafe { stumble(nowhere) }
}

/// One store instruction, which the compiler knows nothing about: what it does at that address is the caller's affair.
macro_rules! store {
    ($address:expr, $value:expr) => {
        core::arch::asm!("str {}, [{}]", in(reg) $value, in(reg) $address, options(nostack, preserves_flags))
    };
}
pub(crate) use store;
