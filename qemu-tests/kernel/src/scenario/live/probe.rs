//! What a driver tells of itself: that the disk's interrupts come, and that it holds its lock.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arch::cpu;

/// Interrupts of the disk that were handled.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// Set when a driver is to panic where it holds its lock.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// An interrupt of the disk has come.
pub(super) fn count_interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
}

/// Called by a driver in the middle of changing what its lock guards: panics if the scenario asks for that.
pub(super) fn locked() {
    if INSIDE.swap(false, Ordering::Relaxed) {
        panic!("CPU {} panics with the driver's lock held, as the command line asks", cpu::number());
    }
}

/// From now on, the driver panics where it holds its lock.
pub(super) fn panic_when_locked() {
    INSIDE.store(true, Ordering::Relaxed);
}

/// How many interrupts have come.
pub(super) fn interrupts() -> u64 {
    INTERRUPTS.load(Ordering::Relaxed)
}
