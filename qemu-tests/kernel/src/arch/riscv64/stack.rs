//! Stacks: one for each CPU, another for when that one overflows, and a function to switch stacks.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::arch::MAX_CPUS;

/// Size of a CPU's stacks in bytes, as in boot.s. From the bottom: an unmapped page, the emergency stack,
/// another unmapped page, the stack.
const SIZE: usize = 0x20000;
/// Where the emergency stack ends and the second unmapped page begins; as in boot.s.
const EMERGENCY_END: usize = 0x5000;
const PAGE: usize = 4096;

#[repr(C, align(4096))]
struct Stacks([UnsafeCell<[u8; SIZE]>; MAX_CPUS]);
// SAFETY: memory for stacks; each is only used by one CPU.
unsafe impl Sync for Stacks {}

#[unsafe(export_name = "cpu_stacks")]
static STACKS: Stacks = Stacks([const { UnsafeCell::new([0; SIZE]) }; MAX_CPUS]);

/// The CPU whose emergency stack ends at `end`.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn owner(end: u64) -> usize {
    let number = end.wrapping_sub((&raw const STACKS) as u64) / SIZE as u64;
    if number < MAX_CPUS as u64 { number as usize } else { 0 }
}

/// Whether a CPU's stack pointer is so close to the end of its stack that a trap frame does not fit.
pub(super) fn is_used_up(cpu: usize, stack_pointer: u64) -> bool {
    let guard = STACKS.0[cpu].get() as u64 + EMERGENCY_END as u64;
    (guard..guard + 2 * PAGE as u64).contains(&stack_pointer)
}

/// The ranges of all these stacks, one for each CPU.
pub(crate) fn all() -> [Range<u64>; MAX_CPUS] {
    STACKS.0.each_ref().map(|stack| stack.get() as u64..stack.get() as u64 + SIZE as u64)
}

/// The pages between the stacks, which must stay unmapped.
pub(crate) fn guards() -> impl Iterator<Item = u64> {
    STACKS.0.iter().flat_map(|stack| [0, EMERGENCY_END].map(|offset| stack.get() as u64 + offset as u64))
}

/// First usable byte of a CPU's own stack.
pub(crate) fn bottom(cpu: usize) -> *mut u8 {
    STACKS.0[cpu].get().cast::<u8>().wrapping_add(EMERGENCY_END + PAGE)
}

/// The stack pointer of the caller.
#[inline(always)]
pub(crate) fn pointer() -> u64 {
    let here: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) here, options(nomem, nostack)) };
    here
}

/// Calls `run` with `word` on the stack that ends at `top`, and returns.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that is large enough and otherwise unused.
#[unsafe(naked)]
#[unsafe(link_section = ".dump_path.text")]
pub(crate) unsafe extern "C" fn call_on(top: *mut u8, run: extern "C" fn(*mut u8), word: *mut u8) {
    core::arch::naked_asm!(
        "addi sp, sp, -16",
        "sd ra, 8(sp)",
        "sd s0, 0(sp)",
        "mv s0, sp",
        "mv sp, a0",
        "mv a0, a2",
        "jalr a1",
        "mv sp, s0",
        "ld ra, 8(sp)",
        "ld s0, 0(sp)",
        "addi sp, sp, 16",
        "ret",
    )
}
