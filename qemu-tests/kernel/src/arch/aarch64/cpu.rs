//! Which CPU is this, and how many are there.
//!
//! The number comes from the CPU's own affinity (MPIDR_EL1), not from memory or a pointer: a crashed kernel may have lost both.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) use crate::arch::MAX_CPUS;
use crate::arch::virt::device_tree;

/// The bits of MPIDR_EL1 that tell one CPU from another.
const AFFINITY: u64 = 0xff_00ff_ffff;

static AFFINITIES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// What tells this CPU from others.
pub(super) fn own_affinity() -> u64 {
    let register: u64;
    // SAFETY: reads who we are.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) register, options(nomem, nostack, preserves_flags)) };
    register & AFFINITY
}

/// Makes the CPUs known: this one becomes number 0, the others follow in the device tree's order. Not yet counted as in use. Gives
/// how many there are.
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

/// Counts this many CPUs as in use.
pub(super) fn set_count(count: usize) {
    COUNT.store(count, Ordering::Release);
}

/// How many CPUs are in use.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// A CPU's affinity.
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn affinity(cpu: usize) -> u64 {
    AFFINITIES.get(cpu).map_or(0, |affinity| affinity.load(Ordering::Relaxed))
}

/// Number of the CPU that this runs on.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn number() -> usize {
    let own = own_affinity();
    AFFINITIES.iter().take(MAX_CPUS).position(|affinity| affinity.load(Ordering::Relaxed) == own).unwrap_or(0)
}

/// No interrupts on this CPU from now on; being stopped still gets through, as it comes by FIQ.
pub(crate) fn disable_interrupts() {
    // SAFETY: this code does not wait for one.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Lets interrupts through to this CPU.
pub(super) fn enable_interrupts() {
    // SAFETY: there is a handler for all that the interrupt controller lets through.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Lets through what comes from outside, whatever this CPU does: being stopped (FIQ), and errors of memory and buses (SError).
#[unsafe(link_section = ".dump_path.text")]
pub(super) fn enable_stop() {
    // SAFETY: there are handlers for both.
    unsafe { asm!("msr daifclr, #5", options(nostack, preserves_flags)) };
}

/// Waits for ever, without interrupts; being stopped still gets through.
#[unsafe(link_section = ".dump_path.text")]
pub(crate) fn halt() -> ! {
    loop {
        disable_interrupts();
        // SAFETY: the instruction waits, and no more.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}
