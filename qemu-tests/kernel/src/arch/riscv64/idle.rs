//! An idle CPU.

use core::arch::asm;

use super::cpu::end_software_interrupt;
use super::{clock, sbi};

/// In sie: the timer interrupt.
const TIMER: usize = 1 << 5;
/// Rests, with interrupts off, until another CPU ends the rest. An interrupt just before the call ends it at
/// once.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn rest() {
    // SAFETY: only waits. A pending interrupt ends the wait without being taken.
    unsafe { asm!("wfi", options(nomem, nostack)) };
    end_software_interrupt();
}

/// Rests for this many nanoseconds, or until another CPU ends the rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn nap(nanoseconds: u64) {
    sbi::set_timer(clock::count_after(nanoseconds));
    // SAFETY: the timer interrupt only ends the rest: interrupts are off, and it is disabled again
    // afterwards.
    unsafe { asm!("csrs sie, {}", in(reg) TIMER, options(nostack)) };
    rest();
    // SAFETY: as above.
    unsafe { asm!("csrc sie, {}", in(reg) TIMER, options(nostack)) };
    sbi::set_timer(u64::MAX);
}
