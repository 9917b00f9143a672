//! A CPU that has nothing to do for a while.

use core::arch::asm;

use super::cpu::end_software_interrupt;
use super::{clock, sbi};

/// The timer's.
const TIMER: usize = 1 << 5;
/// Rests, with interrupts off, until another CPU ends it. An interrupt that came just before the call ends the rest at once.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn rest() {
    // SAFETY: waits. An interrupt that is pending ends that, without being taken.
    unsafe { asm!("wfi", options(nomem, nostack)) };
    end_software_interrupt();
}

/// Rests for so many nanoseconds, or until another CPU ends it.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn nap(nanoseconds: u64) {
    sbi::set_timer(clock::count_after(nanoseconds));
    // SAFETY: the timer's interrupt only ends the rest: interrupts are off, and then it is not let through again.
    unsafe { asm!("csrs sie, {}", in(reg) TIMER, options(nostack)) };
    rest();
    // SAFETY: as above.
    unsafe { asm!("csrc sie, {}", in(reg) TIMER, options(nostack)) };
    sbi::set_timer(u64::MAX);
}
