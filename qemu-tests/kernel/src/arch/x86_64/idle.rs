//! An idle CPU.

use super::apic;
use super::cpu::disable_interrupts;

/// Rests until the next interrupt, and takes it. An interrupt just before the call ends the rest at once.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn rest() {
    x86_64::instructions::interrupts::enable_and_hlt();
    disable_interrupts();
}

/// Rests for this many nanoseconds, or until another CPU ends the rest.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn nap(nanoseconds: u64) {
    apic::alarm(nanoseconds);
    rest();
}
