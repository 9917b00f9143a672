//! Hooks called by drivers: to count the disk's interrupts, and to panic while a driver holds its lock.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch::cpu;

/// Number of interrupts handled for the disk.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Set when a driver is to panic while it holds its lock.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Counts an interrupt of the disk.
pub(super) fn count_interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Called by a driver in the middle of a change under its lock: panics if the scenario requests it.
pub(super) fn locked() {
    if INSIDE.swap(false, Ordering::Relaxed) {
        panic!("CPU {} panics with the driver's lock held, as the command line asks", cpu::number());
    }
}

/// Makes the driver panic while it holds its lock.
pub(super) fn panic_when_locked() {
    INSIDE.store(true, Ordering::Relaxed);
}

/// Number of interrupts so far.
pub(super) fn interrupts() -> u64 {
    INTERRUPTS.load(Ordering::Relaxed)
}
