//! A CPU that has nothing to do for a while.

use core::arch::asm;

use super::cpu::{disable_interrupts, enable_interrupts};
use super::{clock, gic};

/// Rests until the next interrupt, and takes it. One that came in just before the call ends the rest at once. While a dump
/// runs, devices end no rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn rest() {
    let before = gic::keep_devices_away();
    // SAFETY: the instruction waits for an interrupt, also for one that is not let through.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    enable_interrupts();
    disable_interrupts();
    gic::let_through(before);
}

/// Rests for so many nanoseconds, or until another CPU ends it.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn nap(nanoseconds: u64) {
    clock::set_alarm(nanoseconds);
    rest();
    clock::end_alarm();
}
