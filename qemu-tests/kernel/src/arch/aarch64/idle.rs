//! An idle CPU.

use core::arch::asm;

use super::cpu::{disable_interrupts, enable_interrupts};
use super::{clock, gic};

/// Rests until the next interrupt, and takes it. An interrupt just before the call ends the rest at once.
/// While a dump runs, devices do not end a rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn rest() {
    let before = gic::keep_devices_away();
    // SAFETY: the instruction waits for an interrupt, even a masked one.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
    enable_interrupts();
    disable_interrupts();
    gic::let_through(before);
}

/// Rests for this many nanoseconds, or until another CPU ends the rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn nap(nanoseconds: u64) {
    clock::set_alarm(nanoseconds);
    rest();
    clock::end_alarm();
}
