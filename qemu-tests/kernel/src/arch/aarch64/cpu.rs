//! The number of the current CPU, and the number of CPUs.
//!
//! The number comes from the CPU's own affinity (MPIDR_EL1), not from memory or a pointer: a crashed kernel
//! may have lost both.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) use crate::arch::MAX_CPUS;
use crate::arch::virt::device_tree;

/// The affinity bits of MPIDR_EL1, which identify a CPU.
const AFFINITY: u64 = 0xff_00ff_ffff;

static AFFINITIES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// The affinity of this CPU.
pub(super) fn own_affinity() -> u64 {
    let register: u64;
    // SAFETY: reads the CPU's identity.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) register, options(nomem, nostack, preserves_flags)) };
    register & AFFINITY
}

/// Registers the CPUs: this one becomes number 0, the others follow in the order of the device tree. They are
/// not yet counted as in use. Returns their number.
pub(super) fn init() -> usize {
    let own = own_affinity();
    let mut known = 0;
    let mut add = |affinity| {
        if let Some(slot) = AFFINITIES.get(known) {
            slot.store(affinity, Ordering::Relaxed);
            known += 1;
        }
    };
    add(own);
    device_tree::each_cpu(|_, affinity| {
        if affinity != own {
            add(affinity);
        }
    });
    known
}

/// Sets the number of CPUs in use.
pub(super) fn set_count(count: usize) {
    COUNT.store(count, Ordering::Release);
}

/// Number of CPUs in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// A CPU's affinity.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn affinity(cpu: usize) -> u64 {
    AFFINITIES.get(cpu).map_or(0, |affinity| affinity.load(Ordering::Relaxed))
}

/// Number of the current CPU.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn number() -> usize {
    let own = own_affinity();
    AFFINITIES.iter().take(MAX_CPUS).position(|affinity| affinity.load(Ordering::Relaxed) == own).unwrap_or(0)
}

/// Disables interrupts on this CPU; the request to stop still gets through, because it is an FIQ.
pub(crate) fn disable_interrupts() {
    // SAFETY: this code does not wait for an interrupt.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Enables interrupts on this CPU.
pub(super) fn enable_interrupts() {
    // SAFETY: every interrupt that the controller forwards has a handler.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Enables the exceptions that are always allowed: the request to stop (FIQ), and memory and bus errors
/// (SError).
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn enable_stop() {
    // SAFETY: both have handlers.
    unsafe { asm!("msr daifclr, #5", options(nostack, preserves_flags)) };
}

/// Halts this CPU for good, without interrupts; the request to stop still gets through.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn halt() -> ! {
    loop {
        disable_interrupts();
        // SAFETY: the instruction only waits.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}
