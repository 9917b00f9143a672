//! Stacks: one for each CPU, another for its exceptions, which must not rely on the first, and a function to
//! switch stacks.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::arch::MAX_CPUS;

/// Size of a CPU's stack in bytes. The lowest page is unmapped, so that an overflow faults. Arming a dump
/// takes some 60 KiB in unoptimised code.
pub(super) const SIZE: usize = if cfg!(debug_assertions) { 0x20000 } else { 0x10000 };
const GUARD: usize = 4096;
/// Size of a CPU's exception stack in bytes, as in boot.s.
const EXCEPTION_SIZE: usize = 0x4000;

#[repr(C, align(4096))]
struct Stacks<const N: usize>([UnsafeCell<[u8; N]>; MAX_CPUS]);
// SAFETY: memory for stacks; each is only used by one CPU.
unsafe impl<const N: usize> Sync for Stacks<N> {}

#[unsafe(export_name = "cpu_stacks")]
static CPU: Stacks<SIZE> = Stacks([const { UnsafeCell::new([0; SIZE]) }; MAX_CPUS]);
#[unsafe(export_name = "exception_stacks")]
static EXCEPTION: Stacks<EXCEPTION_SIZE> = Stacks([const { UnsafeCell::new([0; EXCEPTION_SIZE]) }; MAX_CPUS]);

/// End of a CPU's stack.
pub(super) fn top(cpu: usize) -> u64 {
    CPU.0[cpu].get() as u64 + SIZE as u64
}

/// End of a CPU's stack for exceptions.
pub(super) fn exception_top(cpu: usize) -> u64 {
    EXCEPTION.0[cpu].get() as u64 + EXCEPTION_SIZE as u64
}

/// The ranges of all these stacks.
pub(crate) fn all() -> [Range<u64>; 2] {
    fn place<const N: usize>(stacks: &'static Stacks<N>) -> Range<u64> {
        let start = core::ptr::from_ref(stacks) as u64;
        start..start + size_of::<Stacks<N>>() as u64
    }
    [place(&CPU), place(&EXCEPTION)]
}

/// The lowest page of each CPU's stack, which must stay unmapped.
pub(super) fn guards() -> impl Iterator<Item = u64> {
    CPU.0.iter().map(|stack| stack.get() as u64)
}

/// First usable byte of a CPU's own stack.
pub(crate) fn bottom(cpu: usize) -> *mut u8 {
    CPU.0[cpu].get().cast::<u8>().wrapping_add(GUARD)
}

/// The current stack pointer.
#[inline(always)]
pub(crate) fn pointer() -> u64 {
    let here: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mov {}, sp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    here
}

/// Calls `run` with `word` on the stack that ends at `top`, and returns. Exceptions during the call use the
/// same stack, so that those of a dump change no other memory.
///
/// # Safety
/// `top` is the 16-byte aligned end of memory that is large enough and otherwise unused.
#[unsafe(naked)]
#[unsafe(link_section = ".dump_path.text")]
pub(crate) unsafe extern "C" fn call_on(top: *mut u8, run: extern "C" fn(*mut u8), word: *mut u8) {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-48]!",
        "stp x19, x20, [sp, #16]",
        "str x21, [sp, #32]",
        "mov x29, sp",
        // The current stack, which of the two stack pointers it uses, and SP_EL1, which may be the same.
        "mov x19, sp",
        "mrs x20, spsel",
        "msr spsel, #1",
        "mov x21, sp",
        "mov sp, x0",
        "mov x0, x2",
        "blr x1",
        "mov sp, x21",
        "msr spsel, x20",
        "mov sp, x19",
        "ldp x19, x20, [sp, #16]",
        "ldr x21, [sp, #32]",
        "ldp x29, x30, [sp], #48",
        "ret",
    )
}
