//! Reading memory that may not be readable: a fault in guard.s is caught and returned as a result.
//!
//! This works like Linux's exception table, with three entries. It has no state, so all CPUs can use it at
//! once.

use core::ptr::NonNull;

use dumpcore::format::Block;

use super::frame::{ILLEGAL, LOAD_ACCESS, LOAD_PAGE, STORE_ACCESS, STORE_PAGE};
use crate::memory::linker_symbol;

core::arch::global_asm!(include_str!("guard.s"));

unsafe extern "C" {
    fn guarded_copy(to: *mut u8, from: *const u8) -> u32;
    fn guarded_probe(unused: u64, from: *const u8) -> u32;
    safe fn guarded_seed() -> u64;
    fn stumble(address: u64);
}

/// What a fault in guard.s means.
pub(super) enum Known {
    /// The read failed: continue at this address, which sets the result.
    Unreadable {
        /// The address.
        fixup: u64,
    },
    /// The bug of `scenario=oops`: continue after it.
    Stumbled {
        /// The next instruction.
        behind: u64,
    },
}

/// Whether guard.s expects a fault of this cause at `pc`.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn known(cause: u64, pc: u64) -> Option<Known> {
    if cause == ILLEGAL && pc == linker_symbol!(seed_begin) {
        return Some(Known::Unreadable { fixup: linker_symbol!(seed_fault) });
    }
    if !matches!(cause, LOAD_ACCESS | STORE_ACCESS | LOAD_PAGE | STORE_PAGE) {
        return None;
    }
    if (linker_symbol!(guarded_begin)..linker_symbol!(guarded_end)).contains(&pc) {
        return Some(Known::Unreadable { fixup: linker_symbol!(guarded_fault) });
    }
    if (linker_symbol!(stumble_begin)..linker_symbol!(stumble_end)).contains(&pc) {
        return Some(Known::Stumbled { behind: linker_symbol!(stumble_end) });
    }
    None
}

/// Copies a page by aligned words; returns false if reading it faulted.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn copy(from: NonNull<u8>, to: &mut Block) -> bool {
    // SAFETY: `to` has room for a page, and reading may fault. Blocks in the arena are aligned for words; for
    // others, the firmware emulates misaligned accesses.
    unsafe { guarded_copy(to.as_mut_ptr(), from.as_ptr()) == 0 }
}

/// Reads a word in each cache line of a page; returns false if that faulted.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn probe(page: NonNull<u8>) -> bool {
    // SAFETY: only reads, and reading may fault.
    unsafe { guarded_probe(0, page.as_ptr()) == 0 }
}

/// Polls the CPU's entropy source once; returns the value of the CSR `seed`.
pub(super) fn seed() -> u64 {
    guarded_seed()
}

/// Writes to an unmapped address; the fault is dumped, and then this returns.
pub(crate) fn oops(nowhere: u64) {
    // SAFETY: nothing is mapped there, so nothing is written; the handler knows the instruction and continues
    // after it.
    unsafe { stumble(nowhere) }
}

/// One store instruction that is opaque to the compiler: the caller is responsible for its effect at that
/// address.
macro_rules! store {
    ($address:expr, $value:expr) => {
        core::arch::asm!("sd {1}, 0({0})", in(reg) $address, in(reg) $value, options(nostack))
    };
}
pub(crate) use store;
